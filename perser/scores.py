"""Scores from counts: macro F1 and accuracy, of any counts and per listener of records."""

import numpy as np
import pandas as pd

from perser.errors import UserError

SETTINGS = ("seen", "unseen")
CELL = ["method", "setting", "shots"]


def macro_f1(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """Macro F1 of counts per class, (..., C) -> (...), in 0..1.

    A class that was neither ticked nor predicted has no F1 and is left out of the mean, as scikit-learn
    does with zero_division=nan; where no class is left the score is nan.

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

    Returns one row per (method, setting, shots, listener, seed) with f1, accuracy and chance in 0..1 and
    `records`, the number of rows behind it; methods stay in the order of the records. Accuracy is the share
    of queries whose most probable class the listener had ticked. Chance is the macro F1 of ticking every
    class of every query: the best answer to the same queries that listens to nothing and knows nothing of
    the listener. Raises UserError where one fold holds two rows of the same cell, such as two inner steps:
    their sum would be of neither.
    """
    keys = [*CELL, "listener", "seed"]
    twice = records.duplicated([*keys, "fold"])
    if twice.any():
        row = records.loc[twice.idxmax()]
        raise UserError(
            f"records with two rows for method {row['method']}, {row['setting']}, K = {row['shots']}, "
            f"listener {row['listener']}, seed {row['seed']}, fold {row['fold']}; give one inner step at a time"
        )
    kinds = {kind: [name for name in records if name.startswith(f"{kind}_")] for kind in ("tp", "fp", "fn")}
    summed = [name for names in kinds.values() for name in names] + ["queries", "top"]
    found = records.assign(records=1).groupby(keys, sort=False)[[*summed, "records"]].sum()
    tp, fp, fn = (found[names].to_numpy() for names in kinds.values())
    ticked, queries = tp + fn, found["queries"].to_numpy()[:, None]
    return (
        found[["records"]]
        .assign(
            f1=macro_f1(tp, fp, fn),
            accuracy=found["top"] / found["queries"],
            chance=macro_f1(ticked, queries - ticked, np.zeros_like(ticked)),
        )
        .reset_index()
    )


def per_listener(records: pd.DataFrame) -> pd.DataFrame:
    """`per_seed` averaged over seeds: one row per (method, setting, shots, listener), `records` summed."""
    how = {"f1": "mean", "accuracy": "mean", "chance": "mean", "records": "sum"}
    return per_seed(records).groupby([*CELL, "listener"], sort=False).agg(how).reset_index()
