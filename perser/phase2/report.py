"""The report of an output folder and its figure, from records alone; it contains no text written by a model."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from tabulate import tabulate

from perser import records
from perser.analysis import figures
from perser.phase2 import aggregate
from perser.phase2.metrics import METRICS, normalised
from perser.phase2.tasks import catalogue, dimension

INFERRED = " (inferred)"
CONTROLS = ("majority", "random", "oracle")  # they know the labels


def plain(value: Any) -> Any:
    """A name made safe for a table: one line, no control characters, no markup."""
    return re.sub(r"[^\w .,+:/()%#-]", "?", value)[:120] if isinstance(value, str) else value


def write(out: str | Path, reference: str | None = None, folders: Sequence[str | Path] = (),
          normaliser: str = "plain") -> str:
    """Write `tasks.csv`, `rows.csv`, `domains.csv`, `differences.csv` and `report.md` under `out`; returns the report.

    folders: whose records are joined, by default those of `out`. All models are also joined into `records.parquet` and
    `manifest.json`, which is all that a committed folder needs.
    normaliser: how texts are written before their errors are counted; metrics other than "plain" name theirs.
    """
    out, folders = Path(out), list(folders) or [out]
    frame, manifests = aggregate.read(*folders), aggregate.manifests(*folders)
    out.mkdir(parents=True, exist_ok=True)
    records.write(frame, out / "records.parquet")
    if manifests:
        records.seal({"models": manifests}, out / "manifest.json", out / "records.parquet")
    frame = frame.assign(domain=frame["domain"] + np.where(frame["instance"].isin(list(catalogue())), INFERRED, ""),
                         dimension=frame["instance"].map(dimension),
                         metrics=[normalised(names, normaliser) for names in frame["metrics"]])
    table = aggregate.tasks(frame)
    counts = aggregate.counts(frame, manifests)
    tables = {"tasks": table, "rows": counts}
    synthetic = ", ".join(sorted(set(map(plain, table["synthetic"])) - {""}))
    lines = ["# Phase-2 evaluation", "", f"Synthetic: {synthetic}." if synthetic else "", "", "## Per task",
             f"Folds of a group are averaged with equal weight. Domains with{INFERRED} are not the organisers'.",
             "", markdown(pivot(table, "value")), "", "## Share without an answer", "",
             markdown(pivot(table[table["main"].astype(bool)], "N/A")), *_rows(counts, manifests), *_agreement(frame)]
    reference = reference or next((name for name in sorted(set(frame["model"])) if name.startswith("cascade/")), None)
    if reference and {reference} < set(frame["model"]):
        lines += _compared(frame, reference, tables)
    for name, content in tables.items():
        records.inert(content.map(plain)).to_csv(out / f"{name}.csv", index=False)
    text = "\n".join(lines) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    return text


def _compared(frame: pd.DataFrame, reference: str, tables: dict[str, pd.DataFrame]) -> list[str]:
    """The comparison with a reference in words; its tables are added to `tables`."""
    tables["domains"] = aggregate.domains(frame, reference)
    tables["differences"] = aggregate.differences(frame, reference)
    lines = ["", f"## Relative improvement over {plain(reference)}", "Mean (as published), median and win rate over "
             "groups, with 95 % intervals from resampled audio files. Groups are left out where the reference scores 0 "
             "or the model answers nothing. Only questions with a verdict for both models count.", "",
             markdown(tables["domains"])]
    if frame["dimension"].any():
        tables["dimensions"] = aggregate.domains(frame, reference, by="dimension")
        lines += ["", "## The same by the first phase's official dimensions", "", markdown(tables["dimensions"])]
    return [*lines, "", f"## Difference from {plain(reference)} per data set",
            "Main metric, on the questions that both have answers to, with 95 % paired intervals.", "",
            markdown(_gaps(tables["differences"]))]


def scores(out: str | Path, seen: Sequence[str] = ()) -> list[Path]:
    """Write the organisers' score file of each model of a reported folder, `scores/<model>.json`.

    seen: the data sets or tasks that the models were trained on; the organisers ask for it, and records cannot know.
    """
    frame, written = aggregate.read(out), []
    table = aggregate.tasks(frame, resamples=0)
    table = table[(table["scorer"] == "strict") & table["value"].notna()]
    for name, run in aggregate.manifests(out).items():
        entries = []
        for instance, rows in table[table["model"] == run["model"]].groupby("instance", sort=True):
            task = frame.loc[frame["instance"] == instance, "task"].iloc[0]
            entries.append({"name": instance, "scores": [
                {"metric": row.metric, "value": row.value, "version": run["commits"].get(instance, ""),
                 "seen": instance in seen or task in seen} for row in rows.itertuples()]})
        written.append(Path(out) / "scores" / f"{name}.json")
        written[-1].parent.mkdir(exist_ok=True)
        written[-1].write_text(json.dumps(entries, indent=4) + "\n", encoding="utf-8")
    return written


def _rows(counts: pd.DataFrame, manifests: dict[str, dict[str, Any]]) -> list[str]:
    """What became of the rows: a line per model and data set with other than answers, and the commonest errors."""
    kinds = ["none", "missing", "skipped", "ungraded", "unparseable", "truncated", "cut"]
    shown = counts[counts[kinds].sum(axis=1) > 0]
    shown = shown.assign(unparseable=[f"{count} ({count / verdicts:.0%})" if count else "0" for count, verdicts in
                                      zip(shown["unparseable"], shown["verdicts"], strict=True)])
    lines = ["", "## Rows without a usable answer", "none: nothing could be read as an answer; missing: asked "
             "without success; skipped: bad data; ungraded, unparseable: of the graders' verdicts; truncated: ended by "
             "the limit of tokens; cut: only the beginning was heard.", "", markdown(shown) if len(shown) else "None."]
    errors = [f"- {plain(run['model'])}: {count} x {plain(error)}" for run in manifests.values()
              for error, count in run.get("errors", {}).items()]
    return [*lines, *(["", "Commonest errors:", "", *errors] if errors else [])]


def _agreement(frame: pd.DataFrame) -> list[str]:
    """How far the scorers agree, where there is more than one."""
    if frame["scorer"].nunique() < 2:
        return []
    table = aggregate.agreement(frame)
    table["kappa"] = ["undefined" if pd.isna(kappa) else f"{kappa:.3f}" for kappa in table["kappa"]]
    return ["", "## Agreement of scorers", "Share of equal verdicts (for numbers, of equal readings), and Cohen's "
            "kappa of choices, which is undefined where all verdicts are equal.", "", markdown(table)]


def _gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Data sets by models: difference and interval as text."""
    cells = [f"{row.difference:+.3f}" + (f" ({row.low:+.3f} to {row.high:+.3f})" if np.isfinite(row.low) else "")
             if np.isfinite(row.difference) else None for row in table.itertuples()]
    wide = table.assign(cell=cells).pivot(index=["instance", "metric"], columns="model", values="cell")
    return wide.reset_index().rename_axis(columns=None)


def pivot(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Groups by models: one column of the per-task table, averaged over folds; rows are the most of any model."""
    keys = ["domain", "kind", "group", "folds", "rows", "metric", "scorer"]
    table = aggregate.average_folds(table)
    table[["folds", "rows"]] = table.groupby(["group", "metric", "scorer"])[["folds", "rows"]].transform("max")
    table = table.pivot(index=keys, columns="model", values=column)
    return table.reset_index().rename_axis(columns=None)


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """A table with a dash where there is no number."""
    shown = table.map(plain).astype(object)
    return tabulate(shown.where(shown.notna(), None), headers="keys", tablefmt="github", floatfmt=f".{digits}f",
                    missingval="-", showindex=False)


def side_by_side(table: pd.DataFrame, column: str = "value") -> str:
    """Groups by models as Markdown. Bold: the best of those that do not know the labels, if it beats the majority."""
    table = table[table["N/A"] < 1]
    wide = pivot(table, column).drop(columns=["folds", "scorer", "kind"])
    names = [name for name in wide if name in set(table["model"])]
    higher = wide["metric"].map({name: metric.higher for name, metric in METRICS.items()})
    scores = wide[names].astype(float)
    signed = scores.mul(np.where(higher, 1, -1), axis=0)
    own = signed.drop(columns=[name for name in CONTROLS if name in names])
    best = own.eq(own.max(axis=1), axis=0) & own.gt(signed.get("majority", -np.inf), axis=0)
    cells = scores.map(lambda value: "-" if pd.isna(value) else f"{value:.3f}")
    wide[names] = cells.mask(best.reindex(columns=names, fill_value=False) & (column == "value"), "**" + cells + "**")
    return tabulate(wide.rename(columns=lambda name: short(name).replace(": ", "<br>")), headers="keys",
                    tablefmt="pipe", showindex=False, disable_numparse=True)


@figures.styled
def heat(skill: pd.DataFrame, stamp: str = "") -> Figure:
    """Heat map of models by groups, from the majority answer (0) to a perfect score (1), with the synthetic stamp."""
    figure = Figure(figsize=(3.4, 0.9 + 0.17 * len(skill)))
    axes = figure.subplots()
    shown = skill.rename(columns=short).rename(index=lambda name: short(name.removesuffix("_Embedded")), level="group")
    shown.index = shown.index.get_level_values("group")
    numbers = shown.map(lambda value: f"{value:.2f}" if value > -10 else "< -10")
    seaborn.heatmap(shown, vmin=-1, vmax=1, cmap="vlag_r", annot=numbers, fmt="", annot_kws={"fontsize": 5.5},
                    cbar=False, linewidths=0.5, xticklabels=True, yticklabels=True, ax=axes)
    axes.set(xlabel="", ylabel="")
    axes.grid(False)
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    axes.set_xticklabels(axes.get_xticklabels(), rotation=20, ha="right", rotation_mode="anchor")
    figure.supxlabel("0: majority control, 1: perfect; blank: no answer", fontsize=5.5, color="#404040", x=0.01,
                     ha="left")
    if stamp:
        figure.suptitle(stamp, x=0.99, ha="right", fontsize=6, color="#b00020", fontstyle="italic")
    return figure


@figures.styled
def radar(skill: pd.DataFrame, stamp: str = "") -> Figure:
    """Models over domains on one scale, 0 the majority control (dashed) and 1 perfect; no corner where none answered.

    skill: as of `aggregate.skill`, cut at -1 and averaged here over the groups of each domain.
    """
    means = skill.clip(-1, 1).groupby(level="domain").mean()  # or one wild number would hide the rest
    angles = np.linspace(0, 2 * np.pi, len(means), endpoint=False)
    figure = Figure(figsize=(3.4, 3.4))
    axes: Any = figure.add_subplot(projection="polar")
    axes.set_theta_zero_location("N")
    for model, values in means.drop(columns="majority", errors="ignore").items():
        axes.plot([*angles, angles[0]], [*values, values.iloc[0]], marker=".", linewidth=1, label=short(model))
    axes.plot(np.linspace(0, 2 * np.pi, 100), np.zeros(100), color="#404040", linestyle="--", linewidth=0.6)
    axes.set(xticks=angles, xticklabels=list(means.index), ylim=(-1, 1), yticks=[-1, 0, 1])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=5.5, frameon=False)
    if stamp:
        figure.suptitle(stamp, x=0.99, ha="right", fontsize=6, color="#b00020", fontstyle="italic")
    return figure


def short(name: str) -> str:
    """A model's name without its folders."""
    return plain(f"{name.split('/')[0]}: {name.rsplit('/', 1)[1]}" if "/" in name else name)
