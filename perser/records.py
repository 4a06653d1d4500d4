"""The narrow waist: one row per thing that was run, written once and read by every table, figure and claim."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from os import getpid
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from perser.errors import UserError

COLUMNS = {
    "corpus": "name of the corpus",
    "upstream": "name of the upstream",
    "synthetic": "what of the data is made up; empty for real speech with real listeners and a trained upstream",
    "experiment": "name of the experiment",
    "method": "name of the method in the experiment",
    "setting": "seen or unseen: whether the clips occur in training with other listeners' ratings",
    "fold": "fold of sessions, from 1",
    "seed": "seed of every random stream",
    "listener": "the held-out listener",
    "shots": "labelled clips K that the method adapted to",
    "steps": "inner steps taken; 0 for methods without",
    "draws": "supports drawn",
    "queries": "predictions over all draws",
    "top": "predictions whose most probable class the listener had ticked",
}
RANDOM = "random upstream weights"  # part of `synthetic` where the upstream was never trained
KEYS = ["method", "setting", "fold", "seed", "listener", "shots", "steps"]


def made_up(corpus: str, random: bool) -> str:
    """The column `synthetic`, from what of the corpus is made up and whether the upstream's weights are random.

    >>> made_up("listeners", True), made_up("", True), made_up("listeners", False)
    ('listeners, random upstream weights', 'random upstream weights', 'listeners')
    """
    return ", ".join(part for part in (corpus, RANDOM if random else "") if part)


def row(counts, classes: tuple[str, ...], **columns) -> dict:
    """One record; counts has tp, fp, fn (C,), queries, top. Further columns as in COLUMNS."""
    per_class = {f"{kind}_{name}": int(n) for kind in ("tp", "fp", "fn")
                 for name, n in zip(classes, getattr(counts, kind))}
    return {**columns, "queries": counts.queries, "top": counts.top, **per_class}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is then either whole or absent. Raises UserError when the disk takes none."""
    half = path.with_name(f".{path.name}.{getpid()}")
    try:
        if path.exists() and not path.is_file():
            raise OSError("there is something there that is no file")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield half
        half.replace(path)
    except (OSError, SafetensorError) as error:
        if half.is_file():
            half.unlink()
        raise UserError(f"{path}: cannot be written ({str(error).splitlines()[0]}); make room or name another place "
                        "and start again, what is computed is kept") from None


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a parquet file that is either whole or absent. Raises UserError as `whole`."""
    with whole(path) as half:
        frame.to_parquet(half, index=False)


def write_json(value: dict, path: Path) -> None:
    """Write a JSON file that is either whole or absent. Raises UserError as `whole`."""
    with whole(path) as half:
        half.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def read(run: Path) -> pd.DataFrame:
    """The records of one finished run directory. Raises UserError when it is none."""
    path = Path(run) / "records.parquet"
    if not path.is_file():
        raise UserError(f"{path}: no records there; make them with `perser run`, or give a run directory")
    try:
        frame = pd.read_parquet(path)
    except Exception as error:
        raise UserError(f"{path}: not a readable records file ({str(error).splitlines()[0]}); "
                        "delete it and run the same `perser run` again") from None
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing; these are not records of this version")
    return frame


def manifest(run: Path) -> dict:
    """How a run's records came to be."""
    path = Path(run) / "manifest.json"
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{path}: missing or not JSON; run the same `perser run` again") from None


def classes(frame: pd.DataFrame) -> tuple[str, ...]:
    """The classes of records, in the corpus' order."""
    return tuple(name.removeprefix("tp_") for name in frame.columns if name.startswith("tp_"))


def counts(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tp, fp, fn of every record: three (rows, C) arrays."""
    names = classes(frame)
    return tuple(frame[[f"{kind}_{name}" for name in names]].to_numpy() for kind in ("tp", "fp", "fn"))
