"""Personalising by ear, without its page: what to play, the ratings on disk, what both models predict, whom it helps.

A listener rates K clips that say most about a listener. From then on every further clip is predicted before it is
rated, by the general model and by the model adapted to all earlier ratings: the verdict rests on these predictions.
Everything follows from the listener's file of ratings, so a new start goes on where the last one stopped.
"""

import fcntl
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import entr
from torch import Tensor

from perser import checkpoints, personal, seeds
from perser.analysis import verdicts
from perser.checkpoints import Checkpoint
from perser.corpora import schema
from perser.errors import UserError
from perser.model import logits

GENERAL, OWN = "general", "own"
LONGEST = 60  # letters of a name

Rated = tuple[int, tuple[bool, ...]]  # a clip's place in the folder and the ticks, by class


class Prediction(NamedTuple):
    """The most probable class and its probability."""

    label: str
    p: float


class Study:
    """A trained model and the clips of a folder, with their standardised features (N, L, D) in the order of `files`.

    opinions (N, C): how others hear the clips, see `opinions`. K = `shots` ratings come before the first adaptation.
    out: gets ratings/ and listeners/. Raises UserError where the folder has no more than K clips.
    """

    def __init__(self, trained: Checkpoint, files: dict[str, Path], features: Tensor, shots: int, out: Path,
                 given: schema.Table | None = None):
        """Predict all clips with the general model, and decide in which order they are played."""
        if len(files) <= shots:
            raise UserError(f"{len(files)} clips; {shots} shots and a test on others take at least {shots + 1}: "
                            "add clips, or give --shots a smaller number")
        self.trained, self.clips, self.files, self.features = trained, [*files], [*files.values()], features
        self.classes, self.shots, self.out = tuple(trained.about["classes"]), shots, Path(out)
        self.none = None if "Other" in self.classes else "None of these"  # a class Other is ticked by its own name
        with torch.no_grad():
            self.general = logits(trained.model.head, features)
        self.order = order(opinions(self.general.softmax(-1).numpy(), self.clips, self.classes, given), shots)
        (self.out / "ratings").mkdir(parents=True, exist_ok=True)
        self.personal = lru_cache(maxsize=1024)(self._personal)

    def _personal(self, shots: tuple[Rated, ...]) -> Tensor:
        """Logits (N, C) of all clips after adapting to these ratings."""
        with torch.no_grad():
            return logits(self.model(shots).head, self.features)

    def model(self, shots: tuple[Rated, ...]) -> personal.PersonalModel:
        """The personal model of these ratings, each of which ticks a class."""
        rows, ticks = zip(*shots)
        return personal.adapted(self.trained, self.features[list(rows)], torch.tensor(ticks))

    def file(self, name: str) -> Path:
        """The file of a listener's ratings: no name leads out of the folder, and no two listeners share a file."""
        return self.out / "ratings" / f"{stem(name)}.csv"

    def read(self, name: str) -> list[Rated]:
        """What a listener has rated, in the order of the first answers; clips that are not in the folder are left out.

        Raises UserError where the file was damaged by hand.
        """
        places = {clip: place for place, clip in enumerate(self.clips)}
        return [(places[rating.clip], tuple(known in on for known in self.classes))
                for rating, on in self._rows(name) if rating.clip in places]

    def _rows(self, name: str) -> list[tuple[schema.Rating, set[str]]]:
        if not self.file(name).is_file():
            return []
        table = schema.read(self.file(name), self.classes)
        return [*zip(table.ratings, table.ticks)]

    def spelt(self, name: str) -> str:
        """The name as the listener wrote it first."""
        return next((rating.listener for rating, _ in self._rows(name)), name)

    def keep(self, name: str, clip: int, ticks: tuple[bool, ...]) -> None:
        """Put a rating on disk before anything else happens; that of a clip rated before takes the place of the old.

        The file is replaced as a whole, so a kill leaves the old or the new one; the lock keeps two tabs, or two
        servers, from losing each other's ratings. Raises UserError where the file cannot be written.
        """
        with _locked(self.out / "ratings"):
            rows = self._rows(name)
            labels = {rating.clip: on for rating, on in rows}
            labels[self.clips[clip]] = {known for known, on in zip(self.classes, ticks) if on}
            texts = [";".join(known for known in self.classes if known in on) or "Other" for on in labels.values()]
            table = pd.DataFrame({"clip": [*labels], "listener": self.spelt(name), "label": texts})
            schema.write(table, self.file(name))

    def next(self, rated: list[Rated]) -> int | None:
        """The clip to play; None when all are rated."""
        done = {clip for clip, _ in rated}
        return next((clip for clip in self.order if clip not in done), None)

    def before(self, rated: list[Rated], clip: int | None = None) -> tuple[Rated, ...]:
        """The ratings that tick a class, or those of them given before a clip's own: what a prediction of it rests on.
        """
        places = [place for place, _ in rated]
        earlier = rated[:places.index(clip)] if clip in places else rated
        return tuple(rating for rating in earlier if any(rating[1]))

    def predictions(self, shots: tuple[Rated, ...], clip: int) -> tuple[Prediction, Prediction]:
        """What the general model and the one adapted to these ratings predict for a clip."""
        parts = [matrix[clip].softmax(-1).max(-1) for matrix in (self.general, self.personal(shots))]
        general, own = (Prediction(self.classes[int(part.indices)], float(part.values)) for part in parts)
        return general, own

    def moved(self, shots: tuple[Rated, ...]) -> int:
        """How many clips of the folder the adapted model gives another most probable class."""
        return int((self.personal(shots).argmax(-1) != self.general.argmax(-1)).sum())

    def answers(self, rated: list[Rated]) -> pd.DataFrame:
        """Every rating after the first K, as both models predicted it before they knew it: rows for `verdicts`."""
        used, rows = self.before(rated), []
        for place in range(self.shots, len(used)):
            clip, ticks = used[place]
            target = torch.tensor(ticks).double() / sum(ticks)
            for of, matrix in ((GENERAL, self.general), (OWN, self.personal(used[:place]))):
                log_p = matrix[clip].double().log_softmax(-1)
                likeliest = int(log_p.argmax())
                rows.append({"listener": "", "clip": self.clips[clip], "rating": place, "draw": 0, "shots_of": of,
                             "shots": 0 if of == GENERAL else self.shots, "loss": -float(target @ log_p),
                             "hit": float(ticks[likeliest]), "likeliest": likeliest})
        return pd.DataFrame(rows)

    def verdict(self, rated: list[Rated]) -> pd.Series | None:
        """The row of `verdicts.verdicts` for this listener; None without two answers."""
        answers = self.answers(rated)
        if len(answers) < 4:
            return None
        frame = pd.DataFrame([ticks for _, ticks in rated], columns=list(self.classes))
        frame.insert(0, "clip", [self.clips[clip] for clip, _ in rated])
        return verdicts.verdicts(answers, frame.assign(listener=""), self.classes, self.shots).iloc[0]

    def save(self, name: str) -> Path:
        """Write the model adapted to all ratings of a listener, for `perser predict`."""
        rated, path = self.read(name), self.out / "listeners" / f"{stem(name)}.safetensors"
        model, judged = self.model(self.before(rated)), self.verdict(rated)
        about = model.about | {"listener": self.spelt(name)}
        about |= {} if judged is None else {"verdict": judged["verdict"]}
        personal.save(model._replace(about=about), path)
        return path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in a folder among threads and processes (a dead one's lock is gone); at the end its list is on disk too."""
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
        os.fsync(place)
    finally:
        os.close(place)


def study(model: Path, audio: Path, out: Path, shots: int, ratings: Path | None = None, upstream: str | None = None,
          **options: Any) -> Study:
    """Read a model and the clips of a folder, whose features are computed once and kept in `out`/features.

    ratings: a table of other listeners' ratings of the clips; options: those of `schema.read`. Raises UserError.
    """
    trained = checkpoints.load(checkpoints.choose(model)[0])
    clips = files(audio)
    table = schema.read(ratings, tuple(trained.about["classes"]), **options) if ratings else None
    if table:
        names, paths = {path: name for name, path in clips.items()}, schema.files(table, audio)
        table = table._replace(ratings=[one._replace(clip=names[paths[one.clip]]) for one in table.ratings])
    features = personal.embed([*clips.values()], trained.about, trained.mean, trained.scale, out / "features", upstream)
    return Study(trained, clips, features, shots, out, table)


def files(folder: Path) -> dict[str, Path]:
    """The clips below a folder by their names in a table of ratings, sorted. UserError: none, or a name unfit for one.
    """
    folder, clips = Path(os.path.normpath(folder.absolute())), {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = schema.clip_name(path.relative_to(folder).as_posix())
        if not name.endswith(schema.KINDS):
            continue
        if name in clips or not name.isprintable() or name != name.strip():
            raise UserError(f"{path}: no table of ratings can name this clip; rename it")
        clips[name] = path
    if not clips:
        raise UserError(f"{folder}: has no clips; they end in {', '.join(schema.KINDS)}")
    return clips


def opinions(general: np.ndarray, clips: list[str], classes: tuple[str, ...], given: schema.Table | None) -> np.ndarray:
    """How others hear each clip (N, C), rows that sum to one: the votes of listeners, and the general model's as one.

    general (N, C): the model's probabilities; given: ratings, with clips named as in `clips`.
    """
    total, places = general.astype(float), {clip: place for place, clip in enumerate(clips)}
    for rating, on in zip(given.ratings, given.ticks) if given else ():
        if on:
            total[places[rating.clip]] += [(name in on) / len(on) for name in classes]
    return total / total.sum(axis=1, keepdims=True)


def order(opinions: np.ndarray, shots: int) -> list[int]:
    """Rows of the clips in the order in which they are played: those that say most, then the others, shuffled.

    Each class has its turn, by what most hear, with the clip that is disputed (entropy) as most clips are. What all
    hear alike says nothing of a listener; what is disputed most says more of chance: on EmoDB's 36 listeners, 10 such
    clips gained half as much log loss (2.2 against 4.3 in 0.01 nat) and harmed 14 of them instead of 3. The others are
    a random sample of the folder, so that a verdict on them holds for it.

    >>> order(np.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4], [0.2, 0.8], [1, 0]]), 3)[:3]
    [2, 3, 0]
    """
    likeliest, spread = opinions.argmax(axis=1), entr(opinions).sum(axis=1)
    nearest = np.argsort(np.abs(spread - np.median(spread)), kind="stable")
    by_class = [[int(row) for row in nearest if likeliest[row] == label] for label in range(opinions.shape[1])]
    telling = [row for turn in zip_longest(*by_class) for row in turn if row is not None][:shots]
    others = np.setdiff1d(np.arange(len(opinions)), telling)
    return telling + [int(row) for row in seeds.rng(0, "clips to hear").permutation(others)]


def cleaned(name: str) -> str:
    """A listener's name as it is kept. Raises UserError where a table could not hold it.

    >>> cleaned("  Zoë   B. ")
    'Zoë B.'
    """
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not 0 < len(name) <= LONGEST or not name[0].isalnum() or not name.isprintable():
        raise UserError(f"a name begins with a letter or digit and has at most {LONGEST} letters")
    return name


def stem(name: str) -> str:
    """The name of a listener's files: plain letters to recognise it by, and a digest of the name that tells it apart.

    Spellings that a table takes for one listener share it.

    >>> stem("Ann B"), stem("ann  b") == stem("Ann B"), stem("../x")[:2]
    ('ann_b-779dafc7b7f37f82', True, 'x-')
    """
    key = schema.alike(name)
    plain = re.sub(r"[^a-z0-9]+", "_", key).strip("_")[:40]
    return f"{plain or 'listener'}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"


def curve(answers: pd.DataFrame, shots: int) -> dict[str, Any] | None:
    """The share of answers that each model predicted, after every answer: points of a drawing, and words."""
    if not len(answers):
        return None
    shares = {of: part.sort_values("rating")["hit"].expanding().mean().tolist()
              for of, part in answers.groupby("shots_of")}
    number = len(shares[OWN])
    points = {of: " ".join(f"{240 * place / max(number - 1, 1):.1f},{140 - 140 * share:.1f}"
                           for place, share in enumerate(part)) for of, part in shares.items()}
    ends = {of: 144 - 140 * part[-1] for of, part in shares.items()}
    if abs(gap := ends[GENERAL] - ends[OWN]) < 16:  # the two names must not overlap
        middle, side = sum(ends.values()) / 2, 8 if gap >= 0 else -8
        ends = {GENERAL: middle + side, OWN: middle - side}
    words = (f"After {number} answers, the general model agrees with {shares[GENERAL][-1]:.0%} of them, "
             f"yours with {shares[OWN][-1]:.0%}")
    return {**points, "general_y": ends[GENERAL], "own_y": ends[OWN], "words": words, "first": shots + 1,
            "last": shots + number}


def standing(study: Study, name: str, rated: list[Rated], revealed: bool) -> str:
    """Where a listener stands, in one or two sentences."""
    used, left = len(study.before(rated)), study.next(rated)
    if revealed:
        return "Your answer is kept. Confirm it, or change it."
    if left is None:
        return f"You have rated all {len(study.clips)} clips, {name}."
    if used < study.shots:
        return f"{name}, clip {used + 1} of {study.shots}."
    start = "" if used > study.shots else (
        f"Your model has learnt from {used} clips and now hears {study.moved(study.before(rated))} of "
        f"{len(study.clips)} clips differently. ")
    return f"{start}Test clip {used - study.shots + 1}, {name}."
