"""Ratings as plain arrays, and episodes as pure functions of their indices."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perser import seeds
from perser.corpora import Corpus
from perser.losses import smooth


class Data(NamedTuple):
    """All that learning reads: N clips, R ratings with at least one class, C classes.

    features (N, L, D); session (N,); clip, listener (R,): rows of clips and of `listeners`;
    labels (R, C): the ticks of each rating.
    """

    features: Tensor
    session: np.ndarray
    clip: np.ndarray
    listener: np.ndarray
    labels: Tensor
    listeners: tuple[str, ...]
    clips: tuple[str, ...]
    classes: tuple[str, ...]


class Episodes(NamedTuple):
    """A batch of E episodes: rating ids of support (E, K) and query (E, Q)."""

    support: np.ndarray
    query: np.ndarray


def data(corpus: Corpus, features: Tensor) -> Data:
    """Features and ratings as arrays; ratings in which no class is ticked (only "Other") carry no target."""
    classes = list(corpus.classes)
    ratings = corpus.ratings[corpus.ratings[classes].any(axis=1)]
    listeners = sorted(ratings["listener"].unique())
    return Data(
        features=features,
        session=corpus.clips["session"].to_numpy(np.int64),
        clip=corpus.clips.index.get_indexer(ratings["clip"]),
        listener=np.searchsorted(np.array(listeners), ratings["listener"].to_numpy(str)),
        labels=torch.tensor(ratings[classes].to_numpy(bool)),
        listeners=tuple(listeners), clips=tuple(corpus.clips.index), classes=corpus.classes)


def rating_targets(labels: Tensor, smoothing: float) -> Tensor:
    """Each rating as a distribution, 1/m on each of its m ticked classes, smoothed: (..., C) -> (..., C)."""
    ticks = labels.to(torch.get_default_dtype())
    return smooth(ticks / ticks.sum(-1, keepdim=True), smoothing)


def aggregate(data: Data, pool: np.ndarray, smoothing: float) -> tuple[np.ndarray, Tensor]:
    """Clips of a pool and their vote shares, each ticked class one vote, smoothed: (n,), (n, C).

    Source: EMO-SUPERB (arXiv 2402.13018), distribution labels.
    """
    clips, row = np.unique(data.clip[pool], return_inverse=True)
    votes = torch.zeros(len(clips), len(data.classes))
    votes.index_add_(0, torch.from_numpy(row), data.labels[pool].to(votes.dtype))
    return clips, smooth(votes / votes.sum(-1, keepdim=True), smoothing)


def by_listener(data: Data, pool: np.ndarray, least: int) -> dict[int, np.ndarray]:
    """The pool cut by listener, those with fewer than `least` ratings left out."""
    whose = data.listener[pool]
    order = np.argsort(whose, kind="stable")
    listeners, starts = np.unique(whose[order], return_index=True)
    parts = np.split(pool[order], starts[1:])
    return {int(i): part for i, part in zip(listeners, parts) if len(part) >= least}


def evaluation_episodes(data: Data, pool: np.ndarray, listener: int, shots: int, most: int, draws: int, seed: int,
                  purpose: str) -> Episodes:
    """A listener's draws: a function of (listener, seed, draw), nested in the number of shots.

    The first `most` ratings of each draw's order are kept for supports, so that every number of shots up to
    `most` is asked the same query. Returns support (draws, shots) and query (draws, rest).
    """
    orders = np.stack([seeds.rng(seed, purpose, data.listeners[listener], draw).permutation(pool)
                       for draw in range(draws)])
    return Episodes(orders[:, :shots], orders[:, most:])


def placed(data: Data, episodes: Episodes, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, int]:
    """The clips of a batch without repetition, those of any support first; where each support and query clip is
    among them; how many are of the support.
    """
    support, query = (data.clip[part] for part in episodes)
    near, far = (np.zeros(len(data.features), bool) for _ in episodes)
    near[support], far[query] = True, True
    near, far = np.flatnonzero(near), np.flatnonzero(far & ~near)
    clips = np.concatenate([near, far])
    rows = np.empty(len(data.features), np.int64)
    rows[clips] = np.arange(len(clips))
    return *(torch.from_numpy(part).to(device) for part in (clips, rows[support], rows[query])), len(near)


class Pools(NamedTuple):
    """Ratings that training episodes are drawn from, one listener's after the other's in flat arrays.

    Those of listener i are ratings[starts[i]:starts[i + 1]], so that a draw costs the same for any number of them.
    """

    ratings: np.ndarray
    starts: np.ndarray


def train_episodes(pools: Pools, csmt: str, shots: int, query: int, count: int, rng: np.random.Generator) -> Episodes:
    """Episodes of listeners drawn with replacement.

    `split` draws the support from the first half of a listener's ratings and the query from the second, `combined`
    disjointly from all of them, `shared` uses the very same clips in both loops. These are the readings of
    Combined-Set Meta-Training (abstract of arXiv 2505.16220), which the paper's abstract leaves open.
    """
    support, queries = [], []
    chosen = rng.integers(len(pools.starts) - 1, size=count)
    for begin, end in zip(pools.starts[chosen].tolist(), pools.starts[chosen + 1].tolist(), strict=True):
        mine = pools.ratings[begin:end]
        if csmt == "split":
            support.append(rng.permutation(mine[:len(mine) // 2])[:shots])
            queries.append(rng.permutation(mine[len(mine) // 2:])[:query])
        else:
            order = rng.permutation(mine)
            support.append(order[:shots])
            queries.append(order[:shots] if csmt == "shared" else order[shots:shots + query])
    return Episodes(np.stack(support), np.stack(queries))


def training_pools(data: Data, pool: np.ndarray, csmt: str, shots: int, query: int, seed: int) -> Pools:
    """The pool by listener, those with too few ratings for an episode left out; `split` shuffles each one's once."""
    least = 2 * max(shots, query) if csmt == "split" else shots + query
    whose = data.listener[pool]
    counts = np.bincount(whose, minlength=len(data.listeners))
    able = counts >= least
    order = np.argsort(whose, kind="stable")
    found = Pools(pool[order[able[whose[order]]]], np.concatenate([[0], np.cumsum(counts[able])]))
    for place, listener in enumerate(np.flatnonzero(able) if csmt == "split" else ()):
        mine = found.ratings[found.starts[place]:found.starts[place + 1]]
        mine[:] = seeds.rng(seed, "csmt split", data.listeners[listener]).permutation(mine)
    return found
