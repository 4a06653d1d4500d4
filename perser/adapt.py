"""The inner loop: gradient descent from one shared head to many personal heads at once, with exact gradients.

Descent on the two linear maps stays in the span of what the support holds: the gradient of P is a sum over support
clips, so P_t x = P x - sum_k d_k (x_k . x), and d_k, the bias, the rows of A and the hidden values all lie in the span
of the basis B = [A; h] (the C rows of A and the K hidden values before the first step). The loop therefore works on
coefficients of B, and a step costs O(K^2 (C + K)) whatever the widths D and H. Steps that leave the span (a learning
rate per weight, layer weights that adapt, a support too large for its pairwise products) update the weights themselves.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perser.episodes import Batch
from perser.kernels import products
from perser.model import TENSORS, Head, clip_weights, mixed

LARGEST_SUPPORT = 1024  # above this, pairwise products of the support cost more than updating the weights


def constant_lr(lr: float, steps: int, adapts: tuple[str, ...] = ("P", "b", "A", "a")) -> Tensor:
    """One inner learning rate at every step for the tensors that adapt, zero for the others: (steps, tensors)."""
    return torch.tensor([[lr if name in adapts else 0.0 for name in TENSORS]]).repeat(steps, 1)


def personal_heads(head: Head, inner_lrs: Iterable[Tensor | Head], batch: Batch, second_order: bool = False,
                   every_step: bool = False, keep: Tensor | None = None) -> Iterator["SpanHeads | WeightHeads"]:
    """Adapt a head to the support of every episode of a batch, once for each setting of the inner learning rates.

    inner_lrs: each (steps, tensors) in the order of TENSORS, or a Head of (steps, *shape) for one learning rate per
    weight. second_order: differentiate through the inner gradients too. every_step: also keep the heads before the
    first step and after each one, in a leading dimension (steps + 1). keep (D,): factors on the features.
    Products of clips are formed once for all settings. Differentiable in the head, the features and the learning rates.
    Source: MAML (arXiv 1703.03400), eq. 1; per-layer per-step learning rates: MAML++ (arXiv 1810.09502), section 4.
    """
    inner_lrs = list(inner_lrs)
    if not all(_in_span(inner_lr, batch) for inner_lr in inner_lrs):
        assert keep is None, "factors on the features need inner learning rates per tensor"
        for inner_lr in inner_lrs:
            yield WeightHeads(batch, _last(descend_weights(head, inner_lr, batch, second_order), every_step))
        return
    x = mixed(head, batch.features, batch.clips)
    inner = _inner_products(head, x if keep is None else x * keep, batch, second_order)
    for inner_lr in inner_lrs:
        states = _descend(inner, head.a, inner_lr, second_order, every_step)
        yield SpanHeads(head, batch, inner, *_last(states, every_step))


def _in_span(inner_lr: Tensor | Head, batch: Batch) -> bool:
    return (not isinstance(inner_lr, Head) and not inner_lr[:, 0].any() and batch.targets.shape[1] <= LARGEST_SUPPORT)


def _last(states: Sequence[tuple[Tensor, ...]], every_step: bool) -> Any:
    """The tensors of the last state, or of all states stacked. A Head stays a Head."""
    if not every_step:
        return states[-1]
    stacked = map(torch.stack, zip(*states))
    return Head(*stacked) if isinstance(states[0], Head) else tuple(stacked)


class InnerProducts(NamedTuple):
    """All that descent needs of the clips of E episodes under one head.

    x (U, D); A (C, H) as the basis B = [A; h] holds it; gram (E, K + Q, K): x . x_support; shared (E, K + Q, C): h . A;
    basis (E, K + Q, C + K): h . B; inner (E, C + K, C + K): B . B. The gradient of the mean support loss by the logits
    is mass * softmax - wanted: mass (E, K, 1), wanted (E, K, C).
    """

    x: Tensor
    A: Tensor
    gram: Tensor
    shared: Tensor
    basis: Tensor
    inner: Tensor
    mass: Tensor
    wanted: Tensor


def _inner_products(head: Head, x: Tensor, batch: Batch, second_order: bool) -> InnerProducts:
    shots, classes, A = batch.support.shape[1], batch.targets.shape[-1], head.A if second_order else head.A.detach()
    both = head.A if second_order else torch.cat([head.A, A])
    gram, hidden, z = products(x, head.P, head.b, both, batch.support, batch.query, batch.support_clips, second_order)
    shared, basis = z[..., :classes], torch.cat([z[..., -classes:], hidden], -1)
    corner = (A @ A.T).expand(len(gram), -1, -1)
    inner = torch.cat([torch.cat([corner, basis[:, :shots, :classes].mT], -1), basis[:, :shots]], 1)
    return InnerProducts(x, A, gram, shared, basis, inner if second_order else inner.detach(), *_loss_gradient(batch))


def _loss_gradient(batch: Batch) -> tuple[Tensor, Tensor]:
    weight = clip_weights(batch.targets, batch.class_weights).unsqueeze(-1) / batch.targets.shape[1]
    return weight * batch.targets.sum(-1, keepdim=True), weight * batch.targets


def _descend(products: InnerProducts, a: Tensor, inner_lr: Iterable[Tensor], second_order: bool,
             every_step: bool) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Descent on the support loss in coefficients of the basis. Returns (d, b, A, a) of all steps or of the last alone.

    d (E, K, C + K), b (E, 1, C + K), A (E, C, C + K) as in SpanHeads; a (E, 1, C). The loss has gradient `error` by the
    logits and error @ A by h. Products with error come first: it has C columns where h has C + K.
    """
    inner, mass, unwanted = products.inner, products.mass, -products.wanted
    episodes, shots, classes = unwanted.shape
    gram = products.gram[:, :shots] if second_order else products.gram[:, :shots].detach()
    identity = torch.eye(classes + shots, dtype=inner.dtype, device=inner.device).expand(episodes, -1, -1)
    start, h = identity[:, :classes], identity[:, classes:]
    A, a = start, a.expand(episodes, 1, -1)
    d, b = torch.zeros_like(h), torch.zeros_like(h[:, :1])
    states = [(d, b, A, a)]
    for _, lr_P, lr_b, lr_A, lr_a in inner_lr:
        z = torch.baddbmm(a, h, torch.bmm(inner, A.mT))
        error = torch.addcmul(unwanted, z.softmax(-1), mass)  # (E, K, C)
        A_now, h_now = A, h
        if not second_order:
            error, A_now, h_now = error.detach(), A.detach(), h.detach()
        total = error.sum(1, keepdim=True)
        by_P, by_b = lr_P * error, lr_b * total
        d, b = torch.baddbmm(d, by_P, A_now), torch.baddbmm(b, by_b, A_now, alpha=-1)
        h = torch.baddbmm(h, torch.baddbmm(by_b, gram, by_P), A_now, alpha=-1)
        A, a = torch.baddbmm(A, lr_A * error.mT, h_now, alpha=-1), a - lr_a * total
        states.append((d, b, A, a))
    return [(d, b, A - start, a) for d, b, A, a in (states if every_step else states[-1:])]


class SpanHeads(NamedTuple):
    """E personal heads as changes to a shared one, in coefficients of the basis B = [A; h] (E, C + K, H).

    P - (d B)^T x_support, b + b B, A + A B and a. With every_step, tensors have a leading dimension (steps + 1).
    """

    head: Head
    batch: Batch
    products: InnerProducts
    d: Tensor
    b: Tensor
    A: Tensor
    a: Tensor

    def query_logits(self) -> Tensor:
        """Logits (E, Q, C) of the query, or (steps + 1, E, Q, C), without forming the weights."""
        _, A, gram, shared, basis, inner, mass, wanted = self.products
        shots, classes = mass.shape[1], wanted.shape[-1]

        def fold(steps: Tensor) -> Tensor:  # the step axis into the class axis, so each product is a single matmul
            return steps.movedim(0, 2).flatten(2)

        def unfold(classes_by_step: Tensor) -> Tensor:
            return classes_by_step.unflatten(2, (-1, classes)).movedim(2, 0)

        d, b, change, a = (state if state.ndim == 4 else state[None] for state in self[3:])
        change = fold(change.mT)
        to_classes = torch.cat([(A @ self.head.A.T).expand(len(gram), -1, -1), shared[:, :shots]], 1)
        to_classes = to_classes + unfold(inner @ change)  # B . A_t, (steps, E, C + K, C)
        from_P, from_A = gram[:, shots:] @ fold(d @ to_classes), basis[:, shots:] @ change
        logits = shared[:, shots:] + unfold(from_A) + b @ to_classes + a - unfold(from_P)
        return logits if self.d.ndim == 4 else logits[0]

    def weights(self) -> Head:
        """The heads with their weights formed; tensors lead with E, or with (steps + 1, E). The mix is shared.

        Gradients through the weights are exact in second order only; a first-order loss takes `query_logits`.
        """
        x = self.products.x[self.batch.support]
        basis = torch.cat([self.head.A.expand(len(x), -1, -1), x @ self.head.P.T + self.head.b], 1)
        shape = self.a.shape[:-2]
        return Head(self.head.mix.expand(*shape, -1), self.head.P - (self.d @ basis).mT @ x,
                    self.head.b + (self.b @ basis).squeeze(-2), self.head.A + self.A @ basis, self.a.squeeze(-2))


class WeightHeads(NamedTuple):
    """E personal heads with their weights formed; with every_step, tensors have a leading dimension (steps + 1)."""

    batch: Batch
    heads: Head

    def query_logits(self) -> Tensor:
        """Logits (E, Q, C) of the query, or (steps + 1, E, Q, C)."""
        x = self.batch.features[self.batch.clips[self.batch.query]]  # (E, Q, L, D)
        return _linear(self.heads, torch.einsum("...el,eqld->...eqd", self.heads.mix.softmax(-1), x))[1].mT

    def weights(self) -> Head:
        """The heads; tensors lead with E, or with (steps + 1, E)."""
        return self.heads


def descend_weights(head: Head, inner_lr: Tensor | Head, batch: Batch, second_order: bool) -> list[Head]:
    """The same descent on the weights themselves: heads before the first step and after each one, tensors lead with E.

    Slower than coefficients of the span, but any tensor may adapt at any shape of learning rate (Meta-SGD,
    arXiv 1707.09835).
    """
    inner_lr = inner_lr if isinstance(inner_lr, Head) else Head(*inner_lr.unbind(1))
    features = batch.features[batch.clips[batch.support]]  # (E, K, L, D)
    mass, wanted = (tensor.mT for tensor in _loss_gradient(batch))
    fast = Head(*(tensor.expand(len(features), *tensor.shape) for tensor in head))
    x, mix_adapts, slope_mix = mixed(head, features), bool(inner_lr.mix.any()), torch.zeros_like(fast.mix)
    states = [fast]
    for lr in zip(*inner_lr):
        x = torch.einsum("el,ekld->ekd", fast.mix.softmax(-1), features) if mix_adapts else x
        hidden, z = _linear(fast, x)
        error = mass * z.softmax(1) - wanted  # (E, C, K)
        delta = fast.A.mT @ error  # (E, H, K)
        if mix_adapts:
            share, by_layer = fast.mix.softmax(-1), torch.einsum("ekd,ekld->el", delta.mT @ fast.P, features)
            slope_mix = share * (by_layer - (share * by_layer).sum(-1, keepdim=True))
        slopes = Head(slope_mix, delta @ x, delta.sum(-1), error @ hidden.mT, error.sum(-1))
        slopes = slopes if second_order else Head(*(tensor.detach() for tensor in slopes))
        fast = Head(*(weight - rate * slope for weight, rate, slope in zip(fast, lr, slopes)))
        states.append(fast)
    return states


def _linear(heads: Head, x: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden values (..., E, H, K) and logits (..., E, C, K) of x (..., E, K, D): clips last, as P's gradient needs."""
    hidden = heads.P @ x.mT + heads.b.unsqueeze(-1)
    return hidden, heads.A @ hidden + heads.a.unsqueeze(-1)


def prior_shift(logits: Tensor, targets: Tensor, mass: Tensor | float, strength: Tensor | float) -> Tensor:
    """Class log-biases (E, 1, C) that move the mean answer to the shots towards the listener's own.

    logits, targets: (E, K, C) of the support. mass: pseudo-clips that vote as the model does. strength: a factor on the
    shift. Source: prior adjustment, Saerens et al. 2002 (Neural Computation 14(1)), eq. 2.4, with known labels.
    """
    expected = logits.softmax(-1).mean(1, keepdim=True)
    observed = (mass * expected + targets.sum(1, keepdim=True)) / (mass + targets.shape[1])
    return strength * (observed / expected).log()
