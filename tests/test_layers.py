"""Imports run one way: from corpora to records, and nothing after the records needs torch."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "perser"
ORDER = [
    {"errors", "seeds"}, {"audio"}, {"corpora"}, {"upstreams"}, {"features"}, {"kernels", "descend"},
    {"losses", "schedules", "head", "scores", "traits"}, {"episodes"}, {"splits", "adapt"}, {"reference"},
    {"config", "provenance", "records"}, {"material"}, {"evaluate"}, {"checkpoints", "baselines"}, {"metatrain"},
    {"runs"}, {"personal"}, {"bench"},
]
BESIDE = {("bench", "phase2")}  # Phase-2 takes records, corpora and adaptation, and of these only its timing takes it
AFTER = ["captions", "intervals", "study", "tables", "figures", "claims", "report"]


def imports(path: Path) -> set[str]:
    """Top-level modules a file imports; of perser, its modules as perser.NAME."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"perser.{alias.name}" for alias in node.names] if node.module == "perser" else [node.module]
            found |= set(names)
    return {".".join(name.split(".")[:2]) if name.startswith("perser.") else name.split(".")[0] for name in found}


def closure(module: str) -> set[str]:
    """All that importing a module of perser imports, directly or not."""
    seen, ahead = set(), [f"perser.{module}"]
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            path = PACKAGE / f"{name.removeprefix('perser.')}.py"
            if name.startswith("perser.") and path.exists():
                ahead += imports(path)
    return seen


def test_imports_run_from_corpora_to_records():
    rank = {name: i for i, level in enumerate(ORDER) for name in level}
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if here in rank:
            for name in imports(path):
                there = name.removeprefix("perser.")
                if name.startswith("perser.") and there != here and (here, there) not in BESIDE:
                    assert there in rank, f"{path.name} imports {there}, which comes after the records"
                    assert rank[there] <= rank[here], f"{path.name} imports {there} against the order"


def test_nothing_after_the_records_imports_torch():
    for name in ("records", "scores", "traits", *AFTER):
        assert (PACKAGE / f"{name}.py").exists()
        assert not closure(name) & {"torch", "torchaudio", "transformers"}, name
