"""Who is held out, tested by id: nothing of a test listener, nor an unseen clip, reaches training."""

import made
import numpy as np
import pytest
import torch

from perser.data import FIVE, aggregate, folds, from_corpus, listener_groups, split
from perser.episodes import train_episodes, training_pools
from perser.errors import UserError
from perser.seeds import rng


def every_split(data, dev_held_out=True, groups=6):
    dealt = listener_groups(data, groups, 25)
    for fold in range(1, len(folds(data.session)) + 1):
        for group in range(len(dealt)):
            yield split(data, fold, group, dealt, dev_held_out)


def test_folds_of_five_sessions_are_those_of_emo_superb():
    assert [(f.train, f.dev, f.test) for f in folds(np.array([1, 2, 3, 4, 5, 5]))] == list(FIVE)
    assert FIVE[2] == ((1, 4, 5), 3, 2)


@pytest.mark.parametrize("sessions", [3, 4, 6, 7])
def test_other_folds_test_and_stop_on_every_session_once(sessions):
    rotation = folds(np.arange(1, sessions + 1))
    assert [f.test for f in rotation] == sorted(f.dev for f in rotation) == list(range(1, sessions + 1))
    assert all({*f.train, f.dev, f.test} == set(range(1, sessions + 1)) for f in rotation)


def test_two_sessions_are_refused():
    with pytest.raises(UserError, match="2 session"):
        folds(np.array([1, 2]))


def test_two_listeners_are_refused():
    with pytest.raises(UserError, match="2 listener"):
        listener_groups(made.arrays(listeners=2), 6, 25)


@pytest.mark.parametrize("listeners, groups", [(6, 6), (13, 6), (9, 3)])
def test_every_listener_is_held_out_once(listeners, groups):
    dealt = listener_groups(made.arrays(listeners=listeners), groups, 25)
    assert sorted(i for group in dealt for i in group) == list(range(listeners))


@pytest.mark.parametrize("dev_held_out", [True, False])
@pytest.mark.parametrize("settings", [{}, {"sessions": 6, "listeners": 8}])
def test_nothing_held_out_is_reachable_from_training(settings, dev_held_out):
    """Ids of every pool, and of everything that is made of the training pool, on every fold and group."""
    data = made.arrays(**settings)
    for part in every_split(data, dev_held_out):
        fold = folds(data.session)[part.fold - 1]
        test = {data.listeners.index(name) for name in part.test_listeners}
        used = np.concatenate([part.train, part.base_dev, part.dev])
        assert not test & set(data.listener[used])
        unseen = set(data.clip[part.unseen])
        assert unseen and not unseen & set(data.clip[used])
        assert set(data.session[data.clip[part.unseen]]) == {fold.test}
        assert set(data.session[data.clip[part.dev]]) == {fold.dev}
        assert not set(data.clip[part.dev]) & set(data.clip[part.train])
        assert set(data.clip[part.seen]) <= set(data.clip[part.train])
        assert set(data.listener[part.seen]) == set(data.listener[part.unseen]) == test
        if dev_held_out:
            assert not set(data.listener[part.dev]) & set(data.listener[part.train])
        assert set(aggregate(data, part.train, 0.05)[0]) == set(data.clip[part.train])
        for csmt in ("split", "combined", "shared"):
            pools = training_pools(data, part.train, csmt, 5, 5, 0)
            episodes = train_episodes(pools, csmt, 5, 5, 8, rng(0, "test"))
            assert {*episodes.support.flat, *episodes.query.flat} <= set(part.train)


def test_aggregate_is_the_vote_share_of_every_ticked_class():
    """Two ratings of one clip, {a} and {a, b}, are three votes: shares 2/3 and 1/3."""
    corpus, features = made.corpus(listeners=6)
    ratings = corpus.ratings.head(2).copy()
    ratings["clip"] = corpus.clips.index[0]
    ratings.loc[:, list(made.CLASSES)] = [[True, False, False, False], [True, True, False, False]]
    data = from_corpus(type(corpus)(corpus.name, corpus.classes, corpus.clips, ratings), features)
    _, targets = aggregate(data, np.array([0, 1]), 0.0)
    assert targets[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_features_are_standardised_on_the_clips_that_are_trained_on_or_not_at_all():
    raw, scaled = (made.task(standardise=on) for on in (False, True))
    assert torch.equal(raw.data.features, made.arrays().features)
    assert not torch.equal(scaled.data.features, raw.data.features)
    clips = torch.tensor(sorted(set(scaled.data.clip[scaled.split.train])))
    assert scaled.data.features[clips].mean(0).abs().max() < 1e-5
    assert scaled.data.features[clips].std(0).sub(1).abs().max() < 1e-5
