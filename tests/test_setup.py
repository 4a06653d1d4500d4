"""Set-up: one lock for all kinds of installation, and a script that reports what it cannot do."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PINNED = re.compile(r"^([a-z0-9.-]+)==(\S+) \\$", re.MULTILINE)


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    return dict(PINNED.findall((ROOT / "requirements.lock").read_text()))


def canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement).group()
    return re.sub(r"[-_.]+", "-", name).lower()


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, **options)


def test_every_line_of_the_lock_is_a_pin_or_a_hash():
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert PINNED.match(line) or re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line


def test_the_lock_holds_every_requirement_of_the_project(lock):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [
        name for extra in ("notebooks", "test", "reference") for name in extras[extra]
    ]
    for requirement in wanted:
        assert canonical(requirement) in lock, requirement
        if "==" in requirement:
            assert requirement.split("==")[1] == lock[canonical(requirement)]


def test_the_lock_is_closed_and_is_what_runs_here(lock):
    for name, version in lock.items():
        assert metadata.version(name) == version
        for requirement in metadata.requires(name) or []:
            if ";" not in requirement:
                assert canonical(requirement) in lock, f"{name} needs {requirement}"


def test_conda_environment_has_the_versions_of_the_lock(lock):
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    (installed,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert dict(pin.split("==") for pin in installed) == lock
    assert "python=3.12" in conda["dependencies"]


def test_conda_environment_names_what_is_installed_in_addition_to_the_lock(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from setup_env import MISTRAL

    pinned = [line.split()[0] for line in MISTRAL.splitlines()]
    assert len(pinned) == 3 and f"# pip install --no-deps {' '.join(pinned)}" in (ROOT / "environment.yml").read_text()
    for pin in pinned:
        name, version = pin.split("==")
        assert metadata.version(name) == version


def test_packages_are_newer_than_the_vulnerabilities_that_the_appendix_says_are_fixed():
    rows = re.findall(r"^\| (CVE-[\d-]+): .* \| (\w+) \| ([\d.]+) \| the lock is newer \|$",
                      (ROOT / "ARTIFACT.md").read_text(), re.MULTILINE)
    assert len(rows) == 3
    for name, package, fixed in rows:
        assert Version(metadata.version(package)) >= Version(fixed), name


@pytest.mark.parametrize("script", ["reproduce.sh", "tools/check_image.sh", ".ci/run"])
def test_scripts_parse_and_are_executable(script):
    assert run("bash", "-n", script).returncode == 0
    assert (ROOT / script).stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["help"], 0, "usage: ./reproduce.sh"),
        (["--help"], 0, "usage: ./reproduce.sh"),
        (["everything"], 2, "unknown command everything"),
        (["report", "now"], 2, "expected --upstream whisper-tiny.en or --upstream logmel, got 'now'"),
        (["--upstream"], 2, "expected --upstream whisper-tiny.en or --upstream logmel, got '--upstream'"),
        (["--upstream", "mfcc"], 2, "got '--upstream mfcc'; full takes any upstream"),
        (["test", "now"], 2, "test takes no arguments"),
        (["full"], 2, "full needs --corpus NAME and --root DIR"),
        (["full", "--corpus"], 2, "--corpus needs a value"),
        (["full", "--corpus", "iemocap", "--root", "/no/such/folder"], 2, "/no/such/folder is not a folder"),
        (["promote"], 2, "promote needs one finished run"),
        (["promote", "out/a/b/c"], 1, "out/a/b/c/DONE is missing"),
        (["check", "timit=/data"], 2, "no corpus 'timit'"),
    ],
)
def test_exit_codes_and_messages(arguments, status, message):
    done = run("bash", "reproduce.sh", *arguments)
    assert done.returncode == status
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_python_that_cannot_serve_is_named():
    done = run("bash", "reproduce.sh", "check", env={"PATH": "/usr/bin:/bin", "PERSER_PYTHON": "/bin/false"})
    assert done.returncode == 1
    assert "/bin/false is not a Python 3.11 or 3.12" in done.stderr


SET_UP = """
import pathlib, sys
sys.path.insert(0, "tools")
import setup_env
setup_env.LOG = pathlib.Path(sys.argv[1])
setup_env.call([sys.executable, "-c", sys.argv[2]])
"""
WRITER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
STARTER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WRITER!r}])"


@pytest.mark.parametrize("command", [WRITER, STARTER])
def test_no_set_up_starts_while_processes_of_a_killed_one_run(tmp_path, command):
    if command == WRITER and not shutil.which("setpriv"):
        pytest.skip("no setpriv (util-linux) on this machine: what is left holds the lock, as the other case shows")
    assert "tools/setup_env.py <&9" in (ROOT / "reproduce.sh").read_text()
    log, lock = tmp_path / "log", tmp_path / "lock"
    script = f'exec 9>"{lock}"; flock 9; exec "$@" <&9'
    killed = subprocess.Popen(["bash", "-c", script, "bash", sys.executable, "-c", SET_UP, log, command], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (log.exists() and (writer := re.search(r"^(\d+)\n", log.read_text(), re.MULTILINE))):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    if command == STARTER:  # only its own child could be taken with it
        assert run("flock", "--nonblock", lock, "true").returncode == 1
        os.kill(int(writer.group(1)), signal.SIGKILL)
    assert run("flock", "--timeout", "20", lock, "true").returncode == 0


def test_check_names_the_models_that_are_loaded():
    from perser.features import packaged
    from perser.features.upstreams import HUB

    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import check
    finally:
        sys.path.pop(0)
    assert {name: model[0] for name, model in HUB.items()} == check.HUB_MODELS
    assert packaged.folder("whisper-tiny.en").name == check.WHISPER


@pytest.mark.parametrize("driver, named", [("580.65.06", "  have  "), ("550.54.15", "  -     "), ("[N/A]", "  -     ")])
def test_check_does_not_count_a_driver_that_is_too_old_for_the_lock(tmp_path, driver, named):
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\necho 'NVIDIA A100, 81920 MiB, {driver}'\n")
    fake.chmod(0o755)
    done = run(sys.executable, ROOT / "tools" / "check.py",
               env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    [line] = [line for line in done.stdout.split("\n") if " GPU " in line]
    assert line.startswith(named) and ("driver 580 or newer is needed" in line) == (named != "  have  ")


def test_what_set_up_installs_is_checked_against_hashes(monkeypatch):
    """All but what it built itself: the wheel of learn2learn, from a source with a hash, and the project."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    from setup_env import BUILD_TOOLS

    text = (ROOT / "tools" / "setup_env.py").read_text()
    calls = re.findall(r"^    pip\(\"(?:install|download)\".*", text, re.MULTILINE)
    free = [call for call in calls if "--require-hashes" not in call and "*sdist" not in call]
    assert len(calls) == 6 and len(free) == 2 and "learn2learn-*.whl" in free[0] and "--editable" in free[1]
    assert "sdist = " in text and "--require-hashes -r sdist.txt" in text
    pinned = [line.split() for line in BUILD_TOOLS.strip().split("\n")]
    assert all(re.fullmatch(r"[A-Za-z-]+==[0-9.]+", name) and hashes and all(
        re.fullmatch("--hash=sha256:[0-9a-f]{64}", digest) for digest in hashes) for name, *hashes in pinned)


def test_check_says_whether_the_default_upstream_is_here(tmp_path):
    from perser.features import packaged

    def line() -> str:
        done = run("bash", "reproduce.sh", "check", env=os.environ | {"PERSER_CACHE": str(tmp_path)})
        return next(line for line in done.stdout.splitlines() if " whisper-tiny.en " in line)

    assert line().startswith("  -  ") and "71 MB" in line()
    place = tmp_path / "models" / packaged.folder("whisper-tiny.en").name
    place.mkdir(parents=True)
    (place / "model.safetensors").touch()
    assert line().startswith("  have") and line().endswith(str(place))


@pytest.mark.parametrize("command", [[], ["report"], ["full", "--corpus", "synthetic", "--root", "."]])
def test_without_a_network_one_line_says_how_to_go_on_without_the_model(tmp_path, command):
    """The real command in a folder whose set-up has nothing to do."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "setup_env.py").touch()
    (tmp_path / "results/a/b/c").mkdir(parents=True)
    (tmp_path / "results/a/b/c/records.parquet").touch()
    shutil.copy(ROOT / "reproduce.sh", tmp_path)
    perser = tmp_path / ".venv/bin/perser"
    perser.parent.mkdir(parents=True)
    perser.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m perser "$@"\n')
    perser.chmod(0o755)
    offline = {"PERSER_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | offline
    done = run("bash", tmp_path / "reproduce.sh", *command, env=environment)
    lines = [line for line in done.stdout.splitlines() if not line.endswith(" begins")]
    assert done.returncode == 1 and not done.stderr
    (failed,) = [number for number, line in enumerate(lines) if line.startswith("speech model         FAILED")]
    assert "cannot be downloaded" in lines[failed + 1]
    assert lines[failed + 2] == ("no whisper-tiny.en: connect to the package index, or use --upstream logmel, which "
                                 "needs no model")
    assert len(lines) > failed + 3 and all("SKIPPED" in line for line in lines[failed + 3:-1])
    assert lines[-1].startswith("0 passed, 1 failed, ")


@pytest.fixture
def setting_up(tmp_path, monkeypatch):
    """tools/setup_env.py as a module that works in another folder."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    import setup_env

    for name, place in (("VENV", tmp_path), ("LOG", tmp_path / "setup.log"), ("PYTHON", Path(sys.executable)),
                        ("ROOT", tmp_path)):
        monkeypatch.setattr(setup_env, name, place)
    return setup_env


def test_without_a_compiler_the_set_up_continues_and_counts_the_skip(setting_up, tmp_path, monkeypatch,
                                                                              capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    setting_up.reference("key")
    assert "learn2learn SKIPPED, and its reference checks with it: no C compiler" in capsys.readouterr().out
    assert "apt install gcc" in (tmp_path / "skipped").read_text()
    assert "skipped" in (ROOT / "reproduce.sh").read_text() and not (tmp_path / "learn2learn.stamp").exists()


def test_a_step_of_the_set_up_runs_once_and_again_when_its_key_changes(setting_up, tmp_path, capsys):
    made = []
    for key in ("one", "one", "two"):
        setting_up.step("toy", "seconds", lambda key=key: made.append(key), key)
    assert made == ["one", "two"]
    (tmp_path / "toy.stamp").unlink()  # as after a kill
    setting_up.step("toy", "seconds", lambda: made.append("again"), "two")
    assert made == ["one", "two", "again"] and capsys.readouterr().out.count(" took ") == 3


def test_check_points_at_a_root_one_level_off(tmp_path):
    (tmp_path / "Session1").mkdir()
    assert run("bash", "reproduce.sh", "check", f"iemocap={tmp_path}").returncode == 0
    wrong = run("bash", "reproduce.sh", "check", f"iemocap={tmp_path / 'Session1'}")
    assert wrong.returncode == 1
    assert "has no Session1" in wrong.stdout


def test_promote_copies_a_finished_run_only(tmp_path):
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "reproduce.sh", tmp_path)
    shutil.copy(ROOT / "tools/promote.py", tmp_path / "tools")
    run_folder = tmp_path / "out/toy/logmel/main"
    run_folder.mkdir(parents=True)
    for name in ("records.parquet", "manifest.json", "config.json", "table.md", "DONE"):
        (run_folder / name).write_text("{}")
    (run_folder / "parts").mkdir()
    (tmp_path / "out/toy/logmel/main/walk").mkdir()
    (tmp_path / "out/toy/logmel/main/walk/about.json").write_text("{}")
    assert run("bash", tmp_path / "reproduce.sh", "promote", "out/toy/logmel/main/").returncode == 0
    promoted = {path.name for path in (tmp_path / "results/toy/logmel/main").iterdir()}
    assert promoted == {"records.parquet", "manifest.json", "config.json", "table.md", "walk"}
    assert (tmp_path / "results/toy/logmel/main/walk/about.json").read_text() == "{}"
    search = tmp_path / "out/search"
    search.mkdir()
    for name in ("trials.csv", "manifest.json"):
        (search / name).write_text("{}")
    assert run("bash", tmp_path / "reproduce.sh", "promote", "out/search").returncode == 0
    assert {path.name for path in (tmp_path / "results/search").iterdir()} == {"trials.csv", "manifest.json"}


REPORT = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}"/></testsuites>'


@pytest.mark.parametrize(
    ("reports", "stages", "line", "status"),
    [
        ([(5, 0, 0, 2), (3, 0, 0, 0)], 0, "6 passed, 0 failed, 2 skipped", 0),
        ([(5, 1, 1, 0), (3, 0, 0, 3)], 0, "3 passed, 2 failed, 3 skipped", 1),
        ([(5, 0, 0, 0)], 1, "5 passed, 1 failed, 0 skipped", 1),
        ([(5, 0, 0, 0), None], 0, "5 passed, 1 failed, 0 skipped", 1),
        ([(0, 0, 0, 0)], 0, "0 passed, 1 failed, 0 skipped", 1),
    ],
)
def test_the_closing_line_adds_up_all_stages(tmp_path, reports, stages, line, status):
    paths = [tmp_path / f"{number}.xml" for number in range(len(reports))]
    for path, counts in zip(paths, reports, strict=True):
        if counts:
            path.write_text(REPORT.format(*counts))
    done = run(sys.executable, "tools/tally.py", "--failed", str(stages), *paths)
    assert done.stdout.splitlines()[-1] == line
    assert done.returncode == status


@pytest.mark.parametrize(("ended", "failed"), [((0, 0), 0), ((1, 0), 1), ((135, 0), 1), ((0, 2), 1), ((139, 3), 2)])
def test_a_pytest_that_fails_after_its_report_is_a_failure(tmp_path, ended, failed):
    (tmp_path / "unit.xml").write_text(REPORT.format(5, 0, 0, 0))
    given = [part for status in ended for part in ("--ended", str(status))]
    done = run(sys.executable, "tools/tally.py", *given, tmp_path / "unit.xml")
    assert done.stdout.splitlines()[-1] == f"5 passed, {failed} failed, 0 skipped" and done.returncode == bool(failed)
    assert all((f"status {status}" in done.stdout) == (status > 0) for status in ended)
    assert '--ended "$unit" --ended "$pages"' in (ROOT / "reproduce.sh").read_text()


def test_a_failed_test_is_counted_once(tmp_path):
    (tmp_path / "unit.xml").write_text(REPORT.format(5, 1, 0, 0))
    done = run(sys.executable, "tools/tally.py", "--ended", "1", tmp_path / "unit.xml")
    assert done.stdout == "4 passed, 1 failed, 0 skipped\n" and done.returncode == 1


def test_the_tests_are_run_with_the_coverage_that_pyproject_asks_for():
    assert "python -m pytest --cov -n " in (ROOT / "reproduce.sh").read_text()
    coverage = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]
    assert coverage["run"]["branch"] and coverage["report"]["fail_under"] == 100
    assert all((ROOT / file).is_file() for file in coverage["run"]["include"])


def notebooks(*arguments: str) -> subprocess.CompletedProcess:
    return run(sys.executable, "tools/notebooks.py", *arguments)


def test_a_parameter_that_no_notebook_has_stops_before_anything_runs(tmp_path):
    done = notebooks("execute", "--out", str(tmp_path / "out"), "-p", "resluts=x")
    assert done.returncode == 2
    assert done.stderr.startswith("no notebook has the parameter 'resluts'; there are: ")
    assert not (tmp_path / "out").exists()
