"""Export ListenerEmotionRecognition of a corpus as a Phase-2 task folder, and check it by the benchmark's rules."""

import sys
from pathlib import Path

import click

from perser.corpora import load
from perser.errors import UserError
from perser.phase2.export import review
from perser.phase2.listeners import build


@click.command(epilog="Example: python tools/listener_task.py iemocap --root /path/to/IEMOCAP --out out/tasks --fold 1")
@click.argument("corpus")
@click.option("--root", required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(file_okay=False))
@click.option("--fold", default=1, show_default=True)
@click.option("--group", default=0, show_default=True, help="Group of held-out listeners, from 0.")
@click.option("--groups", default=6, show_default=True, help="Groups of the experiment.")
@click.option("--shots", default="5,10,20", show_default=True, help="Shots of the experiment, separated by commas.")
@click.option("--at", default=5, show_default=True, help="Labelled clips in each instruction.")
@click.option("--rows", default=64, show_default=True)
@click.option("--setting", default="unseen", show_default=True, type=click.Choice(["seen", "unseen"]))
def main(corpus: str, root: str, out: str, fold: int, group: int, groups: int, shots: str, at: int, rows: int,
         setting: str) -> None:
    """Write the task into OUT. The exit code is 1 if it breaks a rule of the benchmark."""
    try:
        folder = build(out, load(corpus, root), fold=fold, group=group, groups=groups, at=at, rows=rows,
                       setting=setting, shots=tuple(int(k) for k in shots.split(",")))
    except UserError as error:
        raise click.ClickException(str(error)) from error
    problems = review(folder)
    click.echo("\n".join([str(Path(folder)), *problems]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
