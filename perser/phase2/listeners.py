"""ListenerEmotionRecognition: what would *this* listener call the last clip, given K that they labelled?

The rows are queries of the very episodes of the main table, so a model that reads the examples in its context and
one that adapts to them by gradient answer the same questions.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from perser.features import audio
from perser.corpora import Corpus
from perser.episodes import Data
from perser.episodes import data as as_data
from perser.errors import UserError
from perser.evaluate import draws_by_listener
from perser.phase2.export import FEWEST_ROWS, MOST_SECONDS, write_task
from perser.seeds import rng
from perser.splits import listener_groups, split

TASK, SECONDS = "ListenerEmotionRecognition", 10.0
OPENINGS = ("{n} clips follow; one listener labelled all but the last.", "You hear {n} clips rated by the same person.",
            "A single listener rated these clips; the rating of clip {n} is kept back.",
            "Learn how one listener hears emotions from the first {k} clips.",
            "Listeners differ. Here is how one of them rated {k} clips.")
ASKS = ("Which emotions would this listener tick for the last clip? Name every one.",
        "What would the same listener call clip {n}? Name all emotions that apply to this listener.")
EXAMPLE = re.compile(r"Clip (\d+): ([^.]+)\.")


def wordings() -> list[str]:
    """Ten instructions with places for the number of clips n, of examples k, the examples and the options."""
    return [f"{opening} {{examples}} {ask} The answer could be {{options}}." for opening in OPENINGS for ask in ASKS]


def examples(instruction: str) -> list[list[str]]:
    """The labels of the labelled clips in an instruction of this task, in order; [] for any other.

    >>> examples("Two clips. Clip 1: angry, sad. Clip 2: happy. What now? The answer could be a or b.")
    [['angry', 'sad'], ['happy']]
    """
    return [[label.strip() for label in match[2].split(",")] for match in EXAMPLE.finditer(instruction)]


def queries(data: Data, *, fold: int, group: int, setting: str, shots: Sequence[int], at: int, draws: int,
            min_queries: int, groups: int, seed: int,
            dev_held_out: bool = True) -> list[tuple[int, int, np.ndarray, int]]:
    """(listener, draw, support ratings, query rating) of the main table's test episodes with `at` shots."""
    held = split(data, fold, group, listener_groups(data, groups, max(shots) + min_queries), dev_held_out)
    found = draws_by_listener(data, getattr(held, setting), tuple(shots), draws, min_queries, seed, "test draws")
    return [(listener, draw, support, int(query)) for (listener, k), episodes in sorted(found.items()) if k == at
            for draw, (support, row) in enumerate(zip(episodes.support, episodes.query, strict=True)) for query in row]


def build(root: str | Path, corpus: Corpus, *, fold: int = 1, group: int = 0, setting: str = "unseen",
          shots: Sequence[int] = (5, 10, 20), at: int = 5, draws: int = 5, min_queries: int = 5, groups: int = 6,
          seed: int = 0, rows: int = 64, dev_held_out: bool = True) -> Path:
    """Write the task from a corpus; gives the data set's folder. The settings are those of the experiment.

    Rows are drawn without repetition over listeners and draws; `episodes.csv` says which episode each is from.
    Raises UserError when there are fewer queries than upstream wants rows, or an hour of audio is passed.
    """
    data = as_data(corpus, torch.empty(len(corpus.clips), 0, 0))
    asked = queries(data, fold=fold, group=group, setting=setting, shots=shots, at=at, draws=draws,
                    min_queries=min_queries, groups=groups, seed=seed, dev_held_out=dev_held_out)
    if len(asked) < FEWEST_ROWS:
        raise UserError(f"{corpus.name}: {len(asked)} queries in fold {fold}, group {group}; {FEWEST_ROWS} are needed: "
                        "take another fold, group or setting")
    chosen = rng(seed, "listener task", fold, group, setting, at).permutation(len(asked))[:rows]
    folder = Path(root) / TASK / f"{TASK}_{_title(corpus.name)}-Fold{fold}" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    made = list(_rows([asked[i] for i in sorted(chosen)], data, corpus, folder, seed))
    seconds = sum(sf.info(folder / v).duration for row in made for k, v in row.items() if k.startswith("audio"))
    if seconds > MOST_SECONDS:
        raise UserError(f"{corpus.name}: {seconds / 60:.0f} min of audio; upstream allows 60: lower rows or shots")
    with (folder / "episodes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "listener", "draw", "clip"])
        table.writerows([row["file"], data.listeners[asked[i][0]], asked[i][1], data.clips[data.clip[asked[i][3]]]]
                        for row, i in zip(made, sorted(chosen), strict=True))
    return write_task(root, TASK, f"{_title(corpus.name)}-Fold{fold}", made, kind="classification", domain="speech",
                      metrics=("accuracy", "F1", "macro-F1"), synthetic=corpus.synthetic, license="see the corpus",
                      description=f"Name what one listener hears, from {at} clips that this listener labelled.")


def _title(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _rows(asked: Sequence[tuple[int, int, np.ndarray, int]], data: Data, corpus: Corpus, folder: Path,
          seed: int) -> Iterator[dict]:
    forms, classes = wordings(), list(data.classes)
    order = np.resize(rng(seed, "listener task wording").permutation(len(forms)), len(asked))
    for number, (_, _, support, query) in enumerate(asked):
        ratings = [*support.tolist(), query]
        ticks = [[c for c, on in zip(classes, data.labels[r].tolist(), strict=True) if on] for r in ratings]
        given = " ".join(f"Clip {i}: {', '.join(ticked)}." for i, ticked in enumerate(ticks[:-1], 1))
        text = forms[order[number]].format(n=len(ratings), k=len(ratings) - 1, examples=given,
                                           options=f"{', '.join(classes[:-1])}, or {classes[-1]}")
        clips = [_clip(corpus.clips.loc[data.clips[data.clip[r]], "path"], folder) for r in ratings]
        yield {"file": f"{TASK}_{number:03d}.wav", "instruction": text,
               **{f"audio{i}" if i > 1 else "audio": name for i, name in enumerate(clips, 1)},
               **{f"label{i}" if i > 1 else "label": name for i, name in enumerate(ticks[-1], 1)}}


def _clip(path: str, folder: Path) -> str:
    """Copy a clip as 16 kHz WAV under a name that gives nothing away and is the same wherever the corpus lies."""
    name = f"{audio.digest(path)[:12]}.wav"
    if not (folder / name).exists():
        sf.write(folder / name, audio.read(path, SECONDS), audio.RATE, subtype="PCM_16")
    return name
