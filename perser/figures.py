"""The figures: functions from records to a matplotlib Figure, one style, one palette keyed by method."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perser import captions
from perser.intervals import interval, paired, select
from perser.scores import SETTINGS, per_listener

STYLE = Path(__file__).with_name("perser.mplstyle")
# Colour and marker. Hues of Okabe and Ito (safe for colour-blind readers), ordered from light to dark so that
# they stay apart in greyscale.
PALETTE = {
    "ssl-e": ("#5a5a5a", ""),
    "fine-tuning": ("#e69f00", "s"),
    "maml": ("#009e73", "^"),
    "meta-perser": ("#004c7f", "o"),
}
# For methods that the palette does not name, in the order of the records.
SPARE = (("#cc79a7", "D"), ("#56b4e9", "v"), ("#d55e00", "P"), ("#8a8a8a", "X"), ("#000000", "*"))


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A figure function whose every call draws in the project's style and leaves matplotlib's as it was."""

    @wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with plt.style.context(STYLE, after_reset=True):
            return draw(*args, **kwargs)

    return drawn


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write STEM.pdf and STEM.png (200 dpi); the same figure always gives the same bytes."""
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


@styled
def shots(records: pd.DataFrame, seed: int = 0) -> Figure:
    """Macro F1 against the number of shots: one panel per setting, one line per method, SSL-E as a level."""
    scores = per_listener(records)
    ks = sorted(int(k) for k in scores["shots"].unique() if k)
    methods = list(dict.fromkeys(scores["method"]))
    figure = Figure(figsize=(3.4, 2.45))
    panels = figure.subplots(1, len(SETTINGS), sharey=True)
    for axes, setting in zip(panels, SETTINGS):
        ends = {method: _line(axes, scores, method, setting, ks, methods, seed) for method in methods}
        axes.set_title(f"{setting.capitalize()} clips")
        axes.set_xticks(range(len(ks)), [str(k) for k in ks])
        axes.set_xlabel("Shots K")
        axes.set_xlim(-0.3, len(ks) - 0.7)
    panels[0].set_ylabel("Macro F1 (points)")
    _direct(panels[-1], ends, 0.085, "{}")
    _foot(
        figure, f"Bars: 95 % bootstrap interval over listeners.\n{_origin(records)}", captions.stamp(records)
    )
    return figure


def _line(
    axes: Axes, scores: pd.DataFrame, method: str, setting: str, ks: list[int], methods: list[str], seed: int
) -> float:
    """Draw one method's means and intervals; returns the height of its right end, in points."""
    colour, marker = look(methods)[method]
    found = [interval(100 * select(scores, method, setting, k), seed) for k in ks]
    mean, low, high, _ = (np.array(part, dtype=float) for part in zip(*found))
    if set(scores.loc[scores["method"] == method, "shots"]) == {0}:
        axes.axhline(mean[0], color=colour, linestyle=(0, (4, 2)), linewidth=1)
        return float(mean[0])
    lined = [name for name in methods if name != captions.BASELINE]
    at = np.arange(len(ks)) + 0.11 * (lined.index(method) - (len(lined) - 1) / 2)
    axes.errorbar(
        at,
        mean,
        [mean - low, high - mean],
        color=colour,
        marker=marker,
        elinewidth=0.8,
        markeredgecolor="white",
        markeredgewidth=0.4,
    )
    return float(mean[-1])


def _direct(axes: Axes, ends: dict[str, float], room: float, words: str) -> None:
    """Each method's name at the right of its height, at least `room` (share of the panel) from the next.

    words: a format that takes the name and the height.
    """
    low, high = axes.get_ylim()
    looks, rising = look(list(ends)), sorted(ends, key=ends.__getitem__)
    shares = apart([(ends[method] - low) / (high - low) for method in rising], room)
    for method, share in zip(rising, shares):
        _name(axes, words.format(captions.title(method), ends[method]), share, looks[method][0])


def _name(axes: Axes, words: str, share: float, colour: str) -> None:
    """Words in a line's colour to the right of the panel, at a share of its height."""
    axes.annotate(
        words,
        (1.03, share),
        xycoords="axes fraction",
        color=colour,
        va="center",
        fontsize=6.5,
        fontweight="bold",
        annotation_clip=False,
    )


def apart(heights: list[float], room: float) -> list[float]:
    """Rising heights moved as little as possible until neighbours are at least `room` apart.

    >>> apart([0.0, 1.5, 1.5, 5.0], 1.0)
    [0.0, 1.0, 2.0, 5.0]
    """
    blocks: list[list[float]] = []
    for height in heights:
        blocks.append([height])
        while len(blocks) > 1 and _block(blocks[-2], room)[-1] + room > _block(blocks[-1], room)[0]:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [height for block in blocks for height in _block(block, room)]


def _block(heights: list[float], room: float) -> list[float]:
    """Heights spread evenly around their mean."""
    first = sum(heights) / len(heights) - room * (len(heights) - 1) / 2
    return [first + room * i for i in range(len(heights))]


@styled
def gains(records: pd.DataFrame, shots: int | None = None, seed: int = 0) -> Figure:
    """Each listener's gain in macro F1 over SSL-E: first and last adapting method, joined per listener.

    One panel per setting, listeners sorted by the last method's gain. `shots`: the largest number when not
    given.
    """
    scores = per_listener(records)
    shots = shots or int(scores["shots"].max())
    methods = list(dict.fromkeys(scores.loc[scores["shots"] == shots, "method"]))
    methods = [methods[0], methods[-1]] if len(methods) > 1 else methods
    figure = Figure(figsize=(3.4, 3.3))
    panels = figure.subplots(len(SETTINGS), 1, sharey=True)
    means = []
    for axes, setting in zip(panels, SETTINGS):
        found = pd.DataFrame(
            {method: 100 * paired(scores, method, captions.BASELINE, setting, shots) for method in methods}
        ).sort_values(methods[-1])
        means.append(_gain_panel(axes, found, seed))
        axes.set_title(f"{setting.capitalize()} clips, K = {shots}")
        axes.set_ylabel("Gain (points)")
    for axes, ends in zip(panels, means):
        _direct(axes, ends, 0.24, "{}\n{:+.1f}")
    panels[-1].set_xlabel(f"Listeners, sorted by the gain of {captions.title(methods[-1])}")
    _foot(
        figure,
        f"Gain in macro F1 over {captions.title(captions.BASELINE)}; bars: mean, 95 % bootstrap interval "
        f"over listeners.\n{_origin(records)}",
        captions.stamp(records),
    )
    return figure


def _gain_panel(axes: Axes, found: pd.DataFrame, seed: int) -> dict[str, float]:
    """Dots of every listener, beside them each method's mean with its interval; returns the means."""
    looks, number, means = look(list(found)), len(found), {}
    axes.axhline(0, color=PALETTE[captions.BASELINE][0], linewidth=0.8)
    axes.vlines(range(number), found.min(axis=1), found.max(axis=1), color="#c8c8c8", linewidth=0.7, zorder=1)
    for place, method in enumerate(found):
        colour, marker = looks[method]
        hollow = {} if method == found.columns[-1] else {"markerfacecolor": "white"}
        axes.plot(
            range(number), found[method], marker, color=colour, markersize=3, markeredgewidth=0.7, **hollow
        )
        mean, low, high, _ = interval(found[method], seed)
        axes.errorbar(
            number * (1.05 + 0.05 * place),
            mean,
            [[mean - low], [high - mean]],
            color=colour,
            marker=marker,
            markersize=3.5,
            capsize=2,
            elinewidth=1.2,
            **hollow,
        )
        means[method] = mean
    axes.set_xlim(-0.03 * number - 0.5, number * (1.07 + 0.05 * len(means)))
    axes.set_xticks(range(number), list(found.index) if number <= 12 else [""] * number)
    axes.tick_params(axis="x", length=2 if number <= 12 else 0)
    return means


@styled
def habits(shares: pd.DataFrame, made: str) -> Figure:
    """How often each listener ticks each class: shares (listeners, classes) in 0..1; made: the stamp."""
    few = len(shares) <= 12
    figure = Figure(figsize=(3.4, 0.9 + (0.2 * len(shares) if few else 2.4)))
    axes = figure.subplots()
    seaborn.heatmap(100 * shares, vmin=0, vmax=100, cmap="Greys", cbar=False, annot=few, fmt=".0f",
                    annot_kws={"fontsize": 6}, xticklabels=True, yticklabels=True, ax=axes)
    axes.set(xlabel="", ylabel="")
    axes.set_xticklabels(axes.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0, fontsize=6.5 if few else 3.2)
    _foot(
        figure,
        "Share of a listener's ratings in which the class is ticked"
        + (", in percent" if few else ": white never, black always"),
        made,
    )
    return figure


@styled
def clouds(points: pd.DataFrame, made: str) -> Figure:
    """Where the clips of each class lie among all others: points has x, y and class; one panel per class."""
    classes = list(dict.fromkeys(points["class"]))
    rows = -(-len(classes) // 3)
    figure = Figure(figsize=(3.4, 0.4 + 1.0 * rows))
    panels = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, name in zip(panels, classes):
        mine = points["class"] == name
        axes.plot(points["x"], points["y"], ".", color="#d4d4d4", markersize=1.5, markeredgewidth=0)
        axes.plot(
            points.loc[mine, "x"],
            points.loc[mine, "y"],
            ".",
            color=PALETTE["meta-perser"][0],
            markersize=2.5,
            markeredgewidth=0,
        )
        axes.set_title(f"{name} ({mine.sum()})", fontsize=6.5)
    _foot(figure, "First two principal components; dark: clips of the class, light: all clips", made)
    return figure


@styled
def steps(measured: pd.DataFrame, made: str) -> Figure:
    """Loss, macro F1 and moved logits after each inner step: the table of `perser.steps.measured`."""
    panels = {
        "Loss": {"support_loss": "support", "query_loss": "query"},
        "Macro F1 of the query (points)": {"macro_f1": ""},
        "Logits moved by each tensor (rms)": {name: name for name in ("P", "b", "A", "a")},
    }
    figure = Figure(figsize=(6.9, 1.9))
    colours = ["#004c7f", "#e69f00", "#009e73", "#5a5a5a"]
    for axes, (name, lines) in zip(figure.subplots(1, 3), panels.items()):
        for column, colour, marker in zip(lines, colours, "os^D"):
            axes.plot(measured["step"], measured[column], color=colour, marker=marker)
        axes.set_title(name)
        axes.set_xticks(measured["step"])
        axes.set_xlabel("Inner step")
        low, high = axes.get_ylim()
        rising = sorted(zip(measured[list(lines)].iloc[-1], lines.values(), colours))
        shares = apart([(end - low) / (high - low) for end, _, _ in rising], 0.12)
        for share, (_, words, colour) in zip(shares, rising):
            _name(axes, words, share, colour)
    _foot(figure, "One listener, one draw of the shots", made)
    return figure


def _origin(records: pd.DataFrame) -> str:
    names = captions.labels(records)
    return f"{names['corpus']}, {names['upstream']}; {captions.listeners(records)}"


def _foot(figure: Figure, words: str, made: str) -> None:
    """What the marks mean and where they come from, under the panels; made-up data says so in the corner."""
    figure.supxlabel(words, fontsize=5.5, color="#404040", x=0.01, ha="left")
    if made:
        figure.suptitle(made, x=0.99, ha="right", fontsize=6, color="#b00020", fontstyle="italic")
