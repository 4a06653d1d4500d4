"""How sure a mean over listeners is: bootstrap intervals, paired differences, corrected p-values.

Resampling is scipy's (`stats.bootstrap`, `stats.permutation_test`), each call with a numpy Generator of its
own, made from the caller's seed.
"""

import warnings
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

RESAMPLES = 9999
BATCH = 1000  # resamples held in memory at a time


class Interval(NamedTuple):
    """A mean over listeners with the bounds of its 95 % interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    listeners: int


def interval(values: Iterable[float] | pd.DataFrame, seed: int) -> Interval:
    """Mean and 95 % bootstrap interval of values per listener (n,), or per listener and seed (n, seeds).

    With seeds, each resample draws listeners and, independently of them, seeds, both with replacement, and
    takes the mean of the values where the drawn rows and columns cross: both are samples of those that might
    have been, and a seed's effect is shared by all listeners that were tested with it (the pigeonhole
    bootstrap, Owen 2007). Three seeds say little of all seeds, so that this part is too narrow rather than
    too wide.

    The percentile method: its bounds are means that the listeners at hand can produce, and it asks nothing
    of the jackknife, which says little where a corpus has six listeners. With so few it covers less than
    its 95 %: read it beside `p_value`, which is exact. One listener has no interval: its bounds are nan. No
    listener: all nan. A listener with nan is left out. The random stream depends on `seed` alone.
    """
    grid = _complete(values)
    if len(grid) < 2:
        return Interval(float(grid.mean()) if len(grid) else np.nan, np.nan, np.nan, len(grid))
    bounds = stats.bootstrap(
        tuple(np.arange(size) for size in grid.shape if size > 1),
        partial(_crossed_mean, grid),
        n_resamples=RESAMPLES,
        batch=BATCH,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(grid.mean()), float(bounds.low), float(bounds.high), len(grid))


def _complete(values: Iterable[float] | pd.DataFrame) -> np.ndarray:
    """Values as (listeners, seeds), without seeds that nobody has and listeners who lack one of the rest."""
    grid = np.asarray(values if hasattr(values, "shape") else list(values), dtype=float)
    grid = grid[:, None] if grid.ndim == 1 else grid
    grid = grid[:, ~np.isnan(grid).all(axis=0)] if len(grid) else grid
    return grid[~np.isnan(grid).any(axis=1)] if grid.shape[1] else grid[:0]


def _crossed_mean(
    grid: np.ndarray, listeners: np.ndarray, seeds: np.ndarray | None = None, axis: int = -1
) -> np.ndarray:
    """Mean of grid (n, m) where drawn rows (R, n) and columns (R, m) cross -> (R,); no columns: all of them."""
    by_seed = np.stack([column[listeners].mean(axis=axis) for column in grid.T], axis=-1)
    return (by_seed if seeds is None else np.take_along_axis(by_seed, seeds, -1)).mean(axis=-1)


def select(
    scores: pd.DataFrame, method: str, setting: str, shots: int, score: str = "f1"
) -> pd.Series | pd.DataFrame:
    """One score per listener, by listener; of scores per seed, a column per seed.

    A method that uses no shots answers for any number of them.
    """
    rows = scores[(scores["method"] == method) & (scores["setting"] == setting)]
    rows = rows[rows["shots"] == (shots if shots in set(rows["shots"]) else 0)]
    if "seed" in rows:
        return rows.pivot(index="listener", columns="seed", values=score)
    return rows.set_index("listener")[score]


def paired(
    scores: pd.DataFrame, method: str, baseline: str, setting: str, shots: int, score: str = "f1"
) -> pd.Series | pd.DataFrame:
    """Score of a method minus that of a baseline, per listener (and seed) that has both."""
    one, other = (select(scores, name, setting, shots, score) for name in (method, baseline))
    return (one - other).dropna(how="all")


def p_value(differences: Iterable[float] | pd.DataFrame, seed: int) -> float:
    """Two-sided p of a mean paired difference under random signs per listener, of the mean over seeds.

    Exact up to 13 listeners, by random signs beyond; nan for one listener.
    """
    grid = _complete(differences)
    if len(grid) < 2:
        return np.nan
    values = grid.mean(axis=1)
    return float(
        stats.permutation_test(
            (values, np.zeros_like(values)),
            _mean_difference,
            vectorized=True,
            permutation_type="samples",
            n_resamples=RESAMPLES,
            rng=np.random.default_rng(seed),
        ).pvalue
    )


def _mean_difference(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
    return (one - other).mean(axis)


def between_seeds(values: Iterable[float] | pd.DataFrame) -> float:
    """Standard deviation over seeds of the mean over listeners; nan for one seed."""
    grid = _complete(values)
    return float(grid.mean(axis=0).std(ddof=1)) if len(grid) and grid.shape[1] > 1 else np.nan


def corrected(p_values: Iterable[float]) -> np.ndarray:
    """Holm's correction for the number of comparisons; nan stays nan and does not count as one."""
    p_values = np.array(list(p_values), dtype=float)
    known = ~np.isnan(p_values)
    if known.any():
        p_values[known] = multipletests(p_values[known], method="holm")[1]
    return p_values


def effect(differences: pd.Series | pd.DataFrame, seed: int) -> dict[str, float]:
    """What is said of a paired difference: mean, low, high, listeners, ahead (share of listeners above zero),
    p and between_seeds (standard deviation over seeds of the mean).
    """
    grid = _complete(differences)
    return {
        **interval(differences, seed)._asdict(),
        "ahead": float((grid.mean(axis=1) > 0).mean()) if len(grid) else np.nan,
        "between_seeds": between_seeds(differences),
        "p": p_value(differences, seed),
    }


def compare(scores: pd.DataFrame, pairs: Iterable[tuple[str, str, str, int]], seed: int) -> pd.DataFrame:
    """Paired differences of macro F1 for (method, baseline, setting, shots), with intervals and p-values.

    Columns: those four, then as in `effect` (0..1), and p_holm, corrected over all the rows.
    """
    names = ["method", "baseline", "setting", "shots"]
    rows = [dict(zip(names, pair)) | effect(paired(scores, *pair), seed) for pair in pairs]
    table = pd.DataFrame(rows, columns=None if rows else [*names, *Interval._fields, "ahead", "between_seeds", "p"])
    return table.assign(p_holm=corrected(table["p"]))


def correlation(one: Iterable[float], other: Iterable[float], seed: int,
                given: Iterable[float] | None = None) -> dict[str, float]:
    """Spearman's rank correlation of two values per listener: rho, low, high, listeners and p.

    given: a third value per listener, for the partial correlation at equal ranks of it. The interval resamples
    listeners with all their values (percentile; resamples in which one value is constant, or no more than the third,
    have no correlation and are left out); p permutes one value over the listeners, its residual where there is a
    third: Kennedy's scheme in Winkler et al. 2014 (doi 10.1016/j.neuroimage.2014.01.060), no exact test and for a
    handful of listeners too ready to find something. A listener with nan is left out; nan for fewer than three
    listeners, four with a third value.
    """
    sides = np.array([list(side) for side in (one, other, given) if side is not None], dtype=float)
    sides = sides[:, ~np.isnan(sides).any(axis=0)]
    number = sides.shape[1]
    empty = {"rho": np.nan, "low": np.nan, "high": np.nan, "listeners": number, "p": np.nan}
    if number <= len(sides) or (np.ptp(sides, axis=1) == 0).any():
        return empty
    left, right = _ranks(*sides)
    found = float(_pearson(left, right))
    if np.isnan(found):
        return empty
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():  # scipy's own interval takes none of those resamples out
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = stats.bootstrap(
            tuple(sides),
            lambda *resampled, axis: _pearson(*_ranks(*resampled)),
            paired=True,
            n_resamples=RESAMPLES,
            batch=BATCH,
            method="percentile",
            vectorized=True,
            rng=rng,
        ).bootstrap_distribution
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    p = stats.permutation_test(
        (left,),
        lambda values, axis: _pearson(values, np.broadcast_to(right, values.shape)),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=rng,
    ).pvalue
    return empty | {"rho": found, "low": float(low), "high": float(high), "p": float(p)}


def _ranks(one: np.ndarray, other: np.ndarray, given: np.ndarray | None = None) -> list[np.ndarray]:
    """Ranks along the last axis about their mean, ties sharing theirs, without what those of `given` explain."""
    sides = [stats.rankdata(side, axis=-1) for side in (one, other, given) if side is not None]
    sides = [side - side.mean(axis=-1, keepdims=True) for side in sides]
    if given is None:
        return sides
    *sides, by = sides
    size = (by**2).sum(axis=-1, keepdims=True)
    by = np.divide(by, np.sqrt(size), out=np.zeros_like(by), where=size > 0)
    return [side - (side * by).sum(axis=-1, keepdims=True) * by for side in sides]


def _pearson(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlation of centred values along the last axis; nan where one side is constant but for rounding."""
    scale = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    return np.divide((one * other).sum(axis=-1), scale, out=np.full(scale.shape, np.nan), where=scale > 1e-9)
