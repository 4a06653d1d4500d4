"""What every method of one split sees: standardised features, targets, class weights."""

from typing import NamedTuple

import torch
from torch import Tensor

from perser.config import Base
from perser.episodes import Data, aggregate, rating_targets
from perser.losses import class_balanced_weights
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
