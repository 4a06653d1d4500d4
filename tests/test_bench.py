"""The benchmarks at toy size: implementations agree, and the JSON holds what it claims to hold."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import benchmarks
from benchmarks import adapt, cost, distributed, extraction, gpu, measure, meta, outer_steps, scale
from benchmarks.measure import Time, Turns
from benchmarks.problem import Shape, Size, make_problem
from perser import cli
from perser.errors import UserError
from perser.experiment import Experiment

ONCE = Turns(1, 0.0)
CPU = torch.device("cpu")
TINY = Size(layers=2, width=8, hidden=6, classes=3, steps=2)


def test_calls_take_turns_and_a_ratio_is_the_median_of_those_within_rounds():
    calls = []
    times = measure.in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU, Turns(2, 0.0))
    assert calls == ["a", "b"] * 3, "a round to warm the caches, then two that count, in turn"
    assert [len(rounds) for rounds in times.values()] == [2, 2]
    slow, fast = [Time(6.0, 2.0), Time(8.0, 4.0), Time(1.0, 1.0)], [Time(2.0, 1.0), Time(2.0, 1.0), Time(1.0, 1.0)]
    assert measure.ratio(slow, fast) == Time(3.0, 2.0)
    assert measure.typical(slow) == Time(6.0, 2.0)


def test_the_peak_of_memory_counts_what_was_given_back():
    with measure.peak(CPU) as risen:
        torch.ones(1 << 23).sum()
        assert 30 << 20 < risen() < 64 << 20, "32 MiB were in use"


IMPLEMENTATIONS = [pytest.param("learn2learn", marks=pytest.mark.reference), "torch_func",
                   pytest.param("jax", marks=pytest.mark.skipif(not importlib.util.find_spec("jax"),
                                                                reason="the jax extra is not installed"))]


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_all_implementations_give_the_same_loss_and_gradients(name, distinct):
    problem = make_problem(TINY, Shape(3, 4, 5), 30, distinct, CPU)
    loss, gradients = outer_steps.engine(problem)()
    expected_loss, expected = getattr(outer_steps, name)(problem)()
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert measure.largest_difference(gradients, expected) < 1e-5
    assert len(np.unique(problem.data.clip)) == (27 if distinct else len(set(problem.data.clip)))
    assert all(gradient.any() for gradient in gradients), "all five tensors and the learning rates are reached"


def test_meta_states_ratios_differences_and_floors():
    rows = meta.meta(CPU, ONCE, (Shape(2, 3, 4),), TINY, clips=30, side=64)
    assert [row["unique_clips"] == 14 for row in rows][1], "2 episodes of 7 distinct clips"
    others = outer_steps.available(CPU).keys() - {"engine"}
    assert "torch_func" in others
    for row in rows:
        assert {"engine_ms", "arithmetic_floor_ms", "memory_floor_ms", "times_arithmetic_floor"} <= set(row)
        for name in others:
            than = "" if name == "learn2learn" else f"_than_{name}"
            assert row[f"engine_times_faster{than}"] == pytest.approx(row[f"{name}_ms"] / row["engine_ms"])
            assert row[f"gradient_difference_to_{name}"] < 1e-5 and row[f"loss_difference_to_{name}"] < 1e-6
    assert rows[0]["engine_ms"] != rows[1]["engine_ms"], "each row has the times of its calls"
    # Two operations a product, once forward and twice backward: clips x D x H in the first layer; per pair of a
    # clip and a support clip D + H, of a clip and a class H.
    flops = 3 * 2 * (14 * 8 * 6 + 2 * 7 * (3 * 8 + (3 + 3) * 6))
    assert rows[1]["arithmetic_floor_ms"] * rows[1]["peak_gflops"] == pytest.approx(flops / 1e6)
    assert rows[1]["memory_floor_ms"] * rows[1]["bandwidth_gb_s"] == pytest.approx(2 * 4 * 14 * 2 * 8 / 1e6)


def test_targets_name_every_shape():
    assert all(set(targets) == set(meta.SHAPES) for targets in meta.TARGETS.values())


@pytest.mark.reference
def test_all_implementations_personalise_to_the_same_weights():
    rows = adapt.adapt(CPU, ONCE, listeners=4, shots=3, size=TINY, clips=20)
    assert [row["implementation"] for row in rows] == ["one batch", "one by one", "learn2learn"]
    for row in rows:
        assert row["weights_difference"] < 1e-5
        assert row["ms_per_listener"] == pytest.approx(1000 * row["seconds"] / row["listeners"])


def test_features_of_both_implementations_agree():
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
             "conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [80, 4], "num_conv_pos_embeddings": 4,
             "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2}
    plain, ours = extraction.features(CPU, ONCE, clips=3, config=small, seconds=(0.2, 0.4), side=64)
    assert ours["implementation"] == "perser" and ours["features_difference"] < 1e-4
    assert plain["audio_seconds"] == ours["audio_seconds"] > 0.5
    assert {"peak_memory_mib", "product_peak_share", "audio_per_second", "cpu_seconds"} <= set(ours)


def test_scale_has_a_row_for_each_number_of_listeners():
    rows = scale.scale(CPU, ONCE, (5, 50), clips=100, size=TINY, shape=Shape(2, 3, 4))
    assert [row["listeners"] for row in rows] == [5, 50]
    assert [row["ratings"] for row in rows] == [250, 2500]
    for row in rows:
        assert {"setup_seconds", "draw_ms", "step_ms", "step_memory_mib"} <= set(row)
        assert row["step_ms_to_first"] == pytest.approx(row["step_ms"] / rows[0]["step_ms"])


BRIEF = {"kind": "maml", "inner_steps": 2, "inner_lr_grid": [0.1], "epochs": 1, "outer_steps_per_epoch": 1,
         "meta_batch_size": 2, "query": 3}
METHODS = {
    "ssl-e": {"kind": "ssl-e"},
    "last-layer": {"kind": "finetune", "adapts_grid": [["A", "a"]], "inner_steps_grid": [1, 2]},
    "fine-tuning": {"kind": "finetune", "adapts_grid": [["a"], ["P", "b", "A", "a"]], "inner_steps_grid": [1]},
    "scratch": {"kind": "finetune", "start": "scratch", "inner_steps_grid": [1]},
    "prior-shift": {"kind": "prior-shift"},
    "prototypes": {"kind": "prototypes"},
    "nearest-listener": {"kind": "nearest-listener", "ratings": 4, "inner_lr_grid": [0.1, 0.2], "inner_steps": 1},
    "listener-embedding": {"kind": "listener-embedding", "size": 2, "epochs": 1, "inner_lr_grid": [0.1],
                           "inner_steps_grid": [1]},
    "all-data": {"kind": "all-data", "adapts_grid": [["P", "b", "A", "a"]], "inner_lr_grid": [0.1],
                 "inner_steps_grid": [1], "factor_grid": []},
    "maml": BRIEF,
    "meta-sgd": BRIEF | {"per_weight_lr": True},
    "meta-perser": BRIEF | {"lslr": True},
    "by-shots": BRIEF | {"lslr": True, "lr_by_shots": True},
}
# Two layers, width 8, hidden 6, three classes: mix 2, P 48, b 6, A 18, a 3. Six listeners, two of them held out.
PAPER = {
    "ssl-e": (77, 0),
    "last-layer": (77, 21),
    "fine-tuning": (77, 75),
    "scratch": (0, 75),
    "prior-shift": (77, 3),
    "prototypes": (77 + 3 * 6 + 1, 18),
    "nearest-listener": (77 + 2 * 4 * (3 * 8 + 3), 4),
    "listener-embedding": (77 + 2 * 2 * 6 + 2, 2),
    "all-data": (77 + 12 * 12, 75),  # the prior covariance of three biases and three times three slopes
    "maml": (77, 75),
    "meta-sgd": (77 + 75, 75),
    "meta-perser": (77 + 2 * 4, 75),
    "by-shots": (77 + 2 * 4 + 1, 75),
}


def test_cost_counts_numbers_as_on_paper_and_times_every_method():
    experiment = Experiment.model_validate({
        "name": "tiny", "shots": [2, 3], "groups": 3, "dev_draws": 1, "min_queries": 2,
        "base": {"hidden": 6, "epochs": 1}, "methods": METHODS})
    rows = cost.cost(CPU, ONCE, cost.Shape(clips=80, listeners=6, layers=2, width=8, classes=3), experiment)
    assert {row["method"]: (row["learnt_numbers"], row["listener_numbers"]) for row in rows} == PAPER
    for row in rows:
        assert row["learn_seconds"] > 0 and row["personalise_ms"] > 0 and row["learn_memory_mib"] >= 0
    text = benchmarks.table({"benchmark": "cost", "about": "", "rows": rows, "conditions": measure.conditions(CPU)})
    assert len(text.splitlines()) == 2 + 2 + len(METHODS), "a line per method"


def test_distributed_counts_units_and_computes_the_arithmetic(monkeypatch):
    """On paper: 2 folds of 6 groups; hours, cores and bytes follow from one clip of 7.2 s and one listener.

    5e8 clips of 13 layers of 768 numbers; a head of 13 + 769 * 256 + 257 * 9 = 199,190 numbers, of 4 bytes.
    """
    monkeypatch.setattr(distributed.extraction, "features", lambda *_: [{}, {
        "cpu_seconds": 36.0, "clips": 10, "audio_seconds": 72.0}])  # half a second of work per second of audio
    monkeypatch.setattr(distributed.adapt, "adapt", lambda *_: [{"cpu_ms_per_listener": 3.6}])
    experiment = Experiment.model_validate({
        "name": "tiny", "shots": [2], "groups": 6, "draws": 1, "dev_draws": 1, "min_queries": 2, "seeds": [0],
        "folds": [1, 2], "base": {"hidden": 4, "epochs": 1}, "methods": {"ssl-e": {"kind": "ssl-e"}}})
    one, audio, listeners = distributed.distributed(ONCE, cost.Shape(200, 6, 1, 4, 3), (1,), experiment)
    assert one["units"] == 12 and one["units_per_minute"] == pytest.approx(60 * 12 / one["seconds"])
    assert one["lost_share"] == 0 and one["times_one_worker"] == 1 and one["start_seconds"] < one["seconds"]
    assert audio["cpu_seconds_of_one"] == 3.6 and audio["cpu_hours"] == pytest.approx(500_000)
    assert audio["cores_for_a_week"] == pytest.approx(500_000 / 168)
    assert listeners["cpu_hours"] == pytest.approx(10)
    assert audio["count"] == pytest.approx(5e8) and audio["terabytes"] == pytest.approx(5e8 * 13 * 768 * 4 / 1e12)
    assert listeners["count"] == 10_000_000 and listeners["terabytes"] == pytest.approx(7.9676)


def test_the_check_of_a_card_compares_loss_gradients_and_features(tmp_path, monkeypatch, capsys):
    """The processor against itself agrees to the last bit; a wrong gradient does not."""
    rows = gpu.check(CPU, TINY, clips=3)
    assert len(rows) == 3 and all(row["difference"] == 0 and row["agrees"] for row in rows)
    engine = outer_steps.engine
    monkeypatch.setattr(outer_steps, "engine", lambda problem: lambda: (engine(problem)()[0], [
        gradient + 0.1 * torch.rand(()) for gradient in engine(problem)()[1]]))
    assert [row["agrees"] for row in gpu.check(CPU, TINY, clips=3)] == [True, False, True]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    capsys.readouterr()  # bars of the models that were made
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--out", str(tmp_path / "a.json")])
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and "cuda" in error and error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_the_script_for_a_card_says_in_one_line_that_there_is_none(tmp_path):
    script = Path(benchmarks.__file__).with_name("gpu.sh")
    done = subprocess.run([script, tmp_path], capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 1 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr == ("gpu.sh: torch sees no CUDA card here (./reproduce.sh check has details), so nothing was "
                           "run\n")


def test_what_runs_on_the_processor_only_is_not_sent_to_an_accelerator(monkeypatch, tmp_path):
    """As on a machine that has one: without --device these benchmarks take the processor."""
    stages = tmp_path / "stages.csv"
    stages.write_text("stage,seconds,outcome\nset-up,3,passed\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert benchmarks.run("e2e", stages=stages)["conditions"]["device"] == "cpu"
    assert set(benchmarks.ON_CPU) < set(benchmarks.ABOUT)


def test_cost_states_its_shape_and_refuses_what_it_cannot_measure():
    about = cost.about()
    assert about["ratings"] == 3 * about["clips"] and {"layers", "width", "hidden", "classes", "shots"} <= set(about)
    with pytest.raises(UserError, match="--device cpu"):
        cost.cost(torch.device("meta"), ONCE)
    with pytest.raises(UserError, match="larger --size"):
        cost.cost(CPU, ONCE, cost.SHAPE._replace(clips=100))


def test_stages_are_read_and_written_with_where_they_were_timed(tmp_path):
    stages = tmp_path / "stages.csv"
    stages.write_text("stage,seconds,outcome\nembedded corpus,61,passed\n")
    threads = torch.get_num_threads()
    result = benchmarks.run("e2e", "cpu", threads=2, stages=stages)
    assert torch.get_num_threads() == threads
    assert result["rows"] == [{"stage": "embedded corpus", "seconds": 61, "outcome": "passed"}]
    assert result["conditions"]["threads"] == 2
    assert benchmarks.default_path(result).as_posix() == "benchmarks/cpu-e2e.json"
    benchmarks.write(result | {"rows": [{"seconds": 1.23456789}]}, tmp_path / "deep" / "a.json")
    kept = json.loads((tmp_path / "deep" / "a.json").read_text())
    assert kept["rows"] == [{"seconds": 1.23457}]
    assert {"cpu", "cores", "python", "packages", "commit", "device", "threads"} <= set(kept["conditions"])
    text = benchmarks.table(result)
    assert "embedded corpus" in text and "2 threads" in text


def test_wrong_use_is_answered_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, code, words in ((["e2e", "--device", "cpu"], 1, "reproduce.sh"),
                                   (["--out", "a.json"], 2, "name the benchmark")):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["bench", *arguments])
        error = capsys.readouterr().err
        assert stopped.value.code == code and words in error and error.count("\n") == 1


def test_the_command_takes_the_benchmarks_of_its_checkout_or_says_that_there_are_none(tmp_path, monkeypatch, capsys):
    root = Path(cli.__file__).parents[1]
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place).resolve() != root])
    assert cli.checkout_benchmarks() is benchmarks and sys.path[0] == str(root)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "perser" / "cli.py"))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", "e2e"])
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and "checkout" in error and error.count("\n") == 1
