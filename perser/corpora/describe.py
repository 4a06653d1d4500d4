"""Counts a corpus: how much there is, and how much its listeners differ."""

from collections.abc import Iterable

import numpy as np

from perser.corpora.agreement import Votes, likeness, noise_ceiling, others, pair_kappas, votes
from perser.corpora.base import Corpus

# 26 listeners of the WHiSER corpus with at least 200 labels each (msplabresearch/WHiSER at 5850655). Their neutral,
# agreement and kappa are those of the primary label; `describe` uses all labels, each with weight 1/m.
REAL_LISTENERS = {
    "neutral": {"mean": 0.54, "sd": 0.30, "min": 0.03, "max": 0.94},
    "ticks": {"mean": 1.94, "sd": 0.97},
    "ticks_per_listener": {"mean": 2.03, "sd": 0.72, "min": 1.05, "max": 3.43},
    "agreement": {"mean": 0.505, "sd": 0.207, "min": 0.05, "max": 0.71},
    "kappa": {"mean": 0.108, "sd": 0.065, "min": -0.02, "max": 0.35},
}
_LEAST_RATINGS = 20


def describe(corpus: Corpus) -> dict[str, object]:
    """Counts and listener statistics, JSON-able.

    Class shares, neutral, agreement and kappa are computed from votes (`perser.corpora.agreement`). agreement: share
    of a listener's votes that falls on the plurality of the clip's other listeners; a tied plurality counts by its
    share. kappa: Cohen's kappa of two listeners. Listeners with fewer than 20 such ratings, and pairs with fewer than
    20 common clips, are left out of these figures. For simulated listeners, those of real listeners are added.
    likeness: `perser.corpora.agreement.likeness`. repeats: `perser.corpora.agreement.noise_ceiling`, where listeners
    rated clips more than once. missing: what the folder lacks of the full release, where it lacks any.
    """
    cast = votes(corpus.ratings, corpus.classes)
    ticks = (cast.weights > 0).sum(axis=1)
    shares = cast.weights.mean(axis=0) if len(cast.weights) else np.zeros(len(corpus.classes))
    neutral = corpus.classes.index("neutral") if "neutral" in corpus.classes else None
    by_listener = [cast.listener == code for code in range(len(cast.names))]
    kept = [rows for rows in by_listener if rows.sum() >= _LEAST_RATINGS]
    per_listener = corpus.ratings["listener"].value_counts().sort_index()
    sessions = corpus.clips.groupby("session").size()
    counts = {
        "corpus": corpus.name, "synthetic": corpus.synthetic,
        **({"missing": list(corpus.notes)} if corpus.notes else {}),
        "clips": len(corpus.clips),
        "speakers": int(corpus.clips["speaker"].nunique()),
        "clips_per_session": {str(session): int(number) for session, number in sessions.items()},
        "seconds": _spread(corpus.clips["seconds"]) | {"sum": round(float(corpus.clips["seconds"].sum()), 1)},
        "listeners": len(per_listener), "ratings": len(corpus.ratings),
        "ratings_without_class": len(corpus.ratings) - len(cast.weights),
        "ratings_per_listener": _spread(per_listener) | {"by_listener": per_listener.head(60).to_dict()},
        "ratings_per_clip": _spread(corpus.ratings.groupby("clip").size()),
        "classes": dict(zip(corpus.classes, shares.round(4).tolist(), strict=True)),
        "ticks": _spread(ticks),
        "ticks_per_listener": _spread([ticks[rows].mean() for rows in kept]),
        "agreement": _spread(_agreement(cast, kept)),
        "kappa": _spread([kappa for _, _, kappa in pair_kappas(cast) if np.isfinite(kappa)]),
        "neutral": _spread([] if neutral is None else [cast.weights[rows, neutral].mean() for rows in kept]),
        "likeness": likeness(corpus),
    }
    repeats = {} if corpus.repeats is None or corpus.repeats.empty else {"repeats": noise_ceiling(corpus)}
    return counts | repeats | ({"real_listeners": REAL_LISTENERS} if corpus.synthetic else {})


def _agreement(cast: Votes, by_listener: list[np.ndarray]) -> list[float]:
    """A listener's mean share of votes on the others' plurality; by_listener: rows (N,) bool of each listener."""
    _, plurality, shared = others(cast)
    hits = (cast.weights * plurality).sum(axis=1) / plurality.sum(axis=1)
    return [hits[rows & shared].mean() for rows in by_listener if (rows & shared).sum() >= _LEAST_RATINGS]


def _spread(values: Iterable[float]) -> dict[str, object]:
    """Number, mean, standard deviation (of the population), least and greatest of the values."""
    values = np.asarray(list(values), dtype=float)
    if not len(values):
        return {"n": 0, "mean": None, "sd": None, "min": None, "max": None}
    figures = {"mean": values.mean(), "sd": values.std(), "min": values.min(), "max": values.max()}
    return {"n": len(values)} | {key: round(float(value), 4) for key, value in figures.items()}
