"""What a Phase-2 run costs on top of its model: the embedded suite run with `oracle`, which answers at once."""

import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.measure import Turns
from perser.phase2 import runner, suite
from perser.phase2.tasks import load

ROWS = 33  # of each task


def overhead(turns: Turns, rows: int = ROWS) -> list[dict]:
    """One row: seconds of a run with one sample per task and with `rows`, and the milliseconds that a sample adds.

    They cover everything from the loaded tasks to the records: samples, logs, scores, predictions.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, cpu = str(suite.build(Path(folder) / "suite", rows=rows, progress=False)), torch.device("cpu")
        tasks = {limit: load(root, limit=limit)[0] for limit in (1, rows)}
        samples = {limit: sum(len(task.rows) for task in loaded) for limit, loaded in tasks.items()}

        def run(limit: int) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                runner.run(tasks[limit], "oracle", out,
                           source={"tasks": root, "data": None, "cache_dir": None, "limit": limit})

        times = measure.in_turns({limit: partial(run, limit) for limit in tasks}, cpu, turns._replace(least=0.0))
    few, many = times[1], times[rows]
    added = [measure.Time(*(1000 * (a - b) / (samples[rows] - samples[1]) for a, b in zip(more, less, strict=True)))
             for more, less in zip(many, few, strict=True)]
    return [{"tasks": len(tasks[1]), "few_samples": samples[1], "few_seconds": measure.typical(few).seconds,
             "samples": samples[rows], "seconds": measure.typical(many).seconds,
             "ms_per_sample": measure.typical(added).seconds, "ms_per_sample_least": min(added).seconds,
             "ms_per_sample_most": max(added).seconds, "cpu_ms_per_sample": measure.typical(added).cpu_seconds}]
