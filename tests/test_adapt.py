"""The exact engine against paper, finite differences, torch.func and learn2learn."""

import math
import resource
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from perser import kernels, seeds
from perser.adapt import (
    adapt,
    adapt_explicit,
    adapted_logits,
    explicit_logits,
    form,
    personal_head,
    scalar_rates,
)
from perser.head import TENSORS, Head, init, logits, mixed, trainable
from perser.losses import cross_entropy

E, K, Q, L, D, H, C = 3, 4, 6, 5, 7, 6, 4


def problem(dtype=torch.float64, layers=L, seed=0):
    """A random head, rates' generator, and E episodes with their features and targets."""
    g = seeds.generator(seed, "test problem")

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    head = Head(*(t.to(dtype) for t in init(layers, D, H, C, g)))._replace(mix=normal(layers))
    features = normal(E, K, layers, D), normal(E, Q, layers, D)
    targets = normal(E, K, C).softmax(-1), normal(E, Q, C).softmax(-1)
    return head, features, targets, normal(C).exp()


def random_rates(steps, dtype=torch.float64, mix=False):
    rates = torch.rand(steps, len(TENSORS), generator=seeds.generator(1, "rates"), dtype=torch.float64).to(dtype) / 2
    return rates if mix else rates * torch.tensor([0, 1, 1, 1, 1], dtype=dtype)


def engine_loss(head, rates, features, targets, class_weights, second_order):
    found = engine(head, rates, features, targets[0], class_weights, second_order)
    return cross_entropy(found, targets[1], class_weights).mean()


def engine(head, rates, features, targets, class_weights, second_order, every=False, shift=None):
    """Logits of the query; clips of all episodes in one table, the support's first."""
    (episodes, shots), queries = targets.shape[:2], features[1].shape[1]
    clips = torch.cat([part.flatten(0, 1) for part in features])
    support, query = torch.arange(len(clips)).split([episodes * shots, episodes * queries])
    formed = form(head, mixed(head, clips, torch.arange(len(clips))), support.view(episodes, -1),
                  query.view(episodes, -1), len(support), targets, class_weights, second_order)
    return adapted_logits(head, rates, formed, second_order, every, shift)


def explicit_loss(head, rates, features, targets, class_weights, second_order):
    personal = adapt_explicit(head, Head(*rates.unbind(1)), features[0], targets[0], class_weights, second_order)
    return cross_entropy(vmap(logits)(personal, features[1]), targets[1], class_weights).mean()


def meta_gradient(loss, head, rates, *rest):
    head, rates = trainable(head), rates.clone().requires_grad_()
    value = loss(head, rates, *rest)
    value.backward()
    zero = torch.zeros(())
    return value.detach(), [zero.expand(t.shape) if t.grad is None else t.grad for t in (*head, rates)]


def assert_same(one, other, tolerance):
    assert abs(one[0] - other[0]) <= tolerance
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert (mine - theirs).abs().max() <= tolerance * max(1, float(theirs.abs().max()))


def test_one_step_and_its_meta_gradient_on_paper():
    """One feature, one hidden unit, two classes, one shot x = 1 of class 1, one query x = 1 of class 1.

    Head: p = 1, b = 0, rows of A (u, -u) with u = 1/2, a = 0. Then h = 1, z = (u, -u), softmax s = sigma(2u) and
    1 - s with sigma(1) = s. With unit class weights dL/dz = (s - 1, 1 - s) = e (-1, 1), e = 1 - s. So
    dL/dh = e(-u - u) = -2ue = -e, dL/dp = -e, dL/db = -e, dL/dA = e(-1, 1) h, dL/da = e(-1, 1).
    With rates r on P only (the others 0): p' = 1 + r e, query margin m = 2u p' = 1 + r e, loss log(1 + exp(-m)).
    d loss / d r = -(1 - sigma(m)) e.
    d loss / d p: margin m(p) = p + r e(p), e(p) = 1 - sigma(p), so dm/dp = 1 - r s(1 - s) in second order and 1 in
    first order; d loss / d p = -(1 - sigma(m)) dm/dp.
    """
    head = Head(mix=torch.zeros(1), P=torch.ones(1, 1), b=torch.zeros(1), A=torch.tensor([[0.5], [-0.5]]),
                a=torch.zeros(2))
    head = Head(*(t.double() for t in head))
    x, y = torch.ones(1, 1, 1, 1).double(), torch.tensor([[[1.0, 0.0]]]).double()
    rate = 0.3
    rates = torch.tensor([[0, rate, 0, 0, 0]], dtype=torch.float64)
    s = 1 / (1 + math.exp(-1))
    e = 1 - s
    m = 1 + rate * e
    miss = 1 - 1 / (1 + math.exp(-m))
    for second, slope in ((True, 1 - rate * s * e), (False, 1.0)):
        loss, grads = meta_gradient(engine_loss, head, rates, (x, x), (y, y), torch.ones(2).double(), second)
        assert float(loss) == pytest.approx(math.log(1 + math.exp(-m)), abs=1e-12)
        assert float(grads[5][0, 1]) == pytest.approx(-miss * e, abs=1e-12)
        assert float(grads[1]) == pytest.approx(-miss * slope, abs=1e-12)


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_engine_equals_explicit_weights(steps, second_order):
    head, *rest = problem()
    rates = random_rates(steps)
    assert_same(meta_gradient(engine_loss, head, rates, *rest, second_order),
                meta_gradient(lambda h, r, *more: explicit_loss(h, r * (r != 0), *more), head, rates, *rest,
                              second_order), 1e-12)


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_losses_after_every_step_equal_those_of_as_many_steps_with_explicit_weights(steps, second_order):
    """Each step's loss has its own weight, so that a gradient which takes one for another is noticed."""

    def together(head, rates, features, targets, class_weights, second):
        every = engine(head, rates, features, targets[0], class_weights, second, every=True)
        assert every.shape == (steps + 1, E, Q, C)
        return sum((t + 1) * cross_entropy(found, targets[1], class_weights).mean() for t, found in enumerate(every))

    def each(head, rates, *rest):
        return sum((t + 1) * explicit_loss(head, rates[:t] * (rates[:t] != 0), *rest) for t in range(steps + 1))

    head, *rest = problem()
    rates = random_rates(steps)
    assert_same(meta_gradient(together, head, rates, *rest, second_order),
                meta_gradient(each, head, rates, *rest, second_order), 1e-12)


@pytest.mark.parametrize("second_order", [True, False])
def test_a_shift_is_a_bias_of_each_listener_own(second_order):
    """The gradient that reaches the shift as well: each listener's against explicit weights from a head of its own."""
    head, features, targets, class_weights = problem()
    rates, found = random_rates(3), []
    for way in "engine", "explicit":
        trained = trainable(head)
        shift = torch.randn(E, 1, C, generator=seeds.generator(4, "shift"), dtype=torch.float64).requires_grad_()
        if way == "engine":
            out = engine(trained, rates, features, targets[0], class_weights, second_order, shift=shift)
        else:
            out = torch.cat([vmap(logits)(adapt_explicit(trained._replace(a=trained.a + shift[e, 0]),
                                                         Head(*rates.unbind(1)), features[0][e:e + 1],
                                                         targets[0][e:e + 1], class_weights, second_order),
                                          features[1][e:e + 1]) for e in range(E)])
        loss = cross_entropy(out, targets[1], class_weights).mean()
        loss.backward()
        found.append((loss.detach(), [*(tensor.grad for tensor in trained), shift.grad]))
    assert_same(*found, 1e-12)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("loss, mix", [(engine_loss, False), (explicit_loss, True)])
def test_second_order_equals_finite_differences(loss, mix, steps):
    head, *rest = problem()
    rates = random_rates(steps, mix=mix)
    _, grads = meta_gradient(loss, head, rates, *rest, True)
    tensors, step = [*head, rates], 1e-5
    for i, tensor in enumerate(tensors):
        flat = tensor.flatten()
        for j in {0, len(flat) // 2, len(flat) - 1}:
            if tensor is rates and not mix and j % len(TENSORS) == 0:
                continue
            values = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[j] += sign * step
                nudged = [moved.view(tensor.shape) if k == i else t for k, t in enumerate(tensors)]
                values.append(loss(Head(*nudged[:5]), nudged[5], *rest, True))
            assert float(grads[i].flatten()[j]) == pytest.approx(float(values[0] - values[1]) / (2 * step), abs=1e-6)


def reference_loss(adapted):
    """The mean query loss when each episode goes through learn2learn, one after the other."""
    from perser import reference

    def loss(head, rates, features, targets, class_weights, second_order):
        model = reference.Downstream(head)
        total = 0
        for e in range(E):
            personal = adapted(reference, model, rates, features[0][e], targets[0][e], class_weights,
                               not second_order)
            total = total + cross_entropy(personal(features[1][e]), targets[1][e], class_weights) / E
        total.backward()
        loss.grads = [getattr(model, name).grad for name in Head._fields]
        return total.detach()

    return loss


@pytest.mark.reference
@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("loss, mix", [(engine_loss, False), (explicit_loss, True)])
def test_meta_gradients_equal_learn2learn_with_learnt_rates(loss, mix, steps, second_order):
    head, *rest = problem(torch.float32)
    rates = random_rates(steps, torch.float32, mix)
    theirs = reference_loss(lambda module, model, r, *more: module.lslr(model, r, *more))
    asked = rates.clone().requires_grad_()
    value = theirs(head, asked, *rest, second_order)
    mine = meta_gradient(loss, head, rates, *rest, second_order)
    if not mix:
        mine[1][5][:, 0] = 0
        asked.grad[:, 0] = 0
    assert_same(mine, (value, [*theirs.grads, asked.grad]), 1e-5)


@pytest.mark.reference
@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_meta_gradients_equal_learn2learn_maml(steps, second_order):
    """One layer, so that learn2learn's MAML, which adapts every tensor, has no layer weight to move."""
    head, *rest = problem(torch.float32, layers=1)
    rate = 0.2
    theirs = reference_loss(lambda module, model, r, *more: module.maml(model, rate, steps, *more))
    value = theirs(head, None, *rest, second_order)
    mine = meta_gradient(engine_loss, head, scalar_rates(rate, steps), *rest, second_order)
    assert_same((mine[0], mine[1][1:5]), (value, theirs.grads[1:]), 1e-5)


@pytest.mark.parametrize("second_order", [True, False])
def test_clips_that_episodes_share_get_the_gradients_of_all(second_order, monkeypatch):
    """Support and query draw from the same seven clips; products are formed for one episode at a time."""
    monkeypatch.setattr(kernels, "BLOCK", 1)
    head, (near, _), targets, class_weights = problem()
    clips, draw = near.flatten(0, 1)[:7], seeds.generator(2, "shared clips")
    support, query = (torch.randint(7, (E, count), generator=draw) for count in (K, Q))

    def shared(head, rates, *rest):
        x = mixed(head, clips, torch.arange(7))
        found = adapted_logits(head, rates, form(head, x, support, query, 7, targets[0], class_weights, second_order),
                               second_order)
        return cross_entropy(found, targets[1], class_weights).mean()

    together = (clips[support], clips[query]), targets, class_weights, second_order
    rates = random_rates(4)
    assert_same(meta_gradient(shared, head, rates), meta_gradient(engine_loss, head, rates, *together), 1e-12)


@pytest.mark.parametrize("dtype, error", [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_layers_in_half_precision_are_mixed_to_its_rounding(dtype, error):
    head, (near, _), _, _ = problem(torch.float32)
    features, clips = near.flatten(0, 1), torch.tensor([3, 0, 3, 11])
    slope = torch.randn(4, D, generator=seeds.generator(3, "slope")) * 1e-6
    found = []
    for stored in (features, features.to(dtype)):
        trained = trainable(head)
        x = mixed(trained, stored, clips)
        x.backward(slope)
        found.append((x.detach(), trained.mix.grad))
    (x, grad), (rough, rough_grad) = found
    assert torch.allclose(x, mixed(head, features[clips]), atol=1e-6)
    assert 0 < (rough - x).abs().max() < 4 * error * features.abs().max()
    assert 0 < (rough_grad - grad).abs().max() < 8 * error * slope.abs().sum() / D


def test_the_weights_that_are_formed_give_the_engine_s_logits():
    head, features, (targets, _), class_weights = problem()
    x, rates = mixed(head, features[0]), random_rates(3)
    shift = torch.randn(E, 1, C, generator=seeds.generator(4, "shift"), dtype=torch.float64)
    state = adapt(head, rates, x, x @ head.P.T + head.b, targets, class_weights, shift)
    found = engine(head, rates, features, targets, class_weights, True, shift=shift)
    for e in range(E):
        assert torch.allclose(logits(personal_head(head, state, x, e), features[1][e]), found[e], atol=1e-12)


def test_explicit_heads_answer_each_with_its_own_layer_weights():
    head, (near, far), (targets, _), class_weights = problem()
    personal = adapt_explicit(head, Head(*random_rates(3, mix=True).unbind(1)), near, targets, class_weights, False)
    assert (personal.mix[0] - personal.mix[1]).abs().max() > 1e-3
    assert torch.allclose(explicit_logits(personal, far), vmap(logits)(personal, far), atol=1e-12)


def test_no_step_is_the_shared_head():
    head, features, (targets, _), class_weights = problem()
    found = engine(head, scalar_rates(0.1, 0).double(), features, targets, class_weights, True)
    assert torch.allclose(found, logits(head, features[1]), atol=1e-12)


@given(st.integers(0, 2**31), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_episodes_of_a_batch_do_not_touch_each_other(seed, steps):
    head, features, (targets, _), class_weights = problem(seed=seed)

    def found(rows):
        return engine(head, random_rates(steps), [part[rows] for part in features], targets[rows], class_weights, True)

    together = found(slice(None))
    for e in range(E):
        assert torch.allclose(found(slice(e, e + 1))[0], together[e], atol=1e-10)


def test_a_support_loss_falls_with_a_small_rate():
    head, (near, _), (targets, _), class_weights = problem()
    every = engine(head, scalar_rates(0.01, 5).double(), (near, near), targets, class_weights, False, every=True)
    losses = [cross_entropy(found, targets, class_weights) for found in every]
    assert all((later < earlier).all() for earlier, later in pairwise(losses))


def test_a_prepared_process_keeps_the_memory_that_it_frees():
    script = """
import resource, torch
from perser.kernels import prepare
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
prepare(threads=1)
before = faults()
for step in range(20):
    several = [torch.zeros(6 << 20) for _ in range(4)]
    del several
print(faults() - before, torch.get_num_threads())
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found, threads = map(int, told.stdout.split())
    blocks = found * resource.getpagesize() / (24 << 20)
    assert threads == 1 and blocks < 20, "80 blocks of 24 MiB were asked for, four or a few more are ever touched anew"
