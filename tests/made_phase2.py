"""Shared by the tests that run inspect: the warnings from inspect that are ignored, and how tasks were loaded."""

from pathlib import Path

import pytest

# inspect leaves its event streams and client connections to the garbage collector, which warns about them, possibly in
# a later test (hence `collected`, in conftest.py), and it calls tenacity with a deprecated argument.
INSPECT = [pytest.mark.usefixtures("collected"),
           pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
           pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning"),
           pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning")]


def source(root: str | Path) -> dict:
    """The `source` of `runner.run` for all tasks under a folder."""
    return {"tasks": str(root), "data": None, "cache_dir": None, "limit": None}
