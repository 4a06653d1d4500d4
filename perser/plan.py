"""What an experiment computes on one corpus and upstream, and where each result lies."""

import os
from itertools import product
from pathlib import Path

import numpy as np
import torch

from perser import provenance, settings
from perser.corpora import Corpus
from perser.corpora.agreement import listener_traits
from perser.data import Split, Task, folds, from_corpus, listener_groups, make_task, split
from perser.episodes import Draws, draws_by_listener
from perser.errors import UserError
from perser.experiment import Experiment
from perser.features.upstreams import Upstream
from perser.records import synthetic_parts

# Raise this with every change that can alter a number, however little: parts of another version are computed anew.
NUMERICS_VERSION = 1
SETTINGS = ("seen", "unseen")
LEAST_DEV = 4  # listeners that a held-out dev group must have to be worth more than the training listeners

Unit = tuple[int, int, int]  # fold, held-out group, seed


class Plan:
    """One experiment on one corpus and upstream.

    A unit is a fold, a held-out group of listeners and a seed. A part holds the records and the model of one method on
    one unit. Parts lie beside the run directory, so that experiments with the same settings share them.
    """

    def __init__(self, experiment: Experiment, corpus: Corpus, upstream: Upstream, features: torch.Tensor,
                 moments: tuple[float, float] | str, out: Path):
        """Check the settings against the corpus. moments: how the waveforms were normalised."""
        base = experiment.base
        self.experiment, self.out = experiment, Path(out)
        self.standardise = upstream.standardise if base.standardise is None else base.standardise
        self.features = features.numpy()  # worker processes map the array instead of copying it
        self.data = from_corpus(corpus, features)._replace(features=None)
        self.labels = {"corpus": corpus.name, "upstream": upstream.name,
                       "synthetic": synthetic_parts(corpus.synthetic, upstream.random)}
        self.about = self.labels | {
            "experiment": experiment.name, "classes": list(corpus.classes), "waveform_moments": moments,
            "corpus_options": corpus.options, "upstream_identity": upstream.identity,
            "label_smoothing": base.label_smoothing}
        self.traits = listener_traits(corpus.ratings, corpus.classes)
        self.fingerprint = provenance.data(corpus.clips, corpus.ratings, self.features.tobytes())
        self.origin = {"numerics_version": NUMERICS_VERSION, "commit": provenance.git()["commit"],
                       "data_digest": self.fingerprint, "cpu": provenance.machine()["cpu"]}
        self.groups = listener_groups(self.data, experiment.groups, min(experiment.shots) + experiment.min_queries)
        self.dev_held_out = (experiment.dev == "held-out" if experiment.dev
                             else min(map(len, self.groups)) >= LEAST_DEV)
        every_fold = tuple(range(1, len(folds(self.data.session)) + 1))
        chosen_folds = experiment.folds or every_fold
        if not set(chosen_folds) <= set(every_fold):
            raise UserError(f"folds = {list(chosen_folds)}: {corpus.name} has folds 1 to {len(every_fold)}")
        if experiment.support is None:
            self.experiment = experiment.model_copy(update={"support": self._default_support()})
        self.shots = self._possible_shots()
        self.units = [(fold, group, seed) for seed, fold, group
                      in product(experiment.seeds, chosen_folds, range(len(self.groups)))]

    def _default_support(self) -> str:
        """The queries' own setting, unless fewer than half of the listeners have shots and query in a test session."""
        data, tested = self.data, np.concatenate(self.groups)
        least = max(self.experiment.shots) + self.experiment.min_queries
        able = [np.bincount(data.listener[data.session[data.clip] == fold.test], minlength=len(data.listeners)) >= least
                for fold in folds(data.session)]
        return "same" if np.mean(able, axis=0)[tested].mean() >= 0.5 else "any"

    def _possible_shots(self) -> dict[str, tuple[int, ...]]:
        """For dev, seen and unseen, the numbers of shots that leave the median listener a query in every fold."""
        least = dict.fromkeys(("dev", *SETTINGS), np.inf)
        for fold, group in product(range(1, len(folds(self.data.session)) + 1), range(len(self.groups))):
            pools = split(self.data, fold, group, self.groups, self.dev_held_out)
            for name in least:
                supports = self.support_pool(pools, name)
                counts = np.bincount(self.data.listener[getattr(pools, name) if supports is None else supports])
                least[name] = min(least[name], np.median(counts[counts > 0]) if counts.any() else np.inf)
        return {name: tuple(k for k in self.experiment.shots if k + self.experiment.min_queries <= most)
                or self.experiment.shots[:1] for name, most in least.items()}

    def support_pool(self, pools: Split, setting: str) -> np.ndarray | None:
        """The ratings that shots of a setting (or of dev) are drawn from; None for the queries' own pool.

        The dev listeners' shots are always of the dev session if they are training listeners: the model was trained on
        their other ratings.
        """
        if self.experiment.support == "same" or (setting == "dev" and not self.dev_held_out):
            return None
        return np.flatnonzero(np.isin(self.data.listener, self.data.listener[getattr(pools, setting)]))

    def task(self, unit: Unit) -> Task:
        """What the methods of a unit work with."""
        fold, group, _ = unit
        pools = split(self.data, fold, group, self.groups, self.dev_held_out)
        data = self.data._replace(features=torch.from_numpy(self.features))
        return make_task(data, pools, self.experiment.base, self.standardise)

    def dev_draws(self, task: Task, seed: int) -> Draws:
        """The dev listeners' draws. Raises UserError when no dev listener has enough ratings."""
        experiment = self.experiment
        draws = draws_by_listener(task.data, task.split.dev, self.shots["dev"], experiment.dev_draws,
                                  experiment.min_queries, seed, "dev draws",
                                  self.support_pool(task.split, "dev"))
        if not draws:
            raise UserError(f"fold {task.split.fold}: no dev listener has {min(experiment.shots)} shots and "
                            f"{experiment.min_queries} queries in the dev session; lower shots or min_queries")
        return draws

    def digest(self, *what) -> str:
        """Changes with the numerics, the data and every setting of the experiment but its set of methods."""
        shared = self.experiment.model_copy(
            update={"name": "", "methods": {}, "seeds": (), "folds": None, "references": ()})
        return settings.digest(shared, self.standardise, self.fingerprint, NUMERICS_VERSION, self.labels, *what)

    def part(self, unit: Unit, method: str | None) -> Path:
        """The folder of one method's part of a unit, or of SSL-E's without a method.

        Its name changes with everything that its content depends on; a method's title does not count.
        """
        name, key = "start", self.digest()
        if method:
            name, key = method, self.digest(method, self.experiment.methods[method].model_dump_json(exclude={"title"}))
        return self.out.parent / "parts" / f"{unit_name(unit)}-{name}-{key}"

    def parts(self) -> list[Path]:
        """The folders of all parts, by unit and method."""
        return [self.part(unit, method) for unit, method in product(self.units, self.experiment.methods)]

    def missing(self, unit: Unit) -> list[str]:
        """Methods of a unit that have no records yet."""
        return [name for name in self.experiment.methods if not (self.part(unit, name) / "records.parquet").exists()]

    def link(self) -> None:
        """Link the models under OUT/checkpoints by unit and method."""
        for unit, method in product(self.units, self.experiment.methods):
            place, part = self.out / "checkpoints" / unit_name(unit) / method, self.part(unit, method)
            if (part / "model.json").exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.unlink(missing_ok=True)
                place.symlink_to(os.path.relpath(part, place.parent))


def unit_name(unit: Unit) -> str:
    """The name of a unit's folder.

    >>> unit_name((1, 0, 2))
    'fold1-group0-seed2'
    """
    return "fold{}-group{}-seed{}".format(*unit)
