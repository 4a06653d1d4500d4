"""Targets and the class-balanced soft-target cross entropy of the base system."""

import math

import torch
from torch import Tensor


def class_balanced_weights(targets) -> Tensor:
    """Weight of each class from its effective number of positives, scaled to sum to the class count.

    targets: (N, C) float, one distribution per clip. A class is positive where its target exceeds 1/C.
    With n_c positives and beta = (N - 1)/N, w_c is proportional to (1 - beta) / (1 - beta^n_c).
    A class without positives gets the weight of a class with one.
    Returns (C,) float. Raises ValueError when targets is not a non-empty matrix.
    Source: EMO-SUPERB (arXiv 2402.13018), which follows Cui et al. 2019 (arXiv 1901.05555), eq. 4.
    """
    targets = torch.as_tensor(targets)
    if targets.ndim != 2 or targets.numel() == 0:
        raise ValueError(f"targets must be a non-empty (clips, classes) matrix, not {tuple(targets.shape)}")
    count, classes = targets.shape
    positives = (targets > 1 / classes).sum(0).clamp(min=1).double()
    beta = (count - 1) / count
    weights = (1 - beta) / (1 - beta**positives)
    dtype = targets.dtype if targets.is_floating_point() else torch.get_default_dtype()
    return (weights * classes / weights.sum()).to(dtype)


def smooth(shares: Tensor, smoothing: float) -> Tensor:
    """Vote shares (..., C) moved towards the other classes: p(1-e) + (1-p)e/(C-1); source: EMO-SUPERB."""
    return shares * (1 - smoothing) + (1 - shares) * smoothing / (shares.shape[-1] - 1)


def clip_weights(targets: Tensor, class_weights: Tensor) -> Tensor:
    """Weight of each clip, the sum over classes of class weight times target: (..., C) -> (...)."""
    return targets @ class_weights


def cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor) -> Tensor:
    """Soft-target softmax cross entropy, weighted per clip, mean over clips; source: EMO-SUPERB.

    logits, targets: (..., N, C); class_weights: (C,). Returns (...,).
    """
    per_clip = -(targets * logits.log_softmax(-1)).sum(-1)
    return (per_clip * clip_weights(targets, class_weights)).mean(-1)


def soft_f1(logits: Tensor, labels: Tensor, softness: float = 0.5) -> Tensor:
    """A differentiable macro F1 of the rule softmax > 1/C, pooled over every clip: a scalar in 0..1.

    logits, labels: (..., C). A class counts as predicted to the degree sigmoid(log(C softmax) / softness), so the
    rule's threshold is one half; classes that nobody ticked are left out.
    """
    wanted = labels.to(logits.dtype).flatten(0, -2)
    predicted = ((logits.log_softmax(-1) + math.log(logits.shape[-1])) / softness).sigmoid().flatten(0, -2)
    ticked = wanted.sum(0)
    f1 = 2 * (predicted * wanted).sum(0) / (predicted.sum(0) + ticked)
    return f1[ticked > 0].mean()
