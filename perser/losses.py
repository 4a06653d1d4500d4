"""Targets and the class-balanced soft-target cross entropy of the base system."""

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
