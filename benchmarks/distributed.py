"""Units of an experiment per minute against workers, on this machine and on a Ray cluster of one node beside it."""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from benchmarks import adapt, extraction, measure
from benchmarks.cost import SHAPE, Shape
from benchmarks.measure import Turns
from perser import cluster, seeds, workers
from perser import experiment as experiments
from perser.corpora import Corpus
from perser.experiment import Experiment
from perser.plan import Plan

WORKERS = (1, 2)
FOLDS, GROUPS, RATERS = 5, 6, 3
METHODS = ("ssl-e", "fine-tuning", "meta-perser")
HOURS, LISTENERS = 1_000_000, 10_000_000  # of the arithmetic
WEEK = 7 * 24  # hours


def distributed(turns: Turns, shape: Shape = SHAPE, workers_: tuple[int, ...] = WORKERS,
                experiment: Experiment | None = None, clips: int = 64, listeners: int = 1000) -> list[dict]:
    """A row per backend and number of workers, then two with the arithmetic.

    overhead_share: of the workers' time, what is not the time that one process needs for the same units: start-up of
    workers, idle ends, contention for memory. With one worker a backend works in the calling process.
    """
    experiment = experiment or _experiment()
    rows, alone = [], None
    for backend, count in [("loky", count) for count in workers_] + [("ray", count) for count in workers_ if count > 1]:
        if backend == "ray" and not importlib.util.find_spec("ray"):
            continue
        with _connected(backend, count):
            times, units = zip(*(_timed(shape, experiment, count) for _ in range(turns.rounds)))
        seconds = measure.typical(list(times)).seconds
        alone = alone or seconds * count
        rows.append({"implementation": backend, "workers": count, "units": units[0], "seconds": seconds,
                     "units_per_minute": 60 * units[0] / seconds, "times_one_worker": alone / seconds,
                     "overhead_share": max(0.0, 1 - alone / (count * seconds))})
    return rows + arithmetic(turns, clips, listeners)


def arithmetic(turns: Turns, clips: int, listeners: int) -> list[dict]:
    """Processor hours of HOURS of audio and of LISTENERS, and the cores that do them in a week without overhead.

    Assumes WavLM-base's shape and clips as in `features`, and 20 shots in one batch as in `adapt`; every core as fast
    as one here, and time that grows with the audio and with the listeners.
    """
    device = torch.device("cpu")
    audio = extraction.features(device, turns, clips)[1]
    personal = adapt.adapt(device, turns, listeners)[0]
    per_clip, per_listener = audio["cpu_seconds"] / audio["clips"], personal["cpu_ms_per_listener"] / 1000
    amounts = {"audio": (HOURS, "hours", audio["cpu_seconds"] / audio["audio_seconds"] * HOURS, per_clip),
               "listeners": (LISTENERS, "listeners", per_listener * LISTENERS / 3600, per_listener)}
    return [{"implementation": f"{amount:,} {unit} of {what}" if what != unit else f"{amount:,} {unit}",
             "cpu_seconds_of_one": one, "cpu_hours": hours, "cores_for_a_week": hours / WEEK}
            for what, (amount, unit, hours, one) in amounts.items()]


def _experiment() -> Experiment:
    main = experiments.load(experiments.OWN / "methods.toml")
    return main.model_copy(update={"name": "distributed", "seeds": (0,), "draws": 2, "dev_draws": 2,
                                   "folds": (1, 2), "references": (),
                                   "methods": {name: main.methods[name] for name in METHODS}})


def _timed(shape: Shape, experiment: Experiment, count: int) -> tuple[measure.Time, int]:
    """Time of all units, in a new folder, and how many they are."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(experiment, _corpus(shape), SimpleNamespace(name="random", identity="random", standardise=True,
                                                                random=True),
                    _features(shape), "none", Path(folder) / "run")
        return measure.once(lambda: workers.fill(plan, count), torch.device("cpu")), len(plan.units)


def _features(shape: Shape) -> torch.Tensor:
    draw = seeds.rng(0, "bench distributed")
    return torch.from_numpy(draw.standard_normal((shape.clips, shape.layers, shape.width), np.float32))


def _corpus(shape: Shape) -> Corpus:
    """Random ratings: RATERS listeners rate each clip, one class each."""
    draw, names = seeds.rng(0, "bench ratings"), [f"c{number:05d}" for number in range(shape.clips)]
    classes = tuple(f"class{number}" for number in range(shape.classes))
    clips = pd.DataFrame({"path": names, "speaker": "s", "seconds": 1.0, "session": np.arange(shape.clips) % FOLDS + 1},
                         index=pd.Index(names, name="clip"))
    rows = [(name, f"L{listener}", *np.eye(shape.classes, dtype=bool)[draw.integers(shape.classes)])
            for name in names for listener in draw.choice(shape.listeners, RATERS, replace=False)]
    return Corpus("random", classes, clips, pd.DataFrame(rows, columns=["clip", "listener", *classes]), "random")


@contextmanager
def _connected(backend: str, count: int) -> Iterator[None]:
    """A Ray cluster of one node with so many workers, while the block lasts; nothing for loky."""
    if backend != "ray":
        yield
        return
    root = str(Path(__file__).parents[1])  # workers start elsewhere
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    try:
        nodes.add_node(num_cpus=count, object_store_memory=100 << 20, include_dashboard=False)
        with cluster.on("ray", nodes.address, count):
            yield
    finally:
        ray.shutdown()
        nodes.shutdown()
