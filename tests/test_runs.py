"""Runs: every option changes what it names, the same settings give the same records, a kill loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import made
import pandas as pd
import pytest
import torch

from perser import checkpoints, head, records, runs
from perser.adapt import scalar_rates
from perser.baselines import choose, cross_fitted, train_base
from perser.config import Aggregated, Base, Experiment, Finetune, Maml, Priors
from perser.errors import UserError
from perser.evaluate import Learner, answer, dev_score, draws_by_listener, evaluate
from perser.losses import soft_f1
from perser.material import material
from perser.metatrain import metatrain
from perser.splits import listener_groups, split

UPSTREAM = SimpleNamespace(name="made", identity="made 1", standardise=True, random=False)
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
    out = tmp_path_factory.mktemp("small") / "run"
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
    pd.testing.assert_frame_equal(runs.run(plan(tmp_path / "run"), jobs=2), small[1])


def test_nothing_is_computed_twice(small, monkeypatch):
    out, frame = small
    monkeypatch.setattr(runs, "_unit", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(runs.run(plan(out), jobs=1), frame)


def test_only_what_is_missing_is_computed(small, tmp_path):
    _, frame = small
    here = plan(tmp_path / "run")
    runs.run(here, jobs=1)
    victim = here.part((2, 3, 0), "fine-tuning") / "records.parquet"
    parts = list((tmp_path / "parts").glob("*/records.parquet"))
    kept = {path: path.stat().st_mtime_ns for path in parts if path != victim}
    assert len(parts) == 36
    victim.unlink()
    pd.testing.assert_frame_equal(runs.run(here, jobs=1), frame)
    assert victim.exists() and all(path.stat().st_mtime_ns == then for path, then in kept.items())


def test_experiments_with_the_same_settings_share_their_parts(small, monkeypatch):
    """Another experiment beside it, with two of its methods: nothing is computed, its records are its own."""
    out, frame = small
    methods = {name: SMALL.methods[name] for name in ("ssl-e", "meta-perser")}
    monkeypatch.setattr(runs, "_unit", lambda *_: pytest.fail("computed again"))
    other = runs.run(plan(out.parent / "other", SMALL.model_copy(update={"name": "other", "methods": methods})), jobs=1)
    expected = frame[frame["method"].isin(methods)].assign(experiment="other").reset_index(drop=True)
    pd.testing.assert_frame_equal(other, expected)
    assert checkpoints.load(out.parent / "other" / "checkpoints" / "fold1-group0-seed0" / "meta-perser")
    more = SMALL.model_copy(update={"draws": 3})
    assert plan(out, more).part((1, 0, 0), "ssl-e") != plan(out).part((1, 0, 0), "ssl-e")


def test_records_of_another_run_are_taken_over_where_the_present_code_repeats_them(small, tmp_path):
    """One unit of fine-tuning was counted otherwise, one of MAML is missing, another method has other settings."""
    out, frame = small
    old = tmp_path / "old"
    shutil.copytree(out, old)
    last = (frame["fold"] == 2) & (frame["listener"] == "E6")
    frame = frame.assign(top=frame["top"].where(~last | (frame["method"] != "fine-tuning"), 0))
    gone = (frame["method"] == "meta-perser") & (frame["fold"] == 1) & (frame["listener"] == "E4")
    records.write(frame[~gone], old / "records.parquet")
    told = records.manifest(old)
    records.write_json(told | {"code": "0" * 16, "commit": "1" * 40}, old / "manifest.json")
    more = SMALL.methods | {"longer": SMALL.methods["meta-perser"].model_copy(update={"epochs": 1})}
    here = plan(tmp_path / "new" / "run", SMALL.model_copy(update={"name": "other", "methods": more}))
    assert runs.reuse(here, old, jobs=1) == ["ssl-e", "meta-perser"]
    assert [unit for unit in here.units if "meta-perser" in here.missing(unit)] == [(1, 3, 0)]
    assert len([unit for unit in here.units if "fine-tuning" in here.missing(unit)]) == len(here.units) - 2
    assert all("longer" in here.missing(unit) for unit in here.units)
    found = runs.run(here, jobs=1)
    pd.testing.assert_frame_equal(found[found["method"] != "longer"].reset_index(drop=True),
                                  small[1].assign(experiment="other"))
    mine, theirs = sorted(records.manifest(here.out)["parts"], key=lambda part: part["code"] == "0" * 16)
    assert (mine["parts"], theirs["parts"], theirs["commit"]) == (12 + 12 + 2 + 3, 10 + 9, "1" * 40)
    assert theirs["methods"] == ["meta-perser", "ssl-e"] and theirs["minutes"] is None and mine["minutes"] > 0
    for name in ("learnt.parquet", "listeners.parquet"):
        kept = pd.read_parquet(here.out / name)
        kept = kept[kept["method"] != "longer"].reset_index(drop=True) if "method" in kept else kept
        pd.testing.assert_frame_equal(kept, pd.read_parquet(out / name))


@pytest.mark.parametrize("change, key", [({"draws": 3}, "draws"), ({"base": Base(hidden=4)}, "base")])
def test_records_of_other_settings_are_not_taken_over(small, tmp_path, change, key):
    with pytest.raises(UserError, match=f"a run with another `{key}`"):
        runs.reuse(plan(tmp_path / "run", SMALL.model_copy(update=change)), small[0], jobs=1)


def test_records_of_another_machine_are_taken_over_and_say_so(small, tmp_path):
    """There one count of SSL-E was another by one and one of fine-tuning by two; here neither would be the same."""
    out, frame = small
    old = tmp_path / "old"
    shutil.copytree(out, old)
    first = frame.drop_duplicates("method").index
    changed = frame.assign(top=frame["top"] + pd.Series({first[0]: 1, first[1]: -2}).reindex(frame.index, fill_value=0))
    records.write(changed, old / "records.parquet")
    assert runs.reuse(plan(tmp_path / "same" / "run"), old, jobs=1) == ["meta-perser"]
    here = plan(tmp_path / "run")
    here.fingerprint = here.origin["data"] = "0" * 16
    assert runs.reuse(here, old, jobs=1) == ["ssl-e", "meta-perser"]
    assert runs.reuse(here, out, jobs=1) == list(SMALL.methods)
    runs.run(here, jobs=1)
    said = records.manifest(out)
    theirs, mine = sorted(records.manifest(here.out)["parts"], key=lambda part: part["data"] == "0" * 16)
    assert (theirs["data"], theirs["cpu"], theirs["parts"]) == (said["data"], said["machine"]["cpu"], 30)
    assert (mine["data"], mine["parts"]) == ("0" * 16, 6)


def test_records_by_another_inner_loop_are_taken_over_like_another_machines(small, tmp_path):
    """The same change as above; a run that says nothing of its loop is of before there was one in C."""
    out, frame = small
    told, old = records.manifest(out), tmp_path / "old"
    shutil.copytree(out, old)
    first = frame.drop_duplicates("method").index
    changed = frame.assign(top=frame["top"] + pd.Series({first[0]: 1, first[1]: -2}).reindex(frame.index, fill_value=0))
    records.write(changed, old / "records.parquet")
    here = plan(tmp_path / "run")
    assert told["inner_loop"] == here.origin["inner_loop"]
    here.origin["inner_loop"] = "C"  # on a machine without a compiler too
    records.write_json({key: value for key, value in told.items() if key != "inner_loop"}, old / "manifest.json")
    assert runs.reuse(here, old, jobs=1) == ["ssl-e", "meta-perser"]
    runs.run(here, jobs=1)
    assert {part["inner_loop"] for part in records.manifest(here.out)["parts"]} == {"C", "torch"}


def test_records_of_other_ratings_are_not_taken_over(small, tmp_path):
    assert runs.reuse(plan(tmp_path / "run", seed=5), small[0], jobs=1) == []
    records.write_json({"code": ""}, tmp_path / "manifest.json")
    records.write(small[1], tmp_path / "records.parquet")
    with pytest.raises(UserError, match="a run of another version"):
        runs.reuse(plan(tmp_path / "run"), tmp_path, jobs=1)


def test_what_is_no_run_is_not_taken_over(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json: missing"):
        runs.reuse(plan(tmp_path / "run"), tmp_path, jobs=1)


def test_a_manifest_adds_up_what_every_part_took(tmp_path):
    here = plan(tmp_path / "run", SMALL.model_copy(update={"folds": (1,)}))
    runs.run(here, jobs=1)
    (here.part((1, 0, 0), "ssl-e") / "records.parquet").unlink()
    runs.run(here, jobs=1)
    seconds = [json.loads((part / "part.json").read_text())["seconds"] for part in here.parts()]
    [origin] = records.manifest(here.out)["parts"]
    assert origin["parts"] == 18 and origin["minutes"] == pytest.approx(sum(seconds) / 60, abs=0.006)


FULL = """
import resource, sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from perser import checkpoints, head, personal, records
from perser.errors import UserError
from perser.evaluate import Learner
made, place = head.init(3, 40, 30, 5, torch.Generator()), Path(sys.argv[1])
weights = [torch.ones(500)] * 3
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for write in (lambda: records.write(pd.DataFrame({"a": np.random.rand(9000)}), place / "a.parquet"),
              lambda: records.write_json({"a": "b" * 9000}, place / "b.json"),
              lambda: checkpoints.save(checkpoints.Model(Learner(made, {}), *weights, {}), place / "c"),
              lambda: personal.save({**made._asdict(), "about": {}}, place / "d.safetensors")):
    try:
        write()
    except UserError as error:
        print(error)
"""


def test_a_full_disk_is_one_line_that_names_the_file_and_leaves_no_half_of_it(tmp_path):
    """A limit on the size of files stands for a full disk."""
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and not done.stderr
    for line, name in zip(lines, ("a.parquet", "b.json", "c/model.safetensors", "d.safetensors"), strict=True):
        assert line.startswith(f"{tmp_path / name}: cannot be written (") and "make room" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_is_no_file_is_not_written_over(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="pipe: cannot be written"):
        records.write_json({}, pipe)
    assert pipe.is_fifo()


def test_what_is_learnt_is_beside_the_records(small):
    """Rates as in the checkpoint; the layer weights of every head add up to one."""
    out, _ = small
    found = pd.read_parquet(out / "learnt.parquet")
    mine = found[(found["method"] == "meta-perser") & (found["fold"] == 1) & (found["group"] == 0)]
    rates = checkpoints.load(out / "checkpoints" / "fold1-group0-seed0" / "meta-perser").learner.settings[5]
    table = mine[mine["shots"] == 5].pivot(index="step", columns="tensor", values="value")[list(head.TENSORS)]
    assert table.to_numpy() == pytest.approx(rates.numpy())
    layers = found[found["tensor"].str.startswith("layer")].groupby(["method", "fold", "group"])["value"].sum()
    assert len(layers) == 3 * 12 and layers.to_numpy() == pytest.approx(1)


def test_choices_and_the_kept_epoch_are_beside_the_records(tmp_path):
    methods = {"prior-shift": Priors(masses=(1.0, 3.0)), "none": Maml(epochs=0),
               "all": Maml(epochs=2, steps=1, stop="last")}
    here = plan(tmp_path / "run", SMALL.model_copy(update={"folds": (1,), "methods": methods}))
    runs.run(here, jobs=1)
    found = pd.read_parquet(here.out / "learnt.parquet")
    epochs = found[found["tensor"] == "epoch"].groupby("method")["value"].agg(set)
    assert epochs.to_dict() == {"all": {2.0}, "none": {0.0}}
    chosen = found[found["tensor"] == "choice 0"]
    assert set(chosen["method"]) == {"prior-shift"} and set(chosen["value"]) <= {1.0, 3.0}
    assert set(chosen["shots"]) == {3, 5}


def test_inner_steps_are_tested_one_by_one(tmp_path):
    """With no step the answer is SSL-E's; each number of steps has records of its own."""
    few = SMALL.model_copy(update={"steps": (0, 2, 7), "folds": (1,)})
    frame = runs.run(plan(tmp_path / "run", few), jobs=1)
    tuned = frame[(frame["method"] == "fine-tuning") & (frame["shots"] == 5)]
    assert sorted(tuned["steps"].unique()) == [0, 2, 7] and set(frame.loc[frame["shots"] == 0, "steps"]) == {0}
    columns = [name for name in frame if name[:3] in ("tp_", "fp_", "fn_")]

    def counts(rows):
        return rows.sort_values(["setting", "listener"])[columns].to_numpy()

    assert (counts(tuned[tuned["steps"] == 0]) == counts(frame[frame["method"] == "ssl-e"])).all()
    assert (counts(tuned[tuned["steps"] == 2]) != counts(tuned[tuned["steps"] == 7])).any()


def test_shots_that_most_listeners_do_not_have_are_left_out_of_a_setting():
    """32 or so ratings by a listener in a session, 96 in three: 40 shots are asked of seen clips only."""
    here = plan("unused", SMALL.model_copy(update={"shots": (5, 40)}))
    assert here.shots == {"dev": (5,), "seen": (5, 40), "unseen": (5,)}


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
    assert again.about == model.about and list(again.learner.settings) == [3, 5]
    for one, other in zip(model.learner.head, again.learner.head, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("change", [{"prior": 0.5, "lslr": True}, {"element_rates": True}])
def test_models_with_a_prior_or_element_rates_come_back_and_answer_the_same(tmp_path, change):
    here = ready()
    learner, _ = learn_meta(here, **change)
    place = tmp_path / "model"
    checkpoints.save(checkpoints.Model(learner, here.mean, here.scale, here.class_weights, {}), place)
    asked = draws_by_listener(here.data, here.split.unseen, (3, 5), 2, 5, 0, "test draws")[0, 5]
    again = checkpoints.load(place).learner
    assert torch.equal(answer(again, here, 5, asked), answer(learner, here, 5, asked))
    learnt = again.settings[5]
    none = head.Head(*(0 * t for t in learnt)) if isinstance(learnt, head.Head) else 0 * learnt
    without = again._replace(settings={5: none}, prior=None)
    assert not torch.equal(answer(again, here, 5, asked), answer(without, here, 5, asked))


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


def learn_meta(here, seed=0, **changes):
    start = train_base(here, SMALL.base, 0)
    method = Maml(**{"epochs": 2, "steps": 2, "query": 5, "episodes": 4, **changes})
    dev = draws_by_listener(here.data, here.split.dev, (3, 5), 2, 5, 0, "dev draws")
    rates = scalar_rates(method.rates[0], method.inner_steps, method.adapts)
    others = cross_fitted(here, SMALL.base, 0) if method.crossfit else {}
    return metatrain(here, start, rates, method, (3, 5), dev, seed, others)


def meta(seed=0, **changes):
    learner, history = learn_meta(ready(), seed, **changes)
    return [*learner.head, learner.settings[5]], history


@pytest.fixture(scope="module")
def plain():
    return meta()


@pytest.mark.parametrize("change", [
    {"csmt": "split"}, {"csmt": "shared"}, {"anneal": 1.0}, {"anneal": 0.5}, {"lslr": True}, {"adapts": ("A", "a")},
    {"adapts": ("mix", "P", "b", "A", "a")}, {"inner_steps": 2}, {"rates": (0.02,)}, {"outer_rate": 0.01},
    {"epochs": 1}, {"steps": 3}, {"episodes": 2}, {"query": 4}, {"clip": 0.001}, {"seed": 1}, {"rule": "reptile"},
    {"element_rates": True}, {"msl": 1.0}, {"cosine": False}, {"dropout": 0.3}, {"f1": 0.5}, {"average": 0.5},
    {"prior": 0.5}, {"crossfit": 1.0}, {"lslr": True, "by_shots": True}])
def test_each_option_of_meta_training_changes_it(plain, change):
    weights, history = meta(**change)
    assert history[1:] != plain[1][1:]
    if "element_rates" not in change:
        assert len(weights[5]) == change.get("inner_steps", 5)


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_the_kept_epoch_is_the_best_in_what_it_is_stopped_on(share):
    """The history is the same; what is kept scores as the best epoch of its criterion, the loss that of training."""
    here, dev = ready(), None
    for stop, best in (("loss", lambda rows: min(rows, key=lambda row: row["dev_loss"])),
                       ("f1", lambda rows: max(rows, key=lambda row: row["dev_f1"])), ("last", lambda rows: rows[-1])):
        learner, history = learn_meta(here, stop=stop, epochs=4, outer_rate=0.05, f1=share)
        dev = draws_by_listener(here.data, here.split.dev, (3, 5), 2, 5, 0, "dev draws")
        f1, loss = dev_score(here, learner, dev, share)
        assert (f1, loss) == (best(history)["dev_f1"], best(history)["dev_loss"])


def test_the_dev_loss_takes_its_share_of_the_soft_f1():
    here = ready()
    learner = Learner(train_base(here, SMALL.base, 0), dict.fromkeys((3, 5), scalar_rates(0.3, 3)))
    dev = draws_by_listener(here.data, here.split.dev, (3, 5), 2, 5, 0, "dev draws")
    missed = [1 - soft_f1(answer(learner, here, shots, part), here.data.labels[torch.from_numpy(part.query)])
              for (_, shots), part in dev.items()]
    soft = float(torch.stack(missed).mean())
    entropy = dev_score(here, learner, dev)[1]
    assert dev_score(here, learner, dev, 1.0)[1] == pytest.approx(soft)
    assert dev_score(here, learner, dev, 0.3)[1] == pytest.approx(0.7 * entropy + 0.3 * soft)


@pytest.mark.parametrize("settings", [{"element_rates": True, "lslr": True}, {"rule": "reptile", "f1": 0.5},
                                      {"rule": "reptile", "adapts": ("mix", "a")}])
def test_options_that_exclude_each_other_are_refused(settings):
    with pytest.raises(ValueError, match="excludes"):
        Maml(**settings)


def test_the_rate_of_rates_matters_with_learnt_rates_alone():
    assert meta(lslr=True, rate_rate=0.1)[1] != meta(lslr=True)[1]
    assert meta(rate_rate=0.1)[1] == meta()[1]


@pytest.mark.parametrize("change", [{"lslr": True, "dropout": 0.3}, {"lslr": True, "by_shots": True, "dropout": 0.3},
                                    {"element_rates": True}])
def test_training_that_diverges_keeps_the_best_epoch_before(change):
    """Rates that become infinite or no number at all end no run, and a start that nothing beats is kept."""
    learner, history = learn_meta(ready(), rate_rate=1e30, outer_rate=1e30, cosine=False, epochs=3, **change)
    assert history[-1]["dev_loss"] != history[-1]["dev_loss"] and learner.epoch == 0
    assert all(torch.isfinite(tensor).all() for tensor in learner.head)


def test_rates_by_shots_are_a_learnt_power_of_their_number():
    """Around the geometric mean of the numbers trained: 3 and 5 shots are equally far from it, one above, one below."""
    one = learn_meta(ready(), lslr=True, rate_rate=0.1)[0].settings
    assert torch.equal(one[3], one[5])
    learner, history = learn_meta(ready(), lslr=True, by_shots=True, rate_rate=0.1)
    few, many = learner.settings[3][:, 1:], learner.settings[5][:, 1:]
    power = (many / few).log() / torch.tensor(5 / 3).log()
    assert learner.epoch and power.std() < 1e-4 and power.mean().abs() > 0.01
    assert history[1:] != learn_meta(ready(), lslr=True, rate_rate=0.1)[1][1:]
    with pytest.raises(ValueError, match="by_shots needs lslr"):
        Maml(by_shots=True)


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
    [(got, loss)] = evaluate(here, learner, shots, [found[0, shots]])
    return got.queries, loss


def test_listeners_with_queries_of_different_lengths_are_scored_as_if_alone():
    here = ready()
    start = train_base(here, SMALL.base, 0)
    alone = [draws_by_listener(here.data, pool, (5,), 2, 5, 0, "test draws")[0, 5]
             for pool in (here.split.unseen, here.split.unseen[:-7], here.split.seen)]
    assert len({part.query.shape[1] for part in alone}) == 3
    learner = Learner(start, {5: scalar_rates(0.3, 3)})
    rest = (here, learner, 5)
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
        chosen = choose(here, Learner(start, {}), grid, dev, per_shots)
        assert set(chosen) == {3, 5} and all(torch.equal(rates, grid[1]) for rates in chosen.values())


def test_tensors_are_chosen_by_the_dev_listeners():
    """Of a set whose rate blows it up and one that moves the output bias alone, the latter, whichever comes first."""
    here = ready()
    start = train_base(here, SMALL.base.model_copy(update={"epochs": 30}), 0)
    dev = draws_by_listener(here.data, here.split.dev, (5,), 2, 5, 0, "dev draws")
    alone, every = ("a",), ("P", "b", "A", "a")
    for sets in ((alone, every), (every, alone)):
        method = Finetune(adapts=sets, rates=(3.0,), steps=(5,))
        rates = runs.learn(here, start, method, SMALL.base, dev, 0).settings[5]
        assert torch.equal(rates, scalar_rates(3.0, 5, alone))


@pytest.mark.parametrize("change", [{"dev": "training"}, {"dev_draws": 3}, {"min_queries": 9}])
def test_each_option_of_the_draws_changes_them(tmp_path, change):
    from perser.splits import split

    def drawn(**settings):
        here = plan(tmp_path / "run", SMALL.model_copy(update={"dev": "held-out", **settings}))
        part = split(here.data, 1, 0, here.groups, here.dev_held_out)
        found = here.dev_draws(SimpleNamespace(data=here.data, split=part), 0)
        return {key: [part.tolist() for part in episodes] for key, episodes in found.items()}, here.digest()

    assert drawn() == drawn()
    assert drawn()[0] != drawn(**change)[0] or change == {"min_queries": 9}
    assert drawn()[1] != drawn(**change)[1]


def test_listeners_with_fewer_queries_than_asked_for_are_left_out():
    here = ready()
    count = int((here.data.listener[here.split.unseen] == 0).sum())
    for asked, kept in ((count - 5, True), (count - 4, False)):
        found = draws_by_listener(here.data, here.split.unseen, (5,), 2, asked, 0, "test draws")
        assert ((0, 5) in found) == kept


PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
KILLED = """
import sys
sys.path[:0] = {path!r}
from test_runs import plan, runs
print("ready", flush=True)
runs.run(plan({out!r}), jobs={jobs})
print("done", flush=True)
"""


def workers_of(parent):
    """The processes that compute for another."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, above = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(above) == parent and state != "Z" and "LokyProcess" in (place / "cmdline").read_text():
                found.append(int(place.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_run_leaves_no_worker_behind(tmp_path):
    """SIGKILL for the process that was started alone, as by a shell or for want of memory."""
    code = KILLED.format(path=PATHS, out=str(tmp_path / "run"), jobs=2)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while len(list(tmp_path.glob("parts/*/records.parquet"))) < 6:
            assert child.poll() is None
            time.sleep(0.02)
        workers = workers_of(child.pid)
        assert len(workers) == 2 and all(map(alive, workers))
        child.kill()
        child.wait()
        deadline = time.monotonic() + 20
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(alive, workers))
    finally:
        child.stdout.close()
        subprocess.run(["pkill", "-9", "-s", str(child.pid)], check=False)


def test_killed_at_any_moment_it_goes_on_to_the_same_records(small, tmp_path):
    """SIGKILL again and again, each time a little later, until one start survives."""
    out = tmp_path / "run"
    code = KILLED.format(path=PATHS, out=str(out), jobs=1)
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
