"""Files of a run: whole or absent, and one line for what is damaged."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from made import SMALL, plan

from perser import records, workers
from perser.errors import UserError

FULL = """
import resource, sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from perser import checkpoints, model, personal, records
from perser.errors import UserError
from perser.methods import GradientModel
head, place = model.init(3, 40, 30, 5, torch.Generator()), Path(sys.argv[1])
weights = [torch.ones(500)] * 3
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
    (lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"more": 1, "seal": None})),
     r"not a manifest of this version \(more: extra inputs"),
    (lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"units": "many", "seal": None})),
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
    assert run.learnt is None and run.listeners is None and run.manifest == whole.manifest.model_copy(update={"files": {}})
    pd.testing.assert_frame_equal(run.records, whole.records)
    assert len(whole.listeners) == 6 and set(whole.learnt["tensor"]) == {"layer0", "layer1"}
