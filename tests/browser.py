"""A real browser for tests: `visit(address)` opens a page.

It is the Chromium or Chrome on the PATH; without one the tests are skipped. No wait is longer than TIMEOUT.
"""

import shutil
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]
TIMEOUT = 60_000  # milliseconds


class Visit(NamedTuple):
    """A page, the addresses it asked for, and what went wrong: console errors, exceptions, answers that failed."""

    page: object
    requests: list[str]
    errors: list[str]

    def elsewhere(self) -> list[str]:
        """The requests that went to another origin; what lies in the page itself (data:, blob:) is none."""
        own = urlsplit(self.page.url)[:2]
        return [url for url in self.requests if urlsplit(url)[:2] != own and not url.startswith(("data:", "blob:"))]

    def sideways(self) -> int:
        """By how many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def binary() -> str | None:
    """The browser's program."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def chromium():
    """The browser, started once a file: while it runs, Playwright's event loop keeps other tests from theirs."""
    library = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if not binary():
        pytest.skip("no chromium or google-chrome on the PATH")
    with library.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary(), args=ARGUMENTS, timeout=TIMEOUT)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open an address in a browser of its own (no cookies shared); settings: those of Playwright's new_context."""
    contexts = []

    def opened(address: str, width: int = 1000, height: int = 700, **settings) -> Visit:
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **settings))
        page, requests, errors = contexts[-1].new_page(), [], []
        page.set_default_timeout(TIMEOUT)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("response", lambda answer: errors.append(f"{answer.status} {answer.url}") if answer.status >= 400
                else None)
        page.goto(address)
        return Visit(page, requests, errors)

    yield opened
    for context in contexts:
        context.close()
