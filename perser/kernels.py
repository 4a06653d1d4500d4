"""Products of features that the exact inner loop needs, with backward passes written by hand.

`mix` reads the layers once forward and once backward. `products` reduces clips to the inner products that the inner
loop (perser.adapt) works on. Every clip is mixed and projected once, however many episodes share it.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

BLOCK = 1 << 22  # numbers gathered at a time when products are formed: about the size of a processor's last cache


def mix(weights: Tensor, features: Tensor, clips: Tensor) -> Tensor:
    """Weighted sums of the layers of chosen clips: weights (L,), features (N, L, D), clips (U,) -> (U, D)."""
    _, layers, width = features.shape
    rows = clips.unsqueeze(-1) * layers + torch.arange(layers, device=clips.device)
    return functional.embedding_bag(rows, features.reshape(-1, width), mode="sum",
                                    per_sample_weights=weights.expand(len(clips), layers).contiguous())


def _take(table: Tensor, rows: Tensor) -> Tensor:
    """Rows of a matrix: (N, D), (E, R) -> (E, R, D)."""
    return table.index_select(0, rows.flatten()).view(*rows.shape, table.shape[1])


def _put(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """The transpose of `_take`, values summed by row: (E, R, D), (E, R) -> (count, D)."""
    return values.new_zeros(count, values.shape[-1]).index_add_(0, rows.flatten(), values.flatten(0, 1))


def _kept(blocks: Iterator[tuple[Tensor, Tensor]], context: Any) -> Iterable[tuple[Tensor, Tensor]]:
    """Blocks of gathered clips: kept for the backward pass if there will be one, else formed one at a time."""
    return list(blocks) if any(context.needs_input_grad) else blocks


class _Unprojected(Function):
    """`products` without projecting the query.

    With h = P x + b of the support and v = P^T h, h_i . h_j = x_i . v_j + b . h_j: a pair of clips takes one product
    against [x; v] of the support.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, P: Tensor, b: Tensor, A: Tensor, support: Tensor, query: Tensor, count: int,
                second_order: bool) -> tuple[Tensor, ...]:
        """Form the products; the first `count` rows of x belong to the support."""
        h = torch.addmm(b, x[:count], P.T)
        right = torch.cat([x[:count], h @ P])
        rows, columns = torch.cat([support, query], 1), torch.cat([support, support + count], 1)
        AP, block = A @ P, max(1, BLOCK // (rows.shape[1] * x.shape[1]))
        gathered = _kept(((_take(x, i), _take(right, j)) for i, j in zip(rows.split(block), columns.split(block))),
                         context)
        pairs = torch.cat([near @ far.mT for near, far in gathered])
        gram, hidden_gram = pairs.split(support.shape[1], -1)  # (E, K + Q, K) each
        hidden_gram = hidden_gram + _take((h @ b).unsqueeze(-1), support).mT
        classes = torch.cat([_take(h @ A.T, support), _take(torch.addmm(A @ b, x, AP.T), query)], 1)
        context.save_for_backward(x, P, b, A, h, AP, rows, columns, *chain(*gathered))
        context.rest = support.shape[1], count, block, second_order
        return gram, hidden_gram, classes

    @staticmethod
    @once_differentiable
    def backward(context: Any, gram: Tensor, hidden_gram: Tensor, classes: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, P, b and A from those of the three products."""
        x, P, b, A, h, AP, rows, columns, *gathered = context.saved_tensors
        shots, count, block, second_order = context.rest
        support, query = rows[:, :shots], rows[:, shots:]
        to_z, to_near = _put(classes[:, shots:], query, len(x)), _put(classes[:, :shots], support, count)
        to_c = _put(hidden_gram.sum(1).unsqueeze(-1), support, count).squeeze(-1)
        to_x, to_right, to_AP, to_Ab = to_z @ AP, x.new_zeros(2 * count, x.shape[1]), to_z.T @ x, to_z.sum(0)
        grams = torch.cat([gram, hidden_gram], -1).split(block)
        blocks = zip(rows.split(block), columns.split(block), grams, gathered[::2], gathered[1::2])
        for i, j, pairs, near, far in blocks:
            to_x.index_add_(0, i.flatten(), (pairs @ far).flatten(0, 1))
            to_right.index_add_(0, j.flatten(), (pairs.mT @ near).flatten(0, 1))
        to_v = to_right[count:]
        to_P = torch.addmm(A.T @ to_AP, h.T, to_v)
        to_b = to_c @ h + to_Ab @ A
        to_A = torch.addmm(torch.outer(to_Ab, b), to_AP, P.T) + to_near.T @ h
        if second_order:
            to_h = torch.addmm(torch.outer(to_c, b), to_v, P.T).addmm_(to_near, A)
            to_x[:count].add_(to_right[:count]).addmm_(to_h, P)
            to_P.addmm_(to_h.T, x[:count])
            to_b += to_h.sum(0)
        return to_x, to_P, to_b, to_A, None, None, None, None


class _Projected(Function):
    """`products` with every clip projected, the query too."""

    @staticmethod
    def forward(context: Any, x: Tensor, P: Tensor, b: Tensor, A: Tensor, support: Tensor, query: Tensor, count: int,
                second_order: bool) -> tuple[Tensor, ...]:
        """Form the products; the first `count` rows of x belong to the support."""
        h, shots, rows = torch.addmm(b, x, P.T), support.shape[1], torch.cat([support, query], 1)
        block = max(1, BLOCK // (rows.shape[1] * x.shape[1]))
        gathered = _kept(((_take(x, i), _take(h, i)) for i in rows.split(block)), context)
        gram, hidden_gram = map(torch.cat, zip(*([clips @ clips[:, :shots].mT for clips in pair] for pair in gathered)))
        context.save_for_backward(x, P, A, h, rows, *chain(*gathered))
        context.rest = shots, block, second_order
        return gram, hidden_gram, _take(h @ A.T, rows)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gram: Tensor, hidden_gram: Tensor, classes: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, P, b and A from those of the three products."""
        x, P, A, h, rows, *gathered = context.saved_tensors
        shots, block, second_order = context.rest
        to_x, to_h = torch.zeros_like(x), torch.zeros_like(h)
        for to, pairs, clips in (to_x, gram, gathered[::2]), (to_h, hidden_gram, gathered[1::2]):
            for i, grams, both in zip(rows.split(block), pairs.split(block), clips, strict=True):
                to.index_add_(0, i[:, shots:].flatten(), (grams[:, shots:] @ both[:, :shots]).flatten(0, 1))
                if second_order:  # the gradient of a pair reaches both of its clips
                    to_support = grams.mT.clone()
                    to_support[..., :shots] += grams[:, :shots]
                    to.index_add_(0, i[:, :shots].flatten(), (to_support @ both).flatten(0, 1))
        to_z = _put(classes, rows, len(x))
        to_A = to_z.T @ h
        to_h.addmm_(to_z if second_order else _put(classes[:, shots:], rows[:, shots:], len(x)), A)
        return to_x.addmm_(to_h, P), to_h.T @ x, to_h.sum(0), to_A, None, None, None, None


def products(x: Tensor, P: Tensor, b: Tensor, A: Tensor, support: Tensor, query: Tensor, count: int,
             second_order: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products of an episode's clips (support, then query) with its support and with the classes.

    x (U, D): clips, the first `count` of which occur in a support; support (E, K), query (E, Q): rows of x. Returns
    x . x_support (E, K + Q, K), h . h_support (E, K + Q, K) and h . A (E, K + Q, C), where h = P x + b. With
    second_order False the support's x and h are constants.
    """
    query_dominates = len(x) > 2 * count  # otherwise forming v costs as much as projecting the query
    apply: Callable[..., Any] = (_Unprojected if query_dominates else _Projected).apply
    return apply(x, P, b, A, support, query, count, second_order)
