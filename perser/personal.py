"""One new listener: adapt a trained model to a few labelled clips, save it as one file, use it on new audio."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from perser import checkpoints, features
from perser.checkpoints import Checkpoint
from perser.corpora import schema
from perser.corpora.base import nearest
from perser.data import rating_targets
from perser.episodes import support_batch
from perser.errors import UserError
from perser.features import upstreams
from perser.methods.base import setting_for
from perser.model import Head, logits, predict
from perser.records import whole


class Clips(NamedTuple):
    """The part of a corpus that `features.extract` reads."""

    clips: pd.DataFrame


class PersonalModel(NamedTuple):
    """One listener's head, the standardisation (L, D) of its features, and a description."""

    head: Head
    mean: Tensor
    scale: Tensor
    about: dict


def read_ratings(path: Path, audio: Path, classes: tuple[str, ...], listener: str | None = None,
                 **options) -> tuple[list[Path] | Tensor, Tensor]:
    """One listener's clips and ticks (K, C) bool from a table with columns clip and label (`perser.corpora.schema`).

    The clips are files below the folder `audio`, or features (K, L, D) where it is a file of them. listener: whose rows
    to read, where there are several. options: those of `schema.read`. Ratings without a class are left out. Raises
    UserError with file, line and remedy.
    """
    path, audio = Path(path), Path(audio)
    table = schema.read(path, classes, needs=("clip",), **options)
    names = sorted({rating.listener for rating in table.ratings})
    if listener is not None and listener not in names:
        raise UserError(f"{path}: no listener {listener!r}: {nearest(listener, names)}")
    if listener is None and len(names) > 1:
        raise UserError(f"{path}: ratings of {len(names)} listeners; choose one, such as --listener {names[0]!r}: "
                        f"{', '.join(names)}")
    rated = [(rating, on) for rating, on in zip(table.ratings, table.ticks)
             if on and listener in (None, rating.listener)]
    if not rated:
        raise UserError(f"{path}: no rating names a class of the model: {', '.join(classes)}")
    table = table._replace(ratings=[rating for rating, _ in rated])
    encoding = options.get("encoding", "")
    clips = schema.files(table, audio) if audio.is_dir() else schema.chosen(table, audio, encoding)
    rows = [clips[rating.clip] for rating in table.ratings]
    return (rows if audio.is_dir() else torch.from_numpy(np.stack(rows)),
            torch.tensor([[name in on for name in classes] for _, on in rated]))


def embed(files: list[Path] | Tensor, about: dict, mean: Tensor, scale: Tensor, store: Path,
          upstream: str | None = None) -> Tensor:
    """Features (n, L, D) of audio files, standardised like those of the model's training corpus.

    files: or ready-made features, for a model that was trained on such. upstream: the name, hub id or folder to load it
    from; None for the model's own name. Raises UserError when it is not the upstream that the model was trained with.
    """
    if isinstance(files, Tensor) or about["upstream"] == upstreams.READY:
        given = upstreams.ready(*files.shape[1:]).identity if isinstance(files, Tensor) else "audio"
        if given != about["upstream_identity"]:
            raise UserError(f"the model was trained on {about['upstream_identity']}, not on {given}; give it the same")
        return (files - mean) / scale
    loaded = upstreams.load(upstream or about["upstream"])
    if loaded.identity != about["upstream_identity"]:
        raise UserError(f"upstream {about['upstream']} is {loaded.identity} here but the model was trained with "
                        f"{about['upstream_identity']}; name that one with --upstream")
    moments = about["waveform_moments"]
    clips = pd.DataFrame({"path": [str(file) for file in files]})
    normalise = moments if isinstance(moments, str) else tuple(moments)
    return (features.extract(Clips(clips), loaded, store, normalise=normalise) - mean) / scale


def adapt(directory: Path, ratings: Path, audio: Path, store: Path, upstream: str | None = None,
          **options) -> PersonalModel:
    """Adapt the model in a directory, of any method, to one listener's ratings.

    upstream: as in `embed`. options: listener and others, as in `read_ratings`.
    """
    trained = checkpoints.load(directory)
    files, ticks = read_ratings(ratings, audio, tuple(trained.about["classes"]), **options)
    return adapted(trained, embed(files, trained.about, trained.mean, trained.scale, store, upstream), ticks)


@torch.no_grad()
def adapted(trained: Checkpoint, features: Tensor, ticks: Tensor) -> PersonalModel:
    """Adapt a trained model to one listener's ratings: standardised features (K, L, D) and ticks (K, C) bool.

    With a number of shots that the model was not trained for, the settings of the nearest number are used.
    """
    batch = support_batch(features, rating_targets(ticks, trained.about["label_smoothing"]), trained.class_weights)
    heads = trained.model.weights(batch, setting_for(trained.model, len(ticks)))
    about = trained.about | {"shots": len(ticks), "method": f"{trained.about['method']}, personal"}
    return PersonalModel(Head(*(tensor[0] for tensor in heads)), trained.mean, trained.scale, about)


def general(directory: Path) -> PersonalModel:
    """The model in a directory before it adapts to anybody: for most methods SSL-E, or the start of meta-training."""
    trained = checkpoints.load(directory)
    return PersonalModel(trained.model.head, trained.mean, trained.scale, trained.about | {"shots": 0})


def save(personal: PersonalModel, path: Path) -> None:
    """Write one safetensors file with the description in its header. Raises UserError when it cannot be written."""
    tensors = {**personal.head._asdict(), "mean": personal.mean, "scale": personal.scale}
    with whole(Path(path)) as half:
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, half,
                  metadata={"about": json.dumps(personal.about)})


def load(path: Path) -> PersonalModel:
    """Read a personal model. Raises UserError when the file is none."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            about = json.loads((file.metadata() or {})["about"])
        return PersonalModel(Head(*(tensors[name] for name in Head._fields)), tensors["mean"], tensors["scale"], about)
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a personal model; `perser adapt` writes one "
                        f"({str(error).splitlines()[0]})") from None


def classify(personal: PersonalModel, files: list[Path], store: Path, upstream: str | None = None) -> pd.DataFrame:
    """One row per audio file: file, the predicted set (`label`, joined by ;), and the probability of each class.

    A model of ready-made features reads files of them; a row is then a clip.
    """
    inputs = files
    if personal.about["upstream"] == upstreams.READY:
        read = [schema.vectors(Path(file)) for file in files]
        files = [name for names, _ in read for name in names]
        inputs = torch.from_numpy(np.concatenate([values for _, values in read]))
    embedded = embed(inputs, personal.about, personal.mean, personal.scale, store, upstream)
    with torch.no_grad():
        answers = logits(personal.head, embedded)
    classes = personal.about["classes"]
    frame = pd.DataFrame(answers.softmax(-1).numpy(), columns=classes)
    sets = [";".join(name for name, on in zip(classes, row) if on) for row in predict(answers).tolist()]
    frame.insert(0, "label", sets)
    frame.insert(0, "file", [str(file) for file in files])
    return frame
