"""Units of an experiment per minute against workers: processes of this machine, and nodes of a Ray cluster on it."""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

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

    Workers are started anew in every round, as by a command; with one, the command itself computes, as on one machine.
    start_seconds: until the workers have loaded the library, as a share of which nothing is computed. lost_share: of
    the time after that, times workers, what exceeds the time of one worker: units that are slower beside others, and
    workers that are idle in the end.
    """
    experiment = experiment or _experiment()
    rows, alone = [], None
    for backend, count in [("loky", count) for count in workers_] + [("ray", count) for count in workers_ if count > 1]:
        if backend == "ray" and not importlib.util.find_spec("ray"):
            continue
        with _connected(backend, count):
            rounds = [_timed(shape, experiment, count) for _ in range(turns.rounds)]
        start, seconds, units = *map(median, list(zip(*rounds))[:2]), rounds[0][2]
        alone = alone or seconds - start
        rows.append({"implementation": backend, "workers": count, "nodes": count if backend == "ray" else 1,
                     "units": units, "seconds": seconds, "start_seconds": start,
                     "units_per_minute": 60 * units / seconds, "times_one_worker": rows[0]["seconds"] / seconds
                     if rows else 1.0, "lost_share": max(0.0, 1 - alone / (count * (seconds - start)))})
    return rows + arithmetic(turns, clips, listeners)


def arithmetic(turns: Turns, clips: int, listeners: int) -> list[dict]:
    """What HOURS of audio and LISTENERS take, from the processor time of one clip and one listener, as measured here.

    count: of clips of the mean length, or listeners. cores_for_a_week: without any loss. terabytes: of features, or of
    the numbers of a head. Assumes WavLM-base's shape and clips as in `features`, and 20 shots in one batch as in
    `adapt`; every core as fast as one here, and time that grows with the audio and with the listeners.
    """
    device = torch.device("cpu")
    audio = extraction.features(device, turns, clips)[1]
    personal = adapt.adapt(device, turns, listeners)[0]
    layers, width, hidden, classes, _ = adapt.SIZE
    head = layers + (width + 1) * hidden + (hidden + 1) * classes
    one = {"clips": (audio["cpu_seconds"] / audio["clips"], layers * width),
           "listeners": (personal["cpu_ms_per_listener"] / 1000, head)}
    counts = {"clips": HOURS * 3600 * audio["clips"] / audio["audio_seconds"], "listeners": LISTENERS}
    names = {"clips": f"{HOURS:,} hours of audio", "listeners": f"{LISTENERS:,} listeners"}
    return [{"implementation": names[what], "what": what, "count": counts[what], "cpu_seconds_of_one": seconds,
             "cpu_hours": (hours := counts[what] * seconds / 3600), "cores_for_a_week": hours / WEEK,
             "terabytes": counts[what] * 4 * numbers / 1e12} for what, (seconds, numbers) in one.items()]


def _experiment() -> Experiment:
    main = experiments.load(experiments.OWN / "methods.toml")
    return main.model_copy(update={"name": "distributed", "seeds": (0,), "draws": 2, "dev_draws": 2,
                                   "folds": (1, 2), "references": (),
                                   "methods": {name: main.methods[name] for name in METHODS}})


def _timed(shape: Shape, experiment: Experiment, count: int) -> tuple[float, float, int]:
    """Seconds until workers have started, seconds of all units in a new folder with that, and how many they are."""
    get_reusable_executor().shutdown()  # else loky's workers of the last round would go on
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(experiment, _corpus(shape), SimpleNamespace(name="random", identity="random", standardise=True,
                                                                random=True),
                    _features(shape), "none", Path(folder) / "run")
        cpu = torch.device("cpu")
        start = measure.once(lambda: Parallel(count, batch_size=1)(delayed(_loaded)() for _ in range(count)), cpu)
        get_reusable_executor().shutdown()
        return start.seconds, measure.once(lambda: workers.fill(plan, count), cpu).seconds, len(plan.units)


def _loaded() -> None:
    """Nothing to do in a worker but to load this module, and the library with it."""


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
    """A Ray cluster of so many nodes of one worker, while the block lasts; nothing for loky."""
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
        for node in range(count):
            nodes.add_node(num_cpus=1, object_store_memory=100 << 20, **({} if node else {"include_dashboard": False}))
        with cluster.on("ray", nodes.address, count):
            yield
    finally:
        ray.shutdown()
        nodes.shutdown()
