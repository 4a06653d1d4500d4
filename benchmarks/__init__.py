"""Benchmarks: each returns rows of plain numbers, written with the conditions they were measured under.

Run from a checkout: `perser bench NAME`. The committed JSON files lie in this folder.
"""

import csv
import json
import os
import re
from pathlib import Path

import pandas as pd
import torch

from benchmarks import adapt, cost, distributed, extraction, measure, meta, scale
from benchmarks.measure import Turns
from perser.errors import UserError

STAGES = Path("out/log/stages.csv")
ABOUT = {
    "meta": "One second-order outer step against learn2learn, torch.func and JAX: same loss and gradients.",
    "adapt": "Listeners personalised in one batch, one by one, and by learn2learn.",
    "features": "Features of WavLM-base's shape, random weights: the store's batches against one clip at a time.",
    "scale": "An episode draw and an outer step at rising numbers of listeners, features on disk.",
    "cost": "All methods of perser/experiments/methods.toml, trained on random ratings and adapted to one listener.",
    "phase2": "A Phase-2 run of the embedded suite with a model that answers at once: what one more sample costs.",
    "distributed": "Units of an experiment per minute against workers, and the arithmetic of a large collection.",
    "e2e": "Seconds of the last default ./reproduce.sh, stage by stage.",
}


# What they time runs on the processor, with or without an accelerator.
ON_CPU = ("cost", "phase2", "distributed", "e2e")


def run(name: str, device: str | None = None, rounds: int = 5, threads: int | None = None, size: float = 1.0,
        stages: Path = STAGES) -> dict:
    """One benchmark: about, conditions, settings, rows. `size`: share of the full number of clips, listeners or rows.

    Raises UserError for a missing device and for stages that were never timed.
    """
    place, settings = _device(device or ("cpu" if name in ON_CPU else None)), {"rounds": rounds, "size": size}
    shape = cost.SHAPE._replace(clips=max(1, round(size * cost.SHAPE.clips)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    try:
        conditions, turns = measure.conditions(place), Turns(rounds)
        rows = {
            "meta": lambda: meta.meta(place, turns),
            "adapt": lambda: adapt.adapt(place, turns, max(1, round(size * adapt.LISTENERS))),
            "features": lambda: extraction.features(place, turns, max(1, round(size * extraction.CLIPS))),
            "scale": lambda: scale.scale(place, turns, tuple(max(1, round(size * n)) for n in scale.LISTENERS)),
            "cost": lambda: cost.cost(place, turns, shape),
            "phase2": lambda: _overhead(turns, size),
            "distributed": lambda: distributed.distributed(turns, shape, clips=max(2, round(64 * size)),
                                                           listeners=max(2, round(1000 * size))),
            "e2e": lambda: timed_stages(stages),
        }[name]()
    finally:
        torch.set_num_threads(before)
    return {"benchmark": name, "about": ABOUT[name], "conditions": conditions,
            "settings": settings | (cost.about(shape) if name == "cost" else {}), "rows": rows}


def _overhead(turns: Turns, size: float) -> list[dict]:
    from benchmarks import overhead  # imports inspect, which takes seconds

    return overhead.overhead(turns, max(2, round(size * overhead.ROWS)))


def _device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no such device here; use --device cpu")
    return torch.device(name)


def timed_stages(path: Path) -> list[dict]:
    """The rows of a file with columns stage, seconds, outcome, as reproduce.sh writes it."""
    try:
        rows = list(csv.DictReader(path.read_text().splitlines()))
        return [{"stage": row["stage"], "seconds": int(row["seconds"]), "outcome": row["outcome"]} for row in rows]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run ./reproduce.sh first, it times its stages") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: expected columns stage,seconds,outcome; run ./reproduce.sh again") from None


def default_path(result: dict) -> Path:
    """benchmarks/DEVICE-NAME.json."""
    device = re.sub(r"[^a-z0-9]+", "-", result["conditions"]["device"].lower()).strip("-")
    return Path("benchmarks") / f"{device}-{result['benchmark']}.json"


def write(result: dict, path: Path) -> None:
    """Write a result as JSON, floats to six significant digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(result), indent=1) + "\n")


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def table(result: dict) -> str:
    """The rows for a terminal, and their conditions. A row that has a name takes a line, any other a column."""
    where = result["conditions"]
    place = (f"{where['device']}, {where['cpu']}, {where['threads']} threads, torch {where['packages']['torch']}, "
             f"load {where['load_before']} before")
    rows = pd.DataFrame(result["rows"])
    shown = (rows.to_markdown(floatfmt=".4g", index=False) if {"method", "implementation"} & set(rows)
             else rows.T.to_markdown(floatfmt=".4g", headers=[]))
    return f"{result['benchmark']}: {result['about']}\n{place}\n{shown}"
