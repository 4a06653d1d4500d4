"""What an experiment is: typed settings read from TOML, with unknown keys refused."""

import difflib
import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from perser.errors import UserError

Tensor = Literal["mix", "P", "b", "A", "a"]


def _different(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each may be named once")
    return values


Numbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(_different)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(_different)]


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


class Aggregated(Strict):
    """SSL-E itself, without adaptation."""

    kind: Literal["aggregated"] = "aggregated"


class Finetune(Strict):
    """Gradient descent on the K shots; tensors, rate and steps chosen on the dev listeners."""

    kind: Literal["finetune"] = "finetune"
    start: Literal["ssl-e", "scratch"] = Field("ssl-e", description="where descent starts: SSL-E or a fresh head")
    adapts: tuple[tuple[Tensor, ...], ...] = Field(
        (("P", "b", "A", "a"), ("A", "a"), ("b", "a"), ("a",)), min_length=1,
        description="sets of tensors that descent may move: all, the last layer, the biases, the output bias")
    rates: tuple[float, ...] = Field((0.003, 0.01, 0.03, 0.1, 0.3, 1.0), min_length=1)
    steps: tuple[int, ...] = Field((5, 20), min_length=1)


class Priors(Strict):
    """SSL-E with a class log-bias estimated from the K shots; both settings chosen on the dev listeners."""

    kind: Literal["prior-shift"] = "prior-shift"
    masses: tuple[float, ...] = Field((0.3, 1.0, 3.0, 10.0, 30.0), min_length=1, description="pseudo-clips of SSL-E")
    strengths: tuple[float, ...] = Field((0.5, 1.0), min_length=1, description="factors on the shift")


class ClassMeans(Strict):
    """Nearest class mean on the hidden layer of SSL-E; both settings chosen on the dev listeners."""

    kind: Literal["prototypes"] = "prototypes"
    masses: tuple[float, ...] = Field((0.3, 1.0, 3.0, 10.0), min_length=1, description="pseudo-clips per class")
    temperatures: tuple[float, ...] = Field((0.1, 0.2, 0.5, 1.0), min_length=1, description="in units of the spread")


class NearestListener(Strict):
    """Personal models of the training listeners; rate and how many to average chosen on the dev listeners."""

    kind: Literal["nearest-listener"] = "nearest-listener"
    ratings: int = Field(256, ge=1, description="ratings that each personal model is trained on")
    rates: tuple[float, ...] = Field((0.03, 0.1, 0.3), min_length=1)
    steps: int = Field(20, ge=1)
    neighbours: tuple[int, ...] = Field((1, 2, 4, 8), min_length=1)


class ListenerEmbedding(Strict):
    """A head conditioned on a listener's embedding, which is learnt at test time from the K shots."""

    kind: Literal["listener-embedding"] = "listener-embedding"
    size: int = Field(8, ge=1, description="width of the embedding")
    rate: float = Field(1e-3, gt=0, description="AdamW learning rate in training")
    epochs: int = Field(10, ge=0, description="passes over the training ratings; the lowest dev loss is kept")
    rates: tuple[float, ...] = Field((0.03, 0.1, 0.3, 1.0, 3.0), min_length=1)
    steps: tuple[int, ...] = Field((5, 20), min_length=1)


class AllData(Strict):
    """The upper bound: SSL-E fine-tuned on every other rating of the listener."""

    kind: Literal["all-data"] = "all-data"
    parts: int = Field(5, ge=2, description="parts that are answered by the model of the others")
    rates: tuple[float, ...] = Field((0.03, 0.1, 0.3), min_length=1)
    steps: int = Field(20, ge=1)


class Maml(Strict):
    """Meta-training from SSL-E. MAML: arXiv 1703.03400. CSMT, DA and LSLR: Meta-PerSER (arXiv 2505.16220)."""

    kind: Literal["maml"] = "maml"
    rule: Literal["maml", "reptile"] = Field(
        "maml", description="outer step: the meta-gradient, or towards the adapted weights (arXiv 1803.02999)")
    csmt: Literal["split", "combined", "shared"] = Field(
        "combined", description="support and query from two pools, from one pool, or the same clips")
    anneal: float = Field(0.0, ge=0, le=1, description="DA: share of the epochs in first order, from the start")
    lslr: bool = Field(False, description="learn one rate per tensor and inner step")
    by_shots: bool = Field(False, description="learn how the rates grow with the number of shots, as a power of it")
    element_rates: bool = Field(False, description="learn one rate per weight (Meta-SGD, arXiv 1707.09835)")
    msl: float = Field(0.0, ge=0, le=1, description="share of the epochs with a loss after every inner step")
    adapts: tuple[Tensor, ...] = Field(("P", "b", "A", "a"), min_length=1, description="tensors the inner loop moves")
    inner_steps: int = Field(5, ge=1)
    rates: tuple[float, ...] = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1), min_length=1, description="inner rates to choose from on the dev listeners")
    outer_rate: float = Field(2e-3, gt=0, description="Adam learning rate")
    rate_rate: float = Field(2e-3, gt=0, description="Adam learning rate of the learnt inner rates")
    cosine: bool = Field(True, description="anneal the learning rates to zero by a cosine")
    epochs: int = Field(10, ge=0, description="the best epoch on the dev listeners is kept")
    steps: int = Field(10, ge=1, description="outer steps per epoch")
    episodes: int = Field(16, ge=1, description="episodes per outer step")
    query: int = Field(20, ge=1, description="query clips per training episode")
    clip: float = Field(1.0, gt=0, description="bound on the gradient norm")
    prior: float = Field(0.0, ge=0, description="descent starts from a prior shift; its strength before it is learnt")
    crossfit: float = Field(0.0, ge=0, le=1, description="share of the outer steps that start from an SSL-E which has "
                                                         "not seen the session of the episodes")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of feature dimensions left out of an outer step")
    f1: float = Field(0.0, ge=0, le=1, description="share of the soft macro F1 in the outer loss")
    average: float = Field(0.0, ge=0, lt=1, description="decay of the running mean of the weights; 0: the last ones")
    stop: Literal["loss", "f1", "last"] = Field(
        "loss", description="what the kept epoch is best in on the dev listeners, the outer loss or macro F1; last: "
                            "the last epoch")

    @model_validator(mode="after")
    def _agree(self) -> "Maml":
        if self.element_rates and (self.lslr or self.msl or self.dropout or self.prior):
            raise ValueError("element_rates excludes lslr, msl, dropout and prior")
        if self.by_shots and not self.lslr:
            raise ValueError("by_shots needs lslr")
        if self.rule == "reptile" and (self.lslr or self.element_rates or self.msl or self.f1 or self.dropout
                                        or self.prior):
            raise ValueError("reptile has no outer loss: it excludes lslr, element_rates, msl, f1, dropout and prior")
        if self.rule == "reptile" and "mix" in self.adapts:
            raise ValueError("reptile excludes the layer weights, mix, from adapts")
        return self


Method = Annotated[
    Aggregated | Finetune | Priors | ClassMeans | NearestListener | ListenerEmbedding | AllData | Maml,
    Field(discriminator="kind")]


class Experiment(Strict):
    """One table or figure: every method over all folds, held-out listeners and seeds."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    seeds: Numbers = Field((0, 1, 2), min_length=1)
    shots: Counts = Field((5, 10, 20), min_length=1)
    draws: int = Field(5, ge=1, description="supports drawn per listener, setting and number of shots")
    dev_draws: int = Field(5, ge=1, description="the same for each dev listener")
    min_queries: int = Field(5, ge=1, description="listeners with fewer query clips in a setting are left out of it")
    groups: int = Field(6, ge=3, description="groups of listeners, each held out in turn")
    dev: Literal["held-out", "training"] | None = Field(
        None, description="dev listeners: a held-out group, or the training listeners in the dev session; "
                          "unset: held-out where groups have at least four listeners")
    folds: Counts | None = Field(None, description="folds to run, from 1; unset: all")
    steps: Numbers | None = Field(
        None, description="numbers of inner steps to test after, with the last step's rates beyond those learnt; "
                          "unset: as learnt")
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
        raise UserError(f"{path.absolute()}: no such experiment; the project's own are in experiments/") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _override(settings, override)
    try:
        return Experiment.model_validate({"name": path.stem, **settings})
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error.errors()[0])}") from None


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


def explain(error: dict) -> str:
    """One of pydantic's errors in a line: the key, what is wrong and, for an unknown key, the nearest valid one."""
    place = [str(part) for part in error["loc"]]
    if error["type"] != "extra_forbidden":
        given = repr(error.get("input"))
        return f"{'.'.join(place)}: {error['msg'].lower()} (given: {given[:60]})"
    kinds = get_args(get_args(Method)[0])
    tables = {"base": Base, **{kind.model_fields["kind"].default: kind for kind in kinds}}
    valid = next((tables[part].model_fields for part in reversed(place[:-1]) if part in tables),
                 Experiment.model_fields)
    near = difflib.get_close_matches(place[-1], list(valid), n=1, cutoff=0.0)
    return f"unknown key {'.'.join(place)}; the nearest valid key is {near[0]}"
