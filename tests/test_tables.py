"""Tables, report and claims: what is printed follows from the records, in every format."""

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from made_records import SIMPLE, exchanged, made_run, made_study
from markdown_it import MarkdownIt

from perser import records
from perser.analysis import comparison, figures, report, tables, wording
from perser.analysis.claims import HARM, claims, lines, markdown, of_run
from perser.analysis.experiments import main
from perser.errors import UserError
from perser.scores import CONSTANT, SCORES

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


def test_rows_are_the_constant_then_ssl_e_then_every_k_of_each_setting():
    cells = tables.score_table(made_run(made_records())).cells
    rows = [(CONSTANT, "-"), ("SSL-E", "-"), ("Fine-tuning", "5"), ("Meta-PerSER", "5"), ("Fine-tuning", "20"),
            ("Meta-PerSER", "20")]
    assert list(zip(cells["Clips"], cells["Method"], cells["K"])) == [
        (setting, *row) for setting in ("seen", "unseen") for row in rows]
    assert set(cells) == {"Clips", "Method", "K", "Accuracy", "Gain, accuracy", "Personal part, accuracy", "Macro F1",
                          "Gain, macro F1", "Personal part, macro F1", "Worse"}
    assert (cells[["Personal part, accuracy", "Personal part, macro F1"]] == "-").all(axis=None)


def test_numbers_are_the_means_over_listeners_in_points():
    frame = made_records()
    table = tables.score_table(made_run(frame))
    rows = frame[(frame["method"] == "meta-perser") & (frame["shots"] == 20) & (frame["setting"] == "seen")]
    x = 2 * rows["tp_x"] / (2 * rows["tp_x"] + rows["fp_x"])
    y = 2 * rows["tp_y"] / (2 * rows["tp_y"] + 5 + rows["fn_y"])
    start, row = table.numbers.iloc[1], table.numbers.iloc[5]
    assert (row["method"], row["setting"], row["shots"]) == ("meta-perser", "seen", 20)
    assert row["level_f1"] == pytest.approx(100 * ((x + y) / 2).mean())
    assert row["level_accuracy"] == pytest.approx(100 * (rows["top"] / rows["queries"]).mean())
    assert row["level_low_f1"] < row["level_f1"] < row["level_high_f1"]
    assert row["gain_f1"] == pytest.approx(row["level_f1"] - start["level_f1"])
    assert table.cells["Macro F1"][5] == f"{row['level_f1']:.1f}"
    bounds = (row[f"gain{end}_accuracy"] for end in ("", "_low", "_high"))
    assert table.cells["Gain, accuracy"][5] == tables.interval_text(*bounds, "+")


def personal_run(lost=3, **levels):
    """Methods of known hits with somebody else's shots that give `lost` hits less; no noise."""
    frame = made_study({"ssl-e": 0, "fine-tuning": 1, "meta-perser": 6, **levels}, noise=0)
    return exchanged(made_run(frame), lost)


def test_gain_and_personal_part_are_paired_and_positive_where_better():
    """Level 6 and 20 / 5 shots are 10 hits of 100: 10 points of F1 and accuracy, 10 hundredths of log loss saved."""
    rows = comparison.rows(personal_run()).set_index(["method", "setting", "shots", "score"])
    for score in ("log_loss", "accuracy", "f1"):
        row = rows.loc[("meta-perser", "unseen", 20, score)]
        assert row[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx([10] * 3)
        assert row[["personal", "personal_low", "personal_high"]].tolist() == pytest.approx([3] * 3)
        assert (row["worse"], row["listeners"], row["records"], row["gain_p"]) == (0, 8, 16, 0)
        assert np.isnan(rows.loc[("ssl-e", "unseen", 0, score), ["gain", "personal"]].to_numpy(float)).all()
        assert rows.loc[("fine-tuning", "seen", 5, score), "gain"] == pytest.approx(2)
    assert rows.loc[("ssl-e", "seen", 0, "log_loss"), "level"] == pytest.approx(100 * (2 - 0.6 - (0.875 + 0.5) / 100))
    lost = comparison.rows(personal_run(lost=-2)).set_index(["method", "score"])["personal"].dropna()
    assert set(lost.round(9)) == {-2}
    worst = comparison.rows(personal_run(worst=-9)).query("method == 'worst'")
    assert worst["worse"].tolist() == [1.0] * 12


def test_every_score_stands_per_listener_and_pooled_with_somebody_elses_shots_below():
    table, caption = tables.levels_table(personal_run())
    cells = table.cells[(table.cells["Clips"] == "seen") & (table.cells["K"] == "20")]
    assert cells["Method"].tolist() == ["Fine-tuning", "Fine-tuning, somebody else's shots", "Meta-PerSER",
                                        "Meta-PerSER, somebody else's shots"]
    assert [name for name in cells if name in [score.title for score in SCORES.values()]] == [
        score.title for score in SCORES.values()]
    level = 60 + 6 + 4 + 0.875 + 0.5  # the level, the shots, the mean number of the listener and the seed
    own, other = cells.iloc[2], cells.iloc[3]
    assert own["Accuracy"] == own["Macro F1"] == f"{level:.1f} ({level:.1f})"
    assert other["Accuracy"] == f"{level - 3:.1f} ({level - 3:.1f})" and own["Calibration error"] == "10.0 (10.0)"
    assert own["Balanced accuracy"] == own["Accuracy"] and own["Records"] == "16"
    assert "in brackets pooled" in caption and "in brackets the" not in caption


def test_a_run_without_somebody_elses_shots_says_so():
    assert "Personal part: -, since" in tables.score_caption(made_run(made_records()))
    assert "Personal part: own shots minus somebody else's" in tables.score_caption(personal_run())
    assert "listeners whose accuracy is worse" in tables.score_caption(made_run(made_records()))
    assert "listeners whose log loss is worse" in tables.score_caption(personal_run())


def trained(run, rises):
    """The run with what meta-training leaves: kept epoch, first and largest dev loss of two splits of a method."""
    rows = [(method, fold, 0, 0, 0, -1, name, value) for method, folds in rises.items()
            for fold, (epoch, largest) in enumerate(folds, 1)
            for name, value in (("epoch", epoch), ("dev loss start", 2.0), ("dev loss largest", largest))]
    columns = ["method", "fold", "group", "seed", "shots", "step", "tensor", "value"]
    return run._replace(learnt=pd.DataFrame(rows, columns=columns))


def test_how_meta_training_went_is_in_table_and_caption():
    run = trained(personal_run(maml=2), {"meta-perser": ((0, 9.0), (3, 3.0)), "maml": ((1, 4.0), (2, 2.0))})
    cells = tables.score_table(run).cells.set_index(["Method", "Clips", "K"])
    assert cells.loc[("Meta-PerSER", "seen", "5"), ["Epoch 0", "Largest dev loss / start"]].tolist() == ["50%", "4.5"]
    assert cells.loc[("MAML", "unseen", "20"), ["Epoch 0", "Largest dev loss / start"]].tolist() == ["0%", "2"]
    assert set(cells.xs("Fine-tuning")["Epoch 0"]) == {"-"}
    sentence = "Dev loss above twice its start: Meta-PerSER in 1 split (up to 4.5 times, fold 1)."
    assert comparison.risen(run) == sentence and sentence in tables.score_caption(run)
    lost = trained(personal_run(), {"meta-perser": ((0, np.nan), (3, 8.1))})
    assert "Meta-PerSER in 2 splits (up to inf times, fold 1)" in comparison.risen(lost)
    quiet = trained(personal_run(), {"meta-perser": ((0, 4.0), (3, 2.0))})
    assert comparison.risen(quiet) == "" and "Epoch 0: share" in tables.score_caption(quiet)


def test_runs_that_do_not_say_how_meta_training_went_say_nothing():
    silent = personal_run()
    for run in (silent, trained(silent, {"meta-perser": ((0, 9.0),)})._replace(learnt=None)):
        assert comparison.risen(run) == "" and comparison.training(run).empty
        assert "Epoch 0" not in tables.score_table(run).cells and "Epoch 0" not in tables.score_caption(run)


def test_best_of_each_block_is_bold_and_printed_ties_are_both():
    cells = pd.DataFrame(
        {"K": ["-", "5", "5", "5", "20"], "Gain": ["99.0", "31.2 [1.0, 2.0]", "31.2 [0.0, 9.0]", "30.0", "-"]}
    )
    bold = tables.build(cells, cells, ("Gain",), cells["K"], cells["K"] != "-").bold
    assert bold["Gain"].tolist() == [False, True, True, False, False] and not bold["K"].any()


def test_neither_controls_nor_the_bound_are_bold():
    run = personal_run(**{"all-data": 30, "prior-shift": 20})
    infos = dict(run.manifest.methods)
    infos["prior-shift"] = infos["prior-shift"].model_copy(update={"group": wording.CONTROL})
    run = run._replace(manifest=run.manifest.model_copy(update={"methods": infos}))
    table = tables.score_table(run)
    assert set(table.cells.loc[table.bold["Gain, accuracy"], "Method"]) == {"Meta-PerSER"}
    names = table.cells.loc[table.cells["Clips"] == "seen", "Method"].tolist()
    assert names[2:5] == ["Prior shift", "Fine-tuning", "Meta-PerSER"] and names[-1] == "All data"
    assert table.cells["K"].iloc[-1] == "all" and SIMPLE == "No meta-learning"
    caption = tables.score_caption(run)
    assert "All data: the best of several adaptations" in caption
    assert "an upper bound in log loss (seen), log loss (unseen), accuracy (seen), accuracy (unseen), macro" in caption


def test_all_ratings_are_a_bound_only_where_no_method_is_better():
    assert "another method is better in every score: no upper bound" in tables.score_caption(
        personal_run(**{"all-data": 1}))
    run = personal_run(**{"all-data": 8})  # Meta-PerSER: 6 and 4 for its shots
    more = run.records["method"].eq("all-data") & run.records["setting"].eq("unseen")
    run = run._replace(records=run.records.assign(log_loss=run.records["log_loss"] - 100.0 * more))
    assert "an upper bound in log loss (unseen)." in tables.score_caption(run)


def test_a_method_that_loses_is_never_bold():
    """Fine-tuning has the largest personal part and a loss against the general model: nothing of it is bold."""
    run = personal_run(**{"prior-shift": -9})  # with its 4 for 20 shots: 5 below SSL-E
    lost = run.exchanged["method"].eq("prior-shift")
    run = run._replace(exchanged=run.exchanged.assign(log_loss=run.exchanged["log_loss"] + 20.0 * lost))
    table = tables.score_table(run)
    bold = table.cells.loc[table.bold["Personal part, log loss"], "Method"]
    assert "Prior shift" not in set(bold)
    assert not table.bold.loc[table.cells["Method"] == "Prior shift"].to_numpy().any()
    assert set(table.cells.loc[table.bold["Gain, log loss"], "Method"]) == {"Meta-PerSER"}
    everyone = made_run(made_study({"ssl-e": 40, "fine-tuning": 1, "meta-perser": 6}, noise=0))
    assert not tables.score_table(everyone).bold.to_numpy().any()


def test_a_caption_shows_two_lines_and_folds_the_rest():
    run = personal_run()
    shown, definitions, origin = tables.score_caption(run).split(wording.FOLD)
    assert len(shown) < 260 and "Gain: over SSL-E" in shown and "c0ffee" not in shown + definitions
    assert origin.startswith("Run: settings c0ffee")
    table, caption = tables.score_table(run), tables.score_caption(run)
    page, paper = (write(table, caption) for write in (tables.markdown, tables.latex))
    before, fold = page.split("<details>")
    assert before.startswith(shown) and "|" in before and "c0ffee" in fold and fold.rstrip().endswith("</details>")
    assert [line for line in paper.splitlines() if "c0ffee" in line] == [f"% {origin}"]
    assert "<details>" not in tables.markdown(tables.score_table(run), "one line")


def test_bold_marks_the_mean_alone_in_markdown_and_latex():
    table = tables.score_table(made_run(made_records()))
    assert re.search(r"Meta-PerSER +\| 20 .*\| \*\*\+\d+\.\d\*\* \[", tables.markdown(table, "caption"))
    assert re.search(r"Meta-PerSER & 20 & .*\\textbf\{\+\d+\.\d\} \[", tables.latex(table, "caption"))


def test_latex_is_booktabs_and_escaped():
    run = made_run(made_records(), settings={"meta-perser": {"title": "50%_{of}&$#~^\\"}})
    text = tables.latex(tables.score_table(run), tables.score_caption(run))
    assert r"50\%\_\{of\}\&\$\#\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    assert r"toy\_corpus" in text and r"95 \%" in text and r"\toprule" in text and r"\bottomrule" in text
    body = re.sub("^% .*$", "", text.replace("$-$", ""), flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)[%#$_](?![-$])", body)


def test_markdown_keeps_a_pipe_in_its_cell():
    run = made_run(made_records(), settings={"meta-perser": {"title": "a|b"}})
    assert r"a\|b" in tables.markdown(tables.score_table(run), "caption")


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
        "So few listeners",
    ):
        assert part in caption
    assert "uncommitted" in tables.score_caption(made_run(made_records(), dirty=True))
    assert "One seed" in caption
    more = pd.concat([made_records(), made_records().assign(seed=1)])
    assert "One seed" not in tables.score_caption(made_run(more))
    assert "over listeners and seeds" in tables.score_caption(made_run(more))
    assert "o few" not in tables.score_caption(made_run(made_records(listeners=12)))


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
    tables, figures = ("comparisons", "main", "scores"), ("gains", "headline", "main", "shots-seen", "shots-unseen")
    assert {path.name for path in once} == {f"{name}.{end}" for name in tables for end in ("md", "tex", "csv")} | {
        f"{name}.{end}" for name in figures for end in ("pdf", "png")}
    for one, two in zip(once, again):
        assert one.read_bytes() == two.read_bytes()


def test_report_of_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no records there"):
        report.report(tmp_path, tmp_path / "out")


def test_claims_hold_only_when_the_interval_is_above_zero(run):
    results = {claim["claim"]: claim for claim in claims(run.parents[2])}
    for setting in ("seen", "unseen"):
        claim = results[f"Meta-PerSER with 20 shots is better than Fine-tuning, {setting} clips"]
        assert claim["run"] == "toy_corpus (logmel, main, synthetic listeners)" and claim["kind"] == "macro F1"
        assert 0 < claim["low"] < claim["value"] < claim["high"]
        assert claim["verdict"] == ("holds" if claim["p_holm"] <= 0.05 else "uncorrected")
        assert claim["records"] == str(run) and claim["synthetic"] == "listeners" and claim["listeners"] == 8
    assert json.loads(json.dumps(list(results.values()), allow_nan=False))


def test_claims_that_fail_are_reported_the_same_way(run):
    good, bad = of_run(made_run(made_records()), run), of_run(made_run(made_records(better=-1)), run)
    assert [claim.keys() for claim in bad] == [claim.keys() for claim in good]
    printed = [line for line in lines(good + bad) if " p " in line]
    assert printed and all(re.match(r"  (holds|uncorrected|fails) +[+-]\d", line) for line in printed)
    ahead = [claim for claim in bad if "better than Fine-tuning" in claim["claim"]]
    assert ahead and all(claim["verdict"] == "fails" and claim["high"] < 0 for claim in ahead)


def headline(run):
    """Verdicts by method, kind and score, the same on seen and on unseen clips."""
    by_setting = [{(claim["method"], claim["kind"], claim["score"] if claim["kind"] != "harmless" else ""):
                   claim["verdict"] for claim in of_run(run, "place") if claim["setting"] == setting
                   and claim["kind"] != "macro F1"} for setting in ("seen", "unseen")]
    assert by_setting[0] == by_setting[1]
    return by_setting[0]


def test_the_headline_has_both_verdicts_and_whether_a_method_harms():
    """Fine-tuning gains 5 and Meta-PerSER 10; MAML loses 1, and nothing of it depends on whose shots they are."""
    frame = made_study({"ssl-e": 0, "fine-tuning": 1, "maml": -5, "meta-perser": 6, "all-data": 9}, noise=0)
    run = exchanged(made_run(frame), 2)
    same = run.records["method"].eq("maml") & run.records["shots"].gt(0)
    others = run.exchanged[run.exchanged["method"] != "maml"]
    run = run._replace(exchanged=pd.concat([others, run.records[same].assign(shots_of="other")]))
    verdicts = headline(run)
    for score in ("log_loss", "accuracy"):
        assert verdicts["Fine-tuning", "gain", score] == verdicts["Meta-PerSER", "personal", score] == "holds"
        assert verdicts["MAML", "gain", score] == verdicts["MAML", "personal", score] == "fails"
    assert (verdicts["Meta-PerSER", "harmless", ""], verdicts["MAML", "harmless", ""]) == ("holds", "fails")
    assert {method for method, *_ in verdicts} == {"Fine-tuning", "MAML", "Meta-PerSER"}, "no bound, no SSL-E"
    text = lines(of_run(run, "place"))
    [row] = [line for line in text if re.match("  Meta-PerSER +unseen", line)]
    assert re.findall(r"[+-]\d+\.\d \[\S+ \S+\] (\S+)", row) == ["yes"] * 4 and row.endswith(" yes")
    assert "+10.0 [+10.0, +10.0] yes" in row and "+2.0 [+2.0, +2.0] yes" in row
    assert max(len(line) for line in text if " p " not in line) < 140


def test_harmless_is_decided_by_the_lower_end_in_the_worse_score():
    run = exchanged(made_run(made_study({"ssl-e": 0, "fine-tuning": -4}, noise=0, seeds=(0,))), 0)
    assert headline(run)["Fine-tuning", "harmless", ""] == "holds", "a gain of zero harms nobody"
    first = run.records["listener"].eq("E0") & run.records["method"].eq("fine-tuning")
    for worse in ("log_loss", "top"):  # 8 listeners, one of whom loses: the mean is above HARM, the lower end is not
        by = 200 * 8 * 0.0015 * (1 if worse == "log_loss" else -1)
        frame = run.records.assign(**{worse: run.records[worse] + by * first})
        assert headline(run._replace(records=frame))["Fine-tuning", "harmless", ""] == "fails"
        [claim] = [claim for claim in of_run(run._replace(records=frame), "place")
                   if claim["kind"] == "harmless" and claim["setting"] == "seen"]
        assert claim["low"] < HARM < claim["value"] and claim["p_holm"] is None
        assert claim["score"] == ("log_loss" if worse == "log_loss" else "accuracy")


def test_without_log_loss_nothing_is_called_harmless_and_without_exchange_nothing_personal():
    kinds = {claim["kind"] for claim in of_run(made_run(made_records()), "place")}
    assert kinds == {"gain", "macro F1"}


def test_claims_equal_the_tables_gains(run):
    numbers = tables.score_table(made_run(made_records())).numbers.iloc[5]
    claim = next(
        c
        for c in of_run(made_run(made_records()), run)
        if "Meta-PerSER with 20 shots is better than SSL-E, seen" in c["claim"]
    )
    assert (claim["value"], claim["low"], claim["high"]) == pytest.approx(
        tuple(numbers[["gain_f1", "gain_low_f1", "gain_high_f1"]])
    )


def test_claims_as_markdown_say_what_their_lines_say(run):
    rows = of_run(records.load(run), run)
    rows = [row | {"run": "<b>*x*</b>"} for row in rows]
    text = markdown(rows)
    assert text.startswith(r"**&lt;b>\*x\*&lt;/b>**") and "<b>" not in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    shown = [line for line in cells if line[-1] in ("yes", "no", "(yes)")]
    assert shown and [re.split(r"  +", line.strip()) for line in lines(rows)[2:len(shown) + 2]] == shown
    others = [row for row in rows if row["kind"] == "macro F1"]
    assert others and [line[0] for line in cells[-len(others):]] == [row["claim"] for row in others]


def test_claims_without_a_run_say_so(tmp_path):
    with pytest.raises(UserError, match="no CORPUS/UPSTREAM/EXPERIMENT"):
        claims(tmp_path)


def test_the_noise_ceiling_is_in_the_caption_where_clips_were_rated_twice():
    run = made_run(made_records())
    assert "ceiling" not in tables.score_caption(run)
    for others, words in ((0.25, ", and 25.0 % of them agree with the others."), (None, ".")):
        ceiling = {"listeners": 3, "pairs": 40, "same": 0.625, "overlap": 0.7, "others": others}
        manifest = run.manifest.model_copy(update={"noise_ceiling": ceiling})
        assert (f"of 40 clips that a listener rated again, 62.5 % got the same rating{words}"
                in tables.score_caption(run._replace(manifest=manifest)))


MARKUP = ["<script>alert(1)</script>", "</td><img src=x onerror=alert(1)>", "[click](javascript:alert(1))", "a|b",
          "`a`", "**a**", "a\n# b", "a\u2028b",
          "=HYPERLINK(\"http://x\")", "@SUM(1)", "$\\frac{1}$", "\\input{/etc/passwd}",
          "<!-- ", "&lt;script&gt;", "![x](http://x)"]


@pytest.mark.parametrize("text", MARKUP)
def test_names_are_text_in_every_format(tmp_path, text):
    """A method's title, a listener and what the folder lacks; a Markdown parser and a CSV reader judge."""
    frame = made_records()
    frame["listener"] = frame["listener"].replace(frame["listener"].iloc[0], text)
    run = made_run(frame, settings={"meta-perser": {"title": text}}, notes=[text])
    table, caption = tables.score_table(run), tables.score_caption(run)
    shown = MarkdownIt("gfm-like", {"linkify": False}).render(tables.markdown(table, caption))
    tags = set(re.findall(r"<(\w+)", shown))
    assert tags <= {"p", "table", "thead", "tbody", "tr", "th", "td", "strong", "details", "summary"}, tags
    assert len(re.findall("<tr>", shown)) == 1 + len(table.cells) and "javascript" not in re.sub(">[^<]*<", "><", shown)
    assert "alert(1)" not in text or "alert(1)" in shown
    tex = tables.latex(table, caption)
    assert r"\input" not in tex and r"\frac" not in tex and "\u2028" not in tex
    table = table._replace(numbers=table.numbers.assign(listener=text))
    for path in tables.write(table, caption, tmp_path / "t"):
        assert path.is_file()
    cells = list(csv.reader(io.StringIO((tmp_path / "t.csv").read_bytes().decode(), newline="")))
    assert not [cell for row in cells for cell in row if cell[:1] in "=@" and cell]
    assert cells[1][-1].removeprefix("'") == text
    assert len(figures.save(main.gains(run), tmp_path / "f")) == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
