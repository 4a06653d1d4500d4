"""One new listener: adapt a trained model to a few labelled clips, save it as one file, use it on new audio."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from perser import checkpoints, features
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


def read_ratings(path: Path, audio: Path, classes: tuple[str, ...]) -> tuple[list[Path], Tensor]:
    """Audio files and ticks (K, C) bool of one listener's CSV with columns `file` and `label` (several with `;`).

    Raises UserError with file, line and remedy for a missing column, file or label.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable UTF-8 file ({error.__class__.__name__})") from None
    rows, folder = csv.DictReader(text.splitlines()), Path(audio).resolve()
    for column in ("file", "label"):
        if column not in (rows.fieldnames or ()):
            raise UserError(f"{path}:1: column `{column}` is missing; the columns are file,label")
    files, ticks = [], []
    for row in rows:
        where = f"{path}:{rows.line_num}"
        files.append(_audio_file(folder, row["file"] or "", where))
        ticks.append(_ticks(row["label"] or "", classes, where))
    if not files:
        raise UserError(f"{path}: no ratings; one line per rated clip: file,label")
    return files, torch.tensor(ticks)


def _audio_file(folder: Path, name: str, where: str) -> Path:
    file = folder / name
    if not file.resolve().is_relative_to(folder):
        raise UserError(f"{where}: {name!r} leads out of {folder}; name files below --audio")
    if not file.is_file():
        raise UserError(f"{where}: {file} does not exist; files are looked for under --audio")
    return file


def _ticks(text: str, classes: tuple[str, ...], where: str) -> list[bool]:
    labels = [label.strip() for label in text.split(";") if label.strip()]
    for label in labels:
        if label not in classes:
            raise UserError(f"{where}: label {label!r} is no class of the model: {nearest(label, classes)}")
    if not labels:
        raise UserError(f"{where}: no label; give at least one of {', '.join(classes)}")
    return [name in labels for name in classes]


def embed(files: list[Path], about: dict, mean: Tensor, scale: Tensor, store: Path,
          upstream: str | None = None) -> Tensor:
    """Features (n, L, D) of audio files, standardised like those of the model's training corpus.

    upstream: the name, hub id or folder to load it from; None for the model's own name. Raises UserError when it is
    not the upstream that the model was trained with.
    """
    loaded = upstreams.load(upstream or about["upstream"])
    if loaded.identity != about["upstream_identity"]:
        raise UserError(f"upstream {about['upstream']} is {loaded.identity} here but the model was trained with "
                        f"{about['upstream_identity']}; name that one with --upstream")
    moments = about["waveform_moments"]
    clips = pd.DataFrame({"path": [str(file) for file in files]})
    normalise = moments if isinstance(moments, str) else tuple(moments)
    return (features.extract(Clips(clips), loaded, store, normalise=normalise) - mean) / scale


def adapt(directory: Path, ratings: Path, audio: Path, store: Path, upstream: str | None = None) -> PersonalModel:
    """Adapt the model in a directory, of any method, to one listener's ratings.

    With a number of shots that the model was not trained for, the settings of the nearest number are used. upstream: as
    in `embed`.
    """
    trained = checkpoints.load(directory)
    files, ticks = read_ratings(ratings, audio, tuple(trained.about["classes"]))
    embedded = embed(files, trained.about, trained.mean, trained.scale, store, upstream)
    targets = rating_targets(ticks, trained.about["label_smoothing"])
    with torch.no_grad():
        batch = support_batch(embedded, targets, trained.class_weights)
        heads = trained.model.weights(batch, setting_for(trained.model, len(files)))
    about = trained.about | {"shots": len(files), "method": f"{trained.about['method']}, personal"}
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
    """One row per audio file: file, the predicted set (`label`, joined by ;), and the probability of each class."""
    embedded = embed(files, personal.about, personal.mean, personal.scale, store, upstream)
    with torch.no_grad():
        answers = logits(personal.head, embedded)
    classes = personal.about["classes"]
    frame = pd.DataFrame(answers.softmax(-1).numpy(), columns=classes)
    sets = [";".join(name for name, on in zip(classes, row) if on) for row in predict(answers).tolist()]
    frame.insert(0, "label", sets)
    frame.insert(0, "file", [str(file) for file in files])
    return frame


class Personaliser:
    """A trained model that adapts to a listener: `Personaliser(model).adapt(ratings, audio).predict(files)`.

    model: a model directory of `perser run`; store: folder of the feature store; upstream: as in `embed`.
    """

    def __init__(self, model: str | Path, store: str | Path, upstream: str | None = None):
        """Remember the arguments; nothing is read yet."""
        self.model, self.store, self.upstream = Path(model), Path(store), upstream

    def adapt(self, ratings: str | Path, audio: str | Path) -> "Personaliser":
        """Adapt to one listener's CSV of ratings; see `read_ratings`. Returns self."""
        self.personal_ = adapt(self.model, Path(ratings), Path(audio), self.store, self.upstream)
        return self

    def predict(self, files: list[str | Path]) -> pd.DataFrame:
        """What the listener would hear in audio files; see `classify`."""
        return classify(self.personal_, [Path(file) for file in files], self.store, self.upstream)

    def save(self, path: str | Path) -> None:
        """Write the adapted model as one file for `perser predict`."""
        save(self.personal_, Path(path))
