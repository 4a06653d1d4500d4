"""Copy a finished run into the committed results/. Results enter in no other manner.

The run out/CORPUS/UPSTREAM/EXPERIMENT becomes results/CORPUS/UPSTREAM/EXPERIMENT. A search becomes results/search.
"""

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = ("records.parquet", "manifest.json", "config.json")
OPTIONAL = ("learnt.parquet", "listeners.parquet", "tuned.toml")  # the last one is a search's
WALK = "walk"  # a folder that `perser walk` writes
TABLES = (".md", ".tex", ".csv")  # and the trials of a search


def main() -> int:
    """Promote the named run. Exit code 0: done; 1: the run is not finished; 2: wrong use."""
    if len(sys.argv) != 2:
        print("promote needs one finished run, such as out/synthetic/logmel/main", file=sys.stderr)
        return 2
    run = Path(sys.argv[1])
    is_search = (run / "trials.csv").is_file()
    missing = [name for name in (() if is_search else ("DONE", *REQUIRED)) if not (run / name).is_file()]
    if missing:
        print(f"{run / missing[0]} is missing: only finished runs can be promoted", file=sys.stderr)
        return 1
    target = ROOT.joinpath("results", *(("search",) if is_search else run.resolve().parts[-3:]))
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for path in sorted(run.iterdir()):
        if path.name in REQUIRED + OPTIONAL or path.suffix in TABLES:
            shutil.copy(path, target)
    if (run / WALK).is_dir():
        shutil.copytree(run / WALK, target / WALK)
    print(f"promoted {run} to {target.relative_to(ROOT)}")
    if json.loads((target / "manifest.json").read_text()).get("dirty"):
        print("its manifest reports uncommitted changes of the code: run it again from a commit", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
