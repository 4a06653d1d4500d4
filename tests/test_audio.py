"""perser.audio: tones are read with their pitch, level and length; every bad file has its one-line error."""

import logging
import struct
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from made_audio import CODECS, encode, sine, tone

from perser import audio
from perser.errors import UserError


def peak(wave):
    """Frequency (Hz) and amplitude of the strongest component of a 16 kHz waveform, by its spectrum."""
    window = np.hanning(len(wave))
    spectrum = np.abs(np.fft.rfft(wave * window)) * 2 / window.sum()
    best = spectrum.argmax()
    return best * 16_000 / len(wave), spectrum[best]


@pytest.mark.parametrize("rate, channels", [(8_000, 1), (16_000, 1), (44_099, 1), (44_100, 2), (48_000, 1)])
@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_every_rate_comes_out_at_16_khz_with_its_pitch_level_and_length(tmp_path, rate, channels, kind):
    path = tmp_path / f"tone.{kind}"
    soundfile.write(path, np.stack([sine(rate, 2.0)] * channels, axis=1), rate)
    wave = audio.read(path)
    assert wave.dtype == np.float32 and wave.shape == (32_000,) and audio.length(path) == 2
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


@pytest.mark.parametrize("kind", [*CODECS, ".WebM", ".M4A"])
def test_what_libsndfile_cannot_read_is_read_by_ffmpeg(tmp_path, kind):
    path = tone(tmp_path / f"tone{kind}", seconds=2.0)
    wave = audio.read(path)
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert len(wave) == pytest.approx(32_000, abs=2_000)  # lossy codecs work in frames of up to 0.13 s
    hertz, level = peak(wave[2_000:30_000])
    speech = kind in (".amr", ".3gp")  # a codec for telephones, which keeps no levels
    assert hertz == pytest.approx(440, abs=1) and level == pytest.approx(0.5, rel=0.2 if speech else 0.05)
    assert audio.length(path) == pytest.approx(len(wave) / 16_000, abs=1e-3)
    assert len(audio.read(path, 0.5)) == 8_000
    assert kind.lower() in audio.KINDS


def test_a_file_is_read_by_what_it_holds(tmp_path):
    for kind in (".m4a", ".mp3"):
        named = tone(tmp_path / f"a{kind}").rename(tmp_path / f"{kind[1:]}.wav")
        assert peak(audio.read(named)[2_000:30_000])[0] == pytest.approx(440, abs=1)


def test_an_mp3_without_a_count_of_its_frames_is_read_to_its_end(tmp_path):
    """Its first frame's bit rate does not tell its length where the rate varies."""
    parts = [encode(tmp_path / f"{bits}.mp3", sine(48_000, 2.0), 48_000, "libmp3lame", "mp3", bits, write_xing="0",
                    id3v2_version="0").read_bytes() for bits in (32_000, 320_000)]
    for order in (parts, parts[::-1]):
        (tmp_path / "both.mp3").write_bytes(b"".join(order))
        assert audio.length(tmp_path / "both.mp3") == pytest.approx(4.0, abs=0.15)
        assert len(audio.read(tmp_path / "both.mp3")) == pytest.approx(64_000, abs=2_400)


@pytest.mark.parametrize("kind", [".m4a", ".webm", ".mp3", ".wma", ".ogg"])
def test_a_loud_lossy_file_is_clipped_and_never_wraps_around(tmp_path, kind):
    path, loud = tmp_path / f"loud{kind}", sine(48_000, 2.0, 200, 1.5)
    if kind == ".ogg":
        soundfile.write(path, loud, 48_000, format="OGG", subtype="VORBIS")
    else:
        encode(path, loud, 48_000, *CODECS[kind][:2])
    wave = audio.samples(path).samples[4_800:90_000, 0]
    assert np.abs(wave).max() == 1.0 or kind in (".m4a", ".mp3")  # whose encoders clip by themselves
    assert 0.9 < np.abs(wave).max() <= 1
    assert np.abs(np.diff(wave)).max() < 0.15  # 1.5 * 2 pi * 200 / 48,000 = 0.04; a wrapped sample jumps by 2


def test_odd_rates_take_no_time_and_absurd_ones_are_refused(tmp_path):
    for rate in (22_051, 44_099):
        soundfile.write(tmp_path / "odd.wav", sine(rate, 10.0), rate)
        began = time.process_time()
        assert audio.read(tmp_path / "odd.wav").shape == (160_000,)
        assert time.process_time() - began < 1
    for rate in (1, 999, 768_001, 2**31 - 1):
        soundfile.write(tmp_path / "absurd.wav", np.zeros(1_000), rate)
        for call in (audio.read, audio.length):
            with pytest.raises(UserError, match=f"absurd.wav: {rate:,} Hz; only 1,000 to 768,000 Hz can be read"):
                call(tmp_path / "absurd.wav")
    soundfile.write(tmp_path / "array.wav", np.zeros((100, 65)), 16_000)
    with pytest.raises(UserError, match="65 channels; at most 64"):
        audio.read(tmp_path / "array.wav")


def wav(path, riff=None, data=None, seconds=3.0, cut=None, tail=b""):
    """A 16-bit wav of 16 kHz whose sizes are replaced, with bytes cut off or added."""
    soundfile.write(path, sine(16_000, seconds), 16_000)
    content = bytearray(path.read_bytes())
    for place, size in ((4, riff), (40, data)):
        content[place:place + 4] = content[place:place + 4] if size is None else struct.pack("<I", size)
    path.write_bytes(bytes(content[:cut]) + tail)
    return path


@pytest.mark.parametrize("sizes", [
    {"riff": 0, "data": 0}, {"data": 0}, {"riff": 2**32 - 1, "data": 2**32 - 1}, {"riff": 0}, {"riff": 10**6},
    {"riff": 0x7FFFFFFF, "data": 0x7FFFFFFF - 36}, {"riff": 36}, {"tail": b"TAG" + bytes(125)}], ids=str)
def test_a_streamed_wav_is_read_to_its_end(tmp_path, sizes):
    path = wav(tmp_path / "streamed.wav", **sizes)
    np.testing.assert_allclose(audio.read(path), sine(16_000, 3.0), atol=1e-4)
    assert audio.length(path) == 3


@pytest.mark.parametrize("how, words", [
    ({"cut": 44}, r"of the 96,000 bytes of sound that its header states 96,000 are missing \(100%\)"),
    ({"cut": 44 + 32_000}, r"states 64,000 are missing \(67%\)"), ({"data": 10**6}, r"states 904,000 are missing"),
    ({"cut": -1}, "1 are missing"), ({"data": 1_000}, r"states 0\.03 s of sound, and 95,000 bytes of something else"),
    ({"data": 95_000}, r"states 2\.97 s of sound, and 1,000 bytes of something else"),
    ({"data": 0, "cut": 44}, "no samples"), ({"cut": 30}, "unreadable")], ids=str)
def test_a_wav_that_does_not_hold_what_its_header_states_is_refused_at_loading_and_reading(tmp_path, how, words):
    path = wav(tmp_path / "cut.wav", **how)
    for call in (audio.length, audio.read):
        with pytest.raises(UserError, match=words) as caught:
            call(path)
        assert str(caught.value).startswith(f"{path}: ") and "; replace or remove the file" in str(caught.value)


@pytest.mark.parametrize("kind", ["AIFF", "AU", "CAF", "W64", "RF64", "FLAC", "OGG", ".mp3", ".m4a", ".webm", ".aac",
                                  ".amr"])
@pytest.mark.parametrize("share", [0.34, 0.9])
def test_half_a_file_never_passes_for_a_whole_one(tmp_path, kind, share):
    path = tmp_path / f"cut.{kind.strip('.')}"
    if kind.startswith("."):
        tone(path, 4.0, **{"movflags": "faststart"} if kind == ".m4a" else {})
    else:
        soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 240_000), 16_000, format=kind)
    audio.read(path, 20)
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])
    with pytest.raises(UserError, match=r"cut short|unreadable") as caught:
        audio.read(path, 20)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_flac_is_whole_only_with_its_end(tmp_path):
    """Far behind the part that is read; a length of 0 in its header says that it was streamed."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 480_000), 16_000)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:len(content) * 2 // 3])
    for call in (audio.read, audio.length):
        with pytest.raises(UserError, match=r"damaged after 20\.\d s of 30\.0 s"):
            call(path)
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert audio.length(path) == 30 and len(audio.read(path)) == 160_000


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_bit_of_a_flac_is_seen(tmp_path, share):
    """Behind the header, which has no checksum; FFmpeg, which is asked last, looks at checksums only when told to."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 48_000), 16_000)
    content = bytearray(path.read_bytes())
    content[round(share * len(content))] ^= 8
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.flac: (unreadable audio|cut short)"):
        audio.read(path)


def test_integers_saved_as_floats_are_refused_and_loud_floats_are_not(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(16_000, 1.0) * 32_768, 16_000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"a\.wav: samples of 16,384 times full scale, as of integers saved"):
        audio.read(path)
    soundfile.write(path, sine(16_000, 1.0, level=3.0), 16_000, subtype="FLOAT")
    assert np.abs(audio.read(path)).max() == pytest.approx(3.0, rel=1e-3)


def test_channels_that_cancel_and_silence_are_named_once(tmp_path, caplog):
    left = sine(16_000, 1.0)
    soundfile.write(tmp_path / "two.wav", np.stack([left, -0.999 * left], axis=1), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "one.wav", np.stack([left, 0 * left], axis=1), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "none.wav", 0 * left, 16_000)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(audio.read(tmp_path / "two.wav"), left)
            np.testing.assert_array_equal(audio.read(tmp_path / "one.wav"), left / 2)
            assert not audio.read(tmp_path / "none.wav").any()
    assert caplog.messages == [
        f"{tmp_path}/two.wav: its channels cancel each other when averaged; channel 1 is used alone",
        f"{tmp_path}/none.wav: is silent; replace or remove the file"]


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\nsecret.wav\n", "ffconcat version 1.0\nfile secret.wav\n",
                                  "[playlist]\nFile1=secret.wav\n", "v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n"])
def test_a_playlist_opens_no_other_file(tmp_path, text):
    tone(tmp_path / "secret.mp3").rename(tmp_path / "secret.wav")
    path = tmp_path / "list.m4a"
    path.write_text(text)
    with pytest.raises(UserError, match="unreadable audio"):
        audio.read(path)


@cache
def whole(kind):
    """The bytes of a small file of a kind."""
    with tempfile.TemporaryDirectory() as folder:
        if kind.startswith("."):
            return tone(Path(folder) / f"a{kind}", 0.3).read_bytes()
        soundfile.write(Path(folder) / "a", sine(16_000, 0.3), 16_000, format=kind)
        return (Path(folder) / "a").read_bytes()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_spoilt_file_gives_finite_samples_or_one_line(tmp_path_factory, data):
    kind = data.draw(st.sampled_from(["WAV", "FLAC", "OGG", "AIFF", "CAF", ".m4a", ".webm", ".mp3"]))
    content = bytearray(whole(kind))
    bytes_changed = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(bytes_changed, max_size=4)):
        content[place] = value
    path = tmp_path_factory.mktemp("any") / "a.wav"
    path.write_bytes(content[:data.draw(st.integers(0, len(content)))])
    for call in (audio.length, audio.read):
        try:
            assert np.isfinite(call(path)).all()
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error) and "; " in str(error)
