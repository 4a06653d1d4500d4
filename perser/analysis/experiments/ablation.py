"""What each part of the method adds: every combination of CSMT, DA and LSLR, all else equal."""

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from perser.analysis import comparison, statistics, wording
from perser.analysis import figures as drawing
from perser.analysis import tables as printing
from perser.analysis.statistics import paired_difference
from perser.analysis.tables import TICK, Captioned, Table
from perser.records import Run
from perser.scores import HEADLINE, SCORES, SETTINGS, per_seed

PARTS = ("CSMT", "DA", "LSLR")
SHARED = "shared"  # the reading of CSMT with one batch in both loops; it takes the place of CSMT
SWITCHES = ("csmt", "anneal", "lslr", "lslr_lr", "title")  # settings that may differ between combinations
ALL = frozenset(PARTS)
COMBINATIONS = [frozenset(chosen) for number in range(4) for chosen in combinations(PARTS, number)]


def applies(run: Run) -> bool:
    """Whether the run holds every combination of the parts."""
    return bool(design(run))


def tables(run: Run) -> dict[str, Captioned]:
    """The scores with check marks, and the parts' main effects."""
    shown = {run.manifest.experiment: (table(run), caption(run))}
    return printing.score_tables(run) | shown | {"effects": effects_table(run)}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The main effects."""
    yield "effects", effects_figure(run)


def parts(settings: dict[str, object]) -> frozenset[str]:
    """The parts that a maml method's settings switch on."""
    csmt = {"split": "", "combined": "CSMT"}.get(str(settings.get("csmt", "split")), SHARED)
    on = csmt, "DA" if settings.get("anneal") else "", "LSLR" if settings.get("lslr") else ""
    return frozenset(on) - {""}


def design(run: Run) -> dict[frozenset[str], str]:
    """Methods by their parts, of maml methods that are equal in all else; empty unless all combinations are there."""
    designs: dict[str, dict[frozenset[str], str]] = {}
    for method in wording.methods(run, kind="maml"):
        settings = wording.settings(run, method)
        rest = repr(sorted((name, value) for name, value in settings.items() if name not in SWITCHES))
        designs.setdefault(rest, {}).setdefault(parts(settings), method)
    return next((methods for methods in designs.values() if methods.keys() >= set(COMBINATIONS)), {})


def effects(run: Run) -> pd.DataFrame:
    """Paired difference with and without each part, averaged over all combinations of the other parts.

    Rows of part, setting, shots, of, score, then as in `statistics.effect` in printed units and p_holm over all rows of
    a score. of: "gain", of the score itself, and "personal", of the part of it that somebody else's shots do not give.
    """
    methods, rows, own = design(run), [], per_seed(run.records)
    other = None if run.exchanged is None else per_seed(run.exchanged)
    contrasts = {part: [(rest | {part}, rest) for rest in COMBINATIONS if part not in rest] for part in PARTS}
    contrasts[SHARED] = [(frozenset({SHARED, "DA", "LSLR"}), ALL)]
    for name, (part, combined) in product([name for name in HEADLINE if name in own], contrasts.items()):
        pairs = [(methods.get(with_part, ""), methods.get(without, "")) for with_part, without in combined]
        for setting in SETTINGS if all(map(all, pairs)) else ():
            for shots in statistics.shot_numbers(own, setting):
                cell = {"part": part, "setting": setting, "shots": shots, "score": name}
                mean, swapped = (_mean_difference(scores, pairs, setting, shots, name) for scores in (own, other))
                rows.append(cell | {"of": "gain"} | statistics.effect(mean))
                if swapped is not None:
                    rows.append(cell | {"of": "personal"} | statistics.effect((mean - swapped).dropna(how="all")))
    return statistics.with_holm(rows, "part", "setting", "shots", "score", "of")


def _mean_difference(scores: pd.DataFrame | None, pairs: list[tuple[str, str]], setting: str, shots: int,
                     name: str) -> pd.DataFrame | None:
    """Mean of paired differences in printed units, better is positive; None without scores."""
    if scores is None:
        return None
    differences = [paired_difference(scores, *pair, setting, shots, name) for pair in pairs]
    return SCORES[name].factor * sum(differences) / len(pairs)


def kept_start(run: Run) -> pd.DataFrame:
    """Share of a method's records identical to its initialisation, i.e. how often early stopping kept epoch 0.

    The initialisation is the maml method without epochs; a method with another number of inner steps starts elsewhere.
    """
    keys, maml = ["setting", "fold", "seed", "listener", "shots"], wording.methods(run, kind="maml")
    start = next((method for method in maml if wording.settings(run, method).get("epochs") == 0), None)
    counted = [name for name in run.records.columns if name.startswith(("tp_", "fp_", "fn_"))]
    by_method = {method: rows.set_index(keys)[counted] for method, rows in run.records.groupby("method")}
    rows = []
    for method in wording.methods(run, wording.META) if start else []:
        if method != start:
            records = by_method[method]
            same = (records == by_method[start].reindex(records.index)).all(axis=1)
            rows.append({"method": method, "same": float(same.mean()), "records": len(records)})
    return pd.DataFrame(rows, columns=["method", "same", "records"])


def table(run: Run) -> Table:
    """Every combination of the parts at every number of shots, with the gain over plain MAML."""
    methods = design(run)
    chosen = {method: combination for combination, method in methods.items()}
    plain = printing.score_table(run, methods[frozenset()])
    names = plain.numbers["method"]
    marks = {part: [_mark(chosen.get(method), part) for method in names] for part in PARTS}
    few = names.map(lambda method: chosen.get(method, frozenset()) in (frozenset(), ALL))
    cells = plain.cells.assign(Method=plain.cells["Method"].where(few, ""), **marks)
    order = ["Clips", "Method", *PARTS, "K", *plain.cells.columns[3:]]
    return plain._replace(cells=cells[order], bold=plain.bold.assign(**dict.fromkeys(PARTS, False))[order])


def _mark(combination: frozenset[str] | None, part: str) -> str:
    """The cell of a part: on, off, or "-" for a method outside the design."""
    if combination is None:
        return "-"
    return TICK if part in combination else SHARED if part == "CSMT" and SHARED in combination else ""


def caption(run: Run) -> str:
    """What is on and off, and what the gains are over."""
    return printing.score_caption(
        run, f"{TICK}: the part is on, all three as in Meta-PerSER; {SHARED}: CSMT with the same batch in both loops.",
        over="MAML, the row with every part off")


def effects_table(run: Run) -> Captioned:
    """The main effects."""
    rows = effects(run)
    part = rows["part"].replace({SHARED: "CSMT: one batch in both loops, not two"})
    of = rows["of"].map({"gain": "score", "personal": "personal part"})
    table = printing.difference_table(rows, {"Part": part, "Of": of}, "Effect", ["score", "part"])
    return table, printing.comparison_caption(
        run, "Effect: with the part minus without it, averaged over the four combinations of the other two parts; the "
        "last part compares two readings of CSMT with the other parts on. Of the score, and of its personal part.")


def effects_figure(run: Run) -> Figure:
    """What each part adds at the largest number of shots, to the scores and to their personal parts."""
    rows = effects(comparison.largest(run))
    keys = ["part", "setting", "shots", "score"]
    wide = rows.pivot(index=keys, columns="of", values=["mean", "low", "high"]).loc[rows.set_index(keys).index.unique()]
    points = wide.index.to_frame(index=False)
    for of, end in product(comparison.PARTS, ("mean", "low", "high")):
        name = of if end == "mean" else f"{of}_{end}"
        points[name] = wide[end, of].to_numpy() if (end, of) in wide else np.nan
    return drawing.forest(run, points.assign(
        label=points["part"].replace({SHARED: f"CSMT, {SHARED}"}), heading="", strong=False,
        group=wording.META), "what the part adds")
