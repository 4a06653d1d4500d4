"""Reads sound files as 16 kHz mono waveforms: libsndfile first, then FFmpeg. Errors are one line with file and remedy.

Refused: no samples, NaN or infinity, less sound than the header promises, samples far over full scale, odd rates.
Logged, once a file: silence, channels that cancel, an Ogg stream without its end.
"""

import hashlib
import logging
import math
import os
import re
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

from perser.errors import UserError

VERSION = "audio 2"  # raise it with every change that can alter a waveform
RATE = 16_000
SECONDS = 10.0
# Suffix of a sound file -> the type under which browsers play it, if they do. Files are read by what they hold.
KINDS = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".oga": "audio/ogg",
         ".opus": "audio/ogg", ".m4a": "audio/mp4", ".mp4": "audio/mp4", ".m4b": "audio/mp4", ".aac": "audio/aac",
         ".webm": "audio/webm"} | dict.fromkeys(
    (".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".wma", ".amr", ".3gp", ".mka", ".mkv", ".mov",
     ".ac3", ".mp2", ".ape", ".wv", ".tta"), "")

LOWEST, HIGHEST = 1_000, 768_000  # Hz
CHANNELS = 64
LOUDEST = 10.0  # times full scale; integers saved as floats exceed it
SILENT = 1e-4  # of full scale, -80 dB
CANCELLED = 0.01  # of the louder channel's level, -40 dB
STREAMED = 0x7FFF0000  # bytes: from here on, a size in a header stands for "unknown"
JUNK = 0.1  # of a file, behind its last chunk
SLACK = 4096  # samples that a lossy file may lack: codecs drop parts of the first and last frames

# Names of the formats that FFmpeg may read: all hold sound themselves, whereas a playlist names files and addresses.
_FORMATS = ("mov,mp4,m4a,3gp,matroska,webm,asf,flac,wav,ape,wv,tta,avi,mp3,aac,amr,amrnb,amrwb,ac3,eac3,"
            "ogg,loas,mpegts")
_HEADED = {"mov", "matroska", "asf", "flac", "ape", "wv", "tta"}  # their headers state the true length
# What libsndfile notes of a size in a header that the file falls short of, in bytes.
_SHORT = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: *(\d+) \(should be (\d+)\)", re.M)
_JUNK = re.compile(r"Unknown chunk marker.* at position (\d+)")
_INSIDE = re.compile(r"^RIFF : (\d+)$(?s:.*)^data : \d+\n\W*Unknown chunk marker", re.M)  # right behind the samples

log = logging.getLogger(__name__)


class Sound(NamedTuple):
    """float32 (samples, channels) at `rate` Hz, full scale is 1; problems: in words, none of which prevents its use."""

    samples: np.ndarray
    rate: int
    problems: list[str]


def read(path: str | os.PathLike[str], seconds: float = SECONDS) -> np.ndarray:
    """The first `seconds` of a sound file as float32 (samples,) at 16 kHz, averaged over channels.

    The file is cut before it is resampled, so the cost does not grow with its length. Its problems are logged.
    UserError: as for `samples`.
    """
    sound = samples(path, seconds)
    wave, problem = mono(sound.samples)
    for text in [*sound.problems, *filter(None, [problem])]:
        _tell(f"{path}: {text}")
    wave = wave if sound.rate == RATE else soxr.resample(wave, sound.rate, RATE)
    if not len(wave):
        raise _refused(path, "the audio has no samples")
    return wave


def mono(samples: np.ndarray) -> tuple[np.ndarray, str]:
    """The mean (samples,) of the channels (samples, channels), or the loudest where they cancel; what is wrong."""
    wave = samples.mean(axis=1)
    if np.abs(samples).max() < SILENT:
        return wave, "is silent; replace or remove the file"
    levels = np.sqrt(np.square(samples).mean(axis=0))
    if np.sqrt(np.square(wave).mean()) < CANCELLED * levels.max():
        loudest = int(levels.argmax())
        return samples[:, loudest], f"its channels cancel each other when averaged; channel {loudest + 1} is used alone"
    return wave, ""


def samples(path: str | os.PathLike[str], seconds: float = math.inf) -> Sound:
    """The first `seconds` of a sound file at its own rate, all channels. Floats of lossy codecs are clipped to [-1, 1].

    UserError: the file is missing, unreadable, empty or cut short, its rate is not 1 to 768 kHz, or the part that is
    read holds a NaN, an infinity or samples above 10 times full scale.
    """
    path = _present(path)
    rate, parts, missing, problems = 0, [], seconds, _ogg_end(path)
    for part, rate in _blocks(path):
        parts.append(part[:math.ceil(missing * rate) if missing < math.inf else None])
        missing -= len(part) / rate
        if missing <= 0:
            break
    result = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
    if not len(result):
        raise _refused(path, "the audio has no samples")
    if not np.isfinite(result).all():
        raise _refused(path, "the audio holds NaN or infinite samples")
    if (peak := float(np.abs(result).max())) > LOUDEST:
        raise UserError(f"{path}: samples of {peak:,.0f} times full scale, as of integers saved as floats; divide "
                        "them, by 32768 if they were 16 bits wide")
    return Sound(result, rate, problems)


def length(path: str | os.PathLike[str]) -> float:
    """Seconds of sound in a file, from its header where that can be trusted. UserError: as for `samples`."""
    path = _present(path)
    _ogg_end(path)
    try:
        with soundfile.SoundFile(path) as file:
            if _trusted(file, path):
                return file.frames / file.samplerate
    except (soundfile.SoundFileError, OSError):
        pass
    parts = [(len(part), rate) for part, rate in _ffmpeg(path, "")]
    if not parts:
        raise _refused(path, "the audio has no samples")
    return sum(frames for frames, _ in parts) / parts[0][1]


def digest(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file's bytes, from which the key of its features is made."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise _unreadable(path, _reason(error)) from None


def _blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Parts (samples, channels) of a file and their rate, ten seconds or less at a time."""
    reason, read = "", 0
    try:
        with soundfile.SoundFile(path) as file:
            if _trusted(file, path):
                while read < file.frames:
                    part = file.read(round(SECONDS * file.samplerate), dtype="float32", always_2d=True)
                    read += len(part)
                    yield part if file.subtype in ("FLOAT", "DOUBLE") else part.clip(-1, 1), file.samplerate
                    if not len(part):
                        raise _cut_short(path, read, file.frames, "samples")
                return
    except (soundfile.SoundFileError, OSError) as error:
        reason = _reason(error)
    if read:  # parts of it were given already
        raise _unreadable(path, f"damaged after {read:,} samples")
    yield from _ffmpeg(path, reason)


def _trusted(file: soundfile.SoundFile, path: Path) -> bool:
    """Whether libsndfile knows the length of a file. UserError: the header states more or far less than there is.

    It guesses the length of an mp3 from the first frame's bit rate, and takes a size of 0 for none.
    """
    _check_form(path, file.samplerate, file.channels)
    for stated, there in ((int(a), int(b)) for a, b in _SHORT.findall(file.extra_info)):
        if stated < STREAMED:
            raise _cut_short(path, there, stated, "bytes")
    junk = _JUNK.search(file.extra_info)
    size, riff = path.stat().st_size, _INSIDE.search(file.extra_info)
    if file.frames and junk and ((riff and int(riff[1]) + 8 == size) or size - int(junk[1]) > JUNK * size):
        raise _refused(path, f"its header states {file.frames / file.samplerate:.2f} s of sound, and "
                             f"{size - int(junk[1]):,} bytes of something else follow")
    if file.format == "FLAC" and file.frames:
        try:
            file.seek(file.frames - 1)
            file.seek(0)
        except soundfile.SoundFileError:  # FFmpeg tells how much is missing
            deque(_ffmpeg(path, "its end cannot be read"), maxlen=0)
    return file.format != "MP3" and 0 < file.frames < 2**60


def _ffmpeg(path: Path, reason: str) -> Iterator[tuple[np.ndarray, int]]:
    """Parts (samples, channels) of a file that libsndfile cannot read for `reason`, and their rate, by FFmpeg."""
    import av
    decoded, rate, stated = 0, RATE, 0.0
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": ""}
    try:
        with path.open("rb") as source, av.open(source, "r", options=options, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise _unreadable(path, "no sound in it")
            stream, resampler = container.streams.audio[0], av.AudioResampler("fltp")
            stated = _stated(path, container, stream)
            if container.format.name == "flac":  # its frames have checksums, which FFmpeg does not look at by itself
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            for frame in container.decode(stream):
                rate = frame.sample_rate
                _check_form(path, rate, frame.layout.nb_channels)
                for part in resampler.resample(frame):
                    decoded += part.samples
                    yield part.to_ndarray().T.clip(-1, 1), rate
            if decoded < rate * stated - (0 if container.format.name == "flac" else SLACK):
                raise _cut_short(path, decoded, round(rate * stated), "samples")
    except UserError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        at = f"damaged after {decoded / rate:.1f} s{f' of {stated:.1f} s' if stated else ''}" if decoded else ""
        raise _unreadable(path, at or reason or _reason(error)) from None


def _stated(path: Path, container: Any, stream: Any) -> float:
    """The length in seconds that a file's header states, 0 where it is FFmpeg's guess or unknown."""
    names = {*container.format.name.split(",")}
    with path.open("rb") as file:
        counted = names == {"mp3"} and re.search(rb"Xing|Info|VBRI", file.read(1 << 16))
    if not (names & _HEADED or counted):
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0  # or it is that of the pictures


def _ogg_end(path: Path) -> list[str]:
    """What is wrong with the last page of an Ogg file; it states no length, but marks its end."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return []
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        tail = file.read()
    page = tail[tail.rfind(b"OggS"):]
    sizes = page[27:27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(sizes):
        raise _refused(path, "cut short: the last page is not whole")
    return [] if page[5] & 4 else ["the end of its Ogg stream is not marked, so it may be cut short"]


def _check_form(path: Path, rate: int, channels: int) -> None:
    if not LOWEST <= rate <= HIGHEST:
        raise UserError(f"{path}: {rate:,} Hz; only {LOWEST:,} to {HIGHEST:,} Hz can be read: correct its header, or "
                        "resample it")
    if channels > CHANNELS:
        raise UserError(f"{path}: {channels} channels; at most {CHANNELS} can be read: mix it down")


def _present(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.exists():
        raise _missing(path)
    if not path.is_file():
        raise _unreadable(path, "it is a folder or device")
    if not path.stat().st_size:
        raise _unreadable(path, "the file is empty")
    if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: is a git-lfs pointer, not audio; run `git lfs pull` in the corpus's folder")
    return path


@cache
def _tell(text: str) -> None:
    """Log a problem once, although waveforms are read for their mean, then for their features."""
    log.warning(text)


def _missing(path: str | os.PathLike[str]) -> UserError:
    return UserError(f"{path}: no such audio file; check the corpus root and that its download is complete")


def _cut_short(path: Path, there: float, stated: float, unit: str) -> UserError:
    return _refused(path, f"cut short: of the {stated:,} {unit} of sound that its header states {stated - there:,} are "
                          f"missing ({1 - there / stated:.0%})")


def _unreadable(path: str | os.PathLike[str], reason: str) -> UserError:
    return _refused(path, f"unreadable audio ({reason})")


def _refused(path: str | os.PathLike[str], fault: str) -> UserError:
    return UserError(f"{path}: {fault}; replace or remove the file")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "error_string", None) or error
    return str(text).strip().rstrip(".").split("\n")[0] or "no sound"
