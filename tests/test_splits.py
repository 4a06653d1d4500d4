"""Who is held out, tested by id: nothing of a test listener, nor an unseen clip, reaches training."""

import made
import numpy as np
import pytest
import torch

from perser import runs
from perser.baselines import train_base
from perser.config import (
    Base,
    ClassMeans,
    Finetune,
    ListenerEmbedding,
    Maml,
    NearestListener,
    Priors,
)
from perser.episodes import aggregate, data, evaluation_episodes, train_episodes, training_pools
from perser.errors import UserError
from perser.evaluate import draws_by_listener
from perser.material import material
from perser.seeds import rng
from perser.splits import FIVE, folds, listener_groups, split


def every_split(arrays, dev_held_out=True, groups=6):
    dealt = listener_groups(arrays, groups, 25)
    for fold in range(1, len(folds(arrays.session)) + 1):
        for group in range(len(dealt)):
            yield split(arrays, fold, group, dealt, dev_held_out)


def test_folds_of_five_sessions_are_emo_superbs():
    assert [(f.train, f.dev, f.test) for f in folds(np.array([1, 2, 3, 4, 5, 5]))] == list(FIVE)
    assert FIVE[2] == ((1, 4, 5), 3, 2)


@pytest.mark.parametrize("sessions", [3, 4, 6, 7])
def test_other_folds_test_and_stop_on_every_session_once(sessions):
    found = folds(np.arange(1, sessions + 1))
    assert [f.test for f in found] == sorted(f.dev for f in found) == list(range(1, sessions + 1))
    assert all({*f.train, f.dev, f.test} == set(range(1, sessions + 1)) for f in found)


def test_two_sessions_are_refused():
    with pytest.raises(UserError, match="2 session"):
        folds(np.array([1, 2]))


def test_two_listeners_are_refused():
    with pytest.raises(UserError, match="2 listener"):
        listener_groups(made.arrays(listeners=2), 6, 25)


@pytest.mark.parametrize("listeners, groups", [(6, 6), (13, 6), (9, 3)])
def test_every_listener_is_held_out_once(listeners, groups):
    arrays = made.arrays(listeners=listeners)
    dealt = listener_groups(arrays, groups, 25)
    assert sorted(i for group in dealt for i in group) == list(range(listeners))


@pytest.mark.parametrize("dev_held_out", [True, False])
@pytest.mark.parametrize("settings", [{}, {"sessions": 6, "listeners": 8}])
def test_nothing_held_out_is_reachable_from_training(settings, dev_held_out):
    """Ids of every pool, and of everything that is made of the training pool, on every fold and group."""
    arrays = made.arrays(**settings)
    for part in every_split(arrays, dev_held_out):
        fold = folds(arrays.session)[part.fold - 1]
        test = {arrays.listeners.index(name) for name in part.test_listeners}
        used = np.concatenate([part.train, part.base_dev, part.dev])
        assert not test & set(arrays.listener[used])
        unseen = set(arrays.clip[part.unseen])
        assert unseen and not unseen & set(arrays.clip[used])
        assert set(arrays.session[arrays.clip[part.unseen]]) == {fold.test}
        assert set(arrays.session[arrays.clip[part.dev]]) == {fold.dev}
        assert not set(arrays.clip[part.dev]) & set(arrays.clip[part.train])
        assert set(arrays.clip[part.seen]) <= set(arrays.clip[part.train])
        assert set(arrays.listener[part.seen]) == set(arrays.listener[part.unseen]) == test
        if dev_held_out:
            assert not set(arrays.listener[part.dev]) & set(arrays.listener[part.train])
        assert set(aggregate(arrays, part.train, 0.05)[0]) == set(arrays.clip[part.train])
        for csmt in ("split", "combined", "shared"):
            pools = training_pools(arrays, part.train, csmt, 5, 5, 0)
            episodes = train_episodes(pools, csmt, 5, 5, 8, rng(0, "test"))
            assert {*episodes.support.flat, *episodes.query.flat} <= set(part.train)


LEARNERS = {
    "fine-tuning": Finetune(rates=(0.1,), steps=(2,)),
    "prior-shift": Priors(masses=(1.0, 10.0)),
    "prototypes": ClassMeans(),
    "nearest-listener": NearestListener(ratings=20, rates=(0.1,), steps=2),
    "listener-embedding": ListenerEmbedding(epochs=1),
    "meta-perser": Maml(epochs=1, steps=2, query=5, lslr=True),
    "meta-sgd": Maml(epochs=1, steps=2, query=5, element_rates=True),
    "reptile": Maml(epochs=1, steps=2, query=5, rule="reptile"),
}


def flat(value) -> list[torch.Tensor]:
    """Every tensor in nested tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [tensor for part in parts for tensor in flat(part)]


@pytest.mark.parametrize("name", LEARNERS)
def test_what_is_learnt_does_not_change_when_held_out_ratings_and_clips_do(name):
    """Poison every rating of the test listeners and every feature of the test session: same weights, bit by bit."""
    arrays = made.arrays()
    part = next(every_split(arrays, False))
    test = np.isin(arrays.listener, [arrays.listeners.index(n) for n in part.test_listeners])
    labels, features = arrays.labels.clone(), arrays.features.clone()
    labels[test] = ~labels[test]
    features[arrays.session == folds(arrays.session)[0].test] = float("nan")
    base = Base(epochs=2, hidden=8)

    def learnt(found):
        ready = material(found, part, base, True)
        dev = draws_by_listener(ready.data, part.dev, (5,), 2, 5, 0, "dev draws")
        return runs.learn(ready, train_base(ready, base, 0), LEARNERS[name], base, dev, 0)

    clean, poisoned = learnt(arrays), learnt(arrays._replace(labels=labels, features=features))
    assert len(flat(clean)) >= 5 and clean.settings.keys() == {5}
    for one, other in zip(flat(clean), flat(poisoned), strict=True):
        assert torch.equal(one, other)
    if not flat(clean.settings):
        assert clean.settings == poisoned.settings


def test_listeners_with_the_same_ratings_are_drawn_for_apart():
    arrays = made.arrays()
    pool = np.flatnonzero(arrays.listener == 0)
    assert arrays.listeners[0] != arrays.listeners[1]
    one, other = (evaluation_episodes(arrays, pool, who, 5, 5, 3, 0, "test draws") for who in (0, 1))
    assert (one.support != other.support).any()


def test_draws_are_functions_of_listener_seed_and_draw_and_nested_in_shots():
    arrays = made.arrays()
    part = next(every_split(arrays))
    pool = part.unseen

    def draws(shots=5, draws=3, seed=0, purpose="test draws"):
        return evaluation_episodes(arrays, pool, int(arrays.listener[pool[0]]), shots, 10, draws, seed, purpose)

    five, ten = draws(), draws(shots=10)
    assert (five.support == ten.support[:, :5]).all() and (five.query == ten.query).all()
    assert (draws(draws=5).support[:3] == five.support).all()
    assert (draws(seed=1).support != five.support).any() and (draws(purpose="dev").support != five.support).any()
    assert len({tuple(row) for row in five.support}) == 3
    for support, query in zip(ten.support, ten.query, strict=True):
        assert not set(support) & set(query) and set(support) | set(query) == set(pool)


@pytest.mark.parametrize("csmt", ["split", "combined", "shared"])
def test_readings_of_combined_set_meta_training(csmt):
    arrays = made.arrays()
    part = next(every_split(arrays))
    pools = training_pools(arrays, part.train, csmt, 5, 7, 0)
    met = {"support": set(), "query": set()}
    for step in range(40):
        episodes = train_episodes(pools, csmt, 5, 7, 6, rng(0, "test", step))
        for support, query in zip(episodes.support, episodes.query, strict=True):
            assert len(set(arrays.listener[[*support, *query]])) == 1
            assert set(support) == set(query) if csmt == "shared" else not set(support) & set(query)
            met["support"] |= set(support)
            met["query"] |= set(query)
    assert bool(met["support"] & met["query"]) == (csmt != "split")


def test_aggregate_is_the_vote_share_of_every_ticked_class():
    """Two ratings of one clip: {a} and {a, b}: three votes, shares 2/3 and 1/3."""
    frame, features = made.corpus(listeners=6)
    ratings = frame.ratings.head(2).copy()
    ratings["clip"] = frame.clips.index[0]
    ratings.loc[:, list(made.CLASSES)] = [[True, False, False, False], [True, True, False, False]]
    arrays = data(type(frame)(frame.name, frame.classes, frame.clips, ratings), features)
    _, targets = aggregate(arrays, np.array([0, 1]), 0.0)
    assert targets[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
