"""Scores from counts, and their intervals."""

import numpy as np


def macro_f1(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """Macro F1 of counts per class, (..., C) -> (...), in 0..1.

    A class that was neither ticked nor predicted has no F1 and is left out of the mean, as scikit-learn does with
    zero_division=nan; where no class is left the score is nan.

    >>> float(macro_f1(np.array([1, 2, 0]), np.array([1, 0, 0]), np.array([0, 0, 0])))
    0.8333333333333333
    """
    tp, fp, fn = (np.asarray(x, dtype=float) for x in (tp, fp, fn))
    total = 2 * tp + fp + fn
    f1 = np.divide(2 * tp, total, out=np.zeros_like(total), where=total > 0)
    classes = (total > 0).sum(-1)
    return np.divide(f1.sum(-1), classes, out=np.full(classes.shape, np.nan), where=classes > 0)
