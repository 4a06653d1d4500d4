"""Hyper-parameter search on development corpora. Trials are scored on listeners that appear in no reported table."""

import copy
import json
import logging
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from pydantic import Field, ValidationError, model_validator

from perser import experiment as experiments
from perser import provenance, records, workers
from perser.analysis.statistics import best_trials
from perser.errors import UserError
from perser.experiment import Experiment
from perser.methods import Method
from perser.plan import NUMERICS_VERSION, Plan
from perser.records import Name
from perser.scores import per_seed
from perser.settings import Amount, Count, Seed, Settings, explain, read_toml


class Space(Settings):
    """Where a setting is searched: an interval, uniform or logarithmic, or a list."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[bool | int | float | str, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _agree(self) -> "Space":
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("give either low and high or choices")
        if self.low is not None and self.high is not None and (self.low > self.high or (self.log and self.low <= 0)):
            raise ValueError("low must be at most high, and above 0 where log = true")
        return self


class MethodSearch(Settings):
    """The search of one method: the number of trials and the space of every setting that is searched."""

    trials: Count = Field(description="the first is the experiment's own settings; if all spaces are lists, each "
                                      "combination is tried once, at most this many")
    space: dict[str, Space] = Field(min_length=1)


class Search(Settings):
    """What is searched, on which corpora. Settings outside the spaces stay as in the experiment."""

    experiment: Name
    seed: Seed = 0
    margin: Amount = Field(0.0, description="points by which a trial must beat the experiment's own settings")
    set: tuple[str, ...] = Field((), description="changes to the experiment for the trials, as key=value")
    corpora: dict[Name, dict[str, int | str]] = Field(min_length=1, description="corpus -> its options")
    methods: dict[Name, MethodSearch] = Field(min_length=1)


def read(path: Path) -> tuple[Search, Experiment]:
    """The search in a TOML file and its experiment, which lies beside it.

    Raises UserError in one line that names the file, the key and, for an unknown key, the nearest valid one.
    """
    try:
        search = Search.model_validate(read_toml(path))
    except ValidationError as error:
        tables: dict[str, type[Settings]] = {"methods": MethodSearch, "space": Space}
        raise UserError(f"{path}: {explain(error.errors()[0], tables, Search)}") from None
    experiment = experiments.load(Path(path).with_name(f"{search.experiment}.toml"), search.set)
    for name, method in search.methods.items():
        if name not in experiment.methods:
            raise UserError(f"{path}: methods.{name}: {search.experiment} has no such method")
        for key in method.space:
            if key not in type(experiment.methods[name]).model_fields:
                raise UserError(f"{path}: methods.{name}.space.{key}: a {experiment.methods[name].kind} method "
                                "has no such setting")
    return search, experiment


def score(plan: Plan, method: Method, jobs: int) -> dict[str, float]:
    """Points by setting: minus the log loss in hundredths of a nat, the mean over shots of listeners and seeds.

    Answers that are no numbers give -1000 points.
    """
    trial = copy.copy(plan)
    trial.experiment = plan.experiment.model_copy(update={"methods": {"trial": method}})
    frame = workers.compute(trial, jobs)
    scores = per_seed(frame[frame["shots_of"] == "own"])
    means = -100 * scores.groupby(["setting", "shots"])["log_loss"].mean()
    return means.groupby("setting").mean().fillna(-1000).clip(lower=-1000).to_dict()


def trials(plans: dict[str, Plan], name: str, method: Method, search: MethodSearch, seed: int, jobs: int,
           report: Callable[[dict[str, Any]], None] = lambda row: None) -> pd.DataFrame:
    """All trials of one method: settings and points, by corpus and setting and on average.

    Optuna's tree-structured Parzen estimator proposes; if all spaces are lists, each combination is tried once. The
    same seed proposes the same settings, and computed parts are kept beside the plans' directories, so that a killed
    search resumes.
    """
    optuna.logging.set_verbosity(logging.CRITICAL)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=6))
    first, number = json.loads(method.model_dump_json()), search.trials
    study.enqueue_trial({key: first[key] for key in search.space})
    if all(space.choices for space in search.space.values()):
        for combination in product(*(space.choices or () for space in search.space.values())):
            study.enqueue_trial(dict(zip(search.space, combination)), skip_if_exists=True)
        number = min(number, len(study.trials))
    rows: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        drawn = {key: _drawn(trial, key, space) for key, space in search.space.items()}
        points = {f"{corpus} {setting}": value for corpus, plan in plans.items()
                  for setting, value in score(plan, type(method).model_validate(first | drawn), jobs).items()}
        rows.append({"method": name, "trial": trial.number, "points": sum(points.values()) / len(points)} | points
                    | {"settings": json.dumps(drawn, sort_keys=True)})
        report(rows[-1])
        return float(rows[-1]["points"])

    study.optimize(objective, n_trials=number)
    return pd.DataFrame(rows)


def _drawn(trial: optuna.Trial, key: str, space: Space) -> Any:
    if space.low is not None and space.high is not None:
        return float(f"{trial.suggest_float(key, space.low, space.high, log=space.log):.2g}")
    return trial.suggest_categorical(key, space.choices or ())


def tuned(trials: pd.DataFrame, margin: float) -> str:
    """The best settings as TOML, one table per method: what experiments read through `like`."""
    lines = ["# Written by `perser search` from results/search/trials.csv. Do not edit."]
    for row in best_trials(trials, margin).sort_values("method").itertuples():
        name = row.method if row.method.replace("-", "").isalnum() else json.dumps(row.method)
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in json.loads(row.settings).items())]
    return "\n".join(lines) + "\n"


def write(out: Path, name: str, rows: pd.DataFrame, search: Search, plans: dict[str, Plan]) -> pd.DataFrame:
    """Enter one method's trials into OUT/trials.csv, with tuned.toml and manifest.json beside it; returns all trials.

    Every trial names its commit: those of other methods stay as they are, the manifest is of the last.
    """
    path, rows = Path(out) / "trials.csv", rows.assign(commit=provenance.git()["commit"])
    if path.exists():
        kept = pd.read_csv(path)
        rows = pd.concat([kept[kept["method"] != name], rows], ignore_index=True)
    with records.whole(path) as half:
        records.inert(rows).to_csv(half, index=False, float_format="%.4f")
    with records.whole(path.with_name("tuned.toml")) as half:
        half.write_text(tuned(rows, search.margin))
    about = {"search": json.loads(search.model_dump_json()), **provenance.git(), "machine": provenance.machine(),
             "data": {corpus: plan.fingerprint for corpus, plan in plans.items()},
             "numerics_version": NUMERICS_VERSION}
    records.seal(about, Path(out) / "manifest.json", path, path.with_name("tuned.toml"))
    return rows
