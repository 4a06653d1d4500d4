"""The search: what a trial is worth, that it repeats and goes on, that the experiments hold what it found."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_runs import SMALL, plan

from perser import config, runs, search
from perser.analysis import study
from perser.errors import UserError
from perser.scores import macro_f1

ROOT = Path(__file__).resolve().parent.parent
WANTED = search.Wanted.model_validate({"trials": 3, "space": {
    "outer_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "inner_steps": {"choices": [2, 5]}}})
METHOD = SMALL.methods["meta-perser"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("search")
    plans = {name: plan(out / name / "trials", seed=seed) for seed, name in enumerate(("one", "two"))}
    return out, plans, search.trials(plans, "meta-perser", METHOD, WANTED, 0, 1)


def test_the_first_trial_is_the_experiment_itself_and_its_points_are_the_held_out_listeners(found):
    out, _, frame = found
    first = json.loads(frame["settings"][0])
    assert first == {"outer_rate": METHOD.outer_rate, "inner_steps": 5}
    records = runs.run(plan(out / "again" / "run", SMALL.model_copy(update={"methods": {"m": METHOD}})), 1)
    by_hand = {}
    for (setting, _), part in records.groupby(["setting", "shots"]):
        summed = part.groupby("listener").sum(numeric_only=True)
        counts = [summed.filter(regex=f"^{kind}_").to_numpy() for kind in ("tp", "fp", "fn")]
        by_hand.setdefault(setting, []).append(100 * macro_f1(*counts).mean())
    for setting in ("seen", "unseen"):
        assert frame[f"one {setting}"][0] == pytest.approx(np.mean(by_hand[setting]))
    each = [f"{corpus} {setting}" for corpus in ("one", "two") for setting in ("seen", "unseen")]
    np.testing.assert_allclose(frame["points"], frame[each].mean(axis=1))


def test_a_trial_draws_from_its_space_and_differs(found):
    settings = [json.loads(text) for text in found[2]["settings"]]
    assert len({json.dumps(each) for each in settings}) == 3
    assert all(1e-4 <= each["outer_rate"] <= 1e-1 for each in settings)
    assert found[2]["points"].nunique() > 1


def test_the_same_seed_repeats_without_computing_anything(found, monkeypatch):
    _, plans, frame = found
    monkeypatch.setattr(runs, "_unit", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(search.trials(plans, "meta-perser", METHOD, WANTED, 0, 1), frame)


def test_lists_alone_are_searched_whole_and_each_combination_once(tmp_path, monkeypatch):
    """Points that the combination decides; the experiment's own settings come first, although they are worst."""
    monkeypatch.setattr(search, "score", lambda plan, method, jobs: {"seen": method.inner_steps + method.episodes})
    space = {"inner_steps": {"choices": [5, 2, 3]}, "episodes": {"choices": [METHOD.episodes, 40]}}
    wanted = search.Wanted.model_validate({"trials": 50, "space": space})
    found = search.trials({"one": None}, "meta-perser", METHOD, wanted, 0, 1)
    assert len(found) == 6 == found["settings"].nunique() and found["points"].max() == 45
    assert json.loads(found["settings"][0]) == {"inner_steps": 5, "episodes": METHOD.episodes}
    few = search.trials({"one": None}, "meta-perser", METHOD, wanted.model_copy(update={"trials": 2}), 0, 1)
    pd.testing.assert_frame_equal(few, found[:2])


def test_trials_of_one_method_replace_its_own_and_name_their_commit(found, tmp_path, monkeypatch):
    _, plans, frame = found
    wanted = search.Search.model_validate({"experiment": "methods", "corpora": {"one": {}}, "methods": {"a": WANTED}})
    for commit, method, rows in (("c1", "a", frame), ("c1", "b", frame[:1]), ("c2", "a", frame[:2])):
        monkeypatch.setattr(search.provenance, "git", lambda commit=commit: {"commit": commit, "dirty": False})
        all_of_them = search.write(tmp_path, method, rows.assign(method=method), wanted, plans)
    kept = pd.read_csv(tmp_path / "trials.csv")
    assert kept[["method", "commit"]].values.tolist() == [["b", "c1"], ["a", "c2"], ["a", "c2"]]
    assert kept["settings"].tolist() == all_of_them["settings"].tolist()
    assert json.loads((tmp_path / "manifest.json").read_text())["commit"] == "c2"


def test_the_committed_search_is_the_one_of_the_file():
    """Every method with the trials and spaces that its file names; lists alone may have fewer."""
    wanted, _ = search.read(ROOT / "experiments" / "search.toml")
    table = pd.read_csv(ROOT / "results" / "search" / "trials.csv")
    held = json.loads((ROOT / "results" / "search" / "manifest.json").read_text())["search"]
    assert held == json.loads(wanted.model_dump_json())
    for name, asked in wanted.methods.items():
        mine = table[table["method"] == name]
        whole = np.prod([len(space.choices or [0] * asked.trials) for space in asked.space.values()])
        assert len(mine) == min(asked.trials, whole) and mine["commit"].str.len().eq(40).all(), name
        for settings in map(json.loads, mine["settings"]):
            assert set(settings) == set(asked.space)
            for key, space in asked.space.items():
                assert (settings[key] in space.choices if space.choices
                        else space.low <= settings[key] <= space.high), (name, key)


def test_the_outcome_is_the_best_trial_beside_the_first():
    frame = pd.DataFrame({"method": ["a", "a", "a", "b"], "trial": [0, 1, 2, 0], "points": [1.0, 3.0, 3.0, 2.0],
                          "settings": list("wxyz")})
    best = study.found(frame)
    assert best["settings"].tolist() == ["x", "z"]
    assert study.found(frame, margin=1.9)["settings"].tolist() == ["x", "z"]
    assert study.found(frame, margin=2.1)["settings"].tolist() == ["w", "z"]
    assert best["first"].tolist() == [1.0, 2.0] and best["trials"].tolist() == [3, 1]


@pytest.mark.parametrize(("text", "message"), [
    ("experiment = 'methods'\n[corpora.a]\n[methods.mam]\ntrials=1\n[methods.mam.space]\nclip={low=1,high=2}",
     "methods.mam: methods has no such method"),
    ("experiment = 'methods'\n[corpora.a]\n[methods.maml]\ntrials=1\n[methods.maml.space]\nclips={low=1,high=2}",
     "methods.maml.space.clips: a maml method has no such setting"),
    ("experiment = 'methods'\n[corpora.a]\n[methods.maml]\ntrials=1\n[methods.maml.space]\nclip={low=1}",
     "give either low and high or choices"),
    ("experiment = ", "not a readable search file"),
])
def test_a_wrong_file_is_one_line(tmp_path, text, message):
    (tmp_path / "methods.toml").write_text((ROOT / "experiments" / "methods.toml").read_text())
    (tmp_path / "search.toml").write_text(text)
    with pytest.raises(UserError) as error:
        search.read(tmp_path / "search.toml")
    assert message in str(error.value) and "\n" not in str(error.value)


def not_found(experiment):
    """Methods of an experiment that have other settings than the committed search found."""
    wanted, _ = search.read(ROOT / "experiments" / "search.toml")
    best = study.found(pd.read_csv(ROOT / "results" / "search" / "trials.csv"), wanted.margin)
    assert set(best["method"]) == set(wanted.methods)
    found = {row["method"]: json.loads(row["settings"]) for row in best.to_dict("records")}
    methods = config.load(ROOT / "experiments" / f"{experiment}.toml").methods
    if experiment == "ablation":  # every row that is trained has the whole recipe's settings, as far as it has the part
        recipe = found["meta-perser"]
        found = {name: {key: recipe[key] for key in recipe if key != "rate_rate" or method.lslr}
                 for name, method in methods.items() if method.kind == "maml" and method.epochs}
    return {name for name in methods if name in found
            and any(methods[name].model_dump()[key] != value for key, value in found[name].items())}


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (ROOT / "experiments").glob("*.toml")
                                              if path.stem != "search"))
def test_experiments_hold_what_the_committed_search_found(experiment):
    assert not not_found(experiment)
