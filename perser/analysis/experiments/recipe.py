"""Variants of a recipe: each method against the references that the experiment names."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from perser.analysis import tables as printing
from perser.analysis import wording
from perser.analysis.experiments import methods
from perser.analysis.statistics import compare_with
from perser.analysis.tables import Captioned
from perser.records import Run
from perser.scores import per_seed


def applies(run: Run) -> bool:
    """Whether the experiment names references."""
    return bool(run.manifest.config.get("references"))


def tables(run: Run) -> dict[str, Captioned]:
    """The scores; every method against the first reference, one-change variants of the second against it."""
    shown, (first, *second) = printing.score_tables(run), run.manifest.config["references"][:2]
    compared = {"comparisons": (first, wording.methods(run, wording.META) + wording.methods(run, wording.SIMPLE))}
    if second:
        compared["published"] = second[0], one_change(run, second[0])
    for name, (reference, variants) in compared.items():
        rows = [method for method in variants if method not in (reference, wording.baseline(run))]
        if reference in wording.methods(run) and rows:
            differences = compare_with(per_seed(run.records), rows, reference)
            shown[name] = printing.comparison_table(run, differences), printing.comparison_caption(run)
    return shown


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The forest."""
    if wording.compares(run):
        yield run.manifest.experiment, methods.forest(run)


def one_change(run: Run, reference: str) -> list[str]:
    """Methods whose settings differ from the reference's in exactly one."""
    start, changes = wording.settings(run, reference), {}
    for method in wording.methods(run, kind=run.manifest.methods[reference].kind):
        settings = wording.settings(run, method)
        changes[method] = [name for name in settings if name != "title" and settings[name] != start.get(name)]
    return [method for method, names in changes.items() if len(names) == 1]
