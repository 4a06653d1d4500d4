"""Notebooks from their .py sources: execute with parameters, update the committed ones, check the pairs."""

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
START = 300  # seconds that a kernel may take to start on a busy machine
FOLDER = ROOT / "notebooks"


class UsageError(ValueError):
    """A wrong argument, described in one line."""


def sources(names: Iterable[str] = ()) -> list[Path]:
    """The notebooks' .py sources in order, or the named ones (`03_one` is enough for `03_one_listener.py`)."""
    available = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    chosen = [path for path in available if not names or any(path.stem.startswith(name) for name in names)]
    if not chosen:
        raise UsageError(f"no notebook named {', '.join(names) or '*'} in {FOLDER}; there are: "
                         f"{', '.join(path.stem for path in available) or 'none'}")
    return chosen


def build(source: Path) -> nbformat.NotebookNode:
    """The notebook of a .py source, without outputs. Cell ids are counted, so the same text gives the same file."""
    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.NotebookNode({key: cell.metadata[key] for key in ("tags",) if key in cell.metadata})
    notebook.metadata = nbformat.NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"})
    return notebook


def declared(source: Path) -> set[str]:
    """Names in the parameters cell, as papermill reads them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{source.stem}.ipynb")
        nbformat.write(build(source), path)
        return set(papermill.inspect_notebook(str(path)))


def parameter_value(text: str) -> str | int:
    """A parameter as the notebook uses it: whole numbers as int, paths relative to the notebooks' folder.

    Notebooks run in their folder, so that their paths mean the same here, in Jupyter and in nbval.
    """
    if text.lstrip("-").isdigit():
        return int(text)
    inside = not Path(text).is_absolute() and (ROOT / text).exists()
    return os.path.relpath(ROOT / text, FOLDER) if inside else text


def content(path: Path) -> bytes:
    """Digest of a file, or of the names and contents of all files in a folder."""
    total = hashlib.blake2b()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and "__pycache__" not in file.parts:
            total.update(str(file.relative_to(path.parent)).encode() + b"\0")
            total.update(hashlib.blake2b(file.read_bytes()).digest())
    return total.digest()


def fingerprint(source: Path, values: dict[str, str]) -> str:
    """Digest of everything that a notebook's output depends on: text, parameters and their files, library."""
    total = hashlib.blake2b(digest_size=16)
    inputs = [source, ROOT / "perser", ROOT / "requirements.lock", Path(__file__)]
    inputs += [ROOT / "results", ROOT / "benchmarks"] if "results" not in values else []
    for name, value in sorted(values.items()):
        total.update(f"{name}={value}\0".encode())
        inputs += [ROOT / value] if (ROOT / value).exists() else []
    for path in inputs:
        total.update(content(path))
    return total.hexdigest()


def run_one(source: Path, out: Path, values: dict[str, str]) -> bool:
    """Execute one notebook into OUT as .ipynb and .html; False if both already exist from the same inputs."""
    stamp, page = out / f"{source.stem}.digest", out / f"{source.stem}.html"
    key = fingerprint(source, values)
    if page.is_file() and stamp.is_file() and stamp.read_text() == key:
        return False
    stamp.unlink(missing_ok=True)
    bare, executed = out / f".{source.stem}.ipynb", out / f"{source.stem}.ipynb"
    nbformat.write(build(source), bare)
    parameters = {name: parameter_value(text) for name, text in values.items()}
    try:
        # The kernel gets its folder here: papermill's `cwd` would change the folder of all notebooks that run.
        papermill.execute_notebook(str(bare), str(executed), parameters, start_timeout=START,
                                   progress_bar=sys.stderr.isatty(), resources={"metadata": {"path": str(FOLDER)}})
    finally:
        bare.unlink()
    settle(executed)
    page.write_text(HTMLExporter(embed_images=True).from_filename(str(executed))[0])
    stamp.write_text(key)
    return True


def settle(executed: Path) -> None:
    """Give an executed notebook what the same run always gives: counted cell ids, no times, no paths of the machine."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.NotebookNode({key: cell.metadata[key] for key in ("tags",) if key in cell.metadata})
    nbformat.write(notebook, executed)


def execute(names: list[str], out: Path, values: dict[str, str]) -> None:
    """Execute notebooks, one per core at a time, with the parameters that they declare.

    Raises UsageError for a parameter that no notebook declares.
    """
    chosen = sources(names)
    known = {source: declared(source) for source in chosen}
    if unknown := sorted(set(values) - set().union(*known.values())):
        raise UsageError(f"no notebook has the parameter {unknown[0]!r}; there are: "
                         f"{', '.join(sorted(set().union(*known.values()))) or 'none'}")
    out.mkdir(parents=True, exist_ok=True)

    def one(source: Path) -> bool:
        return run_one(source, out, {name: values[name] for name in values if name in known[source]})

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for source, changed in zip(chosen, pool.map(one, chosen)):
            print(f"{source.stem}: {'executed' if changed else 'unchanged'}", flush=True)


def update(names: list[str]) -> None:
    """Execute notebooks with their default parameters into notebooks/*.ipynb, the committed pairs."""
    for source in sources(names):
        notebook = build(source)
        NotebookClient(notebook, kernel_name="python3", timeout=600, startup_timeout=START, record_timing=False,
                       resources={"metadata": {"path": str(FOLDER)}}).execute()
        notebook.metadata.language_info = {"name": "python"}
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: updated", flush=True)


def differences(source: Path) -> list[str]:
    """Unified diff from the cells of a committed .ipynb to those of its .py source; empty if they agree."""
    path = source.with_suffix(".ipynb")
    if not path.is_file():
        return [f"{path.name} is missing: python tools/notebooks.py update {source.stem}"]
    before, after = (
        "".join(f"[{cell.cell_type} {cell.metadata.get('tags', [])}]\n{cell.source}\n" for cell in notebook.cells)
        .splitlines() for notebook in (nbformat.read(path, as_version=4), build(source)))
    return list(difflib.unified_diff(before, after, path.name, source.name, lineterm=""))


def check(names: list[str]) -> None:
    """Raise UsageError with the diff if a committed .ipynb does not match its .py source."""
    lines = [line for source in sources(names) for line in differences(source)]
    if lines:
        raise UsageError("\n".join([*lines, "the .py is the source: python tools/notebooks.py update"]))


def assignment(text: str) -> tuple[str, str]:
    """`name=value` as a pair."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main() -> int:
    """Run one of the three actions. Exit code 0: done; 1: a notebook failed or differs; 2: wrong use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["execute", "update", "check"])
    parser.add_argument("names", nargs="*", help="notebooks by the start of their names; all if none is given")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "notebooks")
    parser.add_argument("-p", "--parameter", type=assignment, action="append", default=[], metavar="NAME=VALUE")
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
