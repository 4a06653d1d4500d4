"""Random heads and episodes for tests of the inner loop. No two episodes share a clip unless a test asks for it."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perser import seeds
from perser.episodes import Batch, Episodes
from perser.model import TENSORS, Head, cross_entropy, init, trainable


class Sizes(NamedTuple):
    episodes: int = 3
    shots: int = 4
    query: int = 6
    layers: int = 5
    width: int = 7
    hidden: int = 6
    classes: int = 4


class Problem(NamedTuple):
    """A head, episodes of features (E, K, L, D) and (E, Q, L, D) and targets, and the class weights."""

    head: Head
    support: Tensor
    query: Tensor
    targets: Tensor
    query_targets: Tensor
    class_weights: Tensor

    def batch(self, part: slice = slice(None)) -> Batch:
        """A table of clips with those of the supports first, as the inner loop reads it."""
        return batch(self.support[part], self.query[part], self.targets[part], self.class_weights)

    def loss(self, logits: Tensor) -> Tensor:
        return cross_entropy(logits, self.query_targets, self.class_weights).mean()


def problem(dtype=torch.float64, seed: int = 0, **sizes: int) -> Problem:
    size, g = Sizes(**sizes), seeds.generator(seed, "test problem")

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    head = Head(*(tensor.to(dtype) for tensor in init(size.layers, size.width, size.hidden, size.classes, g)))
    return Problem(head._replace(mix=normal(size.layers)), normal(size.episodes, size.shots, size.layers, size.width),
                   normal(size.episodes, size.query, size.layers, size.width),
                   normal(size.episodes, size.shots, size.classes).softmax(-1),
                   normal(size.episodes, size.query, size.classes).softmax(-1), normal(size.classes).exp())


def batch(support: Tensor, query: Tensor, targets: Tensor, class_weights: Tensor) -> Batch:
    features = torch.cat([support.flatten(0, 1), query.flatten(0, 1)])
    clips = torch.arange(len(features))
    near, far = clips.split([support.shape[:2].numel(), query.shape[:2].numel()])
    nobody = Episodes(np.empty(0), np.empty(0))
    return Batch(nobody, features, clips, near.view(support.shape[:2]), far.view(query.shape[:2]), len(near), targets,
                 class_weights)


def random_lr(steps: int, dtype=torch.float64, mix: bool = False) -> Tensor:
    """Inner learning rates (steps, tensors) below 1/2; that of the layer weights is zero unless `mix`."""
    lr = torch.rand(steps, len(TENSORS), generator=seeds.generator(1, "inner_lr"), dtype=torch.float64).to(dtype) / 2
    return lr if mix else lr * torch.tensor([0, 1, 1, 1, 1], dtype=dtype)


def meta_gradient(loss, head: Head, inner_lr: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """The value of loss(head, inner_lr), and its gradients by the head's tensors and the inner learning rates."""
    head = trainable(head)
    inner_lr = None if inner_lr is None else inner_lr.clone().requires_grad_()
    value, tensors = loss(head, inner_lr), [*head] if inner_lr is None else [*head, inner_lr]
    gradients = torch.autograd.grad(value, tensors, allow_unused=True)
    return value.detach(), [torch.zeros_like(tensor) if gradient is None else gradient
                            for tensor, gradient in zip(tensors, gradients)]


def assert_same(one: tuple[Tensor, list[Tensor]], other: tuple[Tensor, list[Tensor]], tolerance: float) -> None:
    """Equal losses and gradients; a gradient's tolerance is relative to its largest element where that is above 1."""
    assert abs(one[0] - other[0]) <= tolerance
    for gradient, expected in zip(one[1], other[1], strict=True):
        assert (gradient - expected).abs().max() <= tolerance * max(1, float(expected.abs().max()))
