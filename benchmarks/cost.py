"""What each method of an experiment costs: numbers learnt and kept per listener, seconds, memory."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import measure
from benchmarks.measure import Turns
from perser import experiment as experiments
from perser import seeds
from perser.data import Data, Task, folds, listener_groups, make_task, split
from perser.episodes import Draws, draws_by_listener
from perser.errors import UserError
from perser.experiment import Experiment
from perser.methods import Method, Start
from perser.methods.ssl_e import cross_fitted, train
from perser.protocol import LEAST_DEV

EXPERIMENT = experiments.OWN / "methods.toml"
SESSIONS = 5
RATERS = 3  # of a clip


class Shape(NamedTuple):
    """The embedded corpus with log-mel features: clips, listeners, layers and width of a clip's matrix, classes."""

    clips: int = 1200
    listeners: int = 6
    layers: int = 1
    width: int = 240
    classes: int = 9


SHAPE = Shape()


def cost(device: torch.device, turns: Turns, shape: Shape = SHAPE, experiment: Experiment | None = None) -> list[dict]:
    """A row per method. All are trained in turn on the same random ratings of one fold.

    learnt_numbers: what training has set and the model holds. listener_numbers: what is kept of a listener.
    learn_seconds: on top of SSL-E's, choices on the dev listeners included. personalise_ms: from the largest number of
    shots to the answer to one clip, in the costliest setting of the method's grid.
    Raises UserError for an accelerator, as the experiments run on the processor, and for too few clips.
    """
    if device.type != "cpu":
        raise UserError(f"--device {device.type}: methods are trained on the processor; use --device cpu")
    experiment = experiment or experiments.load(EXPERIMENT)
    task, dev = make_problem(shape, experiment)
    start = Start(train(task, 0), partial(cross_fitted, task, 0))
    fits = {name: [measure.with_memory(partial(fit, method, task, start, dev), device) for _ in range(turns.rounds)]
            for name, method in experiment.methods.items()}
    models = {name: rounds[-1][2] for name, rounds in fits.items()}
    answers = {name: answering(method, task, models[name], max(experiment.shots))
               for name, method in experiment.methods.items()}
    times = measure.in_turns(answers, device, turns)
    return [_row(name, method, fits[name], measure.typical(times[name])) for name, method in experiment.methods.items()]


def about(shape: Shape = SHAPE) -> dict:
    """What the methods of the committed experiment are trained on: the shape, ratings, hidden width, shots."""
    experiment = experiments.load(EXPERIMENT)
    return shape._asdict() | {"ratings": RATERS * shape.clips, "hidden": experiment.base.hidden,
                              "shots": max(experiment.shots)}


def _row(name: str, method: Method, fits: list[tuple[measure.Time, int, NamedTuple]], answer: measure.Time) -> dict:
    time, model = measure.typical([time for time, _, _ in fits]), fits[-1][2]
    return {"method": name, "learnt_numbers": method.learnt_numbers(model),
            "listener_numbers": method.listener_numbers(model), "learn_seconds": time.seconds,
            "learn_cpu_seconds": time.cpu_seconds, "learn_memory_mib": max(memory for _, memory, _ in fits) / 2**20,
            "personalise_ms": 1000 * answer.seconds, "personalise_cpu_ms": 1000 * answer.cpu_seconds}


def make_problem(shape: Shape, experiment: Experiment) -> tuple[Task, Draws]:
    """Random features and ratings of the shape, cut into the first fold and group; the dev listeners' draws."""
    draw, g = seeds.rng(0, "bench cost"), seeds.generator(0, "bench cost")
    ratings = RATERS * shape.clips
    labels = torch.rand(ratings, shape.classes, generator=g) < 1.5 / shape.classes
    labels[torch.arange(ratings), torch.randint(shape.classes, (ratings,), generator=g)] = True
    data = Data(torch.randn(shape.clips, shape.layers, shape.width, generator=g), np.arange(shape.clips) % SESSIONS + 1,
                np.repeat(np.arange(shape.clips), RATERS),
                np.concatenate([draw.choice(shape.listeners, RATERS, replace=False) for _ in range(shape.clips)]),
                labels, *(tuple(map(str, range(count))) for count in (shape.listeners, shape.clips, shape.classes)),
                tuple(folds(range(1, SESSIONS + 1))))
    groups = listener_groups(data, experiment.groups, max(experiment.shots) + experiment.min_queries)
    part = split(data, 1, 0, groups, min(map(len, groups)) >= LEAST_DEV)
    dev = draws_by_listener(data, part.dev, experiment.shots, experiment.dev_draws, experiment.min_queries, 0,
                            "dev draws")
    if not dev:
        raise UserError(f"{shape.clips} clips are too few for {max(experiment.shots)} shots of a dev listener; "
                        "use a larger --size")
    return make_task(data, part, experiment.base, True), dev


def fit(method: Method, task: Task, start: Start, dev: Draws) -> NamedTuple:
    """The model of a method as `perser run` trains it; for SSL-E, the start that all others share is trained too."""
    start = start._replace(head=train(task, 0)) if method.is_start else start
    return method.fit(task, start, dev, 0)


def answering(method: Method, task: Task, model: NamedTuple, shots: int) -> Callable[[], object]:
    """A call from the shots of a test listener to the answer to one clip."""
    ratings = task.split.seen
    ratings = ratings[task.data.listener[ratings] == task.data.listener[ratings[0]]]
    return torch.no_grad()(lambda: method.answer_costliest(task, model, ratings, shots))
