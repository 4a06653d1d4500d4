"""Prior shift: SSL-E with class log-biases estimated from the shots."""

from collections.abc import Iterator
from itertools import product
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from perser import model as heads
from perser.adapt import prior_shift
from perser.data import Task
from perser.episodes import Batch, Draws
from perser.methods.base import Method, Start, fitted, stacked
from perser.model import Head
from perser.settings import Amounts, Positives


class PriorShiftModel(NamedTuple):
    """SSL-E; settings: per number of shots (mass, strength), see `adapt.prior_shift`."""

    head: Head
    settings: dict[int, tuple[float, float]]

    def answers(self, batch: Batch, settings: list[tuple[float, float]]) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query under each setting."""
        logits = heads.logits(self.head, batch.features[batch.clips])
        for mass, strength in settings:
            yield logits[batch.query] + prior_shift(logits[batch.support], batch.targets, mass, strength)

    def weights(self, batch: Batch, setting: tuple[float, float]) -> Head:
        """The personal heads: SSL-E with output biases (E, C) of their own."""
        logits = heads.logits(self.head, batch.features[batch.clips])
        shift = prior_shift(logits[batch.support], batch.targets, *setting)
        return stacked(self.head, batch, a=self.head.a + shift.squeeze(1))


class PriorShift(Method):
    """SSL-E with a class log-bias estimated from the K shots; both settings are chosen on the dev listeners."""

    kind: Literal["prior-shift"] = "prior-shift"
    title: str = "Prior shift"
    Model: ClassVar[type] = PriorShiftModel

    mass_grid: Positives = Field((0.3, 1.0, 3.0, 10.0, 30.0), min_length=1, description="pseudo-clips of SSL-E")
    strength_grid: Amounts = Field((0.5, 1.0), min_length=1, description="factors on the shift")

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> PriorShiftModel:
        """SSL-E with the best mass and strength for each number of shots."""
        return fitted(task, PriorShiftModel(start.head, {}), product(self.mass_grid, self.strength_grid), dev)

    def listener_numbers(self, model: PriorShiftModel) -> int:
        """One bias per class."""
        return len(model.head.a)
