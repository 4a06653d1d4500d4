"""Typed settings: strict models, TOML files, and errors that name the file, the key and the nearest valid key."""

import difflib
import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from perser.errors import UserError

TensorName = Literal["mix", "P", "b", "A", "a"]


def _distinct(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) < len(values):
        raise ValueError("values must differ")
    return values


# Every number has bounds: what lies beyond them never ends, or says nothing.
MOST = 10_000
Number = Annotated[int, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Amount = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Numbers = Annotated[tuple[Number, ...], Field(max_length=MOST), AfterValidator(_distinct)]
Counts = Annotated[tuple[Count, ...], Field(max_length=MOST), AfterValidator(_distinct)]
Seeds = Annotated[tuple[Seed, ...], Field(max_length=MOST), AfterValidator(_distinct)]
Grid = Annotated[tuple[Count, ...], Field(max_length=MOST)]
Positives = Annotated[tuple[Positive, ...], Field(max_length=MOST)]
Amounts = Annotated[tuple[Amount, ...], Field(max_length=MOST)]


class Settings(BaseModel):
    """Settings that cannot change and refuse unknown keys and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any, info: ValidationInfo) -> Any:
        """A single value where several may stand: shots = 5 is [5]. True is no number 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if "bool" not in str(kind) and any(isinstance(one, bool) for one in (
                value if isinstance(value, list | tuple) else [value])):
            raise ValueError("true or false is no value of it")
        several = get_origin(kind) is tuple
        optional = any(get_origin(get_args(one)[0] if get_origin(one) is Annotated else one) is tuple
                       for one in get_args(kind))
        single = isinstance(value, int | float | str) and not isinstance(value, bool)
        return (value,) if single and (several or (optional and not isinstance(value, str))) else value


class Base(Settings):
    """SSL-E, the aggregated model, as in EMO-SUPERB (arXiv 2402.13018), and what all methods share with it."""

    hidden: Count = Field(256, description="width H between the two linear maps")
    lr: Positive = Field(1e-4, description="AdamW learning rate")
    batch_size: Count = Field(32, description="clips per step")
    epochs: Number = Field(40, description="passes over the training clips; the epoch of lowest dev loss is kept")
    grad_clip: Positive = Field(1.0, description="bound on the gradient norm")
    label_smoothing: Fraction = Field(0.05, description="smoothing of every target")
    class_weights: bool = Field(True, description="class-balanced weights in every loss")
    inner_class_weights: bool | None = Field(
        None, description="the same in the losses of a listener's shots; unset: as class_weights")
    chosen_by: Literal["f1", "loss"] = Field(
        "f1", description="score of the dev listeners by which settings are chosen from a grid: macro F1 or log loss")
    targets: Literal["distribution", "pooled"] = Field("distribution", description="vote shares, or single ratings")
    standardise: bool | None = Field(
        None, description="centre and scale features on the training clips; unset: as the upstream asks")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary. Raises UserError in one line that names the file."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        raise UserError(f"{path.absolute()}: no such file; the project's own have no suffix: main") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None


def override(settings: dict[str, Any], change: str) -> None:
    """Apply `key.sub=value` to a dictionary in place. The value is TOML, or else text."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise UserError(f"--set {change}: write it as key=value, for example draws=10 or base.lr=0.001")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise UserError(f"--set {change}: {parent} is a value, not a table")
    settings[last] = value


def blamed(error: Mapping[str, Any], changes: Iterable[str], file: object) -> str:
    """Where the value of one of pydantic's errors was given: the last `--set` of its key, or else the file."""
    place = ".".join(map(str, error["loc"]))
    changed = [change for change in changes if f"{place}.".startswith(f"{change.partition('=')[0].strip()}.")]
    return f"--set {changed[-1][:80]}" if changed else str(file)


def explain(error: Mapping[str, Any], tables: dict[str, type[Settings]], top: type[Settings]) -> str:
    """One of pydantic's errors in a line: the key, what is wrong and, for an unknown key, the nearest valid one.

    tables: the settings class of a table by a word of its place; top: that of the file itself.
    """
    place = [str(part) if str(part).isprintable() else repr(part)[1:-1] for part in error["loc"]]
    if error["type"] != "extra_forbidden":
        given = repr(error.get("input"))
        return f"{'.'.join(place)}: {error['msg'][0].lower()}{error['msg'][1:]} (given: {given[:60]})"
    valid = next((tables[part].model_fields for part in reversed(place[:-1]) if part in tables), top.model_fields)
    return f"unknown key {'.'.join(place)}; the nearest valid key is {nearest_key(place[-1], valid)}"


def nearest_key(key: str, valid: Any) -> str:
    """The valid key that is spelled most like a given one."""
    return difflib.get_close_matches(key, list(valid), n=1, cutoff=0.0)[0]


def digest(*settings: Any) -> str:
    """16 hex digits that change when any value in these settings (models or plain data) changes."""
    text = "\x1f".join(s.model_dump_json() if isinstance(s, BaseModel) else repr(s) for s in settings)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
