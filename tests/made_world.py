"""A folder in which the documented commands find what they name: corpora in their real formats, a table, small runs."""

import shutil
from pathlib import Path

import numpy as np
import soundfile
from made_phase2 import choice_task

from perser.corpora import cremad, emodb, ravdess

LISTENERS = ("L0", "L2", "L3", "NAME")  # of the table; one is called as the documents call any


def tone(path: Path, number: int, seconds: float = 0.3) -> None:
    """A clip whose pitch tells its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(int(16000 * seconds)) * (20 + number % 50) / 300), 16000)


def write_emodb(root: Path) -> None:
    """Ten speakers, six clips each; six reported and three development listeners rate all."""
    draw, rows = np.random.default_rng(0), ["subID,stimFile,stimType,valenceRating,arousalRating"]
    for place, speaker in enumerate(emodb.SESSIONS):
        for number, emotion in enumerate("WLEAFT"):
            clip = f"{speaker}a{number + 1:02d}{emotion}a.wav"
            tone(root / "wav" / clip, 6 * place + number)
            rows += [f"{listener},{emotion}/{clip},sounds,{draw.integers(101)},{draw.integers(101)}"
                     for listener in (0, 1, 2, 3, 4, 5, 6, 7, 8)]
    (root / "study_5_data.csv").write_text("\n".join([*rows, ""]))


def write_ravdess(root: Path) -> None:
    """All actors, each emotion once."""
    for actor in range(1, ravdess.ACTORS + 1):
        for emotion in range(1, len(ravdess.CLASSES) + 1):
            tone(root / f"Actor_{actor:02d}" / f"03-01-{emotion:02d}-01-01-01-{actor:02d}.wav", 8 * actor + emotion)


def write_cremad(root: Path) -> None:
    """Two actors of each block, six clips each, which six listeners rate."""
    draw = np.random.default_rng(0)
    rows = [",localid,pos,ans,ttr,queryType,numTries,clipNum,questNum,subType,clipName,sessionNums,respEmo,respLevel,"
            "dispEmo,dispVal,dispLevel"]
    for actor in (actor for low, _ in cremad.BLOCKS for actor in (low, low + 1)):
        for emotion in cremad.EMOTIONS:
            clip = f"{actor}_DFA_{emotion}_XX"
            tone(root / cremad.AUDIO / f"{clip}.wav", len(rows))
            rows += [f"{len(rows) + listener},{listener},1,A_80,5000,1,1,7,1,4,{clip},1,"
                     f"{draw.choice([*cremad.LETTERS])},80,A,ANG,XX" for listener in range(6)]
    (root / cremad.TABLE).write_text("\n".join([*rows, ""]))


def write_table(root: Path, table: Path, audio: Path) -> None:
    """Forty clips that four listeners rate, and what documents name beside them: a newcomer's table, single clips."""
    draw, rows = np.random.default_rng(0), ["clip,listener,label"]
    for number in range(40):
        tone(audio / f"c{number}.wav", number)
        rows += [f"c{number}.wav,{listener},{draw.choice(['happy', 'sad'])}" for listener in LISTENERS]
    table.write_text("\n".join([*rows, ""]))
    (root / "new.csv").write_text("\n".join([rows[0].replace("listener,", ""), *(
        f"c{number}.wav,{'happy' if number % 3 else 'sad'}" for number in range(12)), ""]))
    shutil.copyfile(audio / "c0.wav", root / "more.wav")


def write(root: Path) -> None:
    """All of it below a folder, but what the commands make themselves."""
    write_emodb(root / "data" / "emodb")
    write_ravdess(root / "data" / "ravdess")
    write_cremad(root / "data" / "cremad")
    write_table(root, root / "ratings.csv", root / "clips")
    (root / "audio").symlink_to("clips")
    choice_task(root / "benchmark_tasks", ["a", "b", "c", "a"])
    for name in ("notebooks", "results"):
        (root / name).mkdir()
    (root / "results" / "expected.toml").write_text(
        '[[claim]]\nid = "gain"\nsource = "paper"\nsays = "it gains"\nneeds = "IEMOCAP"\n')
    (root / "paper.toml").write_text('[[number]]\nid = "gain"\nvalue = 1.0\n')
    (root / "tools").symlink_to(Path(__file__).parents[1] / "tools")
    shutil.copy(Path(__file__).parents[1] / "reproduce.sh", root)
