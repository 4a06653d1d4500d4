"""Say what this machine has and what can run on it; for each missing thing, what it is and where to get it.

Runs on any Python 3.9 or newer, before anything is installed. Exit 0 when the default job can run.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HUB_MODELS = {
    "wav2vec2-base": "facebook/wav2vec2-base",
    "hubert-base": "facebook/hubert-base-ls960",
    "wavlm-base": "microsoft/wavlm-base",
    "wavlm-base-plus": "microsoft/wavlm-base-plus",
    "wav2vec2-large": "facebook/wav2vec2-large-lv60",
    "hubert-large": "facebook/hubert-large-ll60k",
    "wavlm-large": "microsoft/wavlm-large",
}
# Name: (what its root holds, where to get it)
CORPORA = {
    "iemocap": ("Session1", "free licence on request: https://sail.usc.edu/iemocap/"),
    "cremad": ("finishedResponses.csv", "open: perser fetch cremad DIR"),
    "emodb": ("wav", "open: perser fetch emodb DIR"),
    "msp_podcast": ("Labels", "licence on request: https://www.lab-msp.com/MSP/MSP-Podcast.html"),
    "ravdess": ("Actor_01", "open, not for trade: perser fetch ravdess DIR"),
}


def line(present: bool, name: str, detail: str, needed: bool = False) -> bool:
    """Print one finding and hand back whether the thing is there."""
    print(f"  {'have' if present else 'NEED' if needed else '-   '}  {name:<16} {detail}")
    return present


def tool(*command: str) -> str:
    """First line that a command prints; empty when it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""


def machine() -> bool:
    """What everything needs: platform, memory, disk."""
    fits = platform.system() == "Linux" and platform.machine() == "x86_64"
    line(
        fits,
        "Linux x86-64",
        f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
        + ("" if fits else "; the lock is for Linux x86-64: use the Dockerfile"),
        needed=True,
    )
    free, installed = shutil.disk_usage(ROOT).free / 1e9, (ROOT / ".venv/packages.stamp").is_file()
    needed = 2 if installed else 8
    room = line(free >= needed, "disk", f"{free:.0f} GB free, {needed} needed", needed=True)
    return fits and room


def environment() -> None:
    """The Python packages and the reference library."""
    line(True, "Python", f"{platform.python_version()} at {sys.executable}")
    installed = (ROOT / ".venv/perser.stamp").is_file()
    line(
        installed,
        ".venv",
        "made from requirements.lock"
        if installed
        else "not made yet: any command but check and help makes it (4 minutes, package index needed)",
    )
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    line(
        bool(compiler) and headers,
        "C compiler",
        compiler
        if compiler and headers
        else "gcc and this Python's headers (Debian, Ubuntu: apt install gcc python3-dev); "
        "without them the checks against learn2learn are skipped",
    )
    note = ROOT / ".venv/skipped"
    if note.is_file():
        line(False, "learn2learn", note.read_text())
    gpu = tool("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    line(
        bool(gpu),
        "GPU",
        gpu or "none seen (NVIDIA, driver 580 or newer); not needed, large models are slow without",
    )


def corpora(roots: dict[str, str]) -> bool:
    """The embedded corpus, and the others: at the roots given, or where they come from."""
    embedded = (ROOT / "data/synthetic/SYNTHETIC.json").is_file()
    line(embedded, "embedded corpus", "data/synthetic" if embedded else "made by ./reproduce.sh in 1 minute")
    good = True
    for name, (entry, source) in CORPORA.items():
        root = roots.get(name)
        if root is None:
            line(False, name, source)
        else:
            there = Path(root, entry).exists()
            good &= line(
                there, name, root if there else f"{root} has no {entry}: is it one level off?", needed=True
            )
    return good


def models() -> None:
    """The speech models in the hub cache."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    line(True, "logmel", "needs no download")
    for name, identity in HUB_MODELS.items():
        folder = cache / f"models--{identity.replace('/', '--')}"
        line(
            folder.is_dir(),
            name,
            str(folder) if folder.is_dir() else f"full --upstream {name} gets it: huggingface.co/{identity}",
        )


def main() -> int:
    """Print all findings and what can run; arguments NAME=DIR say where corpora are."""
    roots = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if unknown := sorted(set(roots) - set(CORPORA)):
        print(
            f"check: no corpus {unknown[0]!r}; say NAME=DIR with one of {', '.join(CORPORA)}", file=sys.stderr
        )
        return 2
    print("machine and environment")
    ready = machine()
    environment()
    print("corpora")
    ready &= corpora(roots)
    print("upstreams")
    models()
    print(
        "can run: "
        + (
            "the default job, report, test, full, promote"
            if ready
            else "nothing until each NEED above is met"
        )
    )
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(main())
