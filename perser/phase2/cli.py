"""`perser phase2`: evaluate models on Dynamic-SUPERB Phase-2 tasks."""

import logging
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from perser.errors import UserError

EXAMPLE = """
\b
Examples:
  perser phase2 --suite --model oracle --model majority --out out/phase2
  perser phase2 --tasks benchmark_tasks --model hf-audio/Qwen/Qwen2-Audio-7B-Instruct --out out/phase2 --resume
  perser phase2 --tasks benchmark_tasks --list

Serve a large model, on one machine or on several behind one address, and name the server:
  vllm serve Qwen/Qwen2-Audio-7B-Instruct
  export VLLM_BASE_URL=http://localhost:8000/v1 VLLM_API_KEY=none
  perser phase2 --tasks benchmark_tasks --model openai-api/vllm/Qwen/Qwen2-Audio-7B-Instruct --out out/phase2
"""


@click.command(epilog=EXAMPLE)
@click.option("--tasks", type=click.Path(exists=True, file_okay=False), help="Folder in the upstream layout.")
@click.option("--suite", is_flag=True, help="Use the embedded suite (generated under --out once) instead of --tasks.")
@click.option("--model", "models", multiple=True, help="perser/FILE, cascade/ASR+LLM, hf-audio/ID, replay/FILE, "
              "majority, random, oracle, or any inspect model. May be repeated.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for logs, records and the report.")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder of local data sets, by name.")
@click.option("--grader", multiple=True, help="Model that grades in addition to the deterministic scorer, e.g. "
              "openai/gpt-4o. May be repeated; the report compares their verdicts.")
@click.option("--judge-prompt", type=click.Path(exists=True, dir_okay=False), help="The graders' prompt for choices, "
              "e.g. the organisers', with {question}, {correct} and {answer}. Default: our rules.")
@click.option("--normaliser", type=click.Choice(["plain", "raw", "upstream", "whisper"]), default="plain",
              show_default=True, help="How texts are written before their errors are counted.")
@click.option("--reference", help="Model to compare the others with. Default: the cascade, if it was evaluated.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N rows of each data set.")
@click.option("--batch", "batch_size", type=click.IntRange(min=1), help="Questions per batch of a local model.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, asking only what is missing.")
@click.option("--list", "listing", is_flag=True, help="List which data sets are available; downloads nothing.")
def phase2(tasks: str | None, suite: bool, models: tuple[str, ...], out: str | None, listing: bool, data: str | None,
           grader: tuple[str, ...], **options: Any) -> None:
    """Evaluate speech language models on tasks in the Dynamic-SUPERB Phase-2 format."""
    if bool(tasks) == suite and not (listing and not tasks):
        raise click.UsageError("give either --tasks DIR or --suite")
    if not listing and not (models and out):
        raise click.UsageError("give --model NAME and --out DIR (or --list)")
    if suite and not out:
        raise click.UsageError("--suite needs --out DIR to generate it in")
    if not listing:  # fail on a missing key before the suite is generated
        from perser.phase2.runner import check

        check([*models, *grader])
    if suite:
        from perser.phase2.suite import build

        tasks = str(build(Path(out) / "suite", progress=click.get_text_stream("stderr").isatty()))
    if listing:
        _list(tasks, data, out)
    else:
        _evaluate(tasks, models, Path(out), data, grader=grader, **options)


def _list(tasks: str | None, data: str | None, out: str | None) -> None:
    from perser.phase2.tasks import coverage, load

    cache = str(Path(out or ".") / "audio")
    loaded, problems = load(tasks, data, cache, limit=1, fetch=False) if tasks else ([], [])
    table = coverage(loaded)
    click.echo(tabulate(table, headers="keys"))
    click.echo(f"{sum(row['sets'] for row in table)} data sets in {len(table)} groups (folds together), "
               f"{sum(row['loaded'] for row in table)} loaded; "
               f"{sum(row['sets'] for row in table if row['state'].startswith('unsupported'))} unsupported")
    click.echo("".join(f"! {problem}\n" for problem in problems), nl=False, err=True)


def _evaluate(tasks: str, models: tuple[str, ...], out: Path, data: str | None, reference: str | None,
              limit: int | None, normaliser: str, **options: Any) -> None:
    """Run every model and print the report; `options` are those of `runner.run`."""
    from perser.phase2 import report, runner
    from perser.phase2.tasks import load

    logging.getLogger("httpx").setLevel(logging.WARNING)
    source = {"tasks": str(Path(tasks).absolute()), "data": data, "cache_dir": str(out.absolute() / "audio"),
              "limit": limit}
    loaded, problems = load(tasks, data, source["cache_dir"], limit=limit)
    click.echo("".join(f"! {problem}\n" for problem in problems), nl=False, err=True)
    if not loaded:
        raise UserError(f"{tasks}: no data set can be run; see the lines above")
    for model in models:
        runner.run(loaded, model, out, source=source, **options)
    click.echo(report.write(out, reference, normaliser))
    if missing := sum(runner.manifest(out, model)["missing"] for model in models):
        raise UserError(f"{out}: {missing} answers are missing (the logs give the reasons); try again with --resume")
