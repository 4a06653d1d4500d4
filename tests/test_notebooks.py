"""Notebooks: pairs are in sync, papermill finds the parameters, pages say what is synthetic."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import notebooks as tool  # noqa: E402 - tools/ is no package

SOURCES = tool.sources()
PARAMETERS = {
    "00_start_here": {"results"},
    "01_corpus_and_listeners": {"corpus", "root"},
    "02_upstream_features": {"corpus", "root", "upstream"},
    "03_one_listener_step_by_step": {"results", "root"},
    "04_main_results": {"results"},
    "05_baselines": {"first", "second", "search"},
    "06_maml_variants_and_ablation": {"results"},
    "07_shots_and_steps": {"results"},
    "08_who_gains": {"first", "second", "corpus", "root"},
    "09_cost_and_speed": {"first", "second", "benchmarks"},
    "10_phase2_tasks_and_scores": {"phase2", "acted"},
    "11_phase2_listener_task": {"real", "listener"},
    "12_upstreams": {"results"},
    "13_your_own_listeners": {"record"},
    "14_real_listeners": {"results"},
}
REAL = ("00", "03", "04", "06", "07", "12", "14")  # pages that show nothing but real speech and listeners
NOT_COMPARED = "nbval-ignore-output"


def code(source):
    return [cell for cell in tool.build(source).cells if cell.cell_type == "code"]


def committed(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def printed(notebook):
    return "".join(
        output.get("text", "") or output.get("data", {}).get("text/markdown", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_pair_is_in_sync_and_was_executed(source):
    assert tool.differences(source) == []
    cells = [cell for cell in committed(source).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_papermill_finds_every_parameter(source):
    assert tool.declared(source) == PARAMETERS[source.stem]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_defaults_are_paths_from_the_notebooks_own_folder(source):
    cell = next(cell for cell in code(source) if "parameters" in cell.metadata.get("tags", []))
    values = [node.value.value for node in ast.parse(cell.source).body]
    paths = [value for value in values if isinstance(value, str) and "/" in value]
    assert all(path.startswith(("../results/", "../data/", "../benchmarks")) for path in paths)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_cells_define_no_functions_and_end_in_no_value(source):
    for cell in code(source):
        tree = ast.parse(cell.source)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)]
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            assert isinstance(last.value, ast.Call) and last.value.func.id in ("print", "display"), cell.source


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_cells_use_the_library_through_import_perser(source):
    for cell in code(source):
        imported = re.findall(r"^(?:from|import) (perser\S*)", cell.source, re.MULTILINE)
        assert set(imported) <= {"perser", "perser.cli"}  # the benchmarks of the checkout are the command line's


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_names_say_what_things_are(source):
    nodes = [node for cell in code(source) for node in ast.walk(ast.parse(cell.source))]
    assert not {node.id for node in nodes if isinstance(node, ast.Name)} & {"found", "each", "said", "way", "beside"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_pictures_and_sound_are_not_compared(source):
    for cell in code(source):
        drawn = re.search(r"\b(Image|Audio)\(", cell.source)
        assert bool(drawn) == (NOT_COMPARED in cell.metadata.get("tags", []))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_ideas_are_introduced_in_prose(source):
    cells = tool.build(source).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert sum(cell.cell_type == "markdown" for cell in cells) >= 4


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_page_says_what_is_synthetic(source):
    assert "synthetic" in source.read_text() or source.stem[:2] in REAL
    simulated = "synthetic (speech and (listeners|sounds)|listeners)"
    stamp = "synthetic: nothing" if source.stem[:2] in REAL else simulated
    assert re.search(stamp, printed(committed(source)))


def test_sound_can_be_played_in_the_page():
    notebook = committed(ROOT / "notebooks" / "01_corpus_and_listeners.py")
    pages = [output.data.get("text/html", "") for cell in notebook.cells for output in cell.get("outputs", [])
             if "data" in output]
    assert sum("data:audio/" in page for page in pages) >= 3


EXECUTE = """
import sys
from pathlib import Path
import notebooks
notebooks.FOLDER, folder = Path(sys.argv[1]), Path.cwd()
try:
    notebooks.execute([], Path(sys.argv[2]), {"word": "given"})
except notebooks.PapermillExecutionError as error:
    print("failed:", error.evalue)
assert Path.cwd() == folder
"""


def test_pages_run_in_their_folder_also_in_parallel(tmp_path):
    """Three pages run, one of them slowly. Then one fails, one is kept, and one runs again to the same bytes."""
    folder, out = tmp_path / "notebooks", tmp_path / "out"
    folder.mkdir()
    names = ["00_one", "01_two", "02_three"]
    for number, name in enumerate(names):
        cells = ['# %% tags=["parameters"]', f"word = 'none{number}'", "# %%", "import time",
                 "from pathlib import Path", f"time.sleep({number % 2})", "print(word, Path.cwd())"]
        (folder / f"{name}.py").write_text("\n".join(cells) + "\n")

    def execute() -> list[str]:
        path = os.environ | {"PYTHONPATH": str(ROOT / "tools")}
        done = subprocess.run([sys.executable, "-c", EXECUTE, folder, out], capture_output=True, text=True, env=path,
                              check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert execute() == [f"{name}: executed" for name in names]
    for name in names:
        assert f"given {folder}" in printed(nbformat.read(out / f"{name}.ipynb", as_version=4))
        assert f"given {folder}" in (out / f"{name}.html").read_text()
    third = [out / "02_three.ipynb", out / "02_three.html"]
    before = [path.read_bytes() for path in third]
    (out / "02_three.digest").unlink()
    (folder / "01_two.py").write_text("# %%\nraise ValueError('failed')\n")
    assert execute() == ["00_one: unchanged", "failed: failed"]
    assert (out / "02_three.digest").exists() and [path.read_bytes() for path in third] == before
    assert not (out / "01_two.digest").exists() and not list(out.glob(".*"))
