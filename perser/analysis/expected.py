"""The claims that this artifact stands for, each with what decides it: results/expected.toml, judged by machine.

Two verdicts a claim. Reproduced: do the records bear it out? Regressed: has the number moved from the committed one by
more than its tolerance? The first may be no, honestly; the second must never be.
"""

import json
import textwrap
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perser import records
from perser.analysis import comparison, wording
from perser.analysis.tables import interval_text
from perser.errors import UserError

PLACES = ("run", "table", "test")  # what can decide a claim


class Claim(BaseModel):
    """A claim of expected.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9-]+$", description="short name")
    source: str = Field(min_length=1, description="who claims it")
    says: str = Field(min_length=1, description="the claim in one sentence")
    run: str | None = Field(None, description="CORPUS/UPSTREAM/EXPERIMENT below results/ that decides it")
    method: str | None = Field(None, description="its method")
    over: str | None = Field(None, description="method that the gain is over; unset: SSL-E")
    setting: Literal["seen", "unseen"] | None = Field(None, description="its clips")
    score: str | None = Field(None, description="its score, of perser.scores")
    part: Literal["gain", "personal"] = Field("gain", description="gain, or personal part")
    table: str | None = Field(None, description="CSV or JSON file with rows, from the checkout's root, that decides it")
    where: dict[str, Any] = Field({}, description="values of columns that choose the rows of the table")
    column: str | None = Field(None, description="the number in these rows, of which `take` is taken")
    take: Literal["min", "max"] = Field("min")
    test: str | None = Field(None, description="test, FILE::NAME, that decides it")
    kind: Literal["above", "below"] = Field("above", description="where its number or interval must lie: of the bar")
    bar: float = Field(0.0, allow_inf_nan=False)
    value: float | None = Field(None, allow_inf_nan=False, description="the number when it was committed")
    tolerance: float | None = Field(None, gt=0, allow_inf_nan=False, description="by how much it may move")
    reason: str = Field("", description="why by so much")
    minutes: float | None = Field(None, ge=0, description="minutes to compute its records again")
    hardware: str = Field("2 cores")
    needs: str = Field("", description="what this artifact lacks to decide it")
    headline: bool = Field(False, description="whether it is among the lines that matter")

    @model_validator(mode="after")
    def _complete(self) -> "Claim":
        places = [name for name in PLACES if getattr(self, name)]
        if len(places) != (not self.needs):
            raise ValueError(f"name one of {', '.join(PLACES)}, or else what it needs")
        if places and places != ["test"] and (self.value is None or self.tolerance is None or not self.reason):
            raise ValueError("give value, tolerance and the reason for the tolerance")
        return self


class Judged(NamedTuple):
    """A claim, what was measured, and both verdicts; regressed is None where nothing was measured."""

    claim: Claim
    value: float | None
    low: float | None
    high: float | None
    reproduced: str
    regressed: bool | None


def read(path: Path) -> list[Claim]:
    """The claims of a file. Raises UserError that names the file, the claim and what it lacks."""
    claims = []
    for number, entry in enumerate(_entries(path, "claim"), start=1):
        try:
            claims.append(Claim.model_validate(entry))
        except ValidationError as error:
            first, name = error.errors()[0], entry.get("id", f"claim {number}")
            where = "".join(f"{part}: " for part in first["loc"])
            raise UserError(f"{path}: {name}: {where}{first['msg']}") from None
    for name, count in Counter(claim.id for claim in claims).items():
        if count > 1:
            raise UserError(f"{path}: {count} claims are called {name}; rename one")
    return claims


def _entries(path: Path, name: str) -> list[dict[str, Any]]:
    """The [[name]] tables of a file. Raises UserError."""
    try:
        entries = tomllib.loads(Path(path).read_text(encoding="utf-8"))[name]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and permissions") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise UserError(f"{path}: is no list of [[{name}]] tables ({error})") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: is no list of [[{name}]] tables")
    return entries


def judge(claims: list[Claim], root: Path) -> list[Judged]:
    """Verdicts on claims from the results and benchmarks of a checkout. Raises UserError where a record is missing."""
    rows: dict[tuple[str, str | None], pd.DataFrame] = {}
    return [_judged(claim, *_measured(claim, Path(root), rows)) for claim in claims]


def _measured(claim: Claim, root: Path,
              rows: dict[tuple[str, str | None], Any]) -> tuple[float | None, float | None, float | None]:
    """The number that decides a claim, with its interval where there is one."""
    if claim.run:
        key = claim.run, claim.over
        if key not in rows:
            rows[key] = comparison.rows(comparison.largest(records.load(root / "results" / claim.run)), claim.over)
        return _row(claim, rows[key])
    if claim.table:
        value = float(getattr(_column(claim, root / claim.table), claim.take)())
        return value, value, value
    if claim.test:
        file, _, name = claim.test.partition("::")
        if f"def {name}(" not in (root / file).read_text(encoding="utf-8"):
            raise UserError(f"{root / file}: has no test {name}, which claim {claim.id} names")
    return None, None, None


def _row(claim: Claim, rows: pd.DataFrame) -> tuple[float, float, float]:
    place = {"method": claim.method, "setting": claim.setting, "score": claim.score}
    chosen = rows[(rows[[*place]] == [*place.values()]).all(axis=1)]
    if len(chosen) != 1:
        raise UserError(f"claim {claim.id}: results/{claim.run} has {len(chosen)} rows for {claim.method}, "
                        f"{claim.setting}, {claim.score}; one is needed")
    row = chosen.iloc[0]
    value, low, high = (float(row[claim.part + end]) for end in ("", "_low", "_high"))
    return value, low, high


def _column(claim: Claim, path: Path) -> pd.Series:
    frame = pd.read_csv(path) if path.suffix == ".csv" else pd.DataFrame(json.loads(path.read_text())["rows"])
    for name, value in claim.where.items():
        frame = frame[frame[name] == value]
    if frame.empty:
        raise UserError(f"claim {claim.id}: {path} has no row where {claim.where}")
    return frame[claim.column]


def _judged(claim: Claim, value: float | None, low: float | None, high: float | None) -> Judged:
    if claim.needs:
        return Judged(claim, None, None, None, f"needs {claim.needs}", None)
    if value is None or low is None or high is None or claim.value is None or claim.tolerance is None:
        return Judged(claim, None, None, None, "by test", None)
    holds = low > claim.bar if claim.kind == "above" else high < claim.bar
    return Judged(claim, value, low, high, "yes" if holds else "no", abs(value - claim.value) > claim.tolerance)


def headline(judged: list[Judged]) -> str:
    """The totals in one sentence."""
    counts = Counter(one.reproduced for one in judged)
    words = {"yes": "reproduced", "no": "not reproduced", "by test": "decided by tests"}
    needs = sorted(counts.keys() - words.keys())
    parts = [f"{counts[key]} {words[key]}" for key in words if counts[key]]
    parts += [f"{counts[key]} {key if counts[key] == 1 else key.replace('needs', 'need', 1)}" for key in needs]
    regressed = sum(bool(one.regressed) for one in judged)
    return f"{wording.count(len(judged), 'claim')}: {', '.join(parts)}; {regressed} regressed"


def effect(one: Judged) -> str:
    """The measured number in print, with its interval where there is one."""
    if one.value is None or one.low is None or one.high is None:
        return ""
    return f"{one.value:.3g}" if one.claim.table else interval_text(one.value, one.low, one.high, "+")


def lines(judged: list[Judged], everything: bool = False) -> list[str]:
    """The totals, then each claim with verdict and number, in 80 columns; without `everything` those that matter."""
    printed = [*textwrap.wrap(headline(judged), 79), ""]
    for one in judged:
        if everything or one.claim.headline or one.regressed:
            verdict = {"by test": "test"}.get(one.reproduced, one.reproduced if one.value is not None else "?")
            words = f"{one.claim.says} ({one.reproduced})" if one.claim.needs else one.claim.says
            words += f" (REGRESSED: {one.claim.value:g} was committed)" if one.regressed else ""
            first = f"{verdict:<5}{effect(one):<19}"
            printed += textwrap.wrap(words, 79, initial_indent=first, subsequent_indent=" " * len(first))
    return printed


def paper(path: Path, judged: list[Judged]) -> list[str]:
    """A user's numbers from the papers against what was obtained: lines of id, paper's number, number here.

    The file has [[number]] tables with id (a claim's), value, and optionally note. Raises UserError that names what is
    wrong.
    """
    entries = _entries(path, "number")
    known, printed = {one.claim.id: one for one in judged}, [f"{'claim':<28} {'paper':>8}  here"]
    for entry in entries:
        if set(entry) - {"id", "value", "note"} or entry.get("id") not in known or not isinstance(
                entry.get("value"), int | float):
            raise UserError(f"{path}: {entry}: a number needs the id of a claim ({', '.join(known)}) and its value")
        one = known[entry["id"]]
        ours = effect(one) or one.reproduced
        printed.append(f"{entry['id']:<28} {entry['value']:>8g}  {ours} {entry.get('note', '')}")
    return printed


def markdown(judged: list[Judged]) -> str:
    """The table of ARTIFACT.md."""
    head = ["claim", "source", "reproduced?", "number", "decided by", "tolerance", "minutes", "hardware"]
    rows = [[one.claim.says, one.claim.source, one.reproduced, effect(one) or "-", _place(one.claim),
             f"{one.claim.tolerance:g}: {one.claim.reason}" if one.claim.tolerance else "-",
             f"{one.claim.minutes:g}" if one.claim.minutes is not None else "-", one.claim.hardware] for one in judged]
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]) + "\n"


def _place(claim: Claim) -> str:
    if claim.run:
        return f"`results/{claim.run}`"
    return f"`{claim.table or claim.test}`" if not claim.needs else "-"
