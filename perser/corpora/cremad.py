"""Reads CREMA-D: the listeners' ratings of the voice alone."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from perser.corpora import base
from perser.corpora.base import Corpus, Release, Source
from perser.errors import UserError

log = logging.getLogger(__name__)

EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
CLASSES = tuple(EMOTIONS.values())
LETTERS = {code[0]: name for code, name in EMOTIONS.items()}
BLOCKS = ((1037, 1054), (1001, 1018), (1073, 1091), (1055, 1072), (1019, 1036))  # of actors, as in EMO-SUPERB
ACTORS, CLIPS = (1001, 1091), 7441  # of the full release, without the silent clip
TABLE, AUDIO = "finishedResponses.csv", "AudioWAV"
BROKEN = frozenset({"137526", "312184"})  # indices of rows that are not ratings
SILENT = "1076_MTI_SAD_XX"  # rated, but without audio
_PLACE, _COMMIT = "CheyneyComputerScience/CREMA-D", "1658cd342dff90010aa843eaeebd53610a08b1dc"
RELEASE = Release("ODbL 1.0 and DbCL 1.0 (Cao et al. 2014, doi:10.1109/TAFFC.2014.2336244)", (
    Source(f"https://raw.githubusercontent.com/{_PLACE}/{_COMMIT}/{TABLE}", TABLE),
    Source(f"https://codeload.github.com/{_PLACE}/zip/{_COMMIT}", "cremad.zip", members=r"AudioWAV/\w+\.wav",
           count=7442),
), f"https://media.githubusercontent.com/media/{_PLACE}/{_COMMIT}")
_NEEDED = ("", "localid", "queryType", "clipName", "respEmo")
_NAME = re.compile(r"(\d{4})_[A-Z]{3}_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX)", re.ASCII)


def load(root: str | Path) -> Corpus:
    """Voice ratings (queryType 1) of CREMA-D; a session is one of EMO-SUPERB's five blocks of actors.

    A listener's first rating of a clip counts; `repeats` holds all of those that are repeated. UserError: a root
    without finishedResponses.csv and AudioWAV, or a faulty row.
    """
    path = base.folder(root, lambda path: all(base.child(path, name).exists() for name in (TABLE, AUDIO)),
                       f"CREMA-D's {TABLE} and {AUDIO}")
    marker, file, place = base.read_marker(path) or {}, base.child(path, TABLE), base.child(path, AUDIO)
    audio, clips, rows = base.listing(place), {}, []
    for number, clip, listener, emotion in parse(base.read_text(file), str(file)):
        if clip not in clips:
            name = f"{clip}.wav"
            wav = audio.get(name.lower()) or audio.get(name.lower().replace("_xx.", "_x.")) or place / name
            clips[clip] = _clip(clip, wav, f"{file}:{number}")
        rows.append((clip, listener, {emotion}))
    if not clips:
        raise UserError(f"{file}: holds no rating of the voice alone (queryType 1); restore the file")
    first, repeated = base.once(rows)
    if repeated:
        log.warning("%s: %d ratings repeat a listener's earlier one of the same clip and are left out", file,
                    len(rows) - len(first))
    known, rated = base.tables([*clips.values()], first, CLASSES)
    return Corpus("cremad", CLASSES, known, rated, marker.get("synthetic", ""),
                  repeats=base.tables([*clips.values()], repeated, CLASSES)[1] if repeated else None,
                  notes=() if marker else base.lacking(path, _missing(clips)))


def _missing(clips: dict[str, dict[str, object]]) -> list[str]:
    speakers = {clip["speaker"] for clip in clips.values()}
    absent = [str(actor) for actor in range(ACTORS[0], ACTORS[1] + 1) if str(actor) not in speakers]
    return [f"ratings of {len(clips)} clips, not {CLIPS}" if len(clips) != CLIPS else "",
            f"no clip of actor {base.listed(absent)}" if absent else ""]


def parse(text: str, name: str) -> Iterator[tuple[int, str, str, str]]:
    """Line, clip, listener and class of every usable voice rating; `name` is the file's, for errors."""
    for line, row in base.csv_rows(text, name, _NEEDED, "restore the release's finishedResponses.csv"):
        index, listener, kind, clip, letter = (row[column] for column in _NEEDED)
        if kind != "1" or index in BROKEN or clip == SILENT:
            continue
        where = f"{name}:{line}"
        if letter not in LETTERS:
            raise UserError(f"{where}: respEmo {letter!r} is unknown: {base.nearest(letter, LETTERS)}")
        if not listener.strip():
            raise UserError(f"{where}: no localid, so the listener is unknown; remove the row")
        clip = f"{clip}X" if clip.endswith("_X") else clip  # copies of before October 2022 differ in one name
        yield line, base.safe(clip, where), listener.strip(), LETTERS[letter]


def _clip(clip: str, wav: Path, where: str) -> dict[str, object]:
    match = _NAME.fullmatch(clip)
    blocks = [i for i, (low, high) in enumerate(BLOCKS, 1) if match and low <= int(match[1]) <= high]
    if not match or not blocks:
        raise UserError(f"{where}: {clip!r} is no clip of CREMA-D (<1001-1091>_<sentence>_<emotion>_<level>); fix it")
    return {"clip": clip, "path": str(wav), "speaker": match[1], "session": blocks[0],
            "seconds": base.seconds(wav, where), "intended": EMOTIONS[match[2]]}
