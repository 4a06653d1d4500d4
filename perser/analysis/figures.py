"""Figures: style, palette, saving and the primitives that the experiments draw with."""

import io
import textwrap
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.optimize import isotonic_regression

from perser.analysis import comparison, wording
from perser.analysis.verdicts import BETTER
from perser.records import GROUPS, Run, whole
from perser.scores import HEADLINE

STYLE = Path(__file__).with_name("perser.mplstyle")
GREY = "#5a5a5a"
# Colour and marker: hues of Okabe and Ito (safe for colour-blind readers), from light to dark to differ in greyscale.
PALETTE = {
    "ssl-e": (GREY, ""), "prior-shift": ("#8fd0f5", "v"), "fine-tuning": ("#e69f00", "s"), "maml": ("#009e73", "^"),
    "meta-perser": ("#004c7f", "o"), "meta-perser-x": ("#400a0a", "D"),
}
# For methods that the palette does not name, in the order of the records.
SPARE = (("#cc79a7", "D"), ("#56b4e9", "v"), ("#d55e00", "P"), ("#8a8a8a", "X"), ("#000000", "*"))
# One colour a group, for figures with too many methods.
GROUP_COLOURS = dict(zip(GROUPS, ("#e69f00", "#004c7f", GREY, "#8a8a8a")))
MARKS: dict[str, dict[str, Any]] = {"gain": {"marker": "s", "markerfacecolor": "white"}, "personal": {"marker": "o"}}
UNITS = {"log_loss": "Log loss (0.01 nat)", "accuracy": "Accuracy (points)", "f1": "Macro F1 (points)"}
TENSOR_NAMES = {"mix": "mix: layers", "P": "P: first map", "b": "b: its bias", "A": "A: second map", "a": "a: its bias"}
RATES = "Blue: towards the shots. Red, a negative rate: away from them. White: shared by all listeners."
DASHED = (0, (4, 2))
MINUS = "\N{MINUS SIGN}"
P = ParamSpec("P")
Drawn = TypeVar("Drawn", bound=Figure | None)


def styled(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Decorate a figure function: it draws in the project's style and leaves matplotlib's settings unchanged."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        with plt.style.context(STYLE, after_reset=True):
            return draw(*args, **kwargs)

    return drawn


def save(figure: Figure, stem: Path | str) -> list[Path]:
    """Write STEM.pdf and STEM.png (400 dpi, 256 colours); the same figure always gives the same bytes.

    Both files describe themselves with the figure's label: `footnote` sets it to the origin of what is shown.
    """
    stem = Path(stem)
    pdf, png = stem.with_name(f"{stem.name}.pdf"), stem.with_name(f"{stem.name}.png")
    with plt.style.context(STYLE, after_reset=True):
        with whole(pdf) as half:
            figure.savefig(half, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None,
                                                         "Subject": figure.get_label() or None})
        picture, about = io.BytesIO(), PngInfo()
        figure.savefig(picture, format="png")
        about.add_text("Description", str(figure.get_label()))
        with Image.open(picture) as drawn, whole(png) as half:
            drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
                half, format="png", optimize=True, pnginfo=about, dpi=drawn.info["dpi"])
    return [pdf, png]


def look(methods: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method; one that the palette does not name gets a spare one."""
    spare = iter(SPARE * (1 + len(methods) // len(SPARE)))
    return {method: PALETTE[method] if method in PALETTE else next(spare) for method in methods}


def ink(colour: str) -> str:
    """A colour dark enough for small type on white: darkened where its luminance is above 0.45."""
    rgb = np.array(to_rgb(colour))
    red, green, blue = rgb * min(1, 0.45 / max(float(rgb @ (0.299, 0.587, 0.114)), 0.01))
    return to_hex((red, green, blue))


def footnote(figure: Figure, text: str, source: Run | str) -> None:
    """What the marks mean, below the panels; source: a run, whose origin follows, or the synthetic stamp alone."""
    stamp = wording.stamp(source) if isinstance(source, Run) else source
    if isinstance(source, Run):
        text += wording.origin(source)
        figure.set_label(wording.provenance(source.manifest))
    width = int(21 * figure.get_figwidth())  # characters of a line
    text = "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, width) or [""])
    figure.supxlabel(text, fontsize=6, color="#404040", x=0.01, ha="left", parse_math=r"$\rho$" in text)
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


def method_labels(axes: Axes, run: Run, ends: dict[str, float], room: float) -> None:
    """`line_labels` of methods."""
    looks = look(list(ends))
    line_labels(axes, [(end, run.title(method), ink(looks[method][0])) for method, end in ends.items()], room)


def spread_labels(heights: list[float], room: float) -> list[float]:
    """Rising heights moved as little as possible until neighbours are at least `room` apart.

    >>> spread_labels([0.0, 1.5, 1.5, 5.0], 1.0)
    [0.0, 1.0, 2.0, 5.0]
    """
    offsets = room * np.arange(len(heights))
    return (isotonic_regression(heights - offsets).x + offsets).tolist()


def legend(run: Run, better: str = "Up", opened: str = "") -> str:
    """What open and filled marks and their bars are; better: the direction; opened: if not the gain over SSL-E."""
    personal = " Filled: personal part, own shots minus somebody else's." if run.exchanged is not None else ""
    opened = opened or f"gain over {wording.over(run)}"
    return f"Open: {opened}.{personal}\n{better} is better. Bars: {wording.resampled(run)}.\n"


@styled
def lines(run: Run, rows: pd.DataFrame, x: str, xlabel: str, trained: dict[str, int] | None = None) -> Figure:
    """Gain and personal part of each adapting method against a column x, a row of panels per score.

    rows: `comparison.rows` of one setting. trained: by method the value of x with a ring around it.
    """
    rows = rows[rows["group"].isin([wording.SIMPLE, wording.META]) & rows["gain"].notna()]
    parts = [part for part in comparison.PARTS if rows[part].notna().any()]
    scores, numbers = [name for name in HEADLINE if name in set(rows["score"])], sorted(rows[x].unique())
    looks, figure = look(list(dict.fromkeys(rows["method"]))), Figure(figsize=(3.4, 0.75 + 1.1 * len(scores)))
    panels = figure.subplots(len(scores), len(parts), sharex=True, sharey="row", squeeze=False)
    for line, score in zip(panels, scores):
        for axes, part in zip(line, parts):
            axes.axhline(0, color=GREY, linestyle=DASHED, linewidth=1)
            inside = rows[rows["score"] == score].dropna(subset=part)
            names = list(dict.fromkeys(inside["method"]))
            ends = {method: _line(axes, inside[inside["method"] == method], numbers, x, part, looks[method],
                                  (trained or {}).get(method), place - (len(names) - 1) / 2)
                    for place, method in enumerate(names)}
        line[0].set_ylabel(UNITS[score])
        method_labels(axes, run, ends, 0.1)
    for axes, part in zip(panels[0], parts):
        axes.set_title(comparison.PARTS[part])
    panels[-1][0].set_xlabel(xlabel, loc="left")
    for axes in panels[-1]:
        axes.set_xticks(range(len(numbers)), [str(number) if place % (1 + len(numbers) // 8) == 0 else ""
                                              for place, number in enumerate(numbers)])
    ring = "Ring: the number of steps trained with. " if trained else ""
    footnote(figure, legend(run) + ring, run)
    return figure


def _line(axes: Axes, rows: pd.DataFrame, numbers: list[int], x: str, part: str, look: tuple[str, str],
          ring: int | None, place: float) -> float:
    """Draw means with bars, beside those of other methods by their place, or with a band where there are many numbers.

    Returns the height of the last mean.
    """
    colour, marker = look
    places = rows[x].map(numbers.index) + (0.09 * place if len(numbers) <= 6 else 0)
    mean, low, high = (rows[part + end] for end in ("", "_low", "_high"))
    filled: dict[str, Any] = {} if part == "personal" else {"markerfacecolor": "white"}
    if len(numbers) > 6:
        axes.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(places, mean, color=colour, marker=marker, markersize=3, markeredgewidth=0.7, **filled)
    else:
        axes.errorbar(places, mean, [mean - low, high - mean], color=colour, marker=marker, markersize=3.5,
                      elinewidth=0.7, markeredgewidth=0.7, **filled)
    axes.plot(places[rows[x] == ring], mean[rows[x] == ring], "o", color=ink(colour), markersize=7, fillstyle="none",
              markeredgewidth=0.9)
    return float(mean.iloc[-1])


@styled
def forest(run: Run, rows: pd.DataFrame, opened: str = "") -> Figure:
    """Gain and personal part in each score with intervals: a line per label under its heading, a block per setting.

    rows: `comparison.rows` with heading, label and strong (bold type). opened: as in `legend`. Marks far from the
    others are arrows at the edge.
    """
    scores, lines = [name for name in HEADLINE if name in set(rows["score"])], []
    for setting, block in rows.groupby("setting", sort=False):
        lines.append((setting, f"{setting.capitalize()} clips, K = {block['shots'].max()}", ""))
        for heading, part in block.groupby("heading", sort=False):
            lines += [(setting, heading, "")] * bool(heading)
            lines += [(setting, heading, label) for label in dict.fromkeys(part["label"])]
    heights = {line: -place for place, line in enumerate(lines)}
    figure = Figure(figsize=(3.4, 0.75 + 0.15 * len(lines)))
    for axes, score in zip(figure.subplots(1, len(scores), sharey=True, squeeze=False)[0], scores):
        inside = rows[rows["score"] == score]
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_xlim(_limits(inside[inside["group"] != wording.CONTROL]))
        axes.set_title(UNITS[score].replace(" (", "\n("), fontsize=6.5)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        horizontal(axes)
        for row in inside.to_dict("records"):
            for part, shift in (("gain", 0.17), ("personal", -0.17)):
                _estimate(axes, heights[row["setting"], row["heading"], row["label"]] + shift, row, part,
                          GROUP_COLOURS[row["group"]])
    figure.axes[0].set_yticks(list(heights.values()), [label or heading for _, heading, label in lines])
    figure.axes[0].set_ylim(-len(lines) + 0.4, 0.6)
    strong = set(rows.loc[rows["strong"], "label"])
    for tick, (_, heading, label) in zip(figure.axes[0].get_yticklabels(), lines):
        block = heading.endswith(tuple("0123456789")) and not label
        tick.set(fontstyle="normal" if label or block else "italic", fontsize=6,
                 fontweight="bold" if block or label in strong else "normal", color="black" if label else "#404040")
    footnote(figure, f"{legend(run, 'Right', opened)}Arrow: beyond the axis. ", run)
    return figure


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Ends of an axis of all intervals but those of means beyond Tukey's outer fences."""
    marks = pd.concat([rows[[part, f"{part}_low", f"{part}_high"]].set_axis(["mean", "low", "high"], axis=1)
                       for part in comparison.PARTS]).dropna()
    low, high = marks["mean"].quantile([0.25, 0.75])
    inside = marks[marks["mean"].between(low - 3 * (high - low), high + 3 * (high - low))]
    room = 0.08 * max(inside["high"].max() - inside["low"].min(), 0.1)
    return min(inside["low"].min(), 0) - room, max(inside["high"].max(), 0) + room


def _estimate(axes: Axes, height: float, row: dict[str, Any], part: str, colour: str) -> None:
    """A mean with its interval, or an arrow at the edge if it lies beyond the axis."""
    mean, low, high = (row[part + end] for end in ("", "_low", "_high"))
    left, right = axes.get_xlim()
    look = MARKS[part] | {"color": colour, "markersize": 3, "markeredgewidth": 0.7}
    if left <= mean <= right:
        axes.errorbar(mean, height, xerr=[[mean - low], [high - mean]], elinewidth=0.8, **look)
    elif not np.isnan(mean):
        look["marker"] = "<" if mean < left else ">"
        axes.plot(0.04 if mean < left else 0.96, height, linestyle="none", transform=axes.get_yaxis_transform(), **look)


@styled
def helped(table: pd.DataFrame, shots: int, stamp: str) -> Figure:
    """Each tested listener's gain in log loss with its interval: rows of `perser.analysis.verdicts.verdicts`."""
    rows = table[table["gain"].notna()].sort_values("gain")
    figure = Figure(figsize=(3.4, 0.8 + 0.11 * len(rows)))
    axes, better = figure.subplots(), rows["verdict"] == BETTER
    axes.axvline(0, color=GREY, linewidth=0.8)
    for inside, colour, face in ((better, "#004c7f", "#004c7f"), (~better, GREY, "white")):
        mean, low, high = 100 * rows.loc[inside, ["gain", "low", "high"]].to_numpy(float).T
        axes.errorbar(mean, np.flatnonzero(inside), xerr=[mean - low, high - mean], linestyle="none", marker="o",
                      color=colour, markerfacecolor=face, markersize=3, elinewidth=0.8, markeredgewidth=0.7)
    axes.set_yticks(range(len(rows)), rows["listener"], fontsize=5.5)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(f"Gain of the personal model, {UNITS['log_loss'].lower()}")
    horizontal(axes)
    footnote(figure, f"Filled: better. Open: keep the general model. {shots} ratings each, new clips, 95 % intervals",
             stamp)
    return figure


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
def sound(table: pd.DataFrame, title: str, stamp: str) -> Figure:
    """A clip's spectrogram: `perser.walkthrough.sound`."""
    figure = Figure(figsize=(6.9, 2.0))
    axes, decibels = figure.subplots(), table.set_index("hertz")
    shown = axes.imshow(decibels, origin="lower", aspect="auto", cmap="cividis", interpolation="nearest", extent=(
        0, float(decibels.columns[-1]), 0, decibels.index[-1] / 1000))
    axes.grid(False)
    axes.set(title=title, xlabel="Seconds", ylabel="Frequency (kHz)")
    figure.colorbar(shown, label="Decibels", fraction=0.03, pad=0.01).outline.set_visible(False)
    footnote(figure, "Energy of the sound by time and frequency, below its maximum", stamp)
    return figure


@styled
def answers(rows: pd.DataFrame, classes: list[str], stamp: str) -> Figure:
    """Every class's probability before and after adaptation, a panel per clip: rows of `perser.walkthrough.answers`."""
    across = min(3, len(rows))
    down = -(-len(rows) // across)
    figure = Figure(figsize=(6.9 if across > 1 else 3.4, 0.5 + (0.45 + 0.17 * len(classes)) * down))
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
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


def rate_maps(tables: dict[str, pd.DataFrame]) -> Figure:
    """Learned inner learning rates with one colour bar: a panel per title, tensors by inner step (columns, from 1)."""
    heights = [len(table) for table in tables.values()]
    figure = Figure(figsize=(3.4, 0.65 + sum(0.5 + 0.17 * height for height in heights)))
    panels = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
    top = max(float(np.abs(table.to_numpy()).max()) for table in tables.values())
    for axes, (title, table) in zip(panels, tables.items()):
        seaborn.heatmap(table, cmap="RdBu", vmin=-top, vmax=top, cbar=False, annot=(table.round(2) + 0.0).to_numpy(),
                        fmt=".2f", annot_kws={"fontsize": 5.5 if table.shape[1] > 6 else 6.5}, yticklabels=True,
                        ax=axes)
        axes.grid(False)
        axes.set(xlabel="Inner step", ylabel="", title=title)
        axes.set_yticklabels([TENSOR_NAMES.get(name, name) for name in table.index], rotation=0)
        axes.tick_params(length=0, labelrotation=0)
    bar = figure.colorbar(panels[0].collections[0], ax=list(panels), fraction=0.05, pad=0.02, label="Learning rate",
                          ticks=MaxNLocator(5, prune="both"))  # a tick at the end would touch the stamp
    bar.outline.set_visible(False)
    return figure


@styled
def rates(table: pd.DataFrame, stamp: str) -> Figure:
    """Learned inner learning rates of one model: a row per inner step, a column per tensor."""
    figure = rate_maps({"": table.set_axis(range(1, len(table) + 1)).T})
    footnote(figure, RATES, stamp)
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
