"""What the records say for or against each claim, with effect and interval, whichever way it comes out."""

from pathlib import Path

import numpy as np
import pandas as pd

from perser import captions, records
from perser.errors import UserError
from perser.intervals import Interval, compare, corrected, interval, p_value, select
from perser.scores import SETTINGS, per_listener
from perser.tables import text

ADAPTS = ("fine-tuning", "meta-perser")
RIVALS = ("fine-tuning", "maml")


def claims(results: Path, seed: int = 0) -> list[dict]:
    """The claims over every run under a directory of results/<corpus>/<upstream>/<experiment>.

    Each has claim (a sentence), value, low, high (mean paired difference over listeners and its 95 %
    interval), unit, listeners, holds (the interval is above zero), p_holm (random signs, Holm-corrected
    within the run), synthetic (what of the data is made up) and records (the run's directory). Raises
    UserError without a run.
    """
    runs = sorted(path.parent for path in Path(results).glob("*/*/*/records.parquet"))
    if not runs:
        raise UserError(
            f"{results}: no CORPUS/UPSTREAM/EXPERIMENT/records.parquet below it; make one with `perser run`"
        )
    return [claim for run in runs for claim in of_run(records.read(run), run, seed)]


def of_run(frame: pd.DataFrame, run: Path, seed: int = 0) -> list[dict]:
    """The claims that one run's methods allow, all at its largest number of shots."""
    names, scores = captions.labels(frame), per_listener(frame)
    shots, methods = int(scores["shots"].max()), set(scores["method"])
    made = f", {captions.stamp(frame)}" if captions.stamp(frame) else ""
    where = f"{names['corpus']} ({names['upstream']}{made})"
    found = [_above_chance(scores, setting, seed) for setting in SETTINGS if captions.BASELINE in methods]
    pairs = [(method, captions.BASELINE, setting, shots) for method in ADAPTS for setting in SETTINGS]
    pairs += [("meta-perser", rival, setting, shots) for rival in RIVALS for setting in SETTINGS]
    pairs = [pair for pair in pairs if shots and set(pair[:2]) <= methods]
    found += [_sentence(row) for row in compare(scores, pairs, seed).to_dict("records")]
    p_holm = corrected([claim.pop("p") for claim in found])
    return [
        {
            "claim": f"{where}: {claim.pop('claim')}",
            **claim,
            "p_holm": float(p),
            "unit": "points of macro F1",
            "synthetic": names["synthetic"],
            "records": str(run),
        }
        for claim, p in zip(found, p_holm)
    ]


def _sentence(row: dict) -> dict:
    one, other = captions.title(row["method"]), captions.title(row["baseline"])
    return _claim(
        f"{one} with {captions.count(row['shots'], 'shot')} is better than {other}, {row['setting']} clips",
        Interval(*(row[name] for name in Interval._fields)),
        row["p"],
    )


def _above_chance(scores: pd.DataFrame, setting: str, seed: int) -> dict:
    gaps = (
        select(scores, captions.BASELINE, setting, 0)
        - select(scores, captions.BASELINE, setting, 0, score="chance")
    ).dropna()
    return _claim(
        f"{captions.title(captions.BASELINE)} is better than ticking every class, {setting} clips",
        interval(gaps, seed),
        p_value(gaps, seed),
    )


def _claim(sentence: str, found: Interval, p: float) -> dict:
    return {
        "claim": sentence,
        "value": 100 * found.mean,
        "low": 100 * found.low,
        "high": 100 * found.high,
        "listeners": int(found.listeners),
        "holds": bool(np.greater(found.low, 0)),
        "p": p,
    }


def lines(found: list[dict]) -> list[str]:
    """Claims for a person, one line each, the same for those that hold and those that do not."""
    return [
        f"{'holds' if claim['holds'] else 'fails'}  "
        f"{text(claim['value'], claim['low'], claim['high'], '+'):<20} "
        f"p {claim['p_holm']:.3f}  {claim['claim']}"
        for claim in found
    ]
