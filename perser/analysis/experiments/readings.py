"""What the paper leaves open: runs of one corpus and upstream that differ in the targets or the corpus' options."""

from perser.analysis import tables as printing
from perser.analysis import wording
from perser.analysis.tables import Captioned
from perser.records import Run


def comparable(runs: list[Run]) -> list[list[Run]]:
    """Groups of two or more runs that differ in nothing but their reading."""
    groups: dict[str, dict[str, Run]] = {}
    for run in runs:
        config = {name: value for name, value in run.manifest.config.items() if name != "name"}
        config["base"] = config["base"] | {"targets": None}
        key = repr((run.manifest.corpus, run.manifest.upstream_identity, sorted(config.items())))
        groups.setdefault(key, {}).setdefault(reading(run), run)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def reading(run: Run) -> str:
    """A run's targets and corpus options in print."""
    chosen = {"targets": run.manifest.config["base"]["targets"]} | run.manifest.corpus_options
    return ", ".join(f"{name} {value}" for name, value in chosen.items())


def table(runs: list[Run]) -> Captioned:
    """The readings one below the other at the largest number of shots."""
    return (printing.runs_table({reading(run): run for run in runs}, "reading"),
            printing.score_caption(wording.join_runs(runs), over="SSL-E under the same reading"))
