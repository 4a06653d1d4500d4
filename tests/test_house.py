"""The rules of the library's code: imports run one way, functions are short, names say what things are."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import perser

PACKAGE = Path(perser.__file__).parent
# A file or folder imports only from those before it and, in a folder, from the folder.
ORDER = ("errors terminal processes cluster seeds provenance records scores settings audio corpora analysis features "
         "kernels model data episodes adapt evaluate methods experiment about checkpoints protocol plan workers "
         "personal listener page team personaliser walkthrough search by_ear app phase2 site cli __main__").split()
ANALYSIS = {"errors", "records", "scores", "corpora.agreement", "analysis"}  # all that tables and figures read
TORCH = {"torch", "torchaudio", "transformers"}
WORDS = {"found", "each", "said", "way", "beside"}  # they name nothing
FUNCTION_LINES, LIBRARY_LINES = 40, 15320


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def modules() -> dict[str, Path]:
    """Every module of the library by its name without `perser.`; the package itself is left out."""
    paths = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(path: Path) -> Iterator[str]:
    """What a file imports, in functions too: modules of perser as perser.NAME, all others by their top-level name."""
    for node in ast.walk(tree(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: import from perser by its full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            if top != "perser":
                yield top
            elif rest:
                yield f"perser.{rest}" if rest in modules() else f"perser.{rest.rpartition('.')[0]}".rstrip(".")


def ours(path: Path) -> set[str]:
    """The library's modules that a file imports, without `perser.`."""
    return {name.removeprefix("perser.") for name in imports(path) if name.startswith("perser.")}


def place(module: str) -> int:
    top = module.partition(".")[0]
    assert top in ORDER, f"{top} has no place in the order of imports"
    return ORDER.index(top)


@pytest.mark.parametrize("module", modules())
def test_imports_run_one_way(module):
    for imported in ours(modules()[module]):
        same_folder = imported.partition(".")[0] == module.partition(".")[0]
        assert same_folder or place(imported) < place(module), f"{module} imports {imported} against the order"


def test_no_module_imports_itself_through_others():
    done = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for imported in ours(modules()[module]):
                visit(imported, (*above, module))
            done.add(module)

    for module in modules():
        visit(module, ())


def closure(module: str) -> set[str]:
    """Everything that a module imports, directly or not; importing a.b imports a too."""
    seen, ahead = set(), [f"perser.{module}"]
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            path = modules().get(name.removeprefix("perser.")) if name.startswith("perser.") else None
            ahead += [*imports(path), name.rpartition(".")[0]] if path else []
    return seen


WITHOUT_TORCH = [name for name in modules() if name.partition(".")[0] in ("analysis", "records", "scores")]


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_analysis_and_records_need_no_torch(module):
    assert not closure(module) & TORCH
    if module.startswith("analysis"):
        for imported in ours(modules()[module]):
            assert any(f"{imported}.".startswith(f"{allowed}.") for allowed in ANALYSIS), imported


def test_importing_analysis_and_records_loads_no_torch():
    code = (f"import importlib, sys\nfor name in {WITHOUT_TORCH}: importlib.import_module(f'perser.{{name}}')\n"
            f"print(sorted({TORCH} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_importing_the_library_costs_almost_nothing():
    """Best of three, below 0.3 s, and nothing heavy is loaded."""
    code = ("import sys, time\nstart = time.perf_counter()\nimport perser\nprint(time.perf_counter() - start)\n"
            "print(sorted({'torch', 'pandas', 'numpy', 'matplotlib', 'transformers'} & set(sys.modules)))")
    runs = [subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
            .stdout.splitlines() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 0.3
    assert {loaded for _, loaded in runs} == {"[]"}


def test_ruff_finds_nothing():
    """The rules of pyproject.toml: unused names, imports in order, docstrings, known mistakes, lines of 120."""
    folders = ["perser", "tests", "tools", "benchmarks", "notebooks", "conftest.py"]
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", *folders], cwd=PACKAGE.parent,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_mypy_finds_nothing(tmp_path):
    """The library's types, by the strict rules of pyproject.toml."""
    done = subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)], cwd=PACKAGE.parent,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", perser.__all__)
def test_every_public_name_resolves(name):
    assert getattr(perser, name) is not None and name in dir(perser)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'perser' has no attribute 'nope'"):
        perser.nope  # noqa: B018


def long_functions(source: ast.Module) -> list[str]:
    """Functions with more lines than allowed, from `def` to the last, docstring included."""
    functions = [node for node in ast.walk(source) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [f"{function.name}, line {function.lineno}: {function.end_lineno - function.lineno + 1} lines"
            for function in functions if function.end_lineno - function.lineno + 1 > FUNCTION_LINES]


def empty_names(source: ast.Module) -> list[str]:
    """Variables, arguments, attributes, functions and classes whose name says nothing."""
    attributes = {ast.Name: "id", ast.arg: "arg", ast.Attribute: "attr", ast.keyword: "arg", ast.FunctionDef: "name",
                  ast.AsyncFunctionDef: "name", ast.ClassDef: "name", ast.alias: "asname"}
    return [f"{getattr(node, attributes[type(node)])}, line {node.lineno}" for node in ast.walk(source)
            if type(node) in attributes and getattr(node, attributes[type(node)]) in WORDS]


@pytest.mark.parametrize("module", modules())
def test_functions_are_short(module):
    assert not long_functions(tree(modules()[module]))


@pytest.mark.parametrize("module", modules())
def test_names_say_what_things_are(module):
    assert not empty_names(tree(modules()[module]))


def test_the_library_is_short():
    """Blank lines do not count: they are there to be read more easily."""
    lines = sum(bool(line.strip()) for path in PACKAGE.rglob("*.py") for line in path.read_text().splitlines())
    assert lines <= LIBRARY_LINES


def test_the_checks_see_what_they_forbid():
    long = "def longest():\n" + "    pass\n" * FUNCTION_LINES
    assert long_functions(ast.parse(long)) == [f"longest, line 1: {FUNCTION_LINES + 1} lines"]
    assert not long_functions(ast.parse(long.removesuffix("    pass\n")))
    source = ("import a as found\ndef way(each, *, said=1):\n    beside = self.found\n    f(way=2)\n"
              "class A:\n    said: int\n'found each way'\n")
    assert len(empty_names(ast.parse(source))) == 8


SOURCES = sorted(path for folder in ("perser", "tools", "benchmarks")
                 for path in (PACKAGE.parent / folder).rglob("*.py"))


def unsafe_loading(source: ast.Module) -> list[str]:
    """Calls of from_pretrained that could run a model's own code, or open pickled weights.

    Arguments may come from a constant of the file that is a dict, as in **SAFE.
    """
    constants = {node.targets[0].id: node.value for node in source.body
                 if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)}
    bad = []
    for node in ast.walk(source):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg}
            for keyword in node.keywords:
                if keyword.arg is None and (value := constants.get(ast.unparse(keyword.value))):
                    given |= {ast.literal_eval(key): ast.unparse(part) for key, part in zip(value.keys, value.values)}
            loads = re.search(r"\bAutoModel|\bloader$", ast.unparse(node.func.value))
            if given.get("trust_remote_code") != "False" or (
                    loads and given.get("use_safetensors") != "True" and "gguf_file" not in given):
                bad.append(f"line {node.lineno}: {ast.unparse(node)}")
    return bad


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_no_model_from_outside_brings_code(path):
    assert not unsafe_loading(tree(path))


def test_unsafe_loading_is_seen():
    source = """SAFE = {"use_safetensors": True, "trust_remote_code": False}
HALF = {"trust_remote_code": False}
AutoModel.from_pretrained(a, **SAFE)
AutoConfig.from_pretrained(a, **HALF)
AutoTokenizer.from_pretrained(a, trust_remote_code=False)
AutoModelForCausalLM.from_pretrained(a, gguf_file=b, trust_remote_code=False)
AutoModel.from_pretrained(a, **HALF)
AutoConfig.from_pretrained(a)
transformers.AutoProcessor.from_pretrained(a, trust_remote_code=True)
loader.from_pretrained(a, **other)
"""
    assert [line.split(":")[0] for line in unsafe_loading(ast.parse(source))] == [f"line {n}" for n in (7, 8, 9, 10)]
    assert any("from_pretrained" in path.read_text() for path in SOURCES)
