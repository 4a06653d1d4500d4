"""Corpora: clips and who rated them how, each read from its own on-disk format."""

from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path

from perser.corpora.base import Corpus, nearest
from perser.corpora.summary import describe
from perser.errors import UserError

NAMES = ("iemocap", "cremad", "msp_podcast", "ravdess", "table", "synthetic")

__all__ = ["NAMES", "Corpus", "describe", "load"]


def load(name: str, root: str | Path, **options) -> Corpus:
    """Read the named corpus from its folder; the options are those of the corpus's own `load`.

    UserError: an unknown name or option (with the nearest valid one), and whatever the loader finds.
    """
    if name not in NAMES:
        raise UserError(f"corpus {name!r} is unknown: {nearest(name, NAMES)}")
    loader = import_module(f"perser.corpora.{name}").load
    valid = [key for key in signature(loader).parameters if key != "root"]
    for key in options:
        if key not in valid:
            hint = nearest(key, valid) if valid else "it has no options"
            raise UserError(f"option {key!r} of corpus {name!r} is unknown: {hint}")
    return replace(loader(root, **options), options=options)
