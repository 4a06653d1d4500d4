"""The IEMOCAP loader: the format's irregularities, its errors by file and line, and the release's sizes."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from perser.corpora import describe, iemocap, load
from perser.corpora.synthetic import write_iemocap
from perser.errors import UserError

DIALOG = "Ses03M_impro05a"
TEXT = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes03M_impro05a_F000\tfru\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
C-E3:\tFrustration; Anger;\t(tired; or is it boredom: hard to say)
C-E4:\tOther;\t(calm)
C-M3:\tHappiness;\t()
A-E3:\tval 3; act 2; dom  2;\t()
A-M3:\tval 3; act 2; dom  ;\t()

[10.0100 - 11.3925]\tSes03M_impro05a_M000\txxx\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral state;\t()
C-E3:\tSurprise; Other;\t()
C-E5:\tFear;\t()
"""


def plant(root: Path, text: str = TEXT, dialog: str = DIALOG, session: int = 3, lengths=(1.5, 0.75)) -> Path:
    """A tree of one dialog, with the sub-folders and macOS files of the release."""
    home = root / f"Session{session}"
    notes = home / "dialog" / "EmoEvaluation"
    for name in ("Categorical", "Attribute", "Self-evaluation"):
        (notes / name).mkdir(parents=True)
        (notes / name / f"{dialog}_e2_cat.txt").write_text(f"{dialog}_F000 :Neutral state; ()\n")
    (notes / f"{dialog}.txt").write_text(text)
    (notes / f"._{dialog}.txt").write_bytes(b"\x00\x05\x16\x07[\xff")
    wavs = home / "sentences" / "wav" / dialog
    wavs.mkdir(parents=True)
    for letter, seconds in zip("FM", lengths, strict=True):
        soundfile.write(wavs / f"{dialog}_{letter}000.wav", np.zeros(int(16000 * seconds)), 16000)
    return root


def test_reads_a_dialog_with_all_its_irregularities(tmp_path):
    corpus = load("iemocap", plant(tmp_path))
    assert corpus.classes == iemocap.CLASSES == (
        "frustrated", "angry", "sad", "disgust", "excited", "fear", "neutral", "surprise", "happy",
    )  # fmt: skip
    assert corpus.synthetic == ""
    assert corpus.clips.index.name == "clip"
    assert corpus.clips.speaker.to_dict() == {f"{DIALOG}_F000": "Ses03F", f"{DIALOG}_M000": "Ses03M"}
    assert corpus.clips.seconds.tolist() == [1.5, 0.75]
    assert corpus.clips.session.tolist() == [3, 3]
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in corpus.clips.path)
    ticked = {
        (row["clip"][-4:], row["listener"]): {name for name in corpus.classes if row[name]}
        for row in corpus.ratings.to_dict("records")
    }
    assert ticked == {
        ("F000", "E2"): {"neutral"},
        ("F000", "E3"): {"frustrated", "angry"},
        ("F000", "E4"): set(),
        ("M000", "E2"): {"neutral"},
        ("M000", "E3"): {"surprise"},
        ("M000", "E5"): {"fear"},
    }
    assert set(map(str, corpus.ratings[list(corpus.classes)].dtypes)) == {"bool"}


def test_self_raters_come_with_all_only(tmp_path):
    root = plant(tmp_path)
    assert "M3" not in set(load("iemocap", root).ratings.listener)
    corpus = load("iemocap", root, listeners="all")
    assert corpus.options == {"listeners": "all"}, "a run's manifest names the options"
    assert corpus.ratings.set_index("listener").loc["M3", "happy"]


def _edit(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (_edit("Frustration; Anger;", "Frustation; Anger;"), 5, "did you mean 'Frustration'"),
        (_edit("C-E2:\tNeutral state;", "C-E2:\t;"), 12, "has no label"),
        (_edit("[6.2901 - 8.2357]\tSes03M", "[6.2901 8.2357]\tSes03M"), 3, "malformed head line"),
        (_edit("\tfru\t", "\t"), 3, "malformed head line"),
        (_edit(f"{DIALOG}_F000", "../../../../etc/passwd"), 3, "cannot name a clip"),
        (_edit(f"{DIALOG}_F000", "Ses03M_impro05b_F000"), 3, "does not belong to dialog"),
        (_edit("C-E3:\tFrust", "C-E2:\tFrust"), 5, "E2 rates"),
        (_edit("C-E5", "C-Elena"), 14, "is no rating"),
        (_edit("C-E5:\tFear;\t()", "E5 Fear"), 14, "is no line of an annotation file"),
        (_edit("% [START", "C-E1:\tFear;\t()\n% [START"), 1, "before any utterance"),
        (_edit("M000\txxx", "F000\txxx"), 11, "annotated before"),
    ],
)
def test_a_wrong_line_is_named_with_its_number_and_remedy(tmp_path, text, line, message):
    root = plant(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load("iemocap", root)
    error = str(caught.value)
    assert f"{DIALOG}.txt:{line}: " in error and message in error
    assert "\n" not in error


def test_a_block_without_ratings_is_refused(tmp_path):
    kept = [
        line
        for line in TEXT.split("\n")
        if not line.startswith(("C-E2:\tNeutral state", "C-E3:\tSur", "C-E5"))
    ]
    with pytest.raises(UserError, match=rf"{DIALOG}.txt:11: {DIALOG}_M000 has no ratings"):
        load("iemocap", plant(tmp_path, "\n".join(kept)))


def test_a_block_with_self_ratings_only_needs_all(tmp_path):
    kept = [line for line in TEXT.split("\n")[:9] if not line.startswith("C-E")]
    root = plant(tmp_path, "\n".join(kept))
    with pytest.raises(UserError, match="has no rating by an observer"):
        load("iemocap", root)
    assert len(load("iemocap", root, listeners="all").ratings) == 1


def test_a_clip_without_its_wav_is_named(tmp_path):
    root = plant(tmp_path)
    wav = root / "Session3" / "sentences" / "wav" / DIALOG / f"{DIALOG}_M000.wav"
    wav.unlink()
    with pytest.raises(UserError, match=rf"{DIALOG}.txt:11: .*{DIALOG}_M000.wav is missing"):
        load("iemocap", root)
    wav.write_bytes(b"RIFF, cut short")
    with pytest.raises(UserError, match="unreadable audio"):
        load("iemocap", root)
    wav.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="git lfs pull"):
        load("iemocap", root)


def test_the_error_for_a_root_at_the_wrong_level_names_the_right_one(tmp_path):
    right = plant(tmp_path / "data" / "IEMOCAP_full_release")
    for wrong, level in (
        (tmp_path / "data", "high"),
        (tmp_path, "high"),
        (right / "Session3", "low"),
        (right / "Session3" / "dialog" / "EmoEvaluation", "low"),
    ):
        with pytest.raises(UserError) as caught:
            load("iemocap", wrong)
        assert f"too {level}" in str(caught.value) and f"give {right} as root" in str(caught.value)


def test_missing_empty_and_foreign_roots(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load("iemocap", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        load("iemocap", tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.txt").write_text("x")
    with pytest.raises(UserError, match="does not hold IEMOCAP's Session1"):
        load("iemocap", tmp_path / "other")
    (tmp_path / "bare" / "Session1" / "dialog" / "EmoEvaluation").mkdir(parents=True)
    with pytest.raises(UserError, match="name no utterance"):
        load("iemocap", tmp_path / "bare")


def test_a_dialog_in_another_session_is_refused(tmp_path):
    with pytest.raises(UserError, match="lies in Session4; move it to Session3"):
        load("iemocap", plant(tmp_path, session=4))


def test_the_full_release_has_exact_sizes_and_a_part_of_it_a_warning(tmp_path, monkeypatch, caplog):
    root = plant(tmp_path)
    assert (iemocap.DIALOGS, iemocap.CLIPS, iemocap.OBSERVERS_PER_CLIP) == (151, 10_039, 3)
    with caplog.at_level(logging.WARNING):
        load("iemocap", root)
    assert "1 dialogs, not 151" in caplog.text
    monkeypatch.setattr(iemocap, "DIALOGS", 1)
    with pytest.raises(UserError, match="2 utterances, but the release has 10039"):
        load("iemocap", root)
    monkeypatch.setattr(iemocap, "CLIPS", 2)
    load("iemocap", root)
    (root / "Session3/dialog/EmoEvaluation" / f"{DIALOG}.txt").write_text(_edit("C-E5:\tFear;\t()\n", ""))
    with pytest.raises(UserError, match=f"{DIALOG}_M000 has 2 observer ratings"):
        load("iemocap", root)
    alone = "".join(line for line in TEXT.splitlines(True)[:6] if not line.startswith("C-E"))
    (root / "Session3/dialog/EmoEvaluation" / f"{DIALOG}.txt").write_text(
        alone + "".join(TEXT.splitlines(True)[6:]))
    with pytest.raises(UserError, match=f"{DIALOG}_F000 has 0 observer ratings"):
        load("iemocap", root, listeners="all")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_files_raise_nothing_but_a_user_error(data):
    text = list(TEXT)
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 8, len(text))))
        text[start:end] = data.draw(st.text(st.sampled_from("[]-;:()\t\n .%CAEFM0159é\x00/"), max_size=5))
    try:
        for line, block in iemocap.parse("".join(text), f"{DIALOG}.txt"):
            assert line > 0 and block.ratings and "/" not in block.clip
    except UserError as error:
        assert f"{DIALOG}.txt:" in str(error) and "\n" not in str(error)


LABELS = st.lists(st.sampled_from(iemocap.CLASSES), min_size=1, max_size=4, unique=True)
REMARKS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    ratings=st.dictionaries(st.sampled_from(["E1", "E2", "E6", "F1", "M5"]), LABELS, min_size=1),
    remark=REMARKS,
    number=st.integers(0, 999),
)
def test_what_the_writer_writes_the_parser_reads(ratings, remark, number):
    words = {who: [write_iemocap.WORD[name] for name in names] for who, names in ratings.items()}
    clip = f"{DIALOG}_M{number:03d}"
    values = {"E1": (1, 5, None)}
    block = write_iemocap.block(clip, 1.25, 2.5, words, dict.fromkeys(words, remark), values)
    [(line, read)] = iemocap.parse(block, f"/x/{DIALOG}.txt")
    assert (line, read.clip, read.start, read.end) == (1, clip, 1.25, 2.5)
    assert read.ratings == {who: set(names) for who, names in ratings.items()}


@pytest.mark.parametrize("how", ["no dialog", "no file", "no session"])
def test_a_session_without_annotations_is_named(tmp_path, caplog, how):
    root = plant(tmp_path)
    for session in (1, 2, 4, 5):
        name = DIALOG.replace("03", f"0{session}", 1)
        plant(root, TEXT.replace("Ses03", f"Ses0{session}"), name, session)
    assert load("iemocap", root).notes == ("5 dialogs, not 151",)
    home = root / "Session4"
    if how == "no file":
        (home / "dialog" / "EmoEvaluation" / f"{DIALOG.replace('03', '04')}.txt").unlink()
    else:
        shutil.rmtree(home / "dialog" if how == "no dialog" else home)
    with caplog.at_level(logging.WARNING):
        corpus = load("iemocap", root)
    assert corpus.notes[0] == "no annotations in Session4/dialog/EmoEvaluation" and corpus.notes[0] in caplog.text
    assert sorted(set(corpus.clips.session)) == [1, 2, 3, 5] and describe(corpus)["missing"] == list(corpus.notes)


def test_a_dialog_that_has_audio_alone_is_named(tmp_path):
    root = plant(tmp_path)
    (root / "Session3" / "sentences" / "wav" / "Ses03F_impro01").mkdir()
    assert "no annotations of Ses03F_impro01" in load("iemocap", root).notes


def test_names_in_another_case_are_read_and_that_is_said(tmp_path, caplog):
    root = plant(tmp_path)
    (root / "Session3" / "dialog" / "EmoEvaluation").rename(root / "Session3" / "dialog" / "emoevaluation")
    (root / "Session3").rename(root / "session3")
    wav = next(root.glob("session3/sentences/wav/*/*_F000.wav"))
    wav.rename(wav.with_suffix(".WAV"))
    text = next(root.glob("session3/dialog/emoevaluation/Ses*.txt"))
    text.rename(text.with_suffix(".TXT"))
    with caplog.at_level(logging.WARNING):
        corpus = load("iemocap", root)
    assert corpus.clips.path[f"{DIALOG}_F000"] == str(wav.with_suffix(".WAV")) and len(corpus.clips) == 2
    assert "session3/dialog/emoevaluation: read as dialog/EmoEvaluation" in caplog.text
