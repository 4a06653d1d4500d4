"""What the exact engine does with features, each with its backward pass written by hand.

`mix` reads the layers once forward and once backward. `products` reduces clips to the inner products that the
descent (perser.descend) needs, one episode's clips beside each other but each clip mixed and projected once.
"""

import ctypes
from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

BLOCK = 1 << 22  # numbers gathered at a time when products are formed: what a processor's last cache holds

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of mallopt(3)


def prepare(threads: int) -> None:
    """Let this process compute with so many threads, and keep the memory that it frees.

    glibc gives blocks of a few MiB back at once, and the next outer step waits for the same pages anew: thousands of
    faults a step, a tenth of its time. Blocks above 32 MiB, its largest threshold, still go back.
    """
    torch.set_num_threads(threads)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(TRIM_THRESHOLD, (1 << 31) - 1)


def mix(weights: Tensor, features: Tensor, clips: Tensor) -> Tensor:
    """Weighted sums of the layers of chosen clips: weights (L,), features (N, L, D), clips (U,) -> (U, D).

    Features may be stored in half precision; the sums are then rounded to it too. The power of two keeps their
    gradients, of the order of one over the number of queries, above the smallest half.
    """
    _, layers, width = features.shape
    table, scale = features.reshape(-1, width), 1 if features.dtype == weights.dtype else 256
    each = (weights / scale).to(features.dtype).expand(len(clips), layers).contiguous()
    rows = clips.unsqueeze(-1) * layers + torch.arange(layers, device=clips.device)
    if scale == 1:
        return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=each)
    parts = zip(rows.split(BLOCK // width), each.split(BLOCK // width), strict=True)
    return torch.cat([functional.embedding_bag(row, table, mode="sum", per_sample_weights=one).to(weights.dtype) * scale
                      for row, one in parts])


def _take(table: Tensor, rows: Tensor) -> Tensor:
    """Rows of a matrix: (N, D), (E, R) -> (E, R, D)."""
    return table.index_select(0, rows.flatten()).view(*rows.shape, table.shape[1])


def _put(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """The transpose of `_take`, values summed by row: (E, R, D), (E, R) -> (count, D)."""
    return values.new_zeros(count, values.shape[-1]).index_add_(0, rows.flatten(), values.flatten(0, 1))


def _kept(gathered: Iterator[tuple[Tensor, Tensor]], context) -> Iterable[tuple[Tensor, Tensor]]:
    """Blocks of clips that a backward pass will want again; without one they come and go one after the other."""
    return list(gathered) if any(context.needs_input_grad) else gathered


class _Products(Function):
    """See `products`. With h = P x + b of the support and v = P^T h, every h_i . h_j = x_i . v_j + b . h_j.

    So no query clip is projected, and what a pair of clips needs is one product against [x; v] of the support.
    """

    @staticmethod
    def forward(context, x, P, b, A, support, query, count, second_order):
        """The products; `count` rows of x belong to the support."""
        h = torch.addmm(b, x[:count], P.T)
        right = torch.cat([x[:count], h @ P])
        rows, columns = torch.cat([support, query], 1), torch.cat([support, support + count], 1)
        AP, block = A @ P, max(1, BLOCK // (rows.shape[1] * x.shape[1]))
        gathered = _kept(((_take(x, i), _take(right, j)) for i, j in zip(rows.split(block), columns.split(block))),
                         context)
        pairs = torch.cat([near @ far.mT for near, far in gathered])
        gram, own = pairs.split(support.shape[1], -1)  # (E, K + Q, K) each
        own = own + _take((h @ b).unsqueeze(-1), support).mT
        classes = torch.cat([_take(h @ A.T, support), _take(torch.addmm(A @ b, x, AP.T), query)], 1)
        context.save_for_backward(x, P, b, A, h, AP, rows, columns, *chain(*gathered))
        context.rest = support.shape[1], count, block, second_order
        return gram, own, classes

    @staticmethod
    @once_differentiable
    def backward(context, gram, own, classes):
        """Gradients of x, P, b, A from those of the three products."""
        x, P, b, A, h, AP, rows, columns, *gathered = context.saved_tensors
        shots, count, block, second_order = context.rest
        support, query = rows[:, :shots], rows[:, shots:]
        to_z, to_near = _put(classes[:, shots:], query, len(x)), _put(classes[:, :shots], support, count)
        to_c = _put(own.sum(1).unsqueeze(-1), support, count).squeeze(-1)
        to_x, to_right, to_AP, to_Ab = to_z @ AP, x.new_zeros(2 * count, x.shape[1]), to_z.T @ x, to_z.sum(0)
        for i, j, pairs, near, far in zip(rows.split(block), columns.split(block),
                                          torch.cat([gram, own], -1).split(block), gathered[::2], gathered[1::2]):
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
    """See `products`. Every clip is projected, queries too."""

    @staticmethod
    def forward(context, x, P, b, A, support, query, count, second_order):
        """The products; `count` rows of x belong to the support."""
        h, shots, rows = torch.addmm(b, x, P.T), support.shape[1], torch.cat([support, query], 1)
        block = max(1, BLOCK // (rows.shape[1] * x.shape[1]))
        gathered = _kept(((_take(x, i), _take(h, i)) for i in rows.split(block)), context)
        gram, own = map(torch.cat, zip(*([each @ each[:, :shots].mT for each in both] for both in gathered)))
        context.save_for_backward(x, P, A, h, rows, *chain(*gathered))
        context.rest = shots, block, second_order
        return gram, own, _take(h @ A.T, rows)

    @staticmethod
    @once_differentiable
    def backward(context, gram, own, classes):
        """Gradients of x, P, b, A from those of the three products."""
        x, P, A, h, rows, *gathered = context.saved_tensors
        shots, block, second_order = context.rest
        to_x, to_h = torch.zeros_like(x), torch.zeros_like(h)
        for to, pairs, clips in (to_x, gram, gathered[::2]), (to_h, own, gathered[1::2]):
            if second_order:  # what a pair gives reaches both of its clips
                one_way = pairs
                pairs = functional.pad(one_way, (0, rows.shape[1] - shots))
                pairs[:, :shots] += one_way.mT
            for i, given, each in zip(rows.split(block), pairs.split(block), clips, strict=True):
                to.index_add_(0, i.flatten(), (given @ each[:, :given.shape[2]]).flatten(0, 1))
        to_z = _put(classes, rows, len(x))
        to_A = to_z.T @ h
        to_h.addmm_(to_z if second_order else _put(classes[:, shots:], rows[:, shots:], len(x)), A)
        return to_x.addmm_(to_h, P), to_h.T @ x, to_h.sum(0), to_A, None, None, None, None


def products(x: Tensor, P: Tensor, b: Tensor, A: Tensor, support: Tensor, query: Tensor, count: int,
             second_order: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What clips of an episode, its support and then its query, give with the support and with the classes.

    x (U, D): clips, the first `count` those of the support; support (E, K), query (E, Q): rows of x. Returns
    x . x_support (E, K + Q, K), h . h_support (E, K + Q, K) and h . A (E, K + Q, C), where h = P x + b. In first
    order the support's x and h are constants.
    """
    few = len(x) > 2 * count  # else to form v costs as much as to project the support once more
    return (_Products if few else _Projected).apply(x, P, b, A, support, query, count, second_order)
