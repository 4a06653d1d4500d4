"""Fill the marked blocks of README.md and ARTIFACT.md: tables of committed runs, verdicts, the image."""

import json
import re
from pathlib import Path

import pandas as pd

from perser import records
from perser.analysis import claims, comparison, expected, tables, verdicts
from perser.analysis.experiments import methods as compared

ROOT = Path(__file__).resolve().parent.parent


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


def image_block(path: str) -> str:
    """What the check of the image measured, as Markdown."""
    rows = pd.read_csv(ROOT / path, dtype=str, keep_default_na=False)
    return tables.plain(rows.rename(columns={"what": "image"})) + "\n"


def fill(text: str) -> str:
    """A text with all blocks between markers rewritten."""
    blocks = {"table": table_block, "answer": answer_block, "team": team_block, "claims": claims_block,
              "expected": expected_block, "image": image_block}
    for name, write in blocks.items():
        text = re.sub(rf"(<!-- {name}: ([^>]+) -->\n).*?(<!-- end -->)",
                      lambda match, write=write: match[1] + write(*match[2].split()) + match[3],
                      text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for document in (ROOT / "README.md", ROOT / "ARTIFACT.md"):
        document.write_text(fill(document.read_text()))
