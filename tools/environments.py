"""Write environment.yml from requirements.lock; with --lock, first resolve the lock from pyproject.toml.

The lock is for Linux x86-64 and Python 3.11 and 3.12: it is resolved for 3.11.0 and also serves 3.12.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from setup_env import MISTRAL

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
CONDA = ROOT / "environment.yml"
EXTRAS = ("notebooks", "test", "reference", "app", "cluster")
RESOLVE = ["uv", "pip", "compile", "pyproject.toml", "--quiet", "--no-header", "--no-annotate", "--generate-hashes",
           *(option for extra in EXTRAS for option in ("--extra", extra)),
           "--python-version", "3.11.0", "--python-platform", "x86_64-manylinux_2_28", "--output-file", str(LOCK)]


def pins(lock: str) -> list[str]:
    """The `name==version` entries of a lock's text, in its order.

    >>> pins("a==1 \\\\\\n    --hash=sha256:00\\n# via b\\nb==2")
    ['a==1', 'b==2']
    """
    return re.findall(r"^([A-Za-z0-9._-]+==[^\s;\\]+)", lock, re.MULTILINE)


def environment(lock: str) -> str:
    """Text of a conda environment with the lock's versions."""
    head = [
        "# Written by tools/environments.py from requirements.lock. To use perser from it:",
        "# conda env create -f environment.yml && conda activate perser && pip install --no-deps -e .",
        "# Voxtral also needs these packages. Their metadata asks for an older numpy than the lock's, which works too:",
        f"# pip install --no-deps {' '.join(pins(MISTRAL))}",
        "# It pins versions and has no hashes. To check those, leave out all below `pip`, then, in the environment:",
        "# pip install --no-deps --require-hashes -r requirements.lock",
        "name: perser",
        "channels: [conda-forge]",
        "dependencies:",
        "  - python=3.12",
        "  - pip",
        "  - pip:",
    ]
    return "\n".join(head + [f"      - {pin}" for pin in pins(lock)]) + "\n"


def main() -> int:
    """Write the files. --lock needs uv on the PATH."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", action="store_true", help="resolve again, changing no more than necessary")
    parser.add_argument("--upgrade", action="store_true", help="with --lock: take the newest versions")
    arguments = parser.parse_args()
    if arguments.lock:
        subprocess.run(RESOLVE + (["--upgrade"] if arguments.upgrade else []), cwd=ROOT, check=True)
    CONDA.write_text(environment(LOCK.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
