"""A table of ratings, right and spoilt: every variant reads as meant, or ends in one line with row and remedy."""

import csv
import io
import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from perser.corpora import describe, load, schema
from perser.errors import UserError

HEADER = ["clip", "listener", "label", "speaker", "session"]
ROWS = [[clip, listener, label, speaker, session]
        for clip, labels, speaker, session in (
            ("one/a.wav", ("angry", "angry;sad", "angry"), "Ida", "Mon"), ("two b.wav", ("happy", "happy", "neutral"),
                                                                         "Jörg", "Tue"),
            ("größe.flac", ("neutral", "neutral", "Other"), "Ida", "Mon"), ("d.wav", ("sad",) * 3, "Kim", "Wed"))
        for listener, label in zip(("Anna", "Ben M.", "Zoë"), labels)]
CLASSES = ("angry", "happy", "neutral", "sad")
TICKS = {(row[0], row[1]): {*row[2].split(";")} - {"Other"} for row in ROWS}


def text_of(rows, header=HEADER, separator=",", **how):
    file = io.StringIO()
    csv.writer(file, delimiter=separator, lineterminator="\n", **how).writerows([header, *rows])
    return file.getvalue()


def columns(yes="1", no="0"):
    """The base table with a column for every class."""
    rows = [[*row[:2], *(yes if name in TICKS[row[0], row[1]] else no for name in CLASSES)] for row in ROWS]
    return rows, ["clip", "listener", *CLASSES]


BASE = text_of(ROWS)
ONES, ONES_HEADER = columns()
NUMBERS, _ = columns("62", "3.5")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("table")
    for name in ("one/a.wav", "two b.wav", unicodedata.normalize("NFD", "größe.flac"), "d.WAV", "e.wav", "e.flac"):
        path = root / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.sin(np.arange(800) / 9), 16000, format=path.suffix[1:].upper())
    return root


def loaded(root, content, **options):
    (root / "ratings.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return load("table", root, **options)


def ticked(corpus):
    return {(row["clip"], row["listener"]): {name for name in corpus.classes if row[name]}
            for row in corpus.ratings.to_dict("records")}


def edited(*changes, text=BASE):
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


RIGHT = {
    "as it is": BASE,
    "semicolons": text_of(ROWS, separator=";"),
    "tabs": text_of(ROWS, separator="\t"),
    "mark of UTF-8": BASE.encode("utf-8-sig"),
    "UTF-16 of Excel": text_of(ROWS, separator="\t").encode("utf-16"),
    "UTF-16, other end first": b"\xfe\xff" + BASE.encode("utf-16-be"),
    "Windows line ends": BASE.replace("\n", "\r\n"),
    "old Mac line ends": BASE.replace("\n", "\r"),
    "all quoted": text_of(ROWS, quoting=csv.QUOTE_ALL),
    "padded": text_of([[f"  {cell} " for cell in row] for row in ROWS], [f" {cell}  " for cell in HEADER]),
    "space before quotes": edited(("angry;sad", ' "angry; sad"')),
    "capital header": text_of(ROWS, ["Clip", "LISTENER", "Label", "Speaker", "Session"]),
    "empty rows": BASE.replace("\n", "\n,,,,\n\n", 3) + ",,,,\n\n",
    "empty columns": BASE.replace("\n", ",,\n"),
    "note of the separator": "sep=;\n" + text_of(ROWS, separator=";"),
    "no suffix": BASE.replace(".wav", "").replace(".flac", ""),
    "capital suffix": BASE.replace("d.wav", "d.WAV"),
    "decomposed letters": unicodedata.normalize("NFD", BASE),
    "backslashes": BASE.replace("one/a", ".\\one\\a"),
    "another order": text_of([row[::-1] for row in ROWS[::-1]], HEADER[::-1]),
    "a comment beside label": text_of([[*row, "nice, clear"] for row in ROWS], [*HEADER, "comment"]),
    "a column for every class": text_of(ONES, ONES_HEADER),
    "German ticks": text_of(columns("WAHR", "FALSCH")[0], ONES_HEADER, separator=";"),
    "ticks as decimals": text_of(columns("1.0", "0.0")[0], ONES_HEADER),
    "Other as a column": text_of([[*row, "0"] for row in ONES], [*ONES_HEADER, "Other"]),
}
OPTIONS = {
    "Latin-1": (BASE.encode("latin-1"), {"encoding": "latin-1"}),
    "Windows": (text_of(ROWS, separator=";").encode("cp1252"), {"encoding": "cp1252"}),
    "numbers": (text_of(NUMBERS, ONES_HEADER), {"threshold": "angry=60,happy=62,neutral=60.5,sad=4"}),
    "numbers with commas": (text_of(NUMBERS, ONES_HEADER, separator=";").replace("3.5", "3,5"),
                            {"threshold": dict.fromkeys(CLASSES, 60)}),
    "one class of numbers": (text_of([[*row[:-1], "7" if row[-1] == "1" else "-7"] for row in ONES], ONES_HEADER),
                             {"threshold": "sad=0"}),
    "an extra column, classes named": (text_of([[*row, "34"] for row in ONES], [*ONES_HEADER, "age"]),
                                       {"classes": ",".join(CLASSES)}),
    "the first of two": (BASE + text_of([["d.wav", "Anna", "happy", "Kim", "Wed"]]).split("\n", 1)[1],
                         {"repeats": "first"}),
    "the mean of three": (BASE + "d.wav,Anna,happy,Kim,Wed\nd.wav,Anna,sad,Kim,Wed\n",
                          {"repeats": "mean"}),
}


@pytest.mark.parametrize("name", [*RIGHT, *OPTIONS])
def test_a_table_that_can_be_understood_reads_as_it_was_meant(root, name):
    content, options = OPTIONS.get(name, (RIGHT.get(name), {}))
    corpus = loaded(root, content, **options)
    ticks = {(schema._bare(clip), who): on for (clip, who), on in ticked(corpus).items()}
    assert ticks == {(schema._bare(clip), who): on for (clip, who), on in TICKS.items()} and corpus.classes == CLASSES
    assert all(Path(path).is_file() for path in corpus.clips["path"])


REFUSED = {
    "a misspelt class": (edited(("neutral", "nuetral")), {}, r"csv:7:.* 'nuetral' occurs once and looks like 'neut"),
    "a capital class": (edited(("neutral", "Neutral")), {}, r"csv:8: label 'neutral' is 'Neutral' of .*csv:7; write"),
    "a comma between classes": (edited(("angry;sad", '"angry, sad"')), {}, r"csv:3: .*a comma; separate classes by ;"),
    "a comma that splits": (edited(("angry;sad", "angry, sad")), {}, r"csv:3: 6 cells, 5 columns; .* quote cells"),
    "a semicolon that splits": (text_of(ROWS, separator=";").replace('"', ""), {}, r"csv:3: 6 cells, 5 columns"),
    "no label": (edited(("happy", "")), {}, r"csv:5: no label; write Other"),
    "a label of nothing": (edited(("angry;sad", " ; ")), {}, r"csv:3: label ';' names no class; write Other"),
    "an empty tick": (text_of(ONES, ONES_HEADER).replace("1,0,0,1", "1,,0,1"), {},
                      r"csv:3: an empty cell in column 'happy': missing is not no; write 0 or 1"),
    "no tick": (text_of(ONES, ONES_HEADER).replace("1,0,0,1", "1,maybe,0,1"), {}, r"csv:3: 'maybe' in column 'happy'"),
    "a column of numbers": (text_of([[*row, "34"] for row in ONES], [*ONES_HEADER, "age"]), {},
                            r"csv:2: '34' in column 'age' .*remove it or name the classes.*--threshold age=NUMBER"),
    "a column of listeners": (text_of([[*row, str(int(row[1] == "Anna"))] for row in ONES], [*ONES_HEADER, "headset"]),
                              {}, r"csv:1: column 'headset' never changes for a listener.*remove it, or name"),
    "with and without suffix": (edited(("one/a.wav", "one/a")), {}, r"csv:3: clip 'one/a.wav' is 'one/a' of .*csv:2; "),
    "a second rating": (BASE + "d.wav,Anna,happy,Kim,Wed\n", {}, r"csv:14: Anna rates d.wav a second time, as in .*"
                        "csv:11; remove a row, or give --repeats mean"),
    "two listeners of one name": (edited(("Anna", "anna")), {}, r"csv:5: listener 'Anna' is 'anna' of .*csv:2; write"),
    "lost zeros": (BASE.replace("Anna", "L01").replace("Zoë", "L1"), {}, r"csv:4: listener 'L1' is 'L01' of"),
    "an absolute path": (edited(("one/a.wav", "/etc/a.wav")), {}, r"csv:2: '/etc/a.wav' leads out of .*; name clips"),
    "a path of Windows": (edited(("one/a.wav", "C:\\me\\a.wav")), {}, r"csv:2: 'C:/me/a.wav' leads out"),
    "a path upwards": (edited(("one/a.wav", "one/../../a.wav")), {}, r"csv:2: '../a.wav' leads out"),
    "a missing file": (edited(("two b.wav", "two_b.wav")), {}, r"csv:5: .*no audio file 'two_b.wav': did you mean 'tw"),
    "a lost folder": (BASE.replace("one/", ""), {}, r"csv:2: .* 'a.wav': did you mean 'one/a.wav'"),
    "two files": (BASE.replace("d.wav", "e"), {}, r"csv:11: 'e' is e.flac or e.wav; write the suffix"),
    "two separators": (BASE.split("\n")[0] + "\n" + text_of(ROWS, separator=";").split("\n", 1)[1], {},
                       r"csv:2: 1 cells, 5 columns; separate cells by comma, as in line 1"),
    "a bar as separator": (text_of(ROWS, separator="|"), {}, r"csv:1: no column 'clip' .*comma, semicolon or tab"),
    "Latin-1 that nobody named": (BASE.encode("latin-1"), {}, r"csv:4: not in utf-8; .*--encoding latin-1"),
    "an unknown encoding": (BASE, {"encoding": "latin-one"}, r"csv: encoding 'latin-one' is unknown; .*latin-1"),
    "UTF-16 without its mark": (BASE.encode("utf-16-le"), {}, r"csv:1: not CSV text.*; save it as CSV UTF-8"),
    "a workbook": (b"PK\x03\x04" + bytes(60), {}, r"csv:1: not CSV text but a workbook.*; save it as CSV"),
    "an open quote": (edited(("happy", '"happy')), {}, r"csv:13: not CSV .*; close every quote"),
    "a line break in a cell": (edited(("Ben M.", '"Ben\nM."')), {}, r"csv:4: a line break or tab within the listener"),
    "a column in capitals": (text_of([[*row, "0"] for row in ONES], [*ONES_HEADER, "SAD"]), {},
                             r"csv:1: column 'SAD' is 'sad' of .*csv:1; write one name for both"),
    "a column twice": (text_of(ROWS, ["clip", "listener", "label", "label", "session"]), {},
                       r"csv:1: 2 columns are called 'label'; rename or remove one"),
    "no column of listeners": (text_of(ROWS, ["clip", "who", "label", "speaker", "session"]), {},
                               r"csv:1: no column 'listener' in clip, who, .*; the columns are clip, listener and"),
    "no listener": (edited(("Ben M.", " ")), {}, r"csv:3: no listener; fill it in"),
    "a row cut short": (edited(("happy,Jörg,Tue", "happy")), {}, r"csv:5: 3 cells, 5 columns"),
    "no rows": (",".join(HEADER) + "\n", {}, r"csv: holds no rating; add rows"),
    "no text": ("", {}, r"csv:1: no column 'clip' in an empty line"),
    "no classes": (text_of([row[:2] for row in ROWS], HEADER[:2]), {}, r"csv:1: names no class; the columns are"),
    "only Other": (text_of([[*row[:2], "Other"] for row in ROWS], HEADER[:3]), {}, r"csv:1: names no class"),
    "an index without a name": (text_of([[n, *row] for n, row in enumerate(ROWS)], ["", *HEADER]), {},
                                r"csv:2: a cell below an empty header; name the column or remove it"),
    "two sessions of a clip": (edited(("Ida,Mon", "Ida,Tue")), {}, r"csv:3: one/a.wav has session 'Mon' here and 'T"),
    "two speakers of a clip": (edited(("Jörg", "Ida")), {}, r"csv:6: two b.wav has speaker 'Jörg' here and 'Ida' a"),
    "a session left out": (edited(("Mon", "")), {}, r"csv:2: no session; fill it in, or remove the column"),
    "a threshold of nothing": (text_of(NUMBERS, ONES_HEADER), {"threshold": "angri=60"},
                               r"csv:1: --threshold angri=...: no such column; did you mean 'angry'"),
    "a threshold of labels": (BASE, {"threshold": "angry=60"}, r"csv:1: .*column label decides; remove it"),
    "text among numbers": (text_of(NUMBERS, ONES_HEADER).replace("62", "much", 1), {"threshold": "angry=60"},
                           r"csv:2: column angry: 'much' is no number; give one"),
    "a threshold of text": (text_of(NUMBERS, ONES_HEADER), {"threshold": "angry=high"}, r"'high' is no number"),
    "an unknown rule": (BASE, {"repeats": "median"}, r"repeats 'median' is unknown: did you mean 'mean'"),
    "a class that is not named": (BASE, {"classes": "angry,happy,sad"}, r"csv:7: label 'neutral' is unknown"),
    "a class without a column": (text_of(ONES, ONES_HEADER), {"classes": "angry,fear"}, r"csv:2: no column 'fear'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_spoilt_table_ends_in_one_line_with_row_and_remedy(root, name):
    content, options, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as refusal:
        loaded(root, content, **options)
    assert "\n" not in str(refusal.value)


def test_there_are_forty_spoilt_variants():
    assert len(REFUSED) + len(OPTIONS) >= 40


def test_the_old_name_of_a_column_is_read_with_a_warning(root, caplog):
    corpus = loaded(root, text_of(ROWS, ["file", *HEADER[1:]]))
    assert ticked(corpus) == TICKS
    assert [record.getMessage() for record in caplog.records] == [
        f"{root / 'ratings.csv'}:1: column `file` is an old name; rename it to clip"]


def test_a_name_below_the_folder_may_be_absolute(root):
    assert loaded(root, BASE.replace("one/a", f"{root}/audio/one/a")).ratings["clip"].nunique() == 4
    with pytest.raises(UserError, match=r"csv:3: .*one/a.wav' is the clip 'one/a.wav' above; write one name"):
        loaded(root, edited(("one/a.wav,Ben", f"{root}/audio/one/a.wav,Ben")))


def test_two_classes_that_look_alike_may_be_named(root):
    text = edited(("happy", "unhappy"), ("happy", "happy"))
    with pytest.raises(UserError, match="--option classes=angry,happy,neutral,sad,unhappy"):
        loaded(root, text.replace("neutral,Jörg", "happy,Jörg"))
    assert "unhappy" in loaded(root, text, classes="angry,happy,neutral,sad,unhappy").classes


def test_a_label_that_occurs_once_and_looks_like_no_other_is_a_class(root):
    corpus = loaded(root, BASE.replace("Zoë,neutral", "Zoë,bored"))
    assert corpus.classes == ("angry", "bored", "happy", "neutral", "sad")
    assert ticked(corpus) == TICKS | {("two b.wav", "Zoë"): {"bored"}}


def test_a_column_that_never_changes_is_a_class_in_fewer_than_three_rows_of_a_listener(root):
    rows, header = [["d", "A", "1"], ["one/a", "A", "1"], ["two b", "A", "1"]], ["clip", "listener", "calm"]
    assert ticked(loaded(root, text_of(rows[:2], header))) == {("d", "A"): {"calm"}, ("one/a", "A"): {"calm"}}
    with pytest.raises(UserError, match="'calm' never changes for a listener"):
        loaded(root, text_of(rows, header))


def test_files_whose_names_differ_in_case_alone_are_refused(tmp_path):
    for name in ("a.WAV", "a.wav"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"a\.wav: differs from a\.WAV in case alone; keep one of them"):
        schema.files(table(["a"], ["I"]), tmp_path)


@pytest.mark.parametrize("repeats, ticks", [("first", {"sad"}), ("mean", {"sad", "happy"})])
def test_a_rating_repeated_is_one_and_its_parts_are_kept(root, repeats, ticks):
    """Of two ratings, sad and happy, half tick either."""
    corpus = loaded(root, BASE + "d.wav,Anna,happy,Kim,Wed\n", repeats=repeats)
    assert ticked(corpus) == TICKS | {("d.wav", "Anna"): ticks}
    assert corpus.repeats[["clip", "listener", "happy", "sad"]].to_numpy().tolist() == [
        ["d.wav", "Anna", False, True], ["d.wav", "Anna", True, False]]
    assert describe(corpus)["repeats"]["pairs"] == 1


def test_numbers_repeated_are_averaged_before_the_threshold(root):
    """(55 + 64) / 2 = 59.5 and (55 + 65) / 2 = 60."""
    rows = [["d", "A", "55"], ["d", "A", "64"], ["one/a", "A", "55"], ["one/a", "A", "65"]]
    corpus = loaded(root, text_of(rows, ["clip", "listener", "arousal"]), repeats="mean", threshold="arousal=60")
    assert ticked(corpus) == {("d", "A"): set(), ("one/a", "A"): {"arousal"}}


# Sessions.

def test_sessions_of_any_text_are_numbered_and_numbers_stay(root):
    assert loaded(root, BASE).clips["session"].to_dict() == {
        "one/a.wav": 1, "größe.flac": 1, "two b.wav": 2, "d.wav": 3}
    numbered = BASE.replace("Mon", "07").replace("Tue", "7").replace("Wed", "12")
    assert set(loaded(root, numbered).clips["session"]) == {7, 12}


def table(clips, speakers):
    ratings = [schema.Rating("x", clip, "A", speaker, "", {}) for clip, speaker in zip(clips, speakers)]
    return schema.Table(("a",), ratings, [], [])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.randoms())
def test_sessions_that_are_made_keep_speakers_apart_and_do_not_depend_on_the_order(speakers, random):
    clips = [f"c{n}" for n in range(len(speakers))]
    made = schema.sessions(table(clips, map(str, speakers)))
    order = random.sample(range(len(clips)), len(clips))
    again = schema.sessions(table([clips[n] for n in order], [str(speakers[n]) for n in order]))
    assert made == again
    numbers, names = {entry["session"] for entry in made.values()}, {*speakers}
    if len(names) >= 3:
        assert len({(entry["speaker"], entry["session"]) for entry in made.values()}) == len(names)
        assert numbers == {*range(1, min(5, len(names)) + 1)}
    else:
        sizes = np.bincount([entry["session"] for entry in made.values()])[1:]
        assert numbers == {*range(1, min(5, len(clips)) + 1)} and sizes.max() - sizes.min() <= 1


def test_sessions_of_two_speakers_are_of_clips_and_say_so(caplog):
    schema.sessions(table(["a", "b", "c"], ["S", "T", "S"]))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "whole speakers need at least three" in caplog.text


# Features.

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)
NAMES = ["d.wav", "größe.flac", "one/a.wav", "two b.wav"]  # in the order of the corpus's clips
SWAPPED = [2, 0, 3, 1]


@pytest.fixture
def vectors(tmp_path):
    """Features of the four clips in each form, in another order than the ratings'."""
    frame = pd.DataFrame(VALUES[SWAPPED], columns=["x", "y", "z"]).assign(clip=[NAMES[n] for n in SWAPPED])
    frame.to_csv(tmp_path / "features.csv", index=False, sep=";")
    frame.to_parquet(tmp_path / "features.parquet")
    np.save(tmp_path / "features.npy", VALUES[SWAPPED])
    (tmp_path / "clips.txt").write_text("\n".join(frame["clip"]) + "\n")
    return tmp_path


@pytest.mark.parametrize("kind", schema.READY)
def test_features_stand_by_their_clips_names(vectors, kind):
    corpus = loaded(vectors, BASE, audio=f"features{kind}")
    assert [*corpus.clips.index] == NAMES and corpus.features.dtype == np.float32
    np.testing.assert_array_equal(corpus.features, VALUES[:, None])
    json.dumps(describe(corpus), allow_nan=False)


def test_features_are_read_where_there_is_no_audio(vectors):
    np.testing.assert_array_equal(loaded(vectors, BASE).features, VALUES[:, None])
    np.save(vectors / "features.npy", np.stack([VALUES, -VALUES], axis=1)[SWAPPED])
    assert loaded(vectors, BASE, audio="features.npy").features.shape == (4, 2, 3)


def test_a_corpus_of_features_is_written_by_the_names_of_its_clips(vectors):
    schema.write(schema.rows(loaded(vectors, BASE, audio="features.csv"))[0], vectors / "again.csv")
    assert ticked(load("table", vectors, ratings="again.csv", audio="features.csv")) == TICKS


def spoilt(frame, row, column, value):
    frame = frame.astype(object)
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize("spoil, message", [
    (lambda frame: spoilt(frame, 1, "y", "high"), r"features.csv: row 2, clip 'd.wav': a cell is no number; correct"),
    (lambda frame: spoilt(frame, 2, "x", ""), r"features.csv: row 3, clip 'two b.wav': a cell is no number"),
    (lambda frame: spoilt(frame, 3, "clip", "d.wav"), r"features.csv: row 4, clip 'd.wav': again; correct or remove"),
    (lambda frame: frame.drop(index=1), r"csv:11: .*features.csv has no clip 'd.wav': did you mean '.*\.wav'"),
    (lambda frame: frame.rename(columns={"clip": "name"}), r"features.csv:1: no column 'clip' in x, y, z, name"),
    (lambda frame: frame[["clip"]], r"features.csv: features \(4, 0\) of 4 clips"),
    (lambda frame: frame[:0], r"features.csv: no table of features"),
])
def test_spoilt_features_are_one_line(vectors, spoil, message):
    spoil(pd.read_csv(vectors / "features.csv", sep=";")).to_csv(vectors / "features.csv", index=False)
    with pytest.raises(UserError, match=message) as refusal:
        loaded(vectors, BASE, audio="features.csv")
    assert "\n" not in str(refusal.value)


def test_an_array_needs_the_names_of_its_rows(vectors):
    (vectors / "clips.txt").write_text("\n".join(NAMES[:3]))
    with pytest.raises(UserError, match=r"features.npy: features \(4, 3\) of 3 clips; give a row for every clip"):
        loaded(vectors, BASE, audio="features.npy")
    (vectors / "clips.txt").unlink()
    with pytest.raises(UserError, match=r"clips.txt: cannot be read"):
        loaded(vectors, BASE, audio="features.npy")
    for name in ("features.npy", "features.parquet"):
        (vectors / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=rf"{name}: no table of features"):
            loaded(vectors, BASE, audio=name)
    with pytest.raises(UserError, match=r"nowhere: no such folder; give the folder .*features \(.parquet"):
        loaded(vectors, BASE, audio="nowhere")
    with pytest.raises(UserError, match=r"no.csv: no such file; give the table of ratings"):
        load("table", vectors, ratings="no.csv")


# Writing.

@pytest.mark.parametrize("content", [BASE, text_of(ONES, ONES_HEADER)])
def test_what_is_written_reads_as_the_same_corpus(root, tmp_path, content):
    corpus = loaded(root, content)
    rows, folder = schema.rows(corpus)
    schema.write(rows, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes().startswith(b"\xef\xbb\xbfclip,listener,label,speaker,session\n")
    again = load("table", root, ratings=tmp_path / "again.csv", audio=folder)
    pd.testing.assert_frame_equal(again.ratings, corpus.ratings)
    columns = ["speaker", "session", "path"]
    pd.testing.assert_frame_equal(again.clips[columns], corpus.clips[columns])


WORD = st.text(st.sampled_from("aZ9 ,\"'\\äßé.-_="), min_size=1, max_size=8).map(str.strip).filter(
    lambda word: word and word.lower() != "other" and not word.startswith("'"))  # before a formula it is a mark
CLIP = WORD.filter(lambda name: schema.clip_name(name) == name and name not in (".", ".."))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(",;\t"), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"]),
       st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_what_a_writer_of_csv_writes_is_read(tmp_path_factory, data, separator, encoding, end, quoting):
    classes = data.draw(st.lists(WORD.filter(lambda w: "," not in w), min_size=1, max_size=4, unique_by=schema.alike))
    clips = data.draw(st.lists(CLIP, min_size=1, max_size=4, unique_by=schema._bare))
    listeners = data.draw(st.lists(WORD, min_size=1, max_size=3, unique_by=schema.alike))
    keys = [(clip, listener) for clip in clips for listener in listeners]
    ticks = [data.draw(st.sets(st.sampled_from(classes))) for _ in keys]
    frame = pd.DataFrame([(*key, ";".join(sorted(on)) or "Other") for key, on in zip(keys, ticks)],
                         columns=["clip", "listener", "label"])
    file = tmp_path_factory.getbasetemp() / "drawn.csv"
    frame.to_csv(file, index=False, sep=separator, encoding=encoding, lineterminator=end, quoting=quoting)
    named = "" if encoding.startswith("utf") else encoding
    read = schema.read(file, classes, encoding=named)
    assert [(rating.clip, rating.listener) for rating in read.ratings] == keys
    assert read.ticks == ticks and read.classes == tuple(classes)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([BASE, text_of(ONES, ONES_HEADER, separator=";")]))
def test_any_damage_reads_or_is_one_line(tmp_path_factory, data, text):
    content = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        text = data.draw(st.text(st.sampled_from(',;:"\n\r\t A1é\x00\x07/.'), max_size=5))
        content[start:start + data.draw(st.integers(0, 8))] = text.encode() + data.draw(st.binary(max_size=1))
    file = tmp_path_factory.getbasetemp() / "damaged.csv"
    file.write_bytes(content)
    try:
        schema.sessions(schema.read(file))
    except UserError as error:
        assert str(error).startswith(str(file)) and "\n" not in str(error)
