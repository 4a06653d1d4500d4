"""A tenth of the injected faults ends well, and the table tells when one does not."""

import faulthandler
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perser.errors import UserError

TOOLS = Path(__file__).parents[1] / "tools"


def table(*arguments):
    """Exit status, and the numbers of every kind by name: same, refused, silent, traceback, hang."""
    done = subprocess.run([sys.executable, TOOLS / "faults.py", *arguments], capture_output=True, text=True)
    rows = re.findall(r"^(\S.*?) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", done.stdout, re.MULTILINE)
    return done.returncode, {name: tuple(map(int, counts)) for name, *counts in rows}, done.stdout + done.stderr


def test_a_tenth_of_the_faults_is_refused_or_changes_nothing():
    code, kinds, text = table("--seed", "0", "--share", "0.1")
    assert code == 0 and len(kinds) > 25, text
    assert all(counts[2:] == (0, 0, 0) for counts in kinds.values()) and sum(kinds["all"]) >= 200, text
    assert all(kinds[name] == (3, 0, 0, 0, 0) for name in ("kill -9: run", "kill -9: personalise", "kill -9: report",
                                                           "full disk"))
    assert kinds["hostile personal model"][1] == kinds["hostile model folder"][1] == 10


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    import faults
    return faults


def crash():
    faulthandler.disable()  # its report would fill the page
    os.kill(os.getpid(), signal.SIGSEGV)


def nameless():
    raise UserError("something is wrong")


@pytest.mark.parametrize("call, outcome", [
    (lambda: 1, "same"), (lambda: 2, "silent"), (lambda: 1 / 0, "traceback"), (nameless, "traceback"),
    (lambda: float("nan"), "silent"), (crash, "traceback")])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # a fork of a process with threads
def test_every_bad_end_is_told_from_a_good_one(faults, call, outcome):
    assert faults.isolated(lambda: faults.judged(call, lambda: 1, "a.csv"))[0] == outcome


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_what_does_not_end_hangs(faults):
    def loop():
        while True:
            pass

    assert faults.isolated(loop, limit=1)[0] == "hang"
    began = time.monotonic()
    assert faults.isolated(lambda: time.sleep(60), limit=0.1)[0] == "hang" and time.monotonic() - began < 30
