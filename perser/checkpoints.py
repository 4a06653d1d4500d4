"""Learners on disk: tensors as safetensors, everything else as JSON beside them."""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from perser.errors import UserError
from perser.evaluate import Learner
from perser.head import Head
from perser.records import whole, write_json


class Model(NamedTuple):
    """A learner with what it takes to use it on new clips: standardisation, class weights and a description."""

    learner: Learner
    mean: Tensor
    scale: Tensor
    class_weights: Tensor
    about: dict


def save(model: Model, directory: Path) -> None:
    """Write model.safetensors, then model.json: a directory with the second one is complete."""
    tensors = {**model.learner.head._asdict(), "mean": model.mean, "scale": model.scale,
               "class_weights": model.class_weights,
               **{f"rates.{k}": rates for k, rates in model.learner.settings.items() if isinstance(rates, Tensor)},
               **{f"rates.{k}.{name}": tensor for k, rates in model.learner.settings.items()
                  if isinstance(rates, Head) for name, tensor in rates._asdict().items()}}
    tensors |= {} if model.learner.prior is None else {"prior": model.learner.prior}
    with whole(directory / "model.safetensors") as half:
        save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, half)
    write_json(model.about, directory / "model.json")


def load(directory: Path) -> Model:
    """Read a model directory. Raises UserError when a file is missing, damaged or of another kind."""
    directory = Path(directory)
    try:
        about = json.loads((directory / "model.json").read_text())
        tensors = load_file(directory / "model.safetensors")
        head = Head(*(tensors[name] for name in Head._fields))
        keys = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("rates.")})
        rates = {k: tensors[f"rates.{k}"] if f"rates.{k}" in tensors
                 else Head(*(tensors[f"rates.{k}.{name}"] for name in Head._fields)) for k in keys}
        return Model(Learner(head, rates, tensors.get("prior")), tensors["mean"], tensors["scale"],
                     tensors["class_weights"], about)
    except OSError as error:
        raise UserError(f"{error.filename or directory}: no model there; `perser run` writes models under "
                        "OUT/checkpoints") from None
    except (json.JSONDecodeError, SafetensorError, KeyError) as error:
        raise UserError(f"{directory}: not a model of this library ({str(error).splitlines()[0]})") from None
