"""Ratings and features as arrays, who is held out, and what every method of one split works with."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perser.corpora import Corpus
from perser.errors import UserError
from perser.model import class_balanced_weights, smooth
from perser.settings import Base
from perser.terminal import counted

# EMO-SUPERB's five folds for a corpus of five sessions: train, dev, test (arXiv 2402.13018).
FIVE = (((1, 2, 3), 5, 4), ((1, 2, 5), 4, 3), ((1, 4, 5), 3, 2), ((3, 4, 5), 2, 1), ((2, 3, 4), 1, 5))


class Fold(NamedTuple):
    """Sessions of one fold. Clips of test sessions are never trained on."""

    train: tuple[int, ...]
    dev: int
    test: int


class Data(NamedTuple):
    """All that learning reads: N clips, R ratings with at least one class, C classes.

    features (N, L, D); session (N,); clip and listener (R,): row of each rating's clip and place of its listener in
    `listeners`; labels (R, C) bool: the ticks of each rating; folds: those of the corpus, or `folds`.
    """

    features: Tensor
    session: np.ndarray
    clip: np.ndarray
    listener: np.ndarray
    labels: Tensor
    listeners: tuple[str, ...]
    clips: tuple[str, ...]
    classes: tuple[str, ...]
    folds: tuple[Fold, ...] = ()


def from_corpus(corpus: Corpus, features: Tensor) -> Data:
    """Features and ratings as arrays. Ratings without a ticked class (only "Other") have no target and are left out."""
    classes = list(corpus.classes)
    ratings = corpus.ratings[corpus.ratings[classes].any(axis=1)]
    listeners = sorted(ratings["listener"].unique())
    return Data(
        features=features,
        session=corpus.clips["session"].to_numpy(np.int64),
        clip=corpus.clips.index.get_indexer(ratings["clip"]),
        listener=np.searchsorted(np.array(listeners), ratings["listener"].to_numpy(str)),
        labels=torch.tensor(ratings[classes].to_numpy(bool)),
        listeners=tuple(listeners), clips=tuple(corpus.clips.index), classes=corpus.classes,
        folds=tuple(Fold(*fold) for fold in corpus.folds) or tuple(folds(corpus.clips["session"])))


def rating_targets(labels: Tensor, smoothing: float) -> Tensor:
    """Each rating as a distribution, 1/m on each of its m ticked classes, smoothed: (..., C) -> (..., C)."""
    ticks = labels.to(torch.get_default_dtype())
    return smooth(ticks / ticks.sum(-1, keepdim=True), smoothing)


def aggregate(data: Data, pool: np.ndarray, smoothing: float) -> tuple[np.ndarray, Tensor]:
    """Clips of a pool of ratings and their vote shares, each ticked class one vote, smoothed: (n,), (n, C).

    Source: EMO-SUPERB (arXiv 2402.13018), distribution labels.
    """
    clips, row = np.unique(data.clip[pool], return_inverse=True)
    votes = torch.zeros(len(clips), len(data.classes))
    votes.index_add_(0, torch.from_numpy(row), data.labels[pool].to(votes.dtype))
    return clips, smooth(votes / votes.sum(-1, keepdim=True), smoothing)


def by_listener(data: Data, pool: np.ndarray, least: int) -> dict[int, np.ndarray]:
    """The pool cut by listener, without listeners who have fewer than `least` ratings in it."""
    order = np.argsort(data.listener[pool], kind="stable")
    listeners, starts = np.unique(data.listener[pool][order], return_index=True)
    parts = np.split(pool[order], starts[1:])
    return {int(listener): part for listener, part in zip(listeners, parts) if len(part) >= least}


class Split(NamedTuple):
    """One fold with one group of listeners held out. Every pool is an array of rating ids."""

    fold: int
    group: int
    test_listeners: tuple[str, ...]
    train: np.ndarray        # training listeners, training sessions
    base_dev: np.ndarray     # training listeners, dev session: early stopping of SSL-E
    dev: np.ndarray          # dev listeners, dev session: early stopping of meta-training, choice of settings
    seen: np.ndarray         # test listeners, clips that occur in `train` with other listeners' ratings
    unseen: np.ndarray       # test listeners, test session


def folds(sessions: Iterable[int]) -> list[Fold]:
    """Folds in which every session is the test session once: EMO-SUPERB's table for five, a rotation otherwise.

    Raises UserError for fewer than three sessions.
    """
    names = sorted({int(session) for session in sessions})
    if len(names) < 3:
        raise UserError(f"{counted(len(names), 'session')} in the corpus; train, dev and test need at least 3: give "
                        "clips a session, such as a number for every few speakers")
    if len(names) == 5:
        at = dict(enumerate(names, start=1))
        return [Fold(tuple(at[session] for session in train), at[dev], at[test]) for train, dev, test in FIVE]
    rotated = [(names[i], names[(i + 1) % len(names)]) for i in range(len(names))]
    return [Fold(tuple(name for name in names if name not in (test, dev)), dev, test) for test, dev in rotated]


def listener_groups(data: Data, count: int, least: int) -> list[tuple[int, ...]]:
    """Listeners with at least `least` ratings, dealt into `count` groups that are held out in turn.

    Listeners with fewer are in no group: they are only trained on. Raises UserError for fewer than three groups.
    """
    ratings = np.bincount(data.listener, minlength=len(data.listeners))
    able = [int(listener) for listener in np.flatnonzero(ratings >= least)]
    count = min(count, len(able))
    if count < 3:
        raise UserError(f"{counted(len(able), 'listener')} with {least} ratings or more; "
                        "train, dev and test listeners need at least 3")
    return [tuple(able[i::count]) for i in range(count)]


def split(data: Data, fold: int, group: int, groups: list[tuple[int, ...]], dev_held_out: bool) -> Split:
    """The pools of a fold (from 1) and a held-out group (from 0).

    Dev listeners are the next group, kept out of training, or, with dev_held_out False, all training listeners: of
    half a dozen listeners, one says little about the others. Their dev ratings are of the dev session, which nobody
    trains on.
    """
    sessions = data.folds[fold - 1]
    test, dev = groups[group], groups[(group + 1) % len(groups)]
    by_test = np.isin(data.listener, test)
    by_dev = np.isin(data.listener, dev) if dev_held_out else ~by_test
    training = ~by_test & ~by_dev if dev_held_out else ~by_test
    session = data.session[data.clip]
    in_train = np.isin(session, sessions.train)
    train = training & in_train
    seen = by_test & in_train & np.isin(data.clip, data.clip[train])
    return Split(
        fold=fold, group=group, test_listeners=tuple(data.listeners[i] for i in test),
        train=np.flatnonzero(train),
        base_dev=np.flatnonzero(training & (session == sessions.dev)),
        dev=np.flatnonzero(by_dev & (session == sessions.dev)),
        seen=np.flatnonzero(seen),
        unseen=np.flatnonzero(by_test & (session == sessions.test)),
    )


class Task(NamedTuple):
    """What every method of one split works with: standardised features, rating targets, class weights.

    targets (R, C) smoothed; class_weights and inner_class_weights (C,): of training losses and of those of a listener's
    shots; mean and scale (L, D): how the features were standardised; base: the settings of SSL-E.
    """

    data: Data
    split: Split
    targets: Tensor
    class_weights: Tensor
    inner_class_weights: Tensor
    mean: Tensor
    scale: Tensor
    base: Base


def make_task(data: Data, split: Split, base: Base, standardise: bool) -> Task:
    """Targets, class weights and standardised features, all estimated on the training part of the split."""
    clips, targets = aggregate(data, split.train, base.label_smoothing)
    shape = data.features.shape[1:]
    mean, scale = torch.zeros(shape), torch.ones(shape)
    if standardise:
        train = data.features[torch.from_numpy(clips)]
        mean, scale = train.mean(0), train.std(0).clamp(min=1e-6)
        data = data._replace(features=(data.features - mean) / scale)
    within = base.class_weights if base.inner_class_weights is None else base.inner_class_weights
    outer, inner = (class_balanced_weights(targets) if on else torch.ones(len(data.classes))
                    for on in (base.class_weights, within))
    return Task(data, split, rating_targets(data.labels, base.label_smoothing), outer, inner, mean, scale, base)
