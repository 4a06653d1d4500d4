"""The report of an output folder and its figure, from records alone: nothing in it is what a model wrote."""

import json
import re
from pathlib import Path

import pandas as pd
import seaborn
from matplotlib.figure import Figure
from tabulate import tabulate

from perser.analysis import figures
from perser.phase2 import aggregate
from perser.records import write as write_frame
from perser.records import write_json


def plain(value: object) -> object:
    """A name as it may stand in a table: one line, no control characters, no markup."""
    return re.sub(r"[^\w .,+:/()%#-]", "?", value)[:120] if isinstance(value, str) else value


def write(out: str | Path, reference: str | None = None) -> str:
    """Write `tasks.csv`, `domains.csv` and `report.md` under `out`; gives the report.

    `records.parquet` and `manifest.json` beside them hold all models: what a committed folder needs.
    """
    out, records = Path(out), aggregate.read(out)
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/manifest.json"))}
    if found:
        write_frame(records, out / "records.parquet")
        write_json(found, out / "manifest.json")
    table = aggregate.tasks(records)
    table.map(plain).to_csv(out / "tasks.csv", index=False)
    made = ", ".join(sorted(set(map(plain, table["synthetic"])) - {""}))
    lines = ["# Phase-2 evaluation", "", f"Synthetic: {made}." if made else "", "", "## Per task",
             "Folds of a group are averaged, each with the same weight. Domains are inferred unless a data set says.",
             "", _markdown(pivot(table, "value")), "", "## Share without an answer", "",
             _markdown(pivot(table[table["main"].astype(bool)], "N/A"))]
    reference = reference or next((name for name in sorted(set(records["model"])) if name.startswith("cascade/")), None)
    if reference in set(records["model"]):
        compared = aggregate.domains(records, reference)
        compared.map(plain).to_csv(out / "domains.csv", index=False)
        lines += ["", f"## Relative improvement over {plain(reference)}", "Mean as published, median and win rate "
                  "beside it; 95 % intervals from resampled audio files. Groups are left out where the reference "
                  "scores 0 or the model answers nothing.", "", _markdown(compared)]
    text = "\n".join(line for line in lines) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    return text


def pivot(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Groups by models: one column of the per-task table, folds averaged."""
    keys = ["domain", "kind", "group", "folds", "rows", "metric", "scorer"]
    wide = aggregate.folds(table).pivot(index=keys, columns="model", values=column)
    return wide.reset_index().rename_axis(columns=None)


def _markdown(table: pd.DataFrame) -> str:
    return tabulate(table.map(plain), headers="keys", tablefmt="github", floatfmt=".3f", showindex=False)


@figures.styled
def heat(skill: pd.DataFrame, made: str = "") -> Figure:
    """Models by groups: how far from the majority answer (0) to a perfect score (1); made: the stamp."""
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
    words = "0: majority control, 1: perfect; blank: no answer"
    figure.supxlabel(words, fontsize=5.5, color="#404040", x=0.01, ha="left")
    if made:
        figure.suptitle(made, x=0.99, ha="right", fontsize=6, color="#b00020", fontstyle="italic")
    return figure


def short(name: str) -> str:
    """A model's name without the folders before it."""
    return plain(f"{name.split('/')[0]}: {name.rsplit('/', 1)[1]}" if "/" in name else name)
