"""From records to tables: per task first, then against a reference model per domain, with intervals.

Needs no model, no audio and no inspect: a function of records and nothing else.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from perser.errors import UserError
from perser.phase2.metrics import METRICS

ANSWERED, NONE = "answered", "none"
RESAMPLES, LEVEL = 200, 0.95
PERFECT = {"BLEU": 100.0}
TASK_COLUMNS = ["model", "domain", "kind", "group", "instance", "scorer", "metric", "main", "higher", "rows", "value",
                "low", "high", "N/A", "ungraded", "synthetic"]
Statistic = Callable[[np.ndarray], np.ndarray]


def read(out: str | Path) -> pd.DataFrame:
    """The records under `out`: of every model there, else the one file of a committed folder.

    Raises UserError when there are none.
    """
    out = Path(out)
    found = sorted(out.glob("*/records.parquet")) or sorted(out.glob("records.parquet"))
    if not found:
        raise UserError(f"{out}: no records; make them with `perser phase2 --suite --model NAME --out {out}`")
    return pd.concat([pd.read_parquet(path) for path in found], ignore_index=True)


@dataclass(frozen=True)
class Cell:
    """One model's rows of one data set under one scorer, ready to be measured again and again."""

    metric: str
    clusters: np.ndarray
    none: np.ndarray
    ungraded: np.ndarray
    parts: np.ndarray | None
    labels: np.ndarray
    said: np.ndarray

    def value(self, rows: np.ndarray) -> float:
        """The metric over some rows; those without a verdict are left out; NaN if nothing is left."""
        rows = rows[~self.ungraded[rows]]
        if not len(rows):
            return float("nan")
        if self.parts is not None:
            return METRICS[self.metric].ratio(self.parts[rows])
        return METRICS[self.metric].compute(list(self.labels[rows]), list(self.said[rows]))

    def none_rate(self, rows: np.ndarray) -> float:
        """Share without an answer among the rows with a verdict."""
        rows = rows[~self.ungraded[rows]]
        return float(self.none[rows].mean()) if len(rows) else float("nan")

    def folded(self, rows: np.ndarray) -> float:
        """The value with the N/A rate of a number task folded in: x (1 - N/A), or / (1 - N/A) where less is better.

        Other tasks count no answer as wrong already. NaN when nothing was answered.
        """
        rate, metric = self.none_rate(rows), METRICS[self.metric]
        if not rate < 1:
            return float("nan")
        if metric.mode != "number":
            return self.value(rows)
        return self.value(rows) * (1 - rate) if metric.higher else self.value(rows) / (1 - rate)


def cell(frame: pd.DataFrame, metric: str) -> Cell | None:
    """The rows of one model, data set and scorer; None when this scorer does not give this metric."""
    labels, said = np.empty(len(frame), object), np.empty(len(frame), object)
    labels[:] = [tuple(json.loads(text)) for text in frame["labels"]]
    said[:] = [json.loads(text) for text in frame["said"]]
    verdicts = frame["correct"].to_numpy(float)
    judged = METRICS[metric].mode == "choice" and (frame["scorer"] != "strict").all()
    if judged and metric != "accuracy":
        return None
    parts = None
    if judged:
        parts = np.stack([np.nan_to_num(verdicts), np.ones(len(frame))], 1)
    elif METRICS[metric].parts:
        parts = np.array([METRICS[metric].parts(*row) for row in zip(labels, said, strict=True)], float)
    return Cell(metric, frame["cluster"].to_numpy(str), (frame["outcome"] == NONE).to_numpy(),
                ~frame["outcome"].isin([ANSWERED, NONE]).to_numpy(), parts, labels, said)


def interval(clusters: list[np.ndarray], statistic: Statistic, resamples: int, seed: int) -> np.ndarray:
    """Percentile bootstrap over whole clusters (arrays of row numbers): (2, values); NaN with fewer than two.

    statistic takes the positions of the drawn clusters and gives one or more values.
    """
    point = np.atleast_1d(statistic(np.arange(len(clusters))))
    if len(clusters) < 2 or not resamples:
        return np.full((2, len(point)), np.nan)
    with warnings.catch_warnings():  # scipy's own interval is not used: it cannot leave out draws without a value
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap((np.arange(len(clusters)),), lambda drawn: np.atleast_1d(statistic(drawn)),
                                n_resamples=resamples, method="percentile", vectorized=False,
                                rng=np.random.default_rng(seed))
    draws = np.atleast_2d(found.bootstrap_distribution)
    tail = (1 - LEVEL) / 2
    return np.array([[np.quantile(row[np.isfinite(row)], q) if np.isfinite(row).any() else np.nan for row in draws]
                     for q in (tail, 1 - tail)])


def tasks(frame: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """One row per model, data set, scorer and metric: value, its interval, N/A rate, share ungraded.

    `main` marks the data set's first metric, the one that the domain table uses.
    """
    out = []
    for (model, instance, scorer), rows in frame.groupby(["model", "instance", "scorer"], sort=True):
        first = rows.iloc[0]
        for order, metric in enumerate(first["metrics"].split("|")):
            held = cell(rows, metric)
            if held is None:
                continue
            every, groups = np.arange(len(rows)), _groups(held.clusters)
            low, high = interval(groups, lambda drawn, h=held, g=groups: np.array(
                [h.value(np.concatenate([g[i] for i in drawn]))]), resamples, seed)[:, 0]
            out.append({"model": model, "domain": first["domain"], "kind": first["kind"], "group": first["group"],
                        "instance": instance, "scorer": scorer, "metric": metric, "main": order == 0,
                        "higher": METRICS[metric].higher, "rows": len(rows), "value": held.value(every), "low": low,
                        "high": high, "N/A": held.none_rate(every), "ungraded": float(held.ungraded.mean()),
                        "synthetic": first["synthetic"]})
    return pd.DataFrame(out, columns=TASK_COLUMNS)


def folds(table: pd.DataFrame) -> pd.DataFrame:
    """The per-task table with the folds of a group averaged, every fold the same weight; `folds` says how many."""
    keys = ["model", "domain", "kind", "group", "scorer", "metric", "main", "higher"]
    return table.groupby(keys, sort=True, as_index=False).agg(
        folds=("instance", "size"), rows=("rows", "sum"), value=("value", "mean"), **{"N/A": ("N/A", "mean")})


def _groups(clusters: np.ndarray) -> list[np.ndarray]:
    _, inverse = np.unique(clusters, return_inverse=True)
    return [np.flatnonzero(inverse == i) for i in range(inverse.max() + 1)]


def improvement(value: float, reference: float, higher: bool) -> float:
    """Relative improvement, in units of the reference's size; positive is better whatever the metric's direction."""
    return (value - reference if higher else reference - value) / abs(reference)


class _Pair(NamedTuple):
    """The rows of a group's fold in the model and in the reference, by cluster."""

    group: str
    model: Cell
    reference: Cell
    rows: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def _pairs(frame: pd.DataFrame, model: str, reference: str) -> list[_Pair]:
    out = []
    for (group, _), rows in frame.groupby(["group", "instance"], sort=True):
        metric = rows["metrics"].iloc[0].split("|")[0]
        cells = [cell(rows[rows["model"] == name], metric) for name in (model, reference)]
        if all(c is not None and len(c.clusters) for c in cells):
            placed = tuple({name: np.flatnonzero(c.clusters == name) for name in np.unique(c.clusters)} for c in cells)
            out.append(_Pair(str(group), *cells, placed))
    return out


def _improvements(pairs: list[_Pair], clusters: list[str]) -> dict[str, float]:
    """Improvement per group over the drawn clusters, folds averaged; NaN where the published rules leave it out."""
    groups: dict[str, list[tuple[float, float, bool]]] = {}
    for pair in pairs:
        values = []
        for held, places in zip((pair.model, pair.reference), pair.rows, strict=True):
            drawn = [places[name] for name in clusters if name in places]
            values.append(held.folded(np.concatenate(drawn)) if drawn else float("nan"))
        groups.setdefault(pair.group, []).append((*values, METRICS[pair.model.metric].higher))
    out = {}
    for group, found in groups.items():
        value, base = (float(np.mean([row[i] for row in found])) for i in (0, 1))
        fine = np.isfinite([value, base]).all() and base != 0
        out[group] = improvement(value, base, found[0][2]) if fine else float("nan")
    return out


def _summary(improvements: dict[str, float]) -> np.ndarray:
    """Mean, median and win rate (ties count half) over the groups that are not left out."""
    values = np.array([value for value in improvements.values() if np.isfinite(value)])
    if not len(values):
        return np.full(3, np.nan)
    return np.array([values.mean(), np.median(values), (values > 0).mean() + (values == 0).mean() / 2])


def domains(frame: pd.DataFrame, reference: str, scorer: str = "strict", resamples: int = RESAMPLES,
            seed: int = 0) -> pd.DataFrame:
    """Relative improvement over the reference per model and domain: mean as published, median and win rate beside it.

    Left out, as published: groups on which the reference scores 0 or a model answers nothing; they are named in
    `left_out`. Intervals resample audio files, once for all tasks that ask about them.
    """
    frame, out = frame[frame["scorer"] == scorer], []
    for domain, rows in frame.groupby("domain", sort=True):
        for model in sorted(set(rows["model"]) - {reference}):
            pairs = _pairs(rows, model, reference)
            names = sorted({name for pair in pairs for side in pair.rows for name in side})
            found = _improvements(pairs, names)
            point = _summary(found)
            low, high = interval([np.array([i]) for i in range(len(names))], lambda drawn, p=pairs, n=names: _summary(
                _improvements(p, [n[i] for i in drawn])), resamples, seed) if names else np.full((2, 3), np.nan)
            left = [group for group, value in found.items() if not np.isfinite(value)]
            row = {"model": model, "domain": domain, "groups": len(found) - len(left), "left_out": ", ".join(left)}
            for i, name in enumerate(("mean", "median", "wins")):
                row |= {name: point[i], f"{name}_low": low[i], f"{name}_high": high[i]}
            out.append(row)
    return pd.DataFrame(out)


def skill(table: pd.DataFrame, floor: str = "majority") -> pd.DataFrame:
    """How far each model goes from the floor model (0) to a perfect score (1): groups by models, main metrics.

    Groups that the floor already solves are left out; NaN where a model answers nothing. Raises UserError when
    the floor model is not there.
    """
    if floor not in set(table["model"]):
        raise UserError(f"no answers of the model {floor!r}; run it too: --model {floor}")
    main = folds(table[table["main"] & (table["scorer"] == "strict")])
    main["value"] = main["value"].where(main["N/A"] < 1)
    wide = main.pivot(index=["domain", "group"], columns="model", values="value")
    higher = main.drop_duplicates("group").set_index("group")
    perfect = [PERFECT.get(higher.loc[group, "metric"], float(higher.loc[group, "higher"])) for _, group in wide.index]
    room = np.array(perfect) - wide[floor]
    return wide.sub(wide[floor], axis=0).div(room.where(room != 0), axis=0).dropna(subset=[floor]) + 0.0
