"""What a terminal sees of real processes: signals, kills, progress, first words, odd paths, narrow tables."""

import hashlib
import http.server
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import perser
from perser import terminal
from perser.cli import main

ROOT = Path(perser.__file__).parents[1]
COMMANDS = [*main.commands, "models get"]
PERSER = [sys.executable, "-m", "perser"]
# Long enough to be stopped anywhere; every part takes a moment.
SLOW = ["--upstream", "logmel", "--jobs", "2", "--set", "seeds=[0, 1, 2, 3]", "--set", "groups=3"]
RUN = ["--set", "shots=3", "--set", "draws=2", "--set", "dev_draws=2", "--set", "base.hidden=16",
       "--set", "base.epochs=5"]
STARTED: list[subprocess.Popen] = []
LATEST = 8  # seconds to the end of a stopped command: it takes one or two on a machine with nothing else to do


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """Tones of five sessions, and 8 listeners who each rate 40 of the 60; ratings.csv and audio."""
    place, draw = tmp_path_factory.mktemp("team"), np.random.default_rng(0)
    (place / "audio").mkdir()
    for i in range(60):
        soundfile.write(place / "audio" / f"c{i}.wav", 0.3 * np.sin(np.arange(3200) * (20 + i) / 300), 16000)
    rows = [f"c{i}.wav,L{k},{draw.choice(['happy', 'sad', 'angry'])},{i % 5 + 1}"
            for k in range(8) for i in draw.choice(60, 40, replace=False)]
    (place / "ratings.csv").write_text("clip,listener,label,session\n" + "\n".join(rows) + "\n")
    return place


def heard():
    """A job in the background of a shell ignores Ctrl-C; a command that somebody watches does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(words, code=None, umask=-1, **variables):
    """A command in a process group of its own, as a terminal starts it."""
    begin = PERSER if code is None else [sys.executable, "-c", code]
    child = subprocess.Popen([*begin, *map(str, words)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, start_new_session=True, umask=umask, preexec_fn=heard,
                             env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables)
    STARTED.append(child)
    return child


@pytest.fixture(autouse=True)
def nothing_left():
    """End what a failed test has started."""
    yield
    while STARTED:
        child = STARTED.pop()
        for process in group(child.pid):
            os.kill(process, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        child.stderr.close()


def group(number):
    """The living processes of a session, but for joblib's tracker of shared memory, which ends by itself."""
    living = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (place / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == number and state != "Z" and "resource_tracker" not in (place / "cmdline").read_text():
                living.append(int(place.name))
        except OSError:
            continue
    return living


def gone(number, seconds=5):
    """Whether no process of a session is left, now or soon."""
    deadline = time.monotonic() + seconds
    while group(number) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not group(number)


def until(condition, process, seconds=300):
    """Wait for a condition while a process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers(process):
    return [child for child in group(process.pid) if child != process.pid]


def run_words(team, out):
    toml = out.parent / "small.toml"
    toml.write_text('[methods]\nssl-e = { kind = "ssl-e" }\nprior-shift = { kind = "prior-shift" }\n'
                    'fine-tuning = { kind = "finetune", inner_lr_grid = [0.1], inner_steps_grid = [3] }\n')
    return ["run", toml, "--corpus", "table", "--root", team, "--out", out, *SLOW, *RUN]


def search_words(team, out):
    folder = out.parent / "search"
    folder.mkdir(exist_ok=True)
    (folder / "methods.toml").write_text('shots = [3]\ngroups = 3\n[methods.maml]\nkind = "maml"\n')
    (folder / "search.toml").write_text(
        'experiment = "methods"\n[corpora.table]\n[methods.maml]\ntrials = 9\n'
        "[methods.maml.space]\nouter_lr = {low = 1e-3, high = 1e-1}")
    return ["search", folder / "search.toml", "--root", f"table={team}", "--upstream", "logmel", "--jobs", "2",
            "--out", out]


def personalise_words(team, out):
    return ["personalise", team / "ratings.csv", team / "audio", "--out", out, *SLOW]


@pytest.mark.parametrize("words, number, pattern, kept", [
    (run_words, signal.SIGINT, "parts/*/records.parquet", "what is computed is kept, and the same command goes on"),
    (run_words, signal.SIGTERM, "parts/*/model.json", "what is computed is kept, and the same command goes on"),
    (search_words, signal.SIGINT, "out/table/parts/*", "what is computed is kept, and the same command goes on"),
    (personalise_words, signal.SIGINT, "out/work/parts/*/records.parquet",
     "what is computed is kept, and the same command goes on"),
    (lambda team, out: ["synth", out, "--clips", "5000"], signal.SIGINT, "out/.unfinished/**/*.wav",
     "nothing is kept, and the same command begins anew")],
    ids=["run", "run, SIGTERM", "search", "personalise", "synth"])
def test_a_signal_ends_a_command_and_tells_what_is_kept(team, tmp_path, words, number, pattern, kept):
    """The signal goes to all processes, as from a keyboard; none is left, and standard error ends in that line."""
    child = started(words(team, tmp_path / "out"))
    until(lambda: next(tmp_path.glob(pattern), None), child)
    assert workers(child)
    os.killpg(child.pid, number)
    began = time.monotonic()
    child.wait(timeout=60)
    seconds, (_, err) = time.monotonic() - began, child.communicate()
    assert child.returncode == 128 + number and seconds < LATEST, err
    assert err.splitlines()[-1] == f"perser: stopped; {kept}" and "Traceback" not in err, err
    assert gone(child.pid)


SERVED = """
import sys
from perser.corpora import base, ravdess
source = base.Source(sys.argv.pop(1), "a.zip", 9_000_000, members="x", count=1)
ravdess.RELEASE = base.Release("", (source,))
from perser.cli import main
main()
"""


class Endless(http.server.BaseHTTPRequestHandler):
    """Sends a little and then waits."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 100_000)
        time.sleep(60)

    def log_message(self, *arguments):
        pass


def test_a_stopped_download_is_kept(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    child = started([f"http://127.0.0.1:{server.server_port}/a", "fetch", "ravdess", tmp_path, "--yes"], SERVED)
    until(lambda: (tmp_path / "a.zip.part").exists(), child)
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert err.splitlines()[-1] == "perser: stopped; downloads are kept, and the same command goes on"
    assert (tmp_path / "a.zip.part").exists()
    server.shutdown()
    server.server_close()


def test_a_killed_run_leaves_nothing_and_a_killed_worker_is_one_line(team, tmp_path):
    """Workers end with their parent, even before they have loaded anything. Without a worker: a line with the remedy,
    and the same command goes on.
    """
    words = run_words(team, tmp_path / "out")
    child = started(words)
    until(lambda: len(workers(child)) >= 2, child)
    child.kill()  # the parent alone, while the workers import torch
    child.communicate()
    deadline = time.monotonic() + 5
    while group(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group(child.pid)
    child = started(words)
    until(lambda: next(tmp_path.glob("parts/*/records.parquet"), None), child)
    os.kill(workers(child)[0], signal.SIGKILL)
    out, err = child.communicate(timeout=60)
    lines = [line for line in err.splitlines() if "reading" not in line and not line.endswith(" left")]
    assert child.returncode == 1 and not out and len(lines) == 1, err
    assert "--jobs 1: what is computed is kept" in lines[0]
    assert not (tmp_path / "out" / "config.json").exists()
    done = list(tmp_path.glob("parts/*/records.parquet"))
    before = [path.stat().st_mtime_ns for path in done]
    other = started([*words, "--set", "seeds=0", "--set", "folds=1", "--jobs", "1"])  # another run: nothing claims OUT
    out, err = other.communicate(timeout=500)
    assert other.returncode == 0 and "Log loss" in out, err
    assert [path.stat().st_mtime_ns for path in done] == before
    refused = started([*words, "--set", "seeds=1"])
    assert "another `folds`" in refused.communicate()[1] and refused.returncode == 1
    report(tmp_path / "out", tmp_path)
    screen(tmp_path / "out", [*words, "--set", "seeds=0", "--set", "folds=1"])


def report(run, folder):
    """Its files are the same under another locale, time zone, umask and matplotlibrc."""
    (folder / "rc").mkdir()
    (folder / "rc" / "matplotlibrc").write_text("font.size: 31\nsavefig.dpi: 30\naxes.grid: True\n")
    plain = started(["report", run, "--out", folder / "plain"])
    odd = started(["report", run, "--out", folder / "odd"], TZ="Asia/Kathmandu", LC_ALL="C", LANG="de_DE.UTF-8",
                  MATPLOTLIBRC=str(folder / "rc"), umask=0o77)
    for process in (plain, odd):
        assert process.communicate()[1] in ("", "perser: report begins\n") and process.returncode == 0

    def contents(place):
        return {path.relative_to(place): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in place.rglob("*") if path.is_file()}

    assert contents(folder / "plain") == contents(folder / "odd") and contents(folder / "plain")


def screen(run, words):
    """On a terminal of 80 columns the run's table is narrow and names the whole."""
    text = on_a_terminal(words)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80, text
    assert any("Gain, log loss" in line for line in lines) and f"perser report {run}" in re.sub(r"\n +", " ", text)


def on_a_terminal(words):
    """What a command writes to a terminal of 80 columns."""
    control, end = pty.openpty()
    child = subprocess.Popen([*PERSER, *map(str, words)], cwd=ROOT, stdout=end, stderr=end, close_fds=True,
                             env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "OMP_NUM_THREADS": "1"})
    os.close(end)
    blocks = []
    try:
        while block := os.read(control, 65536):
            blocks.append(block)
    except OSError:  # the other end is closed
        pass
    os.close(control)
    assert child.wait() == 0, b"".join(blocks)
    return b"".join(blocks).decode().replace("\r\n", "\n").rpartition("\r")[2]


@pytest.mark.parametrize("words", [["show", "table", "--root"], ["claims"]], ids=lambda words: words[0])
def test_tables_fit_a_terminal_of_80_columns(team, words):
    lines = on_a_terminal([*words, team] if words[0] == "show" else words).splitlines()
    assert len(lines) > 5 and max(map(len, lines)) <= 80, max(lines, key=len)


LOADED = """
import sys
from perser.cli import main
try:
    main.main(sys.argv[1:])
finally:
    print(sorted({'torch', 'pandas', 'transformers', 'matplotlib', 'tabulate'} & set(sys.modules)), file=sys.stderr)
"""


def test_help_loads_nothing_heavy_and_show_no_torch(team):
    code = ("import sys\nfrom perser.cli import main\nfor words in sys.argv[1:]:\n    try:\n"
            "        main.main([*words.split(), '--help'])\n    except SystemExit as stop:\n"
            "        assert not stop.code\n"
            "print(sorted({'torch', 'pandas', 'transformers', 'matplotlib', 'numpy', 'tabulate'} & set(sys.modules)),"
            " file=sys.stderr)")
    child = started(COMMANDS, code)
    out, err = child.communicate()
    assert child.returncode == 0 and err == "[]\n" and out.count("Usage: ") == len(COMMANDS)
    child = started(["show", "table", "--root", team], LOADED)
    assert child.communicate()[1] == "['pandas']\n" and child.returncode == 0


def test_help_comes_at_once():
    """Best of five in seconds of the processor, which other processes do not share."""
    code = ("import resource, subprocess, sys\nsubprocess.run([sys.executable, '-m', 'perser', '--help'], check=True,"
            " stdout=subprocess.DEVNULL)\nused = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "print(used.ru_utime + used.ru_stime)")
    assert min(float(started([], code).communicate()[0]) for _ in range(5)) < 0.5


PROGRESS = """
import sys, time
from perser import terminal
terminal.FIRST, terminal.EVERY = 0.2, 0.5
done = 0
with terminal.progress("main", 4, "parts", count=(lambda: done) if len(sys.argv) > 1 else None) as step:
    for number in range(4):
        time.sleep(0.4)
        done += 1
        step(1)
with terminal.progress("quick", 4, "parts") as step:
    step(4)
"""


@pytest.mark.parametrize("polled", [[], ["count"]], ids=["steps", "counted"])
def test_progress_without_a_terminal_is_a_line_now_and_then(polled):
    """After 0.2 s none of four is done; at 0.7 s one or two, with the time that is left; a quick one is silent."""
    out, err = started(polled, PROGRESS).communicate()
    lines = err.splitlines()
    assert not out and lines[0].startswith("perser: main: 0 of 4 parts, 00:00, ") and 2 <= len(lines) <= 6, err
    assert all(line.startswith("perser: main: ") and line.endswith(" left") for line in lines)
    done = [int(line.split()[2]) for line in lines]
    assert done == sorted(done) and 1 <= done[1] <= 3 and " left" in lines[1] and "? left" not in lines[1]


def test_long_commands_tell_what_they_do_before_they_load_anything():
    """The word is given before torch is imported, so that its import delays no word."""
    code = ("import sys\nfrom perser import cli, terminal\nterminal.SLOW = 0\n"
            "cli.doing = lambda what: print(what, sorted({'torch', 'pandas'} & set(sys.modules)))\ncli.main()")
    for words, told in ((["run", "nope", "--corpus", "emodb", "--root", ".", "--out", "x"], "reading emodb from ."),
                        (["personalise", "README.md", ".", "--out", "x"], "reading README.md"),
                        (["show", "nope", "--root", "."], "reading nope from ."), (["report", "no"], "report begins")):
        lines = started(words, code).communicate()[0].splitlines()
        assert f"{told} []" in lines


@pytest.mark.parametrize("change, value", [
    ("shots=5", (5,)), ("shots=[5, 7]", (5, 7)), ("seeds=0", (0,)), ("folds=2", (2,)), ("folds=paired", "paired"),
    ("test_inner_steps=3", (3,)), ("references=maml", ("maml",)), ("methods.fine-tuning.inner_lr_grid=0.1", (0.1,)),
    ("methods.maml.adapts=A", ("A",))])
def test_one_value_stands_for_a_list(change, value):
    from perser import experiment

    loaded = experiment.load(ROOT / "perser" / "experiments" / "main.toml", (change,))
    for key in change.partition("=")[0].split("."):
        loaded = loaded[key] if isinstance(loaded, dict) else getattr(loaded, key)
    assert loaded == value


@pytest.mark.parametrize("change, words", [
    ("shots=0", "shots.0: input should be greater than or equal to 1 (given: 0)"), ("shots=true", "shots: "),
    ("base.lr=fast", "base.lr: "), ("drawz=3", "unknown key drawz; the nearest valid key is draws"),
    ("methods.maml.epochs=-1", "methods.maml.epochs: ")])
def test_an_error_of_a_setting_names_the_flag_and_the_value(change, words):
    from perser import experiment
    from perser.errors import UserError

    with pytest.raises(UserError) as error:
        experiment.load(ROOT / "perser" / "experiments" / "main.toml", ("draws=2", change))
    assert str(error.value).startswith(f"--set {change}: ") and words in str(error.value)


NO_TEXT = b"no\xff utf".decode(errors="surrogateescape")


@pytest.mark.parametrize("name", [NO_TEXT, "it's \"so\" $(x)", "two\nlines", "  ", "ä…→"])
def test_odd_names_of_files_work_or_are_one_line(team, tmp_path, name):
    """In a process of ASCII alone, from reading a table to an error in one."""
    place = tmp_path / name
    place.mkdir()
    bad = place / f"{name}.csv"
    bad.write_text("clip,listener,label\nc0.wav,Ann…,\n")
    code = ("import sys\nfrom perser.cli import main\nfor words in (['show', 'table', '--root', sys.argv[1], "
            "'--option', f'ratings={sys.argv[2]}', '--export', sys.argv[3]], "
            "['personalise', sys.argv[3], sys.argv[1], '--out', sys.argv[4]], "
            "['adapt', '--model', sys.argv[4], '--ratings', sys.argv[3], '--audio', sys.argv[1], "
            "'--out', sys.argv[3]], "
            "['report', sys.argv[4], '--out', sys.argv[4]], ['claims', '--results', sys.argv[4]]):\n"
            "    sys.argv = ['perser', *words]\n    try:\n        main()\n    except SystemExit as stop:\n"
            "        print(stop.code, file=sys.stderr)\n")
    code = code.replace("sys.argv[", "given[").replace("import sys\n", "import sys\ngiven = sys.argv[:]\n", 1)
    process = started([team, team / "ratings.csv", bad, place], code, LC_ALL="C", PYTHONIOENCODING="ascii",
                      PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    _, err = process.communicate()
    assert "Traceback" not in err and process.returncode == 0, err
    lines = [line for line in err.splitlines()
             if not line.startswith("perser: reading") and not line.endswith(" begins")]
    assert [line for line in lines if line.isdigit()] == ["0", "2", "1", "1", "1"], err
    assert len(lines) == 10, err  # one a command, and its exit code


def test_a_broken_pipe_is_silent(team):
    child = subprocess.Popen([*PERSER, "show", "table", "--root", team], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT)
    child.stdout.close()  # before it writes, as `| head -0` does
    told = [line for line in child.stderr.read().splitlines() if not line.startswith(b"perser: reading")]
    assert not told and child.wait() == 1
    child.stderr.close()


def test_the_shell_completes_commands_and_options():
    for typed, word in (("perser per", "personalise"), ("perser show --thr", "--threshold")):
        words = typed.split()
        out, err = started([], None, _PERSER_COMPLETE="bash_complete", COMP_WORDS=typed,
                           COMP_CWORD=str(len(words) - 1)).communicate()
        assert f"plain,{word}" in out.splitlines() and not err


def test_one_is_no_plural():
    assert [terminal.counted(number, "rating") for number in (0, 1, 2)] == ["0 ratings", "1 rating", "2 ratings"]
