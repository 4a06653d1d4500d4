"""Run models over tasks with inspect, and turn its logs into records: one row per model, row and scorer."""

import contextlib
import gc
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Any

import pandas as pd
from inspect_ai import Task, eval_set, score, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log
from inspect_ai.model import ChatMessageUser, ContentAudio, ContentText, GenerateConfig, Model, get_model
from inspect_ai.solver import generate

from perser import provenance, records
from perser.errors import UserError
from perser.phase2 import models
from perser.phase2.metrics import METRICS, parse_options
from perser.phase2.scorers import graded, strict
from perser.phase2.tasks import Phase2Task, load

CONTROLS = {"majority", "random", "oracle"}
LARGE = {"cascade", "hf-audio"}
QUIET = {"display": "log", "log_images": False, "ctl_server": False, "score_display": False, "log_level": "warning",
         "log_model_api": False, "log_realtime": False}
FACTS = ("task", "group", "domain", "kind", "commit", "synthetic")
COLUMNS = {
    "model": "name of the model", "task": "upstream task", "group": "data set without its fold",
    "instance": "data set", "domain": "speech, music or audio (inferred unless the data set says)",
    "kind": "classification, regression or sequence_generation", "metrics": "metrics, joined by |",
    "commit": "commit of the data on the hub, or local", "sample": "upstream's file id",
    "cluster": "the audio asked about: rows that share it are not independent",
    "scorer": "strict, or the grader's name", "labels": "JSON list",
    "said": "JSON: what the answer says, null for none",
    "outcome": "answered, none (no answer), unparseable or failed (no verdict)",
    "correct": "a grader's verdict; empty for the strict scorer", "synthetic": "what of the data is made up"}


def samples(task: Phase2Task) -> list[Sample]:
    """Rows as inspect samples: audios first, then the instruction, then texts.

    Options come from the instruction; where it lists none, the labels that occur in the task are the options.
    """
    choice = METRICS[task.metrics[0]].mode == "choice"
    vocabulary = sorted({label for row in task.rows for label in row.labels}) if choice else []
    out = []
    for row in task.rows:
        options = (parse_options(row.instruction, row.labels) or vocabulary) if choice else []
        content = [ContentAudio(audio=path, format="wav") for path in row.audios]
        text = "\n".join([row.instruction, *row.texts])
        message = ChatMessageUser(content=[*content, ContentText(text=text)],
                                  metadata={"instance": task.instance, "file": row.id})
        out.append(Sample(id=f"{task.instance}/{row.id}", input=[message], target=list(row.labels), metadata={
            "instance": task.instance, "mode": METRICS[task.metrics[0]].mode, "metrics": list(task.metrics),
            "options": list(options), "labels": list(row.labels), "instruction": row.instruction, "sample": row.id,
            "cluster": _digest(row.audios[-1]) if row.audios else row.id}))
    return out


def _digest(path: str) -> str:
    """12 hex digits of an audio file, so that the same file is known wherever it lies."""
    with Path(path).open("rb", buffering=0) as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=6)).hexdigest()


def as_task(tasks: Sequence[Phase2Task], name: str, scorers: Sequence) -> Task:
    """An inspect task over the rows of one or more data sets; greedy, at most 256 new tokens.

    What holds for a whole data set stands once in the task's metadata: inspect copies a sample's many times.
    """
    facts = {t.instance: {name: getattr(t, name) for name in FACTS} for t in tasks}
    return Task(name=name, dataset=MemoryDataset([s for t in tasks for s in samples(t)], name=name),
                solver=generate(), scorer=list(scorers), metadata={"data sets": facts},
                config=GenerateConfig(temperature=0.0, max_tokens=models.NEW_TOKENS))


@task
def phase2(tasks: str, instance: str | None = None, data: str | None = None, grader: str | None = None,
           limit: int | None = None) -> Task:
    """For plain inspect: `inspect eval perser/phase2 -T tasks=DIR [-T instance=NAME] [-T grader=MODEL]`."""
    loaded, problems = load(tasks, data, only=instance, limit=limit)
    if not loaded:
        raise UserError(f"{tasks}: no task can be run: {'; '.join(problems)[:300]}")
    return as_task(loaded, instance or "phase2", [strict(), *([graded(grader)] if grader else [])])


@contextlib.contextmanager
def _own_folders(out: Path) -> Iterator[None]:
    """Keep what inspect writes besides its logs under `out`; its sample buffer there is what resume reads."""
    wanted = {"XDG_DATA_HOME": str(out / ".inspect"), "XDG_CACHE_HOME": str(out / ".inspect"),
              "INSPECT_CACHE_DIR": str(out / ".inspect")}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _rare_garbage() -> Iterator[None]:
    """Look for cycles less often: each look walks every event that inspect holds, a tenth of its time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def slug(name: str) -> str:
    """A model's name as a folder name."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_.")[-100:] or "model"


def run(tasks: Sequence[Phase2Task], model: str, out: str | Path, *, source: dict[str, Any], grader: str | None = None,
        resume: bool = False, batch_size: int | None = None) -> pd.DataFrame:
    """Evaluate one model on the tasks; gives and writes `out/<model>/records.parquet`, with its manifest beside it.

    The answers go into `predictions/<data set>.json` there, in the organisers' form, which `replay` takes.
    source: how `tasks` were loaded (tasks, data, cache_dir, limit), which the controls need to know the labels.
    With `resume`, samples that are in the logs of an earlier run are not asked for again.
    Raises UserError when `out` holds a run already and `resume` is not set, or when the model does not exist.
    """
    folder, start = Path(out).absolute() / slug(model), monotonic()
    logs = folder / "logs"
    if logs.exists() and any(logs.glob("*.eval")) and not resume:
        raise UserError(f"{folder}: holds a run already; continue it with --resume or give another --out")
    if grader:
        _model(grader, {})  # a grader that is not there must not be found out after the run
    folder.mkdir(parents=True, exist_ok=True)
    args = dict(source) if model in CONTROLS else {}
    if batch_size:
        args["batch_size"] = batch_size
    name = f"{model}/labels" if model in CONTROLS else model
    with _own_folders(folder), _rare_garbage():
        asked = _model(name, args)
        done = _ask(tasks, asked, logs, grader, Path(out).absolute() / "verdicts")
    frame = pd.DataFrame([row for log in done for row in rows(log, model, grader)], columns=list(COLUMNS))
    missing = sum(len(t.rows) for t in tasks) - frame["sample"][frame["scorer"] == "strict"].count()
    records.write(frame, folder / "records.parquet")
    records.write_json({
        "model": model, "grader": grader, "limit": source["limit"], "seconds": round(monotonic() - start, 1),
        "missing": int(missing), "columns": COLUMNS, "commits": {t.instance: t.commit for t in tasks},
        "git": provenance.git(), "machine": provenance.machine()}, folder / "manifest.json")
    (folder / "predictions").mkdir(exist_ok=True)
    for instance, entries in predictions(done, getattr(asked.api, "entries", {})).items():
        (folder / "predictions" / f"{instance}.json").write_text(json.dumps(entries, indent=1) + "\n")
    return frame


def _ask(tasks: Sequence[Phase2Task], model: Model, logs: Path, grader: str | None, verdicts: Path) -> list[EvalLog]:
    """The logs of all tasks, one each, after asking for what they lack.

    Answers reach the log on disk one by one, those of our own models a batch at a time.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # inspect says there that all is done
        _, done = eval_set([as_task([t], t.instance, [strict()]) for t in tasks], log_dir=str(logs), model=model,
                           fail_on_error=True, continue_on_fail=True, retry_attempts=0, retry_immediate=False,
                           max_tasks=1, log_dir_allow_dirty=True,
                           log_buffer=model.api.batch_size if isinstance(model.api, models.Provider) else 1, **QUIET)
    if grader:
        return [_grade(read_eval_log(log.location), grader, verdicts) for log in done]
    return [_read(log.location) for log in done]


def _read(path: str) -> EvalLog:
    """A finished log with its samples; from a stream, which inspect reads at two thirds of the cost of a path."""
    with Path(path).open("rb") as file:
        return read_eval_log(file)


def check(names: Sequence[str]) -> None:
    """Raise UserError for a model that cannot be had: no key, no package, no such provider, no such file.

    Left to `run`: the controls, which need the labels, and what is large to load.
    """
    for name in names:
        if name not in CONTROLS and name.split("/")[0] not in LARGE:
            _model(name, {})


def _model(name: str, args: dict[str, Any]) -> Model:
    """A model by name; whatever goes wrong is said in one line."""
    try:
        model = get_model(name, memoize=False, **args)
    except UserError:
        raise
    except Exception as error:  # a provider may raise anything: no such name, no key, no package, no file
        said = re.sub(r"\[/?[a-z_ ]+\]", "", " ".join(str(getattr(error, "message", error)).split()))
        raise UserError(f"model {name}: {said[:300] or type(error).__name__}") from error
    if isinstance(model.api, models.Provider):  # inspect would else let twenty wait, all of them lost by a kill
        model.config = model.config.merge(GenerateConfig(max_connections=model.api.max_connections()))
    return model


def _grade(log: EvalLog, grader: str, verdicts: Path) -> EvalLog:
    """Add the grader's scores to a log; verdicts that are in the cache are not asked for again."""
    log = score(log, [strict(), graded(grader, str(verdicts))], action="overwrite", display="none")
    write_eval_log(log)
    return log


def rows(log: EvalLog, model: str, grader: str | None = None) -> Iterator[dict[str, Any]]:
    """The records of one log; a sample that ended in an error has none."""
    for sample in log.samples or []:
        for scorer, found in (sample.scores or {}).items():
            value = found.metadata or {}
            if "outcome" not in value or sample.error:
                continue
            about, instance = sample.metadata, sample.metadata["instance"]
            yield {"model": model, **log.eval.metadata["data sets"][instance], "instance": instance,
                   "sample": about["sample"], "cluster": about["cluster"], "metrics": "|".join(about["metrics"]),
                   "scorer": "strict" if scorer == "strict" else str(grader),
                   "labels": json.dumps(about["labels"]), "said": json.dumps(value["said"]),
                   "outcome": value["outcome"],
                   "correct": float("nan") if value["correct"] is None else float(value["correct"])}


def manifest(out: str | Path, model: str) -> dict[str, Any]:
    """How one model's records came to be."""
    return records.manifest(Path(out) / slug(model))


def predictions(logs: Sequence[EvalLog], original: dict[str, dict]) -> dict[str, dict[str, dict]]:
    """The answers in logs as organisers' prediction files: {data set: {file: entry}}.

    `original` entries (of `replay`) keep their order, every key they had, and the order of those.
    """
    place, out = {name: number for number, name in enumerate(original)}, {}
    for log in logs:
        for sample in log.samples or []:
            if sample.error:
                continue
            file, instance = sample.metadata["sample"], sample.metadata["instance"]
            name = file if f"{instance}/{file}" not in original else f"{instance}/{file}"
            kept = original.get(name) or {
                "instruction": sample.metadata["instruction"], "label": ", ".join(sample.metadata["labels"])}
            entry = {**kept, "sllm_name": kept.get("sllm_name", log.eval.model),
                     "sllm_response": sample.output.completion}
            out.setdefault(instance, []).append((place.get(name, len(place)), file, entry))
    return {instance: {file: entry for _, file, entry in sorted(found, key=itemgetter(0))}
            for instance, found in out.items()}
