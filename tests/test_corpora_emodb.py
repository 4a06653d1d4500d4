"""EmoDB with real listeners: small trees in its form, and the real data where they lie beside the checkout."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from perser.corpora import describe, load
from perser.corpora.agreement import noise_ceiling
from perser.errors import UserError

HEADER = "subID,stimFile,stimType,valenceRating,arousalRating"
REAL = Path(__file__).parents[2] / "shared" / "data" / "emodb"


def tree(root: Path, *rows: str, clips: tuple[str, ...] = ("03a01Fa.wav", "08b02Wc.FLAC", "16a05Nb.flac")) -> Path:
    """EmoDB's wav/ with short sounds, and a table of ratings."""
    (root / "wav").mkdir(parents=True, exist_ok=True)
    for clip in clips:
        kind = clip.partition(".")[2].upper()
        soundfile.write(root / "wav" / clip, 0.1 * np.sin(np.arange(4000) / 20), 16000, format=kind)
    (root / "study_5_data.csv").write_text("\r\n".join([HEADER, *rows, ""]))
    return root


RATED = ("0,F/03a01Fa.wav,sounds,80,50", "0,ha/walk.mp4,videos,99,99", "2,W/08b02Wc.wav,sounds,49,49",
         "0,W/08b02Wc.wav,sounds,20,90", "50,N/16a05Nb.wav,sounds,50,10", "0,N/16a05Nb.wav,sounds,40,41",
         "0,N/16a05Nb.wav,sounds,70,39", "11,N/16a05Nb.wav,sounds,45,45")


def ticked(table, classes) -> list:
    return [(row["clip"], row["listener"], {name for name in classes if row[name]}) for row in table.to_dict("records")]


def test_quadrants_average_repeats_and_keep_the_single_ratings(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        corpus = load("emodb", tree(tmp_path, *RATED))
    assert "3 clips, not 535; results" in caplog.text
    assert corpus.synthetic == "" and corpus.name == "emodb"
    assert corpus.clips.session.to_dict() == {"03a01Fa": 1, "08b02Wc": 1, "16a05Nb": 5}
    assert corpus.clips.intended.tolist() == ["happiness", "anger", "neutral"]
    assert corpus.clips.seconds.tolist() == [0.25] * 3
    assert ticked(corpus.ratings, corpus.classes) == [
        ("03a01Fa", "L00", {"positive aroused"}), ("08b02Wc", "L00", {"negative aroused"}),
        ("08b02Wc", "L02", {"negative calm"}),
        ("16a05Nb", "L00", {"positive calm"}), ("16a05Nb", "L50", {"positive calm"})]
    assert ticked(corpus.repeats, corpus.classes) == [
        ("16a05Nb", "L00", {"negative calm"}), ("16a05Nb", "L00", {"positive calm"})]


def test_ticks_leave_the_middle_without_a_class(tmp_path):
    root = tree(tmp_path, *RATED)
    corpus = load("emodb", root, labels="ticks")
    assert corpus.classes == ("positive", "negative", "aroused", "calm")
    assert ticked(corpus.ratings, corpus.classes) == [
        ("03a01Fa", "L00", {"positive"}), ("08b02Wc", "L00", {"negative", "aroused"}), ("08b02Wc", "L02", set()),
        ("16a05Nb", "L00", {"calm"}), ("16a05Nb", "L50", {"calm"})]
    strict = load("emodb", root, labels="ticks", threshold="85")
    assert ticked(strict.ratings, strict.classes)[:2] == [("03a01Fa", "L00", set()), ("08b02Wc", "L00", {"aroused"})]


def test_threshold_and_listeners_change_what_they_name(tmp_path):
    root = tree(tmp_path, *RATED)
    higher = load("emodb", root, threshold=60)
    assert ticked(higher.ratings, higher.classes)[0] == ("03a01Fa", "L00", {"positive calm"})
    assert load("emodb", root, listeners="development").ratings["listener"].tolist() == ["L11"]
    assert load("emodb", root, listeners="all").ratings["listener"].nunique() == 4
    file = (root / "study_5_data.csv").rename(tmp_path / "other.csv")
    assert load("emodb", root, ratings="other.csv").ratings.equals(load("emodb", root, ratings=file).ratings)
    with pytest.raises(UserError, match=r"study_5_data.csv: no such file; `perser fetch emodb`"):
        load("emodb", root)


@pytest.mark.parametrize(("row", "message"), [
    ("0,F/03a02Fa.wav,sounds,80,50", "csv:3: '03a02Fa' has no audio file"),
    ("0,F/03a01Fa.wav,sound,80,50", "csv:3: stimType 'sound' is unknown: sounds or videos"),
    ("x,F/03a01Fa.wav,sounds,80,50", "csv:3: subID 'x' is not a listener's number"),
    ("1.5,F/03a01Fa.wav,sounds,80,50", "csv:3: subID '1.5'"),
    ("0,F/03a01Fa.wav,sounds,101,50", "csv:3: valenceRating '101' is not a number from 0 to 100"),
    ("0,F/03a01Fa.wav,sounds,80,nan", "csv:3: arousalRating 'nan' is not a number"),
    ("0,F/03a01Fa.wav,sounds,80,", "csv:3: arousalRating '' is not a number"),
    ("0,F/03a01Fa.wav,sounds", "csv:3: the row is cut short"),
])
def test_errors_name_the_row(tmp_path, row, message):
    with pytest.raises(UserError) as caught:
        load("emodb", tree(tmp_path, RATED[0], row))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("options", "message"), [
    ({"labels": "quadrant"}, "labels='quadrant' is unknown: did you mean 'quadrants'"),
    ({"listeners": "developement"}, "did you mean 'development'"),
    ({"listeners": "development"}, "holds no rating of EmoDB's speech by development listeners"),
    ({"threshold": "high"}, "threshold 'high' is not a number from 0 to 100"),
    ({"threshold": 50, "labels": "ticks"}, "threshold=50: ticks of opposite classes overlap"),
])
def test_wrong_options_are_one_line(tmp_path, options, message):
    with pytest.raises(UserError, match=message) as caught:
        load("emodb", tree(tmp_path, RATED[0]), **options)
    assert "\n" not in str(caught.value)


def test_wrong_trees_are_one_line(tmp_path):
    root = tree(tmp_path / "a" / "emodb", RATED[0])
    for wrong in (tmp_path, root / "wav"):
        with pytest.raises(UserError, match=f"give {root} as root"):
            load("emodb", wrong)
    with pytest.raises(UserError, match="csv:1: no column 'subID'"):
        (root / "bad.csv").write_text("a,b\n1,2\n")
        load("emodb", root, ratings="bad.csv")
    for name, message in (("03a01Fa.flac", "is also there as"), ("04a01Fa.wav", "is not speaker sentence emotion take"),
                          ("03a01Xa.wav", "is not speaker sentence emotion take")):
        with pytest.raises(UserError, match=message):
            load("emodb", tree(root, RATED[0], clips=(name,)))
        (root / "wav" / name).unlink()
    (root / "wav" / "._03a01Fa.wav").write_bytes(b"\0")
    (root / "wav" / "03a01Fa.wav").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"03a01Fa\.wav: unreadable audio"):
        load("emodb", root)
    for path in (root / "wav").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"holds no \.wav or \.flac file"):
        load("emodb", root)


def test_noise_ceiling_by_hand(tmp_path):
    rows = ["0,F/03a01Fa.wav,sounds,80,80", "0,F/03a01Fa.wav,sounds,80,50", "0,F/03a01Fa.wav,sounds,80,80",
            "2,F/03a01Fa.wav,sounds,90,90", "3,F/03a01Fa.wav,sounds,90,50",
            "2,W/08b02Wc.wav,sounds,50,50", "2,W/08b02Wc.wav,sounds,50,50"]
    corpus = load("emodb", tree(tmp_path, *rows), labels="ticks")
    # Listener 0: {+, aroused}, {+}, {+, aroused}: one pair alike, two that overlap by 1/2; listener 2: twice no class.
    # The others of clip 1 vote {+, aroused} and {+}: positive, which has 1/2, 1 and 1/2 of listener 0's votes.
    assert noise_ceiling(corpus) == {"listeners": 2, "pairs": 4, "same": 0.5, "overlap": 0.75, "others": 0.6667}
    assert describe(corpus)["repeats"] == noise_ceiling(corpus)


def test_noise_ceiling_needs_no_others_and_is_left_out_without_repeats(tmp_path):
    corpus = load("emodb", tree(tmp_path, RATED[0], RATED[0]))
    assert noise_ceiling(corpus) == {"listeners": 1, "pairs": 1, "same": 1.0, "overlap": 1.0, "others": None}
    assert "repeats" not in describe(load("emodb", tree(tmp_path, RATED[0])))


if REAL.is_dir():

    def test_the_real_ratings_have_their_known_sizes():
        sizes = {}
        for which in ("reported", "development", "all"):
            corpus = load("emodb", REAL, listeners=which)
            sizes[which] = corpus.ratings["listener"].nunique()
        assert sizes == {"reported": 36, "development": 15, "all": 51}
        assert len(corpus.clips) == 535 and corpus.clips["session"].nunique() == 5
        assert len(corpus.ratings) == 6157 and not corpus.ratings.duplicated(["clip", "listener"]).any()
        assert len(corpus.repeats.drop_duplicates(["clip", "listener"])) == 739
        assert len(corpus.ratings) + len(corpus.repeats) - 739 == 6958
        ceiling = noise_ceiling(corpus)
        assert (ceiling["pairs"], ceiling["same"]) == (867, 0.6724)
