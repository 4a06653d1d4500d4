"""One file a method. Every module here that defines a subclass of `Method` adds its kind to experiments."""

from importlib import import_module
from pkgutil import iter_modules

from perser.methods.base import GradientModel, Method, Start


def kinds() -> dict[str, type[Method]]:
    """The settings class of every method by its kind, read off the files of this folder."""
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    classes = (value for module in modules for value in vars(module).values()
               if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__)
    return {cls.model_fields["kind"].default: cls for cls in classes if cls is not Method}


__all__ = ["GradientModel", "Method", "Start", "kinds"]
