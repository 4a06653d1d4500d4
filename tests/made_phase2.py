"""Shared by the tests that run inspect: its warnings that are ignored, a small task, its answers, how it is loaded."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from perser.phase2 import export

# inspect leaves its event streams and client connections to the garbage collector, which warns about them, possibly in
# a later test (hence `collected`, in conftest.py), and it calls tenacity with a deprecated argument.
INSPECT = [pytest.mark.usefixtures("collected"),
           pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
           pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning"),
           pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning")]


def source(root: str | Path) -> dict:
    """The `source` of `runner.run` for all tasks under a folder."""
    return {"tasks": str(root), "data": None, "cache_dir": None, "limit": None}


def choice_task(root, labels, name="X"):
    """A one-audio classification task over the given labels, options a, b, c."""
    rows = [{"file": f"{i:03d}", "instruction": f"Wording {i % 10}. The answer could be a, b, or c.", "label": label,
             "audio": f"{i}.wav"} for i, label in enumerate(labels)]
    folder = export.write_task(root, "Choice", name, rows, kind="classification", domain="speech",
                               metrics=["accuracy"], description="d")
    for i in range(len(labels)):
        sf.write(folder / "data" / f"{i}.wav", np.sin(np.arange(800) / (9 + i)), 16000)
    return root


def predictions(path, labels, answers):
    path.write_text(json.dumps({f"{i:03d}": {"instruction": "?", "label": label, "sllm_name": "m",
                                             "sllm_response": answer}
                                for i, (label, answer) in enumerate(zip(labels, answers, strict=True))}))
    return path
