"""Variants of a recipe: each method against the references that the experiment names."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from perser.analysis import tables as printing, wording
from perser.analysis.experiments import methods
from perser.analysis.statistics import compare_with
from perser.analysis.tables import Captioned
from perser.records import Run
from perser.scores import per_seed


def applies(run: Run) -> bool:
    """Whether the experiment names references."""
    return bool(run.manifest.config.get("references"))


def tables(run: Run) -> dict[str, Captioned]:
    """Macro F1 and accuracy; every method against the first reference, and methods that differ from the second in
    exactly one setting against that.
    """
    shown, compared = printing.score_tables(run), {}
    first, *second = [name for name in run.manifest.config["references"][:2]]
    compared["comparisons"] = first, wording.methods(run, wording.META) + wording.methods(run, wording.SIMPLE)
    compared |= {"published": (name, one_change(run, name)) for name in second}
    for name, (reference, rows) in compared.items():
        rows = [method for method in rows if method not in (reference, wording.baseline(run))]
        if reference in wording.methods(run) and rows:
            differences = compare_with(per_seed(run.records), rows, reference)
            shown[name] = printing.comparison_table(run, differences), printing.comparison_caption(run)
    return shown


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The forest of gains."""
    return methods.figures(run)


def one_change(run: Run, reference: str) -> list[str]:
    """Methods whose settings differ from the reference's in exactly one."""
    return [method for method in wording.of_kind(run, run.manifest.methods[reference].kind)
            if len(changes(wording.settings(run, method), wording.settings(run, reference))) == 1]


def changes(settings: dict, reference: dict) -> set[str]:
    """The settings, titles aside, that differ from a reference's."""
    names = (settings.keys() | reference.keys()) - {"title"}
    return {name for name in names if settings.get(name) != reference.get(name)}
