"""Tables: printed cells and full-precision numbers, the generic tables of scores and of differences, and writing."""

import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from perser.analysis import comparison, wording
from perser.records import Run, inert, write_text
from perser.scores import CONSTANT, HEADLINE, SCORES, per_seed

TICK = "✓"
KEYS = ("Clips", "Method", "K")  # of a row
COMPACT = (*KEYS, "Accuracy", "Gain, accuracy", "Gain, log loss", "Personal part, log loss", "Worse")
TESTED = ("Positive is better. Differences are {}. p: from the same variance as the interval, Holm-corrected over the "
          "rows of a score. Sd of seeds: standard deviation between seeds of the mean difference.")
CONSTANT_NOTE = (f"{CONSTANT}: the same for all clips, the best for each listener's own ticks: the class ticked most, "
                 "the shares of the ticks and, for macro F1, all classes that the threshold rule can tick.")
TRAINING = ("Epoch 0: share of splits in which no epoch of meta-training was better than its start. Largest dev loss / "
            "start: the largest over all splits.")
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
          block: pd.Series | pd.DataFrame | None = None, rivals: pd.Series | None = None) -> Table:
    """A table. block: a rule stands where it changes. bold: columns whose highest printed mean among the `rivals` (a
    mask of rows) of a block is bold, ties too.
    """
    block = pd.DataFrame(index=cells.index) if block is None else pd.DataFrame(block)
    breaks = np.flatnonzero((block != block.shift()).any(axis=1))[1:]
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    for column in bold:
        means = cells.loc[rivals, column].str.split().str[0].replace("-", "nan").astype(float)
        best.loc[rivals, column] = means == means.groupby(list(block[rivals].T.to_numpy())).transform("max")
    return Table(cells, best, numbers, tuple(int(row) for row in breaks))


def score_table(run: Run, baseline: str | None = None) -> Table:
    """Log loss, accuracy and macro F1 of every method, setting and number of shots, with gain and personal part.

    Rows and numbers are those of `comparison.rows`; gains are over the baseline, by default SSL-E.
    """
    return printed_scores(run, comparison.rows(run, baseline))


def score_tables(run: Run) -> dict[str, Captioned]:
    """`score_table` under the experiment's name, and `levels_table`."""
    return {run.manifest.experiment: (score_table(run), score_caption(run)), "scores": levels_table(run)}


def printed_scores(run: Run, rows: pd.DataFrame, first: tuple[str, ...] = ()) -> Table:
    """`comparison.rows` in print, a line per method; first: columns of the rows that come first and part the table."""
    keys = [*first, "setting", "shots", "method", "group"]
    names = [name for name in HEADLINE if name in set(rows["score"])]
    wide = rows.pivot(index=keys, columns="score").loc[rows.set_index(keys).index.unique()]
    lines = wide.index.to_frame(index=False)
    cells = {column.capitalize(): lines[column].where(lines[column] != lines[column].shift(), "") for column in first}
    cells |= {"Clips": lines["setting"], "Method": lines["method"].map(run.title),
              "K": [wording.shots(run, *cell) for cell in zip(lines["method"], lines["shots"])]}
    for name in names:
        part = wide.xs(name, axis=1, level="score").reset_index(drop=True)
        cells[SCORES[name].title] = [interval_text(level, np.nan, np.nan) for level in part["level"]]
        for column, words in comparison.PARTS.items():
            values = zip(*(part[column + end] for end in ("", "_low", "_high")))
            cells[f"{words}, {SCORES[name].words}"] = [interval_text(mean, low, high, "+")
                                                         for mean, low, high in values]
    worse = wide.xs(names[0], axis=1, level="score").reset_index(drop=True)
    cells["Worse"] = ["-" if np.isnan(share) else f"{round(share * number)} of {number:.0f}"
                      for share, number in zip(worse["worse"], worse["listeners"])]
    cells = pd.DataFrame(cells | _training(run, lines["method"]))
    numbers = wide.set_axis([f"{part}_{name}" for part, name in wide.columns], axis=1).reset_index()
    bold = tuple(column for column in cells if column.startswith(tuple(comparison.PARTS.values())))
    rivals = lines["shots"].gt(0) & lines["group"].isin([wording.SIMPLE, wording.META])
    table = build(cells, numbers, bold, lines[[*first, "setting", "shots"]], rivals)
    for name in names:  # a method that loses is not the best one
        columns = [f"{words}, {SCORES[name].words}" for words in comparison.PARTS.values()]
        table.bold.loc[cells[columns[0]].str.startswith("-"), columns] = False
    return table


def _training(run: Run, methods: pd.Series) -> dict[str, pd.Series]:
    """Columns on the meta-training of each line's method, where the run knows."""
    splits = comparison.training(run)
    if splits.empty:
        return {}
    start = splits["epoch"].eq(0).groupby(splits["method"]).mean().map("{:.0%}".format)
    rise = splits.groupby("method")["rise"].max().map("{:.2g}".format)
    return {"Epoch 0": methods.map(start).fillna("-"), "Largest dev loss / start": methods.map(rise).fillna("-")}


def score_caption(run: Run, *sentences: str, over: str = "") -> str:
    """The caption of a score table; over: what each gain is over, if not SSL-E on the same run."""
    alone = run.exchanged is None
    worst = SCORES["log_loss" if "log_loss" in run.records else "accuracy"].words
    bound = [f"{run.title(method)}: the best of several adaptations to all other ratings of the listener; "
             f"{_bounded(run, method)}." for method in wording.methods(run, wording.BOUND)]
    return wording.caption(
        run, f"Gain: over {over or wording.over(run)}, positive is better, {wording.pairing(run)}.",
        "Personal part: -, since the run has no results with somebody else's shots." if alone else
        "Personal part: own shots minus somebody else's (another test listener's), paired in the same way.",
        f"Worse: listeners whose {worst} is worse than that.", CONSTANT_NOTE, *bound, *sentences, wording.BEST,
        *([TRAINING, comparison.risen(run)] if len(comparison.training(run)) else []))


def _bounded(run: Run, method: str) -> str:
    """In which scores and settings adaptation to all ratings is an upper bound: better than every other method there.

    A part of a run may show fewer methods: all of these count.
    """
    if run.records.duplicated(["method", "setting", "fold", "seed", "listener", "shots", "inner_steps"]).any():
        return "where it is an upper bound, the table shows"  # several runs in one table
    means = per_seed(comparison.largest(run).records).groupby(["setting", "method"], sort=False).mean(numeric_only=True)
    names = [f"{SCORES[name].words} ({setting})" for name in HEADLINE if name in means
             for setting, part in means[name].groupby("setting", sort=False)
             if (SCORES[name].factor * part).idxmax() == (setting, method)]
    if not names:
        return "another method is better in every score: no upper bound"
    return f"an upper bound in {', '.join(names)}"


def compact_table(run: Run, methods: Iterable[str] = ()) -> Table:
    """`score_table` at the largest number of shots, of some methods (by default all): only the columns COMPACT."""
    run = comparison.largest(run)
    table = score_table(comparison.of(run, methods) if methods else run)
    columns = [name for name in COMPACT if name in table.cells]
    return table._replace(cells=table.cells[columns], bold=table.bold[columns])


def levels_table(run: Run) -> Captioned:
    """Every score of every method, also with somebody else's shots, per listener and pooled."""
    numbers = comparison.levels(run)
    others = numbers["shots_of"].map({"own": "", "other": ", somebody else's shots"})
    cells = {"Clips": numbers["setting"], "Method": numbers["method"].map(run.title) + others,
             "K": [wording.shots(run, *cell) for cell in zip(numbers["method"], numbers["shots"])]}
    for name in [name for name in SCORES if name in numbers]:
        values = zip(numbers[name], numbers[f"{name}_pooled"])
        cells[SCORES[name].title] = ["-" if np.isnan(one) else f"{one:.1f} ({pooled:.1f})" for one, pooled in values]
    cells["Records"] = numbers["records"].astype(str)
    return build(pd.DataFrame(cells), numbers, block=numbers[["setting", "shots"]]), wording.caption(
        run, "Balanced accuracy: mean recall of the most "
        "probable class. Brier score and calibration error (expected, ten bins) in hundredths. Somebody else's shots: "
        "those of another test listener.", CONSTANT_NOTE, "Records: rows of records.parquet behind the line.",
        brackets="pooled, i.e. from the counts of all listeners together")


def runs_table(runs: dict[str, Run], column: str) -> Table:
    """The score tables of several runs at the largest number of shots; column: heading of the runs' names."""
    parts = [comparison.rows(comparison.largest(run)).assign(**{column: name}) for name, run in runs.items()]
    return printed_scores(wording.join_runs(list(runs.values())), pd.concat(parts, ignore_index=True), (column,))


def comparison_table(run: Run, rows: pd.DataFrame) -> Table:
    """Rows of `statistics.compare_methods`: each method against its baseline."""
    return difference_table(rows, {"Method": rows["method"].map(run.title)}, "Difference", ["score", "setting"],
                            Against=rows["baseline"].map(run.title))


def difference_table(rows: pd.DataFrame, first: dict[str, pd.Series], name: str, block: list[str],
                     **last: pd.Series) -> Table:
    """Paired differences (as from `statistics.effect`) after the score, what is compared, setting, shots and `last`."""
    cells = pd.DataFrame({
        "Score": rows["score"].map(lambda score: SCORES[score].title), **first, "Clips": rows["setting"],
        "K": rows["shots"].astype(str), **last,
        name: [interval_text(*row, sign="+") for row in zip(rows["mean"], rows["low"], rows["high"])],
        "Listeners ahead": [f"{round(share * number)} of {number}" if number else "-"
                            for share, number in zip(rows["ahead"].fillna(0), rows["listeners"])],
        "p (Holm)": [p_text(p) for p in rows["p_holm"]],
        "Sd of seeds": [interval_text(sd, np.nan, np.nan) for sd in rows["between_seeds"]]})
    return build(cells, rows, block=rows[block])


def comparison_caption(run: Run, *sentences: str) -> str:
    """The caption of paired differences; sentences: what each row is compared with."""
    return wording.caption(run, *sentences, TESTED.format(wording.pairing(run)))


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
    """GitHub Markdown: what the caption shows, the table, and a fold with the rest of the caption if there is more.

    Every cell and the caption are escaped.
    """
    shown, *more = caption.split(wording.FOLD)
    inside = "".join(f"<p>{html.escape(part, False)}</p>" for part in more)
    fold = ["", f"<details><summary>Definitions and origin</summary>{inside}</details>"]  # no blank line: one block
    shown, cells = escaped(shown), table.cells.map(escaped)
    cells = cells.where(~table.bold, cells.map(lambda cell: _first_word(cell, "**{}**")))
    cells.columns = [*map(escaped, cells.columns)]
    return "\n".join([shown, "", cells.to_markdown(index=False, disable_numparse=True), *fold * bool(more), ""])


def escaped(text: str) -> str:
    r"""Text that Markdown shows as it is: no HTML, links, code, emphasis, columns or lines of its own.

    >>> escaped("p <0.001 [+0.1, +0.2]"), escaped("<b>*a*</b> | [x](y)")
    ('p <0.001 [+0.1, +0.2]', '&lt;b>\\*a\\*&lt;/b> \\| [x]\\(y)')
    """
    text = re.sub(r"[\x00-\x1f\x85\u2028\u2029]+", " ", text)
    text = re.sub(r"([\\`*|]|(?<!\w)_|_(?!\w)|(?<=\])[(\[])", r"\\\1", text)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))


def plain(frame: pd.DataFrame, digits: int = 1) -> str:
    """Any frame as Markdown without its index: floats with so many digits, nothing for nan, other text escaped.

    >>> print(plain(pd.DataFrame({"a|b": ["<i>", None], "c": [0.25, np.nan]})))
    | a\\|b   |   c |
    |:-------|----:|
    | &lt;i> | 0.2 |
    |        |     |
    """
    def text(cell: object) -> str:
        if pd.isna(cell):
            return ""
        return f"{cell:z.{digits}f}" if isinstance(cell, float) else escaped(str(cell))

    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    cells = frame.map(text).rename(columns=text)
    return cells.to_markdown(index=False, disable_numparse=True,
                             colalign=["right" if number else "left" for number in numeric])


def narrow(table: Table, width: int) -> str:
    """For a terminal of `width` columns: what a row is about, then gains, personal parts and scores while they fit."""
    names = sorted(table.cells, key=lambda name: ([*KEYS, name].index(name), not name.startswith("Gain"),
                                                  not name.startswith("Personal")))
    shown = names[:1]
    for name in names[1:]:
        columns = table.cells[[*shown, name]]
        if sum(2 + max(len(name), *columns[name].map(len)) for name in columns) - 2 <= width or name in KEYS:
            shown.append(name)
    return table.cells[shown].to_markdown(index=False, disable_numparse=True, tablefmt="simple")


def latex(table: Table, caption: str) -> str:
    """A booktabs table, every cell and the caption escaped, after comments with what the caption folds away."""
    shown, *more = caption.split(wording.FOLD)
    style = table.cells.style.hide(axis="index").format(_latex_cell)
    style.format_index(lambda name: name.translate(LATEX), axis=1)
    for column in table.cells:
        style.format(lambda cell: _first_word(_latex_cell(cell), r"\textbf{{{}}}"),
                     subset=(table.bold[column], [column]))
    numeric = (table.cells[column].str.match(r"[-+<]?\d|-$|all$|$").all() for column in table.cells)
    columns = "".join("r" if number else "l" for number in numeric)
    lines = style.to_latex(hrules=True, caption=_latex_words(shown), column_format=columns).split("\n")
    first = lines.index(r"\midrule") + 1
    for row in reversed(table.breaks):
        lines.insert(first + row, r"\midrule")
    return "\n".join([*(f"% {_latex_words(part)}" for part in more), *lines]).rstrip("\n") + "\n"


def _latex_cell(cell: str) -> str:
    """A cell escaped, with minus signs instead of hyphens."""
    return re.sub(r"-(?=\d|$)", "$-$", _latex_words(cell))


def _latex_words(text: str) -> str:
    """A text escaped, in one line."""
    return re.sub(r"\s+", " ", text).translate(LATEX)


def _first_word(cell: str, mark: str) -> str:
    """A cell with its first word, the mean, marked; the interval stays in regular type."""
    return re.sub(r"^\S+", lambda match: mark.format(match[0]), cell)


def write(table: Table, caption: str, stem: Path) -> list[Path]:
    """Write STEM.md, STEM.tex and STEM.csv (full precision, no caption, no formula), each whole or not at all."""
    contents = {".md": markdown(table, caption), ".tex": latex(table, caption),
                ".csv": inert(table.numbers).to_csv(index=False, lineterminator="\n")}
    for end, content in contents.items():
        write_text(content, stem.with_name(stem.name + end))
    return [stem.with_name(stem.name + end) for end in contents]
