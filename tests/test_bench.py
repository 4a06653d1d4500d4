"""The benchmarks at toy size: what is timed agrees with its reference, and the JSON holds what it says it holds."""

import json

import numpy as np
import pytest
import torch

from perser import bench, cli, config
from perser.bench import cost, extraction, measure, meta, scale
from perser.bench.measure import Time, Turns
from perser.bench.meta import Shape, Size
from perser.errors import UserError

ONCE = Turns(1, 0.0)
CPU = torch.device("cpu")
TINY = Size(layers=2, width=8, hidden=6, classes=3, steps=2)


def test_turns_are_paired_and_ratios_are_medians_of_the_rounds_own():
    calls = []
    times = measure.paired({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU, Turns(2, 0.0))
    assert calls == ["a", "b"] * 3, "a round to fill the caches, then two that count, in turn"
    assert [len(each) for each in times.values()] == [2, 2]
    slow, fast = [Time(6.0, 2.0), Time(8.0, 4.0), Time(1.0, 1.0)], [Time(2.0, 1.0), Time(2.0, 1.0), Time(1.0, 1.0)]
    assert measure.ratio(slow, fast) == Time(3.0, 2.0)
    assert measure.typical(slow) == Time(6.0, 2.0)


def test_the_peak_of_memory_counts_what_was_given_back():
    with measure.peak(CPU) as risen:
        torch.ones(1 << 23).sum()
        assert 30 << 20 < risen() < 64 << 20, "32 MiB were in use"


@pytest.mark.reference
@pytest.mark.parametrize("distinct", [False, True])
def test_the_timed_step_has_the_loss_and_gradients_of_learn2learn(distinct):
    given = meta.problem(TINY, Shape(3, 4, 5), 30, distinct, CPU)
    (loss, mine), (expected, theirs) = meta.engine(given)(), meta.learn2learn(given)()
    assert loss == pytest.approx(expected, abs=1e-6)
    assert measure.furthest(mine, theirs) < 1e-5
    assert len(np.unique(given.data.clip)) == (27 if distinct else len(set(given.data.clip)))
    assert all(gradient.any() for gradient in mine), "each of the five tensors and the rates is reached"


@pytest.mark.reference
def test_meta_states_ratios_differences_and_floors():
    rows = meta.meta(CPU, ONCE, (Shape(2, 3, 4),), TINY, clips=30, side=64)
    assert [row["unique_clips"] == 14 for row in rows][1], "2 episodes of 7 clips of their own"
    for row in rows:
        assert {"engine_ms", "half_ms", "learn2learn_ms", "engine_times_faster", "half_times_faster",
                "arithmetic_floor_ms", "memory_floor_ms", "times_arithmetic_floor"} <= set(row)
        assert row["engine_gradient_difference"] < 1e-5 and row["engine_loss_difference"] < 1e-6
        assert 0 < row["half_gradient_difference_to_engine"] < 0.05
    for name in ("half_gradient_difference_to_engine", "engine_ms"):
        assert len({row[name] for row in rows}) == len(rows), "each row has what its own calls gave"
    # Two operations a product, once forward and twice backward: clips x D x H in the first layer; per pair of a
    # clip and a support clip D + H, of a clip and a class H.
    flops = 3 * 2 * (14 * 8 * 6 + 2 * 7 * (3 * 8 + (3 + 3) * 6))
    assert rows[1]["arithmetic_floor_ms"] * rows[1]["peak_gflops"] == pytest.approx(flops / 1e6)
    assert rows[1]["memory_floor_ms"] * rows[1]["bandwidth_gb_s"] == pytest.approx(2 * 4 * 14 * 2 * 8 / 1e6)


@pytest.mark.reference
def test_every_way_to_personalise_gives_the_same_weights():
    rows = meta.adapt(CPU, ONCE, listeners=4, shots=3, size=TINY, clips=20)
    assert [row["way"] for row in rows] == ["one batch", "one by one", "learn2learn"]
    for row in rows:
        assert row["weights_difference"] < 1e-5
        assert row["ms_per_listener"] == pytest.approx(1000 * row["seconds"] / row["listeners"])


def test_features_of_both_ways_agree():
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
             "conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [80, 4], "num_conv_pos_embeddings": 4,
             "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2}
    plain, ours = extraction.features(CPU, ONCE, clips=3, config=small, seconds=(0.2, 0.4), side=64)
    assert ours["way"] == "perser" and ours["features_difference"] < 1e-4
    assert plain["audio_seconds"] == ours["audio_seconds"] > 0.5
    assert {"peak_memory_mib", "product_peak_share", "audio_per_second", "cpu_seconds"} <= set(ours)


def test_scale_has_a_row_for_each_number_of_listeners():
    rows = scale.scale(CPU, ONCE, (5, 50), clips=100, size=TINY, episodes=2, shots=3, query=4)
    assert [row["listeners"] for row in rows] == [5, 50]
    assert [row["ratings"] for row in rows] == [250, 2500]
    for row in rows:
        assert {"setup_seconds", "draw_ms", "step_ms", "step_memory_mib"} <= set(row)
        assert row["step_ms_to_first"] == pytest.approx(row["step_ms"] / rows[0]["step_ms"])


BRIEF = {"kind": "maml", "inner_steps": 2, "rates": [0.1], "epochs": 1, "steps": 1, "episodes": 2, "query": 3}
METHODS = {
    "ssl-e": {"kind": "aggregated"},
    "last-layer": {"kind": "finetune", "adapts": [["A", "a"]], "steps": [1, 2]},
    "fine-tuning": {"kind": "finetune", "adapts": [["a"], ["P", "b", "A", "a"]], "steps": [1]},
    "scratch": {"kind": "finetune", "start": "scratch", "steps": [1]},
    "prior-shift": {"kind": "prior-shift"},
    "prototypes": {"kind": "prototypes"},
    "nearest-listener": {"kind": "nearest-listener", "ratings": 4, "rates": [0.1, 0.2], "steps": 1},
    "listener-embedding": {"kind": "listener-embedding", "size": 2, "epochs": 1, "rates": [0.1], "steps": [1]},
    "all-data": {"kind": "all-data", "rates": [0.1], "steps": 1},
    "maml": BRIEF,
    "meta-sgd": BRIEF | {"element_rates": True},
    "meta-perser": BRIEF | {"lslr": True},
    "with-prior": BRIEF | {"lslr": True, "prior": 0.5},
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
    "all-data": (77, 75),
    "maml": (77, 75),
    "meta-sgd": (77 + 75, 75),
    "meta-perser": (77 + 2 * 4, 75),
    "with-prior": (77 + 2 * 4 + 2, 75),
}


def test_cost_counts_numbers_as_on_paper_and_times_every_method():
    experiment = config.Experiment.model_validate({
        "name": "tiny", "shots": [2, 3], "groups": 3, "dev_draws": 1, "min_queries": 2,
        "base": {"hidden": 6, "epochs": 1}, "methods": METHODS})
    rows = cost.cost(CPU, ONCE, cost.Shape(clips=80, listeners=6, layers=2, width=8, classes=3), experiment)
    assert {row["method"]: (row["learnt_numbers"], row["listener_numbers"]) for row in rows} == PAPER
    for row in rows:
        assert row["learn_seconds"] > 0 and row["personalise_ms"] > 0 and row["learn_memory_mib"] >= 0
    text = bench.table({"benchmark": "cost", "about": "", "rows": rows, "conditions": measure.conditions(CPU)})
    assert len(text.splitlines()) == 2 + 2 + len(METHODS), "a line per method"


def test_what_runs_on_the_processor_alone_is_not_sent_to_an_accelerator(monkeypatch, tmp_path):
    """As on a machine with one: without a --device these benchmarks take the processor."""
    stages = tmp_path / "stages.csv"
    stages.write_text("stage,seconds,outcome\nset-up,3,passed\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bench.run("e2e", stages=stages)["conditions"]["device"] == "cpu"
    assert set(bench.ON_CPU) < set(bench.ABOUT)


def test_cost_states_its_shape_and_refuses_what_it_cannot_measure():
    told = cost.about()
    assert told["ratings"] == 3 * told["clips"] and {"layers", "width", "hidden", "classes", "shots"} <= set(told)
    with pytest.raises(UserError, match="--device cpu"):
        cost.cost(torch.device("meta"), ONCE)
    with pytest.raises(UserError, match="larger --size"):
        cost.cost(CPU, ONCE, cost.SHAPE._replace(clips=100))


def test_stages_are_read_and_written_with_where_they_were_timed(tmp_path):
    stages = tmp_path / "stages.csv"
    stages.write_text("stage,seconds,outcome\nembedded corpus,61,passed\n")
    threads = torch.get_num_threads()
    result = bench.run("e2e", "cpu", threads=2, stages=stages)
    assert torch.get_num_threads() == threads
    assert result["rows"] == [{"stage": "embedded corpus", "seconds": 61, "outcome": "passed"}]
    assert result["conditions"]["threads"] == 2
    assert bench.default_path(result).as_posix() == "benchmarks/cpu-e2e.json"
    bench.write(result | {"rows": [{"seconds": 1.23456789}]}, tmp_path / "deep" / "a.json")
    kept = json.loads((tmp_path / "deep" / "a.json").read_text())
    assert kept["rows"] == [{"seconds": 1.23457}]
    assert {"cpu", "cores", "python", "packages", "commit", "device", "threads"} <= set(kept["conditions"])
    text = bench.table(result)
    assert "embedded corpus" in text and "2 threads" in text


def test_wrong_use_is_answered_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, code, words in ((["e2e", "--device", "cpu"], 1, "reproduce.sh"),
                                   (["--out", "a.json"], 2, "name the benchmark")):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["bench", *arguments])
        said = capsys.readouterr().err
        assert stopped.value.code == code and words in said and said.count("\n") == 1
