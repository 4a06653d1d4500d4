"""Uncertainty of means over listeners and seeds: intervals and p-values, paired differences, corrections.

Resampling, for correlations, is scipy's; every call gets a new numpy Generator made from the caller's seed.
"""

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from perser.scores import HEADLINE, SCORES, SETTINGS

RESAMPLES = 9999
BATCH = 1000  # resamples held in memory at a time
PAIR = ("method", "baseline", "setting", "shots")


class Interval(NamedTuple):
    """A mean over listeners with its 95 % interval, in the unit of the values, and the p-value of a mean of zero."""

    mean: float
    low: float
    high: float
    p: float
    listeners: int


def interval(values: Iterable[float] | pd.DataFrame) -> Interval:
    """Mean, 95 % interval and two-sided p of values per listener (n,), or per listener and seed (n, seeds).

    Listeners and seeds are both samples, and a seed's effect is shared by all listeners. The variance of the mean is
    that of two crossed random factors, each negative component set to zero; t has Satterthwaite's degrees of freedom
    (Biometrics Bulletin 2, 1946). Interval and p agree: zero lies outside exactly if p is below 5 %. For one listener
    bounds and p are nan, for none everything is. Listeners with nan are left out.
    """
    grid = _complete(values)
    if len(grid) < 2:
        return Interval(float(grid.mean()) if len(grid) else np.nan, np.nan, np.nan, np.nan, len(grid))
    mean, (variance, freedom) = float(grid.mean()), _variance_of_mean(grid)
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf(0.975, freedom)) * error
    size = np.abs(grid).max()  # a difference that is the same for all has no error but that of rounding
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error > 1e-12 * size else float(not size)
    return Interval(mean, mean - half, mean + half, p, len(grid))


def _variance_of_mean(grid: np.ndarray) -> tuple[float, float]:
    """Variance of the mean of (listeners, seeds) and its degrees of freedom, from the mean squares of both factors."""
    listeners, seeds = grid.shape
    square = seeds * grid.mean(1).var(ddof=1)
    if seeds == 1:
        return square / listeners, listeners - 1
    rest = grid - grid.mean(1, keepdims=True) - grid.mean(0) + grid.mean()
    free = (listeners - 1) * (seeds - 1)
    noise = (rest**2).sum() / free
    squares = ((square, listeners - 1), (listeners * grid.mean(0).var(ddof=1), seeds - 1))
    kept = [(square, freedom) for square, freedom in squares if square > noise]
    kept.append(((1 - len(kept)) * noise, free))
    total, spread = sum(square for square, _ in kept), sum(square**2 / freedom for square, freedom in kept)
    return total / grid.size, total**2 / spread if spread else free


def _complete(values: Iterable[float] | pd.DataFrame) -> np.ndarray:
    """Values as (listeners, seeds), without all-nan seeds and without listeners that lack one of the others."""
    grid = np.asarray(values if hasattr(values, "shape") else list(values), dtype=float)
    grid = grid[:, None] if grid.ndim == 1 else grid
    grid = grid[:, ~np.isnan(grid).all(axis=0)] if len(grid) else grid
    return grid[~np.isnan(grid).any(axis=1)] if grid.shape[1] else grid[:0]


def select(scores: pd.DataFrame, method: str, setting: str, shots: int, score: str = "f1") -> pd.Series | pd.DataFrame:
    """One score per listener, a column per seed if the scores have seeds; methods without shots fit any number."""
    rows = scores[(scores["method"] == method) & (scores["setting"] == setting)]
    rows = rows[rows["shots"] == (shots if shots in set(rows["shots"]) else 0)]
    if "seed" in rows:
        return rows.pivot(index="listener", columns="seed", values=score)
    return rows.set_index("listener")[score]


def most_shots(scores: pd.DataFrame, setting: str) -> int:
    """The largest number of shots in a setting; 0 if nothing adapts."""
    return int(scores.loc[scores["setting"] == setting, "shots"].max())


def shot_numbers(scores: pd.DataFrame, setting: str) -> list[int]:
    """The numbers of shots in a setting, rising, without 0."""
    return sorted(int(shots) for shots in set(scores.loc[scores["setting"] == setting, "shots"]) - {0})


def paired_difference(scores: pd.DataFrame, method: str, baseline: str, setting: str, shots: int,
                      score: str = "f1") -> pd.Series | pd.DataFrame:
    """Score of a method minus that of a baseline, per listener (and seed) that has both."""
    one, other = (select(scores, name, setting, shots, score) for name in (method, baseline))
    return (one - other).dropna(how="all")


def between_seeds(values: Iterable[float] | pd.DataFrame) -> float:
    """Standard deviation over seeds of the mean over listeners; nan for one seed."""
    grid = _complete(values)
    return float(grid.mean(axis=0).std(ddof=1)) if len(grid) and grid.shape[1] > 1 else np.nan


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Holm's correction for the number of comparisons; nan stays nan and is not counted."""
    p_values = np.array(list(p_values), dtype=float)
    known = ~np.isnan(p_values)
    if known.any():
        p_values[known] = multipletests(p_values[known], method="holm")[1]
    return p_values


def effect(differences: pd.Series | pd.DataFrame) -> dict[str, float]:
    """Summary of a paired difference: `interval`, ahead (share of listeners above zero) and between_seeds."""
    grid = _complete(differences)
    return {**interval(differences)._asdict(), "ahead": float((grid.mean(axis=1) > 0).mean()) if len(grid) else np.nan,
            "between_seeds": between_seeds(differences)}


def with_holm(rows: list[dict[str, Any]], *columns: str) -> pd.DataFrame:
    """Rows as a table with p_holm, corrected over the rows of a score (and `of`, if any); its columns without a row."""
    table = pd.DataFrame(rows, columns=None if rows else [*columns, *Interval._fields, "ahead", "between_seeds"])
    families = table.groupby([name for name in ("score", "of") if name in table], sort=False)
    return table.assign(p_holm=families["p"].transform(holm))


def compare_methods(scores: pd.DataFrame, pairs: Iterable[tuple[str, str, str, int]],
                    names: Iterable[str] = HEADLINE) -> pd.DataFrame:
    """Paired differences in printed units, better is positive, for (method, baseline, setting, shots) in some scores.

    Rows of those, score, `effect` and p_holm; scores that the table lacks are left out.
    """
    rows = [dict(zip(PAIR, pair)) | {"score": name}
            | effect(SCORES[name].factor * paired_difference(scores, *pair, name))
            for name in names if name in scores for pair in pairs]
    return with_holm(rows, *PAIR, "score")


def compare_with(scores: pd.DataFrame, methods: Iterable[str], baseline: str) -> pd.DataFrame:
    """Methods against one other, per setting at its largest number of shots: as `compare_methods`."""
    pairs = [(method, baseline, setting, most_shots(scores, setting)) for setting in SETTINGS for method in methods]
    return compare_methods(scores, pairs)


def best_trials(trials: pd.DataFrame, margin: float = 0.0) -> pd.DataFrame:
    """Each method's best trial of a search, with `first` (points of trial 0) and the number of `trials`.

    Trial 0, the experiment's settings, is kept unless another is ahead by more than `margin`; ties go to the earlier.
    """
    first = trials[trials["trial"] == 0].set_index("method")["points"]
    worth = trials["points"].where(trials["trial"] == 0, trials["points"] - margin)
    best = trials.loc[worth.groupby(trials["method"], sort=False).idxmax()]
    numbers = trials.groupby("method", sort=False)["trial"].size()
    return best.assign(first=best["method"].map(first), trials=best["method"].map(numbers)).reset_index(drop=True)


def correlation(one: Iterable[float], other: Iterable[float], seed: int,
                given: Iterable[float] | None = None) -> dict[str, float]:
    """Spearman's rank correlation of two values per listener: rho, low, high, listeners and p.

    given: a third value, for the partial correlation at equal ranks of it. The percentile interval resamples listeners,
    without resamples that have no correlation. p permutes one value, its residual if there is a third (Kennedy's scheme
    in Winkler et al. 2014, doi 10.1016/j.neuroimage.2014.01.060: liberal for few listeners). Listeners with nan are
    left out; nan for fewer than three listeners, four with a third value.
    """
    sides = np.array([list(side) for side in (one, other, given) if side is not None], dtype=float)
    sides = sides[:, ~np.isnan(sides).any(axis=0)]
    number = sides.shape[1]
    empty = {"rho": np.nan, "low": np.nan, "high": np.nan, "listeners": number, "p": np.nan}
    if number <= len(sides) or (np.ptp(sides, axis=1) == 0).any():
        return empty
    left, right = _ranks(*sides)
    rho = float(_pearson(left, right))
    if np.isnan(rho):
        return empty
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():  # scipy's own interval keeps the resamples without a correlation
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        resampled = stats.bootstrap(
            tuple(sides), lambda *drawn, axis: _pearson(*_ranks(*drawn)), paired=True, n_resamples=RESAMPLES,
            batch=BATCH, method="percentile", vectorized=True, rng=rng).bootstrap_distribution
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    p = stats.permutation_test(
        (left,), lambda values, axis: _pearson(values, np.broadcast_to(right, values.shape)),
        permutation_type="pairings", vectorized=True, n_resamples=RESAMPLES, rng=rng).pvalue
    return empty | {"rho": rho, "low": float(low), "high": float(high), "p": float(p)}


def _ranks(one: np.ndarray, other: np.ndarray, given: np.ndarray | None = None) -> list[np.ndarray]:
    """Centred ranks along the last axis, ties averaged, without what the ranks of `given` explain."""
    sides = [stats.rankdata(side, axis=-1) for side in (one, other, given) if side is not None]
    sides = [side - side.mean(axis=-1, keepdims=True) for side in sides]
    if given is None:
        return sides
    *sides, third = sides
    size = (third**2).sum(axis=-1, keepdims=True)
    third = np.divide(third, np.sqrt(size), out=np.zeros_like(third), where=size > 0)
    return [side - (side * third).sum(axis=-1, keepdims=True) * third for side in sides]


def _pearson(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlation of centred values along the last axis; nan where one side is constant up to rounding."""
    scale = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    return np.divide((one * other).sum(axis=-1), scale, out=np.full(scale.shape, np.nan), where=scale > 1e-9)
