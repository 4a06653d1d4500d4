"""Losses and class weights against paper, the published fold and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss

from perser.model import class_balanced_weights, clip_weights, cross_entropy, smooth, soft_f1

FOLD3 = [3049, 1708, 1213, 154, 1772, 233, 2636, 380, 1482]


@pytest.mark.parametrize("make", [torch.tensor, np.asarray])
def test_weights_of_iemocap_fold_3(make):
    """N = 6,092 and the positives of EMO-SUPERB's fold 3; a positive is a share above 1/9."""
    targets = np.full((6092, 9), 0.1)
    for column, positives in enumerate(FOLD3):
        targets[:positives, column] = 0.12
    weights = class_balanced_weights(make(targets))
    assert weights.tolist() == pytest.approx(
        [0.2139, 0.3445, 0.4665, 3.3741, 0.3337, 2.2446, 0.2398, 1.3928, 0.3900], abs=5e-5)
    assert float(weights.sum()) == pytest.approx(9)


def test_weights_on_paper():
    """N = 2, beta = 1/2; positives 1 and 2: (1-b)/(1-b) = 1 and (1/2)/(3/4) = 2/3, scaled to 2: 1.2 and 0.8."""
    assert class_balanced_weights(torch.tensor([[1.0, 0.6], [0.0, 0.6]])).tolist() == pytest.approx([1.2, 0.8])


def test_a_class_without_positives_weighs_as_much_as_one_with_one():
    assert class_balanced_weights(torch.tensor([[1.0, 0.0], [0.9, 0.1]]))[1] == pytest.approx(1.2)


@pytest.mark.parametrize("bad", [torch.zeros(0, 3), torch.zeros(3)])
def test_class_weights_refuse_anything_but_a_matrix(bad):
    with pytest.raises(ValueError, match="non-empty"):
        class_balanced_weights(bad)


def test_smoothing_is_that_of_emo_superb():
    """Unanimous 0.95, unvoted 0.00625 with nine classes."""
    assert smooth(torch.eye(9)[0], 0.05).tolist() == pytest.approx([0.95] + [0.00625] * 8)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.floats(0, 0.9))
def test_smoothing_keeps_a_distribution(shares, smoothing):
    shares = torch.tensor([*shares, 1e-3])
    assert float(smooth(shares / shares.sum(), smoothing).sum()) == pytest.approx(1, abs=1e-5)


def test_cross_entropy_equals_scikit_learn_with_its_clip_weights():
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(20, 4, generator=g).double(), torch.randint(4, (20,), generator=g)
    targets, weights = torch.eye(4).double()[labels], torch.rand(4, generator=g).double()
    given = clip_weights(targets, weights).numpy()
    expected = log_loss(labels, logits.softmax(-1), sample_weight=given, normalize=False, labels=range(4)) / 20
    assert float(cross_entropy(logits, targets, weights)) == pytest.approx(expected, rel=1e-5)


def test_soft_f1_becomes_macro_f1_of_the_rule_when_it_hardens():
    """A class that nobody ticked is left out of the mean."""
    g = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(40, 5, generator=g), torch.rand(40, 5, generator=g) > 0.6
    hard = logits.softmax(-1) > 1 / 5
    assert float(soft_f1(logits, labels, 1e-5)) == pytest.approx(f1_score(labels, hard, average="macro"), abs=1e-4)
    assert 0 < float(soft_f1(logits, labels)) < 1
    labels[:, 2] = False
    ticked = [0, 1, 3, 4]
    expected = f1_score(labels[:, ticked], hard[:, ticked], average="macro")
    assert float(soft_f1(logits, labels, 1e-5)) == pytest.approx(expected, abs=1e-4)
