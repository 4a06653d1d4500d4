"""All data: SSL-E fine-tuned on every other rating of the listener. An upper bound, never a method to compare with."""

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from perser import model as heads
from perser import seeds
from perser.adapt import constant_lr, personal_heads
from perser.data import Task
from perser.episodes import Batch, Draws, Episodes, batch_of
from perser.evaluate import choose
from perser.methods.base import GradientModel, Method, Start, numbers, tensor_numbers
from perser.model import Head


class AllDataModel(NamedTuple):
    """SSL-E with the chosen learning rate, and cross-validated answers to known ratings.

    tables (N, R, C): logits of all ratings at N learning rates, nan for listeners that were not answered; settings:
    which table, under no shots.
    """

    head: Head
    inner_lr: float
    inner_steps: int
    settings: dict[int, int]
    tables: Tensor | None = None

    UNSAVED = ("tables",)

    def answers(self, batch: Batch, settings: list[int]) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query from each table; the support is not read."""
        for table in settings:
            yield self.tables[table, torch.from_numpy(batch.episodes.query)]

    def weights(self, batch: Batch, setting: int) -> Head:
        """The personal heads: SSL-E fine-tuned on all ratings of the support."""
        lrs = constant_lr(self.inner_lr, self.inner_steps)
        return GradientModel(self.head, {}).weights(batch, lrs)


class AllData(Method):
    """SSL-E fine-tuned on every other rating of the listener: what all of a listener's ratings could give."""

    kind: Literal["all-data"] = "all-data"
    title: str = "All data (upper bound)"
    group: ClassVar[str] = "Upper bound"
    Model: ClassVar[type] = AllDataModel

    parts: int = Field(5, ge=2, description="parts of a listener's ratings; the model of the others answers each")
    inner_lr_grid: tuple[float, ...] = Field((0.03, 0.1, 0.3), min_length=1)
    inner_steps: int = Field(20, ge=1)

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> AllDataModel:
        """Answer all ratings of the test listeners, at the learning rate that is best on the dev listeners.

        The dev listeners' ratings of the test session take no part in that choice.
        """
        session = task.data.session[task.data.clip]
        barred = np.flatnonzero(session == task.data.folds[task.split.fold - 1].test)
        listeners = sorted({listener for listener, _ in dev})
        tables = torch.stack([self.cross_validated(task, start.head, lr, listeners, barred, seed)
                              for lr in self.inner_lr_grid])
        model = AllDataModel(start.head, np.nan, self.inner_steps, {}, tables)
        best = next(iter(choose(task, model, range(len(self.inner_lr_grid)), dev, per_shots=False).values()))
        test = [task.data.listeners.index(name) for name in task.split.test_listeners]
        table = self.cross_validated(task, start.head, self.inner_lr_grid[best], test, barred[:0], seed)
        return AllDataModel(start.head, self.inner_lr_grid[best], self.inner_steps, {0: 0}, table.unsqueeze(0))

    def cross_validated(self, task: Task, head: Head, inner_lr: float, listeners: Iterable[int], barred: np.ndarray,
                        seed: int) -> Tensor:
        """Cut each listener's ratings, but for those barred, into parts; answer each by SSL-E tuned on the others.

        Returns logits (R, C), nan for other listeners' ratings.
        """
        data = task.data
        table = torch.full((len(data.clip), len(data.classes)), torch.nan)
        for listener in listeners:
            ratings = np.setdiff1d(np.flatnonzero(data.listener == listener), barred)
            order = seeds.rng(seed, "all data", data.listeners[listener]).permutation(ratings)
            parts = [order[i::self.parts] for i in range(self.parts)]
            least = len(order) - max(map(len, parts))
            others = np.stack([np.setdiff1d(order, part)[:least] for part in parts])
            tuned = tuned_heads(task, head, others, inner_lr, self.inner_steps)
            for part, (_, P, b, A, a) in zip(parts, zip(*tuned)):
                x = heads.mixed(head, data.features[data.clip[part]])
                table[torch.from_numpy(part)] = (x @ P.T + b) @ A.T + a
        return table

    def answer_costliest(self, task: Task, model: AllDataModel, ratings: np.ndarray, shots: int) -> Tensor:
        """Cross-validate all of the listener's ratings, for timing; there are no shots."""
        listener = int(task.data.listener[ratings[0]])
        return self.cross_validated(task, model.head, self.inner_lr_grid[0], [listener], ratings[:0], 0)

    def learnt_numbers(self, model: AllDataModel) -> int:
        """Those of SSL-E."""
        return numbers(model.head)

    def listener_numbers(self, model: AllDataModel) -> int:
        """Both linear maps."""
        return tensor_numbers(model.head, ("P", "b", "A", "a"))


def tuned_heads(task: Task, head: Head, ratings: np.ndarray, inner_lr: float, steps: int) -> Head:
    """Heads after full-batch descent of both linear maps on ratings (E, n); tensors lead with E."""
    with torch.no_grad():
        batch = batch_of(task, Episodes(ratings, ratings[:, :0]))
        return next(personal_heads(head, [constant_lr(inner_lr, steps)], batch)).weights()
