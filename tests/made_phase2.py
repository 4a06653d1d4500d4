"""What the tests that run inspect share: the warnings of its own that are let pass, and how tasks were loaded."""

from pathlib import Path

import pytest

# inspect leaves its event streams and its clients' connections to the garbage collector, which says so and may meet
# them in a later test (hence `collected`, in conftest.py), and calls tenacity in an old way.
INSPECT = [pytest.mark.usefixtures("collected"),
           pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
           pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning"),
           pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning")]


def source(root: str | Path) -> dict:
    """`runner.run`'s account of how the tasks under a folder were loaded: all of them, nothing else."""
    return {"tasks": str(root), "data": None, "cache_dir": None, "limit": None}
