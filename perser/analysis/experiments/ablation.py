"""What each part of the method adds: every combination of CSMT, DA and LSLR, all else equal."""

from collections.abc import Iterator
from itertools import combinations

import pandas as pd
from matplotlib.figure import Figure

from perser.analysis import figures as drawing, statistics, tables as printing, wording
from perser.analysis.statistics import paired_difference
from perser.analysis.tables import TICK, Captioned, Table
from perser.records import Run
from perser.scores import SETTINGS, per_seed

PARTS = ("CSMT", "DA", "LSLR")
SHARED = "shared"  # the reading of CSMT with one batch in both loops; it takes the place of CSMT
SWITCHES = ("csmt", "anneal", "lslr", "lslr_lr", "title")  # settings that may differ between combinations
ALL = frozenset(PARTS)
COMBINATIONS = [frozenset(chosen) for number in range(4) for chosen in combinations(PARTS, number)]


def applies(run: Run) -> bool:
    """Whether the run holds every combination of the parts."""
    return bool(design(run))


def tables(run: Run) -> dict[str, Captioned]:
    """Macro F1 and accuracy with check marks, and the parts' main effects."""
    return printing.score_tables(run, table, caption) | {"effects": effects_table(run)}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The main effects."""
    yield "effects", effects_figure(run)


def parts(settings: dict) -> frozenset[str]:
    """The parts that a maml method's settings switch on."""
    csmt = {"split": "", "combined": "CSMT"}.get(settings.get("csmt", "split"), SHARED)
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


def effects(run: Run, seed: int = 0) -> pd.DataFrame:
    """Paired difference of macro F1 with and without each part, averaged over all combinations of the other parts.

    Rows of part, setting, shots, then as in `statistics.effect` (0..1) and p_holm over all rows.
    """
    scores, methods, rows = per_seed(run.records), design(run), []
    contrasts = {part: [(rest | {part}, rest) for rest in COMBINATIONS if part not in rest] for part in PARTS}
    contrasts[SHARED] = [({SHARED, "DA", "LSLR"}, ALL)]
    for part, combined in contrasts.items():
        pairs = [tuple(methods.get(frozenset(side)) for side in sides) for sides in combined]
        for setting in SETTINGS if all(map(all, pairs)) else ():
            for shots in statistics.shot_numbers(scores, setting):
                mean = sum(paired_difference(scores, *pair, setting, shots) for pair in pairs) / len(pairs)
                rows.append({"part": part, "setting": setting, "shots": shots} | statistics.effect(mean, seed))
    return statistics.with_holm(rows, "part", "setting", "shots")


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


def table(run: Run, seed: int = 0, score: str = "f1") -> Table:
    """Every combination of the parts at every number of shots, with the gain over plain MAML."""
    methods = design(run)
    chosen = {method: combination for combination, method in methods.items()}
    numbers = printing.score_rows(run, methods[frozenset()], seed, score, chance=False)
    marks = {part: [_mark(chosen.get(method), part) for method in numbers["method"]] for part in PARTS}
    plain = printing.printed_scores(run, numbers, numbers["shots"])
    named = numbers["method"].map(lambda method: chosen.get(method, frozenset()) in (frozenset(), ALL))
    cells = plain.cells.assign(Method=plain.cells["Method"].where(named, ""), **marks)
    cells = cells[["Method", *PARTS, *plain.cells.columns[1:]]]
    bold = plain.bold.assign(**dict.fromkeys(PARTS, False))[list(cells)]
    titles = {name: name.replace("Gain", "Over MAML,") for name in cells}
    return Table(cells.rename(columns=titles), bold.rename(columns=titles),
                 numbers.rename(columns=lambda name: name.replace("gain", "over_maml")), plain.breaks)


def _mark(combination: frozenset[str] | None, part: str) -> str:
    """The cell of a part: on, off, or "-" for a method outside the design."""
    if combination is None:
        return "-"
    return TICK if part in combination else SHARED if part == "CSMT" and SHARED in combination else ""


def caption(run: Run, score: str = "f1") -> str:
    """What is on and off, and what the last columns are."""
    return wording.caption(
        run, f"{TICK}: the part is on, all three as in Meta-PerSER; {SHARED}: CSMT with the same batch in both loops.",
        f"Over MAML: the gain over the row with every part off, {wording.pairing(run)}.", wording.BEST,
        wording.COUNTED, score=score)


def effects_table(run: Run) -> Captioned:
    """The main effects, in points."""
    rows = effects(run)
    part = rows["part"].replace({SHARED: "CSMT: one batch in both loops, not two"})
    table = printing.difference_table(rows, {"Part": part}, "Effect", ["part"])
    return table, printing.comparison_caption(
        run, "Effect: with the part minus without it, averaged over the four combinations of the other two parts; the "
        "last part compares two readings of CSMT with the other parts on.")


@drawing.styled
def effects_figure(run: Run, seed: int = 0) -> Figure:
    """What each part adds at the largest number of shots, seen and unseen."""
    rows = effects(printing.at_most_shots(run), seed)
    most = int(run.records["shots"].max())
    points = rows.assign(label=rows["part"].replace({SHARED: f"CSMT, {SHARED}"}), group="", strong=False,
                         **{name: 100 * rows[name] for name in ("mean", "low", "high")})
    figure = drawing.forest(points, {setting: f"{setting.capitalize()} clips" for setting in SETTINGS},
                            f"With the part minus without it (points), K = {most}")
    drawing.footnote(figure, f"Macro F1; bars: {wording.resampled(run)}.\n", run)
    return figure
