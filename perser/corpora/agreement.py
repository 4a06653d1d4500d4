"""How listeners agree: votes, traits of a listener, kappa of every pair, noise ceiling, likeness to people.

A rating that ticks m classes votes 1/m for each of them. A rating without a class has no vote and is left out.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array

from perser.corpora.base import Corpus
from perser.seeds import rng

LEAST_COMMON = 20  # clips that two listeners must share for a kappa


class Votes(NamedTuple):
    """The ratings that tick a class. Rows of `weights` sum to one; `clip` and `listener` are integer codes."""

    weights: np.ndarray  # (N, C)
    clip: np.ndarray  # (N,)
    listener: np.ndarray  # (N,), the place in `names`
    names: list[str]  # of the listeners, sorted


def votes(ratings: pd.DataFrame, classes: tuple[str, ...]) -> Votes:
    """The votes of a corpus's ratings: a table with columns clip, listener and one bool per class."""
    ticked = ratings[list(classes)].to_numpy(dtype=bool)
    counted = ticked.any(axis=1)
    ticked = ticked[counted]
    clip = pd.factorize(ratings["clip"][counted])[0]
    listener, names = pd.factorize(ratings["listener"][counted], sort=True)
    return Votes(ticked / np.maximum(ticked.sum(axis=1, keepdims=True), 1), clip, listener, list(names))


def others(cast: Votes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the other listeners of the same clip say, for every vote.

    Returns their mean vote (N, C), zero if there are none; their plurality (N, C) bool, i.e. the class, or the tied
    classes, with the largest mean vote; and whether there are others (N,) bool.
    """
    total = np.zeros((cast.clip.max(initial=-1) + 1, cast.weights.shape[1]))
    np.add.at(total, cast.clip, cast.weights)
    raters = np.bincount(cast.clip, minlength=len(total))[cast.clip]
    mean = (total[cast.clip] - cast.weights) / np.maximum(raters - 1, 1)[:, None]
    return mean, np.isclose(mean, mean.max(axis=1, keepdims=True, initial=0)), raters > 1


def listener_traits(ratings: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per listener, sorted: listener, ratings, ticks, distance, consistency. Listeners without votes: no row.

    - ratings: how many with a class. ticks: mean number of ticks.
    - distance, 0..1: mean total variation distance between the listener's vote and the mean vote of the *other*
      listeners of the same clip. 0: always agrees with them, 1: never. NaN if no clip has other listeners.
    - consistency, 0..1: how similar the listener's own votes are on clips that the others judge alike, i.e. clips with
      the same plurality among the others. For each rating, the overlap (1 - total variation distance) of its vote
      with each *other* vote of this listener on such clips, averaged over those, then over ratings. 1: always the
      same answer to clips judged alike, however unusual that answer. NaN if no two clips share a plurality.
    """
    cast = votes(ratings, classes)
    mean, plurality, shared = others(cast)
    distance = np.abs(cast.weights - mean).sum(axis=1) / 2
    rows = []
    for number, name in enumerate(cast.names):
        of_listener = cast.listener == number
        judged = of_listener & shared
        rows.append({
            "listener": name, "ratings": int(of_listener.sum()),
            "ticks": float((cast.weights[of_listener] > 0).sum(axis=1).mean()),
            "distance": float(distance[judged].mean()) if judged.any() else np.nan,
            "consistency": _consistency(cast.weights[judged], plurality[judged])})
    return pd.DataFrame(rows, columns=["listener", "ratings", "ticks", "distance", "consistency"])


def _consistency(weights: np.ndarray, plurality: np.ndarray) -> float:
    """Mean overlap of votes (n, C) with the other votes of the same row of `plurality` (n, C) bool."""
    total, counted = 0.0, 0
    for stratum in np.unique(plurality, axis=0):
        distinct, times = np.unique(weights[(plurality == stratum).all(axis=1)], axis=0, return_counts=True)
        number = times.sum()
        if number > 1:
            overlap = np.minimum(distinct[:, None], distinct[None]).sum(axis=-1)
            total += (times @ overlap @ times - number) / (number - 1)
            counted += number
    return float(total / counted) if counted else np.nan


def kappa_table(ratings: pd.DataFrame, classes: tuple[str, ...], most: int = 60) -> pd.DataFrame:
    """Cohen's kappa of every two listeners, (listeners, listeners), ordered by mean kappa, highest first.

    NaN on the diagonal and where `pair_kappas` has no value. Only the `most` listeners with the most ratings are kept.
    """
    cast = votes(ratings, classes)
    kept = np.sort(np.argsort(-np.bincount(cast.listener, minlength=len(cast.names)), kind="stable")[:most])
    names = [cast.names[number] for number in kept]
    table = pd.DataFrame(np.nan, index=names, columns=names)
    for left, right, kappa in pair_kappas(cast, kept):
        pair = cast.names[left], cast.names[right]
        table.loc[pair] = table.loc[pair[::-1]] = kappa
    order = table.mean().sort_values(ascending=False, kind="stable").index
    return table.loc[order, order]


def pair_kappas(cast: Votes, listeners: Iterable[int] | None = None) -> Iterator[tuple[int, int, float]]:
    """Cohen's kappa of every two of the listeners (all if None) with at least 20 common clips: their codes, kappa.

    Computed over the common clips, each pair of labels weighted 1/(m n) for ratings of m and n ticks. NaN if both
    listeners always give the same single class.
    """
    listeners = range(len(cast.names)) if listeners is None else listeners
    given = {code: dict(zip(cast.clip[rows], cast.weights[rows]))
             for code in listeners if (rows := cast.listener == code).sum() >= LEAST_COMMON}
    for left, right in combinations(given, 2):
        common = sorted(given[left].keys() & given[right].keys())
        if len(common) >= LEAST_COMMON:
            a, b = (np.array([given[code][clip] for clip in common]) for code in (left, right))  # (clips, C)
            observed, chance = (a * b).sum(axis=1).mean(), a.mean(axis=0) @ b.mean(axis=0)
            yield left, right, float((observed - chance) / (1 - chance)) if chance < 1 - 1e-12 else np.nan


def noise_ceiling(corpus: Corpus) -> dict[str, Any]:
    """How well listeners agree with themselves on the clips that they rated more than once (`corpus.repeats`).

    - listeners; pairs: two ratings of one clip by one listener.
    - same: share of pairs with the same labels. overlap: mean overlap (1 - total variation distance) of their votes;
      two ratings without a class overlap fully. Equal to `same` where every rating has one label.
    - others: share of these ratings' votes on the plurality of the clip's other listeners, for comparison; a tied
      plurality counts by its share, ratings without a class are left out.
    """
    names, keys, repeats = list(corpus.classes), ["clip", "listener"], corpus.repeats
    assert repeats is not None, "for corpora with clips rated twice"
    ticked = repeats[names].to_numpy(dtype=bool)
    labels = np.column_stack([ticked, ~ticked.any(axis=1)])  # "without a class" is a label too
    weights = labels / labels.sum(axis=1, keepdims=True)
    pairs = [pair for rows in repeats.groupby(keys).indices.values() for pair in combinations(rows, 2)]
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    rated = corpus.ratings[corpus.ratings[names].any(axis=1)]
    _, plurality, shared = others(votes(rated, corpus.classes))
    rows = pd.MultiIndex.from_frame(rated[keys]).get_indexer(pd.MultiIndex.from_frame(repeats[keys]))
    judged = (rows >= 0) & shared[rows] & ticked.any(axis=1)
    plural = plurality[rows[judged]]
    hits = (weights[judged, :-1] * plural).sum(axis=1) / plural.sum(axis=1)
    overlap = np.minimum(weights[first], weights[second]).sum(axis=1)
    shares = {"same": (labels[first] == labels[second]).all(axis=1), "overlap": overlap, "others": hits}
    return {"listeners": int(repeats["listener"].nunique()), "pairs": len(pairs)} | {
        name: round(float(values.mean()), 4) if len(values) else None for name, values in shares.items()}


def likeness(corpus: Corpus, shots: int = 20, draws: int = 20) -> dict[str, float | None]:
    """Three numbers that simulated listeners should share with people.

    Corpora of different classes and numbers of listeners per clip can be compared by them. None: cannot be measured.

    - personal: nats that a listener's own `shots` ratings are worth more than somebody else's. Their class shares, half
      a tick added to each class, predict the listener's other ratings; the difference in log loss, mean over draws
      and over listeners with at least 5 other ratings.
    - agreement: of two listeners of one clip. retest: of a listener who rates a clip twice (`corpus.repeats`). Mean
      overlap (1 - total variation distance) of the two votes beyond chance: 0 for any two ratings, 1 for equal ones.
    """
    cast = votes(corpus.ratings, corpus.classes)
    chance, agreement = _overlap(cast.weights, np.zeros_like(cast.clip)), _overlap(cast.weights, cast.clip)
    again = votes(corpus.ratings[:0] if corpus.repeats is None else corpus.repeats, corpus.classes)
    retest = _overlap(again.weights, again.clip * len(again.names) + again.listener)
    values = {"personal": _personal(cast, shots, draws), "agreement": (agreement - chance) / (1 - chance),
              "retest": (retest - chance) / (1 - chance)}
    return {name: round(float(value), 4) if np.isfinite(value) else None for name, value in values.items()}


def _overlap(weights: np.ndarray, group: np.ndarray) -> float:
    """Mean overlap of any two votes (N, C) of the same group (N,); NaN if no group has two."""
    distinct, pattern = np.unique(weights, axis=0, return_inverse=True)
    overlap = np.minimum(distinct[:, None], distinct[None]).sum(axis=-1)
    names, groups = np.unique(group, return_inverse=True)
    counts = coo_array((np.ones(len(weights)), (groups, pattern)), (len(names), len(distinct))).tocsr()
    pairs = (counts.sum(axis=1) ** 2).sum() - len(weights)
    return float(((overlap * (counts.T @ counts).toarray()).sum() - len(weights)) / pairs) if pairs else np.nan


def _personal(cast: Votes, shots: int, draws: int) -> float:
    """`likeness`'s personal; NaN if fewer than two listeners have enough ratings."""
    rows = [rows for code in range(len(cast.names)) if len(rows := np.flatnonzero(cast.listener == code)) >= shots + 5]
    if len(rows) < 2:
        return np.nan
    parts = []
    for draw in range(draws):
        orders = [rng(0, "likeness", draw, place).permutation(part) for place, part in enumerate(rows)]
        shares = np.array([cast.weights[order[:shots]].sum(axis=0) + 0.5 for order in orders])
        logs = np.log(shares / shares.sum(axis=1, keepdims=True))
        query = np.array([cast.weights[order[shots:]].mean(axis=0) for order in orders])
        parts.append((query * (logs - (logs.sum(axis=0) - logs) / (len(rows) - 1))).sum(axis=1).mean())
    return float(np.mean(parts))
