"""The page of `perser app`, and its server: one listener rates clips by ear; `perser.by_ear` does the rest.

The page keeps nothing: a session knows a listener's name and the clip that plays; everything else is read from disk.
"""

import io
import os
import re
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import soundfile

from perser import audio
from perser.analysis import verdicts
from perser.by_ear import LONGEST, Prediction, Study, cleaned, curve, standing
from perser.errors import UserError

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
try:
    import fastapi
    import gradio
    import uvicorn
except ImportError:
    raise UserError('the page needs the extra `app`: pip install "perser[app]"') from None

TEMPLATE: Any = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                              undefined=jinja2.StrictUndefined).from_string(
    Path(__file__).with_name("app.html").read_text(encoding="utf-8")).module
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# All that the page asks for. Gradio has more: uploads, files, an API and its documentation.
ASKED = re.compile(r"GET (/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/static/.+|/assets/.+|/clips/\d+"
                   r"|/gradio_api/(startup-events|queue/data|heartbeat/\w+))|POST /gradio_api/queue/join")
POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
          "img-src 'self' data:; font-src 'self' data:; frame-ancestors 'none'; form-action 'none'")
HEADERS = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "x-content-type-options": "nosniff",
           "cache-control": "no-store"}


class Session(NamedTuple):
    """One tab: who listens, which clip plays, and whether its predictions are shown."""

    name: str = ""
    clip: int | None = None
    revealed: bool = False


def wave(path: Path) -> bytes:
    """What the models hear of a clip, as a WAV file: no byte of the original, nor its name, goes to a browser."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.read(path), audio.RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


class Page:
    """The widgets of a study, and what happens to them."""

    def __init__(self, study: Study):
        """Lay out the page; `blocks` is what a server mounts."""
        self.study = study
        choices = [*study.classes, *filter(None, [study.none])]
        with gradio.Blocks(title="perser: which emotion do you hear?", analytics_enabled=False) as self.blocks:
            session = gradio.State(Session())
            html = partial(gradio.HTML, js_on_load=None, apply_default_css=False)
            html(str(TEMPLATE.top(study.trained.about["synthetic"], study.shots)), elem_id="top")
            with gradio.Column(elem_id="who") as who:
                name = gradio.Textbox(label="Your name", info="The same name goes on where it stopped.", elem_id="name",
                                      max_length=LONGEST, autofocus=True)
                start = gradio.Button("Start", variant="primary", elem_id="start")
            status = html("", html_template='<div role="status" aria-live="polite">${value}</div>', elem_id="status")
            with gradio.Column(visible=False, elem_id="rate") as rate:
                play = html("", elem_id="play")
                ticks = gradio.CheckboxGroup(choices, label="Tick all that you hear", elem_id="ticks")
                reveal = html("", elem_id="reveal")
                answer = gradio.Button("Keep my answer", variant="primary", elem_id="answer")
            findings = html("", elem_id="findings")
            save = gradio.Button("Save my model", visible=False, elem_id="save")
            self.parts = {"session": session, "who": who, "status": status, "rate": rate, "play": play,
                          "ticks": ticks, "reveal": reveal, "answer": answer, "findings": findings, "save": save}
            for trigger, call, inputs in (
                    (start.click, self.start, [name]), (name.submit, self.start, [name]),
                    (answer.click, self.answer, [session, ticks]), (save.click, self.save, [session])):
                trigger(partial(self.safely, call), inputs, [*self.parts.values()], show_progress="hidden",
                        api_visibility="private").then(None, js="() => perserGo()", api_visibility="private")

    def safely(self, call: Callable[..., Any], *inputs: Any) -> dict[str, Any]:
        """What a call changes, or its error in the status line; nothing else changes then."""
        try:
            changes = call(*inputs)
        except UserError as error:
            changes = {"status": str(TEMPLATE.status(str(error), wrong=True))}
        return {self.parts[name]: value for name, value in changes.items()}

    def start(self, name: str) -> dict[str, Any]:
        """Go on where a listener stopped."""
        name = self.study.spelt(cleaned(name))
        return self.shown(Session(name, self.study.next(self.study.read(name)))) | {"who": gradio.update(visible=False)}

    def answer(self, session: Session, ticked: list[str]) -> dict[str, Any]:
        """Keep an answer, before anything else; then show what was predicted, or play the next clip."""
        study = self.study
        if not session.name or session.clip is None:
            raise UserError("enter your name to go on")
        if not ticked or (study.none in ticked and len(ticked) > 1):
            raise UserError("tick what you hear" + (f", or {study.none} alone" if study.none else ""))
        study.keep(session.name, session.clip, tuple(known in ticked for known in study.classes))
        rated = study.read(session.name)
        if not session.revealed and len(study.before(rated, session.clip)) >= study.shots:
            return self.shown(session._replace(revealed=True), ticked)
        return self.shown(Session(session.name, study.next(rated)))

    def save(self, session: Session) -> dict[str, Any]:
        """Write the personal model."""
        path = self.study.save(session.name)
        return {"status": str(TEMPLATE.status(f"Saved. Use it: perser predict --model {path} *.wav", wrong=False))}

    def shown(self, session: Session, ticked: list[str] | None = None) -> dict[str, Any]:
        """The whole page of a session, from disk."""
        study, rated = self.study, self.study.read(session.name)
        used = study.before(rated)
        predictions: tuple[Prediction | None, Prediction | None] = (None, None)
        if session.revealed and session.clip is not None:
            predictions = study.predictions(study.before(rated, session.clip), session.clip)
        row = study.verdict(rated)
        better = row is not None and row["verdict"] == verdicts.BETTER
        reason = "" if row is None else verdicts.REASONS[row["reason"]]
        parts = {"status": TEMPLATE.status(standing(study, session.name, rated, session.revealed), wrong=False),
                 "play": TEMPLATE.play(session.clip),
                 "reveal": TEMPLATE.reveal(", ".join(ticked or ()), *predictions),
                 "findings": TEMPLATE.findings(curve(study.answers(rated), study.shots), row, better, reason,
                                               study.shots)}
        return {name: str(part).strip() for name, part in parts.items()} | {
            "session": session, "rate": gradio.update(visible=session.clip is not None),
            "ticks": gradio.update(value=ticked or []),
            "answer": "Confirm and go on" if session.revealed else "Keep my answer",
            "save": gradio.update(visible=len(used) >= study.shots)}


def application(study: Study) -> fastapi.FastAPI:
    """The page and its clips by number, as a web application that answers nothing else."""
    served = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @served.get("/clips/{number}")
    def clip(number: int) -> fastapi.Response:
        if number >= len(study.clips):
            raise fastapi.HTTPException(404)
        return fastapi.Response(wave(study.files[number]), media_type="audio/wav")

    theme = gradio.themes.Base(font=["sans-serif"], font_mono=["monospace"])
    gradio.mount_gradio_app(served, Page(study).blocks, path="/", footer_links=[], run_history=False, ssr_mode=False,
                            enable_monitoring=False, pwa=False, mcp_server=False, show_error=False, max_file_size=0,
                            theme=theme, head=str(TEMPLATE.head()))
    return served


def guarded(served: Callable[..., Any], hosts: tuple[str, ...]) -> Callable[..., Any]:
    """An application that answers only what the page asks, from its own origin; hosts: its names, any if none is given.

    A page elsewhere can neither post here nor, by a name that it points here, read.
    """

    async def answer(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            await served(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        own = (not hosts or host.rpartition(":")[0].strip("[]") in hosts) and origin in (None, f"http://{host}")
        asked = ASKED.fullmatch(f"{'GET' if scope['method'] == 'HEAD' else scope['method']} {scope['path']}")
        if not own or not asked:
            await fastapi.Response(status_code=404 if own else 403)(scope, receive, send)
            return

        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()),
                                      *((key.encode(), value.encode()) for key, value in HEADERS.items())]
            await send(message)

        await served(scope, receive, with_headers)

    return answer


def serve(study: Study, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; port 0 is any free one. Raises UserError where the port cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror or error}; give another --port") from None
    shown = f"[{host}]" if ":" in host else host
    hosts = (*LOOPBACK, host) if host in LOOPBACK else ()
    config = uvicorn.Config(guarded(application(study), hosts), log_level="warning", access_log=False,
                            timeout_graceful_shutdown=1)
    say(f"http://{shown}:{listening.getsockname()[1]}  (Ctrl-C stops; all ratings are in {study.out / 'ratings'})")
    uvicorn.Server(config).run(sockets=[listening])
