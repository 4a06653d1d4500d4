"""Phase-2 runs that are killed: whatever the moment, `resume` makes the same records and asks nothing twice."""

import multiprocessing
import signal
import time

import numpy as np
import pandas as pd
import pytest
from made_phase2 import INSPECT, choice_task, predictions, source

from perser.phase2 import aggregate, models, runner, tasks

pytestmark = INSPECT
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["perser.phase2.runner", "perser.phase2.models"])
MODELS, SETS, ROWS, DELAY, IN_FLIGHT = ("majority", "random", "replay"), ("X", "Y", "Z"), 12, 0.02, 4


def run(root, out, names, resume, delay, asked):
    """Evaluate models that wait before each answer and write down what they are asked; a process's entry point."""

    def slowly(provider):
        plain = provider.answers

        def answers(self, questions):
            with asked.open("a") as file:
                file.writelines(f"{q.instance}/{q.file}\n" for q in questions)
            time.sleep(delay * len(questions))
            return plain(self, questions)

        provider.answers = answers

    slowly(models.Control)
    slowly(models.Replay)
    loaded = tasks.load(root)[0]
    for name in names:
        runner.run(loaded, name, out, source=source(root), resume=resume, batch_size=2)


def started(*arguments):
    process = PROCESSES.Process(target=run, args=arguments)
    process.start()
    return process


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three data sets, and a prediction file for all of them."""
    root = tmp_path_factory.mktemp("tasks")
    for name in SETS:
        choice_task(root, ["a", "b", "c"] * (ROWS // 3), name)
    return root


def sorted_records(out):
    return aggregate.read(out).sort_values(["model", "instance", "sample"], ignore_index=True)


def test_a_complete_run_can_be_resumed_and_asks_nothing(root, tmp_path):
    for resume in (False, True):
        process = started(root, tmp_path / "o", ["majority"], resume, 0, tmp_path / f"asked{resume}")
        process.join(60)
        assert process.exitcode == 0
    assert not (tmp_path / "askedTrue").exists()
    assert len(aggregate.read(tmp_path / "o")) == len(SETS) * ROWS


def test_killed_at_ten_moments_a_resumed_run_has_the_records_of_a_whole_one(root, tmp_path):
    """Three models answer three data sets; SIGKILL falls before, between and within data sets, and between models."""
    file = predictions(tmp_path / "p.json", ["a"] * ROWS, ["b", "a", "c"] * (ROWS // 3))
    names = [name.replace("replay", f"replay/{file}") for name in MODELS]
    process = started(root, tmp_path / "whole", names, False, 0, tmp_path / "all")
    process.join(60)
    assert process.exitcode == 0
    questions, asked, kills, draw = len(names) * len(SETS) * ROWS, tmp_path / "asked", 0, np.random.default_rng(0)
    for moment in np.sort(draw.integers(1, questions - 2, 10)):
        process = started(root, tmp_path / "o", names, True, DELAY, asked)
        while process.is_alive() and (len(asked.read_text().split()) if asked.exists() else 0) < moment:
            time.sleep(0.002)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills == 10
    process = started(root, tmp_path / "o", names, True, 0, asked)
    process.join(60)
    assert process.exitcode == 0
    pd.testing.assert_frame_equal(sorted_records(tmp_path / "o"), sorted_records(tmp_path / "whole"))
    assert len(asked.read_text().split()) <= questions + IN_FLIGHT * kills
