"""The meta-gradient against paper, finite differences, torch.func and learn2learn, and what adapted heads answer."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_batches import assert_same, batch, meta_gradient, problem, random_lr
from torch.func import grad, vmap

from perser import adapt, kernels, seeds
from perser.adapt import SpanHeads, WeightHeads, constant_lr, descend_weights, personal_heads
from perser.model import TENSORS, Head, cross_entropy, logits, mixed, trainable


def span_logits(head, inner_lr, data, second_order, every_step=False):
    personal = next(personal_heads(head, [inner_lr], data, second_order, every_step))
    assert isinstance(personal, SpanHeads)
    return personal.query_logits()


def weight_logits(head, inner_lr, data, second_order, every_step=False):
    """The same by explicit weights, whatever the inner learning rates."""
    states = descend_weights(head, inner_lr, data, second_order)
    heads = Head(*map(torch.stack, zip(*states))) if every_step else states[-1]
    return WeightHeads(data, heads).query_logits()


def loss_by(answers, made, second_order):
    return lambda head, inner_lr: made.loss(answers(head, inner_lr, made.batch(), second_order))


def test_one_step_and_its_meta_gradient_on_paper():
    """One feature, one hidden unit, two classes, one shot x = 1 of class 1, one query x = 1 of class 1.

    Head: p = 1, b = 0, rows of A (u, -u) with u = 1/2, a = 0. Then h = 1, z = (u, -u), softmax s = sigma(2u) and
    1 - s with sigma(1) = s. With unit class weights dL/dz = (s - 1, 1 - s) = e (-1, 1), e = 1 - s. So
    dL/dh = e(-u - u) = -2ue = -e, dL/dp = -e, dL/db = -e, dL/dA = e(-1, 1) h, dL/da = e(-1, 1).
    With a learning rate r on P only: p' = 1 + r e, query margin m = 2u p' = 1 + r e, loss log(1 + exp(-m)).
    d loss / d r = -(1 - sigma(m)) e.
    d loss / d p: margin m(p) = p + r e(p), e(p) = 1 - sigma(p), so dm/dp = 1 - r s(1 - s) in second order and 1 in
    first order; d loss / d p = -(1 - sigma(m)) dm/dp.
    """
    head = Head(mix=torch.zeros(1), P=torch.ones(1, 1), b=torch.zeros(1), A=torch.tensor([[0.5], [-0.5]]),
                a=torch.zeros(2))
    head = Head(*(tensor.double() for tensor in head))
    x, y = torch.ones(1, 1, 1, 1).double(), torch.tensor([[[1.0, 0.0]]]).double()
    data, r = batch(x, x, y, torch.ones(2).double()), 0.3
    inner_lr = torch.tensor([[0, r, 0, 0, 0]], dtype=torch.float64)
    s = 1 / (1 + math.exp(-1))
    e = 1 - s
    m = 1 + r * e
    miss = 1 - 1 / (1 + math.exp(-m))
    for second_order, slope in ((True, 1 - r * s * e), (False, 1.0)):
        loss, gradients = meta_gradient(lambda head, lr: cross_entropy(
            span_logits(head, lr, data, second_order), y, torch.ones(2).double()).mean(), head, inner_lr)  # noqa: B023
        assert float(loss) == pytest.approx(math.log(1 + math.exp(-m)), abs=1e-12)
        assert float(gradients[5][0, 1]) == pytest.approx(-miss * e, abs=1e-12)
        assert float(gradients[1]) == pytest.approx(-miss * slope, abs=1e-12)


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_coefficients_of_the_span_give_the_meta_gradient_of_explicit_weights(steps, second_order):
    made = problem()
    by_span, by_weights = (meta_gradient(loss_by(answers, made, second_order), made.head, random_lr(steps))
                           for answers in (span_logits, weight_logits))
    by_weights[1][5][:, 0] = by_span[1][5][:, 0]  # in the span, layer weights have no learning rate to differentiate by
    assert_same(by_span, by_weights, 1e-12)


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("answers", [span_logits, weight_logits])
def test_losses_after_every_step_equal_those_of_as_many_steps(answers, second_order):
    """Each step's loss has its own weight, so that a gradient which takes one for another is noticed."""
    made, steps, inner_lr = problem(), 3, random_lr(3)

    def at_once(head, lr):
        by_step = answers(head, lr, made.batch(), second_order, True)
        assert by_step.shape == (steps + 1, 3, 6, 4)
        return sum((t + 1) * made.loss(logits) for t, logits in enumerate(by_step))

    def one_by_one(head, lr):
        return sum((t + 1) * made.loss(weight_logits(head, lr[:t], made.batch(), second_order))
                   for t in range(steps + 1))

    at_once, one_by_one = (meta_gradient(loss, made.head, inner_lr) for loss in (at_once, one_by_one))
    one_by_one[1][5][:, 0] = at_once[1][5][:, 0] = 0
    assert_same(at_once, one_by_one, 1e-12)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("answers, mix", [(span_logits, False), (weight_logits, True)])
def test_second_order_equals_finite_differences(answers, mix, steps):
    made, inner_lr = problem(), random_lr(steps, mix=mix)
    loss, step = loss_by(answers, made, True), 1e-5
    _, gradients = meta_gradient(loss, made.head, inner_lr)
    tensors = [*made.head, inner_lr]
    for i, tensor in enumerate(tensors):
        flat = tensor.flatten()
        for j in {0, len(flat) // 2, len(flat) - 1}:
            if tensor is inner_lr and not mix and j % len(TENSORS) == 0:
                continue
            values = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[j] += sign * step
                nudged = [moved.view(tensor.shape) if k == i else other for k, other in enumerate(tensors)]
                values.append(loss(Head(*nudged[:5]), nudged[5]))
            expected = float(values[0] - values[1]) / (2 * step)
            assert float(gradients[i].flatten()[j]) == pytest.approx(expected, abs=1e-6)


def by_episode(adapted, made, second_order):
    """The mean query loss when one episode after the other goes through learn2learn; it leaves gradients in place."""
    from benchmarks import reference

    def loss(head, inner_lr):
        model, total = reference.Downstream(head), 0
        for x, query, targets, query_targets in zip(*made[1:5]):
            personal = adapted(reference, model, inner_lr, x, targets, made.class_weights, not second_order)
            total = total + cross_entropy(personal(query), query_targets, made.class_weights) / len(made.support)
        total.backward()
        return total.detach(), [getattr(model, name).grad for name in Head._fields]

    return loss


@pytest.mark.reference
@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("answers, mix", [(span_logits, False), (weight_logits, True)])
def test_meta_gradients_equal_learn2learn_with_learnt_inner_learning_rates(answers, mix, steps, second_order):
    made, inner_lr = problem(torch.float32), random_lr(steps, torch.float32, mix)
    asked = inner_lr.clone().requires_grad_()
    value, gradients = by_episode(lambda module, model, *rest: module.lslr(model, *rest), made, second_order)(
        made.head, asked)
    ours = meta_gradient(loss_by(answers, made, second_order), made.head, inner_lr)
    if not mix:
        ours[1][5][:, 0] = asked.grad[:, 0] = 0
    assert_same(ours, (value, [*gradients, asked.grad]), 1e-5)


@pytest.mark.reference
@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_meta_gradients_equal_learn2learn_maml(steps, second_order):
    """One layer, so that learn2learn's MAML, which adapts every tensor, has no layer weight to move."""
    made, lr = problem(torch.float32, layers=1), 0.2
    value, gradients = by_episode(lambda module, model, _, *rest: module.maml(model, lr, steps, *rest), made,
                                  second_order)(made.head, None)
    ours = meta_gradient(loss_by(span_logits, made, second_order), made.head, constant_lr(lr, steps))
    assert_same((ours[0], ours[1][1:5]), (value, gradients[1:]), 1e-5)


@pytest.mark.parametrize("second_order", [True, False])
def test_one_learning_rate_per_weight_gives_the_meta_gradient_of_torch_func(second_order):
    """Also that by the learning rates, which all differ."""
    made, steps = problem(), 3
    g = seeds.generator(5, "per weight")
    inner_lr = Head(*(torch.rand(steps, *tensor.shape, generator=g, dtype=torch.float64) / 2 for tensor in made.head))

    def loss_of(head, x, targets):
        return cross_entropy(logits(head, x), targets, made.class_weights)

    def expected(head, inner_lr):
        def episode(x, query, targets):
            personal = head
            for lr in zip(*inner_lr):
                slopes = grad(loss_of)(personal, x, targets)
                slopes = slopes if second_order else Head(*(slope.detach() for slope in slopes))
                personal = Head(*(tensor - r * slope for tensor, r, slope in zip(personal, lr, slopes)))
            return logits(personal, query)

        return vmap(episode)(made.support, made.query, made.targets)

    results = []
    for answers in (lambda head, lr: next(personal_heads(head, [lr], made.batch(), second_order)).query_logits(),
                    expected):
        head, lr = trainable(made.head), trainable(inner_lr)
        loss = made.loss(answers(head, lr))
        results.append((loss.detach(), list(torch.autograd.grad(loss, (*head, *lr)))))
    assert_same(*results, 1e-12)


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("query", [2, 6, 20])
def test_clips_that_episodes_share_get_the_gradients_of_all(query, second_order, monkeypatch):
    """Support and query draw from the same clips; products are formed for one episode at a time."""
    monkeypatch.setattr(kernels, "BLOCK", 1)
    made, draw = problem(query=query), seeds.generator(2, "shared clips")
    features = torch.cat([made.support.flatten(0, 1)[:5], made.query.flatten(0, 1)[:1 + 4 * query // 5]])
    support, asked = torch.randint(5, (3, 4), generator=draw), torch.randint(len(features), (3, query), generator=draw)
    shared = made.batch()._replace(features=features, clips=torch.arange(len(features)), support=support, query=asked,
                                   support_clips=5)
    apart = made._replace(support=features[support], query=features[asked])
    inner_lr = random_lr(4)
    assert_same(meta_gradient(lambda head, lr: made.loss(span_logits(head, lr, shared, second_order)), made.head,
                              inner_lr),
                meta_gradient(loss_by(span_logits, apart, second_order), made.head, inner_lr), 1e-12)


def test_chosen_clips_are_mixed_as_all_are_and_layer_weights_get_their_gradient():
    made, clips = problem(), torch.tensor([3, 0, 3, 11])
    features = made.support.flatten(0, 1)
    slope = torch.randn(4, 7, generator=seeds.generator(3, "slope"), dtype=torch.float64)
    values = []
    for mix_chosen in (lambda head: mixed(head, features, clips), lambda head: mixed(head, features[clips])):
        head = trainable(made.head)
        x = mix_chosen(head)
        values.append((x.detach(), *torch.autograd.grad(x, head.mix, slope)))
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(*values))


def test_factors_on_the_features_are_those_of_features_multiplied_before():
    made = problem()
    keep = torch.tensor([0, 2, 0, 1, 1, 2, 0], dtype=torch.float64)
    dropped = made._replace(support=made.support * keep, query=made.query * keep)
    assert_same(*(meta_gradient(lambda head, lr, data=data, factors=factors: made.loss(
        next(personal_heads(head, [lr], data.batch(), True, keep=factors)).query_logits()), made.head, random_lr(3))
        for data, factors in ((made, keep), (dropped, None))), 1e-12)
    with pytest.raises(AssertionError, match="per tensor"):
        next(personal_heads(made.head, [random_lr(3, mix=True)], made.batch(), keep=keep))


@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize("mix", [True, False])
def test_the_weights_that_are_formed_give_the_logits(mix, every_step):
    made = problem()
    personal = next(personal_heads(made.head, [random_lr(3, mix=mix)], made.batch(), every_step=every_step))
    assert isinstance(personal, WeightHeads if mix else SpanHeads)
    heads = personal.weights()
    expected = vmap(logits)
    expected = vmap(expected, in_dims=(0, None)) if every_step else expected
    assert torch.allclose(personal.query_logits(), expected(heads, made.query), atol=1e-12)
    assert ((heads.mix - made.head.mix).abs().max() > 1e-3) == mix
    assert all(torch.equal(tensor[0], shared.expand_as(tensor[0])) or not every_step
               for tensor, shared in zip(heads, made.head)), "before the first step: the shared head"


@pytest.mark.parametrize("answers, mix", [(span_logits, False), (weight_logits, True)])
def test_several_settings_of_one_batch_are_those_of_one_at_a_time(answers, mix):
    made = problem()
    grid = [random_lr(3, mix=mix), constant_lr(0.1, 1).double(), constant_lr(0.1, 4, ("A", "a")).double()]
    together = [personal.query_logits() for personal in personal_heads(made.head, iter(grid), made.batch())]
    assert len(together) == 3
    for inner_lr, answered in zip(grid, together):
        assert torch.equal(answered, answers(made.head, inner_lr, made.batch(), False))


def test_a_support_above_the_largest_updates_the_weights_and_gives_the_same(monkeypatch):
    made = problem()
    expected = span_logits(made.head, random_lr(3), made.batch(), True)
    monkeypatch.setattr(adapt, "LARGEST_SUPPORT", 3)
    personal = next(personal_heads(made.head, [random_lr(3)], made.batch(), True))
    assert isinstance(personal, WeightHeads) and torch.allclose(personal.query_logits(), expected, atol=1e-12)


@pytest.mark.parametrize("answers", [span_logits, weight_logits])
def test_no_step_is_the_shared_head(answers):
    made = problem()
    answered = answers(made.head, constant_lr(0.1, 0).double(), made.batch(), True)
    assert torch.allclose(answered, logits(made.head, made.query), atol=1e-12)


def test_constant_lr_is_zero_for_tensors_that_do_not_adapt():
    assert constant_lr(0.5, 2, ("A", "mix")).tolist() == [[0.5, 0, 0, 0.5, 0]] * 2


@given(st.integers(0, 2**31), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_episodes_of_a_batch_do_not_touch_each_other(seed, steps):
    made = problem(seed=seed)
    together = span_logits(made.head, random_lr(steps), made.batch(), True)
    for e in range(3):
        alone = span_logits(made.head, random_lr(steps), made.batch(slice(e, e + 1)), True)
        assert torch.allclose(alone[0], together[e], atol=1e-10)


def test_a_support_loss_falls_with_a_small_rate():
    made = problem()
    data = batch(made.support, made.support, made.targets, made.class_weights)
    by_step = span_logits(made.head, constant_lr(0.01, 5).double(), data, False, True)
    losses = [cross_entropy(answers, made.targets, made.class_weights) for answers in by_step]
    assert all((later < earlier).all() for earlier, later in pairwise(losses))
