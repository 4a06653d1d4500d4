"""Who is tested on what: the splits of an experiment on a corpus, numbers of shots, pools and draws."""

from itertools import product

import numpy as np

from perser.data import Data, Split, listener_groups, split
from perser.episodes import Draws, able_listeners, draws_by_listener
from perser.errors import UserError
from perser.experiment import Experiment
from perser.scores import SETTINGS

POOLS = ("dev", *SETTINGS)
LEAST_DEV = 4  # listeners that a held-out dev group must have to be worth more than the training listeners
WHERE = {"dev": "in the dev session", "seen": "in the training sessions", "unseen": "in the test session"}


class Protocol:
    """The splits of an experiment, and the episodes of their dev and test listeners.

    splits: fold (from 1) and held-out group (from 0); those where nobody can be tested are left out. shots: for dev,
    seen and unseen, the numbers of shots that most listeners have.
    """

    def __init__(self, experiment: Experiment, data: Data):
        """Fit the experiment to what listeners have. Raises UserError when a pool of episodes would be empty."""
        self.experiment, self.data = experiment, data
        self.groups = listener_groups(data, experiment.groups, min(experiment.shots) + experiment.min_queries)
        self.dev_held_out = (experiment.dev == "held-out" if experiment.dev
                             else min(map(len, self.groups)) >= LEAST_DEV)
        if experiment.support is None:
            self.experiment = experiment.model_copy(update={"support": self._default_support()})
        self.own = dict.fromkeys(POOLS, self.experiment.support == "same")  # whether shots are of the queries' pool
        if not self.dev_held_out and not self.own["dev"]:
            self.own["dev"] = True
            self.own["dev"] = bool(self._most_ratings("dev") >= min(experiment.shots) + experiment.min_queries)
        most = {name: self._most_ratings(name) for name in POOLS}
        self.shots = {name: tuple(k for k in experiment.shots if k + experiment.min_queries <= most[name])
                      or (min(experiment.shots),) for name in POOLS}
        pairs = self._pairs()
        self.splits = [pair for pair in pairs if self._tests(*pair)]
        if not self.splits:
            raise UserError(self._lacking(SETTINGS, pairs))

    def _pairs(self) -> list[tuple[int, int]]:
        """Folds with groups, as the experiment asks."""
        number, asked = len(self.data.folds), self.experiment.folds
        if asked == "paired":
            return [(1 + i % number, i % len(self.groups)) for i in range(max(number, len(self.groups)))]
        chosen = asked or tuple(range(1, number + 1))
        if not all(1 <= fold <= number for fold in chosen):
            raise UserError(f"folds = {list(chosen)}: the corpus has folds 1 to {number}")
        return list(product(chosen, range(len(self.groups))))

    def _default_support(self) -> str:
        """The queries' own setting, unless fewer than half of the listeners have shots and query in a test session."""
        data, tested = self.data, np.concatenate(self.groups)
        least = max(self.experiment.shots) + self.experiment.min_queries
        able = [np.bincount(data.listener[data.session[data.clip] == fold.test], minlength=len(data.listeners)) >= least
                for fold in data.folds]
        return "same" if np.mean(able, axis=0)[tested].mean() >= 0.5 else "any"

    def _most_ratings(self, name: str) -> float:
        """Ratings that the median listener of a pool has for shots and query, in every fold."""
        least = np.inf
        for fold, group in product(range(1, len(self.data.folds) + 1), range(len(self.groups))):
            pools = self.split(fold, group)
            supports = self.support_pool(pools, name)
            counts = np.bincount(self.data.listener[getattr(pools, name) if supports is None else supports])
            least = min(least, np.median(counts[counts > 0]) if counts.any() else np.inf)
        return least

    def _tests(self, fold: int, group: int) -> bool:
        """Whether a split tests anybody. Raises UserError when it would, but has nobody to train or choose on."""
        pools = self.split(fold, group)
        if not any(len(self._able(pools, name)) for name in SETTINGS):
            return False
        for name, part in (("training", pools.train), ("dev", pools.base_dev)):
            if not len(part):
                raise UserError(f"fold {fold}, group {group}: the training listeners have no rating in the {name} "
                                "session(s): give more --set groups=N, or clips other sessions")
        if not len(self._able(pools, "dev")):
            raise UserError(self._lacking(("dev",), [(fold, group)]))
        return True

    def _able(self, pools: Split, name: str) -> np.ndarray:
        return able_listeners(self.data, getattr(pools, name), max(self.shots[name]), self.experiment.min_queries,
                              self.support_pool(pools, name))

    def _lacking(self, names: tuple[str, ...], pairs: list[tuple[int, int]]) -> str:
        """That nobody has shots and queries in some pools of some splits, and what to set instead."""
        experiment, where = self.experiment, " or ".join(WHERE[name] for name in names)
        ratings = [int(np.bincount(self.data.listener[getattr(self.split(*pair), name)], minlength=1).max())
                   for pair, name in product(self._pairs(), names)]
        most = min(filter(None, ratings), default=0) if names == ("dev",) else max(ratings)
        own = self.own[names[0]]
        fewest = min(experiment.shots) * own
        remedies = [f"--set min_queries={most - fewest}" if most > fewest else "--set shots=[1] --set min_queries=1"]
        if own and most > experiment.min_queries:
            remedies = [f"--set shots=[{most - experiment.min_queries}]"]
        remedies += ["--set support=any"] if experiment.support == "same" else []
        remedies += ["--set dev=held-out"] if "dev" in names and not self.dev_held_out else []
        numbers = ", ".join(map(str, dict.fromkeys(fold for fold, _ in pairs)))
        return (f"fold {numbers}: no {'dev ' * ('dev' in names)}listener has {min(experiment.shots)} shots and "
                f"{experiment.min_queries} queries {where}, where one has at most {most} ratings: "
                f"{', or '.join(remedies)}")

    def split(self, fold: int, group: int) -> Split:
        """The pools of a split."""
        return split(self.data, fold, group, self.groups, self.dev_held_out)

    def support_pool(self, pools: Split, name: str) -> np.ndarray | None:
        """The ratings that shots of seen, unseen or dev are drawn from; None for the queries' own pool.

        The shots of dev listeners who are training listeners are of the dev session if it has enough of them: the model
        was trained on their other ratings.
        """
        if self.own[name]:
            return None
        return np.flatnonzero(np.isin(self.data.listener, self.data.listener[getattr(pools, name)]))

    def draws(self, pools: Split, name: str, seed: int) -> Draws:
        """The episodes of dev, seen or unseen, by (listener, shots)."""
        experiment, dev = self.experiment, name == "dev"
        return draws_by_listener(self.data, getattr(pools, name), self.shots[name],
                                 experiment.dev_draws if dev else experiment.draws, experiment.min_queries, seed,
                                 "dev draws" if dev else "test draws", self.support_pool(pools, name))
