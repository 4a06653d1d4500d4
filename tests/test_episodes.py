"""Episodes: functions of listener, seed and draw, nested in the shots, from the pools that a reading of CSMT allows."""

import made
import numpy as np
import pytest
import torch

from perser.data import listener_groups, split
from perser.episodes import (
    Episodes,
    batch_of,
    draws_by_listener,
    evaluation_episodes,
    support_batch,
    train_episodes,
    training_pools,
)
from perser.seeds import rng


def first_split(data):
    return split(data, 1, 0, listener_groups(data, 6, 25), True)


def test_listeners_with_the_same_ratings_have_draws_of_their_own():
    data = made.arrays()
    pool = np.flatnonzero(data.listener == 0)
    assert data.listeners[0] != data.listeners[1]
    one, other = (evaluation_episodes(data, pool, who, 5, 5, 3, 0, "test draws") for who in (0, 1))
    assert (one.support != other.support).any()


def test_draws_are_functions_of_listener_seed_and_draw_and_nested_in_shots():
    data = made.arrays()
    pool = first_split(data).unseen

    def draws(shots=5, draws=3, seed=0, purpose="test draws"):
        return evaluation_episodes(data, pool, int(data.listener[pool[0]]), shots, 10, draws, seed, purpose)

    five, ten = draws(), draws(shots=10)
    assert (five.support == ten.support[:, :5]).all() and (five.query == ten.query).all()
    assert (draws(draws=5).support[:3] == five.support).all()
    assert (draws(seed=1).support != five.support).any() and (draws(purpose="dev").support != five.support).any()
    assert len({tuple(row) for row in five.support}) == 3
    for support, query in zip(ten.support, ten.query, strict=True):
        assert not set(support) & set(query) and set(support) | set(query) == set(pool)


def test_listeners_with_fewer_queries_than_required_are_left_out():
    task = made.task()
    count = int((task.data.listener[task.split.unseen] == 0).sum())
    for least, enough in ((count - 5, True), (count - 4, False)):
        draws = draws_by_listener(task.data, task.split.unseen, (5,), 2, least, 0, "test draws")
        assert ((0, 5) in draws) == enough


@pytest.mark.parametrize("csmt", ["split", "combined", "shared"])
def test_readings_of_combined_set_meta_training(csmt):
    data = made.arrays()
    pools = training_pools(data, first_split(data).train, csmt, 5, 7, 0)
    met = {"support": set(), "query": set()}
    for step in range(40):
        episodes = train_episodes(pools, csmt, 5, 7, 6, rng(0, "test", step))
        for support, query in zip(episodes.support, episodes.query, strict=True):
            assert len(set(data.listener[[*support, *query]])) == 1
            assert set(support) == set(query) if csmt == "shared" else not set(support) & set(query)
            met["support"] |= set(support)
            met["query"] |= set(query)
    assert bool(met["support"] & met["query"]) == (csmt != "split")


def test_a_batch_holds_every_clip_once_and_finds_those_of_the_episodes():
    """The second episode's support is the first one's query, so that the same clips are needed in both places."""
    task = made.task()
    ratings = task.split.train[:11]
    episodes = Episodes(np.stack([ratings[:4], ratings[4:8]]), np.stack([ratings[4:11], ratings[:7]]))
    batch = batch_of(task, episodes)
    assert len(set(batch.clips.tolist())) == len(batch.clips)
    for places, rating_ids in zip((batch.support, batch.query), episodes, strict=True):
        assert (batch.clips[places].numpy() == task.data.clip[rating_ids]).all()
    assert set(batch.clips[:batch.support_clips].tolist()) == set(task.data.clip[episodes.support].flat)
    assert torch.equal(batch.targets, task.targets[torch.from_numpy(episodes.support)])


def test_a_batch_of_shots_alone_has_one_episode_without_a_query():
    features, targets = torch.randn(7, 2, 6), torch.rand(7, 4)
    batch = support_batch(features, targets, torch.ones(4))
    assert torch.equal(batch.features[batch.clips[batch.support[0]]], features)
    assert torch.equal(batch.targets, targets[None]) and batch.query.shape == (1, 0)
