"""Writes the embedded corpus: espeak-ng speech and simulated listeners in a real corpus's own format.

The tree is written aside and moved into place, the marker last, so that an interrupted run is noticed
and done again. The same seed, size and generator give the same bytes on the same machine.
"""

import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from perser.corpora import as_cremad, as_iemocap, cremad, iemocap
from perser.corpora.base import MARKER, UNFINISHED, Corpus, folder, nearest, stamp
from perser.corpora.cues import measure, standardise
from perser.corpora.espeak import speak
from perser.corpora.prosody import Utterance, line
from perser.errors import UserError

log = logging.getLogger(__name__)

GENERATOR = 1  # raise when the bytes change
_WHAT = "what `perser synth` wrote"
_LAYOUTS = {"iemocap": as_iemocap, "cremad": as_cremad}


def synthesise(
    root: str | Path, seed: int = 0, clips: int = 1200, progress: bool = False, layout: str = "iemocap"
) -> Path:
    """Write the embedded corpus under `root` (at least 100 clips); nothing to do if it is there already.

    A tree that is unfinished, or of another seed, size or generator, is replaced. UserError: an unknown
    layout, too few clips, or a folder that holds anything that this function did not write.
    """
    root = Path(root).expanduser().absolute()
    if layout not in _LAYOUTS:
        raise UserError(f"layout {layout!r} is unknown: {nearest(layout, _LAYOUTS)}")
    if clips < 100:
        raise UserError(f"clips={clips} is too few for the layout's dialogs and listeners: give at least 100")
    if seed < 0:
        raise UserError(f"seed={seed} is negative: give a whole number from 0")
    wanted = _identity(seed, clips, layout)
    if _same(root, wanted):
        log.info("%s: already there", root)
        return root
    _clear(root)
    aside = root / UNFINISHED
    aside.mkdir(parents=True)
    writer = _LAYOUTS[layout]
    turns = writer.plan(seed, clips)
    _speak(turns, aside, seed, progress)
    table = measure([str(aside / turn.path) for turn in turns])
    writer.annotate(aside, turns, standardise(table, [turn.speaker for turn in turns]), seed)
    for entry in sorted(aside.iterdir()):
        entry.rename(root / entry.name)
    _finish(root, wanted | {"clips": len(turns), "files": _count(root)})
    aside.rmdir()
    return root


def load(root: str | Path, listeners: str = "observers") -> Corpus:
    """The embedded corpus through the loader of the corpus whose format it has."""
    path = folder(root, lambda path: (path / MARKER).is_file() or (path / UNFINISHED).exists(), _WHAT)
    layout = stamp(path)["layout"]
    if layout == "cremad":
        return replace(cremad.load(path), name="synthetic")
    return replace(iemocap.load(path, listeners=listeners), name="synthetic")


def _identity(seed: int, clips: int, layout: str) -> dict:
    return {
        "what": "espeak-ng speech and simulated listeners, not a recording of anyone",
        "synthetic": "speech and listeners",
        "layout": layout,
        "seed": seed,
        "asked": clips,
        "generator": GENERATOR,
        "espeakng-loader": version("espeakng-loader"),
    }


def _same(root: Path, wanted: dict) -> bool:
    """Whether a finished tree of this identity is there, with as many files as it says."""
    try:
        said = stamp(root) or {}
    except UserError:
        return False
    if {key: said.get(key) for key in wanted} != wanted:
        return False
    return _count(root) == said.get("files")


def _count(root: Path) -> int:
    """Files beside the marker."""
    return sum(path.is_file() and path.name != MARKER for path in root.rglob("*"))


def _clear(root: Path) -> None:
    """Remove what an earlier run wrote. UserError: anything else is there."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file; give a new or empty folder")
    present = {path.name for path in root.iterdir()} if root.is_dir() else set()
    ours = {name for writer in _LAYOUTS.values() for name in writer.TOP} | {MARKER, UNFINISHED}
    if present and (not present & {MARKER, UNFINISHED} or present - ours):
        stray = sorted(present - ours or present)[0]
        raise UserError(f"{root}: holds {stray!r}, which perser did not write; give a new or empty folder")
    for name in sorted(present - {UNFINISHED}, key=lambda name: name != MARKER):
        (root / UNFINISHED).mkdir(exist_ok=True)
        _remove(root / name)
    _remove(root / UNFINISHED)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def _speak(turns: list[Utterance], aside: Path, seed: int, progress: bool) -> None:
    """One fresh process per group, as many at once as there are cores."""
    groups = sorted({turn.group for turn in turns})
    work = [[line(turn, str(aside), seed) for turn in turns if turn.group == group] for group in groups]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        bar = tqdm(
            pool.map(speak, work), total=len(work), desc="speaking", unit="session", disable=not progress
        )
        try:
            for _ in bar:
                pass
        except RuntimeError as error:
            raise UserError(
                f"{aside.parent}: speaking failed ({error}); check disk space and "
                "the package espeakng-loader, then run again"
            ) from None


def _finish(root: Path, said: dict) -> None:
    """Write the marker in one move, so that it is either absent or whole."""
    draft = root / UNFINISHED / MARKER
    draft.write_text(json.dumps(said, indent=1) + "\n")
    draft.rename(root / MARKER)
