"""One new listener: a model adapted to a few labelled clips, saved as one file, used on new audio."""

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
from perser.features import upstreams
from perser.adapt import adapt, adapt_explicit, personal_head, prior_shift
from perser.corpora.base import nearest
from perser.episodes import rating_targets
from perser.errors import UserError
from perser.head import Head, logits, mixed, predict
from perser.records import whole


class Clips(NamedTuple):
    """What `features.extract` reads of a corpus."""

    clips: pd.DataFrame


def read_ratings(path: Path, audio: Path, classes: tuple[str, ...]) -> tuple[list[Path], Tensor]:
    """Audio files and ticks (K, C) bool of one listener's CSV: columns `file` and `label` (several with `;`).

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
        file = folder / (row["file"] or "")
        if not file.resolve().is_relative_to(folder):
            raise UserError(f"{where}: {row['file']!r} leads out of {folder}; name files below --audio")
        if not file.is_file():
            raise UserError(f"{where}: {file} is not there; files are looked for under --audio")
        labels = [label.strip() for label in (row["label"] or "").split(";") if label.strip()]
        for label in labels:
            if label not in classes:
                raise UserError(f"{where}: label {label!r} is no class of the model: {nearest(label, classes)}")
        if not labels:
            raise UserError(f"{where}: no label; give at least one of {', '.join(classes)}")
        files.append(file)
        ticks.append([name in labels for name in classes])
    if not files:
        raise UserError(f"{path}: no ratings; one line per rated clip: file,label")
    return files, torch.tensor(ticks)


def embed(files: list[Path], about: dict, mean: Tensor, scale: Tensor, store: Path,
          upstream: str | None = None) -> Tensor:
    """Standardised features (n, L, D) of audio files, as the model's training corpus had them.

    upstream: the name, hub id or folder to load it from, the model's own name for it when not given. Raises UserError
    when it is not the one that the model was trained with.
    """
    upstream = upstreams.load(upstream or about["upstream"])
    if upstream.identity != about["identity"]:
        raise UserError(f"upstream {about['upstream']} is {upstream.identity} here but the model was trained with "
                        f"{about['identity']}; name that one with --upstream")
    moments = about["moments"] if isinstance(about["moments"], str) else tuple(about["moments"])
    clips = pd.DataFrame({"path": [str(file) for file in files]})
    return (features.extract(Clips(clips), upstream, store, normalise=moments) - mean) / scale


def personalise(directory: Path, ratings: Path, audio: Path, store: Path,
                upstream: str | None = None) -> dict[str, Tensor | dict]:
    """Adapt the model in a directory to one listener's ratings: the tensors and description of `save`.

    With a number of shots that the model was not trained for, the rates of the nearest one are used. upstream: as in
    `embed`.
    """
    model = checkpoints.load(directory)
    files, ticks = read_ratings(ratings, audio, tuple(model.about["classes"]))
    near = embed(files, model.about, model.mean, model.scale, store, upstream).unsqueeze(0)
    targets = rating_targets(ticks, model.about["smoothing"]).unsqueeze(0)
    head, by_shots, prior, _ = model.learner
    rates = by_shots[min(by_shots, key=lambda shots: abs(shots - len(files)))]
    with torch.no_grad():
        if isinstance(rates, Head) or rates[:, 0].any():
            explicit = rates if isinstance(rates, Head) else Head(*rates.unbind(1))
            heads = adapt_explicit(head, explicit, near, targets, model.class_weights, False)
            personal = Head(*(tensor[0] for tensor in heads))
        else:
            x = mixed(head, near)
            shift = None if prior is None else prior_shift(logits(head, near), targets, prior[0].exp(), prior[1])
            state = adapt(head, rates, x, x @ head.P.T + head.b, targets, model.class_weights, shift)
            personal = personal_head(head, state, x, 0)
    return {**personal._asdict(), "mean": model.mean, "scale": model.scale,
            "about": model.about | {"shots": len(files), "method": f"{model.about['method']}, personal"}}


def save(personal: dict, path: Path) -> None:
    """Write one safetensors file with the description in its header. Raises UserError when the disk takes none."""
    about = json.dumps(personal["about"])
    tensors = {name: tensor.contiguous().clone() for name, tensor in personal.items() if name != "about"}
    with whole(Path(path)) as half:
        save_file(tensors, half, metadata={"about": about})


def load(path: Path) -> tuple[Head, Tensor, Tensor, dict]:
    """Head, mean, scale and description of a personal model. Raises UserError when the file is none."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safetensors file is no mapping
            about = json.loads((file.metadata() or {})["about"])
        return Head(*(tensors[name] for name in Head._fields)), tensors["mean"], tensors["scale"], about
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a personal model; `perser adapt` writes one "
                        f"({str(error).splitlines()[0]})") from None


def classify(path: Path, files: list[Path], store: Path, upstream: str | None = None) -> pd.DataFrame:
    """One row per audio file: file, the predicted set (`label`, joined by ;), and each class's probability."""
    head, mean, scale, about = load(path)
    with torch.no_grad():
        found = logits(head, embed(files, about, mean, scale, store, upstream))
    classes = about["classes"]
    frame = pd.DataFrame(found.softmax(-1).numpy(), columns=classes)
    sets = [";".join(name for name, on in zip(classes, row) if on) for row in predict(found).tolist()]
    frame.insert(0, "label", sets)
    frame.insert(0, "file", [str(file) for file in files])
    return frame
