"""The comparison of pages bites: change one record and the page that shows it fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from perser import records

ROOT = Path(__file__).resolve().parent.parent
REAL, PAPER = "results/emodb/whisper-tiny.en", "method == 'meta-perser' and shots_of == 'own'"


def doubled(entry, *place):
    """Double the number at a place of nested JSON."""
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] *= 2


def spoil(file, change):
    """Change one record of a table, the first that the query finds, or the number at a place of a JSON file."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        doubled(content, *change)
        file.write_text(json.dumps(content))
        return
    frame = pd.read_parquet(file)
    row = frame.query(change).index[0]
    if "answer_read" in frame:
        frame.loc[row, ["answer_read", "outcome"]] = ["null", "none"]
    else:
        frame.loc[row, "log_loss"] *= 2
    frame.to_parquet(file)
    manifest = file.with_name(records.MANIFEST)  # sealed again: the digest would be enough to fail
    value = records.sealed(manifest, "", "none")
    manifest.unlink()
    records.seal(value, manifest, *(file.with_name(name) for name in value["files"]))


def passes(page, place, file="", change=""):
    """Whether a page passes beside a copy of the results of which one record is changed."""
    for name in ("results", "benchmarks", "data"):
        shutil.copytree(ROOT / name, place / name, copy_function=os.symlink, dirs_exist_ok=True)
    if file:
        (place / file).unlink()
        shutil.copy(ROOT / file, place / file)
        spoil(place / file, change)
    (place / "notebooks").mkdir()
    shutil.copy(next((ROOT / "notebooks").glob(f"{page}_*.ipynb")), place / "notebooks")
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-x", "-q", "--nbval", "--rootdir", place,
               "--nbval-kernel-startup-timeout=300", "-p", "no:cacheprovider", "-p", "no:xdist", "notebooks"]
    process = subprocess.run([*map(str, command)], cwd=place, capture_output=True, text=True)
    assert process.returncode in (0, 1) and "passed" in process.stdout + "passed" * process.returncode, process.stdout
    return process.returncode == 0


@pytest.mark.parametrize(("page", "file", "change"), [
    ("04", f"{REAL}/main/records.parquet", PAPER),
    ("09", "benchmarks/cpu-meta.json", ("rows", 0, "engine_ms")),
    ("10", "results/phase2/suite/records.parquet", "outcome == 'answered' and model.str.startswith('cascade')"),
    ("11", "results/phase2/emodb/records.parquet", "outcome == 'answered' and model.str.startswith('cascade')"),
    ("12", f"{REAL}/upstreams/records.parquet", "shots_of == 'own' and shots == 20"),
    ("13", "results/team/emodb.json", ("listeners", 0, "gain")),
])
def test_a_changed_record_fails_its_page(tmp_path, page, file, change):
    assert not passes(page, tmp_path, file, change)


def test_the_copy_without_a_change_passes(tmp_path):
    assert passes("11", tmp_path)
