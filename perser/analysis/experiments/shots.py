"""How many shots it takes: scores and gains against the number of shots, and where a gain begins."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from perser.analysis import figures as drawing, statistics, tables as printing, wording
from perser.analysis.experiments import methods
from perser.analysis.statistics import paired_difference, select
from perser.analysis.tables import Captioned, interval_text
from perser.records import Run
from perser.scores import per_seed


def applies(run: Run) -> bool:
    """Whether the run has four or more numbers of shots."""
    return len(set(run.records["shots"]) - {0}) >= 4


def tables(run: Run) -> dict[str, Captioned]:
    """Macro F1 and accuracy; gains at every number of shots; the paired tests at every number of shots."""
    shown = printing.score_tables(run)
    if wording.baseline(run):
        shown["gains"] = gains_table(run, statistics.gains(per_seed(run.records), wording.baseline(run)))
    return shown | {"comparisons": methods.ladder_table(run)}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Lines of scores, and of gains where there is a baseline."""
    yield "shots", score_lines(run)
    if wording.baseline(run):
        yield "shots-gained", gain_lines(run)


def gains_table(run: Run, rows: pd.DataFrame) -> Captioned:
    """Rows of `statistics.gains`, a line per method and setting, with the smallest K from which on the gain is sure."""
    columns, cells, numbers = sorted(rows["shots"].unique()), [], []
    for (setting, method), line in rows.sort_values(["setting", "shots"]).groupby(["setting", "method"], sort=False):
        above = (line["low"] > 0)[::-1].cummin()[::-1]
        pays = min(line["shots"][above], default=None)
        texts = {row.shots: interval_text(row.mean, row.low, row.high, "+") for row in line.itertuples()}
        cells.append({"Method": run.title(method), "Clips": setting, "Pays from": str(pays or "-"),
                      **{f"K = {shots}": texts.get(shots, "-") for shots in columns}})
        numbers.append({"method": method, "setting": setting, "pays_from": pays,
                        **{f"{name}_{row.shots}": getattr(row, name) for row in line.itertuples()
                           for name in ("mean", "low", "high")}})
    cells = pd.DataFrame(cells)
    return printing.build(cells, pd.DataFrame(numbers), block=cells["Clips"]), wording.caption(
        run, f"Gain over {wording.over(run)}, {wording.pairing(run)}.",
        "Pays from: the smallest K from which on the interval stays above zero; -: none.")


def score_lines(run: Run, seed: int = 0) -> Figure:
    """Macro F1 against the number of shots: a panel per setting, a line per method, SSL-E as a level."""
    return drawing.lines_by_shots(run, select, "Macro F1 (points)", "Bars", seed)


def gain_lines(run: Run, seed: int = 0) -> Figure:
    """Gain in macro F1 over SSL-E against the number of shots, paired by listener and seed."""
    baseline = wording.baseline(run)
    return drawing.lines_by_shots(
        run, lambda scores, method, *cell: paired_difference(scores, method, baseline, *cell),
        f"Gain over {wording.over(run)} (points)", "Gain in macro F1; bars", seed)
