"""Population prior: a listener's affine map of the general model's logits, under a Gaussian prior over listeners.

SSL-E is not changed. A listener's logits are z + b + W (z - mean z): class biases b and slopes W of all classes on all
logits, zero for the general model. Their covariance is learnt from the training listeners. The negative log posterior
is convex and its minimum is found by Newton steps, so there is no inner learning rate, and the number of shots enters
by Bayes' rule.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from perser import model as heads
from perser.data import Task, by_listener
from perser.episodes import Batch, Draws
from perser.evaluate import choose
from perser.methods.base import Method, Start, numbers, stacked
from perser.model import Head
from perser.settings import Amounts

NEWTON_STEPS = 20
LONGEST_STEP = 2.0  # in any logit of the support: a full Newton step overshoots where SSL-E is too sure of itself
EM_STEPS = 12


class PopulationPriorModel(NamedTuple):
    """SSL-E, the prior covariance (C F, C F) of a listener's map (C, F = 1 + C), and by number of shots its factor."""

    head: Head
    covariance: Tensor
    settings: dict[int, float]

    def answers(self, batch: Batch, settings: list[float]) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query under each setting."""
        logits = heads.logits(self.head, batch.features[batch.clips])
        query = logits[batch.query]
        for factor in settings:
            yield query + terms(query) @ self._maps(logits[batch.support], batch.targets, factor).mT

    def weights(self, batch: Batch, setting: float) -> Head:
        """The personal heads: SSL-E with an output layer (E, C, H) of their own."""
        logits = heads.logits(self.head, batch.features[batch.clips])[batch.support]
        bias, slopes = self._maps(logits, batch.targets, setting).split([1, len(self.head.a)], -1)
        A, a = (tensor - tensor.mean(0) for tensor in (self.head.A, self.head.a))
        return stacked(self.head, batch, A=self.head.A + slopes @ A, a=self.head.a + bias.squeeze(-1) + slopes @ a)

    def _maps(self, logits: Tensor, targets: Tensor, factor: float) -> Tensor:
        """The posterior modes (E, C, F); zero for a factor of zero."""
        if factor == 0:
            return torch.zeros(len(logits), logits.shape[-1], 1 + logits.shape[-1])
        precision = torch.linalg.inv(factor * self.covariance)
        return posterior(logits, targets, torch.ones(logits.shape[:-1]), precision)[0]


class PopulationPrior(Method):
    """Biases and slopes of the logits under a prior over listeners, whose factor is chosen on the dev listeners."""

    kind: Literal["population-prior"] = "population-prior"
    title: str = "Meta-PerSER-P"
    group: ClassVar[str] = "Meta-learning"
    Model: ClassVar[type] = PopulationPriorModel

    factor_grid: Amounts = Field(
        (0.0, 0.5, 1.0, 2.0, 4.0), min_length=1,
        description="factors on the prior covariance; 0 is the general model")

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> PopulationPriorModel:
        """Learn the prior from the training listeners' ratings; choose the factor for each number of shots."""
        model = self.Model(start.head, prior_of(task, start.head), {})
        return model._replace(settings=choose(task, model, self.factor_grid, dev))

    def learnt_numbers(self, model: PopulationPriorModel) -> int:
        """Those of SSL-E and of the covariance."""
        return numbers(model.head) + numbers(model.covariance)

    def listener_numbers(self, model: PopulationPriorModel) -> int:
        """A bias and a slope on every logit for each class."""
        return len(model.head.a) * (1 + len(model.head.a))


@torch.no_grad()
def prior_of(task: Task, head: Head) -> Tensor:
    """The covariance that the training listeners' ratings give, those of the dev session included."""
    pool = np.concatenate([task.split.train, task.split.base_dev])
    logits, pools = heads.logits(head, task.data.features), list(by_listener(task.data, pool, 1).values())
    longest = max(map(len, pools))
    ratings = np.stack([np.pad(pool, (0, longest - len(pool)), mode="edge") for pool in pools])
    weights = torch.tensor([[1.0] * len(pool) + [0.0] * (longest - len(pool)) for pool in pools])
    return prior_covariance(logits[task.data.clip[ratings]], task.targets[torch.from_numpy(ratings)], weights)


def prior_covariance(logits: Tensor, targets: Tensor, weights: Tensor, first: float = 0.1) -> Tensor:
    """Covariance (C F, C F) of the listeners' maps, by expectation maximisation with Gaussian posteriors.

    logits, targets (L, n, C), weights (L, n), 0 for padding. Each step sets it to the mean of the posteriors' second
    moments.
    """
    covariance = first * torch.eye(logits.shape[-1] * (1 + logits.shape[-1]))
    for _ in range(EM_STEPS):
        maps, spread = posterior(logits, targets, weights, torch.linalg.inv(covariance))
        mode = maps.flatten(1)
        covariance = (mode.unsqueeze(-1) * mode.unsqueeze(-2) + spread).mean(0) + 1e-4 * torch.eye(len(covariance))
    return covariance


def terms(logits: Tensor) -> Tensor:
    """What a listener's map weighs: one, and the logits without their mean over classes: (..., C) -> (..., F)."""
    return torch.cat([torch.ones_like(logits[..., :1]), logits - logits.mean(-1, keepdim=True)], -1)


def posterior(logits: Tensor, targets: Tensor, weights: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Modes (E, C, F) and covariances (E, C F, C F) of maps given ratings, under a Gaussian prior around zero.

    logits, targets (E, K, C); weights (E, K); precision (C F, C F). Source: Laplace's approximation; Newton's method.
    """
    x, (classes, size) = terms(logits), (logits.shape[-1], len(precision))
    mode, mass = logits.new_zeros(len(logits), classes, 1 + classes), (weights * targets.sum(-1)).unsqueeze(-1)
    pairs = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(2)  # (E, K, F F)
    for _ in range(NEWTON_STEPS):
        p = (logits + x @ mode.mT).softmax(-1)
        slope = (mass * p - weights.unsqueeze(-1) * targets).mT @ x + (mode.flatten(1) @ precision).view_as(mode)
        spread = mass.unsqueeze(-1) * (torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2))
        curvature = (spread.flatten(2).mT @ pairs).view(-1, classes, classes, 1 + classes, 1 + classes)
        curvature = curvature.transpose(2, 3).reshape(-1, size, size) + precision
        step = torch.linalg.solve(curvature, slope.flatten(1)).view_as(mode)
        mode = mode - step / ((x @ step.mT).abs().amax((1, 2)) / LONGEST_STEP).clamp(min=1)[:, None, None]
    return mode, torch.linalg.inv(curvature)
