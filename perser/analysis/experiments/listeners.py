"""Listeners: who gains from our methods, by two traits, and how listeners of a corpus rate and agree."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perser.analysis import comparison, statistics, wording
from perser.analysis import figures as drawing
from perser.analysis import tables as printing
from perser.analysis.experiments import main
from perser.analysis.tables import Captioned, p_text
from perser.records import Run
from perser.scores import SCORES, SETTINGS

TRAITS = {"distance": "Distance from the others", "consistency": "Consistency with oneself"}


def applies(run: Run) -> bool:
    """Whether the run knows listeners' traits and compares a method of ours with SSL-E."""
    return run.listeners is not None and bool(wording.baseline(run) and wording.ours(run))


def tables(run: Run) -> dict[str, Captioned]:
    """The correlations of the gain of each method of ours with the traits."""
    return {f"who-{method}": traits_table(run, method) for method in wording.ours(run)}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The gain of each method of ours against the traits."""
    for method in wording.ours(run):
        yield f"who-{method}", who(run, method)


def gains_and_traits(run: Run, method: str) -> pd.DataFrame:
    """A row per listener, setting and part: gain or personal part at the largest K, mean over seeds, and traits.

    Columns part, value (of `main.headline`, in printed units), setting, listener and those of `run.listeners`.
    """
    rows = []
    for setting in SETTINGS:
        shots = int(run.records.loc[run.records["setting"] == setting, "shots"].max())
        for part, values in main.of_listeners(run, method, setting, shots, main.headline(run)).items():
            value = values.mean(axis=1).rename("value").rename_axis("listener").reset_index()
            rows.append(value.assign(setting=setting, part=part).merge(run.listeners, on="listener"))
    return pd.concat(rows, ignore_index=True)


def correlations(gains: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Spearman's correlation of each part with each trait, and with each at equal ranks of the other (`given`)."""
    rows = []
    for part, setting, partial in product(comparison.PARTS, SETTINGS, (False, True)):
        inside = gains[(gains["part"] == part) & (gains["setting"] == setting)]
        for trait, other in (TRAITS, reversed(TRAITS)) if len(inside) else ():
            rho = statistics.correlation(inside["value"], inside[trait], seed, inside[other] if partial else None)
            rows.append({"part": part, "setting": setting, "trait": trait, "given": other if partial else ""} | rho)
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=statistics.holm(frame["p"]))


def rho_text(row: Any) -> str:
    """A correlation with its interval in print."""
    return "-" if np.isnan(row.rho) else f"{row.rho:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"


def traits_table(run: Run, method: str) -> Captioned:
    """The correlations of a method's gain with the traits."""
    rows = correlations(gains_and_traits(run, method))
    cells = pd.DataFrame({
        "Trait": rows["trait"] + rows["given"].map(lambda other: other and f", at equal {other}"),
        "Of": rows["part"].map(comparison.PARTS), "Clips": rows["setting"],
        "Spearman's rho": list(map(rho_text, rows.itertuples())),
        "Listeners": rows["listeners"].astype(str), "p (Holm)": list(map(p_text, rows["p_holm"]))})
    return printing.build(cells, rows, block=rows[["part", "setting"]]), wording.caption(
        run, f"Gain of {run.title(method)} over {wording.over(run)} in {SCORES[main.headline(run)].words} at "
        "the largest K, and its personal part, mean over seeds, against two traits of each listener: distance of the "
        "ratings from those of the other listeners of the same clips, and consistency of the ratings of clips that the "
        "others rate alike. Spearman's rank correlation, in brackets its 95 % bootstrap interval over listeners; at "
        "equal ranks of the other trait: the partial one. p: by permutation, Holm-corrected over the rows.",
        brackets="its interval")


@drawing.styled
def who(run: Run, method: str, seed: int = 0) -> Figure:
    """Each listener's gain and personal part against two traits; the correlation is that of the last part."""
    gains = gains_and_traits(run, method)
    last = list(dict.fromkeys(gains["part"]))[-1]
    measured = correlations(gains, seed).set_index(["part", "setting", "trait", "given"])
    figure = Figure(figsize=(3.4, 3.3))
    panels = figure.subplots(len(SETTINGS), len(TRAITS), sharex="col", sharey=True)
    colour = drawing.look([method])[method][0]
    for row, setting in zip(panels, SETTINGS):
        for axes, trait in zip(row, TRAITS):
            axes.axhline(0, color=drawing.GREY, linewidth=0.8)
            for part, mark in drawing.MARKS.items():
                inside = gains[(gains["setting"] == setting) & (gains["part"] == part)]
                axes.plot(inside[trait], inside["value"], markersize=3, markeredgewidth=0.6, linestyle="none",
                          **mark | {"color": colour})
            rho = rho_text(measured.loc[(last, setting, trait, "")]).replace("-", drawing.MINUS)
            axes.set_title(rf"$\rho$ = {rho}", fontsize=6.5, parse_math=True)
        row[0].set_ylabel(f"{drawing.UNITS[main.headline(run)]}\n{setting} clips")
    for axes, label in zip(panels[-1], TRAITS.values()):
        axes.set_xlabel(label)
    title = run.title(method).replace("$", r"\$")  # the text holds a formula
    open_marks = "Open: gain" if last == "gain" else "Open: gain, filled: personal part"
    drawing.footnote(
        figure, f"{open_marks} of {title}, a mark per listener.\n"
        rf"$\rho$: Spearman's rank correlation of the {comparison.PARTS[last].lower()}, 95 % bootstrap interval",
        wording.stamp(run))
    return figure


def _heatmap(axes: Axes, values: pd.DataFrame, **options: Any) -> None:
    """A heat map in greys with all labels, and the numbers where there are few rows."""
    few = len(values) <= 12
    seaborn.heatmap(values, cmap="Greys", annot=few, annot_kws={"fontsize": 6}, xticklabels=True, yticklabels=True,
                    ax=axes, **options)
    axes.set(xlabel="", ylabel="")
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0, fontsize=6.5 if few else 3.2)


@drawing.styled
def habits(shares: pd.DataFrame, stamp: str) -> Figure:
    """How often each listener ticks each class: shares (listeners, classes) in 0..1."""
    few = len(shares) <= 12
    figure = Figure(figsize=(3.4, 0.9 + (0.2 * len(shares) if few else 2.4)))
    axes = figure.subplots()
    _heatmap(axes, 100 * shares, vmin=0, vmax=100, cbar=False, fmt=".0f")
    axes.set_xticklabels(axes.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    drawing.footnote(figure, "Share of a listener's ratings in which the class is ticked"
                     + (", in percent" if few else ": white never, black always"), stamp)
    return figure


@drawing.styled
def agreement(kappas: pd.DataFrame, stamp: str) -> Figure:
    """Agreement of any two listeners beyond chance: the table of `perser.corpora.agreement.kappa_table`."""
    few, values = len(kappas) <= 12, kappas.to_numpy()
    figure = Figure(figsize=(3.4, 2.6 if few else 3.2))
    axes = figure.subplots()
    _heatmap(axes, kappas, vmin=min(0, float(np.nanmin(values, initial=0))), fmt=".2f", square=True,
             vmax=max(0.1, float(np.nanmax(values, initial=0.1))), cbar_kws={"label": "Cohen's kappa", "shrink": 0.8})
    axes.grid(False)
    axes.tick_params(length=0, labelsize=6.5 if few else 3.2)
    axes.set_xticklabels(axes.get_xticklabels(), rotation=90)
    drawing.footnote(figure, "Any two listeners over the clips that both rated, ordered by their mean", stamp)
    return figure
