"""perser.audio: sines are read with their pitch, level and length; every bad file has its one-line error."""

import numpy as np
import pytest
import soundfile

from perser import audio
from perser.errors import UserError


def sine(rate, seconds, hertz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype("float32")


def peak(wave):
    """Frequency (Hz) and amplitude of the strongest component of a 16 kHz waveform, by its spectrum."""
    window = np.hanning(len(wave))
    spectrum = np.abs(np.fft.rfft(wave * window)) * 2 / window.sum()
    best = spectrum.argmax()
    return best * 16_000 / len(wave), spectrum[best]


@pytest.mark.parametrize("rate, channels", [(8_000, 1), (16_000, 1), (44_100, 2), (48_000, 1)])
@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_every_rate_comes_out_at_16_khz_with_its_pitch_level_and_length(tmp_path, rate, channels, kind):
    path = tmp_path / f"tone.{kind}"
    soundfile.write(path, np.stack([sine(rate, 2.0)] * channels, axis=1), rate)
    wave = audio.read(path)
    assert wave.dtype == np.float32 and wave.shape == (32_000,)
    hertz, level = peak(wave)
    assert hertz == pytest.approx(440, abs=0.5)
    assert level == pytest.approx(0.5, rel=0.01)


def test_channels_are_averaged(tmp_path):
    left, right = sine(16_000, 1.0, 300), sine(16_000, 1.0, 1_000)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(audio.read(tmp_path / "two.wav"), (left + right) / 2, atol=1e-7)


def test_only_the_first_seconds_are_read(tmp_path):
    wave = sine(16_000, 12.0)
    soundfile.write(tmp_path / "long.wav", wave, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(tmp_path / "long.wav"), wave[:160_000])
    np.testing.assert_array_equal(audio.read(tmp_path / "long.wav", seconds=0.5), wave[:8_000])
    soundfile.write(tmp_path / "long44.wav", sine(44_100, 12.0), 44_100)
    assert audio.read(tmp_path / "long44.wav").shape == (160_000,)


def test_what_lies_behind_the_cut_has_no_influence(tmp_path):
    wave = sine(44_100, 3.0)
    soundfile.write(tmp_path / "a.wav", wave, 44_100)
    wave[44_100:] = 0
    soundfile.write(tmp_path / "b.wav", wave, 44_100)
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav", 1.0), audio.read(tmp_path / "b.wav", 1.0))


def write_bad(path, fault):
    if fault == "directory":
        path.mkdir()
    elif fault == "zero bytes":
        path.write_bytes(b"")
    elif fault == "no frames":
        soundfile.write(path, np.zeros((0, 1), "float32"), 16_000)
    elif fault == "corrupt header":
        soundfile.write(path, sine(16_000, 1.0), 16_000)
        path.write_bytes(b"\x00" * 64 + path.read_bytes()[64:])
    elif fault == "text":
        path.write_text("this is no sound\n")
    elif fault in ("nan", "inf"):
        soundfile.write(path, np.full(16_000, float(fault), "float32"), 16_000, subtype="FLOAT")


@pytest.mark.parametrize("fault, words", [
    ("missing", "no such audio file"), ("directory", "unreadable"), ("zero bytes", "empty"),
    ("no frames", "no samples"), ("corrupt header", "unreadable"), ("text", "unreadable"),
    ("nan", "NaN"), ("inf", "infinite"),
])
def test_each_bad_file_has_one_line_with_its_name_and_a_remedy(tmp_path, fault, words):
    path = tmp_path / "bad.wav"
    write_bad(path, fault)
    with pytest.raises(UserError, match=words) as caught:
        audio.read(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and "; " in text


def test_digest_follows_content_not_name(tmp_path):
    a, b = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(a, sine(16_000, 0.1), 16_000)
    b.write_bytes(a.read_bytes())
    assert audio.digest(a) == audio.digest(b)
    b.write_bytes(a.read_bytes()[:-1] + b"\x01")
    assert audio.digest(a) != audio.digest(b)
    for broken, words in [(tmp_path / "none.wav", "no such audio file"), (tmp_path, "unreadable")]:
        with pytest.raises(UserError, match=words):
            audio.digest(broken)
