"""Counts a corpus: how much there is, and how much its listeners differ."""

from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from perser.corpora.base import Corpus

# 26 listeners of the WHiSER corpus with at least 200 labels each (msplabresearch/WHiSER at 5850655).
# There, neutral, agreement and kappa are of the primary label; ours of all labels, each weighted 1/m.
REAL_LISTENERS = {
    "neutral": {"mean": 0.54, "sd": 0.30, "min": 0.03, "max": 0.94},
    "ticks": {"mean": 1.94, "sd": 0.97},
    "ticks_per_listener": {"mean": 2.03, "sd": 0.72, "min": 1.05, "max": 3.43},
    "agreement": {"mean": 0.505, "sd": 0.207, "min": 0.05, "max": 0.71},
    "kappa": {"mean": 0.108, "sd": 0.065, "min": -0.02, "max": 0.35},
}
_LEAST_RATINGS, _LEAST_COMMON = 20, 20


def describe(corpus: Corpus) -> dict:
    """Counts and listener statistics, JSON-able.

    A rating of m ticks counts as m labels of weight 1/m, in class shares as in agreement and kappa, so
    that no order of the classes decides. agreement: share of a listener's label weight on the plurality
    of the clip's other listeners (weight of ties shared). kappa: scikit-learn's Cohen kappa of all label
    pairs of two listeners' common clips. Ratings with no class ticked are counted, then left out.
    Listeners with fewer than 20 such ratings, and pairs with fewer than 20 common clips, are left out of
    the spreads. With simulated listeners, the figures of real ones stand beside them.
    """
    votes, on, listeners = _votes(corpus)
    counts = corpus.ratings.listener.value_counts().sort_index()
    kept = [who for who in counts.index if (listeners == who).sum() >= _LEAST_RATINGS]
    ticks = on.sum(axis=1)
    shares = votes.mean(axis=0) if len(votes) else np.zeros(len(corpus.classes))
    neutral = corpus.classes.index("neutral") if "neutral" in corpus.classes else None
    own = [votes[listeners == who] for who in kept]
    found = {
        "corpus": corpus.name,
        "synthetic": corpus.synthetic,
        "clips": len(corpus.clips),
        "speakers": int(corpus.clips.speaker.nunique()),
        "clips_per_session": {str(k): int(v) for k, v in corpus.clips.groupby("session").size().items()},
        "seconds": _spread(corpus.clips.seconds) | {"sum": round(float(corpus.clips.seconds.sum()), 1)},
        "listeners": len(counts),
        "ratings": len(corpus.ratings),
        "ratings_without_class": int((~corpus.ratings[list(corpus.classes)].any(axis=1)).sum()),
        "ratings_per_listener": _spread(counts) | {"each": {k: int(v) for k, v in counts.head(60).items()}},
        "ratings_per_clip": _spread(corpus.ratings.groupby("clip").size()),
        "classes": dict(zip(corpus.classes, shares.round(4).tolist(), strict=True)),
        "ticks": _spread(ticks),
        "ticks_per_listener": _spread([ticks[listeners == who].mean() for who in kept]),
        "agreement": _spread(_agreement(votes, corpus, listeners, kept)),
        "kappa": _spread(_kappas(on, corpus, listeners, kept)),
        "neutral": _spread([] if neutral is None else [votes[:, neutral].mean() for votes in own]),
    }
    return found | ({"real_listeners": REAL_LISTENERS} if corpus.synthetic else {})


def _votes(corpus: Corpus) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Votes (N, C) that sum to one, ticks (N, C), and listeners (N,) of the ratings with a class ticked."""
    ticked = corpus.ratings[list(corpus.classes)].to_numpy(dtype=bool)
    some = ticked.any(axis=1)
    on = ticked[some]
    return on / np.maximum(on.sum(axis=1, keepdims=True), 1), on, corpus.ratings.listener.to_numpy()[some]


def _clip_codes(corpus: Corpus) -> np.ndarray:
    some = corpus.ratings[list(corpus.classes)].any(axis=1)
    return pd.factorize(corpus.ratings["clip"][some])[0]


def _agreement(votes: np.ndarray, corpus: Corpus, listeners: np.ndarray, kept: list[str]) -> list[float]:
    clips = _clip_codes(corpus)
    total = np.zeros((clips.max(initial=-1) + 1, votes.shape[1]))
    np.add.at(total, clips, votes)
    others = total[clips] - votes
    best = np.isclose(others, others.max(axis=1, keepdims=True)) & (others > 1e-9)
    hits = (votes * best).sum(axis=1) / np.maximum(best.sum(axis=1), 1)
    alone = ~best.any(axis=1)
    mine = [(listeners == who) & ~alone for who in kept]
    return [float(hits[rows].mean()) for rows in mine if rows.sum() >= _LEAST_RATINGS]


def _kappas(on: np.ndarray, corpus: Corpus, listeners: np.ndarray, kept: list[str]) -> list[float]:
    clips = _clip_codes(corpus)
    rated = {who: dict(zip(clips[listeners == who], on[listeners == who], strict=True)) for who in kept}
    found = []
    for one, other in combinations(kept, 2):
        common = sorted(rated[one].keys() & rated[other].keys())
        if len(common) >= _LEAST_COMMON:
            left = np.array([rated[one][clip] for clip in common])
            right = np.array([rated[other][clip] for clip in common])
            found.append(_kappa(left, right))
    return [value for value in found if np.isfinite(value)]


def _kappa(left: np.ndarray, right: np.ndarray) -> float:
    """Cohen's kappa of two listeners' ticks (N, C), each pair of labels weighted 1/(m n)."""
    clip, one, other = np.nonzero(left[:, :, None] & right[:, None, :])
    weight = 1 / (left.sum(axis=1) * right.sum(axis=1))
    if len(set(one) | set(other)) < 2:
        return float("nan")  # both always say the same one class: kappa has no value
    return float(cohen_kappa_score(one, other, sample_weight=weight[clip]))


def _spread(values) -> dict:
    """Number, mean, standard deviation over the values, least and most."""
    values = np.asarray(list(values), dtype=float)
    if not len(values):
        return {"n": 0, "mean": None, "sd": None, "min": None, "max": None}
    figures = {"mean": values.mean(), "sd": values.std(), "min": values.min(), "max": values.max()}
    return {"n": len(values)} | {key: round(float(value), 4) for key, value in figures.items()}
