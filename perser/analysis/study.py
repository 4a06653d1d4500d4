"""The numbers of each experiment, as tables, figures and claims share them: records in, plain frames out."""

from itertools import compress, product
from pathlib import Path

import numpy as np
import pandas as pd

from perser.analysis import captions
from perser.analysis.intervals import between_seeds, compare, corrected, correlation, effect, interval, paired, select
from perser.records import RANDOM
from perser.scores import SETTINGS, per_seed

OURS = ("meta-perser", "meta-perser-x")
WEIGHED = (captions.BASELINE, "maml", *OURS, "meta-perser-layers")  # whose layer weights are shown
CHANCE = "chance"
TRAITS = ("distance", "consistency")
MODEL = ["method", "fold", "group", "seed"]  # what one trained model is known by in learnt.parquet


def beside(run: Path, name: str) -> pd.DataFrame | None:
    """The table of that name beside a run's records; None where the run has none."""
    path = Path(run) / f"{name}.parquet"
    return pd.read_parquet(path) if path.is_file() else None


def methods(scores: pd.DataFrame, group: str | None = None) -> list[str]:
    """Methods in the order of the scores; of one of captions.GROUPS when given."""
    found = dict.fromkeys(scores["method"])
    return [method for method in found if group in (None, captions.group(method))]


def ours(scores: pd.DataFrame) -> list[str]:
    """The methods that the artifact speaks for, of those that are there and can be compared with SSL-E."""
    there = set(scores["method"])
    return [method for method in OURS if {method, captions.BASELINE} <= there]


def most_shots(scores: pd.DataFrame, setting: str) -> int:
    """The largest number of shots in a setting; 0 when nothing adapts."""
    return int(scores.loc[scores["setting"] == setting, "shots"].max())


def best_baseline(scores: pd.DataFrame, setting: str, shots: int) -> str | None:
    """The method without meta-learning of the highest mean macro F1; None where there is none.

    It is picked on the very listeners that it is then compared on, which favours it.
    """
    means = {
        method: np.nanmean(values)
        for method in methods(scores, captions.GROUPS[0])
        if (values := select(scores, method, setting, shots).to_numpy()).size
    }
    return max(means, key=means.__getitem__) if means else None


def against_best(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Each meta-learning method against the best method without, per setting at its largest number of shots.

    Columns as in `intervals.compare`; Holm-corrected over all rows.
    """
    pairs = []
    for setting in SETTINGS:
        shots = most_shots(scores, setting)
        best = best_baseline(scores, setting, shots)
        pairs += [(method, best, setting, shots) for method in methods(scores, captions.GROUPS[1]) if best]
    return compare(scores, pairs, seed)


def ladder(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """At every number of shots each method without meta-learning against SSL-E, and each one with it against the
    best method without: as `intervals.compare`, Holm-corrected over all rows.
    """
    pairs = []
    for setting in SETTINGS:
        for shots in sorted(set(scores.loc[scores["setting"] == setting, "shots"]) - {0}):
            best = best_baseline(scores, setting, shots)
            rivals = dict.fromkeys(methods(scores, captions.GROUPS[0]), captions.BASELINE)
            rivals |= dict.fromkeys(methods(scores, captions.GROUPS[1]), best)
            pairs += [(method, rival, setting, int(shots)) for method, rival in rivals.items()
                      if rival in rivals and method != captions.BASELINE]
    return compare(scores, pairs, seed)


def against(scores: pd.DataFrame, baseline: str, seed: int = 0) -> pd.DataFrame:
    """Every other method that adapts against one, per setting at its largest number of shots: as `compare`."""
    pairs = [
        (method, baseline, setting, most_shots(scores, setting))
        for setting in SETTINGS
        for method in methods(scores, captions.GROUPS[1]) + methods(scores, captions.GROUPS[0])
        if method not in (baseline, captions.BASELINE)
    ]
    return compare(scores, pairs, seed)


def gains(scores: pd.DataFrame, largest: bool = False, seed: int = 0) -> pd.DataFrame:
    """Gain over SSL-E of every other method, in points, at every number of shots, or at each setting's largest
    (and at none): rows of method, setting, shots, mean, low, high, listeners and between_seeds.
    """
    rows, most = [], {setting: most_shots(scores, setting) for setting in set(scores["setting"])}
    for (method, setting, shots), _ in scores.groupby(["method", "setting", "shots"], sort=False):
        if method != captions.BASELINE and (not largest or shots in (0, most[setting])):
            values = 100 * paired(scores, method, captions.BASELINE, setting, shots)
            found = interval(values, seed)._asdict() | {"between_seeds": between_seeds(values)}
            rows.append({"method": method, "setting": setting, "shots": shots} | found)
    return pd.DataFrame(rows)


def combination(chosen: tuple[str, ...]) -> str:
    """The name of a row of the ablation.

    >>> combination(("lslr", "csmt")), combination(())
    ('csmt+lslr', 'maml')
    """
    return "+".join(part for part in (captions.READING, *captions.PARTS) if part in chosen) or "maml"


def _contrasts() -> dict[str, list[tuple[str, str]]]:
    """Each part's pairs of rows with and without it, over all settings of the other parts."""
    found = {}
    for part in captions.PARTS:
        rest = [other for other in captions.PARTS if other != part]
        chosen = [tuple(compress(rest, on)) for on in product((False, True), repeat=len(rest))]
        found[part] = [(combination((*others, part)), combination(others)) for others in chosen]
    readings = (combination((reading, "da", "lslr")) for reading in (captions.READING, "csmt"))
    return found | {captions.READING: [tuple(readings)]}


def effects(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What each part of the method adds: the paired difference of macro F1 with and without it, averaged over
    all combinations of the other parts, per listener and seed.

    Rows of part, setting, shots, then as `intervals.effect` (0..1) and p_holm over all rows. The part
    `shared` is the reading of CSMT with one batch in both loops, against the one with two. A part of which
    a combination is missing has no row.
    """
    there, rows = set(scores["method"]), []
    for part, pairs in _contrasts().items():
        if not {name for pair in pairs for name in pair} <= there:
            continue
        for setting in SETTINGS:
            for shots in sorted(set(scores.loc[scores["setting"] == setting, "shots"]) - {0}):
                mean = sum(paired(scores, *pair, setting, shots) for pair in pairs) / len(pairs)
                rows.append({"part": part, "setting": setting, "shots": int(shots)} | effect(mean, seed))
    frame = pd.DataFrame(rows, columns=None if rows else ["part", "setting", "shots", "p"])
    return frame.assign(p_holm=corrected(frame["p"]))


UNTRAINED = "untrained"  # gradient steps from SSL-E at the chosen rate: where meta-training begins


def kept_start(records: pd.DataFrame) -> pd.DataFrame:
    """How far each meta-learning method's answers are those of its start, for records with the row `untrained`.

    Rows of method, same (share of its records whose counts are the start's, to the last clip) and records. A method
    of another number of inner steps or of a prior starts elsewhere; its share says nothing of the kept epoch.
    """
    keys = ["setting", "fold", "seed", "listener", "shots"]
    counted = [name for name in records.columns if name.startswith(("tp_", "fp_", "fn_"))]
    start = records[records["method"] == UNTRAINED].set_index(keys)[counted]
    rows = []
    for method in methods(records, captions.GROUPS[1]):
        mine = records[records["method"] == method].set_index(keys)[counted]
        if method != UNTRAINED and len(start):
            same = (mine == start.reindex(mine.index)).all(axis=1)
            rows.append({"method": method, "same": float(same.mean()), "records": len(mine)})
    return pd.DataFrame(rows, columns=["method", "same", "records"])


def by_step(records: pd.DataFrame, seed: int = 0, score: str = "f1") -> pd.DataFrame:
    """A score in points after each inner step, and the gain over SSL-E, at each setting's largest number of
    shots: rows of method, steps, setting, shots, mean, low, high, listeners, gain, gain_low, gain_high,
    between_seeds (of the gain) and records.

    SSL-E takes no steps; where it has no records of its own, fine-tuning before its first step is the same
    model.
    """
    parts = {int(steps): per_seed(part) for steps, part in records.groupby("steps")}
    before = captions.BASELINE if captions.BASELINE in set(parts[0]["method"]) else "fine-tuning"
    rows = []
    for steps, scores in parts.items():
        for method, setting in product(methods(scores), SETTINGS):
            mine = scores[(scores["method"] == method) & (scores["setting"] == setting)]
            mine = mine[mine["shots"] == mine["shots"].max()]
            shots = most_shots(mine, setting)
            values = 100 * select(mine, method, setting, shots, score)
            gain = (values - 100 * select(parts[0], before, setting, shots, score)).dropna(how="all")
            found = dict(zip(("gain", "gain_low", "gain_high"), interval(gain, seed)))
            rows.append(
                {"method": method, "steps": steps, "setting": setting, "shots": shots}
                | interval(values, seed)._asdict()
                | found
                | {"between_seeds": between_seeds(gain), "records": int(mine["records"].sum())}
            )
    order = {method: place for place, method in enumerate(dict.fromkeys(records["method"]))}
    frame = pd.DataFrame(rows).sort_values("method", key=lambda names: names.map(order), kind="stable")
    return frame.reset_index(drop=True)


def against_trained(records: pd.DataFrame, manifest: dict, seed: int = 0) -> pd.DataFrame:
    """Macro F1 after every other number of inner steps minus that after the number trained with, at each setting's
    largest number of shots: rows of method, setting, shots, steps, trained, then as `intervals.effect` (0..1) and
    p_holm over all rows.
    """
    parts, rows = {int(steps): per_seed(part) for steps, part in records.groupby("steps")}, []
    for (method, trained), setting in product(trained_steps(manifest).items(), SETTINGS):
        found = {steps: select(scores, method, setting, most_shots(scores, setting)) for steps, scores in parts.items()}
        found = {steps: values for steps, values in found.items() if len(values)}
        rows += [{"method": method, "setting": setting, "shots": most_shots(parts[trained], setting), "steps": steps,
                  "trained": trained} | effect((values - found[trained]).dropna(how="all"), seed)
                 for steps, values in found.items() if trained in found and steps != trained]
    frame = pd.DataFrame(rows, columns=None if rows else ["method", "setting", "shots", "steps", "trained", "p"])
    return frame.assign(p_holm=corrected(frame["p"]))


def real_first(runs: dict[Path, pd.DataFrame]) -> dict[Path, pd.DataFrame]:
    """Runs and their records by the upstream's name, those of random weights last."""
    names = {run: captions.labels(frame) for run, frame in runs.items()}
    order = sorted(runs, key=lambda run: (RANDOM in names[run]["synthetic"], names[run]["upstream"]))
    return {run: runs[run] for run in order}


def by_upstream(runs: list[pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Macro F1 in points on every upstream, each method at its largest number of shots, and of ticking every class:
    rows of upstream, method, setting, shots, mean, low, high, listeners. runs: one upstream's records each.
    """
    rows = []
    for frame in runs:
        scores, name = per_seed(frame), captions.upstream(frame)
        for method, setting in product([CHANCE, *methods(scores)], SETTINGS):
            of, score = (methods(scores)[0], "chance") if method == CHANCE else (method, "f1")
            shots = most_shots(scores[scores["method"] == of], setting)
            found = interval(100 * select(scores, of, setting, shots, score=score), seed)
            rows.append({"upstream": name, "method": method, "setting": setting, "shots": shots} | found._asdict())
    return pd.DataFrame(rows)


def trained_steps(manifest: dict) -> dict[str, int]:
    """The number of inner steps that each method was trained with, of methods that are trained with any."""
    settings = manifest.get("config", {}).get("methods", {})
    return {name: int(method["inner_steps"]) for name, method in settings.items() if method.get("inner_steps")}


def gains_and_traits(scores: pd.DataFrame, listeners: pd.DataFrame, method: str) -> pd.DataFrame:
    """One row per listener and setting: gain of a method over SSL-E in points (mean over seeds, largest
    number of shots), beside the listener's traits as `traits.traits` gives them.
    """
    rows = []
    for setting in SETTINGS:
        gain = 100 * paired(scores, method, captions.BASELINE, setting, most_shots(scores, setting))
        gain = gain.mean(axis=1).rename("gain").rename_axis("listener").reset_index()
        rows.append(gain.assign(setting=setting).merge(listeners, on="listener"))
    return pd.concat(rows, ignore_index=True)


def correlations(found: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Spearman's correlation of the gain with each trait, and with each at equal ranks of the other: rows of setting,
    trait, given ("" or the other), then as `intervals.correlation`, and p_holm over all rows.
    """
    rows = []
    for setting, others in product(SETTINGS, (False, True)):
        mine = found[found["setting"] == setting]
        for trait, other in (TRAITS, TRAITS[::-1]) if len(mine) else ():
            one = correlation(mine["gain"], mine[trait], seed, mine[other] if others else None)
            rows.append({"setting": setting, "trait": trait, "given": other if others else ""} | one)
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=corrected(frame["p"]))


def learnt_rates(learnt: pd.DataFrame, method: str, shots: int | None = None) -> pd.DataFrame:
    """Mean learnt rate of a method, tensors by inner step (from 1), over folds, groups and seeds; tensors that
    never move are left out. `shots`: the largest number when not given.
    """
    mine = learnt[(learnt["method"] == method) & (learnt["step"] >= 0)]
    mine = mine[mine["shots"] == (shots or mine["shots"].max())]
    order = list(dict.fromkeys(mine["tensor"]))
    table = mine.pivot_table(index="tensor", columns="step", values="value", aggfunc="mean").reindex(order)
    table = table.set_axis(range(1, table.shape[1] + 1), axis=1)
    return table[(table != 0).any(axis=1)]


def rates_that_differ(learnt: pd.DataFrame, shots: int | None = None) -> dict[str, pd.DataFrame]:
    """`learnt_rates` of every method that in one and the same model has tensors or steps of different rates,
    those at rest aside: methods whose rates were learnt, not chosen.
    """
    moving = learnt[(learnt["step"] >= 0) & (learnt["value"] != 0)]
    spread = moving.groupby([*MODEL, "shots"], sort=False)["value"].agg(np.ptp).groupby("method", sort=False).max()
    return {method: learnt_rates(learnt, method, shots) for method in spread.index[spread > 0]}


def rates_by_shots(learnt: pd.DataFrame) -> pd.DataFrame:
    """By which power of the number of shots learnt rates grow from the fewest to the most: mean and standard deviation
    over folds, groups and seeds, for methods whose rates do.
    """
    moving = learnt[(learnt["step"] >= 0) & (learnt["value"] != 0) & learnt["method"].isin(rates_that_differ(learnt))]
    size = moving.assign(value=moving["value"].abs()).pivot_table(index=MODEL, columns="shots", values="value")
    few, many = size.columns.min(), size.columns.max()
    power = np.log(size[many] / size[few]) / np.log(many / few)
    found = power.groupby("method", sort=False).agg(["mean", "std"]).reset_index()
    return found[found["mean"].abs() > 1e-6].reset_index(drop=True)


def layers(learnt: pd.DataFrame) -> int:
    """How many layers of an upstream were weighed."""
    return learnt.loc[learnt["tensor"].str.startswith("layer"), "tensor"].nunique()


def layer_weights(learnt: pd.DataFrame, method: str) -> pd.DataFrame:
    """Mean and standard deviation over folds, groups and seeds of a method's weight on each layer."""
    mine = learnt[(learnt["method"] == method) & learnt["tensor"].str.startswith("layer")]
    number = mine["tensor"].str.removeprefix("layer").astype(int).rename("layer")
    return mine.groupby(number)["value"].agg(["mean", "std"]).fillna({"std": 0.0})


def found(trials: pd.DataFrame, margin: float = 0.0) -> pd.DataFrame:
    """What a search came to: each method's best trial beside the points of its first, the experiment's own settings.

    The first is kept unless another is ahead by more than `margin` points; ties: the earlier. Columns of the trials,
    `first` and the number of `trials`.
    """
    first = trials[trials["trial"] == 0].set_index("method")["points"]
    worth = trials["points"].where(trials["trial"] == 0, trials["points"] - margin)
    best = trials.loc[worth.groupby(trials["method"], sort=False).idxmax()]
    count = trials.groupby("method", sort=False)["trial"].size()
    return best.assign(first=best["method"].map(first), trials=best["method"].map(count)).reset_index(drop=True)
