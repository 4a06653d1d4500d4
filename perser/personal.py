"""One new listener: adapt a trained model to a few labelled clips, save it as one file, use it on new audio."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from perser import checkpoints, features
from perser.about import Personal, parse
from perser.checkpoints import FAULTS, Checkpoint, read_tensors, reason
from perser.corpora import schema
from perser.corpora.base import nearest
from perser.corpora.schema import Table
from perser.data import rating_targets
from perser.episodes import support_batch
from perser.errors import UserError
from perser.features import upstreams
from perser.methods.base import setting_for
from perser.model import Head, logits, predict
from perser.records import no_formula, whole

Item = TypeVar("Item")
Made = TypeVar("Made")
CHUNK = 128  # clips that are in memory at a time


class Clips(NamedTuple):
    """The part of a corpus that `features.extract` reads."""

    clips: pd.DataFrame


class PersonalModel(NamedTuple):
    """One listener's head, the standardisation (L, D) of its features, and a description."""

    head: Head
    mean: Tensor
    scale: Tensor
    about: dict[str, Any]


def read_table(path: Path, classes: Iterable[str], **options: Any) -> Table:
    """A table's ratings that name a class of a model; options: those of `schema.read`. UserError: none, or as there."""
    table = schema.read(path, classes, needs=("clip",), **options)
    rated = [(rating, on) for rating, on in zip(table.ratings, table.ticks) if on]
    if not rated:
        raise UserError(f"{path}: no rating names a class of the model: {', '.join(table.classes)}")
    return table._replace(ratings=[rating for rating, _ in rated], ticks=[on for _, on in rated])


def of_listener(table: Table, path: Path, listener: str | None) -> Table:
    """The ratings of one listener, who must be named where there are several. Raises UserError with the names."""
    names = listeners(table)
    if listener is not None and listener not in names:
        raise UserError(f"{path}: no listener {listener!r}: {nearest(listener, names)}")
    if listener is None and len(names) > 1:
        raise UserError(f"{path}: ratings of {len(names)} listeners; choose one, such as --listener {names[0]!r}, or "
                        f"give --each: {', '.join(names)}")
    kept = [(rating, on) for rating, on in zip(table.ratings, table.ticks) if listener in (None, rating.listener)]
    return table._replace(ratings=[rating for rating, _ in kept], ticks=[on for _, on in kept],
                          singles=[single for single in table.singles if listener in (None, single[0].listener)])


def listeners(table: Table) -> list[str]:
    """The names in a table, sorted; one empty name where it has no such column."""
    return sorted({rating.listener for rating in table.ratings})


def ticks_of(table: Table) -> Tensor:
    """The ticks (R, C) bool of a table."""
    return torch.tensor([[name in on for name in table.classes] for on in table.ticks])


def read_ratings(path: Path, audio: Path, classes: tuple[str, ...], listener: str | None = None,
                 **options: Any) -> tuple[list[Path] | Tensor, Tensor]:
    """One listener's clips and ticks (K, C) bool from a table with columns clip and label (`perser.corpora.schema`).

    The clips are files below the folder `audio`, or features (K, L, D) where it is a file of them. listener: whose rows
    to read, where there are several. options: those of `schema.read`. Ratings without a class are left out. Raises
    UserError with file, line and remedy.
    """
    path, audio = Path(path), Path(audio)
    table = of_listener(read_table(path, classes, **options), path, listener)
    clips = schema.files(table, audio) if audio.is_dir() else schema.chosen(table, audio, options.get("encoding", ""))
    rows: list[Any] = [clips[rating.clip] for rating in table.ratings]
    return rows if audio.is_dir() else torch.from_numpy(np.stack(rows)), ticks_of(table)


def embed(files: list[Path] | Tensor, about: dict[str, Any], mean: Tensor, scale: Tensor, store: Path,
          upstream: str | None = None) -> Tensor:
    """Features (n, L, D) of audio files, standardised like those of the model's training corpus.

    files: or ready-made features, for a model that was trained on such. upstream: the name, hub id or folder to load it
    from; None for the model's own name. Raises UserError when it is not the upstream that the model was trained with.
    """
    if isinstance(files, Tensor) or about["upstream"] == upstreams.READY:
        source = upstreams.ready(*files.shape[1:]).identity if isinstance(files, Tensor) else "audio"
        if not isinstance(files, Tensor) or source != about["upstream_identity"]:
            raise UserError(f"the model was trained on {about['upstream_identity']}, not on {source}; give it the same")
        return (files - mean) / scale
    return (embedder(about, upstream)(files, store) - mean) / scale


def embedder(about: dict[str, Any], upstream: str | None = None) -> Callable[..., Tensor]:
    """A function of audio files and a feature store that gives features (n, L, D). Errors: as `embed`."""
    loaded = upstreams.load(upstream or about["upstream"])
    if loaded.identity != about["upstream_identity"]:
        raise UserError(f"upstream {about['upstream']} is {loaded.identity} here but the model was trained with "
                        f"{about['upstream_identity']}; name that one with --upstream")
    moments = about["waveform_moments"]
    normalise = moments if isinstance(moments, str) else tuple(moments)

    def features_of(files: list[Path], store: Path) -> Tensor:
        clips = pd.DataFrame({"path": [str(file) for file in files]})
        return features.extract(Clips(clips), loaded, store, normalise=normalise)

    return features_of


def piecewise(items: list[Item], read: Callable[[list[Item]], Made]) -> Iterator[tuple[list[Item], Made | UserError]]:
    """What `read` makes of all items; where it fails, of halves, down to the single items that are at fault.

    >>> def doubled(items):
    ...     if 3 in items:
    ...         raise UserError("three")
    ...     return [2 * item for item in items]
    >>> list(piecewise([1, 2, 3, 4], doubled))
    [([1, 2], [2, 4]), ([3], UserError('three')), ([4], [8])]
    """
    try:
        yield items, read(items)
    except UserError as error:
        if len(items) == 1:
            yield items, error
        else:
            yield from piecewise(items[:len(items) // 2], read)
            yield from piecewise(items[len(items) // 2:], read)


def embedded(files: list[Path], about: dict[str, Any], upstream: str | None = None, store: Path | None = None,
             progress: bool = False) -> Iterator[tuple[list[Path], Tensor | UserError]]:
    """Features (n, L, D), not yet standardised, of files in turn, and what is wrong with those that have none.

    Few of them are in memory at a time, and, without a store, on disk. Errors that concern all files: as `embed`.
    """
    features_of = embedder(about, upstream)
    with tqdm(total=len(files), unit="clip", disable=not progress) as bar:
        for start in range(0, len(files), CHUNK):
            with TemporaryDirectory() if store is None else nullcontext(store) as folder:
                for part, values in piecewise(files[start:start + CHUNK], partial(features_of, store=Path(folder))):
                    bar.update(len(part))
                    yield part, values


def adapt(directory: Path, ratings: Path, audio: Path, store: Path, upstream: str | None = None,
          **options: Any) -> PersonalModel:
    """Adapt the model in a directory, of any method, to one listener's ratings.

    upstream: as in `embed`. options: listener and others, as in `read_ratings`.
    """
    trained = checkpoints.load(directory)
    files, ticks = read_ratings(ratings, audio, tuple(trained.about["classes"]), **options)
    return adapted(trained, embed(files, trained.about, trained.mean, trained.scale, store, upstream), ticks)


@torch.no_grad()
def adapted(trained: Checkpoint, features: Tensor, ticks: Tensor) -> PersonalModel:
    """Adapt a trained model to one listener's ratings: standardised features (K, L, D) and ticks (K, C) bool.

    With a number of shots that the model was not trained for, the settings of the nearest number are used. UserError:
    the result is no model, because the tensors do not fit each other or the adaptation diverged.
    """
    batch = support_batch(features, rating_targets(ticks, trained.about["label_smoothing"]), trained.class_weights)
    try:
        heads = trained.model.weights(batch, setting_for(trained.model, len(ticks)))
        head = Head(*(tensor[0] for tensor in heads))
        checkpoints.check(head, trained.mean, trained.scale, len(trained.about["classes"]))
        if not all((tensor.abs() <= checkpoints.LARGEST).all() for tensor in head):
            raise ValueError("the adaptation diverged")
    except (*FAULTS, RuntimeError) as error:
        raise UserError(f"the model of method {trained.about['method']} cannot adapt to these ratings "
                        f"({reason(error)}); choose another model") from None
    return PersonalModel(head, trained.mean, trained.scale, _about(
        trained, shots=len(ticks), method=f"{trained.about['method']}, personal"))


def general(trained: Checkpoint | Path) -> PersonalModel:
    """A trained model, or that in a directory, before it adapts: mostly SSL-E, or where meta-training began."""
    trained = trained if isinstance(trained, Checkpoint) else checkpoints.load(trained)
    return PersonalModel(trained.model.head, trained.mean, trained.scale, _about(trained, shots=0))


def _about(trained: Checkpoint, **entries: object) -> dict[str, Any]:
    """The description of a model that no longer adapts: without the digests of the training listeners."""
    about = trained.about | entries
    if about.get("trained_on"):
        about["trained_on"] = {key: about["trained_on"][key] for key in ("listeners", "ratings")}
    return about


def save(personal: PersonalModel, path: Path) -> None:
    """Write one safetensors file with the description in its header. Raises UserError when it cannot be written."""
    tensors = {**personal.head._asdict(), "mean": personal.mean, "scale": personal.scale}
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    about = json.dumps(personal.about, allow_nan=False)
    with whole(Path(path)) as half:
        save_file(tensors, half, metadata={"about": about, "digest": _digest(tensors, about)})


def _digest(tensors: dict[str, Tensor], about: str) -> str:
    """Changes with every byte of a personal model; it shows damage, not who wrote the file."""
    content = blake2b(about.encode(), digest_size=16)
    for name in sorted(tensors):
        content.update(f"{name} {tuple(tensors[name].shape)} ".encode())
        content.update(tensors[name].numpy().tobytes())
    return content.hexdigest()


def load(path: Path) -> PersonalModel:
    """Read a personal model. Raises UserError when the file is none, is damaged, or holds what no such model would."""
    try:
        tensors, metadata = read_tensors(path)
        text = metadata.pop("about")
        about, names = parse(text, Personal), {*Head._fields, "mean", "scale"}
        if tensors.keys() != names:
            raise ValueError(f"its tensors are {', '.join(sorted(tensors))[:80]}")
        if metadata and metadata != {"digest": _digest(tensors, text)}:  # files of before have none
            raise ValueError("it was changed after it was written")
        head, mean, scale = Head(*(tensors[name] for name in Head._fields)), tensors["mean"], tensors["scale"]
        checkpoints.check(head, mean, scale, len(about["classes"]))
        return PersonalModel(head, mean, scale, about)
    except (OSError, *FAULTS) as error:
        raise UserError(f"{path}: not a personal model; `perser adapt` writes one ({reason(error)})") from None


def find(path: Path, listener: str | None = None, method: str = "") -> tuple[PersonalModel, str]:
    """The model that answers for a path, and how it was chosen where there was a choice.

    path: a file of one model; a folder of listeners' files, such as an output folder of `perser personalise`, with
    `listener`; or, without, what `checkpoints.choose` takes, for the general model's answers. UserError: none, or a
    listener without a file.
    """
    path = Path(path)
    files = [] if path.is_file() else sorted([*path.glob("listeners/*.safetensors"), *path.glob("*.safetensors")])
    files = [file for file in files if file.name not in ("model.safetensors", "general.safetensors")]
    if listener is not None or files:
        models = dict(_listeners(files))
        if listener not in models:
            hint = nearest(listener or "", models) if models else "it holds no listeners' files"
            raise UserError(f"{path}: no model of listener {listener!r}: {hint}" if listener is not None else
                            f"{path}: models of listeners; choose one with --listener NAME, or give a file: {hint}")
        return models[listener], ""
    if path.is_file():
        return load(path), ""
    place, why = checkpoints.choose(path, method)
    return general(place), f"the general answers of {place}" + f": {why}" * bool(why)


def _listeners(files: Iterable[Path]) -> Iterator[tuple[str, PersonalModel]]:
    """Listeners and their models; a damaged file costs only its own listener."""
    for file in files:
        try:
            model = load(file)
        except UserError:
            continue
        yield model.about.get("listener") or file.stem, model


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A file name for each listener: letters, digits, - and _ alone, so none leads out of its folder, and all differ.

    >>> file_names(["Ann", "ann", "../x", "伟"])
    {'Ann': 'Ann.safetensors', 'ann': 'ann-2.safetensors', '../x': 'x.safetensors', '伟': 'listener.safetensors'}
    """
    taken, files = set(), {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")[:60] or "listener"
        if re.fullmatch(r"con|prn|aux|nul|com\d|lpt\d", stem, re.IGNORECASE):  # reserved by Windows
            stem += "_"
        number, unique = 1, stem
        while unique.lower() in taken:
            number += 1
            unique = f"{stem}-{number}"
        taken.add(unique.lower())
        files[name] = f"{unique}.safetensors"
    return files


def inputs(paths: Iterable[Path], about: dict[str, Any]) -> tuple[list[Path], list[str]]:
    """Files to answer for, each once: those given, those below folders in sorted order; and what is wrong with others.

    Folders are searched for audio, or for a model of ready-made features for files called features.
    """
    ready, files, faults = about["upstream"] == upstreams.READY, dict[Path, None](), []
    for path in paths:
        below = [path] if not path.is_dir() else sorted(
            file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")
            and (file.suffix.lower() in schema.READY and file.stem == "features" if ready
                 else file.suffix.lower() in schema.KINDS))
        if not below:
            faults.append(f"{path}: no {'features' if ready else 'audio'} in it: "
                          f"{', '.join(schema.READY if ready else schema.KINDS)}")
        files |= dict.fromkeys(below)
    return [*files], faults


@torch.no_grad()
def answers(personal: PersonalModel, files: list[Path], store: Path | None = None, upstream: str | None = None,
            progress: bool = False) -> Iterator[pd.DataFrame | UserError]:
    """A model's answers about files in turn, as `classify` gives them, or what is wrong with one of them."""
    about, mean, scale = personal.about, personal.mean, personal.scale
    if about["upstream"] == upstreams.READY:
        for file in files:
            try:
                names, given = schema.vectors(Path(file))
                yield _frame(personal, names, embed(torch.from_numpy(given), about, mean, scale, store or Path()))
            except UserError as error:
                yield UserError(f"{file}: {str(error).removeprefix(f'{file}: ')}")
        return
    for part, values in embedded(files, about, upstream, store, progress):
        yield values if isinstance(values, UserError) else _frame(personal, part, (values - mean) / scale)


def _frame(personal: PersonalModel, names: Iterable[str | Path], embedded: Tensor) -> pd.DataFrame:
    """Answers about standardised features; a class may be called as another column is."""
    answered, classes = logits(personal.head, embedded), personal.about["classes"]
    frame = pd.DataFrame(answered.softmax(-1).numpy(), columns=classes)
    sets = [";".join(name for name, on in zip(classes, row) if on) for row in predict(answered).tolist()]
    frame.insert(0, "label", sets, allow_duplicates=True)
    frame.insert(0, "file", [str(name) for name in names], allow_duplicates=True)
    return frame


def text(frames: list[pd.DataFrame], about: dict[str, Any], form: str) -> str:
    """Answers as "csv" or "json". A model of synthetic data says so in each row; no cell of a CSV is a formula."""
    classes, rows = about["classes"], [row for frame in frames for row in frame.itertuples(index=False, name=None)]
    if form == "json":
        entries = [{"file": file, "label": [name for name in classes if name in label.split(";")],
                    "probabilities": {name: round(float(share), 4) for name, share in zip(classes, shares)},
                    "synthetic": about["synthetic"]} for file, label, *shares in rows]
        return json.dumps(entries, indent=1) + "\n"
    header = ["file", "label", *classes, *(["synthetic"] if about["synthetic"] else [])]
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(map(no_formula, header))
    for file, label, *shares in rows:
        writer.writerow([no_formula(file), no_formula(label), *(f"{share:.4f}" for share in shares),
                         *([no_formula(about["synthetic"])] if about["synthetic"] else [])])
    return lines.getvalue().encode(errors="replace").decode()


def classify(personal: PersonalModel, files: list[Path], store: Path, upstream: str | None = None) -> pd.DataFrame:
    """One row per audio file: file, the predicted set (`label`, joined by ;), and the probability of each class.

    A model of ready-made features reads files of them; a row is then a clip. Raises UserError for the first bad file.
    """
    frames = []
    for frame in answers(personal, files, store, upstream):
        if isinstance(frame, UserError):
            raise frame
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
