"""One episode at a time through learn2learn: what tests and benchmarks compare the inner loop with."""

import contextlib
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from perser.model import Head, cross_entropy

# learn2learn 0.2.0 imports gym, which warns and writes to stderr on import; neither concerns this module.
with warnings.catch_warnings(), Path(os.devnull).open("w") as devnull, contextlib.redirect_stderr(devnull):
    warnings.simplefilter("ignore")
    import learn2learn


class Downstream(nn.Module):
    """The head as a module: features (K, L, D) -> logits (K, C)."""

    def __init__(self, head: Head):
        """Copy the head's tensors into parameters."""
        super().__init__()
        for name, tensor in head._asdict().items():
            setattr(self, name, nn.Parameter(tensor.detach().clone()))

    def forward(self, features: Tensor) -> Tensor:
        """Logits of a batch of clips."""
        x = (self.mix.softmax(0).unsqueeze(-1) * features).sum(-2)
        return functional.linear(functional.linear(x, self.P, self.b), self.A, self.a)


def maml(model: Downstream, inner_lr: float, steps: int, features: Tensor, targets: Tensor, class_weights: Tensor,
         first_order: bool) -> nn.Module:
    """One episode's personal module by learn2learn.algorithms.MAML with its single inner learning rate."""
    learner = learn2learn.algorithms.MAML(model, lr=inner_lr, first_order=first_order).clone()
    for _ in range(steps):
        learner.adapt(cross_entropy(learner(features), targets, class_weights))
    return learner


def lslr(model: Downstream, inner_lr: Tensor, features: Tensor, targets: Tensor, class_weights: Tensor,
         first_order: bool) -> nn.Module:
    """One episode's personal module by learn2learn's clone_module and update_module; inner_lr (steps, tensors)."""
    clone = learn2learn.clone_module(model)
    for lr in inner_lr:
        loss = cross_entropy(clone(features), targets, class_weights)
        slopes = torch.autograd.grad(loss, list(clone.parameters()), create_graph=not first_order)
        clone = learn2learn.update_module(clone, [-r * slope for r, slope in zip(lr, slopes, strict=True)])
    return clone
