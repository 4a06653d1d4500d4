"""Reads MSP-Podcast in its released format: labels of named crowd workers, Labels/ and Audios/."""

import csv
import logging
import re
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from perser.corpora import base
from perser.corpora.base import Corpus, Rated
from perser.errors import UserError
from perser.records import whole

log = logging.getLogger(__name__)

PRIMARY = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
SECONDARY = (*PRIMARY, "Frustrated", "Disappointed", "Excited", "Depressed", "Annoyed", "Confused", "Concerned",
             "Amused")
SPLITS = ("Train", "Development", "Validation", "Test1", "Test2", "Test3")  # Validation in releases before 1.10
TRAIN, DEV, TEST = (1, 4, 5), 2, 3  # sessions of the official partitions
PARTS = 5  # sessions where there are none
SAVED = "splits.csv"  # the sessions of a corpus without official partitions, in its folder
PARTITIONS = (("Train",), ("Development", "Validation"), ("Test1",), ("Test2",))  # that every release has
AUDIO = ("Audios", "Audio", "wavs", "Annotation_wav_files")  # the last two: WHiSER
LABELS = ("Labels", "Label")
CONSENSUS = ("labels_consensus.csv", "labels_concensus.csv")  # the second: releases before 1.10
_CLASSES = {"primary": PRIMARY, "secondary": SECONDARY}
_NEEDED = ("FileName", "SpkrID")
_WORKER = re.compile(r"WORKER\w+", re.ASCII)
_SCALE = re.compile(r"[AVD]:.*")


def load(root: str | Path, labels: str = "primary") -> Corpus:
    """MSP-Podcast's clips and single ratings, or WHiSER's.

    The official partitions are the only fold: Train (sessions 1, 4 and 5, which share no speaker), Development (2) and
    all test sets (3). Where Split_Set is NA or absent, five sessions that share no speaker are made and saved in `root`
    as splits.csv, which later calls read. `labels` is "primary" (eight classes, one tick) or "secondary" (sixteen, the
    primary and all secondary ones). Class names are lower case. A worker's first rating of a clip counts; `repeats` has
    all of those that are repeated. UserError: a root that is not the release, an unknown label or split, a clip twice
    in a label file, without audio or with single ratings alone.
    """
    if labels not in _CLASSES:
        raise UserError(f"labels={labels!r} is unknown: {base.nearest(str(labels), _CLASSES)}")
    path = base.folder(root, lambda path: bool(_files(path)),
                       "MSP-Podcast's Audios, labels_consensus.csv and labels.txt")
    files = _files(path)
    assert files, "`folder` looks for them"
    consensus, single, audio = files
    known = _known(consensus)
    classes = tuple(name.lower() for name in _CLASSES[labels])
    ratings, repeated = base.once(_gather(single, consensus, known, labels))
    if repeated:
        log.warning("%s: %d ratings repeat a listener's rating of a clip; the first counts", single, len(repeated))
    rated = sorted({clip for clip, *_ in ratings})
    splits = {known[clip][2] for clip in rated}
    sessions = _saved(path, rated, known) if splits == {""} else _official(rated, known)
    wavs, rows = base.listing(audio), []
    for clip in rated:
        (line, speaker, split), wav = known[clip], wavs.get(f"{clip}.wav".lower(), audio / f"{clip}.wav")
        if not split and splits != {""}:
            raise UserError(f"{consensus}:{line}: no Split_Set, but other clips have one; fill it in")
        rows.append({"clip": clip, "path": str(wav), "speaker": speaker, "session": sessions[clip],
                     "seconds": base.seconds(wav, f"{consensus}:{line}"), "split": split})
    return Corpus("msp_podcast", classes, *base.tables(rows, ratings, classes),
                  repeats=base.tables(rows, repeated, classes)[1] if repeated else None,
                  folds=() if splits == {""} else ((TRAIN, DEV, TEST),),
                  notes=base.lacking(path, _missing(known, rated, splits)))


def _known(consensus: Path) -> dict[str, tuple[int, str, str]]:
    """What `clips` gives, by clip. UserError: a clip is there twice."""
    known: dict[str, tuple[int, str, str]] = {}
    for clip, (line, speaker, split) in clips(base.read_text(consensus), str(consensus)):
        if clip in known:
            raise UserError(f"{consensus}:{line}: {clip} again, as in line {known[clip][0]}; a clip is in one "
                            "partition alone: remove a row")
        known[clip] = (line, speaker, split)
    return known


def _missing(known: dict[str, tuple[int, str, str]], rated: list[str], splits: set[str]) -> list[str]:
    unrated = sorted(known.keys() - set(rated))
    absent = [names[0] for names in PARTITIONS if splits != {""} and not splits & {*names}]
    return [f"no single ratings of {base.listed(unrated)}" if unrated else "",
            f"no clip of {base.listed(absent)}" if absent else ""]


def _gather(single: Path, consensus: Path, known: dict[str, tuple[int, str, str]], labels: str) -> list[Rated]:
    """All ratings: clip, listener and ticks."""
    ratings = []
    for number, clip, listener, primary, secondary in parse(base.read_text(single), str(single)):
        if clip not in known:
            raise UserError(f"{single}:{number}: {clip!r} is not in {consensus}; use label files of one release")
        chosen = {primary} | (secondary if labels == "secondary" else set())
        ratings.append((clip, listener, {name.lower() for name in chosen}))
    if not ratings:
        raise UserError(f"{single}: holds no rating; restore the file")
    return ratings


def clips(text: str, name: str) -> Iterator[tuple[str, tuple[int, str, str]]]:
    """Clip -> (line, speaker, split or "") of labels_consensus.csv; `name` is the file's, for errors.

    A speaker who is not known is the recording that the clip was cut from.
    """
    for line, row in base.csv_rows(text, name, _NEEDED, "restore the release's labels_consensus.csv"):
        clip, speaker, split = row["FileName"], row["SpkrID"], (row.get("Split_Set") or "").strip()
        split = "" if split.upper() == "NA" else split
        if split and split not in SPLITS:
            raise UserError(f"{name}:{line}: split {split!r} is unknown: {base.nearest(split, SPLITS)}")
        clip = _bare(base.safe(clip, f"{name}:{line}"))
        yield clip, (line, clip.rpartition("_")[0] if speaker in ("", "NA", "Unknown") else speaker, split)


def _official(rated: list[str], known: dict[str, tuple[int, str, str]]) -> dict[str, int]:
    """The session of every clip by its partition; Train is cut into parts that share no speaker."""
    train = deal([clip for clip in rated if known[clip][2] == "Train"], known, len(TRAIN))
    return {clip: TRAIN[train[clip] - 1] if clip in train else TEST if known[clip][2].startswith("Test") else DEV
            for clip in rated}


def _saved(root: Path, rated: list[str], known: dict[str, tuple[int, str, str]]) -> dict[str, int]:
    """The sessions in splits.csv, which is written if it is not there. UserError: it lacks a clip."""
    path = root / SAVED
    if path.is_file():
        rows = base.csv_rows(base.read_text(path), str(path), ("clip", "session"), "delete it: it is made anew")
        sessions = {row["clip"]: row["session"] for _, row in rows}
        for clip in rated:
            if not sessions.get(clip, "").isdecimal():
                raise UserError(f"{path}: no session of {clip!r}; add it, or delete the file: it is made anew")
        return {clip: int(sessions[clip]) for clip in rated}
    sessions = deal(rated, known, PARTS)
    try:
        with whole(path) as half, half.open("w", newline="") as file:
            csv.writer(file).writerows([("clip", "session"), *sessions.items()])
    except UserError as error:
        log.warning("%s; the same label files give the same sessions", error)
    return sessions


def deal(rated: list[str], known: dict[str, tuple[int, str, str]], parts: int) -> dict[str, int]:
    """A session from 1 to `parts` for every clip: speaker by speaker, the largest first, to the smallest part."""
    sizes, part_of, load = Counter(known[clip][1] for clip in rated), {}, [0] * parts
    for speaker, size in sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0])):
        part_of[speaker] = load.index(min(load))
        load[part_of[speaker]] += size
    return {clip: 1 + part_of[known[clip][1]] for clip in rated}


def parse(text: str, name: str) -> Iterator[tuple[int, str, str, str, set[str]]]:
    """Line, clip, listener, primary and secondary labels of labels.txt; the label Other is no class."""
    clip, head, rated, heads = "", 0, True, dict[str, int]()
    for number, line in enumerate(text.split("\n"), 1):
        where, fields = f"{name}:{number}", [field.strip() for field in line.split(";")]
        if not line.strip():
            continue
        if _WORKER.fullmatch(fields[0]):
            words = list(takewhile(lambda field: not _SCALE.fullmatch(field), fields[1:]))
            if not clip or len(words) < 2:
                raise UserError(f"{where}: {line[:60]!r} is no rating of a clip: WORKER<id>; primary; secondary; ...")
            rated = True
            yield number, clip, fields[0], *_labels(words, where)
        elif len(fields) < 2 or not fields[0].lower().endswith(".wav"):
            raise UserError(f"{where}: {line[:60]!r} is neither <file>.wav; ... nor WORKER<id>; ...; restore it")
        else:
            _check_rated(rated, clip, name, head)
            clip, head, rated = _bare(base.safe(fields[0], where)), number, False
            if heads.setdefault(clip, number) != number:
                raise UserError(f"{where}: {clip} again, as in line {heads[clip]}; remove one of the two blocks")
    _check_rated(rated, clip, name, head)


def _check_rated(rated: bool, clip: str, name: str, line: int) -> None:
    if not rated:
        raise UserError(f"{name}:{line}: {clip} has no ratings; restore its WORKER lines or remove it")


def _labels(fields: list[str], where: str) -> tuple[str, set[str]]:
    """The primary label and the set of secondary ones; "" is any kind of Other, whose free text may hold ; and ,."""
    first, *rest = fields
    known = {name.lower(): name for name in SECONDARY}
    if first.lower().startswith("other"):
        while len(rest) > 1 and not _is_label(rest[0].split(",")[0].strip().lower(), known):
            rest = rest[1:]
    elif first.lower() not in {name.lower() for name in PRIMARY}:
        raise UserError(f"{where}: label {first!r} is unknown: {base.nearest(first, [*PRIMARY, 'Other'])}")
    secondary, free = set(), False
    for word in (word.strip() for word in ",".join(rest).split(",") if word.strip()):
        free = free or word.lower().startswith("other")
        if not free and word.lower() not in known:
            raise UserError(f"{where}: label {word!r} is unknown: {base.nearest(word, [*SECONDARY, 'Other'])}")
        secondary.add(known.get(word.lower(), ""))
    return known.get(first.lower(), ""), secondary


def _is_label(word: str, known: dict[str, str]) -> bool:
    return word in known or word.startswith("other")


def _bare(clip: str) -> str:
    return clip[:-4] if clip.lower().endswith(".wav") else clip


def _files(path: Path) -> tuple[Path, Path, Path] | None:
    """labels_consensus.csv, labels.txt (the single ratings), which lie in Labels/ or at the top, and the audio."""
    places = [*(base.child(path, name) for name in LABELS), path]
    tried = ([base.child(place, name) for place in places for name in names] for names in (CONSENSUS, ("labels.txt",)))
    consensus, single = (next((file for file in several if file.is_file()), None) for several in tried)
    audio = next((place for name in AUDIO if (place := base.child(path, name)).is_dir()), None)
    return (consensus, single, audio) if consensus and single and audio else None
