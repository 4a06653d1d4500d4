"""Whom a personal model helps: a verdict per listener and for the team, from the answers of a cross-validation.

A listener is told *better* if all of these hold, and otherwise to keep the general model:

- the log loss falls, by a paired t-test over the listener's ratings. Its p-value is corrected over the listeners by
  Benjamini and Hochberg's rule at 5 %: of the listeners told better, one in twenty is expected not to be. Holm's rule
  guards against a single false one; for dozens of listeners with a hundred ratings each it would hide most true gains,
  while a false one costs little, since the prior keeps the model close to the general one.
- the accuracy does not fall;
- the log loss is below that of the best constant answer. Somebody who ticks at random is predicted better by anything
  that is less sure of itself, but nothing predicts such a listener better than a constant.
"""

import unicodedata
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import entr
from statsmodels.stats.multitest import multipletests

from perser.analysis.statistics import Interval, interval

LEVEL = 0.05
BETTER, KEEP = "better", "not better: keep the general model"
REASONS = {"": "", "shown": "no gain is shown", "falls": "the accuracy falls",
           "constant": "a constant answer is as good", "few": "too few ratings"}
POWER = 0.8  # with which `needed` ratings would show the gain


def paired(differences: pd.DataFrame) -> Interval:
    """Mean, 95 % interval and p of differences (ratings, draws), nan where a draw does not ask for a rating.

    Every answer counts the same, as in records. Ratings and draws are both samples: the variance of the mean adds those
    of both, which counts the noise of single answers twice and is never too small; degrees of freedom are those of the
    ratings.
    """
    grid = differences.to_numpy(float)
    asked, means = (~np.isnan(grid)).sum(axis=1), np.nanmean(grid, axis=1)
    number, mean = len(means), float(np.nanmean(grid))
    if number < 2:
        return Interval(mean, np.nan, np.nan, np.nan, number)
    draws = np.nanmean(grid - means[:, None], axis=0)
    variance = number / (number - 1) * float((((means - mean) * asked / asked.sum()) ** 2).sum())
    variance += draws.var(ddof=1) / len(draws) if len(draws) > 1 else 0
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf(1 - LEVEL / 2, number - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, number - 1)) if error > 1e-12 else 1.0
    return Interval(mean, mean - half, mean + half, p, number)


def verdicts(answers: pd.DataFrame, ratings: pd.DataFrame, classes: tuple[str, ...], shots: int) -> pd.DataFrame:
    """One row per listener with ratings, sorted by verdict and gain.

    answers: one row per answer (see `perser.team.answers`); ratings: those of the corpus. Columns: ratings (asked for,
    or all of a listener who is not tested); general, personal, other (somebody else's shots): accuracies;
    general_loss, personal_loss, other_loss, constant_loss in nats; gain with low, high, p and q (p corrected): log loss
    of the general minus the personal model; needed: ratings that would show this gain; verdict, reason.
    """
    tested = {name: _listener(part, ratings[ratings["listener"] == name], classes, shots)
              for name, part in answers.groupby("listener")}
    ticked = ratings[ratings[list(classes)].any(axis=1)]["listener"].value_counts()
    rows = [{"listener": name, **tested.get(name, {"ratings": int(number), "reason": "few"})}
            for name, number in ticked.sort_index().items()]
    table = pd.DataFrame(rows)
    known = table["p"].notna()
    table["q"] = np.nan
    if known.any():
        table.loc[known, "q"] = multipletests(table.loc[known, "p"], method="fdr_bh")[1]
    rules = {"constant": table["personal_loss"] >= table["constant_loss"],
             "falls": table["personal"] < table["general"],
             "shown": ~((table["gain"] > 0) & (table["q"] < LEVEL))}
    reason = np.select([table["general"].isna(), *reversed(rules.values())], ["few", *reversed(rules)], "")
    table = table.assign(reason=reason, verdict=np.where(reason == "", BETTER, KEEP))
    return table.sort_values(["verdict", "gain"], ascending=[True, False], kind="stable").reset_index(drop=True)


def _listener(answers: pd.DataFrame, ratings: pd.DataFrame, classes: tuple[str, ...], shots: int) -> dict[str, Any]:
    """One listener's row of `verdicts`, without what depends on the others."""
    loss, hit = (_wide(answers, shots, value) for value in ("loss", "hit"))
    gain = paired(loss["general"] - loss["own"])
    ticks = ratings[ratings["clip"].isin(answers["clip"])][list(classes)].to_numpy(float)
    ticks = ticks[ticks.any(axis=1)]
    share = (ticks / ticks.sum(axis=1, keepdims=True)).mean(axis=0)
    names = {"general": "general", "personal": "own", "other": "other"}
    means = {name: _mean(hit.get(key)) for name, key in names.items()}
    losses = {f"{name}_loss": _mean(loss.get(key)) for name, key in names.items()}
    return {"ratings": gain.listeners} | means | losses | {
        "constant_loss": float(entr(share).sum()), "gain": gain.mean, "low": gain.low, "high": gain.high, "p": gain.p,
        "needed": _needed(gain)}


def _wide(answers: pd.DataFrame, shots: int, value: str) -> dict[str, pd.DataFrame]:
    """Values (ratings, draws) of the general model and, at a number of shots, with own and somebody else's shots."""
    kept = answers[answers["shots"].isin([0, shots])]
    return {name: part.pivot(index="rating", columns="draw", values=value) for name, part in kept.groupby("shots_of")}


def _mean(grid: pd.DataFrame | None) -> float:
    return np.nan if grid is None else float(np.nanmean(grid))


def _needed(gain: Interval) -> float:
    """Ratings with which a gain of this size would be shown in four of five cases; nan for a loss."""
    if not gain.mean > 0 or not gain.high > gain.mean:
        return np.nan
    error = (gain.high - gain.mean) / stats.t.ppf(1 - LEVEL / 2, gain.listeners - 1)
    return float(np.ceil(gain.listeners * ((stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER)) * error
                                           / gain.mean) ** 2))


def team(table: pd.DataFrame) -> dict[str, Interval]:
    """Means over listeners with intervals: accuracy and gain in points, log-loss gain and personal part in 0.01 nat."""
    tested = table[table["general"].notna()]
    return {"general": interval(100 * tested["general"]), "personal": interval(100 * tested["personal"]),
            "accuracy": interval(100 * (tested["personal"] - tested["general"])),
            "log_loss": interval(100 * tested["gain"]),
            "own": interval(100 * (tested["other_loss"] - tested["personal_loss"]))}


def curve(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and log loss, mean over listeners, by number of shots (0: the general model) and whose shots."""
    by_listener = answers.groupby(["shots", "shots_of", "listener"])[["hit", "loss"]].mean()
    return by_listener.groupby(["shots", "shots_of"]).mean().reset_index()


def confusion(answers: pd.DataFrame, ratings: pd.DataFrame, classes: tuple[str, ...], shots: int) -> dict[str, Any]:
    """Shares (C, C) of answers by the listener's tick (rows) for the general and the personal models."""
    ticks = ratings.set_index(["clip", "listener"])[list(classes)].to_numpy(float)
    place = pd.MultiIndex.from_frame(ratings[["clip", "listener"]])
    shares = {}
    for name, number in (("general", 0), ("own", shots)):
        part = answers[(answers["shots"] == number) & (answers["shots_of"] == name)]
        truth = ticks[place.get_indexer(pd.MultiIndex.from_frame(part[["clip", "listener"]]))]
        counts = (truth / truth.sum(axis=1, keepdims=True)).T @ np.eye(len(classes))[part["likeliest"]]
        total = counts.sum(axis=1, keepdims=True)
        shares[name] = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    return shares


def lines(table: pd.DataFrame, shots: int) -> list[str]:
    """The table of a terminal of 80 columns: accuracies in points, the gain in log loss in 0.01 nat."""
    rows = [f"{'listener':<14} {'n':>4} {'general':>7} {'personal':>8} {'other':>5} {'gain':>6} "
            f"{'95 % interval':>16} verdict"]
    for row in table.itertuples():
        if np.isnan(row.general):
            rows.append(f"{fit(row.listener, 14)} {row.ratings:>4}  {REASONS[row.reason]}, not tested")
            continue
        other = "" if np.isnan(row.other) else f"{100 * row.other:.1f}"
        rows.append(f"{fit(row.listener, 14)} {row.ratings:>4} {100 * row.general:>7.1f} {100 * row.personal:>8.1f} "
                    f"{other:>5} {100 * row.gain:>+6.1f} {f'[{100 * row.low:.1f}, {100 * row.high:.1f}]':>16} "
                    f"{'better' if row.verdict == BETTER else 'not better'}")
    means, better = team(table), int((table["verdict"] == BETTER).sum())
    accuracy, loss, own = means["accuracy"], means["log_loss"], means["own"]
    rows += ["", f"{better} of {loss.listeners} tested listeners: better. The others: keep the general model.",
             f"All, K = {shots}: accuracy {means['general'].mean:.1f} -> {means['personal'].mean:.1f} "
             f"({accuracy.mean:+.1f} points, {_span(accuracy)});",
             f"log loss better by {loss.mean:.1f} ({_span(loss)}) in 0.01 nat;",
             f"a listener's own shots are worth {own.mean:.1f} ({_span(own)}) more than somebody else's."]
    return rows


def _span(value: Interval) -> str:
    return f"{value.low:.1f} to {value.high:.1f}"


def fit(text: str, width: int) -> str:
    """A name cut or padded to a width in the terminal, where some letters take two columns and control ones none.

    >>> fit("Wei 伟", 8) + "|", fit("Maximiliane", 8) + "|"
    ('Wei 伟  |', 'Maximil…|')
    """
    text = "".join(letter for letter in text if letter.isprintable())
    widths = [_columns(letter) for letter in text]
    if sum(widths) > width:
        kept = int(np.searchsorted(np.cumsum(widths), width - 1, side="right"))
        text, widths = f"{text[:kept]}…", [*widths[:kept], 1]
    return text + " " * (width - sum(widths))


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
