"""Reads EmoDB's acted speech with the ratings of valence and arousal by 51 listeners (Sievers et al., study 5)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from perser.corpora import base
from perser.corpora.base import Corpus, Release, Source
from perser.errors import UserError

EMOTIONS = {"W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "T": "sadness", "N": "neutral"}
SESSIONS = {"03": 1, "08": 1, "10": 2, "09": 2, "11": 3, "13": 3, "12": 4, "14": 4, "15": 5, "16": 5}  # a man, a woman
CLASSES = {"quadrants": ("negative calm", "negative aroused", "positive calm", "positive aroused"),
           "ticks": ("positive", "negative", "aroused", "calm")}
THRESHOLDS = {"quadrants": 50.0, "ticks": 60.0}
LISTENERS = ("reported", "development", "all")
DEVELOPMENT = (1, 4, 7)  # last digits of the listener ids that choices are made on: 15 of 51
CLIPS = 535  # of the release
# The size and checksum of study_5_data.csv were computed on a copy.
RELEASE = Release("speech: CC BY 4.0 by its record, CC0 1.0 by the archive itself (Burkhardt et al. 2005, "
                  "doi:10.5281/zenodo.7447302); ratings: BSD 3-Clause (Sievers et al., supramodal arousal)", (
    Source("https://raw.githubusercontent.com/beausievers/supramodal_arousal/"
           "1c3574799685ec61fd80800d532314e5918910c8/data/study_5/study_5_data.csv", "study_5_data.csv", 379_338,
           "sha256:ee826ca8bc71f121921208cd6cdc39c3d54add2fd41d063558cd0d8328b0d3c4", checked=("size", "checksum")),
    Source("https://zenodo.org/records/7447302/files/emodb.zip", "emodb.zip", 39_981_818,
           "md5:9d21362dbc5676ef3ab4745d83ced0db", r"wav/\d\d[abc]\d\d[WLEAFTN][a-z]\.wav", 535)))
_NAME = re.compile(r"(\d\d)([abc]\d\d)([WLEAFTN])([a-z])", re.ASCII)
_COLUMNS = ("subID", "stimFile", "stimType", "valenceRating", "arousalRating")


def load(root: str | Path, labels: str = "quadrants", threshold: float | None = None, listeners: str = "reported",
         ratings: str | Path = "study_5_data.csv") -> Corpus:
    """EmoDB's wav/ (.wav or .flac) and the single ratings (0 to 100), a file relative to `root`.

    labels: "quadrants", one class per rating; scales are split at `threshold` (50), which belongs to the upper side.
    Or "ticks": positive and aroused from `threshold` (60) up, negative and calm from 100 - `threshold` down, so that
    a rating has up to two classes. A listener's ratings of the same clip are averaged; `repeats` holds the single
    ones. listeners: "reported" (36), "development" (15) or "all". A session is a man and a woman.
    UserError: an invalid option, a file name of another form, a faulty row, a rated clip without audio.
    """
    for option, value, valid in (("labels", labels, CLASSES), ("listeners", listeners, LISTENERS)):
        if value not in valid:
            raise UserError(f"{option}={value!r} is unknown: {base.nearest(str(value), valid)}")
    cut = _threshold(threshold, labels)
    path = base.folder(root, lambda path: base.child(path, "wav").is_dir(), "EmoDB's wav/")
    clips, file = _clips(base.child(path, "wav")), path / Path(ratings).expanduser()
    rows = [row[1:] for row in parse(file, set(clips)) if listeners == "all" or row[0] == (listeners == "development")]
    if not rows:
        raise UserError(f"{file}: holds no rating of EmoDB's speech by {listeners} listeners; restore the file")
    single = pd.DataFrame(rows, columns=["clip", "listener", "valence", "arousal"])
    repeated = single[single.duplicated(["clip", "listener"], keep=False)]
    averaged = single.groupby(["clip", "listener"], as_index=False).mean()
    (known, rated), (_, repeats) = (
        base.tables([*clips.values()], [(row.clip, row.listener, ticks(row.valence, row.arousal, labels, cut))
                                        for row in rows.itertuples(index=False)], CLASSES[labels])
        for rows in (averaged, repeated))
    return Corpus("emodb", CLASSES[labels], known, rated, repeats=repeats,
                  notes=base.lacking(path, _missing(clips, set(single["clip"]))))


def _missing(clips: dict[str, dict[str, Any]], rated: set[str]) -> list[str]:
    absent = sorted(SESSIONS.keys() - {clip["speaker"] for clip in clips.values()})
    unrated = sorted(clips.keys() - rated)
    return [f"{len(clips)} clips, not {CLIPS}" if len(clips) != CLIPS else "",
            f"no clip of speaker {base.listed(absent)}" if absent else "",
            f"no rating of {base.listed(unrated)}" if unrated else ""]


def parse(file: Path, clips: set[str]) -> Iterator[tuple[bool, str, str, float, float]]:
    """Whether the listener is for development, clip, listener, valence and arousal of every rating of speech."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; `perser fetch emodb` gets it, option ratings=FILE names another place")
    for line, row in base.csv_rows(base.read_text(file), str(file), _COLUMNS, "restore the file"):
        where, clip = f"{file}:{line}", Path(row["stimFile"]).stem
        if row["stimType"] not in ("sounds", "videos"):
            raise UserError(f"{where}: stimType {row['stimType']!r} is unknown: sounds or videos; restore the file")
        if row["stimType"] == "videos":
            continue
        if clip not in clips:
            raise UserError(f"{where}: {clip!r} has no audio file; restore EmoDB's wav/ or remove the row")
        if not re.fullmatch(r"\d{1,3}", row["subID"], re.ASCII):
            raise UserError(f"{where}: subID {row['subID']!r} is not a listener's number; restore the file")
        number = int(row["subID"])
        valence, arousal = (_number(row[column], f"{where}: {column}", 0, 100) for column in _COLUMNS[3:])
        yield number % 10 in DEVELOPMENT, clip, f"L{number:02d}", valence, arousal


def ticks(valence: float, arousal: float, labels: str, cut: float) -> set[str]:
    """The classes of one rating."""
    if labels == "quadrants":
        return {CLASSES[labels][2 * (valence >= cut) + (arousal >= cut)]}
    scales = (valence >= cut, valence <= 100 - cut, arousal >= cut, arousal <= 100 - cut)
    return {name for name, ticked in zip(CLASSES[labels], scales, strict=True) if ticked}


def _clips(place: Path) -> dict[str, dict[str, Any]]:
    clips: dict[str, dict[str, Any]] = {}
    for file in (path for name, path in base.listing(place).items() if name.endswith((".wav", ".flac"))):
        match = _NAME.fullmatch(file.stem)
        if not match or match[1] not in SESSIONS:
            raise UserError(f"{file}: the name is not speaker sentence emotion take, as in 03a01Fa; rename it")
        if file.stem in clips:
            raise UserError(f"{file}: the clip is also there as {clips[file.stem]['path']}; keep one of them")
        clips[file.stem] = {"clip": file.stem, "path": str(file), "speaker": match[1], "session": SESSIONS[match[1]],
                            "seconds": base.seconds(file, str(file)), "intended": EMOTIONS[match[3]]}
    if not clips:
        raise UserError(f"{place}: holds no .wav or .flac file; unpack EmoDB's wav/ there")
    return clips


def _threshold(value: object, labels: str) -> float:
    cut = THRESHOLDS[labels] if value is None else _number(value, "threshold", 0, 100)
    if labels == "ticks" and cut <= 50:
        raise UserError(f"threshold={cut:g}: ticks of opposite classes overlap; give a number above 50")
    return cut


def _number(value: Any, what: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = low - 1
    if not low <= number <= high:
        raise UserError(f"{what} {value!r} is not a number from {low} to {high}; correct it")
    return number
