"""Listener embedding: a head conditioned on a vector per listener, which is learnt from the shots at test time."""

from collections.abc import Iterator
from itertools import product
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.func import grad, vmap

from perser import model as heads
from perser import seeds
from perser.data import Task
from perser.episodes import Batch, Draws
from perser.evaluate import query_loss
from perser.methods.base import Method, Start, fitted, hidden_values, stacked
from perser.model import Head, cross_entropy
from perser.settings import Count, Grid, Number, Positive, Positives, Share


class ListenerEmbeddingModel(NamedTuple):
    """A head whose hidden values are scaled and shifted by a listener's embedding e: h (1 + e U) + e V.

    U, V (d, H); start (d,): mean embedding of the training listeners; settings: per number of shots (learning rate,
    steps) of the descent on a new listener's embedding. Source: Ando et al. 2021 (Interspeech, listener-dependent SER).
    """

    head: Head
    U: Tensor
    V: Tensor
    start: Tensor
    settings: dict[int, tuple[float, int]]

    def logits(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Logits (..., n, C) of hidden values (..., n, H) for embeddings (..., d)."""
        e = embedding.unsqueeze(-2)
        return (hidden * (1 + e @ self.U) + e @ self.V) @ self.head.A.T + self.head.a

    def answers(self, batch: Batch, settings: list[tuple[float, int]]) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query under each setting."""
        support, query = hidden_values(self.head, batch)
        for setting in settings:
            yield self.logits(query, self._embeddings(support, batch, setting))

    def weights(self, batch: Batch, setting: tuple[float, int]) -> Head:
        """The personal heads: scale and shift of the hidden values as part of the first linear map."""
        e = self._embeddings(hidden_values(self.head, batch)[0], batch, setting)
        scale = 1 + e @ self.U
        return stacked(self.head, batch, P=scale.unsqueeze(-1) * self.head.P, b=scale * self.head.b + e @ self.V)

    def _embeddings(self, support: Tensor, batch: Batch, setting: tuple[float, int]) -> Tensor:
        """Embeddings (E, d) after descent on the support loss."""

        def loss(embedding: Tensor, hidden: Tensor, targets: Tensor) -> Tensor:
            return cross_entropy(self.logits(hidden, embedding), targets, batch.class_weights)

        lr, steps = setting
        embedding = self.start.expand(len(support), -1)
        for _ in range(steps):
            embedding = embedding - lr * vmap(grad(loss))(embedding, support, batch.targets)
        return embedding


class ListenerEmbedding(Method):
    """A head conditioned on a listener's embedding, which is learnt at test time from the K shots."""

    kind: Literal["listener-embedding"] = "listener-embedding"
    title: str = "Listener embedding"
    Model: ClassVar[type] = ListenerEmbeddingModel

    size: Count = Field(8, description="width of the embedding")
    lr: Positive = Field(1e-3, description="AdamW learning rate in training")
    epochs: Number = Field(10, description="passes over the training ratings; the epoch of lowest dev loss is kept")
    soft_f1: Share = Field(0.0, description="share of the soft macro F1 in the training loss")
    inner_lr_grid: Positives = Field((0.03, 0.1, 0.3, 1.0, 3.0), min_length=1)
    inner_steps_grid: Grid = Field((5, 20), min_length=1)

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> ListenerEmbeddingModel:
        """Train head and embeddings from SSL-E; choose the descent of a new embedding on the dev listeners."""
        return fitted(task, self.train(task, start.head, seed), product(self.inner_lr_grid, self.inner_steps_grid), dev)

    def train(self, task: Task, head: Head, seed: int) -> ListenerEmbeddingModel:
        """Train on the training listeners' ratings and keep the epoch of lowest dev loss; without settings."""
        data, split = task.data, task.split
        draw = seeds.generator(seed, "embedding", split.fold, split.group)
        embeddings = 0.1 * torch.randn(len(data.listeners), self.size, generator=draw)
        maps = 0.1 * torch.randn(2, self.size, len(head.b), generator=draw)
        tensors = [tensor.detach().clone().requires_grad_() for tensor in (*head, *maps, embeddings)]
        optimiser = torch.optim.AdamW(tensors, lr=self.lr, fused=True)
        known = np.unique(data.listener[split.train])
        lowest, kept = np.inf, list[Tensor]()
        for epoch in range(self.epochs + 1):
            with torch.no_grad():
                loss = float(_training_loss(task, tensors, split.base_dev, self.soft_f1))
            if not kept or loss < lowest:
                lowest, kept = loss, [tensor.detach().clone() for tensor in (*tensors[:7], tensors[7][known].mean(0))]
            if epoch < self.epochs:
                for batch in torch.randperm(len(split.train), generator=draw).split(task.base.batch_size):
                    optimiser.zero_grad()
                    _training_loss(task, tensors, split.train[batch.numpy()], self.soft_f1).backward()
                    torch.nn.utils.clip_grad_norm_(tensors, task.base.grad_clip)
                    optimiser.step()
        U, V, mean = kept[5:]
        return ListenerEmbeddingModel(Head(*kept[:5]), U, V, mean, {})

    def costliest(self, model: ListenerEmbeddingModel) -> tuple[float, int]:
        """The most steps."""
        return self.inner_lr_grid[0], max(self.inner_steps_grid)

    def listener_numbers(self, model: ListenerEmbeddingModel) -> int:
        """The embedding."""
        return self.size


def _training_loss(task: Task, tensors: list[Tensor], ratings: np.ndarray, f1_share: float) -> Tensor:
    """Loss of ratings (n,) under their listeners' embeddings; tensors: head, U, V, embeddings."""
    data, (*head, U, V, embeddings) = task.data, tensors
    model = ListenerEmbeddingModel(Head(*head), U, V, embeddings[0], {})
    hidden = heads.hidden(model.head, data.features[data.clip[ratings]])
    logits = model.logits(hidden.unsqueeze(-2), embeddings[data.listener[ratings]]).squeeze(-2)
    return query_loss(task, logits, torch.from_numpy(ratings), f1_share)
