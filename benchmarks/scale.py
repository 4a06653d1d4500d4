"""An outer step and an episode draw timed at rising numbers of listeners, features on disk."""

import tempfile
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import measure
from benchmarks.measure import Call, Turns
from benchmarks.problem import Shape, Size
from perser import model as heads
from perser import seeds
from perser.adapt import personal_heads
from perser.data import Data
from perser.episodes import make_batch, train_episodes, training_pools
from perser.model import Head, cross_entropy

LISTENERS = (100, 10_000, 1_000_000)
RATINGS = 50  # of a listener
CLIPS = 100_000
SIZE = Size(layers=3, width=64, hidden=32, classes=4, steps=5)


class Timed(NamedTuple):
    """What is timed at one number of listeners. draw, step: calls; read: touches all pages of the files."""

    draw: Call
    step: Call
    read: Call
    setup_seconds: float


SHAPE = Shape(64, 10, 10)


def scale(device: torch.device, turns: Turns, listeners: tuple[int, ...] = LISTENERS, clips: int = CLIPS,
          size: Size = SIZE, shape: Shape = SHAPE) -> list[dict]:
    """A row per number of listeners: seconds to set up, milliseconds of an episode draw and of an outer step, memory.

    Features and ratings are memory-mapped files. On an accelerator only the features are copied to it.
    """
    with tempfile.TemporaryDirectory() as folder:
        timed = {count: _timed(Path(folder) / str(count), device, count, clips, size, shape) for count in listeners}
        calls = {(count, what): getattr(timed[count], what) for count in listeners for what in ("draw", "step")}
        times = measure.in_turns(calls, device, turns)
        rows = [{"listeners": count, "ratings": count * RATINGS, "clips": clips,
                 "setup_seconds": timed[count].setup_seconds} for count in listeners]
        for row, what in product(rows, ("draw", "step")):
            here, first = times[row["listeners"], what], times[listeners[0], what]
            time = measure.typical(here)
            row |= {f"{what}_ms": 1000 * time.seconds, f"{what}_cpu_ms": 1000 * time.cpu_seconds,
                    f"{what}_ms_to_first": measure.ratio(here, first).seconds}
        for row in rows:
            row["step_memory_mib"] = _step_memory(timed[row["listeners"]], device, turns.rounds) / 2**20
    return rows


def _step_memory(timed: Timed, device: torch.device, rounds: int) -> int:
    """Bytes. All files are read first, because pages that a step is the first to touch would count as its memory."""
    timed.read()
    with measure.peak(device) as risen:
        for _ in range(rounds):
            timed.step()
        return risen()


def _timed(folder: Path, device: torch.device, listeners: int, clips: int, size: Size, shape: Shape) -> Timed:
    folder.mkdir()
    data, targets = _data(folder, listeners, clips, size)
    data = data if device.type == "cpu" else data._replace(features=data.features.to(device))
    episodes, shots, query = shape
    pools, draw = [], seeds.rng(0, "bench draw")
    ratings = np.arange(len(data.clip))
    setup = measure.once(lambda: pools.append(training_pools(data, ratings, "combined", shots, query, 0)), device)
    fresh = heads.init(size.layers, size.width, size.hidden, size.classes, seeds.generator(0, "bench"))
    head = heads.trainable(Head(*(tensor.to(device) for tensor in fresh)))
    inner_lr = torch.full((size.steps, len(heads.TENSORS)), 0.05, device=device)
    inner_lr[:, 0] = 0
    inner_lr.requires_grad_()
    class_weights = torch.ones(size.classes, device=device)

    def drawn():
        return train_episodes(pools[0], "combined", shots, query, episodes, draw)

    def step():
        chosen = drawn()
        batch = make_batch(data, targets, class_weights, chosen)
        batch = batch._replace(targets=batch.targets.to(device))
        logits = next(personal_heads(head, [inner_lr], batch, second_order=True)).query_logits()
        wanted = targets[torch.from_numpy(chosen.query)].to(device)
        torch.autograd.grad(cross_entropy(logits, wanted, class_weights).mean(), (*head, inner_lr))

    return Timed(drawn, step, lambda: [part.sum() for part in (data.features, data.clip, targets)], setup.seconds)


def _data(folder: Path, listeners: int, clips: int, size: Size) -> tuple[Data, torch.Tensor]:
    """Random ratings, RATINGS per listener. All but the listeners' numbers lie in files."""
    draw, count = seeds.rng(0, "bench scale"), listeners * RATINGS

    def mapped(name: str, shape: tuple[int, ...], kind: str, fill) -> np.ndarray:
        array = np.memmap(folder / name, kind, "w+", shape=shape)
        for start in range(0, shape[0], 1 << 18):
            part = array[start:start + (1 << 18)]
            part[:] = fill(part.shape)
        array.flush()
        return array

    features = mapped("features", (clips, size.layers, size.width), "float32",
                      lambda shape: draw.standard_normal(shape, np.float32))
    clip = mapped("clip", (count,), "int64", lambda shape: draw.integers(clips, size=shape))
    kinds = np.eye(size.classes, dtype=np.float32)
    targets = mapped("targets", (count, size.classes), "float32",
                     lambda shape: kinds[draw.integers(size.classes, size=shape[0])])
    targets = torch.from_numpy(targets)
    return Data(torch.from_numpy(features), np.zeros(clips, np.int64), clip, np.arange(count) // RATINGS,
                targets > 0.5, (), (), ()), targets
