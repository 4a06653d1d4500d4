"""Meta-learning: MAML and its relatives, with CSMT, derivative annealing and learnt inner learning rates."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from perser import seeds
from perser.adapt import constant_lr, personal_heads
from perser.data import Task
from perser.episodes import Draws, Episodes, Pools, batch_of, query_size, train_episodes, training_pools
from perser.errors import UserError
from perser.evaluate import choose, dev_score, query_loss
from perser.methods.base import GradientModel, Method, Start, numbers, tensor_numbers
from perser.model import TENSORS, Head
from perser.settings import Count, Fraction, Number, Positive, Positives, Share, TensorName


class Maml(Method):
    """Meta-training from SSL-E. MAML: arXiv 1703.03400. CSMT, DA and LSLR: Meta-PerSER (arXiv 2505.16220)."""

    kind: Literal["maml"] = "maml"
    title: str = "MAML"
    group: ClassVar[str] = "Meta-learning"
    Model: ClassVar[type] = GradientModel

    rule: Literal["maml", "reptile"] = Field(
        "maml", description="outer step: the meta-gradient, or towards the adapted weights (arXiv 1803.02999)")
    csmt: Literal["split", "combined", "shared"] = Field(
        "combined", description="support and query from two pools, from one pool, or the same clips")
    anneal: Share = Field(0.0, description="DA: share of the epochs, from the start, in first order")
    lslr: bool = Field(False, description="learn one inner learning rate per tensor and inner step")
    lslr_lr: Positive = Field(2e-3, description="Adam learning rate of the learnt inner learning rates")
    lslr_log: bool = Field(False, description="learn the logarithm of the inner learning rates: they keep their sign, "
                                              "and a step multiplies them")
    lr_by_shots: bool = Field(False, description="learn the power of the number of shots that inner learning rates "
                                                 "grow with")
    per_weight_lr: bool = Field(False, description="learn one inner learning rate per weight (arXiv 1707.09835)")
    msl: Share = Field(0.0, description="share of the epochs with a loss after every inner step")
    adapts: tuple[TensorName, ...] = Field(("P", "b", "A", "a"), min_length=1,
                                           description="tensors that the inner loop adapts")
    inner_steps: Count = 5
    inner_lr_grid: Positives = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1), min_length=1,
        description="first inner learning rates to choose from on the dev listeners")
    outer_lr: Positive = Field(2e-3, description="Adam learning rate, annealed to zero by a cosine")
    epochs: Number = Field(10, description="the best epoch on the dev listeners is kept")
    outer_steps_per_epoch: Count = 10
    meta_batch_size: Count = Field(16, description="episodes per outer step")
    query: Count = Field(20, description="query clips per training episode")
    grad_clip: Positive = Field(1.0, description="bound on the norm of the outer gradient")
    crossfit: Share = Field(0.0, description="share of the outer steps that start from an SSL-E which has not seen the "
                                             "episodes' session")
    dropout: Fraction = Field(0.0, description="share of feature dimensions left out of an outer step")
    soft_f1: Share = Field(0.0, description="share of the soft macro F1 in the outer loss")
    ema_decay: Fraction = Field(0.0, description="decay of the running mean of the weights; 0: no averaging")
    early_stopping: Literal["loss", "f1", "last"] = Field(
        "loss", description="keep the epoch with the best outer loss or macro F1 on the dev listeners, or the last")

    @model_validator(mode="after")
    def _agree(self) -> "Maml":
        if self.per_weight_lr and (self.lslr or self.msl or self.dropout):
            raise ValueError("per_weight_lr excludes lslr, msl and dropout")
        for name in ("lr_by_shots", "lslr_log"):
            if getattr(self, name) and not self.lslr:
                raise ValueError(f"{name} needs lslr")
        if self.rule == "reptile" and (self.lslr or self.per_weight_lr or self.msl or self.soft_f1 or self.dropout):
            raise ValueError("reptile has no outer loss: it excludes lslr, per_weight_lr, msl, soft_f1 and dropout")
        if self.rule == "reptile" and "mix" in self.adapts:
            raise ValueError("reptile excludes the layer weights, mix, from adapts")
        return self

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> GradientModel:
        """Choose the first inner learning rate on the dev listeners, then meta-train from SSL-E."""
        grid = [constant_lr(lr, self.inner_steps, self.adapts) for lr in self.inner_lr_grid]
        inner_lr = next(iter(choose(task, GradientModel(start.head, {}), grid, dev, per_shots=False).values()))
        others = start.cross_fitted() if self.crossfit else {}
        return metatrain(task, start.head, inner_lr, self, dev, seed, others)[0]

    def learnt_numbers(self, model: GradientModel) -> int:
        """Those of the head and of the learnt inner learning rates."""
        lr_numbers = 0
        if self.lslr:
            lr_numbers = self.inner_steps * len(self.adapts) + self.lr_by_shots
        elif self.per_weight_lr:
            lr_numbers = tensor_numbers(model.head, self.adapts)
        return numbers(model.head) + lr_numbers

    def listener_numbers(self, model: GradientModel) -> int:
        """Those of the tensors that adapt."""
        return tensor_numbers(model.head, self.adapts)


def second_order(epoch: int, epochs: int, anneal: float) -> bool:
    """Derivative annealing: a hard switch; the first `anneal` share of the epochs (from 0) is first order.

    anneal 0 is MAML, 1 is first-order MAML. Source: MAML++ (arXiv 1810.09502), section 4.

    >>> [second_order(epoch, 4, 0.5) for epoch in range(4)]
    [False, False, True, True]
    """
    return epoch >= anneal * epochs


def step_weights(epoch: int, epochs: int, msl: float, steps: int) -> list[float]:
    """Weight of the query loss after each inner step: equal at first, annealed to the last step alone.

    The multi-step loss lasts for the first `msl` share of the epochs (from 0). Source: MAML++ (arXiv 1810.09502),
    section 4. While it lasts, no weight falls below 0.03 / steps, as in MAML++'s repository.

    >>> step_weights(0, 4, 0.5, 2), step_weights(1, 4, 0.5, 2), step_weights(2, 4, 0.5, 2)
    ([0.5, 0.5], [0.25, 0.75], [0.0, 1.0])
    """
    last = msl * epochs
    early = max((1 - epoch / last) / steps, 0.03 / steps) if epoch < last else 0.0
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


def outer_loss(task: Task, model: GradientModel, episodes: Episodes, second: bool, weights: Sequence[float] = (),
               f1_share: float = 0.0, keep: Tensor | None = None) -> Tensor:
    """Mean query loss after adaptation. Its gradient is the meta-gradient. Source: MAML, eq. 4.

    second: differentiate through the inner gradients. weights: of the loss after each inner step; none: the
    last step alone. f1_share: share of the soft macro F1 of all queries. keep (D,): factors on the features.
    """
    every_step = any(weights[:-1])
    inner_lr, query = model.settings[episodes.support.shape[1]], torch.from_numpy(episodes.query)
    logits = next(personal_heads(model.head, [inner_lr], batch_of(task, episodes), second, every_step,
                                 keep)).query_logits()
    if not every_step:
        return query_loss(task, logits, query, f1_share)
    return sum((weight * query_loss(task, of_step, query, f1_share) for weight, of_step in zip(weights, logits[1:])),
               start=logits.new_zeros(()))


def reptile_gradient(task: Task, model: GradientModel, episodes: Episodes) -> Head:
    """From the mean of the adapted weights to the shared weights; all clips of an episode are its support.

    Source: Reptile (arXiv 1803.02999), algorithm 2.
    """
    ratings = np.concatenate(episodes, 1)
    batch = batch_of(task, Episodes(ratings, ratings[:, :0]))
    with torch.no_grad():
        personal = model.weights(batch, model.settings[episodes.support.shape[1]])
        return Head(*(shared - adapted.mean(0) for shared, adapted in zip(model.head, personal)))


def metatrain(task: Task, start: Head, inner_lr: Tensor, method: Maml, dev: Draws, seed: int,
              others: dict[int, Head] | None = None) -> tuple[GradientModel, list[dict[str, Any]]]:
    """Meta-train from a head. Returns the best model on the dev listeners and the history, one row per epoch.

    Epoch 0 is the start itself. inner_lr (steps, tensors) is zero for tensors that do not adapt; it is learnt with
    lslr or per_weight_lr. Each outer step draws one of the dev draws' numbers of shots, among those that training
    listeners have, so that one initialisation serves all of them. others: session -> SSL-E trained without it. A share
    `method.crossfit` of the outer steps takes the clips of one such session and applies what has been learnt so far to
    that head: as on unseen clips, the head has not been trained on the clips.
    """
    shots, split = tuple(sorted({k for _, k in dev})), task.split
    source, *held_out = _sources(task, start, others or {}, method, shots, seed)
    learnt = {name: tensor.requires_grad_() for name, tensor in _initial(start, inner_lr, method).items()}
    mean = {name: tensor.detach().clone() for name, tensor in learnt.items()}
    optimiser, schedule = _optimiser(learnt, method)
    best, kept, history = -np.inf, None, list[dict[str, float]]()
    for epoch in range(method.epochs + 1):
        model = _model({name: tensor.clone() for name, tensor in mean.items()}, inner_lr, shots)
        f1, loss = dev_score(task, model, dev, method.soft_f1)
        history.append({"epoch": epoch, "dev_f1": f1, "dev_loss": loss})
        score = {"loss": -loss, "f1": f1, "last": epoch}[method.early_stopping]
        if kept is None or score > best:
            best, kept = score, model._replace(epoch=epoch)
        for step in range(method.outer_steps_per_epoch if epoch < method.epochs else 0):
            draw = seeds.rng(seed, "episodes", split.fold, split.group, epoch, step)
            crossed = draw.random() < method.crossfit and held_out
            change, pools, queries = held_out[draw.integers(len(held_out))] if crossed else source
            k = int(draw.choice(list(queries)))
            episodes = train_episodes(pools, method.csmt, k, queries[k], method.meta_batch_size, draw)
            optimiser.zero_grad()
            _set_outer_gradient(task, _model(learnt, inner_lr, shots, change), method, episodes, epoch, draw)
            torch.nn.utils.clip_grad_norm_([t for t in learnt.values() if t.grad is not None], method.grad_clip)
            optimiser.step()
            schedule.step()
            for name, average in mean.items():
                average.lerp_(learnt[name].detach(), 1 - method.ema_decay)
    assert kept is not None
    losses = [row["dev_loss"] for row in history]
    return kept._replace(dev_losses=(losses[0], max(losses), losses[kept.epoch or 0])), history


def _optimiser(learnt: dict[str, Tensor],
               method: Maml) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.LRScheduler]:
    optimiser = torch.optim.Adam(
        [{"params": [learnt[name] for name in TENSORS], "lr": method.outer_lr},
         {"params": [tensor for name, tensor in learnt.items() if name not in TENSORS], "lr": method.lslr_lr}])
    outer_steps = max(1, method.epochs * method.outer_steps_per_epoch)
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, outer_steps)


class _Source(NamedTuple):
    """Where training episodes come from: a constant added to the head, pools, and query clips by number of shots."""

    change: Head | None
    pools: Pools
    queries: dict[int, int]


def _sources(task: Task, start: Head, others: dict[int, Head], method: Maml, shots: tuple[int, ...],
             seed: int) -> list[_Source]:
    """All training sessions, then each one that SSL-E was trained without, if it has episodes.

    Raises UserError when the training listeners have too few ratings for any episode.
    """
    data, train = task.data, task.split.train
    session, sources = data.session[data.clip[train]], []
    heads_of: list[tuple[int | None, Head]] = [(None, start), *others.items()]
    for name, head in heads_of:
        part = train if name is None else train[session == name]
        pools = training_pools(data, part, method.csmt, max(shots), method.query, seed)
        sizes = {k: query_size(pools, method.csmt, k, method.query) for k in shots}
        queries = {k: size for k, size in sizes.items() if size}
        change = None if name is None else Head(*(without - whole for without, whole in zip(head, start)))
        if queries:
            sources.append(_Source(change, pools, queries))
        elif name is None:
            remedy = f"--set shots=[{pools.least // 2}]" if pools.least > 1 else "leave methods of kind maml out"
            raise UserError(f"fold {task.split.fold}: training listeners have {pools.least} ratings, too few for a "
                            f"training episode of {min(shots)} shots and a query: {remedy}")
    return sources


def _initial(start: Head, inner_lr: Tensor, method: Maml) -> dict[str, Tensor]:
    """All that meta-training learns, at its start."""
    learnt = {name: tensor.detach().clone() for name, tensor in start._asdict().items()}
    if method.lslr:
        learnt["log_lr" if method.lslr_log else "inner_lr"] = (
            torch.zeros_like(inner_lr) if method.lslr_log else inner_lr.clone())
    if method.lr_by_shots:  # the loss is a mean over the shots, so more shots may deserve larger steps
        learnt["power"] = torch.zeros(())
    if method.per_weight_lr:
        learnt |= {f"inner_lr.{name}": torch.full_like(tensor, float(lr))
                   for (name, tensor), lr in zip(start._asdict().items(), inner_lr[0])}
    return learnt


def _model(learnt: dict[str, Tensor], fixed: Tensor, shots: tuple[int, ...],
           change: Head | None = None) -> GradientModel:
    """Build a model from the current meta-parameters.

    Inner learning rates that are not learnt keep `fixed`; those that are zero stay exactly zero, even if training
    diverged. change: a constant added to the head.
    """
    adapts, zero = fixed != 0, fixed.new_zeros(())
    inner_lr = torch.where(adapts, learnt["inner_lr"], zero) if "inner_lr" in learnt else fixed
    inner_lr = torch.where(adapts, fixed * learnt["log_lr"].exp(), zero) if "log_lr" in learnt else inner_lr
    settings: dict[int, Tensor | Head] = dict.fromkeys(shots, inner_lr)
    if "inner_lr.P" in learnt:
        settings = dict.fromkeys(shots, Head(*(
            torch.where(on, learnt[f"inner_lr.{name}"], zero).expand(len(fixed), *learnt[name].shape)
            for name, on in zip(TENSORS, adapts[0]))))
    head = Head(*(learnt[name] for name in TENSORS))
    head = head if change is None else Head(*(tensor + by for tensor, by in zip(head, change)))
    if "power" in learnt:
        middle = math.exp(sum(map(math.log, shots)) / len(shots))
        settings = {k: torch.where(adapts, inner_lr * (k / middle) ** learnt["power"], zero) for k in shots}
    return GradientModel(head, settings)


def _set_outer_gradient(task: Task, model: GradientModel, method: Maml, episodes: Episodes, epoch: int,
                        draw: np.random.Generator) -> None:
    """Leave the outer gradient of one step in the tensors' `grad`."""
    if method.rule == "reptile":
        for tensor, slope in zip(model.head, reptile_gradient(task, model, episodes)):
            tensor.grad = slope
        return
    kept = draw.random(task.data.features.shape[-1]) >= method.dropout
    keep = torch.from_numpy(kept).float() / (1 - method.dropout) if method.dropout else None
    outer_loss(task, model, episodes, second_order(epoch, method.epochs, method.anneal),
               step_weights(epoch, method.epochs, method.msl, method.inner_steps), method.soft_f1, keep).backward()
