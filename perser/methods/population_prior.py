"""Population prior: a listener's class log-biases, estimated under a Gaussian prior learnt from the training listeners.

SSL-E is not changed; only the biases adapt. The negative log posterior is convex and its minimum is found by Newton
steps, so there is no inner learning rate, and the number of shots enters by Bayes' rule.
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

NEWTON_STEPS = 20
LONGEST_STEP = 2.0  # in any log-bias: a full Newton step overshoots where SSL-E is too sure of itself
EM_STEPS = 15


class PopulationPriorModel(NamedTuple):
    """SSL-E, the prior covariance (C, C) of a listener's log-biases, and per number of shots a factor on it."""

    head: Head
    covariance: Tensor
    settings: dict[int, float]

    def answers(self, batch: Batch, settings: list[float]) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query under each setting."""
        logits = heads.logits(self.head, batch.features[batch.clips])
        for factor in settings:
            yield logits[batch.query] + self._biases(logits[batch.support], batch.targets, factor).unsqueeze(1)

    def weights(self, batch: Batch, setting: float) -> Head:
        """The personal heads: SSL-E with output biases (E, C) of their own."""
        logits = heads.logits(self.head, batch.features[batch.clips])[batch.support]
        return stacked(self.head, batch, a=self.head.a + self._biases(logits, batch.targets, setting))

    def _biases(self, logits: Tensor, targets: Tensor, factor: float) -> Tensor:
        """The posterior mode (E, C); zero for a factor of zero."""
        if factor == 0:
            return torch.zeros(len(logits), logits.shape[-1])
        precision = torch.linalg.inv(factor * self.covariance)
        return posterior(logits, targets, torch.ones(logits.shape[:-1]), precision)[0]


class PopulationPrior(Method):
    """Class log-biases under a prior over listeners; the factor on the prior is chosen on the dev listeners."""

    kind: Literal["population-prior"] = "population-prior"
    title: str = "Meta-PerSER-P"
    group: ClassVar[str] = "Meta-learning"
    Model: ClassVar[type] = PopulationPriorModel

    factor_grid: tuple[float, ...] = Field(
        (0.0, 0.5, 1.0, 2.0, 4.0), min_length=1,
        description="factors on the prior covariance; 0 is the general model")

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> PopulationPriorModel:
        """Learn the prior from the training listeners' ratings; choose the factor for each number of shots."""
        model = PopulationPriorModel(start.head, prior_of(task, start.head), {})
        return model._replace(settings=choose(task, model, self.factor_grid, dev))

    def learnt_numbers(self, model: PopulationPriorModel) -> int:
        """Those of SSL-E and of the covariance."""
        return numbers(model.head) + numbers(model.covariance)

    def listener_numbers(self, model: PopulationPriorModel) -> int:
        """One bias per class."""
        return len(model.head.a)


def prior_of(task: Task, head: Head) -> Tensor:
    """The prior covariance (C, C) that the training listeners' ratings give."""
    return prior_covariance(*_by_listener(task, head))


@torch.no_grad()
def _by_listener(task: Task, head: Head) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets (L, n, C) of the training listeners' ratings, padded, and weights (L, n), 0 for padding."""
    logits, pools = heads.logits(head, task.data.features), list(by_listener(task.data, task.split.train, 1).values())
    longest = max(map(len, pools))
    ratings = np.stack([np.pad(pool, (0, longest - len(pool)), mode="edge") for pool in pools])
    weights = torch.tensor([[1.0] * len(pool) + [0.0] * (longest - len(pool)) for pool in pools])
    return logits[task.data.clip[ratings]], task.targets[torch.from_numpy(ratings)], weights


def prior_covariance(logits: Tensor, targets: Tensor, weights: Tensor, first: float = 0.1) -> Tensor:
    """Covariance (C, C) of the listeners' log-biases, by expectation maximisation with Gaussian posteriors.

    logits, targets (L, n, C), weights (L, n). Each step sets it to the mean of the posteriors' second moments.
    """
    covariance = first * torch.eye(logits.shape[-1])
    for _ in range(EM_STEPS):
        mode, spread = posterior(logits, targets, weights, torch.linalg.inv(covariance))
        covariance = (mode.unsqueeze(-1) * mode.unsqueeze(-2) + spread).mean(0) + 1e-4 * torch.eye(len(covariance))
    return covariance


def posterior(logits: Tensor, targets: Tensor, weights: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Mode (E, C) and covariance (E, C, C) of log-biases given ratings, under a Gaussian prior around zero.

    logits, targets (E, K, C); weights (E, K); precision (C, C). Source: Laplace's approximation; Newton's method.
    """
    mode, mass = torch.zeros_like(logits[:, 0]), (weights * targets.sum(-1)).unsqueeze(-1)
    for _ in range(NEWTON_STEPS):
        p = (logits + mode.unsqueeze(1)).softmax(-1)
        slope = (mass * p - weights.unsqueeze(-1) * targets).sum(1) + mode @ precision
        curvature = torch.diag_embed((mass * p).sum(1)) - (mass * p).mT @ p + precision
        step = torch.linalg.solve(curvature, slope)
        mode = mode - step / (step.abs().amax(-1, keepdim=True) / LONGEST_STEP).clamp(min=1)
    return mode, torch.linalg.inv(curvature)
