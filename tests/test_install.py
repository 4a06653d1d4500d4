"""Installed from a wheel, without the checkout, every command works from any folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from test_cli import TINY, rated_table, sets

ROOT = Path(__file__).resolve().parents[1]
RUN = """
import json, sys
from perser.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main.main(words)
    except SystemExit as stop:
        print("exit", stop.code, flush=True)
        print("-" * 8, file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The files of a wheel, which is built from a copy of the checkout without a network."""
    place = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    shutil.copytree(ROOT / "perser", place / "perser", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
                    "--wheel-dir", place, place], check=True)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(place / "site")
    return place / "site"


def test_the_wheel_has_every_file_of_the_package(installed):
    kept = {path.relative_to(ROOT) for path in (ROOT / "perser").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in kept if not (installed / path).is_file()} == set()
    assert {path.suffix for path in kept} >= {".py", ".toml", ".mplstyle", ".html", ".csv"}


def test_every_command_works_from_an_empty_folder(installed, tmp_path):
    place = rated_table(tmp_path / "data")
    audio, table, folder = place / "audio", place / "ratings.csv", tmp_path / "empty"
    folder.mkdir()
    quick = sets("shots=[5]", "draws=2", "dev_draws=2", "base.hidden=8", "base.epochs=2")
    logmel = ("--upstream", "logmel")
    commands = {
        ("--version",): "perser, version",
        ("models",): "whisper-tiny.en",
        ("run", "main", "--corpus", "table", "--root", place, *logmel, "--jobs", 1,
         "--out", "results/table/logmel/main", *sets(*TINY, "shots=[5]", "groups=3")): "Meta-PerSER",
        ("report", "results/table/logmel/main", "--out", "report"): "main.pdf",
        ("claims",): "Meta-PerSER",
        ("personalise", table, audio, "--out", "team", *logmel, "--jobs", 1, *quick): "report.html",
        ("adapt", "--model", "team/model", "--ratings", table, "--listener", "L1", "--audio", audio, "--out",
         "l1.safetensors"): "ratings",
        ("predict", "--model", "l1.safetensors", audio / "c0.wav"): "c0.wav",
        ("show", "table", "--root", place): "listeners",
        ("phase2", "--list"): "data sets in",
    }
    refused = {("search", "--root", "table=."): "emodb: give --root CORPUS=DIR",  # what the packaged search names
               ("run", "mian", "--corpus", "table", "--root", place, "--out", "x"): "did you mean 'main'?",
               ("bench", "meta"): "install perser from a checkout"}
    words = [[str(word) for word in command] for command in (*commands, *refused)]
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(words)], cwd=folder, env=environment, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for (command, expected), part in zip(commands.items(), done.stdout.split("exit "), strict=False):
        assert expected in part, (command, done.stdout, done.stderr)
    codes = [line.removeprefix("exit ") for line in done.stdout.splitlines() if line.startswith("exit ")]
    assert codes == ["0"] * len(commands) + ["2", "2", "1"], done.stderr
    for expected, part in zip(refused.values(), done.stderr.split(f"{'-' * 8}\n")[len(commands):], strict=False):
        assert expected in part and part.count("\n") == 1 and "Traceback" not in part
