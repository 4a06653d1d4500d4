"""Reads a user's own ratings: a table (`perser.corpora.schema`) and a folder of audio files, or their features."""

from pathlib import Path

import numpy as np

from perser.corpora import schema
from perser.corpora.base import Corpus, seconds, tables
from perser.errors import UserError


def load(root: str | Path, ratings: str | Path = "ratings.csv", audio: str | Path = "",
         classes: tuple[str, ...] | str | None = None, threshold: dict[str, float] | str = "", repeats: str = "error",
         encoding: str = "") -> Corpus:
    """A table of ratings as `perser.corpora.schema.read` describes it, with its options; paths are relative to `root`.

    audio: a folder, by default `audio`, or a file of features (`perser.corpora.schema.vectors`), by default
    features.parquet, .csv or .npy where there is no such folder. Sessions that are not given are made.
    """
    root = Path(root).expanduser().absolute()
    file = root / ratings
    if not file.is_file():
        raise UserError(f"{file}: no such file; give the table of ratings ({schema.NEEDED})")
    table = schema.read(file, classes or (), threshold, repeats, encoding)
    clips, place = schema.sessions(table), _place(root, str(audio))
    ready = None if place.is_dir() else schema.chosen(table, place, encoding)
    paths = dict.fromkeys(clips, place) if ready else schema.files(table, place)
    rows = [{"clip": clip, "path": str(paths[clip]), "seconds": 0.0 if ready else seconds(paths[clip], str(file))}
            | entry for clip, entry in clips.items()]
    frames = [tables(rows, [(rating.clip, rating.listener, on) for rating, on in rated], table.classes)
              for rated in (zip(table.ratings, table.ticks), table.singles)]
    return Corpus("table", table.classes, *frames[0], repeats=frames[1][1] if table.singles else None,
                  features=np.stack([ready[clip] for clip in frames[0][0].index]) if ready else None)


def _place(root: Path, audio: str) -> Path:
    """The folder of audio, or the file of features."""
    for name in [audio] if audio else ["audio", *(f"features{kind}" for kind in schema.READY)]:
        place = root / name
        if place.is_dir() or (place.suffix in schema.READY and place.is_file()):
            return place
    raise UserError(f"{root / (audio or 'audio')}: no such folder; give the folder of the audio files, or a file of "
                    f"features ({', '.join(schema.READY)})")
