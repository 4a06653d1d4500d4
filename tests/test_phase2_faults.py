"""Phase-2 under faults: a real server on the loopback that misbehaves, bad rows and bad files. Nothing is lost."""

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import made_audio
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from click.testing import CliRunner
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.model import ModelOutput
from made_phase2 import INSPECT, choice_task, predictions, source
from test_phase2_tables import rows as table_rows

from perser.errors import UserError
from perser.phase2 import aggregate, models, report, runner, tasks, watch
from perser.phase2.cli import phase2

pytestmark = INSPECT
ROWS = 15


class Server(BaseHTTPRequestHandler):
    """Answers `a` unless the model's name says what goes wrong; counts what it is asked."""

    asked = Counter()  # noqa: RUF012 - shared on purpose
    over = threading.Event()
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault, text = body["model"], body["messages"][-1]["content"][-1]["text"]
        Server.asked[fault] += 1
        Server.asked[fault, text] += 1
        status, reply = 200, {"id": "1", "object": "chat.completion", "created": 0, "model": fault,
                              "choices": [{"index": 0, "finish_reason": "stop",
                                           "message": {"role": "assistant", "content": "a"}}],
                              "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        if fault == "down":
            status, reply = 500, {"error": {"message": "out of memory", "type": "server_error"}}
        elif fault == "busy" and Server.asked[fault, text] == 1:
            status, reply = 429, {"error": {"message": "slow down", "type": "rate_limit"}}
        elif fault == "refuses" or (fault == "partly" and "Wording 3" in text):
            status, reply = 400, {"error": {"message": "audio is too long for this model", "type": "invalid"}}
        elif fault == "overflows":
            status, reply = 400, {"error": {"message": "5000 tokens is too much", "code": "context_length_exceeded"}}
        elif fault == "empty":
            reply["choices"] = []
        elif fault == "long":
            reply["choices"][0]["finish_reason"] = "length"
        elif fault == "hangs":
            Server.over.wait(60)
        elif fault == "slow":
            time.sleep(0.2)
        content = b"{broken" if fault == "broken" else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(scope="module")
def server():
    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_):  # a client that gave up
            pass

    http = Quiet(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    Server.over.set()
    http.shutdown()
    http.server_close()


@pytest.fixture
def ask(server, tmp_path, monkeypatch):
    """Run a model of the server on ROWS rows; returns its records, its manifest and the seconds it took."""
    monkeypatch.setenv("LOOP_BASE_URL", server)
    monkeypatch.setenv("LOOP_API_KEY", "none")
    root = choice_task(tmp_path / "t", ["a", "b", "c"] * (ROWS // 3))
    loaded = tasks.load(root)[0]

    monkeypatch.setattr(watch, "GIVE_UP", 8)
    monkeypatch.setattr(runner, "RETRIES", 1)

    def run(fault, resume=False, timeout=20.0):
        start, name = time.monotonic(), f"openai-api/loop/{fault}"
        frame = runner.run(loaded, name, tmp_path / "o", source=source(root), timeout=timeout, resume=resume)
        return frame, runner.manifest(tmp_path / "o", name), time.monotonic() - start

    return run


@pytest.mark.parametrize(("fault", "words"), [
    ("down", "out of memory"), ("hangs", "exceeded"), ("broken", "the server sent '{broken'"), ("empty", "no choices"),
    ("refuses", "audio is too long"), ("overflows", "refused by the server: 5000 tokens is too much")])
def test_a_server_that_fails_ends_the_run_within_its_bound_and_says_why(ask, tmp_path, fault, words):
    timeout = 6.0
    frame, manifest, seconds = ask(fault, timeout=timeout)
    assert seconds < (watch.AT_ONCE / 20 + 1) * (2 * timeout + 30)
    assert len(frame) == 0 and manifest["missing"] == ROWS and manifest["without_answer"] == {"Choice_X": ROWS}
    assert any(words in error for error in manifest["errors"]), manifest["errors"]
    error, count = next(item for item in manifest["errors"].items() if words in item[0])
    assert "\n" not in error and sum(manifest["errors"].values()) == ROWS
    text = report.write(tmp_path / "o")
    assert f"{count} x {report.plain(error)}" in text and "nan" not in text.lower()


def test_after_failures_in_a_row_the_rest_is_not_asked(monkeypatch):
    """Eight failures, an answer, eight failures, and no more; models of this process are asked on."""
    monkeypatch.setattr(watch, "GIVE_UP", 8)
    outcomes = [False] * 7 + [True] + [False] * 8 + [True] * 4

    def answered(timeout):
        run, asked = watch.Watch("m", len(outcomes), timeout), []

        async def generate(state):
            asked.append(len(asked))
            if not outcomes[len(asked) - 1]:
                raise RuntimeError("no")
            return SimpleNamespace(output=ModelOutput.from_content("m", "a"))

        async def ask_all():
            for _ in outcomes:
                with contextlib.suppress(RuntimeError):
                    await run.ask(None, generate)

        asyncio.run(ask_all())
        return len(asked), run.answered, run.failed

    assert answered(5.0) == (16, 1, 15) and answered(None) == (20, 5, 15)


def test_a_server_that_recovers_loses_nothing(ask):
    frame, manifest, _ = ask("busy")
    wordings = 10  # the first question of each is turned away once
    assert len(frame) == ROWS and manifest["missing"] == 0 and Server.asked["busy"] == ROWS + wordings
    frame, manifest, _ = ask("slow")
    assert len(frame) == ROWS and manifest["errors"] == {}


def test_one_refused_wording_costs_its_rows_only_and_they_are_asked_again(ask):
    frame, manifest, _ = ask("partly")
    refused = 2  # rows 3 and 13
    assert len(frame) == ROWS - refused and manifest["missing"] == refused
    before = Server.asked["partly"]
    again, manifest, _ = ask("partly", resume=True)
    assert Server.asked["partly"] - before == refused and len(again) == ROWS - refused


def test_answers_that_the_limit_of_tokens_ended_are_counted(ask, tmp_path):
    frame, _, _ = ask("long")
    assert frame["truncated"].all() and not frame["cut"].any()
    counts = aggregate.counts(frame, aggregate.manifests(tmp_path / "o"))
    assert counts["truncated"].tolist() == [ROWS]


def test_progress_is_a_line_a_minute_without_a_terminal_and_in_place_on_one(monkeypatch):
    class Stream:
        def __init__(self, terminal):
            self.terminal, self.text = terminal, ""

        def isatty(self):
            return self.terminal

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    now = [0.0]
    monkeypatch.setattr(watch, "monotonic", lambda: now[0])
    shown = {}
    for terminal in (False, True):
        now[0], stream = 0.0, Stream(terminal)
        with (run := watch.Watch("m", 100, None, stream)).watching():
            for second in range(1, 151):
                now[0], run.answered = float(second), second // 2
                run.show()
        shown[terminal] = stream.text
    assert shown[False] == ("m: 30 of 100 questions, 0 failed, about 2 min left\n"
                            "m: 60 of 100 questions, 0 failed, about 80 s left\n")
    assert shown[True].count("\r") == 151 and "\n" not in shown[True] and shown[True].endswith("\r\x1b[K")


@pytest.fixture
def folder(tmp_path):
    """The data folder of a task whose rows 000 to 003 are good."""
    choice_task(tmp_path / "t", ["a", "b", "c", "a"])
    return tmp_path / "t" / "Choice" / "Choice_X" / "data"


def add(folder, **columns):
    """Add a row to a task."""
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file": "bad", "instruction": "The answer could be a, b, or c.", "label": "a"} | columns)
                   + "\n")


BAD = {"no samples": lambda path: sf.write(path, np.zeros(0), 16000), "empty": lambda path: path.write_bytes(b""),
       "text": lambda path: path.write_text("not found"),
       "header only": lambda path: path.write_bytes(b"RIFF" + bytes(40)),
       "half": lambda path: path.write_bytes((path.parent / "0.wav").read_bytes()[:500]),
       "nan": lambda path: sf.write(path, np.full(100, np.nan), 16000, subtype="FLOAT"), "absent": lambda path: None}


@pytest.mark.parametrize("fault", BAD)
def test_a_file_that_cannot_be_decoded_costs_its_row_and_is_named_at_load(folder, tmp_path, fault):
    BAD[fault](folder / "bad.wav")
    add(folder, audio="bad.wav")
    [task], [problem] = tasks.load(tmp_path / "t")
    assert [row.id for row in task.rows] == ["000", "001", "002", "003"] and task.skipped == 1
    assert "line 5" in problem and "'bad.wav'" in problem and "\n" not in problem


@pytest.mark.parametrize(("audio", "words"), [(None, "audio is empty"), ("../t/x.wav", "leaves the data folder"),
                                              ({"bytes": None, "path": "x.wav"}, "is not in")])
def test_a_row_without_its_audio_is_named_and_not_asked_as_text(folder, tmp_path, audio, words):
    add(folder, audio=audio)
    [task], [problem] = tasks.load(tmp_path / "t")
    assert len(task.rows) == 4 and words in problem


@pytest.mark.parametrize("suffix", [".m4a", ".aac", ".webm"])
def test_audio_that_only_ffmpeg_reads_reaches_models_as_wav(folder, tmp_path, suffix):
    made_audio.tone(folder / f"bad{suffix}", seconds=1.0)
    add(folder, audio=f"bad{suffix}")
    [task], problems = tasks.load(tmp_path / "t", cache_dir=tmp_path / "cache")
    [path] = task.rows[-1].audios
    assert problems == [] and sf.info(path).format == "WAV" and sf.info(path).duration == pytest.approx(1, abs=0.15)
    assert [file.suffix for file in (tmp_path / "cache").rglob("*") if file.is_file()] == [".wav"]


def test_no_half_written_file_stays_in_the_cache(folder, tmp_path):
    add(folder, audio={"bytes": b"RIFFx".hex(), "path": "x.wav"} | {"bytes": None})
    (folder / "bad.mp3").write_bytes(b"ID3" + bytes(200))
    add(folder, file="worse", audio="bad.mp3")
    assert len(tasks.load(tmp_path / "t", cache_dir=tmp_path / "cache")[1]) == 2
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_the_report_counts_what_was_left_out_and_shows_no_nan(folder, tmp_path):
    add(folder, audio="absent.wav")
    file = predictions(tmp_path / "p.json", ["a"] * 3, ["a", "?", "c"])
    loaded = tasks.load(tmp_path / "t")[0]
    runner.run(loaded, f"replay/{file}", tmp_path / "o", source=source(tmp_path / "t"))
    runner.run(loaded, "majority", tmp_path / "o", source=source(tmp_path / "t"))
    text = report.write(tmp_path / "o", "majority")
    counts = pd.read_csv(tmp_path / "o" / "rows.csv").set_index("model")
    row = counts.loc[report.plain(f"replay/{file}")]
    assert row[["answered", "none", "missing", "skipped", "ungraded"]].tolist() == [2, 1, 1, 1, 0]
    assert counts.loc["majority", ["answered", "none", "missing", "skipped"]].tolist() == [4, 0, 0, 1]
    assert "1 x" in text and "no entry for ?003? of Choice_X" in text and "nan" not in text.lower()


def test_models_are_compared_on_the_rows_that_both_answered(folder, tmp_path):
    """The model answers four of six rows, all right; the reference has two of those and the other two right."""
    root = choice_task(tmp_path / "six", ["a", "b", "c", "a", "b", "c"])
    some = predictions(tmp_path / "some.json", list("abca"), list("abca"))
    other = predictions(tmp_path / "all.json", list("abcabc"), list("abbbbc"))
    loaded = tasks.load(root)[0]
    for file in (some, other):
        runner.run(loaded, f"replay/{file}", tmp_path / "o", source=source(root))
    frame = aggregate.read(tmp_path / "o")
    [row] = aggregate.domains(frame, f"replay/{other}", resamples=0).to_dict("records")
    assert row["mean"] == (4 - 2) / 2
    [row] = aggregate.differences(frame, f"replay/{other}").to_dict("records")
    assert (row["rows"], row["difference"]) == (4, 0.5) and 0 <= row["low"] <= 0.5 <= row["high"] <= 1


def test_paired_intervals_are_those_of_the_differences(tmp_path):
    """A model that is better by the same on every row differs for certain, however uncertain both scores are."""
    labels = [str(i) for i in range(12)]
    frame = pd.concat([table_rows("m", "S", "MAE", labels, [i + 1.0 for i in range(12)], kind="regression"),
                       table_rows("r", "S", "MAE", labels, [i + 3.0 for i in range(12)], kind="regression")])
    [row] = aggregate.differences(frame.assign(truncated=False, cut=False), "r").to_dict("records")
    assert (row["difference"], row["low"], row["high"], row["higher"]) == (-2, -2, -2, False)


def test_two_names_never_share_a_folder():
    names = ["openai/a/b", "openai/a_b", "openai_a_b", "openai/a:b", "openai/a//b", "x" * 101, "y" + "x" * 100]
    assert len({runner.slug(name) for name in names}) == len(names) and runner.slug("majority") == "majority"
    assert all("/" not in runner.slug(name) and len(runner.slug(name)) < 120 for name in names)


@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.csv"])
def test_predictions_are_read_by_the_organisers_key_and_by_file(tmp_path, name):
    root = choice_task(tmp_path / "t", ["a", "b", "c", "a"])
    rows = [{"file": f"Choice_X_{i:03d}.wav", "sllm_response": answer} for i, answer in enumerate("ab")]
    rows += [{"file": f"{i:03d}", "sllm_response": answer} for i, answer in ((2, "c"), (3, "a"))]
    texts = {"p.json": json.dumps({row["file"]: row for row in rows}), "p.jsonl": "\n".join(map(json.dumps, rows)),
             "p.csv": "file,sllm_response\n" + "".join(f"{row['file']},{row['sllm_response']}\n" for row in rows)}
    (tmp_path / name).write_text(texts[name])
    frame = runner.run(tasks.load(root)[0], f"replay/{tmp_path / name}", tmp_path / "o", source=source(root))
    assert frame["answer_read"].tolist() == frame["labels"].tolist() and len(frame) == 4
    folder = tmp_path / "o" / runner.slug(f"replay/{tmp_path / name}") / "predictions"
    assert list(json.loads((folder / "Choice_X.json").read_text())) == [row["file"] for row in rows]


def test_a_model_of_ours_writes_the_organisers_keys(tmp_path):
    root = choice_task(tmp_path / "t", ["a", "b"])
    runner.run(tasks.load(root)[0], "oracle", tmp_path / "o", source=source(root))
    written = json.loads((tmp_path / "o" / "oracle" / "predictions" / "Choice_X.json").read_text())
    assert {key: entry["sllm_response"] for key, entry in written.items()} == {
        "Choice_X_000.wav": "a", "Choice_X_001.wav": "b"}


@pytest.mark.parametrize(("text", "words"), [
    ('{"000": {"sllm_response": "a"}, "000": {"sllm_response": "b"}}', "'000' occurs twice"),
    ("[1]", "not a dictionary"),
    ('{"000": "a"}', "not a dictionary"), ("{", "not a prediction file"), ("[" * 9999, "not a prediction file")])
def test_a_bad_prediction_file_is_one_line_alone_and_in_a_folder(tmp_path, text, words):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "p.json").write_text(text)
    for path in (tmp_path / "f" / "p.json", tmp_path / "f"):
        with pytest.raises(UserError, match=words) as error:
            models.read_predictions(path)
        assert "p.json" in str(error.value) and "\n" not in str(error.value)


def test_answers_that_are_no_text_are_read_as_text(tmp_path):
    root = choice_task(tmp_path / "t", ["a", "b", "c"])
    (tmp_path / "p.json").write_text(json.dumps({
        "000": {"sllm_response": ["a"]}, "001": {"sllm_response": {"answer": "b"}}, "002": {"sllm_response": 3}}))
    frame = runner.run(tasks.load(root)[0], f"replay/{tmp_path / 'p.json'}", tmp_path / "o", source=source(root))
    assert frame["answer_read"].tolist() == ['["a"]', '["b"]', "null"]


def test_null_lists_and_a_repeated_data_set_are_one_line_each(tmp_path):
    for name, labels in (("one", "ab"), ("two", "ab"), ("three", "bb")):
        choice_task(tmp_path / "t" / name, labels)
        path = tmp_path / "t" / name / "Choice" / "Choice_X" / "instance.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"keywords": None, "metrics": [None, "accuracy"]}))
    loaded, problems = tasks.load(tmp_path / "t")
    assert [(task.instance, task.metrics) for task in loaded] == [
        ("Choice_X", ("accuracy",)), ("Choice_X-2", ("accuracy",))]
    assert len(problems) == 2 and "left out" in problems[1] and "evaluated as Choice_X-2" in problems[0]


def test_list_tells_missing_data_from_an_unknown_data_set(folder, tmp_path):
    for name in ("SarcasmDetection_Mustard", "StressDetection_MIRSD"):
        target = tmp_path / "t" / name / name / "instance.json"
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps({"name": name, "path": f"DynamicSuperb/{name}", "metrics": ["accuracy"]}))
    result = CliRunner().invoke(phase2, ["--list", "--tasks", str(tmp_path / "t"), "--out", str(tmp_path / "o")])
    lines = [line for line in result.output.splitlines() if "data missing" in line]
    assert len(lines) == 2 and "2 groups lack only the data" in result.output
    assert any("SarcasmDetection_Mustard" in line and "semantics" in line for line in lines)


def test_reports_are_rebuilt_and_joined_without_a_model(tmp_path):
    root = choice_task(tmp_path / "t", ["a", "b", "a", "c"])
    loaded = tasks.load(root)[0]
    for name in ("oracle", "majority"):
        runner.run(loaded, name, tmp_path / name, source=source(root))
    both = ["report", str(tmp_path / "oracle"), str(tmp_path / "majority")]
    assert CliRunner().invoke(phase2, both).exit_code == 2
    result = CliRunner().invoke(phase2, [*both, "--out", str(tmp_path / "o"), "--reference", "majority", "--scores"])
    assert result.exit_code == 0, result.output
    assert set(aggregate.read(tmp_path / "o")["model"]) == {"oracle", "majority"} and "| oracle" in result.output
    assert json.loads((tmp_path / "o" / "scores" / "oracle.json").read_text()) == [{"name": "Choice_X", "scores": [
        {"metric": "accuracy", "value": 1.0, "version": "local", "seen": False}]}]
    again = CliRunner().invoke(phase2, ["report", str(tmp_path / "o"), "--reference", "majority"])
    assert again.output == result.output.split(str(tmp_path))[0]
    runner.run(loaded, "majority", tmp_path / "x", source=source(root) | {"limit": 2})
    frame = pd.read_parquet(tmp_path / "x" / "majority" / "records.parquet")
    frame.assign(answer_read='["c"]').to_parquet(tmp_path / "x" / "majority" / "records.parquet")
    with pytest.raises(UserError, match=r"records\.parquet: damaged, its digest has changed; .*--resume"):
        aggregate.read(tmp_path / "x", tmp_path / "majority")
    (tmp_path / "x" / "majority" / "manifest.json").unlink()
    with pytest.raises(UserError, match="majority has two answers"):
        aggregate.read(tmp_path / "x", tmp_path / "majority")


def test_a_toml_names_models_with_arguments_settings_and_prices(tmp_path):
    root = choice_task(tmp_path / "t", ["a", "b"])
    (tmp_path / "models.toml").write_text('[random]\nargs = { seed = 5 }\ngenerate = { max_tokens = 7 }\n'
                                          "price = [10, 1000]\n")
    command = ["--tasks", str(root), "--models", str(tmp_path / "models.toml"), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(phase2, [*command, "--model-arg", "batch_size=1", "--generate", "temperature=0.5"])
    assert result.exit_code == 0, result.output
    manifest = runner.manifest(tmp_path / "o", "random")
    assert manifest["args"] == {"seed": 5, "batch_size": 1}
    assert manifest["generate"] == {"max_tokens": 7, "temperature": 0.5}
    seconds, words = 2 * 800 / 16000, 2 * len("Wording 0. The answer could be a, b, or c.") / 4
    cost = ((words + 25 * seconds) * 10 + 2 * 7 * 1000) / 1e6
    assert f"random: 2 questions, 0 s of audio, about {words + 25 * seconds:.0f} tokens in" in result.output
    assert f"at most 14 out, at most ${cost:.2f}; how long is not known yet" in result.output
    again = CliRunner().invoke(phase2, [*command, "--resume"])
    assert "at the speed of the last run" in again.output
    for options, words in ((["--generate", "max_token=3"], "max_token"), (["--model-arg", "seat=3"], "seat"),
                           (["--model-arg", "seed"], "KEY=VALUE")):
        failed = CliRunner().invoke(phase2, [*command[:-1], str(tmp_path / "p"), *options])
        assert isinstance(failed.exception, UserError) and words in str(failed.exception)


def test_scores_of_an_earlier_version_are_read_again(tmp_path):
    """Logs of before called `answer_read` by another name."""
    root = choice_task(tmp_path / "t", ["a", "b"])
    loaded = tasks.load(root)[0]
    before = runner.run(loaded, "oracle", tmp_path / "o", source=source(root))
    [path] = (tmp_path / "o" / "oracle" / "logs").glob("*.eval")
    log = read_eval_log(str(path))
    for sample in log.samples:
        for score in sample.scores.values():
            score.metadata["said"] = score.metadata.pop("answer_read")
    write_eval_log(log, str(path))
    again = runner.run(loaded, "oracle", tmp_path / "o", source=source(root), resume=True)
    pd.testing.assert_frame_equal(again, before)
