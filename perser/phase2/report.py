"""The report of an output folder, from its records alone: text and CSV, nothing that a model wrote."""

import re
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from perser.phase2 import aggregate
from perser.phase2.runner import read


def plain(value: object) -> object:
    """A name as it may stand in a table: one line, no control characters, no markup."""
    return re.sub(r"[^\w .,+:/()%#-]", "?", value)[:120] if isinstance(value, str) else value


def write(out: str | Path, reference: str | None = None) -> str:
    """Write `tasks.csv`, `domains.csv` and `report.md` under `out`; gives the report."""
    out, records = Path(out), read(out)
    table = aggregate.tasks(records)
    table.map(plain).to_csv(out / "tasks.csv", index=False)
    made = ", ".join(sorted(set(map(plain, table["synthetic"])) - {""}))
    lines = ["# Phase-2 evaluation", "", f"Synthetic: {made}." if made else "", "", "## Per task",
             "Folds of a group are averaged, each with the same weight. Domains are inferred unless a data set says.",
             "", _markdown(pivot(table, "value")), "", "## Share without an answer", "",
             _markdown(pivot(table[table["main"]], "N/A"))]
    reference = reference or next((name for name in sorted(set(records["model"])) if name.startswith("cascade/")), None)
    if reference in set(records["model"]):
        compared = aggregate.domains(records, reference)
        compared.map(plain).to_csv(out / "domains.csv", index=False)
        lines += ["", f"## Relative improvement over {plain(reference)}", "Mean as published, median and win rate beside "
                  "it; 95 % intervals from resampled audio files. Groups are left out where the reference scores 0 or "
                  "the model answers nothing.", "", _markdown(compared)]
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
