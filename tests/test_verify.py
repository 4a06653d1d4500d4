"""The verdict on a reproduction: equal, within tolerance, different, and why."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from perser import records
from perser.analysis import verify
from perser.cli import main

RUN = Path(__file__).parents[1] / "results/synthetic/whisper-tiny.en/main"


@pytest.fixture(scope="module")
def run():
    return records.load(RUN)


def shifted(run, hits, **manifest):
    """The run with more hits in every record of a method, and a changed manifest."""
    frame = run.records.copy()
    frame.loc[frame["method"] == "meta-perser", "top"] += hits
    return run._replace(records=frame, manifest=run.manifest.model_copy(update=manifest))


def test_a_run_reproduces_itself_to_the_cell(run):
    lines, reproduced = verify.lines(run, run)
    assert reproduced and lines[0].startswith("REPRODUCED: 1,694 of 1,694 cells equal, 0 within tolerance, 0 differ")


def test_small_changes_are_within_tolerance_and_name_the_machine(run):
    machine = run.manifest.machine | {"cpu": "another <chip>", "packages": run.manifest.machine["packages"] | {
        "torch": "9.9"}}
    lines, reproduced = verify.lines(shifted(run, 1, machine=machine), run)
    assert reproduced and ", 0 differ" in lines[0] and " 0 within" not in lines[0]
    assert "other processor (another <chip> instead of" in lines[2] and "torch 9.9 instead of" in lines[2]


def test_large_changes_are_not_reproduced_and_name_the_settings(run):
    config = run.manifest.config | {"draws": 3}
    changed = shifted(run, 40, config=config, config_digest="other")
    compared = list(verify.cells(changed, run))
    lines, reproduced = verify.lines(changed, run)
    assert not reproduced and lines[0].startswith("NOT REPRODUCED") and "other settings (draws)" in lines[2]
    assert {cell.column for cell in compared if cell.verdict == "differs"} >= {"Accuracy"}
    assert not {cell.column for cell in compared if cell.verdict == "differs"} & {"Log loss", "Brier score"}


def test_a_missing_method_differs(run):
    fewer = run.only(lambda frame: frame["method"] != "maml")
    missing = [cell for cell in verify.cells(fewer, run) if cell.obtained == "(missing)"]
    assert missing and all(cell.verdict == "differs" for cell in missing)
    assert all("MAML" in cell.row for cell in missing if cell.table == "scores")


@pytest.mark.parametrize(("obtained", "expected", "column", "verdict"), [
    ("+1.0 [+0.0, +2.0]", "+1.5 [+0.5, +2.5]", "Gain", "within"),  # a quarter of the width of 2 is 0.5
    ("+1.0 [+0.0, +2.0]", "+1.6 [+0.6, +2.6]", "Gain", "differs"),
    ("3 of 36", "4 of 36", "Worse", "within"), ("3 of 36", "5 of 36", "Worse", "differs"),
    ("0.010", "0.030", "p (Holm)", "within"), ("0.010", "0.031", "p (Holm)", "differs"),
    ("0.372", "0.451", "p (Holm)", "within"), ("0.200", "0.451", "p (Holm)", "differs"),
    ("20%", "30%", "Epoch 0", "within"), ("20%", "31%", "Epoch 0", "differs"),
    ("66.5", "67.0", "Accuracy", "within"), ("66.4", "67.0", "Accuracy", "differs"),
    ("-", "67.0", "Accuracy", "differs"), ("MAML", "Fine-tuning", "Against", "differs")])
def test_tolerances_on_paper(obtained, expected, column, verdict):
    cell = verify.Cell("t", "r", column, obtained, expected, *verify._distance(obtained, expected, column))
    assert cell.verdict == verdict


def test_the_command_ends_with_its_verdict(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    done = CliRunner().invoke(main.commands["verify"], [str(RUN)])
    assert done.exit_code == 0 and done.stdout.startswith("REPRODUCED")
    other = CliRunner().invoke(main.commands["verify"], [str(RUN), "--against", "results/emodb/whisper-tiny.en/main"])
    assert other.exit_code == 1 and other.stdout.startswith("NOT REPRODUCED") and "other data" in other.stdout
    monkeypatch.chdir(tmp_path)
    lost = CliRunner().invoke(main.commands["verify"], [str(RUN)])
    assert lost.exit_code == 1 and "--against" in str(lost.exception)
