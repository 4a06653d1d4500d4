"""What all tests share: the reference checks are counted as skipped where learn2learn could not be built."""

import gc
import importlib.util
from collections.abc import Iterator

import pytest


@pytest.fixture
def collected() -> Iterator[None]:
    """Have what a test leaves to the garbage collector met inside that test, not in a later one."""
    yield
    gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `reference` where there is no learn2learn; the set-up has said why."""
    if importlib.util.find_spec("learn2learn"):
        return
    for item in items:
        if item.get_closest_marker("reference"):
            item.add_marker(
                pytest.mark.skip(reason="learn2learn is not built (./reproduce.sh check says why)")
            )
