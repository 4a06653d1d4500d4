"""Whether a gain is personal: exchanged shots, scores of probabilities, the population prior, planted listeners."""

import dataclasses

import made
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from sklearn.metrics import brier_score_loss, f1_score, log_loss, recall_score

from perser import records, scores, workers
from perser.analysis import comparison, report
from perser.episodes import Episodes, batch_of, draws_by_listener
from perser.evaluate import BINS, count
from perser.experiment import Experiment
from perser.methods.population_prior import posterior, prior_covariance, terms
from perser.plan import Plan


def row_of(counts, **columns):
    """A record as the workers write it."""
    labels = {"method": "m", "setting": "seen", "shots": 5, "listener": "L", "seed": 0, "fold": 1}
    return records.row(counts, ("x", "y", "z"), **(labels | columns))


def test_scores_of_probabilities_are_scikit_learns():
    g = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(40, 3, generator=g), torch.randint(3, (40,), generator=g)
    labels, p = torch.eye(3)[truth].bool(), logits.double().softmax(-1).numpy()
    frame = pd.DataFrame([row_of(count(logits[:25], labels[:25])), row_of(count(logits[25:], labels[25:]), fold=2)])
    [row] = scores.per_seed(frame).to_dict("records")
    top, onehot = p.argmax(1), np.eye(3)[truth]
    assert row["log_loss"] == pytest.approx(log_loss(truth, p))
    assert row["brier"] == pytest.approx(sum(brier_score_loss(onehot[:, c], p[:, c]) for c in range(3)))
    assert row["top_f1"] == pytest.approx(f1_score(truth, top, average="macro"))
    assert row["balanced"] == pytest.approx(recall_score(truth, top, average="macro"))
    assert row["accuracy"] == pytest.approx((top == truth.numpy()).mean())


def test_a_rating_of_two_ticks_is_a_target_of_one_half_each():
    """On paper: probabilities 1/2, 1/4, 1/4 against 1/2, 1/2, 0."""
    counts = count(torch.tensor([[2.0, 1.0, 1.0]]).log(), torch.tensor([[True, True, False]]))
    assert counts.log_loss == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(4))
    assert counts.brier == pytest.approx(0.25**2 + 0.25**2)
    assert counts.top == 1 and counts.top_of.tolist() == [1, 0, 0] and counts.top_hits.tolist() == [1, 0, 0]
    assert counts.bins[:, BINS // 2].tolist() == pytest.approx([1, 0.5, 1]) and counts.bins.sum() == pytest.approx(2.5)


def test_exchanged_shots_are_those_of_the_other_listeners_in_turn_and_queries_stay():
    parts = [Episodes(100 * place + np.arange(12).reshape(4, 3), 100 * place + 50 + np.arange(8).reshape(4, 2))
             for place in range(3)]
    exchanged = workers.exchanged(parts)
    for place, part in enumerate(exchanged):
        np.testing.assert_array_equal(part.query, parts[place].query)
        givers = part.support[:, 0] // 100
        assert givers.tolist() == [(place + 1 + draw % 2) % 3 for draw in range(4)] and place not in givers
        for draw, giver in enumerate(givers):
            np.testing.assert_array_equal(part.support[draw], parts[giver].support[draw])


def test_shots_of_any_clips_leave_the_queries_where_they_were():
    task = made.task()
    whole = np.flatnonzero(np.isin(task.data.listener, task.data.listener[task.split.unseen]))
    draws = draws_by_listener(task.data, task.split.unseen, (3, 9), 4, 5, 0, "test draws", whole)
    assert draws
    for (listener, shots), episodes in draws.items():
        assert episodes.support.shape == (4, shots)
        assert set(task.data.listener[episodes.support].ravel()) == {listener}
        assert set(episodes.query.ravel()) <= set(task.split.unseen)
        for support, query in zip(*episodes, strict=True):
            assert not set(support) & set(query) and len(set(support)) == shots and len(set(query)) == len(query)
        np.testing.assert_array_equal(draws[listener, 9].support[:, :3], draws[listener, 3].support)
        np.testing.assert_array_equal(draws[listener, 9].query, draws[listener, 3].query)
    sessions = {int(s) for part in draws.values() for s in task.data.session[task.data.clip[part.support]].ravel()}
    assert len(sessions) > 1, "shots are of other sessions too"


def test_the_posterior_mode_is_the_optimum_that_scipy_finds():
    draw = np.random.default_rng(0)
    z, y = draw.normal(size=(12, 3)), np.eye(3)[draw.integers(3, size=12)]
    root = draw.normal(size=(12, 12))
    weights, precision = draw.random(12), root @ root.T / 12 + np.eye(12)

    def loss(b):
        biases, slopes = b.reshape(3, 4)[:, 0], b.reshape(3, 4)[:, 1:]
        logits = z + biases + (z - z.mean(1, keepdims=True)) @ slopes.T
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -(weights[:, None] * y * log_p).sum() + 0.5 * b @ precision @ b

    mode, spread = posterior(*(torch.tensor(part)[None] for part in (z, y, weights)), torch.tensor(precision))
    optimum = minimize(loss, np.zeros(12), method="BFGS", tol=1e-10)
    np.testing.assert_allclose(mode[0].flatten(), optimum.x, atol=1e-5)
    h = 1e-4
    hessian = [[(loss(optimum.x + h * a + h * b) - loss(optimum.x + h * a - h * b) - loss(optimum.x - h * a + h * b)
                 + loss(optimum.x - h * a - h * b)) / (4 * h * h) for a in np.eye(12)] for b in np.eye(12)]
    np.testing.assert_allclose(spread[0], np.linalg.inv(hessian), rtol=1e-3)


@pytest.mark.parametrize("sd", [0.0, 0.8])
def test_the_prior_is_as_wide_as_the_listeners_differ(sd):
    """Sixty listeners of eighty ratings, whose biases and slopes have the planted standard deviation."""
    g = torch.Generator().manual_seed(1)
    z, biases = torch.randn(60, 80, 3, generator=g), sd * torch.randn(60, 1, 3, generator=g)
    slopes = sd * torch.randn(60, 3, 3, generator=g)
    p = (z + biases + (z - z.mean(-1, keepdim=True)) @ slopes.mT).softmax(-1).flatten(0, 1)
    y = torch.eye(3)[torch.multinomial(p, 1, generator=g).squeeze(1)].view(60, 80, 3)
    covariance = prior_covariance(z, y, torch.ones(60, 80))
    # A constant added to all classes changes nothing, and the centred logits sum to zero: only the part around both
    # means can be learnt, of 2 biases and 2 x 2 slopes.
    centre = torch.eye(3) - 1 / 3
    centre = torch.kron(centre, torch.block_diag(torch.ones(1, 1), centre))
    learnt = torch.linalg.eigvalsh(centre @ covariance @ centre)[-6:]
    assert (learnt < 0.05).all() if not sd else ((0.4 * sd**2 < learnt) & (learnt < 2 * sd**2)).all(), learnt


def test_a_factor_of_zero_is_the_general_model_and_more_shots_move_further():
    task = made.task()
    start, dev = made.start(task), made.dev_draws(task)
    model = made.quick("population-prior", factor_grid=(1.0,)).fit(task, start, dev, 0)
    pool = task.split.seen[task.data.listener[task.split.seen] == task.data.listener[task.split.seen[0]]]
    sizes = []
    for shots in (2, 8, 32):
        batch = batch_of(task, Episodes(pool[None, :shots], pool[None, -5:]))
        general, one = model.answers(batch, [0.0, 1.0])
        sizes.append(float((one - general).norm()))
        assert torch.equal(general[0], next(model.answers(batch, [0.0]))[0])
    assert sizes[0] < sizes[1] < sizes[2]


METHODS = {"ssl-e": {"kind": "ssl-e"}, "prior-shift": {"kind": "prior-shift"}, "p": {"kind": "population-prior"},
           "fine-tuning": {"kind": "finetune", "inner_lr_grid": (0.1, 0.3), "inner_steps_grid": (5,)},
           "embedding": {"kind": "listener-embedding", "size": 4, "epochs": 2},
           "maml": {"kind": "maml", "csmt": "combined", "lslr": True, "lslr_log": True, "lslr_lr": 0.1, "epochs": 3,
                    "outer_steps_per_epoch": 5, "query": 8, "meta_batch_size": 8}}


def planted(out, differ: bool) -> records.Run:
    """A run on twelve listeners who differ in nothing but noise, or each tick a favourite class half of the time."""
    corpus, features = made.corpus(listeners=12, clips=24)
    draw = np.random.default_rng(0)
    truth = features[:, 0, :4].argmax(1).numpy()[corpus.clips.index.get_indexer(corpus.ratings["clip"])]
    favourite = corpus.ratings["listener"].str[1:].astype(int).to_numpy() % 4
    swayed = draw.random(len(truth)) < 0.5
    answer = np.where(swayed, favourite if differ else draw.integers(4, size=len(truth)), truth)
    ratings = corpus.ratings[["clip", "listener"]].assign(
        **{name: answer == place for place, name in enumerate(corpus.classes)})
    experiment = Experiment(name="planted", seeds=(0,), shots=(10,), draws=4, dev_draws=4, groups=3, min_queries=4,
                            base={"hidden": 8, "epochs": 12, "lr": 1e-2, "class_weights": False}, methods=METHODS)
    corpus = dataclasses.replace(corpus, ratings=ratings)
    workers.run(Plan(experiment, corpus, made.UPSTREAM, features, (0.0, 1.0), out / "planted"), jobs=2)
    return records.load(out / "planted")


@pytest.mark.parametrize("differ", [False, True])
def test_the_personal_part_is_zero_for_listeners_who_do_not_differ_and_positive_for_those_who_do(tmp_path, differ):
    run = planted(tmp_path, differ)
    rows = comparison.rows(run)
    rows = rows[rows["shots"] > 0].pivot(index=["method", "setting"], columns="score", values="personal_low")
    assert len(rows) == 2 * 5
    for cell, row in rows.iterrows():
        if differ:
            assert row["log_loss"] > 0, cell
        else:
            assert row["log_loss"] <= 0.5 and row["accuracy"] <= 1, cell
    name, (table, caption) = next(iter(report.tables_of(run).items()))
    assert name == "planted" and "Personal part: own" in caption and len(table.cells) == 2 * (5 + 2)


def test_the_mode_is_found_where_the_general_model_is_sure_and_wrong():
    """A logit of 12 for a class that the listener never ticks: the slope of the posterior is zero all the same."""
    z = torch.zeros(1, 20, 3, dtype=torch.double)
    z[..., 0] = 12.0
    y = torch.eye(3, dtype=torch.double)[torch.arange(20) % 2 + 1][None]
    precision = torch.eye(12, dtype=torch.double) / 25
    mode, _ = posterior(z, y, torch.ones(1, 20, dtype=torch.double), precision)
    p = (z + terms(z) @ mode.mT).softmax(-1)
    assert torch.isfinite(mode).all()
    assert ((p - y).mT @ terms(z) + mode / 25).abs().max() < 1e-6
