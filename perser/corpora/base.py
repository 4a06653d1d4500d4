"""What all loaders share: the Corpus, reading files, names that are safe on disk, hints for misspellings."""

import csv
import difflib
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from perser import audio
from perser.errors import UserError
from perser.terminal import counted

MARKER = "SYNTHETIC.json"  # at the top of an embedded corpus, written last
UNFINISHED = ".unfinished"  # a folder that exists while an embedded corpus is being written
log = logging.getLogger(__name__)
Rated = tuple[str, str, set[str]]  # clip, listener and the classes that are ticked
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]*")


@dataclass(frozen=True)
class Corpus:
    """Clips, and the listeners' ratings of them.

    clips: index "clip" (str); columns path (absolute), speaker, session (int), seconds, and corpus-specific ones.
    ratings: one row per rating, with clip, listener and one bool column per class; a rating that ticks none of the
    classes (IEMOCAP's Other) is a row of False. synthetic: "" for a real corpus, otherwise the synthetic parts; all
    results computed from it carry this stamp. options: the options it was loaded with. repeats: where listeners rated
    clips more than once, those single ratings, in the form of `ratings`. folds: sessions to train on, dev session and
    test session of every fold, where the corpus prescribes them. features: float32 (clips, layers, width) in the order
    of `clips`, where they come with the corpus instead of audio. notes: what the folder lacks of the full release, by
    name.
    """

    name: str
    classes: tuple[str, ...]
    clips: pd.DataFrame
    ratings: pd.DataFrame
    synthetic: str = ""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    repeats: pd.DataFrame | None = None
    folds: tuple[tuple[tuple[int, ...], int, int], ...] = ()
    features: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Name, sizes and classes in three lines."""
        clips, listeners = self.clips, self.ratings["listener"]
        sizes = [counted(number, noun) for number, noun in (
            (len(clips), "clip"), (clips["speaker"].nunique(), "speaker"), (clips["session"].nunique(), "session"),
            (listeners.nunique(), "listener"), (len(listeners), "rating"))]
        return (f"Corpus {self.name!r} ({f'synthetic {self.synthetic}' if self.synthetic else 'not synthetic'})\n"
                f"  {', '.join(sizes[:3])}\n  {', '.join(sizes[3:])}, classes: {', '.join(self.classes)}")


class Source(NamedTuple):
    """A file of a publisher. Of an archive, `count` members are unpacked: those that end in the pattern `members`.

    Size 0 or checksum "": not stated. checked: which of address, size and checksum were confirmed. No publisher could
    be reached when these were written: the others are what public projects report after downloading.
    """

    url: str
    file: str  # its path in DIR
    size: int = 0  # bytes
    checksum: str = ""  # algorithm:hexadecimal
    members: str = ""
    count: int = 0  # type: ignore[assignment]  # tuples have a method of this name, which nobody calls here
    checked: tuple[str, ...] = ()


class Release(NamedTuple):
    """A corpus as published: the terms of use, and what `perser fetch` downloads.

    lfs: address of the files of which an archive holds only git-lfs pointers.
    """

    licence: str
    sources: tuple[Source, ...]
    lfs: str = ""


def nearest(word: str, valid: Iterable[str]) -> str:
    """A hint for an unknown word: the nearest valid one, then all of them."""
    valid = [str(v) for v in valid]
    lowered = {v.lower(): v for v in valid}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.0)
    return (f"did you mean {lowered[close[0]]!r}? " if close else "") + f"valid: {', '.join(valid)}"


def safe(name: str, where: str) -> str:
    """Return the name if it is one plain file name. UserError: slashes, "..", a drive, a hidden file."""
    if not _PLAIN.fullmatch(name) or ".." in name:
        raise UserError(f"{where}: {name!r} cannot name a clip; use letters, digits, '_', '-' and single '.'")
    return name


def folder(root: str | Path, valid: Callable[[Path], bool], contents: str) -> Path:
    """The root as an absolute path, if `valid(root)` holds.

    UserError: the root is missing, no folder, empty, or lacks `contents`. If a valid folder lies up to two levels
    below or five above, the message names it.
    """
    path = Path(root).expanduser().absolute()
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give the folder that holds {contents}")
    if not any(path.iterdir()):
        raise UserError(f"{path}: the folder is empty; give the folder that holds {contents}")
    if valid(path):
        return path
    below = [sub for pattern in ("*", "*/*") for sub in sorted(path.glob(pattern)) if sub.is_dir()]
    for candidate in [*path.parents[:5], *below]:
        if valid(candidate):
            level = "high" if candidate in below else "low"
            raise UserError(f"{path}: this is too {level} in the tree; give {candidate} as root")
    raise UserError(f"{path}: does not hold {contents}; give the folder that does")


def child(folder: Path, *names: str) -> Path:
    """A path below a folder, whatever the case of its names; spelt as asked where there is none."""
    for name in names:
        folder = listing(folder).get(name.lower(), folder / name)
    return folder


def listing(folder: Path) -> dict[str, Path]:
    """What lies in a folder by name in lower case; no hidden files (macOS writes some); empty where there is no folder.

    UserError: two names that differ in case alone.
    """
    entries: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith(".") and entries.setdefault(path.name.lower(), path) != path:
            raise UserError(f"{path}: differs from {entries[path.name.lower()].name} in case alone; keep one of them")
    return entries


def listed(names: Iterable[str]) -> str:
    """Names in print: ten at most, then how many more.

    >>> listed(map(str, range(12)))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    names = list(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def once(ratings: Iterable[Rated]) -> tuple[list[Rated], list[Rated]]:
    """Ratings with a listener's first of each clip alone, and all of the clips that a listener rates repeatedly."""
    ratings, first = list(ratings), dict[tuple[str, str], Rated]()
    for rating in ratings:
        first.setdefault(rating[:2], rating)
    counts = Counter(rating[:2] for rating in ratings)
    return [*first.values()], [rating for rating in ratings if counts[rating[:2]] > 1]


def lacking(root: Path, notes: Iterable[str]) -> tuple[str, ...]:
    """The notes on what a folder lacks, each also as a warning."""
    notes = tuple(filter(None, notes))
    for note in notes:
        log.warning("%s: %s; results will differ", root, note)
    return notes


def whole_number(name: str, value: object, least: int, most: int) -> int:
    """An option that is a whole number, given as such or as text. UserError: it is none, or beyond its bounds."""
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,12}", text) or not least <= int(text) <= most:
        raise UserError(f"{name}={text[:40]}: give a whole number from {least} to {most}")
    return int(text)


def read_marker(root: Path) -> dict[str, Any] | None:
    """The marker of an embedded corpus; None if there is none. UserError: the corpus is unfinished, a bad marker."""
    if (root / UNFINISHED).exists():
        raise UserError(f"{root}: the embedded corpus is unfinished; run `perser synth {root}` again")
    path = root / MARKER
    if not path.is_file():
        return None
    try:
        marker = json.loads(read_text(path))
    except ValueError:
        marker = None
    if not isinstance(marker, dict) or not isinstance(marker.get("synthetic"), str) or "layout" not in marker:
        raise UserError(f"{path}: is not the marker of an embedded corpus; run `perser synth` into a new folder")
    return marker


def seconds(path: Path, needed_by: str) -> float:
    """Length of an audio file. UserError: the file is missing, unreadable or cut short."""
    if not path.is_file():
        raise UserError(f"{needed_by}: its audio file {path} is missing; restore it or remove the entry")
    return audio.length(path)


def read_text(path: Path) -> str:
    """A text file decoded as UTF-8, else Latin-1, with Unix line ends. UserError: unreadable, no text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and permissions") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}:{line}: no text, it holds a NUL; restore the file, or save it as UTF-8")
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")  # within a line, it is a part of free text


def csv_rows(text: str, name: str, columns: Iterable[str], remedy: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and row, by column, of a CSV that needs `columns`; `name` is the file's, for errors.

    UserError: text that is not CSV, a missing column, a row that lacks one of `columns`; each ends in `remedy`.
    """
    reader = csv.DictReader(io.StringIO(text))
    try:
        for column in columns:
            if (reader.fieldnames or []).count(column) != 1:
                raise UserError(f"{name}:1: {'two columns' if column in (reader.fieldnames or ()) else 'no column'} "
                                f"{column!r}; {remedy}")
        for row in reader:
            if any("\n" in cell for cell in row.values() if isinstance(cell, str)):
                raise UserError(f"{name}:{reader.line_num}: a line break within a cell, so a quote is not closed; "
                                f"{remedy}")
            if any(row[column] is None for column in columns):
                raise UserError(f"{name}:{reader.line_num}: the row is cut short; {remedy}")
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{name}:{reader.line_num}: not CSV ({error}); {remedy}") from None


def tables(clips: list[dict[str, Any]], ratings: list[Rated],
           classes: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables for a Corpus from plain rows, sorted by clip, then listener; ratings: (clip, listener, ticks)."""
    rows = [(clip, listener, *(name in ticks for name in classes))
            for clip, listener, ticks in sorted(ratings, key=lambda rating: rating[:2])]
    rated = pd.DataFrame(rows, columns=["clip", "listener", *classes])
    return pd.DataFrame(clips).set_index("clip").sort_index(), rated
