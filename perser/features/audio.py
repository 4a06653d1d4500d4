"""Audio files become 16 kHz mono waveforms, or one line that says which file is at fault and why."""

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

from perser.errors import UserError

RATE = 16_000
SECONDS = 10.0


def read(path: str | os.PathLike, seconds: float = SECONDS) -> np.ndarray:
    """The first `seconds` of a sound file as float32 (samples,) at 16 kHz, channels averaged.

    Any format, rate and channel count that libsndfile reads. It is cut before it is resampled, so the
    cost does not grow with the file. Raises UserError when the file is missing, unreadable, empty, or
    holds a NaN or an infinity within what is read.
    """
    path = Path(path)
    if not path.exists():
        raise _missing(path)
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            frames = file.read(math.ceil(seconds * rate), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        reason = "the file is empty" if path.is_file() and not path.stat().st_size else _reason(error)
        raise UserError(f"{path}: unreadable audio ({reason}); replace or remove the file") from None
    if not len(frames):
        raise UserError(f"{path}: the audio has no samples; replace or remove the file")
    if not np.isfinite(frames).all():
        raise UserError(f"{path}: the audio holds NaN or infinite samples; replace or remove the file")
    wave = frames.mean(axis=1)
    if rate != RATE:
        wave = resample(torch.from_numpy(wave), rate, RATE).numpy()
    return wave


def digest(path: str | os.PathLike) -> str:
    """Hex digest of a file's bytes: the name under which a clip's features are kept."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise UserError(f"{path}: unreadable audio ({_reason(error)}); replace or remove the file") from None


def _missing(path: str | os.PathLike) -> UserError:
    return UserError(f"{path}: no such audio file; check the corpus root and that its download is complete")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "error_string", None) or error
    return str(text).strip().rstrip(".").splitlines()[0]
