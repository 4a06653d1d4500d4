"""The figures: functions from records to a matplotlib Figure, one style, one palette keyed by method."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_hex, to_rgb
from matplotlib.figure import Figure

from perser.analysis import captions, study
from perser.analysis.intervals import Interval, interval, paired, select
from perser.scores import SETTINGS, per_seed

STYLE = Path(__file__).with_name("perser.mplstyle")
# Colour and marker. Hues of Okabe and Ito (safe for colour-blind readers), ordered from light to dark so that
# they stay apart in greyscale.
PALETTE = {
    "ssl-e": ("#5a5a5a", ""),
    "prior-shift": ("#8fd0f5", "v"),
    "fine-tuning": ("#e69f00", "s"),
    "maml": ("#009e73", "^"),
    "meta-perser": ("#004c7f", "o"),
    "meta-perser-x": ("#400a0a", "D"),
}
# One look per group of methods, where a figure has too many for one each: colour, marker, filled.
GROUPS = dict(zip(captions.GROUPS, (("#e69f00", "s", False), ("#004c7f", "o", True), ("#5a5a5a", "D", False))))
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
    scores = per_seed(records)
    figure = _by_shots(scores, select, seed)
    figure.axes[0].set_ylabel("Macro F1 (points)")
    _foot(figure, f"Bars: {captions.resampled(records)}.\n{_origin(records)}", captions.stamp(records))
    return figure


@styled
def shots_gained(records: pd.DataFrame, seed: int = 0) -> Figure:
    """Gain in macro F1 over SSL-E against the number of shots, paired by listener and seed."""

    def gain(scores: pd.DataFrame, method: str, setting: str, k: int) -> pd.DataFrame:
        return paired(scores, method, captions.BASELINE, setting, k)

    figure = _by_shots(per_seed(records), gain, seed)
    figure.axes[0].set_ylabel(f"Gain over {captions.title(captions.BASELINE)} (points)")
    _foot(
        figure,
        f"Gain in macro F1; bars: {captions.resampled(records)}.\n{_origin(records)}",
        captions.stamp(records),
    )
    return figure


def _by_shots(scores: pd.DataFrame, values: Callable[..., pd.DataFrame], seed: int) -> Figure:
    """One panel per setting, one line per method; values(scores, method, setting, shots): what is drawn."""
    ks = sorted(int(k) for k in scores["shots"].unique() if k)
    methods = [method for method in dict.fromkeys(scores["method"]) if method != captions.UPPER]
    figure = Figure(figsize=(3.4, 2.45))
    panels = figure.subplots(1, len(SETTINGS), sharey=True)
    for axes, setting in zip(panels, SETTINGS):
        ends = {}
        for method in methods:
            found = [interval(100 * values(scores, method, setting, k), seed) for k in ks]
            level = set(scores.loc[scores["method"] == method, "shots"]) == {0}
            ends[method] = _level(axes, found, method, methods) if level else _line(axes, found, method, methods)
        axes.set_title(f"{setting.capitalize()} clips")
        axes.set_xticks(range(len(ks)), [str(k) for k in ks])
        axes.set_xlabel("Shots K")
        axes.set_xlim(-0.4, len(ks) - 0.6)
    _direct(panels[-1], ends, 0.085, "{}")
    return figure


def _level(axes: Axes, found: list[Interval], method: str, methods: list[str]) -> float:
    """Draw a method that uses no shots; returns its height, in points."""
    axes.axhline(found[0].mean, color=look(methods)[method][0], linestyle=(0, (4, 2)), linewidth=1)
    return found[0].mean


def _line(axes: Axes, found: list[Interval], method: str, methods: list[str]) -> float:
    """Draw one method's means and intervals; returns the height of its last mean, in points."""
    colour, marker = look(methods)[method]
    mean, low, high, _ = (np.array(part, dtype=float) for part in zip(*found))
    lined = [name for name in methods if name != captions.BASELINE]
    at = np.arange(len(found)) + min(0.11, 0.5 / len(lined)) * (lined.index(method) - (len(lined) - 1) / 2)
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
    return float(mean[~np.isnan(mean)][-1])


def _direct(axes: Axes, ends: dict[str, float], room: float, words: str) -> None:
    """Each method's name at the right of its height, at least `room` (share of the panel) from the next.

    words: a format that takes the name and the height.
    """
    low, high = axes.get_ylim()
    looks, rising = look(list(ends)), sorted(ends, key=ends.__getitem__)
    shares = apart([(ends[method] - low) / (high - low) for method in rising], room)
    for method, share in zip(rising, shares):
        _name(axes, words.format(captions.title(method), ends[method]), share, ink(looks[method][0]))


def ink(colour: str) -> str:
    """A colour as small type can carry it on white: darkened where its luminance is above 0.45.

    >>> ink("#004c7f"), ink("#ffffff")
    ('#004c7f', '#737373')
    """
    rgb = np.array(to_rgb(colour))
    return to_hex(rgb * min(1, 0.45 / max(float(rgb @ (0.299, 0.587, 0.114)), 0.01)))


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
    scores = per_seed(records)
    shots = shots or int(scores["shots"].max())
    methods = list(dict.fromkeys(scores.loc[scores["shots"] == shots, "method"]))
    methods = [methods[0], methods[-1]] if len(methods) > 1 else methods
    figure = Figure(figsize=(3.4, 3.3))
    panels = figure.subplots(len(SETTINGS), 1, sharey=True)
    means = []
    for axes, setting in zip(panels, SETTINGS):
        found = {method: 100 * paired(scores, method, captions.BASELINE, setting, shots) for method in methods}
        means.append(_gain_panel(axes, found, seed))
        axes.set_title(f"{setting.capitalize()} clips, K = {shots}")
        axes.set_ylabel("Gain (points)")
    for axes, ends in zip(panels, means):
        _direct(axes, ends, 0.24, "{}\n{:+.1f}")
    panels[-1].set_xlabel(f"Listeners, sorted by the gain of {captions.title(methods[-1])}")
    _foot(
        figure,
        f"Gain in macro F1 over {captions.title(captions.BASELINE)}; dots: mean over seeds.\n"
        f"Bars: mean, {captions.resampled(records)}.\n{_origin(records)}",
        captions.stamp(records),
    )
    return figure


def _gain_panel(axes: Axes, gain: dict[str, pd.DataFrame], seed: int) -> dict[str, float]:
    """Dots of every listener, beside them each method's mean with its interval; returns the means.

    gain: per method its gains, listeners by seeds; listeners are sorted by those of the last one.
    """
    found = pd.DataFrame({method: values.mean(axis=1) for method, values in gain.items()})
    found = found.sort_values(found.columns[-1])
    looks, number, means = look(list(found)), len(found), {}
    axes.axhline(0, color=PALETTE[captions.BASELINE][0], linewidth=0.8)
    axes.vlines(range(number), found.min(axis=1), found.max(axis=1), color="#c8c8c8", linewidth=0.7, zorder=1)
    for place, method in enumerate(found):
        colour, marker = looks[method]
        hollow = {} if method == found.columns[-1] else {"markerfacecolor": "white"}
        axes.plot(
            range(number), found[method], marker, color=colour, markersize=3, markeredgewidth=0.7, **hollow
        )
        mean, low, high, _ = interval(gain[method], seed)
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
def forest(records: pd.DataFrame, seed: int = 0) -> Figure:
    """Gain over SSL-E of every method at the largest number of shots, seen and unseen, in groups."""
    scores, base = per_seed(records), captions.title(captions.BASELINE)
    found = study.gains(scores, True, seed)
    levels = {
        setting: 100 * np.nanmean(select(scores, captions.BASELINE, setting, 0).to_numpy()) for setting in SETTINGS
    }
    most = sorted({study.most_shots(scores, setting) for setting in levels}, reverse=True)
    rows = found.assign(
        label=found["method"].map(captions.title).str.split(" (", regex=False).str[0],
        group=found["method"].map(captions.group),
        strong=found["method"].isin(study.OURS),
    )
    figure = _forest(
        rows,
        {setting: f"{setting.capitalize()}; {base}: {level:.1f}" for setting, level in levels.items()},
        f"Gain over {base} (points), K = {' and '.join(map(str, most))}",
        _fence(rows),
    )
    beyond = "Arrow: beyond the axis. " if np.isfinite(_fence(rows)) else ""
    _foot(
        figure,
        f"Macro F1; bars: {captions.resampled(records)}.\n{beyond}{_origin(records)}",
        captions.stamp(records),
    )
    return figure


@styled
def effects(records: pd.DataFrame, seed: int = 0) -> Figure:
    """What each part of the method adds at the largest number of shots, seen and unseen."""
    scores = per_seed(records)
    most = int(scores["shots"].max())
    found = study.effects(scores[scores["shots"] == most], seed)
    names = captions.PARTS | {captions.READING: f"{captions.PARTS['csmt']}, {captions.READING}"}
    rows = found.assign(
        label=found["part"].map(names),
        group="",
        strong=False,
        **{name: 100 * found[name] for name in ("mean", "low", "high")},
    )
    figure = _forest(
        rows,
        {setting: f"{setting.capitalize()} clips" for setting in SETTINGS},
        f"With the part minus without it (points), K = {most}",
    )
    _foot(figure, f"Macro F1; bars: {captions.resampled(records)}.\n{_origin(records)}", captions.stamp(records))
    return figure


def _forest(rows: pd.DataFrame, titles: dict[str, str], words: str, fence: float = -np.inf) -> Figure:
    """Means with intervals, one line per label under its group's name, one panel per setting.

    rows: label, group, strong (bold type), setting, mean, low, high; words: what is along x; fence: where x
    begins.
    """
    groups = [name for name in ("", *captions.GROUPS) if name in set(rows["group"])]
    lines = []
    for group in groups:
        labels = list(dict.fromkeys(rows.loc[rows["group"] == group, "label"]))
        lines += ([(group, None)] if group else []) + [(group, label) for label in labels]
    figure = Figure(figsize=(3.4, 0.85 + 0.145 * len(lines)))
    panels = figure.subplots(1, len(titles), sharey=True, sharex=True)
    place = {line: -number for number, line in enumerate(lines)}
    for axes, (setting, title) in zip(panels, titles.items()):
        axes.axvline(0, color=PALETTE[captions.BASELINE][0], linewidth=0.8)
        for row in rows[rows["setting"] == setting].itertuples():
            _estimate(axes, place[row.group, row.label], row, fence)
        axes.set_title(title, fontsize=7)
        axes.grid(axis="x")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
    if np.isfinite(fence):
        panels[0].set_xlim(left=fence)
    panels[0].set_yticks(list(place.values()), [label or group for group, label in lines])
    panels[0].set_ylim(-len(lines) + 0.4, 0.6)
    strong = set(rows.loc[rows["strong"], "label"])
    for tick, (_, label) in zip(panels[0].get_yticklabels(), lines):
        tick.set(
            fontstyle="normal" if label else "italic",
            fontweight="bold" if label in strong else "normal",
            color="black" if label else "#404040",
        )
    panels[0].set_xlabel(words, loc="left")
    return figure


def _fence(rows: pd.DataFrame) -> float:
    """Where the axis may begin so that one method far behind does not press the others together: before zero and
    all that is within Tukey's outer fence of the means, if any mean is below that, else minus infinity.
    """
    low, high = rows["mean"].quantile([0.25, 0.75])
    fence = low - 3 * (high - low)
    inside = rows.loc[rows["mean"] >= fence, "low"].min()
    start = min(inside, 0) - 0.2 * (high - low)
    return start if (rows["mean"] < start).any() else -np.inf


def _estimate(axes: Axes, at: float, row, fence: float) -> None:
    """One mean with its interval and its number, at a height; beyond the fence an arrow and the number."""
    colour, marker, filled = GROUPS.get(row.group, GROUPS[captions.GROUPS[1]])
    if row.low >= fence:
        axes.errorbar(
            row.mean,
            at,
            xerr=[[row.mean - row.low], [row.high - row.mean]],
            color=colour,
            marker=marker,
            markersize=3.5,
            markeredgewidth=0.8,
            elinewidth=1,
            markerfacecolor=colour if filled else "white",
        )
    else:
        axes.plot(0.03, at, "<", color=colour, markersize=3.5, transform=axes.get_yaxis_transform())
    axes.annotate(
        f"{row.mean:+z.1f}".replace("-", "\N{MINUS SIGN}"),
        (1.01, at),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=5.5,
        fontweight="bold" if row.strong else "normal",
        annotation_clip=False,
    )


@styled
def inner_steps(records: pd.DataFrame, manifest: dict, seed: int = 0) -> Figure:
    """Gain over SSL-E after each inner step: one panel per setting, one line per method, the number of steps
    trained with ringed.
    """
    found, trained = study.by_step(records, seed), study.trained_steps(manifest)
    methods = [method for method in dict.fromkeys(found["method"]) if method != captions.BASELINE]
    figure = Figure(figsize=(3.4, 2.45))
    panels = figure.subplots(1, len(SETTINGS), sharey=True)
    for axes, setting in zip(panels, SETTINGS):
        mine = found[found["setting"] == setting]
        axes.axhline(0, color=PALETTE[captions.BASELINE][0], linestyle=(0, (4, 2)), linewidth=1)
        ends = {method: _curve(axes, mine[mine["method"] == method], method, trained) for method in methods}
        axes.set_title(f"{setting.capitalize()} clips, K = {mine['shots'].max()}")
        axes.set_xticks(range(0, int(mine["steps"].max()) + 1, 2))
        axes.set_xlabel("Inner steps at test")
    panels[0].set_ylabel(f"Gain over {captions.title(captions.BASELINE)} (points)")
    _direct(panels[-1], ends | {captions.BASELINE: 0.0}, 0.085, "{}")
    _foot(
        figure,
        f"Gain in macro F1; bands: {captions.resampled(records)}.\n"
        f"Ring: the number of steps trained with. {_origin(records)}",
        captions.stamp(records),
    )
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, method: str, trained: dict[str, int]) -> float:
    """Draw a method's gains by step with a band; returns the height of its right end, in points."""
    colour, marker = look([method])[method]
    axes.fill_between(rows["steps"], rows["gain_low"], rows["gain_high"], color=colour, alpha=0.15, linewidth=0)
    axes.plot(rows["steps"], rows["gain"], color=colour, marker=marker, markersize=3, markeredgewidth=0)
    ring = rows[rows["steps"] == trained.get(method)]
    axes.plot(ring["steps"], ring["gain"], "o", color=ink(colour), markersize=7, fillstyle="none", markeredgewidth=0.9)
    return float(rows["gain"].iloc[-1])


@styled
def who(found: pd.DataFrame, method: str, made: str, seed: int = 0) -> Figure:
    """Each listener's gain against two traits: the rows of `study.gains_and_traits`; made: the stamp."""
    measured = study.correlations(found, seed).set_index(["setting", "trait", "given"])
    figure = Figure(figsize=(3.4, 3.2))
    panels = figure.subplots(len(SETTINGS), len(study.TRAITS), sharex="col", sharey=True)
    colour, marker = look([method])[method]
    for row, setting in zip(panels, SETTINGS):
        mine = found[found["setting"] == setting]
        for axes, trait in zip(row, study.TRAITS):
            axes.axhline(0, color=PALETTE[captions.BASELINE][0], linewidth=0.8)
            axes.plot(mine[trait], mine["gain"], marker, color=colour, markersize=3, alpha=0.75, markeredgewidth=0)
            said = measured.loc[(setting, trait, "")]
            words = f"{said.rho:+.2f} [{said.low:+.2f}, {said.high:+.2f}]".replace("-", "\N{MINUS SIGN}")
            axes.set_title(rf"$\rho$ = {words}", fontsize=6.5)
        row[0].set_ylabel(f"Gain, {setting} clips (points)")
    for axes, trait in zip(panels[-1], study.TRAITS):
        axes.set_xlabel(TRAITS[trait])
    _foot(
        figure,
        f"Gain of {captions.title(method)} over {captions.title(captions.BASELINE)}, one dot per listener.\n"
        r"$\rho$: Spearman's rank correlation, 95 % bootstrap interval over listeners",
        made,
    )
    return figure


TRAITS = {"distance": "Distance from the others", "consistency": "Consistency with oneself"}


@styled
def agreement(kappas: pd.DataFrame, made: str) -> Figure:
    """How two listeners agree beyond chance: the table of `traits.agreement`."""
    few = len(kappas) <= 12
    figure = Figure(figsize=(3.4, 2.6 if few else 3.2))
    axes = figure.subplots()
    top = max(0.1, float(np.nanmax(kappas.to_numpy(), initial=0.1)))
    seaborn.heatmap(kappas, vmin=min(0, float(np.nanmin(kappas.to_numpy(), initial=0))), vmax=top, cmap="Greys",
                    annot=few, fmt=".2f", annot_kws={"fontsize": 6}, square=True, xticklabels=True, yticklabels=True,
                    cbar_kws={"label": "Cohen's kappa", "shrink": 0.8}, ax=axes)
    axes.set(xlabel="", ylabel="")
    axes.grid(False)
    axes.tick_params(length=0, labelsize=6.5 if few else 3.2)
    axes.set_xticklabels(axes.get_xticklabels(), rotation=90)
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    _foot(figure, "Every two listeners over the clips that both rated, ordered by their mean", made)
    return figure


@styled
def rates(learnt: pd.DataFrame, made: str, shots: int | None = None) -> Figure:
    """The learnt inner rates, tensor by step, one panel per method of learnt.parquet whose rates differ."""
    found = study.rates_that_differ(learnt, shots)
    figure = Figure(figsize=(3.4, 0.55 + sum(0.22 + 0.15 * len(table) for table in found.values())))
    heights = [len(table) for table in found.values()]
    panels = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    top = max(float(np.abs(table.to_numpy()).max()) for table in found.values())
    for axes, (method, table) in zip(panels, found.items()):
        seaborn.heatmap(table.abs().clip(lower=top / 1000), norm=LogNorm(top / 1000, 2 * top), cmap="Greys", cbar=False,
                        annot=table, fmt=".3f", annot_kws={"fontsize": 6}, yticklabels=True, ax=axes)
        axes.grid(False)
        axes.set(xlabel="", ylabel="")
        axes.set_title(captions.title(method))
        axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
        axes.tick_params(length=0, labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("Inner step")
    most = shots or int(learnt["shots"].max())
    _foot(
        figure,
        f"Learnt rate of each tensor, mean over folds, groups of listeners and seeds; K = {most}",
        made,
    )
    return figure


@styled
def upstreams(runs: list[pd.DataFrame], seed: int = 0) -> Figure:
    """Macro F1 on every upstream: one line each, one mark per method; runs: one upstream's records each."""
    found, records = study.by_upstream(runs, seed), captions.together(runs)
    names = list(dict.fromkeys(found["upstream"]))
    methods = [method for method in dict.fromkeys(found["method"]) if method != study.CHANCE]
    figure = Figure(figsize=(3.4, 0.85 + 0.42 * len(names)))
    panels = figure.subplots(1, len(SETTINGS), sharey=True, sharex=True)
    looks = look(methods)
    below = {method: 0.26 * (place - (len(methods) - 1) / 2) for place, method in enumerate(methods)}
    for axes, setting in zip(panels, SETTINGS):
        mine = found[found["setting"] == setting]
        chance = mine.loc[mine["method"] == study.CHANCE, "mean"].iloc[0]
        axes.axvline(chance, color="#5a5a5a", linewidth=0.9, linestyle=(0, (1, 1.5)))
        for method, (colour, marker) in looks.items():
            rows = mine[mine["method"] == method]
            axes.errorbar(rows["mean"], -rows["upstream"].map(names.index) - below[method],
                          xerr=[rows["mean"] - rows["low"], rows["high"] - rows["mean"]], color=colour,
                          marker=marker or "D", markersize=3.2, elinewidth=1, linestyle="none")
        axes.set_title(f"{setting.capitalize()} clips")
        axes.set_xlabel("Macro F1 (points)")
        axes.grid(axis="x")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(0, -len(names), -1), [name.replace(" (", "\n(") for name in names])
    panels[0].set_ylim(0.5 - len(names), 0.5)
    for method, (colour, _) in looks.items():
        _name(panels[-1], captions.title(method), 1 - (0.5 + below[method]) / len(names), ink(colour))
    shots = " and ".join(map(str, sorted(set(found["shots"]) - {0})))
    _foot(figure, f"K = {shots}; bars: {captions.resampled(records)}.\nDotted: every class ticked. "
                  f"{captions.labels(records)['corpus']}; {captions.listeners(records)}", captions.stamp(records))
    return figure


@styled
def layers(learnt: dict[str, pd.DataFrame], made: str) -> Figure:
    """The weight of each layer of an upstream, per method: learnt.parquet of one run per upstream."""
    figure = Figure(figsize=(3.4, 0.5 + 1.3 * len(learnt)))
    panels = figure.subplots(len(learnt), 1, squeeze=False, sharey=True)[:, 0]
    for axes, (upstream, rows) in zip(panels, learnt.items()):
        methods = [method for method in study.WEIGHED if len(study.layer_weights(rows, method))]
        looks = look(methods)
        for place, method in enumerate(methods):
            found = study.layer_weights(rows, method)
            at = found.index + 0.12 * (place - (len(methods) - 1) / 2)
            axes.errorbar(at, found["mean"], found["std"], color=looks[method][0], marker=looks[method][1] or ".",
                          linestyle="none", elinewidth=0.8, markersize=3, label=captions.title(method))
        axes.axhline(1 / len(found), color=PALETTE[captions.BASELINE][0], linestyle=(0, (4, 2)), linewidth=0.8)
        axes.set_title(upstream)
        axes.set_xticks(found.index)
        axes.set_ylabel("Weight")
    panels[0].legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1), handletextpad=0.2)
    panels[-1].set_xlabel("Layer")
    _foot(figure, "Mean and standard deviation over folds, groups and seeds; dashed: all layers alike", made)
    return figure


@styled
def speed(rows: pd.DataFrame, words: str) -> Figure:
    """Milliseconds of an outer step by way and shape, log scale, beside the machine's floors: the rows of the
    benchmark `meta` that share clips; words: where it was measured.
    """
    ways = {
        "learn2learn_ms": ("learn2learn", PALETTE["fine-tuning"]),
        "engine_ms": ("here", PALETTE["meta-perser"]),
        "arithmetic_floor_ms": ("floor: products", ("#5a5a5a", "|")),
        "memory_floor_ms": ("floor: memory", ("#5a5a5a", "1")),
    }
    ways = {column: way for column, way in ways.items() if column in rows}
    figure = Figure(figsize=(3.4, 0.95 + 0.3 * len(rows)))
    axes = figure.subplots()
    for place, row in enumerate(rows.to_dict("records")):
        shown = [row[column] for column in ways]
        axes.plot([min(shown), max(shown)], [-place] * 2, color="#c8c8c8", linewidth=0.7, zorder=1)
        for column, (name, (colour, marker)) in ways.items():
            axes.plot(row[column], -place, marker, color=colour, markersize=6, linestyle="none",
                      label=name if not place else "")
            if "floor" not in column:
                axes.annotate(f"{row[column]:.0f}", (row[column], -place), (0, 4.5), textcoords="offset points",
                              ha="center", fontsize=6, color=ink(colour))
        if "learn2learn_ms" in ways:
            _times(axes, row["engine_times_faster"], -place)
    axes.set_xscale("log")
    axes.set_yticks(
        [-place for place in range(len(rows))],
        [f"{row.episodes} x ({row.shots} + {row.query})" for row in rows.itertuples()],
    )
    axes.set_ylim(0.6 - len(rows), 0.6)
    axes.grid(axis="x")
    axes.grid(False, axis="y")
    axes.set_xlabel("Milliseconds of one outer step")
    axes.set_ylabel("Episodes x (K + query)")
    figure.legend(frameon=False, fontsize=6, ncols=4, loc="outside upper left", handletextpad=0.1, columnspacing=0.8)
    _foot(figure, words, "")
    return figure


def _times(axes: Axes, times: float, at: float) -> None:
    axes.annotate(f"{times:.0f} times", (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=6.5,
                  fontweight="bold", annotation_clip=False)


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
