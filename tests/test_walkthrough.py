"""One listener's steps: they start at the shared head and end where the evaluation ends."""

import made
import numpy as np
import pytest
import torch

from perser import model, seeds, walkthrough
from perser.adapt import constant_lr
from perser.data import Data, Task, rating_targets
from perser.episodes import Episodes, batch_of
from perser.methods import GradientModel, Start
from perser.methods.ssl_e import train
from perser.settings import Base


@pytest.fixture
def walk():
    """30 ratings by one listener, two draws of 5 shots."""
    generator = seeds.generator(0, "test steps")
    labels = torch.rand(30, 4, generator=generator) > 0.6
    labels[:, 0] |= ~labels.any(1)
    data = Data(
        features=torch.randn(30, 2, 6, generator=generator),
        session=np.ones(30, int),
        clip=np.arange(30)[::-1].copy(),
        listener=np.zeros(30, int),
        labels=labels,
        listeners=("E1",),
        clips=tuple(f"c{i}" for i in range(30)),
        classes=("w", "x", "y", "z"),
    )
    weights = torch.tensor([0.5, 1, 1, 1.5])
    task = Task(data, None, rating_targets(labels, 0.05), weights, torch.zeros(2, 6), torch.ones(2, 6), Base())
    order = np.stack([np.random.default_rng(i).permutation(30) for i in range(2)])
    start = Start(model.init(2, 6, 8, 4, generator), dict)
    return walkthrough.Walk(None, None, task, start, {}, "E1", Episodes(order[:, :5], order[:, 5:]), 0, 5)


@pytest.fixture
def adapting(walk):
    """Three steps from the start of the walk."""
    return GradientModel(walk.start.head, {5: constant_lr(0.3, 3)})


def test_the_trail_starts_at_the_shared_head_and_ends_where_the_evaluation_does(walk, adapting):
    trail = walkthrough.trail(walk, adapting, 1)
    assert len(trail) == 4
    assert all(torch.equal(a, b) for a, b in zip(trail[0], adapting.head, strict=True))
    expected = next(adapting.answers(batch_of(walk.task, walk.episodes), [adapting.settings[5]]))[1]
    torch.testing.assert_close(walkthrough.query_logits(walk, trail[-1], 1), expected, rtol=1e-4, atol=1e-5)


def test_a_step_is_described_by_the_loss_of_its_head_and_the_share_of_its_tensors(walk, adapting):
    trail = walkthrough.trail(walk, adapting, 0)
    steps = walkthrough.by_step(walk, trail, 0)
    assert list(steps["step"]) == [0, 1, 2, 3]
    assert steps["support_loss"].is_monotonic_decreasing
    assert (steps.loc[0, ["P", "b", "A", "a"]] == 0).all()
    assert (steps.loc[1:, ["P", "b", "A", "a"]] > 0).all(axis=None)
    query = torch.from_numpy(walk.episodes.query[0])
    logits = model.logits(trail[2], walk.task.data.features[29 - query])
    expected = model.cross_entropy(logits, walk.task.targets[query], walk.task.class_weights)
    assert steps.loc[2, "query_loss"] == pytest.approx(float(expected), rel=1e-5)
    # Replacing the output bias alone moves the logits of all clips by the same amounts.
    assert steps.loc[3, "a"] == pytest.approx(float((trail[3].a - trail[0].a).square().mean().sqrt()), rel=1e-4)


def test_the_score_of_a_draw_is_that_after_its_last_step(walk, adapting):
    ends = [walkthrough.by_step(walk, walkthrough.trail(walk, adapting, draw), draw)["macro_f1"].iloc[-1]
            for draw in (0, 1)]
    assert walkthrough.f1_by_draw(walk, adapting) == pytest.approx(ends) and ends[0] != ends[1]


def test_the_general_model_scores_as_before_the_first_step(walk, adapting):
    starts = [walkthrough.by_step(walk, walkthrough.trail(walk, adapting, draw), draw)["macro_f1"].iloc[0]
              for draw in (0, 1)]
    assert walkthrough.f1_by_draw(walk, walkthrough.general_model(walk)) == pytest.approx(starts)


def test_predictions_name_clips_and_ticks(walk, adapting):
    trail = walkthrough.trail(walk, adapting, 0)
    table = walkthrough.predictions(walk, trail, 0)
    assert list(table) == ["clip", "listener", 0, 1, 2, 3]
    assert table.loc[0, "clip"] == f"c{29 - walk.episodes.query[0, 0]}"
    row = walkthrough.query_logits(walk, trail[3], 0)[0].softmax(-1) > 0.25
    assert table.loc[0, 3] == ", ".join(name for name, on in zip("wxyz", row, strict=True) if on)


def test_the_support_is_listed_with_what_the_listener_ticked(walk):
    listed = walkthrough.support_in_words(walk, 1)
    assert [clip for clip, _ in listed] == [f"c{29 - rating}" for rating in walk.episodes.support[1]]
    ticks = walk.task.data.labels[walk.episodes.support[1, 0]]
    assert listed[0][1] == ", ".join(name for name, on in zip("wxyz", ticks, strict=True) if on)


def test_shares_of_ticks_are_those_of_the_listener_and_of_ssl_e(walk):
    shares = walkthrough.tick_shares(walk)
    ticks = walk.task.data.labels[torch.from_numpy(walk.episodes.query)].float().mean((0, 1))
    assert shares["listener ticks %"].tolist() == (100 * ticks).round().int().tolist()
    logits = torch.stack([walkthrough.query_logits(walk, walk.start.head, draw) for draw in (0, 1)])
    predicted = model.predict(logits).float().mean((0, 1))
    assert shares["SSL-E ticks %"].tolist() == (100 * predicted).round().int().tolist()


def test_learnt_inner_learning_rates_are_a_row_per_step(walk, adapting):
    rates = torch.arange(15.0).view(3, 5)
    table = walkthrough.inner_lr_table(walk, adapting._replace(settings={5: rates}))
    assert list(table) == ["P", "b", "A", "a"] and table.to_numpy().tolist() == rates[:, 1:].tolist()


def test_meta_training_of_a_walk_is_that_of_the_experiment(tmp_path):
    """The head and inner learning rates of the method's fit; the history has a row for the start and every epoch."""
    task, settings = made.task(), made.SMALL.model_copy(update={"shots": (5,)})
    walk = walkthrough.Walk(None, made.plan(tmp_path, settings), task, Start(train(task, 0), dict),
                            made.dev_draws(task, (5,)), "E1", made.draws(task, task.split.unseen)[0, 5], 0, 5)
    trained, first_lr, history = walkthrough.meta_train(walk, "meta-perser")
    fitted = walk.fit("meta-perser")
    assert all(torch.equal(a, b) for a, b in zip(trained.head, fitted.head, strict=True))
    assert torch.equal(trained.settings[5], fitted.settings[5])
    assert any(first_lr == pytest.approx(lr) for lr in settings.methods["meta-perser"].inner_lr_grid)
    assert history.index.tolist() == [0, 1, 2] and list(history) == ["dev_f1", "dev_loss"]


def test_words_are_none_where_nothing_is_ticked():
    assert walkthrough.words(torch.tensor([[True, True], [False, False]]), ("x", "y")) == ["x, y", "none"]
