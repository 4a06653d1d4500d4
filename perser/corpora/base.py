"""What every loader shares: the Corpus, names that are safe on disk, and suggestions for misspellings."""

import difflib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import soundfile

from perser.errors import UserError

MARKER = "SYNTHETIC.json"  # written last, at the top of an embedded corpus
UNFINISHED = ".unfinished"  # a folder that is there while one is being written
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]*")


@dataclass(frozen=True)
class Corpus:
    """Clips and who rated them how.

    clips: index "clip" (str); columns path (absolute), speaker, session (int), seconds, and more where
    the corpus has more. ratings: one row per rating: clip, listener, one bool column per class; a rating
    without any of the classes (IEMOCAP's Other) is a row of False. synthetic: "" for a real corpus,
    otherwise what of it is made up; everything computed from it bears that stamp. options: what it was loaded with.
    """

    name: str
    classes: tuple[str, ...]
    clips: pd.DataFrame
    ratings: pd.DataFrame
    synthetic: str = ""
    options: dict = field(default_factory=dict)


def nearest(word: str, valid: Iterable[str]) -> str:
    """A hint for an unknown word: the nearest valid one, then all of them."""
    valid = [str(v) for v in valid]
    lowered = {v.lower(): v for v in valid}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.0)
    return (f"did you mean {lowered[close[0]]!r}? " if close else "") + f"valid: {', '.join(valid)}"


def safe(name: str, where: str) -> str:
    """The name itself if it is one plain file name. UserError: slashes, "..", a drive, a hidden file."""
    if not _PLAIN.fullmatch(name) or ".." in name:
        raise UserError(f"{where}: {name!r} cannot name a clip; use letters, digits, '_', '-' and single '.'")
    return name


def folder(root: str | Path, whole: Callable[[Path], bool], what: str) -> Path:
    """The root as an absolute path, once `whole(root)` holds.

    UserError: missing, not a folder, empty, or not `what`; where the corpus lies up to two levels lower
    or five higher, the message names that folder.
    """
    path = Path(root).expanduser().absolute()
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give the folder that holds {what}")
    if not any(path.iterdir()):
        raise UserError(f"{path}: the folder is empty; give the folder that holds {what}")
    if whole(path):
        return path
    below = [sub for pattern in ("*", "*/*") for sub in sorted(path.glob(pattern)) if sub.is_dir()]
    for candidate in [*path.parents[:5], *below]:
        if whole(candidate):
            level = "high" if candidate in below else "low"
            raise UserError(f"{path}: this is too {level} in the tree; give {candidate} as root")
    raise UserError(f"{path}: does not hold {what}; give the folder that does")


def stamp(root: Path) -> dict | None:
    """What the marker of an embedded corpus says; None elsewhere. UserError: unfinished or not readable."""
    if (root / UNFINISHED).exists():
        raise UserError(f"{root}: the embedded corpus is unfinished; run `perser synth {root}` again")
    path = root / MARKER
    if not path.is_file():
        return None
    try:
        said = json.loads(read_text(path))
    except ValueError:
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("synthetic"), str) or "layout" not in said:
        raise UserError(
            f"{path}: is not the marker of an embedded corpus; run `perser synth` into a new folder"
        )
    return said


def seconds(path: Path, needed_by: str) -> float:
    """Length of an audio file from its header. UserError: missing or unreadable."""
    if not path.is_file():
        raise UserError(f"{needed_by}: its audio file {path} is missing; restore it or remove the entry")
    if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: is a git-lfs pointer, not audio; run `git lfs pull` in the corpus's folder")
    try:
        return float(soundfile.info(str(path)).duration)
    except (soundfile.LibsndfileError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as audio ({reason}); replace it") from None


def read_text(path: Path) -> str:
    """A text file as UTF-8, else Latin-1, with unix line ends. UserError: unreadable."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); check the path and permissions"
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def tables(clips: list[dict], ratings: list[tuple[str, str, set[str]]], classes: tuple[str, ...]):
    """Plain rows -> the two tables of a Corpus, sorted by clip and, within it, by listener."""
    clip_table = pd.DataFrame(clips).set_index("clip").sort_index()
    rows = [
        (clip, who, *(c in ticked for c in classes)) for clip, who, ticked in sorted(ratings, key=_by_clip)
    ]
    return clip_table, pd.DataFrame(rows, columns=["clip", "listener", *classes])


def _by_clip(rating: tuple[str, str, set[str]]) -> tuple[str, str]:
    return rating[:2]
