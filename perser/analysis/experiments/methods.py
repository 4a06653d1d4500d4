"""Every method next to the upper bound: gain and personal part, meta-learning against the best method without."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from perser.analysis import comparison, statistics, wording
from perser.analysis import figures as drawing
from perser.analysis import tables as printing
from perser.analysis.statistics import compare_methods, select
from perser.analysis.tables import Captioned, interval_text
from perser.records import Run
from perser.scores import HEADLINE, SCORES, SETTINGS, per_seed

BEST_RIVAL = ("the method without meta-learning with the best mean in this score on these clips at this K, picked on "
              "the listeners it is compared on, which favours it.")
AGAINST_BEST = f"Against: {BEST_RIVAL}"
FIRST = ("prior-shift", "listener-embedding", "fine-tuning", "maml", "meta-perser", "meta-perser-p")  # of `headline`
# Marks of `headline`.
GAIN: dict[str, Any] = {"marker": "o", "markersize": 4.5, "elinewidth": 1.4, "linewidth": 1.4}
PERSONAL: dict[str, Any] = {"marker": "D", "markersize": 3.2, "markerfacecolor": "white", "markeredgewidth": 0.9,
                            "linestyle": "none"}
RIVAL: dict[str, Any] = {"color": drawing.GROUP_COLOURS[wording.SIMPLE], "linestyle": drawing.DASHED, "linewidth": 1}


def applies(run: Run) -> bool:
    """Whether the run has an upper bound."""
    return bool(wording.methods(run, wording.BOUND))


def tables(run: Run) -> dict[str, Captioned]:
    """The scores; each meta-learning method against the best method without meta-learning."""
    tested = printing.comparison_table(run, against_best(run)), printing.comparison_caption(run, AGAINST_BEST)
    return printing.score_tables(run) | {"comparisons": tested}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The forest, and the few methods of the headline."""
    if wording.compares(run):
        yield run.manifest.experiment, forest(run)
        yield "headline", headline(run)


def best_rival(run: Run, scores: pd.DataFrame, setting: str, shots: int, score: str) -> str | None:
    """The method without meta-learning with the best mean score on the listeners at hand; None without one."""
    means = {method: SCORES[score].factor * np.nanmean(values) for method in wording.methods(run, wording.SIMPLE)
             if (values := select(scores, method, setting, shots, score).to_numpy()).size}
    return max(means, key=means.__getitem__) if means else None


def against_best(run: Run, methods: list[str] | None = None, names: Iterable[str] = HEADLINE) -> pd.DataFrame:
    """Meta-learning methods (by default all) against the best without, per setting at its largest number of shots."""
    chosen = wording.methods(run, wording.META) if methods is None else methods
    return ladder(comparison.largest(run), chosen, names)


def ladder(run: Run, methods: list[str] | None = None, names: Iterable[str] = HEADLINE) -> pd.DataFrame:
    """At each number of shots, methods without meta-learning against SSL-E, those with it against the best without.

    Rows of `statistics.compare_methods`; methods: only these.
    """
    scores, simple, tables = per_seed(run.records), wording.methods(run, wording.SIMPLE), []
    methods = [*simple, *wording.methods(run, wording.META)] if methods is None else methods
    for name in [name for name in names if name in scores]:
        pairs = []
        for setting in SETTINGS:
            for shots in statistics.shot_numbers(scores, setting):
                best = best_rival(run, scores, setting, shots, name)
                rivals = {method: wording.baseline(run) if method in simple else best for method in methods}
                pairs += [(method, rival, setting, shots) for method, rival in rivals.items()
                          if rival in simple and method != rival]
        tables.append(compare_methods(scores, pairs, [name]))
    return pd.concat(tables, ignore_index=True)


def ladder_table(run: Run) -> Captioned:
    """`ladder` as a table."""
    against = f"Against: {wording.over(run)}; for meta-learning {BEST_RIVAL}"
    return printing.comparison_table(run, ladder(run)), printing.comparison_caption(run, against)


def forest(run: Run) -> Figure:
    """Gain over SSL-E and personal part of every method at the largest number of shots, in groups."""
    rows = comparison.rows(comparison.largest(run))
    rows = rows[rows["gain"].notna()]
    return drawing.forest(run, rows.assign(
        label=rows["method"].map(run.title).str.split(" (", regex=False).str[0],
        heading=rows["group"], strong=rows["method"].isin(wording.ours(run))))


def answer(run: Run) -> str:
    """Whether it works, and the numbers: how many methods are personal, the best with and without meta-learning."""
    run = comparison.largest(run)
    scores = per_seed(run.records)
    name = next(name for name in HEADLINE if name in scores)
    rows = comparison.rows(run, names=[name])
    rows = rows[rows["group"].isin([wording.SIMPLE, wording.META]) & (rows["shots"] > 0)]
    best = {group: part.groupby("method")["gain"].mean().idxmax() for group, part in rows.groupby("group")}
    if best.keys() != {wording.SIMPLE, wording.META}:
        return "This run does not compare meta-learning with anything simpler."
    simple, meta = best[wording.SIMPLE], best[wording.META]
    pairs = [(meta, simple, setting, int(shots)) for setting, shots in
             rows.groupby("setting", sort=False)["shots"].max().items()]
    tested = statistics.compare_methods(scores, pairs, [name])
    sure = {side: list(tested.loc[mask, "setting"]) for side, mask in
            (("ahead of", tested["low"] > 0), ("behind", tested["high"] < 0))}
    verdict = " and ".join(f"{side} the best method without it on {' and '.join(clips)} clips"
                           for side, clips in sure.items() if clips)
    personal = rows.groupby("method")["personal_low"].min() > 0
    unit = "hundredths of a nat" if name == "log_loss" else "points"
    differences = ", ".join(f"{interval_text(row.mean, row.low, row.high, '+')} on {row.setting} clips"
                            for row in tested.itertuples())
    return (f"With {max(pair[3] for pair in pairs)} labelled clips of a listener, {personal.sum()} of {len(personal)} "
            "methods have a personal part above zero on seen and unseen clips, and meta-learning is "
            f"{verdict or 'neither ahead of nor behind the best method without it'}. Gain in {SCORES[name].words}, "
            f"{unit}: without meta-learning {run.title(simple)} {_by_setting(rows, simple)}; with it {run.title(meta)} "
            f"{_by_setting(rows, meta)}; difference {differences}.")


def _by_setting(rows: pd.DataFrame, method: str) -> str:
    """A method's gains in print."""
    part = rows[rows["method"] == method]
    return ", ".join(f"{row.gain:+.1f} on {row.setting} clips" for row in part.itertuples())


@drawing.styled
def headline(run: Run) -> Figure:
    """Gain over SSL-E in the first score and its personal part, a line per method, the seen clips beside the unseen.

    Only the methods of FIRST where the run has any, sorted by gain; a vertical line marks the best simple rival.
    """
    run, names = comparison.largest(run), [name for name in HEADLINE if name in per_seed(run.records)]
    rows = comparison.rows(run, names=names[:1])
    rows = rows[rows["group"].isin([wording.SIMPLE, wording.META]) & (rows["shots"] > 0)]
    simple = rows[rows["group"] == wording.SIMPLE]
    best = {setting: part.loc[part["gain"].idxmax()] for setting, part in simple.groupby("setting", sort=False)}
    shown = {*FIRST, *(row["method"] for row in best.values())} & set(rows["method"])
    rows = rows[rows["method"].isin(shown)] if shown & set(FIRST) else rows
    order = list(rows.groupby("method")["gain"].mean().sort_values(ascending=False).index)
    figure = Figure(figsize=(3.4, 1.5 + 0.2 * len(order)))
    (top,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.55, 0.95 + 0.2 * len(order)))
    panels = below.subplots(1, rows["setting"].nunique(), sharey=True, sharex=True, squeeze=False)[0]
    for axes, (setting, part) in zip(panels, rows.groupby("setting", sort=False)):
        _ranked(axes, part.set_index("method").loc[order], best.get(setting))
        axes.set(title=f"{setting.capitalize()} clips, K = {part['shots'].max()}",
                 xlabel=drawing.UNITS[part["score"].iloc[0]])
    panels[0].set_yticks(range(len(order)), [run.title(method) for method in order])
    panels[0].set_ylim(len(order) - 0.4, -0.6)
    strong = {row["method"] for row in best.values()}
    for tick, method in zip(panels[0].get_yticklabels(), order):
        colour = drawing.GROUP_COLOURS[wording.group(run, method)]
        tick.set(color=drawing.ink(colour), fontweight="bold" if method in strong else "normal")
    top.legend(*_headline_legend(run, strong), frameon=False, fontsize=6.5, loc="upper left", handlelength=1.6,
               borderpad=0, borderaxespad=0.1)
    drawing.footnote(figure, f"Right is better. Bars: {wording.resampled(run)}. Orange: without meta-learning, blue: "
                     "with.\n", run)
    return figure


def _ranked(axes: Axes, rows: pd.DataFrame, best: pd.Series | None) -> None:
    """A line per method: gain with its interval, below it the personal part; a line at the best simple rival's gain."""
    axes.axvline(0, color=drawing.GREY, linewidth=0.8)
    if best is not None:
        axes.axvline(best["gain"], **RIVAL)
    for place, row in enumerate(rows.to_dict("records")):
        colour = drawing.GROUP_COLOURS[row["group"]]
        bars = [[row["gain"] - row["gain_low"]], [row["gain_high"] - row["gain"]]]
        axes.errorbar(row["gain"], place - 0.1, xerr=bars, color=colour, **GAIN)
        axes.plot(row["personal"], place + 0.2, color=colour, **PERSONAL)
    drawing.horizontal(axes)


def _headline_legend(run: Run, best: set[str]) -> tuple[list[Line2D], list[str]]:
    """Handles and words of the marks of `headline`."""
    words = [(GAIN, f"gain over {wording.over(run)}, the model for everybody")]
    words += [(PERSONAL, "personal part: own shots minus somebody else's")] * (run.exchanged is not None)
    words += [(RIVAL, f"best without meta-learning: {', '.join(sorted(map(run.title, best)))}")] * bool(best)
    marks = [Line2D([], [], **{"color": drawing.GREY} | {key: look[key] for key in look if key != "elinewidth"})
             for look, _ in words]
    return marks, [text for _, text in words]
