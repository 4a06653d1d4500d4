"""Every experiment's tables, figures and claims: what is printed and drawn follows from records."""

import itertools
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from made_records import made_learnt, made_study
from test_figures import boxes, texts
from test_tables import MANIFEST

from perser import config, records
from perser.analysis import captions, figures, report, study, tables
from perser.analysis.claims import of_run
from perser.errors import UserError
from perser.scores import per_seed
from perser.corpora.agreement import agreement, traits

METHODS = {"ssl-e": 0, "prior-shift": 3, "scratch": -30, "fine-tuning": 2, "maml": 1, "meta-perser": 6, "all-data": 15}
ABLATION = {"ssl-e": -1, "maml": 0, "csmt": 1, "da": 1, "lslr": 3, "csmt+da": 2, "csmt+lslr": 4, "da+lslr": 4}
ABLATION |= {"csmt+da+lslr": 7, "shared+da+lslr": 2}
STEPS = {"ssl-e": (0,), "fine-tuning": (0, 1, 2), "maml": (0, 1, 2), "meta-perser": (0, 1, 2)}
TRAINED = MANIFEST | {"config": {"methods": {"maml": {"inner_steps": 1}, "meta-perser": {"inner_steps": 2}}}}


def study_of(experiment, **settings):
    """Small records of one experiment."""
    if experiment == "steps":
        levels = dict.fromkeys(STEPS, 0) | {"maml": 2, "meta-perser": 4}
        return made_study(levels, "steps", (20,), steps=STEPS, **settings)
    if experiment == "recipe":
        return made_study({"ssl-e": 0, "meta-perser": 3, "tuned": 5, "meta-perser-x": 6}, "recipe", **settings)
    if experiment == "upstreams":
        return by_upstream("listeners")[1]
    if experiment == "shots":
        levels = {"ssl-e": 0, "fine-tuning": 1, "prior-shift": 2, "maml": 3, "meta-perser": 5}
        frame = made_study(levels, "shots", (1, 5, 40), **settings)
        return frame[(frame["shots"] < 40) | (frame["setting"] == "seen")]
    return made_study(METHODS if experiment == "methods" else ABLATION, experiment, **settings)


def by_upstream(synthetic="", random=True, **settings):
    """Records of one run per upstream: a real one, and beside it one of random weights."""
    levels = {"ssl-e": 0, "fine-tuning": 2, "meta-perser": 6}
    made = {"logmel": synthetic, "wavlm-random": records.made_up(synthetic, random)}
    return [made_study({method: level // (place + 1) for method, level in levels.items()}, "upstreams",
                       synthetic=made[name], **settings).assign(upstream=name) for place, name in enumerate(made)]


def listeners(frame):
    names = sorted(frame["listener"].unique())
    return pd.DataFrame({"listener": names, "distance": np.linspace(0, 1, len(names)),
                         "consistency": np.sin(np.arange(len(names)))})


def timed():
    """Rows as the benchmark of the outer step has them."""
    names = ["episodes", "shots", "query", "engine_ms", "learn2learn_ms", "engine_times_faster", "arithmetic_floor_ms",
             "memory_floor_ms"]
    rows = [(64, 10, 10, 11.0, 560.0, 51.2, 3.3, 7.0), (8, 64, 64, 12.0, 120.0, 9.8, 3.4, 5.0)]
    return pd.DataFrame(rows, columns=names)


def kappas(number=8):
    draw = np.random.default_rng(0)
    rows = [(str(clip), f"E{who}", *(draw.random(3) < 0.5)) for clip in range(30) for who in range(number)]
    return agreement(pd.DataFrame(rows, columns=["clip", "listener", "x", "y", "z"]), ("x", "y", "z"))


DRAWN = {
    "forest": lambda **how: figures.forest(study_of("methods", **how)),
    "effects": lambda **how: figures.effects(study_of("ablation", **how)),
    "shots": lambda **how: figures.shots(study_of("shots", **how)),
    "shots_gained": lambda **how: figures.shots_gained(study_of("shots", **how)),
    "inner_steps": lambda **how: figures.inner_steps(study_of("steps", **how), TRAINED),
    "who": lambda **how: figures.who(
        study.gains_and_traits(per_seed(frame := study_of("methods", **how)), listeners(frame), "meta-perser"),
        "meta-perser", captions.stamp(frame)),
    "rates": lambda synthetic="": figures.rates(made_learnt(), captions.made_up(synthetic)),
    "layers": lambda synthetic="": figures.layers({"logmel": made_learnt()}, captions.made_up(synthetic)),
    "upstreams": lambda synthetic="": figures.upstreams(by_upstream(synthetic, bool(synthetic))),
    "agreement": lambda synthetic="": figures.agreement(kappas(), captions.made_up(synthetic)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_stamped_legible_and_one_column_wide(name):
    assert not any("synthetic" in text for text in texts(DRAWN[name](synthetic="")))
    figure = DRAWN[name](synthetic="speech and listeners")
    assert any(text.startswith("synthetic speech and listeners") for text in texts(figure))
    assert figure.get_figwidth() == 3.4
    found, page = boxes(figure), figure.bbox
    for (one, a), (two, b) in itertools.combinations(found, 2):
        shared = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(shared) < 1, (one, two)
    for text, box in found:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text


@pytest.mark.parametrize("name", ["forest", "inner_steps", "shots_gained", "effects", "upstreams"])
def test_figures_name_their_interval_and_leave_settings_alone(name):
    before = dict(mpl.rcParams)
    assert any("95 % bootstrap interval over listeners and seeds" in text for text in texts(DRAWN[name]()))
    assert dict(mpl.rcParams) == before


def test_forest_draws_each_gain_or_an_arrow_beyond_the_axis():
    frame = study_of("methods")
    left = figures.forest(frame).axes[0]
    gains = study.gains(per_seed(frame))
    gains = gains[(gains["setting"] == "seen") & ((gains["shots"] == 20) | (gains["method"] == "all-data"))]
    expected = gains.set_index("method")["mean"]
    drawn = [bar[0].get_xdata()[0] for bar in left.containers]
    assert sorted(drawn) == pytest.approx(sorted(expected.drop("scratch")))
    assert [line.get_marker() for line in left.get_lines()].count("<") == 1
    words = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in left.texts]
    assert sorted(words) == sorted(f"{mean:+.1f}" for mean in expected)
    labels = [tick.get_text() for tick in left.get_yticklabels()]
    assert labels == ["No meta-learning", "Prior shift", "From scratch", "Fine-tuning", "Meta-learning", "MAML",
                      "Meta-PerSER", "Upper bound", "All data"]


def test_speed_prints_times_and_ratios_of_the_rows():
    figure = figures.speed(timed(), "cpu: Some CPU")
    assert {"11", "560", "51 times", "12", "120", "10 times", "64 x (10 + 10)", "cpu: Some CPU"} <= set(texts(figure))
    alone = figures.speed(timed().drop(columns=["learn2learn_ms", "engine_times_faster"]), "cuda")
    assert not any("times" in text for text in texts(alone))


def test_inner_steps_ring_what_was_trained():
    frame = study_of("steps")
    left = figures.inner_steps(frame, TRAINED).axes[0]
    found = study.by_step(frame).set_index(["method", "setting", "steps"])["gain"]
    rings = [(line.get_xdata()[0], line.get_ydata()[0]) for line in left.get_lines()
             if line.get_fillstyle() == "none" and len(line.get_xdata())]
    expected = [(1, found["maml", "seen", 1]), (2, found["meta-perser", "seen", 2])]
    np.testing.assert_allclose(rings, expected)


def test_rows_of_methods_are_in_groups_and_the_bound_is_last_and_never_bold():
    table = tables.methods_table(study_of("methods"))
    assert list(zip(table.cells["Method"], table.cells["K"])) == [
        ("Chance", "-"), ("SSL-E", "-"),
        ("Prior shift", "5"), ("From scratch", "5"), ("Fine-tuning", "5"), ("MAML", "5"), ("Meta-PerSER", "5"),
        ("Prior shift", "20"), ("From scratch", "20"), ("Fine-tuning", "20"), ("MAML", "20"), ("Meta-PerSER", "20"),
        ("All data (upper bound)", "all"),
    ]
    assert table.cells.loc[table.bold["Seen"], "Method"].tolist() == ["Meta-PerSER", "Meta-PerSER"]
    assert table.cells["Group"].tolist()[:7] == ["", "No meta-learning", "", "", "", "Meta-learning", ""]
    assert table.cells["Gain seen"].iloc[-1].startswith("+") and table.cells["Gain seen"].iloc[1] == "-"
    assert table.breaks == (1, 2, 5, 7, 10, 12)
    lines = tables.latex(table, "caption").splitlines()
    rules = [number - lines.index(r"\midrule") for number, line in enumerate(lines) if line == r"\midrule"]
    # Each rule stands before its row, pushed down by the rules above it.
    assert rules == [0] + [row + above for above, row in enumerate(table.breaks, 1)]


def test_comparisons_print_effect_interval_and_corrected_p():
    frame = study_of("methods")
    found = study.against_best(per_seed(frame))
    cells = tables.comparisons_table(found).cells
    assert cells["Against"].unique().tolist() == ["Prior shift"]
    row = found.iloc[1]
    assert cells["Difference"][1] == tables.text(100 * row["mean"], 100 * row["low"], 100 * row["high"], "+")
    assert cells["Listeners ahead"][1] == "8 of 8" and cells["p (Holm)"][1] == tables.p_text(row["p_holm"])
    assert row["p_holm"] >= row["p"]
    assert "picked on the listeners" in tables.comparisons_caption(frame, MANIFEST, tables.BEST)


def test_ablation_has_check_marks_and_its_effects():
    cells = tables.ablation_table(study_of("ablation", noise=0)).cells
    rows = cells[cells["K"] == "20"].set_index(["CSMT", "DA", "LSLR"])
    assert rows.loc[("✓", "✓", "✓"), "Method"] == "Meta-PerSER"
    assert rows.loc[("", "", ""), "Method"] == "MAML"
    assert rows.loc[("shared", "✓", "✓"), "Over MAML, seen"] == "+2.0 [+2.0, +2.0]"
    assert rows.loc[("", "", "✓"), "Over MAML, unseen"] == "+3.0 [+3.0, +3.0]"
    assert cells.loc[0, ["Method", "CSMT", "K"]].tolist() == ["SSL-E", "-", "-"]
    assert r"$\checkmark$" in tables.latex(tables.ablation_table(study_of("ablation")), "✓")
    effects = tables.effects_table(study.effects(per_seed(study_of("ablation", noise=0)))).cells
    # LSLR adds 3 to maml, csmt + lslr 3 to csmt, 3 to da, and 5 to csmt + da.
    assert effects.loc[effects["Part"] == "LSLR", "Effect"].unique().tolist() == ["+3.5 [+3.5, +3.5]"]


def test_steps_table_marks_what_was_trained():
    cells = tables.steps_table(study_of("steps", noise=0), TRAINED).cells
    marked = cells[cells["Trained"] == "✓"]
    assert list(zip(marked["Method"], marked["Steps"])) == [("MAML", "1"), ("Meta-PerSER", "2")]
    # Level 2, shots 20 / 5, step 1; every listener alike.
    assert marked["Gain seen"].iloc[0] == "+7.0 [+7.0, +7.0]"


def test_gains_table_says_from_which_number_of_shots_on_a_method_pays():
    rows = [("a", "seen", 1, 0.5, 0.1), ("a", "seen", 5, 1.0, -0.2), ("a", "seen", 20, 2.0, 1.0),
            ("b", "seen", 1, -1.0, -2.0), ("b", "seen", 5, 0.0, 0.0), ("b", "seen", 20, 0.1, -0.1),
            ("a", "unseen", 1, 0.5, 0.1), ("a", "unseen", 5, 1.0, 0.2)]
    found = pd.DataFrame(rows, columns=["method", "setting", "shots", "mean", "low"])
    table = tables.gains_table(found.assign(high=found["mean"] + 1)[::-1])
    assert table.cells["Clips"].tolist() == ["seen", "seen", "unseen"]
    cells = table.cells.set_index(["Method", "Clips"])
    assert cells["Pays from"].to_dict() == {("a", "seen"): "20", ("b", "seen"): "-", ("a", "unseen"): "1"}
    assert cells.loc[("a", "seen"), "K = 5"] == "+1.0 [-0.2, +2.0]" and cells.loc[("a", "unseen"), "K = 20"] == "-"
    assert table.breaks == (2,) and sorted(table.numbers["low_20"].dropna()) == [-0.1, 1.0]


def test_traits_table_prints_rho_with_its_interval():
    frame = study_of("methods")
    found = study.correlations(study.gains_and_traits(per_seed(frame), listeners(frame), "meta-perser"))
    cells = tables.traits_table(found).cells
    each = ["distance", "consistency", "distance, at equal consistency", "consistency, at equal distance"]
    assert cells["Trait"].tolist() == each * 2 and cells["Clips"].tolist() == ["seen"] * 4 + ["unseen"] * 4
    assert cells["Spearman's rho"][0].startswith(f"{found['rho'][0]:+.2f} [")
    assert "Gain of Meta-PerSER over SSL-E" in tables.traits_caption(frame, MANIFEST, "meta-perser")


def test_upstreams_are_compared_in_one_table_with_chance_once():
    table = tables.upstreams_table(by_upstream("listeners", noise=0))
    assert list(zip(table.cells["Upstream"], table.cells["Method"], table.cells["K"])) == [
        ("", "Chance", "-"),
        ("logmel", "SSL-E", "-"), ("", "Fine-tuning", "20"), ("", "Meta-PerSER", "20"),
        ("wavlm-random (random weights)", "SSL-E", "-"), ("", "Fine-tuning", "20"), ("", "Meta-PerSER", "20"),
    ]
    # Level 6, on the second upstream 3, and 20 / 5; every listener alike.
    gains = table.cells["Gain unseen"]
    assert (gains[3], gains[6]) == ("+10.0 [+10.0, +10.0]", "+7.0 [+7.0, +7.0]")
    assert table.bold["Seen"].tolist() == [False] * 3 + [True] + [False] * 3 and table.breaks == (1, 4)
    assert table.numbers["upstream"].nunique() == 3


def test_runs_in_one_table_each_have_their_chance_where_it_differs():
    one, other = study_of("methods"), study_of("methods").assign(experiment="another")
    other = other[other["listener"] != other["listener"].iloc[0]]
    table = tables.runs_table({"targets pooled": one, "listeners all": other}, "Reading")
    chance = table.numbers[table.numbers["method"] == tables.CHANCE]
    assert chance["reading"].tolist() == ["targets pooled", "listeners all"]
    assert chance["records"].tolist() == [len(run) // run.groupby(["method", "shots"]).ngroups for run in (one, other)]
    assert [name for name in table.cells["Reading"] if name] == ["targets pooled", "listeners all"]
    manifests = [MANIFEST, MANIFEST | {"config_digest": "0dd", "commit": "other"}]
    caption = tables.runs_caption([one, other], manifests, "under the same reading", "What is said.")
    assert "What is said. Gain: over SSL-E under the same reading, paired" in caption
    assert "settings c0ffee, 0dd, data da7a, Some CPU" in caption, "no commit where there are several"


def test_random_weights_are_named_in_caption_stamp_and_labels():
    runs, manifests = by_upstream("listeners"), [MANIFEST, MANIFEST | {"data": "07e4"}]
    caption = tables.upstreams_caption(runs, manifests)
    assert caption.startswith("Synthetic listeners, random upstream weights. ")
    assert "Random weights: wavlm-random have a model's form and have learnt nothing" in caption
    assert "upstream logmel, wavlm-random;" in caption and "data da7a, 07e4, commit 0123456789," in caption
    shown = texts(figures.upstreams(runs))
    assert {"synthetic listeners, random upstream weights", "wavlm-random\n(random weights)"} <= set(shown)
    assert "andom" not in tables.upstreams_caption(by_upstream("listeners", False), manifests).replace("-random", "")
    with pytest.raises(UserError, match="different settings"):
        tables.upstreams_caption(runs, [MANIFEST, MANIFEST | {"config_digest": "0"}])


def test_the_figure_of_upstreams_shows_the_means_of_the_table():
    runs = by_upstream()
    left = figures.upstreams(runs).axes[0]
    numbers = tables.upstreams_table(runs).numbers
    drawn = sorted(x for bar in left.containers for x in bar[0].get_xdata())
    assert drawn == pytest.approx(sorted(numbers["seen"].iloc[1:]))
    assert left.lines[0].get_xdata()[0] == pytest.approx(numbers["seen"].iloc[0])


def test_runs_of_several_upstreams_are_reported_side_by_side(tmp_path):
    runs = [tmp_path / name for name in ("logmel", "wavlm-random", "main")]
    for run, frame in zip(runs, [*by_upstream(), study_of("methods")]):
        run.mkdir()
        records.write(frame, run / "records.parquet")
        (run / "manifest.json").write_text(json.dumps(MANIFEST))
        made_learnt().to_parquet(run / "learnt.parquet")
    written = {path.relative_to(tmp_path).as_posix() for path in report.compare(runs, tmp_path)}
    ends = ("md", "tex", "csv", "pdf", "png")
    assert written == {f"toy_corpus/{name}" for name in (*(f"upstreams.{end}" for end in ends), "layers.pdf",
                                                         "layers.png")}
    assert report.compare(runs[1:], tmp_path) == []
    found = {run: records.read(run) for run in reversed(runs[:2])}
    assert list(study.real_first(found)) == runs[:2]


WRITTEN = {
    "methods": {"methods.md", "methods-accuracy.tex", "comparisons.tex", "methods.pdf", "who-meta-perser.csv",
                "who-meta-perser.png", "rates.png", "layers.pdf"},
    "ablation": {"ablation.md", "ablation-accuracy.csv", "effects.md", "effects.png", "rates.pdf"},
    "shots": {"shots.md", "shots-accuracy.md", "comparisons.md", "gains.md", "shots.png",
              "shots-gained.png"},
    "steps": {"steps.tex", "steps-accuracy.md", "comparisons.csv", "steps.png"},
    "recipe": {"recipe.md", "comparisons.md", "recipe.pdf"},
    "upstreams": {"upstreams.md", "upstreams.pdf", "layers.pdf"},
}


@pytest.mark.parametrize("experiment", WRITTEN)
def test_report_writes_what_the_experiment_needs(experiment, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    frame = study_of(experiment)
    records.write(frame, run / "records.parquet")
    (run / "manifest.json").write_text(json.dumps(TRAINED))
    made_learnt().to_parquet(run / "learnt.parquet")
    listeners(frame).to_parquet(run / "listeners.parquet")
    written = {path.name for path in report.report(run, tmp_path / "out")}
    assert written >= WRITTEN[experiment]
    assert written == {path.name for path in (tmp_path / "out").glob(f"toy_corpus/*/{experiment}/*")}


def claim_of(found, *words):
    return next(claim for claim in found if all(word in claim["claim"] for word in words))


@pytest.mark.parametrize("level", [1.25, 2.25, -2.75])
def test_the_bar_is_asked_of_ours_against_the_best_baseline(level, tmp_path):
    frame = made_study({"ssl-e": 0, "prior-shift": 3, "maml": 9, "meta-perser": int(3 + level // 1)}, noise=0)
    ahead = (frame["method"] == "meta-perser") & frame["listener"].isin(["E0", "E1"])  # two of eight: a quarter point
    for name, more in (("tp", 1), ("fp", -1), ("fn", -1)):
        frame.loc[ahead, [f"{name}_x", f"{name}_y"]] += more
    frame = frame[(frame["method"] != "meta-perser") | (frame["shots"] == 20)]
    found = of_run(frame, tmp_path)
    for setting, bar in (("seen", 1.5), ("unseen", 1.0)):
        claim = claim_of(found, "Meta-PerSER with 20 shots", "without meta-learning, Prior shift", f"{setting} clips")
        assert claim["value"] == pytest.approx(level) and claim["bar"] == bar
        assert (claim["verdict"] == "holds") == (level >= bar and claim["p_holm"] <= 0.05)
        assert (claim["verdict"] == "fails") == (level < bar)
        assert f"by at least {bar} points" in claim["claim"]
    assert not any("MAML with" in claim["claim"] for claim in found)


def test_parts_are_claimed_and_steps_claim_nothing(tmp_path):
    found = of_run(study_of("ablation", noise=0), tmp_path)
    assert claim_of(found, "LSLR with 20 shots", "seen")["value"] == pytest.approx(3.5)
    assert of_run(study_of("steps"), tmp_path) == []


def test_traits_of_a_corpus_fit_the_records():
    rows = [(str(clip), f"E{who}", clip % 2 == who % 2, True) for clip in range(6) for who in range(8)]
    found = traits(pd.DataFrame(rows, columns=["clip", "listener", "x", "y"]), ("x", "y"))
    assert set(found["listener"]) == set(study_of("methods")["listener"])


@pytest.mark.parametrize("path", sorted(Path("results").glob("*/*/*/manifest.json")), ids=lambda path: str(path.parent))
def test_committed_records_are_all_that_the_experiment_asks_for(path):
    """Every method, seed and fold of experiments/NAME.toml, with at least twenty draws of the shots."""
    said, frame = records.manifest(path.parent), records.read(path.parent)
    experiment = config.load(Path("experiments") / f"{said['experiment'].partition('-')[0]}.toml")
    asked = json.loads(experiment.model_dump_json())
    for method in said["config"]["methods"].values():  # older manifests hold the one set of tensors as it is
        if method["kind"] == "finetune" and isinstance(method["adapts"][0], str):
            method["adapts"] = [method["adapts"]]
    held = json.loads(config.Experiment.model_validate(said["config"]).model_dump_json())  # newer settings: as unset
    for key in ("methods", "seeds", "shots", "draws", "folds", "groups", "steps"):
        assert held[key] == asked[key], key
    assert set(frame["method"]) == set(experiment.methods) and set(frame["seed"]) == {0, 1, 2}
    assert set(frame["fold"]) == set(range(1, frame["fold"].max() + 1)) and frame["fold"].max() >= 5
    assert (frame["draws"] >= 20).all()
    asked_of = frame[frame["shots"] > 0].set_index(["setting", "fold", "seed", "listener", "shots"])["method"]
    every = {method: set(keys) for method, keys in asked_of.groupby(asked_of).groups.items()}
    assert len({frozenset(keys) for keys in every.values()}) == 1, "the same episodes for every method"


def test_how_often_a_method_kept_its_start_is_counted_record_by_record():
    """Of MAML's records those of two of eight listeners differ from the start's in one count."""
    frame = made_study({"ssl-e": 0, "untrained": 2, "maml": 2, "meta-perser": 6}, noise=0)
    moved = (frame["method"] == "maml") & frame["listener"].isin(["E0", "E1"])
    frame.loc[moved, "tp_x"] += 1
    found = study.kept_start(frame).set_index("method")
    assert list(found.index) == ["maml", "meta-perser"]
    assert found.loc["maml", "same"] == pytest.approx(6 / 8) and found.loc["meta-perser", "same"] == 0
    assert found.loc["maml", "records"] == int((frame["method"] == "maml").sum())
    assert study.kept_start(frame[frame["method"] != "untrained"]).empty


def test_what_was_changed_in_the_published_recipe_stands_against_it():
    frame = made_study({"ssl-e": 0, "meta-perser": 3, "meta-perser-x": 5, "recipe-with-f1": 4}, noise=0)
    frame["experiment"] = "recipe"
    cells = report.tables_of(frame, MANIFEST)["published"][0].cells
    assert set(cells["Method"]) == {"Recipe with soft F1 loss"} and set(cells["Against"]) == {"Meta-PerSER"}
    assert "published" not in report.tables_of(frame[frame["method"] != "recipe-with-f1"], MANIFEST)
