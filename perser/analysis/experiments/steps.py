"""Inner steps: scores after every number of them, and the learned rates by step."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from perser.analysis import figures as drawing, statistics, tables as printing, wording
from perser.analysis.statistics import bootstrap_interval, most_shots, select
from perser.analysis.tables import TICK, Captioned, Table, interval_text
from perser.records import KEYS, Run
from perser.scores import SETTINGS, per_seed

MODEL = ["method", "fold", "group", "seed"]  # identifies a trained model in learnt.parquet


def applies(run: Run) -> bool:
    """Whether a method was evaluated at several numbers of inner steps."""
    return bool(run.records.duplicated([key for key in KEYS if key != "inner_steps"]).any())


def tables(run: Run) -> dict[str, Captioned]:
    """Macro F1 and accuracy at every number of steps, and other numbers against the number trained with."""
    tested = printing.comparison_caption(run, "Difference: after so many inner steps minus after those trained with.")
    compared = trained_table(run, against_trained(run)), tested
    return printing.score_tables(run, table, caption) | {"comparisons": compared}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Gains by step."""
    yield "steps", gains_by_step(run)


def by_step(run: Run, seed: int = 0, score: str = "f1") -> pd.DataFrame:
    """A score in points by number of inner steps, and the gain over SSL-E, at each setting's largest number of shots.

    Without SSL-E the gain is over fine-tuning before its first step, which is the same model.
    """
    tuned = [method for method in wording.methods(run, kind="finetune")
             if wording.settings(run, method).get("start", "ssl-e") == "ssl-e"]
    start, rows = wording.baseline(run) or tuned[0], []
    parts = {int(number): per_seed(part) for number, part in run.records.groupby("inner_steps")}
    for method, (number, scores), setting in product(wording.methods(run), parts.items(), SETTINGS):
        part = scores[(scores["method"] == method) & (scores["setting"] == setting)]
        part = part[part["shots"] == part["shots"].max()]
        if part.empty:
            continue
        shots = most_shots(part, setting)
        values = 100 * select(part, method, setting, shots, score)
        gain = (values - 100 * select(parts[0], start, setting, shots, score)).dropna(how="all")
        rows.append({"method": method, "inner_steps": number, "setting": setting, "shots": shots}
                    | bootstrap_interval(values, seed)._asdict()
                    | dict(zip(("gain", "gain_low", "gain_high"), bootstrap_interval(gain, seed)))
                    | {"between_seeds": statistics.between_seeds(gain), "records": int(part["records"].sum())})
    return pd.DataFrame(rows)


def trained_steps(run: Run) -> dict[str, int]:
    """The number of inner steps that each method was trained with, for methods trained with any."""
    configured = run.manifest.config["methods"].items()
    return {name: int(settings["inner_steps"]) for name, settings in configured if settings.get("inner_steps")}


def against_trained(run: Run, seed: int = 0) -> pd.DataFrame:
    """Macro F1 after every other number of inner steps minus that after the number trained with, at the largest K.

    Rows of method, setting, shots, inner_steps, trained, then as in `statistics.effect` (0..1), and p_holm.
    """
    parts, rows = {int(number): per_seed(part) for number, part in run.records.groupby("inner_steps")}, []
    for (method, trained), setting in product(trained_steps(run).items(), SETTINGS):
        values = {number: select(part, method, setting, most_shots(part, setting)) for number, part in parts.items()}
        for number, after in values.items():
            if len(after) and number != trained and len(values.get(trained, ())):
                difference = (after - values[trained]).dropna(how="all")
                rows.append({"method": method, "setting": setting, "shots": most_shots(parts[trained], setting),
                             "inner_steps": number, "trained": trained} | statistics.effect(difference, seed))
    return statistics.with_holm(rows, "method", "setting", "shots", "inner_steps", "trained")


def table(run: Run, seed: int = 0, score: str = "f1") -> Table:
    """A score after each number of inner steps, seen and unseen side by side; trained: the number trained with."""
    wording.labels(run.records)
    numbers, trained = by_step(run, seed, score), trained_steps(run)
    rows = list(dict.fromkeys(zip(numbers["method"], numbers["inner_steps"])))
    cells = {"Method": [run.title(method) for method, _ in rows], "Steps": [str(number) for _, number in rows],
             "Trained": [TICK if trained.get(method) == number else "" for method, number in rows]}
    parts = dict(list(numbers.set_index(["method", "inner_steps"]).groupby("setting", sort=False)))
    for prefix, sign in (("", ""), ("gain", "+")):
        for setting, part in parts.items():
            names = [f"{prefix}_low", f"{prefix}_high"] if prefix else ["low", "high"]
            texts = {row: interval_text(*values, sign)
                     for row, *values in part[[prefix or "mean", *names]].itertuples(name=None)}
            title = f"Gain {setting}" if prefix else f"{setting.capitalize()}, K = {part['shots'].max()}"
            cells[title] = [texts.get(row, "-") for row in rows]
    return printing.build(pd.DataFrame(cells), numbers, block=pd.Series([method for method, _ in rows]))


def caption(run: Run, score: str = "f1") -> str:
    """What a step is, and which number was trained with."""
    return wording.caption(
        run, "Steps: inner steps at test, all from the same initialisation; beyond those trained with, the last step's "
        f"rates are reused. {TICK}: the number trained with.",
        f"Gain: over {wording.over(run)}, {wording.pairing(run)}.", score=score)


def trained_table(run: Run, rows: pd.DataFrame) -> Table:
    """Rows of `against_trained`, in points."""
    return printing.difference_table(rows, {"Method": rows["method"].map(run.title)}, "Difference",
                                     ["method", "setting"], Steps=rows["inner_steps"].astype(str),
                                     Trained=rows["trained"].astype(str))


@drawing.styled
def gains_by_step(run: Run, seed: int = 0) -> Figure:
    """Gain over SSL-E by number of inner steps, a line per method, with a ring around the number trained with."""
    rows, trained, baseline = by_step(run, seed), trained_steps(run), wording.baseline(run)
    methods = [method for method in wording.methods(run) if method != baseline]
    looks, figure = drawing.look(methods), Figure(figsize=(3.4, 2.45))
    panels = figure.subplots(1, len(SETTINGS), sharey=True)
    for axes, setting in zip(panels, SETTINGS):
        inside = rows[rows["setting"] == setting]
        axes.axhline(0, color=drawing.GREY, linestyle=drawing.DASHED, linewidth=1)
        ends = {method: _curve(axes, inside[inside["method"] == method], looks[method], trained.get(method))
                for method in methods}
        axes.set(title=f"{setting.capitalize()} clips, K = {inside['shots'].max()}", xlabel="Inner steps at test",
                 xticks=range(0, int(inside["inner_steps"].max()) + 1, 2))
    panels[0].set_ylabel(f"Gain over {wording.over(run)} (points)")
    drawing.method_labels(panels[-1], run, ends | ({baseline: 0.0} if baseline else {}), 0.085)
    drawing.footnote(figure, f"Gain in macro F1; bands: {wording.resampled(run)}.\n"
                     "Ring: the number of steps trained with. ", run)
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, look: tuple[str, str], trained: int | None) -> float:
    """Draw gains by step with a band; returns the height of the right end, in points."""
    colour, marker = look
    steps, gain = rows["inner_steps"], rows["gain"]
    axes.fill_between(steps, rows["gain_low"], rows["gain_high"], color=colour, alpha=0.15, linewidth=0)
    axes.plot(steps, gain, color=colour, marker=marker, markersize=3, markeredgewidth=0)
    axes.plot(steps[steps == trained], gain[steps == trained], "o", color=drawing.ink(colour), markersize=7,
              fillstyle="none", markeredgewidth=0.9)
    return float(gain.iloc[-1])


def learned_rates(learnt: pd.DataFrame, shots: int | None = None) -> dict[str, pd.DataFrame]:
    """Mean rate, tensors by inner step (from 1), by method whose rates differ within one model: learned, not chosen."""
    moving = learnt[(learnt["step"] >= 0) & (learnt["value"] != 0)]
    spread = moving.groupby([*MODEL, "shots"], sort=False)["value"].agg(np.ptp)
    spread, means = spread.groupby("method", sort=False).max(), {}
    for method in spread.index[spread > 0]:
        rows = learnt[(learnt["method"] == method) & (learnt["step"] >= 0)]
        rows = rows[rows["shots"] == (shots or rows["shots"].max())]
        table = rows.pivot_table(index="tensor", columns="step", values="value", aggfunc="mean")
        table = table.reindex(list(dict.fromkeys(rows["tensor"])))
        table = table.set_axis(range(1, table.shape[1] + 1), axis=1)
        means[method] = table[(table != 0).any(axis=1)]
    return means


def rates_by_shots(learnt: pd.DataFrame) -> pd.DataFrame:
    """The power of the number of shots by which learned rates grow: its mean and std over models, if they grow."""
    moving = learnt[(learnt["step"] >= 0) & (learnt["value"] != 0) & learnt["method"].isin(learned_rates(learnt))]
    size = moving.assign(value=moving["value"].abs()).pivot_table(index=MODEL, columns="shots", values="value")
    few, many = size.columns.min(), size.columns.max()
    power = np.log(size[many] / size[few]) / np.log(many / few)
    powers = power.groupby("method", sort=False).agg(["mean", "std"]).reset_index()
    return powers[powers["mean"].abs() > 1e-6].reset_index(drop=True)


@drawing.styled
def rates(run: Run, shots: int | None = None) -> Figure | None:
    """Learned rates, tensor by step, a panel per method (only references if there are any); None without such rates."""
    learned = {} if run.learnt is None else learned_rates(run.learnt, shots)
    few = run.manifest.config.get("references") or learned  # a panel for each variant of a recipe would fill a page
    learned = {method: table for method, table in learned.items() if method in few}
    if not learned:
        return None
    heights = [len(table) for table in learned.values()]
    figure = Figure(figsize=(3.4, 0.55 + sum(0.22 + 0.15 * height for height in heights)))
    panels = figure.subplots(len(learned), 1, squeeze=False, height_ratios=heights)[:, 0]
    top = max(float(np.abs(table.to_numpy()).max()) for table in learned.values())
    for axes, (method, table) in zip(panels, learned.items()):
        seaborn.heatmap(table.abs().clip(lower=top / 1000), norm=LogNorm(top / 1000, 2 * top), cmap="Greys", cbar=False,
                        annot=table, fmt=".3f", annot_kws={"fontsize": 6}, yticklabels=True, ax=axes)
        axes.grid(False)
        axes.set(xlabel="", ylabel="", title=run.title(method))
        axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
        axes.tick_params(length=0, labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("Inner step")
    drawing.footnote(figure, "Learned rate of each tensor, mean over folds, groups of listeners and seeds; "
                     f"K = {shots or run.learnt['shots'].max()}", wording.stamp(run))
    return figure
