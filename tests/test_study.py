"""The numbers of each experiment, from records or scores in which they are known."""

import numpy as np
import pandas as pd
import pytest
from made_records import made_learnt, made_study

from perser.analysis import study
from perser.scores import per_seed


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
    table = scores(levels)
    assert study.best_baseline(table, "seen", 20) == "prior-shift"
    assert study.best_baseline(scores({"ssl-e": 0.3, "scratch": 0.1}), "seen", 20) == "ssl-e"
    assert study.best_baseline(scores({"maml": 0.3}), "seen", 20) is None


def test_each_meta_method_meets_the_best_of_its_own_setting():
    table = scores({"ssl-e": 0.3, "prior-shift": 0.4, "fine-tuning": 0.42, "maml": 0.5, "anil": 0.41})
    table.loc[(table["method"] == "prior-shift") & (table["setting"] == "unseen"), "f1"] += 0.05
    found = study.against_best(table)
    assert found[["method", "setting", "baseline"]].values.tolist() == [
        ["maml", "seen", "fine-tuning"],
        ["anil", "seen", "fine-tuning"],
        ["maml", "unseen", "prior-shift"],
        ["anil", "unseen", "prior-shift"],
    ]
    assert found["mean"].tolist() == pytest.approx([0.08, -0.01, 0.05, -0.04])


def test_the_ladder_holds_simple_methods_against_ssl_e_and_meta_learning_against_their_best():
    few = scores({"ssl-e": 0.3, "prior-shift": 0.4, "fine-tuning": 0.35, "maml": 0.5, "all-data": 0.9}, shots=5)
    table = pd.concat([few, scores({"prior-shift": 0.4, "fine-tuning": 0.45, "maml": 0.42}, shots=20)])
    found = study.ladder(table)
    seen = [["prior-shift", "ssl-e", 5], ["fine-tuning", "ssl-e", 5], ["maml", "prior-shift", 5],
            ["prior-shift", "ssl-e", 20], ["fine-tuning", "ssl-e", 20], ["maml", "fine-tuning", 20]]
    assert found.loc[found["setting"] == "seen", ["method", "baseline", "shots"]].values.tolist() == seen
    assert found["mean"].tolist() == pytest.approx([0.1, 0.05, 0.1, 0.1, 0.15, -0.03] * 2)
    assert (found["p_holm"] >= found["p"]).all() and set(found["setting"]) == {"seen", "unseen"}
    assert study.ladder(scores({"maml": 0.5, "anil": 0.4})).empty  # nothing to be held against


def test_other_numbers_of_steps_are_held_against_the_trained_one():
    """Each step is one more hit of a hundred, in points 1; SSL-E and fine-tuning were trained with none."""
    taken = {"maml": (0, 1, 3), "fine-tuning": (0, 1)}
    frame = made_study({"ssl-e": 0, "fine-tuning": 1, "maml": 2}, "steps", steps=taken, noise=0)
    manifest = {"config": {"methods": {"ssl-e": {}, "fine-tuning": {}, "maml": {"inner_steps": 1}}}}
    found = study.against_trained(frame, manifest)
    assert found[["method", "setting", "shots", "steps", "trained"]].values.tolist() == [
        ["maml", setting, 20, steps, 1] for setting in ("seen", "unseen") for steps in (0, 3)]
    assert found["mean"].tolist() == pytest.approx([-0.01, 0.02] * 2) and (found["listeners"] == 8).all()
    assert study.against_trained(frame, {"config": {"methods": {"maml": {"inner_steps": 7}}}}).empty


ABLATION = {"maml": 0.30, "csmt": 0.30, "da": 0.31, "lslr": 0.33, "csmt+da": 0.31, "csmt+lslr": 0.37}
ABLATION |= {"da+lslr": 0.34, "csmt+da+lslr": 0.38, "shared+da+lslr": 0.32}


def test_main_effects_average_over_the_other_parts():
    found = study.effects(scores(ABLATION)).set_index(["part", "setting"])["mean"]
    # DA adds 0.01 everywhere; LSLR 0.03, with CSMT 0.07; CSMT nothing, with LSLR 0.04.
    assert found["da", "seen"] == pytest.approx(0.01)
    assert found["lslr", "unseen"] == pytest.approx(0.05)
    assert found["csmt", "seen"] == pytest.approx(0.02)
    assert found["shared", "seen"] == pytest.approx(0.32 - 0.38)


def test_effects_come_for_every_number_of_shots_and_only_of_whole_designs():
    table = pd.concat([scores(ABLATION, shots=10), scores(ABLATION, shots=20)])
    assert sorted(set(study.effects(table)["shots"])) == [10, 20]
    some = {name: level for name, level in ABLATION.items() if name != "csmt+da+lslr"}
    assert study.effects(scores(some)).empty
    assert set(study.effects(scores(ABLATION | {"ssl-e": 0.2}))["part"]) == {"csmt", "da", "lslr", "shared"}


def test_gains_are_in_points_at_every_number_of_shots():
    table = pd.concat([scores({"ssl-e": 0.3, "maml": 0.4}, shots=20), scores({"maml": 0.35}, shots=5)])
    found = study.gains(table).set_index(["method", "setting", "shots"])["mean"]
    assert set(study.gains(table, largest=True)["shots"]) == {20}
    assert found["maml", "seen", 20] == pytest.approx(10) and found["maml", "unseen", 5] == pytest.approx(5)
    assert "ssl-e" not in found.index.get_level_values("method")


STEPS = {"fine-tuning": (0, 1, 2), "maml": (0, 1, 2)}


@pytest.mark.parametrize("base", [{}, {"ssl-e": 0}])
def test_steps_are_kept_apart_and_measured_from_ssl_e(base):
    frame = made_study(base | {"fine-tuning": 0, "maml": 3}, "steps", (20,), steps=STEPS | dict.fromkeys(base, (0,)),
                       noise=0)
    # One point of F1 per hit. Shots add four hits to methods with shots, so that SSL-E itself is four lower.
    lower = 4 if base else 0
    found = study.by_step(frame).set_index(["method", "steps", "setting"])
    for step in (0, 1, 2):
        assert found.loc[("maml", step, "seen"), "gain"] == pytest.approx(3 + step + lower)
        assert found.loc[("fine-tuning", step, "unseen"), "gain"] == pytest.approx(step + lower)
        difference = found.loc[("maml", step, "seen"), "mean"] - found.loc[("maml", 0, "seen"), "mean"]
        assert difference == pytest.approx(step)
    assert (found["records"] == 16).all() and set(found.loc[found["gain"] != 0, "shots"]) == {20}


def test_trained_steps_are_the_manifests():
    methods = {"maml": {"inner_steps": 5}, "fine-tuning": {"steps": [1, 5]}}
    assert study.trained_steps({"config": {"methods": methods}}) == {"maml": 5}
    assert study.trained_steps({}) == {}


def test_gains_meet_the_traits_of_the_same_listener():
    frame = made_study({"ssl-e": 0, "meta-perser": 6}, noise=0, listeners=4)
    extra = frame["listener"].str.removeprefix("E").astype(int) * (frame["method"] == "meta-perser")
    frame = frame.assign(**{kind: frame[kind] + extra for kind in ("tp_x", "tp_y")},
                         **{kind: frame[kind] - extra for kind in ("fp_x", "fp_y", "fn_x", "fn_y")})
    traits = pd.DataFrame({"listener": ["E3", "E0", "E1", "E2"], "distance": [0.9, 0.1, 0.2, 0.3],
                           "consistency": [0.0, 3.0, 2.0, 1.0]})
    found = study.gains_and_traits(per_seed(frame), traits, "meta-perser")
    mine = found[found["setting"] == "seen"].set_index("listener")
    # Level 6, shots 20 / 5 and the listener's number, one point each.
    assert mine["gain"].to_dict() == pytest.approx({"E0": 10, "E1": 11, "E2": 12, "E3": 13})
    assert mine["distance"].to_dict() == {"E0": 0.1, "E1": 0.2, "E2": 0.3, "E3": 0.9}
    rho = study.correlations(found).set_index(["setting", "trait", "given"])["rho"]
    assert rho["seen", "distance", ""] == pytest.approx(1) and rho["unseen", "consistency", ""] == pytest.approx(-1)
    assert np.isnan(rho["seen", "distance", "consistency"])  # the one trait is all that the other is


def test_learnt_rates_are_means_by_tensor_and_step_without_tensors_at_rest():
    table = study.learnt_rates(made_learnt(), "meta-perser")
    assert list(table.index) == ["P", "a"] and list(table.columns) == [1, 2, 3]
    np.testing.assert_allclose(table, [[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]])
    assert list(study.rates_that_differ(made_learnt())) == ["meta-perser"]
    # A rate that was chosen per fold differs between models, not within one.
    chosen = made_learnt().assign(value=lambda rows: rows["value"].where(rows["seed"] == 0, 2 * rows["value"]))
    assert list(study.rates_that_differ(chosen)) == ["meta-perser"]
    assert study.layers(made_learnt()) == 3


def test_rates_by_shots_are_the_power_by_which_they_grow():
    """Four times the shots, twice the rates: the square root; with three times in the other seed: 0.79, mean 0.65."""
    assert study.rates_by_shots(made_learnt()).empty
    learnt = made_learnt()
    learnt = learnt[learnt["step"] >= 0]
    factor = learnt["seed"].map({0: 2.0, 1: 3.0})
    grown = pd.concat([learnt.assign(shots=5), learnt.assign(shots=20, value=learnt["value"] * factor)])
    [row] = study.rates_by_shots(grown).to_dict("records")
    powers = np.log([2, 3]) / np.log(4)
    assert row == {"method": "meta-perser", "mean": pytest.approx(powers.mean()),
                   "std": pytest.approx(powers.std(ddof=1))}


def test_layer_weights_are_means_over_seeds():
    found = study.layer_weights(made_learnt(), "ssl-e")
    np.testing.assert_allclose(found["mean"], [0.15, 0.3, 0.55])
    np.testing.assert_allclose(found["std"], [0.1 / np.sqrt(2), 0, 0.1 / np.sqrt(2)], atol=1e-12)
    assert study.layer_weights(made_learnt(), "anil").empty


def test_what_lies_beside_the_records_may_be_missing(tmp_path):
    assert study.beside(tmp_path, "learnt") is None
    made_learnt().to_parquet(tmp_path / "learnt.parquet")
    pd.testing.assert_frame_equal(study.beside(tmp_path, "learnt"), made_learnt())
