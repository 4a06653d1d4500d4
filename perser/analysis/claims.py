"""What the records say for or against each claim, with effect and interval, whichever way it comes out."""

from pathlib import Path

import pandas as pd

from perser import records
from perser.analysis import captions, study
from perser.errors import UserError
from perser.analysis.intervals import Interval, compare, corrected, interval, p_value, select
from perser.scores import SETTINGS, per_seed
from perser.analysis.tables import text

ADAPTS = ("fine-tuning", "meta-perser")
RIVALS = ("fine-tuning", "maml")
# Points of macro F1 by which we ask to be ahead of the best method without meta-learning.
BARS = {"seen": 1.5, "unseen": 1.0}
ERRORS = 0.05  # share of runs without any effect in which a claim may be said to hold


def claims(results: Path, seed: int = 0) -> list[dict]:
    """The claims over every run under a directory of results/<corpus>/<upstream>/<experiment>.

    Each has claim (a sentence), value, low, high (mean paired difference over listeners and seeds and its
    95 % interval), unit, listeners, bar (the least value that the sentence asks for), p_holm (random signs,
    Holm-corrected within the run), verdict, synthetic (what of the data is made up) and records (the run's
    directory). Raises UserError without a run. The verdict: "holds" when the interval is above zero, the value not
    below the bar and p_holm at most 5 %; "uncorrected" when only the last is missing, as always with six listeners;
    else "fails".
    """
    runs = sorted(path.parent for path in Path(results).glob("*/*/*/records.parquet"))
    if not runs:
        raise UserError(
            f"{results}: no CORPUS/UPSTREAM/EXPERIMENT/records.parquet below it; make one with `perser run`"
        )
    return [claim for run in runs for claim in of_run(records.read(run), run, seed)]


def of_run(frame: pd.DataFrame, run: Path, seed: int = 0) -> list[dict]:
    """The claims that one run's methods allow, all at its largest number of shots.

    Of the experiment `methods`: ours against the best method without meta-learning; of `ablation`: what each
    part adds; of `steps`, whose records are about one comparison at many steps: none.
    """
    names = captions.labels(frame)
    if names["experiment"] == "steps":
        return []
    scores = per_seed(frame)
    made = f", {captions.stamp(frame)}" if captions.stamp(frame) else ""
    where = f"{names['corpus']} ({names['upstream']}, {names['experiment']}{made})"
    found = [_above_chance(scores, setting, seed) for setting in SETTINGS if captions.BASELINE in set(scores["method"])]
    found += [_sentence(row) for row in compare(scores, _pairs(scores), seed).to_dict("records")]
    if names["experiment"] == "methods":
        found += _against_best(scores, seed)
    found += _parts(scores, seed)
    p_holm = corrected([claim.pop("p") for claim in found])
    return [
        {
            "claim": f"{where}: {claim.pop('claim')}",
            **claim,
            "verdict": _verdict(claim, p),
            "p_holm": float(p),
            "unit": "points of macro F1",
            "synthetic": names["synthetic"],
            "records": str(run),
        }
        for claim, p in zip(found, p_holm)
    ]


def _pairs(scores: pd.DataFrame) -> list[tuple[str, str, str, int]]:
    """(method, baseline, setting, shots) of the comparisons made in every run that has both."""
    wanted = [(method, captions.BASELINE) for method in ADAPTS] + [("meta-perser", rival) for rival in RIVALS]
    wanted += [(method, study.OURS[0]) for method in study.OURS[1:]]
    there = set(scores["method"])
    pairs = [(*pair, setting, study.most_shots(scores, setting)) for pair in wanted for setting in SETTINGS]
    return [pair for pair in pairs if pair[3] and set(pair[:2]) <= there]


def _against_best(scores: pd.DataFrame, seed: int) -> list[dict]:
    """Ours against the best method without meta-learning, by at least the bar."""
    found = study.against_best(scores, seed)
    rows = found[found["method"].isin(study.OURS)].to_dict("records")
    return [_sentence(row, "the best method without meta-learning, ", BARS[row["setting"]]) for row in rows]


def _parts(scores: pd.DataFrame, seed: int) -> list[dict]:
    """What each part of the method adds on average over the others, at the largest number of shots."""
    found = study.effects(scores, seed)
    return [
        _claim(
            f"{captions.PARTS[row['part']]} with {captions.count(row['shots'], 'shot')} adds to the score on "
            f"average over the other parts, {row['setting']} clips",
            Interval(*(row[name] for name in Interval._fields)),
            row["p"],
        )
        for row in found.to_dict("records")
        if row["part"] in captions.PARTS and row["shots"] == study.most_shots(scores, row["setting"])
    ]


def _sentence(row: dict, which: str = "", bar: float = 0.0) -> dict:
    one, other = captions.title(row["method"]), captions.title(row["baseline"])
    ahead = f" by at least {bar} points" if bar else ""
    return _claim(
        f"{one} with {captions.count(row['shots'], 'shot')} is better than {which}{other}{ahead}, "
        f"{row['setting']} clips",
        Interval(*(row[name] for name in Interval._fields)),
        row["p"],
        bar,
    )


def _above_chance(scores: pd.DataFrame, setting: str, seed: int) -> dict:
    gaps = (
        select(scores, captions.BASELINE, setting, 0)
        - select(scores, captions.BASELINE, setting, 0, score="chance")
    ).dropna(how="all")
    return _claim(
        f"{captions.title(captions.BASELINE)} is better than ticking every class, {setting} clips",
        interval(gaps, seed),
        p_value(gaps, seed),
    )


def _claim(sentence: str, found: Interval, p: float, bar: float = 0.0) -> dict:
    return {
        "claim": sentence,
        "value": 100 * found.mean,
        "low": 100 * found.low,
        "high": 100 * found.high,
        "listeners": int(found.listeners),
        "bar": bar,
        "p": p,
    }


def _verdict(claim: dict, p_holm: float) -> str:
    if not (claim["low"] > 0 and claim["value"] >= claim["bar"]):
        return "fails"
    return "holds" if p_holm <= ERRORS else "uncorrected"


def lines(found: list[dict]) -> list[str]:
    """Claims for a person, one line each, in the same words whichever way they came out."""
    return [
        f"{claim['verdict']:<11}  "
        f"{text(claim['value'], claim['low'], claim['high'], '+'):<20} "
        f"p {claim['p_holm']:.3f}  {claim['claim']}"
        for claim in found
    ]
