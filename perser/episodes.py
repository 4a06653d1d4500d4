"""Episodes as pure functions of their indices, and batches of them as the inner loop reads them."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perser import seeds
from perser.data import Data, Task, by_listener


class Episodes(NamedTuple):
    """E episodes: rating ids of support (E, K) and query (E, Q)."""

    support: np.ndarray
    query: np.ndarray


class Batch(NamedTuple):
    """E episodes with their clips. Every clip occurs once in `clips`, those of any support first.

    episodes: their rating ids; features (N, L, D) of all clips; clips (U,): rows of features; support (E, K) and query
    (E, Q): places in `clips`; support_clips: how many of `clips` occur in a support; targets (E, K, C) of the support;
    class_weights (C,).
    """

    episodes: Episodes
    features: Tensor
    clips: Tensor
    support: Tensor
    query: Tensor
    support_clips: int
    targets: Tensor
    class_weights: Tensor


def make_batch(data: Data, targets: Tensor, class_weights: Tensor, episodes: Episodes) -> Batch:
    """The batch of some episodes; targets (R, C) of all ratings. Index tensors are on the device of the features."""
    support, query = (data.clip[rating_ids] for rating_ids in episodes)
    near, far = (np.zeros(len(data.features), bool) for _ in episodes)
    near[support], far[query] = True, True
    near, far = np.flatnonzero(near), np.flatnonzero(far & ~near)
    clips = np.concatenate([near, far])
    place = np.empty(len(data.features), np.int64)
    place[clips] = np.arange(len(clips))
    indices = (torch.from_numpy(part).to(data.features.device) for part in (clips, place[support], place[query]))
    support_targets = targets[torch.from_numpy(episodes.support)]
    return Batch(episodes, data.features, *indices, len(near), support_targets, class_weights)


def batch_of(task: Task, episodes: Episodes) -> Batch:
    """The batch of some episodes of a task."""
    return make_batch(task.data, task.targets, task.inner_class_weights, episodes)


def support_batch(features: Tensor, targets: Tensor, class_weights: Tensor) -> Batch:
    """One episode without a query: features (K, L, D) and targets (K, C) of one listener's shots."""
    rating_ids = np.arange(len(features))[None]
    clips, nobody = torch.arange(len(features)), np.empty((1, 0), np.int64)
    return Batch(Episodes(rating_ids, nobody), features, clips, clips[None], torch.from_numpy(nobody), len(features),
                 targets[None], class_weights)


def evaluation_episodes(data: Data, pool: np.ndarray, listener: int, shots: int, most: int, draws: int, seed: int,
                        purpose: str) -> Episodes:
    """A listener's draws: a function of (listener, seed, draw), nested in the number of shots.

    The first `most` ratings of a draw's order are reserved for supports, so that all numbers of shots up to `most` have
    the same query. Returns support (draws, shots) and query (draws, rest).
    """
    orders = np.stack([seeds.rng(seed, purpose, data.listeners[listener], draw).permutation(pool)
                       for draw in range(draws)])
    return Episodes(orders[:, :shots], orders[:, most:])


def _separate_orders(data: Data, support_pool: np.ndarray, pool: np.ndarray, listener: int, most: int, draws: int,
                     seed: int, purpose: str) -> Episodes:
    """Supports (draws, most) from one pool and queries (draws, Q) from another, without the ratings of the supports.

    Q is what every draw has left.
    """
    supports, queries = [], []
    for draw in range(draws):
        rng = seeds.rng(seed, purpose, data.listeners[listener], draw)
        supports.append(rng.permutation(support_pool)[:most])
        order = rng.permutation(pool)
        queries.append(order[~np.isin(order, supports[-1])])
    least = min(map(len, queries))
    return Episodes(np.stack(supports), np.stack([query[:least] for query in queries]))


# The draws of several listeners: (listener, shots) -> episodes.
Draws = dict[tuple[int, int], Episodes]


def draws_by_listener(data: Data, pool: np.ndarray, shots: tuple[int, ...], draws: int, min_queries: int, seed: int,
                      purpose: str, support_pool: np.ndarray | None = None) -> Draws:
    """Evaluation episodes of all listeners with enough ratings in the pool, by (listener, shots).

    support_pool: ratings that supports are drawn from; None for the pool itself. Queries are always of the pool.
    """
    most = max(shots)
    if support_pool is not None:
        supports = by_listener(data, support_pool, most)
        orders = {listener: _separate_orders(data, supports[listener], part, listener, most, draws, seed, purpose)
                  for listener, part in by_listener(data, pool, min_queries).items() if listener in supports}
        return {(listener, k): Episodes(support[:, :k], query) for listener, (support, query) in orders.items()
                if query.shape[1] >= min_queries for k in shots}
    able = by_listener(data, pool, most + min_queries)
    return {(listener, k): evaluation_episodes(data, part, listener, k, most, draws, seed, purpose)
            for listener, part in able.items() for k in shots}


class Pools(NamedTuple):
    """Ratings that training episodes are drawn from, one listener's after the other's in flat arrays.

    Those of listener i are ratings[starts[i]:starts[i + 1]], so that a draw costs the same for any number of listeners.
    """

    ratings: np.ndarray
    starts: np.ndarray


def training_pools(data: Data, pool: np.ndarray, csmt: str, shots: int, query: int, seed: int) -> Pools:
    """The pool by listener, without listeners who have too few ratings for an episode.

    With csmt "split", each listener's ratings are shuffled once, so that their halves are the two pools.
    """
    least = 2 * max(shots, query) if csmt == "split" else shots + query
    counts = np.bincount(data.listener[pool], minlength=len(data.listeners))
    able = counts >= least
    order = np.argsort(data.listener[pool], kind="stable")
    pools = Pools(pool[order[able[data.listener[pool][order]]]], np.concatenate([[0], np.cumsum(counts[able])]))
    for place, listener in enumerate(np.flatnonzero(able) if csmt == "split" else ()):
        ratings = pools.ratings[pools.starts[place]:pools.starts[place + 1]]
        ratings[:] = seeds.rng(seed, "csmt split", data.listeners[listener]).permutation(ratings)
    return pools


def train_episodes(pools: Pools, csmt: str, shots: int, query: int, count: int, rng: np.random.Generator) -> Episodes:
    """Episodes of listeners drawn with replacement.

    `split` draws the support from the first half of a listener's ratings and the query from the second, `combined`
    draws both disjointly from all of them, `shared` uses the same clips in both loops. These are readings of
    Combined-Set Meta-Training, which the abstract of arXiv 2505.16220 leaves open.
    """
    supports, queries = [], []
    listeners = rng.integers(len(pools.starts) - 1, size=count)
    for begin, end in zip(pools.starts[listeners].tolist(), pools.starts[listeners + 1].tolist(), strict=True):
        ratings = pools.ratings[begin:end]
        if csmt == "split":
            supports.append(rng.permutation(ratings[:len(ratings) // 2])[:shots])
            queries.append(rng.permutation(ratings[len(ratings) // 2:])[:query])
        else:
            order = rng.permutation(ratings)
            supports.append(order[:shots])
            queries.append(order[:shots] if csmt == "shared" else order[shots:shots + query])
    return Episodes(np.stack(supports), np.stack(queries))
