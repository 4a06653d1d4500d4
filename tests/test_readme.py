"""The README shows what the committed records say, and nothing typed by hand."""

import re
from pathlib import Path

from perser import records
from perser.analysis import claims, tables

ROOT = Path(__file__).parents[1]


def test_tables_are_those_of_the_records():
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"<!-- table: (\S+) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert shown
    for run, block in shown:
        frame = records.read(ROOT / run)
        caption = tables.main_caption(frame, records.manifest(ROOT / run))
        assert block == tables.markdown(tables.main_table(frame), caption)


def test_claims_are_those_of_the_records_also_those_that_fail():
    text = (ROOT / "README.md").read_text()
    [(runs, block)] = re.findall(r"<!-- claims: (.+?) -->\n```\n(.*?)```\n<!-- end -->", text, re.DOTALL)
    corpora = [run.split("/")[1] for run in runs.split()]
    assert corpora == ["ravdess", "synthetic"]
    every = [line for run in runs.split() for line in claims.lines(claims.of_run(records.read(ROOT / run), Path(run)))]
    assert block.splitlines() == [line for line in every if "best method without meta-learning" in line]
    assert len(block.splitlines()) == 8  # two of ours, two settings, two corpora


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_set_up_takes_two_commands():
    block = re.search(r"## Two commands\n\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [line.split("#")[0].strip() for line in block[1].splitlines()] == ["./reproduce.sh", "./reproduce.sh test"]
