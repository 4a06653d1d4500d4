"""Run an experiment: compute what is missing in worker processes, keep what is there, write records and manifest."""

import json
import os
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import BrokenProcessPool
from safetensors.torch import load_file, save_file

from perser import checkpoints, cluster, processes, provenance, records, settings
from perser.about import training
from perser.checkpoints import Checkpoint
from perser.corpora import schema
from perser.data import Task
from perser.episodes import Episodes, batch_of
from perser.errors import UserError
from perser.evaluate import Fitted, count, join_episodes, split_logits
from perser.methods.base import GradientModel, Start, inner_steps, setting_for, with_inner_steps
from perser.methods.ssl_e import cross_fitted, train, unadapted
from perser.model import TENSORS, Head
from perser.plan import NUMERICS_VERSION, Plan, Unit
from perser.records import Manifest, MethodInfo, Origin
from perser.scores import SETTINGS
from perser.terminal import progress as shown_progress

DEV_LOSSES = ("dev loss start", "dev loss largest", "dev loss kept")  # of meta-training, in learnt.parquet


def run(plan: Plan, jobs: int = 1, progress: bool = False) -> pd.DataFrame:
    """All records of a plan; missing ones are computed in `jobs` processes. The run directory ends with DONE.

    Raises UserError when the directory holds a run with other settings.
    """
    config = json.loads(plan.experiment.model_dump_json())
    _check_claim(plan.out, config)
    todo = [unit for unit in plan.units if plan.missing(unit)]
    done, state = plan.out / "DONE", plan.digest(config)
    if not todo and done.exists() and done.read_bytes().strip() == state.encode() and _sound(plan.out):
        return records.read(plan.out)
    done.unlink(missing_ok=True)
    start = time.perf_counter()
    frame = compute(plan, jobs, progress)
    _check_claim(plan.out, config)
    records.write_json(config, plan.out / "config.json")
    records.write(frame, plan.out / "records.parquet")
    records.write(_joined(plan, "learnt.parquet"), plan.out / "learnt.parquet")
    records.write(plan.traits, plan.out / "listeners.parquet")
    names = ["records.parquet", "learnt.parquet", "listeners.parquet", "config.json"]
    if plan.table is not None:
        schema.write(plan.table, plan.out / "ratings.csv")
        names.append("ratings.csv")
    plan.link()
    minutes = round((time.perf_counter() - start) / 60, 2)
    about = _manifest(plan, config, minutes, jobs, len(todo)).model_dump(mode="json")
    records.seal(about, plan.out / records.MANIFEST, *(plan.out / name for name in names))
    records.write_text(state + "\n", done)
    return frame


def _sound(out: Path) -> bool:
    """Whether a finished run has all its files and they are as they were written; otherwise they are made anew."""
    try:
        return bool(records.load(out).manifest.files)
    except UserError:
        return False


def _joined(plan: Plan, name: str) -> pd.DataFrame:
    """One table of all parts. Raises UserError, which names the folder to delete, where a part is damaged."""
    tables = []
    for part in plan.parts():
        records.sealed(part / "part.json", plan.remedy(part), name)
        tables.append(records.table(part / name, plan.remedy(part)))
    return pd.concat(tables, ignore_index=True)


def compute(plan: Plan, jobs: int, progress: bool = False) -> pd.DataFrame:
    """All records of a plan. Only parts are written."""
    fill(plan, jobs, progress)
    frame = _joined(plan, "records.parquet")
    frame.insert(3, "experiment", plan.experiment.name)
    return frame


def fill(plan: Plan, jobs: int, progress: bool = False, share: tuple[int, int] = (1, 1)) -> None:
    """Compute the missing parts in `jobs` processes, or on the cluster that is active.

    share: (k, n) for every n-th unit from the k-th, so that n jobs that share the folder compute all; (0, n): none.
    """
    units = plan.units[share[0] - 1::share[1]] if share[0] else []
    total = len(units) * len(plan.experiment.methods)

    def todo() -> list[Unit]:
        return [unit for unit in units if plan.missing(unit)]

    def done() -> int:
        return total - sum(len(plan.missing(unit)) for unit in units)

    with shown_progress(plan.experiment.name, total, "parts", progress and bool(todo()), initial=done(), count=done):
        if cluster.active():
            sent = plan.by_file()
            cluster.work(lambda: [delayed(_compute_unit)(sent, unit) for unit in todo()])
        else:
            _compute_here(plan, todo(), jobs)


def _compute_here(plan: Plan, units: list[Unit], jobs: int) -> None:
    """In processes of this machine, initialised before they load torch, so that they never outlive this one."""
    work = Parallel(n_jobs=jobs, return_as="generator_unordered", mmap_mode="c", initializer=processes.follow,
                    initargs=(os.getpid(),))
    try:
        for _ in work(delayed(_compute_unit)(plan, unit) for unit in units):
            pass
    except BrokenProcessPool:
        raise UserError(f"{plan.out}: a worker process was killed, most often by the system for want of memory; "
                        f"run the same command again with --jobs {max(1, jobs // 2)}: what is computed is kept"
                        ) from None


def _compute_unit(plan: Plan, unit: Unit) -> None:
    """Compute the missing methods of a unit. Each part is written when it is done."""
    torch.set_num_threads(1)
    fold, group, seed = unit
    task = plan.task(unit)
    start = Start(_ssl_e(plan, task, unit), partial(_cross_fitted, plan, task, unit))
    dev = plan.draws(task.split, "dev", seed)
    for name in plan.missing(unit):
        part, began, method = plan.part(unit, name), time.perf_counter(), plan.experiment.methods[name]
        model = method.fit(task, start, dev, seed)
        frame = pd.DataFrame([plan.labels | {"method": name} | row for row in rows(task, model, plan, seed)])
        about = plan.about | {"method": name, "kind": method.kind, "fold": fold, "seed": seed,
                              "held_out": list(task.split.test_listeners), "trained_on": _trained_on(task)}
        checkpoints.save(Checkpoint(model, task.mean, task.scale, task.inner_class_weights, about), part)
        records.write(learnt(model, method=name, fold=fold, group=group, seed=seed), part / "learnt.parquet")
        records.write(frame, part / "records.parquet")
        origin = plan.origin | provenance.here() | {"seconds": time.perf_counter() - began}
        records.seal(origin, part / "part.json", part / "learnt.parquet", part / "records.parquet")


def _trained_on(task: Task) -> dict[str, Any]:
    """Whose ratings a model of a split learnt from, or was chosen by, and how many it was trained on."""
    listener, split = task.data.listener, task.split
    known = np.unique(listener[np.concatenate([split.train, split.base_dev, split.dev])])
    return training([task.data.listeners[place] for place in known], len(split.train))


def _ssl_e(plan: Plan, task: Task, unit: Unit) -> Head:
    """SSL-E of a unit, read from disk if an earlier run left it there."""
    fold, _, seed = unit
    place = plan.part(unit, None)
    if (place / "model.json").exists():
        return checkpoints.load(place).model.head
    head = train(task, seed)
    about = plan.about | {"method": "start", "kind": "ssl-e", "fold": fold, "seed": seed}
    checkpoints.save(Checkpoint(unadapted(head), task.mean, task.scale, task.inner_class_weights, about), place)
    return head


def _cross_fitted(plan: Plan, task: Task, unit: Unit) -> dict[int, Head]:
    """SSL-E without each training session, read from disk if it is there."""
    place = plan.part(unit, None) / "others.safetensors"
    if not place.with_suffix(".json").exists():
        heads = cross_fitted(task, unit[2])
        with records.whole(place) as half:
            save_file({f"{session}.{name}": tensor for session, head in heads.items()
                       for name, tensor in head._asdict().items()}, half)
        records.seal({}, place.with_suffix(".json"), place)
    records.sealed(place.with_suffix(".json"), plan.remedy(place.parent))
    tensors = load_file(place)
    return {session: Head(*(tensors[f"{session}.{name}"] for name in TENSORS))
            for session in sorted({int(key.split(".")[0]) for key in tensors})}


@torch.no_grad()
def rows(task: Task, model: Fitted, plan: Plan, seed: int) -> list[dict[str, Any]]:
    """Records of a model: every setting, test listener and number of shots, summed over the draws.

    Once with the listeners' own shots and once with shots exchanged among them, where a split has two test listeners or
    more. A model that does not adapt answers the same queries as those that do, once, and is recorded with no shots.
    """
    experiment, rows, fixed = plan.experiment, [], 0 in model.settings
    for setting in SETTINGS:
        draws = plan.draws(task.split, setting, seed)
        listeners = sorted({listener for listener, _ in draws})
        for shots in (plan.shots[setting][:1] if fixed else plan.shots[setting]) if listeners else ():
            parts = {"own": [draws[listener, shots] for listener in listeners]}
            if len(listeners) > 1 and not fixed:
                parts["other"] = exchanged(parts["own"])
            tested = tested_settings(model, shots, experiment.test_inner_steps)
            for shots_of, episodes in parts.items():
                answers = model.answers(batch_of(task, join_episodes(episodes)), list(tested.values()))
                for steps, logits in zip(tested, answers):
                    rows += [records.row(count(of_listener, task.data.labels[query]), task.data.classes,
                                         setting=setting, fold=task.split.fold, seed=seed,
                                         listener=task.data.listeners[listener], shots=0 if fixed else shots,
                                         inner_steps=steps, draws=experiment.draws, shots_of=shots_of)
                             for listener, (of_listener, query) in zip(listeners, split_logits(logits, episodes))]
    return rows


def exchanged(parts: list[Episodes]) -> list[Episodes]:
    """Every listener's queries with another listener's shots; draw by draw, the giver rotates through the others."""
    number = len(parts)
    return [Episodes(np.stack([parts[(place + 1 + draw % (number - 1)) % number].support[draw]
                               for draw in range(len(part.support))]), part.query)
            for place, part in enumerate(parts)]


def tested_settings(model: Fitted, shots: int, test_inner_steps: tuple[int, ...] | None) -> dict[int, Any]:
    """Inner steps -> setting to test: the setting for the number of shots, or cut and extended to the given steps."""
    setting = setting_for(model, shots)
    if not isinstance(model, GradientModel) or 0 in model.settings or not test_inner_steps:
        return {inner_steps(setting): setting}
    return {steps: with_inner_steps(setting, steps) for steps in test_inner_steps}


def learnt(model: Fitted, **labels: object) -> pd.DataFrame:
    """What training and the choice on the dev listeners set: one row per value.

    Inner learning rates by shots, step and tensor. Other choices by shots, with step -1, numbered in the order of the
    method's grid. Layer weights, the kept epoch of meta-training and its dev losses have step -1 and no shots.
    """
    values = [{"shots": shots, "step": step, "tensor": name, "value": float(lr)}
              for shots, setting in model.settings.items() if isinstance(setting, torch.Tensor)
              for step, row in enumerate(setting) for name, lr in zip(TENSORS, row)]
    values += [{"shots": shots, "step": -1, "tensor": f"choice {i}", "value": float(value)}
               for shots, setting in model.settings.items() if type(setting) is tuple
               for i, value in enumerate(setting)]
    unique: dict[str, Any] = {f"layer{i}": weight for i, weight in enumerate(model.head.mix.softmax(0))}
    if isinstance(model, GradientModel) and model.epoch is not None:
        unique |= {"epoch": model.epoch, **dict(zip(DEV_LOSSES, model.dev_losses))}
    values += [{"shots": 0, "step": -1, "tensor": name, "value": float(value)} for name, value in unique.items()]
    return pd.DataFrame([labels | row for row in values])


def _check_claim(out: Path, config: dict[str, Any]) -> None:
    """Make the run directory. Raises UserError when it holds a run, not a failed one, with other settings."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.json"
    if path.exists() and (other := records.read_json(path, "delete it and run the same command again")) != config:
        key = next(key for key in sorted(other.keys() | config.keys()) if other.get(key) != config.get(key))
        raise UserError(f"{path}: holds a run with another `{key}`; give another --out or delete that directory")


def _origins(plan: Plan) -> list[Origin]:
    """Where the parts were computed: one entry per version, commit, data and processor."""
    parts = [(name, plan.part(unit, name)) for unit, name in product(plan.units, plan.experiment.methods)]
    frame = pd.DataFrame([{"method": name, **records.sealed(part / "part.json", plan.remedy(part), "part.json")}
                          for name, part in parts])
    keys = list(plan.origin)
    return [Origin.model_validate({key: None if pd.isna(value) else value for key, value in zip(keys, origin)} | {
        "methods": sorted(set(part["method"])), "parts": len(part),  # above: without a commit it is nan
        "minutes": round(float(part["seconds"].sum()) / 60, 2)})
            for origin, part in frame.groupby(keys, dropna=False)]


def _manifest(plan: Plan, config: dict[str, Any], minutes: float, jobs: int, computed: int) -> Manifest:
    return Manifest(
        **plan.about, **provenance.git(), config=config, config_digest=settings.digest(plan.experiment),
        methods={name: MethodInfo(title=method.title, group=method.group, kind=method.kind)
                 for name, method in plan.experiment.methods.items()},
        numerics_version=NUMERICS_VERSION, data_digest=plan.fingerprint, clips=len(plan.data.clips),
        ratings=len(plan.data.clip), listeners=len(plan.data.listeners), listener_groups=len(plan.groups),
        dev_listeners="held-out" if plan.dev_held_out else "training", notes=plan.notes,
        support=plan.experiment.support, noise_ceiling=plan.ceiling,
        shots={name: list(numbers) for name, numbers in plan.shots.items()},
        units=len(plan.units), units_computed=computed, minutes=minutes, jobs=jobs, origins=_origins(plan),
        machine=provenance.machine())
