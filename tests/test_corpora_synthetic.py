"""The embedded corpus: IEMOCAP's and CREMA-D's formats, byte-identical, safe to interrupt."""

import hashlib
import json
import logging
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import soundfile

from perser.corpora import cremad, load
from perser.corpora.synthetic import generate, synthesise, write_iemocap
from perser.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return synthesise(tmp_path_factory.mktemp("synth") / "corpus", seed=3, clips=100)


def digest(root) -> str:
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def test_same_seed_same_bytes_and_done_is_left_alone(root, tmp_path):
    first = digest(root)
    again = synthesise(tmp_path / "again", seed=3, clips=100)
    assert digest(again) == first
    stamps = {path: path.stat().st_mtime_ns for path in again.rglob("*")}
    synthesise(again, seed=3, clips=100)
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*")} == stamps


def test_an_unfinished_tree_is_refused_by_loaders_and_done_again(root, tmp_path, monkeypatch):
    place = tmp_path / "cut"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(write_iemocap, "annotate", killed)
        with pytest.raises(KeyboardInterrupt):
            synthesise(place, seed=3, clips=100)
    for name in ("synthetic", "iemocap"):
        with pytest.raises(UserError, match=r"unfinished|does not hold IEMOCAP"):
            load(name, place)
    assert digest(synthesise(place, seed=3, clips=100)) == digest(root)
    next(place.rglob("*_F000.wav")).unlink()
    monkeypatch.setattr(generate, "_speak", killed)
    with pytest.raises(KeyboardInterrupt):
        synthesise(place, seed=3, clips=100)


def test_a_kill_while_moving_into_place_is_noticed(root, tmp_path, monkeypatch):
    place = tmp_path / "cut"
    monkeypatch.setattr(generate, "_speak", lambda *_: None)
    monkeypatch.setattr(generate, "measure", lambda paths: pd.DataFrame({"level": np.zeros(len(paths))}))

    def half(aside, *_):
        for number in (1, 2):
            (aside / f"Session{number}" / "dialog" / "EmoEvaluation").mkdir(parents=True)
        return []

    monkeypatch.setattr(write_iemocap, "annotate", half)
    monkeypatch.setattr(generate, "_write_marker", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        synthesise(place, clips=100)
    with pytest.raises(UserError, match="unfinished; run `perser synth"):
        load("iemocap", place)


def test_a_folder_with_anything_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds 'thesis\.txt', which perser did not write"):
        synthesise(tmp_path, clips=100)
    assert (tmp_path / "thesis.txt").read_text() == "x"
    (tmp_path / "real" / "Session1").mkdir(parents=True)
    with pytest.raises(UserError, match="holds 'Session1', which perser did not write"):
        synthesise(tmp_path / "real", clips=100)
    with pytest.raises(UserError, match="is a file"):
        synthesise(tmp_path / "thesis.txt", clips=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "iemocp"}, "did you mean 'iemocap'"),
        ({"clips": 99}, "at least 100"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        synthesise(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_both_loaders_read_it_and_mark_it_as_synthetic(root):
    one, other = load("synthetic", root), load("iemocap", root)
    assert one.synthetic == other.synthetic == "speech and listeners"
    assert (one.name, other.name) == ("synthetic", "iemocap")
    pd.testing.assert_frame_equal(one.clips, other.clips)
    pd.testing.assert_frame_equal(one.ratings, other.ratings)
    marker = json.loads((root / "SYNTHETIC.json").read_text())
    assert (marker["seed"], marker["clips"], marker["layout"]) == (3, 100, "iemocap")


def test_every_observer_rates_every_session_equally_and_three_rate_each_dialog(root):
    corpus = load("synthetic", root)
    ratings = corpus.ratings.merge(corpus.clips, left_on="clip", right_index=True)
    counts = ratings.groupby(["session", "listener"]).size()
    assert len(counts) == 30 and counts.min() == counts.max() == 10
    trios = ratings.groupby(["session", "dialog"]).listener.agg(lambda who: tuple(sorted(set(who))))
    assert set(trios.map(len)) == {3}
    assert (trios.groupby("session").nunique() > 3).all()


def test_the_full_size_has_at_least_ninety_clips_per_observer_and_session():
    turns = write_iemocap.plan(0, 1200)
    trios = write_iemocap.trios(0)
    rated = Counter((turn.group, who) for turn in turns for who in trios[turn.path.split("/")[3]])
    assert len(turns) == 1200 and len(rated) == 30 and set(rated.values()) == {120}
    assert {"Ses03M_impro05a", "Ses03M_impro08b", "Ses05M_script01_1b"} <= set(trios)
    spoken = Counter((turn.speaker, turn.emotion) for turn in turns)
    assert len({speaker for speaker, _ in spoken}) == 10


def test_it_has_the_irregularities_of_the_format(root):
    notes = root / "Session3" / "dialog" / "EmoEvaluation"
    assert {path.name for path in notes.iterdir() if path.is_dir()} == {
        "Attribute",
        "Categorical",
        "Self-evaluation",
    }
    assert any(path.name.startswith("._") for path in notes.iterdir())
    text = "".join(path.read_text() for path in root.rglob("EmoEvaluation/Ses*.txt"))
    rated = [line.split("\t") for line in text.split("\n") if line.startswith("C-")]
    assert any(words.count(";") > 1 for _, words, _ in rated)
    assert any(";" in comment for _, _, comment in rated)
    assert any("Other;" in words for _, words, _ in rated)
    assert "dom  ;" in text
    assert "Neutral state" not in text
    assert any("Neutral state" in path.read_text() for path in notes.glob("Categorical/*.txt"))


def test_self_raters_rate_improvised_turns_of_their_own_only(root):
    corpus = load("iemocap", root, listeners="all")
    self_rated = corpus.ratings[~corpus.ratings.listener.str.startswith("E")]
    assert set(self_rated.listener) <= set(write_iemocap.SELF_RATERS) and len(self_rated) > 10
    speakers = corpus.clips.speaker[self_rated["clip"]]
    assert (self_rated["clip"].str.contains("impro")).all()
    assert [f"Ses0{who[1]}{who[0]}" for who in self_rated.listener] == speakers.tolist()


def test_the_audio_is_what_the_format_says(root):
    for path in load("synthetic", root).clips.path:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 1.0 < info.duration < 5.0
    wave, _ = soundfile.read(path)
    assert 0.001 < np.sqrt(np.mean(wave**2)) < 0.4 and np.abs(wave).max() < 1.0


def test_the_seed_changes_voices_and_ratings(root):
    assert write_iemocap.plan(3, 100) == write_iemocap.plan(3, 100)
    assert write_iemocap.plan(4, 100) != write_iemocap.plan(3, 100)


def test_emotions_are_heard_in_the_prosody(root):
    from perser.corpora.synthetic.acoustics import measure

    turns = write_iemocap.plan(3, 100)
    heard = measure([str(root / turn.path) for turn in turns])
    heard -= heard.groupby([turn.speaker for turn in turns]).transform("mean")
    mean = heard.groupby([turn.emotion for turn in turns]).mean()
    assert mean.level.idxmax() == "angry" and mean.level.idxmin() == "sad"
    assert mean.pitch["surprise"] > mean.pitch["neutral"] + 1 > mean.pitch["sad"] + 2
    assert mean.rate["excited"] > mean.rate["disgust"]


def test_cremad_layout_goes_through_that_loader(tmp_path, caplog):
    root = synthesise(tmp_path / "c", seed=0, clips=100, layout="cremad")
    with caplog.at_level(logging.WARNING):
        corpus = load("synthetic", root)
    assert corpus.classes == cremad.CLASSES and corpus.synthetic == "speech and listeners"
    assert len(corpus.clips) == 5 * 82 - 1 and corpus.clips.session.nunique() == 5
    assert 20 < corpus.ratings.groupby("listener").size().mean() < 40
    rows = pd.read_csv(root / "finishedResponses.csv", dtype=str, keep_default_na=False)
    assert rows.shape[1] == 17 and set(rows.queryType) >= {"1", "2", "3"}
    assert set(rows.iloc[:, 0]) >= cremad.BROKEN and (rows.clipName == cremad.SILENT).any()
    assert len(corpus.ratings) < (rows.queryType == "1").sum()
