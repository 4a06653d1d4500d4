"""A team's own listeners: from their ratings to a verdict per listener and one model file for each of them.

The personal model is the robust prior: it has no learning rates, and where a listener's ratings say little it stays the
general model. What it is worth is measured by cross-validation with the engine of the experiments: every listener
is held out once, and asked about clips of sessions that no model was trained on.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from torch import Tensor

from perser import checkpoints, page, provenance, records, workers
from perser import model as heads
from perser.about import training
from perser.analysis import verdicts
from perser.checkpoints import Checkpoint
from perser.corpora import Corpus, schema
from perser.corpora.agreement import others, votes
from perser.data import Split, Task, make_task
from perser.episodes import Episodes, batch_of
from perser.errors import UserError
from perser.evaluate import join_episodes, split_logits
from perser.experiment import Experiment
from perser.features.upstreams import Upstream
from perser.listener import consensus, differs
from perser.methods.base import Start, setting_for
from perser.methods.ssl_e import train
from perser.personal import PersonalModel, adapted, file_names, save
from perser.personal import general as general_model
from perser.plan import NUMERICS_VERSION, Plan, Unit
from perser.settings import Base, blamed, explain, override
from perser.terminal import counted

GENERAL, PERSONAL = "ssl-e", "personal"
LADDER = (5, 10, 20, 40)  # numbers of shots; the largest is the one of the verdict
LEAST_LISTENERS = 3
FEW_LISTENERS, FEW_RATINGS = 8, 30  # below these the verdicts rest on little


class Team(NamedTuple):
    """A corpus with at least three sessions, the experiment that fits it, and notes on both."""

    corpus: Corpus
    experiment: Experiment
    notes: list[str]


def prepare(corpus: Corpus, overrides: Iterable[str] = ()) -> Team:
    """Choose sessions, shots, query and groups from what listeners have rated; overrides: `key=value` settings.

    Raises UserError that says in numbers what is missing.
    """
    corpus, notes = with_sessions(corpus)
    ticked = corpus.ratings[corpus.ratings[list(corpus.classes)].any(axis=1)]
    counts = ticked["listener"].value_counts()
    _enough(counts, ticked, corpus.classes)
    settings = chosen(counts, _per_session(ticked, corpus))
    overrides = list(overrides)
    for change in overrides:
        override(settings, change)
    try:
        experiment = Experiment.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{blamed(first, overrides, '--set')}: {explain(first, {'base': Base}, Experiment)}") from None
    if len(counts) < FEW_LISTENERS:
        notes.append(f"{len(counts)} listeners are few to learn from; {FEW_LISTENERS} or more are better")
    if counts.median() < FEW_RATINGS:
        notes.append(f"{counts.median():g} ratings a listener are few: only large gains can be shown; "
                     f"{FEW_RATINGS} or more are better")
    notes += [f"class {name!r} has only {counted(int(number), 'rating')}"
              for name, number in ticked[list(corpus.classes)].sum().items() if number < 2 * LEAST_LISTENERS]
    return Team(corpus, experiment, notes)


def _enough(counts: pd.Series, ticked: pd.DataFrame, classes: tuple[str, ...]) -> None:
    least = 2 * LADDER[0]
    able, short = counts[counts >= least], counts[counts < least]
    if len(classes) < 2:
        raise UserError(f"{len(classes)} class in the ratings; a model tells at least 2 apart")
    if len(able) < LEAST_LISTENERS:
        lacking = ", ".join(f"{least - number} more of {name}" for name, number in short.head(3).items())
        raise UserError(f"{len(able)} of {len(counts)} listeners have the {least} ratings that {LADDER[0]} shots and a "
                        f"test on {least - LADDER[0]} other clips take; {LEAST_LISTENERS} listeners are needed: "
                        f"{lacking or f'{LEAST_LISTENERS - len(able)} more listeners'}")
    if (clips := ticked["clip"].nunique()) < 3 * LADDER[0]:
        raise UserError(f"{clips} rated clips; training, choosing and testing need {3 * LADDER[0]}: "
                        f"{3 * LADDER[0] - clips} more")


def _per_session(ticked: pd.DataFrame, corpus: Corpus) -> pd.Series:
    """Ratings of a listener in the session where they have fewest, by listener with any there."""
    sessions = ticked["clip"].map(corpus.clips["session"])
    return ticked.groupby([ticked["listener"], sessions]).size().groupby("listener").median()


def chosen(counts: pd.Series, per_session: pd.Series) -> dict[str, Any]:
    """Settings for listeners with so many ratings, in all and in a session.

    Shots are at most half of what three quarters of the listeners have, so that draws differ. Queries are few enough
    for a session of three quarters of the listeners. Groups have two listeners or more, so that shots can be exchanged.

    >>> settings = chosen(pd.Series([40] * 30), pd.Series([8] * 30))
    >>> settings["shots"], settings["min_queries"], settings["groups"]
    ([5, 10, 20], 5, 6)
    """
    able = counts >= 2 * LADDER[0]
    most = counts[able].quantile(0.25) / 2
    queries = per_session[able.reindex(per_session.index, fill_value=True)].quantile(0.25)
    return {"name": "personalise", "seeds": [0], "shots": [k for k in LADDER if k <= most] or [LADDER[0]],
            "draws": 20, "dev_draws": 5, "min_queries": max(1, min(LADDER[0], int(queries))),
            "support": "any", "groups": min(6, max(LEAST_LISTENERS, int(able.sum()) // 2)),
            "base": {"class_weights": False, "chosen_by": "loss"},
            "methods": {GENERAL: {"kind": "ssl-e"}, PERSONAL: {"kind": "robust-prior"}}}


def with_sessions(corpus: Corpus) -> tuple[Corpus, list[str]]:
    """The corpus with at least three sessions, and a note on those that were made."""
    if corpus.clips["session"].nunique() >= 3 or corpus.folds:
        return corpus, []
    made = schema.dealt(corpus.clips["speaker"].to_dict())
    return (replace(corpus, clips=corpus.clips.assign(session=corpus.clips.index.map(made))),
            [f"{len(set(made.values()))} sessions were made: three are needed, to train, to choose and to test"])


def understood(team: Team, plan: Plan) -> list[str]:
    """What was read and how it will be tested, in ten lines."""
    corpus, experiment = team.corpus, plan.experiment
    classes, clips, cast = list(corpus.classes), corpus.clips, votes(corpus.ratings, corpus.classes)
    _, plurality, shared = others(cast)
    agreed = (cast.weights * plurality).sum(1)[shared] / plurality.sum(1)[shared]
    per_listener, per_clip = np.bincount(cast.listener), np.bincount(cast.clip)
    held_out = sorted({name for unit in plan.splits for name in plan.split(*unit).test_listeners})
    without = len(corpus.ratings) - len(cast.clip)
    hours = clips["seconds"].sum() / 60
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(classes, cast.weights.mean(0)))
    shots, layers = plan.shots["unseen"], counted(plan.features.shape[1], "layer")
    return [
        f"clips       {len(clips)} ({hours:.1f} minutes) of {counted(clips['speaker'].nunique(), 'speaker')} in "
        f"{counted(clips['session'].nunique(), 'session')}",
        f"listeners   {len(cast.names)}: {per_listener.min()} to {counted(per_listener.max(), 'rating')} each, median "
        f"{np.median(per_listener):g}",
        f"ratings     {len(cast.clip)}, {per_clip.mean():.1f} a clip" + f"; {without} without a class" * bool(without),
        f"classes     {shares}",
        f"ticks       {(cast.weights > 0).sum(1).mean():.2f} classes a rating",
        f"agreement   {agreed.mean():.0%} of the ratings are what most others of the clip say" if len(agreed) else
        "agreement   unknown: no clip has two listeners",
        f"features    {plan.labels['upstream']}: {layers} of {plan.features.shape[2]}",
        f"shots       K = {', '.join(map(str, shots))} of a listener's ratings, {experiment.draws} draws; the verdict "
        f"is at K = {max(shots)}",
        f"test        {len(held_out)} listeners in {len(plan.groups)} groups, each held out, times "
        f"{len(plan.data.folds)} sessions of new clips",
        "notes       " + ("; ".join(team.notes) or "none"),
    ]


@torch.no_grad()
def answers(plan: Plan) -> pd.DataFrame:
    """Every answer of a computed plan on new clips: a row per listener, rating asked for, draw, shots and whose shots.

    Columns listener, clip, rating, draw, shots, shots_of (general, own or other), loss (nats), hit (the most probable
    class was ticked) and likeliest (its place). Summed, they are the records.
    """
    return pd.concat([frame for unit in plan.units for frame in _unit_answers(plan, unit)], ignore_index=True)


def _unit_answers(plan: Plan, unit: Unit) -> Iterator[pd.DataFrame]:
    task, model = plan.task(unit), checkpoints.load(plan.part(unit, PERSONAL)).model
    draws = plan.draws(task.split, "unseen", unit[2])
    listeners = sorted({listener for listener, _ in draws})
    for shots in plan.shots["unseen"] if listeners else ():
        own = [draws[listener, shots] for listener in listeners]
        parts = {"own": own, "other": workers.exchanged(own)} if len(listeners) > 1 else {"own": own}
        for shots_of, episodes in parts.items():
            logits = next(model.answers(batch_of(task, join_episodes(episodes)), [setting_for(model, shots)]))
            yield from _frames(task, listeners, episodes, logits, shots, shots_of)
        if shots == plan.shots["unseen"][0]:
            general_logits = heads.logits(model.head, task.data.features)
            logits = general_logits[task.data.clip[join_episodes(own).query]]
            yield from _frames(task, listeners, own, logits, 0, "general")


def _frames(task: Task, listeners: list[int], episodes: list[Episodes], logits: Tensor, shots: int,
            shots_of: str) -> Iterator[pd.DataFrame]:
    for listener, (part, query) in zip(listeners, split_logits(logits, episodes)):
        log_p, labels = part.double().log_softmax(-1), task.data.labels[query]
        likeliest, clip = log_p.argmax(-1), task.data.clip[query.numpy()].ravel()
        loss = -(labels / labels.sum(-1, keepdim=True) * log_p).sum(-1)
        yield pd.DataFrame({
            "listener": task.data.listeners[listener], "clip": np.array(task.data.clips, object)[clip],
            "rating": query.numpy().ravel(), "draw": np.repeat(np.arange(len(query)), query.shape[1]), "shots": shots,
            "shots_of": shots_of, "loss": loss.numpy().ravel(), "likeliest": likeliest.numpy().ravel(),
            "hit": labels.gather(-1, likeliest.unsqueeze(-1)).numpy().ravel().astype(float)})


def general(plan: Plan) -> Checkpoint:
    """SSL-E of all listeners and the prior over them. The last session stops the training and chooses the factor."""
    data = plan.data._replace(features=torch.from_numpy(plan.features))
    session, last = data.session[data.clip], plan.data.folds[-1].dev
    stop, nobody = np.flatnonzero(session == last), np.empty(0, np.int64)
    split = Split(0, 0, (), np.flatnonzero(session != last), stop, stop, nobody, nobody)
    task = make_task(data, split, plan.experiment.base, plan.standardise)
    method, seed = plan.experiment.methods[PERSONAL], plan.experiment.seeds[0]
    model = method.fit(task, Start(train(task, seed), dict), plan.draws(split, "dev", seed), seed)
    about = plan.about | {"method": method.kind, "kind": method.kind, "seed": seed, "stopped_on_session": int(last),
                          "trained_on": training(data.listeners, len(split.train))}
    return Checkpoint(model, task.mean, task.scale, task.inner_class_weights, about)


def personal_models(plan: Plan, trained: Checkpoint, ratings: pd.DataFrame) -> Iterator[tuple[str, PersonalModel]]:
    """Every listener's model, adapted to all ratings of the listener, and how it differs; ratings: the corpus's."""
    data, cast = plan.data, consensus(ratings, plan.data.classes)
    features = (torch.from_numpy(plan.features) - trained.mean) / trained.scale
    for number, name in enumerate(data.listeners):
        own = np.flatnonzero(data.listener == number)
        model = adapted(trained, features[data.clip[own]], data.labels[own])
        about = {"listener": name, "differs": differs(
            trained, model, features[data.clip[own]], [data.clips[clip] for clip in data.clip[own]], name, cast)}
        yield name, model._replace(about=model.about | about)


def claim(out: Path) -> Path:
    """Make the folder. Raises UserError when it holds other files: the ratings given might be among them."""
    out = Path(out)
    if out.is_dir() and any(out.iterdir()) and not (out / "work").is_dir():
        raise UserError(f"{out}: holds other files, which this might overwrite; give --out a new folder")
    (out / "work").mkdir(parents=True, exist_ok=True)
    return out


def personalise(team: Team, upstream: Upstream, features: Tensor, moments: tuple[float, float] | str, out: Path,
                jobs: int = 1, progress: bool = False, say: Callable[[str], None] = lambda line: None) -> pd.DataFrame:
    """Cross-validate, train, adapt and write everything below `out`; `say` gets what is printed meanwhile.

    features (N, L, D) in the order of the corpus's clips; moments: how waveforms were normalised. Returns the verdicts.
    What is computed stays in `out`/work, so that a killed call goes on. Raises UserError where data are too few.
    """
    began, out, corpus = time.perf_counter(), claim(out), team.corpus
    plan = Plan(team.experiment, corpus, upstream, features, moments, out / "work" / "run")
    lines = understood(team, plan)
    for line in lines:
        say(line)
    scored = workers.compute(plan, jobs, progress)
    answered, shots = answers(plan), max(plan.shots["unseen"])
    table = verdicts.verdicts(answered, corpus.ratings, corpus.classes, shots)
    trained = general(plan)
    files = _write_models(plan, trained, table, corpus.ratings, out)
    schema.write(schema.rows(corpus)[0], out / "ratings.csv")
    records.write(scored, out / "work" / "records.parquet")
    page.write(page.Findings(corpus, plan.labels["synthetic"], table, answered, shots, lines, _opinions(plan, trained)),
               out / "report.html")
    minutes = round((time.perf_counter() - began) / 60, 2)
    listeners = [row | {"file": f"listeners/{files[row['listener']]}"} for row in table.to_dict("records")]
    records.seal(_clean(plan.about | provenance.git() | {
        "settings": plan.experiment.model_dump(mode="json"), "numerics_version": NUMERICS_VERSION,
        "data_digest": plan.fingerprint, "understood": lines, "notes": team.notes, "shots": shots, "minutes": minutes,
        "team": {name: value._asdict() for name, value in verdicts.team(table).items()}, "listeners": listeners,
        "curve": verdicts.curve(answered).to_dict("records"), "machine": provenance.machine()}), out / "manifest.json")
    return table


def _clean(value: Any) -> Any:
    """A value with None for nan, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _clean(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _write_models(plan: Plan, trained: Checkpoint, table: pd.DataFrame, ratings: pd.DataFrame,
                  out: Path) -> dict[str, str]:
    """general.safetensors, listeners/NAME.safetensors, and model/, which `perser adapt` takes for new listeners.

    Files of listeners whom an earlier call knew by other names are deleted.
    """
    checkpoints.save(trained, out / "model")
    save(general_model(trained), out / "general.safetensors")
    files, judged = file_names(plan.data.listeners), table.set_index("listener")["verdict"]
    if (out / "manifest.json").is_file():
        for row in records.sealed(out / "manifest.json", "delete it and run the same command again")["listeners"]:
            (out / "listeners" / Path(row["file"]).name).unlink(missing_ok=True)
    for name, model in personal_models(plan, trained, ratings):
        save(model._replace(about=model.about | {"verdict": judged[name]}), out / "listeners" / files[name])
    return files


@torch.no_grad()
def _opinions(plan: Plan, trained: Checkpoint) -> pd.DataFrame:
    """The general model's probabilities of the classes, by clip."""
    features = (torch.from_numpy(plan.features) - trained.mean) / trained.scale
    p = heads.logits(trained.model.head, features).softmax(-1).numpy()
    return pd.DataFrame(p, index=pd.Index(plan.data.clips, name="clip"), columns=list(plan.data.classes))
