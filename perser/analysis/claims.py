"""What the records say for or against each claim, with effect and interval, whichever way it comes out."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from perser import records
from perser.analysis import comparison, wording
from perser.analysis.experiments import ablation, methods, steps
from perser.analysis.statistics import compare_methods, holm, most_shots
from perser.analysis.tables import escaped, interval_text, p_text, plain
from perser.errors import UserError
from perser.records import Run
from perser.scores import CONSTANT, SCORES, SETTINGS, per_seed

RIVALS = ("fine-tuning", "maml")  # what Meta-PerSER is compared with wherever it is run
BARS = {"seen": 1.5, "unseen": 1.0}  # points of macro F1 asked for over the best method without meta-learning
ERRORS = 0.05  # share of runs without any effect in which a claim may hold
HARM = -0.3  # in points of accuracy and hundredths of a nat: the lowest end of a gain's interval that harms nobody
HEADS = {"gain": "gains over {}", "personal": "gains more from the listener's own shots than from somebody else's"}
VERDICTS = {"holds": "yes", "uncorrected": "(yes)", "fails": "no"}


def claims(results: Path) -> list[dict[str, Any]]:
    """The claims over every run under a directory of results/<corpus>/<upstream>/<experiment>.

    Each has run (corpus, upstream, experiment), kind, claim (a sentence), method, setting and score where it is about
    one, value, low, high (mean paired difference with its 95 % interval, better is positive), unit, listeners, bar (the
    least value that the sentence asks for), p_holm (Holm-corrected over the run's claims of the kind), verdict,
    synthetic and records (the run's directory). Kinds: "gain" over SSL-E and "personal" part, in log loss and accuracy;
    "harmless", whose p_holm is None; "macro F1". The verdict: "holds" if the interval is above zero, the value not
    below the bar and p_holm at most 5 %; "uncorrected" if only the last is missing; else "fails". Harmless holds if no
    interval reaches below HARM. Raises UserError without a run.
    """
    places = sorted(path.parent for path in Path(results).glob("*/*/*/records.parquet"))
    if not places:
        raise UserError(f"{results}: no CORPUS/UPSTREAM/EXPERIMENT/records.parquet below it; make it with `perser run`")
    return [claim for place in places for claim in of_run(records.load(place), place)]


def of_run(run: Run, place: Path) -> list[dict[str, Any]]:
    """The claims that one run's methods allow, all at its largest number of shots; of several inner steps none."""
    if steps.applies(run):
        return []
    names, synthetic = wording.labels(run.records), wording.stamp(run)
    title = f"{names['corpus']} ({names['upstream']}, {names['experiment']}{f', {synthetic}' if synthetic else ''})"
    rows = _headline_rows(run)
    return [{"run": title, **claim, "synthetic": names["synthetic"], "records": str(place)}
            for kind in (_headline(run, rows), _harmless(run, rows), _macro_f1(run)) for claim in kind]


def _headline(run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gain and personal part in log loss and accuracy, each kind with its own correction."""
    judged = []
    for part, words in HEADS.items():
        judged += _judged([
            _claim(run, f"{_with_shots(run, row)} {words.format(wording.over(run))} in "
                   f"{SCORES[row['score']].words}, {row['setting']} clips", _mean_of(row, part), part)
            for row in rows if row[part] == row[part]])
    return judged


def _headline_rows(run: Run) -> list[dict[str, Any]]:
    """Rows of `comparison.rows` that the headline is about: adapting methods, of a recipe's variants the references."""
    if ablation.applies(run) or not wording.baseline(run):
        return []
    rows = comparison.rows(comparison.largest(run), names=("log_loss", "accuracy"))
    chosen = run.manifest.config.get("references") or [*wording.methods(run, wording.SIMPLE),
                                                       *wording.methods(run, wording.META)]
    return rows[rows["shots"].gt(0) & rows["method"].isin(chosen)].to_dict("records")


def _harmless(run: Run, numbers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """That no interval of a method's gain, in the score where it reaches lowest, reaches below HARM."""
    scores: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in numbers:
        scores.setdefault((row["method"], row["setting"]), []).append(row)
    judged = []
    for (_method, setting), rows in scores.items():
        row = min(rows, key=lambda row: row["gain_low"])
        claim = _claim(run, f"{_with_shots(run, row)} is not worse than {wording.over(run)} by more than {-HARM} in "
                       f"log loss or accuracy, {setting} clips", _mean_of(row, "gain"), "harmless")
        verdict = {"p_holm": None, "verdict": "holds" if row["gain_low"] >= HARM else "fails"}
        judged += [claim | verdict] if len(rows) == 2 else []
    return judged


def _macro_f1(run: Run) -> list[dict[str, Any]]:
    """The claims in the paper's score."""
    rows, baseline, scores = [], wording.baseline(run), per_seed(run.records)
    if baseline:
        numbers = comparison.rows(comparison.of(run, [baseline]), CONSTANT, ("f1",))
        rows += [_claim(run, f"{run.title(baseline)} is better than the best constant answer, {row['setting']} clips",
                        _mean_of(row, "gain"))
                 for row in numbers[numbers["method"] == baseline].to_dict("records")]
    if ablation.applies(run):
        rows += _parts(run)
    else:
        pairs = compare_methods(scores, _pairs(run, scores), ("f1",))
        rows += [_better(run, row) for row in pairs.to_dict("records")]
    if methods.applies(run):
        best = methods.against_best(run, wording.ours(run), ("f1",)).to_dict("records")
        rows += [_better(run, row, "the best method without meta-learning, ", BARS[row["setting"]]) for row in best]
    return _judged(rows)


def _pairs(run: Run, scores: pd.DataFrame) -> list[tuple[str, str, str, int]]:
    """(method, baseline, setting, shots) of the comparisons made in every run that has both."""
    first, *further = wording.ours(run) or [""]
    base, there = wording.baseline(run) or "", set(scores["method"])
    wanted = [(RIVALS[0], base), (first, base), *((first, rival) for rival in RIVALS),
              *((method, first) for method in further)]
    pairs = [(*pair, setting, most_shots(scores, setting)) for pair in wanted for setting in SETTINGS]
    return [pair for pair in pairs if pair[3] and set(pair[:2]) <= there]


def _parts(run: Run) -> list[dict[str, Any]]:
    """What each part of the method adds on average over the others, at the largest number of shots."""
    return [_claim(run, f"{row['part']} with {wording.count(row['shots'], 'shot')} adds to the score on average over "
                   f"the other parts, {row['setting']} clips", row)
            for row in ablation.effects(comparison.largest(run)).to_dict("records")
            if row["part"] in ablation.PARTS and (row["score"], row["of"]) == ("f1", "gain")]


def _better(run: Run, row: dict[str, Any], which: str = "", bar: float = 0.0) -> dict[str, Any]:
    ahead = f" by at least {bar} points" if bar else ""
    return _claim(run, f"{_with_shots(run, row)} is better than {which}"
                  f"{run.title(row['baseline'])}{ahead}, {row['setting']} clips", row, bar=bar)


def _with_shots(run: Run, row: dict[str, Any]) -> str:
    return f"{run.title(row['method'])} with {wording.count(row['shots'], 'shot')}"


def _mean_of(row: dict[str, Any], part: str) -> dict[str, Any]:
    """A row of `comparison.rows` with its gain or personal part as the mean."""
    return row | {name: row[f"{part}_{name}"] for name in ("low", "high", "p")} | {"mean": row[part]}


def _claim(run: Run, sentence: str, row: dict[str, Any], kind: str = "macro F1", bar: float = 0.0) -> dict[str, Any]:
    return {"kind": kind, "claim": sentence, "method": run.title(row["method"]) if "method" in row else None,
            "setting": row["setting"], "score": row["score"], "value": row["mean"], "low": row["low"],
            "high": row["high"], "unit": "hundredths of a nat" if row["score"] == "log_loss" else "points",
            "listeners": int(row["listeners"]), "bar": bar, "p": row.get("p")}


def _judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Claims with p_holm, corrected over all of them, and verdict."""
    return [claim | {"p_holm": float(p), "verdict": _verdict(claim, p)}
            for claim, p in zip(rows, holm([claim["p"] for claim in rows]))]


def _verdict(claim: dict[str, Any], p_holm: float) -> str:
    ahead = claim["low"] > 0 and claim["value"] >= claim["bar"]
    return "fails" if not ahead else "holds" if p_holm <= ERRORS else "uncorrected"


def lines(rows: list[dict[str, Any]], narrow: bool = False) -> list[str]:
    """Claims for a person: of each run a line per method and setting with the headline, then a line per other claim.

    narrow: three lines per method and setting, none of them longer than 80 columns.
    """
    headline = _narrow_lines if narrow else _headline_lines
    printed: list[str] = []
    for title, part in groupby(rows, key=lambda claim: claim["run"]):
        claims = list(part)
        printed += [*([""] if printed else []), title, *headline([c for c in claims if c["kind"] != "macro F1"])]
        printed += [f"  {claim['verdict']:<11}  {_effect(claim):<20} p {claim['p_holm']:.3f}  {claim['claim']}"
                    for claim in claims if claim["kind"] == "macro F1"]
    return printed


def _effect(claim: dict[str, Any]) -> str:
    return interval_text(claim["value"], claim["low"], claim["high"], "+")


def _narrow_lines(claims: list[dict[str, Any]]) -> list[str]:
    """The same as `_headline_lines` with a line for each score."""
    cells = {(claim["method"], claim["setting"], claim["kind"], claim["score"] if claim["kind"] in HEADS else ""): claim
             for claim in claims}
    printed = []
    for method, setting in dict.fromkeys(key[:2] for key in cells):
        harmless = cells.get((method, setting, "harmless", ""))
        printed.append(f"  {method}, {setting} clips; harmless: {VERDICTS[harmless['verdict']] if harmless else '-'}")
        for score in ("log_loss", "accuracy"):
            known = [(part, cells.get((method, setting, part, score))) for part in HEADS]
            texts = [f"{_effect(claim)} {VERDICTS[claim['verdict']]}" if claim else "-" for _, claim in known]
            effects = " ".join(f"{part} {text:<24}" for (part, _), text in zip(known, texts))
            printed.append(f"    {SCORES[score].words:<9} {effects}".rstrip())
    return printed


def _headline_table(claims: list[dict[str, Any]]) -> pd.DataFrame:
    """A row per method and setting: gain and personal part in log loss and accuracy, harmless or not."""
    columns = [(part, score) for part in HEADS for score in ("log_loss", "accuracy")]
    cells = {(claim["method"], claim["setting"], claim["kind"], claim["score"]):
             f"{_effect(claim)} {VERDICTS[claim['verdict']]}" for claim in claims}
    harmless = {(claim["method"], claim["setting"]): VERDICTS[claim["verdict"]] for claim in claims
                if claim["kind"] == "harmless"}
    heads = [f"{part}, {SCORES[score].words}" for part, score in columns]
    return pd.DataFrame([[*row, *(cells.get((*row, *column), "-") for column in columns), harmless.get(row, "-")]
                         for row in dict.fromkeys((claim["method"], claim["setting"]) for claim in claims)],
                        columns=["method", "clips", *heads, "harmless"])


def _headline_lines(claims: list[dict[str, Any]]) -> list[str]:
    """The headline's table in columns of one width."""
    table = _headline_table(claims)
    texts = [list(table), *table.itertuples(index=False)] if len(table) else []
    widths = [max(map(len, column)) for column in zip(*texts)]
    return ["  " + "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in texts]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Claims as Markdown: of each run a table of the headline, then one of the other claims in sentences."""
    printed = []
    for title, part in groupby(rows, key=lambda claim: claim["run"]):
        claims = list(part)
        heads, others = ([c for c in claims if (c["kind"] == "macro F1") == other] for other in (False, True))
        sentences = pd.DataFrame([{"claim, in macro F1": claim["claim"], "verdict": VERDICTS[claim["verdict"]],
                                   "difference": _effect(claim), "p": p_text(claim["p_holm"])} for claim in others])
        frames = [frame for frame in (_headline_table(heads), sentences) if len(frame)]
        printed += [f"**{escaped(title)}**", *map(plain, frames)]
    return "\n\n".join(printed)
