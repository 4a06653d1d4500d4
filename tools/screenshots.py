"""Screenshots for the README: `python tools/screenshots.py app TEAM AUDIO LISTENER` and `... report TEAM`.

TEAM is a folder of `perser personalise`. The page's answers are what LISTENER rated there, and for other clips what
most listeners did. Needs a Chromium or Chrome on the PATH.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from perser import by_ear
from perser.corpora import schema

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from browser import ARGUMENTS, TIMEOUT, binary  # noqa: E402

SHOTS, TESTED = 10, 20
MOST = 300_000  # bytes of a picture


def answers(team: Path, audio: Path, listener: str) -> dict[str, str]:
    """The first class that the listener ticked in each clip, or else most did, by the clip's number in the page."""
    table, heard = schema.read(team / "ratings.csv"), {}
    for rating, on in zip(table.ratings, table.ticks):
        if on:
            heard.setdefault(rating.clip, {})[rating.listener] = min(on)
    names = {clip: number for number, clip in enumerate(by_ear.files(audio))}
    return {f"clips/{names[clip]}": by.get(listener) or Counter(by.values()).most_common(1)[0][0]
            for clip, by in heard.items()}


def rate(page: Page, address: str, labels: dict[str, str]) -> None:
    """Rate SHOTS + TESTED clips; the last one's predictions stay shown."""
    page.goto(address)
    page.fill("#name textarea", "Ann")
    page.press("#name textarea", "Enter")
    last = None
    for number in range(SHOTS + TESTED):
        page.wait_for_function("last => document.querySelector('#play audio')?.getAttribute('src') !== last"
                               " && document.activeElement === document.querySelector('#ticks input')", arg=last)
        last = page.get_attribute("#play audio", "src")
        page.get_by_role("checkbox", name=labels[last], exact=True).check()
        page.click("#answer")
        if number >= SHOTS:
            page.wait_for_selector("#reveal table")
        if SHOTS <= number < SHOTS + TESTED - 1:
            page.click("#answer")


def app(browser, team: Path, audio: Path, listener: str, out: Path) -> None:
    """The page after SHOTS + TESTED answers."""
    folder = ROOT / "out" / "screenshots"  # the features stay there for the next time
    shutil.rmtree(folder / "ratings", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("w") as log:
        command = ["-m", "perser", "app", "--model", team, "--audio", audio, "--ratings", team / "ratings.csv", "--out",
                   folder, "--shots", SHOTS, "--port", 0]
        server = subprocess.Popen([sys.executable, *map(str, command)], stdout=log, stderr=log)
        try:
            while not (line := re.search(r"http://\S+", (folder / "log").read_text())):
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
            page = browser.new_page(viewport={"width": 1000, "height": 700}, device_scale_factor=1.5)
            rate(page, line[0], answers(team, audio, listener))
            page.wait_for_function("document.querySelector('#play audio').ended")
            page.screenshot(path=out, full_page=True)
        finally:
            server.kill()
            server.wait()


def report(browser, team: Path, out: Path) -> None:
    """The top of the report."""
    page = browser.new_page(viewport={"width": 1000, "height": 700}, device_scale_factor=1.5)
    page.goto((team / "report.html").resolve().as_uri())
    page.screenshot(path=out)


def main() -> None:
    """Write figures/app/page.png or figures/app/report.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["app", "report"])
    parser.add_argument("team", type=Path)
    parser.add_argument("audio", type=Path, nargs="?")
    parser.add_argument("listener", nargs="?")
    given = parser.parse_args()
    if given.what == "app" and not given.listener:
        parser.error("app: give TEAM, AUDIO and LISTENER")
    out = ROOT / "figures" / "app" / f"{'page' if given.what == 'app' else 'report'}.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary(), args=ARGUMENTS, timeout=TIMEOUT)
        if given.what == "app":
            app(browser, given.team, given.audio, given.listener, out)
        else:
            report(browser, given.team, out)
    print(f"{out}: {out.stat().st_size // 1000} kB" + " (more than 300 kB)" * (out.stat().st_size > MOST))


if __name__ == "__main__":
    main()
