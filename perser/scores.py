"""Scores from counts: macro F1 of any counts, and all scores of records, per listener and pooled over listeners."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import entr

from perser.errors import UserError


class Score(NamedTuple):
    """A score's name in print, and the factor to the printed unit: negative where less is better."""

    title: str
    factor: int

    @property
    def words(self) -> str:
        """The title within a sentence."""
        return self.title[0].lower() + self.title[1:]


SETTINGS = ("seen", "unseen")
SCORES = {
    "log_loss": Score("Log loss", -100), "accuracy": Score("Accuracy", 100), "f1": Score("Macro F1", 100),
    "top_f1": Score("Macro F1, most probable class", 100), "balanced": Score("Balanced accuracy", 100),
    "brier": Score("Brier score", -100), "calibration": Score("Calibration error", -100)}
HEADLINE = ("log_loss", "accuracy", "f1")  # the paper's macro F1 last
CONSTANT = "Best constant answer"
CELL = ["method", "setting", "shots"]
CLASSES = ("tp_", "fp_", "fn_", "top_of_", "top_hits_")  # columns by class
BINS = ("bins", "bins_confidence", "bins_hits")


def macro_f1(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """Macro F1 of counts per class, (..., C) -> (...), in 0..1.

    A class that was neither ticked nor predicted has no F1 and is left out of the mean, as in scikit-learn with
    zero_division=nan; if no class is left the score is nan.

    >>> float(macro_f1(np.array([1, 2, 0]), np.array([1, 0, 0]), np.array([0, 0, 0])))
    0.8333333333333333
    """
    tp, fp, fn = (np.asarray(x, dtype=float) for x in (tp, fp, fn))
    total = 2 * tp + fp + fn
    f1 = np.divide(2 * tp, total, out=np.zeros_like(total), where=total > 0)
    classes = (total > 0).sum(-1)
    return np.divide(f1.sum(-1), classes, out=np.full(classes.shape, np.nan), where=classes > 0)


def per_seed(records: pd.DataFrame) -> pd.DataFrame:
    """Scores of each listener and seed: counts are summed over folds before any score is taken.

    Returns one row per (method, setting, shots, listener, seed) with `records`, the number of rows summed, and the
    SCORES that the records allow, in 0..1 or nats; methods stay in the order of the records. Accuracy is the share of
    queries whose most probable class the listener had ticked, f1 is of the threshold rule, top_f1 and balanced are the
    macro F1 and the mean recall of the most probable class, and calibration is the expected calibration error of its
    probability (Guo et al. 2017). Raises UserError as `sums`.
    """
    return scored(sums(records))


def sums(records: pd.DataFrame) -> pd.DataFrame:
    """Counts summed over folds, by (method, setting, shots, listener, seed); bins have a column each.

    Raises UserError if one fold holds two rows of the same cell, such as two numbers of inner steps: their sum would
    belong to neither.
    """
    keys = [*CELL, "listener", "seed"]
    duplicated = records.duplicated([*keys, "fold"])
    if duplicated.any():
        row = records.loc[duplicated.idxmax()]
        raise UserError(f"records with two rows for method {row['method']}, {row['setting']}, K = {row['shots']}, "
                        f"listener {row['listener']}, seed {row['seed']}, fold {row['fold']}; give one number of inner "
                        "steps at a time")
    counted = [name for name in records if name.startswith(CLASSES) or name in ("queries", "top", "log_loss", "brier")]
    bins = {f"{name} {place}": column for name in BINS if name in records
            for place, column in enumerate(np.stack(records[name].to_list()).T)}
    frame = pd.concat([records[keys + counted], pd.DataFrame(bins, index=records.index)], axis=1)
    return frame.assign(records=1).groupby(keys, sort=False).sum()


def constant(summed: pd.DataFrame) -> pd.DataFrame:
    """`sums` of the best answer that is the same for all clips, chosen for each listener on the queries themselves.

    The most probable class is the one ticked most. The threshold rule ticks every class that the listener ever ticks,
    but the rarest where those are all: no probabilities are all above 1/C. Where a rating ticks one class the
    probabilities are the shares of the ticks; elsewhere they are unknown and what they decide is nan.
    """
    index = summed.index.to_frame(index=False)
    first = index["method"].eq(index["method"].iloc[0])
    first &= index["shots"].eq(index[first].groupby("setting")["shots"].min().reindex(index["setting"]).to_numpy())
    index, summed = index[first].assign(method=CONSTANT, shots=0), summed[first.to_numpy()]
    tp, _, fn, *_ = _by_class(summed)
    ticked, queries = tp + fn, summed["queries"].to_numpy()
    ever, classes = ticked > 0, np.eye(tp.shape[1], dtype=bool)
    answered, likeliest = ever & ~(ever.all(1, keepdims=True) & classes[ticked.argmin(1)]), classes[ticked.argmax(1)]
    parts = (answered * ticked, answered * (queries[:, None] - ticked), ~answered * ticked,
             likeliest * queries[:, None], likeliest * ticked)
    shares = ticked / queries[:, None]
    single = np.where(ticked.sum(1) == queries, 1.0, np.nan)
    names = [name.removeprefix("tp_") for name in summed if name.startswith("tp_")]
    columns = {start + name: part[:, place] for start, part in zip(CLASSES, parts) for place, name in enumerate(names)}
    columns |= {"top": ticked.max(1), "queries": queries, "records": summed["records"].to_numpy(),
                "log_loss": single * queries * entr(shares).sum(1),
                "brier": single * queries * (1 - (shares**2).sum(1)),
                **dict.fromkeys([name for name in summed if name.startswith(BINS)], 0 * single)}
    return pd.DataFrame(columns, index=pd.MultiIndex.from_frame(index))[list(summed)]


def pooled(summed: pd.DataFrame) -> pd.DataFrame:
    """`sums` of all listeners together, by (method, setting, shots, seed)."""
    return summed.groupby([*CELL, "seed"], sort=False).sum()


def scored(summed: pd.DataFrame) -> pd.DataFrame:
    """The scores of `sums`, as in `per_seed`."""
    tp, fp, fn, top_of, hits = _by_class(summed)
    queries, ticked = summed["queries"], tp + fn
    scores = summed[["records"]].assign(accuracy=summed["top"] / queries, f1=macro_f1(tp, fp, fn))
    if hits.size:
        recall = np.divide(hits, ticked, out=np.full(hits.shape, np.nan), where=ticked > 0)
        scores = scores.assign(top_f1=macro_f1(hits, top_of - hits, ticked - hits), balanced=np.nanmean(recall, axis=1),
                               log_loss=summed["log_loss"] / queries, brier=summed["brier"] / queries)
        confidence, hit = (summed[[name for name in summed if name.startswith(f"{start} ")]].to_numpy()
                           for start in BINS[1:])
        scores = scores.assign(calibration=np.abs(hit - confidence).sum(1) / queries)
    return scores.reset_index()


def _by_class(summed: pd.DataFrame) -> list[np.ndarray]:
    """A (rows, C) array for each of CLASSES; (rows, 0) where records of earlier versions lack it."""
    return [summed[[name for name in summed if name.startswith(start)]].to_numpy() for start in CLASSES]
