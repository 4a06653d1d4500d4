"""Corpora: one file a corpus, which reads clips and ratings by named listeners from the released format."""

from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from perser.corpora.base import Corpus, Release, nearest, whole_number
from perser.corpora.describe import describe
from perser.errors import UserError

__all__ = ["Corpus", "describe", "load", "names", "release"]


def names(part: str = "load") -> list[str]:
    """Every corpus: the files of this folder that define `load`; with part="RELEASE" those that can be downloaded."""
    return [file.name for file in iter_modules(__path__) if hasattr(import_module(f"{__name__}.{file.name}"), part)]


def load(name: str, root: str | Path, **options: object) -> Corpus:
    """Read a corpus from its folder; `options` are those of its loader, `perser.corpora.NAME.load`, or text of them.

    UserError: an unknown name or option (with the nearest valid one), and any error of the loader.
    """
    loader = _part(name, "load", "unknown")
    valid = {key: default.default for key, default in signature(loader).parameters.items() if key != "root"}
    for key in options:
        if key not in valid:
            hint = nearest(key, valid) if valid else "it has no options"
            raise UserError(f"option {key!r} of corpus {name!r} is unknown: {hint}")
        if isinstance(valid[key], int):
            options[key] = whole_number(key, options[key], 0, 2**32 - 1)
    return replace(loader(root, **options), options=options)


def release(name: str) -> Release:
    """Where a corpus is published. UserError: an unknown name, or a corpus that must be asked for."""
    return _part(name, "RELEASE", "not one that can be downloaded")


def _part(name: str, part: str, problem: str) -> Any:
    """What the file of a corpus defines. Only that file is imported: others need torch."""
    if name in (file.name for file in iter_modules(__path__)):
        module = import_module(f"{__name__}.{name}")
        if hasattr(module, part):
            return getattr(module, part)
    raise UserError(f"corpus {name!r} is {problem}: {nearest(name, names(part))}")
