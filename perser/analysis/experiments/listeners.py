"""Listeners: who gains from our methods, by two traits, and how listeners of a corpus rate and agree."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perser.analysis import figures as drawing, statistics, tables as printing, wording
from perser.analysis.statistics import most_shots, paired_difference
from perser.analysis.tables import Captioned, p_text
from perser.records import Run
from perser.scores import SETTINGS, per_seed

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
    """A row per listener and setting: gain over SSL-E in points (mean over seeds, largest K) and traits."""
    scores, rows = per_seed(run.records), []
    for setting in SETTINGS:
        gain = 100 * paired_difference(scores, method, wording.baseline(run), setting, most_shots(scores, setting))
        gain = gain.mean(axis=1).rename("gain").rename_axis("listener").reset_index()
        rows.append(gain.assign(setting=setting).merge(run.listeners, on="listener"))
    return pd.concat(rows, ignore_index=True)


def correlations(gains: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Spearman's correlation of the gain with each trait, and with each at equal ranks of the other (`given`)."""
    rows = []
    for setting, partial in product(SETTINGS, (False, True)):
        inside = gains[gains["setting"] == setting]
        for trait, other in (TRAITS, reversed(TRAITS)) if len(inside) else ():
            rho = statistics.correlation(inside["gain"], inside[trait], seed, inside[other] if partial else None)
            rows.append({"setting": setting, "trait": trait, "given": other if partial else ""} | rho)
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=statistics.holm(frame["p"]))


def rho_text(row) -> str:
    """A correlation with its interval in print."""
    return "-" if np.isnan(row.rho) else f"{row.rho:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"


def traits_table(run: Run, method: str) -> Captioned:
    """The correlations of a method's gain with the traits."""
    rows = correlations(gains_and_traits(run, method))
    cells = pd.DataFrame({
        "Trait": rows["trait"] + rows["given"].map(lambda other: other and f", at equal {other}"),
        "Clips": rows["setting"], "Spearman's rho": list(map(rho_text, rows.itertuples())),
        "Listeners": rows["listeners"].astype(str), "p (Holm)": list(map(p_text, rows["p_holm"]))})
    return printing.build(cells, rows), wording.caption(
        run, f"Gain of {run.title(method)} over {wording.over(run)} at the largest K, mean over seeds, against two "
        "traits of each listener: distance of the ratings from those of the other listeners of the same clips, and "
        "consistency of the ratings of clips that the others rate alike. Spearman's rank correlation with its 95 % "
        "bootstrap interval over listeners; at equal ranks of the other trait: the partial one. p: by permutation, "
        "Holm-corrected over the rows.")


@drawing.styled
def who(run: Run, method: str, seed: int = 0) -> Figure:
    """Each listener's gain against two traits."""
    gains = gains_and_traits(run, method)
    measured = correlations(gains, seed).set_index(["setting", "trait", "given"])
    figure = Figure(figsize=(3.4, 3.2))
    panels = figure.subplots(len(SETTINGS), len(TRAITS), sharex="col", sharey=True)
    colour, marker = drawing.look([method])[method]
    for row, setting in zip(panels, SETTINGS):
        inside = gains[gains["setting"] == setting]
        for axes, trait in zip(row, TRAITS):
            axes.axhline(0, color=drawing.GREY, linewidth=0.8)
            axes.plot(inside[trait], inside["gain"], marker, color=colour, markersize=3, alpha=0.75, markeredgewidth=0)
            rho = rho_text(measured.loc[(setting, trait, "")]).replace("-", drawing.MINUS)
            axes.set_title(rf"$\rho$ = {rho}", fontsize=6.5)
        row[0].set_ylabel(f"Gain, {setting} clips (points)")
    for axes, label in zip(panels[-1], TRAITS.values()):
        axes.set_xlabel(label)
    drawing.footnote(
        figure, f"Gain of {run.title(method)} over {wording.over(run)}, one dot per listener.\n"
        r"$\rho$: Spearman's rank correlation, 95 % bootstrap interval over listeners", wording.stamp(run))
    return figure


def _heatmap(axes: Axes, values: pd.DataFrame, **options) -> None:
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
