"""Scores and intervals against scikit-learn, statsmodels and numbers derived on paper."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import f1_score
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from perser import records
from perser.analysis.statistics import (
    Interval,
    between_seeds,
    compare_methods,
    correlation,
    effect,
    holm,
    interval,
    paired_difference,
    select,
)
from perser.errors import UserError
from perser.evaluate import count
from perser.scores import CONSTANT, SCORES, constant, macro_f1, per_seed, pooled, scored, sums


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
    result = per_seed(frame)
    # x: 2 hits, 2 false: F1 = 4/6. y: 1 hit, 1 missed: F1 = 2/3. A mean of fold scores would differ.
    assert len(result) == 1
    assert result.loc[0, "f1"] == pytest.approx(2 / 3)
    assert result.loc[0, "accuracy"] == pytest.approx(3 / 6)
    assert result.loc[0, "records"] == 2


def test_a_title_within_a_sentence_keeps_its_abbreviation():
    assert [SCORES[name].words for name in ("f1", "log_loss")] == ["macro F1", "log loss"]


def test_cells_and_listeners_are_kept_apart_in_the_records_order():
    frame = pd.DataFrame(
        [
            record(method="z", listener="E2", tp_x=1),
            record(method="a", tp_x=1),
            record(method="a", setting="unseen", tp_x=1),
            record(method="a", shots=10, tp_x=1),
        ]
    )
    result = per_seed(frame)
    assert list(result["method"]) == ["z", "a", "a", "a"]
    assert len(result) == 4


def test_seeds_are_scored_one_by_one():
    frame = pd.DataFrame(
        [record(tp_x=1, fn_y=1), record(seed=1, tp_x=1, tp_y=1), record(listener="E2", tp_x=1, fp_x=2, queries=5)]
    )
    # E1: seed 0 (1 + 0) / 2, seed 1 (1 + 1) / 2. E2: x 2 / 4, y neither ticked nor predicted.
    assert per_seed(frame).set_index(["listener", "seed"])["f1"].to_dict() == {
        ("E1", 0): 0.5, ("E1", 1): 1.0, ("E2", 0): 0.5}


def clips(fold=1, listener="E1", p=(0.6, 0.3, 0.1), ticks=((1, 0, 0),), **columns):
    """A record of probabilities that are the same for all clips, and the ticks of these clips."""
    counts = count(torch.tensor(p).log().expand(len(ticks), 3), torch.tensor(ticks, dtype=torch.bool))
    labels = {"method": "a", "setting": "seen", "shots": 5, "seed": 0} | columns
    return records.row(counts, ("x", "y", "z"), fold=fold, listener=listener, **labels)


def test_calibration_is_that_of_the_summed_bins():
    """One listener hits three of four with confidence 0.6, the other one of four with 0.61: 0.15 and 0.36 alone, in one
    bin |4 - (2.4 + 2.44)| / 8 = 0.105 together. In different bins the errors do not cancel.
    """
    often, rarely = ((1, 0, 0),) * 3 + ((0, 1, 0),), ((1, 0, 0),) + ((0, 0, 1),) * 3
    frame = pd.DataFrame([clips(ticks=often), clips(listener="E2", p=(0.61, 0.29, 0.1), ticks=rarely)])
    assert per_seed(frame)["calibration"].tolist() == pytest.approx([0.15, 0.36])
    assert scored(pooled(sums(frame)))["calibration"].tolist() == pytest.approx([0.105])
    frame = pd.DataFrame([clips(ticks=often), clips(listener="E2", p=(0.71, 0.19, 0.1), ticks=rarely)])
    assert scored(pooled(sums(frame)))["calibration"].tolist() == pytest.approx([(0.6 + 1.84) / 8])


def test_pooled_scores_are_of_the_counts_of_all_listeners():
    """A listener of one clip counts for one of five, not for half; seeds stay apart."""
    frame = pd.DataFrame([clips(), clips(listener="E2", ticks=((0, 1, 0),) * 4), clips(seed=1)])
    by_listener, together = per_seed(frame), scored(pooled(sums(frame)))
    assert by_listener["accuracy"].tolist() == [1, 0, 1]
    assert together.set_index("seed")["accuracy"].to_dict() == {0: pytest.approx(0.2), 1: 1}
    assert together["log_loss"][0] == pytest.approx(-(np.log(0.6) + 4 * np.log(0.3)) / 5)
    assert together["f1"][0] == pytest.approx(np.mean([2 / 6, 0]))  # x: 1 hit, 4 false; y: 4 missed; z is nobody's
    assert "listener" not in together and together["records"].tolist() == [2, 1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_no_constant_answer_is_better_than_the_best(truth):
    ticks = np.eye(3, dtype=int)[truth]
    best = scored(constant(sums(pd.DataFrame([clips(ticks=tuple(map(tuple, ticks)))])))).iloc[0]
    steps = np.linspace(0.005, 0.99, 60)
    grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b < 0.995]
    p = np.array(grid)[:, None]
    assert best["log_loss"] <= -(ticks * np.log(p)).sum(-1).mean(-1).min() + 1e-9
    assert best["brier"] <= ((p - ticks) ** 2).sum(-1).mean(-1).min() + 1e-9
    shares = ticks.mean(0)
    assert best["accuracy"] == pytest.approx(shares.max()) and best["calibration"] == 0
    sets = np.unique(np.array(grid) > 1 / 3, axis=0)
    scores = [np.nanmean(f1_score(ticks, np.tile(ticked, (len(ticks), 1)).astype(int), average=None,
                                  zero_division=np.nan)) for ticked in sets if ticked.any()]
    assert best["f1"] == pytest.approx(max(scores))


def test_the_best_constant_answer_is_of_each_listener_once_and_unknown_where_ratings_tick_several():
    rows = [clips(shots=shots, method=method, setting=setting) for method in "ab" for shots in (5, 10)
            for setting in ("seen", "unseen")] + [clips(fold=2, ticks=((0, 1, 0), (0, 1, 0)), setting="unseen")]
    result = constant(sums(pd.DataFrame(rows))).reset_index()
    assert result[["method", "setting", "shots", "records"]].values.tolist() == [
        [CONSTANT, "seen", 0, 1], [CONSTANT, "unseen", 0, 2]]
    assert scored(result.set_index(["method", "setting", "shots", "listener", "seed"]))["accuracy"].tolist() == [
        1, pytest.approx(2 / 3)]
    several = scored(constant(sums(pd.DataFrame([clips(ticks=((1, 1, 0), (1, 0, 0)))])))).iloc[0]
    assert several[["log_loss", "brier", "calibration"]].isna().all()
    assert several["accuracy"] == 1 and several["f1"] == pytest.approx(np.mean([1, 2 / 3]))


def test_records_of_earlier_versions_have_the_scores_that_they_allow():
    both = sums(pd.DataFrame([record(tp_x=6, fp_x=1, fn_y=4)]))
    assert set(scored(pd.concat([both, constant(both)]))) & set(SCORES) == {"accuracy", "f1"}


def test_two_rows_of_one_cell_are_refused():
    with pytest.raises(UserError, match=r"two rows for method a, seen, K = 5, listener E1, seed 0, fold 1"):
        per_seed(pd.DataFrame([record(tp_x=1), record(tp_x=2)]))


def test_interval_of_one_seed_is_students():
    values = np.random.default_rng(0).normal(0.4, 1, 20)
    expected = stats.ttest_1samp(values, 0)
    for sample in (values, pd.DataFrame({0: values}), pd.Series(values), [*values, np.nan]):
        mean, low, high, p, listeners = interval(sample)
        assert (mean, p, listeners) == (pytest.approx(values.mean()), pytest.approx(expected.pvalue), 20)
        assert (low, high) == pytest.approx(expected.confidence_interval())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5], Interval(0.5, np.nan, np.nan, np.nan, 1)),
        ([], Interval(np.nan, np.nan, np.nan, np.nan, 0)),
        ([0.5, np.nan], Interval(0.5, np.nan, np.nan, np.nan, 1)),
        ([0.25] * 4, Interval(0.25, 0.25, 0.25, 0.0, 4)),
        (np.zeros((4, 3)), Interval(0.0, 0.0, 0.0, 1.0, 4)),
        (np.full((4, 3), 0.1) - 0.1 + 0.7, Interval(0.7, 0.7, 0.7, 0.0, 4)),
    ],
)
def test_interval_of_few_or_equal_listeners(values, expected):
    np.testing.assert_allclose(interval(values), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("grid", "variance", "freedom"),
    [
        ([[0, 1], [2, 5]], (9 + 4 - 1) / 4, 12**2 / (9**2 + 4**2 + 1)),  # mean squares 9 of listeners, 4 of seeds, 1
        ([[0, 1], [5, 4]], 16 / 4, 1),  # 16, 0 and 1: seeds add nothing
        ([[0, 5], [1, 4]], 16 / 4, 1),  # the same the other way round
        ([[0, 1], [1, 0]], 1 / 4, 1),  # 0, 0 and 1: nothing but noise
    ],
)
def test_variances_of_listeners_and_seeds_on_paper(grid, variance, freedom):
    mean, low, high, p, _ = interval(pd.DataFrame(grid))
    assert mean == np.mean(grid) and (high - mean) == pytest.approx(mean - low)
    assert high - mean == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    assert p == pytest.approx(2 * stats.t.sf(mean / np.sqrt(variance), freedom))


def test_mean_squares_are_statsmodels():
    rng = np.random.default_rng(1)
    grid = pd.DataFrame(rng.normal(size=(9, 1)) + rng.normal(size=(1, 4)) + rng.normal(0, 0.5, (9, 4)))
    rows = grid.rename_axis("listener").reset_index().melt("listener", var_name="seed", value_name="y")
    squares = anova_lm(ols("y ~ C(listener) + C(seed)", rows).fit())
    parts = squares["sum_sq"] / squares["df"] * [1, 1, -1]
    variance, freedom = parts.sum() / 36, parts.sum() ** 2 / (parts**2 / squares["df"]).sum()
    assert interval(grid).high - interval(grid).mean == pytest.approx(stats.t.ppf(0.975, freedom) * variance**0.5)


def rejected(number, seed_effect, runs, gain=0.0, method=lambda grid: interval(grid).p):
    """Share of simulated differences that a test rejects: effects of listeners 1, of seeds as given, noise 0.5."""
    rng = np.random.default_rng(number)
    grids = (gain + rng.normal(size=(number, 1)) + seed_effect * rng.normal(size=(1, 3))
             + 0.5 * rng.normal(size=(number, 3)) for _ in range(runs))
    return np.mean([method(grid) < 0.05 for grid in grids])


@pytest.mark.parametrize("number", [36, 6])
@pytest.mark.parametrize("seed_effect", [0.0, 0.2, 0.4])
def test_a_true_null_is_rejected_in_about_five_percent(number, seed_effect):
    """0.2 is an effect of seeds as large as seen, 0.4 twice that; a test over listeners alone rejects 10 % and 23 %."""
    assert 0.02 < rejected(number, seed_effect, 2000) < 0.075
    if number == 36 and seed_effect:
        alone = rejected(number, seed_effect, 1000, method=lambda grid: stats.ttest_1samp(grid.mean(1), 0).pvalue)
        assert alone > (0.075 if seed_effect < 0.3 else 0.18)


def test_power_is_nearly_that_of_a_test_over_listeners_where_seeds_do_not_matter():
    alone = rejected(36, 0.0, 500, 0.5, lambda grid: stats.ttest_1samp(grid.mean(1), 0).pvalue)
    assert alone > 0.7 and rejected(36, 0.0, 500, 0.5) > alone - 0.06


@settings(max_examples=60, deadline=None)
@given(arrays(float, st.tuples(st.integers(2, 6), st.integers(1, 4)), elements=st.integers(-9, 9)))
def test_interval_and_p_agree(grid):
    mean, low, high, p, _ = interval(grid)
    assert low <= mean <= high and 0 <= p <= 1
    assert (p < 0.05) == (low > 0 or high < 0)
    np.testing.assert_allclose(interval(-grid), (-mean, -high, -low, p, len(grid)))


def test_incomplete_listeners_and_seeds_of_nobody_are_left_out():
    grid = pd.DataFrame({0: [1.0, 3.0, 9.0], 1: [2.0, 5.0, np.nan], 2: [np.nan] * 3}, index=list("abc"))
    assert interval(grid) == interval([[1.0, 2.0], [3.0, 5.0]] @ np.eye(2))
    assert interval(grid).listeners == 2
    assert interval(grid[[2]]).listeners == 0


def test_spread_between_seeds_is_that_of_their_means():
    # Means of the columns: 1 and 4, so that the sd (one degree of freedom) is 3 / sqrt(2).
    grid = np.array([[0.0, 3.0], [2.0, 5.0]])
    assert between_seeds(grid) == pytest.approx(3 / np.sqrt(2))
    assert np.isnan(between_seeds([1.0, 2.0]))
    result = effect(pd.DataFrame(grid - 2))
    assert (result["between_seeds"], result["ahead"], result["listeners"]) == (pytest.approx(3 / np.sqrt(2)), 0.5, 2)
    assert result["p"] == interval(grid - 2).p


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


def test_holm_on_paper():
    # Sorted 0.01, 0.02, 0.04 times 3, 2, 1, made monotone.
    np.testing.assert_allclose(holm([0.04, 0.01, np.nan, 0.02]), [0.04, 0.03, np.nan, 0.04])
    assert len(holm([])) == 0


def test_compare_finds_a_constant_gain_in_printed_units_and_less_loss_is_a_gain():
    table = scores([(method, "seen", shots, name, f1) for method, shots, f1 in (("base", 0, 0.3), ("new", 5, 0.4))
                    for name in "abc"])
    rows = compare_methods(table.assign(log_loss=2 * table["f1"]), [("new", "base", "seen", 5)]).set_index("score")
    assert list(rows.index) == ["log_loss", "f1"], "accuracy is not there"
    assert rows.loc["f1", ["mean", "low", "high", "p"]].tolist() == pytest.approx([10, 10, 10, 0])
    assert rows.loc["log_loss", ["mean", "ahead"]].tolist() == pytest.approx([-20, 0])


def test_compare_pairs_by_listener_and_seed():
    table = pd.DataFrame(
        [(m, "seen", k, who, seed, f1) for m, k, base in (("base", 0, 0.2), ("new", 5, 0.3))
         for who, more in (("E1", base), ("E2", base + 0.4)) for seed, f1 in ((0, more), (1, more + (k > 0) * 0.1))],
        columns=["method", "setting", "shots", "listener", "seed", "f1"],
    )
    row = compare_methods(table, [("new", "base", "seen", 5)]).loc[0]
    # Listeners differ by 0.4 and drop out; the gain is 10 points with seed 0 and 20 with seed 1: one degree of freedom.
    assert row["mean"] == pytest.approx(15) and row["high"] - 15 == pytest.approx(stats.t.ppf(0.975, 1) * 5)
    assert row["between_seeds"] == pytest.approx(10 / np.sqrt(2))
    assert compare_methods(table, [], ["f1"]).empty


def test_holm_is_over_the_rows_of_a_score():
    levels = (("base", 0, 0.2, 0.0), ("a", 5, 0.22, 0.01), ("b", 5, 0.19, 0.01))
    table = pd.DataFrame([(method, "seen", k, f"E{n}", base + gap * n, 1 - base - gap * n) for n in range(5)
                          for method, k, base, gap in levels],
                         columns=["method", "setting", "shots", "listener", "f1", "accuracy"])
    rows = compare_methods(table, [(name, "base", "seen", 5) for name in "ab"])
    for _, part in rows.groupby("score"):
        assert part["p_holm"].tolist() == pytest.approx([2 * part["p"].iloc[0], part["p"].iloc[1]])
