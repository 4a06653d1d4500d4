"""How the embedded corpus speaks: voices, sentences, and the effect of every emotion on the voice."""

from typing import NamedTuple

import numpy as np

from perser.corpora.synthetic.espeak import Line
from perser.seeds import rng

# Shifts from the speaker's neutral voice at full intensity: rate (log2), pitch (semitones), range (log2),
# level (dB), tilt (-1 dark to 1 bright), pause in the middle (s), gap between words (10 ms), breath.
EMOTIONS = {
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "frustrated": (-0.12, 0.5, 0.1, 3.0, 0.25, 0.20, 3.0, 0.02),
    "angry": (0.12, 2.5, 0.5, 7.0, 0.45, 0.0, 1.0, 0.0),
    "sad": (-0.22, -2.0, -1.0, -6.0, -0.40, 0.25, 1.0, 0.06),
    "disgust": (-0.30, -2.0, 0.3, -0.5, 0.15, 0.10, 3.0, 0.03),
    "excited": (0.28, 4.5, 0.8, 4.5, 0.25, 0.0, 0.0, 0.0),
    "fear": (0.32, 4.5, -0.9, -1.0, -0.10, 0.10, 0.0, 0.12),
    "surprise": (0.0, 5.5, 1.1, 1.0, 0.0, 0.0, 1.0, 0.02),
    "happy": (0.10, 2.5, 0.7, 1.5, 0.10, 0.0, 0.0, 0.0),
}
# Standard deviations of the same eight between utterances, for any emotion.
_SPREAD = (0.08, 1.1, 0.35, 1.6, 0.10, 0.05, 0.7, 0.02)

PLAIN = (
    "The meeting was moved to the other room today.", "I left the keys on the table near the door.",
    "They said the train would be here by seven.", "You can put the boxes down over there.",
    "We talked about it for most of the morning.", "He asked me to come back later this week.",
    "There is a letter for you in the kitchen.", "I have been waiting here since about three.",
    "She wants to know what you think about it.", "They are going to close the office next month.",
    "I will call you when I get back home.", "The car is parked on the other side.",
    "We have to fill in this form again.", "My brother is coming over for dinner tonight.",
    "It says here that the flight leaves at nine.", "You told me that you would take care of it.",
    "The man at the desk gave me this number.", "I saw him walking along the beach this morning.",
    "We moved to this street ten years ago.", "Let me know what they say about the house.",
)
TELLING = {
    "neutral": ("The report is on your desk as usual.", "Turn left after the second set of lights."),
    "frustrated": ("I have told them this five times already.", "Why does this never work when I need it?"),
    "angry": ("Get out of my house and do not come back!", "How dare you talk to me like that!"),
    "sad": ("I miss her every single day.", "There is nothing left for me here anymore."),
    "disgust": ("That smells like something died in there.", "I can not even look at that thing."),
    "excited": ("We did it, we are going to the finals!", "I can not wait to tell everybody about this!"),
    "fear": ("Please, somebody is standing behind the door.", "I do not want to go down there alone."),
    "surprise": ("What, you are getting married next week?", "Oh my, where did you come from?"),
    "happy": ("It is so good to see you again.", "This is the nicest present I ever had."),
}
_VOICES = {"F": ("f1", "f2", "f3", "f4", "f5"), "M": ("m1", "m2", "m3", "m4", "m7", "m8")}


class Utterance(NamedTuple):
    """One turn to speak. `path` is relative to the corpus; one process speaks all turns of a `group`."""

    clip: str
    path: str
    speaker: str
    sex: str  # F or M
    emotion: str
    text: str
    group: int


def line(turn: Utterance, root: str, seed: int) -> Line:
    """How a turn sounds: the speaker's voice, the emotion at a random intensity, and random variation."""
    speaker, chance = rng(seed, "voice", turn.speaker), rng(seed, "turn", turn.clip)
    variants = _VOICES[turn.sex]
    number = int("".join(filter(str.isdigit, turn.speaker)))
    base = speaker.normal((0.0, 0.0, 0.0, 0.0, 0.0), (0.05, 1.2, 0.15, 1.5, 0.08))
    intensity = float(np.clip(chance.normal(1.0, 0.3), 0.4, 1.6))
    shift = np.array(EMOTIONS[turn.emotion]) * intensity
    rate, pitch, span, level, tilt, pause, gap, breath = shift + chance.normal(0.0, _SPREAD)
    floor = -66.0 + rng(seed, "room", turn.group).normal(0.0, 2.0)
    return Line(
        path=f"{root}/{turn.path}", text=_paused(turn.text, 1000 * pause),
        voice=f"en-us+{variants[number % len(variants)]}", rate=int(np.clip(185 * 2 ** (base[0] + rate), 110, 320)),
        pitch=int(np.clip(44 + 4.1 * (base[1] + pitch), 0, 99)), range=int(np.clip(45 * 2 ** (base[2] + span), 3, 99)),
        gap=int(np.clip(round(gap), 0, 8)), level=float(np.clip(-27 + base[3] + level, -45, -12)),
        tilt=float(base[4] + tilt), breath=float(max(0.01 + breath, 0.0)), floor=float(floor),
        lead=float(chance.uniform(0.05, 0.15)), seed=int(chance.integers(2**31)))


def _paused(text: str, milliseconds: float) -> str:
    """The text with a pause in its middle, as SSML, unless the pause is too short to be heard."""
    if milliseconds < 60:
        return text
    words = text.split()
    middle = len(words) // 2
    return " ".join([*words[:middle], f'<break time="{int(milliseconds)}ms"/>', *words[middle:]])
