"""The aggregated model SSL-E, and what adapts it without meta-training."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perser import head as heads
from perser import seeds
from perser.config import Base
from perser.episodes import Data, Episodes, aggregate, rating_targets
from perser.evaluate import Learner, dev_score
from perser.head import Head
from perser.losses import class_balanced_weights, cross_entropy
from perser.splits import Split


class Material(NamedTuple):
    """What every method of one split sees: features as the head reads them, rating targets, class weights.

    targets (R, C) smoothed; class_weights (C,); mean, scale (L, D): how the features were standardised.
    """

    data: Data
    split: Split
    targets: Tensor
    class_weights: Tensor
    mean: Tensor
    scale: Tensor


def material(data: Data, split: Split, base: Base, standardise: bool) -> Material:
    """Targets, class weights and standardised features, all estimated on the training part of the split."""
    clips, targets = aggregate(data, split.train, base.smoothing)
    shape = data.features.shape[1:]
    mean, scale = torch.zeros(shape), torch.ones(shape)
    if standardise:
        train = data.features[torch.from_numpy(clips)]
        mean, scale = train.mean(0), train.std(0).clamp(min=1e-6)
        data = data._replace(features=(data.features - mean) / scale)
    weights = class_balanced_weights(targets) if base.weights else torch.ones(len(data.classes))
    return Material(data, split, rating_targets(data.labels, base.smoothing), weights, mean, scale)


def _labelled(material: Material, pool, base: Base) -> tuple[Tensor, Tensor]:
    """Features (n, L, D) and targets (n, C) of a pool: clips with vote shares, or every single rating."""
    if base.targets == "pooled":
        return material.data.features[material.data.clip[pool]], material.targets[pool]
    clips, targets = aggregate(material.data, pool, base.smoothing)
    return material.data.features[torch.from_numpy(clips)], targets


def train_base(material: Material, base: Base, seed: int) -> Head:
    """SSL-E: the head trained on the training listeners' aggregate, kept at the lowest dev loss.

    Source: EMO-SUPERB (arXiv 2402.13018): AdamW, batches of 32, gradient norm at most 1, 40 epochs.
    """
    features, targets = _labelled(material, material.split.train, base)
    dev_features, dev_targets = _labelled(material, material.split.base_dev, base)
    _, layers, width = features.shape
    head = heads.trainable(heads.init(layers, width, base.hidden, targets.shape[1],
                                      seeds.generator(seed, "init", material.split.fold)))
    optimiser = torch.optim.AdamW(head, lr=base.rate, fused=True)
    order = seeds.generator(seed, "batches", material.split.fold)
    best, kept = float("inf"), heads.detached(head)
    for epoch in range(base.epochs + 1):
        with torch.no_grad():
            loss = float(cross_entropy(heads.logits(head, dev_features), dev_targets, material.class_weights))
        if loss < best:
            best, kept = loss, heads.detached(head)
        if epoch < base.epochs:
            for batch in torch.randperm(len(features), generator=order).split(base.batch):
                optimiser.zero_grad()
                cross_entropy(heads.logits(head, features[batch]), targets[batch], material.class_weights).backward()
                torch.nn.utils.clip_grad_norm_(head, base.clip)
                optimiser.step()
    return kept


def choose_rates(material: Material, head: Head, grid: list[Tensor], dev: dict[tuple[int, int], Episodes],
                 per_shots: bool) -> dict[int, Tensor]:
    """For each number of shots the rates (steps, tensors) of the grid with the highest dev macro F1.

    per_shots False asks for one choice that serves every number of shots best on average. Ties: the first.
    """
    every = tuple(sorted({shots for _, shots in dev}))
    asked = [(k,) for k in every] if per_shots else [every]
    chosen = {}
    for shots in asked:
        episodes = {key: batch for key, batch in dev.items() if key[1] in shots}
        scores = [dev_score(material.data, material.targets, material.class_weights,
                            Learner(head, dict.fromkeys(shots, rates)), episodes)[0] for rates in grid]
        chosen |= dict.fromkeys(shots, grid[int(np.nanargmax(scores))])
    return chosen
