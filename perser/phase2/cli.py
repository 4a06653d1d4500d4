"""`perser phase2`: evaluate models on Dynamic-SUPERB Phase-2 tasks."""

import logging
from pathlib import Path

import click
from tabulate import tabulate

from perser.errors import UserError

EXAMPLE = """
\b
Examples:
  perser phase2 --suite --model oracle --model majority --out out/phase2
  perser phase2 --tasks benchmark_tasks --model hf-audio/Qwen/Qwen2-Audio-7B-Instruct --out out/phase2 --resume
  perser phase2 --tasks benchmark_tasks --list

A large model is best served, on one machine or on many behind one address, and asked there:
  vllm serve Qwen/Qwen2-Audio-7B-Instruct
  export VLLM_BASE_URL=http://localhost:8000/v1 VLLM_API_KEY=none
  perser phase2 --tasks benchmark_tasks --model openai-api/vllm/Qwen/Qwen2-Audio-7B-Instruct --out out/phase2
"""


@click.command(epilog=EXAMPLE)
@click.option("--tasks", type=click.Path(exists=True, file_okay=False), help="Folder of the upstream layout.")
@click.option("--suite", is_flag=True, help="The embedded suite (made under --out once) instead of --tasks.")
@click.option("--model", "names", multiple=True, help="perser/FILE, cascade/ASR+LLM, hf-audio/ID, replay/FILE, "
              "majority, random, oracle, or any model of inspect. May be repeated.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for logs, records and the report.")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Data sets already on disk, by name.")
@click.option("--grader", help="Model that grades beside the deterministic scorer, e.g. openai/gpt-4o.")
@click.option("--reference", help="Model that the others are compared with; default: the cascade, if it ran.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N rows of each data set.")
@click.option("--batch", type=click.IntRange(min=1), help="Questions per batch of a local model.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; only what is missing is asked.")
@click.option("--list", "listing", is_flag=True, help="Say which data sets are here, absent or unsupported; downloads "
              "nothing.")
def phase2(tasks: str | None, suite: bool, names: tuple[str, ...], out: str | None, data: str | None,
           grader: str | None, reference: str | None, limit: int | None, batch: int | None, resume: bool,
           listing: bool) -> None:
    """Evaluate speech language models on tasks in the format of Dynamic-SUPERB Phase-2."""
    if bool(tasks) == suite and not (listing and not tasks):
        raise click.UsageError("give either --tasks DIR or --suite")
    if not listing and not (names and out):
        raise click.UsageError("give --model NAME and --out DIR (or --list)")
    if suite and not out:
        raise click.UsageError("--suite needs --out DIR, where it is made")
    if listing:
        _list(tasks or (_suite(out) if suite else None), data, out)
    else:
        _check(names, grader)
        _evaluate(tasks or _suite(out), names, Path(out), data, grader, reference, limit, batch, resume)


def _suite(out: str) -> str:
    from perser.phase2.suite import build

    return str(build(Path(out) / "suite", progress=click.get_text_stream("stderr").isatty()))


def _check(names: tuple[str, ...], grader: str | None) -> None:
    """Find out that a key is missing before the suite is made and anything is asked."""
    from perser.phase2 import runner

    runner.check([*names, *([grader] if grader else [])])


def _list(tasks: str | None, data: str | None, out: str | None) -> None:
    from perser.phase2.tasks import coverage, load

    cache = str(Path(out or ".") / "audio")
    loaded, problems = load(tasks, data, cache, limit=1, fetch=False) if tasks else ([], [])
    table = coverage(loaded)
    click.echo(tabulate(table, headers="keys"))
    click.echo(f"{sum(row['sets'] for row in table)} data sets in {len(table)} groups (folds together), "
               f"{sum(row['loaded'] for row in table)} loaded; "
               f"{sum(row['sets'] for row in table if row['state'].startswith('unsupported'))} unsupported")
    for problem in problems:
        click.echo(f"! {problem}", err=True)


def _evaluate(tasks: str, names: tuple[str, ...], out: Path, data: str | None, grader: str | None,
              reference: str | None, limit: int | None, batch: int | None, resume: bool) -> None:
    from perser.phase2 import report, runner
    from perser.phase2.tasks import load

    logging.getLogger("httpx").setLevel(logging.WARNING)
    source = {"tasks": str(Path(tasks).absolute()), "data": data, "cache_dir": str(out.absolute() / "audio"),
              "limit": limit}
    loaded, problems = load(tasks, data, source["cache_dir"], limit=limit)
    for problem in problems:
        click.echo(f"! {problem}", err=True)
    if not loaded:
        raise UserError(f"{tasks}: no data set can be run; see the lines above")
    missing = 0
    for name in names:
        runner.run(loaded, name, out, source=source, grader=grader, resume=resume, batch_size=batch)
        missing += runner.manifest(out, name)["missing"]
    click.echo(report.write(out, reference))
    if missing:
        raise UserError(f"{out}: {missing} answers are missing (the logs say why); ask for them again with --resume")
