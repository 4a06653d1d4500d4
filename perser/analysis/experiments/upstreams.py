"""The same experiment on several upstreams: scores on each, and the learned weights of an upstream's layers."""

import pandas as pd
from matplotlib.figure import Figure

from perser.analysis import comparison, wording
from perser.analysis import figures as drawing
from perser.analysis import tables as printing
from perser.analysis.tables import Captioned
from perser.errors import UserError
from perser.records import Run


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
    joined = wording.join_runs(runs)
    return (printing.runs_table({wording.upstream(run): run for run in runs}, "upstream"),
            printing.score_caption(joined, warning if random else "", over="SSL-E on the same upstream"))


def figure(runs: list[Run]) -> Figure:
    """Gain and personal part on every upstream."""
    parts = [comparison.rows(comparison.largest(run)).assign(heading=wording.upstream(run)) for run in runs]
    rows, joined = pd.concat(parts, ignore_index=True), wording.join_runs(runs)
    rows = rows[rows["gain"].notna()]
    return drawing.forest(joined, rows.assign(label=rows["method"].map(joined.title), strong=False))


def number_of_layers(learnt: pd.DataFrame) -> int:
    """How many layers of an upstream were weighted."""
    return learnt.loc[learnt["tensor"].str.startswith("layer"), "tensor"].nunique()


def layer_weights(learnt: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Mean and sd over folds, groups and seeds of each layer's weight, by method; none that keeps another's weights."""
    rows, weights = learnt[learnt["tensor"].str.startswith("layer")], dict[str, pd.DataFrame]()
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
