"""An experiment over all folds, held-out groups and seeds: what is missing is computed, what is there is kept."""

import json
import logging
import time
from pathlib import Path

import pandas as pd
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from perser import checkpoints, config, provenance, records
from perser.adapt import scalar_rates
from perser.baselines import Material, choose_rates, material, train_base
from perser.checkpoints import Model
from perser.config import Aggregated, Experiment, Finetune, Method
from perser.corpora import Corpus
from perser.episodes import data as as_data
from perser.errors import UserError
from perser.evaluate import Learner, draws_by_listener, evaluate
from perser.head import TENSORS, Head
from perser.metatrain import metatrain
from perser.splits import folds, listener_groups, split
from perser.upstreams import Upstream

log = logging.getLogger(__name__)

SETTINGS = ("seen", "unseen")
LEAST_DEV = 4  # listeners that a held-out dev group must have to be worth more than the training listeners


def learn(material: Material, head: Head, method: Method, experiment: Experiment, seed: int) -> Learner:
    """What one method makes of SSL-E on one split."""
    if isinstance(method, Aggregated):
        return Learner(head, {0: torch.zeros(0, len(TENSORS))})
    dev = draws_by_listener(material.data, material.split.dev, experiment.shots, experiment.dev_draws,
                            experiment.min_queries, seed, "dev draws")
    if not dev:
        raise UserError(f"fold {material.split.fold}: no dev listener has {max(experiment.shots)} shots and "
                        f"{experiment.min_queries} queries in the dev session; lower shots or min_queries")
    if isinstance(method, Finetune):
        grid = [scalar_rates(rate, steps) for rate in method.rates for steps in method.steps]
        return Learner(head, choose_rates(material, head, grid, dev, per_shots=True))
    adapts = torch.tensor([float(name in method.adapts) for name in TENSORS])
    grid = [torch.full((method.inner_steps, len(TENSORS)), rate) * adapts for rate in method.rates]
    rates = choose_rates(material, head, grid, dev, per_shots=False)[experiment.shots[0]]
    return metatrain(material, head, rates, method, experiment.shots, dev, seed)[0]


def rows(material: Material, learner: Learner, experiment: Experiment, seed: int) -> list[dict]:
    """Records of one learner: every setting, test listener and number of shots, summed over its draws.

    A learner without adaptation is asked the same queries as those with it.
    """
    found = []
    for setting in SETTINGS:
        draws = draws_by_listener(material.data, getattr(material.split, setting), experiment.shots,
                                  experiment.draws, experiment.min_queries, seed, "test draws")
        listeners = sorted({listener for listener, _ in draws})
        asked = [(0, experiment.shots[0])] if 0 in learner.rates else [(k, k) for k in experiment.shots]
        for shots, k in asked if listeners else ():
            scored = evaluate(material.data, material.targets, material.class_weights, learner, shots,
                              [draws[listener, k] for listener in listeners])
            found += [records.row(counts, material.data.classes, setting=setting, fold=material.split.fold, seed=seed,
                                  listener=material.data.listeners[listener], shots=shots, draws=experiment.draws)
                      for listener, (counts, _) in zip(listeners, scored)]
    return found


class Plan:
    """One experiment on one corpus and upstream: what its units are and where each one's results lie."""

    def __init__(self, experiment: Experiment, corpus: Corpus, upstream: Upstream, features: torch.Tensor,
                 moments: tuple[float, float] | str, out: Path):
        """Check the settings against the corpus; moments: what the waveforms were normalised with."""
        self.experiment, self.out = experiment, Path(out)
        self.standardise = upstream.standardise if experiment.base.standardise is None else experiment.base.standardise
        # Worker processes map the array instead of copying it; see `_unit`.
        self.features = features.numpy()
        self.data = as_data(corpus, features)._replace(features=None)
        self.labels = {"corpus": corpus.name, "upstream": upstream.name, "synthetic": corpus.synthetic,
                       "experiment": experiment.name}
        self.about = self.labels | {"classes": list(corpus.classes), "identity": upstream.identity,
                                    "moments": moments, "smoothing": experiment.base.smoothing}
        self.fingerprint = provenance.data(corpus.clips, corpus.ratings, self.features.tobytes())
        self.code = provenance.code()
        self.groups = listener_groups(self.data, experiment.groups, max(experiment.shots) + experiment.min_queries)
        self.dev_held_out = (experiment.dev == "held-out" if experiment.dev
                             else min(map(len, self.groups)) >= LEAST_DEV)
        count = len(folds(self.data.session))
        wanted = experiment.folds or tuple(range(1, count + 1))
        if not set(wanted) <= set(range(1, count + 1)):
            raise UserError(f"folds = {list(wanted)}: {corpus.name} has folds 1 to {count}")
        self.units = [(fold, group, seed) for seed in experiment.seeds for fold in wanted
                      for group in range(len(self.groups))]

    def digest(self, *what) -> str:
        """Changes with the code, the data and everything in the experiment but its set of methods."""
        shared = self.experiment.model_copy(update={"methods": {}, "seeds": (), "folds": None})
        return config.digest(shared, self.standardise, self.fingerprint, self.code, self.labels, *what)

    def part(self, unit: tuple[int, int, int], method: str) -> Path:
        """Where one method's records of one unit lie; the name changes with everything that they depend on."""
        fold, group, seed = unit
        key = self.digest(method, self.experiment.methods[method])
        return self.out / "parts" / f"fold{fold}-group{group}-seed{seed}-{method}-{key}.parquet"

    def missing(self, unit: tuple[int, int, int]) -> list[str]:
        """Methods of a unit that have no records yet."""
        return [method for method in self.experiment.methods if not self.part(unit, method).exists()]


def _base(plan: Plan, ready: Material, unit: tuple[int, int, int]) -> Head:
    """SSL-E of a unit, from disk when a killed run has left it there."""
    fold, group, seed = unit
    place, key = plan.out / "checkpoints" / f"fold{fold}-group{group}-seed{seed}" / "start", plan.digest("start")
    if (place / "model.json").exists():
        kept = checkpoints.load(place)
        if kept.about.get("digest") == key:
            return kept.learner.head
    head = train_base(ready, plan.experiment.base, seed)
    about = plan.about | {"method": "start", "fold": fold, "seed": seed, "digest": key}
    checkpoints.save(Model(Learner(head, {0: torch.zeros(0, len(TENSORS))}), ready.mean, ready.scale,
                           ready.class_weights, about), place)
    return head


def _unit(plan: Plan, unit: tuple[int, int, int]) -> None:
    """Compute the missing methods of one fold, held-out group and seed; each part is written when it is done."""
    torch.set_num_threads(1)
    fold, group, seed = unit
    chosen = split(plan.data, fold, group, plan.groups, plan.dev_held_out)
    data = plan.data._replace(features=torch.from_numpy(plan.features))
    ready = material(data, chosen, plan.experiment.base, plan.standardise)
    head = _base(plan, ready, unit)
    for name in plan.missing(unit):
        learner = learn(ready, head, plan.experiment.methods[name], plan.experiment, seed)
        frame = pd.DataFrame([plan.labels | {"method": name} | row
                              for row in rows(ready, learner, plan.experiment, seed)])
        about = plan.about | {"method": name, "fold": fold, "seed": seed, "held_out": list(chosen.test_listeners)}
        checkpoints.save(Model(learner, ready.mean, ready.scale, ready.class_weights, about),
                         plan.out / "checkpoints" / f"fold{fold}-group{group}-seed{seed}" / name)
        records.write(frame, plan.part(unit, name))


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
    (plan.out / "parts").mkdir(exist_ok=True)
    start = time.perf_counter()
    work = Parallel(n_jobs=jobs, return_as="generator_unordered", mmap_mode="c")
    for _ in tqdm(work(delayed(_unit)(plan, unit) for unit in todo), total=len(todo), desc=plan.experiment.name,
                  unit="unit", disable=not progress):
        pass
    frame = pd.concat([pd.read_parquet(plan.part(unit, method))
                       for unit in plan.units for method in plan.experiment.methods], ignore_index=True)
    records.write(frame, plan.out / "records.parquet")
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


def _manifest(plan: Plan, settings: dict, minutes: float, jobs: int, computed: int) -> dict:
    return plan.about | {
        "config": settings, "config_digest": config.digest(plan.experiment), "code": plan.code, **provenance.git(),
        "data": plan.fingerprint, "clips": len(plan.data.clips), "ratings": len(plan.data.clip),
        "listeners": len(plan.data.listeners), "groups": len(plan.groups),
        "dev": "held-out" if plan.dev_held_out else "training", "units": len(plan.units),
        "units_computed_last": computed, "minutes_last": round(minutes, 2), "jobs": jobs,
        "machine": provenance.machine()}
