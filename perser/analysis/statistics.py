"""Uncertainty of means over listeners: bootstrap intervals, paired differences, corrected p-values.

Resampling is scipy's; every call gets a new numpy Generator made from the caller's seed.
"""

import warnings
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from perser.scores import SETTINGS

RESAMPLES = 9999
BATCH = 1000  # resamples held in memory at a time
PAIR = ("method", "baseline", "setting", "shots")


class Interval(NamedTuple):
    """A mean over listeners with the bounds of its 95 % interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    listeners: int


def bootstrap_interval(values: Iterable[float] | pd.DataFrame, seed: int) -> Interval:
    """Mean and 95 % bootstrap interval of values per listener (n,), or per listener and seed (n, seeds).

    With seeds, each resample draws listeners and, independently, seeds, and averages the values where the drawn rows
    and columns cross (the pigeonhole bootstrap, Owen 2007): both are samples, and a seed's effect is shared by all
    listeners. Percentile method: with few listeners or seeds the interval covers less than 95 %; read it next to
    `p_value`, which is exact. For one listener the bounds are nan, for none everything is. Listeners with nan are left
    out. The random stream depends on `seed` alone.
    """
    grid = _complete(values)
    if len(grid) < 2:
        return Interval(float(grid.mean()) if len(grid) else np.nan, np.nan, np.nan, len(grid))
    bounds = stats.bootstrap(
        tuple(np.arange(size) for size in grid.shape if size > 1), partial(_crossed_mean, grid), n_resamples=RESAMPLES,
        batch=BATCH, method="percentile", vectorized=True, rng=np.random.default_rng(seed)).confidence_interval
    return Interval(float(grid.mean()), float(bounds.low), float(bounds.high), len(grid))


def _complete(values: Iterable[float] | pd.DataFrame) -> np.ndarray:
    """Values as (listeners, seeds), without all-nan seeds and without listeners that lack one of the others."""
    grid = np.asarray(values if hasattr(values, "shape") else list(values), dtype=float)
    grid = grid[:, None] if grid.ndim == 1 else grid
    grid = grid[:, ~np.isnan(grid).all(axis=0)] if len(grid) else grid
    return grid[~np.isnan(grid).any(axis=1)] if grid.shape[1] else grid[:0]


def _crossed_mean(grid: np.ndarray, listeners: np.ndarray, seeds: np.ndarray | None = None,
                  axis: int = -1) -> np.ndarray:
    """Mean of grid (n, m) where drawn rows (R, n) and columns (R, m) cross -> (R,); no columns: all of them."""
    by_seed = np.stack([column[listeners].mean(axis=axis) for column in grid.T], axis=-1)
    return (by_seed if seeds is None else np.take_along_axis(by_seed, seeds, -1)).mean(axis=-1)


def select(scores: pd.DataFrame, method: str, setting: str, shots: int,
           score: str = "f1") -> pd.Series | pd.DataFrame:
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


def p_value(differences: Iterable[float] | pd.DataFrame, seed: int) -> float:
    """Two-sided p of a mean paired difference under random signs, exact up to 13 listeners; nan for one listener."""
    grid = _complete(differences)
    if len(grid) < 2:
        return np.nan
    values = grid.mean(axis=1)
    return float(stats.permutation_test(
        (values, np.zeros_like(values)), lambda one, other, axis: (one - other).mean(axis), vectorized=True,
        permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(seed)).pvalue)


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


def effect(differences: pd.Series | pd.DataFrame, seed: int) -> dict[str, float]:
    """Summary of a paired difference: mean, low, high, listeners, ahead (their share above zero), between_seeds, p."""
    grid = _complete(differences)
    return {**bootstrap_interval(differences, seed)._asdict(),
            "ahead": float((grid.mean(axis=1) > 0).mean()) if len(grid) else np.nan,
            "between_seeds": between_seeds(differences), "p": p_value(differences, seed)}


def with_holm(rows: list[dict], *columns: str) -> pd.DataFrame:
    """Rows as a table with p_holm, corrected over all of them; the columns that it has without a row."""
    table = pd.DataFrame(rows, columns=None if rows else [*columns, *Interval._fields, "ahead", "between_seeds", "p"])
    return table.assign(p_holm=holm(table["p"]))


def compare_methods(scores: pd.DataFrame, pairs: Iterable[tuple[str, str, str, int]], seed: int = 0) -> pd.DataFrame:
    """Paired differences of macro F1 for (method, baseline, setting, shots): those, `effect` (0..1) and p_holm."""
    return with_holm([dict(zip(PAIR, pair)) | effect(paired_difference(scores, *pair), seed) for pair in pairs], *PAIR)


def compare_with(scores: pd.DataFrame, methods: Iterable[str], baseline: str, seed: int = 0) -> pd.DataFrame:
    """Methods against one other, per setting at its largest number of shots: as `compare_methods`."""
    pairs = [(method, baseline, setting, most_shots(scores, setting)) for setting in SETTINGS for method in methods]
    return compare_methods(scores, pairs, seed)


def gains(scores: pd.DataFrame, baseline: str, largest: bool = False, seed: int = 0) -> pd.DataFrame:
    """Gains over a baseline in points at every number of shots, or at each setting's largest (and at none).

    Rows of method, setting, shots, mean, low, high, listeners and between_seeds.
    """
    rows, most = [], {setting: most_shots(scores, setting) for setting in set(scores["setting"])}
    for (method, setting, shots), _ in scores.groupby(["method", "setting", "shots"], sort=False):
        if method != baseline and (not largest or shots in (0, most[setting])):
            values = 100 * paired_difference(scores, method, baseline, setting, shots)
            rows.append({"method": method, "setting": setting, "shots": shots}
                        | bootstrap_interval(values, seed)._asdict() | {"between_seeds": between_seeds(values)})
    return pd.DataFrame(rows)


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
