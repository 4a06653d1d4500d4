"""Phase-2 aggregation by hand: improvement, missing answers, exclusions, folds and clusters."""

import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from perser.errors import UserError
from perser.phase2 import aggregate, report, tasks

KNOWN = sorted(tasks.catalogue())[0]


def rows(model, instance, metric, labels, answers, *, domain="speech", clusters=None, outcome=None, scorer="strict",
         group=None, kind="classification"):
    count = len(labels)
    return pd.DataFrame({
        "model": model, "task": "T", "group": group or instance, "instance": instance, "domain": domain, "kind": kind,
        "metrics": metric, "commit": "local", "sample": [str(i) for i in range(count)],
        "cluster": clusters or [f"{instance}{i}" for i in range(count)], "scorer": scorer,
        "labels": [json.dumps([x]) for x in labels], "answer_read": [json.dumps(x) for x in answers],
        "outcome": outcome or ["none" if x is None else "answered" for x in answers], "correct": np.nan,
        "synthetic": ""})


def two(metric, model, reference, labels, kind="classification", instance="S"):
    return pd.concat([rows("m", instance, metric, labels, model, kind=kind),
                      rows("r", instance, metric, labels, reference, kind=kind)])


@pytest.mark.parametrize(("value", "reference", "higher", "expected"), [
    (0.6, 0.4, True, 0.5), (0.2, 0.4, True, -0.5), (10, 20, False, 0.5), (30, 20, False, -0.5), (0.1, -0.2, True, 1.5)])
def test_improvement_is_positive_when_better(value, reference, higher, expected):
    assert aggregate.improvement(value, reference, higher) == pytest.approx(expected)


def test_missing_answers_adjust_only_numbers_and_in_the_right_direction():
    labels, answers = ["1", "2", "3", "4"], [2.0, 3.0, None, None]
    frame = rows("m", "S", "MAE", labels, answers, kind="regression")
    every = np.arange(4)
    assert aggregate.read_cell(frame, "MAE").adjusted(every) == pytest.approx(1 / 0.5)
    assert aggregate.read_cell(frame, "LCC").adjusted(every) == pytest.approx(1 * 0.5)
    choice = rows("m", "S", "accuracy", ["a", "a"], [["a"], None])
    assert aggregate.read_cell(choice, "accuracy").adjusted(np.arange(2)) == 0.5
    assert math.isnan(aggregate.read_cell(rows("m", "S", "accuracy", ["a"], [None]), "accuracy").adjusted(np.arange(1)))


def test_domain_table_by_hand_with_the_published_exclusions():
    a, b = ["a"], ["b"]
    frame = pd.concat([
        two("accuracy", [a, a, a, b], [a, b, b, b], list("aaaa"), instance="Up"),        # 0.75 over 0.25: +2
        two("accuracy", [a, b, b, b], [a, a, b, b], list("aaaa"), instance="Down"),      # 0.25 over 0.5: -0.5
        two("accuracy", [a, a, a, a], [b, b, b, b], list("aaaa"), instance="Zero"),      # reference 0: out
        two("accuracy", [None] * 4, [a, b, b, b], list("aaaa"), instance="Silent"),      # no answer: out
        two("MAE", [1.0, 2.0], [2.0, 3.0], ["0", "1"], "regression", instance="Error"),  # 1 under 2: +0.5
    ])
    row = aggregate.domains(frame, "r", resamples=0).iloc[0]
    assert (row["model"], row["domain"], row["groups"], row["left_out"]) == ("m", "speech", 3, "Silent, Zero")
    assert row["mean"] == pytest.approx((2 - 0.5 + 0.5) / 3)
    assert row["median"] == pytest.approx(0.5)
    assert row["wins"] == pytest.approx(2 / 3)


def test_an_outlier_moves_the_mean_but_not_the_median_or_win_rate():
    frame = pd.concat([two("MAE", [1.0 + d], [2.0 + d], ["0"], "regression", instance=f"S{d}") for d in range(3)])
    worse = pd.concat([frame, two("MAE", [1000.0], [1.0], ["0"], "regression", instance="Out")])
    calm, wild = (aggregate.domains(f, "r", resamples=0).iloc[0] for f in (frame, worse))
    assert wild["mean"] < -200 < calm["mean"] and abs(wild["median"] - calm["median"]) < 0.2 and wild["wins"] == 0.75


def test_folds_have_equal_weight_and_are_counted():
    frame = pd.concat([rows("m", "S-Fold1", "accuracy", list("aa"), [["a"], ["a"]], group="S"),
                       rows("m", "S-Fold2", "accuracy", list("aaaa"), [["b"]] * 4, group="S")])
    row = aggregate.average_folds(aggregate.tasks(frame, resamples=0)).iloc[0]
    assert (row["group"], row["folds"], row["rows"], row["value"]) == ("S", 2, 6, 0.5)


def test_intervals_resample_files_not_rows():
    labels, answers = list("a" * 40), [["a"]] * 20 + [["b"]] * 20
    one = aggregate.tasks(rows("m", "S", "accuracy", labels, answers), resamples=300).iloc[0]
    files = [f"f{i // 10}" for i in range(40)]
    few = aggregate.tasks(rows("m", "S", "accuracy", labels, answers, clusters=files), resamples=300).iloc[0]
    assert one["high"] - one["low"] == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, abs=0.06)
    assert few["high"] - few["low"] > 2 * (one["high"] - one["low"])
    alone = aggregate.tasks(rows("m", "S", "accuracy", labels, answers, clusters=["f"] * 40), resamples=300).iloc[0]
    assert math.isnan(alone["low"])


def test_an_interval_depends_on_its_seed():
    frame = rows("m", "S", "accuracy", list("ab" * 10), [["a"]] * 20)
    bounds = [tuple(aggregate.tasks(frame, resamples=50, seed=seed)[["low", "high"]].iloc[0]) for seed in (0, 0, 1)]
    assert bounds[0] == bounds[1] != bounds[2]


def test_rows_without_a_verdict_are_left_out_and_counted():
    frame = rows("m", "S", "accuracy|F1", list("aaaa"), [None] * 4, scorer="g",
                 outcome=["answered", "answered", "failed", "unparseable"])
    frame["correct"] = [1.0, 0.0, 0.0, 0.0]
    table = aggregate.tasks(frame, resamples=0)
    assert table["metric"].tolist() == ["accuracy"]
    assert (table["value"].item(), table["ungraded"].item()) == (1 / 3, 0.25)
    both = pd.concat([frame, rows("m", "S", "accuracy|F1", list("aaaa"), [["a"]] * 4)])
    counts = aggregate.counts(both.assign(truncated=False, cut=False), {})
    assert counts[["answered", "ungraded", "unparseable", "verdicts"]].to_numpy().tolist() == [[4, 1, 1, 4]]
    assert "| 1 (25%) " in "\n".join(report._rows(counts, {}))


def test_two_scorers_agree_by_share_and_kappa():
    """Verdicts of a: 1 1 0 0, of b: 1 0 0 0; equal 3/4, by chance 1/2 1/4 + 1/2 3/4 = 1/2: kappa (3/4 - 1/2) / (1/2).

    The strict scorer reads a, a, b and nothing: 1 1 0 0, as a does."""
    frame = pd.concat([rows("m", "S", "accuracy", list("aaaa"), [["a"], ["a"], ["b"], None]), *(
        rows("m", "S", "accuracy", list("aaaa"), [None] * 4, scorer=name,
             outcome=["answered", "answered", "answered", "unparseable"]).assign(correct=values)
        for name, values in (("a", [1.0, 1, 0, 0]), ("b", [1.0, 0, 0, 0])))])
    table = aggregate.agreement(frame).set_index(["scorer", "other"])
    assert table["rows"].tolist() == [4] * 3
    assert table["agreement"].to_dict() == {("strict", "a"): 1, ("strict", "b"): 0.75, ("a", "b"): 0.75}
    assert table["kappa"].to_dict() == {("strict", "a"): 1, ("strict", "b"): 0.5, ("a", "b"): 0.5}
    same = aggregate.agreement(frame[frame["sample"] == "0"])
    assert same["agreement"].tolist() == [1, 1, 1] and same["kappa"].isna().all()
    numbers = pd.concat([rows("m", "N", "MAE", ["1", "2"], [1.0, None]),
                         rows("m", "N", "MAE", ["1", "2"], [1.0, 2.0], scorer="a")])
    assert aggregate.agreement(numbers)["agreement"].tolist() == [0.5]


def test_the_report_names_the_normaliser_and_leaves_the_records_alone(tmp_path):
    (tmp_path / "m").mkdir()
    rows("m", "S", "WER|BLEU", ["It's Dr. Who"], ["it is doctor who"], kind="sequence_generation").to_parquet(
        tmp_path / "m" / "records.parquet")
    (tmp_path / "m" / "manifest.json").write_text("{}")
    values = {}
    for name in ("plain", "raw", "upstream", "whisper", "plain"):
        report.write(tmp_path, normaliser=name)
        table = pd.read_csv(tmp_path / "tasks.csv").set_index("metric")["value"]
        values[table.index[0]] = table.iloc[0]
        assert table.index[1] == "BLEU"
    assert values == {"WER": pytest.approx(1), "WER-raw": pytest.approx(4 / 3), "WER-upstream": pytest.approx(1),
                      "WER-whisper": 0}
    assert pd.read_parquet(tmp_path / "records.parquet")["metrics"].tolist() == ["WER|BLEU"]


def test_skill_puts_every_metric_between_majority_and_perfect():
    frame = pd.concat([
        two("accuracy", [["a"], ["a"], ["b"]], [["a"], ["b"], ["b"]], list("aaa"), instance="A"),
        two("MAE", [1.0], [4.0], ["0"], "regression", instance="B")]).replace({"model": {"r": "majority"}})
    skill = aggregate.skill(aggregate.tasks(frame, resamples=0))
    assert skill["m"].tolist() == pytest.approx([(2 / 3 - 1 / 3) / (2 / 3), 0.75])
    assert (skill["majority"] == 0).all()
    silent = rows("m", "A", "accuracy", list("aaa"), [None] * 3)
    mute = pd.concat([frame[(frame["model"] == "majority")], silent])
    assert aggregate.skill(aggregate.tasks(mute, resamples=0))["m"].isna().all()
    figure = report.heat(skill, "synthetic")
    assert "synthetic" in figure.get_suptitle()
    with pytest.raises(UserError, match="--model majority"):
        aggregate.skill(aggregate.tasks(silent, resamples=0))


def test_the_tally_counts_intervals_without_zero_in_the_direction_of_the_metric():
    rows = [("m", True, 0.1, 0.3), ("m", False, 0.1, 0.3), ("m", True, -0.1, 0.3), ("m", True, np.nan, np.nan),
            ("n", False, -2.0, -1.0)]
    gaps = pd.DataFrame(rows, columns=["model", "higher", "low", "high"])
    assert aggregate.tally(gaps).to_dict("records") == [
        {"model": "m", "better": 1, "worse": 1, "neither": 2}, {"model": "n", "better": 1, "worse": 0, "neither": 0}]


def test_bold_is_the_best_model_that_knows_no_label_if_it_beats_the_majority():
    a, b = ["a"], ["b"]
    answers = {"majority": [a, b, b, b], "oracle": [a] * 4, "perser/x/one": [a, a, b, b], "perser/x/two": [a, b, b, b]}
    frame = pd.concat([rows(model, "S", "accuracy", list("aaaa"), answer) for model, answer in answers.items()]
                      + [rows("asr/three", "S", "accuracy", list("aaaa"), [None] * 4)]
                      + [rows("majority", "E", "MAE", ["1"], [2.0], kind="regression"),
                         rows("perser/x/one", "E", "MAE", ["1"], [3.0], kind="regression")])
    lines = report.side_by_side(aggregate.tasks(frame, resamples=0)).split("\n")
    head, choice, number = ([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:]))
    assert head[4:] == ["majority", "oracle", "perser<br>one", "perser<br>two"]  # three declined everything
    assert choice[4:] == ["0.250", "1.000", "**0.500**", "0.250"]
    assert number[4:] == ["1.000", "-", "2.000", "-"]  # an error above the majority's


def test_tables_and_figures_import_neither_models_nor_inspect():
    code = ("import sys; from perser.phase2 import aggregate, report; "
            "print({'torch', 'transformers', 'inspect_ai'} & {name.split('.')[0] for name in sys.modules})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_report_of_empty_records_has_empty_tables(tmp_path):
    (tmp_path / "m").mkdir()
    rows("m", "S", "accuracy", [], []).to_parquet(tmp_path / "m" / "records.parquet")
    assert "## Per task" in report.write(tmp_path)


@pytest.mark.parametrize("name", ["a|b", "<b>x</b>", "a\nb", "\x1b[31m"])
def test_names_in_the_report_are_sanitised(name):
    assert not set("|<>\n\x1b") & set(report.plain(name))


def test_the_radar_has_a_corner_per_domain_and_a_line_per_model():
    index = pd.MultiIndex.from_arrays([["speech", "speech", "music", "audio", "audio"], list("ABCDE")],
                                      names=["domain", "group"])
    skill = pd.DataFrame({"m": [0.2, 0.4, -3.0, -9e3, 0.5], "silent": [np.nan] * 5}, index=index)
    figure = report.radar(skill, "Synthetic speech")
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["audio", "music", "speech"]
    line = next(line for line in axes.get_lines() if line.get_label() == "m")
    np.testing.assert_allclose(line.get_ydata(), [-0.25, -1.0, 0.3, -0.25])  # tasks cut at -1, and closed
    assert {"-3.00", "< -10"} <= {text.get_text() for text in report.heat(skill).axes[0].texts}


def test_first_phase_data_sets_have_the_official_dimension():
    official = [row["instance"] for row in tasks.catalogue().values() if tasks.dimension(row["instance"])]
    assert len(official) == 55 and {tasks.dimension(name) for name in official} == {
        "content", "speaker", "semantics", "degradation", "paralinguistics", "audio"}
    assert tasks.dimension("HowFarAreYou_3DSpeaker") == "paralinguistics" and tasks.dimension("SuperbER_X") == ""


def test_a_domain_of_the_catalogue_is_marked_as_inferred(tmp_path):
    frame = pd.concat([rows("m", name, "accuracy", list("ab"), [["a"], ["b"]]) for name in (KNOWN, "Mine")])
    (tmp_path / "m").mkdir()
    frame.to_parquet(tmp_path / "m" / "records.parquet")
    report.write(tmp_path)
    table = pd.read_csv(tmp_path / "tasks.csv").set_index("instance")
    assert table["domain"].to_dict() == {KNOWN: "speech (inferred)", "Mine": "speech"}
