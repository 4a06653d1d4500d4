"""Tables, report and claims: what is printed follows from the records, in every format."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from made_records import made_run

from perser import records
from perser.analysis import report, tables, wording
from perser.analysis.claims import claims, lines, of_run
from perser.errors import UserError

METHODS = {"ssl-e": (0,), "fine-tuning": (5, 20), "meta-perser": (5, 20)}


def made_records(synthetic="listeners", listeners=8, better=1):
    """Records whose methods hit more the later they come; `better` = -1 turns the order round."""
    rng, rows = np.random.default_rng(0), []
    for place, (method, ks) in enumerate(METHODS.items()):
        for shots in ks:
            for setting in ("seen", "unseen"):
                for number in range(listeners):
                    hit = 40 + better * (8 * place + shots // 5) + number % 3 + int(rng.integers(3))
                    rows.append(
                        {
                            "corpus": "toy_corpus",
                            "upstream": "logmel",
                            "synthetic": synthetic,
                            "experiment": "main",
                            "method": method,
                            "setting": setting,
                            "fold": 1,
                            "seed": 0,
                            "listener": f"E{number}",
                            "shots": shots,
                            "inner_steps": 5 if shots else 0,
                            "draws": 5,
                            "queries": 100,
                            "top": hit,
                            "tp_x": hit,
                            "tp_y": hit,
                            "fp_x": 100 - hit,
                            "fp_y": 5,
                            "fn_x": 0,
                            "fn_y": 95 - hit,
                        }
                    )
    return pd.DataFrame(rows)


@pytest.fixture
def run(tmp_path):
    place = tmp_path / "results" / "toy" / "logmel" / "main"
    place.mkdir(parents=True)
    records.write(made_records(), place / "records.parquet")
    records.write_json(made_run(made_records()).manifest, place / "manifest.json")
    return place


def test_rows_are_chance_then_ssl_e_once_then_every_k():
    cells = tables.score_table(made_run(made_records())).cells
    assert list(zip(cells["Method"], cells["K"])) == [
        ("Chance", "-"),
        ("SSL-E", "-"),
        ("Fine-tuning", "5"),
        ("Meta-PerSER", "5"),
        ("Fine-tuning", "20"),
        ("Meta-PerSER", "20"),
    ]
    assert (cells["Records"] == "16").all()


def test_numbers_are_the_means_over_listeners_in_points():
    frame = made_records()
    table = tables.score_table(made_run(frame))
    rows = frame[(frame["method"] == "meta-perser") & (frame["shots"] == 20) & (frame["setting"] == "seen")]
    x = 2 * rows["tp_x"] / (2 * rows["tp_x"] + rows["fp_x"])
    y = 2 * rows["tp_y"] / (2 * rows["tp_y"] + 5 + rows["fn_y"])
    row = table.numbers.iloc[-1]
    assert row["seen"] == pytest.approx(100 * ((x + y) / 2).mean())
    assert row["seen_low"] < row["seen"] < row["seen_high"]
    assert row["gain_seen"] == pytest.approx(row["seen"] - table.numbers.loc[1, "seen"])
    assert table.cells.iloc[-1]["Seen"].startswith(f"{row['seen']:.1f} [")


def test_accuracy_is_the_share_of_clips_whose_first_class_was_ticked():
    frame = made_records()
    table = tables.score_table(made_run(frame), score="accuracy")
    assert "Chance" not in set(table.cells["Method"]) and len(table.cells) == 5
    rows = frame[(frame["method"] == "meta-perser") & (frame["shots"] == 20) & (frame["setting"] == "seen")]
    row = table.numbers.iloc[-1]
    assert row["seen"] == pytest.approx(100 * (rows["top"] / rows["queries"]).mean())
    assert row["gain_seen"] == pytest.approx(row["seen"] - table.numbers.loc[0, "seen"])
    caption = tables.score_caption(made_run(frame), score="accuracy")
    assert "Accuracy (share of clips" in caption and "Macro F1" not in caption and "Chance" not in caption


def test_best_of_each_k_is_bold_and_printed_ties_are_both():
    cells = pd.DataFrame(
        {"K": ["-", "5", "5", "5", "20"], "Seen": ["99.0", "31.2 [1.0, 2.0]", "31.2 [0.0, 9.0]", "30.0", "-"]}
    )
    bold = tables.build(cells, cells, bold=("Seen",)).bold
    assert bold["Seen"].tolist() == [False, True, True, False, False] and not bold["K"].any()


def test_bold_marks_the_mean_alone_in_markdown_and_latex():
    table = tables.score_table(made_run(made_records()))
    assert re.search(r"Meta-PerSER +\| 20 +\| \*\*\d+\.\d\*\* \[", tables.markdown(table, "caption"))
    assert re.search(r"Meta-PerSER & 20 & \\textbf\{\d+\.\d\} \[", tables.latex(table, "caption"))


def test_latex_is_booktabs_and_escaped():
    frame = made_records().replace({"method": {"meta-perser": "50%_{of}&$#~^\\"}})
    text = tables.latex(tables.score_table(made_run(frame)), tables.score_caption(made_run(frame)))
    assert r"50\%\_\{of\}\&\$\#\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    assert r"toy\_corpus" in text and r"95 \%" in text and r"\toprule" in text and r"\bottomrule" in text
    assert not re.search(r"(?<!\\)[%#$_](?![-$])", text.replace("$-$", ""))


def test_markdown_keeps_a_pipe_in_its_cell():
    frame = made_records().replace({"method": {"meta-perser": "a|b"}})
    assert r"a\|b" in tables.markdown(tables.score_table(made_run(frame)), "caption")


@pytest.mark.parametrize("synthetic", ["", "listeners", "speech and listeners"])
def test_caption_is_stamped_when_and_only_when_data_is_made_up(synthetic):
    frame = made_records(synthetic)
    caption = tables.score_caption(made_run(frame))
    assert ("ynthetic" in caption) == bool(synthetic)
    assert f"Synthetic {synthetic}." in caption or not synthetic


def test_caption_counts_what_the_records_hold():
    caption = tables.score_caption(made_run(made_records()))
    for part in (
        "toy_corpus",
        "logmel",
        "8 listeners",
        "1 fold,",
        "1 seed,",
        "5 draws",
        "95 %",
        "0123456789,",
        "Some CPU, 2 cores",
        "With so few listeners",
    ):
        assert part in caption
    assert "uncommitted" in tables.score_caption(made_run(made_records(), dirty=True))
    assert "One seed" in caption
    more = pd.concat([made_records(), made_records().assign(seed=1)])
    assert "One seed" not in tables.score_caption(made_run(more))
    assert "over listeners and seeds" in tables.score_caption(made_run(more))
    assert "so few" not in tables.score_caption(made_run(made_records(listeners=12)))


def test_captions_tell_unequal_listeners_apart():
    frame = made_records()
    frame = frame[(frame["setting"] == "seen") | (frame["listener"] != "E0")]
    assert wording.listeners(frame) == "listeners: 8 seen, 7 unseen"


def test_csv_has_every_digit(tmp_path):
    table = tables.score_table(made_run(made_records()))
    _, _, csv = tables.write(table, "caption", tmp_path / "main")
    pd.testing.assert_frame_equal(pd.read_csv(csv), table.numbers, check_exact=True)


def test_records_of_two_runs_are_refused():
    both = pd.concat([made_records(), made_records().assign(upstream="wavlm")])
    with pytest.raises(UserError, match=r"2 values of upstream \(logmel, wavlm\)"):
        tables.score_table(made_run(both))


def test_report_writes_the_same_bytes_twice(run, tmp_path):
    once, again = (report.report(run, tmp_path / name) for name in ("one", "two"))
    place = tmp_path / "one" / "toy_corpus" / "logmel" / "main"
    assert sorted(place.iterdir()) == sorted(once)
    tables, figures = ("comparisons", "main", "main-accuracy"), ("gains", "shots", "shots-gained")
    assert {path.name for path in once} == {f"{name}.{end}" for name in tables for end in ("md", "tex", "csv")} | {
        f"{name}.{end}" for name in figures for end in ("pdf", "png")}
    for one, two in zip(once, again):
        assert one.read_bytes() == two.read_bytes()


def test_report_of_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no records there"):
        report.report(tmp_path, tmp_path / "out")


def test_claims_hold_only_when_the_interval_is_above_zero(run):
    results = {claim["claim"]: claim for claim in claims(run.parents[2])}
    sentence = (
        "toy_corpus (logmel, main, synthetic listeners): "
        "Meta-PerSER with 20 shots is better than Fine-tuning, {} clips"
    )
    for setting in ("seen", "unseen"):
        claim = results[sentence.format(setting)]
        assert 0 < claim["low"] < claim["value"] < claim["high"]
        assert claim["verdict"] == ("holds" if claim["p_holm"] <= 0.05 else "uncorrected")
        assert claim["records"] == str(run) and claim["synthetic"] == "listeners" and claim["listeners"] == 8
    assert json.loads(json.dumps(list(results.values())))


def test_claims_that_fail_are_reported_the_same_way(run):
    good, bad = of_run(made_run(made_records()), run), of_run(made_run(made_records(better=-1)), run)
    assert [claim.keys() for claim in bad] == [claim.keys() for claim in good]
    assert all(re.match(r"(holds|uncorrected|fails) +[+-]\d", line) for line in lines(good + bad))
    ahead = [claim for claim in bad if "better than Fine-tuning" in claim["claim"]]
    assert ahead and all(claim["verdict"] == "fails" and claim["high"] < 0 for claim in ahead)


def test_with_six_listeners_no_claim_holds_after_correction(run):
    """Of 64 assignments of signs two are as extreme as all six ahead: p is 1/32, and a quarter with eight claims."""
    frame = made_records()
    few = frame[frame["listener"].isin(sorted(frame["listener"].unique())[:6])]
    results = of_run(made_run(few), run)
    assert {claim["verdict"] for claim in results} <= {"uncorrected", "fails"}
    assert all(claim["p_holm"] > 0.05 for claim in results)
    above = [claim for claim in results if claim["low"] > 0 and claim["value"] >= claim["bar"]]
    assert above and all(claim["verdict"] == "uncorrected" for claim in above)


def test_claims_equal_the_tables_gains(run):
    numbers = tables.score_table(made_run(made_records())).numbers.iloc[-1]
    claim = next(
        c
        for c in of_run(made_run(made_records()), run)
        if "Meta-PerSER with 20 shots is better than SSL-E, seen" in c["claim"]
    )
    assert (claim["value"], claim["low"], claim["high"]) == pytest.approx(
        tuple(numbers[["gain_seen", "gain_seen_low", "gain_seen_high"]])
    )


def test_claims_without_a_run_say_so(tmp_path):
    with pytest.raises(UserError, match="no CORPUS/UPSTREAM/EXPERIMENT"):
        claims(tmp_path)
