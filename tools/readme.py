"""Put each committed run's table between its markers in the README."""

import re
from pathlib import Path

from perser import records, tables

ROOT = Path(__file__).resolve().parent.parent


def table(run: Path) -> str:
    """A run's main table as Markdown."""
    frame = records.read(run)
    return tables.markdown(tables.main_table(frame), tables.main_caption(frame, records.manifest(run)))


def main() -> None:
    """Rewrite README.md."""
    path = ROOT / "README.md"
    path.write_text(re.sub(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)",
                           lambda found: found[1] + table(ROOT / found[2]) + found[3], path.read_text(), flags=re.S))


if __name__ == "__main__":
    main()
