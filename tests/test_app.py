"""`perser app` as listeners use it: a real server and a real browser, by keyboard alone."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import torch
from made import CLASSES
from test_team import OVERRIDES

from perser import checkpoints, corpora, features, personal, team
from perser.corpora import schema

ROOT = Path(__file__).parents[1]
SHOTS, TESTED, CLIPS = 8, 20, 60
SWAP = {"angry": "happy", "happy": "angry", "neutral": "neutral", "sad": "sad"}
STARTS = 300  # seconds that a start may take on a busy machine


def heard(clip: int) -> str:
    """What most hear in a clip: by the pitch of its tone."""
    return CLASSES[clip % len(CLASSES)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with audio/, ratings.csv of seven listeners, one of whom swaps two classes, and a model of them."""
    root, draw, rows = tmp_path_factory.mktemp("app"), np.random.default_rng(0), []
    (root / "audio").mkdir()
    for clip in range(CLIPS):
        pitch = (200, 600, 1500, 4000)[clip % 4] * draw.uniform(0.9, 1.1)
        wave = 0.3 * np.sin(np.arange(4800) * 2 * np.pi * pitch / 16000) + draw.normal(0, 0.01, 4800)
        soundfile.write(root / "audio" / f"c{clip:02d}.wav", wave, 16000)
        for listener in ("A", "B", "C", "D", "E", "F", "swaps"):
            label = SWAP[heard(clip)] if listener == "swaps" else heard(clip)
            label = str(draw.choice(CLASSES)) if draw.random() < 0.1 else label
            rows.append(f"c{clip:02d}.wav,{listener},{label},{clip % 3 + 1}")
    (root / "ratings.csv").write_text("clip,listener,label,session\n" + "\n".join(rows) + "\n")
    corpus = corpora.load("table", root)
    extracted = features.of_corpus(corpus, "logmel", root / "features")
    prepared = team.prepare(corpus, (*OVERRIDES, "base.epochs=40"))
    plan = team.Plan(prepared.experiment, corpus, *extracted, root / "run")
    checkpoints.save(team.general(plan), root / "team" / "model")
    return root


def hears_control_c():
    """A job in the background of a shell ignores Ctrl-C; a command that somebody watches does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Server:
    """`perser app` in a process of its own; `address` is where."""

    def __init__(self, place: Path, *words: str):
        self.log = place / "server.log"
        command = [sys.executable, "-m", "perser", "app", "--model", place / "team", "--audio", place / "audio",
                   "--ratings", place / "ratings.csv", "--out", place / "out", "--shots", str(SHOTS), "--port", "0"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*map(str, command), *words], cwd=ROOT, stdout=log, stderr=log,
                                            preexec_fn=hears_control_c)
        end = time.monotonic() + STARTS
        while not (line := re.search(r"http://127\.0\.0\.1:\d+", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)
        self.address = line[0]

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def server(place):
    running = [Server(place)]
    yield running
    running[-1].stop(signal.SIGKILL)


class Listener:
    """Somebody at a page, who hears a clip as `hears` says and has nothing but a keyboard."""

    def __init__(self, visit, name, hears):
        self.visit, self.page, self.name, self.hears, self.given, self.last = visit, visit.page, name, hears, {}, None

    def start(self):
        self.page.wait_for_selector("#name textarea")
        self.page.wait_for_function("document.activeElement === document.querySelector('#name textarea')")
        self.page.keyboard.type(self.name)
        self.page.keyboard.press("Enter")
        self.last = None
        return self

    def clip(self) -> int:
        """The clip that plays, once it is there and the first box has the keyboard."""
        self.page.wait_for_function(
            "last => document.querySelector('#play audio')?.getAttribute('src') !== last"
            " && document.activeElement === document.querySelector('#ticks input')", arg=self.last)
        return int(self.page.get_attribute("#play audio", "src").removeprefix("clips/"))

    def tick(self, label: str):
        names = self.page.locator("#ticks label").all_inner_texts()
        for _ in range([name.strip() for name in names].index(label)):
            self.page.keyboard.press("Tab")
        self.page.keyboard.press("Space")

    def answer(self, label: str | None = None) -> str:
        """Rate a clip; returns the status before. Where predictions are shown, confirm."""
        clip = self.clip()
        before = self.page.inner_text("#status")
        label = label or self.hears(clip)
        self.tick(label)
        self.given[f"c{clip:02d}.wav"] = {label} & {*CLASSES}
        self.page.keyboard.press("Enter")
        self.last = f"clips/{clip}"
        return before

    def reveal(self) -> dict[str, str]:
        """The table of predictions, once it is shown and the button that goes on has the keyboard."""
        self.page.wait_for_selector("#reveal table")
        self.page.wait_for_function("document.activeElement === document.querySelector('#answer')")
        return dict(row.split("\t") for row in self.page.inner_text("#reveal table").splitlines() if "\t" in row)

    def confirm(self) -> dict[str, str]:
        shown = self.reveal()
        self.page.keyboard.press("Enter")
        return shown

    def kept(self, place) -> dict[str, set[str]]:
        """What is on disk for this name, by clip."""
        for file in (place / "out" / "ratings").glob("*.csv"):
            table = schema.read(file, CLASSES)
            if table.ratings[0].listener == self.name:
                return {rating.clip: on for rating, on in zip(table.ratings, table.ticks)}
        return {}


def expect_status(page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#status')?.innerText.includes(text)", arg=text)


def swapped(clip: int) -> str:
    return SWAP[heard(clip)]


def test_a_listener_who_swaps_two_classes_personalises_by_keyboard_alone(server, place, visit):
    ann = Listener(visit(server[-1].address), "Ann <b>B</b>", swapped).start()
    for number in range(SHOTS):
        assert f"clip {number + 1} of {SHOTS}." in ann.answer()
    expect_status(ann.page, f"Your model has learnt from {SHOTS} clips and now hears ")
    assert ann.page.locator("#findings svg").count() == 0
    for number in range(TESTED):
        ann.answer()
        assert set(ann.reveal()) == {"You heard", "Before: the general model", "After: your model"}
        shown, clip = ann.confirm(), int(ann.last.removeprefix("clips/"))
        if number >= 4:
            assert shown["After: your model"].startswith(swapped(clip)) and shown["You heard"] == swapped(clip)
            assert shown["Before: the general model"].startswith(heard(clip))
    expect_status(ann.page, f"Test clip {TESTED + 1}, Ann <b>B</b>.")
    findings = ann.page.inner_text("#findings")
    assert re.search(r"Verdict\s+better", findings) and f"of {TESTED} clips" in findings
    words = ann.page.get_attribute("#findings svg", "aria-label")
    assert words.startswith(f"After {TESTED} answers, the general model agrees with ")
    ann.clip()
    while ann.page.evaluate("document.activeElement.innerText") != "Save my model":
        ann.page.keyboard.press("Tab")
    ann.page.keyboard.press("Enter")
    expect_status(ann.page, "Saved.")
    assert ann.kept(place) == ann.given and len(ann.given) == SHOTS + TESTED

    saved = personal.load(next((place / "out" / "listeners").glob("ann_b*.safetensors")))
    assert saved.about["verdict"] == "better" and saved.about["listener"] == ann.name
    file = next((place / "out" / "ratings").glob("ann_b*.csv"))
    trained = checkpoints.load(place / "team" / "model")
    inputs, ticks = personal.read_ratings(file, place / "audio", CLASSES, ann.name)
    embedded = personal.embed(inputs, trained.about, trained.mean, trained.scale, place / "out" / "features")
    again = personal.adapted(trained, embedded, ticks)
    assert saved.about["shots"] == len(ticks) == SHOTS + TESTED
    for one, other in zip(again.head, saved.head):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert not ann.visit.errors and not ann.visit.elsewhere()
    assert not any("Ann" in url or "%3C" in url for url in ann.visit.requests)


def test_nothing_is_lost_by_a_slip_a_reload_or_a_killed_server(server, place, visit):
    cy = Listener(visit(server[-1].address), "Cy", heard).start()
    cy.clip()
    cy.page.keyboard.press("Enter")
    expect_status(cy.page, "tick what you hear, or None of these alone")
    cy.answer("None of these")
    for _ in range(SHOTS + 1):
        cy.answer()
    assert cy.reveal()["You heard"] == heard(int(cy.last.removeprefix("clips/")))
    cy.page.keyboard.press("Shift+Tab")  # None of these, beside the class
    cy.page.keyboard.press("Space")
    cy.page.keyboard.press("Enter")
    expect_status(cy.page, "tick what you hear, or None of these alone")
    cy.reveal()
    for _ in range(len(CLASSES) + 1 - CLASSES.index(heard(int(cy.last.removeprefix("clips/"))))):
        cy.page.keyboard.press("Shift+Tab")
    cy.page.keyboard.press("Space")  # the class is off again
    cy.page.keyboard.press("Enter")
    cy.given[f"c{int(cy.last.removeprefix('clips/')):02d}.wav"] = set()
    cy.answer()
    cy.reveal()
    assert cy.kept(place) == cy.given and len(cy.given) == SHOTS + 3
    assert next(iter(cy.kept(place).values())) == set()
    cy.page.reload()
    cy.start()
    cy.clip()
    expect_status(cy.page, "Test clip 2, Cy.")
    cy.answer()
    cy.reveal()  # shown, so kept
    server[-1].stop(signal.SIGKILL)
    assert cy.kept(place) == cy.given and len(cy.given) == SHOTS + 4
    server.append(Server(place))
    again = Listener(visit(server[-1].address), "cy", heard).start()
    again.clip()
    expect_status(again.page, "Test clip 3, Cy.")
    assert not again.visit.errors and not again.visit.elsewhere()


def test_two_listeners_at_once_and_two_tabs_of_one_do_not_mix(server, place, visit):
    address = server[-1].address
    di, ed, tab = (Listener(visit(address), name, hears).start() for name, hears in
                   (("Di", heard), ("Ed", swapped), ("Ed", swapped)))
    for _ in range(4):
        di.answer()
        ed.answer()
        tab.answer()
    for one in (di, ed, tab):
        one.clip()
    assert di.kept(place) == di.given and len(di.given) == 4
    assert ed.kept(place) == ed.given | tab.given and 4 <= len(ed.kept(place)) <= 8
    assert not any(one.visit.errors for one in (di, ed, tab))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_windows_labels_and_the_colours_of_the_system(server, visit, scheme):
    eve = Listener(visit(server[-1].address, 400, 800, color_scheme=scheme), f"Eve {scheme}", heard)
    page = eve.page
    page.wait_for_selector("#name textarea")
    assert page.get_by_label("Your name").count() == 1 and page.get_attribute("html", "lang") == "en"
    assert eve.visit.sideways() <= 0
    eve.start()
    for _ in range(SHOTS):
        eve.answer()
    for _ in range(2):
        eve.answer()
        eve.confirm()
    eve.answer()
    eve.reveal()
    assert eve.visit.sideways() <= 0 and page.locator("#findings svg").count() == 1
    assert page.get_by_role("group", name="Tick all that you hear").count() == 1
    for name in (*CLASSES, "None of these"):
        assert page.get_by_role("checkbox", name=name, exact=True).count() == 1
    assert page.get_by_role("status").count() >= 1 and page.get_by_role("heading", level=1).count() == 1
    assert page.get_attribute("#play audio", "aria-label")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(value => value < 60)")
    assert dark == (scheme == "dark")
    assert not eve.visit.errors and not eve.visit.elsewhere()


def test_the_server_answers_only_what_the_page_asks(server, place):
    with httpx.Client(base_url=server[-1].address, timeout=60) as ask:
        assert ask.get("/clips/0").content[:4] == b"RIFF" and ask.get("/").status_code == 200
        secret = place / "out" / "ratings"
        for path in ("/clips/60", "/clips/-1", "/clips/..%2fratings.csv", f"/gradio_api/file={place / 'ratings.csv'}",
                     f"/file={place / 'ratings.csv'}", f"/gradio_api/file/{secret}", "/static/..%2f..%2f__init__.py",
                     "/gradio_api/info", "/docs", "/openapi.json", "/monitoring", "/gradio_api/runs",
                     "/gradio_api/proxy=x/y"):
            assert ask.get(path).status_code in (403, 404), path
        assert ask.post("/gradio_api/upload", files={"files": b"x"}).status_code == 404
        assert ask.post("/gradio_api/run/answer", json={"data": []}).status_code == 404
        assert ask.get("/", headers={"host": "evil.example:80"}).status_code == 403
        assert ask.post("/gradio_api/queue/join", json={}, headers={"origin": "http://evil.example"}).status_code == 403
        assert "default-src 'self'" in ask.get("/").headers["content-security-policy"]


def test_a_taken_port_is_named_in_one_line_and_control_c_is_no_fault(server, place):
    port = server[-1].address.rpartition(":")[2]
    words = ["--model", place / "team", "--audio", place / "audio", "--out", place / "other", "--shots", "5"]
    done = subprocess.run([sys.executable, "-m", "perser", "app", *map(str, words), "--port", port], cwd=ROOT,
                          capture_output=True, text=True, timeout=STARTS, env=os.environ)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith("give another --port"), done.stderr
    assert server[-1].stop(signal.SIGINT) in (1, 130)
    assert "Traceback" not in server[-1].log.read_text()
