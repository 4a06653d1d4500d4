"""Scores from counts: macro F1 and accuracy, of any counts and per listener of records."""

import numpy as np
import pandas as pd

from perser.errors import UserError

SETTINGS = ("seen", "unseen")
CELL = ["method", "setting", "shots"]
TOP = ("top_of_", "top_hits_")


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

    Returns one row per (method, setting, shots, listener, seed) with f1, accuracy and chance in 0..1 and `records`,
    the number of rows summed; methods stay in the order of the records. Accuracy is the share of queries whose most
    probable class the listener had ticked. Chance is the macro F1 of ticking every class of every query: the best
    constant answer to the same queries. Where the records allow it also log_loss (nats), brier, top_f1 (macro F1 of the
    most probable class) and balanced (its mean recall over the ticked classes). Raises UserError if one fold holds two
    rows of the same cell, such as two numbers of inner steps: their sum would belong to neither.
    """
    keys = [*CELL, "listener", "seed"]
    duplicated = records.duplicated([*keys, "fold"])
    if duplicated.any():
        row = records.loc[duplicated.idxmax()]
        raise UserError(f"records with two rows for method {row['method']}, {row['setting']}, K = {row['shots']}, "
                        f"listener {row['listener']}, seed {row['seed']}, fold {row['fold']}; give one number of inner "
                        "steps at a time")
    kinds = {kind: [name for name in records if name.startswith(f"{kind}_")] for kind in ("tp", "fp", "fn")}
    counted = [name for names in kinds.values() for name in names] + ["queries", "top"]
    counted += [name for name in records if name.startswith(TOP) or name in ("log_loss", "brier")]
    sums = records.assign(records=1).groupby(keys, sort=False)[[*counted, "records"]].sum()
    tp, fp, fn = (sums[names].to_numpy() for names in kinds.values())
    ticked, queries = tp + fn, sums["queries"].to_numpy()[:, None]
    scores = sums[["records"]].assign(
        f1=macro_f1(tp, fp, fn), accuracy=sums["top"] / sums["queries"],
        chance=macro_f1(ticked, queries - ticked, np.zeros_like(ticked)))
    return scores.assign(**_of_probabilities(sums, ticked)).reset_index()


def _of_probabilities(sums: pd.DataFrame, ticked: np.ndarray) -> dict[str, np.ndarray]:
    """Scores that records of earlier versions do not allow; ticked (rows, C)."""
    if "log_loss" not in sums:
        return {}
    top_of, hits = (sums[[name for name in sums if name.startswith(start)]].to_numpy() for start in TOP)
    recall = np.divide(hits, ticked, out=np.full(hits.shape, np.nan), where=ticked > 0)
    return {"log_loss": sums["log_loss"] / sums["queries"], "brier": sums["brier"] / sums["queries"],
            "top_f1": macro_f1(hits, top_of - hits, ticked - hits), "balanced": np.nanmean(recall, axis=1)}


def per_listener(records: pd.DataFrame) -> pd.DataFrame:
    """`per_seed` averaged over seeds: one row per (method, setting, shots, listener), `records` summed."""
    aggregates = {"f1": "mean", "accuracy": "mean", "chance": "mean", "records": "sum"}
    return per_seed(records).groupby([*CELL, "listener"], sort=False).agg(aggregates).reset_index()
