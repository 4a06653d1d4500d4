"""The README shows what the committed records say. Its numbers are not typed by hand."""

import html
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from perser import records
from perser.analysis import claims, comparison, tables, verdicts
from perser.analysis.experiments import methods as compared

ROOT = Path(__file__).parents[1]
FOLDERS = "perser|tests|tools|benchmarks|results"
PAGES = ("README.md", "ARTIFACT.md", "CONTRIBUTING.md", "docs/recipes.md", "docs/licences.md", "docs/cluster.md")


def test_tables_are_those_of_the_records():
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"<!-- table: (.+?) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert shown
    for what, block in shown:
        directory, *methods = what.split()
        run = comparison.largest(records.load(ROOT / directory))
        run = comparison.of(run, methods) if methods else run
        assert set(methods) <= set(run.records["method"])
        whole = tables.score_table(run).cells
        heading, *lines = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in
                           block.replace("**", "").splitlines() if line.startswith("| ")]
        assert {"Clips", "Method", "Accuracy", "Gain, accuracy", "Gain, log loss", "Worse"} <= set(heading)
        assert lines == whole[heading].to_numpy().tolist()
        shown, *folded = tables.score_caption(run).split("\n\n")
        assert block.startswith(f"{shown}\n") and all(f"<p>{html.escape(part, False)}</p>" in block for part in folded)


def test_the_strongest_rival_is_in_the_first_table_and_no_method_that_loses_is_bold():
    text = (ROOT / "README.md").read_text()
    what, block = re.search(r"<!-- table: (.+?) -->\n(.*?)<!-- end -->", text, re.DOTALL).groups()
    directory, *methods = what.split()
    run = records.load(ROOT / directory)
    rows = comparison.rows(comparison.largest(run), names=["log_loss"])
    rows = rows[(rows["group"] == "No meta-learning") & (rows["shots"] > 0)]
    for _, part in rows.groupby("setting"):
        assert part.loc[part["gain"].idxmax(), "method"] in methods
    lines = [line for line in block.splitlines() if "**" in line]
    assert lines and not [line for line in lines if re.search(r"\*\*-", line)]


def test_the_answer_is_that_of_the_records():
    text = (ROOT / "README.md").read_text()
    [(directory, text)] = re.findall(r"<!-- answer: (.+?) -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert text == compared.answer(records.load(ROOT / directory))


def test_the_team_is_told_what_the_record_says():
    text = (ROOT / "README.md").read_text()
    [(path, block)] = re.findall(r"<!-- team: (.+?) -->\n```\n(.*?)```\n<!-- end -->", text, re.DOTALL)
    told = json.loads((ROOT / path).read_text())
    printed = verdicts.lines(pd.DataFrame(told["listeners"]), told["shots"])
    shown = [line for line in block.splitlines() if line != "..."]
    assert len(shown) >= 8 and [line for line in printed if line in shown] == shown


def test_the_main_result_is_reached_within_six_hundred_words():
    """Words of prose: no code, tables, comments, folds or addresses of links."""
    text = (ROOT / "README.md").read_text().split("## Who it is for")[0]
    for away in (r"```.*?```", r"<details>.*?</details>", r"<!--.*?-->", r"^\|.*?$", r"\]\([^)]*\)"):
        text = re.sub(away, " ", text, flags=re.DOTALL | re.MULTILINE)
    assert 300 < len(text.split()) <= 600


def test_claims_are_those_of_the_records_also_those_that_fail():
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"<!-- claims: (.+?) -->\n```\n(.*?)```\n<!-- end -->", text, re.DOTALL)
    assert blocks
    for what, block in blocks:
        directory, *methods = what.split()
        run = records.load(ROOT / directory)
        titles = {run.title(method) for method in methods or run.manifest.methods}
        judged = [claim for claim in claims.of_run(run, Path(directory)) if claim["method"] in titles]
        headline = [claim for claim in judged if claim["kind"] in ("gain", "personal", "harmless")]
        barred = [claim for claim in judged if "best method without meta-learning" in claim["claim"]]
        assert headline and barred and all(claim["bar"] for claim in barred)
        assert block.splitlines() == claims.lines([claim for claim in judged if claim in headline or claim in barred])


def test_minutes_are_those_of_the_records():
    """Every run has its row, summed here by hand; what has no record has no number."""
    text = (ROOT / "docs" / "recipes.md").read_text()
    [block] = re.findall(r"<!-- minutes: results benchmarks -->\n(.*?)<!-- end -->", text, re.DOTALL)
    rows = {command.strip(" `"): [core.strip(), call.strip()] for command, core, call in
            re.findall(r"^\|([^|]+)\|([^|]+)\|([^|]+)\|", block, re.MULTILINE)}
    paths = [*(ROOT / "results").glob("*/*/*/manifest.json")]
    for path in paths:
        told = json.loads(path.read_text())
        [row] = [row for command, row in rows.items() if re.fullmatch(
            rf"perser run (\w+ --set name=)?{told['experiment']} --corpus {told['corpus']} --upstream "
            rf"{re.escape(told['upstream'])} \.\.\.", command)]
        assert row[0] == f"{sum(origin['minutes'] for origin in told['origins']):.1f}"
        assert row[1] == "-" or (row[1] == f"{told['minutes']:.1f}" and len(told["origins"]) == 1)
    assert sum(command.startswith("perser run") and row[0] != "not measured" for command, row in rows.items()) == len(
        paths) > 10
    suite = json.loads((ROOT / "results" / "phase2" / "suite" / "manifest.json").read_text())["models"]
    slow = max(suite.values(), key=lambda told: told["seconds"])
    assert rows[f"perser phase2 --suite --limit {slow['limit']} --model {slow['model']} ..."][1] == (
        f"{slow['seconds'] / 60:.1f}")
    assert rows["./reproduce.sh full --corpus iemocap ..."] == ["not measured", "not measured"]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or ((ROOT / page).parent / link).exists(), link
    for path in re.findall(rf"`(?:python |sudo )?((?:{FOLDERS})/[\w/-]+\.\w+)", text):
        assert (ROOT / path).exists(), path


def test_set_up_takes_two_commands():
    block = re.search(r"## Two commands\n\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [line.split("#")[0].strip() for line in block[1].splitlines()] == ["./reproduce.sh", "./reproduce.sh test"]
