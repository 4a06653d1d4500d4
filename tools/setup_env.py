"""Make .venv match requirements.lock, build learn2learn and install the project. Does nothing when all is done.

Runs on a bare Python 3.11 or 3.12. A finished step leaves a stamp with the digest of its inputs. A step without a
matching stamp, as after a kill, starts again from scratch.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
DISK_GB = 8
# When the set-up is killed, its commands are too. Processes that they started keep reproduce.sh's lock, which is their
# standard input.
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []

LEARN2LEARN = "learn2learn==0.2.0 --hash=sha256:69f1d7cb0d0a6be7a2c6ad8e83e2ebbe70fb05e51d61e45e63078b40c75ea419\n"
# Voxtral's processor needs these. Their metadata asks for a numpy older than the lock's, but the newer one works.
MISTRAL = (
    "mistral-common==1.13.1 --hash=sha256:98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af\n"
    "pycountry==26.2.16 --hash=sha256:115c4baf7cceaa30f59a4694d79483c9167dbce7a9de4d3d571c5f3ea77c305a\n"
    "pydantic-extra-types==2.11.1 --hash=sha256:1722ea2bddae5628ace25f2aa685b69978ef533123e5638cfbddb999e0100ec1\n"
)
BUILD_TOOLS = (  # Cython's hashes are those for Python 3.11 and 3.12
    "Cython==3.3.1 --hash=sha256:26a28e0ca5dffe9c7d69d1e3a0f78cb74f41b2b6b40771f620262a5d04862a00 "
    "--hash=sha256:215669fd0ce792080cd4d0748db7e1e31f424b6706a6220d08339895e6a3a03a\n"
    "packaging==26.3 --hash=sha256:d7193f7c8e4e93f444fde0262bf90af30e16fa0ad0ad44cb553c87339b23cd1c "
    "--hash=sha256:94edc256424af38762eb31306eed28beb9f0efc50a8837492c9d6fd6004aed79\n"
    "setuptools==81.0.0 --hash=sha256:fdd925d5c5d9f62e4b74b30d6dd7828ce236fd6ed998a08d81de62ce5a6310d6\n"
    "wheel==0.46.3 --hash=sha256:4b399d56c9d9338230118d705d9737a2a468ccca63d5e813e2a4fc7815d8bc4d\n"
)


class SetupError(Exception):
    """A step failed. The message is one line."""


def digest(*parts: str | bytes) -> str:
    """Hex digest of the parts, in order."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def call(command: list[str | Path], where: Path = ROOT) -> None:
    """Run a command with its output in the log. Raises SetupError with the last error line if it fails."""
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(map(str, command))}\n")
        log.flush()
        status = subprocess.run([*DIE_WITH_PARENT, *command], cwd=where, stdout=log, stderr=log).returncode
    if status:
        lines = [line for line in LOG.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines
        raise SetupError(f"{errors[-1].strip()} (full log: {LOG.relative_to(ROOT)})")


def make_venv(folder: Path) -> None:
    """Create a fresh environment in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([*DIE_WITH_PARENT, sys.executable, "-m", "venv", folder], check=True)


def pip(*arguments: str | Path, python: Path = PYTHON, where: Path = ROOT) -> None:
    """Run pip of the given environment without prompts."""
    call([python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments], where)


def install_packages() -> None:
    """Create .venv with exactly the packages of the lock, checked against their hashes."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB:
        raise SetupError(f"{free:.1f} GB free under {ROOT}, {DISK_GB} needed: free some space and start again")
    make_venv(VENV)
    pip("install", "--no-deps", "--no-compile", "--require-hashes", "-r", ROOT / "requirements.lock")
    pip("check")


def install_mistral() -> None:
    """Install the packages that cannot be in the lock with the others, checked against their hashes."""
    requirements = VENV / "mistral.txt"
    requirements.write_text(MISTRAL)
    pip("install", "--no-deps", "--no-compile", "--require-hashes", "-r", requirements)


def compiler() -> str:
    """Path of a C compiler that can build a Python extension. Raises SetupError naming what is missing."""
    path = next(filter(None, map(shutil.which, [os.environ.get("CC", "cc"), "gcc", "clang"])), None)
    if not path:
        raise SetupError("no C compiler (Debian, Ubuntu: apt install gcc)")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise SetupError("no Python headers (Debian, Ubuntu: apt install python3-dev)")
    return path


def build_learn2learn() -> None:
    """Build and install the reference library. Its shipped C files are too old for Python 3.11."""
    compiler()
    work = VENV / "build"
    shutil.rmtree(work, ignore_errors=True)
    make_venv(work / "env")
    python = work / "env" / "bin" / "python"
    (work / "tools.txt").write_text(BUILD_TOOLS)
    pip("install", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", work / "tools.txt", python=python)
    (work / "sdist.txt").write_text(LEARN2LEARN)
    sdist = "--no-deps --no-build-isolation --no-binary :all: --require-hashes -r sdist.txt"
    pip("download", *sdist.split(), python=python, where=work)
    shutil.unpack_archive(next(work.glob("learn2learn-*.tar.gz")), work)
    source = next(path for path in work.glob("learn2learn-*") if path.is_dir())
    sources = sorted(source.glob("learn2learn/data/*.pyx"))
    call([python, "-m", "cython", "-3", "-X", "embedsignature=True", *sources], where=source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", work, ".", python=python, where=source)
    pip("install", "--no-deps", "--force-reinstall", next(work.glob("learn2learn-*.whl")))
    shutil.rmtree(work)


def install_project() -> None:
    """Install the package in editable mode, with its `perser` command."""
    pip("install", "--no-deps", "--no-build-isolation", "--editable", ROOT)


def step(name: str, expected: str, make: Callable[[], None], key: str) -> bool:
    """Run one step unless its stamp has the key; True if it ran."""
    stamp = VENV / f"{name}.stamp"
    if stamp.is_file() and stamp.read_text() == key and PYTHON.exists():
        return False
    print(f"set-up: {name} ({expected}) ...", flush=True)
    start = time.monotonic()
    make()
    stamp.write_text(key)
    print(f"set-up: {name} took {time.monotonic() - start:.0f} s", flush=True)
    return True


def reference(key: str) -> None:
    """Build learn2learn if this machine can; otherwise record why its checks will be skipped and continue."""
    note = VENV / "skipped"
    note.unlink(missing_ok=True)
    try:
        step("learn2learn", "half a minute", build_learn2learn, key)
    except SetupError as error:
        note.write_text(str(error))
        print(f"set-up: learn2learn SKIPPED, and its reference checks with it: {error}", flush=True)


def main() -> int:
    """Bring .venv up to date. Exit code 0 if the main job can run; otherwise 1, with one line."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]} {ROOT}"
    packages = digest(python, (ROOT / "requirements.lock").read_bytes())
    try:
        step("packages", "4 GB, about 4 minutes", install_packages, packages)
        step("mistral-common", "seconds", install_mistral, digest(packages, MISTRAL))
        reference(digest(packages, LEARN2LEARN, BUILD_TOOLS))
        step("perser", "seconds", install_project, digest(packages, (ROOT / "pyproject.toml").read_bytes()))
    except (SetupError, OSError, subprocess.CalledProcessError) as error:
        print(f"set-up failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
