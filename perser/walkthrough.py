"""One listener's adaptation step by step: recorded from a finished run, and read by the notebook that explains it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from scipy import signal
from torch import Tensor

from perser import audio, checkpoints, features, records
from perser import model as heads
from perser.adapt import personal_heads
from perser.analysis import wording
from perser.analysis.statistics import most_shots
from perser.corpora import load as load_corpus
from perser.corpora.base import Corpus
from perser.data import Task
from perser.episodes import Episodes, batch_of
from perser.errors import UserError
from perser.evaluate import count
from perser.experiment import Experiment
from perser.features import upstreams
from perser.methods import GradientModel
from perser.model import TENSORS, Head, cross_entropy
from perser.plan import Plan, unit_name
from perser.workers import exchanged

SETTING = "unseen"


class Walk(NamedTuple):
    """What `record` keeps of one listener; about: who, which model, how chosen.

    rates: the inner learning rates, a row per inner step, a column per tensor. draws: for every draw of the shots,
    accuracy and log loss of the query by the general model, and after the listener's own and somebody else's shots.
    Of the one draw that is walked, shots: clip and ticks; steps: rows of `by_step`; answers: clip, ticks and every
    class's probability before and after, a row per query. sound: `sound` of the query whose answer moved most.
    """

    about: dict[str, Any]
    rates: pd.DataFrame
    shots: pd.DataFrame
    steps: pd.DataFrame
    answers: pd.DataFrame
    draws: pd.DataFrame
    sound: pd.DataFrame


def read(run: Path) -> Walk:
    """The walk that lies in a run's folder walk/. UserError: there is none."""
    place = Path(run) / "walk"
    try:
        tables = [pd.read_csv(place / f"{name}.csv", keep_default_na=False).map(
            lambda cell: records.literal(cell) if isinstance(cell, str) else cell) for name in Walk._fields[1:]]
        return Walk(json.loads((place / "about.json").read_text()), *tables)
    except (OSError, ValueError) as error:
        raise UserError(f"{place}: no whole record of a walk there ({error}); make it with "
                        f"`perser walk {run} --root DIR`") from None


@torch.no_grad()
def record(run: Path, root: Path, method: str = "meta-perser", upstream: str | None = None) -> Path:
    """Walk one listener of a finished run and write the run's folder walk/.

    root: the corpus; upstream: as in `perser.personal.embed`. The listener, fold and seed have the median gain of the
    method over SSL-E in log loss (unseen clips, most shots; the lower of two), and so has the draw among theirs.
    UserError: the run has no such method or other data, or its models are missing.
    """
    run, finished = Path(run), records.load(run)
    about = median_gain(finished, method)
    names, seed = (method, wording.baseline(finished) or ""), about["seed"]
    corpus = load_corpus(finished.manifest.corpus, Path(root), **finished.manifest.corpus_options)
    plan = _plan(run, finished.manifest, names, corpus, upstream)
    code = plan.data.listeners.index(about["listener"])
    unit = (about["fold"], next(place for place, group in enumerate(plan.groups) if code in group), seed)
    task, models = plan.task(unit), run / "checkpoints" / unit_name(unit)
    model, general = (checkpoints.load(models / name).model for name in names)
    rates = model.settings.get(about["shots"])
    if not isinstance(model, GradientModel) or not isinstance(rates, Tensor):
        raise UserError(f"{method}: has no inner learning rate per step and tensor; walk a method that has")
    draws = plan.draws(task.split, SETTING, seed)
    listeners = sorted({listener for listener, _ in draws})
    own = [draws[listener, about["shots"]] for listener in listeners]
    place = listeners.index(code)
    episodes = {"own": own[place]} | ({"other": exchanged(own)[place]} if len(own) > 1 else {})
    scored = by_draw(task, episodes, general.head, model, about["shots"])
    draw = int(median_place(scored["general log_loss"] - scored["own log_loss"]))
    one = Episodes(*(ratings[draw:draw + 1] for ratings in own[place]))
    steps = trail(task, one, model, about["shots"])
    about |= {"draw": draw, "epoch": model.epoch, "held_out": list(task.split.test_listeners),
              "training_ratings": len(task.split.train), "classes": list(task.data.classes),
              "corpus_options": finished.manifest.corpus_options}
    tables = {"rates": pd.DataFrame(rates.numpy(), columns=list(TENSORS)), "draws": scored,
              "shots": answers(task, one.support[0]), "steps": by_step(task, steps, one),
              "answers": answers(task, one.query[0], before=general.head, after=steps[-1])}
    tables["sound"] = sound(corpus.clips.loc[by_movement(tables["answers"], about["classes"])["clip"].iloc[0], "path"])
    for name, table in tables.items():
        with records.whole(run / "walk" / f"{name}.csv") as half:
            records.inert(table).to_csv(half, index=False, float_format="%.6g")
    records.write_json(about, run / "walk" / "about.json")
    return run / "walk"


def median_gain(run: records.Run, method: str) -> dict[str, Any]:
    """Who is walked: listener, fold, seed and shots, and how they were chosen. UserError: no such method, or no SSL-E.

    Gains in hundredths of a nat: this one, the least and the greatest of all `walks` (listener, fold and seed).
    """
    baseline, frame = wording.baseline(run), run.records
    if baseline is None or method not in set(frame["method"]):
        raise UserError(f"method {method!r} or SSL-E is not in this run; it has {', '.join(frame['method'].unique())}")
    shots = most_shots(frame, SETTING)
    frame = frame[(frame["setting"] == SETTING) & frame["shots"].isin([0, shots])]
    frame = frame.assign(loss=100 * frame["log_loss"] / frame["queries"])
    losses = frame.pivot_table("loss", ["listener", "fold", "seed"], "method")
    gains = (losses[baseline] - losses[method]).dropna()
    listener, fold, seed = place = median_place(gains)
    return {**wording.labels(run.records), "method": method, "title": run.title(method), "general": run.title(baseline),
            "listener": listener, "fold": int(fold), "seed": int(seed), "shots": shots,
            "gain": round(float(gains[place]), 4), "least": round(float(gains.min()), 4),
            "greatest": round(float(gains.max()), 4), "walks": len(gains), "data_digest": run.manifest.data_digest}


def median_place(values: pd.Series) -> Any:
    """The index of the median, of the lower of two.

    >>> median_place(pd.Series({"a": 3.0, "b": 1.0, "c": 2.0, "d": 4.0}))
    'c'
    """
    return values.sort_values(kind="stable").index[(len(values) - 1) // 2]


def _plan(run: Path, manifest: records.Manifest, names: tuple[str, ...], corpus: Corpus, upstream: str | None) -> Plan:
    """The plan of a finished run's methods of these names. UserError: settings of another version, other data."""
    model = upstreams.load(upstream or manifest.upstream)
    matrix = features.extract(corpus, model, run.parent / "features", manifest.waveform_moments)
    try:
        methods = {name: manifest.config["methods"][name] for name in names}
        experiment = Experiment.model_validate(manifest.config | {"methods": methods, "references": ()})
    except ValidationError as error:
        raise UserError(f"{run}: settings of another version ({error.errors()[0]['msg']}); run it again") from None
    plan = Plan(experiment, corpus, model, matrix, manifest.waveform_moments, run)
    if plan.fingerprint != manifest.data_digest:
        raise UserError(f"--root: not the clips, ratings or features that {run} was computed from; give that corpus")
    return plan


def trail(task: Task, episodes: Episodes, model: GradientModel, shots: int) -> list[Head]:
    """The head before the first inner step and after each one, of the first episode."""
    batch = batch_of(task, episodes)
    weights = next(personal_heads(model.head, [model.settings[shots]], batch, every_step=True)).weights()
    return [Head(*(tensor[step, 0] for tensor in weights)) for step in range(len(weights.a))]


def _logits(task: Task, head: Head, ratings: np.ndarray | Tensor) -> Tensor:
    """Logits (n, C) of the clips of some ratings under one head."""
    return heads.logits(head, task.data.features[task.data.clip[ratings]])


def _scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy in points and mean log loss in hundredths of a nat."""
    counts = count(logits, labels)
    return {"accuracy": 100 * counts.top / counts.queries, "log_loss": 100 * counts.log_loss / counts.queries}


def by_step(task: Task, steps: list[Head], episodes: Episodes) -> pd.DataFrame:
    """What each inner step changes: one row per step, from 0.

    support_loss, query_loss; accuracy and log_loss of the query, as in tables; and for each tensor its share of the
    change: the root mean square over the query's logits when it alone takes its adapted value.
    """
    rows, start, (support, query) = [], steps[0], (torch.from_numpy(ratings[0]) for ratings in episodes)
    before = _logits(task, start, query)
    for step, head in enumerate(steps):
        losses = {f"{name}_loss": float(cross_entropy(_logits(task, head, ratings), task.targets[ratings], weights))
                  for name, ratings, weights in (("support", support, task.inner_class_weights),
                                                 ("query", query, task.class_weights))}
        alone = {name: start._replace(**{name: getattr(head, name)}) for name in TENSORS[1:]}
        rows.append({"step": step} | losses | _scores(_logits(task, head, query), task.data.labels[query])
                    | {name: float((_logits(task, changed, query) - before).square().mean().sqrt())
                       for name, changed in alone.items()})
    return pd.DataFrame(rows)


def answers(task: Task, ratings: np.ndarray | Tensor, **by: Head) -> pd.DataFrame:
    """Clip and ticked classes, joined by ";", of some ratings; `NAME CLASS`: probabilities by the head of that name."""
    data = task.data
    ticks = [";".join(name for name, on in zip(data.classes, row) if on) for row in data.labels[ratings].tolist()]
    shares = [pd.DataFrame(_logits(task, head, ratings).softmax(-1).numpy(),
                           columns=[f"{name} {label}" for label in data.classes]) for name, head in by.items()]
    return pd.concat([pd.DataFrame({"clip": [data.clips[clip] for clip in data.clip[ratings]], "ticks": ticks}),
                      *shares], axis=1)


def by_movement(rows: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Rows of `answers` (before and after) with `moved`, the share of probability that moved; the largest first."""
    moved = sum((rows[f"after {name}"] - rows[f"before {name}"]).abs() for name in classes) / 2
    return rows.assign(moved=moved).sort_values("moved", ascending=False, kind="stable")


def sound(path: Path) -> pd.DataFrame:
    """A clip's spectrogram up to 4 kHz in whole decibels below its maximum, at least -60.

    A row per frequency (column hertz, 31.25 apart), a column per 20 ms, named by its seconds.
    """
    hertz, seconds, power = signal.spectrogram(np.asarray(audio.read(path)), audio.RATE, "hann", 512,
                                               512 - audio.RATE // 50, detrend=False)
    decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-12), 1e-6))
    table = pd.DataFrame(decibels.round().astype(int), columns=[f"{time:.2f}" for time in seconds])
    table.insert(0, "hertz", hertz)
    return table[(table["hertz"] > 0) & (table["hertz"] <= 4000)]


def by_draw(task: Task, episodes: dict[str, Episodes], general: Head, model: GradientModel, shots: int) -> pd.DataFrame:
    """`_scores` of every draw: by the general model, and by the model after each kind of shots."""
    rows = []
    logits = {name: next(model.answers(batch_of(task, part), [model.settings[shots]]))
              for name, part in episodes.items()}
    for draw, query in enumerate(episodes["own"].query):
        by_model = {"general": _logits(task, general, query)} | {name: part[draw] for name, part in logits.items()}
        rows.append({"draw": draw} | {f"{name} {score}": value for name, answer in by_model.items()
                                      for score, value in _scores(answer, task.data.labels[query]).items()})
    return pd.DataFrame(rows)
