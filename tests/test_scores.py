"""Scores and intervals against scikit-learn, statsmodels and numbers derived on paper."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import f1_score

from perser.analysis.statistics import (
    Interval,
    between_seeds,
    bootstrap_interval,
    compare_methods,
    correlation,
    effect,
    holm,
    p_value,
    paired_difference,
    select,
)
from perser.errors import UserError
from perser.scores import macro_f1, per_listener, per_seed


def record(method="a", setting="seen", fold=1, seed=0, listener="E1", shots=5, queries=10, top=5, **counts):
    """One record over two classes, x and y; counts not named are zero."""
    zero = {f"{kind}_{name}": 0 for kind in ("tp", "fp", "fn") for name in "xy"}
    return {
        "corpus": "c",
        "upstream": "u",
        "synthetic": "",
        "experiment": "main",
        "method": method,
        "setting": setting,
        "fold": fold,
        "seed": seed,
        "listener": listener,
        "shots": shots,
        "draws": 5,
        "queries": queries,
        "top": top,
        **zero,
        **counts,
    }


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (2, 12, 4)))
def test_macro_f1_is_scikit_learns(predicted_and_true):
    predicted, true = predicted_and_true
    ours = macro_f1((predicted & true).sum(0), (predicted & ~true).sum(0), (~predicted & true).sum(0))
    per_class = f1_score(true, predicted, average=None, zero_division=np.nan)
    theirs = np.nan if np.isnan(per_class).all() else np.nanmean(per_class)
    np.testing.assert_allclose(ours, theirs)


def test_counts_are_summed_over_folds_before_the_score():
    frame = pd.DataFrame(
        [
            record(fold=1, tp_x=1, fn_y=1, top=1, queries=2),
            record(fold=2, tp_x=1, fp_x=2, tp_y=1, top=2, queries=4),
        ]
    )
    result = per_listener(frame)
    # x: 2 hits, 2 false: F1 = 4/6. y: 1 hit, 1 missed: F1 = 2/3. A mean of fold scores would differ.
    assert len(result) == 1
    assert result.loc[0, "f1"] == pytest.approx(2 / 3)
    assert result.loc[0, "accuracy"] == pytest.approx(3 / 6)
    assert result.loc[0, "records"] == 2


def test_scores_are_averaged_over_seeds_after_the_score():
    frame = pd.DataFrame([record(seed=0, tp_x=1, top=10), record(seed=1, tp_x=1, fp_x=2, top=0)])
    result = per_listener(frame)
    assert result.loc[0, "f1"] == pytest.approx((1 + 1 / 2) / 2)
    assert result.loc[0, "accuracy"] == pytest.approx(0.5)


def test_chance_is_the_score_of_ticking_every_class():
    true = np.array(
        [[1, 0], [1, 1], [1, 0], [0, 1], [1, 0], [1, 0], [1, 0], [1, 0], [1, 0], [1, 0]], dtype=bool
    )
    frame = pd.DataFrame([record(tp_x=4, fn_x=5, fp_x=1, fn_y=2)])
    expected = f1_score(true, np.ones_like(true), average="macro")
    assert per_listener(frame).loc[0, "chance"] == pytest.approx(expected)


def test_cells_and_listeners_are_kept_apart_in_the_records_order():
    frame = pd.DataFrame(
        [
            record(method="z", listener="E2", tp_x=1),
            record(method="a", tp_x=1),
            record(method="a", setting="unseen", tp_x=1),
            record(method="a", shots=10, tp_x=1),
        ]
    )
    result = per_listener(frame)
    assert list(result["method"]) == ["z", "a", "a", "a"]
    assert len(result) == 4


def test_scores_of_a_listener_are_the_mean_over_seeds():
    frame = pd.DataFrame(
        [record(tp_x=1, fn_y=1), record(seed=1, tp_x=1, tp_y=1), record(listener="E2", tp_x=1, fp_x=2, queries=5)]
    )
    by_seed, by_listener = per_seed(frame), per_listener(frame)
    # E1: seed 0 (1 + 0) / 2, seed 1 (1 + 1) / 2. E2: x 2 / 4, y neither ticked nor predicted.
    assert by_seed.set_index(["listener", "seed"])["f1"].to_dict() == {("E1", 0): 0.5, ("E1", 1): 1.0, ("E2", 0): 0.5}
    assert by_listener.set_index("listener")["f1"].to_dict() == {"E1": 0.75, "E2": 0.5}
    assert by_listener["records"].tolist() == [2, 1]


def test_two_rows_of_one_cell_are_refused():
    with pytest.raises(UserError, match=r"two rows for method a, seen, K = 5, listener E1, seed 0, fold 1"):
        per_seed(pd.DataFrame([record(tp_x=1), record(tp_x=2)]))


def test_interval_covers_the_mean_and_follows_its_seed():
    values = np.random.default_rng(0).normal(0.4, 0.1, 40)
    first, again, other = bootstrap_interval(values, 1), bootstrap_interval(values, 1), bootstrap_interval(values, 2)
    assert first == again != other
    assert first.low < first.mean < first.high
    assert first.mean == pytest.approx(values.mean())
    # The bootstrap of a mean of 40 normal values is close to 1.96 standard errors.
    assert first.high - first.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(40), rel=0.05)


def test_interval_is_nearly_honest_at_forty_listeners():
    rng = np.random.default_rng(3)
    result = [bootstrap_interval(rng.normal(0, 1, 40), seed) for seed in range(100)]
    assert sum(i.low <= 0 <= i.high for i in result) >= 88


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5], Interval(0.5, np.nan, np.nan, 1)),
        ([], Interval(np.nan, np.nan, np.nan, 0)),
        ([0.5, np.nan], Interval(0.5, np.nan, np.nan, 1)),
        ([0.25] * 4, Interval(0.25, 0.25, 0.25, 4)),
    ],
)
def test_interval_of_few_or_equal_listeners(values, expected):
    np.testing.assert_equal(tuple(bootstrap_interval(values, 0)), tuple(expected))


def test_listeners_and_seeds_are_drawn_independently():
    # Two listeners (rows) and two seeds. All draws fall on the first row and first column, or on the last of
    # each, once in 16: more often than 2.5 %, so these cells are the bounds. Over listeners alone the bounds
    # are the means of the rows, over seeds alone those of the columns.
    grid = np.array([[0.0, 1.0], [2.0, 5.0]])
    assert bootstrap_interval(grid, 0) == Interval(2.0, 0.0, 5.0, 2)
    assert bootstrap_interval(grid.mean(axis=1), 0) == Interval(2.0, 0.5, 3.5, 2)


def test_variances_of_listeners_and_of_seeds_add_up():
    # A mean of crossed draws from a + b has variance var(a) / n + var(b) / m.
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=60), rng.normal(0, 2, 30)
    result = bootstrap_interval(a[:, None] + b, 0)
    spread = np.sqrt(a.var() / 60 + b.var() / 30)
    assert result.mean == pytest.approx(a.mean() + b.mean())
    assert result.high - result.low == pytest.approx(2 * 1.96 * spread, rel=0.05)


def test_incomplete_listeners_and_seeds_of_nobody_are_left_out():
    grid = pd.DataFrame({0: [1.0, 3.0, 9.0], 1: [2.0, 4.0, np.nan], 2: [np.nan] * 3}, index=list("abc"))
    assert bootstrap_interval(grid, 0) == bootstrap_interval([[1.0, 2.0], [3.0, 4.0]] @ np.eye(2), 0)
    assert bootstrap_interval(grid, 0).listeners == 2
    assert bootstrap_interval(grid[[2]], 0).listeners == 0


def test_spread_between_seeds_is_that_of_their_means():
    # Means of the columns: 1 and 4, so that the sd (one degree of freedom) is 3 / sqrt(2).
    grid = np.array([[0.0, 3.0], [2.0, 5.0]])
    assert between_seeds(grid) == pytest.approx(3 / np.sqrt(2))
    assert np.isnan(between_seeds([1.0, 2.0]))
    result = effect(pd.DataFrame(grid - 2), 0)
    assert (result["between_seeds"], result["ahead"], result["listeners"]) == (pytest.approx(3 / np.sqrt(2)), 0.5, 2)
    # Means over seeds -0.5 and 1.5: of four sign patterns, two are as far from zero.
    assert result["p"] == p_value([-0.5, 1.5], 0) == 1.0


def test_correlation_is_scipys_and_exact_for_few():
    rng = np.random.default_rng(0)
    one, other = rng.integers(8, size=(2, 30))
    result = correlation([*one, np.nan], [*other, 0], 0)
    assert result["rho"] == pytest.approx(stats.spearmanr(one, other).statistic)
    assert result["listeners"] == 30 and result["low"] < result["rho"] < result["high"]
    assert result["p"] == pytest.approx(stats.spearmanr(one, other).pvalue, abs=0.03)
    # Of the 24 orders of four values, one has rho 1 and one -1.
    assert correlation([1, 2, 3, 4], [1, 4, 9, 16], 0)["p"] == pytest.approx(2 / 24)
    assert np.isnan(correlation([1, 2, 3], [5, 5, 5], 0)["rho"])


def test_partial_correlation_is_the_closed_form_and_nearly_students():
    rng = np.random.default_rng(0)
    given = rng.integers(8, size=40)
    one, other = rng.integers(6, size=(2, 40)) + given  # alike for what both have of the third, and for that alone
    ab, ac, bc = (stats.spearmanr(*pair).statistic for pair in ((one, other), (one, given), (other, given)))
    rho = (ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2))
    result = correlation(one, other, 0, given)
    assert result["rho"] == pytest.approx(rho) and abs(rho) < ab / 2 and result["low"] < rho < result["high"]
    t = rho * np.sqrt((40 - 3) / (1 - rho**2))
    assert result["p"] == pytest.approx(2 * stats.t.sf(abs(t), 40 - 3), abs=0.03)
    assert np.isnan(correlation(one, given, 0, given)["rho"])
    assert np.isnan(correlation([1, 3, 2], [2, 3, 1], 0, [1, 2, 3])["rho"])


def test_correlation_interval_is_nearly_fishers():
    # For normal values arctanh(r) has a standard error near 1.03 / sqrt(n - 3) (Spearman).
    rng = np.random.default_rng(0)
    one = rng.normal(size=200)
    result = correlation(one, one + rng.normal(size=200), 0)
    width = np.arctanh(result["high"]) - np.arctanh(result["low"])
    assert width == pytest.approx(2 * 1.96 * 1.03 / np.sqrt(197), rel=0.15)


def scores(rows):
    return pd.DataFrame(rows, columns=["method", "setting", "shots", "listener", "f1"])


def test_pairing_is_by_listener_and_a_method_without_shots_answers_for_any():
    table = scores(
        [
            ("base", "seen", 0, "E1", 0.1),
            ("base", "seen", 0, "E2", 0.4),
            ("new", "seen", 5, "E2", 0.5),
            ("new", "seen", 5, "E1", 0.4),
            ("new", "seen", 5, "E3", 0.9),
            ("new", "unseen", 5, "E1", 0.9),
        ]
    )
    result = paired_difference(table, "new", "base", "seen", 5)
    assert result.to_dict() == pytest.approx({"E1": 0.3, "E2": 0.1})
    assert select(table, "base", "seen", 20).to_dict() == {"E1": 0.1, "E2": 0.4}
    assert select(table, "new", "seen", 20).empty


def test_p_value_by_counting_signs():
    # All six of one sign: of 64 sign patterns, 2 are as extreme.
    assert p_value([0.1, 0.2, 0.3, 0.1, 0.2, 0.4], 0) == pytest.approx(2 / 64)
    # 3, -1: the sums of the four patterns are 2, 4, -4, -2; all are as extreme as 2.
    assert p_value([3.0, -1.0], 0) == pytest.approx(1.0)
    assert np.isnan(p_value([0.1], 0))


def test_holm_on_paper():
    # Sorted 0.01, 0.02, 0.04 times 3, 2, 1, made monotone.
    np.testing.assert_allclose(holm([0.04, 0.01, np.nan, 0.02]), [0.04, 0.03, np.nan, 0.04])
    assert len(holm([])) == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 12), st.floats(0.01, 0.5))
def test_compare_finds_a_constant_gain(listeners, gain):
    names = [f"E{i}" for i in range(listeners)]
    table = scores(
        [("base", "seen", 0, name, 0.3) for name in names]
        + [("new", "seen", 5, name, 0.3 + gain) for name in names]
    )
    row = compare_methods(table, [("new", "base", "seen", 5)], 0).loc[0]
    assert row[["mean", "low", "high"]].tolist() == pytest.approx([gain] * 3)
    assert row["p"] == row["p_holm"] == pytest.approx(2 / 2**listeners)


def test_compare_pairs_by_listener_and_seed():
    table = pd.DataFrame(
        [(m, "seen", k, who, seed, f1) for m, k, base in (("base", 0, 0.2), ("new", 5, 0.3))
         for who, more in (("E1", base), ("E2", base + 0.4)) for seed, f1 in ((0, more), (1, more + (k > 0) * 0.1))],
        columns=["method", "setting", "shots", "listener", "seed", "f1"],
    )
    row = compare_methods(table, [("new", "base", "seen", 5)], 0).loc[0]
    # Listeners differ by 0.4 and drop out; the gain is 0.1 with seed 0 and 0.2 with seed 1.
    assert row[["mean", "low", "high"]].tolist() == pytest.approx([0.15, 0.1, 0.2])
    assert row["between_seeds"] == pytest.approx(0.1 / np.sqrt(2))
    assert compare_methods(table, [], 0).empty
