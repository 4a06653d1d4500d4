"""`perser phase2`: evaluate models on Dynamic-SUPERB Phase-2 tasks."""

import logging
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import click

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


NORMALISER = click.option("--normaliser", type=click.Choice(["plain", "raw", "upstream", "whisper"]), default="plain",
                          show_default=True, help="How texts are written before their errors are counted.")


@click.group(invoke_without_command=True, epilog=EXAMPLE)
@click.option("--tasks", type=click.Path(exists=True, file_okay=False), help="Folder in the upstream layout.")
@click.option("--suite", is_flag=True, help="Use the embedded suite (generated under --out once) instead of --tasks.")
@click.option("--model", "models", multiple=True, help="perser/FILE, cascade/ASR+LLM, zero-shot/ASR+LLM, asr/NAME, "
              "hf-audio/ID, replay/FILE, majority, random, oracle, or any inspect model. May be repeated.")
@click.option("--models", "table", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="TOML with a table per model: args, generate, price. Its models are added to those of --model.")
@click.option("--model-arg", "given", multiple=True, metavar="KEY=VALUE", help="An argument of the models' providers, "
              "e.g. revision, dtype, device_map, seconds (of audio). May be repeated.")
@click.option("--generate", "settings", multiple=True, metavar="KEY=VALUE", help="A generation setting, e.g. "
              "max_tokens, temperature, system_message. May be repeated.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for logs, records and the report.")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder of local data sets, by name.")
@click.option("--grader", multiple=True, help="Model that grades in addition to the deterministic scorer, e.g. "
              "openai/gpt-4o. May be repeated; the report compares their verdicts.")
@click.option("--judge-prompt", type=click.Path(exists=True, dir_okay=False), help="The graders' prompt for choices, "
              "e.g. the organisers', with {question}, {correct} and {answer}. Default: our rules.")
@NORMALISER
@click.option("--reference", help="Model to compare the others with. Default: the cascade, if it was evaluated.")
@click.option("--text/--no-text", "texts", default=True, show_default=True, help="Show models the column `text`, as "
              "the first phase does and the second does not.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N rows of each data set.")
@click.option("--batch", "batch_size", type=click.IntRange(min=1), help="Questions per batch of a local model.")
@click.option("--timeout", default=300.0, show_default=True, type=click.FloatRange(min=1), help="Seconds for an "
              "answer of a server, with its retries. After 20 failures in a row the rest is not asked.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, asking only what is missing.")
@click.option("--list", "listing", is_flag=True, help="List which data sets are available; downloads nothing.")
@click.pass_context
def phase2(context: click.Context, /, tasks: str | None, suite: bool, models: tuple[str, ...], out: str | None,
           listing: bool, data: str | None, grader: tuple[str, ...], table: Path | None, given: tuple[str, ...],
           settings: tuple[str, ...], **options: Any) -> None:
    """Evaluate speech language models on tasks in the Dynamic-SUPERB Phase-2 format."""
    if context.invoked_subcommand:
        return
    chosen = _chosen(models, table, given, settings)
    if bool(tasks) == suite and not (listing and not tasks):
        raise click.UsageError("give either --tasks DIR or --suite")
    if not listing and not (chosen and out):
        raise click.UsageError("give --model NAME and --out DIR (or --list)")
    if suite and not out:
        raise click.UsageError("--suite needs --out DIR to generate it in")
    if not listing:  # fail on a missing key before the suite is generated
        from perser.phase2.runner import check

        check([*chosen, *grader], {name: model["args"] for name, model in chosen.items()})
    if suite:
        from perser.phase2.suite import build

        tasks = str(build(Path(str(out)) / "suite", progress=True))
    if listing:
        _list(tasks, data, out)
    else:
        _evaluate(str(tasks), chosen, Path(str(out)), data, grader=grader, **options)


def _chosen(names: tuple[str, ...], table: Path | None, given: tuple[str, ...], settings: tuple[str, ...]
            ) -> dict[str, dict[str, Any]]:
    """The models by name with `args`, `generate` and `price`: those of the TOML, then those of the command line."""
    common = {"args": _pairs(given, "--model-arg"), "generate": _pairs(settings, "--generate")}
    try:
        stated = tomllib.loads(table.read_text(encoding="utf-8")) if table else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{table}: not TOML ({error})") from error
    chosen = {}
    for name, model in (stated | {name: stated.get(name, {}) for name in names}).items():
        if not isinstance(model, dict) or set(model) - {"args", "generate", "price"}:
            raise UserError(f"{table}: {name!r}: give a table [\"MODEL\"] with args, generate or price "
                            "(dollars for a million tokens in and out)")
        chosen[name] = {part: model.get(part, {}) | common[part] for part in common} | {"price": model.get("price")}
    return chosen


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, Any]:
    """KEY=VALUE as a dictionary; a value is read as TOML if it is, else as text."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{option} {text}: write KEY=VALUE")
        try:
            pairs[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            pairs[name] = value
    return pairs


def _list(tasks: str | None, data: str | None, out: str | None) -> None:
    from tabulate import tabulate

    from perser.phase2.tasks import coverage, described, load

    cache = str(Path(out or ".") / "audio")
    loaded, problems = load(tasks, data, cache, limit=1, fetch=False) if tasks else ([], [])
    table = coverage(loaded, described(tasks) if tasks else ())
    click.echo(tabulate(table, headers="keys"))
    click.echo(f"{sum(row['sets'] for row in table)} data sets in {len(table)} groups (folds together), "
               f"{sum(row['loaded'] for row in table)} loaded; "
               f"{sum(row['state'] == 'data missing' for row in table)} groups lack only the data; "
               f"{sum(row['sets'] for row in table if row['state'].startswith('unsupported'))} unsupported")
    click.echo("".join(f"! {problem}\n" for problem in problems), nl=False, err=True)


def _evaluate(tasks: str, models: dict[str, dict[str, Any]], out: Path, data: str | None, reference: str | None,
              limit: int | None, texts: bool, normaliser: str, **options: Any) -> None:
    """Run every model and print the report; `options` are those of `runner.run`."""
    from perser.phase2 import report, runner
    from perser.phase2.tasks import load

    logging.getLogger("httpx").setLevel(logging.WARNING)
    cache = str(out.absolute() / "audio")
    source = {"tasks": str(Path(tasks).absolute()), "data": data, "cache_dir": cache, "limit": limit}
    loaded, problems = load(tasks, data, cache, limit=limit, texts=texts)
    click.echo("".join(f"! {problem}\n" for problem in problems), nl=False, err=True)
    if not loaded:
        raise UserError(f"{tasks}: no data set can be run; see the lines above")
    for name, model in models.items():
        click.echo(runner.estimate(loaded, name, out, model["generate"], model["price"]), err=True)
        runner.run(loaded, name, out, source=source, args=model["args"], generate=model["generate"],
                   progress=sys.stderr, **options)
    click.echo(report.write(out, reference, normaliser=normaliser))
    if missing := sum(runner.manifest(out, model)["missing"] for model in models):
        errors = Counter[str]()
        for name in models:
            errors.update(runner.manifest(out, name)["errors"])
        common, count = (errors.most_common(1) or [("interrupted", missing)])[0]
        raise UserError(f"{out}: {missing} answers are missing; of {count} the reason is: {report.plain(common)}; try "
                        "again with --resume")


@phase2.command("report", epilog="Example: perser phase2 report out/one out/two --out out/both --reference majority")
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Default: the folder, if it is one.")
@click.option("--reference", help="Model to compare the others with. Default: the cascade, if it was evaluated.")
@NORMALISER
@click.option("--scores", is_flag=True, help="Also write the organisers' score file of each model, for a submission.")
@click.option("--seen", multiple=True, help="A task or data set that the models were trained on, for --scores.")
def rebuild(folders: tuple[Path, ...], out: Path | None, reference: str | None, normaliser: str, scores: bool,
            seen: tuple[str, ...]) -> None:
    """Make the report of one or more output folders again, joined; asks no model."""
    from perser.phase2 import report

    if not out and len(folders) > 1:
        raise click.UsageError("several folders are joined: give --out DIR")
    click.echo(report.write(out or folders[0], reference, folders, normaliser))
    for path in report.scores(out or folders[0], seen) if scores else []:
        click.echo(path)
