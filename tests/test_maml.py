"""Meta-training: every option changes it, the kept epoch is the best, outer gradients are those of learn2learn."""

import made
import numpy as np
import pytest
import torch
from torch import nn

from perser.adapt import constant_lr, personal_heads
from perser.episodes import Episodes, batch_of, train_episodes, training_pools
from perser.evaluate import dev_score
from perser.methods import GradientModel
from perser.methods.maml import Maml, _sources, metatrain, outer_loss, reptile_gradient, step_weights
from perser.methods.ssl_e import cross_fitted, train
from perser.model import TENSORS, Head, cross_entropy, mixed
from perser.seeds import rng


@pytest.fixture(scope="module")
def task():
    return made.task()


@pytest.fixture(scope="module")
def head(task):
    return train(task, 0)


@pytest.fixture(scope="module")
def others(task):
    return cross_fitted(task, 0)


@pytest.fixture(scope="module")
def learn(task, head, others):
    """Meta-train with some options: the model and the history."""
    dev = made.dev_draws(task)

    def run(seed=0, **changes):
        method = Maml(**{"epochs": 2, "outer_steps_per_epoch": 2, "query": 5, "meta_batch_size": 4, **changes})
        lrs = constant_lr(method.inner_lr_grid[0], method.inner_steps, method.adapts)
        return metatrain(task, head, lrs, method, dev, seed, others if method.crossfit else {})

    return run


@pytest.fixture(scope="module")
def plain(learn):
    return learn()


@pytest.mark.parametrize("change", [
    {"csmt": "split"}, {"csmt": "shared"}, {"anneal": 1.0}, {"anneal": 0.5}, {"lslr": True}, {"adapts": ("A", "a")},
    {"adapts": ("mix", "P", "b", "A", "a")}, {"inner_steps": 2}, {"inner_lr_grid": (0.02,)}, {"outer_lr": 0.01},
    {"epochs": 1}, {"outer_steps_per_epoch": 3}, {"meta_batch_size": 2}, {"query": 4}, {"grad_clip": 0.001},
    {"seed": 1}, {"rule": "reptile"}, {"per_weight_lr": True}, {"msl": 1.0}, {"dropout": 0.3}, {"soft_f1": 0.5},
    {"ema_decay": 0.5}, {"crossfit": 1.0}, {"lslr": True, "lr_by_shots": True},
    {"lslr": True, "lslr_log": True}])
def test_every_option_of_meta_training_changes_it(learn, plain, change):
    model, history = learn(**change)
    assert history[1:] != plain[1][1:]
    if "per_weight_lr" not in change:
        assert len(model.settings[5]) == change.get("inner_steps", 5)


def test_every_option_of_meta_training_is_tested():
    """Those that only matter with another option, and the list of first learning rates, have tests of their own."""
    parameters = test_every_option_of_meta_training_changes_it.pytestmark[0].args[1]
    tested = {key for change in parameters for key in change} - {"seed"}
    assert set(Maml.model_fields) - tested == {"kind", "title", "lslr_lr", "early_stopping"}


def test_meta_training_again_gives_the_same(learn, plain):
    model, history = learn()
    assert history == plain[1] and all(map(torch.equal, model.head, plain[0].head))
    assert torch.equal(model.settings[5], plain[0].settings[5])


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_the_kept_epoch_is_the_best_by_its_criterion(task, learn, share):
    """The history is the same; the kept model scores as the best epoch of its criterion, with the loss of training."""
    best = {"loss": lambda rows: min(rows, key=lambda row: row["dev_loss"]),
            "f1": lambda rows: max(rows, key=lambda row: row["dev_f1"]), "last": lambda rows: rows[-1]}
    histories = []
    for criterion, pick in best.items():
        model, history = learn(early_stopping=criterion, epochs=4, outer_lr=0.05, soft_f1=share)
        f1, loss = dev_score(task, model, made.dev_draws(task), share)
        assert (f1, loss) == (pick(history)["dev_f1"], pick(history)["dev_loss"])
        assert model.epoch == pick(history)["epoch"]
        histories.append(history)
    assert histories[0] == histories[1] == histories[2]


@pytest.mark.parametrize("settings", [
    {"per_weight_lr": True, "lslr": True}, {"per_weight_lr": True, "msl": 0.5}, {"per_weight_lr": True, "dropout": 0.5},
    {"rule": "reptile", "soft_f1": 0.5}, {"rule": "reptile", "lslr": True},
    {"rule": "reptile", "adapts": ("mix", "a")}])
def test_options_that_exclude_each_other_are_refused(settings):
    with pytest.raises(ValueError, match="excludes"):
        Maml(**settings)


def test_the_learning_rate_of_learning_rates_matters_only_where_they_are_learnt(learn, plain):
    assert learn(lslr=True, lslr_lr=0.1)[1] != learn(lslr=True)[1]
    assert learn(lslr_lr=0.1)[1] == plain[1]


@pytest.mark.parametrize("change", [{"lslr": True, "dropout": 0.3},
                                    {"lslr": True, "lr_by_shots": True, "dropout": 0.3}, {"per_weight_lr": True}])
def test_training_that_diverges_keeps_the_best_epoch_before(learn, change):
    """Learning rates that become infinite or no number at all end no run; a start that nothing beats is kept."""
    model, history = learn(lslr_lr=1e6, outer_lr=1e6, epochs=3, **change)
    assert np.isnan(history[-1]["dev_loss"]) and model.epoch == 0
    assert all(torch.isfinite(tensor).all() for tensor in model.head)


def test_learning_rates_by_shots_are_a_learnt_power_of_their_number(learn):
    """Around the geometric mean of the numbers trained: 3 and 5 shots are equally far from it, on either side."""
    one, equal_history = learn(lslr=True, lslr_lr=0.1)
    assert torch.equal(one.settings[3], one.settings[5])
    model, history = learn(lslr=True, lr_by_shots=True, lslr_lr=0.1)
    few, many = model.settings[3][:, 1:], model.settings[5][:, 1:]
    power = (many / few).log() / torch.tensor(5 / 3).log()
    assert model.epoch and power.std() < 1e-4 and power.mean().abs() > 0.01
    assert history[1:] != equal_history[1:]
    with pytest.raises(ValueError, match="lr_by_shots needs lslr"):
        Maml(lr_by_shots=True)


def test_learning_rates_of_tensors_that_do_not_adapt_stay_zero(learn):
    """Those of the others are learnt: after the last epoch none is what it was at first."""
    model, _ = learn(lslr=True, adapts=("A", "a"), lslr_lr=0.1, early_stopping="last")
    lrs = model.settings[5]
    assert (lrs[:, :3] == 0).all() and (lrs[:, 3:] != constant_lr(0.001, 5)[:, 3:]).all()


@pytest.fixture(scope="module")
def tilted(head):
    """SSL-E with layer weights that differ."""
    return head._replace(mix=torch.tensor([0.3, -0.2]))


@pytest.fixture(scope="module")
def episodes(task):
    pools = training_pools(task.data, task.split.train, "combined", 5, 6, 0)
    return train_episodes(pools, "combined", 5, 6, 3, rng(0, "test"))


def test_a_cross_fitted_outer_step_uses_the_clips_and_the_head_of_its_session(task, head, others):
    everything, *held_out = _sources(task, head, others, Maml(query=5), (3, 5), 0)
    assert everything.change is None and set(everything.pools.ratings) == set(task.split.train)
    for (session, other), (change, pools, queries) in zip(others.items(), held_out, strict=True):
        assert torch.allclose(head.P + change.P, other.P) and queries == {3: 5, 5: 5}
        clips = task.data.clip[pools.ratings]
        assert set(task.data.session[clips]) == {session}


def features_of(task, episodes):
    """Features and targets of the first episode's support, and features of its query."""
    support, query = (torch.from_numpy(rating_ids[0]) for rating_ids in episodes)
    clip = torch.from_numpy(task.data.clip)
    return task.data.features[clip[support]], task.targets[support], task.data.features[clip[query]]


def single(episodes):
    return Episodes(episodes.support[:1], episodes.query[:1])


@pytest.mark.reference
def test_anil_is_learn2learn_on_the_last_layer(task, tilted, episodes):
    """Logits after three steps, and the meta-gradient of all tensors, those that do not adapt included."""
    from benchmarks.reference import learn2learn

    exact, theirs = (Head(*(t.detach().clone().requires_grad_() for t in tilted)) for _ in range(2))
    lrs = constant_lr(0.2, 3, ("A", "a"))
    answers = next(personal_heads(exact, [lrs], batch_of(task, single(episodes)), second_order=True)).query_logits()
    answers.square().sum().backward()
    last = nn.Linear(8, 4)
    last.weight.data, last.bias.data = tilted.A.clone(), tilted.a.clone()
    near, targets, far = features_of(task, episodes)
    near, far = (mixed(theirs, clips) @ theirs.P.T + theirs.b for clips in (near, far))
    learner = learn2learn.algorithms.MAML(last, lr=0.2).clone()
    for _ in range(3):
        learner.adapt(cross_entropy(learner(near), targets, task.class_weights))
    expected = learner(far)
    expected.square().sum().backward()
    torch.testing.assert_close(answers[0], expected, rtol=1e-4, atol=1e-5)
    slopes = {name: getattr(theirs, name).grad for name in ("mix", "P", "b")}
    for name, slope in (slopes | {"A": last.weight.grad, "a": last.bias.grad}).items():
        assert slope.abs().max() > 1e-3
        torch.testing.assert_close(getattr(exact, name).grad, slope, rtol=1e-4, atol=1e-4)


@pytest.mark.reference
def test_learning_rates_per_weight_are_the_meta_sgd_of_learn2learn(task, tilted, episodes):
    """Logits after two steps, and the gradients of all weights and of all learning rates."""
    from benchmarks.reference import Downstream, learn2learn

    first = Head(*(t.detach().clone().requires_grad_() for t in tilted))
    lrs = Head(*(torch.full_like(t, 0.1).requires_grad_() for t in first))
    by_step = Head(*(lr.expand(2, *lr.shape) for lr in lrs))
    answers = next(personal_heads(first, [by_step], batch_of(task, single(episodes)), second_order=True)).query_logits()
    answers.square().sum().backward()
    model = learn2learn.algorithms.MetaSGD(Downstream(first), lr=0.1)
    learner = model.clone()
    near, targets, far = features_of(task, episodes)
    for _ in range(2):
        learner.adapt(cross_entropy(learner(near), targets, task.class_weights))
    theirs = learner(far)
    theirs.square().sum().backward()
    torch.testing.assert_close(answers[0].detach(), theirs.detach(), rtol=1e-4, atol=1e-5)
    names = [name for name, _ in model.module.named_parameters()]
    for name, lr in zip(names, model.lrs, strict=True):
        torch.testing.assert_close(getattr(lrs, name).grad, lr.grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(getattr(first, name).grad, getattr(model.module, name).grad, rtol=1e-3, atol=1e-3)


def test_reptile_points_to_the_mean_of_plainly_trained_weights(task, tilted, episodes):
    gradient = reptile_gradient(task, GradientModel(tilted, {5: constant_lr(0.2, 3)}), episodes)
    ends = []
    for support, query in zip(*episodes, strict=True):
        ratings = np.concatenate([support, query])
        ends.append(made.sgd(tilted, task.data.features[task.data.clip[ratings]],
                             task.targets[torch.from_numpy(ratings)], task.class_weights, 0.2, 3))
    for name in ("P", "b", "A", "a"):
        mean = torch.stack([getattr(end, name).detach() for end in ends]).mean(0)
        torch.testing.assert_close(getattr(gradient, name), getattr(tilted, name) - mean, rtol=1e-3, atol=1e-5)


def test_the_multi_step_loss_weighs_the_loss_after_every_step(task, tilted, episodes):
    lrs = constant_lr(0.2, 3)
    weights = step_weights(0, 4, 0.5, 3)
    loss = outer_loss(task, GradientModel(tilted, {5: lrs}), episodes, True, weights)
    expected = sum(weight * outer_loss(task, GradientModel(tilted, {5: lrs[:steps]}), episodes, True)
                   for steps, weight in enumerate(weights, start=1))
    assert weights == pytest.approx([1 / 3] * 3) and float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_weights_of_the_steps_are_annealed_to_the_last_one():
    """As in MAML++: equal at first, none below 0.03 over the number of steps while the loss lasts, then the last."""
    assert step_weights(0, 10, 1.0, 5) == pytest.approx([0.2] * 5)
    assert step_weights(9, 10, 1.0, 5) == pytest.approx([0.02] * 4 + [0.92])
    assert step_weights(99, 100, 1.0, 5) == pytest.approx([0.006] * 4 + [0.976])
    assert step_weights(0, 10, 0.0, 5) == step_weights(5, 10, 0.5, 5) == [0.0] * 4 + [1.0]


def test_dropped_features_take_no_part_and_the_others_are_scaled_up(task, tilted, episodes):
    """The same loss as with features that are zero where they are dropped and multiplied elsewhere."""
    keep, model = torch.tensor([0, 2.0, 2, 0, 2, 2]), GradientModel(tilted, {5: constant_lr(0.2, 3)})
    changed = task._replace(data=task.data._replace(features=task.data.features * keep))
    loss, plain = outer_loss(task, model, episodes, True, keep=keep), outer_loss(task, model, episodes, True)
    assert float(loss) == pytest.approx(float(outer_loss(changed, model, episodes, True)), rel=1e-5) != float(plain)


def test_log_learning_rates_keep_their_sign_and_a_step_multiplies_them(learn):
    """After one outer step of Adam each rate is the first times exp(+-lslr_lr), whatever its size; zeros stay zero."""
    model, _ = learn(lslr=True, lslr_log=True, lslr_lr=0.5, epochs=1, outer_steps_per_epoch=1, early_stopping="last",
                     adapts=("P", "a"))
    first = Maml().inner_lr_grid[0]
    ratio = model.settings[5] / first
    adapting = [TENSORS.index(name) for name in ("P", "a")]
    assert (ratio[:, [i for i in range(len(TENSORS)) if i not in adapting]] == 0).all()
    torch.testing.assert_close(ratio[:, adapting].log().abs(), torch.full((len(ratio), 2), 0.5), rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="lslr_log needs lslr"):
        Maml(lslr_log=True)
