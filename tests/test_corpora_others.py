"""CREMA-D, MSP-Podcast, RAVDESS and plain tables on small trees in their real formats; load itself."""

import csv
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from perser import cli
from perser.corpora import cremad, describe, load, msp_podcast, ravdess
from perser.errors import UserError
from perser.seeds import rng


def sound(path: Path, seconds: float = 0.5, pitch: float = 150.0, level: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(16000 * seconds)) / 16000
    soundfile.write(path, level * np.sin(2 * np.pi * pitch * time) * (0.6 + 0.4 * np.sin(25 * time)), 16000)


def ticked(corpus) -> dict:
    rows = corpus.ratings.to_dict("records")
    return {(row["clip"], row["listener"]): {name for name in corpus.classes if row[name]} for row in rows}


def test_unknown_names_and_options_list_the_nearest(tmp_path):
    with pytest.raises(UserError, match="'iemocapp' is unknown: did you mean 'iemocap'"):
        load("iemocapp", tmp_path)
    with pytest.raises(
        UserError, match="option 'listener' of corpus 'ravdess' is unknown: did you mean 'listeners'"
    ):
        load("ravdess", tmp_path, listener=3)
    with pytest.raises(UserError, match="option 'seed' of corpus 'cremad' is unknown: it has no options"):
        load("cremad", tmp_path, seed=3)
    with pytest.raises(UserError, match="'obsevers' is unknown: did you mean 'observers'"):
        load("iemocap", tmp_path, listeners="obsevers")


def test_a_corpus_shows_itself_in_three_lines(tmp_path):
    root = table_of(tmp_path, "clip,listener,label,speaker\na,me,happy,S1\nb,me,sad,S2\na,you,sad,S1\n")
    lines = ["Corpus 'table' (not synthetic)", "  2 clips, 2 speakers, 2 sessions",
             "  2 listeners, 3 ratings, classes: happy, sad"]
    assert repr(load("table", root)).splitlines() == lines
    stamped = replace(load("table", root), synthetic="listeners")
    assert repr(stamped).startswith("Corpus 'table' (synthetic listeners)\n")


HEADER = (
    ",localid,pos,ans,ttr,queryType,numTries,clipNum,questNum,subType,clipName,sessionNums,"
    "respEmo,respLevel,dispEmo,dispVal,dispLevel"
)


def crowd(root: Path, *rows: tuple) -> Path:
    """Rows of index, listener, query type, clip, answer, level."""
    lines = [
        f"{index},{who},1,{emotion}_{level},5000,{kind},1,7,1,4,{clip},1,{emotion},{level},A,ANG,XX"
        for index, who, kind, clip, emotion, level in rows
    ]
    (root / "AudioWAV").mkdir(parents=True, exist_ok=True)
    (root / "finishedResponses.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    for row in rows:
        if "/" not in row[3] and row[3] != cremad.SILENT:
            sound(root / "AudioWAV" / f"{row[3]}.wav")
    return root


def test_cremad_takes_voice_ratings_only_and_its_five_blocks(tmp_path, caplog):
    root = crowd(
        tmp_path,
        (1, "12", 1, "1001_DFA_ANG_XX", "A", 80),
        (2, "12", 2, "1001_DFA_ANG_XX", "N", 80),
        (3, "13", 1, "1001_DFA_ANG_XX", "D", "not a number"),
        (4, "13", 3, "1091_IEO_SAD_LO", "N", 80),
        (5, "13", 1, "1040_IEO_SAD_LO", "S", 80),
        (6, "13", 1, "1040_IEO_SAD_LO", "N", 80),
        (7, "14", 1, cremad.SILENT, "S", 80),
        (137526, "15", 1, "1001_DFA_ANG_XX", "A", 80),
        (312184, "15", 1, "1001_DFA_ANG_XX", "undefined", 80),
    )
    with caplog.at_level(logging.WARNING):
        corpus = load("cremad", root)
    assert "1 ratings repeat" in caplog.text
    assert ticked(corpus) == {
        ("1001_DFA_ANG_XX", "12"): {"angry"},
        ("1001_DFA_ANG_XX", "13"): {"disgust"},
        ("1040_IEO_SAD_LO", "13"): {"sad"},
    }
    assert corpus.clips.session.to_dict() == {"1001_DFA_ANG_XX": 2, "1040_IEO_SAD_LO": 1}
    assert corpus.clips.speaker.tolist() == ["1001", "1040"] and corpus.clips.intended.tolist() == [
        "angry",
        "sad",
    ]
    assert corpus.synthetic == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1, "12", 1, "1001_DFA_ANG_XX", "Q", 80), "csv:2: respEmo 'Q' is unknown"),
        ((1, " ", 1, "1001_DFA_ANG_XX", "A", 80), "csv:2: no localid"),
        ((1, "12", 1, "../../1001_DFA_ANG_XX", "A", 80), "csv:2: '../../1001_DFA_ANG_XX' cannot name a clip"),
        ((1, "12", 1, "1001_DFA_ANGRY_XX", "A", 80), "csv:2: '1001_DFA_ANGRY_XX' is no clip of CREMA-D"),
        ((1, "12", 1, "1099_DFA_ANG_XX", "A", 80), "csv:2: '1099_DFA_ANG_XX' is no clip of CREMA-D"),
        ((1, "12", 2, "1001_DFA_ANG_XX", "A", 80), "holds no rating of the voice alone"),
        ((1, "12,1\n2,12", 1, "1001_DFA_ANG_XX", "A", 80), "csv:2: the row is cut short; restore the release's"),
    ],
)
def test_cremad_errors_name_the_row(tmp_path, row, message):
    with pytest.raises(UserError) as caught:
        load("cremad", crowd(tmp_path, row))
    assert message in str(caught.value)


def test_cremad_root_and_audio(tmp_path):
    root = crowd(tmp_path / "data" / "CREMA-D", (1, "12", 1, "1001_DFA_ANG_XX", "A", 80))
    with pytest.raises(UserError, match="too high in the tree"):
        load("cremad", tmp_path)
    with pytest.raises(UserError, match="too low in the tree"):
        load("cremad", root / "AudioWAV")
    (root / "AudioWAV" / "1001_DFA_ANG_XX.wav").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="git lfs pull"):
        load("cremad", root)
    (root / "finishedResponses.csv").write_text(HEADER.replace("respEmo", "answer") + "\n")
    with pytest.raises(UserError, match="csv:1: no column 'respEmo'"):
        load("cremad", root)


CONSENSUS = """FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set
MSP-PODCAST_0001_0008.wav,N,4.0,4.0,4.0,127,Male,Train
MSP-PODCAST_0002_0033.wav,A,4.0,4.0,4.0,Unknown,Female,Test2
"""
SINGLE = """MSP-PODCAST_0001_0008.wav; N; A:4.0; V:4.0; D:4.0;
WORKER00000001; Neutral; Neutral,Concerned; A:4.000000; V:4.000000; D:4.000000;
WORKER00000002; Other-bored; Annoyed,Other; A:2.000000; V:4.000000; D:4.000000;

MSP-PODCAST_0002_0033.wav; A; A:6.0; V:2.0; D:6.0;
WORKER00000001; Angry; Angry,Frustrated; A:6.000000; V:2.000000; D:6.000000;
"""


def podcast(root: Path, consensus: str = CONSENSUS, single: str = SINGLE) -> Path:
    (root / "Labels").mkdir(parents=True)
    (root / "Labels" / "labels_consensus.csv").write_text(consensus)
    (root / "Labels" / "labels.txt").write_text(single)
    for clip in ("MSP-PODCAST_0001_0008", "MSP-PODCAST_0002_0033"):
        sound(root / "Audios" / f"{clip}.wav")
    return root


def test_msp_podcast_primary_and_secondary(tmp_path):
    root = podcast(tmp_path)
    corpus = load("msp_podcast", root)
    one, two = corpus.clips.index
    assert corpus.classes == ("angry", "sad", "happy", "surprise", "fear", "disgust", "contempt", "neutral")
    assert ticked(corpus) == {
        (one, "WORKER00000001"): {"neutral"},
        (one, "WORKER00000002"): set(),
        (two, "WORKER00000001"): {"angry"},
    }
    assert corpus.clips.session.tolist() == [1, 3] and corpus.clips.speaker.tolist() == ["127", "MSP-PODCAST_0002"]
    assert corpus.folds == (((1, 4, 5), 2, 3),) and corpus.clips.split.tolist() == ["Train", "Test2"]
    both = load("msp_podcast", root, labels="secondary")
    assert len(both.classes) == 16
    assert ticked(both) == {
        (one, "WORKER00000001"): {"neutral", "concerned"},
        (one, "WORKER00000002"): {"annoyed"},
        (two, "WORKER00000001"): {"angry", "frustrated"},
    }


@pytest.mark.parametrize(
    ("consensus", "single", "message"),
    [
        (
            CONSENSUS,
            SINGLE.replace("; Angry; Angry", "; Angy; Angry"),
            "labels.txt:6: label 'Angy' is unknown",
        ),
        (
            CONSENSUS,
            SINGLE.replace("Neutral; Neutral,C", "Concerned; Neutral,C"),
            "labels.txt:2: label 'Concerned'",
        ),
        (CONSENSUS, SINGLE.replace("WORKER00000001; Angry", "W1; Angry"), "labels.txt:6: 'W1; Angry"),
        (CONSENSUS, SINGLE.rsplit("WORKER", 1)[0], "labels.txt:5: MSP-PODCAST_0002_0033 has no ratings"),
        (CONSENSUS, "WORKER1; Sad; Sad; A:1;\n" + SINGLE, "labels.txt:1: "),
        (
            CONSENSUS,
            SINGLE.replace("0002_0033", "0002_0034"),
            "labels.txt:6: 'MSP-PODCAST_0002_0034' is not in",
        ),
        (
            CONSENSUS,
            SINGLE.replace("MSP-PODCAST_0001", "../MSP"),
            "labels.txt:1: '../MSP_0008.wav' cannot name",
        ),
        (CONSENSUS.replace("Test2", "Test9"), SINGLE, "labels_consensus.csv:3: split 'Test9' is unknown"),
        (CONSENSUS.replace("SpkrID", "Speaker"), SINGLE, "labels_consensus.csv:1: no column 'SpkrID'"),
    ],
)
def test_msp_podcast_errors_name_the_line(tmp_path, consensus, single, message):
    with pytest.raises(UserError) as caught:
        load("msp_podcast", podcast(tmp_path, consensus, single))
    assert message in str(caught.value)


def test_msp_podcast_root_and_audio(tmp_path):
    root = podcast(tmp_path / "release")
    for wrong in (tmp_path, root / "Labels", root / "Audios"):
        with pytest.raises(UserError, match=f"give {root} as root"):
            load("msp_podcast", wrong)
    (root / "Audios" / "MSP-PODCAST_0002_0033.wav").unlink()
    with pytest.raises(UserError, match=r"labels_consensus\.csv:3: .* is missing"):
        load("msp_podcast", root)


@pytest.mark.parametrize("primary, secondary, first, more", [
    ("Other-cannot tell; sounds bored", "Neutral", set(), {"neutral"}),
    ("Other-proud, a bit smug", "Other-smug; very, happy", set(), {"happy"}),
    ("Neutral", "Sad,Other-calm; rather flat, bored", {"neutral"}, {"neutral", "sad"}),
    ("Sad", "", {"sad"}, {"sad"})])
def test_free_text_of_other_may_hold_commas_and_semicolons(tmp_path, primary, secondary, first, more):
    root = podcast(tmp_path, single=SINGLE.replace("Angry; Angry,Frustrated", f"{primary}; {secondary}"))
    key = ("MSP-PODCAST_0002_0033", "WORKER00000001")
    assert ticked(load("msp_podcast", root))[key] == first
    assert ticked(load("msp_podcast", root, labels="secondary"))[key] == more


def released(root: Path, rows: list[tuple[str, str, str]], split: bool = True, audio: str = "Audios") -> Path:
    """Clips with speaker and partition, rated by two workers."""
    (root / "Labels").mkdir(parents=True)
    header = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender" + ",Split_Set" * split
    lines = [f"{clip}.wav,N,4.0,4.0,4.0,{speaker},Unknown" + f",{part}" * split for clip, speaker, part in rows]
    (root / "Labels" / "labels_consensus.csv").write_text("\n".join([header, *lines]) + "\n")
    rated = [f"{clip}.wav; N; A:4.0; V:4.0; D:4.0;\n"
             "WORKER00014332; Neutral; Neutral,Other-Proud; A:4.0; V:3.0; D:4.0;\n"
             "WORKER00014350; Other-Frustrated; Frustrated; A:1.0; V:4.0; D:3.0;\n" for clip, _, _ in rows]
    (root / "Labels" / "labels.txt").write_text("\n".join(rated))
    for clip, _, _ in rows:
        sound(root / audio / f"{clip}.wav", 0.1)
    return root


RECORDINGS = ("033-098.1-2", "034-114.1-2", "rmn_e465b_8.1-2", "001-105.1-2", "004-017.1-2", "005-050.1-2",
              "006-040.1-2")  # as in WHiSER, of 3 to 9 clips
WHISER = [(f"{name}_{i}", "Unknown", "NA") for place, name in enumerate(RECORDINGS) for i in range(9 - place)]


@pytest.mark.parametrize("audio", ["wavs", "Annotation_wav_files"])
@pytest.mark.parametrize("split", [True, False])
def test_whiser_gets_five_sessions_without_a_shared_recording_and_keeps_them(tmp_path, split, audio):
    """Split_Set NA or absent, all speakers unknown. Recordings of 9, 8, 7, 6, 5, 4, 3 clips, each to the smallest of
    five sessions: 9, 8, 7, 6 + 3 and 5 + 4."""
    root = released(tmp_path, WHISER, split, audio)
    corpus = load("msp_podcast", root)
    assert corpus.folds == () and sorted(corpus.clips.groupby("session").size()) == [7, 8, 9, 9, 9]
    assert corpus.clips.groupby("speaker")["session"].nunique().tolist() == [1] * 7
    assert set(corpus.clips.speaker) == set(RECORDINGS)
    assert ticked(corpus)["033-098.1-2_0", "WORKER00014332"] == {"neutral"}
    saved = root / "splits.csv"
    rows = list(csv.DictReader(saved.read_text().splitlines()))
    assert {row["clip"]: int(row["session"]) for row in rows} == corpus.clips.session.to_dict()
    labels = root / "Labels" / "labels.txt"
    labels.write_text("\n\n".join(labels.read_text().split("\n\n")[5:]))
    fewer = load("msp_podcast", root).clips
    assert len(fewer) == 37 and fewer.session.to_dict().items() <= corpus.clips.session.to_dict().items()
    saved.write_text("\n".join(saved.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match=r"splits\.csv: no session of 'rmn_e465b_8\.1-2_6'; add it, or delete the file"):
        load("msp_podcast", root)


def test_official_partitions_stay_apart_and_train_is_cut_by_speaker(tmp_path):
    """Speakers of 4, 3, 2 and 1 clips, one of them unknown: three training sessions of 4, 3 and 3 clips."""
    train = [(f"MSP-PODCAST_{speaker:04d}_{i:04d}", speaker if speaker < 4 else "Unknown", "Train")
             for speaker in range(1, 5) for i in range(5 - speaker)]
    others = [("MSP-PODCAST_0007_0001", 7, "Development"), ("MSP-PODCAST_0008_0001", 8, "Validation"),
              *((f"MSP-PODCAST_0009_000{i}", 9, f"Test{i}") for i in (1, 2, 3))]
    root = released(tmp_path, [*train, *others])
    clips = load("msp_podcast", root).clips
    assert clips.groupby("session").size().to_dict() == {1: 4, 2: 2, 3: 3, 4: 3, 5: 3}
    assert (clips.groupby("session")["split"].agg(set)[[2, 3]] == [{"Development", "Validation"},
                                                                  {"Test1", "Test2", "Test3"}]).all()
    assert (clips.groupby("speaker")["session"].nunique() == 1).all() and not (root / "splits.csv").exists()
    text = (root / "Labels" / "labels_consensus.csv").read_text()
    (root / "Labels" / "labels_consensus.csv").write_text(text.replace("Test2", "NA"))
    with pytest.raises(UserError, match=r"labels_consensus\.csv:15: no Split_Set, but other clips have one; fill it"):
        load("msp_podcast", root)


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 20), min_size=1), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_dealt_sessions_share_no_speaker_and_differ_by_one_speaker_at_most(sizes, parts):
    known = {f"{name}_{i}": (1, name, "") for name, size in sizes.items() for i in range(size)}
    sessions = msp_podcast.deal(sorted(known), known, parts)
    speakers = [{known[clip][1] for clip in known if sessions[clip] == part} for part in range(1, parts + 1)]
    assert sum(map(len, speakers)) == len(sizes) and sessions == msp_podcast.deal(sorted(known)[::-1], known, parts)
    loads = [sum(session == part for session in sessions.values()) for part in range(1, parts + 1)]
    assert max(loads) - min(loads) <= max(sizes.values())


def actors(root: Path, kind: str = "wav") -> Path:
    """Eight actors, eight emotions, one repetition; emotions differ in pitch and level, as speech does."""
    draw = rng(0, "actors")
    for actor in range(1, 9):
        for emotion in range(1, 9):
            name = f"03-01-{emotion:02d}-01-01-01-{actor:02d}.{kind}"
            level, pitch = 0.05 + 0.02 * emotion, 100 + 12 * emotion + draw.normal()
            sound(root / f"Actor_{actor:02d}" / name, pitch=pitch, level=level)
    return root


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_ravdess_has_real_speech_and_simulated_listeners(tmp_path, kind, caplog):
    root = actors(tmp_path, kind)
    (root / "Actor_01" / "._03-01-01-01-01-01-01.wav").write_bytes(b"\x00\x05\x16\x07")
    sound(root / "Actor_01" / "03-02-04-01-01-01-01.wav")  # a song
    sound(root / "Actor_01" / "01-01-04-01-01-01-01.wav")  # a film's sound track
    with caplog.at_level(logging.WARNING):
        corpus = load("ravdess", root, listeners=12)
    assert corpus.notes[0].startswith("no speech of Actor_09, Actor_10") and "03-01-01-01-01-02-01" in caplog.text
    assert corpus.synthetic == "listeners"
    assert corpus.classes == ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    assert len(corpus.clips) == 64 and corpus.ratings.listener.nunique() == 12
    assert (
        corpus.clips.session["03-01-05-01-01-01-04"] == 1
        and corpus.clips.session["03-01-05-01-01-01-05"] == 2
    )
    assert corpus.clips.intended["03-01-05-01-01-01-04"] == "angry"
    per_clip = corpus.ratings.groupby("clip").size()
    assert len(per_clip) == 64 and per_clip.min() >= 5 and per_clip.max() <= 8
    assert not corpus.ratings.duplicated(["clip", "listener"]).any()


def test_ravdess_listeners_depend_on_the_seed_and_on_nothing_else(tmp_path):
    root = actors(tmp_path)
    one, same, other = (load("ravdess", root, listeners=10, seed=seed).ratings for seed in (0, 0, "1"))
    assert one.equals(same) and not one.equals(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"listeners": 7}, "from 8 to 10000"), ({"listeners": "many"}, "=many"), ({"seed": -1}, "seed=-1")],
)
def test_ravdess_options(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        load("ravdess", actors(tmp_path), **options)


@pytest.mark.parametrize(
    "name", ["03-01-09-01-01-01-01", "03-01-01-01-01-01-02", "take one", "03-01-01-01-01-01"]
)
def test_ravdess_names_that_are_not_of_the_form(tmp_path, name):
    sound(tmp_path / "Actor_01" / f"{name}.wav")
    with pytest.raises(UserError, match=f"{name}.wav: the name is not MM-VC-EE-II-SS-RR-AA"):
        load("ravdess", tmp_path)


def test_ravdess_root(tmp_path):
    root = tmp_path / "a" / "ravdess"
    sound(root / "Actor_01" / "03-01-01-01-01-01-01.wav")
    with pytest.raises(UserError, match=f"too low in the tree; give {root}"):
        load("ravdess", root / "Actor_01")
    with pytest.raises(UserError, match=f"too high in the tree; give {root}"):
        load("ravdess", tmp_path)
    sound(root / "Actor_01" / "03-01-01-01-01-01-01.flac")
    with pytest.raises(UserError, match="is also there as"):
        load("ravdess", root)


def table_of(root: Path, text: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "ratings.csv").write_text(text)
    sound(root / "audio" / "a.wav")
    sound(root / "audio" / "b.flac")
    return root


PARSERS = {
    "cremad": (cremad.parse, HEADER + "\n1,12,1,A_80,5000,1,1,7,1,4,1001_DFA_ANG_XX,1,A,80,A,ANG,XX\n"),
    "single": (msp_podcast.parse, SINGLE),
    "consensus": (msp_podcast.clips, CONSENSUS),
}


@settings(max_examples=80, deadline=2000)
@given(st.sampled_from(sorted(PARSERS)), st.data())
def test_mutated_tables_raise_nothing_but_a_user_error(kind, data):
    parser, text = PARSERS[kind]
    text = list(text)
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 8, len(text))))
        text[start:end] = data.draw(st.text(st.sampled_from(',;:"\n\r\t A1é\x00/.'), max_size=5))
    try:
        list(parser("".join(text), "file.csv"))
    except UserError as error:
        assert str(error).startswith("file.csv") and "\n" not in str(error)


# What is read but not the full release is named; what belongs to another corpus is refused.

def test_upper_case_extensions_and_lower_case_folders_are_read(tmp_path):
    root = actors(tmp_path / "ravdess")
    for path in list((root / "Actor_03").glob("*.wav")):
        path.rename(path.with_suffix(".WAV"))
    (root / "Actor_04").rename(root / "actor_04")
    assert load("ravdess", root, listeners=8).clips.groupby("speaker").size().to_dict()["Actor_04"] == 8
    root = crowd(tmp_path / "crema", (1, "12", 1, "1001_DFA_ANG_XX", "A", 80))
    (root / "AudioWAV" / "1001_DFA_ANG_XX.wav").rename(root / "AudioWAV" / "1001_DFA_ANG_XX.WAV")
    (root / "AudioWAV").rename(root / "audiowav")
    assert load("cremad", root).clips.path["1001_DFA_ANG_XX"] == str(root / "audiowav" / "1001_DFA_ANG_XX.WAV")
    root = podcast(tmp_path / "msp")
    (root / "Labels").rename(root / "labels")
    (root / "Audios").rename(root / "audios")
    (root / "labels" / "labels_consensus.csv").rename(root / "labels" / "labels_concensus.csv")
    assert len(load("msp_podcast", root).clips) == 2


def test_two_files_that_differ_in_case_alone_are_one_clip_too_many(tmp_path):
    root = crowd(tmp_path, (1, "12", 1, "1001_DFA_ANG_XX", "A", 80))
    sound(root / "AudioWAV" / "1001_DFA_ANG_XX.WAV")
    with pytest.raises(UserError, match=r"ANG_XX\.wav: differs from 1001_DFA_ANG_XX\.WAV in case alone; keep one"):
        load("cremad", root)


def test_ravdess_has_24_actors_and_names_what_is_not_there(tmp_path, caplog):
    root = actors(tmp_path)
    corpus = load("ravdess", root, listeners=8)
    assert corpus.notes[0] == ("no speech of Actor_09, Actor_10, Actor_11, Actor_12, Actor_13, Actor_14, Actor_15, "
                               "Actor_16, Actor_17, Actor_18 and 6 more")
    assert corpus.notes[1].startswith("no clip 03-01-01-01-01-02-01, 03-01-01-01-02-01-01")
    assert corpus.notes[1].endswith(f"and {8 * (60 - 8) - 10} more")
    sound(root / "Actor_25" / "03-01-05-01-01-01-25.wav")
    with pytest.raises(UserError, match="Actor_25: RAVDESS has 24 actors, so this is another corpus's speech; remove"):
        load("ravdess", root)


def test_the_full_ravdess_lacks_nothing():
    """1,440 clips: 24 actors times 4 neutral ones and 8 of each of seven emotions."""
    names = {f"03-01-{e:02d}-{i:02d}-{s:02d}-{r:02d}-{a:02d}" for e in range(1, 9) for i in (1, 2) for s in (1, 2)
             for r in (1, 2) for a in range(1, 25) if not (e == 1 and i == 2)}
    assert len(names) == 1440 and not any(ravdess._missing(names))
    assert ravdess._missing(names - {"03-01-05-01-01-01-03"})[1] == "no clip 03-01-05-01-01-01-03"


def test_cremad_reads_the_old_name_of_a_clip_and_keeps_repeats(tmp_path):
    """The audio of copies of before October 2022, or their table, says _X where the other says _XX."""
    root = crowd(tmp_path, (1, "1", 1, "1040_ITH_SAD_XX", "S", 80), (2, "2", 1, "1040_ITH_SAD_X", "N", 80),
                 (3, "2", 1, "1040_ITH_SAD_XX", "S", 80))
    (root / "AudioWAV" / "1040_ITH_SAD_XX.wav").unlink()
    corpus = load("cremad", root)
    assert ticked(corpus) == {("1040_ITH_SAD_XX", "1"): {"sad"}, ("1040_ITH_SAD_XX", "2"): {"neutral"}}
    assert corpus.clips.path.tolist() == [str(root / "AudioWAV" / "1040_ITH_SAD_X.wav")]
    assert corpus.repeats[["listener", "neutral", "sad"]].values.tolist() == [["2", True, False], ["2", False, True]]
    assert corpus.notes[0] == "ratings of 1 clips, not 7441"
    assert corpus.notes[1].startswith("no clip of actor 1001, 1002") and corpus.notes[1].endswith("and 80 more")


def test_msp_podcast_one_rating_per_worker_and_one_partition_per_clip(tmp_path):
    first, second = SINGLE.split("\n\n")
    worker = "WORKER00000001; Sad; Sad; A:1.0; V:1.0; D:1.0;"
    root = podcast(tmp_path / "a", single=f"{first}\n{worker}\n\n{second}")
    corpus = load("msp_podcast", root)
    key = ("MSP-PODCAST_0001_0008", "WORKER00000001")
    assert ticked(corpus)[key] == {"neutral"} and not corpus.ratings.duplicated(["clip", "listener"]).any()
    assert corpus.repeats[["neutral", "sad"]].values.tolist() == [[True, False], [False, True]]
    with pytest.raises(UserError, match=r"labels\.txt:8: MSP-PODCAST_0001_0008 again, as in line 1; remove one of the"):
        load("msp_podcast", podcast(tmp_path / "b", single=f"{SINGLE}\n{first}\n"))
    for row in ("MSP-PODCAST_0001_0008.wav,N,4,4,4,127,Male,Test1\n", "MSP-PODCAST_0001_0008,N,4,4,4,127,Male,Train\n"):
        with pytest.raises(UserError, match=r"csv:4: MSP-PODCAST_0001_0008 again, as in line 2; a clip is in one part"):
            load("msp_podcast", podcast(tmp_path / row[:26], CONSENSUS + row))


def test_msp_podcast_names_clips_without_ratings_and_partitions_without_clips(tmp_path):
    more = "MSP-PODCAST_0009_0001.wav,X,1,1,1,9,Male,Test3\n"
    corpus = load("msp_podcast", podcast(tmp_path, CONSENSUS + more))
    assert corpus.notes == ("no single ratings of MSP-PODCAST_0009_0001", "no clip of Development, Test1")
    shown = describe(corpus)["missing"]
    assert shown == list(corpus.notes)


def test_advice_on_the_root_works(tmp_path):
    root = podcast(tmp_path / "release")
    for name in ("labels.txt", "labels_consensus.csv"):
        shutil.copy(root / "Labels" / name, tmp_path / name)  # without audio: no root
    with pytest.raises(UserError, match=f"give {root} as root"):
        load("msp_podcast", root / "Labels")
    load("msp_podcast", root)


BAD_TEXT = [(b"a\0b", "holds a NUL"), (b'"' + b"x" * 140_000 + b'"', "field larger than field limit"),
            (b'"open\n1,2,3\n', "a line break within a cell, so a quote is not closed")]


@pytest.mark.parametrize("cell, words", BAD_TEXT, ids=["NUL", "long", "quote"])
def test_a_cell_that_is_no_text_is_refused_by_line(tmp_path, cell, words):
    root = crowd(tmp_path / "crema", (1, "12", 1, "1001_DFA_ANG_XX", "A", 80))
    with (root / "finishedResponses.csv").open("ab") as file:
        file.write(b"2,12,1,A_80,5000,1,1,7,1,4," + cell + b",1,A,80,A,ANG,XX\n")
    with pytest.raises(UserError, match=words) as caught:
        load("cremad", root)
    assert re.match(r".*finishedResponses\.csv:\d+: ", str(caught.value)) and "\n" not in str(caught.value)
    root = podcast(tmp_path / "msp")
    with (root / "Labels" / "labels_consensus.csv").open("ab") as file:
        file.write(b"MSP-PODCAST_0003_0001.wav," + cell + b",1,1,1,9,Male,Train\n")
    with pytest.raises(UserError, match=words):
        load("msp_podcast", root)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_lines_end_at_a_line_feed_alone(tmp_path, mark):
    root = podcast(tmp_path, single=SINGLE.replace("Other-bored", f"Other-bored{mark}and sad"))
    assert len(load("msp_podcast", root).ratings) == 3
    (root / "Labels" / "labels.txt").write_bytes(b"\xef\xbb\xbf" + SINGLE.replace("\n", "\r\n").encode())
    assert len(load("msp_podcast", root).ratings) == 3


@pytest.mark.parametrize("value", ["1e9", "-1", "7", "99999999999999", "", "8.0", "\u0668", "nan"])
def test_an_option_that_is_no_number_in_its_bounds_is_one_line(tmp_path, value):
    with pytest.raises(UserError, match=f"listeners={value}: give a whole number from") as caught:
        load("ravdess", actors(tmp_path), listeners=value)
    assert "\n" not in str(caught.value)


def test_options_are_text_until_the_corpus_reads_them(tmp_path):
    """A folder called 007 is a folder; where a number is asked for, it is one."""
    (tmp_path / "ratings.csv").write_text("clip,listener,label\na,me,happy\nb,me,sad\n")
    for name in "ab":
        sound(tmp_path / "007" / f"{name}.wav")
    assert cli.corpus_options(("audio=007",)) == {"audio": "007"}
    corpus = load("table", tmp_path, **cli.corpus_options(("audio=007",)))
    assert corpus.clips.path["a"] == str(tmp_path / "007" / "a.wav")
    assert load("ravdess", actors(tmp_path / "r"), **cli.corpus_options(("listeners=08",))).options == {"listeners": 8}
