"""The inner loop: adapt one head to many listeners at once, exactly, without forming their weights.

Everything that gradient descent does to the two linear maps stays in the span of what the support already holds.
The gradient of P is a sum over support clips, so P_t x = P x - sum_k d_k (x_k . x); d_k, the bias, the rows of A and
the hidden values all lie in the span of the basis B = [A; h], the C rows of A and the K hidden values before the
first step. So the state carries coefficients of B, and a step costs O(K^2 (C + K)) whatever D and H are. The loop on
those and its backward pass, the exact meta-gradient, are in perser.descend.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from perser.descend import descend
from perser.head import Head, mixed
from perser.kernels import products
from perser.losses import clip_weights


class Adapted(NamedTuple):
    """E personal heads as what they add to the shared one, in coefficients of the basis (E, C + K, H).

    P - (d B)^T x_support, b + b B, A + A B and a: d (E, K, C + K), b (E, 1, C + K), A (E, C, C + K), a (E, 1, C).
    """

    basis: Tensor
    d: Tensor
    b: Tensor
    A: Tensor
    a: Tensor


def adapt(head: Head, rates: Tensor, x: Tensor, hidden: Tensor, targets: Tensor, class_weights: Tensor,
          shift: Tensor | None = None) -> Adapted:
    """Gradient descent on the support loss: the state after the last step, of which `personal_head` forms weights.

    rates: (steps, tensors) in the order of head.TENSORS; that of the layer weights is not read, adapting them
    takes `adapt_explicit`. x: (E, K, D) layer-mixed features of the support; hidden: (E, K, H), P x + b;
    targets: (E, K, C); shift: as in `adapted_logits`.
    Source: MAML (arXiv 1703.03400), eq. 1; per-layer per-step rates: MAML++ (arXiv 1810.09502), section 4.
    """
    basis = torch.cat([head.A.expand(len(x), -1, -1), hidden], 1)
    states = descend(x @ x.mT, basis @ basis.mT, _start(head, len(x), shift), rates,
                     *_wanted(targets, class_weights), False)
    return Adapted(basis, *(state[-1] for state in states))


def _start(head: Head, episodes: int, shift: Tensor | None) -> Tensor:
    """Output biases (E, 1, C) that descent starts from."""
    return head.a.expand(episodes, 1, -1) if shift is None else head.a + shift


def _wanted(targets: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """What the softmax is multiplied with (E, K, 1) and what is taken from it (E, K, C) in the mean loss' gradient."""
    weight = clip_weights(targets, class_weights).unsqueeze(-1) / targets.shape[1]
    return weight * targets.sum(-1, keepdim=True), weight * targets


def prior_shift(logits: Tensor, targets: Tensor, mass: Tensor | float, strength: Tensor | float) -> Tensor:
    """Class log-biases (E, 1, C) that move the mean answer to the shots towards the listener's own.

    logits, targets: (E, K, C) of the support; mass: pseudo-clips that vote as the model does; strength: a factor on
    the shift. Source: prior adjustment, Saerens et al. 2002 (Neural Computation 14(1)), eq. 2.4, with known labels.
    """
    expected = logits.softmax(-1).mean(1, keepdim=True)
    found = (mass * expected + targets.sum(1, keepdim=True)) / (mass + targets.shape[1])
    return strength * (found / expected).log()


class Formed(NamedTuple):
    """What the clips of E episodes give with one another, all that descent needs of them: see `form`.

    A (C, H): as the basis holds it; gram (E, K + Q, K) of x with the support's; shared (E, K + Q, C): h . A;
    basis (E, K + Q, C + K): h . B; inner (E, C + K, C + K): B . B; mass and wanted: see `_wanted`.
    """

    A: Tensor
    gram: Tensor
    shared: Tensor
    basis: Tensor
    inner: Tensor
    mass: Tensor
    wanted: Tensor


def form(head: Head, x: Tensor, support: Tensor, query: Tensor, count: int, targets: Tensor, class_weights: Tensor,
         second_order: bool) -> Formed:
    """The inner products of episodes under one head, for any rates.

    x: (U, D) layer-mixed clips, the first `count` those of any support; support (E, K), query (E, Q): rows of x;
    targets: (E, K, C). All that touches widths is done once per clip or once per pair of clips (perser.kernels).
    """
    shots, classes, A = support.shape[1], targets.shape[-1], head.A if second_order else head.A.detach()
    live = head.A if second_order else torch.cat([head.A, A])
    gram, hidden, z = products(x, head.P, head.b, live, support, query, count, second_order)
    shared, basis = z[..., :classes], torch.cat([z[..., -classes:], hidden], -1)  # h . A; h . [A; h_support]
    corner = (A @ A.T).expand(len(support), -1, -1)
    inner = torch.cat([torch.cat([corner, basis[:, :shots, :classes].mT], -1), basis[:, :shots]], 1)
    return Formed(A, gram, shared, basis, inner if second_order else inner.detach(), *_wanted(targets, class_weights))


def adapted_logits(head: Head, rates: Tensor, formed: Formed, second_order: bool, every: bool = False,
                   shift: Tensor | None = None) -> Tensor:
    """Logits (E, Q, C) of the personal heads that `adapt` finds, without forming them; differentiable.

    every: before the first step and after each one, (steps + 1, E, Q, C). The steps then stand beside the classes, so
    that each product with the clips is one. shift (E, 1, C): what the output bias starts from beside its own value.
    """
    A, gram, shared, basis, inner, mass, wanted = formed
    shots, classes = mass.shape[1], wanted.shape[-1]
    near = gram[:, :shots] if second_order else gram[:, :shots].detach()
    d, b, change, a = descend(near, inner, _start(head, len(gram), shift), rates, mass, wanted, second_order, every)

    def beside(each: Tensor) -> Tensor:
        return each.movedim(0, 2).flatten(2)

    def apart(each: Tensor) -> Tensor:
        return each.unflatten(2, (-1, classes)).movedim(2, 0)

    change = beside(change.mT)
    own = torch.cat([(A @ head.A.T).expand(len(gram), -1, -1), shared[:, :shots]], 1) + apart(inner @ change)
    near, far = gram[:, shots:] @ beside(d @ own), basis[:, shots:] @ change
    found = shared[:, shots:] + apart(far) + b @ own + a - apart(near)
    return found if every else found[0]


def personal_head(head: Head, state: Adapted, support: Tensor, episode: int) -> Head:
    """One listener's head with its weights formed, to save or to look at; support (E, K, D)."""
    basis, d, b, A, a = (tensor[episode] for tensor in state)
    return Head(mix=head.mix, P=head.P - (d @ basis).mT @ support[episode], b=head.b + (b @ basis)[0],
                A=head.A + A @ basis, a=a[0])


def scalar_rates(rate: float, steps: int, adapts: tuple[str, ...] = ("P", "b", "A", "a")) -> Tensor:
    """One rate at every step for the tensors that adapt, zero for the others: (steps, tensors)."""
    return torch.tensor([[rate if name in adapts else 0.0 for name in Head._fields]]).repeat(steps, 1)


def adapt_explicit(head: Head, rates: Head, features: Tensor, targets: Tensor, class_weights: Tensor,
                   second_order: bool) -> Head:
    """The same descent with every weight formed: slower, but any tensor adapts and any rate shape is allowed.

    rates: per tensor (steps,) for one rate a step or (steps, *shape) for one rate an element (Meta-SGD,
    arXiv 1707.09835). features: (E, K, L, D); targets: (E, K, C). Returns a head whose tensors lead with E.
    """
    mass, wanted = (each.mT for each in _wanted(targets, class_weights))
    fast, x = Head(*(tensor.expand(len(features), *tensor.shape) for tensor in head)), mixed(head, features)
    mixes, towards = bool(rates.mix.any()), torch.zeros_like(fast.mix)
    for step in zip(*rates):
        x = _mixed(fast, features) if mixes else x
        hidden, z = _linear(fast, x)
        down = wanted - mass * z.softmax(1)  # (E, C, K)
        delta = fast.A.mT @ down  # (E, H, K)
        if mixes:
            share, to_layer = fast.mix.softmax(-1), torch.einsum("ekd,ekld->el", delta.mT @ fast.P, features)
            towards = share * (to_layer - (share * to_layer).sum(-1, keepdim=True))
        change = Head(towards, delta @ x, delta.sum(-1), down @ hidden.mT, down.sum(-1))
        change = change if second_order else Head(*(tensor.detach() for tensor in change))
        fast = Head(*(weight + rate * by for weight, rate, by in zip(fast, step, change)))
    return fast


def explicit_logits(personal: Head, features: Tensor) -> Tensor:
    """Logits (E, Q, C) of the heads that `adapt_explicit` returns; features: (E, Q, L, D)."""
    return _linear(personal, _mixed(personal, features))[1].mT


def _mixed(personal: Head, features: Tensor) -> Tensor:
    return torch.einsum("el,ekld->ekd", personal.mix.softmax(-1), features)


def _linear(personal: Head, x: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden values (E, H, K) and logits (E, C, K) of x (E, K, D): clips last, as the gradient of P then lies as P."""
    hidden = torch.baddbmm(personal.b.unsqueeze(-1), personal.P, x.mT)
    return hidden, torch.baddbmm(personal.a.unsqueeze(-1), personal.A, hidden)
