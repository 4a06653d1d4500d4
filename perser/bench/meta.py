"""The exact engine timed: one second-order outer step, and a thousand listeners personalised in one batch."""

import importlib.util
from collections.abc import Callable, Iterable
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perser import head as heads
from perser import seeds
from perser.adapt import Adapted, personal_head
from perser.adapt import adapt as inner_loop
from perser.bench import measure
from perser.bench.measure import Limits, Time, Turns
from perser.episodes import Data, Episodes, rating_targets
from perser.evaluate import query_logits
from perser.head import Head
from perser.losses import class_balanced_weights, cross_entropy

Found = tuple[float, list[Tensor]]


class Size(NamedTuple):
    """WavLM-base's layers and width, EMO-SUPERB's hidden layer, IEMOCAP's classes, five inner steps."""

    layers: int = 13
    width: int = 768
    hidden: int = 256
    classes: int = 9
    steps: int = 5


class Shape(NamedTuple):
    """Episodes of one outer step, clips of each support and query."""

    episodes: int
    shots: int
    query: int


class Problem(NamedTuple):
    """Random features, ratings and episodes: nothing here is learnt, only timed and compared."""

    data: Data
    targets: Tensor
    class_weights: Tensor
    head: Head
    rates: Tensor
    episodes: Episodes


SIZE = Size()
SHAPES = (Shape(64, 10, 10), Shape(256, 5, 20), Shape(8, 64, 64))
TARGETS = dict(zip(SHAPES, (40, 60, 8)))  # times learn2learn, set before the engine was written
FLOORS = 4  # times the arithmetic floor, at most
CLIPS = 8031  # four of IEMOCAP's five sessions, what one fold trains on
LISTENERS = 1000
ONE_BY_ONE = 50  # listeners that the slow ways are timed on


def problem(size: Size, shape: Shape, clips: int, distinct: bool, device: torch.device, seed: int = 0) -> Problem:
    """Episodes over a pool of `clips`, each of clips of its own; or over as many clips as they have ratings."""
    draw, g = seeds.rng(seed, "bench"), seeds.generator(seed, "bench")
    each = shape.shots + shape.query
    ratings = np.arange(shape.episodes * each).reshape(shape.episodes, each)
    clips = ratings.size if distinct else clips
    clip = draw.permutation(clips) if distinct else np.concatenate(
        [draw.choice(clips, each, replace=False) for _ in ratings])
    labels = torch.rand(ratings.size, size.classes, generator=g) < 1.5 / size.classes
    labels[torch.arange(ratings.size), torch.randint(size.classes, (ratings.size,), generator=g)] = True
    targets = rating_targets(labels, 0.05)
    head = heads.init(size.layers, size.width, size.hidden, size.classes, g)
    head = head._replace(mix=torch.randn(size.layers, generator=g) / 2)
    rates = 0.02 + 0.05 * torch.rand(size.steps, len(heads.TENSORS), generator=g)
    rates[:, 0] = 0
    data = Data(torch.randn(clips, size.layers, size.width, generator=g).to(device), np.zeros(clips, np.int64), clip,
                ratings[:, :1].repeat(each, 1).ravel(), labels.to(device), (), (), ())
    return Problem(data, targets.to(device), class_balanced_weights(targets).to(device),
                   Head(*(tensor.to(device) for tensor in head)), rates.to(device),
                   Episodes(ratings[:, :shape.shots], ratings[:, shape.shots:]))


def engine(given: Problem) -> Callable[[], Found]:
    """One outer step of this library: the loss, and the gradients of initial weights, layer weights and rates."""
    head, rates = heads.trainable(given.head), given.rates.clone().requires_grad_()
    query = torch.from_numpy(given.episodes.query)

    def step() -> Found:
        logits = query_logits(given.data, given.targets, given.class_weights, head, rates, given.episodes, True)
        loss = cross_entropy(logits, given.targets[query], given.class_weights).mean()
        grads = torch.autograd.grad(loss, (*head, rates))
        return float(loss.detach()), list(grads)

    return step


def learn2learn(given: Problem) -> Callable[[], Found]:
    """The same step as users of learn2learn write it: episode after episode, one backward pass each."""
    from perser import reference

    model, rates = reference.Downstream(given.head), given.rates.clone().requires_grad_()

    def step() -> Found:
        tensors = [*model.parameters(), rates]
        for tensor in tensors:
            tensor.grad = None
        total = 0.0
        for parts in zip(*given.episodes, strict=True):
            near, far = map(torch.from_numpy, parts)
            x, y = (given.data.features[torch.from_numpy(given.data.clip[part])] for part in parts)
            personal = reference.lslr(model, rates, x, given.targets[near], given.class_weights, first_order=False)
            loss = cross_entropy(personal(y), given.targets[far], given.class_weights) / len(given.episodes.support)
            loss.backward()
            total += float(loss.detach())
        rates.grad[:, 0] = 0  # the engine's layer weights do not adapt, whatever their rate
        return total, [tensor.grad for tensor in tensors]

    return step


def have_learn2learn() -> bool:
    """Whether the set-up could build it; without it the engine's own times are all there is."""
    return importlib.util.find_spec("learn2learn") is not None


def meta(device: torch.device, turns: Turns, shapes: tuple[Shape, ...] = SHAPES, size: Size = SIZE,
         clips: int = CLIPS, side: int = 2048) -> list[dict]:
    """A row for every shape, once with clips shared as in a corpus and once with every clip different.

    All rows take turns, so that a machine which is faster now and slower then is so for all of them.
    """
    limits = measure.limits(device, side, turns.rounds)
    wanted = list(product(shapes, (False, True)))
    given = [problem(size, shape, clips, distinct, device) for shape, distinct in wanted]
    ways = [_ways(each) for each in given]
    calls = {(row, name): call for row, each in enumerate(ways) for name, call in each.items()}
    found = {key: call() for key, call in calls.items()}
    times = measure.paired(calls, device, turns)
    return [_meta(given[row], size, shape, limits,
                  *({name: of[row, name] for name in ways[row]} for of in (found, times)))
            for row, (shape, _) in enumerate(wanted)]


def _ways(given: Problem) -> dict[str, Callable[[], Found]]:
    half = given._replace(data=given.data._replace(features=given.data.features.half()))
    calls = {"engine": engine(given), "half": engine(half)}
    return calls | ({"learn2learn": learn2learn(given)} if have_learn2learn() else {})


def _meta(given: Problem, size: Size, shape: Shape, limits: Limits, found: dict[str, Found],
          times: dict[str, list[Time]]) -> dict:
    used = len(np.unique(given.data.clip))
    row = {**shape._asdict(), "clips": len(given.data.features), "unique_clips": used, **_milliseconds(times)}
    for name in ("engine", "half") if "learn2learn" in times else ():
        faster = measure.ratio(times["learn2learn"], times[name])
        row |= {f"{name}_times_faster": faster.seconds, f"{name}_times_faster_cpu": faster.cpu_seconds,
                f"{name}_loss_difference": abs(found[name][0] - found["learn2learn"][0]),
                f"{name}_gradient_difference": measure.furthest(found[name][1], found["learn2learn"][1])}
    row["half_gradient_difference_to_engine"] = measure.furthest(found["half"][1], found["engine"][1])
    return row | _floors(size, shape, used, limits, measure.typical(times["engine"]))


def _milliseconds(times: dict[str, list[Time]]) -> dict[str, float]:
    typical = {name: measure.typical(each) for name, each in times.items()}
    return {f"{name}_ms": 1000 * each.seconds for name, each in typical.items()} | {
        f"{name}_cpu_ms": 1000 * each.cpu_seconds for name, each in typical.items()}


def _floors(size: Size, shape: Shape, used: int, limits: Limits, engine: Time) -> dict[str, float]:
    """Milliseconds at this machine's best: the products forward and twice that backward; the layers read twice.

    Products: the first layer of every clip used, support and query against the support in features, and against
    the support and the classes in hidden values.
    """
    episodes, shots, query = shape
    pairs = episodes * (shots + query) * (shots * size.width + (shots + size.classes) * size.hidden)
    flops = 3 * 2 * (used * size.width * size.hidden + pairs)
    arithmetic, read = flops / limits.flops, 2 * 4 * used * size.layers * size.width / limits.bandwidth
    return {"arithmetic_floor_ms": 1000 * arithmetic, "memory_floor_ms": 1000 * read,
            "times_arithmetic_floor": engine.seconds / arithmetic, "peak_gflops": limits.flops / 1e9,
            "bandwidth_gb_s": limits.bandwidth / 1e9}


def adapt(device: torch.device, turns: Turns, listeners: int = LISTENERS, shots: int = 20, size: Size = SIZE,
          clips: int = CLIPS) -> list[dict]:
    """A row for each way to personalise: all in one batch, one after the other, and by learn2learn.

    The slow ways are timed on the first ONE_BY_ONE listeners; every row says per listener.
    """
    few = min(listeners, ONE_BY_ONE)
    given = problem(size, Shape(listeners, shots, 1), clips, False, device)
    calls = {"one batch": lambda: personalise(given, slice(None)),
             "one by one": lambda: [personalise(given, slice(i, i + 1)) for i in range(few)]}
    weights = {"one batch": _weights(given, [calls["one batch"]()] * few, range(few)),
               "one by one": _weights(given, calls["one by one"](), [0] * few)}
    if have_learn2learn():
        calls["learn2learn"] = lambda: by_learn2learn(given, few)
        weights["learn2learn"] = calls["learn2learn"]()
    rows = []
    for name, times in measure.paired(calls, device, turns).items():
        time, count = measure.typical(times), listeners if name == "one batch" else few
        rows.append({"way": name, "listeners": count, "shots": shots, "steps": size.steps, "seconds": time.seconds,
                     "ms_per_listener": 1000 * time.seconds / count,
                     "cpu_ms_per_listener": 1000 * time.cpu_seconds / count,
                     "weights_difference": max(map(measure.furthest, weights["one batch"], weights[name]))})
    return rows


@torch.no_grad()
def personalise(given: Problem, listeners: slice) -> tuple[Adapted, Tensor]:
    """The listeners' adapted states and their support's features: each clip mixed and projected once."""
    support = given.episodes.support[listeners]
    clips, rows = np.unique(given.data.clip[support], return_inverse=True)
    device = given.head.P.device
    x = heads.mixed(given.head, given.data.features, torch.from_numpy(clips).to(device))
    hidden, rows = torch.addmm(given.head.b, x, given.head.P.T), torch.from_numpy(rows).to(device)
    x, targets = x[rows], given.targets[torch.from_numpy(support)]
    return inner_loop(given.head, given.rates, x, hidden[rows], targets, given.class_weights), x


def by_learn2learn(given: Problem, listeners: int) -> list[list[Tensor]]:
    """The first listeners' weights, one after the other."""
    from perser import reference

    model, found = reference.Downstream(given.head), []
    for support in given.episodes.support[:listeners]:
        x, targets = given.data.features[torch.from_numpy(given.data.clip[support])], torch.from_numpy(support)
        personal = reference.lslr(model, given.rates, x, given.targets[targets], given.class_weights, True)
        found.append([tensor.detach() for tensor in personal.parameters()])
    return found


def _weights(given: Problem, states: list[tuple[Adapted, Tensor]], episodes: Iterable[int]) -> list[list[Tensor]]:
    return [list(personal_head(given.head, *state, episode)) for state, episode in zip(states, episodes, strict=True)]
