"""Corpora: clips and their ratings by named listeners, each corpus read from its released format."""

from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path

from perser.corpora.base import Corpus, nearest, whole_number
from perser.corpora.describe import describe
from perser.errors import UserError

NAMES = ("iemocap", "cremad", "emodb", "msp_podcast", "ravdess", "table", "synthetic")

__all__ = ["NAMES", "Corpus", "describe", "load"]


def load(name: str, root: str | Path, **options: object) -> Corpus:
    """Read a corpus from its folder; `options` are those of its loader, `perser.corpora.NAME.load`, or text of them.

    UserError: an unknown name or option (with the nearest valid one), and any error of the loader.
    """
    if name not in NAMES:
        raise UserError(f"corpus {name!r} is unknown: {nearest(name, NAMES)}")
    loader = import_module(f"perser.corpora.{name}").load
    valid = {key: default.default for key, default in signature(loader).parameters.items() if key != "root"}
    for key in options:
        if key not in valid:
            hint = nearest(key, valid) if valid else "it has no options"
            raise UserError(f"option {key!r} of corpus {name!r} is unknown: {hint}")
        if isinstance(valid[key], int):
            options[key] = whole_number(key, options[key], 0, 2**32 - 1)
    return replace(loader(root, **options), options=options)
