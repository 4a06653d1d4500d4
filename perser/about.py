"""The description in a model file: what it must hold. A file may come from anybody, so all of it is checked first."""

import json
import math
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


def _printable(text: str) -> str:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ValueError("holds control characters")
    return text


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("names must differ")
    return names


Text = Annotated[str, Field(max_length=1000), AfterValidator(_printable)]  # it is printed
Name = Annotated[Text, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Nats = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TrainedOn(_Strict):
    """What a model was trained on. Digests stand for the listeners' names, so that a model does not list people."""

    listeners: Count
    ratings: Count
    digests: list[Annotated[str, Field(pattern="^[0-9a-f]{12}$")]] = []


class Outcome(_Strict):
    """What adapting is worth, by ratings that were left out: accuracies in 0..1, losses and their gain in nats."""

    by: Literal["leave-one-out", "10 parts"]
    ratings: Count
    general: Share
    personal: Share
    general_loss: Nats
    personal_loss: Nats
    constant_loss: Nats
    gain: float
    low: float
    high: float
    accuracy_low: float
    accuracy_high: float
    verdict: Name


class Class(_Strict):
    """One class: mean probabilities on the rated clips; share of the listener's ticks, and both on shared clips."""

    name: Name
    general: Share
    personal: Share
    ticked: Share
    shared: Share | None
    others: Share | None


class Confusion(_Strict):
    """How many ratings say `listener` where the others say `others`; several ticks share a rating."""

    others: Name
    listener: Name
    ratings: Nats


class Moved(_Strict):
    """A clip whose answer moved: the likeliest class before and after, what was ticked, and the distance in 0..1."""

    clip: Name
    general: Name
    personal: Name
    ticked: Name
    distance: Share


class Differs(_Strict):
    """How a listener differs from the general model and, on clips with other ratings, from their consensus."""

    shared: Count  # clips with ratings of others
    listeners: Count  # the others
    classes: list[Class]
    confusions: list[Confusion]
    moved: list[Moved]


class About(BaseModel):
    """What every model says of itself; further entries say where it comes from."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    kind: Name
    method: Name
    classes: Annotated[list[Name], Field(min_length=2), AfterValidator(_distinct)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    upstream: Name
    upstream_identity: Name
    waveform_moments: Literal["clip", "none"] | tuple[float, Annotated[float, Field(gt=0)]]
    synthetic: Text
    fold: Count = 0
    seed: int = 0
    trained_on: TrainedOn | None = None


class Personal(About):
    """What one listener's model says of itself; 0 shots: the general model."""

    shots: Count
    listener: Text | None = None
    verdict: Text | None = None
    test: Outcome | None = None
    differs: Differs | None = None


def parse(text: str | bytes, schema: type[About]) -> dict[str, Any]:
    """A description from JSON. Raises ValueError in one line where it is not as the schema says."""
    try:
        about = json.loads(text, parse_constant=_finite, parse_float=_finite)
        schema.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg'].lower()}") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    return about


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no JSON number")
    return number


def digest(listener: str) -> str:
    """12 hex digits that stand for a listener's name."""
    return blake2b(listener.encode(errors="surrogatepass"), digest_size=6).hexdigest()


def training(listeners: Iterable[str], ratings: int) -> dict[str, Any]:
    """The entry `trained_on` of a description."""
    names = sorted(set(listeners))
    return {"listeners": len(names), "ratings": int(ratings), "digests": sorted(map(digest, names))}
