"""How sure a mean over listeners is: bootstrap intervals, paired differences, corrected p-values."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

RESAMPLES = 9999


class Interval(NamedTuple):
    """A mean over listeners with the bounds of its 95 % interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    listeners: int


def interval(values: Iterable[float], seed: int) -> Interval:
    """Mean and 95 % bootstrap interval over listeners; nan is left out.

    The percentile method: its bounds are means that the listeners at hand can produce, and it asks nothing
    of the jackknife, which says little where a corpus has six listeners. With so few it covers less than
    its 95 %: read it beside `p_value`, which is exact. One listener has no interval: its bounds are nan. No
    listener: all nan. The random stream depends on `seed` alone.
    """
    values = np.asarray(list(values), dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return Interval(float(values.mean()) if len(values) else np.nan, np.nan, np.nan, len(values))
    bounds = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(values.mean()), float(bounds.low), float(bounds.high), len(values))


def select(scores: pd.DataFrame, method: str, setting: str, shots: int, score: str = "f1") -> pd.Series:
    """One score per listener, by listener; a method that uses no shots answers for any number of them."""
    rows = scores[(scores["method"] == method) & (scores["setting"] == setting)]
    rows = rows[rows["shots"] == (shots if shots in set(rows["shots"]) else 0)]
    return rows.set_index("listener")[score]


def paired(
    scores: pd.DataFrame, method: str, baseline: str, setting: str, shots: int, score: str = "f1"
) -> pd.Series:
    """Score of a method minus that of a baseline, per listener that has both."""
    one, other = (select(scores, name, setting, shots, score) for name in (method, baseline))
    return (one - other).dropna().rename("difference")


def p_value(differences: Iterable[float], seed: int) -> float:
    """Two-sided p of a mean paired difference under random signs, exact up to 13 listeners, nan for one."""
    values = np.asarray(list(differences), dtype=float)
    if len(values) < 2:
        return np.nan
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


def corrected(p_values: Iterable[float]) -> np.ndarray:
    """Holm's correction for the number of comparisons; nan stays nan and does not count as one."""
    p_values = np.array(list(p_values), dtype=float)
    known = ~np.isnan(p_values)
    if known.any():
        p_values[known] = multipletests(p_values[known], method="holm")[1]
    return p_values


def compare(scores: pd.DataFrame, pairs: Iterable[tuple[str, str, str, int]], seed: int) -> pd.DataFrame:
    """Paired differences of macro F1 for (method, baseline, setting, shots), with intervals and p-values.

    Columns: those four, mean, low, high (0..1), listeners, p and p_holm, corrected over all the rows.
    """
    rows = []
    for pair in pairs:
        values = paired(scores, *pair)
        rows.append([*pair, *interval(values, seed), p_value(values, seed)])
    table = pd.DataFrame(rows, columns=["method", "baseline", "setting", "shots", *Interval._fields, "p"])
    return table.assign(p_holm=corrected(table["p"]))
