"""A Ray cluster of two nodes on this machine: records and features equal those of one process, whoever is killed."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from made import plan
from test_features import corpus_of, write_clips

import perser
from perser import cli, cluster, features, records, workers
from perser.errors import UserError
from perser.features import store as storage
from perser.features import upstreams

TESTS, ROOT = Path(__file__).parent, Path(perser.__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), str(TESTS), os.environ.get("PYTHONPATH")))),
               "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
               "RAY_worker_niceness": "0"}  # else the workers starve beside whatever else this machine does
PATIENCE = 300  # seconds until a process that hangs fails a test
STORE = 100 << 20  # bytes of Ray's shared memory on a node
RAY = f"""
import sys
from ray.cluster_utils import Cluster
for attempt in range(3):  # Ray gives a node 30 s to start, which a busy machine may not keep
    nodes = Cluster()
    try:
        for settings in ({{"include_dashboard": False}}, {{}}):
            nodes.add_node(num_cpus=1, object_store_memory={STORE}, **settings)
        break
    except Exception:
        nodes.shutdown()
print(nodes.address, *(node.all_processes["raylet"][0].process.pid for node in nodes.list_all_nodes()), flush=True)
sys.stdin.read()
nodes.shutdown()
"""
DASK = """
import json, subprocess, sys, tempfile, time
from pathlib import Path
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "scheduler.json"
    def start(*words):
        return subprocess.Popen([sys.executable, "-m", "dask", *words, "--scheduler-file", file, "--no-dashboard"])
    nodes = [start("scheduler", "--host", "127.0.0.1", "--port", "0")]
    nodes += [start("worker", "--nthreads", "1", "--local-directory", folder) for _ in range(2)]
    while not file.exists():
        time.sleep(0.05)
    print(json.loads(file.read_text())["address"], *(node.pid for node in nodes[1:]), flush=True)
    sys.stdin.read()
    for node in reversed(nodes):
        node.terminate()
        node.wait()
"""
NODES = {"ray": RAY, "dask": DASK}
DRIVER = """
import sys
from pathlib import Path
import made, test_features
from perser import UserError, cluster, features, workers
from perser.features import store, upstreams
store._computed = None  # here no feature is computed
backend, address, out, clips = sys.argv[1:]
with cluster.on(backend, address):
    workers.run(made.plan(Path(out)))
    try:
        features.extract(test_features.corpus_of(clips), upstreams.load("logmel"), Path(clips) / "store", "none")
    except UserError as error:
        print(error)
"""
FATAL = """
import sys
from joblib import delayed
from perser import UserError, cluster
backend, address, *works = sys.argv[1:]
cluster.ATTEMPTS = 1
with cluster.on(backend, address):
    for work in works:
        try:
            cluster.work(lambda: [delayed(exec)(work)])
        except UserError as error:
            print("told:", error)
"""
PACKAGES = {"ray": "ray", "dask": "distributed"}


def needs(backend):
    return pytest.mark.skipif(not find_spec(PACKAGES[backend]), reason=f"{PACKAGES[backend]} is not installed")


@pytest.fixture(scope="module", params=[pytest.param(backend, marks=needs(backend)) for backend in NODES])
def nodes(request):
    """A cluster's backend and address, and the processes of its two nodes that start a worker each.

    Another process starts them, as Ray takes the signals of the one that does; they end with it.
    """
    process = subprocess.Popen([sys.executable, "-c", NODES[request.param]], text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | ENVIRONMENT)
    try:
        address, *pids = process.stdout.readline().split()
        yield request.param, address, list(map(int, pids))
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return workers.run(plan(tmp_path_factory.mktemp("serial") / "run"), jobs=1)


def driver(backend, address, out, clips):
    return subprocess.Popen([sys.executable, "-c", DRIVER, backend, address, str(out), str(clips)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT,
                            cwd=Path(out).parent, start_new_session=True)


def finish(process):
    """What it printed; it must succeed."""
    try:
        text, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, text
    return text


def when(condition, process):
    """Wait until the condition holds, while the process runs; returns its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert process.poll() is None and time.monotonic() < deadline, "it ended, or does nothing"
        time.sleep(0.02)
    return value


def busy(nodes):
    """The processes that work, by the node that started them: an actor of Ray's pool, a process of Dask."""
    workers = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in nodes and re.search("PoolActor|spawn_main", (place / "cmdline").read_text()):
                workers[parent] = int(place.name)
        except OSError:
            continue
    return workers


def parts(out):
    """The complete parts; their last file is part.json."""
    return list(out.parent.glob("parts/*/part.json"))


def test_workers_on_two_nodes_and_kills_change_no_record_and_no_feature(nodes, serial, tmp_path):
    """A worker is killed, its work is done again; the driver is killed, and the same command goes on to the end.

    70 clips are three shards; another one holds no audio and is named.
    """
    backend, address, pids = nodes
    out, clips = tmp_path / "run", write_clips(tmp_path / "clips", 70)
    expected = features.extract(corpus_of(clips), upstreams.load("logmel"), tmp_path / "serial", "none")
    (clips / "zz.wav").write_text("no audio")
    process = driver(backend, address, out, clips)
    try:
        victim = when(lambda: parts(out) and len(here := busy(pids)) == 2 and here, process)[pids[1]]
        os.kill(victim, signal.SIGKILL)
        when(lambda: len(here := busy(pids)) == 2 and here[pids[1]] != victim, process)
        again = len(parts(out))
        when(lambda: len(parts(out)) > again, process)
    finally:
        process.kill()
        text, _ = process.communicate()
    assert ("a worker was lost, and its work is done again" in text) == (backend == "ray"), "Dask does so by itself"
    kept = {path: path.stat().st_mtime_ns for path in parts(out)}
    assert len(kept) < 36 and not (out / "DONE").exists()
    assert "zz.wav" in finish(driver(backend, address, out, clips)).splitlines()[-1]
    pd.testing.assert_frame_equal(records.read(out), serial)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items()), "what was there is not computed again"
    (clips / "zz.wav").unlink()
    filled = replace(upstreams.load("logmel"), embed=lambda waves: pytest.fail("the store lacks clips"))
    assert torch.equal(features.extract(corpus_of(clips), filled, clips / "store", "none"), expected)
    assert not (clips / "store.shards").exists()


def test_work_that_no_worker_can_do_and_the_end_of_the_cluster_are_one_line(nodes):
    """Work that kills its worker, and work that refuses. Ray itself ends a command whose cluster ends."""
    backend, address, _ = nodes
    works = {"import os; os.abort()": "the cluster's workers did nothing in 1 attempts: they were killed",
             "from perser import UserError; raise UserError('x.json: damaged')": "x.json: damaged"}
    if backend == "dask":
        works["import distributed; distributed.get_client().shutdown()"] = "the cluster's scheduler ended; start a"
    process = subprocess.Popen([sys.executable, "-c", FATAL, backend, address, *works], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT)
    lines = [line for line in finish(process).splitlines() if line.startswith("told:")]
    assert len(lines) == len(works) and all(map(str.startswith, lines, (f"told: {told}" for told in works.values())))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
@pytest.mark.parametrize("backend, told", [
    pytest.param("ray", r"no cluster at {} \(.*ray start --head", marks=needs("ray")),
    pytest.param("dask", r"no scheduler at {} \(.*dask scheduler", marks=needs("dask"))])
def test_a_cluster_that_is_not_there_is_one_line(monkeypatch, backend, told, address):
    monkeypatch.setattr(cluster, "WAIT", 1)
    with pytest.raises(UserError, match=told.format(address)) as error, cluster.on(backend, address):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("backend, module", [("ray", "ray.util.joblib"), ("dask", "dask.distributed")])
def test_a_backend_without_its_package_is_one_line(monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    with pytest.raises(UserError, match=f"--backend {backend}: pip install") as error, cluster.on(backend, "a:1"):
        pass
    assert "\n" not in str(error.value)


def test_the_shares_of_an_array_of_jobs_are_all_units_once(serial, tmp_path):
    """Three jobs fill one folder; a fourth writes the records without computing any."""
    here = plan(tmp_path / "run")
    workers.fill(here, 1, share=(0, 3))
    assert not parts(here.out)
    sizes = []
    for k in (1, 2, 3):
        workers.fill(here, 1, share=(k, 3))
        sizes.append(len(parts(here.out)))
    assert sizes == [12, 24, 36], "12 units of 3 methods"
    pd.testing.assert_frame_equal(workers.run(here, jobs=1), serial)
    assert records.manifest(here.out).units_computed == 0


@pytest.mark.parametrize("words, error", [
    (["--part", "3"], "3: write it as K/N with K from 0 to N"), (["--part", "9/8"], "9/8: write it as K/N"),
    (["--part", "0/0"], "0/0: write it as K/N"), (["--address", "a:1"], "--address: give --backend ray or dask too"),
    (["--backend", "dask"], "--backend dask: pip install \"perser[cluster]\"")])
def test_wrong_use_is_answered_in_one_line(tmp_path, monkeypatch, capsys, words, error):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "main", "--corpus", "table", "--root", str(tmp_path), "--out", str(tmp_path / "o"), *words])
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and error in told and told.count("\n") == 1


def test_shards_left_by_a_killed_process_are_used_unless_they_are_damaged(tmp_path):
    clips = write_clips(tmp_path / "clips", 40)
    upstream, folder = upstreams.load("logmel"), tmp_path / "store.shards"
    expected = features.extract(corpus_of(clips), upstream, tmp_path / "serial", "none")
    calls = []

    def todo(folder, batches, compute, label, progress):
        for batch in batches:
            storage._write_shard(storage._shard(folder, batch), batch, compute, label, torch.get_num_threads())
        calls.extend(sorted(folder.iterdir()))
        data = bytearray(calls[0].read_bytes())
        data[-1] ^= 1
        calls[0].write_bytes(data)

    counted = []
    slow = replace(upstream, embed=lambda waves: counted.append(len(waves)) or upstream.embed(waves))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.cluster, "active", lambda: True)
        patch.setattr(storage, "_fill", todo)
        assert torch.equal(features.extract(corpus_of(clips), slow, tmp_path / "store", "none"), expected)
    assert sorted(counted[:2]) == [8, 32] and len(counted) == 3 and not folder.exists()


BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL)


def commands(program):
    """The words of every call of a program in the recipes, after its name."""
    for line in "\n".join(BLOCKS).splitlines():
        words = shlex.split(line, comments=True)
        if program in words:
            yield [word for word in words[words.index(program) + 1:] if word != "&"]


@pytest.mark.parametrize("block", BLOCKS)
def test_recipes_are_bash(block):
    assert subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True).stderr == ""


def test_recipes_give_options_that_exist(tmp_path):
    """Parsed by the command lines themselves, with a folder that is there and the number of a task."""
    calls = list(commands("perser"))
    assert len(calls) == 6
    for words in calls:
        words = [word.replace("$SLURM_ARRAY_TASK_ID", "3").replace("/shared", str(tmp_path)) for word in words]
        (tmp_path / "IEMOCAP").mkdir(exist_ok=True)
        context = cli.main.commands[words[0]].make_context(words[0], words[1:])
        assert context.params["share"] in (None, (0, 8), (3, 8)) and context.params["backend"] in cluster.BACKENDS


@needs("ray")
def test_recipes_start_ray_with_options_that_exist():
    from ray.scripts.scripts import start

    calls = [words for words in commands("ray") if words[0] == "start"]
    assert len(calls) == 4
    for words in calls:
        start.make_context("start", words[1:])


@needs("dask")
def test_recipes_start_dask_with_options_that_exist():
    from distributed.cli import dask_scheduler, dask_worker

    calls = [words for words in commands("dask") if words[0] in ("scheduler", "worker")]
    for (name, *words), module in zip(calls, (dask_scheduler, dask_worker), strict=True):
        module.main.make_context(name, words)
