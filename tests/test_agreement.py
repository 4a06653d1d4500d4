"""Traits of a listener against values derived by hand; kappa against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from perser.corpora.agreement import kappa_table, listener_traits

CLASSES = ("x", "y")


def ratings(rows):
    """Ratings of (clip, listener, ticked classes)."""
    return pd.DataFrame(
        [(clip, listener, *(name in ticked for name in CLASSES)) for clip, listener, ticked in rows],
        columns=["clip", "listener", *CLASSES],
    )


def test_distance_is_total_variation_from_the_others_of_the_same_clip():
    traits = listener_traits(
        ratings(
            [
                *[("1", "A", "x"), ("1", "B", "x"), ("1", "C", "y")],
                *[("2", "B", "y"), ("2", "A", "xy"), ("3", "A", "y"), ("3", "D", "")],
            ]
        ),
        CLASSES,
    ).set_index("listener")
    # A: clip 1 (1, 0) against (1/2, 1/2); clip 2 (1/2, 1/2) against (0, 1); clip 3 has nobody else who ticked.
    # B: clip 1 (1, 0) against (1/2, 1/2); clip 2 (0, 1) against (1/2, 1/2). C: (0, 1) against (1, 0).
    assert traits["distance"].to_dict() == {"A": 0.5, "B": 0.5, "C": 1.0}
    assert traits["ratings"].to_dict() == {"A": 3, "B": 2, "C": 1}
    assert traits["ticks"].to_dict() == pytest.approx({"A": 4 / 3, "B": 1, "C": 1})
    # B's two clips have the same consensus, a tie, and B answers them with two classes; A's differ; C has one.
    np.testing.assert_array_equal(traits["consistency"], [np.nan, 0.0, np.nan])


def test_consistency_is_the_overlap_of_own_ratings_of_clips_that_others_hear_alike():
    traits = listener_traits(
        ratings([(clip, "B", "x") for clip in "123"] + [("1", "A", "x"), ("2", "A", "x"), ("3", "A", "xy")]), CLASSES
    ).set_index("listener")
    # A's overlaps: clips 1 and 2: 1, clips 1 and 3: 1/2, clips 2 and 3: 1/2; per rating 3/4, 3/4, 1/2.
    # B: the others name x, x, and both: clips 1 and 2 are alike and answered alike, clip 3 is alone.
    assert traits["consistency"].to_dict() == pytest.approx({"A": 2 / 3, "B": 1.0})


def test_a_stubborn_listener_is_far_from_the_others_but_true_to_itself():
    rows = [(str(clip), "A", "y") for clip in range(10)]
    rows += [(str(clip), who, "xy"[clip % 2]) for clip in range(10) for who in "BC"]
    traits = listener_traits(ratings(rows), CLASSES).set_index("listener")
    assert traits.loc["A", ["distance", "consistency"]].tolist() == [0.5, 1.0]


def test_order_of_rows_does_not_matter_and_nobody_is_no_row():
    rows = ratings([("1", "A", "x"), ("1", "B", "xy"), ("2", "B", "y"), ("2", "A", "y"), ("2", "C", "x")])
    pd.testing.assert_frame_equal(listener_traits(rows, CLASSES), listener_traits(rows.iloc[::-1], CLASSES))
    assert listener_traits(rows.iloc[:0], CLASSES).empty
    assert list(listener_traits(rows.iloc[:0], CLASSES)) == ["listener", "ratings", "ticks", "distance", "consistency"]


def test_kappa_is_scikit_learns_kappa_for_single_labels():
    draw = np.random.default_rng(0)
    labels_by = {who: draw.integers(2, size=30) for who in "AB"} | {"C": np.zeros(10, int)}
    rows = ratings(
        [(str(clip), who, CLASSES[label]) for who, labels in labels_by.items() for clip, label in enumerate(labels)]
    )
    table = kappa_table(rows, CLASSES)
    assert table.loc["A", "B"] == table.loc["B", "A"] == pytest.approx(cohen_kappa_score(*map(labels_by.get, "AB")))
    assert table["C"].isna().all() and np.isnan(np.diag(table)).all()
    assert list(kappa_table(rows, CLASSES, most=2).index) == list("AB")


def test_kappa_weights_pairs_of_labels():
    # Both always tick both classes: met 1/2 of the time, as by chance.
    rows = ratings([(str(clip), who, "xy") for clip in range(20) for who in "AB"])
    assert kappa_table(rows, CLASSES).loc["A", "B"] == pytest.approx(0)
    same = ratings([(str(clip), who, "x") for clip in range(20) for who in "AB"])
    assert kappa_table(same, CLASSES).isna().all(axis=None)
