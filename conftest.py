"""What all tests share: checks against learn2learn are skipped, and counted as skipped, where it is not built."""

import gc
import importlib.util
from collections.abc import Callable, Iterator

import pytest

pytest_plugins = ["browser"]  # tests/browser.py


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect a test's garbage before the next one, so that a warning on collection fails the test that caused it."""
    yield
    gc.collect()


@pytest.fixture
def perser(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process: exit code, standard output, standard error."""
    from perser.cli import main

    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main.main([str(word) for word in words])
        return stop.value.code, *capsys.readouterr()

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `reference` where learn2learn is not installed; the set-up prints the reason."""
    if importlib.util.find_spec("learn2learn"):
        return
    for item in items:
        if item.get_closest_marker("reference"):
            item.add_marker(pytest.mark.skip(reason="learn2learn is not built (./reproduce.sh check says why)"))
