"""Run models on tasks with inspect, and turn its logs into records: one row per model, sample and scorer."""

import contextlib
import gc
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

import pandas as pd
import soundfile as sf
from inspect_ai import Task, eval_set, score, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log
from inspect_ai.model import ChatMessageUser, ContentAudio, ContentText, GenerateConfig, Model, get_model
from inspect_ai.scorer import Scorer

from perser import provenance, records
from perser.errors import UserError
from perser.phase2 import aggregate, models
from perser.phase2.answers import parse_options
from perser.phase2.metrics import METRICS
from perser.phase2.scorers import graded, read_prompt, strict
from perser.phase2.tasks import Phase2Task, load, prediction_keys
from perser.phase2.watch import AT_ONCE, RETRIES, TIMEOUT, Watch, asked, duration, reason

CONTROLS, LARGE = {"majority", "random", "oracle"}, {"cascade", "zero-shot", "asr", "hf-audio"}
AUDIO_TOKENS = 25  # of a second of audio, as many models count
QUIET: dict[str, Any] = {"display": "log", "log_images": False, "ctl_server": False, "score_display": False,
                         "log_level": "warning", "log_model_api": False, "log_realtime": False}
FACTS = ("task", "group", "domain", "kind", "commit", "synthetic")
COLUMNS = {
    "model": "name of the model", "task": "upstream task", "group": "data set without its fold",
    "instance": "data set", "domain": "speech, music or audio (inferred unless the data set states it)",
    "kind": "classification, regression or sequence_generation", "metrics": "metrics, joined by |",
    "commit": "commit of the data on the hub, or local", "sample": "upstream's file id",
    "cluster": "the audio of the question: rows that share it are not independent",
    "scorer": "strict, or the name of the grader", "labels": "JSON list",
    "answer_read": "JSON: the answer as read by the scorer, null for none",
    "outcome": "answered, none (no answer), unparseable or failed (no verdict)",
    "correct": "verdict of the grader; empty for the strict scorer", "synthetic": "what of the data is synthetic",
    "truncated": "the limit of tokens ended the answer", "cut": "the model heard only the beginning of the audio"}


def samples(task: Phase2Task) -> list[Sample]:
    """Rows as inspect samples: audios, instruction, texts. Options are the instruction's, else the task's labels."""
    mode, rows = METRICS[task.metrics[0]].mode, []
    vocabulary = sorted({label for row in task.rows for label in row.labels})
    for row in task.rows:
        options = (parse_options(row.instruction, row.labels) or vocabulary) if mode == "choice" else []
        text = ContentText(text="\n".join([row.instruction, *row.texts]))
        message = ChatMessageUser(content=[*(ContentAudio(audio=path, format="wav") for path in row.audios), text],
                                  metadata={"instance": task.instance, "file": row.id,
                                                                  "metrics": list(task.metrics)})
        rows.append(Sample(id=f"{task.instance}/{row.id}", input=[message], target=list(row.labels), metadata={
            "instance": task.instance, "mode": mode, "metrics": list(task.metrics), "options": list(options),
            "labels": list(row.labels), "instruction": row.instruction, "sample": row.id,
            "cluster": hashlib.blake2b(Path(row.audios[-1]).read_bytes(), digest_size=6).hexdigest()
            if row.audios else row.id}))
    return rows


def as_task(tasks: Sequence[Phase2Task], name: str, scorers: Sequence[Scorer],
            settings: dict[str, Any] | None = None) -> Task:
    """An inspect task over the rows of one or more data sets; greedy, at most 256 new tokens, unless `settings` say so.

    settings: of inspect's GenerateConfig.
    """
    # in the task's metadata rather than the samples', which inspect copies many times
    facts = {t.instance: {name: getattr(t, name) for name in FACTS} for t in tasks}
    return Task(name=name, dataset=MemoryDataset([s for t in tasks for s in samples(t)], name=name),
                solver=asked(), scorer=list(scorers), metadata={"data sets": facts},
                config=GenerateConfig(**{"temperature": 0.0, "max_tokens": models.NEW_TOKENS} | (settings or {})))


@task
def phase2(tasks: str, instance: str | None = None, data: str | None = None, grader: str | None = None,
           limit: int | None = None) -> Task:
    """For plain inspect: `inspect eval perser/phase2 -T tasks=DIR [-T instance=NAME] [-T grader=MODEL]`."""
    loaded, problems = load(tasks, data, only=instance, limit=limit)
    if not loaded:
        raise UserError(f"{tasks}: no task can be run: {'; '.join(problems)[:300]}")
    return as_task(loaded, instance or "phase2", [strict(), graded(grader)] if grader else [strict()])


@contextlib.contextmanager
def _process_settings(out: Path) -> Iterator[None]:
    """Keep inspect's other files under `out`, where resume reads its sample buffer; collect garbage rarely.

    A collection of cycles walks all of inspect's events, which takes a tenth of its time.
    """
    names = ("XDG_DATA_HOME", "XDG_CACHE_HOME", "INSPECT_CACHE_DIR")
    before, threshold = {name: os.environ[name] for name in names if name in os.environ}, gc.get_threshold()
    os.environ.update(dict.fromkeys(names, str(out / ".inspect")))
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def slug(name: str) -> str:
    """A model's name as a folder name. Names that had to be changed end in their digest, so no two names share one."""
    text = re.sub(r"[^\w.+-]+", "_", name).strip("_.")[-100:]
    return text if text == name else f"{text}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def run(tasks: Sequence[Phase2Task], model: str, out: str | Path, *, source: dict[str, Any],
        grader: str | Sequence[str] | None = None, judge_prompt: str | None = None, resume: bool = False,
        batch_size: int | None = None, args: dict[str, Any] | None = None, generate: dict[str, Any] | None = None,
        timeout: float = TIMEOUT, progress: TextIO | None = None) -> pd.DataFrame:
    """Evaluate one model on the tasks; returns the records and writes them to `out/<model>/`, with their manifest.

    Answers are also written to `predictions/<data set>.json` there, the organisers' format, which `replay` reads.
    source: how `tasks` were loaded (tasks, data, cache_dir, limit), from which the controls load the labels.
    args: the provider's; generate: settings of inspect's GenerateConfig; timeout: a server's, see `Watch`.
    With `resume`, samples in the logs of an earlier run are not asked again.
    Raises UserError when `out` already holds a run and `resume` is not set, or when the model does not exist.
    """
    folder, start = Path(out).absolute() / slug(model), monotonic()
    logs = folder / "logs"
    if logs.exists() and any(logs.glob("*.eval")) and not resume:
        raise UserError(f"{folder}: already holds a run; continue it with --resume or give another --out")
    _check_settings(model, generate)
    graders = [grader] if isinstance(grader, str) else list(grader or ())
    for name in graders:
        _model(name, {})  # fail on a missing grader before the run rather than after it
    before = _spent(out, model) if resume else 0
    prompt, verdicts = read_prompt(judge_prompt) if judge_prompt else "", str(folder.parent / "verdicts")
    folder.mkdir(parents=True, exist_ok=True)
    own = (dict(source) if model in CONTROLS else {}) | ({"batch_size": batch_size} if batch_size else {})
    with _process_settings(folder):
        served = _model(f"{model}/labels" if model in CONTROLS else model, own | (args or {}), timeout)
        limit = None if isinstance(served.api, models.Provider) else timeout
        with Watch(model, sum(len(t.rows) for t in tasks), limit, progress).watching():
            done = _ask(tasks, served, logs, [graded(name, verdicts, prompt=prompt) for name in graders], generate)
    frame = pd.DataFrame([row for log in done for row in rows(log, model)], columns=list(COLUMNS))
    records.write(frame, folder / "records.parquet")
    records.seal(_facts(tasks, frame, done) | {
        "model": model, "grader": ", ".join(graders) or None, "judge_prompt": prompt or None,
        "limit": source["limit"], "seconds": round(before + monotonic() - start, 1), "generate": generate or {},
        "args": {name: value for name, value in (args or {}).items() if not re.search("key|token|secret", name, re.I)}
    }, folder / "manifest.json", folder / "records.parquet")
    (folder / "predictions").mkdir(exist_ok=True)
    for instance, entries in predictions(done, getattr(served.api, "entries", {})).items():
        (folder / "predictions" / f"{instance}.json").write_text(json.dumps(entries, indent=1) + "\n")
    return frame


def _asked_now(tasks: Sequence[Phase2Task], logs: list[EvalLog]) -> list[EvalLog]:
    """The logs without answers to questions that the tasks leave out: an earlier run may have asked more."""
    questions = {(task.instance, row.id) for task in tasks for row in task.rows}
    for log in logs:
        log.samples = [sample for sample in log.samples or []
                       if (sample.metadata["instance"], sample.metadata["sample"]) in questions]
    return logs


def _spent(out: str | Path, model: str) -> float:
    """Seconds that earlier calls of a run took; a manifest that is damaged is written anew."""
    try:
        return float(manifest(out, model)["seconds"])
    except (UserError, KeyError, TypeError, ValueError):
        return 0


def _check_settings(model: str, generate: dict[str, Any] | None) -> None:
    if unknown := set(generate or {}) - set(GenerateConfig.model_fields):
        raise UserError(f"model {model}: no generation setting {', '.join(sorted(unknown))}; those of "
                        "inspect's GenerateConfig are known")


def estimate(tasks: Sequence[Phase2Task], model: str, out: str | Path, generate: dict[str, Any] | None = None,
             price: Sequence[float] | None = None) -> str:
    """One line before a run: questions, audio, tokens, and, where they can be known, time and the most it can cost.

    price: dollars for a million tokens in and out. Time is known from an earlier run of the model under `out`.
    """
    rows = [row for t in tasks for row in t.rows]
    seconds = sum(sf.info(path).duration for row in rows for path in row.audios)
    read = sum(len(row.instruction) + sum(map(len, row.texts)) for row in rows) / 4 + AUDIO_TOKENS * seconds
    written = len(rows) * int((generate or {}).get("max_tokens") or models.NEW_TOKENS)
    line = (f"{model}: {len(rows)} questions, {duration(seconds)} of audio, about {read:,.0f} tokens in "
            f"({AUDIO_TOKENS} a second of audio), at most {written:,} out")
    if price:
        line += f", at most ${(read * price[0] + written * price[1]) / 1e6:.2f}"
    try:
        before = manifest(out, model)
        answered = sum(before["rows"].values()) - before["missing"]
        return f"{line}; at the speed of the last run {duration(before['seconds'] / answered * len(rows))}"
    except (UserError, KeyError, ZeroDivisionError):
        return f"{line}; how long is not known yet: --limit 2 would show"


def _facts(tasks: Sequence[Phase2Task], frame: pd.DataFrame, logs: Sequence[EvalLog]) -> dict[str, Any]:
    """What a manifest says of the tasks: rows, those left out, those without an answer and why, and provenance."""
    counts = frame[frame["scorer"] == "strict"].groupby("instance").size()
    errors = Counter(reason(sample.error) for log in logs for sample in log.samples or [] if sample.error)
    rows = {t.instance: len(t.rows) for t in tasks}
    return {"rows": rows, "missing": sum(rows.values()) - int(counts.sum()),
            "without_answer": {name: count - int(counts.get(name, 0)) for name, count in rows.items()},
            "skipped": {t.instance: t.skipped for t in tasks if t.skipped}, "errors": dict(errors.most_common(5)),
            "columns": COLUMNS, "commits": {t.instance: t.commit for t in tasks},
            "git": provenance.git(), "machine": provenance.machine()}


def _ask(tasks: Sequence[Phase2Task], model: Model, folder: Path, graders: Sequence[Scorer],
         settings: dict[str, Any] | None) -> list[EvalLog]:
    """One log per task, with what was missing asked and graded. Answers are logged one by one, our own by the batch."""
    batch = model.api.batch_size if isinstance(model.api, models.Provider) else None
    with contextlib.redirect_stdout(io.StringIO()):  # inspect announces completion there
        _, done = eval_set([as_task([t], t.instance, [strict()], settings) for t in tasks], log_dir=str(folder),
                           model=model, fail_on_error=True, continue_on_fail=True, retry_attempts=0,
                           retry_immediate=False, max_tasks=1, log_dir_allow_dirty=True,
                           max_samples=None if batch else AT_ONCE, log_buffer=batch or 1,
                           **QUIET)
    logs = []
    for log in done:
        path = log.location.removeprefix("file://")  # with which the logs of an earlier run begin
        with Path(path).open("rb") as file:  # inspect takes half as long again to read from a path
            logs.append(read_eval_log(file))
        if graders or not _current(logs[-1]):
            logs[-1] = score(logs[-1], [strict(), *graders], action="overwrite", display="none")
            write_eval_log(logs[-1], path)
    return _asked_now(tasks, logs)


def _current(log: EvalLog) -> bool:
    """Whether the scores of a log are of this version: those of earlier ones lack `answer_read`."""
    return all("answer_read" in (result.metadata or {}) for sample in log.samples or []
               for result in (sample.scores or {}).values() if "outcome" in (result.metadata or {}))


def check(names: Sequence[str], args: dict[str, dict[str, Any]] | None = None) -> None:
    """Raise UserError for an unavailable model. Controls, which need the labels, and large models are left to `run`."""
    for name in names:
        if name not in CONTROLS and name.split("/")[0] not in LARGE:
            _model(name, (args or {}).get(name, {}))


def _model(name: str, args: dict[str, Any], timeout: float = TIMEOUT) -> Model:
    """A model by name, asked with patience if it is a server; any failure becomes a one-line UserError."""
    try:
        model = get_model(name, memoize=False, **args)
    except UserError:
        raise
    except Exception as error:  # providers raise anything: unknown name, no key, no package, no file
        reason = re.sub(r"\[/?[a-z_ ]+\]", "", " ".join(str(getattr(error, "message", error)).split()))
        raise UserError(f"model {name}: {reason[:300] or type(error).__name__}") from error
    if isinstance(model.api, models.Provider):  # inspect's default queues twenty, all lost if the process is killed
        patience = GenerateConfig(max_connections=model.api.max_connections())
    else:
        seconds = max(1, round(timeout))
        patience = GenerateConfig(max_retries=RETRIES, timeout=seconds, attempt_timeout=seconds)
    model.config = model.config.merge(patience)
    return model


def rows(log: EvalLog, model: str) -> Iterator[dict[str, Any]]:
    """The records of one log; samples that ended in an error have none."""
    for sample in log.samples or []:
        for result in (sample.scores or {}).values():
            verdict, about = result.metadata or {}, sample.metadata
            if "outcome" not in verdict or sample.error:
                continue
            yield {"model": model, **(log.eval.metadata or {})["data sets"][about["instance"]],
                   **{name: about[name] for name in ("instance", "sample", "cluster")},
                   "metrics": "|".join(about["metrics"]), "scorer": verdict.get("scorer", "strict"),
                   "labels": json.dumps(about["labels"]), "answer_read": json.dumps(verdict["answer_read"]),
                   "outcome": verdict["outcome"],
                   "correct": float("nan") if verdict["correct"] is None else float(verdict["correct"]),
                   "truncated": sample.output.stop_reason == "max_tokens",
                   "cut": bool((sample.output.metadata or {}).get("cut"))}


def manifest(out: str | Path, model: str) -> dict[str, Any]:
    """How one model's records were produced. Raises UserError where the file is missing or damaged."""
    return records.sealed(Path(out) / slug(model) / "manifest.json", aggregate.AGAIN)


def predictions(logs: Sequence[EvalLog], original: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The answers as prediction files, {data set: {key: entry}}; `original` entries keep their order and keys.

    Other rows get the organisers' key, or their file where two of a data set would share one.
    """
    order, files = {name: number for number, name in enumerate(original)}, dict[str, list[Any]]()
    for log in logs:
        answered = [sample for sample in log.samples or [] if not sample.error]
        shared = Counter(prediction_keys(s.metadata["instance"], s.metadata["sample"])[-1] for s in answered)
        for sample in answered:
            file, instance = sample.metadata["sample"], sample.metadata["instance"]
            keys = prediction_keys(instance, file)
            name = next((key for key in keys if key in original), keys[-1] if shared[keys[-1]] == 1 else file)
            entry = original.get(name) or {
                "instruction": sample.metadata["instruction"], "label": ", ".join(sample.metadata["labels"])}
            entry = {**entry, "sllm_name": entry.get("sllm_name", log.eval.model),
                     "sllm_response": sample.output.completion}
            position, name = order.get(name, len(order)), name.removeprefix(f"{instance}/")
            files.setdefault(instance, []).append((position, name, entry))
    return {instance: {name: entry for _, name, entry in sorted(entries, key=itemgetter(0))}
            for instance, entries in files.items()}
