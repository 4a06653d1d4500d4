"""Notebooks from their .py sources: execute with parameters, refresh the committed ones, check the pairs."""

import argparse
import difflib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
import papermill
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

ROOT = Path(__file__).resolve().parent.parent
START = 300  # seconds that a kernel may take to answer on a busy machine
FOLDER = ROOT / "notebooks"


class UsageError(ValueError):
    """A wrong argument, in one line."""


def sources(names: Iterable[str] = ()) -> list[Path]:
    """The notebooks' .py sources in order, or those named (`03_one` is enough for `03_one_listener.py`)."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    chosen = [path for path in found if not names or any(path.stem.startswith(name) for name in names)]
    if not chosen:
        raise UsageError(
            f"no notebook named {', '.join(names) or '*'} in {FOLDER}; there are: "
            f"{', '.join(path.stem for path in found) or 'none'}"
        )
    return chosen


def built(source: Path) -> nbformat.NotebookNode:
    """The notebook of a .py source, without outputs; ids are counted: the same text gives the same file."""
    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.NotebookNode(
            {key: cell.metadata[key] for key in ("tags",) if key in cell.metadata}
        )
    notebook.metadata = nbformat.NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    return notebook


def declared(source: Path) -> set[str]:
    """Names in the notebook's parameters cell, as papermill sees them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{source.stem}.ipynb")
        nbformat.write(built(source), path)
        return set(papermill.inspect_notebook(str(path)))


def from_folder(value: str) -> str | int:
    """A parameter as the notebook takes it: whole numbers as int, paths as seen from its own folder.

    Notebooks run in their folder, so that a path in one means the same here, in Jupyter and in nbval.
    """
    if value.lstrip("-").isdigit():
        return int(value)
    inside = not Path(value).is_absolute() and (ROOT / value).exists()
    return os.path.relpath(ROOT / value, FOLDER) if inside else value


def content(path: Path) -> bytes:
    """Digest of a file's bytes, or of every file in a folder with its name."""
    total = hashlib.blake2b()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and "__pycache__" not in file.parts:
            total.update(str(file.relative_to(path.parent)).encode() + b"\0")
            total.update(hashlib.blake2b(file.read_bytes()).digest())
    return total.digest()


def fingerprint(source: Path, values: dict[str, str]) -> str:
    """Digest of all that a notebook's output depends on: text, parameters and their files, library."""
    total = hashlib.blake2b(digest_size=16)
    read = [source, ROOT / "perser", ROOT / "requirements.lock", Path(__file__)]
    read += [ROOT / "results"] if "results" not in values else []
    for name, value in sorted(values.items()):
        total.update(f"{name}={value}\0".encode())
        read += [ROOT / value] if (ROOT / value).exists() else []
    for path in read:
        total.update(content(path))
    return total.hexdigest()


def run_one(source: Path, out: Path, values: dict[str, str]) -> bool:
    """Execute one notebook into OUT as .ipynb and .html; False when both are there from the same inputs."""
    stamp, page = out / f"{source.stem}.digest", out / f"{source.stem}.html"
    key = fingerprint(source, values)
    if page.is_file() and stamp.is_file() and stamp.read_text() == key:
        return False
    stamp.unlink(missing_ok=True)
    bare, done = out / f".{source.stem}.ipynb", out / f"{source.stem}.ipynb"
    nbformat.write(built(source), bare)
    inside = {name: from_folder(value) for name, value in values.items()}
    try:
        # The kernel is told its folder: papermill's `cwd` would change that of every page at work.
        papermill.execute_notebook(
            str(bare), str(done), inside, start_timeout=START, progress_bar=sys.stderr.isatty(),
            resources={"metadata": {"path": str(FOLDER)}},
        )
    finally:
        bare.unlink()
    page.write_text(HTMLExporter(embed_images=True).from_filename(str(done))[0])
    stamp.write_text(key)
    return True


def execute(names: list[str], out: Path, values: dict[str, str]) -> None:
    """Execute notebooks, one per core at a time, each with the parameters that it declares.

    Raises UsageError for a parameter that none declares.
    """
    chosen = sources(names)
    known = {source: declared(source) for source in chosen}
    if unknown := sorted(set(values) - set().union(*known.values())):
        raise UsageError(
            f"no notebook has the parameter {unknown[0]!r}; "
            f"there are: {', '.join(sorted(set().union(*known.values()))) or 'none'}"
        )
    out.mkdir(parents=True, exist_ok=True)

    def one(source: Path) -> bool:
        return run_one(source, out, {name: values[name] for name in values if name in known[source]})

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pages:
        for source, made in zip(chosen, pages.map(one, chosen)):
            print(f"{source.stem}: {'executed' if made else 'unchanged'}", flush=True)


def update(names: list[str]) -> None:
    """Execute notebooks with their default parameters into notebooks/*.ipynb, the committed pairs."""
    for source in sources(names):
        notebook = built(source)
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=600,
            startup_timeout=START,
            record_timing=False,
            resources={"metadata": {"path": str(FOLDER)}},
        ).execute()
        notebook.metadata.language_info = {"name": "python"}
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: updated", flush=True)


def differences(source: Path) -> list[str]:
    """Unified diff from a committed .ipynb's cells to those of its .py source; empty when they agree."""
    path = source.with_suffix(".ipynb")
    if not path.is_file():
        return [f"{path.name} is missing: python tools/notebooks.py update {source.stem}"]
    cells = [
        [f"[{cell.cell_type} {cell.metadata.get('tags', [])}]\n{cell.source}\n" for cell in notebook.cells]
        for notebook in (nbformat.read(path, as_version=4), built(source))
    ]
    before, after = ("".join(part).splitlines() for part in cells)
    return list(difflib.unified_diff(before, after, path.name, source.name, lineterm=""))


def check(names: list[str]) -> None:
    """Raise UsageError with the diff when a committed .ipynb is not what its .py source gives."""
    found = [line for source in sources(names) for line in differences(source)]
    if found:
        raise UsageError("\n".join([*found, "the .py is the source: python tools/notebooks.py update"]))


def assignment(text: str) -> tuple[str, str]:
    """`name=value` as a pair."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main() -> int:
    """Carry out one of the three actions; 0 done, 1 a notebook failed or differs, 2 wrong use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["execute", "update", "check"])
    parser.add_argument(
        "names", nargs="*", help="notebooks by the start of their names; all when none is given"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "notebooks")
    parser.add_argument(
        "-p", "--parameter", type=assignment, action="append", default=[], metavar="NAME=VALUE"
    )
    arguments = parser.parse_args()
    try:
        if arguments.action == "execute":
            execute(arguments.names, arguments.out.resolve(), dict(arguments.parameter))
        else:
            {"update": update, "check": check}[arguments.action](arguments.names)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 1 if arguments.action == "check" else 2
    except PapermillExecutionError as error:
        print(f"cell {error.exec_count} failed with {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
