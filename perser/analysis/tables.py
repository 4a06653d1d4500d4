"""The tables: records in; printed cells, full-precision numbers and a caption that says what they are out."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from perser.analysis import captions, study
from perser.errors import UserError
from perser.analysis.intervals import Interval, interval, paired, select
from perser.records import RANDOM
from perser.scores import SETTINGS, per_seed

CHANCE = "Chance"
SCORES = {"f1": "Macro F1", "accuracy": "Accuracy (share of clips whose most probable class the listener ticked)"}
COUNTED = "Records: rows of records.parquet behind the line."
TICK = "✓"
# Set flush left.
WORDS = ("Group", "Upstream", "Reading", "Method", "Against", "Part", "Trait", "Clips", "K", *captions.PARTS.values())
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    TICK: r"$\checkmark$",
    "|": r"\textbar{}",
}


class Table(NamedTuple):
    """cells: text as printed; bold: which of them, same shape; numbers: the same rows in full precision;
    breaks: rows before which a printed rule may stand.
    """

    cells: pd.DataFrame
    bold: pd.DataFrame
    numbers: pd.DataFrame
    breaks: tuple[int, ...] = ()


def main_table(records: pd.DataFrame, seed: int = 0, score: str = "f1") -> Table:
    """A score of every method and number of shots, seen and unseen side by side, and the gain over SSL-E.

    score: "f1" or "accuracy", as `scores.per_seed` gives them. Rows: chance (of macro F1 alone), methods without
    shots, then every number of shots with its methods. Numbers are in points (percent), with the interval over
    listeners and seeds; the gain is paired by both. `seed` is the bootstrap's.
    """
    captions.labels(records)
    scores = per_seed(records)
    rows = [_chance(scores, seed)] if score == "f1" else []
    rows += [_row(scores, method, int(shots), seed, score=score) for method, shots in _cells(scores)]
    return _scored(pd.DataFrame(rows), captions.BASELINE)


def methods_table(records: pd.DataFrame, seed: int = 0, score: str = "f1") -> Table:
    """The main table with its rows in groups: per number of shots, methods without meta-learning, then those
    with it; the upper bound last.
    """
    table = main_table(records, seed, score)
    numbers = table.numbers.assign(group=[captions.group(method) for method in table.numbers["method"]])
    numbers.loc[numbers["method"] == CHANCE, "group"] = ""
    rank = numbers["group"].map(lambda name: captions.GROUPS.index(name) if name else -1)
    order = np.lexsort((rank, numbers["shots"], rank == captions.GROUPS.index(captions.GROUPS[-1])))
    numbers = numbers.iloc[order].reset_index(drop=True)
    block = numbers["group"] + numbers["shots"].astype(str)
    breaks = tuple(int(row) for row in np.flatnonzero(block != block.shift()) if row)
    return _scored(numbers, captions.BASELINE)._replace(breaks=breaks)


def runs_table(runs: dict[str, pd.DataFrame], what: str, seed: int = 0) -> Table:
    """The main table at the largest number of shots for the records of several runs; what: what their names are.

    Chance stands once where it is the same for all of them.
    """
    parts = [main_table(frame[frame["shots"].isin([0, frame["shots"].max()])], seed).numbers.assign(group=name)
             for name, frame in runs.items()]
    numbers = pd.concat(parts, ignore_index=True)
    chance = numbers["method"] == CHANCE
    if len(numbers[chance].drop(columns="group").drop_duplicates()) == 1:
        numbers.loc[chance, "group"] = ""
        numbers = numbers.drop_duplicates(ignore_index=True)
    breaks = tuple(int(row) for row in np.flatnonzero(numbers["group"] != numbers["group"].shift()) if row)
    table = _scored(numbers, captions.BASELINE)
    named = (part.rename(columns={"Group": what}) for part in table[:2])
    return Table(*named, numbers.rename(columns={"group": what.lower()}), breaks)


def runs_caption(runs: list[pd.DataFrame], manifests: list[dict], within: str, *says: str) -> str:
    """What holds for several runs in one table; within: what each gain is taken on."""
    joined = {key: ", ".join(dict.fromkeys(each[key] for each in manifests)) for key in ("config_digest", "data")}
    commits = {manifest["commit"] for manifest in manifests}
    records = captions.together(runs)
    return caption(
        records,
        manifests[0] | joined | {"commit": commits.pop() if len(commits) == 1 else None},
        *says,
        *_columns(records, f" {within}"),
        COUNTED,
    )


def upstreams_table(runs: list[pd.DataFrame], seed: int = 0) -> Table:
    """`runs_table` of upstreams; runs: one upstream's records each."""
    return runs_table({captions.upstream(frame): frame for frame in runs}, "Upstream", seed)


def upstreams_caption(runs: list[pd.DataFrame], manifests: list[dict]) -> str:
    """What is compared, and that random weights are no result of the models whose form they have.

    Raises UserError for runs of different settings.
    """
    settings = {manifest["config_digest"] for manifest in manifests}
    if len(settings) > 1:
        raise UserError(f"upstreams with different settings ({', '.join(sorted(settings))}): run them all again")
    random = [captions.labels(frame)["upstream"] for frame in runs if RANDOM in captions.labels(frame)["synthetic"]]
    said = (f"Random weights: {', '.join(random)} have a model's form and have learnt nothing; no number of theirs is "
            "that model's.") if random else ""
    return runs_caption(runs, manifests, "on the same upstream", said)


def _scored(numbers: pd.DataFrame, baseline: str) -> Table:
    """The printed form of rows of `_row`, and of their groups if they have any."""
    names = [captions.shots(method, shots) for method, shots in zip(numbers["method"], numbers["shots"])]
    groups = {}
    if "group" in numbers:
        groups["Group"] = numbers["group"].where(numbers["group"] != numbers["group"].shift(), "")
    cells = pd.DataFrame(
        {
            **groups,
            "Method": numbers["method"].map(captions.title),
            "K": names,
            **{setting.capitalize(): _printed(numbers, setting) for setting in SETTINGS},
            **{f"Gain {setting}": _printed(numbers, f"gain_{setting}", sign="+") for setting in SETTINGS},
            "Records": numbers["records"].astype(str),
        }
    )
    return Table(cells, _best(cells, [setting.capitalize() for setting in SETTINGS]), numbers)


def _cells(scores: pd.DataFrame) -> list[tuple[str, int]]:
    """(method, shots) in print order: by shots, then as in the records."""
    return sorted(dict.fromkeys(zip(scores["method"], scores["shots"])), key=lambda cell: cell[1])


def _row(scores: pd.DataFrame, method: str, shots: int, seed: int, baseline: str = captions.BASELINE,
         score: str = "f1") -> dict:
    row = {"method": method, "shots": shots}
    for setting in SETTINGS:
        row |= _numbers(setting, interval(select(scores, method, setting, shots, score), seed))
    for setting in SETTINGS:
        gain = Interval(np.nan, np.nan, np.nan, 0)
        if method != baseline and baseline in set(scores["method"]):
            gain = interval(paired(scores, method, baseline, setting, shots, score), seed)
        row |= _numbers(f"gain_{setting}", gain)
    mine = scores[(scores["method"] == method) & (scores["shots"] == shots)]
    return row | {"records": int(mine["records"].sum())}


def _chance(scores: pd.DataFrame, seed: int) -> dict:
    """What ticking every class gets on the very queries of the first row's records."""
    first = scores[
        (scores["method"] == scores["method"].iloc[0]) & (scores["shots"] == scores["shots"].iloc[0])
    ]
    row = {"method": CHANCE, "shots": 0, "records": int(first["records"].sum())}
    for setting in SETTINGS:
        mine = first[first["setting"] == setting].pivot(index="listener", columns="seed", values="chance")
        row |= _numbers(setting, interval(mine, seed))
    return row


def _numbers(name: str, found: Interval) -> dict:
    """An interval as columns, in points."""
    return {
        name: 100 * found.mean,
        f"{name}_low": 100 * found.low,
        f"{name}_high": 100 * found.high,
        f"{name}_listeners": int(found.listeners),
    }


def _printed(numbers: pd.DataFrame, name: str, sign: str = "") -> list[str]:
    return [text(*values, sign) for values in zip(*(numbers[name + end] for end in ("", "_low", "_high")))]


def text(mean: float, low: float, high: float, sign: str = "") -> str:
    """A mean with its interval, one decimal; "-" for no mean, no brackets for no interval.

    >>> text(35.76, 33.91, 37.7), text(1.0, -0.2, 2.1, "+"), text(3.0, float("nan"), float("nan"))
    ('35.8 [33.9, 37.7]', '+1.0 [-0.2, +2.1]', '3.0')
    """
    if np.isnan(mean):
        return "-"
    bounds = "" if np.isnan(low) else f" [{low:{sign}z.1f}, {high:{sign}z.1f}]"
    return f"{mean:{sign}z.1f}{bounds}"


def p_text(p: float) -> str:
    """A p-value in print.

    >>> p_text(0.0124), p_text(0.0002), p_text(float("nan"))
    ('0.012', '<0.001', '-')
    """
    return "-" if np.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def comparisons_table(found: pd.DataFrame) -> Table:
    """Rows of `intervals.compare`, in points: each method against its baseline."""
    first = {"Method": found["method"].map(captions.title), **_where(found),
             "Against": found["baseline"].map(captions.title)}
    return _differences(found, first, "Difference", ["setting"])


def effects_table(found: pd.DataFrame) -> Table:
    """Rows of `study.effects`, in points: what each part of the method adds."""
    names = captions.PARTS | {captions.READING: f"{captions.PARTS['csmt']}: one batch in both loops, not two"}
    return _differences(found, {"Part": found["part"].map(names), **_where(found)}, "Effect", ["part"])


def trained_table(found: pd.DataFrame) -> Table:
    """Rows of `study.against_trained`, in points: other numbers of inner steps than the one trained with."""
    first = {"Method": found["method"].map(captions.title), **_where(found), "Steps": found["steps"].astype(str),
             "Trained": found["trained"].astype(str)}
    return _differences(found, first, "Difference", ["method", "setting"])


def gains_table(found: pd.DataFrame) -> Table:
    """Rows of `study.gains`: a line per method and setting, the gain at every K beside the smallest K from which on
    its interval stays above zero.
    """
    columns, cells, numbers = sorted(found["shots"].unique()), [], []
    for (setting, method), mine in found.sort_values(["setting", "shots"]).groupby(["setting", "method"], sort=False):
        above = (mine["low"] > 0)[::-1].cummin()[::-1]
        pays = min(mine["shots"][above], default=None)
        said = {row.shots: text(row.mean, row.low, row.high, "+") for row in mine.itertuples()}
        cells.append({"Method": captions.title(method), "Clips": setting, "Pays from": str(pays or "-"),
                      **{f"K = {shots}": said.get(shots, "-") for shots in columns}})
        numbers.append({"method": method, "setting": setting, "pays_from": pays,
                        **{f"{name}_{row.shots}": getattr(row, name) for row in mine.itertuples()
                           for name in ("mean", "low", "high")}})
    cells = pd.DataFrame(cells)
    breaks = np.flatnonzero(cells["Clips"] != cells["Clips"].shift())[1:]
    return Table(cells, _nothing(cells), pd.DataFrame(numbers), tuple(int(row) for row in breaks))


def gains_caption(records: pd.DataFrame, manifest: dict) -> str:
    """What a line of `gains_table` is."""
    over = captions.title(captions.BASELINE)
    return caption(records, manifest, f"Gain over {over}, paired by listener{_and_seed(records)}.",
                   "Pays from: the smallest K from which on the interval is above zero; -: none.")


def _where(found: pd.DataFrame) -> dict[str, pd.Series]:
    return {"Clips": found["setting"], "K": found["shots"].astype(str)}


def _differences(found: pd.DataFrame, first: dict[str, pd.Series], name: str, block: list[str]) -> Table:
    """Paired differences in points behind their first columns; a rule wherever `block` changes."""
    numbers = _in_points(found)
    cells = pd.DataFrame({**first, **_said(numbers, name)})
    breaks = np.flatnonzero((numbers[block] != numbers[block].shift()).any(axis=1))[1:]
    return Table(cells, _nothing(cells), numbers, tuple(int(row) for row in breaks))


def _in_points(found: pd.DataFrame) -> pd.DataFrame:
    values = ["mean", "low", "high", "between_seeds"]
    return found.assign(**{name: 100 * found[name] for name in values})


def _said(numbers: pd.DataFrame, name: str) -> dict[str, list[str]]:
    """The printed columns of a paired difference."""
    return {
        name: [text(*row, "+") for row in zip(numbers["mean"], numbers["low"], numbers["high"])],
        "Listeners ahead": [
            f"{round(share * number)} of {number}" if number else "-"
            for share, number in zip(numbers["ahead"].fillna(0), numbers["listeners"])
        ],
        "p (Holm)": [p_text(p) for p in numbers["p_holm"]],
        "Sd of seeds": [text(sd, np.nan, np.nan) for sd in numbers["between_seeds"]],
    }


def _nothing(cells: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(False, index=cells.index, columns=cells.columns)


def comparisons_caption(records: pd.DataFrame, manifest: dict, about: str = "") -> str:
    """What the paired comparisons are; about: what each row is held against, where that needs saying."""
    number = records["listener"].nunique()
    few = f"With {number} listeners no p is below {2 / 2**number:.2g} before the correction." if number < 10 else ""
    return caption(records, manifest, about, _TESTED.format(_and_seed(records)), few)


_TESTED = (
    "Differences are paired by listener{}. p: random signs over listeners, Holm-corrected over the rows. "
    "Sd of seeds: standard deviation between seeds of the mean difference."
)
BEST = (
    "Against: the method without meta-learning of the highest mean on these clips at this K, picked on the "
    "listeners it is compared on, which favours it."
)
LADDER = BEST.replace("Against: ", f"Against: {captions.title(captions.BASELINE)}; for meta-learning ")
TRAINED = "Difference: after so many inner steps minus after the number trained with."
EFFECT = (
    "Effect: with the part minus without it, averaged over the four combinations of the other two parts; the "
    "last part compares two readings of one of them with the other parts on."
)


def ablation_table(records: pd.DataFrame, seed: int = 0, score: str = "f1") -> Table:
    """Every combination of the parts at every number of shots, with the gain over the row that has none."""
    captions.labels(records)
    scores = per_seed(records)
    numbers = pd.DataFrame([_row(scores, method, int(shots), seed, "maml", score) for method, shots in _cells(scores)])
    chosen = [captions.parts(method) for method in numbers["method"]]
    marks = {
        name: ["-" if found is None else TICK if part in found else "" for found in chosen]
        for part, name in captions.PARTS.items()
    }
    shared = [found is not None and captions.READING in found for found in chosen]
    marks["CSMT"] = np.where(shared, captions.READING, marks["CSMT"])
    cells = _scored(numbers, "maml").cells
    cells = pd.concat([cells[["Method"]], pd.DataFrame(marks), cells.drop(columns="Method")], axis=1)
    cells["Method"] = [
        captions.title(method) if found is None else captions.title(OF_PARTS.get(method, "")) or ""
        for method, found in zip(numbers["method"], chosen)
    ]
    cells.columns = [name.replace("Gain", "Over MAML,") for name in cells]
    numbers.columns = [name.replace("gain", "over_maml") for name in numbers]
    breaks = np.flatnonzero(numbers["shots"] != numbers["shots"].shift())[1:]
    return Table(cells, _best(cells, ["Seen", "Unseen"]), numbers, tuple(int(row) for row in breaks))


OF_PARTS = {"maml": "maml", "csmt+da+lslr": "meta-perser"}  # rows of the ablation that have a name of their own


def ablation_caption(records: pd.DataFrame, manifest: dict, score: str = "f1") -> str:
    """What is on and off, and what the last columns are."""
    return caption(
        records,
        manifest,
        f"{TICK}: the part is on; {captions.READING}: CSMT with the very same batch in both loops.",
        f"Over MAML: the gain over the row with every part off, paired by listener{_and_seed(records)}.",
        "Bold: best printed mean for the same K.",
        COUNTED,
        score=score,
    )


def steps_table(records: pd.DataFrame, manifest: dict, seed: int = 0, score: str = "f1") -> Table:
    """A score after each inner step, seen and unseen side by side; trained: the number trained with."""
    captions.labels(records)
    numbers = study.by_step(records, seed, score)
    trained = study.trained_steps(manifest)
    wide = {
        setting: part.set_index(["method", "steps"]) for setting, part in numbers.groupby("setting", sort=False)
    }
    rows = list(dict.fromkeys(zip(numbers["method"], numbers["steps"])))
    columns = {
        f"{setting.capitalize()}, K = {part['shots'].max()}": [
            text(*part.loc[row, ["mean", "low", "high"]]) if row in part.index else "-" for row in rows
        ]
        for setting, part in wide.items()
    } | {
        f"Gain {setting}": [
            text(*part.loc[row, ["gain", "gain_low", "gain_high"]], "+") if row in part.index else "-" for row in rows
        ]
        for setting, part in wide.items()
    }
    cells = pd.DataFrame(
        {
            "Method": [captions.title(method) for method, _ in rows],
            "Steps": [str(steps) for _, steps in rows],
            "Trained": [TICK if trained.get(method) == steps else "" for method, steps in rows],
            **columns,
        }
    )
    breaks = tuple(row for row in range(1, len(rows)) if rows[row][0] != rows[row - 1][0])
    return Table(cells, _nothing(cells), numbers, breaks)


def steps_caption(records: pd.DataFrame, manifest: dict, score: str = "f1") -> str:
    """What a step is, and which number was trained."""
    return caption(
        records,
        manifest,
        "Steps: inner steps taken at test, all from the same start; beyond those trained, the last step's "
        f"rates are used again. {TICK}: the number trained with.",
        f"Gain: over {captions.title(captions.BASELINE)}, paired by listener{_and_seed(records)}.",
        score=score,
    )


def traits_table(found: pd.DataFrame) -> Table:
    """Rows of `study.correlations`: which listeners gain."""
    cells = pd.DataFrame(
        {
            "Trait": found["trait"] + found["given"].map(lambda other: other and f", at equal {other}"),
            "Clips": found["setting"],
            "Spearman's rho": [
                "-" if np.isnan(row.rho) else f"{row.rho:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
                for row in found.itertuples()
            ],
            "Listeners": found["listeners"].astype(str),
            "p (Holm)": [p_text(p) for p in found["p_holm"]],
        }
    )
    return Table(cells, _nothing(cells), found)


def traits_caption(records: pd.DataFrame, manifest: dict, method: str) -> str:
    """What is correlated with what."""
    return caption(
        records,
        manifest,
        f"Gain of {captions.title(method)} over {captions.title(captions.BASELINE)} at the largest K, mean over "
        "seeds, against two traits of each listener: distance of the ratings from those of the other listeners "
        "of the same clips, consistency of the ratings of clips that the others hear alike. Spearman's rank "
        "correlation with its 95 % bootstrap interval over listeners; at equal ranks of the other trait: the partial "
        "one. p: by permutation, Holm-corrected over the rows.",
    )


def _best(cells: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """True where the printed mean is the highest among rows of the same K; ties are all best."""
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    adapts = ~cells["K"].isin(["-", "all"])
    for column in columns:
        means = cells.loc[adapts, column].str.split().str[0].replace("-", "nan").astype(float)
        bold.loc[adapts, column] = means == means.groupby(cells.loc[adapts, "K"]).transform("max")
    return bold


def main_caption(records: pd.DataFrame, manifest: dict, *more: str, score: str = "f1") -> str:
    """What the main table shows, of what, and how sure it is."""
    return caption(
        records,
        manifest,
        *_columns(records, score=score),
        *more,
        COUNTED,
        score=score,
    )


def _columns(records: pd.DataFrame, within: str = "", score: str = "f1") -> tuple[str, ...]:
    """What stands in the columns of the main table."""
    return (
        f"Gain: over {captions.title(captions.BASELINE)}{within}, paired by listener{_and_seed(records)}.",
        "Bold: best printed mean for the same K.",
        f"{CHANCE}: every class ticked for every clip." if score == "f1" else "",
    )


def methods_caption(records: pd.DataFrame, manifest: dict, score: str = "f1") -> str:
    """The main caption, and what the upper bound is."""
    bound = "tuned on all the listener's other ratings, cross-validated; no method to beat."
    there = captions.UPPER in set(records["method"])
    return main_caption(records, manifest, *([f"{captions.title(captions.UPPER)}: {bound}"] if there else []),
                        score=score)


def caption(records: pd.DataFrame, manifest: dict, *says: str, score: str = "f1") -> str:
    """What every table says: made up or not, of what, how sure, then what this one adds, then the run."""
    made, few = captions.stamp(records), records["listener"].nunique() < 10
    seeds = " and seeds" if records["seed"].nunique() > 1 else ""
    parts = [
        f"{made.capitalize()}." if made else "",
        f"{SCORES[score]} in points, mean over listeners{seeds} with the {captions.resampled(records)}: "
        f"{captions.source(records)}.",
        "So few listeners make the interval narrower than it should be." if few else "",
        "" if seeds else "One seed: the interval says nothing of what other seeds would give.",
        "The listener is held out in both settings; seen: clips that were trained on with other listeners' "
        "ratings, unseen: clips of sessions that were not.",
        *says,
        _provenance(manifest),
    ]
    return " ".join(part for part in parts if part)


def _and_seed(records: pd.DataFrame) -> str:
    return " and seed" if records["seed"].nunique() > 1 else ""


def _provenance(manifest: dict) -> str:
    commit = manifest.get("commit")
    changed = " with uncommitted changes" if manifest.get("dirty") else ""
    machine = manifest.get("machine", {})
    return (
        f"Run: settings {manifest['config_digest']}, data {manifest['data']}, "
        + (f"commit {commit[:10]}{changed}, " if commit else "")
        + f"{machine.get('cpu', 'unknown processor')}, {captions.count(machine.get('cores', 1), 'core')}."
    )


def markdown(table: Table, caption: str) -> str:
    """GitHub Markdown: the caption, then the table."""
    cells = _marked(table.cells.map(lambda cell: cell.replace("|", "\\|")), table.bold, "**{}**")
    return f"{caption}\n\n{cells.to_markdown(index=False, disable_numparse=True)}\n"


def latex(table: Table, caption: str) -> str:
    """A booktabs table, every cell and the caption escaped."""
    cells = table.cells.map(lambda cell: re.sub(r"-(?=\d|$)", "$-$", escaped(cell)))
    cells = _marked(cells, table.bold, r"\textbf{{{}}}")
    cells.columns = [escaped(name) for name in cells]
    columns = "".join("l" if name in WORDS else "r" for name in cells)
    lines = cells.to_latex(index=False, escape=False, caption=escaped(caption), column_format=columns).splitlines()
    first = lines.index(r"\midrule") + 1
    for row in reversed(table.breaks):
        lines.insert(first + row, r"\midrule")
    return "\n".join(lines) + "\n"


def _marked(cells: pd.DataFrame, bold: pd.DataFrame, mark: str) -> pd.DataFrame:
    """Cells with the mean of each bold one marked: the interval stays in regular type."""
    marked = cells.map(lambda cell: re.sub(r"^\S+", lambda found: mark.format(found[0]), cell))
    return cells.where(~bold.set_axis(cells.columns, axis=1), marked)


def escaped(plain: str) -> str:
    r"""Text that LaTeX prints as it stands.

    >>> escaped("95 % of a_b")
    '95 \\% of a\\_b'
    """
    return "".join(_LATEX.get(letter, letter) for letter in plain)


def write(table: Table, caption: str, stem: Path) -> list[Path]:
    """Write STEM.md, STEM.tex and STEM.csv (full precision, no caption)."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + end) for end in (".md", ".tex", ".csv")]
    for path, content in zip(
        paths,
        (
            markdown(table, caption),
            latex(table, caption),
            table.numbers.to_csv(index=False, lineterminator="\n"),
        ),
    ):
        path.write_text(content)
    return paths
