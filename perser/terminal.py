"""What a command tells while it works, on standard error: what it does, and how far long computations are."""

import io
import math
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NAME = "perser"
SLOW = 1.0  # seconds after which a command tells what it is doing
FIRST, EVERY = 5.0, 60.0  # seconds to the first line of progress, and between lines, where there is no terminal
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed}, {remaining} left"

_pending = threading.Timer(0, print)


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "rating"), counted(2, "rating"), counted(0, "rating")
    ('1 rating', '2 ratings', '0 ratings')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def width() -> int:
    """Columns of the terminal that standard output is; 0 where it is none, and nothing is to be narrowed."""
    return shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else 0


def folded(line: str, indent: int) -> str:
    """A line in the columns of the terminal; its further lines begin with `indent` spaces. Paths stay whole."""
    columns = width()
    return "\n".join(textwrap.wrap(line, columns, subsequent_indent=" " * indent, break_on_hyphens=False,
                                   break_long_words=False)) if columns else line


def tell(line: str) -> None:
    """One line on standard error, after the program's name."""
    print(f"{NAME}: {line}".replace("\n", " "), file=sys.stderr, flush=True)


def doing(what: str) -> None:
    """Tell what begins now, if it lasts longer than a moment; "" ends it."""
    global _pending
    _pending.cancel()
    if what:
        _pending = threading.Timer(SLOW, tell, (what,))
        _pending.daemon = True
        _pending.start()


@contextmanager
def progress(label: str, total: int | None, unit: str, shown: bool = True, initial: int = 0, scale: bool = False,
             count: Callable[[], int] | None = None) -> Iterator[Callable[[int], object]]:
    """Show how far a computation is, with the time that is left; yields a function to which steps are given.

    A bar on a terminal, elsewhere a line a minute, the first after seconds. count: asked for what is done, where that
    is known between the steps. scale: print 1500 as 1.5k.
    """
    if not shown:
        yield lambda steps: None
        return
    from tqdm import tqdm

    doing("")
    terminal, ended = sys.stderr.isatty(), threading.Event()
    quiet: dict[str, Any] = {} if terminal else {"file": io.StringIO(), "mininterval": math.inf}
    with tqdm(total=total, desc=label, unit=unit, initial=initial, unit_scale=scale, smoothing=0, **quiet) as bar:
        watch = threading.Thread(target=_watch, args=(bar, ended, terminal, count), daemon=True)
        watch.start()
        try:
            yield bar.update
        finally:
            ended.set()
            watch.join()


def _watch(bar: Any, ended: threading.Event, terminal: bool, count: Callable[[], int] | None) -> None:
    """Look at the count once a second on a terminal; elsewhere print lines."""
    wait = 1.0 if terminal else FIRST
    while not ended.wait(wait):
        if count:
            bar.n = count()
        if terminal:
            bar.refresh()
        else:
            tell(bar.format_meter(**bar.format_dict | {"bar_format": LINE}))
            wait = EVERY
