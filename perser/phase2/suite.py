"""The embedded suite: sixteen small tasks in the upstream layout, made offline from nothing but a seed.

Speech is espeak-ng, music and sounds are numpy; three kinds, three domains, 64 rows and ten instructions each.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.signal import lfilter
from tqdm import tqdm

from perser.corpora.espeak import RATE, Line, speak
from perser.corpora.prosody import EMOTIONS, PLAIN
from perser.errors import UserError
from perser.phase2.export import write_task
from perser.seeds import rng

ROWS, VERSION, DATASET = 64, 1, "Embedded"
LEADS = ("Listen to the recording.", "Here is some audio.", "Pay attention to what you hear.",
         "You are given a sound file.", "Consider the audio.")
VOICES = ("m1", "f2", "m3", "f4", "m7", "f1")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOTES = ("C", "D", "E", "F", "G", "A", "B")
SEMITONES = (0, 2, 4, 5, 7, 9, 11)
HEARD = ("neutral", "happy", "sad", "angry")
GLAD = ("What a wonderful day this is.", "I love this present so much.", "That was a brilliant idea.",
        "I could not be happier with it.", "Thank you, this is perfect.", "You did a great job today.")
GRIM = ("This is the worst day of my life.", "I hate everything about this.", "That was a terrible idea.",
        "I have never felt so alone.", "Leave me, this is awful.", "You have ruined it all.")

Draw = np.random.Generator


@dataclass(frozen=True)
class Recipe:
    """One task: two wordings of its question, its options, and `make(draws, folder) -> rows without instruction`."""

    kind: str
    domain: str
    metrics: tuple[str, ...]
    description: str
    questions: tuple[str, str]
    make: Callable[[list[Draw], Path], list[dict]]
    options: tuple[str, ...] = ()


def spoken(path: Path, text: str, voice: str = "m1", emotion: str = "neutral", rate: float = 185.0) -> Line:
    """A line for espeak-ng with the embedded corpus's idea of an emotion, at 1.3 times its usual strength."""
    speed, pitch, span, level, tilt, _, gap, breath = 1.3 * np.array(EMOTIONS[emotion])
    female = voice.startswith("f")
    return Line(path=str(path), text=text, voice=f"en-us+{voice}", rate=int(np.clip(rate * 2**speed, 80, 400)),
                pitch=int(np.clip(44 + 8 * female + 4.1 * pitch, 0, 99)), range=int(np.clip(45 * 2**span, 3, 99)),
                gap=int(np.clip(gap, 0, 8)), level=-25 + level, tilt=float(tilt), breath=0.01 + max(0.0, breath),
                floor=-66.0, lead=0.08, seed=len(text))


def _save(folder: Path, index: int, wave: np.ndarray, suffix: str = "") -> str:
    """Write one wav of at most 0.9 full scale; gives its name."""
    name = f"{index:03d}{suffix}.wav"
    sf.write(folder / name, 0.9 * wave / max(1.0, float(np.abs(wave).max())), RATE, subtype="PCM_16")
    return name


def _tone(hertz: float, seconds: float, harmonics: int = 4) -> np.ndarray:
    """A plucked note with falling harmonics, (N,), peak about 0.5."""
    t = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * hertz * k * t) / k**1.5 for k in range(1, harmonics + 1))
    return 0.3 * wave * np.exp(-2.5 * t / seconds) * np.minimum(1, t / 0.005)


def _noise(draw: Draw, seconds: float, colour: str) -> np.ndarray:
    """White noise, rain-like low-passed noise, or mains hum, (N,), RMS 0.1."""
    count = round(seconds * RATE)
    wave = draw.standard_normal(count)
    if colour == "rumble":
        wave = lfilter([0.02], [1, -0.98], wave)
    if colour == "hum":
        wave = sum(np.sin(2 * np.pi * 50 * k * np.arange(count) / RATE) / k for k in (1, 2, 3, 5)) + 0.05 * wave
    return 0.1 * wave / np.sqrt(np.mean(wave**2))


def _event(draw: Draw, name: str, seconds: float) -> np.ndarray:
    """A sound that is told from the others by its kind: beep, siren, hiss or knocks."""
    t = np.arange(round(seconds * RATE)) / RATE
    if name == "beep":
        return 0.4 * np.sin(2 * np.pi * 1000 * t)
    if name == "siren":
        return 0.4 * np.sin(2 * np.pi * (700 * t - 100 * np.cos(2 * np.pi * 3 * t) / 3))
    if name == "hiss":
        return lfilter([1, -0.95], [1], 0.25 * draw.standard_normal(len(t)))
    return 0.6 * np.exp(-60 * (t % 0.15)) * np.sin(2 * np.pi * 180 * t)


def _speak(folder: Path, lines: list[Line]) -> list[str]:
    speak(lines)
    return [Path(line["path"]).name for line in lines]


def emotion(draws: list[Draw], folder: Path) -> list[dict]:
    """Plain sentences said in four ways."""
    lines, labels = [], []
    for i, draw in enumerate(draws):
        labels.append(HEARD[i % len(HEARD)])
        lines.append(spoken(folder / f"{i:03d}.wav", str(draw.choice(PLAIN)), str(draw.choice(VOICES)), labels[-1]))
    return [{"audio": a, "label": b} for a, b in zip(_speak(folder, lines), labels, strict=True)]


def contrast(draws: list[Draw], folder: Path) -> list[dict]:
    """Glad or grim words in a glad or grim voice: does the voice contradict the words?"""
    lines, labels = [], []
    for i, draw in enumerate(draws):
        glad_words, glad_voice = i % 2 == 0, i % 4 < 2
        labels.append("no" if glad_words == glad_voice else "yes")
        lines.append(spoken(folder / f"{i:03d}.wav", str(draw.choice(GLAD if glad_words else GRIM)),
                            str(draw.choice(VOICES)), "happy" if glad_voice else "sad"))
    return [{"audio": a, "label": b} for a, b in zip(_speak(folder, lines), labels, strict=True)]


def speakers(draws: list[Draw], folder: Path) -> list[dict]:
    """One to three voices, three sentences one after another."""
    rows, lines, plan = [], [], []
    for i, draw in enumerate(draws):
        count = 1 + i % 3
        voices = [*draw.permutation(VOICES)[:count]]
        plan.append((count, [f"part{i:03d}_{k}.wav" for k in range(3)]))
        lines += [spoken(folder / name, str(draw.choice(PLAIN)), str(voices[k % count]))
                  for k, name in enumerate(plan[-1][1])]
    speak(lines)
    for i, (count, parts) in enumerate(plan):
        wave = np.concatenate([sf.read(folder / part)[0] for part in parts])
        rows.append({"audio": _save(folder, i, wave), "label": str(count)})
        for part in parts:
            (folder / part).unlink()
    return rows


def rate(draws: list[Draw], folder: Path) -> list[dict]:
    """Words per second of a sentence read at some speed, from the length of what was spoken."""
    texts = [str(draw.choice(PLAIN)) for draw in draws]
    lines = [spoken(folder / f"{i:03d}.wav", text, str(draw.choice(VOICES)), rate=float(draw.uniform(100, 330)))
             for i, (draw, text) in enumerate(zip(draws, texts, strict=True))]
    names = _speak(folder, lines)
    return [{"audio": name, "label": f"{len(text.split()) / sf.info(folder / name).duration:.2f}"}
            for name, text in zip(names, texts, strict=True)]


def digits(draws: list[Draw], folder: Path) -> list[dict]:
    """Three to six digits, to be written as words."""
    labels = [" ".join(draw.choice(DIGITS, size=int(draw.integers(3, 7)))) for draw in draws]
    lines = [spoken(folder / f"{i:03d}.wav", label, str(draw.choice(VOICES)))
             for i, (draw, label) in enumerate(zip(draws, labels, strict=True))]
    return [{"audio": a, "label": b} for a, b in zip(_speak(folder, lines), labels, strict=True)]


def sentences(draws: list[Draw], folder: Path) -> list[dict]:
    """Whole sentences to be written down."""
    labels = [str(draw.choice(PLAIN + GLAD + GRIM)) for draw in draws]
    lines = [spoken(folder / f"{i:03d}.wav", label, str(draw.choice(VOICES)))
             for i, (draw, label) in enumerate(zip(draws, labels, strict=True))]
    return [{"audio": a, "label": b} for a, b in zip(_speak(folder, lines), labels, strict=True)]


def same_speaker(draws: list[Draw], folder: Path) -> list[dict]:
    """Two recordings of one voice or of two."""
    lines, labels = [], []
    for i, draw in enumerate(draws):
        first, second = draw.permutation(VOICES)[:2]
        labels.append("yes" if i % 2 else "no")
        for voice, suffix in ((first, ""), (first if i % 2 else second, "_pair1")):
            lines.append(spoken(folder / f"{i:03d}{suffix}.wav", str(draw.choice(PLAIN)), str(voice)))
    names = _speak(folder, lines)
    return [{"audio": a, "audio2": b, "label": c} for a, b, c in zip(names[::2], names[1::2], labels, strict=True)]


def matches_text(draws: list[Draw], folder: Path) -> list[dict]:
    """A sentence and a text that is what was said, or is not."""
    lines, rows = [], []
    for i, draw in enumerate(draws):
        said, other = map(str, draw.permutation(PLAIN)[:2])
        lines.append(spoken(folder / f"{i:03d}.wav", said, str(draw.choice(VOICES))))
        rows.append({"text": said if i % 2 else other, "label": "yes" if i % 2 else "no"})
    return [{"audio": name, **row} for name, row in zip(_speak(folder, lines), rows, strict=True)]


def noise(draws: list[Draw], folder: Path) -> list[dict]:
    """A tone sequence, clean or under one of three noises."""
    rows = []
    for i, draw in enumerate(draws):
        label = ("clean", "white noise", "rumble", "hum")[i % 4]
        wave = np.concatenate([_tone(220 * 2 ** draw.uniform(0, 2), 0.5) for _ in range(4)])
        if label != "clean":
            wave = wave + _noise(draw, 2.0, label)
        rows.append({"audio": _save(folder, i, wave), "label": label})
    return rows


def snr(draws: list[Draw], folder: Path) -> list[dict]:
    """A steady signal in white noise at a drawn ratio."""
    rows = []
    for i, draw in enumerate(draws):
        ratio = round(float(draw.uniform(-5, 30)), 1)
        signal = np.sqrt(2) * 0.1 * np.sin(2 * np.pi * draw.uniform(200, 800) * np.arange(2 * RATE) / RATE)
        wave = signal + _noise(draw, 2.0, "white") * 10 ** (-ratio / 20)
        rows.append({"audio": _save(folder, i, wave), "label": f"{ratio:.1f}"})
    return rows


def duration(draws: list[Draw], folder: Path) -> list[dict]:
    """Noise of some length."""
    lengths = [round(float(draw.uniform(0.5, 8)), 2) for draw in draws]
    return [{"audio": _save(folder, i, _noise(draw, length, "rumble")), "label": f"{length:.2f}"}
            for i, (draw, length) in enumerate(zip(draws, lengths, strict=True))]


def _scene(draw: Draw, count: int) -> list[tuple[str, float, float]]:
    names = draw.permutation(["beep", "siren", "hiss", "knocks"])[:count]
    edges = np.round(np.sort(draw.uniform(0.2, 0.6, count)) + 1.3 * np.arange(count), 2)
    return [(str(n), float(e), round(float(e + draw.uniform(0.5, 0.7)), 2)) for n, e in zip(names, edges, strict=True)]


def _render(draw: Draw, scene: list[tuple[str, float, float]]) -> np.ndarray:
    wave = 0.003 * draw.standard_normal(round(5.6 * RATE))
    for name, start, end in scene:
        sound, at = _event(draw, name, end - start), round(start * RATE)
        wave[at:at + len(sound)] += sound
    return wave


def sound_set(draws: list[Draw], folder: Path) -> list[dict]:
    """One to three different sounds: a set of labels."""
    rows = []
    for i, draw in enumerate(draws):
        scene = _scene(draw, 1 + i % 3)
        labels = {f"label{k}" if k > 1 else "label": name for k, (name, *_) in enumerate(scene, 1)}
        rows.append({"audio": _save(folder, i, _render(draw, scene)), **labels})
    return rows


def sound_events(draws: list[Draw], folder: Path) -> list[dict]:
    """The same scenes with their times."""
    scenes = [_scene(draw, 1 + i % 3) for i, draw in enumerate(draws)]
    return [{"audio": _save(folder, i, _render(draw, scene)),
             "label": "; ".join(f"{name}: {start}-{end}" for name, start, end in scene)}
            for i, (draw, scene) in enumerate(zip(draws, scenes, strict=True))]


def tempo(draws: list[Draw], folder: Path) -> list[dict]:
    """A metronome."""
    rows = []
    for i, draw in enumerate(draws):
        bpm = int(draw.integers(60, 181))
        wave = np.zeros(4 * RATE)
        for beat in np.arange(draw.uniform(0, 0.3), 3.9, 60 / bpm):
            click = _tone(880, 0.08)[: 4 * RATE - round(beat * RATE)]
            wave[round(beat * RATE):round(beat * RATE) + len(click)] += click
        rows.append({"audio": _save(folder, i, wave), "label": str(bpm)})
    return rows


def pitch(draws: list[Draw], folder: Path) -> list[dict]:
    """One note of the scale of C in one of three octaves: its name without the octave."""
    rows = []
    for i, draw in enumerate(draws):
        hertz = 261.63 * 2 ** (SEMITONES[i % 7] / 12 + int(draw.integers(-1, 2)))
        rows.append({"audio": _save(folder, i, _tone(hertz, 1.5)), "label": NOTES[i % 7]})
    return rows


def melody(draws: list[Draw], folder: Path) -> list[dict]:
    """Four to seven notes in a row, to be written down."""
    rows = []
    for i, draw in enumerate(draws):
        steps = draw.integers(0, 7, size=int(draw.integers(4, 8)))
        wave = np.concatenate([_tone(261.63 * 2 ** (SEMITONES[s] / 12), 0.4) for s in steps])
        rows.append({"audio": _save(folder, i, wave), "label": " ".join(NOTES[s] for s in steps)})
    return rows


CHOICE, NUMBER, TEXT = "classification", "regression", "sequence_generation"
RECIPES: dict[str, Recipe] = {
    "EmotionRecognition": Recipe(CHOICE, "speech", ("accuracy", "macro-F1"), "Name the emotion of a voice.", (
        "Which emotion does the speaker's voice express?", "How does the speaker feel?"), emotion, HEARD),
    "ContrastDetection": Recipe(CHOICE, "speech", ("accuracy",), "Does the voice contradict the words?", (
        "Does the tone of voice contradict the words?", "Is the way it is said at odds with what is said?"),
        contrast, ("yes", "no")),
    "SpeakerCounting": Recipe(CHOICE, "speech", ("accuracy",), "Count the speakers.", (
        "How many people speak?", "How many different voices are there?"), speakers, ("1", "2", "3")),
    "SpeakerVerification": Recipe(CHOICE, "speech", ("accuracy",), "Do two recordings come from one speaker?", (
        "Is it the same speaker in both recordings?", "Do both recordings come from one person?"),
        same_speaker, ("yes", "no")),
    "TranscriptVerification": Recipe(CHOICE, "speech", ("accuracy",), "Is the text what was said?", (
        "Is the text below exactly what is said?", "Does the text below match the speech?"),
        matches_text, ("yes", "no")),
    "SpeakingRatePrediction": Recipe(NUMBER, "speech", ("MAE", "LCC"), "Words per second of a sentence.", (
        "How many words are spoken per second? Give a number.", "Estimate the speaking rate as words per second."),
        rate),
    "SpokenDigitRecognition": Recipe(TEXT, "speech", ("WER",), "Write down spoken digits.", (
        "Write the digits you hear as words.", "Which digits are spoken, in order? Write them as words."), digits),
    "SpeechTranscription": Recipe(TEXT, "speech", ("WER", "CER"), "Write down a sentence.", (
        "Write down what is said.", "Transcribe the sentence."), sentences),
    "NoiseDetection": Recipe(CHOICE, "audio", ("accuracy",), "Name the disturbance under a signal.", (
        "Which noise lies under the tones?", "Is the signal disturbed, and by what?"), noise,
        ("clean", "white noise", "rumble", "hum")),
    "SNRPrediction": Recipe(NUMBER, "audio", ("MAE", "LCC", "SRCC"), "Signal-to-noise ratio.", (
        "What is the signal-to-noise ratio in dB?", "Estimate the SNR in decibels."), snr),
    "AudioDurationPrediction": Recipe(NUMBER, "audio", ("MSE", "MedAE"), "Length of a recording.", (
        "How long is the recording in seconds?", "Give the duration in seconds."), duration),
    "SoundSetRecognition": Recipe(CHOICE, "audio", ("accuracy", "F1"), "All sounds that occur.", (
        "Which sounds occur? Name every one of them.", "Name all sounds that can be heard."), sound_set,
        ("beep", "siren", "hiss", "knocks")),
    "SoundEventDetection": Recipe(TEXT, "audio", ("event-F1", "IoU"), "All sounds with their times.", (
        "List each sound as name: start-end in seconds, separated by semicolons.",
        "Which sounds (beep, siren, hiss, knocks) occur when? Write name: start-end; and so on, in seconds."),
        sound_events),
    "TempoEstimation": Recipe(NUMBER, "music", ("MAE", "KTAU"), "Tempo of a metronome.", (
        "What is the tempo in BPM?", "How many beats per minute are there?"), tempo),
    "NoteRecognition": Recipe(CHOICE, "music", ("accuracy", "weighted-accuracy"), "Name a note.", (
        "Which note is played?", "What is the name of the note?"), pitch, NOTES),
    "MelodyTranscription": Recipe(TEXT, "music", ("PER",), "Write down a melody.", (
        "Write the notes you hear, by letter, separated by spaces.", "Which notes are played, in order?"), melody),
}


def _either(options: tuple[str, ...]) -> str:
    return " or ".join(options) if len(options) < 3 else f"{', '.join(options[:-1])}, or {options[-1]}"


def instructions(recipe: Recipe) -> Iterator[str]:
    """Ten wordings: every lead-in with either question; options at the end as upstream writes them."""
    options = recipe.options
    tail = f" The answer could be {_either(options)}." if options else ""
    for question in recipe.questions:
        for lead in LEADS:
            yield f"{lead} {question}{tail}"


def build(root: str | Path, seed: int = 0, rows: int = ROWS, progress: bool = False) -> Path:
    """Write the suite under `root` unless it lies there already, whole and of this seed and version.

    Raises UserError if something else lies there.
    """
    root, stamp = Path(root), {"seed": seed, "rows": rows, "version": VERSION}
    marker = root / "SUITE.json"
    if marker.is_file() and json.loads(marker.read_text()) == stamp:
        return root
    if root.exists() and any(root.iterdir()) and not (root / "SUITE.partial").exists() and not marker.exists():
        raise UserError(f"{root}: not empty and no suite; give another folder")
    root.mkdir(parents=True, exist_ok=True)
    (root / "SUITE.partial").touch()
    marker.unlink(missing_ok=True)
    for task, recipe in tqdm(RECIPES.items(), desc="suite", disable=not progress):
        _write(root, task, recipe, seed, rows)
    marker.write_text(json.dumps(stamp) + "\n")
    (root / "SUITE.partial").unlink()
    return root


def _write(root: Path, task: str, recipe: Recipe, seed: int, rows: int) -> None:
    folder = root / task / f"{task}_{DATASET}" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    made = recipe.make([rng(seed, "suite", task, i) for i in range(rows)], folder)
    wordings = list(instructions(recipe))
    order = np.resize(rng(seed, "suite wording", task).permutation(len(wordings)), rows)
    complete = [{"file": f"{task}_{row['audio']}", "instruction": wordings[order[i]], **row}
                for i, row in enumerate(made)]
    write_task(root, task, DATASET, complete, kind=recipe.kind, domain=recipe.domain, metrics=recipe.metrics,
               description=recipe.description, synthetic="speech and sounds")
