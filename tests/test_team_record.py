"""What `perser personalise` says of EmoDB's listeners is what the study's records say of them."""

import json
from pathlib import Path

import pytest

from perser import records

ROOT = Path(__file__).parents[1]
NAMES = {"general": ("ssl-e", 0, "own"), "personal": ("meta-perser-p-robust", 20, "own"),
         "other": ("meta-perser-p-robust", 20, "other")}


@pytest.fixture(scope="module")
def study():
    """Accuracy and log loss on unseen clips of the study, first seed, by method, shots, whose shots and listener."""
    frame = records.read(ROOT / "results/emodb/whisper-tiny.en/methods")
    frame = frame[(frame["seed"] == 0) & (frame["setting"] == "unseen")]
    sums = frame.groupby(["method", "shots", "shots_of", "listener"])[["queries", "top", "log_loss"]].sum()
    return sums.assign(accuracy=sums["top"] / sums["queries"], loss=sums["log_loss"] / sums["queries"])


def test_the_record_of_a_team_agrees_with_the_study(study):
    record = json.loads((ROOT / "results/team/emodb.json").read_text())
    assert record["shots"] == 20 and len(record["listeners"]) == 36
    for row in record["listeners"]:
        for name, place in NAMES.items():
            cell = study.loc[(*place, row["listener"])]
            assert row[name] == pytest.approx(cell["accuracy"], abs=5e-4), (row["listener"], name)
            assert row[f"{name}_loss"] == pytest.approx(cell["loss"], abs=5e-4), (row["listener"], name)
