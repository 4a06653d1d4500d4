"""The numbers of each experiment, from records or scores in which they are known."""

import numpy as np
import pandas as pd
import pytest
from made_records import METHODS, PARTS, exchanged, made_learnt, made_run, made_study

from perser.analysis import comparison
from perser.analysis.experiments import ablation, listeners, methods, recipe, steps, upstreams
from perser.scores import per_seed


def scored(table):
    """A run whose scores per seed are a table; its records say no more than which methods there are."""
    frame = made_study(dict.fromkeys(dict.fromkeys(table["method"]), 0), listeners=1)
    return made_run(frame)._replace(records=table)


@pytest.fixture(autouse=True)
def given_scores(monkeypatch):
    """Take records that are scores already as they are."""
    for module in (methods, ablation):
        monkeypatch.setattr(module, "per_seed", lambda table: table if "f1" in table else per_seed(table))


def scores(levels, gaps=(0.0, 0.2), shots=20):
    """Per-seed scores of two listeners `gaps` apart and two seeds; levels: method -> f1, SSL-E without shots."""
    return pd.DataFrame(
        [
            (method, setting, 0 if method == "ssl-e" else shots, f"E{number}", seed, level + gap, 1)
            for method, level in levels.items()
            for setting in ("seen", "unseen")
            for number, gap in enumerate(gaps)
            for seed in (0, 1)
        ],
        columns=["method", "setting", "shots", "listener", "seed", "f1", "records"],
    )


def test_the_best_baseline_is_neither_meta_learning_nor_the_bound():
    levels = {"ssl-e": 0.3, "prior-shift": 0.4, "last-layer": 0.35, "maml": 0.5, "all-data": 0.9}
    for table, best in ((scores(levels), "prior-shift"), (scores({"ssl-e": 0.3, "scratch": 0.1}), "ssl-e"),
                        (scores({"maml": 0.3}), None)):
        assert methods.best_rival(scored(table), table, "seen", 20, "f1") == best


def test_the_best_rival_is_the_best_in_the_score_and_less_loss_is_better():
    table = scores({"ssl-e": 0.3, "prior-shift": 0.4, "last-layer": 0.35}).assign(log_loss=lambda rows: rows["f1"])
    assert methods.best_rival(scored(table), table, "seen", 20, "log_loss") == "ssl-e"


def test_a_row_without_meta_learning_is_a_rival_whatever_its_name():
    frame = made_study({"ssl-e": 0, "fine-tuning": 2, "mine": 4, "meta-perser": 6}, noise=0)
    run = made_run(frame)
    infos = run.manifest.methods | {"mine": run.manifest.methods["fine-tuning"].model_copy(update={"title": "Mine"})}
    run = run._replace(manifest=run.manifest.model_copy(update={"methods": infos}))
    assert set(methods.against_best(run)["baseline"]) == {"mine"}
    cells = methods.ladder_table(run)[0].cells
    assert cells.loc[cells["Method"] == "Mine", "Against"].unique().tolist() == ["SSL-E"]
    assert cells.loc[cells["Method"] == "Meta-PerSER", "Against"].unique().tolist() == ["Mine"]
    assert set(methods.against_best(made_run(frame))["baseline"]) == {"fine-tuning"}


def test_each_meta_method_meets_the_best_of_its_own_setting():
    table = scores({"ssl-e": 0.3, "prior-shift": 0.4, "fine-tuning": 0.42, "maml": 0.5, "anil": 0.41})
    table.loc[(table["method"] == "prior-shift") & (table["setting"] == "unseen"), "f1"] += 0.05
    result = methods.against_best(scored(table))
    assert result[["method", "setting", "baseline"]].values.tolist() == [
        ["maml", "seen", "fine-tuning"],
        ["anil", "seen", "fine-tuning"],
        ["maml", "unseen", "prior-shift"],
        ["anil", "unseen", "prior-shift"],
    ]
    assert result["mean"].tolist() == pytest.approx([8, -1, 5, -4])


def test_the_ladder_holds_simple_methods_against_ssl_e_and_meta_learning_against_their_best():
    few = scores({"ssl-e": 0.3, "prior-shift": 0.4, "fine-tuning": 0.35, "maml": 0.5, "all-data": 0.9}, shots=5)
    table = pd.concat([few, scores({"prior-shift": 0.4, "fine-tuning": 0.45, "maml": 0.42}, shots=20)])
    result = methods.ladder(scored(table))
    seen = [["prior-shift", "ssl-e", 5], ["fine-tuning", "ssl-e", 5], ["maml", "prior-shift", 5],
            ["prior-shift", "ssl-e", 20], ["fine-tuning", "ssl-e", 20], ["maml", "fine-tuning", 20]]
    assert result.loc[result["setting"] == "seen", ["method", "baseline", "shots"]].values.tolist() == seen
    assert result["mean"].tolist() == pytest.approx([10, 5, 10, 10, 15, -3] * 2)
    assert (result["p_holm"] >= result["p"]).all() and set(result["setting"]) == {"seen", "unseen"}
    assert methods.ladder(scored(scores({"maml": 0.5, "anil": 0.4}))).empty  # nothing to be held against


def test_other_numbers_of_steps_are_held_against_the_trained_one():
    """Each step is one more hit of a hundred, in points 1; SSL-E and fine-tuning were trained with none."""
    taken = {"maml": (0, 1, 3), "fine-tuning": (0, 1)}
    frame = made_study({"ssl-e": 0, "fine-tuning": 1, "maml": 2}, "steps", inner_steps=taken, noise=0)
    result = steps.against_trained(made_run(frame, settings={"maml": {"inner_steps": 1}}))
    result = result[result["score"] == "f1"]
    assert result[["method", "setting", "shots", "inner_steps", "trained"]].values.tolist() == [
        ["maml", setting, 20, steps, 1] for setting in ("seen", "unseen") for steps in (0, 3)]
    assert result["mean"].tolist() == pytest.approx([-1, 2] * 2) and (result["listeners"] == 8).all()
    assert steps.against_trained(made_run(frame, settings={"maml": {"inner_steps": 7}})).empty


ABLATION = {"maml": 0.30, "csmt": 0.30, "da": 0.31, "lslr": 0.33, "csmt+da": 0.31, "csmt+lslr": 0.37}
ABLATION |= {"da+lslr": 0.34, "csmt+da+lslr": 0.38, "shared+da+lslr": 0.32}


def test_main_effects_average_over_the_other_parts():
    result = ablation.effects(scored(scores(ABLATION))).set_index(["part", "setting"])["mean"]
    # DA adds 1 point everywhere; LSLR 3, with CSMT 7; CSMT nothing, with LSLR 4.
    assert result["DA", "seen"] == pytest.approx(1)
    assert result["LSLR", "unseen"] == pytest.approx(5)
    assert result["CSMT", "seen"] == pytest.approx(2)
    assert result["shared", "seen"] == pytest.approx(32 - 38)


def test_effects_come_for_every_number_of_shots_and_only_of_whole_designs():
    table = pd.concat([scores(ABLATION, shots=10), scores(ABLATION, shots=20)])
    assert sorted(set(ablation.effects(scored(table))["shots"])) == [10, 20]
    some = {name: level for name, level in ABLATION.items() if name != "csmt+da+lslr"}
    assert ablation.effects(scored(scores(some))).empty
    assert set(ablation.effects(scored(scores(ABLATION | {"ssl-e": 0.2})))["part"]) == {"CSMT", "DA", "LSLR", "shared"}


def test_rows_come_for_every_number_of_shots_and_largest_keeps_that_of_each_setting():
    frame = made_study({"ssl-e": 0, "maml": 1, "meta-perser": 3}, shots=(5, 20), noise=0)
    run = exchanged(made_run(frame[(frame["shots"] < 20) | (frame["setting"] == "seen")]), 1)
    cells = {(row.setting, row.shots) for row in comparison.rows(run).itertuples()}
    assert cells == {("seen", 0), ("seen", 5), ("seen", 20), ("unseen", 0), ("unseen", 5)}
    few = comparison.largest(run)
    for table in (few.records, few.exchanged):
        cells = set(zip(table["setting"], table["shots"]))
        assert cells - {("seen", 0), ("unseen", 0)} == {("seen", 20), ("unseen", 5)}
    assert comparison.of(run, ["ssl-e"]).exchanged is None
    assert set(comparison.of(run, ["ssl-e", "maml"]).exchanged["method"]) == {"maml"}
    assert comparison.rows(run, "maml").query("method == 'meta-perser'")["gain"].round(9).unique().tolist() == [2]


STEPS = {"fine-tuning": (0, 1, 2), "maml": (0, 1, 2)}


def test_steps_are_separate_and_measured_from_ssl_e():
    frame = made_study({"ssl-e": 0, "fine-tuning": 0, "maml": 3}, "steps", (20,), inner_steps=STEPS | {"ssl-e": (0,)},
                       noise=0)
    # One point of F1 per hit. Shots add four hits to methods with shots.
    rows = steps.by_step(exchanged(made_run(frame), 2))
    assert (rows["method"] == "ssl-e").sum() == 2 * 3, "once in each setting and score"
    rows = rows[rows["score"] == "f1"].set_index(["method", "inner_steps", "setting"])
    for step in (0, 1, 2):
        assert rows.loc[("maml", step, "seen"), ["gain", "personal"]].tolist() == pytest.approx([3 + step + 4, 2])
        assert rows.loc[("fine-tuning", step, "unseen"), "gain"] == pytest.approx(step + 4)
    assert set(rows["records"]) == {16}


def test_trained_steps_are_the_manifests():
    run = made_run(made_study({"maml": 1, "fine-tuning": 1}), settings={"maml": {"inner_steps": 3}})
    assert steps.trained_steps(run) == {"maml": 3}


def test_gains_meet_the_traits_of_the_same_listener():
    frame = made_study({"ssl-e": 0, "meta-perser": 6}, noise=0, listeners=4)
    extra = frame["listener"].str.removeprefix("E").astype(int) * (frame["method"] == "meta-perser")
    frame = frame.assign(**{kind: frame[kind] + extra for kind in ("tp_x", "tp_y")},
                         **{kind: frame[kind] - extra for kind in ("fp_x", "fp_y", "fn_x", "fn_y")})
    traits = pd.DataFrame({"listener": ["E3", "E0", "E1", "E2"], "distance": [0.9, 0.1, 0.2, 0.3],
                           "consistency": [0.0, 3.0, 2.0, 1.0]})
    result = listeners.gains_and_traits(exchanged(made_run(frame, listeners=traits), 3), "meta-perser")
    personal = result[result["part"] == "personal"]
    assert personal["value"].tolist() == pytest.approx([3] * 8)
    rows = result[(result["setting"] == "seen") & (result["part"] == "gain")].set_index("listener")
    # Level 6, shots 20 / 5 and the listener's number, one hundredth of a nat each.
    assert rows["value"].to_dict() == pytest.approx({"E0": 10, "E1": 11, "E2": 12, "E3": 13})
    assert rows["distance"].to_dict() == {"E0": 0.1, "E1": 0.2, "E2": 0.3, "E3": 0.9}
    gains = result[result["part"] == "gain"]
    rho = listeners.correlations(gains).set_index(["setting", "trait", "given"])["rho"]
    assert rho["seen", "distance", ""] == pytest.approx(1) and rho["unseen", "consistency", ""] == pytest.approx(-1)
    assert np.isnan(rho["seen", "distance", "consistency"])  # the one trait is all that the other is


def test_learned_rates_are_means_by_tensor_and_step_without_tensors_at_rest():
    [(method, table)] = steps.learned_rates(made_learnt()).items()
    assert method == "meta-perser" and list(table.index) == ["P", "a"] and list(table.columns) == [1, 2, 3]
    np.testing.assert_allclose(table, [[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]])
    # A rate that was chosen per fold differs between models, not within one.
    chosen = made_learnt().assign(value=lambda rows: rows["value"].where(rows["seed"] == 0, 2 * rows["value"]))
    assert list(steps.learned_rates(chosen)) == ["meta-perser"]


def test_rates_by_shots_are_the_power_by_which_they_grow():
    """Four times the shots, twice the rates: the square root; with three times in the other seed: 0.79, mean 0.65."""
    assert steps.rates_by_shots(made_learnt()).empty
    learnt = made_learnt()
    learnt = learnt[learnt["step"] >= 0]
    factor = learnt["seed"].map({0: 2.0, 1: 3.0})
    grown = pd.concat([learnt.assign(shots=5), learnt.assign(shots=20, value=learnt["value"] * factor)])
    [row] = steps.rates_by_shots(grown).to_dict("records")
    powers = np.log([2, 3]) / np.log(4)
    assert row == {"method": "meta-perser", "mean": pytest.approx(powers.mean()),
                   "std": pytest.approx(powers.std(ddof=1))}


def test_layer_weights_are_means_over_seeds_of_methods_that_have_weights_of_their_own():
    weights = upstreams.layer_weights(made_learnt())
    assert list(weights) == ["ssl-e", "meta-perser"], "MAML keeps those of SSL-E"
    np.testing.assert_allclose(weights["ssl-e"]["mean"], [0.15, 0.3, 0.55])
    np.testing.assert_allclose(weights["ssl-e"]["std"], [0.1 / np.sqrt(2), 0, 0.1 / np.sqrt(2)], atol=1e-12)
    assert upstreams.number_of_layers(made_learnt()) == 3


def test_parts_of_a_method_are_in_its_settings():
    for names, expected in (((), set()), (("csmt", "lslr"), {"CSMT", "LSLR"}), (("shared", "da"), {"shared", "DA"})):
        settings = {key: value for name in names for key, value in PARTS[name].items()}
        assert ablation.parts(METHODS["maml"][2] | settings) == expected
    assert ablation.parts({}) == set()


def test_combinations_that_differ_in_anything_else_are_no_design():
    frame = made_study(dict.fromkeys(ABLATION, 0), listeners=1)
    assert ablation.applies(made_run(frame)) and len(ablation.design(made_run(frame))) == 9
    assert not ablation.applies(made_run(frame, settings={"da+lslr": {"outer_lr": 1.0}}))
    assert not ablation.applies(made_run(frame[frame["method"] != "da+lslr"]))


def test_one_change_is_counted_in_the_settings_not_in_the_name():
    frame = made_study({"ssl-e": 0, "meta-perser": 3, "meta-perser-x": 5, "softened": 4, "maml": 1}, listeners=1)
    assert recipe.one_change(made_run(frame), "meta-perser") == ["softened"]
    assert recipe.one_change(made_run(frame, settings={"softened": {"epochs": 2}}), "meta-perser") == []
