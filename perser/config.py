"""What an experiment is: typed settings read from TOML, with unknown keys refused."""

import difflib
import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perser.errors import UserError


class Strict(BaseModel):
    """Settings that do not change and that know all their keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Base(Strict):
    """SSL-E, the aggregated model, as in EMO-SUPERB (arXiv 2402.13018)."""

    hidden: int = Field(256, ge=1, description="width H between the two linear maps")
    rate: float = Field(1e-4, gt=0, description="AdamW learning rate")
    batch: int = Field(32, ge=1, description="clips per step")
    epochs: int = Field(40, ge=0, description="passes over the training clips; the lowest dev loss is kept")
    clip: float = Field(1.0, gt=0, description="bound on the gradient norm")
    smoothing: float = Field(0.05, ge=0, lt=1, description="label smoothing of every target")
    weights: bool = Field(True, description="class-balanced weights in every loss")
    targets: Literal["distribution", "pooled"] = Field("distribution", description="vote shares, or each rating")
    standardise: bool | None = Field(
        None, description="centre and scale features on the training clips; unset: as the upstream asks")


class Finetune(Strict):
    """Gradient descent from SSL-E on the K shots; rate and steps chosen on the dev listeners."""

    kind: Literal["finetune"] = "finetune"
    rates: tuple[float, ...] = Field((0.001, 0.003, 0.01, 0.03, 0.1, 0.3), min_length=1)
    steps: tuple[int, ...] = Field((1, 5, 20), min_length=1)


class Maml(Strict):
    """Meta-training from SSL-E. MAML: arXiv 1703.03400. CSMT, DA and LSLR: Meta-PerSER (arXiv 2505.16220)."""

    kind: Literal["maml"] = "maml"
    csmt: Literal["split", "combined", "shared"] = Field(
        "combined", description="support and query from two pools, from one pool, or the same clips")
    anneal: float = Field(0.0, ge=0, le=1, description="DA: share of the epochs in first order, from the start")
    lslr: bool = Field(False, description="learn one rate per tensor and inner step")
    adapts: tuple[Literal["mix", "P", "b", "A", "a"], ...] = Field(
        ("P", "b", "A", "a"), min_length=1, description="tensors that the inner loop moves")
    inner_steps: int = Field(5, ge=1)
    rates: tuple[float, ...] = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1), min_length=1, description="inner rates to choose from on the dev listeners")
    outer_rate: float = Field(2e-3, gt=0, description="Adam learning rate, annealed by a cosine to zero")
    rate_rate: float = Field(2e-3, gt=0, description="Adam learning rate of the learnt inner rates")
    epochs: int = Field(10, ge=0, description="the epoch of lowest dev loss is kept")
    steps: int = Field(10, ge=1, description="outer steps per epoch")
    episodes: int = Field(16, ge=1, description="episodes per outer step")
    query: int = Field(20, ge=1, description="query clips per training episode")
    clip: float = Field(1.0, gt=0, description="bound on the gradient norm")


class Aggregated(Strict):
    """SSL-E itself, without adaptation."""

    kind: Literal["aggregated"] = "aggregated"


Method = Annotated[Aggregated | Finetune | Maml, Field(discriminator="kind")]


class Experiment(Strict):
    """One table or figure: every method over all folds, held-out listeners and seeds."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    shots: tuple[int, ...] = Field((5, 10, 20), min_length=1)
    draws: int = Field(5, ge=1, description="supports drawn per listener, setting and number of shots")
    dev_draws: int = Field(5, ge=1, description="the same for each dev listener")
    min_queries: int = Field(5, ge=1, description="listeners with fewer query clips in a setting are left out of it")
    groups: int = Field(6, ge=3, description="groups of listeners, each held out in turn")
    dev: Literal["held-out", "training"] | None = Field(
        None, description="dev listeners: a held-out group, or the training listeners in the dev session; "
                          "unset: held-out where groups have at least four listeners")
    folds: tuple[int, ...] | None = Field(None, description="folds to run, from 1; unset: all")
    base: Base = Base()
    methods: dict[str, Method] = Field(min_length=1)


def load(path: Path, overrides: tuple[str, ...] = ()) -> Experiment:
    """The experiment in a TOML file with `key.sub=value` overrides.

    Raises UserError in one line that names the file, the key and, for an unknown key, the nearest valid one.
    """
    path = Path(path)
    try:
        settings = tomllib.loads(path.read_text())
    except OSError:
        raise UserError(f"{path}: no such experiment; see experiments/*.toml") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _override(settings, override)
    try:
        return Experiment.model_validate({"name": path.stem, **settings})
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error.errors()[0])}") from None


def digest(*settings: Any) -> str:
    """16 hex digits that change when any value in these settings (models or plain data) changes."""
    text = "\x1f".join(s.model_dump_json() if isinstance(s, BaseModel) else repr(s) for s in settings)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _override(settings: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: write it as key=value, for example draws=10 or base.rate=0.001")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise UserError(f"--set {override}: {parent} is a value, not a table")
    settings[last] = value


def _explain(error: dict) -> str:
    place = [str(part) for part in error["loc"]]
    if error["type"] != "extra_forbidden":
        given = repr(error.get("input"))
        return f"{'.'.join(place)}: {error['msg'].lower()} (given: {given[:60]})"
    tables = {"base": Base, "maml": Maml, "finetune": Finetune, "aggregated": Aggregated}
    valid = next((tables[part].model_fields for part in reversed(place[:-1]) if part in tables),
                 Experiment.model_fields)
    near = difflib.get_close_matches(place[-1], list(valid), n=1, cutoff=0.0)
    return f"unknown key {'.'.join(place)}; the nearest valid key is {near[0]}"
