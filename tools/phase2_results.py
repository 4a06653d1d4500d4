"""Make the committed Phase-2 results: the suite and the listener task, with the controls and a main run's models."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("records.parquet", "manifest.json", "tasks.csv", "domains.csv", "report.md")
CONTROLS = ("majority", "random", "oracle")


def run_python(*arguments: str) -> None:
    """Run Python in the project's folder. Exits with its status if it fails."""
    process = subprocess.run([sys.executable, *arguments], cwd=ROOT)
    if process.returncode:
        sys.exit(process.returncode)


def evaluate(tasks: list[str], models: list[str], out: Path) -> None:
    """Run `perser phase2` with the controls and our models. The majority answer is the reference."""
    names = [*CONTROLS, *(f"perser/{model}" for model in models)]
    chosen = [argument for name in names for argument in ("--model", name)]
    run_python("-m", "perser", "phase2", *tasks, *chosen, "--reference", "majority", "--out", str(out))


@click.command(epilog="Example: python tools/phase2_results.py out/synthetic/logmel/main --promote")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--root", default="data/synthetic", show_default=True, help="The corpus of the run.")
@click.option("--corpus", default="synthetic", show_default=True)
@click.option("--unit", default="fold1-group0-seed0", show_default=True, help="The unit whose checkpoints are used.")
@click.option("--out", default=Path("out/phase2"), show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--promote", is_flag=True, help="Copy the records and tables into results/phase2.")
def main(run: Path, root: str, corpus: str, unit: str, out: Path, promote: bool) -> None:
    """Evaluate SSL-E and Meta-PerSER of a main RUN on the suite and on the listener task of the same episodes."""
    general, adapted = (str(run / "checkpoints" / unit / name) for name in ("ssl-e", "meta-perser"))
    fold, group, _ = re.findall(r"\d+", unit)
    evaluate(["--suite"], [adapted], out / "suite")
    run_python("tools/listener_task.py", corpus, "--root", root, "--out", str(out / "tasks"), "--run", str(run),
               "--fold", fold, "--group", group)
    evaluate(["--tasks", str(out / "tasks")], [general, adapted], out / "listener")
    for name in ("suite", "listener") if promote else ():
        kept = ROOT / "results" / "phase2" / name
        kept.mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            shutil.copyfile(ROOT / out / name / file, kept / file)


if __name__ == "__main__":
    main()
