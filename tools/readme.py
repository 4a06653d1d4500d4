"""Fill the marked blocks of documents: tables of committed runs, verdicts on methods and claims, minutes, the image."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from perser import experiment as experiments
from perser import records
from perser.analysis import claims, comparison, expected, tables, verdicts
from perser.analysis.experiments import methods as compared

ROOT = Path(__file__).resolve().parent.parent
UNMEASURED = {"cremad": "perser run main --corpus cremad ...", "iemocap": "./reproduce.sh full --corpus iemocap ...",
              "gpu": "benchmarks/gpu.sh"}  # until results or benchmarks hold them


def table_block(run_dir: str, *methods: str) -> str:
    """A run's compact table of some methods, by default all, at the largest number of shots as Markdown."""
    run = comparison.largest(records.load(ROOT / run_dir))
    run = comparison.of(run, methods) if methods else run
    return tables.markdown(tables.compact_table(run), tables.score_caption(run))


def answer_block(run_dir: str) -> str:
    """What a run says, in three sentences."""
    return f"{compared.answer(records.load(ROOT / run_dir))}\n"


def team_block(path: str) -> str:
    """An excerpt of what `perser personalise` printed: heading, first two and last listener, summary."""
    told = json.loads((ROOT / path).read_text())
    heading, *listeners, _, a, b, c, d = verdicts.lines(pd.DataFrame(told["listeners"]), told["shots"])
    shown = [heading, *listeners[:2], "...", listeners[-1], a, b, c, d]
    return "\n".join(["```", *shown, "```", ""])


def claims_block(run_dir: str, *methods: str) -> str:
    """The headline claims on some methods of a run, by default all, and those against the best simple method."""
    run = records.load(ROOT / run_dir)
    titles = {run.title(method) for method in methods or run.manifest.methods}
    shown = [claim for claim in claims.of_run(run, ROOT / run_dir)
             if claim["method"] in titles and (claim["kind"] != "macro F1" or claim["bar"])]
    return "\n".join(["```", *claims.lines(shown), "```", ""])


def expected_block(path: str) -> str:
    """The totals and the table of the claims in a file."""
    judged = expected.judge(expected.read(ROOT / path), ROOT)
    return f"{expected.headline(judged)}.\n\n{expected.markdown(judged)}"


def minutes_block(results: str, benchmarks: str) -> str:
    """What commands took, as committed runs and benchmarks have it; what no record knows is not measured."""
    rows = [*_of_runs(ROOT / results), *_of_others(ROOT / results, ROOT / benchmarks)]
    known = {path.name for path in (ROOT / results).iterdir()} | {"gpu" for _ in (ROOT / benchmarks).glob("cuda-*")}
    rows += [(f"`{command}`", "not measured", "not measured", "-") for name, command in UNMEASURED.items()
             if name not in known]
    return tabulate(rows, ("command", "minutes of one core", "minutes", "measured on"), "github",
                    disable_numparse=True) + "\n"


def _of_runs(results: Path) -> Iterator[tuple[str, ...]]:
    """A row per run: of its parts, wherever they were computed, and of its last call where that computed all."""
    for path in sorted(results.glob("*/*/*/manifest.json")):
        told = records.load(path.parent).manifest
        seconds = [origin.minutes for origin in told.origins]
        alone = told.units_computed == told.units and [origin.commit for origin in told.origins] == [told.commit]
        name = told.experiment if (experiments.OWN / f"{told.experiment}.toml").is_file() else (
            f"{told.experiment.rpartition('-')[0]} --set name={told.experiment}")
        yield (f"`perser run {name} --corpus {told.corpus} --upstream {told.upstream} ...`",
               "not measured" if None in seconds else _minutes(sum(seconds)),
               _minutes(told.minutes) if alone else "-", _machine(told.machine))


def _of_others(results: Path, benchmarks: Path) -> Iterator[tuple[str, ...]]:
    """Rows of what is no run: a team, models on the Phase-2 suite, ./reproduce.sh, features."""
    team = json.loads((results / "team" / "emodb.json").read_text())
    yield "`perser personalise ...`, EmoDB's 36 listeners", "-", _minutes(team["minutes"]), _machine(team["machine"])
    for told in json.loads((results / "phase2" / "suite" / "manifest.json").read_text())["models"].values():
        model = "perser/DIR" if told["model"].startswith("perser/") else told["model"]
        yield (f"`perser phase2 --suite --limit {told['limit']} --model {model} ...`", "-",
               _minutes(told["seconds"] / 60), _machine(told["machine"]))
    whole = json.loads((benchmarks / "cpu-e2e.json").read_text())
    yield ("`./reproduce.sh`, set-up included", "-", _minutes(sum(row["seconds"] for row in whole["rows"]) / 60),
           _machine(whole["conditions"]))
    store = json.loads((benchmarks / "cpu-features.json").read_text())
    row = next(row for row in store["rows"] if row["implementation"] == "perser")
    yield (f"features of {row['audio_seconds'] / 60:.0f} minutes of audio, a model of WavLM-base's size", "-",
           _minutes(row["seconds"] / 60), _machine(store["conditions"]))


def _minutes(number: float) -> str:
    return f"{number:.1f}" if number >= 0.1 else "below 0.1"


def _machine(about: dict) -> str:
    return f"{about['cpu']}, {about['cores']} core{'s' * (about['cores'] > 1)}"


def image_block(path: str) -> str:
    """What the check of the image measured, as Markdown."""
    rows = pd.read_csv(ROOT / path, dtype=str, keep_default_na=False)
    return tables.plain(rows.rename(columns={"what": "image"})) + "\n"


def fill(text: str) -> str:
    """A text with all blocks between markers rewritten."""
    blocks = {"table": table_block, "answer": answer_block, "team": team_block, "claims": claims_block,
              "expected": expected_block, "minutes": minutes_block, "image": image_block}
    for name, write in blocks.items():
        text = re.sub(rf"(<!-- {name}: ([^>]+) -->\n).*?(<!-- end -->)",
                      lambda match, write=write: match[1] + write(*match[2].split()) + match[3],
                      text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for document in (ROOT / "README.md", ROOT / "ARTIFACT.md", ROOT / "docs" / "recipes.md"):
        document.write_text(fill(document.read_text()))
