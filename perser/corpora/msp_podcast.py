"""Reads MSP-Podcast in its released format: labels of named crowd workers, Labels/ and Audios/."""

import re
from collections.abc import Iterator
from pathlib import Path

from perser.corpora.base import Corpus, csv_rows, folder, nearest, read_text, safe, seconds, tables
from perser.errors import UserError

PRIMARY = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
SECONDARY = (*PRIMARY, "Frustrated", "Disappointed", "Excited", "Depressed", "Annoyed", "Confused", "Concerned",
             "Amused")
SPLITS = ("Train", "Development", "Test1", "Test2", "Test3")
_CLASSES = {"primary": PRIMARY, "secondary": SECONDARY}
_NEEDED = ("FileName", "SpkrID", "Split_Set")
_WORKER = re.compile(r"WORKER\w+", re.ASCII)


def load(root: str | Path, labels: str = "primary") -> Corpus:
    """MSP-Podcast's clips and single ratings; a session is a split: Train 1, Development 2, Test1 3, ...

    `labels` is "primary" (eight classes, one tick) or "secondary" (sixteen, the primary and all secondary ones).
    Class names are lower case. UserError: a root that is not the release, an unknown label or split, a clip that is
    in only one of the two label files, a clip without audio.
    """
    if labels not in _CLASSES:
        raise UserError(f"labels={labels!r} is unknown: {nearest(str(labels), _CLASSES)}")
    path = folder(root, lambda path: bool(_files(path)), "MSP-Podcast's labels_consensus.csv and labels.txt")
    consensus, single = _files(path)
    known = dict(clips(read_text(consensus), str(consensus)))
    classes = tuple(name.lower() for name in _CLASSES[labels])
    rows, ratings = [], []
    audio = next((path / name for name in ("Audios", "Audio") if (path / name).is_dir()), path / "Audios")
    for number, clip, listener, primary, secondary in parse(read_text(single), str(single)):
        if clip not in known:
            raise UserError(f"{single}:{number}: {clip!r} is not in {consensus}; use label files of one release")
        ticks = {primary} | (secondary if labels == "secondary" else set())
        ratings.append((clip, listener, {name.lower() for name in ticks}))
    if not ratings:
        raise UserError(f"{single}: holds no rating; restore the file")
    for clip in sorted({clip for clip, _, _ in ratings}):
        line, speaker, split = known[clip]
        wav = audio / f"{clip}.wav"
        rows.append({"clip": clip, "path": str(wav), "speaker": speaker, "session": 1 + SPLITS.index(split),
                     "seconds": seconds(wav, f"{consensus}:{line}"), "split": split})
    return Corpus("msp_podcast", classes, *tables(rows, ratings, classes))


def clips(text: str, name: str) -> Iterator[tuple[str, tuple[int, str, str]]]:
    """Clip -> (line, speaker, split) of labels_consensus.csv; `name` is the file's, for errors."""
    for line, row in csv_rows(text, name, _NEEDED, "restore the release's labels_consensus.csv"):
        clip, speaker, split = (row[column] for column in _NEEDED)
        if split not in SPLITS:
            raise UserError(f"{name}:{line}: split {split!r} is unknown: {nearest(split, SPLITS)}")
        yield safe(clip, f"{name}:{line}").removesuffix(".wav"), (line, speaker, split)


def parse(text: str, name: str) -> Iterator[tuple[int, str, str, str, set[str]]]:
    """Line, clip, listener, primary and secondary labels of labels.txt; the label Other is no class."""
    clip, head, rated = "", 0, True
    for number, line in enumerate(text.split("\n"), 1):
        where, fields = f"{name}:{number}", [field.strip() for field in line.split(";")]
        if not line.strip():
            continue
        if _WORKER.fullmatch(fields[0]):
            if not clip or len(fields) < 3:
                raise UserError(f"{where}: {line[:60]!r} is no rating of a clip: WORKER<id>; primary; secondary; ...")
            rated = True
            yield number, clip, fields[0], *_labels(fields[1], fields[2], where)
        elif len(fields) < 2 or not fields[0].endswith(".wav"):
            raise UserError(f"{where}: {line[:60]!r} is neither <file>.wav; ... nor WORKER<id>; ...; restore it")
        else:
            _check_rated(rated, clip, name, head)
            clip, head, rated = safe(fields[0], where).removesuffix(".wav"), number, False
    _check_rated(rated, clip, name, head)


def _check_rated(rated: bool, clip: str, name: str, line: int) -> None:
    if not rated:
        raise UserError(f"{name}:{line}: {clip} has no ratings; restore its WORKER lines or remove it")


def _labels(primary: str, secondary: str, where: str) -> tuple[str, set[str]]:
    """The primary label and the set of secondary ones; "" is any kind of Other."""
    labels = []
    for place, word in enumerate([primary, *(word.strip() for word in secondary.split(",") if word.strip())]):
        valid = SECONDARY if place else PRIMARY
        known = {name.lower(): name for name in valid}
        if not word.lower().startswith("other") and word.lower() not in known:
            raise UserError(f"{where}: label {word!r} is unknown: {nearest(word, [*valid, 'Other'])}")
        labels.append(known.get(word.lower(), ""))
    return labels[0], set(labels[1:])


def _files(path: Path) -> tuple[Path, Path] | None:
    """labels_consensus.csv and labels.txt (the single ratings), which lie in Labels/ or at the top."""
    files = []
    for name in ("labels_consensus.csv", "labels.txt"):
        places = [path / "Labels" / name, path / name]
        files += [next((place for place in places if place.is_file()), None)]
    return (files[0], files[1]) if all(files) and path.name != "Labels" else None
