"""Who is tested on what where ratings are few: paired and prescribed folds, sizes of episodes, and clear refusals."""

import re
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import made
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import SMALL, plan

from perser import experiment, records, workers
from perser.analysis import report, wording
from perser.corpora import Corpus
from perser.corpora.cremad import BLOCKS, CLASSES
from perser.data import Data, from_corpus, make_task
from perser.episodes import able_listeners, draws_by_listener, query_size, train_episodes, training_pools
from perser.errors import UserError
from perser.methods.maml import Maml
from perser.plan import Plan
from perser.protocol import Protocol
from perser.seeds import rng
from perser.settings import override

MAIN = Path(__file__).parents[1] / "perser" / "experiments" / "main.toml"


def crowd(listeners: int, clips: int = 7442, ratings: int = 30, seed: int = 0) -> tuple[Corpus, torch.Tensor]:
    """CREMA-D's 91 actors in five blocks; every listener rates 30 clips, with a habit of his or her own."""
    draw = np.random.default_rng(seed)
    actors = [actor for low, high in BLOCKS for actor in range(low, high + 1)]
    session = {actor: block for block, (low, high) in enumerate(BLOCKS, 1) for actor in range(low, high + 1)}
    speakers = np.resize(actors, clips)
    truth, habits = draw.integers(len(CLASSES), size=clips), draw.integers(len(CLASSES), size=listeners)
    features = draw.normal(size=(clips, 1, 6)).astype(np.float32)
    features[np.arange(clips), 0, truth] += 1.5
    names = [f"c{i:04d}" for i in range(clips)]
    rated = np.concatenate([draw.choice(clips, ratings, replace=False) for _ in range(listeners)])
    who = np.repeat(np.arange(listeners), ratings)
    ticked = np.where(draw.random(len(who)) < 0.6, truth[rated], habits[who])
    frame = pd.DataFrame(ticked[:, None] == np.arange(len(CLASSES)), columns=list(CLASSES))
    frame.insert(0, "listener", [f"{i:04d}" for i in who])
    frame.insert(0, "clip", np.array(names)[rated])
    table = pd.DataFrame({"path": names, "speaker": speakers.astype(str), "seconds": 1.0,
                          "session": [session[actor] for actor in speakers]}, index=pd.Index(names, name="clip"))
    return Corpus("cremad", CLASSES, table, frame, "listeners"), torch.from_numpy(features)


def in_session(protocol: Protocol, listener: int, session: int) -> int:
    data = protocol.data
    return int(((data.listener == listener) & (data.session[data.clip] == session)).sum())


def test_cremad_as_large_as_it_is_is_planned_in_seconds_and_little_memory():
    """2,443 listeners: five splits, every listener and every block of speakers tested in one of them."""
    corpus, features = crowd(2443)
    tracemalloc.start()
    began = time.process_time()
    here = Plan(experiment.load(MAIN, corpus="cremad"), corpus, made.UPSTREAM, features, "none", "unused")
    draws = [here.draws(here.split(*pair), "unseen", 0) for pair in here.splits]
    assert time.process_time() - began < 60
    assert tracemalloc.get_traced_memory()[1] < 500e6
    tracemalloc.stop()
    assert here.experiment.support == "any" and set(here.shots.values()) == {(3, 5, 10)}
    assert here.splits == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    tested = {here.data.listeners[listener] for part in draws for listener, _ in part}
    expected = {name for (fold, group) in here.splits for name in here.split(fold, group).test_listeners
                if in_session(here, here.data.listeners.index(name), here.data.folds[fold - 1].test) >= 3}
    assert tested == expected and len(tested) > 0.9 * 2443
    speakers = [set(corpus.clips["speaker"].iloc[here.data.clip[here.split(*pair).unseen]]) for pair in here.splits]
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == 91


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """The main comparison on 240 listeners with 30 ratings each, with short training."""
    out = tmp_path_factory.mktemp("crowded") / "main"
    short = ("seeds=[0]", "base.hidden=8", "base.epochs=2", "methods.maml.epochs=1", "methods.meta-perser.epochs=1",
             "methods.fine-tuning.inner_steps_grid=[3]")
    corpus, features = crowd(240, clips=910)
    here = Plan(experiment.load(MAIN, short, "cremad"), corpus, made.UPSTREAM, features, "none", out)
    return here, workers.run(here, jobs=1)


def test_many_listeners_with_few_ratings_get_a_whole_table(crowded):
    here, frame = crowded
    adapted = frame[frame["method"] != "ssl-e"]
    assert set(zip(adapted["setting"], adapted["shots"])) == {(s, k) for s in ("seen", "unseen") for k in (3, 5, 10)}
    assert frame.groupby("listener")["fold"].nunique().max() == 1 and (frame["queries"] >= 3 * 5).all()
    assert frame.loc[frame["setting"] == "seen", "listener"].nunique() == 240
    manifest = records.manifest(here.out)
    assert (manifest.support, manifest.shots["unseen"], manifest.units) == ("any", [3, 5, 10], 5)


def test_the_caption_counts_the_listeners_who_could_not_be_tested(crowded):
    here, frame = crowded
    tested = frame.loc[frame["setting"] == "unseen", "listener"].nunique()
    assert 200 < tested < 240
    captions = [caption for _, caption in report.tables_of(records.load(here.out)).values()]
    assert len(captions) > 2
    for caption in captions:
        assert "Shots are any clips of the listener." in caption
        assert f"Listeners with too few ratings to be tested: {240 - tested} of 240 on unseen clips." in caption


def test_the_caption_names_shots_and_settings_that_could_not_be_tested(tmp_path):
    """About 32 ratings in a session: no 40 shots there; without unseen records, none could be tested on those."""
    asked = {"shots": (3, 40), "support": "same", "methods": {"ssl-e": SMALL.methods["ssl-e"]}, "folds": (1,)}
    workers.run(plan(tmp_path / "run", SMALL.model_copy(update=asked)), jobs=1)
    run = records.load(tmp_path / "run")
    assert wording.left_out(run) == ["Left out, as most listeners have too few ratings: in choices on dev listeners "
                                     "K = 40; on unseen clips K = 40."]
    half = run._replace(records=run.records[run.records["setting"] == "seen"])
    assert wording.left_out(half)[-1] == "No listener could be tested on unseen clips."
    before = run._replace(manifest=run.manifest.model_copy(update={"shots": {}, "support": None}))
    assert wording.left_out(before) == []


def test_a_manifest_from_before_still_loads(crowded):
    older = crowded[0].out.parent / "older"
    older.mkdir(exist_ok=True)
    whole = records.manifest(crowded[0].out).model_dump(mode="json")
    new = ("shots", "support", "files", "notes")
    records.write_json({key: value for key, value in whole.items() if key not in new}, older / "manifest.json")
    assert (records.manifest(older).shots, records.manifest(older).support) == ({}, None)


@pytest.mark.parametrize("sessions, groups", [(5, 5), (3, 6), (6, 3)])
def test_paired_folds_test_every_session_and_every_group(sessions, groups):
    loaded, features = made.corpus(listeners=6, sessions=sessions)
    asked = SMALL.model_copy(update={"folds": "paired", "groups": groups})
    splits = Protocol(asked, from_corpus(loaded, features)).splits
    assert len(splits) == max(sessions, groups) == len(set(splits))
    assert {fold for fold, _ in splits} == set(range(1, sessions + 1))
    assert {group for _, group in splits} == set(range(groups))


def test_folds_that_the_corpus_prescribes_are_the_only_ones(tmp_path):
    loaded, features = made.corpus()
    here = Plan(SMALL.model_copy(update={"folds": None}), replace(loaded, folds=(((1, 4, 5), 2, 3),)), made.UPSTREAM,
                features, "none", tmp_path)
    assert here.splits == [(1, group) for group in range(6)]
    session = here.data.session[here.data.clip]
    for pair in here.splits:
        pools = here.split(*pair)
        assert set(session[pools.train]) == set(session[pools.seen]) == {1, 4, 5}
        assert set(session[pools.base_dev]) == set(session[pools.dev]) == {2} and set(session[pools.unseen]) == {3}


def few_ratings(counts: list[list[int]]) -> Data:
    """A listener per row with so many ratings in each session; a clip per rating."""
    listener = np.concatenate([np.full(sum(row), i) for i, row in enumerate(counts)])
    session = np.concatenate([np.repeat(np.arange(len(row)), row) for row in counts])
    number = len(listener)
    return Data(torch.zeros(number, 1, 1), session, np.arange(number), listener,
                torch.ones(number, 2, dtype=torch.bool), tuple(f"E{i}" for i in range(len(counts))),
                tuple(f"c{i}" for i in range(number)), ("x", "y"))


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5).filter(
    lambda counts: sum(map(sum, counts))), st.integers(1, 8), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_shots_from_anywhere_leave_every_listener_a_query(counts, most, least):
    """Queries are of session 2, shots of any; able is who has `least` ratings there and `most` more anywhere."""
    data = few_ratings(counts)
    pool, everything = np.flatnonzero(data.session == 2), np.arange(len(data.listener))
    draws = draws_by_listener(data, pool, (1, most), 3, least, 0, "test draws", everything)
    able = {i for i, row in enumerate(counts) if row[2] >= least and sum(row) >= most + least}
    assert {listener for listener, _ in draws} == able
    assert able == set(able_listeners(data, pool, most, least, everything).tolist())
    for (listener, k), (support, query) in draws.items():
        assert support.shape == (3, k) and query.shape[1] >= least
        for shots, asked in zip(support, query, strict=True):
            assert len({*shots, *asked}) == k + len(asked) and set(asked) <= set(pool)
            assert set(data.listener[[*shots, *asked]]) == {listener}


def test_shots_from_anywhere_are_a_plain_permutation_where_ratings_are_many():
    data = few_ratings([[40, 40, 40]])
    pool, everything = np.flatnonzero(data.session == 2), np.arange(120)
    draws = draws_by_listener(data, pool, (5, 10), 4, 5, 7, "test draws", everything)
    for draw in range(4):
        expected = rng(7, "test draws", "E0", draw).permutation(120)
        assert draws[0, 10].support[draw].tolist() == expected[:10].tolist()
        assert draws[0, 5].support[draw].tolist() == expected[:5].tolist()


@pytest.mark.parametrize("csmt, sizes", [("combined", {5: 13, 10: 8}), ("split", {5: 9, 10: 0}),
                                         ("shared", {5: 13, 10: 8})])
def test_training_episodes_are_as_large_as_eighteen_ratings_allow(csmt, sizes):
    """K and the query share 18 ratings; of a split pool, each has a half of 9 to itself, too few for ten shots."""
    data = few_ratings([[6, 6, 6]] * 30 + [[1, 1, 1]] * 3)
    pools = training_pools(data, np.arange(len(data.listener)), csmt, 10, 20, 0)
    assert pools.least == 18 and len(pools.starts) == 31
    assert {k: query_size(pools, csmt, k, 20) for k in sizes} == sizes
    for k, size in sizes.items():
        if size:
            episodes = train_episodes(pools, csmt, k, size, 50, rng(0, "test"))
            assert episodes.support.shape == (50, k)
            assert episodes.query.shape == (50, k if csmt == "shared" else size)


@pytest.mark.parametrize("csmt", ["split", "combined", "shared"])
def test_meta_training_runs_on_listeners_with_a_dozen_training_ratings(csmt):
    """Five ratings in each session, fifteen to train on, and a query of twenty asked for; also session by session."""
    here = plan("unused", SMALL.model_copy(update={"shots": (3, 9), "min_queries": 2, "dev": "training"}), clips=6)
    task = here.task((1, 0, 0))
    method = Maml(csmt=csmt, epochs=1, outer_steps_per_epoch=4, crossfit=0.5, inner_steps=1)
    dev = {(listener, k): episodes for (listener, _), episodes in here.draws(task.split, "dev", 0).items()
           for k in (3, 9)}
    model = method.fit(task, made.start(task), dev, 0)
    assert set(model.settings) == {3, 9} and all(tensor.isfinite().all() for tensor in model.head)


def test_training_listeners_without_an_episode_are_one_line():
    """One rating of each of two listeners cannot be both shot and query."""
    task = made.task()
    first = [np.flatnonzero(task.data.listener[task.split.train] == who)[:1] for who in (1, 2)]
    few = task._replace(split=task.split._replace(train=task.split.train[np.concatenate(first)]))
    with pytest.raises(UserError, match=r"^fold 1: training listeners have 1 ratings, too few .* of 3 shots and a "
                                        r"query: leave methods of kind maml out$"):
        Maml(epochs=1).fit(few, made.start(task), made.dev_draws(task), 0)


@pytest.mark.parametrize("asked", [
    {"shots": (30,), "support": "same", "dev": "held-out"}, {"shots": (30,), "support": "same", "dev": "training"},
    {"shots": (3,), "min_queries": 60, "support": "same", "dev": "held-out"},
    {"shots": (3,), "min_queries": 60, "support": "any", "dev": "held-out"},
    {"shots": (3,), "min_queries": 60, "support": "any", "dev": "training"}])
def test_a_refusal_names_what_to_set_and_that_works(asked):
    """About 32 ratings in a session. The first remedy of the message makes a plan."""
    with pytest.raises(UserError) as caught:
        plan("unused", SMALL.model_copy(update=asked))
    assert "\n" not in str(caught.value) and re.match(r"fold [\d, ]+: no (dev )?listener has ", str(caught.value))
    remedies = re.findall(r"--set (\S+?)(?:,|$)", str(caught.value))
    assert remedies
    changed = SMALL.model_copy(update=asked).model_dump()
    override(changed, remedies[0])
    assert plan("unused", experiment.Experiment.model_validate(changed)).splits


def test_a_split_where_nobody_can_be_tested_is_left_out():
    """Listeners E1 and E2 rate session 1 alone: too few to be tested where it is the dev session or none of theirs."""
    loaded, features = made.corpus(listeners=9)
    session = loaded.clips["session"].reindex(loaded.ratings["clip"]).to_numpy()
    kept = ~loaded.ratings["listener"].isin(["E1", "E2"]) | (session == 1)
    data = from_corpus(replace(loaded, ratings=loaded.ratings[kept].reset_index(drop=True)), features)
    asked = SMALL.model_copy(update={"folds": None, "groups": 9, "support": "same"})
    here = Protocol(asked, data)
    for group in range(2):
        folds = {fold for fold, held_out in here.splits if held_out == group}
        assert folds == {fold for fold, sessions in enumerate(data.folds, 1) if 1 in (*sessions.train, sessions.test)}
    assert make_task(data, here.split(*here.splits[0]), made.BASE, False).split.train.size
