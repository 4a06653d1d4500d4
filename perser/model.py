"""The downstream model and its losses: a softmax-weighted sum of layers, then two linear maps, no non-linearity."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from perser.kernels import mix


class Head(NamedTuple):
    """The trained tensors, in the order of every row of inner learning rates.

    mix (L,): logits of the layer weights; P (H, D), b (H,): first linear map; A (C, H), a (C,): second.
    """

    mix: Tensor
    P: Tensor
    b: Tensor
    A: Tensor
    a: Tensor


TENSORS = Head._fields


def init(layers: int, width: int, hidden: int, classes: int, generator: torch.Generator) -> Head:
    """A fresh head: equal layer weights, linear maps uniform within 1/sqrt(fan-in) (torch.nn.Linear's rule)."""

    def uniform(fan_in: int, *shape: int) -> Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1) / fan_in**0.5

    return Head(
        mix=torch.zeros(layers),
        P=uniform(width, hidden, width),
        b=uniform(width, hidden),
        A=uniform(hidden, classes, hidden),
        a=uniform(hidden, classes),
    )


def mixed(head: Head, features: Tensor, clips: Tensor | None = None) -> Tensor:
    """Layer-weighted features: (..., L, D) -> (..., D). With `clips` (U,), those rows of features (N, L, D)."""
    if features.shape[-2] == 1:
        return (features if clips is None else features.index_select(0, clips)).squeeze(-2)
    if clips is None:
        return torch.einsum("l,...ld->...d", head.mix.softmax(0), features)
    return mix(head.mix.softmax(0), features, clips)


def hidden(head: Head, features: Tensor) -> Tensor:
    """Values between the two linear maps: (..., L, D) -> (..., H)."""
    return mixed(head, features) @ head.P.T + head.b


def logits(head: Head, features: Tensor) -> Tensor:
    """Class logits of pooled features: (..., L, D) -> (..., C). Source: EMO-SUPERB's downstream model."""
    return hidden(head, features) @ head.A.T + head.a


def predict(logits: Tensor) -> Tensor:
    """The predicted set of classes, those with softmax above 1/C: (..., C) -> (..., C) bool."""
    return logits.softmax(-1) > 1 / logits.shape[-1]


def trainable(head: Head) -> Head:
    """A detached copy whose tensors require gradients."""
    return Head(*(tensor.detach().clone().requires_grad_() for tensor in head))


def detached(head: Head) -> Head:
    """A copy of the values without a graph."""
    return Head(*(tensor.detach().clone() for tensor in head))


def class_balanced_weights(targets: Tensor | Sequence[Sequence[float]]) -> Tensor:
    """Weight of each class from its effective number of positives, scaled to sum to the number of classes.

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
    """Vote shares (..., C) moved towards the other classes: p(1-e) + (1-p)e/(C-1). Source: EMO-SUPERB."""
    return shares * (1 - smoothing) + (1 - shares) * smoothing / (shares.shape[-1] - 1)


def clip_weights(targets: Tensor, class_weights: Tensor) -> Tensor:
    """Weight of each clip, the sum over classes of class weight times target: (..., C) -> (...)."""
    return targets @ class_weights


def cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor) -> Tensor:
    """Soft-target softmax cross entropy, weighted per clip, mean over clips. Source: EMO-SUPERB.

    logits, targets: (..., N, C); class_weights: (C,). Returns (...,).
    """
    per_clip = -(targets * logits.log_softmax(-1)).sum(-1)
    return (per_clip * clip_weights(targets, class_weights)).mean(-1)


def soft_f1(logits: Tensor, labels: Tensor, softness: float = 0.5) -> Tensor:
    """A differentiable macro F1 of the rule softmax > 1/C, pooled over all clips: a scalar in 0..1.

    logits, labels: (..., C). A class counts as predicted to the degree sigmoid(log(C softmax) / softness), which is
    one half at the rule's threshold. Classes that nobody ticked are left out.
    """
    labels = labels.to(logits.dtype).flatten(0, -2)
    predicted = ((logits.log_softmax(-1) + math.log(logits.shape[-1])) / softness).sigmoid().flatten(0, -2)
    ticked = labels.sum(0)
    f1 = 2 * (predicted * labels).sum(0) / (predicted.sum(0) + ticked)
    return f1[ticked > 0].mean()
