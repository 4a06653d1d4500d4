"""Figures: style, palette, saving and the primitives that the experiments draw with."""

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from perser.analysis import wording
from perser.analysis.statistics import Interval, bootstrap_interval
from perser.records import GROUPS, Run
from perser.scores import SETTINGS, per_seed

STYLE = Path(__file__).with_name("perser.mplstyle")
GREY = "#5a5a5a"
# Colour and marker: hues of Okabe and Ito (safe for colour-blind readers), from light to dark to differ in greyscale.
PALETTE = {
    "ssl-e": (GREY, ""), "prior-shift": ("#8fd0f5", "v"), "fine-tuning": ("#e69f00", "s"), "maml": ("#009e73", "^"),
    "meta-perser": ("#004c7f", "o"), "meta-perser-x": ("#400a0a", "D"),
}
# For methods that the palette does not name, in the order of the records.
SPARE = (("#cc79a7", "D"), ("#56b4e9", "v"), ("#d55e00", "P"), ("#8a8a8a", "X"), ("#000000", "*"))
# One look a group, for figures with too many methods: colour, marker, filled.
GROUP_LOOKS = dict(zip(GROUPS, (("#e69f00", "s", False), ("#004c7f", "o", True), (GREY, "D", False),
                                ("#8a8a8a", "X", True))))
DASHED = (0, (4, 2))
MINUS = "\N{MINUS SIGN}"


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a figure function: it draws in the project's style and leaves matplotlib's settings unchanged."""

    @wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with plt.style.context(STYLE, after_reset=True):
            return draw(*args, **kwargs)

    return drawn


def save(figure: Figure, stem: Path | str) -> list[Path]:
    """Write STEM.pdf and STEM.png (200 dpi); the same figure always gives the same bytes."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = stem.with_name(f"{stem.name}.pdf"), stem.with_name(f"{stem.name}.png")
    with plt.style.context(STYLE, after_reset=True):
        figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(png, metadata={"Software": None})
    return [pdf, png]


def look(methods: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method; one that the palette does not name gets a spare one."""
    spare = iter(SPARE * (1 + len(methods) // len(SPARE)))
    return {method: PALETTE[method] if method in PALETTE else next(spare) for method in methods}


def ink(colour: str) -> str:
    """A colour dark enough for small type on white: darkened where its luminance is above 0.45."""
    rgb = np.array(to_rgb(colour))
    return to_hex(rgb * min(1, 0.45 / max(float(rgb @ (0.299, 0.587, 0.114)), 0.01)))


def footnote(figure: Figure, text: str, source: Run | str) -> None:
    """What the marks mean, below the panels; source: a run, whose origin follows, or the synthetic stamp alone."""
    text, stamp = (text, source) if isinstance(source, str) else (text + wording.origin(source), wording.stamp(source))
    figure.supxlabel(text, fontsize=5.5, color="#404040", x=0.01, ha="left")
    if stamp:
        figure.suptitle(stamp, x=0.99, ha="right", fontsize=6, color="#b00020", fontstyle="italic")


def horizontal(axes: Axes) -> None:
    """Rows of marks: grid lines along x only, no ticks along y."""
    axes.grid(axis="x")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def right_label(axes: Axes, text: str, share: float, colour: str) -> None:
    """Text in a line's colour to the right of the panel, at a share of its height."""
    axes.annotate(text, (1.03, share), xycoords="axes fraction", color=colour, va="center", fontsize=6.5,
                  fontweight="bold", annotation_clip=False)


def line_labels(axes: Axes, ends: Iterable[tuple[float, str, str]], room: float) -> None:
    """Direct labels of lines: (height, text, colour) at the right of each height, `room` (share of the panel) apart."""
    low, high = axes.get_ylim()
    rising = sorted(ends, key=lambda end: end[0])
    shares = spread_labels([(height - low) / (high - low) for height, _, _ in rising], room)
    for share, (_, text, colour) in zip(shares, rising):
        right_label(axes, text, share, colour)


def method_labels(axes: Axes, run: Run, ends: dict[str, float], room: float, words: str = "{}") -> None:
    """`line_labels` of methods; words: a format that takes the title and the height."""
    looks = look(list(ends))
    line_labels(axes, [(end, words.format(run.title(method), end), ink(looks[method][0]))
                       for method, end in ends.items()], room)


def spread_labels(heights: list[float], room: float) -> list[float]:
    """Rising heights moved as little as possible until neighbours are at least `room` apart.

    >>> spread_labels([0.0, 1.5, 1.5, 5.0], 1.0)
    [0.0, 1.0, 2.0, 5.0]
    """
    offsets = room * np.arange(len(heights))
    return (isotonic_regression(heights - offsets).x + offsets).tolist()


@styled
def lines_by_shots(run: Run, values: Callable[..., pd.DataFrame], ylabel: str, note: str, seed: int = 0) -> Figure:
    """A line per method of values(scores, method, setting, shots) against the number of shots, a panel per setting."""
    scores = per_seed(run.records)
    numbers = sorted(int(shots) for shots in set(scores["shots"]) - {0})
    methods = [method for method in wording.methods(run) if run.group(method) != wording.BOUND]
    adapting = [method for method in methods if scores.loc[scores["method"] == method, "shots"].any()]
    looks, figure = look(methods), Figure(figsize=(3.4, 2.45))
    panels = figure.subplots(1, len(SETTINGS), sharey=True)
    for axes, setting in zip(panels, SETTINGS):
        ends = {}
        for method in methods:
            intervals = [bootstrap_interval(100 * values(scores, method, setting, shots), seed) for shots in numbers]
            if method in adapting:
                place = adapting.index(method) - (len(adapting) - 1) / 2
                ends[method] = _line(axes, intervals, looks[method], min(0.11, 0.5 / len(adapting)) * place)
            else:
                ends[method] = intervals[0].mean
                axes.axhline(ends[method], color=looks[method][0], linestyle=DASHED, linewidth=1)
        axes.set(title=f"{setting.capitalize()} clips", xlabel="Shots K", xlim=(-0.4, len(numbers) - 0.6))
        axes.set_xticks(range(len(numbers)), list(map(str, numbers)))
    panels[0].set_ylabel(ylabel)
    method_labels(panels[-1], run, ends, 0.085)
    footnote(figure, f"{note}: {wording.resampled(run)}.\n", run)
    return figure


def _line(axes: Axes, intervals: list[Interval], look: tuple[str, str], shift: float) -> float:
    """Draw means with intervals; returns the height of the last mean."""
    mean, low, high, _ = (np.array(part, dtype=float) for part in zip(*intervals))
    axes.errorbar(np.arange(len(mean)) + shift, mean, [mean - low, high - mean], color=look[0], marker=look[1],
                  elinewidth=0.8, markeredgecolor="white", markeredgewidth=0.4)
    return float(mean[~np.isnan(mean)][-1])


def forest(rows: pd.DataFrame, titles: dict[str, str], xlabel: str, fence: float = -np.inf) -> Figure:
    """Means with intervals, a row per label under its group's name, a panel per setting (titles), from `fence` on.

    rows: label, group, strong (bold type), setting, mean, low, high.
    """
    lines = []
    for group in [name for name in ("", *GROUPS) if name in set(rows["group"])]:
        labels = list(dict.fromkeys(rows.loc[rows["group"] == group, "label"]))
        lines += ([(group, None)] if group else []) + [(group, label) for label in labels]
    figure = Figure(figsize=(3.4, 0.85 + 0.145 * len(lines)))
    panels = figure.subplots(1, len(titles), sharey=True, sharex=True)
    heights = {line: -number for number, line in enumerate(lines)}
    for axes, (setting, title) in zip(panels, titles.items()):
        axes.axvline(0, color=GREY, linewidth=0.8)
        for row in rows[rows["setting"] == setting].itertuples():
            _estimate(axes, heights[row.group, row.label], row, fence)
        axes.set_title(title, fontsize=7)
        horizontal(axes)
        axes.margins(x=0.08)
    if np.isfinite(fence):
        panels[0].set_xlim(left=fence)
    panels[0].set_yticks(list(heights.values()), [label or group for group, label in lines])
    panels[0].set_ylim(-len(lines) + 0.4, 0.6)
    strong = set(rows.loc[rows["strong"], "label"])
    for tick, (_, label) in zip(panels[0].get_yticklabels(), lines):
        tick.set(fontstyle="normal" if label else "italic", fontweight="bold" if label in strong else "normal",
                 color="black" if label else "#404040")
    panels[0].set_xlabel(xlabel, loc="left")
    return figure


def _estimate(axes: Axes, height: float, row, fence: float) -> None:
    """One mean with its interval and its number; beyond the fence an arrow and the number."""
    colour, marker, filled = GROUP_LOOKS.get(row.group, GROUP_LOOKS[wording.META])
    if row.low >= fence:
        axes.errorbar(row.mean, height, xerr=[[row.mean - row.low], [row.high - row.mean]], color=colour, marker=marker,
                      markersize=3.5, markeredgewidth=0.8, elinewidth=1, markerfacecolor=colour if filled else "white")
    else:
        axes.plot(0.03, height, "<", color=colour, markersize=3.5, transform=axes.get_yaxis_transform())
    axes.annotate(f"{row.mean:+z.1f}".replace("-", MINUS), (1.01, height), xycoords=("axes fraction", "data"),
                  va="center", fontsize=5.5, fontweight="bold" if row.strong else "normal", annotation_clip=False)


@styled
def clouds(points: pd.DataFrame, stamp: str) -> Figure:
    """The clips of each class among all others: points has x, y and class; a panel per class."""
    classes = list(dict.fromkeys(points["class"]))
    rows = -(-len(classes) // 3)
    figure = Figure(figsize=(3.4, 0.4 + 1.0 * rows))
    panels = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, name in zip(panels, classes):
        inside = points[points["class"] == name]
        for part, colour, size in ((points, "#d4d4d4", 1.5), (inside, PALETTE["meta-perser"][0], 2.5)):
            axes.plot(part["x"], part["y"], ".", color=colour, markersize=size, markeredgewidth=0)
        axes.set_title(f"{name} ({len(inside)})", fontsize=6.5)
    footnote(figure, "First two principal components; dark: clips of the class, light: all clips", stamp)
    return figure


@styled
def by_step(rows: pd.DataFrame, stamp: str) -> Figure:
    """Losses, log loss and moved logits after each inner step: rows of `perser.walkthrough.by_step`."""
    panels = {"Loss": {"support_loss": "shots", "query_loss": "query"},
              "Log loss of the query (0.01 nat)": {"log_loss": ""},
              "Logits moved by each tensor (rms)": {name: name for name in ("P", "b", "A", "a")}}
    figure = Figure(figsize=(6.9, 1.9))
    colours = ["#004c7f", "#e69f00", "#009e73", GREY]
    for axes, (title, lines) in zip(figure.subplots(1, 3), panels.items()):
        for column, colour, marker in zip(lines, colours, "os^D"):
            axes.plot(rows["step"], rows[column], color=colour, marker=marker)
        axes.set(title=title, xticks=rows["step"], xlabel="Inner step")
        line_labels(axes, zip(rows[list(lines)].iloc[-1], lines.values(), colours), 0.12)
    footnote(figure, "One listener, one draw of the shots", stamp)
    return figure


@styled
def answers(rows: pd.DataFrame, classes: list[str], stamp: str) -> Figure:
    """Every class's probability before and after adaptation, a panel per clip: rows of `perser.walkthrough.answers`."""
    down = -(-len(rows) // 3)
    figure = Figure(figsize=(6.9, 0.5 + (0.45 + 0.17 * len(classes)) * down))
    panels = figure.subplots(down, 3, sharex=True, sharey=True, squeeze=False).ravel()
    places = np.arange(len(classes))
    for axes in panels[len(rows):]:
        axes.set_axis_off()
    for axes, row in zip(panels, rows.to_dict("records")):
        for name, shift, colour in (("before", -0.2, "#b8b8b8"), ("after", 0.2, PALETTE["meta-perser"][0])):
            axes.barh(places + shift, [row[f"{name} {label}"] for label in classes], 0.38, color=colour)
        ticked = [classes.index(label) for label in row["ticks"].split(";")]
        axes.plot([1.02] * len(ticked), ticked, "*", color="#d55e00", markersize=7, clip_on=False)
        axes.set_title(row["clip"], fontsize=6.5)
        axes.set(xlim=(0, 1), yticks=places, yticklabels=classes)
        horizontal(axes)
    panels[0].invert_yaxis()
    footnote(figure, "Probability of every class. Grey: before, by the general model. Blue: after the shots. "
             "Star: what the listener ticked", stamp)
    return figure


@styled
def rates(table: pd.DataFrame, stamp: str) -> Figure:
    """Learnt inner learning rates: a row per inner step, a column per tensor."""
    figure = Figure(figsize=(3.4, 0.8 + 0.26 * len(table)))
    axes = figure.subplots()
    largest = float(np.abs(table.to_numpy()).max())
    seaborn.heatmap(table.set_axis(range(1, len(table) + 1)), cmap="RdBu", vmin=-largest, vmax=largest,
                    annot=(table.round(2) + 0.0).to_numpy(), fmt=".2f", annot_kws={"fontsize": 6}, ax=axes)
    axes.set(xlabel="Tensor", ylabel="Inner step")
    axes.tick_params(length=0, labelrotation=0)
    footnote(figure, "Inner learning rates. Blue: descent, red: ascent", stamp)
    return figure


@styled
def speed(rows: pd.DataFrame, conditions: str) -> Figure:
    """Milliseconds of an outer step by implementation and shape (rows of the benchmark `meta`), with the floors."""
    looks = {"learn2learn_ms": ("learn2learn", PALETTE["fine-tuning"]),
             "torch_func_ms": ("torch.func", PALETTE["maml"]),
             "jax_ms": ("JAX", SPARE[0]), "engine_ms": ("here", PALETTE["meta-perser"]),
             "arithmetic_floor_ms": ("floor: products", (GREY, "|")), "memory_floor_ms": ("floor: memory", (GREY, "1"))}
    looks = {column: label for column, label in looks.items() if column in rows}
    figure = Figure(figsize=(3.4, 0.95 + 0.3 * len(rows)))
    axes = figure.subplots()
    for place, row in enumerate(rows.to_dict("records")):
        times = [row[column] for column in looks]
        axes.plot([min(times), max(times)], [-place] * 2, color="#c8c8c8", linewidth=0.7, zorder=1)
        for column, (name, (colour, marker)) in looks.items():
            axes.plot(row[column], -place, marker, color=colour, markersize=6, linestyle="none",
                      label="" if place else name)
            if "floor" not in column:
                below = column == "torch_func_ms"  # it lies between two others
                axes.annotate(f"{row[column]:.0f}", (row[column], -place), (0, -9 if below else 4.5), ha="center",
                              textcoords="offset points", fontsize=6, color=ink(colour))
        if "learn2learn_ms" in looks:
            axes.annotate(f"{row['engine_times_faster']:.0f} times", (1.01, -place), va="center", fontsize=6.5,
                          xycoords=("axes fraction", "data"), fontweight="bold", annotation_clip=False)
    axes.set_xscale("log")
    axes.set_yticks(range(0, -len(rows), -1),
                    [f"{row.episodes} x ({row.shots} + {row.query})" for row in rows.itertuples()])
    axes.set(ylim=(0.6 - len(rows), 0.6), xlabel="Milliseconds of one outer step", ylabel="Episodes x (K + query)")
    horizontal(axes)
    ncols = len(looks) if len(looks) <= 4 else 3
    figure.legend(frameon=False, fontsize=6, ncols=ncols, loc="outside upper left", handletextpad=0.1,
                  columnspacing=0.8)
    right = ". Right: times faster than learn2learn" if "learn2learn_ms" in looks else ""
    footnote(figure, conditions + right, "")
    return figure
