"""Reads RAVDESS's acted speech. Single ratings are not released, so the listeners are simulated."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from perser.corpora import base
from perser.corpora.base import Corpus, Rated, Release, Source
from perser.corpora.synthetic.acoustics import measure, standardise
from perser.corpora.synthetic.listeners import REPEATED, assign, intended, moment, panel, ticks
from perser.errors import UserError
from perser.seeds import rng

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
ACTORS = 24
PER_CLIP = (5, 8)  # fewest and most listeners of one clip
RELEASE = Release("CC BY-NC-SA 4.0 (Livingstone and Russo 2018, doi:10.1371/journal.pone.0196391)", (
    Source("https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip", "ravdess.zip", 208_468_073,
           "md5:bc696df654c87fed845eb13823edef8a", r"Actor_\d\d/03-01-[-\d]+\.wav", 1440),))
_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)", re.ASCII)
_FORM = "MM-VC-EE-II-SS-RR-AA with EE 01 to 08 and AA the actor of its folder"


def load(root: str | Path, listeners: int = 48, seed: int = 0) -> Corpus:
    """RAVDESS speech (.wav or .flac) with simulated listeners who rely on its measured cues.

    A session is four consecutive actors, two of each sex. UserError: a root without Actor_NN folders, a file whose
    name has another form, fewer than 8 listeners.
    """
    count = base.whole_number("listeners", listeners, PER_CLIP[1], 10_000)
    seed = base.whole_number("seed", seed, 0, 2**32 - 1)
    path = base.folder(root, lambda path: bool(_actors(path)), "RAVDESS's Actor_01 ... Actor_24")
    clips = [clip for file in _files(path) if (clip := _clip(file))]
    if not clips:
        raise UserError(f"{path}: holds no speech (names that begin with 03-01); unpack Audio_Speech_Actors_01-24")
    paths: dict[str, str] = {}
    for clip in clips:
        if clip["clip"] in paths:
            raise UserError(f"{clip['path']}: the clip is also there as {paths[clip['clip']]}; keep one of them")
        paths[clip["clip"]] = clip["path"]
    ratings, repeats = _ratings(clips, [f"L{number:02d}" for number in range(1, count + 1)], seed)
    known, rated = base.tables(clips, ratings, CLASSES)
    return Corpus("ravdess", CLASSES, known, rated, "listeners", repeats=base.tables(clips, repeats, CLASSES)[1],
                  notes=base.lacking(path, _missing(set(paths))))


def _ratings(clips: list[dict[str, Any]], names: list[str], seed: int) -> tuple[list[Rated], list[Rated]]:
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


def _actors(root: Path) -> dict[int, Path]:
    return {int(name[-2:]): path for name, path in base.listing(root).items()
            if re.fullmatch(r"actor_[0-9]{2}", name) and path.is_dir()}


def _files(root: Path) -> list[Path]:
    actors = _actors(root)
    for number, path in actors.items():
        if not 1 <= number <= ACTORS:
            raise UserError(f"{path}: RAVDESS has {ACTORS} actors, so this is another corpus's speech; remove it")
    return [file for _, path in sorted(actors.items()) for name, file in base.listing(path).items()
            if name.endswith((".wav", ".flac"))]


def _missing(clips: set[str]) -> list[str]:
    """What is not there of 24 actors, who each speak two sentences twice in eight emotions, all but the first also
    strongly."""
    spoken = [(emotion, level, sentence, take) for emotion in range(1, len(CLASSES) + 1)
              for level in ((1,) if emotion == 1 else (1, 2)) for sentence in (1, 2) for take in (1, 2)]
    full = {actor: [f"03-01-{'-'.join(f'{part:02d}' for part in (*parts, actor))}" for parts in spoken]
            for actor in range(1, ACTORS + 1)}
    absent = {actor: [name for name in names if name not in clips] for actor, names in full.items()}
    actors = [f"Actor_{actor:02d}" for actor, names in absent.items() if len(names) == len(spoken)]
    single = [name for names in absent.values() if len(names) < len(spoken) for name in names]
    return [f"no speech of {base.listed(actors)}" if actors else "", f"no clip {base.listed(single)}" if single else ""]


def _clip(file: Path) -> dict[str, Any] | None:
    """One speech clip; None for video sound tracks and songs. UserError: the name has another form."""
    match = _NAME.fullmatch(file.stem)
    if not match or not 1 <= int(match[3]) <= len(CLASSES) or file.parent.name.lower() != f"actor_{match[7]}":
        raise UserError(f"{file}: the name is not {_FORM}; rename or remove the file")
    if match[1] != "03" or match[2] != "01":
        return None
    return {"clip": file.stem, "path": str(file), "speaker": f"Actor_{match[7]}",
            "session": 1 + (int(match[7]) - 1) // 4, "seconds": base.seconds(file, str(file)),
            "intended": CLASSES[int(match[3]) - 1], "intensity": int(match[4])}

