"""describe: counts, and agreement and kappa against numbers derived by hand and by scikit-learn."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from perser.corpora import Corpus, describe
from perser.corpora.agreement import kappa_table
from perser.seeds import rng

CLASSES = ("neutral", "happy", "sad")


def corpus(rows: list[tuple[str, str, str]], synthetic: str = "") -> Corpus:
    """Rows of clip, listener and ticked classes by their first letters."""
    ratings = [(clip, who, *(name[0] in ticked for name in CLASSES)) for clip, who, ticked in rows]
    names = sorted({row[0] for row in rows})
    clips = pd.DataFrame(
        {"path": "/x.wav", "speaker": [name[0] for name in names], "session": 1, "seconds": 2.0},
        index=pd.Index(names, name="clip"),
    )
    return Corpus(
        "table", CLASSES, clips, pd.DataFrame(ratings, columns=["clip", "listener", *CLASSES]), synthetic
    )


def test_counts_shares_and_ticks_by_hand():
    summary = describe(corpus([("a1", "x", "n"), ("a1", "y", "nh"), ("b2", "x", ""), ("b2", "y", "s")]))
    assert (summary["clips"], summary["listeners"], summary["ratings"], summary["speakers"]) == (2, 2, 4, 2)
    assert summary["ratings_without_class"] == 1
    assert summary["seconds"]["sum"] == 4.0
    assert summary["classes"] == {"neutral": 0.5, "happy": pytest.approx(1 / 6, abs=1e-4), "sad": 0.3333}
    assert summary["ticks"]["mean"] == pytest.approx(4 / 3, abs=1e-4)
    assert summary["ratings_per_listener"]["by_listener"] == {"x": 2, "y": 2}
    json.dumps(summary)


def test_agreement_by_hand():
    # y and z always say happy; x says happy on half of the clips, and both happy and sad on the rest.
    rows = [(f"c{n:02d}", who, "h" if who != "x" or n % 2 else "hs") for n in range(40) for who in "xyz"]
    summary = describe(corpus(rows))["agreement"]
    assert (summary["min"], summary["max"]) == (0.75, 1.0)
    assert summary["mean"] == pytest.approx((0.75 + 1 + 1) / 3, abs=1e-4)


def test_tied_plurality_counts_by_its_share():
    rows = [(f"c{n:02d}", who, tick) for n in range(30) for who, tick in zip("xyz", "nns", strict=True)]
    # Others of x: n and s tie, x says n: 1/2. The same for y. Others of z: n alone, z says s: 0.
    summary = describe(corpus(rows))["agreement"]
    assert (summary["min"], summary["max"]) == (0.0, 0.5)


def test_kappa_of_single_labels_is_scikit_learns():
    draw = rng(0, "labels")
    one, other = draw.choice(list("nhs"), 200), draw.choice(list("nhs"), 200)
    other[:120] = one[:120]
    rows = [(f"c{n:03d}", who, row[n]) for who, row in (("x", one), ("y", other)) for n in range(200)]
    summary = describe(corpus(rows))["kappa"]
    assert summary["n"] == 1
    assert summary["mean"] == pytest.approx(cohen_kappa_score(one, other), abs=1e-4)


def test_kappa_of_several_ticks_splits_the_label():
    rows = [(f"c{n:02d}", who, "nh" if n % 2 else "s") for n in range(40) for who in "xy"]
    # Half the weight is sad on sad; the rest spreads evenly over n/h pairs: agreement 1/2 + 1/2 * 1/2,
    # by chance 1/4 + 1/16 + 1/16.
    chance = 1 / 4 + 1 / 16 + 1 / 16
    assert describe(corpus(rows))["kappa"]["mean"] == pytest.approx((0.75 - chance) / (1 - chance), abs=1e-4)


def test_listeners_with_few_ratings_are_left_out_of_the_spreads():
    rows = [(f"c{n:02d}", who, "n") for n in range(25) for who in "xy"] + [("c00", "z", "s")]
    summary = describe(corpus(rows))
    assert summary["listeners"] == 3 and summary["ticks_per_listener"]["n"] == 2 and summary["agreement"]["n"] == 2
    assert summary["kappa"]["n"] == 0 and summary["kappa"]["mean"] is None


def test_real_listeners_are_added_to_simulated_ones_only():
    rows = [("a", "x", "n")]
    assert "real_listeners" not in describe(corpus(rows))
    real = describe(corpus(rows, "listeners"))["real_listeners"]
    assert (real["neutral"]["mean"], real["kappa"]["sd"]) == (0.54, 0.065)
    assert set(real) <= set(describe(corpus(rows)))


def test_a_corpus_without_ratings_of_a_class_has_no_spreads():
    summary = describe(corpus([("a", "x", ""), ("b", "x", "")]))
    assert summary["ratings_without_class"] == 2
    assert summary["agreement"]["n"] == 0 and not np.any(list(summary["classes"].values()))


def test_kappa_is_that_of_the_table_of_pairs():
    draw = rng(0, "ticks")
    rows = [(f"c{n:02d}", who, "".join(draw.choice(list("nhs"), draw.integers(1, 4), replace=False)))
            for n in range(30) for who in "wxyz"]
    kappas = kappa_table(corpus(rows).ratings, CLASSES).to_numpy()[np.triu_indices(4, 1)]
    spread = describe(corpus(rows))["kappa"]
    assert spread["n"] == 6 and spread["mean"] == pytest.approx(kappas.mean(), abs=1e-4)
    assert (spread["min"], spread["max"]) == pytest.approx((kappas.min(), kappas.max()), abs=1e-4)
