"""Speaks a list of lines with espeak-ng, in a separate process.

espeak-ng carries state from one line to the next, so output is bit-identical only for the same *sequence* in a fresh
process. `speak` therefore starts this file as a child process, passes it the lines and waits. The child imports nothing
of perser and little else, so it starts in a fraction of a second.
"""

import ctypes
import json
import math
import subprocess
import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

RATE = 16_000
_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
_UTF8, _SSML = 1, 0x10
# Numbers of espeak_PARAMETER in speak_lib.h.
_PARAMETERS: dict[Literal["rate", "pitch", "range", "gap"], int] = {"rate": 1, "pitch": 3, "range": 4, "gap": 7}


class Line(TypedDict):
    """One line to speak. Up to `gap` the settings are espeak-ng's; the others act on the waveform."""

    path: str  # wav file to write, 16 kHz, 16 bit
    text: str  # may hold SSML's <break time="..ms"/>
    voice: str  # espeak-ng voice and variant, as in "en-us+f2"
    rate: int  # words per minute, 80 to 450
    pitch: int  # 0 to 99, about four steps a semitone
    range: int  # 0 to 99
    gap: int  # pause between words, in 10 ms
    level: float  # RMS in dB below full scale
    tilt: float  # -1 (dark, lax) to 1 (bright, pressed)
    breath: float  # noise that follows the voice's envelope, relative to it
    floor: float  # RMS of the room noise in dB below full scale
    lead: float  # silence before the first word, seconds
    seed: int  # of the noise


def speak(lines: Sequence[Line]) -> None:
    """Write the wav file of every line, in order, in one fresh process.

    RuntimeError: the process failed (no library, no such voice, disk full); the text is its last line of output.
    """
    command = [sys.executable, "-P", __file__]
    done = subprocess.run(command, input=json.dumps(list(lines)), text=True, stderr=subprocess.PIPE)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or f"exit status {done.returncode}").split("\n")[-1])


def shape(raw: np.ndarray, line: Line) -> np.ndarray:
    """Add vocal effort, breath, level, room noise and lead to a raw voice: (N,) -> (N + lead + 0.1 s,)."""
    noise = np.random.default_rng(line["seed"])
    tilt = float(np.clip(line["tilt"], -0.9, 0.9))
    spectrum = np.fft.rfft(raw)
    delay = np.exp(-1j * np.linspace(0, np.pi, len(spectrum)))
    # A first difference brightens, a leaky sum darkens.
    voiced = np.fft.irfft(spectrum * (1 - tilt * delay if tilt >= 0 else 1 / (1 + tilt * delay)), len(raw))
    envelope = np.sqrt(np.convolve(voiced**2, np.ones(200) / 200, mode="same"))
    voiced = voiced + line["breath"] * envelope * noise.standard_normal(len(voiced))
    voiced = voiced * 10 ** (line["level"] / 20) / max(float(np.sqrt(np.mean(voiced**2))), 1e-9)
    padded = np.concatenate([np.zeros(int(line["lead"] * RATE)), voiced, np.zeros(RATE // 10)])
    padded += 10 ** (line["floor"] / 20) * noise.standard_normal(len(padded))
    return np.clip(padded, -0.999, 0.999)


def resample(raw: np.ndarray, rate: int) -> np.ndarray:
    """To 16 kHz by cutting off the spectrum: (N,) -> (about N * 16000 / rate,)."""
    step = rate // math.gcd(rate, RATE)
    blocks = -(-len(raw) // step)
    count = blocks * RATE // math.gcd(rate, RATE)
    spectrum = np.fft.rfft(np.pad(raw, (0, blocks * step - len(raw))))
    return np.fft.irfft(spectrum[: count // 2 + 1], count) * (count / (blocks * step))


class _Voice:
    """The initialised library. Calling it with a line returns a waveform at 16 kHz."""

    def __init__(self) -> None:
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate = self.library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT)
        if self.rate <= 0:
            raise RuntimeError("espeak-ng does not start: reinstall the package espeakng-loader")
        self.chunks: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = kind(self._keep)  # stored here because ctypes does not keep it alive
        self.library.espeak_SetSynthCallback(self.callback)

    def _keep(self, samples: Any, count: int, _events: object) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float64) / 32768)
        return 0

    def __call__(self, line: Line) -> np.ndarray:
        if self.library.espeak_SetVoiceByName(line["voice"].encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {line['voice']!r}")
        for name, number in _PARAMETERS.items():
            self.library.espeak_SetParameter(number, int(line[name]), 0)
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(line["seed"]))  # otherwise breathy voices depend on the clock
        text = line["text"].encode()
        self.chunks = []
        self.library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8 | _SSML, None, None)
        return resample(np.concatenate(self.chunks), self.rate)


def _main() -> None:
    voice = _Voice()
    for line in json.load(sys.stdin):
        samples = np.round(shape(voice(line), line) * 32767).astype("<i2")
        Path(line["path"]).parent.mkdir(parents=True, exist_ok=True)
        with wave.open(line["path"], "wb") as file:
            file.setparams((1, 2, RATE, len(samples), "NONE", ""))
            file.writeframes(samples.tobytes())


if __name__ == "__main__":
    _main()
