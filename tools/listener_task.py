"""Export ListenerEmotionRecognition of a corpus as a Phase-2 task folder, and check it by the benchmark's rules."""

import sys
from pathlib import Path
from typing import Any

import click

from perser import experiment as experiments
from perser import records
from perser.corpora import load
from perser.errors import UserError
from perser.experiment import Experiment
from perser.phase2.export import review
from perser.phase2.listeners import build

MAIN = experiments.OWN / "main.toml"


@click.command(epilog="Example: python tools/listener_task.py iemocap --root /path/to/IEMOCAP --out out/tasks --fold 1")
@click.argument("corpus")
@click.option("--root", required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(file_okay=False))
@click.option("--fold", default=1, show_default=True)
@click.option("--group", default=0, show_default=True, help="Group of held-out listeners, from 0.")
@click.option("--run", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="A run whose episodes are exported.  [default: those of main.toml]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of main.toml.")
@click.option("--at", default=5, show_default=True, help="Labelled clips in each instruction.")
@click.option("--rows", default=64, show_default=True)
@click.option("--setting", default="unseen", show_default=True, type=click.Choice(["seen", "unseen"]))
def main(corpus: str, root: str, out: str, run: Path | None, overrides: tuple[str, ...], **settings: Any) -> None:
    """Write the task into OUT. The exit code is 1 if it breaks a rule of the benchmark."""
    try:
        options = records.manifest(run).corpus_options if run else {}
        experiment = (Experiment.model_validate(records.manifest(run).config) if run
                      else experiments.load(MAIN, overrides, corpus))
        folder = build(out, load(corpus, root, **options), experiment, **settings)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    problems = review(folder)
    click.echo("\n".join([str(Path(folder)), *problems]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
