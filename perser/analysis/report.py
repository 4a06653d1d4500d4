"""From a finished run's records to its tables and figures."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from perser import records
from perser.analysis import captions, figures, study, tables
from perser.scores import per_seed
from perser.analysis.tables import Table

UPSTREAMS = "upstreams"  # the experiment that is run once per upstream
Captioned = tuple[Table, str]


def report(run: Path, out: Path) -> list[Path]:
    """Write the tables and figures of one run to OUT/corpus/upstream/experiment; returns their paths.

    What is written goes by the experiment's name, see `tables_of` and `figures_of`; a table is .md, .tex and
    .csv, a figure .pdf and .png. Reads the run directory's records, manifest, learnt rates and listeners,
    nothing else. Raises UserError when the run is not finished.
    """
    frame, manifest = records.read(run), records.manifest(run)
    names = captions.labels(frame)
    place = Path(out).joinpath(
        *(names[key].replace("/", "--") for key in ("corpus", "upstream", "experiment"))
    )
    written = []
    for name, (table, caption) in tables_of(frame, manifest).items():
        written += tables.write(table, caption, place / name)
    for name, figure in figures_of(frame, manifest):
        written += figures.save(figure, place / name)
    listeners, learnt = (study.beside(run, name) for name in ("listeners", "learnt"))
    if listeners is not None:
        written += _traits(frame, manifest, listeners, place)
    if learnt is not None:
        written += _learnt(frame, learnt, place)
    return written


def compare(runs: Iterable[Path], out: Path) -> list[Path]:
    """Write the upstream comparison of each corpus of which two runs or more of that experiment are given, to
    OUT/corpus; returns the paths.
    """
    found = study.real_first({run: records.read(run) for run in runs})
    found = {run: frame for run, frame in found.items() if captions.labels(frame)["experiment"] == UPSTREAMS}
    written = []
    for corpus in dict.fromkeys(captions.labels(frame)["corpus"] for frame in found.values()):
        mine = {run: frame for run, frame in found.items() if captions.labels(frame)["corpus"] == corpus}
        if len(mine) > 1:
            frames, place = list(mine.values()), Path(out) / corpus
            caption = tables.upstreams_caption(frames, list(map(records.manifest, mine)))
            written += tables.write(tables.upstreams_table(frames), caption, place / UPSTREAMS)
            written += figures.save(figures.upstreams(frames), place / UPSTREAMS)
            written += _layers(mine, place)
    return written


def tables_of(frame: pd.DataFrame, manifest: dict) -> dict[str, Captioned]:
    """The tables of a run by name, each with its caption; the first is the one to print.

    One of macro F1 under the experiment's name, one of accuracy, and paired tests. methods: rows in groups, and each
    meta-learning method against the best other one. ablation: rows with check marks, and the parts' main effects.
    steps: one row per inner step, and each against the number trained with. recipe: each row against the last of
    ours, and what was changed in the published recipe against that. Any other experiment: at every number of shots
    methods without meta-learning against SSL-E, those with it against the best of these; shots besides: every gain,
    and from which K on it pays.
    """
    experiment = captions.labels(frame)["experiment"]
    table, caption = {
        "steps": (partial(tables.steps_table, manifest=manifest), tables.steps_caption),
        "ablation": (tables.ablation_table, tables.ablation_caption),
        "methods": (tables.methods_table, tables.methods_caption),
    }.get(experiment, (tables.main_table, tables.main_caption))
    found = {name: (table(frame, score=score), caption(frame, manifest, score=score))
             for name, score in ((experiment, "f1"), (f"{experiment}-accuracy", "accuracy"))}
    if experiment == "shots":
        found["gains"] = tables.gains_table(study.gains(per_seed(frame))), tables.gains_caption(frame, manifest)
    for name, (tested, about) in _tests(experiment, frame, manifest).items():
        if len(tested.cells):
            found[name] = (tested, tables.comparisons_caption(frame, manifest, about))
    return found


def _tests(experiment: str, frame: pd.DataFrame, manifest: dict) -> dict[str, tuple[Table, str]]:
    """The paired tests of an experiment by name, and what each row is held against."""
    if experiment == "steps":
        return {"comparisons": (tables.trained_table(study.against_trained(frame, manifest)), tables.TRAINED)}
    scores = per_seed(frame)
    if experiment == "ablation":
        return {"effects": (tables.effects_table(study.effects(scores)), tables.EFFECT)}
    if experiment == "methods":
        return {"comparisons": (tables.comparisons_table(study.against_best(scores)), tables.BEST)}
    if experiment != "recipe":
        return {"comparisons": (tables.comparisons_table(study.ladder(scores)), tables.LADDER)}
    changed = scores[(scores["method"] == study.OURS[0]) | scores["method"].str.startswith("recipe-")]
    held = {"comparisons": (scores, study.ours(scores)[-1:]), "published": (changed, study.OURS[:1])}
    return {name: (tables.comparisons_table(study.against(part, baseline)), "")
            for name, (part, baselines) in held.items() for baseline in baselines if part["method"].nunique() > 1}


def figures_of(frame: pd.DataFrame, manifest: dict) -> Iterator[tuple[str, Figure]]:
    """The figures of a run's records by name."""
    experiment = captions.labels(frame)["experiment"]
    if experiment in ("methods", "recipe", UPSTREAMS):
        yield experiment, figures.forest(frame)
    elif experiment == "ablation":
        yield "effects", figures.effects(frame)
    elif experiment == "steps":
        yield "steps", figures.inner_steps(frame, manifest)
    else:
        yield "shots", figures.shots(frame)
        if experiment == "main":
            yield "gains", figures.gains(frame)
        elif captions.BASELINE in set(frame["method"]):
            yield "shots-gained", figures.shots_gained(frame)


def _traits(frame: pd.DataFrame, manifest: dict, listeners: pd.DataFrame, place: Path) -> list[Path]:
    """Which listeners gain from our methods: a table and a figure each; none where no step of ours is."""
    if captions.labels(frame)["experiment"] not in ("main", "methods"):
        return []
    scores, written = per_seed(frame), []
    for method in study.ours(scores):
        found = study.gains_and_traits(scores, listeners, method)
        table = tables.traits_table(study.correlations(found))
        caption = tables.traits_caption(frame, manifest, method)
        written += tables.write(table, caption, place / f"who-{method}")
        written += figures.save(figures.who(found, method, captions.stamp(frame)), place / f"who-{method}")
    return written


def _learnt(frame: pd.DataFrame, learnt: pd.DataFrame, place: Path) -> list[Path]:
    made, written = captions.stamp(frame), []
    if captions.labels(frame)["experiment"] == "recipe":  # a panel for each of its rows would fill a page
        learnt = learnt[learnt["method"].isin(study.OURS)]
    if study.rates_that_differ(learnt):
        written += figures.save(figures.rates(learnt, made), place / "rates")
    if study.layers(learnt) > 1:
        written += figures.save(figures.layers({captions.upstream(frame): learnt}, made), place / "layers")
    return written


def _layers(runs: dict[Path, pd.DataFrame], place: Path) -> list[Path]:
    learnt = {captions.upstream(frame): study.beside(run, "learnt") for run, frame in runs.items()}
    learnt = {name: rows for name, rows in learnt.items() if rows is not None and study.layers(rows) > 1}
    made = captions.stamp(captions.together(list(runs.values())))
    return figures.save(figures.layers(learnt, made), place / "layers") if learnt else []
