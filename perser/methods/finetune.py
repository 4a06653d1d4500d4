"""Fine-tuning: gradient descent from SSL-E, or from a fresh head, on the K shots alone."""

from itertools import product
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from perser import model as heads
from perser import seeds
from perser.adapt import constant_lr
from perser.data import Task
from perser.episodes import Draws
from perser.methods.base import GradientModel, Method, Start, fitted, tensor_numbers
from perser.methods.ssl_e import train
from perser.model import Head
from perser.settings import Grid, Positives, Share, TensorName


class Finetune(Method):
    """Gradient descent on the K shots; tensors, learning rate and steps are chosen on the dev listeners."""

    kind: Literal["finetune"] = "finetune"
    title: str = "Fine-tuning"
    Model: ClassVar[type] = GradientModel

    start: Literal["ssl-e", "scratch"] = Field("ssl-e", description="where descent starts: SSL-E or a fresh head")
    soft_f1: Share = Field(0.0, description="share of the soft macro F1 in the loss of SSL-E, trained anew")
    adapts_grid: tuple[tuple[TensorName, ...], ...] = Field(
        (("P", "b", "A", "a"), ("A", "a"), ("b", "a"), ("a",)), min_length=1,
        description="sets of tensors that may adapt: all, the last layer, the biases, the output bias")
    inner_lr_grid: Positives = Field((0.003, 0.01, 0.03, 0.1, 0.3, 1.0), min_length=1)
    inner_steps_grid: Grid = Field((5, 20), min_length=1)

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> GradientModel:
        """The start with the best inner learning rates for each number of shots."""
        head = fresh(task, seed) if self.start == "scratch" else start.head
        head = train(task, seed, self.soft_f1) if self.soft_f1 else head
        grid = [constant_lr(lr, steps, tensors) for tensors, lr, steps
                in product(self.adapts_grid, self.inner_lr_grid, self.inner_steps_grid)]
        return fitted(task, GradientModel(head, {}), grid, dev)

    def costliest(self, model: GradientModel) -> Tensor:
        """The most steps on the largest set of tensors."""
        return constant_lr(self.inner_lr_grid[0], max(self.inner_steps_grid), self._largest_set(model.head))

    def learnt_numbers(self, model: GradientModel) -> int:
        """Those of SSL-E; none from scratch."""
        return 0 if self.start == "scratch" else super().learnt_numbers(model)

    def listener_numbers(self, model: GradientModel) -> int:
        """Those of the largest set of tensors that may adapt."""
        return tensor_numbers(model.head, self._largest_set(model.head))

    def _largest_set(self, head: Head) -> tuple[str, ...]:
        return max(self.adapts_grid, key=lambda names: tensor_numbers(head, names))


def fresh(task: Task, seed: int) -> Head:
    """A head that has learnt nothing."""
    _, layers, width = task.data.features.shape
    return heads.init(layers, width, task.base.hidden, len(task.data.classes),
                      seeds.generator(seed, "scratch", task.split.fold))
