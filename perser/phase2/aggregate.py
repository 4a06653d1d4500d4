"""Turn records into tables, without model, audio or inspect: scores per task, and improvement per domain."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from perser import records
from perser.errors import UserError
from perser.phase2.metrics import ANSWERED, FAILED, JUDGED, METRICS, NONE, UNPARSEABLE, exact

RESAMPLES, LEVEL, PERFECT = 200, 0.95, {"BLEU": 100.0}  # PERFECT: where it is neither 0 nor 1
AGAIN = "give the command that made it again, with --resume"
LATER = ("truncated", "cut")  # columns that records of earlier versions lack
TASK_COLUMNS = ["model", "domain", "kind", "group", "instance", "scorer", "metric", "main", "higher", "rows", "value",
                "low", "high", "N/A", "ungraded", "synthetic"]


def read(*folders: str | Path) -> pd.DataFrame:
    """The records of all models under folders, or the one file of a committed folder.

    Raises UserError if a folder has none, if one is damaged, or if two hold different answers of a model to a question.
    """
    frames = []
    for folder in folders:
        paths = sorted(Path(folder).glob("*/records.parquet")) or sorted(Path(folder).glob("records.parquet"))
        if not paths:
            raise UserError(f"{folder}: no records; create them with "
                            f"`perser phase2 --suite --model NAME --out {folder}`")
        for path in paths:
            if path.with_name(records.MANIFEST).is_file():
                records.sealed(path.with_name(records.MANIFEST), AGAIN, path.name)
            frames.append(records.table(path, AGAIN, ("model", "instance", "sample", "scorer")))
    frame = pd.concat(frames, ignore_index=True)
    for name in LATER:
        frame[name] = (frame[name] if name in frame else pd.Series(False, frame.index)).fillna(False).astype(bool)
    frame = frame.drop_duplicates(ignore_index=True)
    if (twice := frame.duplicated(["model", "instance", "sample", "scorer"])).any():
        row = frame[twice].iloc[0]
        raise UserError(f"{', '.join(map(str, folders))}: {row['model']} has two answers to {row['sample']!r} of "
                        f"{row['instance']}; leave out one of its runs")
    return frame


def manifests(*folders: str | Path) -> dict[str, dict[str, Any]]:
    """What the runs under folders state of themselves, by model folder. Raises UserError for damaged files."""
    stated: dict[str, dict[str, Any]] = {}
    for folder in map(Path, folders):
        paths = sorted(folder.glob("*/manifest.json")) or sorted(folder.glob("manifest.json"))
        for path in paths:
            run = records.sealed(path, AGAIN)
            run.pop("files", None)
            stated |= run["models"] if isinstance(run.get("models"), dict) else {path.parent.name: run}
    return stated


def counts(frame: pd.DataFrame, stated: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Rows per model and data set by what became of them, from the strict scorer's records and the manifests.

    skipped: bad data, never asked; missing: asked without success; ungraded, unparseable: of `verdicts`, all graders'.
    """
    strict = frame[frame["scorer"] == "strict"]
    table = strict.groupby(["model", "instance"], sort=True).agg(
        answered=("outcome", lambda x: (x == ANSWERED).sum()), none=("outcome", lambda x: (x == NONE).sum()),
        truncated=("truncated", "sum"), cut=("cut", "sum"))
    outcomes = frame.groupby(["model", "instance"])["outcome"]
    table["ungraded"] = outcomes.apply(lambda x: (x == FAILED).sum())
    table["unparseable"] = outcomes.apply(lambda x: (x == UNPARSEABLE).sum())
    table["verdicts"] = frame[frame["scorer"] != "strict"].groupby(["model", "instance"]).size()
    for name, key in (("missing", "without_answer"), ("skipped", "skipped")):
        numbers = {(run["model"], instance): count for run in stated.values()
                   for instance, count in run.get(key, {}).items() if count}
        table = table.reindex(table.index.union(pd.MultiIndex.from_tuples(numbers, names=table.index.names))
                              if numbers else table.index)
        table[name] = pd.Series(numbers, dtype=float) if numbers else 0
    return table.fillna(0).astype(int).reset_index()


def common(frame: pd.DataFrame, models: Sequence[str], outcomes: Sequence[str] = JUDGED) -> pd.DataFrame:
    """The models' rows of questions for which each of them has one of the outcomes: only these can be compared."""
    judged = frame[frame["outcome"].isin(outcomes) & frame["model"].isin(models)]
    return judged[judged.groupby(["instance", "sample", "scorer"])["model"].transform("nunique") == len(models)]


@dataclass(frozen=True)
class Cell:
    """The rows of one model, data set and scorer, parsed once so that a metric can be computed on many resamples."""

    metric: str
    clusters: np.ndarray
    none: np.ndarray
    ungraded: np.ndarray
    parts: np.ndarray | None
    labels: np.ndarray
    answers: np.ndarray

    def value(self, rows: np.ndarray) -> float:
        """The metric over some rows, without those that have no verdict; NaN if none remain."""
        rows = rows[~self.ungraded[rows]]
        if not len(rows):
            return float("nan")
        if self.parts is not None:
            return METRICS[self.metric].ratio(self.parts[rows])
        return METRICS[self.metric].compute(list(self.labels[rows]), list(self.answers[rows]))

    def none_rate(self, rows: np.ndarray) -> float:
        """Share of the rows with a verdict that have no answer."""
        rows = rows[~self.ungraded[rows]]
        return float(self.none[rows].mean()) if len(rows) else float("nan")

    def adjusted(self, rows: np.ndarray) -> float:
        """The value with a number task's N/A rate factored in: x (1 - N/A), or / (1 - N/A) where lower is better.

        Other tasks already count a missing answer as wrong. NaN when nothing was answered.
        """
        rate, metric = self.none_rate(rows), METRICS[self.metric]
        if not rate < 1:
            return float("nan")
        if metric.mode != "number":
            return self.value(rows)
        return self.value(rows) * (1 - rate) if metric.higher else self.value(rows) / (1 - rate)


def read_cell(frame: pd.DataFrame, metric: str) -> Cell | None:
    """Parse the rows of one model, data set and scorer; None when the scorer does not provide the metric."""
    labels, answers = np.empty(len(frame), object), np.empty(len(frame), object)
    labels[:] = [tuple(json.loads(text)) for text in frame["labels"]]
    answers[:] = [json.loads(text) for text in frame["answer_read"]]
    graded = METRICS[metric].mode == "choice" and (frame["scorer"] != "strict").all()
    if graded and metric != "accuracy":
        return None
    parts = None
    if graded:
        parts = np.stack([np.nan_to_num(frame["correct"].to_numpy(float)), np.ones(len(frame))], 1)
    elif by_row := METRICS[metric].parts:
        parts = np.array([by_row(*row) for row in zip(labels, answers, strict=True)], float)
    silent = [NONE, UNPARSEABLE] if METRICS[metric].mode == "number" else [NONE]
    return Cell(metric, frame["cluster"].to_numpy(str), frame["outcome"].isin(silent).to_numpy(),
                ~frame["outcome"].isin(JUDGED).to_numpy(), parts, labels, answers)


def cluster_interval(count: int, statistic: Callable[..., Any], resamples: int, seed: int) -> np.ndarray:
    """Percentile bootstrap over `count` clusters: bounds (2, values); NaN with fewer than two clusters.

    statistic: from the indices of the drawn clusters, an array, to one or more values.
    """
    point = np.atleast_1d(statistic(np.arange(count)))
    if count < 2 or not resamples:
        return np.full((2, len(point)), np.nan)
    with warnings.catch_warnings():  # scipy's own interval cannot skip resamples without a value, so it is not used
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap((np.arange(count),), lambda drawn: np.atleast_1d(statistic(drawn)),
                                 n_resamples=resamples, method="percentile", vectorized=False,
                                 rng=np.random.default_rng(seed))
    draws, tail = np.atleast_2d(result.bootstrap_distribution), (1 - LEVEL) / 2
    return np.array([[np.quantile(row[np.isfinite(row)], q) if np.isfinite(row).any() else np.nan for row in draws]
                     for q in (tail, 1 - tail)])


def tasks(frame: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """One row per model, data set, scorer and metric; `main` marks a data set's first metric, used for the domains."""
    table = []
    for (model, instance, scorer), rows in frame.groupby(["model", "instance", "scorer"], sort=True):
        about = rows.iloc[0]
        for order, metric in enumerate(about["metrics"].split("|")):
            cell = read_cell(rows, metric)
            if cell is None:
                continue
            full, (_, inverse) = np.arange(len(rows)), np.unique(cell.clusters, return_inverse=True)
            clusters = [np.flatnonzero(inverse == i) for i in range(inverse.max() + 1)]
            low, high = cluster_interval(len(clusters), lambda drawn, cell=cell, clusters=clusters: np.array(
                [cell.value(np.concatenate([clusters[i] for i in drawn]))]), resamples, seed)[:, 0]
            table.append({"model": model, **about[["domain", "kind", "group", "synthetic"]].to_dict(),
                          "instance": instance, "scorer": scorer, "metric": metric, "main": order == 0,
                          "higher": METRICS[metric].higher, "rows": len(rows), "value": cell.value(full), "low": low,
                          "high": high, "N/A": cell.none_rate(full), "ungraded": float(cell.ungraded.mean())})
    return pd.DataFrame(table, columns=TASK_COLUMNS)


def average_folds(table: pd.DataFrame) -> pd.DataFrame:
    """The per-task table with equal-weight means over the folds of each group; `folds` counts them."""
    keys = ["model", "domain", "kind", "group", "scorer", "metric", "main", "higher"]
    return table.groupby(keys, sort=True, as_index=False).agg(
        folds=("instance", "size"), rows=("rows", "sum"), value=("value", "mean"), **{"N/A": ("N/A", "mean")})


def improvement(value: float, reference: float, higher: bool) -> float:
    """Improvement relative to the reference's absolute value; positive is better for either metric direction."""
    return (value - reference if higher else reference - value) / abs(reference)


_Pair = tuple[str, list[Cell], list[dict[str, np.ndarray]]]


def _pairs(frame: pd.DataFrame, model: str, reference: str) -> list[_Pair]:
    """For every data set its group, the cells of the model and of the reference, and their rows by cluster."""
    pairs = []
    for (group, _), rows in frame.groupby(["group", "instance"], sort=True):
        metric = rows["metrics"].iloc[0].split("|")[0]
        cells = [cell for name in (model, reference)
                 if (cell := read_cell(rows[rows["model"] == name], metric)) and len(cell.clusters)]
        if len(cells) == 2:
            pairs.append((str(group), cells, [{name: np.flatnonzero(cell.clusters == name)
                                               for name in np.unique(cell.clusters)} for cell in cells]))
    return pairs


def _improvements(pairs: list[_Pair], clusters: list[str]) -> dict[str, float]:
    """Improvement per group on the drawn clusters, averaged over folds; NaN where the published rules exclude it."""
    values: dict[str, list[list[float]]] = {}
    higher = {group: METRICS[cells[0].metric].higher for group, cells, _ in reversed(pairs)}
    for group, cells, placed in pairs:
        drawn = [[rows[name] for name in clusters if name in rows] for rows in placed]
        values.setdefault(group, []).append([cell.adjusted(np.concatenate(rows)) if rows else float("nan")
                                             for cell, rows in zip(cells, drawn, strict=True)])
    improvements = {}
    for group, folds in values.items():
        value, base = (float(np.mean(side)) for side in zip(*folds, strict=True))
        valid = np.isfinite([value, base]).all() and base != 0
        improvements[group] = improvement(value, base, higher[group]) if valid else float("nan")
    return improvements


def _summary(improvements: dict[str, float]) -> np.ndarray:
    """Mean, median and win rate (ties count half) over the groups that are not excluded."""
    values = np.array([value for value in improvements.values() if np.isfinite(value)])
    if not len(values):
        return np.full(3, np.nan)
    return np.array([values.mean(), np.median(values), (values > 0).mean() + (values == 0).mean() / 2])


def domains(frame: pd.DataFrame, reference: str, scorer: str = "strict", resamples: int = RESAMPLES,
            seed: int = 0, by: str = "domain") -> pd.DataFrame:
    """Improvement over the reference per model and domain: the mean, as published, with the median and win rate.

    by: the column that holds the domains; rows without one are left out.

    Only questions with a verdict for both models count. As published, groups on which the reference scores 0 or a model
    answers nothing are excluded; `left_out` names them. Intervals resample audio files, jointly for all tasks that ask
    about a file.
    """
    frame, table = frame[frame["scorer"] == scorer], []
    for domain, rows in frame[frame[by] != ""].groupby(by, sort=True):
        for model in sorted(set(rows["model"]) - {reference}):
            pairs = _pairs(common(rows, [model, reference]), model, reference)
            names = sorted({name for _, _, placed in pairs for rows in placed for name in rows})
            improvements = _improvements(pairs, names)
            low, high = cluster_interval(len(names), lambda drawn, pairs=pairs, names=names: _summary(
                _improvements(pairs, [names[i] for i in drawn])), resamples, seed)
            excluded = [group for group, value in improvements.items() if not np.isfinite(value)]
            table.append({"model": model, by: domain, "groups": len(improvements) - len(excluded),
                          "left_out": ", ".join(excluded)})
            for name, *values in zip(("mean", "median", "wins"), _summary(improvements), low, high, strict=True):
                table[-1] |= zip((name, f"{name}_low", f"{name}_high"), values, strict=True)
    return pd.DataFrame(table)


def differences(frame: pd.DataFrame, reference: str, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Every model's main metric minus the reference's per data set, on common rows, with 95 % paired intervals.

    Of number tasks only questions count that both answered. Positive is better where `higher`.
    """
    frame, table = frame[frame["scorer"] == "strict"], []
    for model in sorted(set(frame["model"]) - {reference}):
        both = common(frame, [model, reference])
        for instance, rows in both.groupby("instance", sort=True):
            metric = rows["metrics"].iloc[0].split("|")[0]
            if METRICS[metric].mode == "number":
                rows = common(rows, [model, reference], [ANSWERED])
            if rows.empty:
                continue
            cells = [cell for name in (model, reference)
                     if (cell := read_cell(rows[rows["model"] == name].sort_values("sample"), metric))]
            names, inverse = np.unique(cells[0].clusters, return_inverse=True)
            places = [np.flatnonzero(inverse == i) for i in range(len(names))]

            def gap(drawn: np.ndarray, cells: list[Cell] = cells, places: list[np.ndarray] = places) -> np.ndarray:
                chosen = np.concatenate([places[i] for i in drawn])
                return np.array([cells[0].value(chosen) - cells[1].value(chosen)])

            low, high = cluster_interval(len(names), gap, resamples, seed)[:, 0]
            table.append((model, instance, metric, METRICS[metric].higher, len(rows) // 2,
                          gap(np.arange(len(names)))[0], low, high))
    return pd.DataFrame(table, columns=["model", "instance", "metric", "higher", "rows", "difference", "low", "high"])


def tally(gaps: pd.DataFrame) -> pd.DataFrame:
    """Per model, on how many data sets it is better or worse than the reference, or neither: the interval holds 0.

    gaps: as of `differences`.
    """
    sign = np.where(gaps["higher"], 1, -1)
    ends = np.sort(gaps[["low", "high"]].mul(sign, axis=0), axis=1)
    marks = gaps[["model"]].assign(better=ends[:, 0] > 0, worse=ends[:, 1] < 0)
    marks["neither"] = ~(marks["better"] | marks["worse"])
    return marks.groupby("model").sum().reset_index()


def skill(table: pd.DataFrame, floor: str = "majority") -> pd.DataFrame:
    """Main metrics scaled from the floor model (0) to a perfect score (1): groups by models.

    Leaves out groups that the floor solves; NaN where a model answers nothing. UserError without the floor model.
    """
    if floor not in set(table["model"]):
        raise UserError(f"no answers of the model {floor!r}; run it too: --model {floor}")
    main = average_folds(table[table["main"] & (table["scorer"] == "strict")])
    main["value"] = main["value"].where(main["N/A"] < 1)
    wide = main.pivot(index=["domain", "group"], columns="model", values="value")
    about = main.drop_duplicates("group").set_index("group")
    perfect = [PERFECT.get(about.loc[group, "metric"], float(about.loc[group, "higher"])) for _, group in wide.index]
    room = np.array(perfect) - wide[floor]
    return wide.sub(wide[floor], axis=0).div(room.where(room != 0), axis=0).dropna(subset=[floor]) + 0.0


def _verdicts(rows: pd.DataFrame, mode: str) -> pd.Series:
    """By sample: whether a choice is right, or the number that was read; without the rows that got no verdict."""
    rows = rows[rows["outcome"].isin(JUDGED)].set_index("sample")
    if mode == "number":
        return rows["answer_read"]
    read = [exact(json.loads(labels), json.loads(answer))[0]
            for labels, answer in zip(rows["labels"], rows["answer_read"], strict=True)]
    return rows["correct"].fillna(pd.Series(read, rows.index, float)).astype(bool)


def agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """How far two scorers agree on the rows that both judged: share of equal verdicts, and Cohen's kappa of choices.

    Kappa is None where both say the same of all rows. Texts are not judged.
    """
    table = []
    for (model, instance), rows in frame.groupby(["model", "instance"], sort=True):
        mode = METRICS[rows["metrics"].iloc[0].split("|")[0]].mode
        parts = {} if mode == "text" else {name: _verdicts(part, mode) for name, part in rows.groupby("scorer")}
        for first, second in combinations(sorted(parts, key=lambda name: (name != "strict", name)), 2):
            both = pd.concat([parts[first], parts[second]], axis=1, join="inner").to_numpy()
            if len(both):
                defined = mode == "choice" and len(set(both.ravel())) > 1
                table.append({"model": model, "data set": instance, "scorer": first, "other": second,
                              "rows": len(both), "agreement": float((both[:, 0] == both[:, 1]).mean()),
                              "kappa": float(cohen_kappa_score(*both.astype(bool).T)) if defined else None})
    return pd.DataFrame(table, columns=["model", "data set", "scorer", "other", "rows", "agreement", "kappa"])
