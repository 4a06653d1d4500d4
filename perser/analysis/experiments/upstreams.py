"""The same experiment on several upstreams: scores on each, and the learned weights of an upstream's layers."""

import pandas as pd
from matplotlib.figure import Figure

from perser.analysis import figures as drawing, tables as printing, wording
from perser.analysis.tables import CHANCE, Captioned
from perser.errors import UserError
from perser.records import Run
from perser.scores import SETTINGS


def comparable(runs: list[Run]) -> list[list[Run]]:
    """Groups of two or more runs of equal settings and corpus on different upstreams, random weights last."""
    groups: dict[str, dict[str, Run]] = {}
    for run in in_order(runs):
        key = repr((run.manifest.corpus, run.manifest.corpus_options, run.manifest.config_digest))
        groups.setdefault(key, {}).setdefault(run.manifest.upstream, run)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def in_order(runs: list[Run]) -> list[Run]:
    """Runs by the upstream's name, those of random weights last."""
    return sorted(runs, key=lambda run: (wording.random_weights(run), wording.labels(run.records)["upstream"]))


def table(runs: list[Run]) -> Captioned:
    """The upstreams one below the other at the largest number of shots. Raises UserError for different settings."""
    digests = {run.manifest.config_digest for run in runs}
    if len(digests) > 1:
        raise UserError(f"upstreams with different settings ({', '.join(sorted(digests))}): run them all again")
    random = [wording.labels(run.records)["upstream"] for run in runs if wording.random_weights(run)]
    warning = f"Random weights: {', '.join(random)} share a model's architecture and have learned nothing."
    return (printing.runs_table({wording.upstream(run): run for run in runs}, "Upstream"),
            printing.score_caption(wording.join_runs(runs), warning if random else "", within=" on the same upstream"))


@drawing.styled
def figure(runs: list[Run], seed: int = 0) -> Figure:
    """Macro F1 on every upstream: a row each, a mark per method."""
    joined, names = wording.join_runs(runs), list(map(wording.upstream, runs))
    rows = printing.runs_table(dict(zip(names, runs)), "Upstream", seed).numbers
    looks = drawing.look(wording.methods(joined))
    drawn = Figure(figsize=(3.4, 0.85 + 0.42 * len(names)))
    panels = drawn.subplots(1, len(SETTINGS), sharey=True, sharex=True)
    below = {method: 0.26 * (place - (len(looks) - 1) / 2) for place, method in enumerate(looks)}
    for axes, setting in zip(panels, SETTINGS):
        chance = rows.loc[rows["method"] == CHANCE, setting]
        axes.axvline(chance.iloc[0], color=drawing.GREY, linewidth=0.9, linestyle=(0, (1, 1.5)))
        for method, (colour, marker) in looks.items():
            part = rows[rows["method"] == method]
            bars = [part[setting] - part[f"{setting}_low"], part[f"{setting}_high"] - part[setting]]
            axes.errorbar(part[setting], -part["upstream"].map(names.index) - below[method], xerr=bars, color=colour,
                          marker=marker or "D", markersize=3.2, elinewidth=1, linestyle="none")
        axes.set(title=f"{setting.capitalize()} clips", xlabel="Macro F1 (points)")
        drawing.horizontal(axes)
    panels[0].set_yticks(range(0, -len(names), -1), [name.replace(" (", "\n(") for name in names])
    panels[0].set_ylim(0.5 - len(names), 0.5)
    for method, (colour, _) in looks.items():
        drawing.right_label(panels[-1], joined.title(method), 1 - (0.5 + below[method]) / len(names),
                            drawing.ink(colour))
    shots = " and ".join(map(str, sorted(set(rows["shots"]) - {0})))
    drawing.footnote(drawn, f"K = {shots}; bars: {wording.resampled(joined)}.\nDotted: every class ticked. "
                     f"{wording.labels(joined.records)['corpus']}; {wording.listeners(joined.records)}",
                     wording.stamp(joined))
    return drawn


def number_of_layers(learnt: pd.DataFrame) -> int:
    """How many layers of an upstream were weighted."""
    return learnt.loc[learnt["tensor"].str.startswith("layer"), "tensor"].nunique()


def layer_weights(learnt: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Mean and sd over folds, groups and seeds of each layer's weight, by method; none that keeps another's weights."""
    rows, weights = learnt[learnt["tensor"].str.startswith("layer")], {}
    for method in dict.fromkeys(rows["method"]):
        part = rows[rows["method"] == method]
        layer = part["tensor"].str.removeprefix("layer").astype(int).rename("layer")
        part = part.groupby(layer)["value"].agg(["mean", "std"]).fillna({"std": 0.0})
        if not any(part.equals(other) for other in weights.values()):
            weights[method] = part
    return weights


@drawing.styled
def layers(runs: list[Run]) -> Figure | None:
    """The weight of each layer by method, a panel per run; None if no run's upstream has several layers."""
    runs = [run for run in runs if run.learnt is not None and number_of_layers(run.learnt) > 1]
    if not runs:
        return None
    drawn = Figure(figsize=(3.4, 0.5 + 1.3 * len(runs)))
    panels = drawn.subplots(len(runs), 1, squeeze=False, sharey=True)[:, 0]
    for axes, run in zip(panels, runs):
        weights = layer_weights(run.learnt)
        looks = drawing.look(list(weights))
        for place, (method, part) in enumerate(weights.items()):
            axes.errorbar(part.index + 0.12 * (place - (len(weights) - 1) / 2), part["mean"], part["std"],
                          color=looks[method][0], marker=looks[method][1] or ".", linestyle="none", elinewidth=0.8,
                          markersize=3, label=run.title(method))
        axes.axhline(1 / len(part), color=drawing.GREY, linestyle=drawing.DASHED, linewidth=0.8)
        axes.set(title=wording.upstream(run), xticks=part.index, ylabel="Weight")
    panels[0].legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1), handletextpad=0.2)
    panels[-1].set_xlabel("Layer")
    drawing.footnote(drawn, "Mean and standard deviation over folds, groups and seeds; dashed: equal weights",
                     wording.stamp(wording.join_runs(runs)))
    return drawn
