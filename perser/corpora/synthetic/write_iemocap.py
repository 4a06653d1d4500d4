"""Writes the embedded corpus in the format of IEMOCAP, with that format's irregularities."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from perser.corpora.iemocap import CLASSES, WORDS
from perser.corpora.synthetic.listeners import REPEATED, intended, moment, panel, ticks
from perser.corpora.synthetic.speech import PLAIN, TELLING, Utterance
from perser.seeds import rng

CODES = dict(zip(CLASSES, ("fru", "ang", "sad", "dis", "exc", "fea", "neu", "sur", "hap"), strict=True))
WORD = {name: word for word, name in WORDS.items() if name and word != "Neutral state"}
TOP = tuple(f"Session{number}" for number in range(1, 6))
OBSERVERS = tuple(f"E{number}" for number in range(1, 7))
SELF_RATERS = ("F1", "M1", "F2", "F3", "M3", "M5")
_SHARES = (0.16, 0.12, 0.12, 0.06, 0.12, 0.07, 0.18, 0.07, 0.10)  # of the intended emotions, in the order of CLASSES
_REMARKS = ("calm; maybe a bit tired", "hard to say; between two: see the face", "sounds like relief; or boredom",
            "not sure", "sarcastic; mocking")
_LEGEND = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
_MACOS = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\xff"  # metadata files, as in the release


def dialogs(session: int) -> list[str]:
    """The twenty dialogs of one session, improvised first; sessions 3 and 5 have the release's irregular names."""
    impro = {letter: [f"impro{n:02d}" for n in range(1, 6)] for letter in "FM"}
    script = {letter: ["script01_1", "script01_2", "script01_3", "script02_1", "script02_2"] for letter in "FM"}
    if session == 3:
        impro["M"] = ["impro01", "impro05a", "impro05b", "impro08a", "impro08b"]
    if session == 5:
        script["M"] = ["script01_1", "script01_1b", "script01_2", "script02_1", "script02_2"]
    return [f"Ses{session:02d}{letter}_{name}" for part in (impro, script) for letter in "FM" for name in part[letter]]


def plan(seed: int, clips: int) -> list[Utterance]:
    """All turns, in the order of the dialogs; the sessions are the groups."""
    turns = []
    for session in range(1, 6):
        draw = rng(seed, "dialogs", session)
        count = clips // 5 + (session <= clips % 5)
        sizes = [count // 20 + (index < count % 20) for index in range(20)]
        emotions = iter(draw.permutation(np.repeat(CLASSES, _apportion(count))).tolist())
        for dialog, size in zip(dialogs(session), sizes, strict=True):
            speakers = draw.permutation(["F", "M"]).tolist()
            turns += [_turn(session, dialog, speakers[index % 2], index, next(emotions), draw) for index in range(size)]
    return turns


def _turn(session: int, dialog: str, sex: str, index: int, emotion: str, draw: np.random.Generator) -> Utterance:
    clip = f"{dialog}_{sex}{index // 2:03d}"
    if "script" in dialog:  # the same text for every cast, whatever the emotion
        text = PLAIN[(sum(map(ord, dialog[6:])) + 3 * index) % len(PLAIN)]
    else:
        lines = TELLING[emotion] if draw.random() < 0.4 else PLAIN
        text = lines[int(draw.integers(len(lines)))]
    path = f"Session{session}/sentences/wav/{dialog}/{clip}.wav"
    return Utterance(clip, path, f"Ses{session:02d}{sex}", sex, emotion, text, session)


def _apportion(count: int) -> np.ndarray:
    """`count` divided by the shares of the classes into whole numbers, largest remainders first."""
    exact = count * np.array(_SHARES)
    whole = exact.astype(int)
    whole[np.argsort(whole - exact, kind="stable")[: count - whole.sum()]] += 1
    return whole


def _dialog(turn: Utterance) -> str:
    return turn.path.split("/")[3]


def annotate(root: Path, turns: list[Utterance], cues: np.ndarray, seed: int) -> list[tuple[str, str, set[str]]]:
    """Let the listeners rate all turns and write every annotation file under `root`.

    Returns the second ratings (clip, listener, ticks) of the clips that the observers rate twice.
    """
    ticked, raters, spans = _rate(turns, cues, seed), trios(seed), _spans(root, turns, seed)
    for dialog in dict.fromkeys(map(_dialog, turns)):
        chosen = [index for index, turn in enumerate(turns) if _dialog(turn) == dialog]
        first = turns[chosen[0]]
        folder = root / f"Session{first.group}" / "dialog" / "EmoEvaluation"
        draw = rng(seed, "annotation", dialog)
        blocks, detail = [], {}
        for index in chosen:
            turn = turns[index]
            ratings = {name: _labels(ticked[name][index], draw) for name in raters[dialog]}
            actor = f"{turn.sex}{turn.group}"
            if actor in SELF_RATERS and "impro" in dialog and not (actor == "M5" and "M_" in dialog):
                ratings[actor] = _labels(ticked[actor][index], draw)
            remarks = {name: str(draw.choice(_REMARKS)) if draw.random() < 0.06 else "" for name in ratings}
            values = {name: _values(cues[index], draw) for name in sorted(ratings)[1:]}
            blocks.append(block(turn.clip, *spans[index], ratings, remarks, values))
            detail[turn.clip] = (ratings, remarks, values)
        _write(folder, dialog, blocks, detail)
        (folder / f"._{dialog}.txt").write_bytes(_MACOS)
        (root / first.path).with_name(f"._{first.clip}.wav").write_bytes(_MACOS)
    again = _rate(turns, cues, seed, again=True)
    rated = {name: [i for i, turn in enumerate(turns) if name in raters[_dialog(turn)]] for name in OBSERVERS}
    return [(turns[i].clip, name, set(again[name][i])) for name in OBSERVERS for i in rated[name][::REPEATED]]


def _rate(turns: list[Utterance], cues: np.ndarray, seed: int, again: bool = False) -> dict[str, list[list[str]]]:
    """The classes ticked per listener and turn, strongest first. Self-raters know what they meant."""
    meant = intended([turn.emotion for turn in turns], CLASSES)
    ticked = {}
    for names, knowledge in ((OBSERVERS, 1.0), (SELF_RATERS, 3.0)):
        for listener in panel(names, CLASSES, seed):
            shares = moment(listener, cues, knowledge * meant, seed, again)
            ticked[listener.name] = [
                [CLASSES[c] for c in order if row[c]]
                for order, row in zip(np.argsort(-shares, axis=1), ticks(listener, shares), strict=True)]
    return ticked


def trios(seed: int) -> dict[str, tuple[str, ...]]:
    """Three observers per dialog; of two consecutive dialogs, the second has the other three."""
    with_first = [trio for trio in combinations(OBSERVERS, 3) if "E1" in trio]
    chosen: dict[str, tuple[str, ...]] = {}
    for session in range(1, 6):
        order = rng(seed, "trios", session).permutation(len(with_first))
        for pair, index in enumerate(order):
            trio = with_first[index]
            rest = tuple(name for name in OBSERVERS if name not in trio)
            names = dialogs(session)[2 * pair : 2 * pair + 2]
            chosen.update(zip(names, (trio, rest) if index % 2 else (rest, trio), strict=True))
    return chosen


def _spans(root: Path, turns: list[Utterance], seed: int) -> list[tuple[float, float]]:
    """Start and end of every turn in its dialog, in seconds."""
    spans, clock, dialog = [], 0.0, ""
    draw = rng(seed, "clock")
    for turn in turns:
        if _dialog(turn) != dialog:
            dialog, clock = _dialog(turn), float(draw.uniform(2, 8))
        end = clock + soundfile.info(str(root / turn.path)).duration
        spans.append((clock, end))
        clock = end + float(draw.uniform(0.1, 2.0))
    return spans


def _labels(ticked: list[str], draw: np.random.Generator) -> list[str]:
    """Words of one rating; rarely with Other, or Other alone."""
    chance = draw.random()
    if chance < 0.015:
        return ["Other"]
    return [WORD[name] for name in ticked] + ["Other"] * (chance > 0.985)


def _values(cues: np.ndarray, draw: np.random.Generator) -> tuple[int, int, int | None]:
    """Valence, activation and dominance, 1 to 5; dominance is sometimes missing."""
    level, _, pitch, span, rate, pauses, _ = cues
    exact = (3 + 0.5 * span - 0.4 * pauses, 3 + 0.6 * level + 0.4 * pitch, 3 + 0.7 * level + 0.2 * rate)
    val, act, dom = (int(np.clip(round(value + draw.normal(0, 0.5)), 1, 5)) for value in exact)
    return val, act, None if draw.random() < 0.02 else dom


def _code(ratings: dict[str, list[str]]) -> str:
    """The consensus: the one class that at least two observers ticked, else xxx."""
    codes = {word: CODES[name] for name, word in WORD.items()} | {"Other": "oth"}
    votes = [codes[word] for name, words in ratings.items() if name[0] == "E" for word in words]
    counts = sorted(((votes.count(code), code) for code in set(votes)), reverse=True)
    if not counts or counts[0][0] < 2 or (len(counts) > 1 and counts[0][0] == counts[1][0]):
        return "xxx"
    return counts[0][1]


def block(clip: str, start: float, end: float, ratings: dict[str, Any], remarks: dict[str, Any],
          values: dict[str, Any]) -> str:
    """The lines of one utterance: labels, remarks and (val, act, dom) by listener; times in seconds."""
    mean = [np.mean([v[i] for v in values.values() if v[i] is not None] or [2.5]) for i in range(3)]
    lines = [f"[{start:.4f} - {end:.4f}]\t{clip}\t{_code(ratings)}\t[{mean[0]:.4f}, {mean[1]:.4f}, {mean[2]:.4f}]"]
    for name, words in ratings.items():
        lines.append(f"C-{name}:\t{' '.join(word + ';' for word in words)}\t({remarks[name]})")
    for name, (val, act, dom) in values.items():
        lines.append(f"A-{name}:\tval {val}; act {act}; dom  {'' if dom is None else dom};\t()")
    return "\n".join(lines) + "\n"


def _write(folder: Path, dialog: str, blocks: list[str], detail: dict[str, Any]) -> None:
    """The dialog's file, and the files of every listener in the three sub-folders."""
    for name in ("Categorical", "Attribute", "Self-evaluation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / f"{dialog}.txt").write_text(_LEGEND + "\n".join(blocks))
    for listener in sorted({name for ratings, _, _ in detail.values() for name in ratings}):
        categorical, attribute = [], []
        for clip, (ratings, remarks, values) in detail.items():
            if listener in ratings:
                words = ["Neutral state" if word == "Neutral" else word for word in ratings[listener]]
                categorical.append(f"{clip} :{'; :'.join(words)}; ({remarks[listener]})\n")
            if listener in values:
                val, act, dom = values[listener]
                attribute.append(f"{clip} :act  {act}; :val  {val}; :dom  {'' if dom is None else dom}; ()\n")
        for kind, part, rows in (("cat", "Categorical", categorical), ("atr", "Attribute", attribute)):
            name = f"{dialog}_{listener.lower()}_{kind}.txt"
            (folder / (part if listener[0] == "E" else "Self-evaluation") / name).write_text("".join(rows))
