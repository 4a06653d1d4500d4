"""Descent in coefficients of the span: the states and gradients of descent on the weights, at many sizes."""

import pytest
import torch
from made_batches import problem, random_lr

from perser import seeds
from perser.adapt import (
    SpanHeads,
    WeightHeads,
    _descend,
    _inner_products,
    _last,
    descend_weights,
    personal_heads,
)
from perser.model import mixed, trainable

SIZES = [dict(zip(("episodes", "shots", "classes", "steps"), size, strict=True)) for size in (
    (1, 1, 2, 1), (4, 5, 9, 3), (5, 3, 4, 2), (19, 10, 8, 5), (9, 21, 3, 12), (3, 4, 5, 0))]


def states_and_gradients(adapted, made, inner_lr, second_order):
    """Heads with their weights formed, logits of the query, and the gradients of a random weighting of these numbers.

    In first order, gradients are those of the logits alone.
    """
    head, inner_lr = trainable(made.head), inner_lr.clone().requires_grad_()
    personal, g = adapted(head, inner_lr, made.batch(), second_order), seeds.generator(1, "towards")
    values = [personal.query_logits(), *personal.weights()]
    asked = values if second_order else values[:1]
    towards = [torch.randn(value.shape, generator=g, dtype=torch.float64).to(value.dtype) for value in asked]
    gradients = torch.autograd.grad(asked, (*head, inner_lr), towards, allow_unused=True, materialize_grads=True)
    return [*(value.detach() for value in values), *gradients[:5], gradients[5][:, 1:]]


def by_span(every_step):
    def adapted(head, inner_lr, batch, second_order):
        personal = next(personal_heads(head, [inner_lr], batch, second_order, every_step))
        assert isinstance(personal, SpanHeads)
        return personal

    return adapted


def by_weights(every_step):
    def adapted(head, inner_lr, batch, second_order):
        return WeightHeads(batch, _last(descend_weights(head, inner_lr, batch, second_order), every_step))

    return adapted


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_states_and_gradients_are_those_of_descent_on_the_weights(size, every_step, second_order):
    """One shot and many, more classes than shots and fewer, no step and a dozen."""
    steps = size["steps"]
    made = problem(**{name: number for name, number in size.items() if name != "steps"})
    for value, expected in zip(*(states_and_gradients(adapted(every_step), made, random_lr(steps), second_order)
                                 for adapted in (by_span, by_weights)), strict=True):
        assert value.shape == expected.shape
        assert not value.numel() or (value - expected).abs().max() <= 1e-11 * expected.abs().max().clamp(min=1)


def test_in_single_precision_too():
    for value, expected in zip(*(
            states_and_gradients(by_span(True), problem(dtype, episodes=19, shots=10, classes=8),
                                 random_lr(5, dtype), True) for dtype in (torch.float32, torch.float64)), strict=True):
        assert value.dtype == torch.float32
        assert (value - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("every_step", [True, False])
def test_gradients_equal_finite_differences(every_step):
    """By the products of clips too, none of which is symmetric here, so that a transpose too many is noticed."""
    made, inner_lr = problem(episodes=2, shots=3), random_lr(2).requires_grad_()
    products = _inner_products(made.head, mixed(made.head, made.batch().features), made.batch(), True)
    g = seeds.generator(0, "asymmetric")
    gram, inner = ((tensor + torch.randn(tensor.shape, generator=g, dtype=torch.float64) / 4).requires_grad_()
                   for tensor in (products.gram, products.inner))

    def states(gram, inner, a, inner_lr):
        return _last(_descend(products._replace(gram=gram, inner=inner), a, inner_lr, True, every_step), every_step)

    assert torch.autograd.gradcheck(states, (gram, inner, made.head.a.clone().requires_grad_(), inner_lr))


def test_without_a_graph_it_gives_the_same():
    made, inner_lr = problem(torch.float32, episodes=40), random_lr(4, torch.float32)
    with_graph = next(personal_heads(trainable(made.head), [inner_lr], made.batch(), True)).query_logits()
    with torch.no_grad():
        without = next(personal_heads(made.head, [inner_lr], made.batch(), True)).query_logits()
    assert with_graph.requires_grad and torch.equal(with_graph.detach(), without)


def test_one_order_or_the_other_takes_the_same_steps():
    made, inner_lr = problem(), random_lr(4)
    for adapted in (by_span(True), by_weights(True)):
        first, second = (adapted(made.head, inner_lr, made.batch(), order).weights() for order in (False, True))
        assert all(map(torch.equal, first, second))
