"""The tables: records in; printed cells, full-precision numbers and a caption that says what they are out."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from perser import captions
from perser.intervals import Interval, interval, paired, select
from perser.scores import SETTINGS, per_listener

CHANCE = "Chance"
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


class Table(NamedTuple):
    """cells: text as printed; bold: which of them, same shape; numbers: the same rows in full precision."""

    cells: pd.DataFrame
    bold: pd.DataFrame
    numbers: pd.DataFrame


def main_table(records: pd.DataFrame, seed: int = 0) -> Table:
    """Macro F1 of every method and number of shots, seen and unseen side by side, and the gain over SSL-E.

    Rows: chance, methods without shots, then every number of shots with its methods. Numbers are in points
    (percent), with the interval over listeners; the gain is paired by listener. `seed` is the bootstrap's.
    """
    captions.labels(records)
    scores = per_listener(records)
    rows = [_chance(scores, seed)]
    rows += [_row(scores, method, int(shots), seed) for method, shots in _cells(scores)]
    numbers = pd.DataFrame(rows)
    cells = pd.DataFrame(
        {
            "Method": numbers["method"].map(captions.title),
            "K": [str(shots) if shots else "-" for shots in numbers["shots"]],
            **{setting.capitalize(): _printed(numbers, setting) for setting in SETTINGS},
            **{f"Gain {setting}": _printed(numbers, f"gain_{setting}", sign="+") for setting in SETTINGS},
            "Records": numbers["records"].astype(str),
        }
    )
    return Table(cells, _best(cells, [setting.capitalize() for setting in SETTINGS]), numbers)


def _cells(scores: pd.DataFrame) -> list[tuple[str, int]]:
    """(method, shots) in print order: by shots, then as in the records."""
    return sorted(dict.fromkeys(zip(scores["method"], scores["shots"])), key=lambda cell: cell[1])


def _row(scores: pd.DataFrame, method: str, shots: int, seed: int) -> dict:
    row = {"method": method, "shots": shots}
    for setting in SETTINGS:
        row |= _numbers(setting, interval(select(scores, method, setting, shots), seed))
    for setting in SETTINGS:
        gain = Interval(np.nan, np.nan, np.nan, 0)
        if shots and captions.BASELINE in set(scores["method"]):
            gain = interval(paired(scores, method, captions.BASELINE, setting, shots), seed)
        row |= _numbers(f"gain_{setting}", gain)
    mine = scores[(scores["method"] == method) & (scores["shots"] == shots)]
    return row | {"records": int(mine["records"].sum())}


def _chance(scores: pd.DataFrame, seed: int) -> dict:
    """What ticking every class gets on the very queries of the first row's records."""
    first = scores[
        (scores["method"] == scores["method"].iloc[0]) & (scores["shots"] == scores["shots"].iloc[0])
    ]
    row = {"method": CHANCE, "shots": 0, "records": int(first["records"].sum())}
    for setting in SETTINGS:
        row |= _numbers(setting, interval(first.loc[first["setting"] == setting, "chance"], seed))
    return row


def _numbers(name: str, found: Interval) -> dict:
    """An interval as columns, in points."""
    return {
        name: 100 * found.mean,
        f"{name}_low": 100 * found.low,
        f"{name}_high": 100 * found.high,
        f"{name}_listeners": int(found.listeners),
    }


def _printed(numbers: pd.DataFrame, name: str, sign: str = "") -> list[str]:
    return [text(*values, sign) for values in zip(*(numbers[name + end] for end in ("", "_low", "_high")))]


def text(mean: float, low: float, high: float, sign: str = "") -> str:
    """A mean with its interval, one decimal; "-" for no mean, no brackets for no interval.

    >>> text(35.76, 33.91, 37.7), text(1.0, -0.2, 2.1, "+"), text(3.0, float("nan"), float("nan"))
    ('35.8 [33.9, 37.7]', '+1.0 [-0.2, +2.1]', '3.0')
    """
    if np.isnan(mean):
        return "-"
    bounds = "" if np.isnan(low) else f" [{low:{sign}z.1f}, {high:{sign}z.1f}]"
    return f"{mean:{sign}z.1f}{bounds}"


def _best(cells: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """True where the printed mean is the highest among rows of the same K; ties are all best."""
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    adapts = cells["K"] != "-"
    for column in columns:
        means = cells.loc[adapts, column].str.split().str[0].replace("-", "nan").astype(float)
        bold.loc[adapts, column] = means == means.groupby(cells.loc[adapts, "K"]).transform("max")
    return bold


def main_caption(records: pd.DataFrame, manifest: dict) -> str:
    """What the main table shows, of what, and how sure it is."""
    made, few = captions.stamp(records), records["listener"].nunique() < 10
    parts = [
        f"{made.capitalize()}." if made else "",
        f"Macro F1 in points, mean over listeners with the 95 % bootstrap interval over listeners: "
        f"{captions.source(records)}.",
        "So few listeners make the interval narrower than it should be." if few else "",
        "The listener is held out in both settings; seen: clips that were trained on with other listeners' "
        "ratings, unseen: clips of sessions that were not.",
        "Gain: over SSL-E, paired by listener.",
        "Bold: best printed mean for the same K.",
        f"{CHANCE}: every class ticked for every clip.",
        "Records: rows of records.parquet behind the line.",
        _provenance(manifest),
    ]
    return " ".join(part for part in parts if part)


def _provenance(manifest: dict) -> str:
    commit = manifest.get("commit")
    changed = " with uncommitted changes" if manifest.get("dirty") else ""
    machine = manifest.get("machine", {})
    return (
        f"Run: settings {manifest['config_digest']}, data {manifest['data']}, "
        + (f"commit {commit[:10]}{changed}, " if commit else "")
        + f"{machine.get('cpu', 'unknown processor')}, {captions.count(machine.get('cores', 1), 'core')}."
    )


def markdown(table: Table, caption: str) -> str:
    """GitHub Markdown: the caption, then the table."""
    cells = _marked(table.cells.map(lambda cell: cell.replace("|", "\\|")), table.bold, "**{}**")
    return f"{caption}\n\n{cells.to_markdown(index=False, disable_numparse=True)}\n"


def latex(table: Table, caption: str) -> str:
    """A booktabs table, every cell and the caption escaped."""
    cells = table.cells.map(lambda cell: re.sub(r"-(?=\d|$)", "$-$", escaped(cell)))
    cells = _marked(cells, table.bold, r"\textbf{{{}}}")
    cells.columns = [escaped(name) for name in cells]
    columns = "ll" + "r" * (cells.shape[1] - 2)
    return cells.to_latex(index=False, escape=False, caption=escaped(caption), column_format=columns)


def _marked(cells: pd.DataFrame, bold: pd.DataFrame, mark: str) -> pd.DataFrame:
    """Cells with the mean of each bold one marked: the interval stays in regular type."""
    marked = cells.map(lambda cell: re.sub(r"^\S+", lambda found: mark.format(found[0]), cell))
    return cells.where(~bold.set_axis(cells.columns, axis=1), marked)


def escaped(plain: str) -> str:
    r"""Text that LaTeX prints as it stands.

    >>> escaped("95 % of a_b")
    '95 \\% of a\\_b'
    """
    return "".join(_LATEX.get(letter, letter) for letter in plain)


def write(table: Table, caption: str, stem: Path) -> list[Path]:
    """Write STEM.md, STEM.tex and STEM.csv (full precision, no caption)."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + end) for end in (".md", ".tex", ".csv")]
    for path, content in zip(
        paths,
        (
            markdown(table, caption),
            latex(table, caption),
            table.numbers.to_csv(index=False, lineterminator="\n"),
        ),
    ):
        path.write_text(content)
    return paths
