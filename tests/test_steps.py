"""One listener's steps: they start at the shared head and end where the evaluation ends."""

import numpy as np
import pytest
import torch

from perser import evaluate, head, seeds, steps
from perser.adapt import scalar_rates
from perser.episodes import Data, Episodes, rating_targets
from perser.losses import cross_entropy
from perser.material import Material


@pytest.fixture
def case():
    """A material of 30 ratings by one listener, a learner of 3 steps and 2 draws of 5 shots."""
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
    material = Material(data, None, rating_targets(labels, 0.05), torch.tensor([0.5, 1, 1, 1.5]), None, None)
    start = head.init(2, 6, 8, 4, generator)
    order = np.stack([np.random.default_rng(i).permutation(30) for i in range(2)])
    return material, evaluate.Learner(start, {5: scalar_rates(0.3, 3)}), Episodes(order[:, :5], order[:, 5:])


def test_path_starts_at_the_shared_head_and_ends_where_the_evaluation_does(case):
    material, learner, episodes = case
    trail = steps.path(material, learner, episodes, 1)
    assert len(trail) == 4
    assert all(torch.equal(a, b) for a, b in zip(trail[0], learner.head))
    expected = evaluate.query_logits(
        material.data, material.targets, material.class_weights, learner.head, learner.settings[5], episodes
    )[1]
    torch.testing.assert_close(
        steps.query_logits(material, trail[-1], episodes, 1), expected, rtol=1e-4, atol=1e-5
    )


def test_measured_is_the_loss_of_each_head_and_the_share_of_each_tensor(case):
    material, learner, episodes = case
    trail = steps.path(material, learner, episodes, 0)
    found = steps.measured(material, trail, episodes, 0)
    assert list(found["step"]) == [0, 1, 2, 3]
    assert found["support_loss"].is_monotonic_decreasing
    assert (found.loc[0, ["P", "b", "A", "a"]] == 0).all() and (found.loc[1:, ["P", "b", "A", "a"]] > 0).all(
        axis=None
    )
    query = torch.from_numpy(episodes.query[0])
    logits = head.logits(trail[2], material.data.features[29 - query])
    expected = cross_entropy(logits, material.targets[query], material.class_weights)
    assert found.loc[2, "query_loss"] == pytest.approx(float(expected), rel=1e-5)
    # Exchanging the output bias alone moves every clip's logits by the same amounts.
    assert found.loc[3, "a"] == pytest.approx(
        float((trail[3].a - trail[0].a).square().mean().sqrt()), rel=1e-4
    )


def test_the_score_of_each_draw_is_that_after_its_last_step(case):
    ends = [steps.measured(case[0], steps.path(*case, draw), case[2], draw)["macro_f1"].iloc[-1] for draw in (0, 1)]
    assert steps.of_each_draw(*case) == pytest.approx(ends) and ends[0] != ends[1]


def test_predicted_names_clips_and_ticks(case):
    material, learner, episodes = case
    trail = steps.path(material, learner, episodes, 0)
    table = steps.predicted(material, trail, episodes, 0)
    assert list(table) == ["clip", "listener", 0, 1, 2, 3]
    assert table.loc[0, "clip"] == f"c{29 - episodes.query[0, 0]}"
    row = steps.query_logits(material, trail[3], episodes, 0)[0].softmax(-1) > 0.25
    assert table.loc[0, 3] == ", ".join(name for name, on in zip("wxyz", row) if on)


def test_words_say_none_when_nothing_is_ticked():
    assert steps.words(torch.tensor([[True, True], [False, False]]), ("x", "y")) == ["x, y", "none"]
