"""Writes the embedded corpus in the format of CREMA-D, with that format's irregular rows."""

import csv
from pathlib import Path

import numpy as np

from perser.corpora.cremad import BLOCKS, BROKEN, CLASSES, EMOTIONS, SILENT
from perser.corpora.synthetic.listeners import REPEATED, Listener, assign, intended, moment, panel, ticks
from perser.corpora.synthetic.speech import Utterance
from perser.seeds import rng

CODES = {name: code for code, name in EMOTIONS.items()}
TOP = ("AudioWAV", "finishedResponses.csv")
COLUMNS = ("", "localid", "pos", "ans", "ttr", "queryType", "numTries", "clipNum", "questNum", "subType", "clipName",
           "sessionNums", "respEmo", "respLevel", "dispEmo", "dispVal", "dispLevel")
_SENTENCES = {
    "IEO": "It's eleven o'clock.", "TIE": "That is exactly what happened.", "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.", "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.", "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.", "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.", "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}


def plan(seed: int, clips: int) -> list[Utterance]:
    """The turns of whole actors, 82 clips per actor: at least five actors, spread evenly over the five blocks."""
    count = max(5, round(clips / 82))
    actors = [low + 3 + 2 * place + place // 2 for place in range(8) for low, _ in BLOCKS][:count]
    turns = []
    for actor in sorted(actors):
        sex = str(rng(seed, "sex", actor).choice(["F", "M"])) if actor % 5 == 0 else "FM"[actor % 2]
        block = next(i for i, (low, high) in enumerate(BLOCKS, 1) if low <= actor <= high)
        for clip, emotion, sentence in _clips(actor):
            text = _SENTENCES[sentence]
            turns.append(Utterance(clip, f"AudioWAV/{clip}.wav", str(actor), sex, emotion, text, block))
    return [turn for turn in turns if turn.clip != SILENT]


def _clips(actor: int) -> list[tuple[str, str, str]]:
    """Clip, emotion and sentence of one actor: three levels of one sentence, one of the others."""
    clips = []
    for sentence in _SENTENCES:
        for emotion, code in CODES.items():
            levels = ("LO", "MD", "HI") if sentence == "IEO" and emotion != "neutral" else ("XX",)
            clips += [(f"{actor}_{sentence}_{code}_{level}", emotion, sentence) for level in levels]
    return clips


def annotate(root: Path, turns: list[Utterance], cues: np.ndarray, seed: int) -> list[tuple[str, str, set[str]]]:
    """Simulate many listeners with about 30 ratings per listener, and write finishedResponses.csv.

    Returns the second ratings (clip, listener, ticks) of the clips that a listener rates twice.
    """
    draw = rng(seed, "responses")
    names = [str(number) for number in range(1, max(12, len(turns) * 10 // 30) + 1)]
    raters = assign(len(turns), len(names), 9, 11, draw)
    meant = intended([turn.emotion for turn in turns], CLASSES)
    rows, repeats = [], []
    for place, listener in enumerate(panel(names, CLASSES, seed)):
        rated = np.array([index for index, places in enumerate(raters) if place in places])
        shares, again = (moment(listener, cues[rated], meant[rated], seed, second) for second in (False, True))
        repeats += [(turns[index].clip, listener.name, {_strongest(share)})
                    for index, share in list(zip(rated, again, strict=True))[::REPEATED]]
        for position, index in enumerate(draw.permutation(len(rated))):
            rows += _rows(listener, position, turns[rated[index]], shares[index], draw)
    _write(root, rows, turns)
    return repeats


def _strongest(share: np.ndarray) -> str:
    """The one class that a listener chooses; of equal ones the first in the alphabet."""
    return min(zip(-share, CLASSES, strict=True))[1]


def _rows(listener: Listener, position: int, turn: Utterance, share: np.ndarray,
          draw: np.random.Generator) -> list[list[str]]:
    """The voice rating, sometimes with one of the face or of both, which a voice corpus must not use."""
    strongest = _strongest(share)
    kinds = ["1"] + ["23"[int(draw.integers(2))]] * (draw.random() < 0.15)
    ticked = int(ticks(listener, share[None]).sum())
    rows = []
    for kind in kinds:
        level = "" if draw.random() < 0.005 else str(int(np.clip(80 - 8 * ticked + draw.normal(0, 9), 0, 100)))
        shown, letter = CODES[turn.emotion], CODES[strongest if kind == "1" else turn.emotion][0]
        rows.append([
            listener.name, str(position), f"{letter}_{level}", str(int(draw.integers(2000, 9000))), kind, "1", "0",
            str(position + 1), "4", turn.clip, "1", letter, level or "X", shown[0], shown, turn.clip.split("_")[-1]])
    return rows


def _write(root: Path, rows: list[list[str]], turns: list[Utterance]) -> None:
    """All rows with their index. Two are broken, and one clip has ratings but no audio."""
    clips = {clip: number for number, clip in enumerate(sorted(turn.clip for turn in turns), 1)}
    silent = list(rows[0])
    silent[9] = SILENT
    broken = ["", "", "undefined", "", "1", "", "", "", "", turns[0].clip, "", "", "", "", "", ""]
    with (root / "finishedResponses.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for index, row in enumerate([*rows, silent], 1):
            row[6] = str(clips.get(row[9], 0))
            writer.writerow([str(index), *row])
        writer.writerows([index, *broken] for index in sorted(BROKEN))
