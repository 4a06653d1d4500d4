"""Upstreams turn 16 kHz waveforms into one (layers, width) matrix per clip, the mean over its valid frames.

A clip's matrix does not depend on the other clips of its batch.
"""

import difflib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from torchaudio.functional import compute_deltas
from torchaudio.transforms import MelSpectrogram

from perser.errors import UserError
from perser.features.audio import RATE

# Name -> hub repository, revision, required prefix of the commit. The authors' own revisions hold pickles only; these
# are the hub's conversions of the same weights to safetensors, which cannot run code. wav2vec2-large is S3PRL's
# wav2vec2_large_ll60k (wav2vec_vox_new.pt), as in EMO-SUPERB.
HUB = {
    "wav2vec2-base": ("facebook/wav2vec2-base", "9f0eb264dec63c8511a7905d0a854ca6d2a39e45", "9f0eb26"),
    "hubert-base": ("facebook/hubert-base-ls960", "af46f65f540dc3ca7aa59f46c6c3d5dbb4374fa8", "af46f65"),
    "wavlm-base": ("microsoft/wavlm-base", "refs/pr/1", ""),
    "wavlm-base-plus": ("microsoft/wavlm-base-plus", "refs/pr/1", "782b401"),
    "wav2vec2-large": ("facebook/wav2vec2-large-lv60", "refs/pr/1", "0c09c5d"),
    "hubert-large": ("facebook/hubert-large-ll60k", "refs/pr/1", "d95b177"),
    "wavlm-large": ("microsoft/wavlm-large", "e4e472c491084b2c6fb9736099130aa805159c62", "e4e472c"),
}
FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
FAMILIES = ("wav2vec2", "hubert", "wavlm")

MELS = 80
FLOOR = 1e-6  # power below which a mel band counts as silent; -60 dB of a waveform of unit variance
RANGE = 40 * np.log(10) / 10  # frames more than 40 dB below the clip's loudest are pauses


@dataclass(frozen=True)
class Upstream:
    """A frozen feature extractor: called with waveforms, returns float32 (clips, layers, width) on the CPU.

    identity: changes whenever the same clip could get other features. standardise: dimensions differ in scale, so
    centre and scale them on the training clips. levels: its own recipe scales every clip to zero mean and unit
    variance, the effect of `normalise="clip"` in perser.features. random: its weights were drawn, not trained, as
    `random_weights` in its config.json states.
    """

    name: str
    identity: str
    layers: int
    width: int
    standardise: bool
    levels: bool
    embed: Callable[[list[torch.Tensor]], torch.Tensor] = field(repr=False, compare=False)
    random: bool = False

    def __call__(self, waveforms: Sequence[np.ndarray]) -> torch.Tensor:
        """Embed a list of float32 (samples,) at 16 kHz: float32 (clips, layers, width), in the order given."""
        waves = [torch.as_tensor(np.ascontiguousarray(wave), dtype=torch.float32) for wave in waveforms]
        for index, wave in enumerate(waves):
            if wave.ndim != 1 or not len(wave):
                raise UserError(f"waveform {index}: shape {tuple(wave.shape)}; give non-empty 1-D arrays")
        if not waves:
            return torch.empty(0, self.layers, self.width)
        with torch.inference_mode():
            matrices = self.embed(waves)
        assert matrices.shape == (len(waves), self.layers, self.width), matrices.shape
        return matrices.clone()  # an ordinary tensor again: inference tensors cannot enter autograd


def load(name: str, revision: str | None = None, device: str | None = None) -> Upstream:
    """An upstream by name: `logmel`, `egemaps`, one of HUB, a hub id (`org/model[@revision]`) or a folder.

    `device` defaults to CUDA if available. UserError: an unknown name, or a model that cannot be reached, is of another
    family, or has no safetensors weights (pickles are never opened).
    """
    if name == "logmel":
        return Upstream(name, "logmel-1", 1, 3 * MELS, True, True,
                        lambda waves: torch.stack([log_mel_statistics(wave) for wave in waves])[:, None])
    if name == "egemaps":
        return _egemaps()
    repo, _, requested = name.partition("@")
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) or folder.is_dir():
        return _transformer(folder, folder.resolve().name, None, device)
    if name not in HUB and "/" not in name:
        known = ["logmel", "egemaps", *HUB]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise UserError(f"unknown upstream {name!r}; {hint} A hub id (org/model) or a model's folder works too")
    repo, pinned, prefix = HUB.get(name, (repo, requested or "main", ""))
    if revision is not None:
        pinned, prefix = revision, ""
    folder = _fetch(name, repo, pinned)
    if not folder.name.startswith(prefix):
        raise UserError(f"{name}: {repo} at {pinned} is commit {folder.name}, expected {prefix}...; "
                        f"if you trust the new commit, use --upstream {repo}@{folder.name}")
    return _transformer(folder, name, f"{repo}@{folder.name}", device)


@cache
def _mel() -> MelSpectrogram:
    return MelSpectrogram(RATE, n_fft=512, win_length=400, hop_length=160, n_mels=MELS)


def _padded(wave: torch.Tensor, least: int) -> torch.Tensor:
    return pad(wave, (0, max(0, least - len(wave))))


def log_mel_statistics(wave: torch.Tensor) -> torch.Tensor:
    """(samples,) -> (240,): mean and sd of 80 log-mel bands and sd of their deltas, over frames of speech.

    Leading and trailing pauses differ more between recordings than between emotions, so only frames within 40 dB of the
    loudest one count. Deltas are computed before pauses are removed.
    """
    spectrum = _mel()(_padded(wave, 512))  # (80, frames)
    bands = torch.log(spectrum + FLOOR)
    deltas = compute_deltas(bands)
    loudness = torch.log(spectrum.sum(dim=0) + FLOOR)
    speech = loudness > loudness.max() - RANGE
    bands, deltas = bands[:, speech], deltas[:, speech]
    return torch.cat([bands.mean(1), bands.std(1, correction=0), deltas.std(1, correction=0)])


def _egemaps() -> Upstream:
    if find_spec("opensmile") is None:
        raise UserError("egemaps: needs openSMILE, whose licence allows research only; if that is your use, "
                        "install it with: pip install opensmile==2.6.0")
    import opensmile
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)

    def functionals(waves: list[torch.Tensor]) -> torch.Tensor:
        rows = np.concatenate([smile.process_signal(_padded(wave, RATE).numpy(), RATE).to_numpy() for wave in waves])
        return torch.from_numpy(np.nan_to_num(rows).astype("float32"))[:, None]

    return Upstream("egemaps", f"egemaps-{opensmile.__version__}", 1, 88, True, True, functionals)


def _fetch(name: str, repo: str, revision: str) -> Path:
    """A model's folder in the hub cache, downloaded if necessary; its name is the commit."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(FILES)))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UserError(f"{name}: the model hub has no public {repo} at {revision}; check both") from None
    except (OSError, ValueError, httpx.HTTPError):
        raise UserError(
            f"{name}: the model hub cannot be reached; download config.json, preprocessor_config.json and "
            f"model.safetensors of {repo} at revision {revision} into a folder, then use --upstream FOLDER") from None


def _transformer(folder: Path, name: str, identity: str | None, device: str | None) -> Upstream:
    config = _json(folder / "config.json", name)
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"{name}: a {family!r} model; expected one of {', '.join(FAMILIES)}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"{name}: no model.safetensors in {folder}, and pickled weights are never opened; use a revision that has "
            "it (often ORG/MODEL@refs/pr/1) or convert it with safetensors.torch.save_file")
    recipe = folder / "preprocessor_config.json"
    levels = bool(_json(recipe, name).get("do_normalize", True)) if recipe.exists() else True
    random = bool(config.get("random_weights", False))
    # Random weights must not pass for the trained model, whatever the folder is called.
    name = f"{name}-random" if random and "random" not in name else name
    model = _Transformer(folder, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    return Upstream(name, identity or _content([*weights, folder / "config.json"]),
                    config["num_hidden_layers"] + 1, config["hidden_size"], False, levels, model.embed, random)


def _json(path: Path, name: str) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{name}: no {path}; a model's folder needs it next to model.safetensors") from None
    except (OSError, ValueError):
        raise UserError(f"{path}: not valid JSON; download the model again") from None


def _content(paths: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return f"folder:{digest.hexdigest()}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the messages and progress bars of transformers."""
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


@dataclass(frozen=True)
class _Transformer:
    """A wav2vec 2.0, HuBERT or WavLM model in a folder. Weights are read when the first clip is embedded."""

    folder: Path
    device: torch.device
    seconds: float = 80.0  # of padded audio per forward pass, which bounds memory

    @cached_property
    def model(self) -> torch.nn.Module:
        from transformers import AutoModel
        try:
            with _quiet():
                model, report = AutoModel.from_pretrained(
                    self.folder, dtype=torch.float32, local_files_only=True, use_safetensors=True,
                    trust_remote_code=False, output_loading_info=True)
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{self.folder}: cannot be loaded ({reason}); download it again") from error
        missing = sorted(set(report["missing_keys"]) - {"masked_spec_embed"})
        if missing:
            raise UserError(f"{self.folder}: the weights lack {missing[0]} and {len(missing) - 1} more; "
                            "download the model again")
        return model.to(self.device).eval()

    def embed(self, waves: list[torch.Tensor]) -> torch.Tensor:
        """Waveforms (samples,) -> (clips, layers, width)."""
        config, shortest = self.model.config, 1
        for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1]):
            shortest = (shortest - 1) * stride + kernel
        waves = [_padded(wave, shortest) for wave in waves]
        # A group norm over time sees the padding, masked or not, so such models get clips of one length per pass.
        grouped = config.feat_extract_norm == "group"
        result: list[torch.Tensor | None] = [None] * len(waves)
        for batch in _batches([len(wave) for wave in waves], grouped, int(self.seconds * RATE)):
            for index, matrix in zip(batch, self._forward([waves[index] for index in batch])):
                result[index] = matrix
        return torch.stack(result)

    def _forward(self, waves: list[torch.Tensor]) -> torch.Tensor:
        lengths = torch.tensor([len(wave) for wave in waves])
        inputs = pad_sequence(waves, batch_first=True).to(self.device)  # (clips, samples)
        mask = torch.arange(inputs.shape[1]) < lengths[:, None]
        padded = not mask.all()
        with warnings.catch_warnings(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            # WavLM mixes a boolean padding mask with its float position bias, which torch has deprecated.
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask and attn_mask")
            states = self.model(inputs, attention_mask=mask.to(self.device) if padded else None,
                                output_hidden_states=True).hidden_states
        frames = self.model._get_feat_extract_output_lengths(lengths)
        valid = torch.arange(states[0].shape[1]) < frames[:, None]  # (clips, frames)
        share = (valid / frames[:, None]).to(self.device)
        # One layer at a time: stacking all 25 would double the memory.
        return torch.stack([torch.einsum("btd,bt->bd", state, share) for state in states], dim=1).cpu()


def _batches(lengths: list[int], grouped: bool, budget: int) -> Iterator[list[int]]:
    """Indices in batches of rising length, at most `budget` padded samples per batch (or one clip)."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        other_length = grouped and batch and lengths[batch[0]] != lengths[index]
        if batch and (other_length or (len(batch) + 1) * lengths[index] > budget):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
