"""Where a number comes from: data, commit and machine."""

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

FOLDER = Path(__file__).parent
PACKAGES = ("torch", "torchaudio", "transformers", "numpy", "scipy", "pandas", "scikit-learn", "soundfile",
            "espeakng-loader")


def data(clips: pd.DataFrame, ratings: pd.DataFrame, features: bytes | memoryview) -> str:
    """Digest (16 hex digits) of clips, ratings and features. Paths are left out, so a corpus may be moved."""
    digest = hashlib.blake2b(digest_size=8)
    for table in (clips[["speaker", "session"]].reset_index(), ratings):
        digest.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
        digest.update("\x1f".join(table.columns).encode())
    digest.update(features)
    return digest.hexdigest()


def git() -> dict[str, Any]:
    """The commit, and whether the library differs from it (`dirty`); both None outside a checkout."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(FOLDER), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


@cache
def here() -> dict[str, Any]:
    """The commit and the processor that a number is computed with."""
    return {"commit": git()["commit"], "cpu": machine()["cpu"]}


def machine() -> dict[str, Any]:
    """Processor, cores, memory, operating system, and the versions of Python and of PACKAGES."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().split("\n") if line.startswith("model name")]
        cpu = models[0].split(":", 1)[1].strip() if models else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1),
            "system": f"{platform.system()} {platform.machine()}", "python": sys.version.split()[0],
            "packages": {name: metadata.version(name) for name in PACKAGES}}
