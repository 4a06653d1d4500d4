"""The numbers of every comparison of methods: level, gain over the general model, and the part of it that is personal.

A gain over SSL-E is what anybody's shots give plus the personal part, what the listener's own shots give beyond those
of somebody else. All tables, figures and claims take their numbers from `rows`.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from perser.analysis import wording
from perser.analysis.statistics import interval
from perser.records import Run
from perser.scores import CONSTANT, HEADLINE, SCORES, SETTINGS, constant, pooled, scored, sums

Grids = dict[tuple[str, str, int], pd.DataFrame]  # (method, setting, shots) -> listeners x (score, seed)
PARTS = {"gain": "Gain", "personal": "Personal part"}


def own(run: Run) -> pd.DataFrame:
    """Counts of the methods with the listener's own shots, and of the best constant answer."""
    wording.labels(run.records)
    summed = sums(run.records)
    return pd.concat([summed, constant(summed)])


def grids(scores: pd.DataFrame) -> Grids:
    """Scores per seed by cell."""
    names = [name for name in SCORES if name in scores]
    wide = scores.pivot(index=["method", "setting", "shots", "listener"], columns="seed", values=names)
    return {cell: part.droplevel([0, 1, 2]) for cell, part in wide.groupby(level=[0, 1, 2], sort=False)}


def rows(run: Run, baseline: str | None = None, names: Iterable[str] = HEADLINE) -> pd.DataFrame:
    """A row per setting, number of shots, method (and its group) and score, in printed units.

    Gains are positive where better. level, gain (over the baseline, by default SSL-E) and personal (own shots minus
    somebody else's), each with _low and _high, the last two with _p; worse: share of listeners who lose; listeners;
    records. A part that the records do not allow is nan.
    """
    baseline, scores = baseline or wording.baseline(run) or "", scored(own(run))
    cells, records = grids(scores), scores.groupby(["method", "setting", "shots"])["records"].sum()
    others = {} if run.exchanged is None else grids(scored(sums(run.exchanged)))
    table = []
    for method, setting, shots in sorted(cells, key=_order(run)):
        cell = cells[method, setting, shots]
        start = cells.get((baseline, setting, shots), cells.get((baseline, setting, 0)))
        for name in [name for name in names if name in cell]:
            parts = _parts(cell, None if method == baseline else start, others.get((method, setting, shots)), name)
            table.append({"method": method, "group": wording.group(run, method), "setting": setting, "shots": shots,
                          "score": name} | parts | {"records": int(records[method, setting, shots])})
    return pd.DataFrame(table)


def _order(run: Run) -> Callable[[tuple[str, str, int]], tuple[int, ...]]:
    """The order of cells: by setting, shots, group (controls first) and the records; the upper bound last."""
    groups, place = (wording.CONTROL, wording.SIMPLE, wording.META, wording.BOUND), {CONSTANT: -1}
    place |= {method: number for number, method in enumerate(wording.methods(run))}

    def key(cell: tuple[str, str, int]) -> tuple[int, ...]:
        group = wording.group(run, cell[0])
        return (SETTINGS.index(cell[1]), group == wording.BOUND, cell[2], groups.index(group), place[cell[0]])

    return key


def _parts(cell: pd.DataFrame, start: pd.DataFrame | None, other: pd.DataFrame | None, name: str) -> dict[str, float]:
    """One row's level, gain and personal part in a score."""
    factor = SCORES[name].factor
    level = interval(abs(factor) * cell[name])
    row = {"level": level.mean, "level_low": level.low, "level_high": level.high, "listeners": level.listeners}
    for part, against in (("gain", start), ("personal", other)):
        values = pd.DataFrame() if against is None else (factor * (cell[name] - against[name])).dropna(how="all")
        mean, low, high, p, _ = interval(values)
        row |= {part: mean, f"{part}_low": low, f"{part}_high": high, f"{part}_p": p}
        if part == "gain":
            row["worse"] = float((values.mean(axis=1) < 0).mean())
    return row


def levels(run: Run) -> pd.DataFrame:
    """Every score in printed units per listener and pooled, a row per method, setting, number of shots and `shots_of`.

    shots_of: own, or other for somebody else's shots. Columns SCORE (mean over listeners and seeds), SCORE_pooled (of
    the summed counts of all listeners, mean over seeds), and records.
    """
    parts = {"own": own(run)} | ({} if run.exchanged is None else {"other": sums(run.exchanged)})
    cell, table = ["method", "setting", "shots"], []
    for shots_of, summed in parts.items():
        frames = scored(summed), scored(pooled(summed))
        names = [name for name in SCORES if name in frames[0]]
        units = [abs(SCORES[name].factor) for name in names]
        by_listener, all_listeners = (units * frame.groupby(cell, sort=False)[names].mean() for frame in frames)
        records = frames[0].groupby(cell, sort=False)["records"].sum()
        table.append(by_listener.join(all_listeners.add_suffix("_pooled")).assign(records=records, shots_of=shots_of))
    frame = pd.concat(table).reset_index()
    key = frame[cell].apply(tuple, axis=1).map(_order(run))
    return frame.loc[key.sort_values(kind="stable").index].reset_index(drop=True)


def largest(run: Run) -> Run:
    """A run at no and, in each setting, at its largest number of shots."""
    most = run.records.groupby("setting")["shots"].max()
    return run.only(lambda frame: frame["shots"].isin([0]) | frame["shots"].eq(frame["setting"].map(most)))


def of(run: Run, methods: Iterable[str]) -> Run:
    """A run's records of some methods."""
    chosen = list(methods)
    return run.only(lambda frame: frame["method"].isin(chosen))


def training(run: Run) -> pd.DataFrame:
    """How meta-training went in each split: method, fold, group, seed, epoch (the one kept) and rise, the largest dev
    loss relative to its start (infinite if it is no number). Empty where the run does not say.
    """
    keys, columns = ["method", "fold", "group", "seed"], ["epoch", "dev loss start", "dev loss largest"]
    if run.learnt is None or not set(columns) <= set(run.learnt["tensor"]):
        return pd.DataFrame(columns=[*keys, "epoch", "rise"])
    rows = run.learnt[run.learnt["tensor"].isin(columns)]
    wide = rows.pivot(index=keys, columns="tensor", values="value")
    wide = wide[wide["epoch"].notna()].loc[list(dict.fromkeys(rows["method"]))]
    rise = (wide["dev loss largest"] / wide["dev loss start"]).fillna(np.inf)
    return pd.DataFrame({"epoch": wide["epoch"], "rise": rise}).reset_index()


def risen(run: Run) -> str:
    """A sentence that names the splits whose dev loss rose above twice its start; empty if none did."""
    splits = training(run)
    splits = splits[splits["rise"] > 2]
    named = [f"{run.title(method)} in {wording.count(len(part), 'split')} (up to {part['rise'].max():.3g} times, fold "
             f"{part.loc[part['rise'].idxmax(), 'fold']})" for method, part in splits.groupby("method", sort=False)]
    return f"Dev loss above twice its start: {', '.join(named)}." if named else ""
