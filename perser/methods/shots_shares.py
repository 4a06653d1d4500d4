"""Shares of the shots: a control that listens to nothing and gives all clips the answer that the shots suggest."""

from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from perser.data import Task
from perser.episodes import Batch, Draws
from perser.methods.base import Method, Start, stacked
from perser.model import Head


class ConstantModel(NamedTuple):
    """One answer to all clips. settings: the power of the shots' shares, 1 or, for the majority, a large number."""

    head: Head
    settings: dict[int, float]

    def answers(self, batch: Batch, settings: list[float]) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query under each setting."""
        for power in settings:
            yield self._log_shares(batch, power).unsqueeze(1).expand(-1, batch.query.shape[1], -1)

    def weights(self, batch: Batch, setting: float) -> Head:
        """The personal heads: output biases alone."""
        zero = torch.zeros(len(batch.support), *self.head.A.shape)
        return stacked(self.head, batch, A=zero, a=self._log_shares(batch, setting))

    def _log_shares(self, batch: Batch, power: float) -> Tensor:
        """Log shares (E, C) of the classes in the shots, one pseudo-clip of equal shares added."""
        shares = batch.targets.sum(1) + 1 / batch.targets.shape[-1]
        return power * (shares / shares.sum(-1, keepdim=True)).log()


class ShotsShares(Method):
    """Guess by the shares of the classes in the shots."""

    kind: Literal["shots-shares"] = "shots-shares"
    title: str = "Shares of the shots"
    group: ClassVar[str] = "Control"
    Model: ClassVar[type] = ConstantModel
    power: ClassVar[float] = 1.0

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> ConstantModel:
        """Nothing is learnt."""
        return ConstantModel(start.head, dict.fromkeys(sorted({shots for _, shots in dev}), self.power))

    def learnt_numbers(self, model: ConstantModel) -> int:
        """None."""
        return 0

    def listener_numbers(self, model: ConstantModel) -> int:
        """One share per class."""
        return len(model.head.a)
