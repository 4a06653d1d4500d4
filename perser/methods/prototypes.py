"""Prototypes: the nearest class mean on SSL-E's hidden layer, population means moved towards the listener's."""

from collections.abc import Iterator
from itertools import product
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from perser import model as heads
from perser.data import Task
from perser.episodes import Batch, Draws
from perser.methods.base import Method, Start, fitted, hidden_values, numbers, stacked
from perser.methods.ssl_e import labelled
from perser.model import Head
from perser.settings import Positives


class PrototypesModel(NamedTuple):
    """Population means on the hidden layer of SSL-E.

    means (C, H); spread (): mean squared distance of a clip from its expected mean; settings: per number of shots
    (mass, temperature): pseudo-clips behind each population mean, and the scale of distances in units of spread.
    Source: prototypical networks (arXiv 1703.05175), eq. 1 and 2.
    """

    head: Head
    means: Tensor
    spread: Tensor
    settings: dict[int, tuple[float, float]]

    def answers(self, batch: Batch, settings: list[tuple[float, float]]) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query under each setting: negative squared distances."""
        support, query = hidden_values(self.head, batch)
        for mass, temperature in settings:
            means = self._personal_means(support, batch.targets, mass)
            yield -torch.cdist(query, means).square() / (temperature * self.spread)

    def weights(self, batch: Batch, setting: tuple[float, float]) -> Head:
        """The personal heads. |h - m|^2 is linear in h but for |h|^2, which all classes share."""
        mass, temperature = setting
        means, scale = self._personal_means(hidden_values(self.head, batch)[0], batch.targets, mass), self.spread
        return stacked(self.head, batch, A=2 * means / (temperature * scale),
                       a=-means.square().sum(-1) / (temperature * scale))

    def _personal_means(self, support: Tensor, targets: Tensor, mass: float) -> Tensor:
        """(E, C, H)."""
        return (mass * self.means + targets.mT @ support) / (mass + targets.sum(1).unsqueeze(-1))


class Prototypes(Method):
    """Nearest class mean on the hidden layer of SSL-E; both settings are chosen on the dev listeners."""

    kind: Literal["prototypes"] = "prototypes"
    title: str = "Prototypes"
    Model: ClassVar[type] = PrototypesModel

    mass_grid: Positives = Field((0.3, 1.0, 3.0, 10.0), min_length=1, description="pseudo-clips per class")
    temperature_grid: Positives = Field((0.1, 0.2, 0.5, 1.0), min_length=1, description="in units of the spread")

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> PrototypesModel:
        """Population means of the training part, with the best mass and temperature for each number of shots."""
        features, targets = labelled(task, task.split.train)
        hidden = heads.hidden(start.head, features)
        means = targets.T @ hidden / targets.sum(0).unsqueeze(-1)
        spread = (hidden - targets @ means).square().sum(-1).mean()
        model = PrototypesModel(start.head, means, spread, {})
        return fitted(task, model, product(self.mass_grid, self.temperature_grid), dev)

    def listener_numbers(self, model: PrototypesModel) -> int:
        """One mean per class."""
        return numbers(model.means)
