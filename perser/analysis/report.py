"""From finished runs to their tables and figures, chosen by what the records and the manifest hold."""

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from matplotlib.figure import Figure

from perser import records
from perser.analysis import figures, tables, wording
from perser.analysis.experiments import ablation, listeners, main, methods, readings, recipe, shots, steps, upstreams
from perser.analysis.tables import Captioned
from perser.records import Run

EXPERIMENTS = (steps, ablation, recipe, methods, shots, main)  # the first that applies; the last always does


def experiment(run: Run) -> ModuleType:
    """The module of perser.analysis.experiments that shows a run."""
    return next(module for module in EXPERIMENTS if module.applies(run))


def tables_of(run: Run) -> dict[str, Captioned]:
    """The tables, without empty ones, of a run by name, each with its caption; the first is the one to print."""
    return {name: captioned for name, captioned in experiment(run).tables(run).items() if len(captioned[0].cells)}


def report(run_dir: Path, out: Path) -> list[Path]:
    """Write a finished run's tables (.md, .tex, .csv) and figures (.pdf, .png) to OUT/corpus/upstream/experiment."""
    run = records.load(run_dir)
    shown, drawn = tables_of(run), dict(experiment(run).figures(run))
    if experiment(run) in (methods, main) and listeners.applies(run):
        shown, drawn = shown | listeners.tables(run), drawn | dict(listeners.figures(run))
    drawn |= {"rates": steps.rates(run), "layers": upstreams.layers([run])}
    return _write(shown, drawn, place(run, out))


def place(run: Run, out: Path) -> Path:
    """OUT/corpus/upstream/experiment."""
    names = wording.labels(run.records)
    return Path(out).joinpath(*(names[key].replace("/", "--") for key in ("corpus", "upstream", "experiment")))


def _write(shown: dict[str, Captioned], drawn: dict[str, Figure | None], folder: Path) -> list[Path]:
    written = [path for name, captioned in shown.items() for path in tables.write(*captioned, folder / name)]
    return written + [path for name, figure in drawn.items() if figure for path in figures.save(figure, folder / name)]


def compare_upstreams(run_dirs: Iterable[Path], out: Path) -> list[Path]:
    """Write to OUT/corpus what compares runs of equal settings and corpus on different upstreams; returns the paths."""
    written = []
    for runs in upstreams.comparable(list(map(records.load, run_dirs))):
        name, folder = runs[0].manifest.experiment, Path(out) / runs[0].manifest.corpus
        drawn = {name: upstreams.figure(runs), f"{name}-layers": upstreams.layers(runs)}
        written += _write({name: upstreams.table(runs)}, drawn, folder)
    return written


def compare_readings(run_dirs: Iterable[Path], out: Path) -> list[Path]:
    """Write a table to OUT/corpus/upstream for runs that differ in nothing but their reading; returns the paths."""
    written = []
    for runs in readings.comparable(list(map(records.load, run_dirs))):
        folder = place(runs[0], out)
        written += _write({f"{folder.name}-compared": readings.table(runs)}, {}, folder.parent)
    return written
