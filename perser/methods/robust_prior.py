"""Robust prior: the population prior, and the same around a swap of two classes.

The population prior takes many shots to believe in a listener unlike all others. One such listener is common: whose
labels swap two classes, by a slip or by another sense of the words. Here the prior is a mixture: the population's, and
the population's after a swap of any two classes' logits. The shots weigh both by their evidence, and the listener's map
is the weighted mean of theirs. Only the swap that explains the shots best is computed.
"""

from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor

from perser.methods.population_prior import PopulationPrior, PopulationPriorModel, posterior, terms

SWAPS = 0.05  # share of listeners who swap two classes, before any shot


class RobustPriorModel(PopulationPriorModel):
    """SSL-E, the prior covariance, and per number of shots a factor on it; see `PopulationPriorModel`."""

    def _maps(self, logits: Tensor, targets: Tensor, factor: float) -> Tensor:
        """The maps (E, C, F): the mean of the population's and the best swap's, weighted by evidence."""
        size, ones, orders = len(self.head.a), torch.ones(logits.shape[:-1]), swaps(len(self.head.a))
        precision = torch.linalg.inv(factor * self.covariance + 1e-4 * torch.eye(len(self.covariance)))
        likely = torch.stack([(targets * logits[..., order].log_softmax(-1)).sum((-1, -2)) for order in orders])
        best = orders[likely.argmax(0)]  # (E, C)
        swapped = logits.gather(-1, best[:, None].expand_as(logits))
        maps, scores = [], []
        for answers, share in ((logits, 1 - SWAPS), (swapped, SWAPS / len(orders))):
            mode, spread = posterior(answers, targets, ones, precision)
            maps.append(mode)
            scores.append(evidence(answers, targets, mode, spread, precision) + torch.tensor(share).log())
        bias, slopes = maps[1].split([1, size], -1)
        slopes = (slopes + torch.eye(size)).gather(-1, best[:, None].expand_as(slopes)) - torch.eye(size)
        own, other = torch.stack(scores).softmax(0)[..., None, None]
        return own * maps[0] + other * torch.cat([bias, slopes], -1)


class RobustPrior(PopulationPrior):
    """The population prior in a mixture with swaps of two classes; its factor is chosen on the dev listeners."""

    kind: Literal["robust-prior"] = "robust-prior"  # type: ignore[assignment]  # not the parent's
    title: str = "Meta-PerSER-P, robust"
    Model: ClassVar[type] = RobustPriorModel


def swaps(classes: int) -> Tensor:
    """The orders (pairs, C) of classes in which two have changed places.

    >>> swaps(3).tolist()
    [[1, 0, 2], [2, 1, 0], [0, 2, 1]]
    """
    orders = torch.arange(classes).repeat(classes * (classes - 1) // 2, 1)
    for order, (one, other) in zip(orders, combinations(range(classes), 2)):
        order[[one, other]] = order[[other, one]]
    return orders


def evidence(logits: Tensor, targets: Tensor, mode: Tensor, spread: Tensor, precision: Tensor) -> Tensor:
    """Log evidence (E,) of a Gaussian prior of a precision, but for a constant, by Laplace's approximation.

    logits, targets (E, K, C); mode (E, C, F) and spread (E, C F, C F) as `posterior` gives them.
    """
    fit = (targets * (logits + terms(logits) @ mode.mT).log_softmax(-1)).sum((-1, -2))
    flat = mode.flatten(1)
    return fit + (precision.logdet() + spread.logdet() - ((flat @ precision) * flat).sum(-1)) / 2
