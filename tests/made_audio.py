"""Sound files in the formats that only FFmpeg writes, for tests."""

from pathlib import Path

import av
import numpy as np

# Suffix -> codec, container and rate; the containers are those that phones, browsers and Windows record in.
CODECS = {".m4a": ("aac", "ipod", 44_100), ".mp4": ("aac", "mp4", 48_000), ".aac": ("aac", "adts", 16_000),
          ".webm": ("libopus", "webm", 48_000), ".opus": ("libopus", "opus", 48_000),
          ".mp3": ("libmp3lame", "mp3", 44_100), ".wma": ("wmav2", "asf", 44_100),
          ".amr": ("libopencore_amrnb", "amr", 8_000), ".3gp": ("libopencore_amrnb", "3gp", 8_000),
          ".ac3": ("ac3", "ac3", 48_000), ".mka": ("libopus", "matroska", 48_000)}


def sine(rate: int, seconds: float, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """A tone, float32 (samples,)."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype("float32")


def encode(path: Path, samples: np.ndarray, rate: int, codec: str, container: str, bits: int = 96_000,
           **options: str) -> Path:
    """Write samples (samples, channels) or (samples,) with an encoder of FFmpeg; bits: per second."""
    planes = np.atleast_2d(samples.T).astype("float32")
    with av.open(str(path), "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.layout = "stereo" if len(planes) == 2 else "mono"
        stream.bit_rate = 12_200 if codec == "libopencore_amrnb" else bits
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=stream.layout.name)
        frame.sample_rate = rate
        form = av.AudioResampler(stream.format, stream.layout, rate, stream.codec_context.frame_size or None)
        for part in [*form.resample(frame), *form.resample(None), None]:
            file.mux(stream.encode(part))
    return path


def tone(path: Path, seconds: float = 2.0, hertz: float = 440.0, level: float = 0.5, **options: str) -> Path:
    """A tone in the format of the path's suffix, in any case."""
    codec, container, rate = CODECS[path.suffix.lower()]
    return encode(path, sine(rate, seconds, hertz, level), rate, codec, container, **options)
