"""Records: one row per thing that was run, with a manifest that says how it came to be.

Tables, figures and claims read records and nothing else. Nothing here imports torch.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import getpid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from perser.errors import UserError

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
KEYS = ["method", "setting", "fold", "seed", "listener", "shots", "inner_steps"]
GROUPS = ("No meta-learning", "Meta-learning", "Upper bound", "Control")


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodInfo(_Fields):
    """How a method of a run is shown."""

    title: str = Field(description="name in print")
    group: str = Field(description="one of GROUPS")
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


class Manifest(_Fields):
    """How a run's records came to be."""

    corpus: str = Field(description="name of the corpus")
    corpus_options: dict[str, Any] = Field(description="options that the corpus was loaded with")
    upstream: str = Field(description="name of the upstream")
    upstream_identity: str = Field(description="changes whenever the same clip could get other features")
    waveform_moments: str | tuple[float, float] = Field(
        description="how waveforms were normalised: mean and standard deviation, or `clip` or `none`")
    synthetic: str = Field(description="what of the data is synthetic, as in the records")
    experiment: str = Field(description="name of the experiment")
    classes: list[str] = Field(description="emotion classes in the order of the records' columns")
    label_smoothing: float = Field(description="smoothing of every target")
    methods: dict[str, MethodInfo] = Field(description="how each method is shown, by its name in the records")
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


def row(counts, classes: tuple[str, ...], **columns) -> dict:
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
    half = path.with_name(f".{path.name}.{getpid()}")
    try:
        if path.exists() and not path.is_file():
            raise OSError("it exists and is not a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield half
        half.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({str(error).splitlines()[0]}); free some space or choose another "
                        "place, then run the same command again: what is computed is kept") from None
    finally:
        if half.is_file():  # not renamed, so that the writing failed or was stopped
            half.unlink()


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a parquet file, whole or not at all. Raises UserError as `whole`."""
    with whole(path) as half:
        frame.to_parquet(half, index=False)


def write_json(value: dict | BaseModel, path: Path) -> None:
    """Write a JSON file with sorted keys, whole or not at all. Raises UserError as `whole`."""
    value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    with whole(path) as half:
        half.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def read(run: Path) -> pd.DataFrame:
    """The records of a finished run directory. Raises UserError when there are none."""
    path = Path(run) / "records.parquet"
    if not path.is_file():
        raise UserError(f"{path}: no records there; make them with `perser run`, or give a run directory")
    try:
        frame = pd.read_parquet(path)
    except Exception as error:
        raise UserError(f"{path}: not a readable records file ({str(error).splitlines()[0]}); "
                        "delete it and run the same `perser run` again") from None
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing; these are not records of this version")
    return frame


def manifest(run: Path) -> Manifest:
    """The manifest of a finished run directory. Raises UserError when it is missing or damaged."""
    path = Path(run) / "manifest.json"
    try:
        return Manifest.model_validate_json(path.read_text())
    except OSError:
        raise UserError(f"{path}: missing; run the same `perser run` again") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: not a manifest of this version ({'.'.join(map(str, first['loc'])) or 'JSON'}: "
                        f"{first['msg'].lower()}); run the same `perser run` again") from None


def load(run: Path) -> Run:
    """Everything that a finished run directory holds. Raises UserError when it is not finished."""
    paths = {name: Path(run) / f"{name}.parquet" for name in ("learnt", "listeners")}
    tables = {name: pd.read_parquet(path) if path.is_file() else None for name, path in paths.items()}
    frame = read(run)
    if "shots_of" in frame:
        own = frame["shots_of"] == "own"
        tables["exchanged"] = None if own.all() else frame[~own].reset_index(drop=True)
        frame = frame[own].reset_index(drop=True)
    return Run(frame, manifest(run), **tables)


def classes(frame: pd.DataFrame) -> tuple[str, ...]:
    """The classes of records, in the corpus' order."""
    return tuple(name.removeprefix("tp_") for name in frame.columns if name.startswith("tp_"))


def counts(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tp, fp and fn of every record: three (rows, C) arrays."""
    names = classes(frame)
    return tuple(frame[[f"{kind}_{name}" for name in names]].to_numpy() for kind in ("tp", "fp", "fn"))
