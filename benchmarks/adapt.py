"""A thousand listeners personalised in one batch, timed against one listener at a time and against learn2learn."""

import importlib.util

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Turns
from benchmarks.problem import CLIPS, Problem, Shape, Size, make_problem
from perser.adapt import SpanHeads, personal_heads

LISTENERS = 1000
SIZE = Size()
ONE_BY_ONE = 50  # listeners that the slow implementations are timed on


def adapt(device: torch.device, turns: Turns, listeners: int = LISTENERS, shots: int = 20, size: Size = SIZE,
          clips: int = CLIPS) -> list[dict]:
    """A row per implementation: all listeners in one batch, one after the other, and by learn2learn.

    The slow ones are timed on the first ONE_BY_ONE listeners; times are per listener. Forming the weights is not timed.
    """
    few = min(listeners, ONE_BY_ONE)
    problem = make_problem(size, Shape(listeners, shots, 1), clips, False, device)
    calls = {"one batch": lambda: [personalise(problem, slice(None))],
             "one by one": lambda: [personalise(problem, slice(i, i + 1)) for i in range(few)]}
    weights = {name: [torch.cat(parts)[:few] for parts in zip(*(personal.weights() for personal in call()))]
               for name, call in calls.items()}
    if importlib.util.find_spec("learn2learn"):
        calls["learn2learn"] = lambda: by_learn2learn(problem, few)
        weights["learn2learn"] = list(map(torch.stack, zip(*calls["learn2learn"]())))
    rows = []
    for name, times in measure.in_turns(calls, device, turns).items():
        time, count = measure.typical(times), listeners if name == "one batch" else few
        rows.append({"implementation": name, "listeners": count, "shots": shots, "steps": size.steps,
                     "seconds": time.seconds, "ms_per_listener": 1000 * time.seconds / count,
                     "cpu_ms_per_listener": 1000 * time.cpu_seconds / count,
                     "weights_difference": measure.largest_difference(weights["one batch"], weights[name])})
    return rows


@torch.no_grad()
def personalise(problem: Problem, listeners: slice) -> SpanHeads:
    """The listeners' personal heads."""
    return next(personal_heads(problem.head, [problem.inner_lr], problem.batch(listeners)))


def by_learn2learn(problem: Problem, listeners: int) -> list[list[Tensor]]:
    """The first listeners' weights, one listener after the other."""
    from benchmarks import reference

    model, personal = reference.Downstream(problem.head), []
    support, _, targets, _ = problem.gather()
    for clips, wanted in zip(support[:listeners], targets):
        features, class_weights = problem.data.features[clips], problem.class_weights
        module = reference.lslr(model, problem.inner_lr, features, wanted, class_weights, first_order=True)
        personal.append([tensor.detach() for tensor in module.parameters()])
    return personal
