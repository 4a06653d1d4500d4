"""Fitted models on disk: tensors as safetensors, everything else as JSON beside them. What is read is checked first."""

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, float32

from perser import records
from perser.about import About, parse
from perser.corpora.base import nearest
from perser.errors import UserError
from perser.evaluate import Fitted
from perser.experiment import kinds
from perser.methods.base import pack, unpack
from perser.model import Head
from perser.records import Run, first_line, seal, sealed, whole


class Checkpoint(NamedTuple):
    """A fitted model with all it takes to use it on new clips.

    mean, scale (L, D): standardisation; class_weights (C,); about: the method's `kind` and where the model comes from.
    """

    model: Fitted
    mean: Tensor
    scale: Tensor
    class_weights: Tensor
    about: dict[str, Any]


STANDARD = ("mean", "scale", "class_weights")
HEADER = 2**20  # bytes: the longest header and description that are read
LEAST_SCALE, LARGEST = 1e-9, 1e12  # of the numbers of a model; products of larger ones are not finite
FAULTS = (ValueError, SafetensorError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
RIVALS = ("No meta-learning", "Meta-learning")  # groups of methods that adapt in earnest


def save(checkpoint: Checkpoint, directory: Path) -> None:
    """Write model.safetensors, then model.json: a directory with the second file is complete."""
    tensors, plain = pack(checkpoint.model)
    tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    tensors |= {name: getattr(checkpoint, name) for name in STANDARD}
    with whole(directory / "model.safetensors") as half:
        save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, half)
    seal(checkpoint.about | {"model": plain}, directory / "model.json", directory / "model.safetensors")


def load(directory: Path) -> Checkpoint:
    """Read a model directory. Raises UserError when a file is missing, damaged or of another kind."""
    directory = Path(directory)
    try:
        about = description(directory)
        sealed(directory / "model.json", "where `perser run` wrote this folder, delete it and run the same again")
        about = {name: value for name, value in about.items() if name not in ("files", "seal")}
        tensors, _ = read_tensors(directory / "model.safetensors")
        plain, model_type = about.pop("model"), kinds()[about["kind"]].Model
        mean, scale, weights = (tensors.pop(name) for name in STANDARD)
        parts = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
        model = unpack(model_type, parts, plain)
        TypeAdapter(model_type, config=ConfigDict(arbitrary_types_allowed=True, strict=True)).validate_python(model)
        check(model.head, mean, scale, len(about["classes"]))
        if weights.shape != model.head.a.shape or (weights < 0).any():
            raise ValueError("class_weights are not a weight of each class")
        if not model.settings or len(parts) < len(tensors):
            raise ValueError("its settings or tensors are not those of such a model")
        return Checkpoint(model, mean, scale, weights, about)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{error.filename or directory}: no model there; `perser run` writes models under "
                        "OUT/checkpoints") from None
    except FAULTS as error:
        raise UserError(f"{directory}: not a model of this version ({reason(error)})") from None


def reason(error: Exception) -> str:
    """What is wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
    return first_line(error)[:200]


def description(directory: Path) -> dict[str, Any]:
    """The checked description of a model directory, with its plain values as `model`. Raises OSError, ValueError."""
    with (directory / "model.json").open("rb") as file:
        text = file.read(HEADER + 1)
    if len(text) > HEADER:
        raise ValueError("model.json is too long")
    return parse(text, About)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file: float32, finite, not huge. Raises OSError, ValueError and others."""
    with Path(path).open("rb") as file:
        if int.from_bytes(file.read(8), "little") > HEADER:
            raise ValueError("its header is too long")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        metadata = file.metadata() or {}
    for name, tensor in tensors.items():
        if tensor.dtype != float32:
            raise ValueError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}, not float32")
        if not (tensor.abs() <= LARGEST).all():
            raise ValueError(f"{name} holds NaN, infinite or huge numbers")
    return tensors, metadata


def check(head: Head, mean: Tensor, scale: Tensor, classes: int) -> None:
    """Raise ValueError unless head, standardisation and number of classes fit each other."""
    if mean.ndim != 2 or not mean.numel() or mean.shape != scale.shape or not (scale >= LEAST_SCALE).all():
        raise ValueError("mean and scale are not (layers, width), or a scale is not positive")
    (layers, width), hidden = mean.shape, head.b.numel()
    shapes = ((layers,), (hidden, width), (hidden,), (classes, hidden), (classes,))
    for name, tensor, shape in zip(Head._fields, head, shapes):
        if tuple(tensor.shape) != shape or not hidden:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, not {shape} of {classes} classes")


def choose(path: Path, method: str = "") -> tuple[Path, str]:
    """The model directory that a path means, and why where there was a choice.

    path: such a directory, an output folder of `perser personalise`, or a run folder: there the method, if none is
    named, is the one with the lowest log loss with own shots on unseen clips at the run's largest number of shots, mean
    over listeners; of its splits that trained on most ratings it is the first seed, then fold, then group. UserError:
    there is none.
    """
    path = Path(path)
    if method and not (path / "checkpoints").is_dir():
        raise UserError(f"{path}: is no run folder, so --method {method} chooses nothing; leave it out")
    if (path / "model.json").is_file():
        return path, ""
    if (path / "model" / "model.json").is_file():
        return path / "model", "the model for new listeners of `perser personalise`"
    if not (path / "checkpoints").is_dir():
        raise UserError(f"{path}: no model there; give a folder with model.json, or an output folder of "
                        "`perser personalise` or `perser run`")
    names = sorted({place.parent.name for place in (path / "checkpoints").glob("*/*/model.json")})
    if method and method not in names:
        raise UserError(f"{path}: no model of method {method!r}: {nearest(method, names)}")
    why = ""
    if not method:
        method, why = _best(records.load(path), path, names)
    place, ratings, seed = _split(path / "checkpoints", method)
    most = f"of its splits one that trained on most ratings ({ratings}), seed {seed}" if ratings else (
        f"of its splits the first of seed {seed}")
    return place, f"{why}{most}"


def _best(run: Run, path: Path, names: list[str]) -> tuple[str, str]:
    """The method of a run with the lowest log loss with own shots on unseen clips, and that in words."""
    frame, remedy = run.records, f"choose one of {', '.join(names)} with --method"
    if "log_loss" not in frame:
        raise UserError(f"{path}: its records have no log loss to choose a method by; {remedy}")
    rivals = [name for name in names if name in run.manifest.methods and run.group(name) in RIVALS]
    frame = frame[frame["method"].isin(rivals) & (frame["setting"] == "unseen") & (frame["shots"] > 0)]
    if frame.empty:
        raise UserError(f"{path}: its records test no method that adapts on unseen clips; {remedy}")
    shots = frame["shots"].max()
    sums = frame[frame["shots"] == shots].groupby(["method", "listener"])[["log_loss", "queries"]].sum()
    losses = (sums["log_loss"] / sums["queries"]).groupby("method").mean()
    best = str(losses.idxmin())
    return best, (f"{run.title(best)} has the lowest log loss with own shots on unseen clips "
                  f"({100 * losses[best]:.1f} at K = {shots}) of {len(losses)} method(s) that adapt; ")


def _split(checkpoints: Path, method: str) -> tuple[Path, int, int]:
    """Of a method's splits that trained on most ratings, the first seed, fold and group: place, ratings, seed."""
    rows = []
    for file in sorted(checkpoints.glob(f"*/{method}/model.json")):
        try:
            about = description(file.parent)
        except FAULTS as error:
            raise UserError(f"{file.parent}: not a model of this version ({reason(error)})") from None
        ratings = (about.get("trained_on") or {}).get("ratings", 0)
        rows.append((-ratings, about.get("seed", 0), about.get("fold", 0), file.parent.parent.name, file.parent))
    ratings, seed, _, _, place = min(rows)
    return place, -ratings, seed
