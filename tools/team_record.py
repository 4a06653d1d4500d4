"""Record what `perser personalise` says of EmoDB's 36 reported listeners. Notebook 13 shows the record.

The listeners are treated like any team: their ratings are written as a table, and the command reads nothing else but
the folder of audio. Shots and the order of classes are the study's, so that the record can be held against its own.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from perser import corpora, records
from perser.corpora import schema

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "results" / "team" / "emodb.json"
LEFT_OUT = {"corpus_options", "files", "seal"}  # paths of this machine, and what tells of damage


@click.command(epilog="Example: python tools/team_record.py --root /path/to/EmoDB")
@click.option("--root", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Keep the whole output of the command here; a killed call then goes on.")
@click.option("--record", default=RECORD, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--jobs", default=2, show_default=True)
def main(root: Path, out: Path | None, record: Path, jobs: int) -> None:
    """Write the record: 2 to 4 minutes on two cores."""
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder) / "ratings.csv", (out or Path(folder) / "team").absolute()
        corpus = corpora.load("emodb", root)
        rows, clips = schema.rows(corpus)
        schema.write(rows, table)
        subprocess.run([sys.executable, "-m", "perser", "personalise", table, clips, "--out", out, "--jobs", str(jobs),
                        "--set", "shots=[5, 10, 20]", "--option", f"classes={','.join(corpus.classes)}"],
                       cwd=ROOT, check=True)
        manifest = json.loads((out / "manifest.json").read_text())
    for row in manifest["listeners"]:
        del row["file"]
    records.write_json({key: manifest[key] for key in manifest.keys() - LEFT_OUT} | {"corpus": "emodb"}, record)


if __name__ == "__main__":
    main()
