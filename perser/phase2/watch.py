"""A run as it is watched: what it will cost, how far it is, and when a server that fails is asked no more."""

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from time import monotonic
from typing import TextIO

import anyio
from inspect_ai.solver import Generate, Solver, TaskState, solver

TIMEOUT, RETRIES, GIVE_UP = 300.0, 5, 20  # seconds for a question with its retries; its retries; failures in a row
REFUSALS = ("model_length", "content_filter")
AT_ONCE = 64  # questions to a server
SECONDS_BETWEEN = 60.0  # lines of progress, where there is no terminal
_watch: ContextVar["Watch | None"] = ContextVar("watch", default=None)


def reason(error: object) -> str:
    """One line of what went wrong, with what a server sent if it was no JSON or not of the expected form."""
    error = getattr(error, "__cause__", None) or error if type(error).__name__ == "RetryError" else error
    text, sent = " ".join(str(getattr(error, "message", None) or error).split()), getattr(error, "doc", None)
    if isinstance(sent, str):
        text = f"{text}; the server sent {sent[:80]!r}"
    elif isinstance(error, IndexError | KeyError | AttributeError | TypeError):
        text = f"the server's answer has no choices or another form ({type(error).__name__}: {text})"
    elif "Error code:" in text:  # after the whole request, which inspect puts before it
        text = text[text.rfind("Error code:"):].strip("\"')")
    elif logged := re.fullmatch(r"RuntimeError\((['\"].*['\"])\)", text, re.S):  # as inspect logs what `ask` raised
        text = str(ast.literal_eval(logged[1]))
    return text[:300] or type(error).__name__


class Watch:
    """Counts a model's answers. A question fails after `timeout` seconds, and all others after GIVE_UP in a row.

    Inspect stops retrying then; `ask` waits twice as long and 30 s, so that it can say why. As AT_ONCE questions wait
    for the 20 connections that inspect begins with, a server that is down or hangs costs at most
    (AT_ONCE / 20 + 1) x (2 x `timeout` + 30 s). Models of this process answer or raise; they have no timeout.
    """

    def __init__(self, name: str, total: int, timeout: float | None = None, stream: TextIO | None = None) -> None:
        """stream: where progress is shown, in place on a terminal, elsewhere a line a minute."""
        self.name, self.total, self.timeout, self.stream = name, total, timeout, stream
        self.answered = self.failed = self.row = 0
        self.start = self.shown = monotonic()

    async def ask(self, state: TaskState, generate: Generate) -> TaskState:
        """One question. Raises RuntimeError with one line where there is no answer."""
        if self.timeout and self.row >= GIVE_UP:
            raise RuntimeError(f"not asked: {GIVE_UP} questions in a row had failed")
        try:
            with anyio.fail_after(2 * self.timeout + 30) if self.timeout else nullcontext():
                state = await generate(state)
            if not state.output.choices:
                raise RuntimeError(f"the server sent no choices {state.output.error or ''}".strip())
            if state.output.stop_reason in REFUSALS:  # inspect makes an answer of the server's words
                raise RuntimeError(f"refused by the server: {state.output.completion}")
        except Exception as error:  # whatever a provider raises
            self.failed, self.row = self.failed + 1, self.row + 1
            late = isinstance(error, TimeoutError) and self.timeout
            self.show()
            seconds = 2 * (self.timeout or 0) + 30
            raise RuntimeError(f"no answer within {seconds:g} s" if late else reason(error)) from error
        self.answered, self.row = self.answered + 1, 0
        self.show()
        return state

    def show(self) -> None:
        """Write the progress, if it is time."""
        now, terminal = monotonic(), self.stream is not None and self.stream.isatty()
        if not self.stream or now - self.shown < (0.5 if terminal else SECONDS_BETWEEN):
            return
        self.shown, done = now, self.answered + self.failed
        left = (now - self.start) / max(1, done) * max(0, self.total - done)
        line = f"{self.name}: {done} of {self.total} questions, {self.failed} failed, about {duration(left)} left"
        self.stream.write(f"\r{line}\x1b[K" if terminal else f"{line}\n")
        self.stream.flush()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While this lasts, the questions that are asked are this watch's."""
        token = _watch.set(self)
        try:
            yield
        finally:
            _watch.reset(token)
            if self.stream and self.stream.isatty():
                self.stream.write("\r\x1b[K")


@solver
def asked() -> Solver:
    """Generate, watched if the run is."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        watch = _watch.get()
        return await (watch.ask(state, generate) if watch else generate(state))

    return solve


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(20), duration(160), duration(9000)
    ('20 s', '3 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
