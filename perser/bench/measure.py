"""How things are timed: calls in turn in one process, the machine's own limits beside them, and where it was."""

import ctypes
import os
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from perser import provenance
from perser.descend import way

Call = Callable[[], object]


class Time(NamedTuple):
    """Seconds of one call by the clock, and of processor time over all threads."""

    seconds: float
    cpu_seconds: float


class Turns(NamedTuple):
    """How often each call takes its turn, and the seconds that a turn lasts at least."""

    rounds: int = 5
    least: float = 0.5


class Limits(NamedTuple):
    """What the device does at best, measured here: float32 operations and bytes read, each per second."""

    flops: float
    bandwidth: float


def synchronise(device: torch.device) -> None:
    """Wait for the device: its work runs behind the caller's back."""
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
    """Median time of a call repeated until `least` seconds have passed."""
    times = [once(call, device)]
    while sum(each.seconds for each in times) < least:
        times.append(once(call, device))
    return Time(*map(median, zip(*times, strict=True)))


def paired(calls: dict[Hashable, Call], device: torch.device, turns: Turns) -> dict[Hashable, list[Time]]:
    """Each call's times over rounds in which all take turns, so that what else the machine does hits all alike.

    A round of its own comes first, to fill caches, and is not counted.
    """
    times = {name: [] for name in calls}
    for counted in (False, *[True] * turns.rounds):
        for name, call in calls.items():
            found = turn(call, device, turns.least if counted else 0.0)
            if counted:
                times[name].append(found)
    return times


def typical(times: list[Time]) -> Time:
    """Medians over rounds."""
    return Time(*map(median, zip(*times, strict=True)))


def ratio(slow: list[Time], fast: list[Time]) -> Time:
    """How many times longer, the median of the rounds' own ratios: by the clock and in processor time."""
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
    """A function that tells how many bytes the memory in use has risen by at most since the block began."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - start
        return
    ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed: used again, it would not count
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark goes back to what is in use now
    start = _status("VmRSS")
    # Both are the kernel's running counts, a few pages behind: a block that takes nothing may end below its start.
    yield lambda: max(0, _status("VmHWM") - start)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def conditions(device: torch.device) -> dict:
    """Device and driver, processor, cores, threads, load, versions, commit."""
    found = provenance.machine() | provenance.git() | {
        "device": device_name(device), "inner_loop": way(torch.zeros(1, device=device)),
        "threads": torch.get_num_threads(), "load_before": round(os.getloadavg()[0], 2)}
    if device.type == "cuda":
        found |= {"driver": _driver(), "cuda": torch.version.cuda}
    return found


def device_name(device: torch.device) -> str:
    """`cpu`, or the accelerator's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _driver() -> str | None:
    version = Path("/proc/driver/nvidia/version")
    return version.read_text().splitlines()[0] if version.exists() else None


def furthest(mine: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference between two lists of tensors, each relative to the second's largest element."""
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in zip(mine, theirs, strict=True))
