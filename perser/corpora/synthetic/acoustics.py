"""Measures the prosodic cues that a listener hears, in a few milliseconds per clip."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import find_peaks

from perser import audio

CUES = ("level", "dynamics", "pitch", "span", "rate", "pauses", "slope")
_RATE, _HOP, _WINDOW = 16_000, 160, 640
_LOWEST, _HIGHEST = 65.0, 500.0  # Hz, the voice's fundamental


def cues(wave: np.ndarray) -> np.ndarray:
    """Cues of one clip: (N,) mono at 16 kHz -> (7,) in the order of `CUES`.

    level: dB of the speaking frames; dynamics: its standard deviation; pitch: median in semitones above 1 Hz; span:
    half the distance from the 16th to the 84th percentile of pitch, in semitones; rate: peaks of loudness per second
    (nearly syllables); pauses: share of silent frames between the first word and the last; slope: energy above 1 kHz
    over that below, dB.
    """
    if len(wave) < 2 * _WINDOW:
        wave = np.pad(wave, (0, 2 * _WINDOW - len(wave)))
    frames = sliding_window_view(wave, _WINDOW)[::_HOP]
    loudness = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-10)
    speaking = loudness > np.percentile(loudness, 95) - 25
    first, last = np.flatnonzero(speaking)[[0, -1]]
    seconds = (last - first + 1) * _HOP / _RATE
    smooth = np.convolve(loudness[first : last + 1], np.ones(7) / 7, mode="same")
    peaks, _ = find_peaks(smooth, prominence=2.0)
    power = np.abs(np.fft.rfft(frames[speaking][::2] * np.hanning(_WINDOW), 2 * _WINDOW)) ** 2
    edge = int(1000 / (_RATE / (2 * _WINDOW)))
    slope = 10 * np.log10((power[:, edge:].sum() + 1e-10) / (power[:, 1:edge].sum() + 1e-10))
    pitch, span = _pitch(power)
    level, dynamics = loudness[speaking].mean(), loudness[speaking].std()
    pauses = 1 - speaking[first : last + 1].mean()
    return np.array([level, dynamics, pitch, span, len(peaks) / seconds, pauses, slope])


def _pitch(power: np.ndarray) -> tuple[float, float]:
    """Median and half spread of the pitch in semitones, from the power spectra (frames, bins)."""
    correlation = np.fft.irfft(power, axis=1)
    correlation /= correlation[:, :1] + 1e-12
    shortest, longest = int(_RATE / _HIGHEST), int(_RATE / _LOWEST)
    # The autocorrelation of the window falls with the lag; without this correction, octaves are confused.
    taper = np.correlate(np.hanning(_WINDOW), np.hanning(_WINDOW), "full")[_WINDOW - 1 :]
    candidates = (correlation[:, :_WINDOW] / (taper / taper[0] + 1e-3))[:, shortest:longest]
    lag = candidates.argmax(axis=1)
    voiced = candidates[np.arange(len(lag)), lag] > 0.6
    if voiced.sum() < 3:
        return 12 * float(np.log2(150.0)), 0.0
    semitones = 12 * np.log2(_RATE / (lag[voiced] + shortest))
    low, middle, high = np.percentile(semitones, [16, 50, 84])
    return float(middle), float(high - low) / 2


def measure(paths: Sequence[str], jobs: int = 2) -> pd.DataFrame:
    """Cues of many files, one row per path. UserError: as for `perser.audio.samples`."""
    rows = Parallel(n_jobs=jobs, prefer="threads")(delayed(_file)(path) for path in paths)
    return pd.DataFrame(np.array(rows).reshape(-1, len(CUES)), columns=list(CUES))


def _file(path: str) -> np.ndarray:
    return cues(audio.read(path, math.inf).astype(np.float64))


def standardise(cues: pd.DataFrame, speakers: Sequence[str]) -> np.ndarray:
    """Cues relative to the speaker's mean, in standard deviations over the corpus: (N, 7) -> (N, 7).

    Listeners compare a voice with how it usually sounds; the scale is the same for all voices.
    """
    relative = cues - cues.groupby(np.asarray(speakers)).transform("mean")
    return (relative / relative.std(ddof=0).replace(0.0, 1.0)).clip(-3, 3).to_numpy()
