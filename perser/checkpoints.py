"""Fitted models on disk: tensors as safetensors, everything else as JSON beside them."""

from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from perser.errors import UserError
from perser.experiment import kinds
from perser.methods.base import pack, unpack
from perser.records import first_line, seal, sealed, whole


class Checkpoint(NamedTuple):
    """A fitted model with all it takes to use it on new clips.

    mean, scale (L, D): standardisation; class_weights (C,); about: the method's `kind` and where the model comes from.
    """

    model: NamedTuple
    mean: Tensor
    scale: Tensor
    class_weights: Tensor
    about: dict


STANDARD = ("mean", "scale", "class_weights")


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
        about = sealed(directory / "model.json", "no model there that can be used: `perser run` writes models under "
                       "OUT/checkpoints; where this is one of them, delete its folder and run the same command again")
        about.pop("files", None)
        tensors = load_file(directory / "model.safetensors")
        plain, model_type = about.pop("model"), kinds()[about["kind"]].Model
        parts = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
        return Checkpoint(unpack(model_type, parts, plain), *(tensors[name] for name in STANDARD), about)
    except OSError as error:
        raise UserError(f"{error.filename or directory}: no model there; `perser run` writes models under "
                        "OUT/checkpoints") from None
    except (ValueError, SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory}: not a model of this version ({first_line(error)})") from None
