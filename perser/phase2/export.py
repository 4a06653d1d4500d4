"""Write a data set in the upstream layout, and check a folder against upstream's review rules."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile as sf

from perser.errors import UserError
from perser.phase2.tasks import load

MOST_SECONDS, FEWEST_ROWS, FEWEST_INSTRUCTIONS = 3600.0, 32, 10


def numbered(name: str, values: Sequence[str]) -> dict[str, str]:
    """Upstream's columns for one or more values.

    >>> numbered("label", ["sad", "angry"])
    {'label': 'sad', 'label2': 'angry'}
    """
    return {f"{name}{i}" if i > 1 else name: value for i, value in enumerate(values, 1)}


def write_task(root: str | Path, task: str, dataset: str, rows: Sequence[Mapping[str, object]], *, kind: str,
               domain: str, metrics: Sequence[str], description: str, synthetic: str = "",
               license: str = "MIT") -> Path:
    """Write `instance.json` and `data/metadata.jsonl` under `root/<task>/<task>_<dataset>`; returns that folder.

    rows: dicts of upstream's columns: file, instruction, label (strings), audio, audio2 ..., text, label2 ...
    The caller puts the WAV files in `data/`. `kind`, `domain` and `synthetic` are extra keys, which upstream allows.
    """
    folder = Path(root) / task / f"{task}_{dataset}"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    instance = {"name": f"{task}_{dataset}", "description": description, "keywords": [kind, domain],
                "metrics": list(metrics), "path": f"DynamicSuperb/{task}_{dataset}", "version": "",
                "kind": kind, "domain": domain, "synthetic": synthetic, "license": license}
    (folder / "instance.json").write_text(json.dumps(instance, indent=2) + "\n", encoding="utf-8")
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    (folder / "data" / "metadata.jsonl").write_text(lines, encoding="utf-8")
    stamp = f"\n\nSynthetic: {synthetic}." if synthetic else ""
    text = f"# {task}\n\n{description}\n\nKind: {kind}. Metrics: {', '.join(metrics)}. Rows: {len(rows)}.{stamp}\n"
    (folder.parent / "README.md").write_text(text, encoding="utf-8")
    return folder


def review(folder: str | Path) -> list[str]:
    """Upstream's rules that a data set breaks (length, rows, instructions, columns, readme); [] if none."""
    folder = Path(folder)
    faults = [] if (folder.parent / "README.md").is_file() else [f"{folder.parent}: README.md is missing"]
    try:
        tasks, problems = load(folder)
    except UserError as error:
        return [*faults, str(error)]
    faults += problems
    for task in tasks:
        count, distinct = len(task.rows), len({row.instruction for row in task.rows})
        seconds = sum(sf.info(path).duration for row in task.rows for path in row.audios)
        needed = max(count / 20, FEWEST_INSTRUCTIONS)
        rules = ((seconds > MOST_SECONDS, f"{seconds / 60:.1f} min of audio; at most {MOST_SECONDS / 60:.0f}"),
                 (count < FEWEST_ROWS, f"{count} rows; at least {FEWEST_ROWS}"),
                 (distinct < needed, f"{distinct} distinct instructions; at least {needed:g}"))
        faults += [f"{task.instance}: {fault}" for broken, fault in rules if broken]
    return faults
