"""Is it personal? A gain over SSL-E beside what somebody else's shots give: the difference is the personal part."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from perser.analysis import figures as drawing
from perser.analysis import tables as printing
from perser.analysis import wording
from perser.analysis.statistics import bootstrap_interval, paired_difference, select, shot_numbers
from perser.analysis.tables import Captioned, Table
from perser.records import Run
from perser.scores import SETTINGS, per_seed

# Score -> factor to the printed unit, negative where less is better, so that every gain is positive.
SCORES = {"accuracy": 100, "log_loss": -100}


def applies(run: Run) -> bool:
    """Records with exchanged shots and with SSL-E."""
    return run.exchanged is not None and wording.baseline(run) is not None


def rows(run: Run, seed: int = 0) -> pd.DataFrame:
    """One row per method, setting and number of shots, in points of accuracy and in hundredths of a nat.

    accuracy and log_loss as they are; gain_SCORE over SSL-E and personal_SCORE over somebody else's shots, better is
    positive, each with _low and _high; worse: share of listeners whose log loss is higher than SSL-E's.
    """
    scores, exchanged = per_seed(run.records), per_seed(run.exchanged)
    baseline, swapped = wording.baseline(run), set(exchanged["method"])
    table = []
    for setting in SETTINGS:
        for shots in shot_numbers(scores, setting) or [0]:
            for method in dict.fromkeys(scores["method"]):
                present = scores[(scores["method"] == method) & (scores["setting"] == setting)]
                if not set(present["shots"]) & {0, shots}:
                    continue
                row = {"method": method, "setting": setting, "shots": shots}
                for score, factor in SCORES.items():
                    row[score] = abs(factor) * float(select(scores, method, setting, shots, score).stack().mean())
                    gain = factor * paired_difference(scores, method, baseline, setting, shots, score)
                    row |= _interval(f"gain_{score}", gain if method != baseline else None, seed)
                    own = select(scores, method, setting, shots, score)
                    other = select(exchanged, method, setting, shots, score) if method in swapped else None
                    row |= _interval(f"personal_{score}", None if other is None else factor * (own - other), seed)
                loss = paired_difference(scores, method, baseline, setting, shots, "log_loss").mean(axis=1)
                table.append(row | {"worse": float((loss > 0).mean()), "listeners": len(loss)})
    return pd.DataFrame(table)


def _interval(name: str, values: pd.DataFrame | None, seed: int) -> dict[str, float]:
    if values is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), np.nan)
    interval = bootstrap_interval(values.dropna(how="all"), seed)
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def table(run: Run, seed: int = 0) -> Table:
    """The rows in print."""
    numbers = rows(run, seed)

    def text(name: str) -> list[str]:
        columns = (numbers[f"{name}{end}"] for end in ("", "_low", "_high"))
        return [printing.interval_text(*values, "+") for values in zip(*columns)]

    baseline = numbers["method"] == wording.baseline(run)
    cells = pd.DataFrame({
        "Clips": numbers["setting"], "K": numbers["shots"].astype(str), "Method": numbers["method"].map(run.title),
        "Accuracy": [f"{value:.1f}" for value in numbers["accuracy"]],
        "Gain, accuracy": text("gain_accuracy"), "Personal part, accuracy": text("personal_accuracy"),
        "Log loss": [f"{value:.1f}" for value in numbers["log_loss"]],
        "Gain, log loss": text("gain_log_loss"), "Personal part, log loss": text("personal_log_loss"),
        "Listeners worse": ["-" if base else f"{round(share * number)} of {number}"
                            for base, share, number in zip(baseline, numbers["worse"], numbers["listeners"])]})
    return printing.build(cells, numbers, block=numbers[["setting", "shots"]])


def caption(run: Run) -> str:
    """What the columns are."""
    return wording.caption(
        run, "Accuracy: share of clips whose most probable class the listener ticked; log loss in hundredths of a nat.",
        f"Gain: over {wording.over(run)}, positive is better, {wording.pairing(run)}.",
        "Personal part: own shots minus somebody else's (another test listener's), paired in the same way.",
        "Listeners worse: those whose log loss is higher than with the general model.", score="accuracy")


def tables(run: Run) -> dict[str, Captioned]:
    """One table."""
    return {"personal": (table(run), caption(run))}


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Gain and personal part in both scores at the largest number of shots."""
    yield "personal", figure(run)


@drawing.styled
def figure(run: Run, seed: int = 0) -> Figure:
    """A panel per score and setting, two marks per method: gain over SSL-E, and its personal part; without controls."""
    numbers = rows(run, seed)
    left_out = {wording.baseline(run), *wording.methods(run, wording.CONTROL)}
    numbers = numbers[~numbers["method"].isin(left_out) & numbers["personal_accuracy"].notna()]
    methods = list(dict.fromkeys(numbers["method"]))
    figure = Figure(figsize=(6.9, 0.9 + 0.21 * len(methods)))
    panels = figure.subplots(1, 4, sharey=True)
    for axes, (score, setting) in zip(panels, [(score, setting) for score in SCORES for setting in SETTINGS]):
        part = numbers[numbers["setting"] == setting]
        part = part[part["shots"] == part["shots"].max()].set_index("method")
        axes.axvline(0, color=drawing.GREY, linewidth=0.8)
        for what, shift, look in (("gain", 0.15, MARKS[0]), ("personal", -0.15, MARKS[1])):
            mean, low, high = (part[f"{what}_{score}{end}"].reindex(methods) for end in ("", "_low", "_high"))
            axes.errorbar(mean, shift - np.arange(len(methods)), xerr=[mean - low, high - mean], linestyle="none",
                          elinewidth=1, markersize=3.5, **look)
        axes.set(title=f"{setting.capitalize()} clips, K = {part['shots'].max()}", xlabel=XLABELS[score])
        axes.grid(axis="x")
        axes.grid(False, axis="y")
    panels[0].set_yticks(-np.arange(len(methods)), [run.title(method) for method in methods])
    panels[0].set_ylim(-len(methods) + 0.4, 0.6)
    drawing.footnote(figure, f"Square: gain over {wording.over(run)}. Dot: personal part, own shots minus somebody "
                     f"else's. Right is better; bars: {wording.resampled(run)}.\n", run)
    return figure


MARKS = ({"color": "#e69f00", "marker": "s"}, {"color": "#004c7f", "marker": "o"})
XLABELS = {"accuracy": "Accuracy (points)", "log_loss": "Log loss saved (0.01 nat)"}
