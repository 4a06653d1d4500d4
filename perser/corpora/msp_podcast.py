"""Reads MSP-Podcast's release: labels of named crowd workers, Labels/ and Audios/."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from perser.corpora.base import Corpus, folder, nearest, read_text, safe, seconds, tables
from perser.errors import UserError

PRIMARY = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
SECONDARY = (
    *PRIMARY, "Frustrated", "Disappointed", "Excited", "Depressed", "Annoyed", "Confused", "Concerned",
    "Amused",
)  # fmt: skip
SPLITS = ("Train", "Development", "Test1", "Test2", "Test3")
_CLASSES = {"primary": PRIMARY, "secondary": SECONDARY}
_NEEDED = ("FileName", "SpkrID", "Split_Set")
_WORKER = re.compile(r"WORKER\w+", re.ASCII)


def load(root: str | Path, labels: str = "primary") -> Corpus:
    """MSP-Podcast's clips and single ratings; a session is a split: Train 1, Development 2, Test1 3, ...

    `labels` is "primary" (eight classes, one tick) or "secondary" (sixteen, the primary and all secondary
    ones). Class names are lower case. UserError: a root that is not the release, an unknown label or
    split, a clip that only one of the two label files knows, a clip without audio.
    """
    if labels not in _CLASSES:
        raise UserError(f"labels={labels!r} is unknown: {nearest(str(labels), _CLASSES)}")
    path = folder(root, lambda path: bool(_found(path)), "MSP-Podcast's labels_consensus.csv and labels.txt")
    consensus, single = _found(path)
    known = dict(clips(read_text(consensus), str(consensus)))
    classes = tuple(name.lower() for name in _CLASSES[labels])
    rows, ratings = [], []
    audio = next((path / name for name in ("Audios", "Audio") if (path / name).is_dir()), path / "Audios")
    for number, clip, listener, primary, others in parse(read_text(single), str(single)):
        if clip not in known:
            raise UserError(
                f"{single}:{number}: {clip!r} is not in {consensus}; use label files of one release"
            )
        ticked = {primary} | (others if labels == "secondary" else set())
        ratings.append((clip, listener, {name.lower() for name in ticked}))
    if not ratings:
        raise UserError(f"{single}: holds no rating; restore the file")
    for clip in sorted({clip for clip, _, _ in ratings}):
        line, speaker, split = known[clip]
        where, wav = f"{consensus}:{line}", audio / f"{clip}.wav"
        session = 1 + SPLITS.index(split)
        row = {"clip": clip, "path": str(wav), "speaker": speaker, "session": session}
        rows.append(row | {"seconds": seconds(wav, where), "split": split})
    return Corpus("msp_podcast", classes, *tables(rows, ratings, classes))


def clips(text: str, name: str) -> Iterator[tuple[str, tuple[int, str, str]]]:
    """Clip -> (line, speaker, split) of labels_consensus.csv."""
    reader = csv.DictReader(io.StringIO(text))
    try:
        for column in _NEEDED:
            if column not in (reader.fieldnames or ()):
                raise UserError(f"{name}:1: no column {column!r}; restore the release's labels_consensus.csv")
        for row in reader:
            where = f"{name}:{reader.line_num}"
            if any(row[column] is None for column in _NEEDED):
                raise UserError(f"{where}: the row is cut short; restore it")
            if row["Split_Set"] not in SPLITS:
                raise UserError(
                    f"{where}: split {row['Split_Set']!r} is unknown: {nearest(row['Split_Set'], SPLITS)}"
                )
            clip = safe(row["FileName"], where).removesuffix(".wav")
            yield clip, (reader.line_num, row["SpkrID"], row["Split_Set"])
    except csv.Error as error:
        raise UserError(f"{name}:{reader.line_num}: not CSV ({error}); restore the file") from None


def parse(text: str, name: str) -> Iterator[tuple[int, str, str, str, set[str]]]:
    """Line, clip, listener, primary and secondary labels of labels.txt; Other is none."""
    clip, head, rated = "", 0, True
    for number, line in enumerate(text.split("\n"), 1):
        where, fields = f"{name}:{number}", [field.strip() for field in line.split(";")]
        if not line.strip():
            continue
        if _WORKER.fullmatch(fields[0]):
            if not clip or len(fields) < 3:
                raise UserError(
                    f"{where}: {line[:60]!r} is no rating of a clip: WORKER<id>; primary; secondary; ..."
                )
            rated = True
            yield number, clip, fields[0], *_labels(fields[1], fields[2], where)
        elif len(fields) < 2 or not fields[0].endswith(".wav"):
            raise UserError(
                f"{where}: {line[:60]!r} is neither <file>.wav; ... nor WORKER<id>; ...; restore it"
            )
        else:
            _must(rated, clip, name, head)
            clip, head, rated = safe(fields[0], where).removesuffix(".wav"), number, False
    _must(rated, clip, name, head)


def _must(rated: bool, clip: str, name: str, line: int) -> None:
    if not rated:
        raise UserError(f"{name}:{line}: {clip} has no ratings; restore its WORKER lines or remove it")


def _labels(primary: str, secondary: str, where: str) -> tuple[str, set[str]]:
    known = {name.lower(): name for name in SECONDARY}
    words = [primary, *(word.strip() for word in secondary.split(",") if word.strip())]
    found = []
    for place, word in enumerate(words):
        if word.lower().startswith("other"):
            found.append("")
            continue
        if word.lower() not in known or (place == 0 and known[word.lower()] not in PRIMARY):
            valid = SECONDARY if place else PRIMARY
            raise UserError(f"{where}: label {word!r} is unknown: {nearest(word, [*valid, 'Other'])}")
        found.append(known[word.lower()])
    return found[0], set(found[1:])


def _found(path: Path) -> tuple[Path, Path] | None:
    """The consensus table and the single ratings, which lie in Labels/ or at the top."""
    files = []
    for name in ("labels_consensus.csv", "labels.txt"):
        places = [path / "Labels" / name, path / name]
        files += [next((place for place in places if place.is_file()), None)]
    return (files[0], files[1]) if all(files) and path.name != "Labels" else None
