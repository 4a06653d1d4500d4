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
    rows, of_support, of_query = (torch.from_numpy(part).to(data.features.device)
                                  for part in (clips, place[support], place[query]))
    support_targets = targets[torch.from_numpy(episodes.support)]
    return Batch(episodes, data.features, rows, of_support, of_query, len(near), support_targets, class_weights)


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
                     min_queries: int, seed: int, purpose: str) -> Episodes:
    """Supports (draws, most) from a pool that holds the queries' and queries (draws, Q) without the supports' ratings.

    The supports leave `min_queries` ratings of the queries' pool; Q is what every draw has left.
    """
    supports, queries = [], []
    for draw in range(draws):
        rng = seeds.rng(seed, purpose, data.listeners[listener], draw)
        order, rest = rng.permutation(support_pool), rng.permutation(pool)
        shared = np.isin(order, pool)
        supports.append(order[~shared | (shared.cumsum() <= len(pool) - min_queries)][:most])
        queries.append(rest[~np.isin(rest, supports[-1])])
    least = min(map(len, queries))
    return Episodes(np.stack(supports), np.stack([query[:least] for query in queries]))


# The draws of several listeners: (listener, shots) -> episodes.
Draws = dict[tuple[int, int], Episodes]


def able_listeners(data: Data, pool: np.ndarray, shots: int, min_queries: int,
                   support_pool: np.ndarray | None = None) -> np.ndarray:
    """Listeners with enough ratings for an episode, sorted; pools as in `draws_by_listener`."""
    queries = np.bincount(data.listener[pool], minlength=len(data.listeners))
    everything = queries if support_pool is None else np.bincount(data.listener[support_pool], minlength=len(queries))
    return np.flatnonzero((queries >= min_queries) & (everything >= shots + min_queries))


def draws_by_listener(data: Data, pool: np.ndarray, shots: tuple[int, ...], draws: int, min_queries: int, seed: int,
                      purpose: str, support_pool: np.ndarray | None = None) -> Draws:
    """Evaluation episodes of all listeners with enough ratings, by (listener, shots).

    support_pool: ratings that supports are drawn from, those of the pool among them; None for the pool itself. Queries
    are always of the pool.
    """
    most, queries = max(shots), by_listener(data, pool, 1)
    supports = {} if support_pool is None else by_listener(data, support_pool, 1)
    episodes: Draws = {}
    for listener in able_listeners(data, pool, most, min_queries, support_pool).tolist():
        if support_pool is None:
            orders = evaluation_episodes(data, queries[listener], listener, most, most, draws, seed, purpose)
        else:
            orders = _separate_orders(data, supports[listener], queries[listener], listener, most, draws, min_queries,
                                      seed, purpose)
        episodes |= {(listener, k): Episodes(orders.support[:, :k], orders.query) for k in shots}
    return episodes


class Pools(NamedTuple):
    """Ratings that training episodes are drawn from, one listener's after the other's in flat arrays.

    Those of listener i are ratings[starts[i]:starts[i + 1]], so that a draw costs the same for any number of listeners.
    least: ratings that every one of these listeners has.
    """

    ratings: np.ndarray
    starts: np.ndarray
    least: int


def training_pools(data: Data, pool: np.ndarray, csmt: str, shots: int, query: int, seed: int) -> Pools:
    """The pool by listener, without listeners who have too few ratings for an episode.

    An episode is smaller than asked for where listeners with a tenth of the ratings or more would be left out; see
    `query_size`. With csmt "split", each listener's ratings are shuffled once, so that their halves are the two pools.
    """
    counts = np.bincount(data.listener[pool], minlength=len(data.listeners))
    least = 2 * max(shots, query) if csmt == "split" else shots + query
    least = min(least, int(np.quantile(counts[data.listener[pool]], 0.1, method="lower"))) if len(pool) else 0
    able = counts >= least
    order = np.argsort(data.listener[pool], kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts[able])])
    pools = Pools(pool[order[able[data.listener[pool][order]]]], starts, least)
    for place, listener in enumerate(np.flatnonzero(able) if csmt == "split" else ()):
        ratings = pools.ratings[pools.starts[place]:pools.starts[place + 1]]
        ratings[:] = seeds.rng(seed, "csmt split", data.listeners[listener]).permutation(ratings)
    return pools


def query_size(pools: Pools, csmt: str, shots: int, query: int) -> int:
    """The query clips that an episode has room for, at most `query`; 0 where there is no such episode.

    >>> query_size(Pools(None, None, 18), "combined", 10, 20), query_size(Pools(None, None, 18), "split", 10, 20)
    (8, 0)
    """
    half = pools.least // 2
    return min(query, max(0, pools.least - shots) if csmt != "split" else half if shots <= half else 0)


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
