"""Simulated listeners: cues with known values; listeners who are stable, differ, and are mostly consistent."""

from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression

from perser.corpora.iemocap import CLASSES
from perser.corpora.synthetic import listeners as model
from perser.corpora.synthetic.acoustics import CUES, cues, measure, standardise
from perser.errors import UserError
from perser.seeds import rng

RATE = 16_000


def voice(pitch=200.0, seconds=2.0, level=-20.0, syllables=4.0, pause=0.0) -> np.ndarray:
    """A buzz of harmonics whose loudness rises and falls `syllables` times a second."""
    time = np.arange(int(RATE * seconds)) / RATE
    buzz = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 11))
    wave = buzz * (0.05 + np.sin(np.pi * syllables * time) ** 2)
    wave *= 10 ** (level / 20) / np.sqrt(np.mean(wave**2))
    if pause:
        half = len(wave) // 2
        wave = np.concatenate([wave[:half], np.zeros(int(RATE * pause)), wave[half:]])
    return wave


def cue(name: str, **how) -> float:
    return float(cues(voice(**how))[CUES.index(name)])


def test_level_is_in_decibels_and_moves_no_other_cue():
    soft, loud = cues(voice(level=-30)), cues(voice(level=-24))
    assert loud[0] - soft[0] == pytest.approx(6.0, abs=0.05)
    assert np.allclose(loud[1:], soft[1:], atol=0.05)


@pytest.mark.parametrize("pitch", [90.0, 130.0, 200.0, 320.0])
def test_pitch_is_in_semitones(pitch):
    assert cue("pitch", pitch=pitch) == pytest.approx(12 * np.log2(pitch), abs=0.6)


def test_rate_counts_syllables_and_pauses_count_silence():
    assert cue("rate", syllables=3.0) == pytest.approx(3.0, abs=0.6)
    assert cue("rate", syllables=5.0) == pytest.approx(5.0, abs=0.6)
    assert cue("pauses", pause=1.0) - cue("pauses") == pytest.approx(1 / 3, abs=0.08)


def test_slope_rises_with_brightness():
    wave = voice()
    assert cues(np.diff(wave))[CUES.index("slope")] > cues(wave)[CUES.index("slope")] + 3


@pytest.mark.parametrize("wave", [np.zeros(16000), np.ones(1), rng(0, "noise").standard_normal(300)])
def test_silence_and_snippets_have_finite_cues(wave):
    assert np.isfinite(cues(wave)).all()


def test_measure_reads_any_rate_and_names_a_bad_file(tmp_path):
    wave = np.stack([voice()] * 2, axis=1) * 0.5
    soundfile.write(tmp_path / "a.flac", wave, RATE)
    soundfile.write(tmp_path / "b.wav", voice() * 0.5, RATE)
    table = measure([str(tmp_path / "a.flac"), str(tmp_path / "b.wav")])
    assert np.allclose(table.iloc[0], table.iloc[1], atol=0.05)
    (tmp_path / "c.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "d.wav", np.zeros(0), RATE)
    for name in ("c.wav", "d.wav"):
        with pytest.raises(UserError, match=f"{name}: .*replace"):
            measure([str(tmp_path / name)])


def test_cues_are_relative_to_the_speaker():
    table = pd.DataFrame(rng(0, "cues").normal(size=(40, 7)), columns=list(CUES))
    shifted = table.copy()
    shifted.iloc[20:] += 9.0
    who = ["a"] * 20 + ["b"] * 20
    assert np.allclose(standardise(table, who), standardise(shifted, who))
    assert np.allclose(standardise(table, who)[:20].mean(axis=0), 0, atol=0.05)
    assert standardise(table * 0, who).tolist() == [[0.0] * 7] * 40


def scene(clips: int = 400):
    draw = rng(0, "scene")
    meant = np.eye(len(CLASSES))[draw.integers(len(CLASSES), size=clips)]
    return meant @ model.prototypes(CLASSES) + 0.7 * draw.standard_normal((clips, len(CUES))), meant, draw


def test_a_listener_is_the_same_whoever_asks_and_another_seed_is_another():
    one, same, other = (model.panel(["E1", "E2"], CLASSES, seed)[1] for seed in (0, 0, 1))
    assert (one.name, one.threshold) == ("E2", same.threshold)
    assert np.array_equal(one.weights, same.weights) and np.array_equal(one.bias, same.bias)
    assert not np.allclose(one.weights, other.weights)


def test_listeners_differ_in_bias_and_in_cue_weights():
    panel = model.panel([f"E{n}" for n in range(1, 7)], CLASSES, 0)
    for one, other in pairwise(panel):
        assert np.abs(one.bias - other.bias).max() > 0.3
        assert np.abs(one.weights - other.weights).max() > 0.3
        assert one.threshold != other.threshold and one.temperature != other.temperature


def test_a_small_panel_spreads_as_a_large_one():
    means = np.where(np.array(CLASSES) == "neutral", model.CALIBRATION["neutral"], 0)
    for count in (6, 60):
        biases = np.array([who.bias for who in model.panel([f"E{n}" for n in range(count)], CLASSES, 5)])
        assert biases.mean(axis=0) == pytest.approx(means, abs=0.1)
        assert biases.std(axis=0) == pytest.approx(np.full(len(CLASSES), model.CALIBRATION["bias"]), rel=0.25)


def test_shares_sum_to_one_and_the_strongest_is_ticked():
    cue, meant, draw = scene()
    for who in model.panel([f"E{n}" for n in range(6)], CLASSES, 0):
        shares = model.hear(who, cue, meant, draw.standard_normal(meant.shape))
        assert np.allclose(shares.sum(axis=1), 1)
        ticked = model.ticks(who, shares)
        assert ticked[np.arange(len(shares)), shares.argmax(axis=1)].all()
        assert (ticked.sum(axis=1) <= model.ticks(who._replace(threshold=0.01), shares).sum(axis=1)).all()


def test_a_listener_repeats_himself_more_than_others_do_and_can_be_learnt_from_cues():
    cue, meant, draw = scene(800)
    again, learnt, majority = [], [], []
    panel = model.panel([f"L{n}" for n in range(24)], CLASSES, 0)
    first = [model.hear(who, cue, meant, draw.standard_normal(meant.shape)).argmax(axis=1) for who in panel]
    for who, heard in list(zip(panel, first, strict=True))[::4]:
        second = model.hear(who, cue, meant, draw.standard_normal(meant.shape)).argmax(axis=1)
        again.append((heard == second).mean())
        model_of = LogisticRegression(max_iter=500).fit(cue[:500], heard[:500])
        learnt.append((model_of.predict(cue[500:]) == heard[500:]).mean())
        majority.append((np.bincount(heard[:500]).argmax() == heard[500:]).mean())
    others = np.mean([(one == other).mean() for one, other in combinations(first, 2)])
    assert 0.9 > np.mean(again) > others + 0.02
    assert np.mean(learnt) > np.mean(majority) + 0.1


def test_the_first_rating_and_the_one_again_are_two_moments_of_one_listener():
    cue, meant, _ = scene(200)
    [who, _] = model.panel(["E1", "E2"], CLASSES, 0)
    first, same, again = (model.moment(who, cue, meant, 0, second) for second in (False, False, True))
    assert np.array_equal(first, same) and not np.isclose(first, again).all(axis=1).any()


def test_who_rates_what_is_even_and_within_bounds():
    chosen = model.assign(600, 48, 5, 8, rng(0, "who"))
    counts = np.bincount(np.concatenate(chosen), minlength=48)
    assert {len(who) for who in chosen} == {5, 6, 7, 8}
    assert all(len(set(who)) == len(who) for who in chosen)
    assert counts.max() - counts.min() <= 4
