"""Read Dynamic-SUPERB Phase-2 tasks, as they are found in the wild, into plain rows.

One bad file never stops the rest: `load` gives the tasks that can be run and one line for each that cannot.
"""

import ast
import csv
import glob
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path

import json_repair
import pyarrow.parquet as pq
import soundfile as sf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from perser.errors import UserError
from perser.phase2.metrics import METRICS, canonical

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
COLUMN = re.compile(r"(audio|text|label|file|instruction)_?(\d*)")
FOLD = re.compile(r"-(?:Fold|Session)\d+$")


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
        """A comma-separated or empty string stands for a list in several upstream files."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("version", "description", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return "" if value is None else value


@dataclass(frozen=True)
class Row:
    """One question: `audios` are absolute paths in order, `labels` one entry or a set of them."""

    id: str
    instruction: str
    audios: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Phase2Task:
    """One data set of the benchmark: `kind` classification, regression or sequence_generation."""

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


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """The 282 known data sets by instance name; domain and subdomain are inferred, never official."""
    text = (resources.files("perser.phase2") / "catalogue.csv").read_text(encoding="utf-8")
    return {row["instance"]: row for row in csv.DictReader(io.StringIO(text))}


def read_instance(path: Path) -> tuple[Instance, list[str]]:
    """Parse one `instance.json`; the notes say what was repaired. Raises UserError if it cannot be understood."""
    notes = []
    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            data = json_repair.loads(text)
            notes.append(f"{path}: line {error.lineno}: not JSON ({error.msg}); read with the commas repaired")
        instance = Instance.model_validate(data)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: unreadable ({error}); fetch the file again") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise UserError(f"{path}: {where}: {first['msg']}; got {str(first['input'])[:80]!r}") from error
    return instance, notes


def load(root: str | Path, data: str | Path | None = None, cache_dir: str | Path | None = None,
         only: str | None = None, limit: int | None = None,
         fetch: bool = True) -> tuple[list[Phase2Task], list[str]]:
    """Every task under `root` (all `instance.json` files, or just the data set named `only`), and the problems.

    Data come from the instance's own folder, else `data/<name>`, else the hub's cache or, if `fetch`, the hub, at
    the pinned commit. Audio held inside parquet files is written once under `cache_dir`. Never raises for a bad task.
    """
    root = Path(root)
    files = sorted(root.rglob("instance.json"))
    if not files:
        raise UserError(f"{root}: no instance.json in it or below; give a folder of the upstream layout")
    tasks, problems, find = [], [], partial(find_data, data=data, fetch=fetch)
    for path in files:
        if only and only not in (path.parent.name, path.parent.parent.name):
            continue
        try:
            instance, notes = read_instance(path)
            problems += notes
            tasks.append(_task(path, instance, find, Path(cache_dir or root / ".audio"), limit, problems))
        except UserError as error:
            problems.append(str(error))
    if only and not tasks and not problems:
        raise UserError(f"{root}: no data set is called {only!r}; there are "
                        + ", ".join(sorted({p.parent.name for p in files})[:8]))
    return tasks, problems


def _task(file: Path, instance: Instance, find: Callable[[Path, Instance], tuple[Path, str]], cache_dir: Path,
          limit: int | None, problems: list[str]) -> Phase2Task:
    key = instance.path.split("/")[1]
    known = catalogue().get(key) or catalogue().get(file.parent.name) or {}
    extra = instance.model_extra or {}
    kind = str(extra.get("kind") or known.get("kind") or _kind(instance.metrics))
    if kind == "audio_generation":
        raise UserError(f"{file}: {key} asks for audio as the answer; such tasks are not supported")
    metrics = _metrics(file, instance.metrics, known, kind, problems)
    folder, commit = find(file.parent, instance)
    if commit not in ("local", instance.version):
        problems.append(f"{file}: version {instance.version!r} is not a full commit; {commit} was found and is "
                        "recorded")
    rows = tuple(read_rows(folder, cache_dir / key, limit, problems))
    if not rows:
        raise UserError(f"{folder}: no usable row; expected columns file, instruction, label")
    return Phase2Task(task=known.get("task") or file.parent.parent.name, instance=key, path=instance.path,
                      group=known.get("group") or FOLD.sub("", key), kind=kind,
                      domain=str(extra.get("domain") or known.get("domain_inferred") or "unknown"),
                      metrics=metrics, commit=commit, rows=rows, synthetic=str(extra.get("synthetic") or ""))


DEFAULT_METRIC = {"classification": "accuracy", "regression": "LCC", "sequence_generation": "WER"}


def _metrics(file: Path, named: list[str], known: dict[str, str], kind: str, problems: list[str]) -> tuple[str, ...]:
    """The metrics to score with, all of one way of reading: the file's, else the catalogue's, else the kind's."""
    ours = [name for name in map(canonical, named) if name]
    if "label-F1" in ours:
        ours = ["item-F1" if name == "F1" else name for name in ours]
    if ours and len(ours) < len(named):
        problems.append(f"{file}: of the metrics {', '.join(named)[:80]!r} only {', '.join(ours)} can be computed")
    listed = [name for name in known.get("metrics", "").split("|") if name]
    if ours and listed and set(ours) != set(listed):
        problems.append(f"{file}: {', '.join(ours)} here, {', '.join(listed)} in the catalogue: the file's are used")
    ours = ours or listed
    if not ours and (named or known):
        raise UserError(f"{file}: no metric here for {named or known['metrics_as_found']}; the task is left out")
    ours = ours or [DEFAULT_METRIC[kind]]
    return tuple(dict.fromkeys(name for name in ours if METRICS[name].mode == METRICS[ours[0]].mode))


def _kind(metrics: list[str]) -> str:
    """The kind for a data set outside the catalogue, from its first known metric."""
    known = [METRICS[name].kind for name in map(canonical, metrics) if name]
    return known[0] if known else "classification"


def find_data(folder: Path, instance: Instance, data: str | Path | None = None,
              fetch: bool = True) -> tuple[Path, str]:
    """The folder that holds the rows, and the commit ("local" for a local folder); `fetch`: may ask the hub.

    Raises UserError in one line that says what to download when it is nowhere.
    """
    name = instance.path.split("/")[1]
    local = [folder, folder / "data"]
    if data is not None:
        local += [Path(data) / name, Path(data) / instance.path, Path(data) / instance.name]
    for candidate in local:
        if candidate.is_dir() and _tables(candidate):
            return candidate, "local"
    return _hub(instance, folder, fetch)


def _hub(instance: Instance, folder: Path, fetch: bool) -> tuple[Path, str]:
    """The snapshot in the hub's cache, downloaded first if need be."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    fetch = fetch and not constants.HF_HUB_OFFLINE
    revision = instance.version if re.fullmatch(r"[0-9a-f]{7,40}", instance.version) else "main"
    snapshots = Path(constants.HF_HUB_CACHE) / f"datasets--{instance.path.replace('/', '--')}" / "snapshots"
    if 7 <= len(revision) < 40 and revision != "main":
        held = [path.name for path in snapshots.glob(f"{revision}*")]
        if held:
            revision = held[0]
    try:
        if 7 <= len(revision) < 40 and revision != "main" and fetch:
            commits = HfApi().list_repo_commits(instance.path, repo_type="dataset")
            revision = next((c.commit_id for c in commits if c.commit_id.startswith(revision)), revision)
        found = snapshot_download(instance.path, repo_type="dataset", revision=revision,
                                  local_files_only=not fetch)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{folder}: data not here and {'not to be had from the hub' if fetch else 'not in the cache of the hub'} "
            f"({type(error).__name__}); download it with "
            f"`hf download {instance.path} --repo-type dataset --revision {revision}` or put it in {folder / 'data'}"
        ) from error
    return Path(found), Path(found).name


def _tables(folder: Path) -> list[Path]:
    """The files that hold rows: parquet of the split `test` first, else metadata.jsonl, else metadata.json."""
    parquet = sorted(folder.rglob("*.parquet"))
    parquet = [p for p in parquet if p.name.startswith("test")] or parquet
    return parquet or [p for p in (folder / "metadata.jsonl", folder / "metadata.json") if p.is_file()][:1]


def read_rows(folder: Path, cache_dir: Path, limit: int | None, problems: list[str]) -> Iterator[Row]:
    """Yield the rows of a local folder; a bad row is reported and left out."""
    seen: set[str] = set()
    folder = folder.resolve()
    blobs = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else folder  # the hub's cache is of links
    for table in _tables(folder):
        for place, record in _records(table):
            if limit is not None and len(seen) >= limit:
                return
            try:
                row = _row(record, table.parent, blobs, cache_dir)
                if row.id in seen:
                    raise UserError(f"file {row.id!r} occurs twice; ids must be unique")
            except UserError as error:
                problems.append(f"{table}: {place}: {error}")
                continue
            seen.add(row.id)
            yield row


def _records(table: Path) -> Iterator[tuple[str, dict]]:
    try:
        if table.suffix == ".parquet":
            number = 0
            for batch in pq.ParquetFile(table).iter_batches(batch_size=16):
                for record in batch.to_pylist():
                    number += 1
                    yield f"row {number}", record
        elif table.suffix == ".jsonl":
            for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
                if line.strip():
                    yield f"line {number}", _loads(line)
        else:
            for name, record in json.loads(table.read_text(encoding="utf-8")).items():
                yield name, {"file": name, "audio": name, **_pairs(table.parent, name), **record}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{table}: unreadable ({error}); fetch the file again") from error


def _loads(line: str) -> object:
    """The record of a line, or the line itself, which is then reported as no record."""
    try:
        return json.loads(line)
    except ValueError:
        return line


def _pairs(folder: Path, name: str) -> dict[str, str]:
    """Further audios of the organisers' working layout: `<stem>_pairN.wav` beside `<stem>.wav`."""
    stem = Path(name).stem
    found = {}
    for path in folder.glob(f"{glob.escape(stem)}_pair*.wav"):
        number = path.stem.removeprefix(f"{stem}_pair")
        if number.isdigit():
            found[f"audio{int(number) + 1}"] = path.name
    return found


def _row(record: dict, folder: Path, blobs: Path, cache_dir: Path) -> Row:
    """Sort a record's columns by what they are: numbered names first, then any other column that holds audio."""
    if not isinstance(record, dict):
        raise UserError(f"not a record: {str(record)[:60]!r}")
    names = ("audio", "text", "label", "file", "instruction")
    parts: dict[str, list[tuple[int, object]]] = {name: [] for name in names}
    others = []
    for position, (column, value) in enumerate(record.items()):
        match = COLUMN.fullmatch(column)
        if value is None or value == "":
            continue
        if match:
            parts[match[1]].append((int(match[2] or 0), value))
        elif _holds_audio(value):
            others.append((1000 + position, value))
    if not parts["label"] and "label" in record:
        parts["label"].append((0, ""))
    for name in ("instruction", "label"):
        if not parts[name]:
            raise UserError(f"column {name!r} is missing; found {', '.join(map(str, record))[:120]}")
    ordered = {name: [v for _, v in sorted(values, key=lambda item: item[0])] for name, values in parts.items()}
    audios = ordered["audio"] + [value for _, value in others]
    if any(isinstance(value, dict) for value in ordered["label"]):
        raise UserError("the label is audio; such tasks are not supported")
    paths = tuple(_audio(value, folder, blobs, cache_dir) for value in audios)
    name = str(ordered["file"][0]) if ordered["file"] else (Path(paths[0]).name if paths else "")
    if not name:
        raise UserError("column 'file' is missing and there is no audio to name the row by")
    return Row(name, str(ordered["instruction"][0]), paths, tuple(map(str, ordered["text"])),
               _labels(ordered["label"]))


def _holds_audio(value: object) -> bool:
    return (isinstance(value, dict) and "bytes" in value) or (
        isinstance(value, str) and value.lower().endswith(AUDIO_SUFFIXES))


def _labels(values: list) -> tuple[str, ...]:
    """Several label columns, a list, or a list written as a string all give a set of labels."""
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
    """The absolute path of one audio; bytes are written to the cache, other formats than WAV converted there.

    Links may lead out of `folder` only into `blobs`.
    """
    if isinstance(value, dict) and value.get("bytes"):
        return _cached(value["bytes"], cache_dir)
    name = value.get("path") if isinstance(value, dict) else value
    path = folder / str(name)
    file = path.resolve()
    if not (file.is_relative_to(folder) or file.is_relative_to(blobs)):
        raise UserError(f"audio {str(name)!r} leaves the data folder; refused")
    if not file.is_file():
        raise UserError(f"audio {str(name)!r} is not in {folder}")
    return str(path) if path.suffix.lower() == ".wav" else _cached(path.read_bytes(), cache_dir)


def _cached(data: bytes, cache_dir: Path) -> str:
    target = cache_dir / f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.wav"
    if not target.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        try:
            if data[:4] == b"RIFF":
                partial.write_bytes(data)
            else:
                samples, rate = sf.read(io.BytesIO(data), dtype="int16")
                sf.write(partial, samples, rate, format="WAV")
        except sf.LibsndfileError as error:
            raise UserError(f"audio cannot be decoded ({error})") from error
        partial.replace(target)
    return str(target.resolve())


def coverage(tasks: list[Phase2Task]) -> list[dict[str, object]]:
    """What the catalogue knows against what was loaded: one row per group of folds, unsupported ones named."""
    loaded = {task.instance for task in tasks}
    groups: dict[str, list[dict[str, str]]] = {}
    for row in catalogue().values():
        groups.setdefault(row["group"], []).append(row)
    table = []
    for group, rows in groups.items():
        here = sum(row["instance"] in loaded for row in rows)
        state = "unsupported (generates audio)" if rows[0]["kind"] == "audio_generation" else (
            "loaded" if here == len(rows) else "partly" if here else "absent")
        table.append({"group": group, "sets": len(rows), "loaded": here, "kind": rows[0]["kind"],
                      "domain (inferred)": rows[0]["domain_inferred"], "metrics": rows[0]["metrics"],
                      "status": rows[0]["status"], "state": state})
    extra = [t for t in tasks if t.instance not in catalogue()]
    table += [{"group": t.group, "sets": 1, "loaded": 1, "kind": t.kind, "domain (inferred)": t.domain,
               "metrics": "|".join(t.metrics), "status": "outside the catalogue", "state": "loaded"} for t in extra]
    return table
