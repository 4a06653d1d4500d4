"""Hyper-parameter search on development corpora: its trials are judged by listeners that no table shows."""

import copy
import json
import logging
import tomllib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from perser import provenance, records, runs
from perser.config import Experiment, Method, Strict, explain, load
from perser.errors import UserError
from perser.runs import Plan
from perser.scores import per_seed

METHOD = TypeAdapter(Method)


class Space(Strict):
    """Where one setting is looked for: an interval, even or logarithmic, or a list."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[bool | int | float | str, ...] | None = None

    @model_validator(mode="after")
    def _agree(self) -> "Space":
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("give either low and high or choices")
        return self


class Wanted(Strict):
    """One method's search: the number of trials and the space of every setting that is looked for."""

    trials: int = Field(ge=1, description="the first is the experiment's own settings; lists alone are searched "
                                          "whole, with at most so many")
    space: dict[str, Space] = Field(min_length=1)


class Search(Strict):
    """What is searched, on which corpora; every setting outside the spaces stays as in the experiment."""

    experiment: str
    seed: int = 0
    margin: float = Field(0.0, ge=0, description="points by which a trial must be ahead of the experiment's settings")
    set: tuple[str, ...] = Field((), description="changes to the experiment for the trials, as key=value")
    corpora: dict[str, dict[str, int | str]] = Field(min_length=1, description="corpus -> its options")
    methods: dict[str, Wanted] = Field(min_length=1)


def read(path: Path) -> tuple[Search, Experiment]:
    """The search in a TOML file and its experiment, which lies beside it.

    Raises UserError in one line that names the file, the key and, for an unknown key, the nearest valid one.
    """
    try:
        search = Search.model_validate(tomllib.loads(Path(path).read_text()))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: not a readable search file: {error}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error.errors()[0])}") from None
    experiment = load(Path(path).with_name(f"{search.experiment}.toml"), search.set)
    for name, wanted in search.methods.items():
        if name not in experiment.methods:
            raise UserError(f"{path}: methods.{name}: {search.experiment} has no such method")
        for key in wanted.space:
            if key not in type(experiment.methods[name]).model_fields:
                raise UserError(f"{path}: methods.{name}.space.{key}: a {experiment.methods[name].kind} method "
                                "has no such setting")
    return search, experiment


def score(plan: Plan, method: Method, jobs: int) -> dict[str, float]:
    """Points of macro F1 in each setting: mean over its numbers of shots of the mean over listeners and seeds."""
    tried = copy.copy(plan)
    tried.experiment = plan.experiment.model_copy(update={"methods": {"trial": method}})
    scores = per_seed(runs.compute(tried, jobs))
    means = 100 * scores.groupby(["setting", "shots"])["f1"].mean()
    return means.groupby("setting").mean().to_dict()


def trials(plans: dict[str, Plan], name: str, method: Method, wanted: Wanted, seed: int, jobs: int,
           told: Callable[[dict], None] = lambda row: None) -> pd.DataFrame:
    """Every trial of one method: its settings and points, by corpus and setting and on average.

    Optuna's tree-structured Parzen estimator proposes, or where every space is a list each combination is tried once.
    The same seed proposes the same, and what is computed is kept beside the plans' directories: a killed search goes
    on.
    """
    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=6))
    first, number = json.loads(method.model_dump_json()), wanted.trials
    study.enqueue_trial({key: first[key] for key in wanted.space})
    if all(space.choices for space in wanted.space.values()):
        for each in product(*(space.choices for space in wanted.space.values())):
            study.enqueue_trial(dict(zip(wanted.space, each)), skip_if_exists=True)
        number = min(number, len(study.trials))
    found = []

    def objective(trial: optuna.Trial) -> float:
        drawn = {key: _drawn(trial, key, space) for key, space in wanted.space.items()}
        points = {f"{corpus} {setting}": value for corpus, plan in plans.items()
                  for setting, value in score(plan, METHOD.validate_python(first | drawn), jobs).items()}
        found.append({"method": name, "trial": trial.number, "points": sum(points.values()) / len(points)} | points
                     | {"settings": json.dumps(drawn, sort_keys=True)})
        told(found[-1])
        return found[-1]["points"]

    study.optimize(objective, n_trials=number)
    return pd.DataFrame(found)


def _drawn(trial: optuna.Trial, key: str, space: Space) -> Any:
    if space.choices is None:
        return float(f"{trial.suggest_float(key, space.low, space.high, log=space.log):.2g}")
    return trial.suggest_categorical(key, space.choices)


def write(out: Path, name: str, found: pd.DataFrame, search: Search, plans: dict[str, Plan]) -> pd.DataFrame:
    """Enter one method's trials into OUT/trials.csv, with OUT/manifest.json beside it; returns all trials.

    Every trial names its commit: those of other methods stay as they are, the manifest is of the last.
    """
    path, found = Path(out) / "trials.csv", found.assign(commit=provenance.git()["commit"])
    if path.exists():
        kept = pd.read_csv(path)
        found = pd.concat([kept[kept["method"] != name], found], ignore_index=True)
    half = path.with_name(f".{path.name}")
    found.to_csv(half, index=False, float_format="%.4f")
    half.replace(path)
    about = {"search": json.loads(search.model_dump_json()), **provenance.git(), "machine": provenance.machine()}
    about |= {"data": {corpus: plan.fingerprint for corpus, plan in plans.items()},
              "code": next(iter(plans.values())).code}
    records.write_json(about, Path(out) / "manifest.json")
    return found
