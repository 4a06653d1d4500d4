"""Every method beside MAML, against paper, plain loops or learn2learn."""

import math
from types import SimpleNamespace

import made
import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from perser import baselines, head, metatrain, runs
from perser.adapt import prior_shift, scalar_rates
from perser.baselines import cross_fitted, fresh, train_base
from perser.config import AllData, Base, ListenerEmbedding, Maml, NearestListener
from perser.episodes import Episodes, train_episodes, training_pools
from perser.evaluate import Learner, answer, answers, draws_by_listener, query_logits
from perser.head import Head, logits
from perser.losses import cross_entropy, soft_f1
from perser.material import material
from perser.schedules import step_weights
from perser.seeds import rng
from perser.splits import listener_groups, split

BASE = Base(hidden=8, epochs=2, rate=1e-2)


@pytest.fixture(scope="module")
def here():
    arrays = made.arrays()
    return material(arrays, split(arrays, 1, 0, listener_groups(arrays, 6, 25), False), BASE, True)


@pytest.fixture(scope="module")
def start(here):
    return train_base(here, BASE, 0)._replace(mix=torch.tensor([0.3, -0.2]))


@pytest.fixture(scope="module")
def dev(here):
    return draws_by_listener(here.data, here.split.dev, (3, 5), 2, 5, 0, "dev draws")


@pytest.fixture(scope="module")
def episodes(here):
    pools = training_pools(here.data, here.split.train, "combined", 5, 6, 0)
    return train_episodes(pools, "combined", 5, 6, 3, rng(0, "test"))


def parts(here, episodes, number):
    """Features and targets of one episode's support, and features of its query."""
    support, query = (torch.from_numpy(part[number]) for part in episodes)
    clip = torch.from_numpy(here.data.clip)
    return here.data.features[clip[support]], here.targets[support], here.data.features[clip[query]]


def test_prior_shift_on_paper():
    """Even answers to two shots of the first class, one pseudo-clip: shares (0.5 + 2)/3 and 0.5/3 against 0.5."""
    targets = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    shift = prior_shift(torch.zeros(1, 2, 2), targets, 1.0, 0.5)
    assert shift.flatten().tolist() == pytest.approx([0.5 * math.log(5 / 3), 0.5 * math.log(1 / 3)])
    assert prior_shift(torch.zeros(1, 2, 2), targets, 1e9, 1.0).abs().max() < 1e-6


def test_the_prior_shift_learner_adds_the_shift(here, start, episodes):
    found = answer(baselines.PriorShift(start, {5: (3.0, 1.0)}), here, 5, episodes)
    for number in range(3):
        near, targets, far = parts(here, episodes, number)
        shift = prior_shift(logits(start, near)[None], targets[None], 3.0, 1.0)[0]
        torch.testing.assert_close(found[number], logits(start, far) + shift)


def test_prototypes_against_a_loop(here, start, episodes):
    model = baselines.prototypes(here, start, BASE)._replace(settings={5: (2.0, 0.5)})
    found = answer(model, here, 5, episodes)
    near, targets, far = parts(here, episodes, 1)
    hidden, asked = (head.mixed(start, part) @ start.P.T + start.b for part in (near, far))
    for c in range(4):
        weight = targets[:, c]
        mean = (2.0 * model.means[c] + (weight[:, None] * hidden).sum(0)) / (2.0 + weight.sum())
        expected = -((asked - mean) ** 2).sum(1) / (0.5 * model.spread)
        torch.testing.assert_close(found[1, :, c], expected, rtol=1e-4, atol=1e-3)


def test_the_nearest_listener_is_the_one_that_answers_like_the_shots(here, start, episodes):
    """Models of three listeners who each always tick one class: the shots' class decides."""
    x = here.data.features.shape[-1]
    offsets = torch.full((1, 3, 4), -3.0)
    offsets[0, torch.arange(3), torch.tensor([0, 1, 3])] = 3.0
    model = baselines.Nearest(start, torch.zeros(1, 3, 4, x), offsets, {5: (0, 1)})
    wanted = here._replace(targets=torch.eye(4)[3].expand(len(here.data.clip), 4))
    torch.testing.assert_close(answer(model, wanted, 5, episodes), offsets[0, 2].expand(3, 6, 4))
    two = answer(model._replace(settings={5: (0, 3)}), wanted, 5, episodes)
    torch.testing.assert_close(two, offsets[0].mean(0).expand(3, 6, 4))


def test_models_of_training_listeners_are_fine_tuned_on_their_own_ratings(here, start):
    model = baselines.nearest_listener(here, start, NearestListener(ratings=30, rates=(0.1,), steps=2), 0)
    names = sorted({here.data.listeners[i] for i in here.data.listener[here.split.train]})
    assert model.maps.shape == (1, len(names), 4, 6) and len(names) == 5
    listener = here.data.listeners.index(names[2])
    mine = here.split.train[here.data.listener[here.split.train] == listener]
    drawn = rng(0, "listener models", names[2]).choice(mine, 30, replace=len(mine) < 30)
    module = sgd(start, here.data.features[here.data.clip[drawn]], here.targets[torch.from_numpy(drawn)],
                 here.class_weights, 0.1, 2)
    torch.testing.assert_close(model.maps[0, 2], (module.A @ module.P).detach(), rtol=1e-4, atol=1e-5)


def sgd(start, features, targets, class_weights, rate, steps):
    """Plain descent by torch's own optimiser; the layer weights stay."""
    tensors = Head(*(t.detach().clone().requires_grad_() for t in start))
    optimiser = torch.optim.SGD(tensors[1:], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(logits(tensors, features), targets, class_weights).backward()
        optimiser.step()
    return tensors


def test_a_listener_embedding_of_nothing_is_the_shared_head_and_learns_by_descent(here, start, episodes):
    g = torch.Generator().manual_seed(0)
    U, V = torch.randn(2, 3, 8, generator=g)
    model = baselines.Embedding(start, U, V, torch.zeros(3), {5: (0.2, 0)})
    near, targets, far = parts(here, episodes, 0)
    torch.testing.assert_close(answer(model, here, 5, episodes)[0], logits(start, far))
    e = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.SGD([e], lr=0.2)

    def said(clips):
        hidden = head.mixed(start, clips) @ start.P.T + start.b
        return (hidden * (1 + e @ U) + e @ V) @ start.A.T + start.a

    for _ in range(3):
        optimiser.zero_grad()
        cross_entropy(said(near), targets, here.class_weights).backward()
        optimiser.step()
    found = answer(model._replace(settings={5: (0.2, 3)}), here, 5, episodes)[0]
    torch.testing.assert_close(found, said(far).detach(), rtol=1e-4, atol=1e-5)


def test_training_moves_embeddings_and_keeps_the_best_on_dev(here, start):
    untrained, trained = (baselines.listener_embedding(here, start, ListenerEmbedding(epochs=n, rate=1e-2), BASE, 0)
                          for n in (0, 3))
    assert torch.equal(untrained.head.P, start.P) and not torch.equal(untrained.U, trained.U)


def test_the_upper_bound_answers_each_rating_without_having_seen_it(here, start, dev):
    """Another answer to one rating changes what is said of the other parts, not of its own."""
    method = AllData(parts=3, rates=(0.1,), steps=2)
    listener = here.data.listeners.index(here.split.test_listeners[0])
    mine = np.flatnonzero(here.data.listener == listener)
    table = baselines.all_data(here, start, method, 0.1, [listener], mine[:0], 0)
    assert not table[mine].isnan().any() and table[here.data.listener != listener].isnan().all()
    targets = here.targets.clone()
    targets[mine[0]] = targets[mine[0]].flip(0)
    other = baselines.all_data(here._replace(targets=targets), start, method, 0.1, [listener], mine[:0], 0)
    same = (table[mine] == other[mine]).all(1)
    order = rng(0, "all data", here.split.test_listeners[0]).permutation(mine)
    own = next(order[i::3] for i in range(3) if mine[0] in order[i::3])
    assert same[np.isin(mine, own)].all() and not same[~np.isin(mine, own)].any()
    found = baselines.upper_bound(here, start, method, dev, 0)
    asked = Episodes(mine[None, :5], mine[None, 5:9])
    torch.testing.assert_close(answer(found, here, 0, asked)[0], table[mine[5:9]])


def test_settings_asked_together_answer_as_alone(here, start, episodes):
    """No setting of a grid changes what the next one says, whatever they share."""
    means = baselines.prototypes(here, start, BASE)
    known = baselines.nearest_listener(here, start, NearestListener(rates=(0.1, 0.5), ratings=6, steps=1), 0)
    embedding = baselines.listener_embedding(here, start, ListenerEmbedding(epochs=1), BASE, 0)
    some = [scalar_rates(rate, steps, names) for rate, steps, names
            in ((0.5, 3, ("A", "a")), (0.2, 1, ("P", "b", "A", "a")), (0.5, 3, ("a",)))]
    layers = [*some, scalar_rates(0.2, 2, ("mix", "a"))]
    for learner, grid in [(Learner(start, {}), some), (Learner(start, {}), layers),
                          (Learner(start, {}, torch.tensor([1.0, 0.5])), some),
                          (baselines.PriorShift(start, {}), [(1.0, 0.5), (3.0, 1.0), (1.0, 1.0)]),
                          (means, [(1.0, 0.5), (3.0, 1.0), (1.0, 1.0)]), (known, [(0, 2), (1, 1), (1, 2)]),
                          (embedding, [(0.5, 2), (0.1, 1), (0.5, 1)])]:
        together = list(answers(learner, here, episodes, grid))
        assert len({found.numpy().tobytes() for found in together}) == len(grid)
        for setting, found in zip(grid, together, strict=True):
            alone = answer(learner._replace(settings={5: setting}), here, 5, episodes)
            torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


def test_from_scratch_starts_from_what_the_seed_alone_decides(here):
    assert torch.equal(fresh(here, BASE, 0).P, fresh(here, BASE, 0).P)
    assert not torch.equal(fresh(here, BASE, 0).P, fresh(here, BASE, 1).P)


def test_cross_fitted_heads_have_not_seen_their_session(here):
    """Poison one session's training features: only the head that was trained without it stays."""
    poisoned = here.data.features.clone()
    poisoned[here.data.session == 2] *= -1
    clean = cross_fitted(here, BASE, 0)
    moved = cross_fitted(here._replace(data=here.data._replace(features=poisoned)), BASE, 0)
    assert set(clean) == {1, 2, 3}
    assert [torch.equal(clean[s].P, moved[s].P) for s in (1, 2, 3)] == [False, True, False]


def test_a_cross_fitted_outer_step_uses_that_sessions_clips_and_head(here, start):
    others = cross_fitted(here, BASE, 0)
    found = metatrain._held_out_pools(here, start, others, Maml(query=5), 5, 0)
    for (session, other), (moved, pools, query) in zip(others.items(), found, strict=True):
        assert torch.allclose(start.P + moved.P, other.P) and query == 5
        clips = here.data.clip[pools.ratings]
        assert set(here.data.session[clips]) == {session}


@pytest.mark.reference
def test_anil_is_learn2learn_on_the_last_layer(here, start, episodes):
    """Logits after three steps, and the meta-gradient of every tensor, those that do not adapt included."""
    from perser.reference import learn2learn

    mine, theirs = (Head(*(t.detach().clone().requires_grad_() for t in start)) for _ in range(2))
    single = Episodes(episodes.support[:1], episodes.query[:1])
    found = query_logits(here.data, here.targets, here.class_weights, mine, scalar_rates(0.2, 3, ("A", "a")), single,
                         True)
    found.square().sum().backward()
    last = nn.Linear(8, 4)
    last.weight.data, last.bias.data = start.A.clone(), start.a.clone()
    near, targets, far = parts(here, single, 0)
    near, far = (head.mixed(theirs, part) @ theirs.P.T + theirs.b for part in (near, far))
    learner = learn2learn.algorithms.MAML(last, lr=0.2).clone()
    for _ in range(3):
        learner.adapt(cross_entropy(learner(near), targets, here.class_weights))
    expected = learner(far)
    expected.square().sum().backward()
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)
    slopes = {name: getattr(theirs, name).grad for name in ("mix", "P", "b")} | {"A": last.weight.grad,
                                                                                  "a": last.bias.grad}
    for name, slope in slopes.items():
        assert slope.abs().max() > 1e-3
        torch.testing.assert_close(getattr(mine, name).grad, slope, rtol=1e-4, atol=1e-4)


@pytest.mark.reference
def test_element_rates_are_learn2learns_meta_sgd(here, start, episodes):
    """Logits after two steps, and the gradients of every weight and of every rate."""
    from perser.reference import Downstream, learn2learn

    first = Head(*(t.detach().clone().requires_grad_() for t in start))
    rates = Head(*(torch.full_like(t, 0.1).requires_grad_() for t in first))
    single = Episodes(episodes.support[:1], episodes.query[:1])
    found = query_logits(here.data, here.targets, here.class_weights, first,
                         Head(*(r.expand(2, *r.shape) for r in rates)), single, True)
    found.square().sum().backward()
    model = learn2learn.algorithms.MetaSGD(Downstream(first), lr=0.1)
    learner = model.clone()
    near, targets, far = parts(here, single, 0)
    for _ in range(2):
        learner.adapt(cross_entropy(learner(near), targets, here.class_weights))
    theirs = learner(far)
    theirs.square().sum().backward()
    torch.testing.assert_close(found[0].detach(), theirs.detach(), rtol=1e-4, atol=1e-5)
    names = [name for name, _ in model.module.named_parameters()]
    for name, rate in zip(names, model.lrs, strict=True):
        torch.testing.assert_close(getattr(rates, name).grad, rate.grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(getattr(first, name).grad, getattr(model.module, name).grad, rtol=1e-3, atol=1e-3)


def test_reptile_points_to_the_mean_of_plainly_trained_weights(here, start, episodes):
    learner = Learner(start, {5: scalar_rates(0.2, 3)})
    found = metatrain.reptile_gradient(here, learner, episodes)
    ends = []
    for support, query in zip(*episodes, strict=True):
        rows = np.concatenate([support, query])
        ends.append(sgd(start, here.data.features[here.data.clip[rows]], here.targets[torch.from_numpy(rows)],
                        here.class_weights, 0.2, 3))
    for name in ("P", "b", "A", "a"):
        mean = torch.stack([getattr(end, name).detach() for end in ends]).mean(0)
        torch.testing.assert_close(getattr(found, name), getattr(start, name) - mean, rtol=1e-3, atol=1e-5)


def test_the_multi_step_loss_weighs_the_loss_after_each_step(here, start, episodes):
    rates = scalar_rates(0.2, 3)
    weights = step_weights(0, 4, 0.5, 3)
    found = metatrain.outer_loss(here, Learner(start, {5: rates}), episodes, True, weights)
    expected = sum(weight * metatrain.outer_loss(here, Learner(start, {5: rates[:steps]}), episodes, True)
                   for steps, weight in enumerate(weights, start=1))
    assert weights == pytest.approx([1 / 3] * 3) and float(found) == pytest.approx(float(expected), rel=1e-5)


def test_soft_f1_becomes_macro_f1_of_the_rule_when_it_hardens():
    g = torch.Generator().manual_seed(3)
    found, labels = torch.randn(40, 5, generator=g), torch.rand(40, 5, generator=g) > 0.6
    hard = found.softmax(-1) > 1 / 5
    assert float(soft_f1(found, labels, 1e-5)) == pytest.approx(f1_score(labels, hard, average="macro"), abs=1e-4)
    assert 0 < float(soft_f1(found, labels)) < 1
    labels[:, 2] = False
    kept = [0, 1, 3, 4]
    expected = f1_score(labels[:, kept], hard[:, kept], average="macro")
    assert float(soft_f1(found, labels, 1e-5)) == pytest.approx(expected, abs=1e-4)


def test_steps_beyond_those_learnt_repeat_the_last_rate():
    rates = torch.arange(10.0).view(2, 5)
    tested = runs.variants(Learner(SimpleNamespace(), {5: rates}), 5, (0, 1, 4))
    assert list(tested) == [0, 1, 4] and tested[0].shape == (0, 5) and torch.equal(tested[1], rates[:1])
    assert torch.equal(tested[4], rates[[0, 1, 1, 1]])
    nearest = runs.variants(Learner(SimpleNamespace(), {5: rates, 20: rates + 1}), 40, None)
    assert list(nearest) == [2] and torch.equal(nearest[2], rates + 1)
