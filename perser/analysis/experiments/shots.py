"""How many shots it takes: gain and personal part against the number of shots, and where they begin."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from perser.analysis import comparison, wording
from perser.analysis import figures as drawing
from perser.analysis import tables as printing
from perser.analysis.experiments import methods
from perser.analysis.tables import Captioned, interval_text
from perser.records import Run
from perser.scores import HEADLINE, SCORES, SETTINGS


def applies(run: Run) -> bool:
    """Whether the run has four or more numbers of shots."""
    return len(set(run.records["shots"]) - {0}) >= 4


def tables(run: Run) -> dict[str, Captioned]:
    """The scores; gain and personal part by number of shots; the paired tests at every number of shots."""
    shown = printing.score_tables(run)
    if wording.compares(run):
        shown["pays"] = pays_table(run, comparison.rows(run))
    return shown | {"comparisons": methods.ladder_table(run)}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Lines of gain and personal part, a figure per setting."""
    for setting in SETTINGS if wording.compares(run) else ():
        yield f"shots-{setting}", lines(run, setting)


def lines(run: Run, setting: str) -> Figure:
    """Gain and personal part against the number of shots."""
    rows = comparison.rows(run)
    rows = rows[(rows["setting"] == setting) & (rows["shots"] > 0)]
    return drawing.lines(run, rows, "shots", f"Shots K, {setting} clips")


def pays_table(run: Run, rows: pd.DataFrame) -> Captioned:
    """Rows of `comparison.rows` by number of shots, with the smallest K from which on gain or personal part is sure."""
    rows, cells, numbers = rows[(rows["shots"] > 0) & rows["gain"].notna()], [], []
    for score in [name for name in HEADLINE if name in set(rows["score"])]:
        for (setting, method), line in rows[rows["score"] == score].groupby(["setting", "method"], sort=False):
            for part in [part for part in comparison.PARTS if line[part].notna().any()]:
                line = line.sort_values("shots")
                above = (line[f"{part}_low"] > 0)[::-1].cummin()[::-1]
                pays = min(line["shots"][above], default=None)
                values = {shots: (mean, low, high) for shots, mean, low, high in zip(*(line[name] for name in (
                    "shots", part, f"{part}_low", f"{part}_high")))}
                cells.append({"Score": SCORES[score].title, "Clips": setting, "Method": run.title(method),
                              "Part": comparison.PARTS[part], "Pays from": str(pays or "-"),
                              **{f"K = {shots}": interval_text(*values[shots], "+") if shots in values else "-"
                                 for shots in sorted(rows["shots"].unique())}})
                numbers.append({"score": score, "setting": setting, "method": method, "part": part, "pays_from": pays,
                                **{f"{name}_{shots}": value for shots, row in values.items()
                                   for name, value in zip(("mean", "low", "high"), row)}})
    cells = pd.DataFrame(cells)
    return printing.build(cells, pd.DataFrame(numbers), block=cells[["Score", "Clips"]]), wording.caption(
        run, f"Gain over {wording.over(run)} and personal part, {wording.pairing(run)}; positive is better.",
        "Pays from: the smallest K from which on the interval stays above zero; -: none.")
