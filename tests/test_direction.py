"""Tests of direction: expected values come from paper or from a plain loop, so the opposite choice fails.

A test that an option changes the outcome passes for the wrong change too. `tests/mutants.py` makes such changes to the
library, one at a time, and checks that the tests here fail.
"""

import inspect
import math
from typing import NamedTuple

import made
import mutants
import numpy as np
import pandas as pd
import pytest
import torch

from perser import checkpoints, personal, seeds, workers
from perser.adapt import constant_lr
from perser.analysis.experiments import methods as comparison
from perser.checkpoints import Checkpoint
from perser.data import Data, listener_groups, make_task, rating_targets, split
from perser.episodes import Episodes, batch_of, draws_by_listener, train_episodes, training_pools
from perser.evaluate import choose
from perser.methods import maml, ssl_e
from perser.methods.base import GradientModel, Start, setting_for
from perser.methods.listener_embedding import ListenerEmbedding
from perser.methods.maml import Maml, metatrain, outer_loss, step_weights
from perser.model import Head, class_balanced_weights, cross_entropy, init, logits, mixed, predict, soft_f1
from perser.records import GROUPS, MethodInfo, Run
from perser.settings import Base


@pytest.fixture(scope="module")
def task():
    data = made.arrays()
    return make_task(data, split(data, 1, 0, listener_groups(data, 6, 25), False), Base(hidden=8), True)


@pytest.fixture(scope="module")
def start(task):
    return random_head(task, 0)


@pytest.fixture(scope="module")
def dev(task):
    return draws_by_listener(task.data, task.split.dev, (3, 12), 2, 5, 0, "dev draws")


def random_head(task, seed):
    _, layers, width = task.data.features.shape
    generator = torch.Generator().manual_seed(seed)
    return init(layers, width, 8, 4, generator)._replace(mix=torch.randn(layers, generator=generator))


# Early stopping.


def trajectory(tensors, loss, train, dev, order, base, lr, epochs):
    """Train in a plain loop. Returns (dev loss, tensors) of the start and of every epoch."""
    optimiser, states = torch.optim.AdamW(tensors, lr=lr), []
    for epoch in range(epochs + 1):
        states.append((loss(*dev).item(), [tensor.detach().clone() for tensor in tensors]))
        for rows in torch.randperm(len(train[0]), generator=order).split(base.batch_size) if epoch < epochs else ():
            optimiser.zero_grad()
            loss(*(part[rows] for part in train)).backward()
            torch.nn.utils.clip_grad_norm_(tensors, base.grad_clip)
            optimiser.step()
    return states


def best_epoch(states):
    """The tensors of lowest dev loss. The first and the last epoch must be clearly worse, or the test shows nothing."""
    losses = [loss for loss, _ in states]
    best = int(np.argmin(losses))
    assert 0 < best < len(losses) - 1 and min(losses[0], losses[-1]) > losses[best] + 0.01, losses
    return states[best][1]


def leaves(tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


def test_ssl_e_keeps_the_epoch_of_lowest_dev_loss(task):
    base, fold = task.base.model_copy(update={"lr": 0.1, "epochs": 5}), task.split.fold
    _, layers, width = task.data.features.shape
    tensors = leaves(init(layers, width, base.hidden, 4, seeds.generator(0, "init", fold)))

    def loss(features, targets):
        return cross_entropy(logits(Head(*tensors), features), targets, task.class_weights)

    train, dev = (ssl_e.labelled(task, pool) for pool in (task.split.train, task.split.base_dev))
    states = trajectory(tensors, loss, train, dev, seeds.generator(0, "batches", fold), base, base.lr, base.epochs)
    torch.testing.assert_close(list(ssl_e.train(task._replace(base=base), 0)), best_epoch(states), rtol=1e-3, atol=1e-4)


def test_the_listener_embedding_keeps_the_epoch_of_lowest_dev_loss(task, start):
    method, where = ListenerEmbedding(size=3, lr=0.05, epochs=7), task.split
    order = seeds.generator(0, "embedding", where.fold, where.group)
    embeddings = 0.1 * torch.randn(len(task.data.listeners), 3, generator=order)
    tensors = leaves([*start, *(0.1 * torch.randn(2, 3, 8, generator=order)), embeddings])

    def loss(features, targets, listener):
        *head, U, V, embeddings = tensors
        e, hidden = embeddings[listener], mixed(Head(*head), features) @ head[1].T + head[2]
        return cross_entropy((hidden * (1 + e @ U) + e @ V) @ head[3].T + head[4], targets, task.class_weights)

    train, dev = ((task.data.features[task.data.clip[pool]], task.targets[pool], torch.tensor(task.data.listener[pool]))
                  for pool in (where.train, where.base_dev))
    states = trajectory(tensors, loss, train, dev, order, task.base, method.lr, method.epochs)
    *expected, embeddings = best_epoch(states)
    model = method.train(task, start, 0)
    known = np.unique(task.data.listener[where.train])
    torch.testing.assert_close([*model.head, model.U, model.V, model.start], [*expected, embeddings[known].mean(0)],
                               rtol=1e-3, atol=1e-4)


# Meta-training.


@pytest.fixture
def outer_steps(monkeypatch):
    """Outer steps as they are made: the learning rates of Adam's two groups, and their tensors after the step."""
    steps = []

    class Recorded(torch.optim.Adam):
        def step(self):
            lrs = [group["lr"] for group in self.param_groups]
            super().step()
            steps.append((lrs, [[tensor.detach().clone() for tensor in group["params"]]
                                for group in self.param_groups]))

    monkeypatch.setattr(torch.optim, "Adam", Recorded)
    return steps


def meta_train(task, start, dev, others=None, **changes):
    method = Maml(**{"epochs": 1, "outer_steps_per_epoch": 3, "meta_batch_size": 2, "query": 5, "inner_steps": 2,
                     "early_stopping": "last", **changes})
    return metatrain(task, start, constant_lr(0.1, method.inner_steps), method, dev, 0, others)[0]


def test_the_cosine_falls_to_zero_over_all_outer_steps_of_all_epochs(task, start, dev, outer_steps):
    """Two epochs of three steps: (1 + cos(180 t / 6)) / 2 of the first value, for t = 0 to 5."""
    meta_train(task, start, dev, epochs=2, lslr=True, outer_lr=0.01, lslr_lr=0.002)
    third = math.sqrt(3) / 2
    falling = [1, (1 + third) / 2, 3 / 4, 1 / 2, 1 / 4, (1 - third) / 2]
    for group, first in enumerate((0.01, 0.002)):
        assert [lrs[group] for lrs, _ in outer_steps] == pytest.approx([first * share for share in falling])


def test_the_running_mean_keeps_its_decay_of_the_past(task, start, dev, outer_steps):
    """With a decay of 0.9, the mean moves a tenth of the distance to the weights at every outer step."""
    model = meta_train(task, start, dev, ema_decay=0.9, outer_lr=0.1)
    mean = start
    for _, ([*weights], _) in outer_steps:
        mean = Head(*(0.9 * past + 0.1 * weight for past, weight in zip(mean, weights)))
    torch.testing.assert_close(model.head, mean)
    assert (model.head.P - start.P).norm() < 0.3 * (outer_steps[-1][1][0][1] - start.P).norm()


def test_learning_rates_by_shots_are_centred_on_the_geometric_mean(task, start, dev, outer_steps):
    """The geometric mean of 3 and 12 shots is 6, a factor of two from both: the product of their rates is the square
    of the common rate, whatever the power.
    """
    model = meta_train(task, start, dev, lslr=True, lr_by_shots=True, lslr_lr=0.05)
    common, power = outer_steps[-1][1][1]
    assert abs(power) > 0.05
    for shots, factor in ((3, 0.5), (12, 2.0)):
        torch.testing.assert_close(model.settings[shots][:, 1:], (common * factor**power)[:, 1:])
    torch.testing.assert_close(model.settings[3] * model.settings[12], torch.where(constant_lr(1, 2) > 0, common**2, 0))


def test_dropout_scales_the_dimensions_that_stay(task, start, dev, monkeypatch):
    """With a share of 0.6 left out, the others are scaled by 1 / 0.4 = 2.5, so the mean factor is 1."""
    factors = []

    def recorded(*args):
        factors.append(inspect.signature(outer_loss).bind(*args).arguments["keep"])
        return outer_loss(*args)

    monkeypatch.setattr(maml, "outer_loss", recorded)
    meta_train(task, start, dev, dropout=0.6, outer_steps_per_epoch=100)
    factors = torch.stack(factors)
    assert factors.shape == (100, 6) and set(factors.flatten().tolist()) == {0.0, 2.5}
    assert float((factors == 0).float().mean()) == pytest.approx(0.6, abs=0.06)
    assert float(factors.mean()) == pytest.approx(1, abs=0.15)


def test_factors_on_the_features_are_factors_on_the_features(task, start):
    episodes, keep = some_episodes(task, 3, 6, 4), torch.tensor([0, 2.5, 2.5, 0, 0, 2.5])
    scaled = task._replace(data=task.data._replace(features=task.data.features * keep))
    model = GradientModel(start, {3: constant_lr(0.2, 3)})
    torch.testing.assert_close(outer_loss(task, model, episodes, True, keep=keep),
                               outer_loss(scaled, model, episodes, True))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_crossfit_is_the_share_of_steps_on_a_session_new_to_the_head(task, start, dev, share, monkeypatch):
    """With an outer loss without slope no head moves, so that the head of a step shows where it comes from."""
    others = {session: random_head(task, session) for session in (1, 2, 3)}
    sessions, steps = task.data.session[task.data.clip], []

    def flat(task, model, episodes, *rest):
        steps.append((model.head, set(sessions[np.concatenate(episodes, 1)].flat)))
        return 0 * sum(tensor.sum() for tensor in model.head)

    monkeypatch.setattr(maml, "outer_loss", flat)
    meta_train(task, start, dev, others, crossfit=share, outer_steps_per_epoch=400)
    held_out = []
    for head, of_clips in steps:
        if torch.equal(head.P, start.P):
            assert len(of_clips) > 1
        else:
            [session] = of_clips
            torch.testing.assert_close(head, others[session])
            held_out.append(session)
    assert len(held_out) / 400 == pytest.approx(share, abs=0.07 if 0 < share < 1 else 0)
    assert not share or min(np.bincount(held_out)[1:]) > 0.25 * len(held_out)


def test_no_weight_of_the_multi_step_loss_falls_below_its_floor():
    """Five steps over 100 epochs: max((1 - epoch/100) / 5, 0.03 / 5) before the last step, which has the rest."""
    for epoch, early in ((0, 0.2), (50, 0.1), (96, 0.008), (98, 0.006), (99, 0.006)):
        assert step_weights(epoch, 100, 1.0, 5) == pytest.approx([early] * 4 + [1 - 4 * early])
    assert step_weights(49, 100, 0.5, 5) == pytest.approx([0.006] * 4 + [0.976])
    assert step_weights(50, 100, 0.5, 5) == pytest.approx([0, 0, 0, 0, 1])


# Episodes.


def ratings_of(*counts):
    """Data with one listener for each count of ratings."""
    listener = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"E{number}" for number in range(len(counts)))
    return Data(torch.zeros(sum(counts), 1, 1), np.ones(sum(counts)), np.arange(sum(counts)), listener,
                torch.ones(sum(counts), 2, dtype=torch.bool), names, (), ())


@pytest.mark.parametrize("csmt, shots, query, least", [
    ("split", 5, 8, 16), ("split", 8, 5, 16), ("combined", 5, 8, 13), ("shared", 5, 8, 13)])
def test_training_listeners_have_enough_ratings_for_an_episode(csmt, shots, query, least):
    """Both halves of a split pool must hold the larger of 5 and 8 ratings: 16. A combined pool holds their sum: 13.

    Listeners 0 and 3 have less than a tenth of all ratings.
    """
    data = ratings_of(least - 1, least, least + 1, 8, 400)
    pools = training_pools(data, np.arange(len(data.listener)), csmt, shots, query, 0)
    assert set(data.listener[pools.ratings]) == {1, 2, 4}
    assert np.diff(pools.starts).tolist() == [least, least + 1, 400] and pools.least == least
    episodes = train_episodes(pools, csmt, shots, query, 200, seeds.rng(0, "test"))
    for support, asked in zip(*episodes):
        assert len(set(support)) == shots and len(set(asked)) == (shots if csmt == "shared" else query)
        assert csmt == "shared" or not set(support) & set(asked)
        assert len(set(data.listener[[*support, *asked]])) == 1


# First order.


def some_episodes(task, shots, query, count):
    pools = training_pools(task.data, task.split.train, "combined", shots, query, 0)
    return train_episodes(pools, "combined", shots, query, count, seeds.rng(0, "test"))


def plain_loss(task, head, inner_lr, episodes, second):
    """The outer loss by autograd: in first order, an inner gradient is a constant."""
    losses = []
    for support, query in zip(*map(torch.from_numpy, episodes)):
        fast, clip = head, torch.from_numpy(task.data.clip)
        for lrs in inner_lr:
            loss = cross_entropy(logits(fast, task.data.features[clip[support]]), task.targets[support],
                                 task.class_weights)
            slopes = torch.autograd.grad(loss, fast, create_graph=second)
            fast = Head(*(tensor - lr * slope for tensor, lr, slope in zip(fast, lrs, slopes)))
        losses.append(cross_entropy(logits(fast, task.data.features[clip[query]]), task.targets[query],
                                    task.class_weights))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("adapts", [("P", "b", "A", "a"), ("mix", "P", "b", "A", "a")], ids=["span", "weights"])
@pytest.mark.parametrize("shots, query, count, query_dominates", [(6, 4, 3, False), (2, 30, 2, True)],
                         ids=["projected", "unprojected"])
def test_in_first_order_inner_gradients_are_constants(task, start, adapts, shots, query, count, query_dominates):
    """Meta-gradients of all tensors and inner learning rates, in both orders and all forms of the inner loop."""
    task = task._replace(data=task.data._replace(features=task.data.features.double()), targets=task.targets.double(),
                         class_weights=task.class_weights.double(),
                         inner_class_weights=task.inner_class_weights.double())
    episodes, gradients = some_episodes(task, shots, query, count), {}
    batch = batch_of(task, episodes)
    assert (len(batch.clips) > 2 * batch.support_clips) == query_dominates
    rates = constant_lr(0.2, 3, adapts).double() * torch.tensor([[1.0], [2.0], [0.5]])
    for second in (True, False):
        for loss in (plain_loss, None):
            head, inner_lr = Head(*leaves(tensor.double() for tensor in start)), rates.clone().requires_grad_()
            value = (loss(task, head, inner_lr, episodes, second) if loss else
                     outer_loss(task, GradientModel(head, {shots: inner_lr}), episodes, second))
            value.backward()
            gradients[second, loss] = [*(tensor.grad for tensor in head), inner_lr.grad * (rates > 0)]
        torch.testing.assert_close(gradients[second, None], gradients[second, plain_loss], rtol=1e-9, atol=1e-12)
    for first, exact in zip(gradients[False, plain_loss], gradients[True, plain_loss]):
        assert (first - exact).abs().max() > 1e-3 * exact.abs().max()


# New listeners, rivals, thresholds.


def test_adapt_takes_the_settings_of_the_nearest_number_of_shots(task, start, tmp_path, monkeypatch):
    """A model with settings for 3 shots (rates of zero) and for 12: 5 ratings adapt as 3 do, 9 and 20 ratings as 12."""
    model = GradientModel(start, {3: constant_lr(0.0, 2), 12: constant_lr(0.3, 2)})
    checkpoints.save(Checkpoint(model, task.mean, task.scale, task.class_weights, made.ABOUT), tmp_path / "model")
    monkeypatch.setattr(personal, "embed", lambda files, *_: task.data.features[:len(files)])
    for shots, moves in ((5, False), (9, True), (20, True)):
        labels = [made.CLASSES[number % 3] for number in range(shots)]
        for number in range(shots):
            (tmp_path / f"{number}.wav").touch()
        rows = "".join(f"{number}.wav,{label}\n" for number, label in enumerate(labels))
        (tmp_path / "ratings.csv").write_text(f"clip,label\n{rows}")
        head = personal.adapt(tmp_path / "model", tmp_path / "ratings.csv", tmp_path, tmp_path / "store").head
        ticks = torch.tensor([[name == label for name in made.CLASSES] for label in labels])
        expected = Head(*leaves(start))
        optimiser = torch.optim.SGD(expected[1:], lr=0.3)
        for _ in range(2 if moves else 0):
            optimiser.zero_grad()
            cross_entropy(logits(expected, task.data.features[:shots]), rating_targets(ticks, 0.05),
                          task.class_weights).backward()
            optimiser.step()
        torch.testing.assert_close(head, Head(*(tensor.detach() for tensor in expected)), rtol=1e-4, atol=1e-5)
        assert torch.equal(head.P, start.P) != moves


def test_the_smaller_of_two_equally_near_numbers_of_shots_is_used(start):
    model = GradientModel(start, {10: "ten", 6: "six", 40: "forty"})
    assert [setting_for(model, shots) for shots in (1, 6, 8, 9, 25, 26, 99)] == [
        "six", "six", "six", "ten", "ten", "forty", "forty"]


def test_the_best_rival_has_the_highest_mean():
    """`uneven` has mean 0.4 and median 0.1, `even` has 0.3 for both; a meta-learning method is no rival."""
    levels = {"even": (0.3, 0.3, 0.3), "uneven": (0.1, 0.1, 1.0), "low": (0.2, 0.2, 0.2), "maml": (0.9, 0.9, 0.9)}
    scores = pd.DataFrame([(method, setting, 5, f"E{number}", 0, level)
                           for method, values in levels.items() for setting in ("seen", "unseen")
                           for number, level in enumerate(values)],
                          columns=["method", "setting", "shots", "listener", "seed", "f1"])
    infos = {method: MethodInfo(title=method, group=GROUPS[method == "maml"], kind="finetune") for method in levels}
    manifest = type("Manifest", (), {"methods": infos})
    assert comparison.best_rival(Run(scores, manifest), scores, "unseen", 5, "f1") == "uneven"


def test_a_share_of_exactly_one_in_c_is_no_positive():
    """Two clips, so beta = 1/2. Positives are 2, 0, 0, 0, and 0 counts as 1: weights 2/3, 1, 1, 1, scaled to sum 4."""
    targets = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.75, 0.25, 0.0, 0.0]])
    assert class_balanced_weights(targets).tolist() == pytest.approx([8 / 11, 12 / 11, 12 / 11, 12 / 11])


def test_a_probability_of_exactly_one_in_c_is_not_predicted():
    """Probabilities: 1/4 four times; 1/2, 1/4, 1/8, 1/8; 0.3, 0.3, 0.2, 0.2."""
    answers = torch.tensor([[1.0, 1, 1, 1], [4, 2, 1, 1], [3, 3, 2, 2]]).log()
    assert answers[1].softmax(-1)[1] == 0.25
    assert predict(answers).tolist() == [[False] * 4, [True, False, False, False], [True, True, False, False]]


# The mutants.


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_that_a_mutant_replaces_occurs_once(mutant):
    assert mutants.occurrences(mutant, mutants.ROOT) == 1
    assert callable(globals()[mutant.test])


# Losses of the shots, the score that chooses, the soft F1 of rivals, learning rates in log space.


def test_inner_class_weights_are_those_of_the_shots_alone():
    data = made.arrays()
    pools = split(data, 1, 0, listener_groups(data, 6, 25), False)
    tasks = {inner: make_task(data, pools, Base(hidden=8, class_weights=outer, inner_class_weights=inner), True)
             for outer, inner in ((False, True), (True, False))}
    for inner, task in tasks.items():
        weights = tasks[True].inner_class_weights
        assert (weights != 1).any()
        assert torch.equal(task.inner_class_weights, weights if inner else torch.ones(4))
        assert torch.equal(task.class_weights, torch.ones(4) if inner else weights)
        episodes = Episodes(np.array([[0, 1]]), np.array([[2]]))
        assert torch.equal(batch_of(task, episodes).class_weights, task.inner_class_weights)
    unset = make_task(data, pools, Base(hidden=8, class_weights=True), True)
    assert torch.equal(unset.inner_class_weights, unset.class_weights)


class Sharpness(NamedTuple):
    """Logits of a fixed head times the setting: the macro F1 of the threshold rule and the log loss differ in taste."""

    head: Head
    settings: dict

    def answers(self, batch, settings):
        values = logits(self.head, batch.features[batch.clips])
        for factor in settings:
            yield values[batch.query] * factor


def test_a_grid_is_chosen_by_the_score_that_the_base_names(task, start, dev):
    """The choice is the best of the grid by the score computed here, and the two scores choose differently."""
    factors, chosen = (0.0, 0.3, 1.0, 3.0, 10.0), {}
    for name in ("f1", "loss"):
        asked = task._replace(base=task.base.model_copy(update={"chosen_by": name}))
        chosen[name] = choose(asked, Sharpness(start, {}), factors, dev, per_shots=False)[3]
    entropy, f1 = [], []
    for factor in factors:
        per_listener = []
        for (_, _), part in dev.items():
            z = logits(start, task.data.features[task.data.clip[part.query.ravel()]]) * factor
            labels = task.data.labels[part.query.ravel()]
            targets = labels.double() / labels.sum(1, keepdim=True)
            hits = predict(z)
            tp, fp, fn = (hits & labels).sum(0), (hits & ~labels).sum(0), (~hits & labels).sum(0)
            per_listener.append((-(targets * z.double().log_softmax(1)).sum(1).mean(),
                                 (2 * tp / (2 * tp + fp + fn))[tp + fp + fn > 0].double().mean()))
        entropy.append(np.mean([loss for loss, _ in per_listener]))
        f1.append(np.mean([score for _, score in per_listener]))
    assert chosen == {"f1": factors[int(np.argmax(f1))], "loss": factors[int(np.argmin(entropy))]}
    assert chosen["f1"] != chosen["loss"]


@pytest.mark.parametrize("kind, changes", [("listener-embedding", {"epochs": 12, "lr": 0.02}), ("finetune", {})])
def test_rivals_trained_on_the_soft_f1_have_a_higher_soft_f1_and_a_higher_loss(task, start, dev, kind, changes):
    """On the training ratings, against the same training on the cross entropy alone."""
    task = task._replace(base=task.base.model_copy(update={"lr": 0.02}))
    ratings = torch.from_numpy(task.split.train)
    scores = {}
    for share in (0.0, 0.95):
        method = made.quick(kind, soft_f1=share, **changes)
        head = (method.train(task, start, 0) if kind == "listener-embedding"
                else method.fit(task, Start(ssl_e.train(task, 0), dict), dev, 0)).head
        z = logits(head, task.data.features[task.data.clip[ratings]])
        scores[share] = (float(soft_f1(z, task.data.labels[ratings])),
                         float(cross_entropy(z, task.targets[ratings], torch.ones(4))))
    assert scores[0.95][0] > scores[0.0][0] + 0.01 and scores[0.95][1] > scores[0.0][1], scores


def test_learning_rates_in_log_space_keep_their_sign_and_move_by_factors(task, start, dev):
    """Adam's first step is its learning rate: after one outer step every rate is its first value times exp(+-lr)."""
    method = Maml(lslr=True, lslr_log=True, lslr_lr=0.5, outer_lr=1e-12, inner_steps=2, epochs=1,
                  outer_steps_per_epoch=1, meta_batch_size=2, query=4, early_stopping="last")
    first = constant_lr(0.01, 2)
    model, _ = metatrain(task, start, first, method, dev, 0)
    factors = model.settings[3][:, 1:] / first[:, 1:]
    torch.testing.assert_close(factors.log().abs(), torch.full((2, 4), 0.5), rtol=1e-3, atol=1e-4)
    assert not model.settings[3][:, 0].any()


def test_the_dev_losses_of_meta_training_are_start_largest_and_kept(task, start, dev):
    method = Maml(lslr=True, lslr_lr=2.0, outer_lr=0.2, epochs=3, outer_steps_per_epoch=2, meta_batch_size=2, query=4)
    model, history = metatrain(task, start, constant_lr(0.1, 5), method, dev, 0)
    losses = [row["dev_loss"] for row in history]
    assert max(losses) > losses[0], "the test needs a training that diverges"
    assert model.dev_losses == (losses[0], max(losses), losses[model.epoch])
    rows = workers.learnt(model).set_index("tensor")["value"]
    assert [rows[name] for name in workers.DEV_LOSSES] == pytest.approx(model.dev_losses)
