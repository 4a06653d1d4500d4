"""The search: what a trial's points are, that it repeats and resumes, and that the experiments hold its outcome."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import SMALL, plan

from perser import experiment, records, search, workers
from perser.analysis.statistics import best_trials
from perser.errors import UserError

ROOT = Path(__file__).parents[1]
SEARCH = search.MethodSearch.model_validate({"trials": 3, "space": {
    "outer_lr": {"low": 1e-4, "high": 1e-1, "log": True}, "inner_steps": {"choices": [2, 5]}}})
METHOD = SMALL.methods["meta-perser"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    out = tmp_path_factory.mktemp("search")
    plans = {name: plan(out / name / "trials", seed=seed) for seed, name in enumerate(("one", "two"))}
    return out, plans, search.trials(plans, "meta-perser", METHOD, SEARCH, 0, 1)


def test_the_first_trial_is_the_experiment_itself_and_its_points_are_those_of_the_held_out_listeners(searched):
    out, _, frame = searched
    first = json.loads(frame["settings"][0])
    assert first == {"outer_lr": METHOD.outer_lr, "inner_steps": 5}
    records = workers.run(plan(out / "again" / "run", SMALL.model_copy(update={"methods": {"m": METHOD}})), 1)
    by_hand = {}
    for (setting, _), part in records.groupby(["setting", "shots"]):
        summed = part.groupby("listener").sum(numeric_only=True)
        by_hand.setdefault(setting, []).append(-100 * (summed["log_loss"] / summed["queries"]).mean())
    for setting in ("seen", "unseen"):
        assert frame[f"one {setting}"][0] == pytest.approx(np.mean(by_hand[setting]))
    columns = [f"{corpus} {setting}" for corpus in ("one", "two") for setting in ("seen", "unseen")]
    np.testing.assert_allclose(frame["points"], frame[columns].mean(axis=1))


def test_a_trial_draws_from_its_space_and_differs_from_the_others(searched):
    drawn = [json.loads(text) for text in searched[2]["settings"]]
    assert len({json.dumps(settings) for settings in drawn}) == 3
    assert all(1e-4 <= settings["outer_lr"] <= 1e-1 for settings in drawn)
    assert searched[2]["points"].nunique() > 1


def test_the_same_seed_repeats_without_computing_anything(searched, monkeypatch):
    _, plans, frame = searched
    monkeypatch.setattr(workers, "_compute_unit", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(search.trials(plans, "meta-perser", METHOD, SEARCH, 0, 1), frame)


def test_lists_alone_are_searched_exhaustively_and_without_repeats(monkeypatch):
    """Points follow from the combination; the experiment's own settings come first, although they are worst."""
    monkeypatch.setattr(search, "score", lambda plan, method, jobs: {"seen": method.inner_steps + method.query})
    space = {"inner_steps": {"choices": [5, 2, 3]}, "query": {"choices": [METHOD.query, 40]}}
    many = search.MethodSearch.model_validate({"trials": 50, "space": space})
    frame = search.trials({"one": None}, "meta-perser", METHOD, many, 0, 1)
    assert len(frame) == 6 == frame["settings"].nunique() and frame["points"].max() == 45
    assert json.loads(frame["settings"][0]) == {"inner_steps": 5, "query": METHOD.query}
    few = search.trials({"one": None}, "meta-perser", METHOD, many.model_copy(update={"trials": 2}), 0, 1)
    pd.testing.assert_frame_equal(few, frame[:2])


def test_trials_of_one_method_replace_those_of_before_and_name_their_commit(searched, tmp_path, monkeypatch):
    _, plans, frame = searched
    plan_of_search = search.Search.model_validate(
        {"experiment": "methods", "margin": 0.5, "corpora": {"one": {}}, "methods": {"a": SEARCH}})
    for commit, method, rows in (("c1", "a", frame), ("c1", "b", frame[:1]), ("c2", "a", frame[:2])):
        monkeypatch.setattr(search.provenance, "git", lambda commit=commit: {"commit": commit, "dirty": False})
        returned = search.write(tmp_path, method, rows.assign(method=method), plan_of_search, plans)
    kept = pd.read_csv(tmp_path / "trials.csv")
    assert kept[["method", "commit"]].values.tolist() == [["b", "c1"], ["a", "c2"], ["a", "c2"]]
    assert kept["settings"].tolist() == returned["settings"].tolist()
    manifest = records.sealed(tmp_path / "manifest.json", "search again")
    assert manifest["commit"] == "c2" and manifest["data"] == {name: plans[name].fingerprint for name in plans}
    assert (tmp_path / "tuned.toml").read_text() == search.tuned(kept, 0.5)
    (tmp_path / "trials.csv").write_text((tmp_path / "trials.csv").read_text().replace("c2", "c3"))
    with pytest.raises(UserError, match=r"trials\.csv: damaged, its digest has changed; search again"):
        records.sealed(tmp_path / "manifest.json", "search again")


def test_the_best_trial_stands_beside_the_first_which_is_kept_unless_it_is_beaten_by_the_margin():
    frame = pd.DataFrame({"method": ["a", "a", "a", "b"], "trial": [0, 1, 2, 0], "points": [1.0, 3.0, 3.0, 2.0],
                          "settings": list("wxyz")})
    best = best_trials(frame)
    assert best["settings"].tolist() == ["x", "z"]
    assert best_trials(frame, margin=1.9)["settings"].tolist() == ["x", "z"]
    assert best_trials(frame, margin=2.1)["settings"].tolist() == ["w", "z"]
    assert best["first"].tolist() == [1.0, 2.0] and best["trials"].tolist() == [3, 1]


def test_tuned_settings_are_toml_that_an_experiment_reads(tmp_path):
    """A number, a word, a truth value and a name that TOML must quote come through to the method."""
    frame = pd.DataFrame({"method": ["maml++", "a"], "trial": [0, 0], "points": [1.0, 2.0], "settings": [
        '{"outer_lr": 0.01, "early_stopping": "last", "lslr": true}', '{"epochs": 3}']})
    (tmp_path / "tuned.toml").write_text(search.tuned(frame, 0.0))
    (tmp_path / "shared.toml").write_text('["maml++"]\nkind = "maml"\n[a]\nkind = "maml"\n')
    (tmp_path / "x.toml").write_text('[methods]\none = { like = "maml++" }\ntwo = { like = "a" }\n')
    methods = experiment.load(tmp_path / "x.toml").methods
    assert (methods["one"].outer_lr, methods["one"].early_stopping, methods["one"].lslr) == (0.01, "last", True)
    assert methods["two"].epochs == 3


MAML_SEARCH = """experiment = "methods"
seed = 1
[corpora.a]
[methods.maml]
trials = 1
[methods.maml.space]
grad_clip = {low = 1, high = 2}
"""


@pytest.mark.parametrize(("text", "message"), [
    (MAML_SEARCH.replace("maml", "mam"), "methods.mam: methods has no such method"),
    (MAML_SEARCH.replace("grad_clip", "clips"), "methods.maml.space.clips: a maml method has no such setting"),
    (MAML_SEARCH.replace(", high = 2", ""), "give either low and high or choices"),
    (MAML_SEARCH.replace("seed = 1", "sede = 1"), "unknown key sede; the nearest valid key is seed"),
    (MAML_SEARCH.replace("trials = 1", "trials = 1\ntrails = 1"),
     "unknown key methods.maml.trails; the nearest valid key is trials"),
    (MAML_SEARCH.replace("low = 1", "low = 1, hihg = 1"),
     "unknown key methods.maml.space.grad_clip.hihg; the nearest valid key is high"),
    ("experiment = ", "not valid TOML"),
])
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, message):
    (tmp_path / "methods.toml").write_text('[methods.maml]\nkind = "maml"\n')
    (tmp_path / "search.toml").write_text(text)
    with pytest.raises(UserError) as error:
        search.read(tmp_path / "search.toml")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'search.toml'}: ")


TRIALS = ROOT / "results" / "search" / "trials.csv"


def test_the_committed_search_is_that_of_its_file():
    """Every method has the trials and spaces that the file names; where all spaces are lists there may be fewer.

    The first trial is the experiment as it stood, in the spaces or not.
    """
    plan_of_search, _ = search.read(ROOT / "perser" / "experiments" / "search.toml")
    table = pd.read_csv(TRIALS)
    committed = json.loads((ROOT / "results" / "search" / "manifest.json").read_text())["search"]
    assert committed == json.loads(plan_of_search.model_dump_json())
    assert set(table["method"]) == set(plan_of_search.methods)
    for name, method in plan_of_search.methods.items():
        rows = table[table["method"] == name]
        combinations = np.prod([len(space.choices or [0] * method.trials) for space in method.space.values()])
        assert len(rows) == min(method.trials, combinations) and rows["commit"].str.len().eq(40).all(), name
        assert all(set(json.loads(settings)) == set(method.space) for settings in rows["settings"])
        for settings in map(json.loads, rows.loc[rows["trial"] > 0, "settings"]):
            for key, space in method.space.items():
                assert (settings[key] in space.choices if space.choices
                        else space.low <= settings[key] <= space.high), (name, key)


def test_the_tuned_settings_are_those_of_the_committed_trials():
    folder = ROOT / "perser" / "experiments"
    expected = search.tuned(pd.read_csv(TRIALS), search.read(folder / "search.toml")[0].margin)
    assert (folder / "tuned.toml").read_text() == expected == TRIALS.with_name("tuned.toml").read_text()


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "perser" / "experiments").glob("*.toml")
                                        if path.name not in {*experiment.SHARED, "search.toml"}))
def test_experiments_hold_the_outcome_of_the_committed_search(name):
    """In the ablation every row that is trained has the outcome for the complete recipe."""
    margin = search.read(ROOT / "perser" / "experiments" / "search.toml")[0].margin
    best = best_trials(pd.read_csv(TRIALS), margin).set_index("method")["settings"].map(json.loads)
    methods = experiment.load(ROOT / "perser" / "experiments" / f"{name}.toml").methods
    if name == "ablation":
        best = {row: best["meta-perser"] for row, method in methods.items() if method.kind == "maml" and method.epochs}
    shown = [row for row in methods if row in best]
    assert len(shown) >= (10 if name == "ablation" else 1)
    for row in shown:
        settings = methods[row].model_dump()
        assert {key: settings[key] for key in best[row]} == best[row], row
