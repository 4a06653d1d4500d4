"""Records: one row per thing that was run, with a manifest that says how it came to be.

Tables, figures and claims read records and nothing else. Nothing here imports torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError

from perser.errors import UserError

# What becomes the name of a file or folder: methods, experiments, corpora. An upstream of the hub has an owner too.
NAME = r"[A-Za-z0-9][A-Za-z0-9+_.@-]{0,99}"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
UPSTREAM = f"({NAME}/)?{NAME}"
Upstream = Annotated[str, Field(pattern=f"^{UPSTREAM}$")]
COLUMNS = {
    "corpus": "name of the corpus",
    "upstream": "name of the upstream",
    "synthetic": "what of the data is synthetic; empty for real speech, real listeners and a trained upstream",
    "experiment": "name of the experiment",
    "method": "name of the method in the experiment",
    "setting": "seen or unseen: whether other listeners' ratings of the clips were in the training set",
    "fold": "fold of sessions, from 1",
    "seed": "seed of every random stream",
    "listener": "the held-out listener",
    "shots": "labelled clips K that the method adapted to; 0 for methods that do not adapt",
    "inner_steps": "inner steps taken; 0 for methods without",
    "draws": "support sets drawn",
    "queries": "predictions over all draws",
    "top": "predictions whose most probable class the listener had ticked",
}
# Columns that records of earlier versions lack. They also lack, by class, top_of_CLASS, predictions with that most
# probable class, and top_hits_CLASS, those of them that the listener had ticked.
LATER = {
    "shots_of": "whose shots the method adapted to: own, or other (another test listener's)",
    "log_loss": "sum of the log loss of the predictions, against 1/m on each of the m ticked classes",
    "brier": "sum of their Brier scores",
    "bins": "predictions by the probability of the most probable class, in equal bins",
    "bins_confidence": "sum of that probability, by bin",
    "bins_hits": "those whose most probable class the listener had ticked, by bin",
}
RANDOM = "random upstream weights"  # part of `synthetic` where the upstream was never trained
VALUES = {"setting": ("seen", "unseen"), "shots_of": ("own", "other")}
MANIFEST, AGAIN = "manifest.json", "run the same `perser run` again"
KEYS = ["method", "setting", "fold", "seed", "listener", "shots", "inner_steps"]
_FORMULA = re.compile(r"'*(\s*[=+\-@]|[\t\r])")  # how a cell begins that a spreadsheet runs
BESIDE = {"learnt": ("method", "fold", "group", "seed", "shots", "step", "tensor", "value"),
          "listeners": ("listener", "distance", "consistency")}  # tables and their columns
GROUPS = ("No meta-learning", "Meta-learning", "Upper bound", "Control")


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodInfo(_Fields):
    """How a method of a run is shown."""

    title: str = Field(description="name in print")
    group: str = Field(pattern=f"^({'|'.join(GROUPS)})$", description="one of GROUPS")
    kind: str = Field(description="the module of perser.methods that implements it")


class Origin(_Fields):
    """Where a share of a run's parts was computed."""

    numerics_version: int = Field(description="perser.plan.NUMERICS_VERSION of the code")
    commit: str | None = Field(description="commit of the checkout; null outside one")
    data_digest: str = Field(description="digest of clips, ratings and features")
    cpu: str = Field(description="processor")
    methods: list[str] = Field(description="methods with such parts")
    parts: int = Field(description="number of such parts")
    minutes: float | None = Field(description="minutes of one core; null where they were not measured")


class Config(BaseModel):
    """What tables and figures read of an experiment's settings."""

    model_config = ConfigDict(extra="allow")

    base: dict[str, Any]
    methods: dict[Name, dict[str, Any]]
    shots: list[int] = []
    references: list[Name] = []


class Manifest(_Fields):
    """How a run's records came to be."""

    corpus: Name = Field(description="name of the corpus")
    corpus_options: dict[str, Any] = Field(description="options that the corpus was loaded with")
    upstream: Upstream = Field(description="name of the upstream")
    upstream_identity: str = Field(description="changes whenever the same clip could get other features")
    waveform_moments: str | tuple[float, float] = Field(
        description="how waveforms were normalised: mean and standard deviation, or `clip` or `none`")
    synthetic: str = Field(description="what of the data is synthetic, as in the records")
    experiment: Name = Field(description="name of the experiment")
    classes: list[str] = Field(description="emotion classes in the order of the records' columns")
    label_smoothing: float = Field(description="smoothing of every target")
    methods: dict[Name, MethodInfo] = Field(description="how each method is shown, by its name in the records")
    config: dict[str, Any] = Field(description="the experiment's settings, all of them")
    config_digest: str = Field(description="digest of the settings")
    numerics_version: int = Field(description="version of everything that can change a number; authors raise it")
    commit: str | None = Field(description="commit of the checkout that wrote the records; null outside one")
    dirty: bool | None = Field(description="whether the library differed from that commit")
    data_digest: str = Field(description="digest of clips, ratings and features")
    clips: int = Field(description="clips of the corpus")
    ratings: int = Field(description="ratings with at least one class")
    listeners: int = Field(description="listeners of the corpus")
    listener_groups: int = Field(description="groups of listeners, each held out in turn")
    dev_listeners: str = Field(description="held-out (a group of their own) or training (the training listeners)")
    notes: list[str] = Field([], description="what the corpus's folder lacks of the full release, by name")
    support: str | None = Field(None, description="where shots come from: same or any; null in runs of before")
    shots: dict[str, list[int]] = Field({}, description="numbers of shots that most listeners have, for dev, seen and "
                                                        "unseen; empty in runs of before")
    noise_ceiling: dict[str, float | int | None] | None = Field(
        None, description="how listeners agree with themselves and with others on clips rated twice; null where there "
                          "are none, and in runs of before")
    units: int = Field(description="combinations of fold, held-out group and seed")
    units_computed: int = Field(description="units that the last call computed; the others were there already")
    minutes: float = Field(description="minutes that the last call took")
    jobs: int = Field(description="processes of the last call")
    origins: list[Origin] = Field(description="where the parts were computed")
    machine: dict[str, Any] = Field(description="processor, cores, memory, Python and packages of the last call")
    files: dict[Name, str] = Field({}, description="digests of the files beside the manifest; none in runs of before")

    @model_validator(mode="after")
    def _config_has_what_is_read(self) -> "Manifest":
        if unknown := self.methods.keys() - Config.model_validate(self.config).methods.keys():
            raise ValueError(f"config has no method {min(unknown)}")
        return self


class Run(NamedTuple):
    """A finished run: its records, its manifest, and the tables beside them (None where the run has none).

    learnt: what training set, by method, fold, group and seed. listeners: traits of each listener. exchanged: the same
    records with another listener's shots in place of the listener's own.
    """

    records: pd.DataFrame
    manifest: Manifest
    learnt: pd.DataFrame | None = None
    listeners: pd.DataFrame | None = None
    exchanged: pd.DataFrame | None = None

    def only(self, keep: Callable[[pd.DataFrame], pd.Series]) -> "Run":
        """The run with the records, own and exchanged, that `keep` is true of; exchanged is None if none is left."""
        exchanged = None if self.exchanged is None else self.exchanged[keep(self.exchanged)]
        exchanged = None if exchanged is None or exchanged.empty else exchanged
        return self._replace(records=self.records[keep(self.records)], exchanged=exchanged)

    def title(self, method: str) -> str:
        """A method's name in print; its own name where the manifest does not know it.

        Whether a method is an upper bound is for the records to say: some titles claim it.
        """
        known = self.manifest.methods
        return known[method].title.removesuffix(" (upper bound)") if method in known else method

    def group(self, method: str) -> str:
        """A method's group, one of GROUPS."""
        return self.manifest.methods[method].group


def synthetic_parts(corpus: str, random: bool) -> str:
    """The column `synthetic`, from what of the corpus is synthetic and whether the upstream's weights are random.

    >>> synthetic_parts("listeners", True), synthetic_parts("", True), synthetic_parts("listeners", False)
    ('listeners, random upstream weights', 'random upstream weights', 'listeners')
    """
    return ", ".join(part for part in (corpus, RANDOM if random else "") if part)


def row(counts: Any, classes: tuple[str, ...], **columns: object) -> dict[str, Any]:
    """One record. `counts` has tp, fp, fn (C,), queries and top; `columns` are further ones of COLUMNS."""
    per_class = {f"{kind}_{name}": int(n) for kind in ("tp", "fp", "fn", "top_of", "top_hits")
                 for name, n in zip(classes, getattr(counts, kind))}
    bins = dict(zip(("bins", "bins_confidence", "bins_hits"), counts.bins.tolist()))
    return {**columns, "queries": counts.queries, "top": counts.top, "log_loss": counts.log_loss,
            "brier": counts.brier, **bins, **per_class}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` when the block ends, so the file is either whole or absent.

    Raises UserError when it cannot be written.
    """
    half = path.with_name(f".{path.name}.{token_hex(8)}")  # another container may have a process of the same number
    try:
        if path.exists() and not path.is_file():
            raise OSError("it exists and is not a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield half
        with half.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut after the rename leaves a file without content
        half.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({first_line(error)}); free some space or choose another "
                        "place, then run the same command again: what is computed is kept") from None
    finally:
        half.unlink(missing_ok=True)


def first_line(error: Exception) -> str:
    """What an error says first; its kind where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a parquet file, whole or not at all. Raises UserError as `whole`."""
    with whole(path) as half:
        frame.to_parquet(half, index=False)


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text file, whole or not at all. Raises UserError as `whole`."""
    with whole(path) as half:
        half.write_text(text, encoding="utf-8")


def write_json(value: dict[str, Any] | BaseModel, path: Path) -> None:
    """Write a JSON file with sorted keys, whole or not at all. Raises UserError as `whole`."""
    value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", path)


def inert(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with all text as `no_formula` gives it."""
    return frame.map(lambda cell: no_formula(cell) if isinstance(cell, str) else cell)


def no_formula(cell: str) -> str:
    """A cell with an apostrophe before text that a spreadsheet would run as a formula.

    >>> [*map(no_formula, ["=1+1", "Ann", "'=x", " =x", "a=1.wav"])]
    ["'=1+1", 'Ann', "''=x", "' =x", 'a=1.wav']
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def literal(cell: str) -> str:
    """A cell as it was before `no_formula`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def seal(value: dict[str, Any], path: Path, *files: Path) -> None:
    """Write a JSON object with the digests of files beside it and, last, of itself. Raises UserError as `whole`."""
    value = value | {"files": {file.name: _digest(file.read_bytes()) for file in files}}
    write_json(value | {"seal": _of(value)}, path)


def sealed(path: Path, remedy: str, *names: str) -> dict[str, Any]:
    """The object that `seal` wrote, after a check of the object and of the named files beside it, or all of them.

    Files of before have no digests and are not checked. Raises UserError, which ends in the remedy.
    """
    value = read_json(path, remedy)
    own = value.pop("seal", None)
    if own != _of(value) and (own is not None or value.get("files")):  # a flip may hit the name `seal` itself
        raise UserError(f"{path}: damaged, its digest has changed; {remedy}")
    digests = value.get("files", {})
    if not isinstance(digests, dict) or not all(re.fullmatch(NAME, name) for name in digests):
        raise UserError(f"{path}: damaged, `files` names no files beside it; {remedy}")
    for name in names or digests:
        file = path.with_name(name)
        if name in digests and not file.is_file():
            raise UserError(f"{file}: missing; {remedy}")
        if name in digests and _digest(file.read_bytes()) != digests[name]:
            raise UserError(f"{file}: damaged, its digest has changed; {remedy}")
    return value


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _of(value: dict[str, Any]) -> str:
    return _digest(json.dumps(value, sort_keys=True).encode())


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object. Raises UserError, which ends in the remedy, where the file is missing, unreadable or no object."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and permissions") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged, no JSON ({first_line(error)}); {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged, no JSON object; {remedy}")
    return value


def table(path: Path, remedy: str, needs: Iterable[str] = ()) -> pd.DataFrame:
    """A parquet file. Raises UserError, which ends in the remedy, where it is missing, damaged or lacks a column."""
    if not path.is_file():
        raise UserError(f"{path}: missing; {remedy}")
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises nearly every kind
        raise UserError(f"{path}: damaged ({first_line(error)}); {remedy}") from None
    for name in needs:
        if name not in frame:
            raise UserError(f"{path}: damaged, it has no column {name}; {remedy}")
    return frame


def read(run: Path) -> pd.DataFrame:
    """The records of a finished run directory. Raises UserError when there are none, or they are not sound."""
    path = Path(run) / "records.parquet"
    if not path.is_file():
        raise UserError(f"{path}: no records there; make them with `perser run`, or give a run directory")
    if path.with_name(MANIFEST).is_file():
        sealed(path.with_name(MANIFEST), AGAIN, path.name)
    frame = table(path, AGAIN)
    check(frame, str(path))
    return frame


def check(frame: pd.DataFrame, where: str) -> None:
    """Raise UserError where records lack a column, or hold values that no run writes."""
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise UserError(f"{where}: column {missing[0]} is missing; these are not records of this version")
    names = classes(frame)
    wholes = ["fold", "seed", "shots", "inner_steps", "draws", "queries", "top"]
    wholes += [f"{kind}_{name}" for name in names for kind in ("tp", "fp", "fn")]
    for name in (name for name in [*COLUMNS, *VALUES, *wholes] if name in frame or name in wholes):
        column = frame.get(name)
        if column is None or (name in wholes and (column.dtype.kind != "i" or (column < 0).any())):
            raise UserError(f"{where}: column {name} is no count of 0 and more; these are not records of a run")
        if name not in wholes:
            _check_text(column, name, where)
    if not names or frame.empty:
        raise UserError(f"{where}: {'no row' if names else 'no class'}; these are not records of a run")


def _check_text(column: pd.Series, name: str, where: str) -> None:
    pattern = {"upstream": UPSTREAM, "corpus": NAME, "experiment": NAME, "method": NAME}.get(name)
    for value in column.unique():
        if not isinstance(value, str) or value not in VALUES.get(name, (value,)) or (
                pattern and not re.fullmatch(pattern, value)):
            raise UserError(f"{where}: {name} {str(value)[:40]!r} is none of a run; these are not its records")


def manifest(run: Path) -> Manifest:
    """The manifest of a finished run directory. Raises UserError when it or a file that it lists is damaged."""
    path = Path(run) / MANIFEST
    try:
        return Manifest.model_validate(sealed(path, AGAIN))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: not a manifest of this version ({'.'.join(map(str, first['loc']))}: "
                        f"{first['msg'].lower()}); {AGAIN}") from None


def load(run: Path) -> Run:
    """Everything that a finished run directory holds. Raises UserError when it is not finished, or damaged."""
    frame, about = read(run), manifest(run)
    for key in ("corpus", "upstream", "synthetic", "experiment"):
        if {*frame[key]} != {getattr(about, key)}:
            raise UserError(f"{Path(run) / MANIFEST}: {key} {getattr(about, key)!r} is not the records'; {AGAIN}")
    if unknown := {*frame["method"]} - about.methods.keys() or {*classes(frame)} ^ {*about.classes}:
        raise UserError(f"{Path(run) / MANIFEST}: {min(unknown)!r} is not in both it and the records; {AGAIN}")
    paths = {name: Path(run) / f"{name}.parquet" for name in BESIDE}
    tables = {name: table(path, AGAIN, BESIDE[name]) if path.is_file() else None for name, path in paths.items()}
    if "shots_of" in frame:
        own = frame["shots_of"] == "own"
        tables["exchanged"] = None if own.all() else frame[~own].reset_index(drop=True)
        frame = frame[own].reset_index(drop=True)
    return Run(frame, about, **tables)


def classes(frame: pd.DataFrame) -> tuple[str, ...]:
    """The classes of records, in the corpus' order."""
    return tuple(name.removeprefix("tp_") for name in frame.columns if name.startswith("tp_"))


def counts(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tp, fp and fn of every record: three (rows, C) arrays."""
    names = classes(frame)
    return tuple(frame[[f"{kind}_{name}" for name in names]].to_numpy() for kind in ("tp", "fp", "fn"))
