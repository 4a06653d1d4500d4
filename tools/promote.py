"""Copy a finished run into the committed results/: the only way in.

A run is out/CORPUS/UPSTREAM/EXPERIMENT; it becomes results/CORPUS/UPSTREAM/EXPERIMENT. A search becomes results/search.
"""

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("records.parquet", "manifest.json", "config.json")
BESIDE = ("learnt.parquet", "listeners.parquet")  # not every version of the run wrote them
TABLES = (".md", ".tex", ".csv")  # and the trials of a search


def main() -> int:
    """Promote the run that is named; 0 done, 1 with one line when it is not finished, 2 wrong use."""
    if len(sys.argv) != 2:
        print("promote needs one finished run, such as out/synthetic/logmel/main", file=sys.stderr)
        return 2
    run = Path(sys.argv[1])
    searched = (run / "trials.csv").is_file()
    missing = [name for name in (() if searched else ("DONE", *NEEDED)) if not (run / name).is_file()]
    if missing:
        print(f"{run / missing[0]} is not there: only a finished run is promoted", file=sys.stderr)
        return 1
    target = ROOT.joinpath("results", *(("search",) if searched else run.resolve().parts[-3:]))
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for path in sorted(run.iterdir()):
        if path.name in NEEDED + BESIDE or path.suffix in TABLES:
            shutil.copy(path, target)
    print(f"promoted {run} to {target.relative_to(ROOT)}")
    if json.loads((target / "manifest.json").read_text()).get("dirty"):
        print(
            "its manifest says that the code had uncommitted changes: run it again from a commit",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
