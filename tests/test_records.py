"""Files of a run: whole or absent, and one line for what is damaged."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import SMALL, UPSTREAM, corpus, plan
from made_records import made_run, made_study

from perser import checkpoints, records, workers
from perser.analysis import report
from perser.errors import UserError
from perser.plan import Plan

COMMITTED = sorted((Path(__file__).parents[1] / "results").rglob("manifest.json"))
OLD = {"seal": None, "files": {}}  # as records of before, which have no digests
FULL = """
import resource, sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from perser import checkpoints, model, personal, records
from perser.errors import UserError
from perser.plan import Plan
from perser.methods import GradientModel
head, place = model.init(3, 40, 30, 5, torch.Generator()), Path(sys.argv[1])
weights = [torch.ones(500)] * 3
sys.dont_write_bytecode = True  # Python would leave cut .pyc files in the environment
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for write in (lambda: records.write(pd.DataFrame({"a": np.random.rand(9000)}), place / "a.parquet"),
              lambda: records.write_json({"a": "b" * 9000}, place / "b.json"),
              lambda: checkpoints.save(checkpoints.Checkpoint(GradientModel(head, {}), *weights, {}), place / "c"),
              lambda: personal.save(personal.PersonalModel(head, *weights[:2], {}), place / "d.safetensors")):
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
        assert line.startswith(f"{tmp_path / name}: cannot be written (") and "free some space" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_only_a_file_is_overwritten(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="pipe: cannot be written"):
        records.write_json({}, pipe)
    assert pipe.is_fifo()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run directory of SSL-E alone."""
    out = tmp_path_factory.mktemp("finished") / "run"
    update = {"folds": (1,), "shots": (3,), "methods": {"ssl-e": SMALL.methods["ssl-e"]}}
    workers.run(plan(out, SMALL.model_copy(update=update)), jobs=1)
    return out


@pytest.mark.parametrize("damage, words", [
    (lambda path: path.unlink(), "no records there"),
    (lambda path: path.write_bytes(b"PAR1 half"), "damaged"),
    (lambda path: pd.DataFrame({"corpus": ["x"]}).to_parquet(path), "column upstream is missing"),
])
def test_damaged_records_are_one_line_that_names_the_file(finished, tmp_path, damage, words):
    path = tmp_path / "records.parquet"
    records.read(finished).to_parquet(path)
    damage(path)
    with pytest.raises(UserError, match=words) as caught:
        records.read(tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("damage, words", [
    (lambda path: path.unlink(), "missing; run the same `perser run` again"),
    (lambda path: path.write_text("{"), "damaged, no JSON"),
    (lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"more": 1, **OLD})),
     r"not a manifest of this version \(more: extra inputs"),
    (lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"units": "many", **OLD})),
     r"not a manifest of this version \(units: "),
])
def test_a_damaged_manifest_is_one_line_that_names_the_file(finished, tmp_path, damage, words):
    path = tmp_path / "manifest.json"
    path.write_text((finished / "manifest.json").read_text())
    damage(path)
    with pytest.raises(UserError, match=words) as caught:
        records.manifest(tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: ")


def test_a_run_without_tables_beside_its_records_is_read_without_them(finished, tmp_path):
    (tmp_path / "records.parquet").write_bytes((finished / "records.parquet").read_bytes())
    records.write_json(records.manifest(finished).model_copy(update={"files": {}}), tmp_path / "manifest.json")
    run, whole = records.load(tmp_path), records.load(finished)
    assert run.learnt is None and run.listeners is None
    assert run.manifest == whole.manifest.model_copy(update={"files": {}})
    pd.testing.assert_frame_equal(run.records, whole.records)
    assert len(whole.listeners) == 6 and set(whole.learnt["tensor"]) == {"layer0", "layer1"}


def made(place, **changes):
    """A run of known records in a folder, as `perser run` leaves it; changes: of columns of the records."""
    frame = made_study({"ssl-e": 0, "maml": 4}, listeners=3).assign(**changes)
    records.write(frame, place / "records.parquet")
    first = frame.iloc[0]
    names = {key: first[key] for key in ("corpus", "upstream", "experiment")} if not changes else {}
    manifest = made_run(made_study({"ssl-e": 0, "maml": 4}, listeners=3), **names).manifest
    records.seal(manifest.model_dump(mode="json"), place / "manifest.json", place / "records.parquet")
    return place


HOSTILE = ["..", "../x", "/etc/x", "a/../b", "a\nb", "", ".x", "<script>", "=1+1", "x" * 101]


@pytest.mark.parametrize("column", ["corpus", "upstream", "experiment", "method"])
@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_names_in_foreign_records_write_nothing(tmp_path, column, value):
    """In the records, and in the manifest, which name the folders and files of a report."""
    place, out = made(tmp_path / "run", **{column: value}), tmp_path / "a" / "b" / "out"
    with pytest.raises(UserError) as caught:
        report.report(place, out)
    assert "\n" not in str(caught.value) and f"records.parquet: {column} " in str(caught.value)
    if column != "method":
        place = made(tmp_path / "other")
        about = json.loads((place / "manifest.json").read_text()) | {column: value, **OLD}
        (place / "manifest.json").write_text(json.dumps(about))
        with pytest.raises(UserError, match=f"manifest.json: not a manifest of this version .{column}: string should"):
            report.report(place, out)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("changes, words", [
    ({"tp_x": -1}, "column tp_x is no count"), ({"fold": 0.5}, "column fold is no count"),
    ({"seed": "0"}, "column seed is no count"), ({"queries": float("nan")}, "column queries is no count"),
    ({"listener": 3}, "listener '3' is none of a run"), ({"setting": "both"}, "setting 'both' is none of a run"),
    ({"method": "prior-shift"}, "'prior-shift' is not in both"), ({"tp_z": 1, "fp_z": 1, "fn_z": 1}, "'z' is not in"),
    ({"corpus": "another"}, "corpus 'toy_corpus' is not the records'")])
def test_foreign_records_are_validated(tmp_path, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        records.load(made(tmp_path, **changes))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("change, words", [
    ({"methods": {"../x": {"title": "X", "group": "Control", "kind": "x"}}}, "methods"),
    ({"methods": {"a": {"title": "X", "group": "Mine", "kind": "x"}}}, "methods.a.group"),
    ({"config": {}}, "base"), ({"config": {"base": {}, "methods": {}}}, "config has no method maml"),
    ({"files": {"../x": "00"}}, "names no files beside it"), ({"files": 3}, "names no files beside it"),
    ({"classes": [["x"]]}, "classes.0"), ({"notes": "x"}, "notes")])
def test_foreign_manifests_are_validated(tmp_path, change, words):
    place = made(tmp_path)
    path = place / "manifest.json"
    value = {name: entry for name, entry in json.loads(path.read_text()).items() if name != "seal"} | change
    path.write_text(json.dumps(value | {"seal": records._of(value)}))  # as somebody who forges it would
    with pytest.raises(UserError, match=words) as caught:
        records.load(place)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", ["my model", "../x", "a/b/c", ""])
def test_an_upstream_whose_name_cannot_be_a_folder_is_refused_before_anything_is_computed(tmp_path, name):
    loaded, features = corpus()
    with pytest.raises(UserError, match="rename the model's folder"):
        Plan(SMALL, loaded, SimpleNamespace(**vars(UPSTREAM) | {"name": name}), features, (0.0, 1.0), tmp_path)


def flipped(path, seed):
    """One bit of a file, somewhere, becomes the other."""
    data, draw = bytearray(path.read_bytes()), random.Random(seed)
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def same(one, two):
    return one.manifest == two.manifest and all(
        (a is None and b is None) or a.equals(b) for a, b in zip((one[0], *one[2:]), (two[0], *two[2:]), strict=True))


@pytest.mark.parametrize("name", ["records.parquet", "learnt.parquet", "listeners.parquet", "config.json",
                                  "manifest.json"])
def test_a_flipped_bit_is_seen_or_changes_nothing(finished, tmp_path, name):
    right = records.load(finished)
    for seed in range(30):
        place = tmp_path / str(seed)
        shutil.copytree(finished, place, ignore=shutil.ignore_patterns("checkpoints"))
        flipped(place / name, seed)
        try:
            run = records.load(place)
        except UserError as error:
            assert "\n" not in str(error) and str(place / name) in str(error)
        else:
            assert name == "manifest.json" and same(run, right), "white space, or the name of the seal itself"


def test_a_flipped_bit_of_a_model_is_seen(finished, tmp_path):
    part = next((finished / "checkpoints").glob("*/*")).resolve()
    for name in ("model.safetensors", "model.json"):
        for seed in range(20):
            place = tmp_path / f"{name}{seed}"
            shutil.copytree(part, place)
            flipped(place / name, seed)
            with pytest.raises(UserError) as error:
                checkpoints.load(place)
            assert "\n" not in str(error.value) and str(place) in str(error.value)
    for word in ("seal", "files"):
        place = tmp_path / word
        shutil.copytree(part, place)
        text = (place / "model.json").read_text()
        (place / "model.json").write_text(text.replace(f'"{word}"', f'"{word[:-1]}"'))
        with pytest.raises(UserError, match=r"model\.json: damaged, its digest has changed"):
            checkpoints.load(place)


def test_records_of_before_have_no_digests_and_still_read(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    about = json.loads((tmp_path / "run" / "manifest.json").read_text())
    del about["seal"], about["files"], about["notes"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(about))
    run = records.load(tmp_path / "run")
    assert run.records.equals(records.load(finished).records) and run.manifest.files == {}


@pytest.fixture
def again(finished, tmp_path):
    """A copy of the finished run with its parts, and a function that runs the same command again."""
    shutil.copytree(finished.parent, tmp_path / "copy", symlinks=True)
    update = {"folds": (1,), "shots": (3,), "methods": {"ssl-e": SMALL.methods["ssl-e"]}}
    here = plan(tmp_path / "copy" / "run", SMALL.model_copy(update=update))
    return here, lambda: workers.run(here, jobs=1)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: "-".join(path.parts[-4:-1]))
def test_committed_results_are_as_their_manifests_seal_them(path):
    value = records.sealed(path, "restore it")
    beside = {file.name for file in path.parent.iterdir() if file.suffix in (".parquet", ".toml")}
    assert beside <= set(value["files"]) and {"trials.csv", "records.parquet"} & set(value["files"])


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "flipped"])
def test_a_finished_run_whose_files_are_gone_or_damaged_is_made_anew(finished, again, how):
    here, run = again
    for name in ("manifest.json", "records.parquet", "learnt.parquet", "listeners.parquet", "DONE"):
        path = here.out / name
        whole = path.read_bytes()
        path.unlink() if how == "gone" else path.write_bytes({
            "empty": b"", "cut": whole[:len(whole) // 2], "flipped": bytes([whole[0] ^ 255, *whole[1:]])}[how])
        run()
        left, right = records.load(here.out), records.load(finished)
        assert left.records.equals(right.records) and left.learnt.equals(right.learnt) and left.listeners is not None
        assert left.manifest.units_computed == 0, "all parts are there"


@pytest.mark.parametrize("name", ["records.parquet", "learnt.parquet", "part.json"])
@pytest.mark.parametrize("how", [lambda data: b"", lambda data: data[:100], lambda data: data[:-9] + b"x" + data[-8:]])
def test_a_damaged_part_is_one_line_with_a_remedy_that_works(again, name, how):
    here, run = again
    part = here.part(here.units[0], "ssl-e")
    (part / name).write_bytes(how((part / name).read_bytes()))
    (here.out / "DONE").unlink()
    with pytest.raises(UserError, match=f"delete {part} and run the same command again") as caught:
        run()
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{part / name}: ")
    shutil.rmtree(part)
    run()
    assert records.manifest(here.out).units_computed == 1


def test_a_damaged_config_is_one_line(again):
    here, run = again
    (here.out / "config.json").write_bytes(b"")
    with pytest.raises(UserError, match=r"config\.json: damaged, no JSON .*; delete it and run the same command again"):
        run()


def test_a_file_is_whole_or_as_before_whatever_breaks_off(tmp_path):
    path = tmp_path / "a.txt"
    records.write_text("before", path)
    for error in (KeyboardInterrupt, OSError):
        with pytest.raises((UserError, KeyboardInterrupt)), records.whole(path) as half:
            half.write_text("cut")
            raise error
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@given(st.lists(st.text(st.sampled_from("'=+-@\t\ra1"), max_size=6), min_size=1))
@settings(max_examples=80, deadline=2000)
def test_cells_are_no_formulas_and_come_back(cells):
    written = records.inert(pd.DataFrame({"cell": cells}))["cell"]
    assert not written.str.match(r"[=+\-@\t\r]").any() and [*map(records.literal, written)] == cells
