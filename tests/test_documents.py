"""Every command in every document parses against the real command line and, where it can end in seconds, runs.

Documents are the Markdown files, the notebooks' Markdown and the examples in --help. Runs have small made-up data under
the documented names, log-mel features in place of a speech model's, and the least settings.
"""

import argparse
import ast
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import click
import made_world
import pytest
import ray.scripts.scripts as ray_command_line
from distributed.cli import dask_scheduler, dask_worker
from made_phase2 import INSPECT

from perser import corpora, search
from perser import experiment as experiments
from perser.cli import main
from perser.errors import UserError
from perser.features import upstreams

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*(ROOT / name for name in ("README.md", "ARTIFACT.md", "CONTRIBUTING.md")),
             *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
PROGRAMS = (r"(perser|\./reproduce\.sh|benchmarks/gpu\.sh|python3?|\.venv/bin/python|sudo|docker|pip|pip-audit|inspect|"
            r"ray|dask)( |$)")

# What a document calls by another name than the folder of these tests.
NAMES = {"/path/to/IEMOCAP_full_release": "data/synthetic", "/path/to/IEMOCAP": "data/synthetic",
         "/path/to/EmoDB": "data/emodb", "/path/to/RAVDESS": "data/ravdess", "/path/to/ravdess": "data/ravdess",
         "/shared/IEMOCAP": "data/synthetic", "/shared/out": "out/shared", '"$SLURM_ARRAY_TASK_ID/8"': "3/8",
         "$first:6379": "first:6379", "walk RUN --root DIR": "walk out/emodb/whisper-tiny.en/main --root data/emodb",
         "emodb/whisper-tiny.en/main": "emodb/whisper-tiny.en/methods", "table --root DIR": "table --root .",
         "mine.safetensors": "out/team/listeners/NAME.safetensors", "--paper FILE": "--paper paper.toml",
         "synth DIR": "synth data/synthetic"}

# Commands that are read but not run, by the reason. One that no document names any more must go.
TOO_LONG = {
    "downloads from a publisher or a hub; test_fetch.py and test_packaged.py do it from this machine": """
        perser fetch emodb data/emodb
        perser fetch emodb DIR
        perser fetch ravdess data/ravdess
        perser fetch ravdess DIR
        perser fetch cremad data/cremad
        perser fetch cremad DIR
        perser models get smollm2-135m
        perser phase2 --tasks benchmark_tasks --model hf-audio/Qwen/Qwen2-Audio-7B-Instruct --out out/phase2 --resume
        perser phase2 --tasks benchmark_tasks --model openai-api/vllm/Qwen/Qwen2-Audio-7B-Instruct --out out/phase2
        pip install "perser[app]"
        pip install "perser[cluster]"
        pip-audit -r requirements.lock""",
    "minutes; reproduce.sh reads its words without a Python here": """
        ./reproduce.sh
        ./reproduce.sh --upstream logmel
        ./reproduce.sh report
        ./reproduce.sh test
        ./reproduce.sh full --corpus iemocap --root DIR --upstream wavlm-base-plus
        ./reproduce.sh full --corpus iemocap --root /path/to/IEMOCAP_full_release --upstream wavlm-base-plus
        ./reproduce.sh full --corpus iemocap --root /path/to/IEMOCAP_full_release
        python3 tools/setup_env.py""",
    "needs a card": "benchmarks/gpu.sh",
    "needs a container engine": """
        docker build -t perser .
        docker build -t perser . && docker run perser
        docker run perser COMMAND
        sudo tools/check_image.sh""",
    "needs a cluster; test_cluster.py starts one": """
        ray start --head --port=6379 --include-dashboard=false
        ray start --address=first:6379
        ray stop
        perser run main --corpus iemocap --root /shared/IEMOCAP --out /shared/out/main --backend ray --address \
            first:6379
        perser run main --corpus iemocap --root /shared/IEMOCAP --out /shared/out/main --backend ray --address \
            "$first:6379"
        perser run main --corpus iemocap --root /shared/IEMOCAP --out /shared/out/main --backend dask --address \
            first:8786
        dask scheduler --port 8786
        dask worker first:8786 --nworkers -1 --nthreads 1 --memory-limit 0
        srun --nodes=1 --ntasks=1 --cpus-per-task=16 -w "$first" ray start --head --port=6379 --num-cpus=16 \
            --include-dashboard=false --block &
        srun --nodes=3 --ntasks=3 --cpus-per-task=16 --exclude="$first" ray start --address="$first:6379" \
            --num-cpus=16 --block &
        first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        sbatch --wait array.sh
        sleep 30
        export RAY_USAGE_STATS_ENABLED=0
        export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1""",
    "ten seconds each, on other folders than the one that is drawn": """
        perser report out/iemocap/*/upstreams --out out
        perser report results/*/*/*/ --out figures
        perser report results/synthetic/whisper-tiny.en/main --out out/report""",
    "half a minute of speech is made; test_phase2_run.py runs the suite, and reports": """
        perser phase2 --suite --model majority --out out/phase2
        perser phase2 --suite --model oracle --model majority --out out/phase2
        perser phase2 report DIR...
        perser phase2 report out/one out/two --out out/both --reference majority""",
    "serves until it is stopped; test_app.py opens it": """
        perser app --model out/team --audio clips --out out/app
        perser app --model out/team --audio clips --ratings ratings.csv --out out/app
        vllm serve Qwen/Qwen2-Audio-7B-Instruct
        export VLLM_BASE_URL=http://localhost:8000/v1 VLLM_API_KEY=none""",
    "times a machine for minutes; test_bench.py runs every benchmark small": """
        perser bench cost
        perser bench distributed
        perser bench meta
        perser bench meta --out benchmarks/cpu-meta.json
        perser bench phase2""",
    "hours; test_search.py runs a small search": "perser search --root emodb=data/emodb",
    "the tests themselves, or what they run": """
        .venv/bin/python -m pytest tests/test_adapt.py
        .venv/bin/python tests/mutants.py
        python tests/mutants.py
        python tests/test_golden.py
        python tools/faults.py
        python tools/faults.py --seed 0 --share 0.1
        inspect eval perser/phase2""",
    "minutes on all of the data, into results/ or notebooks/": """
        python tools/listener_task.py iemocap --root /path/to/IEMOCAP --out out/tasks --fold 1
        python tools/calibration.py --emodb /path/to/EmoDB --ravdess /path/to/RAVDESS
        python tools/notebooks.py update
        python tools/notebooks.py execute 12 -p results=out/iemocap
        python tools/phase2_results.py out/synthetic/logmel/main --name suite --promote
        python tools/ravdess_phase2.py --root /path/to/ravdess --out out/tasks
        python tools/readme.py
        python tools/team_record.py --root /path/to/EmoDB""",
    "acts on the reader's own shell and folder": """
        . .venv/bin/activate
        rm -r out/team"""}
NOT_RUN = {" ".join(line.split()) for lines in TOO_LONG.values() for line in lines.splitlines() if line.strip()}


class Command(NamedTuple):
    """A command as a document has it."""

    document: str
    text: str

    @property
    def words(self) -> list[str]:
        """What a shell would pass on, with names of these tests' folder."""
        text = self.text
        for name, ours in NAMES.items():
            text = text.replace(name, ours)
        return shlex.split(text.replace(" ...", "").replace("DIR...", "out/phase2"))

    @property
    def is_whole(self) -> bool:
        """Whether it can be typed: not a name alone, nor with something left out."""
        return "..." not in self.text.replace("DIR...", "") and not self.is_name

    @property
    def is_name(self) -> bool:
        """Whether it only names a command that needs more words."""
        command, rest = below(main, self.words[1:])
        return self.words[0] == "perser" and not rest and needs(command)


def below(command: click.Command, words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the first words name, and the words after them."""
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def needs(command: click.Command) -> bool:
    """Whether a command cannot be typed without more words."""
    return any(part.required for part in command.params) or command.name in (main.name, "phase2", "bench", "search")


def texts() -> Iterator[tuple[str, str]]:
    """Name and Markdown of every document."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"]
                               if cell["cell_type"] == "markdown")
        yield path.relative_to(ROOT).as_posix(), text


def blocks(text: str) -> list[str]:
    """The shell blocks of a document."""
    return re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def lines(block: str) -> Iterator[str]:
    """The commands of a block without their comments."""
    for line in block.replace("\\\n", " ").splitlines():
        if line := " ".join(re.sub(r"(^|\s)#.*", "", line).split()):
            yield re.sub(r"^(?:[A-Z_]+=\S+ )+(?=\w)", "", line)


def written() -> Iterator[Command]:
    """The commands in blocks, in code within the text, and in examples of --help."""
    for name, text in texts():
        for block in blocks(text):
            yield from (Command(name, line) for line in lines(block))
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        spans = re.findall(r"(?<!`)`([^`]+)`(?!`)|^ {4}(perser .*)$", prose, re.MULTILINE)
        for span in (" ".join("".join(one).split()) for one in spans):
            if re.match(PROGRAMS, span):
                yield Command(name, span)
    for name, epilog in epilogs():
        for example in re.findall(r"^(?:Example: +|  )((?:perser|python|vllm|export) .*)$", epilog, re.MULTILINE):
            yield Command(f"{name} --help", example)


def epilogs() -> Iterator[tuple[str, str]]:
    """The examples that --help shows, by command."""
    commands = [("perser", main)]
    for name, command in commands:
        yield name, command.epilog or ""
        commands += [(f"{name} {below}", one) for below, one in getattr(command, "commands", {}).items()]
    for path in sorted((ROOT / "tools").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "epilog":
                yield f"tools/{path.name}", ast.literal_eval(node.value)


COMMANDS = [*dict.fromkeys(written())]
RUN = [*dict.fromkeys(command.text for command in COMMANDS
                      if command.text not in NOT_RUN and command.is_whole)]


def read(command: click.Command, words: list[str], whole: bool = True) -> dict:
    """The values that a command line reads from words. Raises click's errors; where it is not whole, words may lack."""
    command, words = below(command, words)
    if "--help" in words:
        return {}
    try:
        context = command.make_context(command.name, list(words))
    except click.MissingParameter:
        if whole:
            raise
        context = command.make_context(command.name, list(words), resilient_parsing=True)
    if isinstance(command, click.Group) and context._protected_args:
        raise click.UsageError(f"no command {context._protected_args[0]}")
    return {name: value for name, value in context.params.items() if value is not None} | {"command": command.name}


def mean(command: str = "", corpus: str = "", upstream: str | None = None, file: str = "", roots: tuple[str, ...] = (),
         overrides: tuple[str, ...] = (), experiment: str = "", **_: object) -> None:
    """Check what perser's words mean: corpora, upstreams, experiments and their settings. Raises UserError."""
    if upstream not in {"logmel", "egemaps", *upstreams.HUB, *upstreams.PACKAGED, None}:
        raise UserError(f"no upstream {upstream}")
    if corpus and corpus not in corpora.names("RELEASE" if command == "fetch" else "load"):
        raise UserError(f"no corpus {corpus}")
    if experiment:
        experiments.load(experiments.named(experiment), overrides, corpus)
    if command == "search":
        plan, _ = search.read(experiments.named(file))
        if {root.partition("=")[0] for root in roots} != plan.corpora.keys():
            raise UserError(f"roots {roots}")


class ParsedError(Exception):
    """A tool has read its words."""


def read_by_tool(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool's own parser on words. Raises SystemExit where it refuses them."""
    def parse(parser, *given, **named):
        _, rest = parser.parse_known_args(*given, **named)
        raise ParsedError if not rest else SystemExit(2)

    module = runpy.run_path(str(ROOT / words[0]))
    if isinstance(module["main"], click.Command):
        read(module["main"], words[1:])
        return
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(ParsedError):
        module["main"]()


def check(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a command without running it. Raises an error where it would be refused; paths need not be there."""
    monkeypatch.setattr(click.Path, "convert", lambda self, value, *_: value)
    program, *words = command.words
    if program == "perser" and not command.is_name:
        mean(**read(main, words, command.is_whole))
    elif program == "ray":
        read(ray_command_line.cli, words)
    elif program == "dask":
        read({"scheduler": dask_scheduler, "worker": dask_worker}[words[0]].main, words[1:])
    elif program == "./reproduce.sh":
        words = [place if before == "--root" else word for before, word in zip(["", *words], words)]
        done = subprocess.run(["bash", "reproduce.sh", *words], cwd=place, capture_output=True, text=True,
                              env={"PATH": "/usr/bin:/bin", "PERSER_PYTHON": "/bin/false"})
        assert done.returncode != 2 or ("needs --" in done.stderr and not command.is_whole), done.stderr
    elif program.startswith((".venv/bin/python", "python")):
        words = words[2:] if words[:2] == ["-m", "pytest"] else words
        assert (ROOT / words[0]).is_file(), words[0]
        if re.search("argparse|@click", (ROOT / words[0]).read_text()):
            read_by_tool(words, monkeypatch)
    elif program == "pip":
        extra = re.search(r"perser\[(\w+)\]", command.text)
        assert not extra or f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text(), command.text
    for script in ("benchmarks/gpu.sh", "tools/check_image.sh"):
        assert script not in command.words or (ROOT / script).stat().st_mode & 0o111


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which commands are typed, with all that they name but what they make themselves."""
    root = tmp_path_factory.mktemp("documents")
    made_world.write(root)
    return root


def test_every_command_parses(place, monkeypatch):
    faults = {}
    for command in COMMANDS:
        with monkeypatch.context() as patch:
            try:
                check(command, place, patch)
            except (click.ClickException, UserError, AssertionError, SystemExit) as error:
                faults[command] = getattr(error, "message", "") or str(error)
    assert not faults and len(COMMANDS) > 100


@pytest.mark.parametrize("text", [
    "perser nonesuch", "perser claims --everything", "perser bench speed", "perser verify --against x",
    "perser explain a b", "perser phase2 repport x",
    "perser run main --corpus iemocapp --root . --out x", "perser run main --corpus iemocap --root .",
    "perser run main --corpus iemocap --root . --out x --set drawz=1", "perser search --root ravdess=x",
    "perser run main --corpus iemocap --root . --out x --part 9/8", "perser fetch iemocap x",
    "perser run main --corpus iemocap --root . --out x --upstream wavlm-basic", "./reproduce.sh everything",
    "./reproduce.sh full --corpus iemocap", "python tools/faults.py --sead 0", "python tools/notebooks.py upgrade",
    "python tools/nothing.py", "ray start --heads", 'pip install "perser[clusters]"'])
def test_a_wrong_command_does_not_parse(place, monkeypatch, text):
    with pytest.raises((click.ClickException, UserError, AssertionError, SystemExit)):
        check(Command("", text), place, monkeypatch)


def test_blocks_are_shell():
    for name, text in texts():
        for block in blocks(text):
            done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
            assert done.returncode == 0, (name, done.stderr)


def test_what_is_not_run_stands_in_a_document():
    assert not NOT_RUN - {command.text for command in COMMANDS}


def sets(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


LEAST = ["seeds=[0]", "shots=[3]", "draws=1", "dev_draws=1", "min_queries=2", "groups=3", "folds=[1]", "support=any",
         "dev=training", "base.epochs=1", "base.hidden=8",
         "methods={ssl-e={like='ssl-e'}, meta-perser={like='meta-perser', epochs=1, outer_steps_per_epoch=1, query=2}}"]
LOGMEL = ["--upstream", "logmel", "--jobs", "1"]


def least(words: list[str]) -> list[str]:
    """Words that make a command short: few clips, two methods, the least settings, features that need no model."""
    return {"run": [*LOGMEL, *sets(*LEAST)], "synth": ["--clips", "150"], "phase2": ["--limit", "2"],
            "personalise": [*LOGMEL, *sets("draws=1", "shots=[5]", "base.epochs=1", "base.hidden=8")]}.get(words[0], [])


ORDER = ("synth", "run", "personalise")  # what they write, others read


def typed(place: Path, command: Command, perser) -> tuple[int, str]:
    """Type a command: exit code and standard error. A run of which others ask is committed."""
    program, *words = [part for word in command.words
                       for part in (sorted(map(str, place.glob(word))) if "*" in word else [word])]
    if program == "./reproduce.sh":
        done = subprocess.run([program, *words], capture_output=True, text=True)
        return done.returncode, done.stderr
    code, _, err = perser(*words, *least(words))
    run = Path(words[words.index("--out") + 1]) if words[0] == "run" else Path()
    if run.parts[1:2] in (("emodb",), ("synthetic",)) and not code:
        shutil.copytree(run, Path("results", run.parts[1], "logmel", run.name), dirs_exist_ok=True)
    return code, err


@INSPECT[0]
@INSPECT[1]
@INSPECT[2]
@INSPECT[3]
def test_every_other_command_runs(place, perser):
    """In the order in which they need one another. Last, what the page on licences says of a listener's name."""
    rank = {name: number for number, name in enumerate(ORDER)}
    commands = sorted({command.text: command for command in COMMANDS if command.text in RUN}.values(),
                      key=lambda command: rank.get([*command.words, ""][1], len(rank)))
    faults = {}
    with chdir(place):
        for command in commands:
            code, err = typed(place, command, perser)
            if code:
                faults[command.text] = err[-300:]
    assert not faults and len(commands) >= 25
    team = place / "out" / "team"
    with_name = {path.relative_to(team).parts[0] for path in team.rglob("*")
                 if "NAME" in path.name or (path.is_file() and b"NAME" in path.read_bytes())}
    assert with_name == {"ratings.csv", "listeners", "report.html", "manifest.json", "work"}
    page = (ROOT / "docs" / "licences.md").read_text()
    assert all(re.search(rf"`(out/team/)?{name}(/[\w.]+)?/?`", page) for name in with_name)
