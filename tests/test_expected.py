"""Claims judged by machine: verdicts on paper, what is refused, and that nothing committed has regressed."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from perser.analysis import expected
from perser.cli import main
from perser.errors import UserError

ROOT = Path(__file__).parents[1]
FILE = ROOT / "results/expected.toml"
TABLE = {"id": "speed", "source": "us", "says": "Fast", "table": "b.csv", "column": "times", "bar": 2.0, "value": 3.0,
         "tolerance": 0.5, "reason": "timings vary"}


@pytest.fixture(scope="module")
def judged():
    return expected.judge(expected.read(FILE), ROOT)


def test_nothing_committed_has_regressed(judged):
    assert [one.claim.id for one in judged if one.regressed] == []
    assert {one.reproduced for one in judged} >= {"yes", "no", "by test", "needs IEMOCAP", "needs a GPU"}


def test_artifact_shows_the_claims_as_judged(judged):
    text = (ROOT / "ARTIFACT.md").read_text()
    block = re.search(r"<!-- expected: results/expected.toml -->\n(.*?)<!-- end -->", text, re.DOTALL)[1]
    assert block == f"{expected.headline(judged)}.\n\n{expected.markdown(judged)}"
    assert block.count("\n| ") == len(judged) + 2


@pytest.mark.parametrize(("change", "reproduced", "regressed"), [
    ({}, "yes", False), ({"bar": 2.9}, "no", False), ({"take": "max", "bar": 2.9, "value": 4.0}, "yes", False),
    ({"value": 3.4}, "yes", True), ({"value": 3.3}, "yes", False), ({"kind": "below", "bar": 3.0}, "yes", False),
    ({"kind": "below"}, "no", False), ({"where": {"name": "b"}, "value": 4.0}, "yes", False)])
def test_verdicts_on_paper(tmp_path, change, reproduced, regressed):
    pd.DataFrame({"name": ["a", "b"], "times": [2.85, 4.0]}).to_csv(tmp_path / "b.csv", index=False)
    (one,) = expected.judge([expected.Claim(**TABLE | change)], tmp_path)
    assert (one.reproduced, one.regressed) == (reproduced, regressed)


def test_a_run_decides_by_its_interval(judged):
    runs = [one for one in judged if one.claim.run]
    assert runs and all(one.low <= one.value <= one.high for one in runs)
    assert all((one.reproduced == "yes") == (one.low > one.claim.bar) for one in runs)


@pytest.mark.parametrize(("change", "message"), [
    ({"reason": ""}, "reason for the tolerance"), ({"tolerance": None}, "give value, tolerance"),
    ({"tolerance": 0}, "greater than 0"), ({"value": "nan"}, "finite number"), ({"id": "../x"}, "id"),
    ({"test": "a::b"}, "name one of run, table, test"), ({"needs": "IEMOCAP"}, "or else what it needs"),
    ({"colour": "red"}, "colour"), ({"part": "half"}, "part")])
def test_an_incomplete_claim_is_one_line_that_names_it(tmp_path, change, message):
    entry = {key: value for key, value in (TABLE | change).items() if value is not None}
    file = tmp_path / "expected.toml"
    file.write_text("[[claim]]\n" + "".join(
        f"{key} = {'nan' if value == 'nan' else json.dumps(value)}\n" for key, value in entry.items()))
    with pytest.raises(UserError, match=message) as error:
        expected.read(file)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{file}: {entry['id']}")


@pytest.mark.parametrize("text", ["", "claim = 3", "[[claim]]\nid = ", "[claim]\nid = 'a'", "claim = [1]"])
def test_a_file_without_claims_is_one_line(tmp_path, text):
    (tmp_path / "expected.toml").write_text(text)
    with pytest.raises(UserError, match=r"expected\.toml"):
        expected.read(tmp_path / "expected.toml")


def test_what_decides_a_claim_must_be_there(tmp_path):
    pd.DataFrame({"name": ["a"], "times": [1.0]}).to_csv(tmp_path / "b.csv", index=False)
    (tmp_path / "t.py").write_text("def test_other(): pass")
    for change, message in (({"where": {"name": "z"}}, "no row where"),
                            (dict.fromkeys(("table", "column")) | {"test": "t.py::test_it"}, "no test test_it")):
        with pytest.raises(UserError, match=message):
            expected.judge([expected.Claim(**TABLE | change)], tmp_path)


def test_numbers_of_a_paper_stand_before_ours(tmp_path, judged):
    file = tmp_path / "paper.toml"
    file.write_text('[[number]]\nid = "engine-jax"\nvalue = 7.5\nnote = "Table 2"\n'
                    '[[number]]\nid = "paper-seen"\nvalue = 2\n')
    first, second = expected.paper(file, judged)[1:]
    assert first.split() == ["engine-jax", "7.5", "4.27", "Table", "2"]
    assert second.split() == ["paper-seen", "2", "needs", "IEMOCAP"]
    for text in ("[[number]]\nid = ", "number = 3", "", "number = [1]"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"is no list of \[\[number\]\] tables"):
            expected.paper(file, judged)
    file.write_text('[[number]]\nid = "nope"\nvalue = 1\n')
    with pytest.raises(UserError, match="needs the id of a claim"):
        expected.paper(file, judged)


def test_the_command_leads_with_totals_and_at_most_twelve_claims(monkeypatch, judged):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(main.commands["claims"], [])
    assert done.exit_code == 0 and done.stdout.startswith(f"{len(judged)} claims: ")
    assert max(map(len, done.stdout.splitlines())) < 80
    assert len(re.findall(r"^(?:yes|no|\?|test) ", done.stdout, re.MULTILINE)) <= 12
