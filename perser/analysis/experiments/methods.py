"""Every method next to the upper bound: rows in groups, meta-learning against the best method without."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from perser.analysis import figures as drawing, statistics, tables as printing, wording
from perser.analysis.statistics import compare_methods, most_shots, select
from perser.analysis.tables import CHANCE, Captioned, Table
from perser.records import GROUPS, Run
from perser.scores import SETTINGS, per_seed

BEST_RIVAL = ("the method without meta-learning with the highest mean on these clips at this K, picked on the "
              "listeners it is compared on, which favours it.")
AGAINST_BEST = f"Against: {BEST_RIVAL}"


def applies(run: Run) -> bool:
    """Whether the run has an upper bound."""
    return bool(wording.methods(run, wording.BOUND))


def tables(run: Run) -> dict[str, Captioned]:
    """Macro F1 and accuracy in groups; each meta-learning method against the best method without meta-learning."""
    tested = printing.comparison_table(run, against_best(run)), printing.comparison_caption(run, AGAINST_BEST)
    return printing.score_tables(run, table, caption) | {"comparisons": tested}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The forest of gains where there is a baseline."""
    if wording.baseline(run):
        yield run.manifest.experiment, forest(run)


def table(run: Run, seed: int = 0, score: str = "f1") -> Table:
    """The score table with the rows of each number of shots in the order of records.GROUPS; the upper bound last."""
    numbers = printing.score_rows(run, wording.baseline(run), seed, score)
    numbers["group"] = ["" if method == CHANCE else run.group(method) for method in numbers["method"]]
    rank = numbers["group"].map(("", *GROUPS).index)
    numbers = numbers.iloc[np.lexsort((rank, numbers["shots"], numbers["group"] == wording.BOUND))]
    numbers = numbers.reset_index(drop=True)
    return printing.printed_scores(run, numbers, numbers["group"] + numbers["shots"].astype(str))


def caption(run: Run, score: str = "f1") -> str:
    """The caption of `table`, with what the upper bound is."""
    bound = (f"{run.title(method)}: tuned on all other ratings of the listener, cross-validated."
             for method in wording.methods(run, wording.BOUND))
    return printing.score_caption(run, *bound, score=score)


def best_rival(run: Run, scores: pd.DataFrame, setting: str, shots: int) -> str | None:
    """The method without meta-learning with the highest mean macro F1 on the listeners at hand; None without one."""
    means = {method: np.nanmean(values) for method in wording.methods(run, wording.SIMPLE)
             if (values := select(scores, method, setting, shots).to_numpy()).size}
    return max(means, key=means.__getitem__) if means else None


def against_best(run: Run, seed: int = 0, methods: list[str] | None = None) -> pd.DataFrame:
    """Meta-learning methods (by default all) against the best without, per setting at its largest number of shots."""
    scores, pairs = per_seed(run.records), []
    for setting in SETTINGS:
        shots = most_shots(scores, setting)
        if best := best_rival(run, scores, setting, shots):
            chosen = wording.methods(run, wording.META) if methods is None else methods
            pairs += [(method, best, setting, shots) for method in chosen]
    return compare_methods(scores, pairs, seed)


def ladder(run: Run, seed: int = 0) -> pd.DataFrame:
    """At each number of shots, methods without meta-learning against SSL-E, those with it against the best without."""
    scores, baseline, pairs = per_seed(run.records), wording.baseline(run), []
    simple = wording.methods(run, wording.SIMPLE)
    for setting in SETTINGS:
        for shots in statistics.shot_numbers(scores, setting):
            rivals = dict.fromkeys(simple, baseline)
            rivals |= dict.fromkeys(wording.methods(run, wording.META), best_rival(run, scores, setting, shots))
            pairs += [(method, rival, setting, shots) for method, rival in rivals.items()
                      if rival in simple and method != baseline]
    return compare_methods(scores, pairs, seed)


def ladder_table(run: Run) -> Captioned:
    """`ladder` as a table."""
    against = f"Against: {wording.over(run)}; for meta-learning {BEST_RIVAL}"
    return printing.comparison_table(run, ladder(run)), printing.comparison_caption(run, against)


@drawing.styled
def forest(run: Run, seed: int = 0) -> Figure:
    """Gain over SSL-E of every method at the largest number of shots, seen and unseen, in groups."""
    scores, baseline = per_seed(run.records), wording.baseline(run)
    rows = statistics.gains(scores, baseline, largest=True, seed=seed)
    rows = rows.assign(label=rows["method"].map(run.title).str.split(" (", regex=False).str[0],
                       group=rows["method"].map(run.group), strong=rows["method"].isin(wording.ours(run)))
    levels = {setting: 100 * np.nanmean(select(scores, baseline, setting, 0).to_numpy()) for setting in SETTINGS}
    most = sorted({most_shots(scores, setting) for setting in levels}, reverse=True)
    base, fence = wording.over(run), _fence(rows)
    figure = drawing.forest(
        rows, {setting: f"{setting.capitalize()}; {base}: {level:.1f}" for setting, level in levels.items()},
        f"Gain over {base} (points), K = {' and '.join(map(str, most))}", fence)
    arrow = "Arrow: beyond the axis. " if np.isfinite(fence) else ""
    drawing.footnote(figure, f"Macro F1; bars: {wording.resampled(run)}.\n{arrow}", run)
    return figure


def _fence(rows: pd.DataFrame) -> float:
    """Left end of an axis without methods beyond Tukey's outer fence of the means; minus infinity if none is."""
    low, high = rows["mean"].quantile([0.25, 0.75])
    fence = low - 3 * (high - low)
    inside = rows.loc[rows["mean"] >= fence, "low"].min()
    start = min(inside, 0) - 0.2 * (high - low)
    return start if (rows["mean"] < start).any() else -np.inf
