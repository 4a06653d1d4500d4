"""All data: the best of several adaptations to every other rating of the listener. A bound, never a rival."""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from perser import seeds
from perser.adapt import constant_lr
from perser.data import Task
from perser.episodes import Batch, Draws, Episodes, batch_of
from perser.evaluate import Fitted, choose
from perser.methods.base import GradientModel, Method, Start, numbers, tensor_numbers
from perser.methods.population_prior import PopulationPriorModel, prior_of
from perser.model import Head
from perser.settings import MOST, Amounts, Grid, Positives, TensorName


class AllDataModel(NamedTuple):
    """SSL-E with the chosen adaptation, and cross-validated answers to known ratings.

    covariance (C, C): of the population prior. adapts, inner_lr, inner_steps: of gradient descent, or factor: on the
    prior, where adapts is empty. tables (N, R, C): logits of all ratings by N adaptations, nan for listeners that were
    not answered; settings: which table, under no shots.
    """

    head: Head
    covariance: Tensor
    adapts: tuple[str, ...]
    inner_lr: float
    inner_steps: int
    factor: float
    settings: dict[int, int]
    tables: Tensor | None = None

    def answers(self, batch: Batch, settings: list[int]) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query from each table; the support is not read."""
        for table in settings:
            assert self.tables is not None, "answers are not saved"
            yield self.tables[table, torch.from_numpy(batch.episodes.query)]

    def adaptation(self) -> tuple[Fitted, Any]:
        """The model that adapts to all ratings, and its setting."""
        if self.adapts:
            return GradientModel(self.head, {}), constant_lr(self.inner_lr, self.inner_steps, self.adapts)
        return PopulationPriorModel(self.head, self.covariance, {}), self.factor

    def weights(self, batch: Batch, setting: int) -> Head:
        """The personal heads: SSL-E adapted to all ratings of the support."""
        model, setting = self.adaptation()
        return model.weights(batch, setting)


AllDataModel.UNSAVED = ("tables",)  # type: ignore[attr-defined]  # in the class it would be a field


class AllData(Method):
    """The best adaptation of SSL-E to every other rating of the listener: what all of them could give."""

    kind: Literal["all-data"] = "all-data"
    title: str = "All data (upper bound)"
    group: ClassVar[str] = "Upper bound"
    Model: ClassVar[type] = AllDataModel

    parts: int = Field(5, ge=2, le=MOST,
                       description="parts of a listener's ratings; the model of the others answers each")
    adapts_grid: tuple[tuple[TensorName, ...], ...] = (("P", "b", "A", "a"), ("A", "a"), ("a",))
    inner_lr_grid: Positives = (0.01, 0.03, 0.1, 0.3)
    inner_steps_grid: Grid = (5, 20)
    factor_grid: Amounts = Field((0.0, 1.0, 4.0), description="on the population prior; 0 is SSL-E itself")

    @model_validator(mode="after")
    def _something_to_try(self) -> "AllData":
        if not self.factor_grid and not (self.adapts_grid and self.inner_lr_grid and self.inner_steps_grid):
            raise ValueError("give a factor_grid, or adapts_grid, inner_lr_grid and inner_steps_grid")
        return self

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> AllDataModel:
        """Answer all ratings of the test listeners by the adaptation that is best on the dev listeners.

        The dev listeners' ratings of the test session take no part in that choice.
        """
        session = task.data.session[task.data.clip]
        barred = np.flatnonzero(session == task.data.folds[task.split.fold - 1].test)
        listeners = sorted({listener for listener, _ in dev})
        candidates = self._candidates(start.head, prior_of(task, start.head))
        tables = torch.stack([self.cross_validated(task, model, listeners, barred, seed) for model in candidates])
        by_table = candidates[0]._replace(tables=tables)
        best = candidates[next(iter(choose(task, by_table, range(len(tables)), dev, per_shots=False).values()))]
        test = [task.data.listeners.index(name) for name in task.split.test_listeners]
        return best._replace(settings={0: 0}, tables=self.cross_validated(task, best, test, barred[:0], seed)[None])

    def _candidates(self, head: Head, covariance: Tensor) -> list[AllDataModel]:
        descent = [AllDataModel(head, covariance, names, lr, steps, 0.0, {}) for names, lr, steps
                   in product(self.adapts_grid, self.inner_lr_grid, self.inner_steps_grid)]
        return descent + [AllDataModel(head, covariance, (), 0.0, 0, factor, {}) for factor in self.factor_grid]

    def cross_validated(self, task: Task, model: AllDataModel, listeners: Iterable[int], barred: np.ndarray,
                        seed: int) -> Tensor:
        """Cut each listener's ratings, but for those barred, into parts; answer each by SSL-E adapted to the others.

        Returns logits (R, C), nan for other listeners' ratings.
        """
        data = task.data
        table = torch.full((len(data.clip), len(data.classes)), torch.nan)
        adapting, setting = model.adaptation()
        for listener in listeners:
            ratings = np.setdiff1d(np.flatnonzero(data.listener == listener), barred)
            order = seeds.rng(seed, "all data", data.listeners[listener]).permutation(ratings)
            parts = [order[i::self.parts] for i in range(self.parts)]
            least, most = len(order) - max(map(len, parts)), max(map(len, parts))
            others = np.stack([np.setdiff1d(order, part)[:least] for part in parts])
            padded = np.stack([np.pad(part, (0, most - len(part)), mode="edge") for part in parts])
            with torch.no_grad():
                logits = next(adapting.answers(batch_of(task, Episodes(others, padded)), [setting]))
            for part, answers in zip(parts, logits):
                table[torch.from_numpy(part)] = answers[:len(part)]
        return table

    def answer_costliest(self, task: Task, model: AllDataModel, ratings: np.ndarray, shots: int) -> Tensor:
        """Cross-validate all of the listener's ratings, for timing; there are no shots."""
        return self.cross_validated(task, model, [int(task.data.listener[ratings[0]])], ratings[:0], 0)

    def learnt_numbers(self, model: AllDataModel) -> int:
        """Those of SSL-E and of the prior."""
        return numbers(model.head) + numbers(model.covariance)

    def listener_numbers(self, model: AllDataModel) -> int:
        """Those of the tensors that adapt, or of a map of the logits."""
        return tensor_numbers(model.head, model.adapts) or len(model.head.a) * (1 + len(model.head.a))
