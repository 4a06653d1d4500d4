"""Tables: printed cells and full-precision numbers, the generic tables of scores and of differences, and writing."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from perser.analysis import wording
from perser.analysis.statistics import Interval, bootstrap_interval, paired_difference, select
from perser.records import Run
from perser.scores import SETTINGS, per_seed

CHANCE = "Chance"
TICK = "✓"
TESTED = ("Differences are {}. p: random signs over listeners, Holm-corrected over the rows. Sd of seeds: standard "
          "deviation between seeds of the mean difference.")
LATEX = str.maketrans({  # pandas' own escaping leaves out the caption and the last four
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", TICK: r"$\checkmark$"})


class Table(NamedTuple):
    """Cells as printed, which of them are bold, the same rows in full precision, rows that a rule stands before."""

    cells: pd.DataFrame
    bold: pd.DataFrame
    numbers: pd.DataFrame
    breaks: tuple[int, ...] = ()


Captioned = tuple[Table, str]


def build(cells: pd.DataFrame, numbers: pd.DataFrame, bold: tuple[str, ...] = (),
          block: pd.Series | pd.DataFrame | None = None) -> Table:
    """A table. bold: columns whose best printed mean of each K is bold, ties too; block: a rule where it changes."""
    block = pd.DataFrame(index=cells.index) if block is None else pd.DataFrame(block)
    breaks = np.flatnonzero((block != block.shift()).any(axis=1))[1:]
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    for column in bold:
        adapts = ~cells["K"].isin(["-", "all"])
        means = cells.loc[adapts, column].str.split().str[0].replace("-", "nan").astype(float)
        best.loc[adapts, column] = means == means.groupby(cells.loc[adapts, "K"]).transform("max")
    return Table(cells, best, numbers, tuple(int(row) for row in breaks))


def score_table(run: Run, seed: int = 0, score: str = "f1") -> Table:
    """A score ("f1" or "accuracy") of every method and number of shots, seen and unseen, and the gain over SSL-E.

    Rows: chance (of macro F1 only), methods without shots, then the methods at each number of shots. Numbers are in
    points, with the interval over listeners and seeds; gains are paired by both. `seed` is the bootstrap's.
    """
    return printed_scores(run, score_rows(run, wording.baseline(run), seed, score))


def score_tables(run: Run, table=None, caption=None) -> dict[str, Captioned]:
    """A table of macro F1 under the experiment's name and one of accuracy; `score_table` unless others are given."""
    table, caption = table or score_table, caption or score_caption
    return {run.manifest.experiment + end: (table(run, score=score), caption(run, score=score))
            for score, end in (("f1", ""), ("accuracy", "-accuracy"))}


def score_rows(run: Run, baseline: str | None, seed: int = 0, score: str = "f1", chance: bool = True) -> pd.DataFrame:
    """The numbers of `score_table`, with gains over any baseline."""
    wording.labels(run.records)
    scores = per_seed(run.records)
    cells = sorted(dict.fromkeys(zip(scores["method"], scores["shots"])), key=lambda cell: cell[1])
    rows = [_chance(scores, seed)] if chance and score == "f1" else []
    return pd.DataFrame(rows + [_row(scores, method, int(shots), baseline, seed, score) for method, shots in cells])


def _row(scores: pd.DataFrame, method: str, shots: int, baseline: str | None, seed: int, score: str) -> dict:
    row = {"method": method, "shots": shots}
    for setting in SETTINGS:
        row |= _points(setting, bootstrap_interval(select(scores, method, setting, shots, score), seed))
    for setting in SETTINGS:
        gain = Interval(np.nan, np.nan, np.nan, 0)
        if method != baseline and baseline in set(scores["method"]):
            gain = bootstrap_interval(paired_difference(scores, method, baseline, setting, shots, score), seed)
        row |= _points(f"gain_{setting}", gain)
    rows = scores[(scores["method"] == method) & (scores["shots"] == shots)]
    return row | {"records": int(rows["records"].sum())}


def _chance(scores: pd.DataFrame, seed: int) -> dict:
    """The score of ticking every class, on the queries of the first row."""
    first = scores.iloc[0]
    rows = scores[(scores["method"] == first["method"]) & (scores["shots"] == first["shots"])]
    row = {"method": CHANCE, "shots": 0, "records": int(rows["records"].sum())}
    for setting in SETTINGS:
        chance = select(rows, first["method"], setting, first["shots"], score="chance")
        row |= _points(setting, bootstrap_interval(chance, seed))
    return row


def _points(name: str, interval: Interval) -> dict:
    """An interval as columns, in points."""
    return {name: 100 * interval.mean, f"{name}_low": 100 * interval.low, f"{name}_high": 100 * interval.high,
            f"{name}_listeners": int(interval.listeners)}


def printed_scores(run: Run, numbers: pd.DataFrame, block: pd.Series | None = None) -> Table:
    """The printed form of `score_rows`, and of their groups if they have a column of these."""
    groups = {"Group": group.where(group != group.shift(), "") for group in [numbers.get("group")] if group is not None}
    cells = pd.DataFrame({
        **groups, "Method": numbers["method"].map(run.title),
        "K": [wording.shots(run, method, shots) for method, shots in zip(numbers["method"], numbers["shots"])],
        **{setting.capitalize(): _printed(numbers, setting) for setting in SETTINGS},
        **{f"Gain {setting}": _printed(numbers, f"gain_{setting}", sign="+") for setting in SETTINGS},
        "Records": numbers["records"].astype(str)})
    return build(cells, numbers, ("Seen", "Unseen"), block)


def _printed(numbers: pd.DataFrame, name: str, sign: str = "") -> list[str]:
    return [interval_text(*values, sign) for values in zip(*(numbers[name + end] for end in ("", "_low", "_high")))]


def score_caption(run: Run, *sentences: str, within: str = "", score: str = "f1") -> str:
    """The caption of a score table; within: what each gain is taken on, for a table of several runs."""
    return wording.caption(run, f"Gain: over {wording.over(run)}{within}, {wording.pairing(run)}.", wording.BEST,
                           f"{CHANCE}: every class ticked for every clip." if score == "f1" else "", *sentences,
                           wording.COUNTED, score=score)


def runs_table(runs: dict[str, Run], column: str, seed: int = 0) -> Table:
    """The score tables of several runs at the largest number of shots; column: heading of the runs' names."""
    parts = [score_table(at_most_shots(run), seed).numbers.assign(group=name) for name, run in runs.items()]
    numbers = pd.concat(parts, ignore_index=True)
    chance = numbers["method"] == CHANCE  # it stands once if it is the same for all runs
    if len(numbers[chance].drop(columns="group").drop_duplicates()) == 1:
        numbers.loc[chance, "group"] = ""
        numbers = numbers.drop_duplicates(ignore_index=True)
    table = printed_scores(wording.join_runs(list(runs.values())), numbers, numbers["group"])
    cells, bold = (part.rename(columns={"Group": column}) for part in table[:2])
    return Table(cells, bold, numbers.rename(columns={"group": column.lower()}), table.breaks)


def at_most_shots(run: Run) -> Run:
    """A run's records at no and at its largest number of shots."""
    return run._replace(records=run.records[run.records["shots"].isin([0, run.records["shots"].max()])])


def comparison_table(run: Run, rows: pd.DataFrame) -> Table:
    """Rows of `statistics.compare_methods`, in points: each method against its baseline."""
    return difference_table(rows, {"Method": rows["method"].map(run.title)}, "Difference", ["setting"],
                            Against=rows["baseline"].map(run.title))


def difference_table(rows: pd.DataFrame, first: dict[str, pd.Series], name: str, block: list[str],
                     **last: pd.Series) -> Table:
    """Paired differences (as from `statistics.effect`) in points, after what is compared, setting, shots and `last`."""
    numbers = rows.assign(**{column: 100 * rows[column] for column in ("mean", "low", "high", "between_seeds")})
    cells = pd.DataFrame({
        **first, "Clips": rows["setting"], "K": rows["shots"].astype(str), **last,
        name: [interval_text(*row, "+") for row in zip(numbers["mean"], numbers["low"], numbers["high"])],
        "Listeners ahead": [f"{round(share * number)} of {number}" if number else "-"
                            for share, number in zip(numbers["ahead"].fillna(0), numbers["listeners"])],
        "p (Holm)": [p_text(p) for p in numbers["p_holm"]],
        "Sd of seeds": [interval_text(sd, np.nan, np.nan) for sd in numbers["between_seeds"]]})
    return build(cells, numbers, block=numbers[block])


def comparison_caption(run: Run, *sentences: str) -> str:
    """The caption of paired differences; sentences: what each row is compared with."""
    number = run.records["listener"].nunique()
    few = f"With {number} listeners p is at least {2 / 2**number:.2g} before the correction." if number < 10 else ""
    return wording.caption(run, *sentences, TESTED.format(wording.pairing(run)), few)


def interval_text(mean: float, low: float, high: float, sign: str = "") -> str:
    """A mean with its interval, one decimal; "-" for no mean, no brackets for no interval.

    >>> interval_text(35.76, 33.91, 37.7), interval_text(1.0, -0.2, 2.1, "+"), interval_text(3.0, np.nan, np.nan)
    ('35.8 [33.9, 37.7]', '+1.0 [-0.2, +2.1]', '3.0')
    """
    if np.isnan(mean):
        return "-"
    bounds = "" if np.isnan(low) else f" [{low:{sign}z.1f}, {high:{sign}z.1f}]"
    return f"{mean:{sign}z.1f}{bounds}"


def p_text(p: float) -> str:
    """A p-value in print: "0.012", "<0.001", or "-" for nan."""
    return "-" if np.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def markdown(table: Table, caption: str) -> str:
    """GitHub Markdown: the caption, then the table."""
    cells = table.cells.map(lambda cell: cell.replace("|", "\\|"))
    cells = cells.where(~table.bold, cells.map(lambda cell: _first_word(cell, "**{}**")))
    return f"{caption}\n\n{cells.to_markdown(index=False, disable_numparse=True)}\n"


def latex(table: Table, caption: str) -> str:
    """A booktabs table, every cell and the caption escaped."""
    style = table.cells.style.hide(axis="index").format(_latex_cell)
    style.format_index(lambda name: name.translate(LATEX), axis=1)
    for column in table.cells:
        style.format(lambda cell: _first_word(_latex_cell(cell), r"\textbf{{{}}}"),
                     subset=(table.bold[column], [column]))
    numeric = (table.cells[column].str.match(r"[-+<]?\d|-$|all$|$").all() for column in table.cells)
    columns = "".join("r" if number else "l" for number in numeric)
    lines = style.to_latex(hrules=True, caption=caption.translate(LATEX), column_format=columns).splitlines()
    first = lines.index(r"\midrule") + 1
    for row in reversed(table.breaks):
        lines.insert(first + row, r"\midrule")
    return "\n".join(lines) + "\n"


def _latex_cell(cell: str) -> str:
    """A cell escaped, with minus signs instead of hyphens."""
    return re.sub(r"-(?=\d|$)", "$-$", cell.translate(LATEX))


def _first_word(cell: str, mark: str) -> str:
    """A cell with its first word, the mean, marked; the interval stays in regular type."""
    return re.sub(r"^\S+", lambda match: mark.format(match[0]), cell)


def write(table: Table, caption: str, stem: Path) -> list[Path]:
    """Write STEM.md, STEM.tex and STEM.csv (full precision, no caption)."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    contents = {".md": markdown(table, caption), ".tex": latex(table, caption),
                ".csv": table.numbers.to_csv(index=False, lineterminator="\n")}
    for end, content in contents.items():
        stem.with_name(stem.name + end).write_text(content)
    return [stem.with_name(stem.name + end) for end in contents]
