"""Nearest listener: the personal models of those training listeners who answer the shots most like the new one."""

from collections.abc import Iterator
from itertools import product
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from perser import model as heads
from perser import seeds
from perser.adapt import constant_lr
from perser.data import Task, by_listener
from perser.episodes import Batch, Draws, Episodes, batch_of
from perser.methods.base import GradientModel, Method, Start, fitted
from perser.model import Head, cross_entropy
from perser.settings import Count, Grid, Positives


class NearestListenerModel(NamedTuple):
    """Personal models of N training listeners at R learning rates.

    maps (R, N, C, D), offsets (R, N, C): logits of layer-mixed features; settings: per number of shots (which learning
    rate, how many models to average). Source: Tavernor et al. 2025 (arXiv 2509.12295).
    """

    head: Head
    maps: Tensor
    offsets: Tensor
    settings: dict[int, tuple[int, int]]

    def answers(self, batch: Batch, settings: list[tuple[int, int]]) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query under each setting: means over the nearest models."""
        for rate, neighbours in settings:
            logits = self._all_logits(batch, rate)
            nearest = self._nearest(logits, batch, neighbours)
            yield torch.stack([logits[models][:, query].mean(0) for models, query in zip(nearest, batch.query)])

    def weights(self, batch: Batch, setting: tuple[int, int]) -> Head:
        """The personal heads: the mean map to the classes as the first layer, the identity as the second."""
        rate, neighbours = setting
        nearest = self._nearest(self._all_logits(batch, rate), batch, neighbours)
        episodes, classes = len(nearest), self.maps.shape[2]
        return Head(self.head.mix.expand(episodes, -1), self.maps[rate][nearest].mean(1),
                    self.offsets[rate][nearest].mean(1), torch.eye(classes).expand(episodes, -1, -1),
                    torch.zeros(episodes, classes))

    def _all_logits(self, batch: Batch, rate: int) -> Tensor:
        """(N, U, C)."""
        x = heads.mixed(self.head, batch.features[batch.clips])
        return torch.einsum("nd,lcd->lnc", x, self.maps[rate]) + self.offsets[rate].unsqueeze(1)

    def _nearest(self, logits: Tensor, batch: Batch, neighbours: int) -> Tensor:
        """The models of lowest support loss, (E, neighbours)."""
        losses = cross_entropy(logits[:, batch.support], batch.targets, batch.class_weights)
        return losses.topk(min(neighbours, len(losses)), 0, largest=False).indices.T


class NearestListener(Method):
    """Personal models of the training listeners; learning rate and how many to average: chosen on the dev listeners."""

    kind: Literal["nearest-listener"] = "nearest-listener"
    title: str = "Nearest listener"
    Model: ClassVar[type] = NearestListenerModel

    ratings: Count = Field(256, description="ratings that each personal model is trained on")
    inner_lr_grid: Positives = Field((0.03, 0.1, 0.3), min_length=1)
    inner_steps: Count = 20
    neighbours_grid: Grid = Field((1, 2, 4, 8), min_length=1)

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> NearestListenerModel:
        """Fine-tune SSL-E on every training listener's ratings at every learning rate; choose on the dev listeners.

        A model is trained on `ratings` of a listener's ratings, drawn with replacement where there are fewer, so that
        all listeners form one batch.
        """
        pools = by_listener(task.data, task.split.train, 1)
        ratings = np.stack([
            seeds.rng(seed, "listener models", task.data.listeners[listener])
            .choice(pool, self.ratings, replace=len(pool) < self.ratings) for listener, pool in pools.items()])
        with torch.no_grad():
            batch, descent = batch_of(task, Episodes(ratings, ratings[:, :0])), GradientModel(start.head, {})
            tuned = [descent.weights(batch, constant_lr(lr, self.inner_steps)) for lr in self.inner_lr_grid]
        model = NearestListenerModel(
            start.head, torch.stack([head.A @ head.P for head in tuned]),
            torch.stack([(head.A @ head.b.unsqueeze(-1)).squeeze(-1) + head.a for head in tuned]), {})
        return fitted(task, model, product(range(len(self.inner_lr_grid)), self.neighbours_grid), dev)

    def costliest(self, model: NearestListenerModel) -> tuple[int, int]:
        """The most models to average."""
        return 0, max(self.neighbours_grid)

    def listener_numbers(self, model: NearestListenerModel) -> int:
        """The places of the nearest listeners."""
        return min(max(self.neighbours_grid), model.maps.shape[1])
