"""The README shows what the committed records say. Its numbers are not typed by hand."""

import re
from pathlib import Path

import pytest

from perser import records
from perser.analysis import claims, comparison, tables

ROOT = Path(__file__).parents[1]
FOLDERS = "perser|tests|tools|benchmarks|results"
PAGES = ("README.md", "ARTIFACT.md", "CONTRIBUTING.md")


def test_tables_are_those_of_the_records():
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"<!-- table: (.+?) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert shown
    for what, block in shown:
        directory, *methods = what.split()
        run = comparison.largest(records.load(ROOT / directory))
        run = comparison.of(run, methods) if methods else run
        assert set(methods) <= set(run.records["method"])
        assert block == tables.markdown(tables.score_table(run), tables.score_caption(run))


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


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    for path in re.findall(rf"`(?:python |sudo )?((?:{FOLDERS})/[\w/-]+\.\w+)", text):
        assert (ROOT / path).exists(), path


def test_set_up_takes_two_commands():
    block = re.search(r"## Two commands\n\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [line.split("#")[0].strip() for line in block[1].splitlines()] == ["./reproduce.sh", "./reproduce.sh test"]
