"""The downstream model: a softmax-weighted sum of layers, then two linear maps, no non-linearity."""

from typing import NamedTuple

import torch
from torch import Tensor

from perser.kernels import mix


class Head(NamedTuple):
    """The trained tensors, in the order of every rate vector.

    mix (L,): logits of the layer weights; P (H, D), b (H,): first linear map; A (C, H), a (C,): second.
    """

    mix: Tensor
    P: Tensor
    b: Tensor
    A: Tensor
    a: Tensor


TENSORS = Head._fields


def init(layers: int, width: int, hidden: int, classes: int, generator: torch.Generator) -> Head:
    """A fresh head: layer weights equal, linear maps uniform within 1/sqrt(fan-in) (torch.nn.Linear's rule)."""

    def uniform(fan_in, *shape):
        return (torch.rand(*shape, generator=generator) * 2 - 1) / fan_in**0.5

    return Head(
        mix=torch.zeros(layers),
        P=uniform(width, hidden, width),
        b=uniform(width, hidden),
        A=uniform(hidden, classes, hidden),
        a=uniform(hidden, classes),
    )


def mixed(head: Head, features: Tensor, clips: Tensor | None = None) -> Tensor:
    """Layer-weighted features: (..., L, D) -> (..., D); with clips (U,) those rows of features (N, L, D)."""
    if features.shape[-2] == 1:
        return (features if clips is None else features.index_select(0, clips).to(head.P.dtype)).squeeze(-2)
    if clips is None:
        return torch.einsum("l,...ld->...d", head.mix.softmax(0), features)
    return mix(head.mix.softmax(0), features, clips)


def hidden(head: Head, features: Tensor) -> Tensor:
    """Values between the two linear maps: (..., L, D) -> (..., H)."""
    return mixed(head, features) @ head.P.T + head.b


def logits(head: Head, features: Tensor) -> Tensor:
    """Class logits of pooled features: (..., L, D) -> (..., C). Source: EMO-SUPERB downstream model."""
    return hidden(head, features) @ head.A.T + head.a


def predict(logits: Tensor) -> Tensor:
    """The predicted set of classes, those with softmax above 1/C: (..., C) -> (..., C) bool."""
    return logits.softmax(-1) > 1 / logits.shape[-1]


def trainable(head: Head) -> Head:
    """A detached copy whose tensors ask for gradients."""
    return Head(*(tensor.detach().clone().requires_grad_() for tensor in head))


def detached(head: Head) -> Head:
    """The same values without a graph."""
    return Head(*(tensor.detach().clone() for tensor in head))
