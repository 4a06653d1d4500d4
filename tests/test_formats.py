"""A team's files as phones and Excel in three countries save them: each gives a verdict with one command."""

import json

import numpy as np
import pytest
import soundfile
from made_audio import CODECS, encode

from perser import corpora
from perser.cli import main

LISTENERS = ("Jürgen", "Zoë", "Bo", "Ann")
# Separator and encoding of what Excel writes with lines that end in CRLF, and the option that reads it.
TABLES = {"American CSV UTF-8": (",", "utf-8-sig", ()), "German CSV": (";", "cp1252", ("--encoding", "cp1252")),
          "French CSV UTF-8": (";", "utf-8-sig", ()), "Greek Unicode text": ("\t", "utf-16", ())}
AUDIO = (".M4A", ".OPUS", ".WAV")


def sounds(folder, kind):
    """30 clips of 0.3 s, the first half loud and high; whether they are, by file name."""
    folder.mkdir()
    names = {f"clip ä {number:02}{kind}": number < 15 for number in range(30)}
    random = np.random.default_rng(0)
    for number, (name, high) in enumerate(names.items()):
        codec, container, rate = CODECS.get(kind.lower(), ("", "", 44_100))
        time = np.arange(round(0.3 * rate)) / rate
        wave = (0.4 if high else 0.1) * np.sin(2 * np.pi * (500 if high else 150) * (1 + number / 100) * time)
        wave += 0.01 * random.standard_normal(len(time))
        if codec:
            encode(folder / name, wave, rate, codec, container)
        else:
            soundfile.write(folder / name, np.stack([wave, wave], axis=1), rate, format="WAV")
    return names


def table(file, names, country):
    """All listeners' ratings; Bo hears one clip in three differently. Suffixes are left out or in lower case."""
    separator, encoding, _ = TABLES[country]
    rows = [("Clip", "Listener", "label")]
    for number, (name, high) in enumerate(names.items()):
        stem, _, suffix = name.rpartition(".")
        for listener in LISTENERS:
            heard = high != (listener == "Bo" and number % 3 == 0)
            rows.append((stem if number % 2 else f"{stem}.{suffix.lower()}", listener, "wütend" if heard else "müde"))
    file.write_bytes("".join(separator.join(row) + "\r\n" for row in rows).encode(encoding))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of clips for every kind of audio file, and its names."""
    root = tmp_path_factory.mktemp("sounds")
    return {kind: (root / kind[1:], sounds(root / kind[1:], kind)) for kind in AUDIO}


@pytest.mark.parametrize("country", TABLES)
@pytest.mark.parametrize("kind", AUDIO)
def test_every_table_and_kind_of_file_is_read_to_the_same_ratings(folders, tmp_path, country, kind):
    folder, names = folders[kind]
    table(tmp_path / "ratings.csv", names, country)
    options = {"encoding": TABLES[country][1]} if TABLES[country][2] else {}
    corpus = corpora.load("table", tmp_path, audio=folder, **options)
    assert corpus.classes == ("müde", "wütend") and len(corpus.clips) == 30 and len(corpus.ratings) == 120
    assert corpus.clips["seconds"].tolist() == pytest.approx([0.3] * 30, abs=0.06)
    heard = corpus.ratings[corpus.ratings["listener"] == "Zoë"].set_index("clip")["wütend"]
    assert sorted(heard) == [False] * 15 + [True] * 15
    assert all(int(clip.split()[2].partition(".")[0]) < 15 for clip in heard.index[heard])


@pytest.mark.parametrize("country, kind", [("American CSV UTF-8", ".M4A"), ("German CSV", ".OPUS"),
                                           ("Greek Unicode text", ".WAV")])
def test_each_gives_a_verdict_with_one_command(folders, tmp_path, capsys, country, kind):
    folder, names = folders[kind]
    table(tmp_path / "ratings.csv", names, country)
    settings = ("shots=[5]", "folds=[1, 2]", "draws=2", "dev_draws=2", "base.hidden=8", "base.lr=0.02", "base.epochs=2")
    with pytest.raises(SystemExit) as stop:
        main.main(["personalise", str(tmp_path / "ratings.csv"), str(folder), "--out", str(tmp_path / "out"),
                   *TABLES[country][2], "--upstream", "logmel", "--jobs", "1",
                   *(word for setting in settings for word in ("--set", setting))])
    printed, errors = capsys.readouterr()
    assert (stop.value.code, errors) == (0, "")
    assert all(name in printed for name in LISTENERS) and "report.html" in printed
    listeners = json.loads((tmp_path / "out" / "manifest.json").read_text())["listeners"]
    assert {row["listener"] for row in listeners} == {*LISTENERS} and all(row["verdict"] for row in listeners)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:audio/" in page
