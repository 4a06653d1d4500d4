"""SSL-E: the model of the aggregate of all training listeners. Every other method starts from it."""

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from perser import model as heads
from perser import seeds
from perser.data import Task, aggregate
from perser.episodes import Draws
from perser.methods.base import GradientModel, Method, Start
from perser.model import TENSORS, Head, cross_entropy, soft_f1


class SslE(Method):
    """SSL-E itself, without adaptation."""

    kind: Literal["ssl-e"] = "ssl-e"
    title: str = "SSL-E"
    is_start: ClassVar[bool] = True
    Model: ClassVar[type] = GradientModel

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> GradientModel:
        """The start itself, as a model that takes no inner step."""
        return unadapted(start.head)

    def listener_numbers(self, model: GradientModel) -> int:
        """Nothing is kept of a listener."""
        return 0


def unadapted(head: Head) -> GradientModel:
    """A head as a model that does not adapt."""
    return GradientModel(head, {0: torch.zeros(0, len(TENSORS))})


def labelled(task: Task, pool: np.ndarray) -> tuple[Tensor, Tensor]:
    """Features (n, L, D) and targets (n, C) of a pool: clips with vote shares, or single ratings (base.targets)."""
    if task.base.targets == "pooled":
        return task.data.features[task.data.clip[pool]], task.targets[pool]
    clips, targets = aggregate(task.data, pool, task.base.label_smoothing)
    return task.data.features[torch.from_numpy(clips)], targets


def train(task: Task, seed: int, f1_share: float = 0.0) -> Head:
    """Train SSL-E on the training listeners' aggregate and keep the epoch of lowest dev loss.

    f1_share: share of the soft macro F1 in the loss, of the classes that the threshold rule takes from the targets.
    Source: EMO-SUPERB (arXiv 2402.13018): AdamW, batches of 32, gradient norm at most 1, 40 epochs.
    """
    def loss_of(features: Tensor, targets: Tensor) -> Tensor:
        logits = heads.logits(head, features)
        entropy = cross_entropy(logits, targets, task.class_weights)
        if not f1_share:
            return entropy
        return (1 - f1_share) * entropy + f1_share * (1 - soft_f1(logits, targets > 1 / targets.shape[1]))


    base, fold = task.base, task.split.fold
    features, targets = labelled(task, task.split.train)
    dev_features, dev_targets = labelled(task, task.split.base_dev)
    _, layers, width = features.shape
    fresh = heads.init(layers, width, base.hidden, targets.shape[1], seeds.generator(seed, "init", fold))
    head = heads.trainable(fresh)
    optimiser = torch.optim.AdamW(head, lr=base.lr, fused=True)
    order = seeds.generator(seed, "batches", fold)
    lowest, kept = float("inf"), heads.detached(head)
    for epoch in range(base.epochs + 1):
        with torch.no_grad():
            loss = float(loss_of(dev_features, dev_targets))
        if loss < lowest:
            lowest, kept = loss, heads.detached(head)
        if epoch < base.epochs:
            for batch in torch.randperm(len(features), generator=order).split(base.batch_size):
                optimiser.zero_grad()
                loss_of(features[batch], targets[batch]).backward()
                torch.nn.utils.clip_grad_norm_(head, base.grad_clip)
                optimiser.step()
    return kept


def cross_fitted(task: Task, seed: int) -> dict[int, Head]:
    """SSL-E trained without each training session: session -> head."""
    data, split = task.data, task.split
    session = data.session[data.clip[split.train]]
    parts = {int(name): split._replace(train=split.train[session != name]) for name in np.unique(session)}
    return {name: train(task._replace(split=part), seed) for name, part in parts.items()}
