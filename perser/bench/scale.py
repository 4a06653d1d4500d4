"""An outer step and an episode draw timed at rising numbers of listeners, features on disk."""

import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import torch

from perser import head as heads
from perser import seeds
from perser.bench import measure
from perser.bench.measure import Call, Turns
from perser.bench.meta import Size
from perser.episodes import Data, train_episodes, training_pools
from perser.evaluate import query_logits
from perser.losses import cross_entropy

LISTENERS = (100, 10_000, 1_000_000)
RATINGS = 50  # of each listener
CLIPS = 100_000
SIZE = Size(layers=3, width=64, hidden=32, classes=4, steps=5)


def scale(device: torch.device, turns: Turns, listeners: tuple[int, ...] = LISTENERS, clips: int = CLIPS,
          size: Size = SIZE, episodes: int = 64, shots: int = 10, query: int = 10) -> list[dict]:
    """A row for each number of listeners: seconds to set up, and of an episode draw and an outer step; memory.

    Features and ratings are memory-mapped files; on an accelerator the features alone are copied to it.
    """
    with tempfile.TemporaryDirectory() as folder:
        built = {count: _calls(Path(folder) / str(count), device, count, clips, size, (episodes, shots, query))
                 for count in listeners}
        calls = {(count, what): call for count in listeners for what, call in zip(("draw", "step"), built[count])}
        times = measure.paired(calls, device, turns)
        rows = [{"listeners": count, "ratings": count * RATINGS, "clips": clips, "setup_seconds": built[count][2]}
                for count in listeners]
        for row, what in product(rows, ("draw", "step")):
            own, first = times[row["listeners"], what], times[listeners[0], what]
            time = measure.typical(own)
            row |= {f"{what}_ms": 1000 * time.seconds, f"{what}_cpu_ms": 1000 * time.cpu_seconds,
                    f"{what}_ms_to_first": measure.ratio(own, first).seconds}
        for row in rows:
            built[row["listeners"]][3]()
            with measure.peak(device) as risen:
                for _ in range(turns.rounds):
                    built[row["listeners"]][1]()
                row["step_memory_mib"] = risen() / 2**20
    return rows


def _calls(folder: Path, device: torch.device, listeners: int, clips: int, size: Size,
           shape: tuple[int, int, int]) -> tuple[Call, Call, float, Call]:
    """An episode draw, an outer step with its draw, the seconds to set both up, and what reads all of the files.

    A page of a file that a step is the first to touch counts as memory in use, but it is the system's cache.
    """
    folder.mkdir()
    data, targets = _data(folder, listeners, clips, size)
    data = data if device.type == "cpu" else data._replace(features=data.features.to(device))
    episodes, shots, query = shape
    held, draw = [], seeds.rng(0, "bench draw")
    setup = measure.once(lambda: held.append(training_pools(data, np.arange(len(data.clip)), "combined", shots, query,
                                                             0)), device)
    g = seeds.generator(0, "bench")
    head = heads.trainable(heads.Head(*(t.to(device) for t in heads.init(
        size.layers, size.width, size.hidden, size.classes, g))))
    rates = torch.full((size.steps, len(heads.TENSORS)), 0.05, device=device)
    rates[:, 0] = 0
    rates.requires_grad_()
    weights = torch.ones(size.classes, device=device)

    def drawn():
        return train_episodes(held[0], "combined", shots, query, episodes, draw)

    def step():
        chosen = drawn()
        wanted = targets[torch.from_numpy(chosen.query)].to(device)
        found = query_logits(data, targets, weights, head, rates, chosen, True)
        torch.autograd.grad(cross_entropy(found, wanted, weights).mean(), (*head, rates))

    return drawn, step, setup.seconds, lambda: [part.sum() for part in (data.features, data.clip, targets)]


def _data(folder: Path, listeners: int, clips: int, size: Size) -> tuple[Data, torch.Tensor]:
    """Random ratings, RATINGS of each listener; all but the listeners' numbers in files."""
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
