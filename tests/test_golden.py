"""Golden records: a change that is not meant to alter numbers gives the committed records, method by method.

They were computed by the code before the library was restructured. A change that does alter numbers raises
`perser.plan.NUMERICS_VERSION` and writes them anew: `python tests/test_golden.py`.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import made
import pandas as pd
import pytest

from perser import experiment, records
from perser.plan import Plan
from perser.workers import run

GOLDEN = Path(__file__).with_name("golden")
UPSTREAM = SimpleNamespace(name="made", identity="made 1", standardise=True, random=False)
SLACK = 1  # a sum in another order, on another processor, may move a prediction at the threshold


def computed(name: str, out: Path) -> pd.DataFrame:
    corpus, features = made.corpus(listeners=9, clips=20)
    plan = Plan(experiment.load(GOLDEN / f"{name}.toml"), corpus, UPSTREAM, features, (0.0, 1.0), out / name)
    frame = run(plan, jobs=2)
    kept = [column for column in frame if column in records.COLUMNS or column[:3] in ("tp_", "fp_", "fn_")]
    return frame.loc[frame["shots_of"] == "own", kept].reset_index(drop=True)


@pytest.mark.parametrize("name", ["methods", "steps"])
def test_records_are_those_committed(name, tmp_path):
    golden = pd.read_parquet(GOLDEN / f"{name}.parquet")
    frame = computed(name, tmp_path)
    assert list(frame) == list(golden)
    counted = [column for column in golden if column == "top" or column[:3] in ("tp_", "fp_", "fn_")]
    both = golden.merge(frame, on=[column for column in golden if column not in counted], suffixes=("", "_new"),
                        how="outer", indicator=True)
    assert set(both["_merge"]) == {"both"}, both.loc[both["_merge"] != "both", records.KEYS].to_string()
    moved = pd.concat([(both[f"{column}_new"] - both[column]).abs() for column in counted], axis=1).max(axis=1)
    by_method = moved.groupby(both["method"]).agg(["max", lambda counts: (counts > 0).mean()])
    assert (by_method["max"] <= SLACK).all(), by_method.to_string()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or ["methods", "steps"]:
            computed(name, Path(folder)).to_parquet(GOLDEN / f"{name}.parquet", index=False)
