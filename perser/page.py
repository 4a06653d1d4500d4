"""The report of a team as one HTML file that asks nothing of any server: text is escaped, figures are inline SVG."""

import base64
import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
from scipy.special import entr

from perser.analysis import verdicts
from perser.audio import KINDS
from perser.corpora.agreement import Votes, others, votes
from perser.records import whole

TEMPLATE = Path(__file__).with_name("page.html")
DISPUTED = 12  # clips shown
EMBEDDED, EMBEDDED_SUM = 500_000, 5_000_000  # bytes of a clip, and of all, in the page; other clips are linked
WIDTH, HEIGHT = 420, 180  # of the learning curve


class Findings(NamedTuple):
    """What the page shows: `verdicts` of answers, and the general model's probabilities (opinions), a row per clip."""

    corpus: Any
    synthetic: str
    table: pd.DataFrame
    answers: pd.DataFrame
    shots: int
    understood: list[str]
    opinions: pd.DataFrame


def write(findings: Findings, path: Path) -> None:
    """Write the page. Raises UserError when it cannot be written."""
    corpus, classes = findings.corpus, list(findings.corpus.classes)
    cast = votes(corpus.ratings, corpus.classes)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        synthetic=findings.synthetic, classes=classes, understood=findings.understood, shots=findings.shots,
        summary=verdicts.lines(findings.table, findings.shots)[-4:], listeners=_listeners(findings.table),
        reasons=verdicts.REASONS, curve=_curve(verdicts.curve(findings.answers)), habits=habits(cast, classes),
        confusion=verdicts.confusion(findings.answers, corpus.ratings, corpus.classes, findings.shots),
        clips=_disputed(findings, cast, path.parent))
    with whole(path) as half:
        half.write_text(text, encoding="utf-8")


def _listeners(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the verdicts with the ends of each interval on a common scale of 0 to 200."""
    reach = float(np.nanmax(np.abs(table[["low", "high"]].to_numpy(float)), initial=0.01))
    rows = table.assign(**{f"{name}_x": 100 + 96 * table[name] / reach for name in ("low", "gain", "high")})
    return rows.assign(better=table["verdict"] == verdicts.BETTER).to_dict("records")


def habits(cast: Votes, classes: list[str]) -> list[dict[str, Any]]:
    """How each listener differs from the other listeners of the same clips.

    agreement: share of votes on their plurality; biases: share of each class minus theirs; the most frequent confusion
    as heard, where, times and of: `times` of the `of` clips where most say `where`, the listener says `heard`.
    """
    mean, plurality, shared = others(cast)
    plural, rows = plurality / np.maximum(plurality.sum(1, keepdims=True), 1), []
    for code, name in enumerate(cast.names):
        own = (cast.listener == code) & shared
        if not own.any():
            continue
        counts = plural[own].T @ cast.weights[own]
        row = {"listener": name, "agreement": float(np.trace(counts) / own.sum()),
               "biases": (cast.weights[own] - mean[own]).mean(0).tolist()}
        off = counts * (1 - np.eye(len(classes)))
        where, heard = np.unravel_index(off.argmax(), off.shape)
        rows.append(row | {"heard": classes[heard], "where": classes[where], "times": float(off.max()),
                           "of": float(counts[where].sum())})
    return sorted(rows, key=lambda row: row["agreement"])


def _curve(curve: pd.DataFrame) -> dict[str, Any]:
    """The learning curve in points of a drawing, and in words."""
    general = 100 * float(curve.loc[curve["shots_of"] == "general", "hit"].iloc[0])
    series = {name: part.sort_values("shots") for name, part in curve[curve["shots"] > 0].groupby("shots_of")}
    heights = [100 * value for part in series.values() for value in part["hit"]] + [general]
    low, high = min(heights) - 1, max(heights) + 1
    shots = sorted(set(curve["shots"]) - {0})

    def y(value: float) -> float:
        return round(HEIGHT - (value - low) / (high - low) * HEIGHT, 1)

    def x(number: int) -> float:
        return round(WIDTH * number / shots[-1], 1)

    own = series["own"].set_index("shots")["hit"] * 100
    words = [f"K = {k}: {own[k]:.1f} % right ({own[k] - general:+.1f} points)" for k in shots]
    if len(shots) > 1:
        step = own[shots[-1]] - own[shots[-2]]
        words.append(f"the last {shots[-1] - shots[-2]} labels of a listener added {step:+.1f} points, so more labels "
                     f"{'are likely to help' if step >= 0.5 else 'will help little'}")
    points = {name: [(x(0), y(general)), *((x(k), y(100 * value)) for k, value in zip(part["shots"], part["hit"]))]
              for name, part in series.items()}
    return {"points": points, "general": y(general), "words": words, "ticks": [(x(k), k) for k in (0, *shots)],
            "ends": [(y(value), f"{value:.0f} %") for value in (low + 1, high - 1)], "width": WIDTH, "height": HEIGHT}


def _disputed(findings: Findings, cast: Votes, folder: Path) -> list[dict[str, Any]]:
    """The clips that listeners disagree on most: those with the most even votes of three listeners or more."""
    corpus, classes = findings.corpus, list(findings.corpus.classes)
    ticked = corpus.ratings[corpus.ratings[classes].any(axis=1)]
    by_clip = pd.DataFrame(cast.weights, columns=classes).groupby(ticked["clip"].to_numpy())
    shares, raters = by_clip.mean(), by_clip.size()
    spread = pd.Series(entr(shares.to_numpy()).sum(1), shares.index)[raters >= min(3, raters.max())]
    rows, room = [], EMBEDDED_SUM
    for clip in spread[spread > 0].sort_values(ascending=False, kind="stable").index[:DISPUTED]:
        of_clip = ticked[ticked["clip"] == clip]
        heard = {name: sorted(of_clip.loc[of_clip[name], "listener"]) for name in classes}
        opinion, source = findings.opinions.loc[clip], _audio(Path(corpus.clips.loc[clip, "path"]), folder, room)
        room -= len(source) if source.startswith("data:") else 0
        rows.append({"clip": clip, "heard": {name: names for name, names in heard.items() if names},
                     "model": opinion.idxmax(), "p": float(opinion.max()), "audio": source})
    return rows


def _audio(path: Path, folder: Path, room: int) -> str:
    """A data URI of a short clip, a relative link to a longer one, nothing where there is no audio."""
    kind = KINDS.get(path.suffix.lower())
    if not kind or not path.is_file():
        return ""
    if path.stat().st_size > min(EMBEDDED, room * 3 // 4):
        return quote(Path(os.path.relpath(path, folder.absolute())).as_posix())
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
