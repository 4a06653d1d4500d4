"""Reads audio files as 16 kHz mono waveforms. Errors are one line with the file and the reason."""

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
    """The first `seconds` of a sound file as float32 (samples,) at 16 kHz, averaged over channels.

    Reads all formats, rates and channel counts of libsndfile. The file is cut before it is resampled, so the cost does
    not grow with its length. UserError: the file is missing, unreadable, empty, or holds a NaN or infinity in the part
    that is read.
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
    return wave if rate == RATE else resample(torch.from_numpy(wave), rate, RATE).numpy()


def digest(path: str | os.PathLike) -> str:
    """Hex digest of a file's bytes, from which the key of its features is made."""
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
