"""Traits of a listener and likeness to people against values derived by hand; kappa against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.metrics import cohen_kappa_score

from perser.corpora import Corpus
from perser.corpora.agreement import kappa_table, likeness, listener_traits

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


def corpus(rows, repeats=None):
    """A corpus of (clip, listener, ticked classes)."""
    return Corpus("made", CLASSES, pd.DataFrame(), ratings(rows), repeats=None if repeats is None else ratings(repeats))


def test_likeness_is_overlap_beyond_chance_by_hand():
    rows = [("1", "A", "x"), ("1", "B", "x"), ("2", "A", "xy"), ("2", "B", "y"), ("3", "A", "y"), ("4", "A", "")]
    # Five votes: x, x, xy, y, y. Of ten pairs xx and yy overlap fully, the four pairs with xy by half: 4 / 10.
    # Same clip: x and x, 1; xy and y, 1/2: 3/4. Rated twice: x and xy, 1/2; y and y, 1; x and x, 1: 5/6.
    repeats = [("1", "A", "x"), ("1", "A", "xy"), ("2", "A", "y"), ("2", "A", "y"), ("1", "B", "x"), ("1", "B", "x")]
    assert likeness(corpus(rows, repeats)) == {
        "personal": None, "agreement": round((3 / 4 - 4 / 10) / (6 / 10), 4),
        "retest": round((5 / 6 - 4 / 10) / (6 / 10), 4)}
    assert likeness(corpus(rows))["retest"] is None
    assert set(likeness(corpus([("1", "A", "")])).values()) == {None}


def test_likeness_of_listeners_with_one_answer_is_the_log_of_its_share_by_hand():
    # A always says x, B always y. Shares of x after four of A's ratings: 4.5 / 5, after four of B's: 0.5 / 5.
    rows = [(str(clip), who, tick) for clip in range(12) for who, tick in zip("AB", "xy", strict=True)]
    few = [("1", "C", "x"), ("2", "C", "x")]  # C has too few ratings to count
    assert likeness(corpus(rows + few), shots=4)["personal"] == pytest.approx(np.log(9), abs=1e-4)


@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_the_personal_number_is_zero_without_differences_and_does_not_ask_who_rated_what(spread):
    """Thirty listeners of forty ratings, drawn from own log-odds, against the exact expectation by the binomial."""
    draw = np.random.default_rng(0)
    odds = spread * draw.standard_normal(30)
    p = 1 / (1 + np.exp(-odds))
    rows = [(f"{who}-{clip}", f"L{who:02d}", "x" if draw.random() < p[who] else "y")
            for who in range(30) for clip in range(200)]
    counts = np.arange(21)
    chance = binom.pmf(counts[:, None], 20, p)  # of `counts` x among a listener's 20 shots
    logs = np.log(np.stack([counts + 0.5, 20.5 - counts]) / 21) @ chance  # expected log shares (x or y, listener)
    own = p * logs[0] + (1 - p) * logs[1]
    anybody = np.outer(p, logs[0]) + np.outer(1 - p, logs[1])
    expected = np.mean(own - (anybody.sum(axis=1) - np.diag(anybody)) / 29)
    measured = likeness(corpus(rows))["personal"]
    assert measured == pytest.approx(expected, abs=0.01 if not spread else 0.1 * expected)
