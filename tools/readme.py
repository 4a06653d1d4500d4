"""Put committed runs' tables, and the claims against the best simple method, between their markers in the README."""

import re
from pathlib import Path

from perser import records
from perser.analysis import claims, tables

ROOT = Path(__file__).resolve().parent.parent


def table(run: Path) -> str:
    """A run's main table as Markdown."""
    frame = records.read(run)
    return tables.markdown(tables.main_table(frame), tables.main_caption(frame, records.manifest(run)))


def claimed(*runs: Path) -> str:
    """What each run says of ours against the best method without meta-learning, whichever way it came out."""
    found = [claim for run in runs for claim in claims.of_run(records.read(run), run) if claim["bar"]]
    return "\n".join(["```", *claims.lines(found), "```", ""])


def filled(text: str) -> str:
    """The README with every block between markers written anew."""
    for name, write in (("table", table), ("claims", claimed)):
        text = re.sub(rf"(<!-- {name}: ([^>]+) -->\n).*?(<!-- end -->)",
                      lambda found, write=write: found[1] + write(*map(ROOT.joinpath, found[2].split())) + found[3],
                      text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))
