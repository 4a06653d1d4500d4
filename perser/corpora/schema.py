"""The table of ratings, the same wherever one is read or written, and the clips that it names.

Columns: clip (a file name or path below the folder of audio), listener, and label (";" between classes; Other for none)
or one column per class: 0 or 1, or numbers where a threshold is given. Optional: speaker, session (any text).
Separated by comma, semicolon or tab; UTF-8, UTF-16 with its mark, or a named encoding; cells and header are trimmed.
"""

import codecs
import csv
import difflib
import hashlib
import io
import logging
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from perser import audio
from perser.corpora.base import Corpus, nearest
from perser.errors import UserError
from perser.records import first_line, inert, literal, whole

COLUMNS = ("clip", "listener", "label", "speaker", "session")
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
KINDS = tuple(audio.KINDS)
READY = (".parquet", ".csv", ".npy")  # features instead of audio
NEEDED = "the columns are clip, listener and label, or one column per class instead of label"
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
_TICKS = {word: float(place) for place, words in enumerate(("0 0.0 false no falsch faux", "1 1.0 true yes x wahr vrai"))
          for word in words.split()}

log = logging.getLogger(__name__)


class Rating(NamedTuple):
    """One row: its place in print (file:line), its cells, and the value of every class: 0, 1 or a number."""

    where: str
    clip: str
    listener: str
    speaker: str
    session: str
    values: dict[str, float]


class Table(NamedTuple):
    """Ratings and their ticks, one per clip and listener in the order of the file; singles: those rated repeatedly."""

    classes: tuple[str, ...]
    ratings: list[Rating]
    ticks: list[set[str]]
    singles: list[tuple[Rating, set[str]]]


def read(file: Path, classes: Iterable[str] | str = (), threshold: dict[str, float] | str = "", repeats: str = "error",
         encoding: str = "", needs: tuple[str, ...] = ("clip", "listener")) -> Table:
    """Read a table of ratings.

    classes: the only ones, in this order (a string: separated by commas); without them the columns, or the labels in
    alphabetical order. threshold: numbers from which columns count, {"arousal": 60} or "arousal=60,valence=50".
    repeats: what to make of a clip that a listener rates again: "error", "first", or "mean": at least half of the
    ratings tick a class, or the mean number reaches the threshold. needs: columns that must be there. UserError: one
    line with file, line and remedy.
    """
    if repeats not in ("error", "first", "mean"):
        raise UserError(f"{file}: repeats {repeats!r} is unknown: {nearest(str(repeats), ('error', 'first', 'mean'))}")
    rows = [*cells(file, encoding, needs)]
    if not rows:
        raise UserError(f"{file}: holds no rating; add rows below the header")
    given = [*filter(None, map(str.strip, classes.split(",")))] if isinstance(classes, str) else [*classes]
    limits = _limits(threshold, rows[0][1], file)
    names = given or [name for name in rows[0][1] if name not in COLUMNS and name.lower() != "other"]
    ratings = [_rating(where, row, names, given, limits) for where, row in rows]
    if "label" in rows[0][1] and not given:
        names = sorted(set().union(*(rating.values for rating in ratings)))
        _unlike(((word, rating.where) for rating in ratings for word in rating.values), "label")
    if not names:
        raise UserError(f"{file}:1: names no class; {NEEDED}")
    if "label" not in rows[0][1] and not given:
        _unlike(((name, f"{file}:1") for name in names), "column")
        _vary(ratings, names, limits, file)
    _unlike(((rating.listener, rating.where) for rating in ratings), "listener")
    _unlike(((rating.clip, rating.where) for rating in ratings), "clip")
    return _merged(ratings, tuple(names), limits, repeats)


def decode(file: Path, encoding: str = "") -> str:
    """The text of a file: its encoding is named, marked or UTF-8. Line ends become Unix ones. UserError: unreadable."""
    try:
        data = Path(file).read_bytes()
        named = encoding or next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
        if data.startswith(_SHEETS) or (b"\0" in data and "16" not in named):
            raise UserError(f"{file}:1: not CSV text but a workbook or UTF-16 without its mark; save it as CSV UTF-8")
        text = data.decode(named)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the path and permissions") from None
    except LookupError:
        raise UserError(f"{file}: encoding {encoding!r} is unknown; such names are utf-8, latin-1, cp1252") from None
    except UnicodeError as error:
        line = data.count(b"\n", 0, getattr(error, "start", 0)) + 1
        raise UserError(f"{file}:{line}: not in {named}; save as CSV UTF-8, or name it: --encoding latin-1") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def cells(file: Path, encoding: str = "", needs: Iterable[str] = ("clip",)) -> Iterator[tuple[str, dict[str, str]]]:
    """Place in print and trimmed cells of every row, by column. Rows without any text are left out."""
    text = decode(file, encoding)
    skipped = 0
    if marked := re.match(r'"?sep=([,;\t])"?\n', text):  # Excel's own note of the separator
        text, skipped = text[marked.end():], 1
    separator = marked[1] if marked else _separator(text, needs)
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        header = [*map(_column, next(reader, []))]
        _check_header(header, f"{file}:{1 + skipped}", needs)
        for row in reader:
            row, where = [_trimmed(cell) for cell in row], f"{file}:{reader.line_num + skipped}"
            if not any(row):
                continue
            if len(row) < len(header) or any(row[len(header):]):
                raise UserError(f"{where}: {len(row)} cells, {len(header)} columns; separate cells by "
                                f"{SEPARATORS[separator]}, as in line {1 + skipped}, and quote cells that hold one")
            named = {name: literal(cell) for name, cell in zip(header, row) if name}
            if any(cell for name, cell in zip(header, row) if not name):
                raise UserError(f"{where}: a cell below an empty header; name the column or remove it")
            yield where, named
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num + skipped}: not CSV ({error}); close every quote") from None


def _separator(text: str, needs: Iterable[str]) -> str:
    """The separator with which the header has most of the columns that are needed."""
    line = text.partition("\n")[0][:100_000]  # the csv module reads no longer cells
    headers = {mark: {*map(_column, next(csv.reader([line], delimiter=mark, skipinitialspace=True), []))}
               for mark in SEPARATORS}
    return max(headers, key=lambda mark: len(headers[mark] & {*needs, *COLUMNS}))


def _column(cell: str) -> str:
    name = " ".join(_trimmed(cell).split())
    return name.lower() if name.lower() in (*COLUMNS, "file") else name


def _trimmed(cell: str) -> str:
    return unicodedata.normalize("NFC", cell.strip())


def _check_header(header: list[str], where: str, needs: Iterable[str]) -> None:
    """Refuse columns that are missing or there twice; rename `file`, the old name of `clip`, in place."""
    if "file" in header and "clip" not in header:
        log.warning("%s: column `file` is an old name; rename it to clip", where)
        header[header.index("file")] = "clip"
    for name in needs:
        if name not in header:
            raise UserError(f"{where}: no column {name!r} in {', '.join(filter(None, header)) or 'an empty line'}; "
                            f"{NEEDED}, separated by comma, semicolon or tab")
    for name, count in Counter(filter(None, header)).items():
        if count > 1:
            raise UserError(f"{where}: {count} columns are called {name!r}; rename or remove one")


def _limits(threshold: Mapping[str, float | str] | str, row: dict[str, Any], file: Path) -> dict[str, float]:
    """The threshold of every column that has one."""
    if isinstance(threshold, str):
        threshold = dict(pair.partition("=")[::2] for pair in filter(None, threshold.split(",")))
    columns = [name for name in row if name not in COLUMNS]
    for name in threshold:
        if name not in columns or "label" in row:
            hint = "column label decides; remove it" if "label" in row else f"no such column; {nearest(name, columns)}"
            raise UserError(f"{file}:1: --threshold {name}=...: {hint}")
    return {name: _number(str(limit), f"{file}:1: --threshold {name}=") for name, limit in threshold.items()}


def _number(text: str, where: str) -> float:
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}{text!r} is no number; give one")
    return number


def _rating(where: str, row: dict[str, Any], names: list[str], given: list[str], limits: dict[str, float]) -> Rating:
    """A row as a rating, with its cells checked; `given`: the only classes allowed, if any."""
    for column in COLUMNS:
        if row.get(column) == "":
            remedy = "write Other where no class fits" if column == "label" else "fill it in, or remove the column"
            raise UserError(f"{where}: no {column}; {remedy}")
        if re.search(r"[\x00-\x1f\x7f]", row.get(column, "")):
            raise UserError(f"{where}: a line break or tab within the {column}; close every quote")
    if "label" in row:
        values = dict.fromkeys(_labels(row["label"], given, where), 1.0)
    else:
        values = {name: _value(row, name, limits, where) for name in names}
    return Rating(where, clip_name(row["clip"]), row.get("listener", ""), row.get("speaker", ""),
                  row.get("session", ""), values)


def _labels(text: str, given: list[str], where: str) -> list[str]:
    words = [word for word in map(str.strip, text.split(";")) if word]
    kept = [word for word in words if word in given or word.lower() != "other"]
    if not words:
        raise UserError(f"{where}: label {text!r} names no class; write Other where no class fits")
    for word in kept:
        if given and word not in given:
            raise UserError(f"{where}: label {word!r} is unknown: {nearest(word, [*given, 'Other'])}")
        if "," in word and word not in given:
            raise UserError(f"{where}: label {word!r} holds a comma; separate classes by ;")
    return kept


def _value(row: dict[str, Any], name: str, limits: dict[str, float], where: str) -> float:
    if name not in row:
        raise UserError(f"{where}: no column {name!r}; add it, or a column label")
    cell = row[name]
    if name in limits:
        return _number(cell, f"{where}: column {name}: ")
    if not cell:
        raise UserError(f"{where}: an empty cell in column {name!r}: missing is not no; write 0 or 1")
    if cell.lower() not in _TICKS:
        raise UserError(f"{where}: {cell!r} in column {name!r} is neither 0 nor 1; if it is no class, remove it or "
                        f"name the classes: --option classes=a,b; if a number, give --threshold {name}=NUMBER")
    return _TICKS[cell.lower()]


def clip_name(text: str) -> str:
    """The name of a clip in one form: slashes as on Unix, no `./`, the suffix of an audio file in lower case.

    >>> clip_name(r".\\Anna 1\\a.WAV")
    'Anna 1/a.wav'
    """
    name = os.path.normpath(unicodedata.normalize("NFC", text.replace("\\", "/")))
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) + suffix.lower() if suffix.lower() in KINDS else name


def alike(text: str) -> str:
    """What is left of a name without case, kinds of space and dash, and leading zeros."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\s_-]+", " ", text.casefold()))


def _unlike(places: Iterable[tuple[str, str]], column: str) -> None:
    """Refuse two spellings of one name: of a listener or label by case and dashes, of a clip by a missing suffix."""
    counts, first = Counter[str](), dict[str, str]()
    for name, where in places:
        counts[name] += 1
        first.setdefault(name, where)
    spelt: dict[str, str] = {}
    for name, where in first.items():
        key = _bare(name) if column == "clip" else alike(name)
        other = spelt.setdefault(key, name)
        if other != name and (column != "clip" or key in (name, other)):
            raise UserError(f"{where}: {column} {name!r} is {other!r} of {first[other]}; write one name for both")
    if column == "label":
        common = {name.lower(): name for name in counts if counts[name] > 1}
        for name in (name for name in counts if counts[name] == 1):
            if near := difflib.get_close_matches(name.lower(), common, n=1, cutoff=0.8):
                raise UserError(f"{first[name]}: label {name!r} occurs once and looks like {common[near[0]]!r}; "
                                f"correct it, or name all: --option classes={','.join(sorted(counts))}")


def _bare(clip: str) -> str:
    return clip.removesuffix(PurePosixPath(clip).suffix) if clip.endswith(KINDS) else clip


def _vary(ratings: list[Rating], names: list[str], limits: dict[str, float], file: Path) -> None:
    """Refuse a column that says something of listeners, not of clips: the same in all of a listener's many rows."""
    frame = pd.DataFrame([rating.values for rating in ratings], columns=names)
    parts = frame.groupby([rating.listener for rating in ratings])
    if len(frame) >= 3 * len(parts):
        for name in frame.columns[((parts.nunique() == 1).all() & frame.any()).to_numpy()].difference([*limits]):
            raise UserError(f"{file}:1: column {name!r} never changes for a listener, so it is no class; remove it, or "
                            f"name the classes: --option classes={','.join(names)}")


def _merged(ratings: list[Rating], classes: tuple[str, ...], limits: dict[str, float], repeats: str) -> Table:
    """One rating per clip and listener."""

    def ticks(part: list[Rating]) -> set[str]:
        return {name for name in classes
                if sum(rating.values.get(name, 0) for rating in part) / len(part) >= limits.get(name, 0.5)}

    parts: dict[tuple[str, str], list[Rating]] = {}
    for rating in ratings:
        part = parts.setdefault((rating.clip, rating.listener), [])
        part.append(rating)
        if repeats == "error" and len(part) > 1:
            raise UserError(f"{rating.where}: {rating.listener or 'the listener'} rates {rating.clip} a second time, "
                            f"as in {part[0].where}; remove a row, or give --repeats mean, or first")
    return Table(classes, [part[0] for part in parts.values()],
                 [ticks(part[:1] if repeats == "first" else part) for part in parts.values()],
                 [(rating, ticks([rating])) for part in parts.values() if len(part) > 1 for rating in part])


def files(table: Table, folder: Path) -> dict[str, Path]:
    """The audio file of every clip of a table; a name may leave out the suffix. UserError: none, or two, or outside."""
    folder, bare = Path(os.path.normpath(folder.absolute())), dict[str, list[str]]()
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    known: dict[str, Path] = {}
    for name, path in ((clip_name(path.relative_to(folder).as_posix()), path) for path in paths):
        if known.setdefault(name, path) != path:
            raise UserError(f"{path}: differs from {known[name].name} in case alone; keep one of them")
    for name in known:
        bare.setdefault(_bare(name), []).append(name)
    places, clips = dict[str, Path](), dict[Path, str]()
    for where, clip, *_ in table.ratings:
        name = clip.removeprefix(f"{folder.as_posix()}/")
        if name.startswith(("/", "../")) or re.match(r"[A-Za-z]:/", name):
            raise UserError(f"{where}: {clip!r} leads out of {folder}; name clips by their path below it")
        matches = [name] if name in known else bare.get(name, [])
        if len(matches) > 1:
            raise UserError(f"{where}: {clip!r} is {' or '.join(matches)}; write the suffix")
        if not matches:
            near = [other for other in known if PurePosixPath(other).name == PurePosixPath(name).name]
            near = near or difflib.get_close_matches(name, known, n=1, cutoff=0)
            hint = f"did you mean {near[0]!r}?" if near else f"it has no files at all; name clips by {', '.join(KINDS)}"
            raise UserError(f"{where}: {folder} has no audio file {name!r}: {hint}")
        places[clip] = known[matches[0]]
        if clips.setdefault(places[clip], clip) != clip:
            raise UserError(f"{where}: {clip!r} is the clip {clips[places[clip]]!r} above; write one name for both")
    return places


def vectors(file: Path, encoding: str = "") -> tuple[list[str], np.ndarray]:
    """Ready-made features: names of clips and float32 (clips, layers, width).

    A .csv or .parquet has a column clip, and numbers in all others. An .npy, (clips, width) or (clips, layers, width),
    has the name of every row's clip as a line of clips.txt beside it. UserError: unreadable, missing or repeated.
    """
    try:
        if file.suffix == ".npy":
            values = np.load(file, allow_pickle=False)
            names = [*filter(None, map(_trimmed, decode(file.with_name("clips.txt"), encoding).split("\n")))]
        else:
            frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.DataFrame(
                [row for _, row in cells(file, encoding)])
            names = frame.pop("clip").astype(str).tolist()
            values = frame.apply(pd.to_numeric, errors="coerce").to_numpy()
        values = values.astype(np.float32)
    except UserError:
        raise
    except (KeyError, ValueError, EOFError, OSError) as error:
        raise UserError(f"{file}: no table of features ({first_line(error)}); give a column clip and a column "
                        "for every number, or an .npy with clips.txt beside it") from None
    if values.ndim not in (2, 3) or len(values) != len(names) or not values.size:
        raise UserError(f"{file}: features {values.shape} of {len(names)} clips; give a row for every clip")
    names = [*map(clip_name, names)]
    bad, again = ~np.isfinite(values.reshape(len(names), -1)).all(axis=1), pd.Index(names).duplicated()
    for row in np.flatnonzero(bad | again)[:1]:
        fault = "a cell is no number" if bad[row] else "again"
        raise UserError(f"{file}: row {row + 1}, clip {names[row]!r}: {fault}; correct or remove the row")
    return names, values if values.ndim == 3 else values[:, None]


def chosen(table: Table, file: Path, encoding: str = "") -> dict[str, np.ndarray]:
    """The features (layers, width) of every clip of a table. UserError: as `vectors`, and a clip without features."""
    stored = dict(zip(*vectors(file, encoding)))
    for where, clip, *_ in table.ratings:
        if clip not in stored:
            near = difflib.get_close_matches(clip, stored, n=1, cutoff=0)[0]
            raise UserError(f"{where}: {file} has no clip {clip!r}: did you mean {near!r}?")
    return {rating.clip: stored[rating.clip] for rating in table.ratings}


def sessions(table: Table) -> dict[str, dict[str, Any]]:
    """Speaker and session of every clip.

    Session texts become numbers: themselves, or their places in alphabetical order. Without them, up to five sessions
    of equal size are made, of whole speakers if there are three, otherwise of clips; the names alone decide which.
    """
    clips: dict[str, dict[str, str]] = {}
    for where, clip, _, speaker, session, _ in table.ratings:
        entry = {"speaker": speaker or "unknown", "session": session}
        for key, value in clips.setdefault(clip, entry).items():
            if entry[key] != value:
                raise UserError(f"{where}: {clip} has {key} {entry[key]!r} here and {value!r} above; make them equal")
    texts = sorted({entry["session"] for entry in clips.values()})
    if texts == [""]:
        numbers = dealt({clip: entry["speaker"] for clip, entry in clips.items()})
    else:
        whole_numbers = all(re.fullmatch(r"\d{1,9}", text) for text in texts)
        places = {text: int(text) if whole_numbers else place for place, text in enumerate(texts, start=1)}
        numbers = {clip: places[entry["session"]] for clip, entry in clips.items()}
    return {clip: entry | {"session": numbers[clip]} for clip, entry in clips.items()}


def dealt(speakers: dict[str, str]) -> dict[str, int]:
    """A session for every clip: whole speakers where there are three, the largest first, to the smallest session."""
    names = set(speakers.values())
    if 1 < len(names) < 3:
        log.warning("sessions are made of clips, which share speakers: whole speakers need at least three of them")
    parts = speakers if len(names) >= 3 else {clip: clip for clip in speakers}
    counts = Counter(parts.values())
    loads, places = [0] * min(5, len(counts)), {}
    for name in sorted(counts, key=lambda name: (-counts[name], hashlib.blake2b(name.encode()).digest())):
        places[name] = loads.index(min(loads))
        loads[places[name]] += counts[name]
    return {clip: places[name] + 1 for clip, name in parts.items()}


def rows(corpus: Corpus) -> tuple[pd.DataFrame, Path]:
    """A corpus's ratings as a table, and the folder below which it names clips."""
    paths, names = corpus.clips["path"], corpus.clips.index
    folder = Path(os.path.commonpath([Path(path).parent for path in paths]))
    if corpus.features is None:
        names = [os.path.relpath(path, folder) for path in paths]
    clips = corpus.clips.assign(clip=names).loc[corpus.ratings["clip"], ["clip", "speaker", "session"]]
    labels = [";".join(name for name, on in zip(corpus.classes, ticks) if on) or "Other"
              for ticks in corpus.ratings[[*corpus.classes]].to_numpy(bool)]
    table = clips.assign(listener=corpus.ratings["listener"].to_numpy(), label=labels)
    return table[[*COLUMNS]].reset_index(drop=True), folder


def write(table: pd.DataFrame, file: Path) -> None:
    """Write a table of ratings, whole or not at all; the mark lets Excel read any letters.

    An apostrophe comes before a cell that begins like a formula; `read` takes it away again.
    """
    with whole(Path(file)) as half:
        inert(table).to_csv(half, index=False, encoding="utf-8-sig")
