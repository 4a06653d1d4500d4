"""The on-disk store of pooled layers. Every clip is embedded once; a kill costs at most one batch.

A store is a folder with an LMDB. A clip's key combines the content of its audio, the identity of the upstream and the
settings, so a changed file is computed again and a moved file is not.
"""

import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from joblib import delayed
from lmdb import verify
from safetensors.numpy import load, save

from perser import audio, cluster, records
from perser.corpora.base import Corpus
from perser.errors import UserError
from perser.features import upstreams
from perser.features.upstreams import Upstream
from perser.terminal import progress as shown_progress

FORMAT = b"perser features 1"
BATCH = 32  # clips per transaction: at most 320 s of audio (20 MB), and the most that a kill can cost
LIMIT = 1 << 40  # size of the memory map in bytes: address space, not disk
CHECKSUM = 16  # bytes
FULL = "computed features are kept: free some space and run the same command again"

Wave = np.ndarray  # float32 (samples,) at 16 kHz
Clip = tuple[str, str]  # path, digest of the file's content
Compute = Callable[[list[Wave]], Iterable[np.ndarray]]

log = logging.getLogger(__name__)


class ClipsError(UserError):
    """Clips that have no features, all in one line. problems: the line of every clip, by path."""

    def __init__(self, problems: dict[str, str]):
        """One problem speaks for itself; of many, ten are named."""
        self.problems = problems
        named = [f"{path} ({text.removeprefix(f'{path}: ').partition('; ')[0]})" for path, text in problems.items()]
        more = [f"and {len(named) - 10} more"] if len(named) > 10 else []
        super().__init__(next(iter(problems.values())) if len(problems) == 1 else
                         f"{len(named)} clips cannot be used: {', '.join(named[:10] + more)}; replace them or remove "
                         "their rows")


def extract(corpus: Any, upstream: Upstream, store: str | os.PathLike[str],
            normalise: str | tuple[float, float] | None = None, progress: bool = False) -> torch.Tensor:
    """Features of the clips in a table, corpus.clips: float32 (clips, layers, width), in the order of its index.

    Computes what the folder `store` lacks, in batches of clips of similar length, and reads the rest. `normalise` is
    applied to waveforms before the upstream: "corpus" uses one mean and sd over all samples of all clips, "clip" the
    upstream's own recipe, "none" nothing, a pair (mean, sd) is used as given, e.g. that of the corpus a model was
    trained on, and None is what the upstream asks for. EMO-SUPERB uses the mean and sd of the training split; that of
    the corpus serves all folds. ClipsError: bad audio, features that are NaN or infinite; those of all other clips are
    kept, unless the mean of the corpus is unknown without the bad ones. UserError: a damaged or foreign store, another
    format, a full disk.
    """
    normalise = upstream.normalise if normalise is None else normalise
    clips, bad = _contents(corpus)
    with _opened(Path(store)) as environment:
        if normalise == "corpus":
            normalise = _moments(environment, clips, bad, progress)
        prepare, setting = _preparation(normalise, upstream)
        keys = [_key(digest, upstream.identity, setting) for _, digest in clips]
        _complete(environment, dict(zip(keys, clips)), partial(_embedded, upstream, prepare),
                  f"{upstream.name} features", bad, progress)
        features = torch.empty(len(keys), upstream.layers, upstream.width)
        for index, matrix in enumerate(_values(environment, keys)):
            features[index] = torch.from_numpy(matrix)
    return features


def moments(corpus: Any, store: str | os.PathLike[str], progress: bool = False) -> tuple[float, float]:
    """Mean and sd over all samples of all clips, computed once per clip. UserError: as for `extract`."""
    with _opened(Path(store)) as environment:
        return _moments(environment, *_contents(corpus), progress)


def of_corpus(corpus: Corpus, upstream: str | Upstream, store: str | os.PathLike[str], normalise: str | None = None,
              progress: bool = False) -> tuple[Upstream, torch.Tensor, tuple[float, float] | str]:
    """The upstream, by name or loaded, a corpus's features (N, L, D), and how its waveforms were normalised.

    Ready-made features are taken as they are. UserError: as for `extract` and `upstreams.load`.
    """
    if corpus.features is not None:
        model = upstreams.ready(*corpus.features.shape[1:])
        return model, torch.from_numpy(corpus.features), model.normalise
    model = upstreams.load(upstream) if isinstance(upstream, str) else upstream
    normalise = normalise or model.normalise
    normalised = moments(corpus, store, progress) if normalise == "corpus" else normalise
    return model, extract(corpus, model, store, normalised, progress=progress), normalised


def _contents(corpus: Any) -> tuple[list[Clip], dict[str, str]]:
    """The clips that are there, and the problems of the others by path."""
    clips, bad = [], {}
    for path in map(str, corpus.clips["path"]):
        try:
            clips.append((path, audio.digest(path)))
        except UserError as error:
            bad[path] = str(error)
    return clips, bad


def _moments(environment: lmdb.Environment, clips: list[Clip], bad: dict[str, str],
             progress: bool) -> tuple[float, float]:
    keys = [_key(digest, "moments") for _, digest in clips]
    _complete(environment, dict(zip(keys, clips)), _sums, "mean and sd of the corpus", bad, progress)
    samples, total, squares = np.sum(list(_values(environment, keys)), axis=0)
    mean = total / samples
    return float(mean), math.sqrt(max(squares / samples - mean**2, 0)) or 1.0


def _sums(waves: list[Wave]) -> list[np.ndarray]:
    return [np.array([len(wave), wave.sum(), wave @ wave]) for wave in (wave.astype(np.float64) for wave in waves)]


def _embedded(upstream: Upstream, prepare: Callable[[Wave], Wave], waves: list[Wave]) -> np.ndarray:
    return upstream(list(map(prepare, waves))).numpy()


def _preparation(normalise: str | tuple[float, float], upstream: Upstream) -> tuple[Callable[[Wave], Wave], str]:
    """The function to apply to a waveform, and its description for the key."""
    if normalise == "none" or (normalise == "clip" and not upstream.levels):
        return (lambda wave: wave), "none"
    if normalise == "clip":
        return (lambda wave: (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)), "clip"
    if isinstance(normalise, str):
        raise UserError(f"normalise={normalise!r}: give 'corpus', 'clip', 'none' or a pair (mean, sd)")
    mean, sd = normalise
    return (lambda wave: ((wave - mean) / sd).astype(np.float32)), f"{float(mean)!r} {float(sd)!r}"


def _key(digest: str, *settings: str) -> bytes:
    text = "\x1f".join([digest, repr(audio.SECONDS), *settings])
    # A constant prefix leaves the order of keys as it was, and with it the batches and the last bits of features.
    return f"{audio.VERSION} ".encode() + hashlib.blake2b(text.encode(), digest_size=32).digest()


def _complete(environment: lmdb.Environment, wanted: dict[bytes, Clip], compute: Compute, label: str,
              bad: dict[str, str], progress: bool) -> None:
    """Compute and write the entries of `wanted` that are not stored yet; ClipsError in the end if there are `bad` ones.

    Batches are cut from all wanted clips, not from the missing ones: after a kill, the same clips are computed
    together as without it, so that results agree to the last bit. On a cluster every batch is a shard: a file that a
    worker writes beside the store, and that is deleted when the store has it.
    """
    order = sorted(wanted, key=lambda key: (Path(wanted[key][0]).stat().st_size, key))
    batches = [order[start:start + BATCH] for start in range(0, len(order), BATCH)]
    folder = Path(f"{environment.path()}.shards").absolute()

    def lacking(batch: list[bytes]) -> dict[bytes, Clip]:
        with environment.begin() as reading:
            return {key: wanted[key] for key in batch if reading.get(key) is None}

    if cluster.active():
        _fill(folder, list(filter(None, map(lacking, batches))), compute, label, progress)
    with shown_progress(label, len(order), "clips", progress) as step:
        for batch in batches:
            if missing := lacking(batch):
                shard = _shard(folder, missing)
                values, problems = _taken(shard) or _computed(missing, compute, label)
                _write(environment, values.items())
                shard.unlink(missing_ok=True)
                bad |= problems
                log.debug("stored %d of %d clips", len(values), len(batch))
            step(len(batch))
    with suppress(OSError):  # it is not there, or another process uses it
        folder.rmdir()
    if bad:
        raise ClipsError(bad)


def _computed(batch: dict[bytes, Clip], compute: Compute, label: str) -> tuple[dict[bytes, np.ndarray], dict[str, str]]:
    """The values of a batch's clips, and the problems of the others by path."""
    bad: dict[str, str] = {}
    waves = {key: wave for key, clip in batch.items() if (wave := _read(*clip, bad)) is not None}
    values = dict(zip(waves, compute([*waves.values()]), strict=True)) if waves else {}
    infinite = {key: batch[key][0] for key, value in values.items() if not np.isfinite(value).all()}
    if len(infinite) == len(waves) > 1:
        raise UserError(f"{next(iter(infinite.values()))}: {label} are NaN or infinite, as for all {len(waves)} clips "
                        "of its batch; check the model's weights")
    bad |= {path: f"{path}: {label} are NaN or infinite; check the file and the model's weights"
            for path in infinite.values()}
    return {key: value for key, value in values.items() if key not in infinite}, bad


def _fill(folder: Path, batches: list[dict[bytes, Clip]], compute: Compute, label: str, progress: bool) -> None:
    """Let the cluster write the shards that are not there yet; as many threads as here, for the same last bits."""
    def todo() -> list[Any]:
        return [delayed(_write_shard)(_shard(folder, batch), batch, compute, label, torch.get_num_threads())
                for batch in batches if not _shard(folder, batch).exists()]

    def done() -> int:
        return sum(_shard(folder, batch).exists() for batch in batches)

    with shown_progress(label, len(batches), "shards", progress and bool(todo()), initial=done(), count=done):
        cluster.work(todo)


def _shard(folder: Path, batch: Iterable[bytes]) -> Path:
    """The file of a batch; its name changes with the clips' content, the upstream and the settings."""
    return folder / hashlib.blake2b(b"".join(batch), digest_size=16).hexdigest()


def _write_shard(shard: Path, batch: dict[bytes, Clip], compute: Compute, label: str, threads: int) -> None:
    """Compute a batch; write a checksum and, as safetensors, its values by key and the problems of its clips."""
    torch.set_num_threads(threads)
    values, problems = _computed(batch, compute, label)
    arrays = {key.hex(): np.ascontiguousarray(value) for key, value in values.items()}
    content = save(arrays | {"problems": np.frombuffer(json.dumps(problems).encode(), np.uint8)})
    with records.whole(shard) as half:
        half.write_bytes(_checksum(shard.name.encode(), memoryview(content)) + content)


def _taken(shard: Path) -> tuple[dict[bytes, np.ndarray], dict[str, str]] | None:
    """Values and problems of a shard; None where there is none, or a damaged one."""
    checksum, content = (data := shard.read_bytes() if shard.is_file() else b"")[:CHECKSUM], data[CHECKSUM:]
    if checksum != _checksum(shard.name.encode(), memoryview(content)):
        return None
    arrays = load(content)
    problems = json.loads(arrays.pop("problems").tobytes())
    return {bytes.fromhex(key): value for key, value in arrays.items()}, problems


def _read(path: str, digest: str, bad: dict[str, str]) -> Wave | None:
    """A clip's waveform; None with the problem in `bad` where it cannot be used."""
    try:
        wave = audio.read(path)
        if audio.digest(path) != digest:
            raise UserError(f"{path}: changed while it was read; run the same command again")
    except UserError as error:
        bad[path] = str(error)
        return None
    return wave


def _write(environment: lmdb.Environment, items: Iterable[tuple[bytes, np.ndarray]]) -> None:
    try:
        with environment.begin(write=True) as writing:
            for key, value in items:
                buffer = io.BytesIO()
                np.save(buffer, value, allow_pickle=False)
                writing.put(key, _checksum(key, buffer.getbuffer()) + buffer.getvalue())
    except lmdb.Error as error:
        raise UserError(f"{environment.path()}: cannot write to the disk, which may be full ({_reason(error)}); "
                        f"{FULL}") from None


def _values(environment: lmdb.Environment, keys: list[bytes]) -> Iterator[np.ndarray]:
    """The stored arrays in the order of `keys`, read through the memory map and checked."""
    with environment.begin(buffers=True) as reading:
        for key in keys:
            value = reading.get(key, b"")
            if value[:CHECKSUM] != _checksum(key, value[CHECKSUM:]):
                raise _damaged(environment.path(), "an entry does not match its checksum")
            yield np.load(io.BytesIO(value[CHECKSUM:]), allow_pickle=False)


def _checksum(key: bytes, value: memoryview | bytes) -> bytes:
    digest = hashlib.blake2b(key, digest_size=CHECKSUM)
    digest.update(value)
    return digest.digest()


@contextmanager
def _opened(folder: Path) -> Iterator[lmdb.Environment]:
    """The store's environment, created if there is none, and checked before it is read."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, not the folder of a feature store; give another folder")
    try:
        names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if names - {"lock.mdb"} and "data.mdb" not in names:
            raise UserError(f"{folder}: holds files that are no feature store; give an empty or a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        environment = lmdb.open(str(folder), map_size=LIMIT)
    except lmdb.InvalidError:
        raise _damaged(folder, "data.mdb is no LMDB file") from None
    except (lmdb.Error, OSError) as error:
        raise UserError(f"{folder}: the feature store cannot be opened ({_reason(error)}); {FULL}") from None
    try:
        _check(environment, folder)
        yield environment
    finally:
        environment.close()


def _check(environment: lmdb.Environment, folder: Path) -> None:
    """Verify the whole tree before LMDB follows its page numbers: a damaged one would crash the process."""
    try:
        with environment.begin(write=True) as writing:  # keeps other processes from writing meanwhile
            problems = verify.verify(str(folder))
            if problems:
                raise _damaged(folder, problems[0])
            stored = writing.get(b"format")
            if stored is None and environment.stat()["entries"]:
                raise UserError(f"{folder}: an LMDB of another program; give another folder")
            if stored is None:
                writing.put(b"format", FORMAT)
    except verify.VerifyError as error:
        raise _damaged(folder, _reason(error)) from None
    except lmdb.Error as error:
        raise UserError(f"{folder}: the feature store cannot be used ({_reason(error)}); {FULL}") from None
    if stored not in (None, FORMAT):
        raise UserError(f"{folder}: a store of format {stored.decode(errors='replace')!r}, not {FORMAT.decode()!r}; "
                        "delete the folder or give another one")


def _damaged(folder: str | Path, problem: str) -> UserError:
    return UserError(f"{folder}: the feature store is damaged ({problem}); delete the folder and run again")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().split("\n")[0]
