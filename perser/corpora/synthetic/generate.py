"""Writes and reads the embedded corpus.

The files are written to a temporary folder and moved into place, the marker last, so that an interrupted run is
noticed and repeated. The same seed, size and generator give the same bytes on the same machine.
"""

import csv
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from perser.corpora import cremad, iemocap
from perser.corpora.base import MARKER, UNFINISHED, Corpus, csv_rows, folder, nearest, read_marker, read_text, tables
from perser.corpora.synthetic import write_cremad, write_iemocap
from perser.corpora.synthetic.acoustics import measure, standardise
from perser.corpora.synthetic.espeak import speak
from perser.corpora.synthetic.speech import Utterance, line
from perser.errors import UserError
from perser.terminal import progress as shown_progress

log = logging.getLogger(__name__)

GENERATOR = 2  # increase it when the bytes change
REPEATS = "repeats.csv"  # the second ratings of clips that a listener rates twice: no format has a place for them
_COLUMNS = ("clip", "listener", "classes")
_WRITERS = {"iemocap": write_iemocap, "cremad": write_cremad}


def synthesise(root: str | Path, seed: int = 0, clips: int = 1200, progress: bool = False,
               layout: str = "iemocap") -> Path:
    """Write the embedded corpus of at least 100 clips under `root`, unless it is there already.

    A corpus that is unfinished, or of another seed, size or generator, is replaced. UserError: an unknown layout, too
    few clips, or a folder with files that this function did not write.
    """
    root = Path(root).expanduser().absolute()
    if layout not in _WRITERS:
        raise UserError(f"layout {layout!r} is unknown: {nearest(layout, _WRITERS)}")
    if clips < 100:
        raise UserError(f"clips={clips} is too few for the layout's dialogs and listeners: give at least 100")
    if seed < 0:
        raise UserError(f"seed={seed} is negative: give a whole number from 0")
    identity = {"what": "espeak-ng speech and simulated listeners, not a recording of anyone",
                "synthetic": "speech and listeners", "layout": layout, "seed": seed, "asked": clips,
                "generator": GENERATOR, "espeakng-loader": version("espeakng-loader")}
    if _is_complete(root, identity):
        log.info("%s: already there", root)
        return root
    _clear(root)
    draft = root / UNFINISHED
    draft.mkdir(parents=True)
    writer = _WRITERS[layout]
    turns = writer.plan(seed, clips)
    _speak(turns, draft, seed, progress)
    cues = measure([str(draft / turn.path) for turn in turns])
    again = writer.annotate(draft, turns, standardise(cues, [turn.speaker for turn in turns]), seed)
    with (draft / REPEATS).open("w", newline="") as file:
        csv.writer(file).writerows([_COLUMNS, *((clip, who, ";".join(sorted(ticks))) for clip, who, ticks in again)])
    for entry in sorted(draft.iterdir()):
        entry.rename(root / entry.name)
    _write_marker(root, identity | {"clips": len(turns), "files": _count(root)})
    draft.rmdir()
    return root


def load(root: str | Path, listeners: str = "observers") -> Corpus:
    """The embedded corpus, read by the loader of the corpus whose format it has."""
    path = folder(root, lambda path: (path / MARKER).is_file() or (path / UNFINISHED).exists(),
                  "the output of `perser synth`")
    layout = (read_marker(path) or {})["layout"]
    corpus = cremad.load(path) if layout == "cremad" else iemocap.load(path, listeners=listeners)
    return replace(corpus, name="synthetic", repeats=_repeats(path / REPEATS, corpus))


def _repeats(file: Path, corpus: Corpus) -> pd.DataFrame:
    """Both ratings of the clips that a listener rated twice. UserError: an older or damaged corpus."""
    remedy = f"run `perser synth {file.parent}` again"
    if not file.is_file():
        raise UserError(f"{file}: is missing; {remedy}")
    rows = csv_rows(read_text(file), str(file), _COLUMNS, remedy)
    _, second = tables([{"clip": ""}], [(row["clip"], row["listener"], {*row["classes"].split(";")})
                                        for _, row in rows], corpus.classes)
    first = corpus.ratings.merge(second[["clip", "listener"]])
    return pd.concat([first, second]).sort_values(["clip", "listener"], kind="stable", ignore_index=True)


def _is_complete(root: Path, identity: dict[str, object]) -> bool:
    """Whether a finished corpus of this identity is there, with as many files as its marker states."""
    try:
        marker = read_marker(root) or {}
    except UserError:
        return False
    return {key: marker.get(key) for key in identity} == identity and _count(root) == marker.get("files")


def _count(root: Path) -> int:
    """Number of files, not counting the marker."""
    return sum(path.is_file() and path.name != MARKER for path in root.rglob("*"))


def _clear(root: Path) -> None:
    """Remove what an earlier run wrote. UserError: the folder holds anything else."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file; give a new or empty folder")
    present = {path.name for path in root.iterdir()} if root.is_dir() else set()
    written = {name for writer in _WRITERS.values() for name in writer.TOP} | {MARKER, UNFINISHED, REPEATS}
    if present and (not present & {MARKER, UNFINISHED} or present - written):
        stray = sorted(present - written or present)[0]
        raise UserError(f"{root}: holds {stray!r}, which perser did not write; give a new or empty folder")
    for name in sorted(present - {UNFINISHED}, key=lambda name: name != MARKER):
        (root / UNFINISHED).mkdir(exist_ok=True)
        _remove(root / name)
    _remove(root / UNFINISHED)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _speak(turns: list[Utterance], draft: Path, seed: int, progress: bool) -> None:
    """Speak every group in a process of its own, with one process per core at a time."""
    groups = sorted({turn.group for turn in turns})
    work = [[line(turn, str(draft), seed) for turn in turns if turn.group == group] for group in groups]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        try:
            with shown_progress("speaking", len(work), "sessions", progress) as step:
                for _ in pool.map(speak, work):
                    step(1)
        except RuntimeError as error:
            raise UserError(f"{draft.parent}: speaking failed ({error}); check disk space and the package "
                            "espeakng-loader, then run again") from None


def _write_marker(root: Path, marker: dict[str, object]) -> None:
    """Write the marker in one move, so that it is either absent or whole."""
    draft = root / UNFINISHED / MARKER
    draft.write_text(json.dumps(marker, indent=1) + "\n")
    draft.rename(root / MARKER)
