"""Measure how alike listeners are: EmoDB's people, simulated listeners as they are, and as they were before.

Writes results/calibration/likeness.json; the rows of the earlier simulation are kept as they are.
"""

import json
import tempfile
from pathlib import Path

import click

from perser.corpora import Corpus, load
from perser.corpora.agreement import likeness
from perser.corpora.synthetic import synthesise

OUT = Path(__file__).parents[1] / "results" / "calibration" / "likeness.json"


def row(listeners: str, corpus: Corpus) -> dict:
    """The numbers of one corpus."""
    return {"listeners": listeners, "corpus": corpus.name, "n": int(corpus.ratings["listener"].nunique()),
            "ratings": len(corpus.ratings), **likeness(corpus)}


@click.command(epilog="Example: python tools/calibration.py --emodb /path/to/EmoDB --ravdess /path/to/RAVDESS")
@click.option("--emodb", required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--ravdess", required=True, type=click.Path(exists=True, file_okay=False))
def main(emodb: str, ravdess: str) -> None:
    """Write the record and print it."""
    record = json.loads(OUT.read_text())
    earlier = [kept for kept in record["rows"] if kept["listeners"].endswith("before")]
    people = [row(f"people, {who}", load("emodb", emodb, listeners=who)) for who in ("development", "reported")]
    with tempfile.TemporaryDirectory() as place:
        synthetic = load("synthetic", synthesise(place))
    now = [row("simulated", corpus) for corpus in (load("ravdess", ravdess), synthetic)]
    record["rows"] = [*people, *earlier, *now]
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    for line in record["rows"]:
        click.echo("  ".join(str(value) for value in line.values()))


if __name__ == "__main__":
    main()
