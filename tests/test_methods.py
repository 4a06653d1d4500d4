"""SSL-E and every method without meta-learning, against paper or plain loops; nothing held out reaches any of them."""

import math
from pathlib import Path

import made
import numpy as np
import pytest
import torch

from perser import experiment, methods, model
from perser.adapt import constant_lr, prior_shift
from perser.data import folds, listener_groups, make_task, split
from perser.episodes import Episodes, batch_of, train_episodes, training_pools
from perser.methods import GradientModel
from perser.methods.base import setting_for
from perser.methods.finetune import fresh
from perser.methods.listener_embedding import ListenerEmbeddingModel
from perser.methods.nearest_listener import NearestListenerModel
from perser.methods.population_prior import prior_of
from perser.methods.prior_shift import PriorShiftModel
from perser.methods.ssl_e import cross_fitted, train
from perser.model import cross_entropy, logits
from perser.records import GROUPS
from perser.seeds import rng


@pytest.fixture(scope="module")
def task():
    return made.task()


@pytest.fixture(scope="module")
def head(task):
    return train(task, 0)._replace(mix=torch.tensor([0.3, -0.2]))


@pytest.fixture(scope="module")
def start(task, head):
    return made.start(task, head)


@pytest.fixture(scope="module")
def dev(task):
    return made.dev_draws(task)


@pytest.fixture(scope="module")
def episodes(task):
    pools = training_pools(task.data, task.split.train, "combined", 5, 6, 0)
    return train_episodes(pools, "combined", 5, 6, 3, rng(0, "test"))


def features_of(task, episodes, number):
    """Features and targets of one episode's support, and features of its query."""
    support, query = (torch.from_numpy(rating_ids[number]) for rating_ids in episodes)
    clip = torch.from_numpy(task.data.clip)
    return task.data.features[clip[support]], task.targets[support], task.data.features[clip[query]]


def answer(model, task, episodes, setting):
    """Logits (E, Q, C) of the query under one setting."""
    return next(model.answers(batch_of(task, episodes), [setting]))


def test_kinds_are_read_off_the_files():
    """A file defines the kind of its own name, spelled with hyphens; base.py defines none."""
    folder = methods.__path__[0]
    names = {path.stem.replace("_", "-") for path in Path(folder).glob("*.py")} - {"--init--", "base"}
    assert set(experiment.kinds()) == names


@pytest.mark.parametrize("kind", experiment.kinds())
def test_every_kind_has_a_title_a_group_and_what_timing_asks_of_it(kind, task, start, dev):
    method = made.quick(kind)
    fitted = method.fit(task, start, dev, 0)
    assert method.title and method.group in GROUPS and isinstance(fitted, method.Model)
    assert (method.learnt_numbers(fitted) > 0) == (method.group != "Control") and method.listener_numbers(fitted) >= 0
    assert (kind == "ssl-e") == (method.listener_numbers(fitted) == 0)
    shots = made.draws(task, task.split.train)[1, 5]
    if kind != "all-data":  # it has answered only the test listener
        assert answer(fitted, task, shots, method.costliest(fitted)).shape == (*shots.query.shape, 4)


POISONED = {kind: (kind, {}) for kind in experiment.kinds() if kind != "all-data"} | {
    "scratch": ("finetune", {"start": "scratch"}), "lslr": ("maml", {"lslr": True}),
    "meta-sgd": ("maml", {"per_weight_lr": True}), "reptile": ("maml", {"rule": "reptile"}),
    "cross-fitted": ("maml", {"crossfit": 0.5})}


def tensors_of(value) -> list[torch.Tensor]:
    """Every tensor in nested tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


@pytest.mark.parametrize("name", POISONED)
def test_a_fitted_model_does_not_change_when_held_out_ratings_and_clips_do(name):
    """Poison every rating of the test listeners and every feature of the test session: same weights, bit by bit."""
    data = made.arrays()
    part = split(data, 1, 0, listener_groups(data, 6, 25), False)
    test = np.isin(data.listener, [data.listeners.index(listener) for listener in part.test_listeners])
    labels, features = data.labels.clone(), data.features.clone()
    labels[test] = ~labels[test]
    features[data.session == folds(data.session)[0].test] = float("nan")
    kind, settings = POISONED[name]

    def fitted(data):
        task = make_task(data, part, made.BASE, True)
        return made.quick(kind, **settings).fit(task, made.start(task), made.dev_draws(task, (5,)), 0)

    clean, poisoned = fitted(data), fitted(data._replace(labels=labels, features=features))
    assert len(tensors_of(clean)) >= 5 and clean.settings.keys() == ({0} if kind == "ssl-e" else {5})
    for one, other in zip(tensors_of(clean), tensors_of(poisoned), strict=True):
        assert torch.equal(one, other)
    if not tensors_of(clean.settings):
        assert clean.settings == poisoned.settings


@pytest.mark.parametrize("change", [
    {"lr": 1e-3}, {"batch_size": 8}, {"epochs": 1}, {"grad_clip": 0.01}, {"label_smoothing": 0.2},
    {"class_weights": False}, {"targets": "pooled"}, {"seed": 1}])
def test_every_option_of_ssl_e_changes_it(change):
    def trained(seed=0, **changes):
        return train(made.task(made.BASE.model_copy(update=changes)), seed)

    assert all(map(torch.equal, trained(), trained()))
    assert not all(map(torch.equal, trained(), trained(**change)))


def test_the_hidden_width_is_that_of_the_settings():
    assert train(made.task(made.BASE.model_copy(update={"hidden": 4})), 0).P.shape[0] == 4


def test_prior_shift_on_paper():
    """Even answers to two shots of the first class, one pseudo-clip: shares (0.5 + 2)/3 and 0.5/3 against 0.5."""
    targets = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    shift = prior_shift(torch.zeros(1, 2, 2), targets, 1.0, 0.5)
    assert shift.flatten().tolist() == pytest.approx([0.5 * math.log(5 / 3), 0.5 * math.log(1 / 3)])
    assert prior_shift(torch.zeros(1, 2, 2), targets, 1e9, 1.0).abs().max() < 1e-6


def test_the_prior_shift_is_added_to_the_logits(task, head, episodes):
    answers = answer(PriorShiftModel(head, {}), task, episodes, (3.0, 1.0))
    for number in range(3):
        near, targets, far = features_of(task, episodes, number)
        shift = prior_shift(logits(head, near)[None], targets[None], 3.0, 1.0)[0]
        torch.testing.assert_close(answers[number], logits(head, far) + shift)


def test_prototypes_against_a_loop(task, head, start, dev, episodes):
    fitted = made.quick("prototypes").fit(task, start, dev, 0)
    answers = answer(fitted, task, episodes, (2.0, 0.5))
    near, targets, far = features_of(task, episodes, 1)
    hidden, queries = (model.mixed(head, clips) @ head.P.T + head.b for clips in (near, far))
    for c in range(4):
        weight = targets[:, c]
        mean = (2.0 * fitted.means[c] + (weight[:, None] * hidden).sum(0)) / (2.0 + weight.sum())
        expected = -((queries - mean) ** 2).sum(1) / (0.5 * fitted.spread)
        torch.testing.assert_close(answers[1, :, c], expected, rtol=1e-4, atol=1e-3)


def test_the_nearest_listener_is_the_one_who_answers_like_the_shots(task, head, episodes):
    """Of models of three listeners who always tick one class, the class of the shots decides."""
    width = task.data.features.shape[-1]
    offsets = torch.full((1, 3, 4), -3.0)
    offsets[0, torch.arange(3), torch.tensor([0, 1, 3])] = 3.0
    fitted = NearestListenerModel(head, torch.zeros(1, 3, 4, width), offsets, {})
    last_class = task._replace(targets=torch.eye(4)[3].expand(len(task.data.clip), 4))
    torch.testing.assert_close(answer(fitted, last_class, episodes, (0, 1)), offsets[0, 2].expand(3, 6, 4))
    torch.testing.assert_close(answer(fitted, last_class, episodes, (0, 3)), offsets[0].mean(0).expand(3, 6, 4))


def test_models_of_training_listeners_are_fine_tuned_on_their_ratings(task, head, start, dev):
    method = made.quick("nearest-listener", ratings=30, inner_lr_grid=(0.1,), inner_steps=2)
    fitted = method.fit(task, start, dev, 0)
    names = sorted({task.data.listeners[i] for i in task.data.listener[task.split.train]})
    assert fitted.maps.shape == (1, len(names), 4, 6) and len(names) == 5
    listener = task.data.listeners.index(names[2])
    ratings = task.split.train[task.data.listener[task.split.train] == listener]
    drawn = rng(0, "listener models", names[2]).choice(ratings, 30, replace=len(ratings) < 30)
    tuned = made.sgd(head, task.data.features[task.data.clip[drawn]], task.targets[torch.from_numpy(drawn)],
                     task.class_weights, 0.1, 2)
    torch.testing.assert_close(fitted.maps[0, 2], (tuned.A @ tuned.P).detach(), rtol=1e-4, atol=1e-5)


def test_a_zero_listener_embedding_is_the_shared_head_and_learns_by_descent(task, head, episodes):
    g = torch.Generator().manual_seed(0)
    U, V = torch.randn(2, 3, 8, generator=g)
    fitted = ListenerEmbeddingModel(head, U, V, torch.zeros(3), {})
    near, targets, far = features_of(task, episodes, 0)
    torch.testing.assert_close(answer(fitted, task, episodes, (0.2, 0))[0], logits(head, far))
    e = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.SGD([e], lr=0.2)

    def conditioned(clips):
        hidden = model.mixed(head, clips) @ head.P.T + head.b
        return (hidden * (1 + e @ U) + e @ V) @ head.A.T + head.a

    for _ in range(3):
        optimiser.zero_grad()
        cross_entropy(conditioned(near), targets, task.class_weights).backward()
        optimiser.step()
    answers = answer(fitted, task, episodes, (0.2, 3))[0]
    torch.testing.assert_close(answers, conditioned(far).detach(), rtol=1e-4, atol=1e-5)


def test_training_moves_head_and_embeddings(task, head):
    untrained, trained = (made.quick("listener-embedding", epochs=epochs, lr=1e-2).train(task, head, 0)
                          for epochs in (0, 3))
    assert torch.equal(untrained.head.P, head.P) and not torch.equal(untrained.U, trained.U)
    assert not torch.equal(untrained.start, trained.start)


@pytest.mark.parametrize("adapts_grid, factor_grid", [([("P", "b", "A", "a")], ()), ((), (1.0,))])
def test_the_upper_bound_answers_every_rating_without_having_seen_it(task, head, start, dev, adapts_grid, factor_grid):
    """Another answer to one rating changes the answers to the other parts, not to its own."""
    method = made.quick("all-data", parts=3, adapts_grid=adapts_grid, inner_lr_grid=(0.1,), inner_steps_grid=(2,),
                        factor_grid=factor_grid)
    candidate, = method._candidates(head, prior_of(task, head))
    name = task.split.test_listeners[0]
    listener = task.data.listeners.index(name)
    ratings = np.flatnonzero(task.data.listener == listener)
    table = method.cross_validated(task, candidate, [listener], ratings[:0], 0)
    assert not table[ratings].isnan().any() and table[task.data.listener != listener].isnan().all()
    targets = task.targets.clone()
    targets[ratings[0]] = targets[ratings[0]].flip(0)
    other = method.cross_validated(task._replace(targets=targets), candidate, [listener], ratings[:0], 0)
    same = (table[ratings] == other[ratings]).all(1)
    order = rng(0, "all data", name).permutation(ratings)
    part = next(order[i::3] for i in range(3) if ratings[0] in order[i::3])
    assert same[np.isin(ratings, part)].all() and not same[~np.isin(ratings, part)].any()
    fitted = method.fit(task, start, dev, 0)
    episodes = Episodes(ratings[None, :5], ratings[None, 5:9])
    torch.testing.assert_close(answer(fitted, task, episodes, fitted.settings[0])[0], table[ratings[5:9]])


def test_settings_of_one_grid_answer_as_alone(task, head, start, dev, episodes):
    """No setting of a grid changes the answers of the next one, whatever they share."""
    adapts = (("A", "a"), ("P", "b", "A", "a"), ("a",))
    span = [constant_lr(lr, steps, names) for (lr, steps), names in zip(((0.5, 3), (0.2, 1), (0.5, 3)), adapts)]
    weights = [*span, constant_lr(0.2, 2, ("mix", "a"))]
    nearest = made.quick("nearest-listener", inner_lr_grid=(0.1, 0.5), ratings=6, inner_steps=1)
    for fitted, grid in [(GradientModel(head, {}), span), (GradientModel(head, {}), weights),
                         (PriorShiftModel(head, {}), [(1.0, 0.5), (3.0, 1.0), (1.0, 1.0)]),
                         (made.quick("prototypes").fit(task, start, dev, 0), [(1.0, 0.5), (3.0, 1.0), (1.0, 1.0)]),
                         (nearest.fit(task, start, dev, 0), [(0, 2), (1, 1), (1, 2)]),
                         (made.quick("listener-embedding").train(task, head, 0), [(0.5, 2), (0.1, 1), (0.5, 1)])]:
        answers = list(fitted.answers(batch_of(task, episodes), grid))
        assert len({logits.numpy().tobytes() for logits in answers}) == len(grid)
        for setting, of_grid in zip(grid, answers, strict=True):
            torch.testing.assert_close(of_grid, answer(fitted, task, episodes, setting), rtol=1e-5, atol=1e-6)


def test_the_setting_for_other_shots_is_that_of_the_nearest_number_and_the_smaller_of_equals():
    fitted = PriorShiftModel(None, {5: "five", 10: "ten", 20: "twenty"})
    assert [setting_for(fitted, shots) for shots in (1, 5, 7, 8, 15, 16, 99)] == [
        "five", "five", "five", "ten", "ten", "twenty", "twenty"]


def test_from_scratch_starts_from_what_the_seed_alone_decides(task):
    assert torch.equal(fresh(task, 0).P, fresh(task, 0).P)
    assert not torch.equal(fresh(task, 0).P, fresh(task, 1).P)


def test_cross_fitted_heads_have_not_seen_their_session(task):
    """Poison one session's training features: only the head that was trained without it stays."""
    features = task.data.features.clone()
    features[task.data.session == 2] *= -1
    clean = cross_fitted(task, 0)
    poisoned = cross_fitted(task._replace(data=task.data._replace(features=features)), 0)
    assert set(clean) == {1, 2, 3}
    assert [torch.equal(clean[session].P, poisoned[session].P) for session in (1, 2, 3)] == [False, True, False]
