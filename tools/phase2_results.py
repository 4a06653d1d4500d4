"""Make the committed Phase-2 results: tasks answered by the controls, a run's models, and real small models.

The real models are a cascade of two packaged models, its recogniser alone, and emotion from the transcript alone.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("records.parquet", "manifest.json", "tasks.csv", "rows.csv", "domains.csv", "differences.csv", "report.md")
CONTROLS = ("majority", "random", "oracle")
REAL = ("asr/whisper-tiny.en", "zero-shot/whisper-tiny.en+smollm2-135m", "cascade/whisper-tiny.en+smollm2-135m")
SHORT = "max_tokens=48"  # no answer needs more; a small model would ramble on


def run_python(*arguments: str) -> None:
    """Run Python in the project's folder. Exits with its status if it fails."""
    process = subprocess.run([sys.executable, *arguments], cwd=ROOT)
    if process.returncode:
        sys.exit(process.returncode)


def evaluate(tasks: list[str], models: list[str], out: Path, more: list[str]) -> None:
    """Run `perser phase2` with the controls and the models. The majority answer is the reference."""
    chosen = [part for name in (*CONTROLS, *models, *REAL) for part in ("--model", name)]
    run_python("-m", "perser", "phase2", *tasks, *chosen, "--generate", SHORT, "--reference", "majority",
               "--out", str(out), *more)


@click.command(epilog="Example: python tools/phase2_results.py out/synthetic/logmel/main --name suite --promote")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--name", default="suite", show_default=True, help="suite, listener (the task of the run's episodes) or "
              "a name for the tasks of --tasks.")
@click.option("--root", default="data/synthetic", show_default=True, help="The corpus of the run.")
@click.option("--corpus", default="synthetic", show_default=True)
@click.option("--tasks", type=click.Path(exists=True, file_okay=False), help="Folder in the upstream layout.")
@click.option("--unit", default="fold1-group0-seed0", show_default=True, help="The unit whose checkpoints are used.")
@click.option("--out", default=Path("out/phase2"), show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--limit", help="Only the first N rows of each data set.")
@click.option("--resume", is_flag=True, help="Continue an interrupted or limited run.")
@click.option("--promote", is_flag=True, help="Copy the records and tables into results/phase2.")
def main(run: Path, name: str, root: str, corpus: str, tasks: str | None, unit: str, out: Path, limit: str | None,
         resume: bool, promote: bool) -> None:
    """Evaluate SSL-E and Meta-PerSER of a RUN, the controls and the real models on one set of tasks."""
    general, adapted = (f"perser/{run / 'checkpoints' / unit / name}" for name in ("ssl-e", "meta-perser"))
    fold, group, _ = re.findall(r"\d+", unit)
    more = [*(["--limit", limit] if limit else []), *(["--resume"] if resume else [])]
    if name == "suite":
        evaluate(["--suite"], [adapted], out / name, more)
    elif tasks:
        evaluate(["--tasks", tasks], [adapted], out / name, more)
    else:
        run_python("tools/listener_task.py", corpus, "--root", root, "--out", str(out / f"{name}-tasks"), "--run",
                   str(run), "--fold", fold, "--group", group)
        evaluate(["--tasks", str(out / f"{name}-tasks")], [general, adapted], out / name, more)
    if promote:
        kept = ROOT / "results" / "phase2" / name
        kept.mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            shutil.copyfile(ROOT / out / name / file, kept / file)


if __name__ == "__main__":
    main()
