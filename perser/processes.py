"""How processes end: workers with their parent, a command a second after its signal, and none is left behind."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

GRACE = 1.0  # seconds that a stopped command has to tidy up
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def follow(parent: int) -> None:
    """Initialise a worker process: the system kills it when its parent ends, and Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


def stop_on_signals(end: Callable[[int], None]) -> None:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt, and call `end(signal)` soon after if the command still runs.

    A signal that is ignored, as under nohup, stays so.
    """

    def stop(number: int, frame: object) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        timer = threading.Timer(GRACE, end, (number,))
        timer.daemon = True
        timer.start()
        kill_children()
        raise KeyboardInterrupt(number)

    # joblib's tracker removes what killed workers leave in shared memory, and would warn of it.
    quiet = "ignore::UserWarning:joblib.externals.loky.backend.resource_tracker"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), quiet]))
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, stop)


def kill_children() -> None:
    """Kill all processes that this one has started, and theirs; joblib's tracker removes shared memory and stays."""
    children: dict[int, list[int]] = {}
    for process, parent in _parents():
        children.setdefault(parent, []).append(process)
    ahead = [os.getpid()]
    while ahead:
        for child in children.get(ahead.pop(), []):
            ahead.append(child)
            try:
                if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(child, signal.SIGKILL)
            except OSError:  # it has ended
                continue


def _parents() -> Iterator[tuple[int, int]]:
    """Every process with its parent; none where there is no /proc."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            yield int(place.name), int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
