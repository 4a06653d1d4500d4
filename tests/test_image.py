"""The image, without an engine that builds it: what the Dockerfile names is there, is true, and belongs to its user."""

import json
import os
import re
import tomllib
from itertools import groupby
from pathlib import Path, PurePosixPath

import pandas as pd
import pytest

import perser

ROOT = Path(__file__).resolve().parent.parent
HOME = PurePosixPath("/home/perser")
DRIVERS = {"12": 525, "13": 580}  # docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile in order, each with its text in one line."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    whole = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in whole.splitlines()]


def texts(steps: list[tuple[str, str]], name: str) -> list[str]:
    return [text for step, text in steps if step == name]


def pairs(steps: list[tuple[str, str]], name: str) -> dict[str, str]:
    """NAME=VALUE of all instructions of a name."""
    return {key: quoted or plain for key, quoted, plain in
            re.findall(r'(\S+?)=(?:"(.*?)"|(\S+))', " ".join(texts(steps, name)))}


def test_labels_are_those_of_the_project(steps):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pairs(steps, "LABEL") == {f"org.opencontainers.image.{name}": value for name, value in (
        ("title", project["name"]), ("description", project["description"]), ("version", perser.__version__),
        ("licenses", project["license"]))}


def test_nothing_but_the_system_is_installed_as_root(steps):
    """One user, by the number it was created with, from before the copy to the end."""
    [system, set_up] = texts(steps, "RUN")
    [user] = texts(steps, "USER")
    [number] = re.findall(r"useradd .*--uid (\d+) --user-group .*perser", system)
    assert user == f"{number}:{number}" and int(number) > 1000, "1000 is a user of Ubuntu's image"
    assert texts(steps, "COPY") == [f"--chown={user} . ."]
    assert f"install --directory --owner={number} --group={number} {HOME}/artifact" in system
    order = [name for name, _ in groupby(name for name, _ in steps)]
    assert order == ["ARG", "FROM", "LABEL", "RUN", "USER", "WORKDIR", "ENV", "COPY", "RUN", "VOLUME", "ENTRYPOINT"]
    assert "setup_env.py" in set_up and "pip" not in system.replace("python3", "")


def test_volumes_belong_to_the_user_and_hide_nothing_that_the_image_brings(steps):
    """A path is made by the user before it is a volume. The default upstream, data of the image, is in none."""
    [folder], environment = texts(steps, "WORKDIR"), pairs(steps, "ENV")
    volumes = {PurePosixPath(path) for path in json.loads(texts(steps, "VOLUME")[0])}
    [made] = re.findall(r"mkdir (.*?) &&", texts(steps, "RUN")[1])
    assert {PurePosixPath(folder, path.strip('"').replace("$HF_HOME", environment["HF_HOME"]))
            for path in made.split()} == volumes
    assert volumes == {HOME / "artifact/data", HOME / "artifact/out", HOME / "huggingface"}
    cache = PurePosixPath(environment["PERSER_CACHE"])
    assert HOME in cache.parents and not volumes & {cache, *cache.parents}


def test_without_a_network_the_default_upstream_is_inside_and_the_hub_is_not_asked(steps):
    set_up = texts(steps, "RUN")[1]
    upstream = re.search(r"^UPSTREAM=(\S+)", (ROOT / "reproduce.sh").read_text(), re.MULTILINE)[1]
    assert set_up.endswith(f"python3 tools/setup_env.py && .venv/bin/perser models get {upstream}")
    assert '"-r", ROOT / "requirements.lock"' in (ROOT / "tools/setup_env.py").read_text()
    assert pairs(steps, "ENV")["HF_HUB_OFFLINE"] == "1"
    [entry] = json.loads(texts(steps, "ENTRYPOINT")[0])
    assert os.access(ROOT / entry, os.X_OK)


def test_the_copy_leaves_out_what_git_ignores_and_keeps_the_commit():
    """Both files hold the same names, written in two ways. The records' commit needs .git."""
    ours = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()}
    assert ours == {line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().split()}


def test_the_base_is_pinned_by_digest_and_its_cuda_is_no_newer_than_the_packages(steps):
    [base] = texts(steps, "ARG")
    version = re.fullmatch(r"BASE=nvidia/cuda:(\d+\.\d+\.\d+)-base-ubuntu24\.04@sha256:[0-9a-f]{64}", base)[1]
    assert texts(steps, "FROM") == ["${BASE}"] and version == toolkit()


def toolkit() -> str:
    return re.search(r"^cuda-toolkit==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]


def test_the_driver_that_is_named_and_compared_is_what_the_packages_need(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import check

    needed = DRIVERS[toolkit().split(".")[0]]
    assert needed == check.DRIVER
    for name in ("Dockerfile", "README.md", "ARTIFACT.md"):
        assert re.findall(r"driver (\d+)", (ROOT / name).read_text()) == [str(needed)], name


def test_the_appendix_has_all_that_was_measured_and_every_command_passed():
    rows = pd.read_csv(ROOT / "results/image.csv", keep_default_na=False).set_index("what")
    measured, commands = [*rows.index[:6]], {*rows.index[6:]}
    assert measured == ["machine", "base", "build", "image", "packages", "user"] and {"check", "default"} & commands
    endings = {"check": "can run: the default job", "default": "REPRODUCED: ", "test": r"\d+ passed, 0 failed"}
    assert all(re.match(f"passed: {endings[name]}", rows.result[name]) for name in commands)
    assert rows.result["user"] == "perser, interfaces: lo"
    text = (ROOT / "ARTIFACT.md").read_text()
    block = re.search(r"<!-- image: results/image.csv -->\n(.*?)<!-- end -->", text, re.DOTALL)[1]
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    assert shown[2:] == rows.reset_index()[["what", "measured", "result"]].to_numpy().tolist()
