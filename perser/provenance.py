"""Where a number comes from: code, packages, data and machine."""

import ast
import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pandas as pd

PACKAGE = Path(__file__).parent
PACKAGES = ("torch", "torchaudio", "transformers", "numpy", "scipy", "pandas", "scikit-learn", "soundfile",
            "espeakng-loader")


def code(start: str = "perser.runs") -> str:
    """16 hex digits over the source, C as well, of a module and of every one of ours that it imports, however deep."""
    found, ahead = {}, [start]
    while ahead:
        name = ahead.pop()
        path = PACKAGE.parent.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name not in found and path.exists():
            found[name] = path
            ahead += _imports(path)
            if path.name == "__init__.py" and name != "perser":
                ahead += [f"{name}.{module.stem}" for module in path.parent.glob("*.py")]
    beside = [path for name in sorted(found) for path in (found[name], found[name].with_suffix(".c"))]
    return files([path for path in beside if path.exists()])


def _imports(path: Path) -> list[str]:
    """Names that a file imports from perser, modules and what is taken from them alike."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    taken = [name for node in nodes if isinstance(node, ast.ImportFrom) and node.module
             for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))]
    return [name for name in (*plain, *taken) if name.startswith("perser.")]


def files(paths: list[Path]) -> str:
    """16 hex digits over names and contents."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def data(clips: pd.DataFrame, ratings: pd.DataFrame, features: bytes | memoryview) -> str:
    """16 hex digits over who said what of which clip and over the features; paths do not count."""
    digest = hashlib.blake2b(digest_size=8)
    for frame in (clips[["speaker", "session"]].reset_index(), ratings):
        digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        digest.update("\x1f".join(frame.columns).encode())
    digest.update(features)
    return digest.hexdigest()


def git() -> dict:
    """Commit and whether the tree differs from it; empty outside a checkout."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(PACKAGE), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def machine() -> dict:
    """Processor, cores, memory, accelerator, Python and package versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1),
            "system": f"{platform.system()} {platform.machine()}", "python": sys.version.split()[0],
            "packages": {name: metadata.version(name) for name in PACKAGES}}
