"""An experiment over all folds, held-out groups and seeds: what is missing is computed, what is there is kept."""

import ctypes
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from copy import copy
from functools import partial
from itertools import product
from multiprocessing import current_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from perser import checkpoints, config, provenance, records
from perser.adapt import scalar_rates
from perser.baselines import (
    Dev,
    PriorShift,
    Upper,
    choose,
    cross_fitted,
    fresh,
    listener_embedding,
    nearest_listener,
    prototypes,
    train_base,
    upper_bound,
)
from perser.checkpoints import Model
from perser.config import (
    Aggregated,
    AllData,
    Base,
    ClassMeans,
    Experiment,
    Finetune,
    ListenerEmbedding,
    Maml,
    Method,
    NearestListener,
    Priors,
)
from perser.corpora import Corpus
from perser.descend import way
from perser.episodes import data as as_data
from perser.errors import UserError
from perser.evaluate import Learner, answers, apart, count, draws_by_listener, together
from perser.head import TENSORS, Head
from perser.kernels import prepare
from perser.material import Material, material
from perser.metatrain import metatrain
from perser.splits import folds, listener_groups, split
from perser.corpora.agreement import traits
from perser.features.upstreams import Upstream

log = logging.getLogger(__name__)

SETTINGS = ("seen", "unseen")
LEAST_DEV = 4  # listeners that a held-out dev group must have to be worth more than the training listeners


def learn(material: Material, head: Head, method: Method, base: Base, dev: Dev, seed: int,
          others: Callable[[], dict[int, Head]] | None = None) -> NamedTuple:
    """What one method makes of SSL-E on one split; dev: the dev listeners' draws, by listener and shots.

    others: gives SSL-E without each training session to a method that asks; trained anew when not given.
    """
    others = others or partial(cross_fitted, material, base, seed)
    shots = tuple(sorted({k for _, k in dev}))

    def chosen(made: NamedTuple, grid: Iterable[Any]) -> NamedTuple:
        return made._replace(settings=choose(material, made, grid, dev))

    match method:
        case Aggregated():
            return Learner(head, {0: torch.zeros(0, len(TENSORS))})
        case Finetune():
            start = head if method.start == "ssl-e" else fresh(material, base, seed)
            return chosen(Learner(start, {}), [scalar_rates(rate, steps, tensors) for tensors, rate, steps
                                               in product(method.adapts, method.rates, method.steps)])
        case Priors():
            return chosen(PriorShift(head, {}), product(method.masses, method.strengths))
        case ClassMeans():
            return chosen(prototypes(material, head, base), product(method.masses, method.temperatures))
        case NearestListener():
            return chosen(nearest_listener(material, head, method, seed),
                          product(range(len(method.rates)), method.neighbours))
        case ListenerEmbedding():
            return chosen(listener_embedding(material, head, method, base, seed), product(method.rates, method.steps))
        case AllData():
            return upper_bound(material, head, method, dev, seed)
        case Maml():
            grid = [scalar_rates(rate, method.inner_steps, method.adapts) for rate in method.rates]
            rates = choose(material, Learner(head, {}), grid, dev, per_shots=False)[shots[0]]
            return metatrain(material, head, rates, method, shots, dev, seed, others() if method.crossfit else {})[0]


@torch.no_grad()
def rows(material: Material, learner: NamedTuple, plan: "Plan", seed: int) -> list[dict]:
    """Records of one learner: every setting, test listener and number of shots, summed over its draws.

    A learner without adaptation is asked the same queries as those with it, once, and recorded with no shots.
    """
    experiment, found = plan.experiment, []
    for setting in SETTINGS:
        draws = draws_by_listener(material.data, getattr(material.split, setting), plan.shots[setting],
                                  experiment.draws, experiment.min_queries, seed, "test draws")
        listeners = sorted({listener for listener, _ in draws})
        fixed = 0 in learner.settings
        for shots in (plan.shots[setting][:1] if fixed else plan.shots[setting]) if listeners else ():
            parts = [draws[listener, shots] for listener in listeners]
            tested = variants(learner, shots, experiment.steps)
            for steps, logits in zip(tested, answers(learner, material, together(parts), list(tested.values()))):
                found += [records.row(count(answered, material.data.labels[query]), material.data.classes,
                                      setting=setting, fold=material.split.fold, seed=seed,
                                      listener=material.data.listeners[listener], shots=0 if fixed else shots,
                                      steps=steps, draws=experiment.draws)
                          for listener, (answered, query) in zip(listeners, apart(logits, parts))]
    return found


def variants(learner: NamedTuple, shots: int, wanted: tuple[int, ...] | None) -> dict[int, Any]:
    """Inner steps -> settings to test: those learnt for the nearest number of shots, or of each wanted number."""
    settings = learner.settings[min(learner.settings, key=lambda k: abs(k - shots))]
    if not isinstance(learner, Learner) or 0 in learner.settings or isinstance(settings, Head):
        return {len(settings.mix) if isinstance(settings, Head) else 0: settings}
    beyond = settings[-1:].expand(max(wanted or [0]), -1)
    return {steps: torch.cat([settings, beyond])[:steps] for steps in wanted or [len(settings)]}


class Plan:
    """One experiment on one corpus and upstream: what its units are and where each one's results lie.

    Parts, the records and model of one method on one unit, lie beside the run directory, so that experiments with
    the same settings share them.
    """

    def __init__(self, experiment: Experiment, corpus: Corpus, upstream: Upstream, features: torch.Tensor,
                 moments: tuple[float, float] | str, out: Path):
        """Check the settings against the corpus; moments: what the waveforms were normalised with."""
        self.experiment, self.out = experiment, Path(out)
        self.standardise = upstream.standardise if experiment.base.standardise is None else experiment.base.standardise
        # Worker processes map the array instead of copying it; see `_unit`.
        self.features = features.numpy()
        self.data = as_data(corpus, features)._replace(features=None)
        self.labels = {"corpus": corpus.name, "upstream": upstream.name,
                       "synthetic": records.made_up(corpus.synthetic, upstream.random)}
        self.about = self.labels | {"experiment": experiment.name, "classes": list(corpus.classes), "moments": moments,
                                    "options": corpus.options, "identity": upstream.identity,
                                    "smoothing": experiment.base.smoothing}
        self.traits = traits(corpus.ratings, corpus.classes)
        self.fingerprint = provenance.data(corpus.clips, corpus.ratings, self.features.tobytes())
        self.code = provenance.code()
        self.origin = {"code": self.code, "commit": provenance.git()["commit"], "data": self.fingerprint,
                       "cpu": provenance.machine()["cpu"], "inner_loop": way(torch.zeros(1))}
        self.groups = listener_groups(self.data, experiment.groups, min(experiment.shots) + experiment.min_queries)
        self.dev_held_out = (experiment.dev == "held-out" if experiment.dev
                             else min(map(len, self.groups)) >= LEAST_DEV)
        last = len(folds(self.data.session))
        wanted = experiment.folds or tuple(range(1, last + 1))
        if not set(wanted) <= set(range(1, last + 1)):
            raise UserError(f"folds = {list(wanted)}: {corpus.name} has folds 1 to {last}")
        self.shots = self._possible()
        self.units = [(fold, group, seed) for seed in experiment.seeds for fold in wanted
                      for group in range(len(self.groups))]

    def _possible(self) -> dict[str, tuple[int, ...]]:
        """Per pool the numbers of shots that most listeners have, with queries beside them, in every fold."""
        least = dict.fromkeys(("dev", *SETTINGS), np.inf)
        for fold, group in product(range(1, len(folds(self.data.session)) + 1), range(len(self.groups))):
            part = split(self.data, fold, group, self.groups, self.dev_held_out)
            for name in least:
                counts = np.bincount(self.data.listener[getattr(part, name)])
                least[name] = min(least[name], np.median(counts[counts > 0]) if counts.any() else np.inf)
        return {name: tuple(k for k in self.experiment.shots if k + self.experiment.min_queries <= most)
                or self.experiment.shots[:1] for name, most in least.items()}

    def digest(self, *what) -> str:
        """Changes with the code, the data and everything in the experiment but its set of methods."""
        shared = self.experiment.model_copy(update={"name": "", "methods": {}, "seeds": (), "folds": None})
        return config.digest(shared, self.standardise, self.fingerprint, self.code, self.labels, *what)

    def part(self, unit: tuple[int, int, int], method: str | None) -> Path:
        """Where one method's part of one unit lies, SSL-E's without a method.

        The name changes with everything that its content depends on.
        """
        key = self.digest(method, self.experiment.methods[method]) if method else self.digest()
        return self.out.parent / "parts" / f"{_words(unit)}-{method or 'start'}-{key}"

    def parts(self) -> list[Path]:
        """All of them, by unit and method."""
        return [self.part(unit, method) for unit, method in product(self.units, self.experiment.methods)]

    def link(self) -> None:
        """Show the models under OUT/checkpoints by unit and method."""
        for unit, method in product(self.units, self.experiment.methods):
            place, part = self.out / "checkpoints" / _words(unit) / method, self.part(unit, method)
            if (part / "model.json").exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.unlink(missing_ok=True)
                place.symlink_to(os.path.relpath(part, place.parent))

    def dev_draws(self, material: Material, seed: int) -> Dev:
        """The dev listeners' draws. Raises UserError when they are too few ratings for any number of shots."""
        experiment = self.experiment
        found = draws_by_listener(material.data, material.split.dev, self.shots["dev"], experiment.dev_draws,
                                  experiment.min_queries, seed, "dev draws")
        if not found:
            raise UserError(f"fold {material.split.fold}: no dev listener has {min(experiment.shots)} shots and "
                            f"{experiment.min_queries} queries in the dev session; lower shots or min_queries")
        return found

    def missing(self, unit: tuple[int, int, int]) -> list[str]:
        """Methods of a unit that have no records yet."""
        return [name for name in self.experiment.methods if not (self.part(unit, name) / "records.parquet").exists()]


def _words(unit: tuple[int, int, int]) -> str:
    return "fold{}-group{}-seed{}".format(*unit)


def _base(plan: Plan, ready: Material, unit: tuple[int, int, int]) -> Head:
    """SSL-E of a unit, from disk when a killed run has left it there."""
    fold, _, seed = unit
    place = plan.part(unit, None)
    if (place / "model.json").exists():
        return checkpoints.load(place).learner.head
    head = train_base(ready, plan.experiment.base, seed)
    about = plan.about | {"method": "start", "fold": fold, "seed": seed}
    checkpoints.save(Model(Learner(head, {0: torch.zeros(0, len(TENSORS))}), ready.mean, ready.scale,
                           ready.class_weights, about), place)
    return head


def _others(plan: Plan, ready: Material, unit: tuple[int, int, int]) -> dict[int, Head]:
    """SSL-E without each training session, from disk when it is there."""
    place = plan.part(unit, None) / "others.safetensors"
    if not place.exists():
        found = cross_fitted(ready, plan.experiment.base, unit[2])
        with records.whole(place) as half:
            save_file({f"{session}.{name}": tensor for session, head in found.items()
                       for name, tensor in head._asdict().items()}, half)
    tensors = load_file(place)
    return {session: Head(*(tensors[f"{session}.{name}"] for name in TENSORS))
            for session in sorted({int(key.split(".")[0]) for key in tensors})}


def _end_with_parent() -> None:
    """Let a worker process be killed when the one that it works for is: it would wait for work for ever."""
    libc = ctypes.CDLL(None)
    if current_process().name.startswith("LokyProcess") and hasattr(libc, "prctl"):
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _unit(plan: Plan, unit: tuple[int, int, int]) -> None:
    """Compute the missing methods of one fold, held-out group and seed; each part is written when it is done."""
    _end_with_parent()
    prepare(threads=1)
    fold, group, seed = unit
    chosen = split(plan.data, fold, group, plan.groups, plan.dev_held_out)
    data = plan.data._replace(features=torch.from_numpy(plan.features))
    ready = material(data, chosen, plan.experiment.base, plan.standardise)
    head = _base(plan, ready, unit)
    dev = plan.dev_draws(ready, seed)
    for name in plan.missing(unit):
        part, start = plan.part(unit, name), time.perf_counter()
        learner = learn(ready, head, plan.experiment.methods[name], plan.experiment.base, dev, seed,
                        partial(_others, plan, ready, unit))
        frame = pd.DataFrame([plan.labels | {"method": name} | row for row in rows(ready, learner, plan, seed)])
        about = plan.about | {"method": name, "fold": fold, "seed": seed, "held_out": list(chosen.test_listeners)}
        if isinstance(learner, Learner):
            checkpoints.save(Model(learner, ready.mean, ready.scale, ready.class_weights, about), part)
        if not isinstance(learner, Upper):
            records.write(learnt(learner, method=name, fold=fold, group=group, seed=seed), part / "learnt.parquet")
        records.write_json(plan.origin | {"seconds": time.perf_counter() - start}, part / "part.json")
        records.write(frame, part / "records.parquet")


def learnt(learner: Learner, **labels) -> pd.DataFrame:
    """What can be read off a learner: inner rates by shots, step and tensor, what else was chosen, layer weights.

    Layers have step -1 and no shots; so have the prior's mass and strength and the epoch of meta-training that was
    kept. Choices on the dev listeners that are no rates are numbered in the order of the method's grid.
    """
    found = [{"shots": shots, "step": step, "tensor": name, "value": float(rate)}
             for shots, rates in learner.settings.items() if isinstance(rates, torch.Tensor)
             for step, row in enumerate(rates) for name, rate in zip(TENSORS, row)]
    found += [{"shots": shots, "step": -1, "tensor": f"choice {i}", "value": float(value)}
              for shots, choice in learner.settings.items() if type(choice) is tuple for i, value in enumerate(choice)]
    own = {f"layer{i}": weight for i, weight in enumerate(learner.head.mix.softmax(0))}
    if isinstance(learner, Learner) and learner.prior is not None:
        own |= {"prior mass": learner.prior[0].exp(), "prior strength": learner.prior[1]}
    if isinstance(learner, Learner) and learner.epoch is not None:
        own |= {"epoch": learner.epoch}
    found += [{"shots": 0, "step": -1, "tensor": name, "value": float(value)} for name, value in own.items()]
    return pd.DataFrame([labels | row for row in found])


def compute(plan: Plan, jobs: int, progress: bool = False) -> pd.DataFrame:
    """All records of a plan, the missing ones computed in `jobs` processes; only parts are written."""
    todo = [unit for unit in plan.units if plan.missing(unit)]
    work = Parallel(n_jobs=jobs, return_as="generator_unordered", mmap_mode="c")
    for _ in tqdm(work(delayed(_unit)(plan, unit) for unit in todo), total=len(todo), desc=plan.experiment.name,
                  unit="unit", disable=not progress):
        pass
    frame = pd.concat([pd.read_parquet(part / "records.parquet") for part in plan.parts()], ignore_index=True)
    frame.insert(3, "experiment", plan.experiment.name)
    return frame


def reuse(plan: Plan, old: Path, jobs: int) -> list[str]:
    """Take over the records of a finished run, method by method, where the present code repeats them.

    Held to it on the first and the last unit, computed anew: every count must be the same, or of a run on another
    machine or by another inner loop, whose last bits differ, no count may differ by more than one. What is taken over
    says which run it is of, and has no models. Returns the methods taken over. Raises UserError when `old` is no run or
    one of other settings.
    """
    said, frame = records.manifest(old), records.read(old)
    held = _comparable(plan, said, Path(old))
    origin = {key: said[key] for key in ("code", "commit", "data")} | {
        "cpu": said["machine"]["cpu"], "inner_loop": said.get("inner_loop", "torch")}  # before there was one in C
    whose = {plan.data.listeners[i]: group for group, members in enumerate(plan.groups) for i in members}
    keys = [frame["method"], frame["fold"], frame["listener"].map(whose), frame["seed"]]
    there = {(name, unit): part.drop(columns="experiment").reset_index(drop=True)
             for (name, *unit), part in frame.groupby(keys, sort=False)
             for unit in [tuple(unit)] if unit in plan.units and plan.experiment.methods.get(name) == held.get(name)}
    units = {name: [unit for unit in plan.units if (name, unit) in there] for name in plan.experiment.methods}
    units = {name: found for name, found in units.items() if found}
    few = copy(plan)
    few.experiment = plan.experiment.model_copy(update={"methods": {name: plan.experiment.methods[name]
                                                                    for name in units}})
    ends = list(dict.fromkeys(unit for found in units.values() for unit in (found[0], found[-1])))
    Parallel(n_jobs=jobs, mmap_mode="c")(delayed(_unit)(few, unit) for unit in ends)
    slack = 0 if all(origin[key] == plan.origin[key] for key in ("data", "cpu", "inner_loop")) else 1
    taken = [name for name, found in units.items()
             if all(_repeats(pd.read_parquet(plan.part(unit, name) / "records.parquet"), there[name, unit], slack)
                    for unit in (found[0], found[-1]))]
    learnt = dict(list(pd.read_parquet(Path(old) / "learnt.parquet")
                       .groupby(["method", "fold", "group", "seed"], sort=False)))
    for name, unit in product(taken, plan.units):
        part = plan.part(unit, name)
        if (name, unit) in there and not (part / "records.parquet").exists():
            if (name, *unit) in learnt:
                records.write(learnt[name, *unit], part / "learnt.parquet")
            records.write_json(origin | {"seconds": None}, part / "part.json")
            records.write(there[name, unit], part / "records.parquet")
    return taken


def _repeats(mine: pd.DataFrame, theirs: pd.DataFrame, slack: int) -> bool:
    """Whether two parts' records are the same but for counts that differ by at most `slack`."""
    counted = [name for name in mine if name == "top" or name[:3] in ("tp_", "fp_", "fn_")]
    return (mine.drop(columns=counted).equals(theirs.drop(columns=counted))
            and int((mine[counted] - theirs[counted]).abs().to_numpy().max(initial=0)) <= slack)


def _comparable(plan: Plan, said: dict, old: Path) -> dict[str, Method]:
    """The methods of a run that is of the plan's corpus and settings, by its manifest."""
    try:
        held = Experiment.model_validate(said["config"])
    except (KeyError, ValidationError):
        raise UserError(f"{old}: a run of another version; nothing can be taken over from it") from None
    mine, theirs = (json.loads(experiment.model_dump_json(exclude={"name", "methods", "seeds", "folds"}))
                    | {key: json.loads(json.dumps(about.get(key))) for key in plan.about if key != "experiment"}
                    for about, experiment in ((plan.about, plan.experiment), (said, held)))
    other = [key for key in mine if mine[key] != theirs[key]]
    if other:
        raise UserError(f"{old}: a run with another `{other[0]}`; nothing can be taken over from it")
    return held.methods


def run(plan: Plan, jobs: int, progress: bool = False) -> pd.DataFrame:
    """All records of a plan, computing the missing ones in `jobs` processes; the directory ends with DONE.

    Raises UserError when the directory holds a run with other settings.
    """
    settings = json.loads(plan.experiment.model_dump_json())
    _claim(plan.out, settings)
    todo = [unit for unit in plan.units if plan.missing(unit)]
    done = plan.out / "DONE"
    state = plan.digest(settings)
    if not todo and done.exists() and done.read_text().strip() == state:
        return records.read(plan.out)
    done.unlink(missing_ok=True)
    start = time.perf_counter()
    frame = compute(plan, jobs, progress)
    records.write(frame, plan.out / "records.parquet")
    parts = plan.parts()
    records.write(pd.concat([pd.read_parquet(part / "learnt.parquet") for part in parts
                             if (part / "learnt.parquet").exists()], ignore_index=True), plan.out / "learnt.parquet")
    records.write(plan.traits, plan.out / "listeners.parquet")
    plan.link()
    minutes = (time.perf_counter() - start) / 60
    records.write_json(_manifest(plan, settings, minutes, jobs, len(todo)), plan.out / "manifest.json")
    done.write_text(state + "\n")
    return frame


def _claim(out: Path, settings: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.json"
    if path.exists() and (held := json.loads(path.read_text())) != settings:
        key = next(k for k in sorted(held.keys() | settings.keys()) if held.get(k) != settings.get(k))
        raise UserError(f"{path}: holds a run with another `{key}`; give another --out or delete that directory")
    records.write_json(settings, path)


def _origins(plan: Plan) -> list[dict]:
    """By which code the parts were computed, or of which run they are: methods, how many parts, minutes (of one core,
    where they are known).
    """
    found = pd.DataFrame([{"method": name, **json.loads((plan.part(unit, name) / "part.json").read_text())}
                          for unit, name in product(plan.units, plan.experiment.methods)])
    keys = list(plan.origin)
    return [dict(zip(keys, origin)) | {
                "methods": sorted(set(part["method"])), "parts": len(part),
                "minutes": round(float(part["seconds"].sum()) / 60, 2) if part["seconds"].notna().all() else None}
            for origin, part in found.groupby(keys, dropna=False)]


def _manifest(plan: Plan, settings: dict, minutes: float, jobs: int, computed: int) -> dict:
    return plan.about | {
        "config": settings, "config_digest": config.digest(plan.experiment), "code": plan.code, **provenance.git(),
        "data": plan.fingerprint, "clips": len(plan.data.clips), "ratings": len(plan.data.clip),
        "listeners": len(plan.data.listeners), "groups": len(plan.groups),
        "dev": "held-out" if plan.dev_held_out else "training", "units": len(plan.units),
        "units_computed_last": computed, "minutes_last": round(minutes, 2), "jobs": jobs, "parts": _origins(plan),
        "machine": provenance.machine(), "inner_loop": plan.origin["inner_loop"]}
