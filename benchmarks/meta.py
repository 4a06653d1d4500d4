"""One second-order outer step timed against other implementations and against the machine's limits."""

from itertools import product

import numpy as np
import torch
from torch import Tensor

from benchmarks import measure, outer_steps
from benchmarks.measure import Limits, Time, Turns
from benchmarks.problem import CLIPS, Problem, Shape, Size, make_problem

SIZE = Size()
SHAPES = (Shape(64, 10, 10), Shape(256, 5, 20), Shape(8, 64, 64))
TARGETS = {  # times faster, by shape
    "learn2learn": dict(zip(SHAPES, (40, 60, 8))),
    "torch_func": dict(zip(SHAPES, (24, 45, 4))),
    "jax": dict(zip(SHAPES, (11, 27, 4.5))),
}
FLOORS = 4  # times the arithmetic floor, at most


def meta(device: torch.device, turns: Turns, shapes: tuple[Shape, ...] = SHAPES, size: Size = SIZE,
         clips: int = CLIPS, side: int = 2048) -> list[dict]:
    """A row per shape, once with clips shared as in a corpus and once with all clips different.

    All calls of all rows are timed in turns. Differences are the largest, relative to the other implementation.
    """
    limits = measure.limits(device, side, turns.rounds)
    settings = list(product(shapes, (False, True)))
    problems = [make_problem(size, shape, clips, distinct, device) for shape, distinct in settings]
    steps = outer_steps.available(device)
    calls = {(row, name): step(problem) for row, problem in enumerate(problems) for name, step in steps.items()}
    results = {key: call() for key, call in calls.items()}
    times = measure.in_turns(calls, device, turns)
    return [_row(problems[row], size, shape, limits, *({name: values[row, name] for name in steps}
                                                       for values in (results, times)))
            for row, (shape, _) in enumerate(settings)]


def _row(problem: Problem, size: Size, shape: Shape, limits: Limits, results: dict[str, tuple[float, list[Tensor]]],
         times: dict[str, list[Time]]) -> dict:
    used = len(np.unique(problem.data.clip))
    row = {**shape._asdict(), "clips": len(problem.data.features), "unique_clips": used}
    typical = {name: measure.typical(rounds) for name, rounds in times.items()}
    row |= {f"{name}_ms": 1000 * time.seconds for name, time in typical.items()}
    row |= {f"{name}_cpu_ms": 1000 * time.cpu_seconds for name, time in typical.items()}
    loss, gradients = results["engine"]
    for name in (name for name in times if name != "engine"):
        faster, than = measure.ratio(times[name], times["engine"]), "" if name == "learn2learn" else f"_than_{name}"
        row |= {f"engine_times_faster{than}": faster.seconds, f"engine_times_faster_cpu{than}": faster.cpu_seconds,
                f"loss_difference_to_{name}": abs(loss - results[name][0]),
                f"gradient_difference_to_{name}": measure.largest_difference(gradients, results[name][1])}
    return row | _floors(size, shape, used, limits, typical["engine"])


def _floors(size: Size, shape: Shape, used: int, limits: Limits, engine: Time) -> dict[str, float]:
    """Milliseconds at this machine's best: the products forward and twice that backward; the layers read twice.

    Products: the first layer of all clips used, support and query against the support in features, and against the
    support and the classes in hidden values.
    """
    episodes, shots, query = shape
    pairs = episodes * (shots + query) * (shots * size.width + (shots + size.classes) * size.hidden)
    flops = 3 * 2 * (used * size.width * size.hidden + pairs)
    arithmetic, read = flops / limits.flops, 2 * 4 * used * size.layers * size.width / limits.bandwidth
    return {"arithmetic_floor_ms": 1000 * arithmetic, "memory_floor_ms": 1000 * read,
            "times_arithmetic_floor": engine.seconds / arithmetic, "peak_gflops": limits.flops / 1e9,
            "bandwidth_gb_s": limits.bandwidth / 1e9}
