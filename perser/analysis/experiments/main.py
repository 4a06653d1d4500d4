"""The comparison of a few methods at a few numbers of shots: what every run shows that no other experiment claims."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perser.analysis import comparison, wording
from perser.analysis import figures as drawing
from perser.analysis import tables as printing
from perser.analysis.experiments import methods, shots
from perser.analysis.statistics import interval
from perser.analysis.tables import Captioned
from perser.records import Run
from perser.scores import SCORES, SETTINGS, per_seed


def applies(run: Run) -> bool:
    """Always."""
    return True


def tables(run: Run) -> dict[str, Captioned]:
    """The scores; methods without meta-learning against SSL-E, those with it against the best of these."""
    return printing.score_tables(run) | {"comparisons": methods.ladder_table(run)}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Lines by shots, the forest, and each listener's gain and personal part."""
    yield from shots.figures(run)
    yield from methods.figures(run)
    if wording.compares(run):
        yield "gains", gains(run)


def of_listeners(run: Run, method: str, setting: str, shots: int, score: str) -> dict[str, pd.DataFrame]:
    """Gain and, where the run allows it, personal part of each listener and seed, in printed units."""
    own, factor = comparison.grids(per_seed(run.records)), SCORES[score].factor
    other = {} if run.exchanged is None else comparison.grids(per_seed(run.exchanged))
    start = own.get((wording.baseline(run) or "", setting, 0))
    against = {"gain": start, "personal": other.get((method, setting, shots))}
    return {part: (factor * (own[method, setting, shots][score] - grid[score])).dropna(how="all")
            for part, grid in against.items() if grid is not None}


def headline(run: Run) -> str:
    """The score that a figure of one score shows: log loss, or what older records allow."""
    return "log_loss" if "log_loss" in run.records else "f1"


@drawing.styled
def gains(run: Run, method: str | None = None) -> Figure:
    """Each listener's gain and personal part at the largest number of shots; by default of the last adapting method."""
    adapting, score = run.records.loc[run.records["shots"] > 0, "method"], headline(run)
    method = method or adapting.iloc[-1]
    figure = Figure(figsize=(3.4, 3.3))
    panels = figure.subplots(len(SETTINGS), 1, sharey=True)
    for axes, setting in zip(panels, SETTINGS):
        shots = int(run.records.loc[run.records["setting"] == setting, "shots"].max())
        means = _panel(axes, of_listeners(run, method, setting, shots, score), drawing.look([method])[method])
        axes.set(title=f"{run.title(method)}, {setting} clips, K = {shots}", ylabel=drawing.UNITS[score])
        drawing.line_labels(axes, [(mean, f"{comparison.PARTS[part]}\n{mean:+.1f}", "black")
                                   for part, mean in means.items()], 0.24)
    panels[-1].set_xlabel(f"Listeners, sorted by the {comparison.PARTS[list(means)[-1]].lower()}")
    drawing.footnote(figure, f"{drawing.legend(run)}Dots: mean over seeds; to the right the mean. ", run)
    return figure


def _panel(axes: Axes, parts: dict[str, pd.DataFrame], look: tuple[str, str]) -> dict[str, float]:
    """Dots per listener, means with intervals to the right; parts: listeners by seeds. Returns the means."""
    rows = pd.DataFrame({part: values.mean(axis=1) for part, values in parts.items()})
    rows = rows.sort_values(rows.columns[-1])
    number, means = len(rows), {}
    axes.axhline(0, color=drawing.GREY, linewidth=0.8)
    axes.vlines(range(number), rows.min(axis=1), rows.max(axis=1), color="#c8c8c8", linewidth=0.7, zorder=1)
    for place, part in enumerate(rows):
        mark = drawing.MARKS[part] | {"color": look[0], "linestyle": "none", "markeredgewidth": 0.7}
        axes.plot(range(number), rows[part], markersize=3, **mark)
        mean, low, high, *_ = interval(parts[part])
        axes.errorbar(number * (1.05 + 0.05 * place), mean, [[mean - low], [high - mean]], markersize=3.5, capsize=2,
                      elinewidth=1.2, **mark)
        means[part] = mean
    axes.set_xlim(-0.03 * number - 0.5, number * (1.07 + 0.05 * len(means)))
    axes.set_xticks(range(number), list(rows.index) if number <= 12 else [""] * number)
    axes.tick_params(axis="x", length=2 if number <= 12 else 0)
    return means
