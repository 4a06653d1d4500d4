"""The README shows what the committed records say, and nothing typed by hand."""

import re
from pathlib import Path

from perser import records, tables

ROOT = Path(__file__).parents[1]


def test_tables_are_those_of_the_records():
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"<!-- table: (\S+) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert shown
    for run, block in shown:
        frame = records.read(ROOT / run)
        caption = tables.main_caption(frame, records.manifest(ROOT / run))
        assert block == tables.markdown(tables.main_table(frame), caption)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_set_up_takes_two_commands():
    block = re.search(r"## Two commands\n\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [line.split("#")[0].strip() for line in block[1].splitlines()] == ["./reproduce.sh", "./reproduce.sh test"]
