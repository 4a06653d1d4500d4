"""What each method of an experiment costs: numbers learnt and kept per listener, seconds, memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from perser import config, seeds
from perser.adapt import scalar_rates
from perser.baselines import Dev, Upper, all_data, train_base
from perser.bench import measure
from perser.bench.measure import Turns
from perser.config import (
    Aggregated,
    AllData,
    ClassMeans,
    Experiment,
    Finetune,
    ListenerEmbedding,
    Maml,
    Method,
    NearestListener,
    Priors,
)
from perser.episodes import Data, Episodes
from perser.errors import UserError
from perser.evaluate import answer, draws_by_listener
from perser.head import Head
from perser.material import Material, material
from perser.runs import LEAST_DEV, learn
from perser.splits import listener_groups, split

EXPERIMENT = Path("experiments/methods.toml")
SESSIONS = 5
RATERS = 3  # of each clip


class Shape(NamedTuple):
    """The embedded corpus with log-mel features: clips, listeners, layers and width of a clip's matrix, classes."""

    clips: int = 1200
    listeners: int = 6
    layers: int = 1
    width: int = 240
    classes: int = 9


SHAPE = Shape()


def cost(device: torch.device, turns: Turns, shape: Shape = SHAPE, experiment: Experiment | None = None) -> list[dict]:
    """A row for each method, all learnt in turn from the same random ratings of one fold.

    learnt_numbers: what training has set and the learner holds. listener_numbers: what is kept of a listener.
    learn_seconds: beyond SSL-E's own row, choices on the dev listeners included; all but `scratch` start there.
    personalise_ms: from the largest number of shots to the answer to one clip, with the most steps of its grid.
    Raises UserError for an accelerator, as the experiments learn on the processor, and for too few clips.
    """
    if device.type != "cpu":
        raise UserError(f"--device {device.type}: methods are learnt on the processor; use --device cpu")
    experiment = experiment or config.load(EXPERIMENT)
    ready, dev = problem(shape, experiment)
    head = train_base(ready, experiment.base, 0)
    learning = {name: learner_of(ready, head, method, experiment, dev) for name, method in experiment.methods.items()}
    found = {name: [_measured(call, device) for _ in range(turns.rounds)] for name, call in learning.items()}
    learners = {name: each[-1][2] for name, each in found.items()}
    shots = max(experiment.shots)
    asking = {name: personaliser(ready, head, learners[name], method, shots)
              for name, method in experiment.methods.items()}
    asked = measure.paired(asking, device, turns)
    return [_row(name, method, learners[name], head, found[name], measure.typical(asked[name]))
            for name, method in experiment.methods.items()]


def about(shape: Shape = SHAPE) -> dict:
    """What the committed experiment's methods are learnt from here: the shape, ratings, hidden width, shots."""
    experiment = config.load(EXPERIMENT)
    return shape._asdict() | {"ratings": RATERS * shape.clips, "hidden": experiment.base.hidden,
                              "shots": max(experiment.shots)}


def _row(name: str, method: Method, learner: NamedTuple, head: Head, found: list, asked: measure.Time) -> dict:
    took = measure.typical([each[0] for each in found])
    return {"method": name, "learnt_numbers": learnt_numbers(learner, method, head),
            "listener_numbers": listener_numbers(learner, method, head), "learn_seconds": took.seconds,
            "learn_cpu_seconds": took.cpu_seconds, "learn_memory_mib": max(each[1] for each in found) / 2**20,
            "personalise_ms": 1000 * asked.seconds, "personalise_cpu_ms": 1000 * asked.cpu_seconds}


def _measured(call: Callable[[], NamedTuple], device: torch.device) -> tuple[measure.Time, int, NamedTuple]:
    kept = []
    with measure.peak(device) as risen:
        took = measure.once(lambda: kept.append(call()), device)
        return took, risen(), kept[0]


def problem(shape: Shape, experiment: Experiment) -> tuple[Material, Dev]:
    """Random features and ratings of the shape, cut into the first fold and group; the dev listeners' draws."""
    draw, g = seeds.rng(0, "bench cost"), seeds.generator(0, "bench cost")
    ratings = RATERS * shape.clips
    labels = torch.rand(ratings, shape.classes, generator=g) < 1.5 / shape.classes
    labels[torch.arange(ratings), torch.randint(shape.classes, (ratings,), generator=g)] = True
    data = Data(torch.randn(shape.clips, shape.layers, shape.width, generator=g), np.arange(shape.clips) % SESSIONS + 1,
                np.repeat(np.arange(shape.clips), RATERS),
                np.concatenate([draw.choice(shape.listeners, RATERS, replace=False) for _ in range(shape.clips)]),
                labels, *(tuple(map(str, range(count))) for count in (shape.listeners, shape.clips, shape.classes)))
    groups = listener_groups(data, experiment.groups, max(experiment.shots) + experiment.min_queries)
    part = split(data, 1, 0, groups, min(map(len, groups)) >= LEAST_DEV)
    dev = draws_by_listener(data, part.dev, experiment.shots, experiment.dev_draws, experiment.min_queries, 0,
                            "dev draws")
    if not dev:
        raise UserError(f"{shape.clips} clips are too few for {max(experiment.shots)} shots of a dev listener; "
                        "use a larger --size")
    return material(data, part, experiment.base, True), dev


def learner_of(ready: Material, head: Head, method: Method, experiment: Experiment,
               dev: Dev) -> Callable[[], NamedTuple]:
    """What learns one method as `perser run` does; SSL-E itself from nothing, the others from `head`."""
    base = experiment.base
    if isinstance(method, Aggregated):
        return lambda: learn(ready, train_base(ready, base, 0), method, base, dev, 0)
    return lambda: learn(ready, head, method, base, dev, 0)


def personaliser(ready: Material, head: Head, learner: NamedTuple, method: Method, shots: int) -> Callable[[], object]:
    """From one test listener's shots to the answer to one clip; the upper bound takes all of the listener's ratings."""
    mine = ready.split.seen
    mine = mine[ready.data.listener[mine] == ready.data.listener[mine[0]]]
    if isinstance(learner, Upper):
        listener = int(ready.data.listener[mine[0]])
        return lambda: all_data(ready, head, method, method.rates[0], [listener], mine[:0], 0)
    tested = learner._replace(settings={shots: most_expensive(learner, method)})
    episode = Episodes(mine[None, :shots], mine[None, shots:shots + 1])
    return torch.no_grad()(lambda: answer(tested, ready, shots, episode))


def most_expensive(learner: NamedTuple, method: Method) -> Any:
    """The settings that take longest, of those that a method chooses from: random ratings choose at random."""
    match method:
        case Finetune():
            return scalar_rates(method.rates[0], max(method.steps), _widest(learner.head, method))
        case ListenerEmbedding():
            return method.rates[0], max(method.steps)
        case NearestListener():
            return 0, max(method.neighbours)
    return learner.settings[max(learner.settings)]


def numbers(value: object) -> int:
    """How many numbers the tensors of a value hold, however nested."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    return sum(map(numbers, value)) if isinstance(value, tuple) else 0


def learnt_numbers(learner: NamedTuple, method: Method, head: Head) -> int:
    """Numbers that training has set: the learner's tensors and, where they are learnt, its inner rates."""
    if isinstance(method, Finetune) and method.start == "scratch":
        return 0
    if isinstance(learner, Upper):
        return numbers(head)
    rates = 0
    if isinstance(method, Maml) and method.lslr:
        rates = method.inner_steps * len(method.adapts) + method.by_shots
    elif isinstance(method, Maml) and method.element_rates:
        rates = _moved(head, method.adapts)
    return numbers(learner._replace(settings=None)) + rates


def listener_numbers(learner: NamedTuple, method: Method, head: Head) -> int:
    """Numbers that a listener has for itself: tensors that descent moves, biases, means, or whom it is nearest to."""
    match method:
        case Aggregated():
            return 0
        case Finetune():
            return _moved(head, _widest(head, method))
        case Maml():
            return _moved(head, method.adapts)
        case AllData():
            return _moved(head, ("P", "b", "A", "a"))
        case Priors():
            return len(head.a)
        case ClassMeans():
            return numbers(learner.means)
        case NearestListener():
            return min(max(method.neighbours), learner.maps.shape[1])
        case ListenerEmbedding():
            return method.size


def _widest(head: Head, method: Finetune) -> tuple[str, ...]:
    """Of the sets of tensors that a method may choose, the one of most numbers."""
    return max(method.adapts, key=lambda names: _moved(head, names))


def _moved(head: Head, names: tuple[str, ...]) -> int:
    return sum(numbers(getattr(head, name)) for name in names)
