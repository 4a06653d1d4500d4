"""Every method next to the upper bound: gain and personal part, meta-learning against the best method without."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from perser.analysis import comparison, statistics, wording
from perser.analysis import figures as drawing
from perser.analysis import tables as printing
from perser.analysis.statistics import compare_methods, select
from perser.analysis.tables import Captioned
from perser.records import Run
from perser.scores import HEADLINE, SCORES, SETTINGS, per_seed

BEST_RIVAL = ("the method without meta-learning with the best mean in this score on these clips at this K, picked on "
              "the listeners it is compared on, which favours it.")
AGAINST_BEST = f"Against: {BEST_RIVAL}"


def applies(run: Run) -> bool:
    """Whether the run has an upper bound."""
    return bool(wording.methods(run, wording.BOUND))


def tables(run: Run) -> dict[str, Captioned]:
    """The scores; each meta-learning method against the best method without meta-learning."""
    tested = printing.comparison_table(run, against_best(run)), printing.comparison_caption(run, AGAINST_BEST)
    return printing.score_tables(run) | {"comparisons": tested}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The forest."""
    if wording.compares(run):
        yield run.manifest.experiment, forest(run)


def best_rival(run: Run, scores: pd.DataFrame, setting: str, shots: int, score: str) -> str | None:
    """The method without meta-learning with the best mean score on the listeners at hand; None without one."""
    means = {method: SCORES[score].factor * np.nanmean(values) for method in wording.methods(run, wording.SIMPLE)
             if (values := select(scores, method, setting, shots, score).to_numpy()).size}
    return max(means, key=means.__getitem__) if means else None


def against_best(run: Run, methods: list[str] | None = None, names: Iterable[str] = HEADLINE) -> pd.DataFrame:
    """Meta-learning methods (by default all) against the best without, per setting at its largest number of shots."""
    chosen = wording.methods(run, wording.META) if methods is None else methods
    return ladder(comparison.largest(run), chosen, names)


def ladder(run: Run, methods: list[str] | None = None, names: Iterable[str] = HEADLINE) -> pd.DataFrame:
    """At each number of shots, methods without meta-learning against SSL-E, those with it against the best without.

    Rows of `statistics.compare_methods`; methods: only these.
    """
    scores, simple, tables = per_seed(run.records), wording.methods(run, wording.SIMPLE), []
    methods = [*simple, *wording.methods(run, wording.META)] if methods is None else methods
    for name in [name for name in names if name in scores]:
        pairs = []
        for setting in SETTINGS:
            for shots in statistics.shot_numbers(scores, setting):
                best = best_rival(run, scores, setting, shots, name)
                rivals = {method: wording.baseline(run) if method in simple else best for method in methods}
                pairs += [(method, rival, setting, shots) for method, rival in rivals.items()
                          if rival in simple and method != rival]
        tables.append(compare_methods(scores, pairs, [name]))
    return pd.concat(tables, ignore_index=True)


def ladder_table(run: Run) -> Captioned:
    """`ladder` as a table."""
    against = f"Against: {wording.over(run)}; for meta-learning {BEST_RIVAL}"
    return printing.comparison_table(run, ladder(run)), printing.comparison_caption(run, against)


def forest(run: Run) -> Figure:
    """Gain over SSL-E and personal part of every method at the largest number of shots, in groups."""
    rows = comparison.rows(comparison.largest(run))
    rows = rows[rows["gain"].notna()]
    return drawing.forest(run, rows.assign(
        label=rows["method"].map(run.title).str.split(" (", regex=False).str[0],
        heading=rows["group"], strong=rows["method"].isin(wording.ours(run))))
