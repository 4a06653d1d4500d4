"""The report of an output folder and its figure, from records alone; it contains no text written by a model."""

import json
import re
from pathlib import Path

import pandas as pd
import seaborn
from matplotlib.figure import Figure
from tabulate import tabulate

from perser import records
from perser.analysis import figures
from perser.phase2 import aggregate
from perser.phase2.metrics import normalised


def plain(value: object) -> object:
    """A name made safe for a table: one line, no control characters, no markup."""
    return re.sub(r"[^\w .,+:/()%#-]", "?", value)[:120] if isinstance(value, str) else value


def write(out: str | Path, reference: str | None = None, normaliser: str = "plain") -> str:
    """Write `tasks.csv`, `domains.csv` and `report.md` under `out`; returns the report.

    `normaliser` is how texts are written before their errors are counted; metrics other than "plain" name theirs.

    Also joins all models into `records.parquet` and `manifest.json`, which is all that a committed folder needs.
    """
    out, frame = Path(out), aggregate.read(out)
    manifests = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/manifest.json"))}
    if manifests:
        records.write(frame, out / "records.parquet")
        records.write_json(manifests, out / "manifest.json")
    frame["metrics"] = [normalised(names, normaliser) for names in frame["metrics"]]
    table = aggregate.tasks(frame)
    table.map(plain).to_csv(out / "tasks.csv", index=False)
    synthetic = ", ".join(sorted(set(map(plain, table["synthetic"])) - {""}))
    lines = ["# Phase-2 evaluation", "", f"Synthetic: {synthetic}." if synthetic else "", "", "## Per task",
             "Folds of a group are averaged with equal weight. Domains are inferred unless the data set states them.",
             "", _markdown(pivot(table, "value")), "", "## Share without an answer", "",
             _markdown(pivot(table[table["main"].astype(bool)], "N/A"))]
    if frame["scorer"].nunique() > 1:
        table = aggregate.agreement(frame)
        table["kappa"] = ["undefined" if pd.isna(kappa) else f"{kappa:.3f}" for kappa in table["kappa"]]
        lines += ["", "## Agreement of scorers", "Share of equal verdicts (for numbers, of equal readings), and "
                  "Cohen's kappa of choices, which is undefined where all verdicts are equal.", "", _markdown(table)]
    models = sorted(set(frame["model"]))
    reference = reference or next((name for name in models if name.startswith("cascade/")), None)
    if reference in models:
        compared = aggregate.domains(frame, reference)
        compared.map(plain).to_csv(out / "domains.csv", index=False)
        lines += ["", f"## Relative improvement over {plain(reference)}", "Mean (as published), median and win rate "
                  "over groups, with 95 % intervals from resampled audio files. Groups are left out where the "
                  "reference scores 0 or the model answers nothing.", "", _markdown(compared)]
    text = "\n".join(lines) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    return text


def pivot(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Groups by models: one column of the per-task table, averaged over folds."""
    keys = ["domain", "kind", "group", "folds", "rows", "metric", "scorer"]
    table = aggregate.average_folds(table).pivot(index=keys, columns="model", values=column)
    return table.reset_index().rename_axis(columns=None)


def _markdown(table: pd.DataFrame) -> str:
    return tabulate(table.map(plain), headers="keys", tablefmt="github", floatfmt=".3f", showindex=False)


@figures.styled
def heat(skill: pd.DataFrame, stamp: str = "") -> Figure:
    """Heat map of models by groups, from the majority answer (0) to a perfect score (1), with the synthetic stamp."""
    figure = Figure(figsize=(3.4, 0.9 + 0.17 * len(skill)))
    axes = figure.subplots()
    shown = skill.rename(columns=short).rename(index=lambda name: short(name.removesuffix("_Embedded")), level="group")
    shown.index = shown.index.get_level_values("group")
    seaborn.heatmap(shown, vmin=-1, vmax=1, cmap="vlag_r", annot=True, fmt=".2f", annot_kws={"fontsize": 5.5},
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


def short(name: str) -> str:
    """A model's name without its folders."""
    return plain(f"{name.split('/')[0]}: {name.rsplit('/', 1)[1]}" if "/" in name else name)
