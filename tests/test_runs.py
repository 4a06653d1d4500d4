"""Runs: every option changes what it names, the same settings give the same records, a kill loses nothing."""

import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import made
import pandas as pd
import pytest
import torch

from perser import checkpoints, head, records, runs
from perser.adapt import scalar_rates
from perser.baselines import choose_rates, material, train_base
from perser.config import Aggregated, Base, Experiment, Finetune, Maml
from perser.errors import UserError
from perser.evaluate import Learner, draws_by_listener, evaluate
from perser.metatrain import metatrain
from perser.splits import listener_groups, split

UPSTREAM = SimpleNamespace(name="made", identity="made 1", standardise=True)
SMALL = Experiment(
    name="small", seeds=(0,), shots=(3, 5), draws=2, dev_draws=2, folds=(1, 2),
    base=Base(hidden=8, epochs=2, rate=1e-2),
    methods={"ssl-e": Aggregated(), "fine-tuning": Finetune(rates=(0.01, 0.1), steps=(1, 3)),
             "meta-perser": Maml(anneal=0.5, lslr=True, rate_rate=0.01, epochs=2, steps=2, query=5)})


def plan(out, experiment=SMALL, **settings):
    corpus, features = made.corpus(**settings)
    return runs.Plan(experiment, corpus, UPSTREAM, features, (0.0, 1.0), out)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, runs.run(plan(out), jobs=1)


def test_records_are_complete(small):
    out, frame = small
    listeners = [f"E{i}" for i in range(1, 7)]
    assert set(records.COLUMNS) <= set(frame) and records.classes(frame) == made.CLASSES
    assert len(frame) == 2 * 6 * 2 * (1 + 2 + 2)
    assert not frame.duplicated(records.KEYS).any()
    assert sorted(frame["listener"].unique()) == listeners
    assert set(frame.loc[frame["method"] == "ssl-e", "shots"]) == {0}
    assert (frame["synthetic"] == "made up").all()
    tp, _, fn = records.counts(frame)
    labels = tp + fn
    assert (labels.sum(1) >= frame["queries"]).all() and (frame["top"] <= frame["queries"]).all()
    by_case = frame.assign(labels=labels.sum(1)).groupby(["setting", "fold", "listener"])["labels"]
    assert (by_case.nunique() == 1).all(), "every method is asked the same queries"
    pd.testing.assert_frame_equal(records.read(out), frame)
    told = records.manifest(out)
    assert told["units"] == 12 and told["config"]["draws"] == 2 and told["machine"]["packages"]["torch"]


def test_the_same_settings_give_the_same_records_in_any_number_of_processes(small, tmp_path):
    pd.testing.assert_frame_equal(runs.run(plan(tmp_path), jobs=2), small[1])


def test_nothing_is_computed_twice(small, monkeypatch):
    out, frame = small
    monkeypatch.setattr(runs, "_unit", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(runs.run(plan(out), jobs=1), frame)


def test_only_what_is_missing_is_computed(small, tmp_path):
    _, frame = small
    here = plan(tmp_path)
    runs.run(here, jobs=1)
    victim = here.part((2, 3, 0), "fine-tuning")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir() if path != victim}
    victim.unlink()
    pd.testing.assert_frame_equal(runs.run(here, jobs=1), frame)
    assert victim.exists() and all(path.stat().st_mtime_ns == then for path, then in kept.items())


def test_other_settings_do_not_overwrite_a_run(small):
    out, _ = small
    with pytest.raises(UserError, match="another `draws`"):
        runs.run(plan(out, SMALL.model_copy(update={"draws": 3})), jobs=1)


def test_other_data_is_not_served_from_old_parts(small, tmp_path):
    assert plan(tmp_path, seed=1).part((1, 0, 0), "ssl-e").name != plan(tmp_path).part((1, 0, 0), "ssl-e").name


def test_folds_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UserError, match="folds 1 to 5"):
        plan(tmp_path, SMALL.model_copy(update={"folds": (6,)}))


def test_models_come_back_as_they_were(small):
    out, _ = small
    place = out / "checkpoints" / "fold1-group0-seed0" / "meta-perser"
    model = checkpoints.load(place)
    checkpoints.save(model, place.parent / "copy")
    again = checkpoints.load(place.parent / "copy")
    assert again.about == model.about and list(again.learner.rates) == [3, 5]
    for one, other in zip(model.learner.head, again.learner.head, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("damage, words", [
    (lambda place: (place / "model.json").unlink(), "no model there"),
    (lambda place: (place / "model.json").write_text("{"), "not a model"),
    (lambda place: (place / "model.safetensors").write_bytes(b"x" * 9), "not a model"),
])
def test_damaged_models_are_one_line(small, damage, words):
    out, _ = small
    place = out / "checkpoints" / "fold1-group0-seed0" / "meta-perser"
    copy = place.parent / "damaged"
    checkpoints.save(checkpoints.load(place), copy)
    damage(copy)
    with pytest.raises(UserError, match=words) as caught:
        checkpoints.load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage, words", [
    (lambda path: path.unlink(), "no records there"),
    (lambda path: path.write_bytes(b"PAR1 half"), "not a readable records file"),
    (lambda path: pd.DataFrame({"corpus": ["x"]}).to_parquet(path), "column upstream is missing"),
])
def test_damaged_records_are_one_line(small, tmp_path, damage, words):
    path = tmp_path / "records.parquet"
    small[1].to_parquet(path)
    damage(path)
    with pytest.raises(UserError, match=words) as caught:
        records.read(tmp_path)
    assert "\n" not in str(caught.value)


def ready(base=SMALL.base):
    arrays = made.arrays()
    part = split(arrays, 1, 0, listener_groups(arrays, 6, 25), False)
    return material(arrays, part, base, True)


def base_head(seed=0, **changes):
    base = SMALL.base.model_copy(update=changes)
    return train_base(ready(base), base, seed)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("change", [
    {"rate": 1e-3}, {"batch": 8}, {"epochs": 1}, {"clip": 0.01}, {"smoothing": 0.2}, {"weights": False},
    {"targets": "pooled"}, {"seed": 1}])
def test_each_option_of_the_base_system_changes_it(change):
    assert same(base_head(), base_head()) and not same(base_head(), base_head(**change))


def test_hidden_width_and_standardisation_change_the_model():
    assert base_head(hidden=4).P.shape[0] == 4
    arrays = made.arrays()
    part = split(arrays, 1, 0, listener_groups(arrays, 6, 25), False)
    raw, scaled = (material(arrays, part, SMALL.base, on) for on in (False, True))
    assert torch.equal(raw.data.features, arrays.features) and not torch.equal(scaled.data.features, arrays.features)
    clips = torch.tensor(sorted(set(arrays.clip[part.train])))
    assert scaled.data.features[clips].mean(0).abs().max() < 1e-5
    assert scaled.data.features[clips].std(0).sub(1).abs().max() < 1e-5


def meta(seed=0, **changes):
    here = ready()
    start = train_base(here, SMALL.base, 0)
    method = Maml(**{"epochs": 2, "steps": 2, "query": 5, "episodes": 4, **changes})
    dev = draws_by_listener(here.data, here.split.dev, (3, 5), 2, 5, 0, "dev draws")
    adapts = torch.tensor([float(name in method.adapts) for name in head.TENSORS])
    rates = torch.full((method.inner_steps, 5), method.rates[0]) * adapts
    learner, history = metatrain(here, start, rates, method, (3, 5), dev, seed)
    return [*learner.head, learner.rates[5]], history


@pytest.fixture(scope="module")
def plain():
    return meta()


@pytest.mark.parametrize("change", [
    {"csmt": "split"}, {"csmt": "shared"}, {"anneal": 1.0}, {"anneal": 0.5}, {"lslr": True}, {"adapts": ("A", "a")},
    {"adapts": ("mix", "P", "b", "A", "a")}, {"inner_steps": 2}, {"rates": (0.02,)}, {"outer_rate": 0.01},
    {"epochs": 1}, {"steps": 3}, {"episodes": 2}, {"query": 4}, {"clip": 0.001}, {"seed": 1}])
def test_each_option_of_meta_training_changes_it(plain, change):
    weights, history = meta(**change)
    assert history[1:] != plain[1][1:]
    assert len(weights[5]) == change.get("inner_steps", 5)


def test_the_rate_of_rates_matters_with_learnt_rates_alone():
    assert meta(lslr=True, rate_rate=0.1)[1] != meta(lslr=True)[1]
    assert meta(rate_rate=0.1)[1] == meta()[1]


def test_meta_training_again_is_the_same(plain):
    assert meta()[1] == plain[1] and same(meta()[0], plain[0])


def test_rates_of_tensors_that_do_not_adapt_stay_zero():
    (*_, rates), _ = meta(lslr=True, adapts=("A", "a"), rate_rate=0.1)
    assert (rates[:, :3] == 0).all() or (rates == 0.001 * torch.tensor([0, 0, 0, 1, 1.0])).all()


def counts(shots=5, draws=2, seed=0, rates=None):
    here = ready()
    start = train_base(here, SMALL.base, 0)
    found = draws_by_listener(here.data, here.split.unseen, (3, 5), draws, 5, seed, "test draws")
    learner = Learner(start, dict.fromkeys((3, 5), scalar_rates(0.3, 3) if rates is None else rates))
    [(got, loss)] = evaluate(here.data, here.targets, here.class_weights, learner, shots, [found[0, shots]])
    return got.queries, loss


def test_listeners_with_queries_of_different_lengths_are_scored_as_if_alone():
    here = ready()
    start = train_base(here, SMALL.base, 0)
    alone = [draws_by_listener(here.data, pool, (5,), 2, 5, 0, "test draws")[0, 5]
             for pool in (here.split.unseen, here.split.unseen[:-7], here.split.seen)]
    assert len({part.query.shape[1] for part in alone}) == 3
    learner = Learner(start, {5: scalar_rates(0.3, 3)})
    rest = (here.data, here.targets, here.class_weights, learner, 5)
    for (together, loss), part in zip(evaluate(*rest, alone), alone, strict=True):
        [(single, expected)] = evaluate(*rest, [part])
        assert loss == pytest.approx(expected, rel=1e-5) and together.queries == single.queries == part.query.size
        assert (together.tp == single.tp).all() and (together.fn == single.fn).all()


@pytest.mark.parametrize("change", [{"shots": 3}, {"draws": 3}, {"seed": 1}, {"rates": scalar_rates(0.1, 3)},
                                    {"rates": scalar_rates(0.3, 4)}])
def test_each_option_of_the_evaluation_changes_it(change):
    assert counts() == counts() != counts(**change)


def test_rates_are_chosen_by_the_dev_listeners():
    """Of a grid with one useless rate (it blows up) and a small one, the small one is taken, for every shots."""
    here = ready()
    start = train_base(here, SMALL.base.model_copy(update={"epochs": 30}), 0)
    dev = draws_by_listener(here.data, here.split.dev, (3, 5), 2, 5, 0, "dev draws")
    grid = [scalar_rates(1e4, 3), scalar_rates(0.001, 3)]
    for per_shots in (True, False):
        chosen = choose_rates(here, start, grid, dev, per_shots)
        assert set(chosen) == {3, 5} and all(torch.equal(rates, grid[1]) for rates in chosen.values())


KILLED = """
import sys
sys.path[:0] = {path!r}
from test_runs import plan, runs
print("ready", flush=True)
runs.run(plan({out!r}), jobs=1)
print("done", flush=True)
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_records(small, tmp_path):
    """SIGKILL again and again, each time a little later, until one start survives."""
    import os
    from pathlib import Path

    out = tmp_path / "run"
    code = KILLED.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[1])], out=str(out))
    kills, wait = 0, 0.5
    while True:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                                 start_new_session=True)
        assert child.stdout.readline() == "ready\n"
        try:
            child.wait(timeout=wait)
            assert child.returncode == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            kills, wait = kills + 1, wait * 1.7
        finally:
            child.stdout.close()
    assert kills >= 1
    pd.testing.assert_frame_equal(records.read(out), small[1])
    assert (out / "DONE").exists() and json.loads((out / "manifest.json").read_text())["units"] == 12
