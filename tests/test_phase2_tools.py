"""The scripts that turn corpora into Phase-2 task folders: RAVDESS as SuperbER_RAVDESS, and the listener task."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner
from made_phase2 import INSPECT, source

from perser import cli
from perser.phase2 import aggregate, runner, tasks

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
import listener_task  # noqa: E402 - tools/ is no package
import ravdess_phase2  # noqa: E402 - tools/ is no package

pytestmark = INSPECT


@pytest.fixture(scope="module")
def ravdess(tmp_path_factory):
    """Noise under RAVDESS's names: 24 actors speak every emotion twice; the folders also hold songs."""
    root, draw = tmp_path_factory.mktemp("ravdess"), np.random.default_rng(0)
    for actor in range(1, 25):
        folder = root / f"Actor_{actor:02d}"
        folder.mkdir()
        for emotion in range(1, 9):
            for take in (1, 2):
                name = f"03-01-{emotion:02d}-01-01-{take:02d}-{actor:02d}.wav"
                sf.write(folder / name, 0.1 * draw.standard_normal(400), 48000)
        sf.write(folder / f"03-02-01-01-01-01-{actor:02d}.wav", np.zeros(400), 48000)
    return root


def make(root, out, *more):
    return CliRunner().invoke(ravdess_phase2.main, ["--root", str(root), "--out", str(out), *more])


def test_ravdess_has_the_shape_of_superber_ravdess(ravdess, tmp_path):
    result = make(ravdess, tmp_path / "t")
    assert result.exit_code == 0, result.output
    loaded, problems = tasks.load(tmp_path / "t")
    assert problems == [] and [task.instance for task in loaded] == ["SuperbER_RAVDESS"]
    task = loaded[0]
    assert (task.kind, task.metrics, task.synthetic, task.task) == ("classification", ("accuracy",), "", "SuperbER")
    assert len(task.rows) == 240 and len({row.instruction for row in task.rows}) >= 12
    assert Counter(row.labels for row in task.rows) == {(name,): 30 for name in ravdess_phase2.EMOTIONS}
    assert all(row.instruction.endswith(
        "The answer could be neutral, calm, happy, sad, angry, fearful, disgust, or surprised.") for row in task.rows)
    assert {sf.info(row.audios[0]).samplerate for row in task.rows} == {16000}


def test_ravdess_clips_are_balanced_over_actors_and_drawn_from_the_seed(ravdess):
    clips = ravdess_phase2.choose_clips(ravdess, 0)
    for emotion in ravdess_phase2.EMOTIONS:
        names = [path.stem for path, label in clips if label == emotion]
        counts = Counter(name[-2:] for name in names)
        assert len(set(names)) == 30 and len(counts) == 24 and max(counts.values()) == 2
    assert ravdess_phase2.choose_clips(ravdess, 0) == clips != ravdess_phase2.choose_clips(ravdess, 1)
    assert all(path.stem.startswith("03-01") for path, _ in clips)


def test_ravdess_task_runs_and_scores(ravdess, tmp_path):
    make(ravdess, tmp_path / "t")
    loaded = tasks.load(tmp_path / "t")[0]
    for model in ("majority", "oracle"):
        runner.run(loaded, model, tmp_path / "o", source=source(tmp_path / "t"))
    table = aggregate.tasks(aggregate.read(tmp_path / "o"), resamples=0).set_index("model")
    assert table["value"].to_dict() == {"majority": 1 / 8, "oracle": 1.0}


def test_an_incomplete_ravdess_is_a_one_line_error(ravdess, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in ravdess.glob("Actor_0[12]/03-01-*"):
        (few / path.name).write_bytes(path.read_bytes())
    result = make(few, tmp_path / "t")
    assert result.exit_code == 1 and result.output.count("\n") == 1
    assert "4 clips of neutral; 30 are needed: unpack all 24 actors" in result.output


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """A table corpus: seven listeners rate 60 short tones of three sessions."""
    root, draw = tmp_path_factory.mktemp("rated"), np.random.default_rng(0)
    (root / "audio").mkdir()
    rows = [["clip", "listener", "label", "session", "speaker"]]
    for i in range(60):
        sf.write(root / "audio" / f"c{i}.wav", 0.3 * np.sin(np.arange(800) * (i + 5) / 100), 16000)
        rows += [[f"c{i}.wav", f"L{k}", str(draw.choice(["happy", "sad", "angry"])), i % 3 + 1, "s"] for k in range(7)]
    with (root / "ratings.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return root


def export(rated, out, *more):
    return CliRunner().invoke(listener_task.main, ["table", "--root", str(rated), "--out", str(out), "--at", "3",
                                                   "--rows", "40", *more])


FEW = ("--set", "groups=3", "--set", "shots=[3]")


def test_the_listener_task_of_any_corpus_is_exported_and_passes_the_review(rated, tmp_path):
    result = export(rated, tmp_path, *FEW)
    assert result.exit_code == 0, result.output
    folder = Path(result.output.splitlines()[0])
    assert folder.name == "ListenerEmotionRecognition_Table-Fold1" and len(result.output.splitlines()) == 1
    task = tasks.load(tmp_path)[0][0]
    assert len(task.rows) == 40 and {len(row.audios) for row in task.rows} == {4}
    assert json.loads((folder / "instance.json").read_text())["metrics"] == ["accuracy", "F1", "macro-F1"]


def test_a_listener_task_that_breaks_a_rule_exits_with_code_one(rated, tmp_path):
    few = export(rated, tmp_path / "few", *FEW, "--rows", "20")
    assert few.exit_code == 1 and "20 rows; at least 32" in few.output
    wrong = export(rated, tmp_path / "wrong", *FEW, "--at", "50")
    assert wrong.exit_code == 1 and wrong.output.count("\n") == 1


def test_a_listener_task_of_a_run_has_its_settings_and_corpus_options(rated, tmp_path):
    """A run with classes in an order of its own and four shots, which main.toml does not have."""
    (tmp_path / "x.toml").write_text("seeds = [0]\nshots = [4]\ndraws = 2\ngroups = 3\nmin_queries = 3\n"
                                     "[methods]\nssl-e = { kind = 'ssl-e' }\n")
    run = tmp_path / "out" / "x"
    with pytest.raises(SystemExit) as stop:
        cli.main.main(["run", str(tmp_path / "x.toml"), "--corpus", "table", "--root", str(rated), "--out", str(run),
                       "--option", "classes=sad,happy,angry", "--jobs", "1"])
    assert stop.value.code == 0
    result = export(rated, tmp_path / "tasks", "--run", str(run), "--at", "4")
    assert result.exit_code == 0, result.output
    [row, *_] = tasks.load(tmp_path / "tasks")[0][0].rows
    assert len(row.audios) == 5 and "sad, happy, or angry" in row.instruction


def test_the_results_tool_requires_an_existing_run():
    command = [sys.executable, str(TOOLS / "phase2_results.py"), "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "does not exist" in done.stderr
