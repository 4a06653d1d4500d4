"""Report what this machine has and what can run on it, and where to get each missing thing.

Runs on any Python 3.9 or newer, before anything is installed. Exit code 0 if the default job can run.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DRIVER = 580  # of NVIDIA: the least for the lock's CUDA 13
WHISPER = "whisper-tiny.en-589c9dac6998"  # the default upstream's folder in the cache
HUB_MODELS = {
    "wav2vec2-base": "facebook/wav2vec2-base", "hubert-base": "facebook/hubert-base-ls960",
    "wavlm-base": "microsoft/wavlm-base", "wavlm-base-plus": "microsoft/wavlm-base-plus",
    "wav2vec2-large": "facebook/wav2vec2-large-lv60", "hubert-large": "facebook/hubert-large-ll60k",
    "wavlm-large": "microsoft/wavlm-large",
}
# Name: (an entry of its root, where to get it)
CORPORA = {
    "iemocap": ("Session1", "free licence on request: https://sail.usc.edu/iemocap/"),
    "cremad": ("finishedResponses.csv", "open: perser fetch cremad DIR"),
    "emodb": ("wav", "open: perser fetch emodb DIR"),
    "msp_podcast": ("Labels", "licence on request: https://www.lab-msp.com/MSP/MSP-Podcast.html"),
    "ravdess": ("Actor_01", "open, non-commercial: perser fetch ravdess DIR"),
}


def show(present: bool, name: str, detail: str, needed: bool = False) -> bool:
    """Print a line on one thing and return whether it is present."""
    print(f"  {'have' if present else 'NEED' if needed else '-   '}  {name:<16} {detail}")
    return present


def first_line(*command: str) -> str:
    """First line that a command prints; empty if the command is missing or fails."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return process.stdout.strip().partition("\n")[0] if process.returncode == 0 else ""


def machine() -> bool:
    """Check platform and disk, which everything needs."""
    fits = platform.system() == "Linux" and platform.machine() == "x86_64"
    detail = f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    show(fits, "Linux x86-64", detail + ("" if fits else "; the lock is for Linux x86-64: use the Dockerfile"), True)
    free, needed = shutil.disk_usage(ROOT).free / 1e9, 2 if (ROOT / ".venv/packages.stamp").is_file() else 8
    return show(free >= needed, "disk", f"{free:.0f} GB free, {needed} needed", True) and fits


def environment() -> None:
    """Report the Python packages, the reference library and the GPU."""
    show(True, "Python", f"{platform.python_version()} at {sys.executable}")
    installed = (ROOT / ".venv/perser.stamp").is_file()
    show(installed, ".venv", "made from requirements.lock" if installed else
         "not made yet: any command but check and help makes it (4 minutes, package index needed)")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")
    builds = bool(compiler) and Path(sysconfig.get_path("include"), "Python.h").is_file()
    show(builds, "C compiler", compiler if builds else
         "gcc and this Python's headers (Debian, Ubuntu: apt install gcc python3-dev); without them the checks "
         "against learn2learn are skipped")
    note = ROOT / ".venv/skipped"
    if note.is_file():
        show(False, "learn2learn", note.read_text())
    gpu = first_line("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    driver = gpu.rpartition(",")[2].strip()
    old = bool(gpu) and int(driver.partition(".")[0] if driver[:1].isdigit() else 0) < DRIVER
    remedy = f"; driver {DRIVER} or newer is needed, so it is not used" if old else ""
    show(bool(gpu) and not old, "GPU", f"{gpu}{remedy}" if gpu else
         f"none (NVIDIA, driver {DRIVER} or newer); optional, large models are slow without one")


def corpora(roots: dict[str, str]) -> bool:
    """Report the embedded corpus and the others; False if a given root does not hold its corpus."""
    embedded = (ROOT / "data/synthetic/SYNTHETIC.json").is_file()
    show(embedded, "embedded corpus", "data/synthetic" if embedded else "made by ./reproduce.sh in 1 minute")
    valid = True
    for name, (entry, source) in CORPORA.items():
        if name in roots:
            present = Path(roots[name], entry).exists()
            valid &= show(present, name, roots[name] if present else
                          f"{roots[name]} has no {entry}: is it one level off?", True)
        else:
            show(False, name, source)
    return valid


def models() -> None:
    """Report the speech models in the caches of perser and of the hub."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    whisper = Path(os.environ.get("PERSER_CACHE") or user / "perser").expanduser() / "models" / WHISPER
    installed = (whisper / "model.safetensors").is_file()
    show(installed, "whisper-tiny.en", str(whisper) if installed else
         "the default; any command that needs it downloads it (71 MB, package index needed)")
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    show(True, "logmel", "needs no download")
    for name, identity in HUB_MODELS.items():
        folder = cache / f"models--{identity.replace('/', '--')}"
        cached = folder.is_dir()
        upstream = f"{identity}@COMMIT" if name == "wavlm-base" else name  # no commit of it is known to us
        show(cached, name, str(folder) if cached else
             f"full --upstream {upstream} downloads it: huggingface.co/{identity}")


def main() -> int:
    """Print everything and what can run. Arguments NAME=DIR give the roots of corpora."""
    roots = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if unknown := sorted(set(roots) - set(CORPORA)):
        print(f"check: no corpus {unknown[0]!r}; give NAME=DIR with one of {', '.join(CORPORA)}", file=sys.stderr)
        return 2
    print("machine and environment")
    ready = machine()
    environment()
    print("corpora")
    ready &= corpora(roots)
    print("upstreams")
    models()
    print("can run: " + ("the default job, report, test, full, promote" if ready else
                         "nothing until each NEED above is met"))
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(main())
