"""What the records say for or against each claim, with effect and interval, whichever way it comes out."""

from pathlib import Path

import pandas as pd

from perser import records
from perser.analysis import wording
from perser.analysis.experiments import ablation, methods, steps
from perser.analysis.statistics import bootstrap_interval, compare_methods, holm, most_shots, p_value, select
from perser.analysis.tables import interval_text
from perser.errors import UserError
from perser.records import Run
from perser.scores import SETTINGS, per_seed

RIVALS = ("fine-tuning", "maml")  # what Meta-PerSER is compared with wherever it is run
BARS = {"seen": 1.5, "unseen": 1.0}  # points of macro F1 asked for over the best method without meta-learning
ERRORS = 0.05  # share of runs without any effect in which a claim may hold


def claims(results: Path, seed: int = 0) -> list[dict]:
    """The claims over every run under a directory of results/<corpus>/<upstream>/<experiment>.

    Each has claim (a sentence), value, low, high (mean paired difference with its 95 % interval), unit, listeners, bar
    (the least value that the sentence asks for), p_holm (random signs, Holm-corrected within the run), verdict,
    synthetic and records (the run's directory). The verdict: "holds" if the interval is above zero, the value not below
    the bar and p_holm at most 5 %; "uncorrected" if only the last is missing, as always with six listeners; else
    "fails". Raises UserError without a run.
    """
    places = sorted(path.parent for path in Path(results).glob("*/*/*/records.parquet"))
    if not places:
        raise UserError(f"{results}: no CORPUS/UPSTREAM/EXPERIMENT/records.parquet below it; make it with `perser run`")
    return [claim for place in places for claim in of_run(records.load(place), place, seed)]


def of_run(run: Run, place: Path, seed: int = 0) -> list[dict]:
    """The claims that one run's methods allow, all at its largest number of shots; of several inner steps none."""
    if steps.applies(run):
        return []
    names, scores, synthetic = wording.labels(run.records), per_seed(run.records), wording.stamp(run)
    title = f"{names['corpus']} ({names['upstream']}, {names['experiment']}{f', {synthetic}' if synthetic else ''})"
    rows = [_above_chance(run, scores, setting, seed) for setting in SETTINGS if wording.baseline(run)]
    if ablation.applies(run):
        rows += _parts(run, scores, seed)
    else:
        rows += [_better(run, row) for row in compare_methods(scores, _pairs(run, scores), seed).to_dict("records")]
    if methods.applies(run):
        best = methods.against_best(run, seed, wording.ours(run)).to_dict("records")
        rows += [_better(run, row, "the best method without meta-learning, ", BARS[row["setting"]]) for row in best]
    p_holm = holm([claim.pop("p") for claim in rows])
    return [{"claim": f"{title}: {claim.pop('claim')}", **claim, "verdict": _verdict(claim, p), "p_holm": float(p),
             "unit": "points of macro F1", "synthetic": names["synthetic"], "records": str(place)}
            for claim, p in zip(rows, p_holm)]


def _pairs(run: Run, scores: pd.DataFrame) -> list[tuple[str, str, str, int]]:
    """(method, baseline, setting, shots) of the comparisons made in every run that has both."""
    first, *further = wording.ours(run) or [None]
    base, there = wording.baseline(run), set(scores["method"])
    wanted = [(RIVALS[0], base), (first, base), *((first, rival) for rival in RIVALS),
              *((method, first) for method in further)]
    pairs = [(*pair, setting, most_shots(scores, setting)) for pair in wanted for setting in SETTINGS]
    return [pair for pair in pairs if pair[3] and set(pair[:2]) <= there]


def _parts(run: Run, scores: pd.DataFrame, seed: int) -> list[dict]:
    """What each part of the method adds on average over the others, at the largest number of shots."""
    return [_claim(f"{row['part']} with {wording.count(row['shots'], 'shot')} adds to the score on average over the "
                   f"other parts, {row['setting']} clips", row)
            for row in ablation.effects(run, seed).to_dict("records")
            if row["part"] in ablation.PARTS and row["shots"] == most_shots(scores, row["setting"])]


def _better(run: Run, row: dict, which: str = "", bar: float = 0.0) -> dict:
    ahead = f" by at least {bar} points" if bar else ""
    return _claim(f"{run.title(row['method'])} with {wording.count(row['shots'], 'shot')} is better than {which}"
                  f"{run.title(row['baseline'])}{ahead}, {row['setting']} clips", row, bar)


def _above_chance(run: Run, scores: pd.DataFrame, setting: str, seed: int) -> dict:
    baseline = wording.baseline(run)
    gaps = select(scores, baseline, setting, 0) - select(scores, baseline, setting, 0, score="chance")
    gaps = gaps.dropna(how="all")
    return _claim(f"{run.title(baseline)} is better than ticking every class, {setting} clips",
                  bootstrap_interval(gaps, seed)._asdict() | {"p": p_value(gaps, seed)})


def _claim(sentence: str, row: dict, bar: float = 0.0) -> dict:
    return {"claim": sentence, "value": 100 * row["mean"], "low": 100 * row["low"], "high": 100 * row["high"],
            "listeners": int(row["listeners"]), "bar": bar, "p": row["p"]}


def _verdict(claim: dict, p_holm: float) -> str:
    ahead = claim["low"] > 0 and claim["value"] >= claim["bar"]
    return "fails" if not ahead else "holds" if p_holm <= ERRORS else "uncorrected"


def lines(rows: list[dict]) -> list[str]:
    """Claims for a person, a line each, in the same words whichever way they came out."""
    return [f"{claim['verdict']:<11}  {interval_text(claim['value'], claim['low'], claim['high'], '+'):<20} "
            f"p {claim['p_holm']:.3f}  {claim['claim']}" for claim in rows]
