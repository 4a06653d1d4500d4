"""One second-order outer step by this library, learn2learn, torch.func and JAX: the same loss and gradients.

Each function takes a problem and returns a call that gives the loss and the gradients of the head's five tensors and of
the inner learning rates. Layer weights do not adapt in the inner loop, so torch.func and JAX mix the layers once.
"""

import importlib
import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

from benchmarks.problem import Problem
from perser import model as heads
from perser.adapt import personal_heads
from perser.model import cross_entropy

Step = Callable[[], tuple[float, list[Tensor]]]
JAX_NAMES = {"cpu": "cpu", "cuda": "gpu"}


def engine(problem: Problem) -> Step:
    """This library: all episodes in one batch."""
    head, inner_lr = heads.trainable(problem.head), problem.inner_lr.clone().requires_grad_()
    query = torch.from_numpy(problem.episodes.query)

    def step() -> tuple[float, list[Tensor]]:
        logits = next(personal_heads(head, [inner_lr], problem.batch(), second_order=True)).query_logits()
        loss = cross_entropy(logits, problem.targets[query], problem.class_weights).mean()
        return float(loss.detach()), list(torch.autograd.grad(loss, (*head, inner_lr)))

    return step


def learn2learn(problem: Problem) -> Step:
    """As users of learn2learn write it: one episode after the other, one backward pass per episode."""
    from benchmarks import reference

    model, inner_lr = reference.Downstream(problem.head), problem.inner_lr.clone().requires_grad_()

    def step() -> tuple[float, list[Tensor]]:
        tensors = [*model.parameters(), inner_lr]
        for tensor in tensors:
            tensor.grad = None
        total, features = 0.0, problem.data.features
        for support, query, targets, query_targets in zip(*problem.gather()):
            personal = reference.lslr(model, inner_lr, features[support], targets, problem.class_weights, False)
            loss = cross_entropy(personal(features[query]), query_targets, problem.class_weights)
            loss = loss / len(problem.episodes.support)
            loss.backward()
            total += float(loss.detach())
        inner_lr.grad[:, 0] = 0  # the engine's layer weights do not adapt, whatever their rate
        return total, [tensor.grad for tensor in tensors]

    return step


def torch_func(problem: Problem) -> Step:
    """torch.func: `grad` inside an episode, `vmap` over episodes, one backward pass for all."""
    head, inner_lr = heads.trainable(problem.head), problem.inner_lr.clone().requires_grad_()
    class_weights = problem.class_weights

    def loss_of(maps: tuple[Tensor, ...], x: Tensor, targets: Tensor) -> Tensor:
        P, b, A, a = maps
        return cross_entropy((x @ P.T + b) @ A.T + a, targets, class_weights)

    def episode(x: Tensor, query_x: Tensor, targets: Tensor, query_targets: Tensor) -> Tensor:
        maps = tuple(head[1:])
        for lr in inner_lr.unbind():
            slopes = grad(loss_of)(maps, x, targets)
            maps = tuple(weight - r * slope for weight, r, slope in zip(maps, lr[1:], slopes))
        return loss_of(maps, query_x, query_targets)

    def step() -> tuple[float, list[Tensor]]:
        support, query, *targets = problem.gather()
        share = head.mix.softmax(0).unsqueeze(-1)
        mixed = [(share * problem.data.features[clips]).sum(-2) for clips in (support, query)]
        loss = vmap(episode)(*mixed, *targets).mean()
        return float(loss.detach()), list(torch.autograd.grad(loss, (*head, inner_lr)))

    return step


def jax(problem: Problem) -> Step:
    """JAX: the same functions compiled by `jit`, on its default device. Compiled on the first call."""
    import jax as jx
    from jax import numpy as jnp

    jx.config.update("jax_default_matmul_precision", "highest")  # a card would take TF32, which torch does not
    class_weights = jnp.asarray(problem.class_weights.cpu().numpy())

    def loss_of(maps, x, targets):
        P, b, A, a = maps
        per_clip = -(targets * jx.nn.log_softmax((x @ P.T + b) @ A.T + a)).sum(-1)
        return (per_clip * (targets @ class_weights)).mean()

    def episode(maps, inner_lr, x, query_x, targets, query_targets):
        for lr in inner_lr:
            slopes = jx.grad(loss_of)(maps, x, targets)
            maps = tuple(weight - r * slope for weight, r, slope in zip(maps, lr[1:], slopes))
        return loss_of(maps, query_x, query_targets)

    def outer_loss(head, inner_lr, features, support, query, *targets):
        share = jx.nn.softmax(head[0])[:, None]
        mixed = [(share * features[clips]).sum(-2) for clips in (support, query)]
        return jx.vmap(episode, (None, None, 0, 0, 0, 0))(head[1:], inner_lr, *mixed, *targets).mean()

    compiled = jx.jit(jx.value_and_grad(outer_loss, argnums=(0, 1)))
    head = tuple(jnp.asarray(tensor.cpu().numpy()) for tensor in problem.head)
    inner_lr, features, *rest = (jnp.asarray(tensor.cpu().numpy()) for tensor in (
        problem.inner_lr, problem.data.features, *problem.gather()))

    def step() -> tuple[float, list[Tensor]]:
        loss, (of_head, of_lr) = jx.block_until_ready(compiled(head, inner_lr, features, *rest))
        return float(loss), [torch.from_numpy(np.array(gradient)) for gradient in (*of_head, of_lr)]

    return step


def available(device: torch.device) -> dict[str, Callable[[Problem], Step]]:
    """The implementations that are installed, by name; JAX only where it computes on the same kind of device."""
    steps = {"engine": engine, "learn2learn": learn2learn, "torch_func": torch_func, "jax": jax}
    lacking = {name for name in ("learn2learn", "jax") if not importlib.util.find_spec(name)}
    if "jax" not in lacking and importlib.import_module("jax").default_backend() != JAX_NAMES[device.type]:
        lacking.add("jax")
    return {name: step for name, step in steps.items() if name not in lacking}
