"""Read Dynamic-SUPERB Phase-2 tasks, including the malformed ones in circulation, into plain rows.

One bad file never stops the rest: `load` returns the tasks that can be run and one line for each that cannot.
"""

import ast
import csv
import glob
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import json_repair
import numpy as np
import pyarrow.parquet as pq
import soundfile as sf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from perser import audio
from perser.errors import UserError
from perser.phase2.metrics import KINDS, METRICS, canonical

AUDIO_SUFFIXES = tuple(audio.KINDS)
COLUMN = re.compile(r"(audio|text|label|file|instruction)_?(\d*)")
FOLD = re.compile(r"-(?:Fold|Session)\d+$")
DIMENSIONS = {task: dimension for dimension, names in {  # of the first phase, as the organisers' site lists them
    "content": "LanguageIdentification SpeechCommandRecognition SpeechDetection SpeechTextMatching SpokenTermDetection",
    "speaker": "MultiSpeakerDetection SpeakerCounting SpeakerVerification",
    "semantics": "DialogueActClassification DialogueActPairing IntentClassification SarcasmDetection",
    "degradation": "EnhancementDetection NoiseDetection NoiseSNRLevelPrediction ReverberationDetection",
    "paralinguistics": "AccentClassification DialogueEmotionClassification EmotionRecognition HowFarAreYou "
                       "SpoofDetection StressDetection",
    "audio": "BirdSoundDetection ChordClassification EnvironmentalSoundClassification"}.items()
    for task in names.split()}
FIRST_PHASE = "(Phase-1)"  # in the catalogue's column `source`
DEFAULT_METRIC = {"classification": "accuracy", "regression": "LCC", "sequence_generation": "WER"}


class Instance(BaseModel):
    """An `instance.json` of the upstream layout; extra keys (`author`, our `kind` and `domain`) are kept."""

    model_config = ConfigDict(extra="allow")
    name: str
    path: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="hub id; the reliable key")
    description: str = ""
    keywords: list[str] = []
    metrics: list[str] = []
    version: str = ""

    @field_validator("keywords", "metrics", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Several upstream files have a comma-separated or empty string, or null, in place of a list."""
        parts = (value or "").split(",") if isinstance(value, str | None) else value
        return [part.strip() if isinstance(part, str) else part for part in parts
                if part is not None and part != "" and not str(part).isspace()] if isinstance(parts, list) else value

    @field_validator("version", "description", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return "" if value is None else value


class Row(NamedTuple):
    """One question: `audios` are absolute paths in order, `labels` a single label or a set of them."""

    id: str
    instruction: str
    audios: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Phase2Task:
    """One data set of the benchmark; `kind` is classification, regression or sequence_generation."""

    task: str
    instance: str
    path: str
    group: str
    kind: str
    domain: str
    metrics: tuple[str, ...]
    commit: str
    rows: tuple[Row, ...]
    synthetic: str = ""
    skipped: int = 0  # rows that cannot be asked


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """The 282 known data sets by instance name; their domains and subdomains are inferred, not official."""
    with Path(__file__).with_name("catalogue.csv").open(encoding="utf-8", newline="") as file:
        return {row["instance"]: row for row in csv.DictReader(file)}


def dimension(instance: str) -> str:
    """The first phase's official dimension of a data set; empty if it was not part of that phase."""
    row = catalogue().get(instance, {})
    return DIMENSIONS.get(row.get("task", ""), "") if FIRST_PHASE in row.get("source", "") else ""


def prediction_keys(instance: str, file: str) -> tuple[str, ...]:
    """Under what keys a prediction file may hold a row's answer; the last one is the organisers'.

    >>> prediction_keys("SuperbER_X", "a/b.flac")[1:]
    ('SuperbER_X/SuperbER_X_b.wav', 'a/b.flac', 'SuperbER_X_b.wav')
    """
    key = f"{instance}_{Path(file).stem}.wav"
    return f"{instance}/{file}", f"{instance}/{key}", file, key


def read_instance(path: Path) -> tuple[Instance, list[str]]:
    """Parse one `instance.json`; the notes list what was repaired. Raises UserError if it is beyond repair."""
    notes = []
    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            data = json_repair.loads(text)
            notes.append(f"{path}: line {error.lineno}: invalid JSON ({error.msg}); read with the commas repaired")
        return Instance.model_validate(data), notes
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: unreadable ({error}); fetch the file again") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise UserError(f"{path}: {where}: {first['msg']}; got {str(first['input'])[:80]!r}") from error


def load(root: str | Path, data: str | Path | None = None, cache_dir: str | Path | None = None, only: str | None = None,
         limit: int | None = None, fetch: bool = True, texts: bool = True) -> tuple[list[Phase2Task], list[str]]:
    """All tasks under `root` (all `instance.json` files, or just the data set named `only`), and the problems.

    Data come from the instance's folder, else from `data/<name>`, else from the hub's cache or, if `fetch`, the hub,
    at the pinned commit. Audio inside parquet files is written once under `cache_dir`. A bad task never raises.
    texts: whether the column `text` is shown to models, as in the first phase; the second shows the instruction alone.
    """
    root, files = Path(root), sorted(Path(root).rglob("instance.json"))
    if not files:
        raise UserError(f"{root}: no instance.json in it or below; give a folder in the upstream layout")
    tasks, problems, find = list[Phase2Task](), list[str](), partial(find_data, data=data, fetch=fetch)
    for path in files:
        if only and only not in (path.parent.name, path.parent.parent.name):
            continue
        try:
            instance, notes = read_instance(path)
            problems += notes
            task = _task(path, instance, find, Path(cache_dir or root / ".audio"), limit, problems)
            if not texts:
                task = replace(task, rows=tuple(row._replace(texts=()) for row in task.rows))
            tasks += _distinct(task, path, tasks, problems)
        except UserError as error:
            problems.append(str(error))
    if only and not tasks and not problems:
        names = ", ".join(sorted({path.parent.name for path in files})[:8])
        raise UserError(f"{root}: no data set is called {only!r}; available: {names}")
    return tasks, problems


def _distinct(task: Phase2Task, file: Path, tasks: list[Phase2Task], problems: list[str]) -> list[Phase2Task]:
    """The task, under a name of its own if another data set has its name, or nothing if it has the same rows too."""
    same = [other for other in tasks if other.path == task.path or other.instance == task.instance]
    if not same:
        return [task]
    rows = [row._replace(audios=()) for row in task.rows]
    if any(other.metrics == task.metrics and [row._replace(audios=()) for row in other.rows] == rows for other in same):
        problems.append(f"{file}: {task.instance} is here twice with the same rows; this copy is left out")
        return []
    name = f"{task.instance}-{len(same) + 1}"
    problems.append(f"{file}: another data set is called {task.instance}; this one is evaluated as {name}")
    return [replace(task, instance=name)]


def described(root: str | Path) -> set[str]:
    """The names of the data sets that have a readable `instance.json` under `root`, with or without data."""
    names = set()
    for path in Path(root).rglob("instance.json"):
        with suppress(UserError):
            names.add(read_instance(path)[0].path.split("/")[1])
    return names


def _task(file: Path, instance: Instance, find: Callable[[Path, Instance], tuple[Path, str]], cache_dir: Path,
          limit: int | None, problems: list[str]) -> Phase2Task:
    name, extra = instance.path.split("/")[1], instance.model_extra or {}
    known = catalogue().get(name) or catalogue().get(file.parent.name) or {}
    kinds = [KINDS[METRICS[metric].mode] for metric in map(canonical, instance.metrics) if metric]
    kind = str(extra.get("kind") or known.get("kind") or (kinds or ["classification"])[0])
    if kind == "audio_generation":
        raise UserError(f"{file}: {name} asks for audio as the answer; such tasks are not supported")
    metrics = _metrics(file, instance.metrics, known, kind, problems)
    folder, commit = find(file.parent, instance)
    if commit not in ("local", instance.version):
        problems.append(f"{file}: version {instance.version!r} is not a full commit; using {commit}, which is recorded")
    known_problems = len(problems)
    rows = tuple(read_rows(folder, cache_dir / name, limit, problems))
    if not rows:
        raise UserError(f"{folder}: no usable row; expected columns file, instruction, label")
    return Phase2Task(task=known.get("task") or file.parent.parent.name, instance=name, path=instance.path,
                      group=known.get("group") or FOLD.sub("", name), kind=kind,
                      domain=str(extra.get("domain") or known.get("domain_inferred") or "unknown"),
                      metrics=metrics, commit=commit, rows=rows, synthetic=str(extra.get("synthetic") or ""),
                      skipped=len(problems) - known_problems)


def _metrics(file: Path, listed: list[str], known: dict[str, str], kind: str, problems: list[str]) -> tuple[str, ...]:
    """The metrics to compute, all of one reading mode: from the file, else the catalogue, else the kind's default."""
    ours = [name for name in map(canonical, listed) if name]
    if "label-F1" in ours:
        ours = ["item-F1" if name == "F1" else name for name in ours]
    if ours and len(ours) < len(listed):
        problems.append(f"{file}: of the metrics {', '.join(listed)[:80]!r} only {', '.join(ours)} can be computed")
    catalogued = [name for name in known.get("metrics", "").split("|") if name]
    if ours and catalogued and set(ours) != set(catalogued):
        problems.append(f"{file}: {', '.join(ours)} here, {', '.join(catalogued)} in the catalogue: using the file's")
    if not (ours or catalogued) and (listed or known):
        raise UserError(f"{file}: no supported metric in {listed or known['metrics_as_found']}; the task is left out")
    ours = ours or catalogued or [DEFAULT_METRIC[kind]]
    return tuple(dict.fromkeys(name for name in ours if METRICS[name].mode == METRICS[ours[0]].mode))


def find_data(folder: Path, instance: Instance, data: str | Path | None = None, fetch: bool = True) -> tuple[Path, str]:
    """The folder with the rows, and its commit or "local". Raises UserError, with what to download, if none exists."""
    names = (instance.path.split("/")[1], instance.path, instance.name) if data is not None else ()
    places = (folder, folder / "data", *(Path(data or "") / name for name in names))
    for candidate in (inner for place in places for inner in (place, place / "test", place / "data" / "test")):
        if candidate.is_dir() and _tables(candidate):
            return candidate, "local"
    snapshot = _snapshot(instance, folder, fetch)
    return snapshot, snapshot.name


def _snapshot(instance: Instance, folder: Path, fetch: bool) -> Path:
    """The data in the hub's cache, downloaded first if necessary."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, fetch = instance.path, fetch and not constants.HF_HUB_OFFLINE
    revision = instance.version if re.fullmatch(r"[0-9a-f]{7,40}", instance.version) else "main"
    snapshots = Path(constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}" / "snapshots"
    if 7 <= len(revision) < 40:  # abbreviated
        revision = next((path.name for path in snapshots.glob(f"{revision}*")), revision)
    try:
        if 7 <= len(revision) < 40 and fetch:
            commits = HfApi().list_repo_commits(repo, repo_type="dataset")
            revision = next((c.commit_id for c in commits if c.commit_id.startswith(revision)), revision)
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=not fetch))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        absent = "not available from" if fetch else "not in the cache of"
        raise UserError(f"{folder}: data not here and {absent} the hub ({type(error).__name__}); download it with "
                        f"`hf download {repo} --repo-type dataset --revision {revision}` or put it in {folder / 'data'}"
                        ) from error


def _tables(folder: Path) -> list[Path]:
    """The files that hold rows: parquet of the split `test` first, else metadata.jsonl, .json or .csv."""
    parquet = sorted(folder.rglob("*.parquet"))
    return [p for p in parquet if p.name.startswith("test")] or parquet or [
        p for p in (folder / f"metadata.{kind}" for kind in ("jsonl", "json", "csv")) if p.is_file()][:1]


def read_rows(folder: Path, cache_dir: Path, limit: int | None, problems: list[str]) -> Iterator[Row]:
    """Yield the rows of a local folder; a bad row is reported and left out."""
    ids, folder = set[str](), folder.resolve()
    blobs = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else folder  # the hub's cache uses links
    for table in _tables(folder):
        for position, record in _records(table):
            if limit is not None and len(ids) >= limit:
                return
            try:
                row = _row(record, table.parent, blobs, cache_dir)
                if row.id in ids:
                    raise UserError(f"file {row.id!r} occurs twice; ids must be unique")
            except UserError as error:
                problems.append(f"{table}: {position}: {error}")
                continue
            ids.add(row.id)
            yield row


def _records(table: Path) -> Iterator[tuple[str, object]]:
    """The records of a file, with their position; an invalid line is passed on as text, to be reported as a row."""
    try:
        if table.suffix == ".parquet":
            batches = pq.ParquetFile(table).iter_batches(batch_size=16)
            for number, record in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
                yield f"row {number}", record
        elif table.suffix == ".jsonl":
            for number, line in enumerate(table.read_text(encoding="utf-8-sig").split("\n"), 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError:
                    record = line
                yield f"line {number}", record
        elif table.suffix == ".csv":
            for number, record in enumerate(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig"))), 1):
                yield f"row {number}", {"audio" if name == "file_name" else name: value
                                        for name, value in record.items() if name is not None}
        else:
            yield from _working_records(table)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{table}: unreadable ({error}); fetch the file again") from error


def _working_records(table: Path) -> Iterator[tuple[str, object]]:
    """Records of the organisers' working layout, `{<data set>_<stem>.wav: columns}`: their key is the row's id.

    The first audio has the key's name. A data set of which no row has such a file asks without audio.
    """
    content = json.loads(table.read_text(encoding="utf-8-sig"))
    sounds = any((table.parent / name).is_file() for name in content)
    for name, record in content.items():
        if isinstance(record, dict):
            first = {"audio": name} if sounds else {}
            record = {**first, **_further_audios(table.parent, name), **record, "file": name}
        yield name, record


def _further_audios(folder: Path, name: str) -> dict[str, str]:
    """Further audios next to `<stem>.wav`: `<stem>_pair2.wav` and so on, in the first phase `<stem>_pair.wav`."""
    stem = Path(name).stem
    paths = {path.stem.removeprefix(f"{stem}_pair"): path for path in folder.glob(f"{glob.escape(stem)}_pair*.wav")}
    return {f"audio{int(number or 0) + 2}": path.name for number, path in paths.items()
            if not number or (number.isascii() and number.isdigit())}


def _row(record: object, folder: Path, blobs: Path, cache_dir: Path) -> Row:
    """Assign a record's columns by name, numbered ones in order, then any other columns that hold audio."""
    if not isinstance(record, dict):
        raise UserError(f"not a record: {str(record)[:60]!r}")
    parts: dict[str, list[tuple[int, object]]] = {
        name: [] for name in ("audio", "text", "label", "file", "instruction")}
    silent = []
    for position, (column, value) in enumerate(record.items()):
        if value is None or value == "":
            silent += [column] if column.startswith("audio") else []
            continue
        if match := COLUMN.fullmatch(column):
            parts[match[1]].append((int(match[2] or 0), value))
        elif (isinstance(value, dict) and "bytes" in value) or str(value).lower().endswith(AUDIO_SUFFIXES):
            parts["audio"].append((10**9 + position, value))
    if not parts["label"] and "label" in record:
        parts["label"].append((0, ""))
    for name in ("instruction", "label"):
        if not parts[name]:
            raise UserError(f"column {name!r} is missing; found {', '.join(map(str, record))[:120]}")
    if silent and not parts["audio"]:
        raise UserError(f"{silent[0]} is empty")
    columns = {name: [value for _, value in sorted(values, key=itemgetter(0))] for name, values in parts.items()}
    if any(isinstance(value, dict) for value in columns["label"]):
        raise UserError("the label is audio; such tasks are not supported")
    paths = tuple(_audio(value, folder, blobs, cache_dir) for value in columns["audio"])
    name = str(columns["file"][0]) if columns["file"] else (Path(paths[0]).name if paths else "")
    if not name:
        raise UserError("column 'file' is missing and there is no audio to name the row by")
    return Row(name, str(columns["instruction"][0]), paths, tuple(map(str, columns["text"])), _labels(columns["label"]))


def _labels(values: list[Any]) -> tuple[str, ...]:
    """A set of labels from several label columns, a list, or a list written as a string."""
    flat = []
    for value in values:
        if isinstance(value, str) and re.fullmatch(r"\s*\[.*\]\s*", value, re.S):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                value = [value]
        flat += value if isinstance(value, list) else [value]
    return tuple(v if isinstance(v, str) else json.dumps(v) for v in flat)


def _audio(value: object, folder: Path, blobs: Path, cache_dir: Path) -> str:
    """The absolute path of one audio; bytes are written to the cache, formats other than WAV are converted there.

    Links may lead out of `folder` only into `blobs`.
    """
    if isinstance(value, dict) and value.get("bytes"):
        return _cached(value["bytes"], cache_dir, str(value.get("path") or "in the table"))
    name = value.get("path") if isinstance(value, dict) else value
    path = folder / str(name)
    file = path.resolve()
    if not (file.is_relative_to(folder) or file.is_relative_to(blobs)):
        raise UserError(f"audio {str(name)!r} leaves the data folder; refused")
    if not file.is_file():
        raise UserError(f"audio {str(name)!r} is not in {folder}")
    with file.open("rb") as opened:
        wave = opened.read(4) == b"RIFF" and path.suffix.lower() == ".wav"
    if not wave:
        return _cached(path.read_bytes(), cache_dir, str(name))
    _sound(path, str(name))
    return str(path)


def _sound(path: Path, name: str) -> audio.Sound:
    """A whole file's samples: what cannot be decoded is found now, and by the row's name."""
    try:
        return audio.samples(path)
    except UserError as error:
        raise UserError(f"audio {name!r} cannot be decoded: {str(error).removeprefix(f'{path}: ')}") from error


def _cached(data: bytes, cache_dir: Path, name: str) -> str:
    target = cache_dir / f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.wav"
    if not target.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.write_bytes(data)
            sound = _sound(partial, name)
            if data[:4] != b"RIFF":  # floats of loud lossy files are clipped; integers would wrap around
                whole = np.round(sound.samples * 32768).clip(-32768, 32767).astype(np.int16)
                sf.write(partial, whole, sound.rate, format="WAV")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return str(target.resolve())


def coverage(tasks: list[Phase2Task], described: Collection[str] = ()) -> list[dict[str, Any]]:
    """The catalogue compared with what was loaded: one row per group of folds, with unsupported groups marked.

    described: the data sets whose `instance.json` is here; without data they are marked as such.
    """
    loaded = {task.instance for task in tasks}
    groups: dict[str, list[dict[str, str]]] = {}
    for row in catalogue().values():
        groups.setdefault(row["group"], []).append(row)
    table = []
    for group, rows in groups.items():
        count = sum(row["instance"] in loaded for row in rows)
        state = "unsupported (generates audio)" if rows[0]["kind"] == "audio_generation" else (
            "loaded" if count == len(rows) else "partly" if count else
            "data missing" if any(row["instance"] in described for row in rows) else "absent")
        table.append({"group": group, "sets": len(rows), "loaded": count, "kind": rows[0]["kind"],
                      "domain (inferred)": rows[0]["domain_inferred"],
                      "dimension": dimension(rows[0]["instance"]),
                      "metrics": rows[0]["metrics"],
                      "status": rows[0]["status"], "state": state})
    return table + [{"group": t.group, "sets": 1, "loaded": 1, "kind": t.kind, "domain (inferred)": t.domain,
                     "dimension": "",
                     "metrics": "|".join(t.metrics), "status": "outside the catalogue", "state": "loaded"}
                    for t in tasks if t.instance not in catalogue()]
