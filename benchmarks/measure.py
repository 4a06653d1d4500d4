"""Timing: calls in turns in one process, the machine's limits, and the conditions of a measurement."""

import ctypes
import importlib.util
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from perser import provenance

Call = Callable[[], object]
Result = TypeVar("Result")


class Time(NamedTuple):
    """Seconds of one call: wall clock, and processor time over all threads."""

    seconds: float
    cpu_seconds: float


class Turns(NamedTuple):
    """How many rounds are timed, and for how many seconds at least a call is repeated in a round."""

    rounds: int = 5
    least: float = 0.5


class Limits(NamedTuple):
    """What the device does at best, as measured: float32 operations per second, bytes read per second."""

    flops: float
    bandwidth: float


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished; its work is asynchronous."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(call: Call, device: torch.device) -> Time:
    """Time of a single call."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    synchronise(device)
    return Time(time.perf_counter() - wall, time.process_time() - cpu)


def turn(call: Call, device: torch.device, least: float) -> Time:
    """Median time of a call repeated until `least` seconds have passed.

    Of several, the first is not counted: it finds the caches cold, as a step of a training loop never does.
    """
    times = [once(call, device)]
    while sum(seconds for seconds, _ in times) < least:
        times.append(once(call, device))
    return typical(times[1:] or times)


def in_turns(calls: dict[Hashable, Call], device: torch.device, turns: Turns) -> dict[Hashable, list[Time]]:
    """Times of all calls by round. Timed round-robin so that background load affects all calls equally.

    An extra first round warms the caches and is not counted.
    """
    times = {name: [] for name in calls}
    for counted in (False, *[True] * turns.rounds):
        for name, call in calls.items():
            one = turn(call, device, turns.least if counted else 0.0)
            if counted:
                times[name].append(one)
    return times


def typical(times: list[Time]) -> Time:
    """The medians of several times."""
    return Time(*map(median, zip(*times, strict=True)))


def ratio(slow: list[Time], fast: list[Time]) -> Time:
    """How many times longer: the median over rounds of the ratio within a round, of wall clock and processor time."""
    return Time(*(median(a / b for a, b in zip(*parts, strict=True))
                  for parts in zip(zip(*slow, strict=True), zip(*fast, strict=True), strict=True)))


def limits(device: torch.device, side: int, rounds: int) -> Limits:
    """The best of `rounds` float32 products of (side, side) matrices, and sums over 16 side^2 numbers."""
    a, b = torch.ones(side, side, device=device), torch.ones(side, side, device=device)
    many = torch.ones(16 * side * side, device=device)
    product = min(once(lambda: a @ b, device).seconds for _ in range(rounds + 1))
    reading = min(once(many.sum, device).seconds for _ in range(rounds + 1))
    return Limits(flops=2 * side**3 / product, bandwidth=4 * len(many) / reading)


@contextmanager
def peak(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yield a function that returns by how many bytes memory in use has peaked above its level at the start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - start
        return
    ctypes.CDLL(None).malloc_trim(0)  # memory that glibc keeps after a free would not count when used again
    Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark to the current level
    start = _status("VmRSS")
    # Both counts lag by a few pages, so a block that allocates nothing may end below its start.
    yield lambda: max(0, _status("VmHWM") - start)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def with_memory(call: Callable[[], Result], device: torch.device) -> tuple[Time, int, Result]:
    """Time of a single call, the bytes that memory in use rose by, and its result."""
    results = []
    with peak(device) as risen:
        taken = once(lambda: results.append(call()), device)
        return taken, risen(), results[0]


def conditions(device: torch.device) -> dict:
    """Device and driver, processor, cores, threads, load, versions, commit."""
    where = provenance.machine() | provenance.git() | {
        "device": device_name(device), "threads": torch.get_num_threads(), "load_before": round(os.getloadavg()[0], 2)}
    if importlib.util.find_spec("jax"):
        where["packages"] = where["packages"] | {"jax": metadata.version("jax")}
    if device.type == "cuda":
        where |= {"driver": _driver(), "cuda": torch.version.cuda}
    return where


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the accelerator."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _driver() -> str | None:
    version = Path("/proc/driver/nvidia/version")
    return version.read_text().splitlines()[0] if version.exists() else None


def largest_difference(tensors: Iterable[Tensor], others: Iterable[Tensor]) -> float:
    """The largest difference between two lists of tensors, relative to the largest element of the other tensor."""
    return max(float((a.cpu() - b.cpu()).abs().max() / b.abs().max().clamp(min=1e-12))
               for a, b in zip(tensors, others, strict=True))
