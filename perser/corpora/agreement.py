"""What a listener's ratings say of the listener: how far from the others, how true to own habits."""

from itertools import combinations

import numpy as np
import pandas as pd

LEAST_COMMON = 20  # clips that two listeners must share for their kappa to be worth a cell


def traits(ratings: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per listener, sorted: listener, ratings, ticks, distance, consistency.

    ratings: a corpus' table with columns clip, listener and one bool per class; a rating without a class is
    left out, and a listener who has no other has no row. A rating of m ticks is a vote of 1/m on each.

    - ratings: how many. ticks: mean number of ticks.
    - distance, 0..1: mean total variation between the listener's vote and the mean vote of the *other*
      listeners of the same clip; 0 says always what the others say, 1 never. nan where no clip has others.
    - consistency, 0..1: how well the listener's own habits foretell a rating. For each rating, the overlap
      (1 - total variation) of its vote with each *other* vote of this listener on a clip of the same
      consensus, averaged over those, then over ratings; the consensus of a clip is the class, or the tied
      classes, that most of the others' votes name. 1 answers the same to all clips that others hear alike,
      however odd the answer; nan where no two clips share a consensus.
    """
    votes, clip, listener, names = _votes(ratings, classes)
    total = np.zeros((clip.max(initial=-1) + 1, len(classes)))
    np.add.at(total, clip, votes)
    raters = np.bincount(clip, minlength=len(total))[clip]
    others = (total[clip] - votes) / np.maximum(raters - 1, 1)[:, None]
    distance = np.where(raters > 1, np.abs(votes - others).sum(axis=1) / 2, np.nan)
    plural = np.isclose(others, others.max(axis=1, keepdims=True, initial=0))
    rows = []
    for number, name in enumerate(names):
        mine = listener == number
        known = mine & (raters > 1)
        rows.append(
            {
                "listener": name,
                "ratings": int(mine.sum()),
                "ticks": float((votes[mine] > 0).sum(axis=1).mean()),
                "distance": float(distance[known].mean()) if known.any() else np.nan,
                "consistency": _consistency(votes[known], plural[known]),
            }
        )
    return pd.DataFrame(rows, columns=["listener", "ratings", "ticks", "distance", "consistency"])


def _votes(
    ratings: pd.DataFrame, classes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Votes (N, C) that sum to one, clip and listener (N,) as numbers, and the listeners' names, sorted."""
    ticked = ratings[list(classes)].to_numpy(dtype=bool)
    some = ticked.any(axis=1)
    ticked = ticked[some]
    clip = pd.factorize(ratings["clip"][some])[0]
    listener, names = pd.factorize(ratings["listener"][some], sort=True)
    return ticked / np.maximum(ticked.sum(axis=1, keepdims=True), 1), clip, listener, list(names)


def _consistency(votes: np.ndarray, plural: np.ndarray) -> float:
    """Mean overlap of votes (n, C) with the other votes of the same row of plural (n, C) bool."""
    total, counted = 0.0, 0
    for stratum in np.unique(plural, axis=0):
        mine, times = np.unique(votes[(plural == stratum).all(axis=1)], axis=0, return_counts=True)
        number = times.sum()
        if number > 1:
            overlap = np.minimum(mine[:, None], mine[None]).sum(axis=-1)
            total += (times @ overlap @ times - number) / (number - 1)
            counted += number
    return float(total / counted) if counted else np.nan


def agreement(ratings: pd.DataFrame, classes: tuple[str, ...], most: int = 60) -> pd.DataFrame:
    """Cohen's kappa of every two listeners, (listeners, listeners), in the order of their mean, highest first.

    Over the clips that both rated, each pair of their labels weighted 1/(m n) for m and n ticks; nan on the
    diagonal, for fewer than 20 common clips, and for two who always give the same one class. `most`: the
    listeners with the most ratings, where a corpus has more.
    """
    votes, clip, listener, names = _votes(ratings, classes)
    kept = np.argsort(-np.bincount(listener, minlength=len(names)), kind="stable")[:most]
    given = {number: dict(zip(clip[listener == number], votes[listener == number])) for number in sorted(kept)}
    found = pd.DataFrame(np.nan, index=(here := [names[number] for number in given]), columns=here)
    for one, other in combinations(given, 2):
        common = sorted(given[one].keys() & given[other].keys())
        if len(common) >= LEAST_COMMON:
            left, right = (np.array([given[who][clip] for clip in common]) for who in (one, other))
            found.loc[names[one], names[other]] = found.loc[names[other], names[one]] = _kappa(left, right)
    order = found.mean().sort_values(ascending=False, kind="stable").index
    return found.loc[order, order]


def _kappa(left: np.ndarray, right: np.ndarray) -> float:
    """Cohen's kappa of two listeners' votes (n, C), rows summing to one."""
    met = (left * right).sum(axis=1).mean()
    chance = left.mean(axis=0) @ right.mean(axis=0)
    return float((met - chance) / (1 - chance)) if chance < 1 - 1e-12 else np.nan
