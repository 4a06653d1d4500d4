"""Reads RAVDESS's acted speech. Single ratings are not released, so the listeners are simulated."""

import logging
import re
from pathlib import Path

import numpy as np

from perser.corpora.base import Corpus, folder, seconds, tables
from perser.corpora.synthetic.acoustics import measure, standardise
from perser.corpora.synthetic.listeners import REPEATED, assign, intended, moment, panel, ticks
from perser.errors import UserError
from perser.seeds import rng

log = logging.getLogger(__name__)

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
CLIPS = 1440  # speech clips of the release
PER_CLIP = (5, 8)  # fewest and most listeners of one clip
_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)", re.ASCII)
_FORM = "MM-VC-EE-II-SS-RR-AA with EE 01 to 08 and AA the actor of its folder"


def load(root: str | Path, listeners: int = 48, seed: int = 0) -> Corpus:
    """RAVDESS speech (.wav or .flac) with simulated listeners who rely on its measured cues.

    A session is four consecutive actors, two of each sex. UserError: a root without Actor_NN folders, a file whose
    name has another form, fewer than 8 listeners.
    """
    count, seed = _whole_number("listeners", listeners, PER_CLIP[1]), _whole_number("seed", seed, 0)
    path = folder(root, lambda path: any(path.glob("Actor_[0-9][0-9]")), "RAVDESS's Actor_01 ... Actor_24")
    clips = [clip for file in _files(path) if (clip := _clip(file))]
    if not clips:
        raise UserError(f"{path}: holds no speech (names that begin with 03-01); unpack Audio_Speech_Actors_01-24")
    if len(clips) != CLIPS:
        log.warning("%s: %d speech clips, not the release's %d; results will differ", path, len(clips), CLIPS)
    paths = {}
    for clip in clips:
        if clip["clip"] in paths:
            raise UserError(f"{clip['path']}: the clip is also there as {paths[clip['clip']]}; keep one of them")
        paths[clip["clip"]] = clip["path"]
    ratings, repeats = _ratings(clips, [f"L{number:02d}" for number in range(1, count + 1)], seed)
    known, rated = tables(clips, ratings, CLASSES)
    return Corpus("ravdess", CLASSES, known, rated, "listeners", repeats=tables(clips, repeats, CLASSES)[1])


def _ratings(clips: list[dict], names: list[str], seed: int) -> tuple[list, list]:
    """All ratings (clip, listener, ticks), and both ratings of the clips that a listener rates twice."""
    cues = standardise(measure([clip["path"] for clip in clips]), [clip["speaker"] for clip in clips])
    meant = intended([clip["intended"] for clip in clips], CLASSES)
    raters = assign(len(clips), len(names), *PER_CLIP, rng(seed, "who rates what"))
    ratings, repeats = [], []
    for place, listener in enumerate(panel(names, CLASSES, seed)):
        rated = np.array([index for index, places in enumerate(raters) if place in places], dtype=int)
        first, second = (
            [(clips[index]["clip"], listener.name, {CLASSES[c] for c in np.flatnonzero(row)}) for index, row
             in zip(rated, ticks(listener, moment(listener, cues[rated], meant[rated], seed, again)), strict=True)]
            for again in (False, True))
        ratings += first
        repeats += first[::REPEATED] + second[::REPEATED]
    return ratings, repeats


def _files(root: Path) -> list[Path]:
    files = [path for kind in ("wav", "flac") for path in root.glob(f"Actor_[0-9][0-9]/*.{kind}")]
    return sorted(path for path in files if not path.name.startswith("."))


def _clip(file: Path) -> dict | None:
    """One speech clip; None for video sound tracks and songs. UserError: the name has another form."""
    match = _NAME.fullmatch(file.stem)
    if not match or not 1 <= int(match[3]) <= len(CLASSES) or file.parent.name != f"Actor_{match[7]}":
        raise UserError(f"{file}: the name is not {_FORM}; rename or remove the file")
    if match[1] != "03" or match[2] != "01":
        return None
    return {"clip": file.stem, "path": str(file), "speaker": f"Actor_{match[7]}",
            "session": 1 + (int(match[7]) - 1) // 4, "seconds": seconds(file, str(file)),
            "intended": CLASSES[int(match[3]) - 1], "intensity": int(match[4])}


def _whole_number(name: str, value: object, least: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = least - 1
    if number < least:
        raise UserError(f"{name}={value!r}: give a whole number of at least {least}")
    return number
