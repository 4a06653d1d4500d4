"""Reads IEMOCAP in its released format, with all its irregularities."""

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from perser.corpora import base
from perser.corpora.base import Corpus, Rated
from perser.errors import UserError

log = logging.getLogger(__name__)

CLASSES = ("frustrated", "angry", "sad", "disgust", "excited", "fear", "neutral", "surprise", "happy")
WORDS = {"Frustration": "frustrated", "Anger": "angry", "Sadness": "sad", "Disgust": "disgust", "Excited": "excited",
         "Fear": "fear", "Neutral": "neutral", "Neutral state": "neutral", "Surprise": "surprise",
         "Happiness": "happy", "Other": ""}
DIALOGS, CLIPS, OBSERVERS_PER_CLIP = 151, 10_039, 3  # of the full release
SESSIONS = range(1, 6)
_LISTENERS = ("observers", "all")
_HEAD = re.compile(r"\[\s*(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)\s*\]\t([^\t]+)\t([^\t]+)\t\[[^\]\t]*\]\s*")
_NAME = re.compile(r"(Ses(\d\d)[FM]_\w+)_([FM])\d{3}", re.ASCII)
_RATING = re.compile(r"C-([EFM]\d{1,2}):\s*([^(]*)(\(.*)?")


class Block(NamedTuple):
    """One utterance of an annotation file; `ratings` maps a listener to the classes ticked."""

    clip: str
    start: float
    end: float
    consensus: str
    ratings: dict[str, set[str]]


def load(root: str | Path, listeners: str = "observers") -> Corpus:
    """IEMOCAP's clips and ratings; `listeners` is "observers" (E1 to E6) or "all" (with the self-raters).

    Source: facts of the release as stated in its documentation and in EMO-SUPERB's code. UserError: a root that is
    not the release, or a faulty file, by file and line.
    """
    if listeners not in _LISTENERS:
        raise UserError(f"listeners={listeners!r} is unknown: {base.nearest(str(listeners), _LISTENERS)}")
    path = base.folder(root, lambda path: any(_evaluation(path, session).is_dir() for session in SESSIONS),
                       "IEMOCAP's Session1 ... Session5, each with dialog/EmoEvaluation")
    marker = base.read_marker(path)
    # Sub-folders hold the same ratings again.
    files = {(session, name.removesuffix(".txt")): file for session in SESSIONS
             for name, file in base.listing(_evaluation(path, session)).items() if name.endswith(".txt")}
    clips, ratings, audio = {}, [], dict[str, tuple[Path, dict[str, Path]]]()
    for (session, _), file in files.items():
        for line, block in parse(base.read_text(file), str(file)):
            where = f"{file}:{line}"
            if block.clip in clips:
                raise UserError(f"{where}: {block.clip} was annotated before; remove one of the two blocks")
            clips[block.clip] = _clip(block, path, session, audio, where)
            chosen = [(block.clip, listener, ticks) for listener, ticks in block.ratings.items()
                      if listeners == "all" or listener[0] == "E"]
            if not chosen:
                raise UserError(f"{where}: {block.clip} has no rating by an observer; restore its C-E lines")
            ratings += chosen
    if not clips:
        raise UserError(f"{path}: its annotation files name no utterance; restore Session*/dialog/EmoEvaluation")
    notes = () if marker is not None else base.lacking(path, _missing(path, files))
    if marker is None and len(files) == DIALOGS:
        _check_size(path, list(clips), ratings)
    return Corpus("iemocap", CLASSES, *base.tables([*clips.values()], ratings, CLASSES),
                  (marker or {}).get("synthetic", ""), notes=notes)


def _evaluation(root: Path, session: int) -> Path:
    return base.child(root, f"Session{session}", "dialog", "EmoEvaluation")


def _missing(root: Path, files: dict[tuple[int, str], Path]) -> list[str]:
    """The sessions without annotations, and dialogs that have audio, but no annotations."""
    absent = [session for session in SESSIONS if session not in {session for session, _ in files}]
    dialogs = [name.name for session in SESSIONS if session not in absent
               for key, name in base.listing(base.child(root, f"Session{session}", "sentences", "wav")).items()
               if name.is_dir() and (session, key) not in files]
    for place in {file.parent for file in files.values()}:
        if place.parts[-2:] != ("dialog", "EmoEvaluation"):
            log.warning("%s: read as dialog/EmoEvaluation", place)
    places = [f"Session{session}/dialog/EmoEvaluation" for session in absent]
    return [f"no annotations in {base.listed(places)}" if places else "",
            f"no annotations of {base.listed(dialogs)}" if dialogs else "",
            f"{len(files)} dialogs, not {DIALOGS}" if len(files) != DIALOGS else ""]


def parse(text: str, name: str) -> list[tuple[int, Block]]:
    """Blocks of one annotation file with the number of their head line; `name` is the file's, for errors."""
    dialog, blocks = Path(name).stem, []
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{name}:{number}"
        if line.startswith("["):
            blocks.append((number, _head(line, dialog, where)))
        elif line.startswith("C-"):
            if not blocks:
                raise UserError(f"{where}: a rating before any utterance; restore the line [start - end] ...")
            _add(blocks[-1][1], line, where)
        elif line.strip() and not line.startswith(("%", "A-")):
            raise UserError(f"{where}: {line[:40]!r} is no line of an annotation file "
                            "([start - end], C-<listener>:, A-<listener>:); restore or remove it")
    for number, block in blocks:
        if not block.ratings:
            raise UserError(f"{name}:{number}: {block.clip} has no ratings; restore its lines C-<listener>: or "
                            "remove the block")
    return blocks


def _head(line: str, dialog: str, where: str) -> Block:
    match = _HEAD.fullmatch(line)
    if not match:
        raise UserError(f"{where}: {line[:60]!r} is a malformed head line; "
                        "it should read [start - end] TAB utterance TAB code TAB [val, act, dom]")
    start, end, clip, code = match.groups()
    name = _NAME.fullmatch(base.safe(clip, where))
    if not name or name[1] != dialog:
        raise UserError(f"{where}: utterance {clip!r} does not belong to dialog {dialog!r}; check both names")
    return Block(clip, float(start), float(end), code, {})


def _add(block: Block, line: str, where: str) -> None:
    """Read one C- line into the block. The comment in parentheses may hold anything, even semicolons."""
    match = _RATING.fullmatch(line)
    if not match:
        raise UserError(f"{where}: {line[:60]!r} is no rating; it should read C-E1: TAB labels ; TAB (comment)")
    words = [word.strip() for word in match[2].split(";") if word.strip()]
    for word in words:
        if word not in WORDS:
            raise UserError(f"{where}: label {word!r} is unknown: {base.nearest(word, WORDS)}")
    if not words:
        raise UserError(f"{where}: the rating by {match[1]} has no label; add one (Other if none fits)")
    if match[1] in block.ratings:
        raise UserError(f"{where}: {match[1]} rates {block.clip} a second time; remove one of the two lines")
    block.ratings[match[1]] = {WORDS[word] for word in words} - {""}


def _clip(block: Block, root: Path, session: int, audio: dict[str, tuple[Path, dict[str, Path]]],
          where: str) -> dict[str, Any]:
    """The clip of a block; audio: by dialog its folder and files, read when first asked for."""
    dialog, number, sex = _NAME.findall(block.clip)[0]
    if session != int(number):
        raise UserError(f"{where}: {block.clip} lies in Session{session}; move it to Session{int(number)}")
    if dialog not in audio:
        place = base.child(root, f"Session{session}", "sentences", "wav", dialog)
        audio[dialog] = place, base.listing(place)
    place, wavs = audio[dialog]
    wav = wavs.get(f"{block.clip}.wav".lower(), place / f"{block.clip}.wav")
    # The speaker is the letter of the last token; the letter after the session's number is who wore the markers.
    return {"clip": block.clip, "path": str(wav), "speaker": f"Ses{number}{sex}", "session": int(number),
            "seconds": base.seconds(wav, where), "dialog": dialog, "consensus": block.consensus}


def _check_size(path: Path, clips: list[str], ratings: list[Rated]) -> None:
    """The full release must have its exact sizes."""
    if len(clips) != CLIPS:
        raise UserError(f"{path}: {len(clips)} utterances, but the release has {CLIPS}; unpack the release again")
    observers = Counter(clip for clip, listener, _ in ratings if listener[0] == "E")
    for clip in clips:
        if observers[clip] != OBSERVERS_PER_CLIP:
            raise UserError(f"{path}: {clip} has {observers[clip]} observer ratings, the release "
                            f"{OBSERVERS_PER_CLIP} of every clip; unpack the release again")
