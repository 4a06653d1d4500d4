"""Who is held out: folds over sessions, groups over listeners, and the ratings that each part may touch."""

from typing import NamedTuple

import numpy as np

from perser.episodes import Data
from perser.errors import UserError

# EMO-SUPERB's five folds for a corpus of five sessions: train, dev, test (facts of arXiv 2402.13018).
FIVE = (((1, 2, 3), 5, 4), ((1, 2, 5), 4, 3), ((1, 4, 5), 3, 2), ((3, 4, 5), 2, 1), ((2, 3, 4), 1, 5))


class Fold(NamedTuple):
    """Sessions of one fold: clips of test sessions are never trained on."""

    train: tuple[int, ...]
    dev: int
    test: int


class Split(NamedTuple):
    """One fold with one group of listeners held out; every pool is an array of rating ids."""

    fold: int
    group: int
    test_listeners: tuple[str, ...]
    train: np.ndarray        # training listeners, training sessions
    base_dev: np.ndarray     # training listeners, dev session: stops SSL-E
    dev: np.ndarray          # dev listeners, dev session: stops meta-training, chooses rates
    seen: np.ndarray         # test listeners, clips that occur in `train` with other listeners' ratings
    unseen: np.ndarray       # test listeners, test session


def folds(sessions: np.ndarray) -> list[Fold]:
    """Every session is the test session once: EMO-SUPERB's table for five, a rotation otherwise.

    Raises UserError for fewer than three sessions.
    """
    names = sorted({int(s) for s in sessions})
    if len(names) < 3:
        raise UserError(f"{len(names)} session(s) in the corpus; train, dev and test sessions need at least 3")
    if len(names) == 5:
        at = dict(enumerate(names, start=1))
        return [Fold(tuple(at[s] for s in train), at[dev], at[test]) for train, dev, test in FIVE]
    rotated = [(names[i], names[(i + 1) % len(names)]) for i in range(len(names))]
    return [Fold(tuple(s for s in names if s not in (test, dev)), dev, test) for test, dev in rotated]


def listener_groups(data: Data, count: int, least: int) -> list[tuple[int, ...]]:
    """Listeners with at least `least` ratings, dealt into `count` groups that are each held out in turn.

    Listeners with fewer are in no group: they only ever train. Raises UserError for fewer than three groups.
    """
    ratings = np.bincount(data.listener, minlength=len(data.listeners))
    able = [int(i) for i in np.flatnonzero(ratings >= least)]
    count = min(count, len(able))
    if count < 3:
        raise UserError(f"{len(able)} listener(s) with {least} ratings or more; "
                        "train, dev and test listeners need at least 3")
    return [tuple(able[i::count]) for i in range(count)]


def split(data: Data, fold: int, group: int, groups: list[tuple[int, ...]], dev_held_out: bool) -> Split:
    """The pools of fold (from 1) and held-out group (from 0).

    Dev listeners are the next group, kept out of training, or with dev_held_out False all training listeners:
    with half a dozen listeners one of them alone says little about the others. Either way their dev ratings are
    of the dev session, which nobody trains on.
    """
    sessions = folds(data.session)[fold - 1]
    test, dev = groups[group], groups[(group + 1) % len(groups)]
    by_test = np.isin(data.listener, test)
    by_dev = np.isin(data.listener, dev) if dev_held_out else ~by_test
    training = ~by_test & ~by_dev if dev_held_out else ~by_test
    at = data.session[data.clip]
    in_train = np.isin(at, sessions.train)
    train = training & in_train
    seen = by_test & in_train & np.isin(data.clip, data.clip[train])
    return Split(
        fold=fold, group=group, test_listeners=tuple(data.listeners[i] for i in test),
        train=np.flatnonzero(train),
        base_dev=np.flatnonzero(training & (at == sessions.dev)),
        dev=np.flatnonzero(by_dev & (at == sessions.dev)),
        seen=np.flatnonzero(seen),
        unseen=np.flatnonzero(by_test & (at == sessions.test)),
    )
