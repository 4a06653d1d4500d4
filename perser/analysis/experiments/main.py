"""The comparison of a few methods at a few numbers of shots: what every run shows that no other experiment claims."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perser.analysis import figures as drawing, tables as printing, wording
from perser.analysis.experiments import methods, shots
from perser.analysis.statistics import bootstrap_interval, paired_difference
from perser.analysis.tables import Captioned
from perser.records import Run
from perser.scores import SETTINGS, per_seed


def applies(run: Run) -> bool:
    """Always."""
    return True


def tables(run: Run) -> dict[str, Captioned]:
    """Macro F1 and accuracy; methods without meta-learning against SSL-E, those with it against the best of these."""
    return printing.score_tables(run) | {"comparisons": methods.ladder_table(run)}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Lines by shots, and each listener's gain where there is a baseline."""
    yield from shots.figures(run)
    if wording.baseline(run):
        yield "gains", gains(run)


@drawing.styled
def gains(run: Run, number: int | None = None, seed: int = 0) -> Figure:
    """Each listener's gain over SSL-E with the first and the last adapting method at `number` (the most) shots."""
    scores, baseline = per_seed(run.records), wording.baseline(run)
    number = number or int(scores["shots"].max())
    adapting = list(dict.fromkeys(scores.loc[scores["shots"] == number, "method"]))
    chosen = list(dict.fromkeys([adapting[0], adapting[-1]]))
    figure = Figure(figsize=(3.4, 3.3))
    panels = figure.subplots(len(SETTINGS), 1, sharey=True)
    means = []
    for axes, setting in zip(panels, SETTINGS):
        means.append(_panel(axes, {method: 100 * paired_difference(scores, method, baseline, setting, number)
                                   for method in chosen}, seed))
        axes.set(title=f"{setting.capitalize()} clips, K = {number}", ylabel="Gain (points)")
    for axes, ends in zip(panels, means):
        drawing.method_labels(axes, run, ends, 0.24, "{}\n{:+.1f}")
    panels[-1].set_xlabel(f"Listeners, sorted by the gain of {run.title(chosen[-1])}")
    drawing.footnote(figure, f"Gain in macro F1 over {wording.over(run)}; dots: mean over seeds.\n"
                     f"Bars: mean, {wording.resampled(run)}.\n", run)
    return figure


def _panel(axes: Axes, gain: dict[str, pd.DataFrame], seed: int) -> dict[str, float]:
    """A dot per listener, means with intervals to the right; gain: listeners by seeds, by method. Returns the means."""
    rows = pd.DataFrame({method: values.mean(axis=1) for method, values in gain.items()})
    rows = rows.sort_values(rows.columns[-1])
    looks, number, means = drawing.look(list(rows)), len(rows), {}
    axes.axhline(0, color=drawing.GREY, linewidth=0.8)
    axes.vlines(range(number), rows.min(axis=1), rows.max(axis=1), color="#c8c8c8", linewidth=0.7, zorder=1)
    for place, method in enumerate(rows):
        colour, marker = looks[method]
        hollow = {} if method == rows.columns[-1] else {"markerfacecolor": "white"}
        axes.plot(range(number), rows[method], marker, color=colour, markersize=3, markeredgewidth=0.7, **hollow)
        mean, low, high, _ = bootstrap_interval(gain[method], seed)
        axes.errorbar(number * (1.05 + 0.05 * place), mean, [[mean - low], [high - mean]], color=colour, marker=marker,
                      markersize=3.5, capsize=2, elinewidth=1.2, **hollow)
        means[method] = mean
    axes.set_xlim(-0.03 * number - 0.5, number * (1.07 + 0.05 * len(means)))
    axes.set_xticks(range(number), list(rows.index) if number <= 12 else [""] * number)
    axes.tick_params(axis="x", length=2 if number <= 12 else 0)
    return means
