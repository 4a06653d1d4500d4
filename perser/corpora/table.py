"""Reads a user's own ratings: one CSV of clips, listeners and labels, and a folder of audio files."""

from pathlib import Path

from perser.corpora.base import Corpus, csv_rows, nearest, read_text, safe, seconds, tables
from perser.errors import UserError

KINDS = (".wav", ".flac", ".ogg", ".mp3")
_FIXED = ("clip", "listener", "label", "session", "speaker")  # columns that are no class
_YES = {"1": True, "true": True, "yes": True, "x": True, "0": False, "false": False, "no": False, "": False}


def load(root: str | Path, ratings: str | Path = "ratings.csv", audio: str | Path = "audio",
         classes: tuple[str, ...] | str | None = None) -> Corpus:
    """A CSV with columns clip, listener and either label (classes separated by ";") or one per class (0/1).

    `ratings` and `audio` are relative to `root`. Columns session (whole number) and speaker are optional; without
    them every clip has session 1 and speaker "unknown". `classes` (a tuple, or words separated by commas) fixes the
    classes and their order; the default is the columns, or the labels in alphabetical order. The label Other, or
    none, is no class. UserError: by file and line.
    """
    folder = Path(root).expanduser().absolute()
    file, folder = folder / ratings, folder / audio
    if not file.is_file():
        raise UserError(f"{file}: no such file; give the table of ratings (columns clip, listener, label)")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of the audio files")
    given = tuple(classes.replace(" ", "").split(",")) if isinstance(classes, str) else tuple(classes or ())
    rows = parse(read_text(file), str(file), given)
    names = given or _classes(rows)
    if not names:
        raise UserError(f"{file}:1: names no class; add a column label, or one column per class")
    clips, ticks = _gather(rows, folder, file)
    for clip in clips.values():
        clip["seconds"] = seconds(Path(clip["path"]), str(file))
    return Corpus("table", names, *tables([*clips.values()], [(*key, on) for key, on in ticks.items()], names))


def _gather(rows: list[tuple[int, dict, set[str]]], folder: Path, file: Path) -> tuple[dict, dict]:
    """Clips by name and ticks by (clip, listener), without duplicates."""
    known = {path.name: path for path in folder.iterdir() if path.suffix.lower() in KINDS and path.is_file()}
    clips, ticks = {}, {}
    for line, row, ticked in rows:
        where, clip, listener = f"{file}:{line}", row["clip"], row["listener"]
        if (clip, listener) in ticks:
            raise UserError(f"{where}: {listener} rates {clip} a second time; remove one of the two rows")
        ticks[clip, listener] = ticked
        entry = {"session": _session(row.get("session"), where), "speaker": row.get("speaker") or "unknown"}
        path = _audio(clip, known, folder, where)
        first = clips.setdefault(clip, {"clip": clip, "path": str(path)} | entry)
        for key, value in entry.items():
            if first[key] != value:
                raise UserError(f"{where}: {clip} has {key} {value!r} here and {first[key]!r} above; make them equal")
    return clips, ticks


def parse(text: str, name: str, classes: tuple[str, ...] = ()) -> list[tuple[int, dict, set[str]]]:
    """Line, row and ticked classes of every rating; `classes`, if given, are the only ones allowed."""
    rows = []
    for line, row in csv_rows(text, name, ("clip", "listener"), "the table needs clip, listener and label, as CSV"):
        where = f"{name}:{line}"
        if None in row or None in row.values():
            raise UserError(f"{where}: not {len(row.keys() - {None})} columns; complete the row")
        safe(row["clip"], where)
        if not row["listener"].strip():
            raise UserError(f"{where}: no listener; fill in who rated")
        ticked = _ticks(row, where)
        for word in sorted(ticked - set(classes)) if classes else ():
            raise UserError(f"{where}: label {word!r} is unknown: {nearest(word, [*classes, 'Other'])}")
        rows.append((line, row, ticked))
    if not rows:
        raise UserError(f"{name}: holds no rating; add rows below the header")
    return rows


def _ticks(row: dict, where: str) -> set[str]:
    if "label" in row:
        return {word for word in map(str.strip, row["label"].split(";")) if word and word.lower() != "other"}
    columns = [column for column in row if column not in _FIXED]
    for column in columns:
        if row[column].strip().lower() not in _YES:
            raise UserError(f"{where}: {row[column]!r} in column {column!r} is neither 0 nor 1; use one of them")
    return {column for column in columns if _YES[row[column].strip().lower()] and column.lower() != "other"}


def _classes(rows: list[tuple[int, dict, set[str]]]) -> tuple[str, ...]:
    columns = rows[0][1]
    if "label" in columns:
        return tuple(sorted(set().union(*(ticked for _, _, ticked in rows))))
    return tuple(column for column in columns if column not in _FIXED and column.lower() != "other")


def _audio(clip: str, known: dict[str, Path], folder: Path, where: str) -> Path:
    for name in (clip, *(clip + kind for kind in KINDS)):
        if name in known:
            return known[name]
    raise UserError(f"{where}: {folder} has no audio file {clip!r} ({', '.join(KINDS)}); add it or remove the row")


def _session(text: str | None, where: str) -> int:
    try:
        return int(text) if text else 1
    except ValueError:
        raise UserError(f"{where}: session {text!r} is no whole number; give one") from None
