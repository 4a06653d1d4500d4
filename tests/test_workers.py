"""Running a plan: the same settings give the same records, nothing is computed twice, a kill loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import made
import pandas as pd
import pytest
import torch
from made import SMALL, plan

from perser import checkpoints, records, workers
from perser.errors import UserError
from perser.methods import GradientModel
from perser.methods.maml import Maml
from perser.methods.prior_shift import PriorShift
from perser.model import TENSORS


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("small") / "run"
    return out, workers.run(plan(out), jobs=1)


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
    assert (by_case.nunique() == 1).all(), "all methods are asked the same queries"
    pd.testing.assert_frame_equal(records.read(out), frame)


def test_the_manifest_describes_the_run_and_how_its_methods_are_shown(small):
    run = records.load(small[0])
    manifest = run.manifest
    assert manifest.units == manifest.units_computed == 12 and manifest.config["draws"] == 2
    assert manifest.machine["packages"]["torch"]
    assert (manifest.clips, manifest.listeners, manifest.listener_groups) == (200, 6, 6)
    assert manifest.dev_listeners == "training", "groups of one listener are too small to be dev listeners"
    assert {name: (run.title(name), run.group(name)) for name in manifest.methods} == {
        "ssl-e": ("SSL-E", "No meta-learning"), "fine-tuning": ("Fine-tuning", "No meta-learning"),
        "meta-perser": ("Meta-PerSER", "Meta-learning")}
    assert len(run.listeners) == 6 and set(run.learnt["method"]) == set(manifest.methods)


def test_the_same_settings_give_the_same_records_in_any_number_of_processes(small, tmp_path):
    pd.testing.assert_frame_equal(workers.run(plan(tmp_path / "run"), jobs=2), small[1])


@pytest.fixture
def forbidden(monkeypatch):
    """Fail when a unit is computed."""
    monkeypatch.setattr(workers, "_compute_unit", lambda *_: pytest.fail("computed again"))


def test_nothing_is_computed_twice(small, forbidden):
    out, frame = small
    pd.testing.assert_frame_equal(workers.run(plan(out), jobs=1), frame)


def test_only_what_is_missing_is_computed(small, tmp_path):
    _, frame = small
    here = plan(tmp_path / "run")
    workers.run(here, jobs=1)
    victim = here.part((2, 3, 0), "fine-tuning") / "records.parquet"
    parts = list((tmp_path / "parts").glob("*/records.parquet"))
    kept = {path: path.stat().st_mtime_ns for path in parts if path != victim}
    assert len(parts) == 36
    victim.unlink()
    pd.testing.assert_frame_equal(workers.run(here, jobs=1), frame)
    assert victim.exists() and all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert records.manifest(here.out).units_computed == 1


def test_experiments_with_the_same_settings_share_their_parts(small, forbidden):
    """Of a second experiment with two of the methods nothing is computed, and its records carry its own name."""
    out, frame = small
    methods = {name: SMALL.methods[name] for name in ("ssl-e", "meta-perser")}
    shared = SMALL.model_copy(update={"name": "other", "methods": methods})
    other = workers.run(plan(out.parent / "other", shared), jobs=1)
    expected = frame[frame["method"].isin(methods)].assign(experiment="other").reset_index(drop=True)
    pd.testing.assert_frame_equal(other, expected)
    assert checkpoints.load(out.parent / "other" / "checkpoints" / "fold1-group0-seed0" / "meta-perser")
    more = SMALL.model_copy(update={"draws": 3})
    assert plan(out, more).part((1, 0, 0), "ssl-e") != plan(out).part((1, 0, 0), "ssl-e")


def test_a_title_changes_the_manifest_and_no_part(small, forbidden):
    out, frame = small
    methods = SMALL.methods | {"meta-perser": SMALL.methods["meta-perser"].model_copy(update={"title": "Ours"})}
    titled = SMALL.model_copy(update={"methods": methods})
    pd.testing.assert_frame_equal(workers.run(plan(out.parent / "titled", titled), jobs=1), frame)
    assert records.load(out.parent / "titled").title("meta-perser") == "Ours"


@pytest.mark.parametrize("name, change", [
    ("NUMERICS_VERSION", None), ("fine-tuning", {"inner_steps_grid": (1,)}), ("meta-perser", {"anneal": 0.0})])
def test_parts_are_named_by_all_that_their_numbers_depend_on(monkeypatch, name, change):
    """Another setting of one method renames its own parts alone, another version of the numerics all of them."""
    before = {method: plan("unused").part((1, 0, 0), method) for method in SMALL.methods}
    methods = SMALL.methods
    if change:
        methods = methods | {name: methods[name].model_copy(update=change)}
    else:
        monkeypatch.setattr("perser.plan.NUMERICS_VERSION", 1 + plan("unused").origin["numerics_version"])
    after = plan("unused", SMALL.model_copy(update={"methods": methods}))
    renamed = {method for method, part in before.items() if after.part((1, 0, 0), method) != part}
    assert renamed == ({name} if change else set(methods))


def test_a_manifest_adds_up_the_time_of_all_parts(tmp_path):
    here = plan(tmp_path / "run", SMALL.model_copy(update={"folds": (1,)}))
    workers.run(here, jobs=1)
    (here.part((1, 0, 0), "ssl-e") / "records.parquet").unlink()
    workers.run(here, jobs=1)
    seconds = [json.loads((part / "part.json").read_text())["seconds"] for part in here.parts()]
    [origin] = records.manifest(here.out).origins
    assert origin.parts == 18 and origin.minutes == pytest.approx(sum(seconds) / 60, abs=0.006)
    assert origin.methods == sorted(SMALL.methods)


def test_parts_of_another_commit_are_counted_apart(small, tmp_path):
    """One part was computed by another commit; the manifest then names both, with the methods and parts of each."""
    here = plan(tmp_path / "run", SMALL.model_copy(update={"folds": (1,)}))
    workers.run(here, jobs=1)
    path = here.part((1, 0, 0), "ssl-e") / "part.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "1" * 40, "seal": None, "files": {}}))
    (here.part((1, 1, 0), "ssl-e") / "records.parquet").unlink()
    workers.run(here, jobs=1)
    other, this = sorted(records.manifest(here.out).origins, key=lambda origin: origin.commit != "1" * 40)
    assert (other.parts, other.methods, this.parts, this.methods) == (1, ["ssl-e"], 17, sorted(SMALL.methods))


def test_learnt_values_lie_beside_the_records(small):
    """Inner learning rates as in the checkpoint; the layer weights of a head add up to one."""
    out, _ = small
    learnt = pd.read_parquet(out / "learnt.parquet")
    rows = learnt[(learnt["method"] == "meta-perser") & (learnt["fold"] == 1) & (learnt["group"] == 0)]
    rates = checkpoints.load(out / "checkpoints" / "fold1-group0-seed0" / "meta-perser").model.settings[5]
    table = rows[rows["shots"] == 5].pivot(index="step", columns="tensor", values="value")[list(TENSORS)]
    assert table.to_numpy() == pytest.approx(rates.numpy())
    layers = learnt[learnt["tensor"].str.startswith("layer")].groupby(["method", "fold", "group"])["value"].sum()
    assert len(layers) == 3 * 12 and layers.to_numpy() == pytest.approx(1)


def test_choices_and_the_kept_epoch_lie_beside_the_records(tmp_path):
    methods = {"prior-shift": PriorShift(mass_grid=(1.0, 3.0)), "none": Maml(epochs=0),
               "all": Maml(epochs=2, outer_steps_per_epoch=1, early_stopping="last")}
    here = plan(tmp_path / "run", SMALL.model_copy(update={"folds": (1,), "methods": methods}))
    workers.run(here, jobs=1)
    learnt = pd.read_parquet(here.out / "learnt.parquet")
    epochs = learnt[learnt["tensor"] == "epoch"].groupby("method")["value"].agg(set)
    assert epochs.to_dict() == {"all": {2.0}, "none": {0.0}}
    chosen = learnt[learnt["tensor"] == "choice 0"]
    assert set(chosen["method"]) == {"prior-shift"} and set(chosen["value"]) <= {1.0, 3.0}
    assert set(chosen["shots"]) == {3, 5}


def test_inner_steps_are_tested_one_by_one(tmp_path):
    """Without a step the answer is that of SSL-E; the records of one number of steps are those of that number alone."""
    few = SMALL.model_copy(update={"test_inner_steps": (0, 2, 7), "folds": (1,)})
    frame = workers.run(plan(tmp_path / "run", few), jobs=1)
    tuned = frame[(frame["method"] == "fine-tuning") & (frame["shots"] == 5)]
    assert sorted(tuned["inner_steps"].unique()) == [0, 2, 7]
    assert set(frame.loc[frame["shots"] == 0, "inner_steps"]) == {0}
    columns = [name for name in frame if name[:3] in ("tp_", "fp_", "fn_")]

    def counts(rows):
        return rows.sort_values(["setting", "listener"])[columns].to_numpy()

    assert (counts(tuned[tuned["inner_steps"] == 0]) == counts(frame[frame["method"] == "ssl-e"])).all()
    assert (counts(tuned[tuned["inner_steps"] == 2]) != counts(tuned[tuned["inner_steps"] == 7])).any()


def test_steps_beyond_those_learnt_repeat_the_last_rates():
    rates = torch.arange(10.0).view(2, 5)
    tested = workers.tested_settings(GradientModel(None, {5: rates}), 5, (0, 1, 4))
    assert list(tested) == [0, 1, 4] and tested[0].shape == (0, 5) and torch.equal(tested[1], rates[:1])
    assert torch.equal(tested[4], rates[[0, 1, 1, 1]])
    nearest = workers.tested_settings(GradientModel(None, {5: rates, 20: rates + 1}), 40, None)
    assert list(nearest) == [2] and torch.equal(nearest[2], rates + 1)


def test_shots_that_most_listeners_do_not_have_are_left_out_of_a_setting():
    """A listener has about 32 ratings in a session, 96 in three: 40 shots are asked of seen clips only."""
    here = plan("unused", SMALL.model_copy(update={"shots": (5, 40), "support": "same"}))
    assert here.shots == {"dev": (5,), "seen": (5, 40), "unseen": (5,)}


def test_other_settings_do_not_overwrite_a_run(small):
    out, _ = small
    with pytest.raises(UserError, match="another `draws`"):
        workers.run(plan(out, SMALL.model_copy(update={"draws": 3})), jobs=1)


def test_other_data_is_not_served_from_old_parts(tmp_path):
    assert plan(tmp_path, seed=1).part((1, 0, 0), "ssl-e").name != plan(tmp_path).part((1, 0, 0), "ssl-e").name


def test_folds_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UserError, match="folds 1 to 5"):
        plan(tmp_path, SMALL.model_copy(update={"folds": (6,)}))


@pytest.mark.parametrize("change, moves", [({"dev": "training"}, True), ({"dev_draws": 3}, True),
                                           ({"min_queries": 9}, False)])
def test_an_option_of_the_draws_changes_them_and_the_digest(tmp_path, change, moves):
    """A bound on the queries that all listeners reach changes only which parts are read."""

    def drawn(**settings):
        here = plan(tmp_path / "run", SMALL.model_copy(update={"dev": "held-out", **settings}))
        draws = here.draws(here.split(1, 0), "dev", 0)
        return {key: [part.tolist() for part in episodes] for key, episodes in draws.items()}, here.digest()

    assert drawn() == drawn()
    assert (drawn()[0] != drawn(**change)[0]) == moves
    assert drawn()[1] != drawn(**change)[1]


def test_dev_listeners_without_enough_ratings_are_one_line(tmp_path):
    """Queries that no dev listener has in the one dev session."""
    with pytest.raises(UserError, match=r"fold 1: no dev listener has 3 shots and 60 queries in the dev session"):
        plan(tmp_path / "run", SMALL.model_copy(update={"min_queries": 60, "shots": (3,), "support": "same"}))


NEW_METHOD = '''"""Constant answer: the class shares of the shots, whatever is asked."""

from typing import ClassVar, Literal, NamedTuple

import torch

from perser.methods.base import Method, stacked
from perser.model import Head


class ConstantAnswerModel(NamedTuple):
    head: Head
    settings: dict[int, float]

    def answers(self, batch, settings):
        for scale in settings:
            shares = (scale * batch.targets.mean(1, keepdim=True)).log()
            yield shares.expand(-1, batch.query.shape[1], -1)

    def weights(self, batch, setting):
        shares = (setting * batch.targets.mean(1)).log()
        return stacked(self.head, batch, A=torch.zeros(len(shares), *self.head.A.shape), a=shares)


class ConstantAnswer(Method):
    kind: Literal["constant-answer"] = "constant-answer"
    title: str = "Constant answer"
    group: ClassVar[str] = "Control"
    Model: ClassVar[type] = ConstantAnswerModel

    scale: float = 1.0

    def fit(self, task, start, dev, seed):
        return ConstantAnswerModel(start.head, dict.fromkeys({shots for _, shots in dev}, self.scale))
'''
RUN_COPY = """
import sys
from pathlib import Path
import made, perser
from perser import experiment, workers
assert Path(perser.__file__).is_relative_to(sys.argv[1]), perser.__file__
workers.run(made.plan(Path(sys.argv[2]), experiment.load(Path(sys.argv[3]))), jobs=1)
"""
PACKAGE, TESTS = Path(records.__file__).parent, Path(__file__).parent


def test_a_new_method_is_one_file_and_one_table(tmp_path):
    """In a copy of the package: records, title and group, learnt values and a model follow from file and table."""
    shutil.copytree(PACKAGE, tmp_path / "perser", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "perser" / "methods" / "constant_answer.py").write_text(NEW_METHOD)
    toml = tmp_path / "new.toml"
    toml.write_text("seeds = [0]\nshots = [3]\ndraws = 2\ndev_draws = 2\nfolds = [1]\ngroups = 3\n"
                    "base = { hidden = 8, epochs = 1 }\n[methods]\nssl-e = { kind = 'ssl-e' }\n"
                    "shares = { kind = 'constant-answer', scale = 2.0 }\n")
    done = subprocess.run([sys.executable, "-c", RUN_COPY, tmp_path, tmp_path / "run", toml], cwd=tmp_path, text=True,
                          capture_output=True, env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{TESTS}"})
    assert done.returncode == 0, done.stderr
    run = records.load(tmp_path / "run")
    assert (run.title("shares"), run.group("shares")) == ("Constant answer", "Control")
    assert run.manifest.methods["shares"].kind == "constant-answer"
    rows = run.records[run.records["method"] == "shares"]
    assert len(rows) == 6 * 2 and set(rows["shots"]) == {3} and (rows["queries"] > 0).all()
    model = json.loads((tmp_path / "run/checkpoints/fold1-group0-seed0/shares/model.json").read_text())
    assert model["kind"] == "constant-answer" and model["model"] == {"settings.3": 2.0}


KILLED = """
import sys
sys.path[:0] = {path!r}
import made
from perser import workers
print("ready", flush=True)
workers.run(made.plan({out!r}), jobs={jobs})
print("done", flush=True)
"""
PATHS = [str(TESTS), str(PACKAGE.parent)]


def worker_processes(parent):
    """The processes that compute for another."""
    processes = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, above = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(above) == parent and state != "Z" and "LokyProcess" in (place / "cmdline").read_text():
                processes.append(int(place.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return processes


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
        processes = worker_processes(child.pid)
        assert len(processes) == 2 and all(map(alive, processes))
        child.kill()
        child.wait()
        deadline = time.monotonic() + 20
        while any(map(alive, processes)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(alive, processes))
    finally:
        child.stdout.close()
        with suppress(ProcessLookupError):  # nothing is left
            os.killpg(child.pid, signal.SIGKILL)


def test_a_run_killed_at_any_moment_resumes_to_the_same_records(small, tmp_path):
    """SIGKILL again and again, a little later with every start, until one survives."""
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
    assert (out / "DONE").exists() and records.manifest(out).units == 12
