"""Feature extraction timed: this library's store and batches against one clip at a time."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import soundfile
import torch

from benchmarks import measure
from benchmarks.measure import Turns
from perser import features as store
from perser import seeds
from perser.audio import RATE
from perser.features import upstreams

CLIPS = 1000
SECONDS = (1.0, 9.0)  # of a clip, drawn evenly; IEMOCAP's last 4.5 s on average
STEP = 0.02  # lengths are rounded to this, the upstream's frame


def features(device: torch.device, turns: Turns, clips: int = CLIPS, config: dict | None = None,
             seconds: tuple[float, float] = SECONDS, side: int = 2048) -> list[dict]:
    """A row for the plain loop and one for the library, over the same clips, once per round.

    `config`: what differs from transformers' WavLMConfig, whose default is WavLM-base's shape. Weights and noise are
    random: time does not depend on the content.
    """
    with tempfile.TemporaryDirectory() as folder:
        model, corpus = _model(Path(folder) / "model", config or {}), _corpus(Path(folder), clips, seconds)
        upstream = upstreams.load(str(model), device=str(device))
        plain = _plain_model(model, device)
        calls = {"one clip at a time": lambda at: one_by_one(plain, corpus, device),
                 "perser": lambda at: store.extract(corpus, upstream, Path(folder) / f"store{at}", "none")}
        upstream([np.zeros(RATE, np.float32)])  # reads the weights
        rounds = [{name: measure.with_memory(lambda call=call, at=at: call(at), device)
                   for name, call in calls.items()} for at in range(turns.rounds)]
        limits = measure.limits(device, side, turns.rounds)
        flops = sum(_flops(plain, round(length * RATE)) for length in corpus.clips["seconds"])
    first = {name: result for name, (_, _, result) in rounds[0].items()}
    return [_row(name, [of_round[name] for of_round in rounds], corpus, flops, limits)
            | {"features_difference": measure.largest_difference([first[name]], [first["one clip at a time"]])}
            for name in calls]


def _row(name: str, rounds: list, corpus: SimpleNamespace, flops: float, limits: measure.Limits) -> dict:
    length, time = float(corpus.clips["seconds"].sum()), measure.typical([time for time, _, _ in rounds])
    return {"implementation": name, "clips": len(corpus.clips), "audio_seconds": length, "seconds": time.seconds,
            "cpu_seconds": time.cpu_seconds, "audio_per_second": length / time.seconds,
            "peak_memory_mib": max(memory for _, memory, _ in rounds) / 2**20,
            "product_peak_share": flops / time.seconds / limits.flops, "peak_gflops": limits.flops / 1e9}


def _model(folder: Path, config: dict) -> Path:
    from transformers import WavLMConfig, WavLMModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        WavLMModel(WavLMConfig(**config)).save_pretrained(folder)
    return folder


def _plain_model(folder: Path, device: torch.device) -> torch.nn.Module:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, trust_remote_code=False)
    return model.to(device).eval()


def _corpus(folder: Path, clips: int, seconds: tuple[float, float]) -> SimpleNamespace:
    draw, paths, lengths = seeds.rng(0, "bench clips"), [], []
    for i in range(clips):
        length = round(draw.uniform(*seconds) / STEP) * STEP
        wave = draw.normal(size=round(length * RATE)).astype(np.float32) / 10
        paths.append(folder / f"{i:05d}.wav")
        lengths.append(len(wave) / RATE)
        soundfile.write(paths[-1], wave, RATE)
    return SimpleNamespace(clips=pd.DataFrame({"path": list(map(str, paths)), "seconds": lengths}))


@torch.no_grad()
def one_by_one(model: torch.nn.Module, corpus: SimpleNamespace, device: torch.device) -> torch.Tensor:
    """Features as most scripts make them: read a file, run the model, average every layer over time."""
    rows = []
    for path in corpus.clips["path"]:
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0]).to(device)
        states = model(wave.unsqueeze(0), output_hidden_states=True).hidden_states
        rows.append(torch.stack([state[0].mean(0) for state in states]).cpu())
    return torch.stack(rows)


def _flops(model: torch.nn.Module, samples: int) -> float:
    """Operations of the products in one forward pass of one clip, from the shapes of its layers."""
    config, frames, before, total = model.config, samples, 1, 0.0
    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        total += 2 * frames * before * width * kernel
        before = width
    hidden, feed = config.hidden_size, config.intermediate_size
    total += 2 * frames * hidden * (before + hidden * config.num_conv_pos_embeddings
                                    / config.num_conv_pos_embedding_groups)
    per_frame = 4 * hidden * hidden + 2 * hidden * feed + 2 * frames * hidden
    return total + 2 * frames * config.num_hidden_layers * per_frame
