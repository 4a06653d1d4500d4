"""The same episode through learn2learn, one at a time: what the exact engine is checked and timed against."""

import contextlib
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from perser.head import Head
from perser.losses import cross_entropy

# learn2learn 0.2.0 imports gym, which warns and writes to stderr on import; neither concerns this module.
with warnings.catch_warnings(), Path(os.devnull).open("w") as devnull, contextlib.redirect_stderr(devnull):
    warnings.simplefilter("ignore")
    import learn2learn


class Downstream(nn.Module):
    """The head as a module: features (K, L, D) -> logits (K, C)."""

    def __init__(self, head: Head):
        """Copies of the head's tensors as parameters."""
        super().__init__()
        for name, tensor in head._asdict().items():
            setattr(self, name, nn.Parameter(tensor.detach().clone()))

    def forward(self, features: Tensor) -> Tensor:
        """Logits of a batch of clips."""
        x = (self.mix.softmax(0).unsqueeze(-1) * features).sum(-2)
        return functional.linear(functional.linear(x, self.P, self.b), self.A, self.a)


def maml(model: Downstream, rate: float, steps: int, features: Tensor, targets: Tensor, class_weights: Tensor,
         first_order: bool) -> nn.Module:
    """One episode's personal module by learn2learn.algorithms.MAML with its one rate."""
    learner = learn2learn.algorithms.MAML(model, lr=rate, first_order=first_order).clone()
    for _ in range(steps):
        learner.adapt(cross_entropy(learner(features), targets, class_weights))
    return learner


def lslr(model: Downstream, rates: Tensor, features: Tensor, targets: Tensor, class_weights: Tensor,
         first_order: bool) -> nn.Module:
    """One episode's personal module by learn2learn's clone_module and update_module; rates (steps, tensors)."""
    clone = learn2learn.clone_module(model)
    for rate in rates:
        loss = cross_entropy(clone(features), targets, class_weights)
        slopes = torch.autograd.grad(loss, list(clone.parameters()), create_graph=not first_order)
        clone = learn2learn.update_module(clone, [-r * g for r, g in zip(rate, slopes, strict=True)])
    return clone
