"""Work on other machines: a Ray or a Dask cluster, through joblib's own backends. Files carry data and results."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend

from perser.errors import UserError
from perser.processes import SIGNALS

BACKENDS = ("loky", "ray", "dask")
NEEDS = 'pip install "perser[cluster]"'
LOSSES = {"ray.exceptions": "RayError", "dask.distributed": "KilledWorker"}
WAIT = 10  # seconds for a cluster to answer
ATTEMPTS = 3  # to do work of which nothing gets done, because its workers are lost

log = logging.getLogger(__name__)


@contextmanager
def on(backend: str, address: str | None = None, jobs: int | None = None) -> Iterator[None]:
    """Let runs and features work on a cluster while the block lasts; "loky" is this machine.

    address: of the cluster's head; unset: RAY_ADDRESS, or the Ray cluster that this machine is part of. jobs: workers;
    unset: as many as the cluster has cores. UserError: the package is missing, there is no such cluster.
    """
    if backend == "loky":
        yield
        return
    try:
        import_module({"ray": "ray.util.joblib", "dask": "dask.distributed"}[backend])
    except ImportError:
        raise UserError(f"--backend {backend}: {NEEDS}") from None
    connection, settings = _ray(address) if backend == "ray" else _dask(address, jobs)
    with connection, parallel_config(backend, n_jobs=jobs or -1, **settings):
        yield


def active() -> bool:
    """Whether work goes to a cluster."""
    return type(get_active_backend()[0]).__name__ in ("RayBackend", "DaskDistributedBackend")


def workers() -> int:
    """How many work at a time: the cores of this machine, or those of the cluster."""
    return effective_n_jobs(-1) if active() else os.cpu_count() or 1


def work(todo: Callable[[], list[Any]]) -> None:
    """Do the calls of `todo()` on the cluster; those that it still gives after a worker was lost are done again.

    A call leaves its result in a file, and `todo` leaves out what has one. UserError: workers are lost again and again,
    the cluster ends, or what they wrote is not seen here.
    """
    left, attempts = todo(), ATTEMPTS
    while left:
        try:
            _done([(str(Path.cwd()), *call) for call in left])
        except _losses() as error:
            log.warning("a worker was lost, and its work is done again (%s)", str(error).partition("\n")[0])
        except CancelledError:  # Dask's
            raise UserError("the cluster's scheduler ended; start a cluster and run the same command again: what is "
                            "computed is kept") from None
        before, left = len(left), todo()
        attempts = attempts - 1 if len(left) == before else ATTEMPTS
        if not attempts:
            raise UserError(f"the cluster's workers did nothing in {ATTEMPTS} attempts: they were killed, most often "
                            "for want of memory (then give fewer --jobs), or wrote to a folder that this machine does "
                            "not share; what is computed is kept")


def _done(calls: list[tuple[Any, ...]]) -> None:
    """Do calls on the cluster. Dask is asked itself: joblib waits for ever for work that killed several workers."""
    backend, _ = get_active_backend()
    if hasattr(backend, "client"):
        backend.client.gather([backend.client.submit(_call, *call, pure=False) for call in calls])
    else:
        Parallel(batch_size=1)(delayed(_call)(*call) for call in calls)


def _call(folder: str, function: Callable[..., Any], arguments: tuple[Any, ...], settings: dict[str, Any]) -> None:
    """On a worker, in the same folder as here, where there is one, so that relative paths mean the same."""
    with suppress(OSError):
        os.chdir(folder)
    function(*arguments, **settings)


def _ray(address: str | None) -> tuple[AbstractContextManager[Any], dict[str, Any]]:
    """Connect to a cluster that runs, and let joblib know of it; the process takes its signals as before."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.util.joblib import register_ray

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    address = address or os.environ.get("RAY_ADDRESS", "auto")
    try:
        if address != "auto":  # Ray itself asks a machine that does not answer for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=WAIT).close()
        connection = ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--backend ray: no cluster at {address} ({str(error).splitlines()[0]}); start one with "
                        "`ray start --head`, or give --address HOST:PORT") from None
    for number, handler in handlers.items():
        signal.signal(number, handler)
    register_ray()
    return connection, {"ray_remote_args": {"num_cpus": 1}}


def _dask(address: str | None, jobs: int | None) -> tuple[AbstractContextManager[Any], dict[str, Any]]:
    """Connect to a scheduler that runs. Its workers have one thread: more would wait for one interpreter's lock."""
    from dask.distributed import Client

    if jobs:
        raise UserError("--jobs: with --backend dask all workers of the cluster work; start fewer of them")
    if not address:
        raise UserError("--backend dask: give --address HOST:PORT of its scheduler")
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it logs what is raised here
    try:
        client = Client(address, set_as_default=False, timeout=WAIT)
    except (OSError, ValueError) as error:
        raise UserError(f"--backend dask: no scheduler at {address} ({str(error).partition(chr(10))[0]}); start one "
                        "with `dask scheduler`") from None
    with suppress(TimeoutError):
        client.wait_for_workers(1, timeout=WAIT)
    threads = client.nthreads().values()
    if {*threads} != {1}:
        client.close()
        raise UserError(f"--backend dask: {len(threads)} workers at {address} have {sum(threads)} threads; start "
                        f"workers of one thread with `dask worker {address} --nthreads 1`")
    return client, {"client": client}


def _losses() -> tuple[type[Exception], ...]:
    """What tells that a worker ended, not that its work failed."""
    return tuple(getattr(sys.modules[name], error) for name, error in LOSSES.items() if name in sys.modules)
