"""Evaluation: what changes it, that it does not matter who else is in the batch, and what the dev listeners choose."""

import made
import numpy as np
import pytest
import torch

from perser.adapt import constant_lr
from perser.episodes import Episodes, batch_of, draws_by_listener
from perser.evaluate import choose, count, dev_score, evaluate, join_episodes, split_logits
from perser.methods import GradientModel
from perser.methods.ssl_e import train
from perser.model import soft_f1


@pytest.fixture(scope="module")
def task():
    return made.task()


@pytest.fixture(scope="module")
def head(task):
    return train(task, 0)


@pytest.fixture(scope="module")
def trained():
    """A task and SSL-E trained for long enough that a bad setting hurts."""
    task = made.task(made.BASE.model_copy(update={"epochs": 30}))
    return task, train(task, 0)


def test_counts_on_paper():
    """Two classes, threshold one half: one true positive, one false positive and one false negative of the first."""
    logits = torch.tensor([[[2.0, 0.0], [2.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]])
    labels = torch.tensor([[[True, False], [False, True]], [[True, True], [False, True]]])
    counts = count(logits, labels)
    assert (counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()) == ([1, 2], [1, 0], [1, 1])
    assert (counts.queries, counts.top) == (4, 3)


@pytest.mark.parametrize("change", [{"shots": 3}, {"draws": 3}, {"seed": 1}, {"lrs": constant_lr(0.1, 3)},
                                    {"lrs": constant_lr(0.3, 4)}])
def test_every_option_of_the_evaluation_changes_it(task, head, change):
    def scored(shots=5, draws=2, seed=0, lrs=None):
        drawn = draws_by_listener(task.data, task.split.unseen, (3, 5), draws, 5, seed, "test draws")
        model = GradientModel(head, dict.fromkeys((3, 5), constant_lr(0.3, 3) if lrs is None else lrs))
        [(counts, loss)] = evaluate(task, model, shots, [drawn[0, shots]])
        return counts.queries, loss

    assert scored() == scored() != scored(**change)


def test_listeners_with_queries_of_different_lengths_are_scored_as_if_alone(task, head):
    parts = [made.draws(task, pool, (5,))[0, 5]
             for pool in (task.split.unseen, task.split.unseen[:-7], task.split.seen)]
    assert len({part.query.shape[1] for part in parts}) == 3
    model = GradientModel(head, {5: constant_lr(0.3, 3)})
    for (joint, loss), part in zip(evaluate(task, model, 5, parts), parts, strict=True):
        [(single, expected)] = evaluate(task, model, 5, [part])
        assert loss == pytest.approx(expected, rel=1e-5) and joint.queries == single.queries == part.query.size
        assert (joint.tp == single.tp).all() and (joint.fn == single.fn).all()


def test_episodes_that_are_joined_come_apart_without_their_padding():
    parts = [Episodes(np.full((2, 3), 1), np.arange(8).reshape(2, 4)), Episodes(np.full((1, 3), 2), np.array([[9]]))]
    joined = join_episodes(parts)
    assert joined.query.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [9, 9, 9, 9]]
    logits = torch.arange(24.0).view(3, 4, 2)
    (first, queries), (second, query) = split_logits(logits, parts)
    assert torch.equal(first, logits[:2]) and queries.tolist() == parts[0].query.tolist()
    assert second.tolist() == [[[16.0, 17.0]]] and query.tolist() == [[9]]


def test_the_dev_loss_takes_its_share_of_the_soft_f1(task, head):
    model = GradientModel(head, dict.fromkeys((3, 5), constant_lr(0.3, 3)))
    dev = made.dev_draws(task)
    missed = [1 - soft_f1(next(model.answers(batch_of(task, part), [model.settings[shots]])),
                          task.data.labels[torch.from_numpy(part.query)]) for (_, shots), part in dev.items()]
    soft = float(torch.stack(missed).mean())
    entropy = dev_score(task, model, dev)[1]
    assert dev_score(task, model, dev, 1.0)[1] == pytest.approx(soft)
    assert dev_score(task, model, dev, 0.3)[1] == pytest.approx(0.7 * entropy + 0.3 * soft)


def test_learning_rates_are_chosen_on_the_dev_listeners(trained):
    """Of a grid with one useless learning rate (it blows up) and a small one, the small one is taken for all shots."""
    task, head = trained
    grid = [constant_lr(1e4, 3), constant_lr(0.001, 3)]
    for per_shots in (True, False):
        chosen = choose(task, GradientModel(head, {}), grid, made.dev_draws(task), per_shots)
        assert set(chosen) == {3, 5} and all(torch.equal(lrs, grid[1]) for lrs in chosen.values())


def test_the_first_of_equal_settings_is_chosen(trained):
    """The same learning rate three times, in tensors of their own."""
    task, head = trained
    grid = [constant_lr(0.1, 3) for _ in range(3)]
    chosen = choose(task, GradientModel(head, {}), grid, made.dev_draws(task))
    assert all(lrs is grid[0] for lrs in chosen.values())


def test_tensors_are_chosen_on_the_dev_listeners(trained):
    """Of a set whose learning rate blows it up and one that moves the output bias alone, the latter, in any order."""
    task, head = trained
    bias, all_tensors = ("a",), ("P", "b", "A", "a")
    for grid in ((bias, all_tensors), (all_tensors, bias)):
        method = made.quick("finetune", adapts_grid=grid, inner_lr_grid=(3.0,), inner_steps_grid=(5,))
        lrs = method.fit(task, made.start(task, head), made.dev_draws(task, (5,)), 0).settings[5]
        assert torch.equal(lrs, constant_lr(3.0, 5, bias))
