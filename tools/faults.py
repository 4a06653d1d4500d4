"""Inject faults, by the kind, and say what became of each; exit 1 where one was used, ended in a traceback or hung.

same: the result is the reference, or what a plain reader makes of the damaged text. refused: one line that names the
file or key. silent: another result. traceback: any other end, such as an error that names nothing. hang: no end.
Every injection runs in a process of its own, so that a crash or an endless loop costs itself alone.
"""

import csv
import io
import json
import logging
import math
import os
import random
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pandas as pd
import soundfile
import torch
from safetensors.torch import load_file, save_file

from perser import audio, checkpoints, experiment, features, personal, records, team, workers
from perser.analysis import expected, report, tables
from perser.corpora import schema
from perser.errors import UserError
from perser.personal import Clips
from perser.phase2 import aggregate

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from made import SMALL, UPSTREAM, plan  # noqa: E402
from made import corpus as corpus_of_listeners  # noqa: E402
from made_audio import sine  # noqa: E402

OUTCOMES = ("same", "refused", "silent", "traceback", "hang")
LIMIT = 30  # seconds of computing until an injection hangs
TINY = SMALL.model_copy(update={"folds": (1,), "shots": (3,), "groups": 3, "methods": {
    name: SMALL.methods[name] for name in ("ssl-e", "fine-tuning")}})
TABLE = "clip,listener,label,session\n" + "".join(
    f"c{clip:02d}.wav,{who},{('happy', 'sad', 'happy;calm', 'Other')[(clip + place) % 4]},{clip % 3 + 1}\n"
    for clip in range(12) for place, who in enumerate(("Ann", "Bo", "Cy")))


class Kind(NamedTuple):
    """Faults of one kind: how many there are, and the outcome of one in an empty folder."""

    number: int
    outcome: Callable[[random.Random, Path], tuple[str, str]]


def judged(call: Callable[[], object], right: Callable[[], object], name: str) -> tuple[str, str]:
    """The outcome of a call that may refuse in a line with `name`, against the right result, and details."""
    try:
        result = call()
    except UserError as error:
        text = str(error)
        return ("refused" if name in text and "\n" not in text else "traceback"), text
    except Exception:
        return "traceback", traceback.format_exc()
    return ("same", "") if plain(result) == plain(right()) else ("silent", plain(result)[:300])


def plain(value: object) -> str:
    """A result as text; equal texts are equal to the last digit."""
    if isinstance(value, pd.DataFrame):
        return repr([(name, plain(column.tolist())) for name, column in value.items()])
    if isinstance(value, torch.Tensor | np.ndarray):
        return repr((tuple(value.shape), value.tolist()))
    if isinstance(value, dict):
        return repr([(key, plain(entry)) for key, entry in value.items()])
    return repr([*map(plain, value)] if isinstance(value, list | tuple) else value)


def isolated(call: Callable[[], tuple[str, str]], limit: float = LIMIT) -> tuple[str, str]:
    """What a call gives in a process of its own: `hang` after `limit` seconds of computing, or ten times as many of
    waiting; `traceback` where the process dies.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit),) * 2)
            os.write(writer, json.dumps(call()).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as results:
        if not select.select([results], [], [], 10 * limit)[0]:
            os.kill(child, signal.SIGKILL)
        text, status = results.read(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended = "hang" if status == -signal.SIGKILL else "traceback"
    return tuple(json.loads(text)) if text else (ended, f"exit status {status}")


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes after one fault of a disk or a copy: a flipped bit, other bytes, an end too early or too late, zeros."""
    place, changed = draw.randrange(len(data)), bytearray(data)
    how = draw.choice(("bit", "bit", "bytes", "cut", "cut", "empty", "zeros", "more", "moved"))
    if how == "bit":
        changed[place] ^= 1 << draw.randrange(8)
    elif how == "bytes":
        for _ in range(draw.randint(1, 8)):
            changed[draw.randrange(len(data))] = draw.randrange(256)
    elif how == "zeros":
        end = min(len(data), place + 512)
        changed[place:end] = bytes(end - place)
    elif how == "moved":
        changed = changed[place:] + changed[:place]
    return {"cut": data[:place], "empty": b"", "more": data + draw.randbytes(64)}.get(how, bytes(changed))


def file_kind(source: Path, name: str, read: Callable[[Path], object], number: int, blame: str = "",
              right: Callable[[Path], object] | None = None) -> Kind:
    """Damage to one file of a folder that `read` reads. right: what it should give of the damaged folder."""
    reference = None if right else plain(read(source))

    def outcome(draw: random.Random, place: Path) -> tuple[str, str]:
        shutil.copytree(source, place / "copy", symlinks=True)
        file = place / "copy" / name
        file.write_bytes(damaged(file.read_bytes(), draw))
        result = judged(lambda: read(place / "copy"), lambda: right(place / "copy") if right else None,
                        blame or Path(name).name)
        if right is None and result[0] in ("same", "silent"):
            return ("same", "") if plain(read(place / "copy")) == reference else ("silent", "other than the reference")
        return result

    return Kind(number, outcome)


def files(place: Path) -> Iterator[tuple[str, Kind]]:
    """Files of a run, models, the feature store, claims and rating tables."""
    here = plan(place / "made" / "run", TINY)
    workers.run(here)
    run, part = here.out, here.part(here.units[0], "fine-tuning")
    for name in ("records.parquet", "learnt.parquet", "listeners.parquet", "manifest.json", "config.json"):
        yield name, file_kind(run, name, lambda at: [*records.load(at)], 100)
    for name in ("part.json", "records.parquet", "learnt.parquet"):
        yield f"part: {name}", file_kind(run.parent, f"parts/{part.name}/{name}", _resumed, 30)
    for name in ("model.safetensors", "model.json"):
        yield name, file_kind(part, name, lambda at: [*checkpoints.load(at)], 100, blame="copy")
    trained = checkpoints.load(part)
    (place / "personal").mkdir()
    personal.save(personal.general(trained), place / "personal" / "me.safetensors")
    yield "personal model", file_kind(place / "personal", "me.safetensors",
                                      lambda at: [*personal.load(at / "me.safetensors")], 100)
    shutil.copytree(ROOT / "results" / "phase2" / "emodb", place / "phase2")
    for name in ("records.parquet", "manifest.json"):
        yield f"phase2: {name}", file_kind(place / "phase2", name, lambda at: [
            aggregate.read(at), aggregate.manifests(at)], 100)
    yield "feature store", _store(place / "sounds")
    claims = place / "claims"
    claims.mkdir()
    shutil.copy(ROOT / "results" / "expected.toml", claims)
    yield "expected.toml", file_kind(claims, "expected.toml", lambda at: [
        claim.model_dump(exclude_unset=True) for claim in expected.read(at / "expected.toml")], 50, right=lambda at: (
            tomllib.loads((at / "expected.toml").read_text())["claim"]))
    tables = place / "tables"
    tables.mkdir()
    (tables / "ratings.csv").write_text(TABLE)
    yield "ratings.csv", file_kind(tables, "ratings.csv", _rated, 100, right=_rated_plainly)


def _resumed(at: Path) -> list:
    """What the same command gives for a run that was not finished."""
    (at / "run" / "DONE").unlink()
    here = plan(at / "run", TINY)
    return [workers.run(here), records.load(here.out).learnt]


def _store(sounds: Path) -> Kind:
    sounds.mkdir()
    paths = [sounds / f"{number}.wav" for number in range(4)]
    for number, path in enumerate(paths):
        soundfile.write(path, sine(16_000, 0.2, 200 + 50 * number), 16_000)
    upstream = features.load_upstream("logmel")
    clips = Clips(pd.DataFrame({"path": [*map(str, paths)]}))
    features.extract(clips, upstream, sounds.parent / "stored" / "store")
    return file_kind(sounds.parent / "stored", "store/data.mdb",
                     lambda at: features.extract(clips, upstream, at / "store"), 100, blame="store")


def _rated(at: Path) -> list:
    table = schema.read(at / "ratings.csv")
    return [(one.clip, one.listener, one.session, sorted(on)) for one, on in zip(table.ratings, table.ticks)]


def _rated_plainly(at: Path) -> list:
    """The same by Python's own reader."""
    rows = csv.DictReader(io.StringIO((at / "ratings.csv").read_text(encoding="utf-8-sig"), newline=""))
    return [(schema.clip_name(row["clip"].strip()), row["listener"].strip(), row["session"].strip(),
             sorted({word for word in map(str.strip, row["label"].split(";")) if word and word.lower() != "other"}))
            for row in ({name.strip(): cell for name, cell in row.items() if name} for row in rows)]


WORSE = {
    "nan": lambda t: t * math.nan, "inf": lambda t: t + math.inf, "huge": lambda t: t * 0 + 1e30,
    "double": lambda t: t.double(), "int": lambda t: t.int(), "half": lambda t: t.half(),
    "more": lambda t: torch.cat([t, t]), "fewer": lambda t: t[:-1].clone(), "empty": lambda t: t[:0].clone(),
    "deep": lambda t: t[None].clone()}
ENTRIES = (None, True, [], {}, "\x1b[2J", -10**9, "x" * 5000, "\ud800", [[]], math.nan, math.inf)


def hostile(place: Path) -> Iterator[tuple[str, Kind]]:
    """Model files that somebody made: sealed and signed as real ones, with other contents."""
    folder = next((place / "made" / "run" / "checkpoints").glob("*/fine-tuning")).resolve()
    tensors, about = load_file(folder / "model.safetensors"), json.loads((folder / "model.json").read_text())
    mine = load_file(place / "personal" / "me.safetensors")
    described = personal.load(place / "personal" / "me.safetensors").about
    about = {name: value for name, value in about.items() if name not in ("seal", "files")}
    needed = ("kind", "method", "classes", "label_smoothing", "upstream", "upstream_identity", "waveform_moments",
              "synthetic")

    def of_run(draw: random.Random, at: Path) -> tuple[str, str]:
        made, described_as = _worse(tensors, about, needed, draw)
        save_file(made, at / "model.safetensors")
        records.seal(described_as, at / "model.json", at / "model.safetensors")
        return judged(lambda: [*checkpoints.load(at)], lambda: None, str(at))

    def of_listener(draw: random.Random, at: Path) -> tuple[str, str]:
        made, described_as = _worse(mine, described, (*needed, "shots"), draw)
        save_file(made, at / "me.safetensors", {"about": json.dumps(described_as)})
        return judged(lambda: [*personal.load(at / "me.safetensors")], lambda: None, "me.safetensors")

    yield "hostile model folder", Kind(100, of_run)
    yield "hostile personal model", Kind(100, of_listener)


def _worse(tensors: dict, about: dict, needed: tuple[str, ...], draw: random.Random) -> tuple[dict, dict]:
    """A model with one tensor, or one entry of its description, that no such model has."""
    if draw.random() < 0.5:
        name = draw.choice(sorted(name for name in tensors if tensors[name].ndim and "settings" not in name))
        how = draw.choice([*WORSE, "missing", "extra"])
        if how == "missing":
            return {key: tensor for key, tensor in tensors.items() if key != name}, about
        return tensors | ({"nope": torch.ones(2)} if how == "extra" else {name: WORSE[how](tensors[name])}), about
    name = draw.choice(needed)
    if draw.random() < 0.3:
        return tensors, {key: value for key, value in about.items() if key != name}
    return tensors, about | {name: draw.choice(ENTRIES)}


VALUES = ("nan", "inf", "-inf", "-1", "0", "1e9", "1e308", "-0.5", '"text"', "[]", "{}", "true", "[nan]", "[inf]",
          "[-1]", "[1e9]", "[[1]]", "1979-05-27", "0.5", "3", '""', "[1, 1]")


def settings() -> Kind:
    """Values that no setting should have: refused with the key, or taken as given and within bounds."""
    own = experiment.named("methods")
    loaded = experiment.load(own)
    keys = [name for name in experiment.Experiment.model_fields if name not in ("methods", "base", "name")]
    keys += [f"base.{name}" for name in type(loaded.base).model_fields]
    keys += [f"methods.{name}.{key}" for name, method in loaded.methods.items() for key in type(method).model_fields]

    def outcome(draw: random.Random, place: Path) -> tuple[str, str]:
        key, text = draw.choice(keys), draw.choice(VALUES)
        given = tomllib.loads(f"value = {text}")["value"]

        def taken() -> object:
            value = experiment.load(own, (f"{key}={text}",))
            for name in key.split("."):
                value = value[name] if isinstance(value, dict) else getattr(value, name)
            most = 2**32 if key == "seeds" else 1e6
            return (value, ) if all(0 <= number <= most for number in _numbers(value)) else "out of bounds"

        def right() -> object:
            """What was taken, where it equals what was given, as it is or as the only one of a list: 3 is 3.0."""
            values = [tuple(given) if isinstance(given, list) else given, (given,)]
            return taken() if taken() in [(value,) for value in values] else None

        # An error that several settings make together names their table and this key apart.
        result, words = judged(taken, right, key.removesuffix(".kind").rpartition(".")[2])
        return result, f"{key}={text}: {words}"

    return Kind(400, outcome)


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)


def sounds() -> Iterator[tuple[str, Kind]]:
    """Files of sound that were cut, or whose samples or sizes changed."""
    tone = (sine(16_000, 0.5) * 32767).round().astype("<i2")

    def sealed(form: str) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, tone, 16_000, format=form)
        return buffer.getvalue()

    def kind(content: bytes, change: Callable[[bytes, random.Random], bytes], suffix: str,
             right: Callable[[bytes], object]) -> Kind:
        def outcome(draw: random.Random, place: Path) -> tuple[str, str]:
            path, data = place / f"a{suffix}", change(content, draw)
            path.write_bytes(data)
            return judged(lambda: audio.read(path), lambda: right(data), path.name)
        return Kind(60, outcome)

    def heard(data: bytes) -> np.ndarray:
        return (np.frombuffer(data[44:44 + tone.nbytes], "<i2") / 32768).astype("float32")

    def flipped(data: bytes, draw: random.Random, first: int) -> bytes:
        place = draw.randrange(first, len(data))
        return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1:]

    def sized(data: bytes, draw: random.Random) -> bytes:
        place = draw.choice((4, 40))
        return data[:place] + struct.pack("<I", draw.choice((0, 36, 2**31 - 1, 2**32 - 1, draw.randrange(2**32),
                                                             draw.randrange(len(data))))) + data[place + 4:]

    whole, packed, ogg = sealed("WAV"), sealed("FLAC"), sealed("OGG")
    yield "wav: samples flipped", kind(whole, lambda data, draw: flipped(data, draw, 44), ".wav", heard)
    yield "wav: sizes", kind(whole, sized, ".wav", lambda _: heard(whole))
    for name, data, at in (("wav", whole, 44), ("flac", packed, 42), ("ogg", ogg, 58)):
        yield f"{name}: cut", kind(data, lambda data, draw: data[:draw.randrange(len(data))], f".{name}",
                                   lambda _: None)
        yield f"{name}: header only", kind(data, lambda data, draw, at=at: data[:at - draw.randrange(3)], f".{name}",
                                           lambda _: None)
    frames = packed.index(b"\xff\xf8")  # what stands before them has no checksum
    yield "flac: flipped", kind(packed, lambda data, draw: flipped(data, draw, frames), ".flac", lambda _: heard(whole))
    yield "ogg: flipped", kind(ogg, lambda data, draw: flipped(data, draw, 0), ".ogg", lambda _: None)


def ended(at: Path) -> list:
    """A run, by the command that starts or resumes it: what it gives and what it leaves."""
    frame = workers.run(plan(at / "run", TINY))
    return [frame, *records.load(at / "run")[::2]]


def personalised(at: Path) -> list:
    """A team of listeners: the verdicts, and the files but for the minutes of the manifest."""
    corpus, matrix = corpus_of_listeners(sessions=3, clips=15)
    prepared = team.prepare(corpus, ("shots=[5]", "draws=1", "dev_draws=1", "groups=3", "folds=[1]", "base.hidden=8",
                                     "base.epochs=2"))
    table = team.personalise(prepared, UPSTREAM, matrix, "none", at / "team")
    about = json.loads((at / "team" / "manifest.json").read_text())
    return [table, {key: value for key, value in about.items() if key not in ("minutes", "seal")},
            _contents(at / "team", "*.html", "*.csv", "model/*.safetensors"),
            [[*personal.load(path)] for path in sorted((at / "team" / "listeners").iterdir())]]


def tabled(run: Path, at: Path) -> dict[str, bytes]:
    """The files of a report's tables; figures, which take seconds, are written as tables are."""
    for name, captioned in report.tables_of(records.load(run)).items():
        tables.write(*captioned, at / name)
    return _contents(at, "*")


def _contents(folder: Path, *names: str) -> dict[str, bytes]:
    """Files by path, but for those that a killed command had not finished: they are hidden."""
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in sorted(folder.glob(name))
            if not path.name.startswith(".")}


def killed(command: Callable[[Path], object], place: Path) -> Kind:
    """A command killed at a random moment; the same command then gives the reference, made in an empty folder."""
    command(place / "first")  # loads what only it needs, so that the second is timed
    began = time.perf_counter()
    reference = plain(command(place / "timed"))
    took = time.perf_counter() - began

    def outcome(draw: random.Random, at: Path) -> tuple[str, str]:
        child = os.fork()
        if not child:
            command(at)
            os._exit(0)
        time.sleep(draw.uniform(0, took))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return ("same", "") if plain(command(at)) == reference else ("silent", "other than the reference")

    return Kind(30, outcome)


def ends(place: Path) -> Iterator[tuple[str, Kind]]:
    """Commands that are killed, or find no room on the disk; the same command then gives the reference."""
    run = place / "of a run" / "timed" / "run"
    yield "kill -9: run", killed(ended, place / "of a run")
    yield "kill -9: personalise", killed(personalised, place / "of a team")
    yield "kill -9: report", killed(lambda at: tabled(run, at), place / "of tables")
    reference = plain(ended(run.parent))

    def full(draw: random.Random, at: Path) -> tuple[str, str]:
        """Without a disk of its own: no file may grow over a limit, as `ulimit -f` has it."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        sys.dont_write_bytecode = True  # Python would leave cut .pyc files in the environment
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(10 ** draw.uniform(1, 5)), limits[1]))
        first = judged(lambda: workers.run(plan(at / "run", TINY)) is None, lambda: False, "cannot be written")
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if first[0] not in ("same", "refused"):
            return first
        return ("same", "") if plain(ended(at)) == reference else ("silent", "other than the reference")

    yield "full disk", Kind(30, full)


def kinds(place: Path) -> Iterator[tuple[str, Kind]]:
    """All kinds by name. place: an empty folder, in which their references are made."""
    yield from files(place)
    yield from hostile(place)
    yield "settings", settings()
    yield from sounds()
    yield from ends(place)


def injected(name: str, kind: Kind, seed: int, share: float) -> Iterator[tuple[str, str]]:
    """Outcome and details of a share of a kind's faults, at least one."""
    for number in range(math.ceil(kind.number * share)):
        with tempfile.TemporaryDirectory() as folder:
            draw = random.Random(f"{seed} {name} {number}")
            outcome, words = isolated(lambda at=Path(folder), draw=draw: kind.outcome(draw, at))
            yield outcome, f"{name} {number}: {words}"


def quiet() -> None:
    """Silence the warnings of faults that are warned of; one thread, so that processes may fork."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()


@click.command(epilog="Example: python tools/faults.py --seed 0 --share 0.1")
@click.option("--seed", default=0, show_default=True)
@click.option("--share", default=1.0, show_default=True, type=click.FloatRange(0, 1, min_open=True),
              help="Share of the injections.")
@click.option("--only", default="", help="Only kinds whose name holds this.")
def main(seed: int, share: float, only: str) -> None:
    """Print a table of kinds and outcomes, and the details of bad ones."""
    quiet()
    click.echo(f"{'':<24}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES))
    total, bad = Counter(), []
    with tempfile.TemporaryDirectory() as place:
        for name, kind in kinds(Path(place)):
            if only not in name:
                continue
            results = [*injected(name, kind, seed, share)]
            counts = Counter(outcome for outcome, _ in results)
            click.echo(f"{name:<24}" + "".join(f"{counts[outcome]:>10}" for outcome in OUTCOMES))
            total += counts
            bad += [f"{outcome}: {words}" for outcome, words in results if outcome in OUTCOMES[2:]]
    click.echo(f"{'all':<24}" + "".join(f"{total[outcome]:>10}" for outcome in OUTCOMES))
    for words in bad:
        click.echo(words)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
