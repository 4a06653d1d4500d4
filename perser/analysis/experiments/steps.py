"""Inner steps: scores after every number of them, and the learned rates by step."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from perser.analysis import comparison, statistics, wording
from perser.analysis import figures as drawing
from perser.analysis import tables as printing
from perser.analysis.statistics import most_shots, select
from perser.analysis.tables import TICK, Captioned, Table
from perser.records import KEYS, Run
from perser.scores import HEADLINE, SCORES, SETTINGS, per_seed

MODEL = ["method", "fold", "group", "seed"]  # identifies a trained model in learnt.parquet


def applies(run: Run) -> bool:
    """Whether a method was evaluated at several numbers of inner steps."""
    return bool(run.records.duplicated([key for key in KEYS if key != "inner_steps"]).any())


def tables(run: Run) -> dict[str, Captioned]:
    """The scores at every number of steps, and other numbers against the number trained with."""
    tested = printing.comparison_caption(run, "Difference: after so many inner steps minus after those trained with.")
    compared = trained_table(run, against_trained(run)), tested
    return {run.manifest.experiment: (table(run), caption(run)), "comparisons": compared}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Lines of gain and personal part by step, a figure per setting."""
    for setting in SETTINGS:
        yield f"steps-{setting}", lines(run, setting)


def by_step(run: Run) -> pd.DataFrame:
    """`comparison.rows` of each number of inner_steps, at each setting's largest number of shots."""
    run, tables = comparison.largest(run), list[pd.DataFrame]()
    for number in sorted(set(run.records.loc[run.records["shots"] > 0, "inner_steps"])):
        part = run.only(  # mypy infers no lambda with a default
            lambda frame, number=number: frame["shots"].eq(0) | frame["inner_steps"].eq(number))  # type: ignore[misc]
        rows = comparison.rows(part).assign(inner_steps=int(number))
        tables.append(rows[rows["shots"] > 0] if tables else rows)
    return pd.concat(tables, ignore_index=True)


def trained_steps(run: Run) -> dict[str, int]:
    """The number of inner steps that each method was trained with, for methods trained with any."""
    configured = run.manifest.config["methods"].items()
    return {name: int(settings["inner_steps"]) for name, settings in configured if settings.get("inner_steps")}


def against_trained(run: Run) -> pd.DataFrame:
    """Scores after every other number of inner steps minus those after the number trained with, at the largest K.

    Rows of method, setting, shots, inner_steps, trained, score, then as in `statistics.effect`, and p_holm.
    """
    parts, rows = {int(number): per_seed(part) for number, part in run.records.groupby("inner_steps")}, []
    names = [name for name in HEADLINE if name in next(iter(parts.values()))]
    for name, (method, trained), setting in product(names, trained_steps(run).items(), SETTINGS):
        values = {number: select(part, method, setting, most_shots(part, setting), name)
                  for number, part in parts.items()}
        for number, after in values.items():
            if len(after) and number != trained and len(values.get(trained, ())):
                difference = SCORES[name].factor * (after - values[trained]).dropna(how="all")
                rows.append({"method": method, "setting": setting, "shots": most_shots(parts[trained], setting),
                             "inner_steps": number, "trained": trained, "score": name} | statistics.effect(difference))
    return statistics.with_holm(rows, "method", "setting", "shots", "inner_steps", "trained", "score")


def table(run: Run) -> Table:
    """The scores after each number of inner steps, of one method after the other; the number trained with is marked."""
    trained = trained_steps(run)
    rows = by_step(run).sort_values(["setting", "method"], kind="stable", key=lambda names: names.map(
        {name: place for place, name in enumerate(dict.fromkeys(names))}))
    cells, _, numbers, _ = printing.printed_scores(run, rows, ("inner_steps",))
    steps = [f"{number} {TICK if trained.get(method) == number else ''}".strip() if shots else "-"
             for number, method, shots in zip(numbers["inner_steps"], numbers["method"], numbers["shots"])]
    cells = cells.drop(columns="Inner_steps")
    cells.insert(3, "Steps", steps)
    return printing.build(cells, numbers, block=numbers[["setting", "method"]])


def caption(run: Run) -> str:
    """What a step is, and which number was trained with."""
    return printing.score_caption(
        run, "Steps: inner steps at test, all from the same initialisation; beyond those trained with, the last step's "
        f"rates are reused. {TICK}: the number trained with.")


def trained_table(run: Run, rows: pd.DataFrame) -> Table:
    """Rows of `against_trained`."""
    return printing.difference_table(rows, {"Method": rows["method"].map(run.title)}, "Difference",
                                     ["score", "method", "setting"], Steps=rows["inner_steps"].astype(str),
                                     Trained=rows["trained"].astype(str))


def lines(run: Run, setting: str) -> Figure:
    """Gain and personal part by number of inner steps, with a ring around the number trained with."""
    rows = by_step(run)
    rows = rows[(rows["setting"] == setting) & (rows["shots"] > 0)]
    return drawing.lines(run, rows, "inner_steps", f"Inner steps, {setting} clips", trained_steps(run))


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
    if run.learnt is None:
        return None
    learned = learned_rates(run.learnt, shots)
    few = run.manifest.config.get("references") or learned  # a panel for each variant of a recipe would fill a page
    learned = {method: table for method, table in learned.items() if method in few}
    if not learned:
        return None
    figure = drawing.rate_maps({run.title(method): table for method, table in learned.items()})
    drawing.footnote(figure, f"{drawing.RATES} Mean over folds, groups of listeners and seeds; "
                     f"K = {shots or run.learnt['shots'].max()}", wording.stamp(run))
    return figure
