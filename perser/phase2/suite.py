"""The embedded suite: sixteen small tasks in the upstream layout, generated offline from a seed.

Speech comes from espeak-ng, music and sounds from numpy: three kinds, three domains, 64 rows and ten instructions a
task. A recipe's `make(i, draw)` returns the columns of row i and its sounds: lines to speak, or waveforms.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.signal import lfilter

from perser.corpora.synthetic.espeak import RATE, Line, speak
from perser.corpora.synthetic.speech import EMOTIONS, PLAIN
from perser.errors import UserError
from perser.phase2.export import numbered, write_task
from perser.seeds import rng
from perser.terminal import progress as shown_progress

ROWS, VERSION, DATASET = 64, 1, "Embedded"
LEADS = ("Listen to the recording.", "Here is some audio.", "Pay attention to what you hear.",
         "You are given a sound file.", "Consider the audio.")
VOICES = ("m1", "f2", "m3", "f4", "m7", "f1")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOTES, SEMITONES = ("C", "D", "E", "F", "G", "A", "B"), (0, 2, 4, 5, 7, 9, 11)
EXPRESSED = ("neutral", "happy", "sad", "angry")
NOISES, SOUNDS = ("clean", "white noise", "rumble", "hum"), ("beep", "siren", "hiss", "knocks")
GLAD = ("What a wonderful day this is.", "I love this present so much.", "That was a brilliant idea.",
        "I could not be happier with it.", "Thank you, this is perfect.", "You did a great job today.")
GRIM = ("This is the worst day of my life.", "I hate everything about this.", "That was a terrible idea.",
        "I have never felt so alone.", "Leave me, this is awful.", "You have ruined it all.")

Draw = np.random.Generator
Columns = Mapping[str, str | Callable[[float], str]]  # a function computes the value from the recording's seconds
Item = tuple[Columns, Sequence[Line | np.ndarray]]


@dataclass(frozen=True)
class Recipe:
    """How to make a task's rows, two wordings of its question, and its options; `joined`: one recording per row."""

    make: Callable[[int, Draw], Item]
    kind: str
    domain: str
    metrics: tuple[str, ...]
    description: str
    questions: tuple[str, str]
    options: tuple[str, ...] = ()
    joined: bool = False


def spoken(text: str, voice: str, emotion: str = "neutral", rate: float = 185.0) -> Line:
    """A line for espeak-ng, without a path, with the embedded corpus's emotions at 1.3 times their strength."""
    speed, pitch, span, level, tilt, _, gap, breath = 1.3 * np.array(EMOTIONS[emotion])
    female = voice.startswith("f")
    return Line(path="", text=text, voice=f"en-us+{voice}", rate=int(np.clip(rate * 2**speed, 80, 400)),
                pitch=int(np.clip(44 + 8 * female + 4.1 * pitch, 0, 99)), range=int(np.clip(45 * 2**span, 3, 99)),
                gap=int(np.clip(gap, 0, 8)), level=-25 + level, tilt=float(tilt), breath=0.01 + max(0.0, breath),
                floor=-66.0, lead=0.08, seed=len(text))


def _pick(draw: Draw, options: tuple[str, ...]) -> str:
    return str(draw.choice(options))


def _tone(hertz: float, seconds: float, harmonics: int = 4) -> np.ndarray:
    """A plucked note with falling harmonics, (N,), peak about 0.5."""
    t = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * hertz * k * t) / k**1.5 for k in range(1, harmonics + 1))
    return 0.3 * wave * np.exp(-2.5 * t / seconds) * np.minimum(1, t / 0.005)


def _noise(draw: Draw, seconds: float, colour: str) -> np.ndarray:
    """White noise, low-passed noise (rumble) or mains hum, (N,), RMS 0.1."""
    count = round(seconds * RATE)
    wave = draw.standard_normal(count)
    if colour == "rumble":
        wave = lfilter([0.02], [1, -0.98], wave)
    if colour == "hum":
        wave = sum(np.sin(2 * np.pi * 50 * k * np.arange(count) / RATE) / k for k in (1, 2, 3, 5)) + 0.05 * wave
    return 0.1 * wave / np.sqrt(np.mean(wave**2))


def _event(draw: Draw, name: str, seconds: float) -> np.ndarray:
    """One of SOUNDS, easily told apart, (N,)."""
    t = np.arange(round(seconds * RATE)) / RATE
    if name == "beep":
        return 0.4 * np.sin(2 * np.pi * 1000 * t)
    if name == "siren":
        return 0.4 * np.sin(2 * np.pi * (700 * t - 100 * np.cos(2 * np.pi * 3 * t) / 3))
    if name == "hiss":
        return lfilter([1, -0.95], [1], 0.25 * draw.standard_normal(len(t)))
    return 0.6 * np.exp(-60 * (t % 0.15)) * np.sin(2 * np.pi * 180 * t)


def _emotion(i: int, draw: Draw) -> Item:
    label = EXPRESSED[i % 4]
    return {"label": label}, [spoken(_pick(draw, PLAIN), _pick(draw, VOICES), label)]


def _contrast(i: int, draw: Draw) -> Item:
    glad_words, glad_voice = i % 2 == 0, i % 4 < 2
    line = spoken(_pick(draw, GLAD if glad_words else GRIM), _pick(draw, VOICES), "happy" if glad_voice else "sad")
    return {"label": "no" if glad_words == glad_voice else "yes"}, [line]


def _speakers(i: int, draw: Draw) -> Item:
    count = 1 + i % 3
    voices = draw.permutation(VOICES)[:count]
    return {"label": str(count)}, [spoken(_pick(draw, PLAIN), str(voices[k % count])) for k in range(3)]


def _rate(i: int, draw: Draw) -> Item:
    text, voice = _pick(draw, PLAIN), _pick(draw, VOICES)
    line = spoken(text, voice, rate=float(draw.uniform(100, 330)))
    return {"label": lambda seconds: f"{len(text.split()) / seconds:.2f}"}, [line]


def _digits(i: int, draw: Draw) -> Item:
    label = " ".join(draw.choice(DIGITS, size=int(draw.integers(3, 7))))
    return {"label": label}, [spoken(label, _pick(draw, VOICES))]


def _sentences(i: int, draw: Draw) -> Item:
    label = _pick(draw, PLAIN + GLAD + GRIM)
    return {"label": label}, [spoken(label, _pick(draw, VOICES))]


def _same_speaker(i: int, draw: Draw) -> Item:
    first, second = map(str, draw.permutation(VOICES)[:2])
    voices = (first, first if i % 2 else second)
    return {"label": "yes" if i % 2 else "no"}, [spoken(_pick(draw, PLAIN), voice) for voice in voices]


def _matches_text(i: int, draw: Draw) -> Item:
    sentence, other = map(str, draw.permutation(PLAIN)[:2])
    columns = {"text": sentence if i % 2 else other, "label": "yes" if i % 2 else "no"}
    return columns, [spoken(sentence, _pick(draw, VOICES))]


def _noise_kind(i: int, draw: Draw) -> Item:
    label = NOISES[i % 4]
    wave = np.concatenate([_tone(220 * 2 ** draw.uniform(0, 2), 0.5) for _ in range(4)])
    return {"label": label}, [wave if label == "clean" else wave + _noise(draw, 2.0, label)]


def _snr(i: int, draw: Draw) -> Item:
    ratio = round(float(draw.uniform(-5, 30)), 1)
    signal = np.sqrt(2) * 0.1 * np.sin(2 * np.pi * draw.uniform(200, 800) * np.arange(2 * RATE) / RATE)
    return {"label": f"{ratio:.1f}"}, [signal + _noise(draw, 2.0, "white") * 10 ** (-ratio / 20)]


def _duration(i: int, draw: Draw) -> Item:
    seconds = round(float(draw.uniform(0.5, 8)), 2)
    return {"label": f"{seconds:.2f}"}, [_noise(draw, seconds, "rumble")]


def _scene(i: int, draw: Draw) -> tuple[list[tuple[str, float, float]], np.ndarray]:
    """One to three different sounds one after another: (name, start, end) in seconds, and the waveform."""
    count = 1 + i % 3
    names = draw.permutation(SOUNDS)[:count]
    starts = np.round(np.sort(draw.uniform(0.2, 0.6, count)) + 1.3 * np.arange(count), 2)
    scene = [(str(name), float(start), round(float(start + draw.uniform(0.5, 0.7)), 2))
             for name, start in zip(names, starts, strict=True)]
    wave = 0.003 * draw.standard_normal(round(5.6 * RATE))
    for name, start, end in scene:
        sound, at = _event(draw, name, end - start), round(start * RATE)
        wave[at:at + len(sound)] += sound
    return scene, wave


def _sound_set(i: int, draw: Draw) -> Item:
    scene, wave = _scene(i, draw)
    return numbered("label", [name for name, *_ in scene]), [wave]


def _sound_events(i: int, draw: Draw) -> Item:
    scene, wave = _scene(i, draw)
    return {"label": "; ".join(f"{name}: {start}-{end}" for name, start, end in scene)}, [wave]


def _tempo(i: int, draw: Draw) -> Item:
    bpm, wave = int(draw.integers(60, 181)), np.zeros(4 * RATE)
    for beat in np.arange(draw.uniform(0, 0.3), 3.9, 60 / bpm):
        start = round(beat * RATE)
        click = _tone(880, 0.08)[: len(wave) - start]
        wave[start:start + len(click)] += click
    return {"label": str(bpm)}, [wave]


def _pitch(i: int, draw: Draw) -> Item:
    hertz = 261.63 * 2 ** (SEMITONES[i % 7] / 12 + int(draw.integers(-1, 2)))
    return {"label": NOTES[i % 7]}, [_tone(hertz, 1.5)]


def _melody(i: int, draw: Draw) -> Item:
    degrees = draw.integers(0, 7, size=int(draw.integers(4, 8)))
    wave = np.concatenate([_tone(261.63 * 2 ** (SEMITONES[degree] / 12), 0.4) for degree in degrees])
    return {"label": " ".join(NOTES[degree] for degree in degrees)}, [wave]


CHOICE, NUMBER, TEXT = "classification", "regression", "sequence_generation"
YES_NO = ("yes", "no")
RECIPES: dict[str, Recipe] = {
    "EmotionRecognition": Recipe(_emotion, CHOICE, "speech", ("accuracy", "macro-F1"), "Name the emotion of a voice.", (
        "Which emotion does the speaker's voice express?", "How does the speaker feel?"), EXPRESSED),
    "ContrastDetection": Recipe(_contrast, CHOICE, "speech", ("accuracy",), "Does the voice contradict the words?", (
        "Does the tone of voice contradict the words?", "Is the way it is said at odds with what is said?"), YES_NO),
    "SpeakerCounting": Recipe(_speakers, CHOICE, "speech", ("accuracy",), "Count the speakers.", (
        "How many people speak?", "How many different voices are there?"), ("1", "2", "3"), joined=True),
    "SpeakerVerification": Recipe(
        _same_speaker, CHOICE, "speech", ("accuracy",), "Do two recordings come from one speaker?", (
            "Is it the same speaker in both recordings?", "Do both recordings come from one person?"), YES_NO),
    "TranscriptVerification": Recipe(_matches_text, CHOICE, "speech", ("accuracy",), "Is the text what was said?", (
        "Is the text below exactly what is said?", "Does the text below match the speech?"), YES_NO),
    "SpeakingRatePrediction": Recipe(_rate, NUMBER, "speech", ("MAE", "LCC"), "Words per second of a sentence.", (
        "How many words are spoken per second? Give a number.", "Estimate the speaking rate as words per second.")),
    "SpokenDigitRecognition": Recipe(_digits, TEXT, "speech", ("WER",), "Write down spoken digits.", (
        "Write the digits you hear as words.", "Which digits are spoken, in order? Write them as words.")),
    "SpeechTranscription": Recipe(_sentences, TEXT, "speech", ("WER", "CER"), "Write down a sentence.", (
        "Write down what is said.", "Transcribe the sentence.")),
    "NoiseDetection": Recipe(_noise_kind, CHOICE, "audio", ("accuracy",), "Name the disturbance under a signal.", (
        "Which noise lies under the tones?", "Is the signal disturbed, and by what?"), NOISES),
    "SNRPrediction": Recipe(_snr, NUMBER, "audio", ("MAE", "LCC", "SRCC"), "Signal-to-noise ratio.", (
        "What is the signal-to-noise ratio in dB?", "Estimate the SNR in decibels.")),
    "AudioDurationPrediction": Recipe(_duration, NUMBER, "audio", ("MSE", "MedAE"), "Length of a recording.", (
        "How long is the recording in seconds?", "Give the duration in seconds.")),
    "SoundSetRecognition": Recipe(_sound_set, CHOICE, "audio", ("accuracy", "F1"), "All sounds that occur.", (
        "Which sounds occur? Name every one of them.", "Name all sounds that can be heard."), SOUNDS),
    "SoundEventDetection": Recipe(_sound_events, TEXT, "audio", ("event-F1", "IoU"), "All sounds with their times.", (
        "List each sound as name: start-end in seconds, separated by semicolons.",
        "Which sounds (beep, siren, hiss, knocks) occur when? Write name: start-end; and so on, in seconds.")),
    "TempoEstimation": Recipe(_tempo, NUMBER, "music", ("MAE", "KTAU"), "Tempo of a metronome.", (
        "What is the tempo in BPM?", "How many beats per minute are there?")),
    "NoteRecognition": Recipe(_pitch, CHOICE, "music", ("accuracy", "weighted-accuracy"), "Name a note.", (
        "Which note is played?", "What is the name of the note?"), NOTES),
    "MelodyTranscription": Recipe(_melody, TEXT, "music", ("PER",), "Write down a melody.", (
        "Write the notes you hear, by letter, separated by spaces.", "Which notes are played, in order?")),
}


def _either(options: tuple[str, ...]) -> str:
    return " or ".join(options) if len(options) < 3 else f"{', '.join(options[:-1])}, or {options[-1]}"


def instructions(recipe: Recipe) -> list[str]:
    """Ten wordings: each lead with each question, followed by the options as upstream writes them."""
    tail = f" The answer could be {_either(recipe.options)}." if recipe.options else ""
    return [f"{lead} {question}{tail}" for question in recipe.questions for lead in LEADS]


def build(root: str | Path, seed: int = 0, rows: int = ROWS, progress: bool = False) -> Path:
    """Write the suite under `root`, unless the same one is there already. Raises UserError if something else is."""
    root, stamp = Path(root), {"seed": seed, "rows": rows, "version": VERSION}
    marker, partial = root / "SUITE.json", root / "SUITE.partial"
    if marker.is_file() and json.loads(marker.read_text()) == stamp:
        return root
    if root.exists() and any(root.iterdir()) and not partial.exists() and not marker.exists():
        raise UserError(f"{root}: not empty and not a suite; give another folder")
    root.mkdir(parents=True, exist_ok=True)
    partial.touch()
    marker.unlink(missing_ok=True)
    with shown_progress("suite", len(RECIPES), "tasks", progress) as step:
        for task, recipe in RECIPES.items():
            _write(root, task, recipe, seed, rows)
            step(1)
    marker.write_text(json.dumps(stamp) + "\n")
    partial.unlink()
    return root


def _write(root: Path, task: str, recipe: Recipe, seed: int, count: int) -> None:
    folder = root / task / f"{task}_{DATASET}" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    rows = _record(recipe, [rng(seed, "suite", task, i) for i in range(count)], folder)
    wordings = instructions(recipe)
    order = np.resize(rng(seed, "suite wording", task).permutation(len(wordings)), count)
    rows = [{"file": f"{task}_{row['audio']}", "instruction": wordings[order[i]], **row} for i, row in enumerate(rows)]
    write_task(root, task, DATASET, rows, kind=recipe.kind, domain=recipe.domain, metrics=recipe.metrics,
               description=recipe.description, synthetic="speech and sounds")


def _record(recipe: Recipe, draws: list[Draw], folder: Path) -> list[dict[str, str]]:
    """Write the recordings of a task; returns the columns of its rows, without file name and instruction."""
    items = [recipe.make(i, draw) for i, draw in enumerate(draws)]
    files = [[folder / f"{i:03d}{f'_pair{k}' if k else ''}.wav" for k in range(len(sounds))]
             for i, (_, sounds) in enumerate(items)]
    lines: list[Line] = [{**sound, "path": str(path)} for (_, sounds), paths in zip(items, files, strict=True)
             for sound, path in zip(sounds, paths, strict=True) if isinstance(sound, dict)]
    if lines:
        speak(lines)  # all in one process and in order: espeak-ng carries state from one line to the next
    rows = []
    for (columns, sounds), paths in zip(items, files, strict=True):
        if recipe.joined:
            sounds = [np.concatenate([sf.read(path)[0] for path in paths])]
            for path in paths[1:]:
                path.unlink()
        for sound, path in zip(sounds, paths, strict=False):
            if isinstance(sound, np.ndarray):
                wave = 0.9 * sound / max(1.0, float(np.abs(sound).max()))
                sf.write(path, wave, RATE, subtype="PCM_16")
        seconds = sf.info(paths[0]).duration
        texts = {name: value(seconds) if callable(value) else value for name, value in columns.items()}
        rows.append({**numbered("audio", [path.name for path in paths[:len(sounds)]]), **texts})
    return rows
