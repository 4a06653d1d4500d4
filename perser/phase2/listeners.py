"""ListenerEmotionRecognition: what would *this* listener call the last clip, given K clips that they labelled?

The rows are queries from the main table's episodes, so a model that reads the examples in its context and one that
adapts to them by gradient answer the same questions.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from perser import audio
from perser.corpora import Corpus
from perser.data import Data, from_corpus
from perser.errors import UserError
from perser.experiment import Experiment
from perser.phase2.export import FEWEST_ROWS, MOST_SECONDS, numbered, write_task
from perser.protocol import Protocol
from perser.seeds import rng

TASK, SECONDS = "ListenerEmotionRecognition", 10.0
OPENINGS = ("{n} clips follow; one listener labelled all but the last.", "You hear {n} clips rated by the same person.",
            "A single listener rated these clips; the rating of clip {n} is kept back.",
            "Learn how one listener hears emotions from the first {k} clips.",
            "Listeners differ. Here is how one of them rated {k} clips.")
ASKS = ("Which emotions would this listener tick for the last clip? Name every one.",
        "What would the same listener call clip {n}? Name all emotions that apply to this listener.")
Query = tuple[int, int, np.ndarray, int]  # listener, draw, support ratings, query rating
EXAMPLE = re.compile(r"Clip (\d+): ([^.]+)\.")


def wordings() -> list[str]:
    """Ten instructions with fields for the number of clips n and of examples k, the examples and the options."""
    return [f"{opening} {{examples}} {ask} The answer could be {{options}}." for opening in OPENINGS for ask in ASKS]


def examples(instruction: str) -> list[list[str]]:
    """The labels of the labelled clips in an instruction of this task, in order; [] for any other instruction.

    >>> examples("Two clips. Clip 1: angry, sad. Clip 2: happy. What now? The answer could be a or b.")
    [['angry', 'sad'], ['happy']]
    """
    return [[label.strip() for label in match[2].split(",")] for match in EXAMPLE.finditer(instruction)]


def queries(protocol: Protocol, *, fold: int, group: int, setting: str, at: int, seed: int) -> list[Query]:
    """The queries of the main table's test episodes with `at` shots. Raises UserError when there is no such table."""
    if (fold, group) not in protocol.splits or at not in protocol.shots[setting]:
        numbers = ", ".join(map(str, protocol.shots[setting]))
        raise UserError(f"fold {fold}, group {group}, {at} shots: nobody is tested so; {setting} clips have {numbers} "
                        f"shots, in {len(protocol.groups)} groups from 0")
    episodes = protocol.draws(protocol.split(fold, group), setting, seed)
    return [(listener, draw, support, int(query)) for (listener, k), drawn in sorted(episodes.items()) if k == at
            for draw, (support, row) in enumerate(zip(drawn.support, drawn.query, strict=True)) for query in row]


def build(root: str | Path, corpus: Corpus, experiment: Experiment, *, fold: int = 1, group: int = 0,
          setting: str = "unseen", at: int = 5, seed: int = 0, rows: int = 64) -> Path:
    """Write the task for a corpus and an experiment; returns the folder of the data set.

    Rows are drawn without replacement over listeners and draws; `episodes.csv` maps them to their episodes.
    Raises UserError when there are fewer queries than upstream's minimum of rows, or more than an hour of audio.
    """
    data = from_corpus(corpus, torch.empty(len(corpus.clips), 0, 0))
    name = f"{''.join(part.capitalize() for part in corpus.name.split('_'))}-Fold{fold}"
    protocol = Protocol(experiment, data)
    available = queries(protocol, fold=fold, group=group, setting=setting, at=at, seed=seed)
    if len(available) < FEWEST_ROWS:
        raise UserError(f"{corpus.name}: {len(available)} queries in fold {fold}, group {group}; at least "
                        f"{FEWEST_ROWS} are needed: choose another fold, group or setting")
    order = rng(seed, "listener task", fold, group, setting, at).permutation(len(available))
    chosen = [available[i] for i in sorted(order[:rows])]
    folder = Path(root) / TASK / f"{TASK}_{name}" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    table = list(_rows(chosen, data, corpus, folder, seed))
    seconds = sum(sf.info(folder / v).duration for row in table for k, v in row.items() if k.startswith("audio"))
    if seconds > MOST_SECONDS:
        raise UserError(f"{corpus.name}: {seconds / 60:.0f} min of audio; upstream allows 60: use fewer rows or shots")
    with (folder / "episodes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "listener", "draw", "clip"])
        writer.writerows([row["file"], data.listeners[listener], draw, data.clips[data.clip[query]]]
                         for row, (listener, draw, _, query) in zip(table, chosen, strict=True))
    return write_task(root, TASK, name, table, kind="classification", domain="speech",
                      metrics=("accuracy", "F1", "macro-F1"), synthetic=corpus.synthetic, license="see the corpus",
                      description=f"Name what one listener hears, from {at} clips that this listener labelled.")


def _rows(chosen: list[Query], data: Data, corpus: Corpus, folder: Path, seed: int) -> Iterator[dict[str, str]]:
    """Upstream's columns of the rows, writing their clips to `folder`."""
    forms, classes = wordings(), list(data.classes)
    order = np.resize(rng(seed, "listener task wording").permutation(len(forms)), len(chosen))
    for number, (_, _, support, query) in enumerate(chosen):
        ratings = [*support.tolist(), query]
        ticks = [[c for c, on in zip(classes, data.labels[r].tolist(), strict=True) if on] for r in ratings]
        shown = " ".join(f"Clip {i}: {', '.join(labels)}." for i, labels in enumerate(ticks[:-1], 1))
        text = forms[order[number]].format(n=len(ratings), k=len(ratings) - 1, examples=shown,
                                           options=f"{', '.join(classes[:-1])}, or {classes[-1]}")
        clips = [_clip(corpus.clips.loc[data.clips[data.clip[r]], "path"], folder) for r in ratings]
        yield {"file": f"{TASK}_{number:03d}.wav", "instruction": text,
               **numbered("audio", clips), **numbered("label", ticks[-1])}


def _clip(path: str, folder: Path) -> str:
    """Copy a clip as 16 kHz WAV under a name that reveals nothing and does not depend on the corpus's location."""
    name = f"{audio.digest(path)[:12]}.wav"
    if not (folder / name).exists():
        sf.write(folder / name, audio.read(path, SECONDS), audio.RATE, subtype="PCM_16")
    return name
