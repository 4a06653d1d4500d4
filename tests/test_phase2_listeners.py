"""The listener task: the main table's episodes, in upstream's format, answered by our own model."""

import base64
import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from made import SMALL, UPSTREAM
from made_phase2 import INSPECT, source

from perser import checkpoints, features, workers
from perser.corpora import Corpus
from perser.data import from_corpus, listener_groups, rating_targets, split
from perser.episodes import draws_by_listener, make_batch
from perser.errors import UserError
from perser.features import upstreams
from perser.methods import GradientModel
from perser.model import Head, predict
from perser.phase2 import listeners, runner, tasks
from perser.phase2.export import review
from perser.plan import Plan
from perser.protocol import Protocol

CLASSES = ("neutral", "happy", "sad", "angry")
EXPERIMENT = SMALL.model_copy(update={"shots": (3,), "draws": 2, "min_queries": 3, "groups": 3, "folds": None,
                                      "methods": {"ssl-e": SMALL.methods["ssl-e"]}})
pytestmark = INSPECT


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve listeners who each rate 48 short tones of three sessions."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    clips, ratings = [], []
    for i in range(48):
        path = folder / f"c{i}.wav"
        sf.write(path, 0.3 * np.sin(2 * np.pi * (200 + 20 * i) * np.arange(4000) / 16000), 16000)
        clips.append({"clip": f"c{i}", "path": str(path), "speaker": f"s{i % 3}", "session": i % 3 + 1,
                      "seconds": 0.25})
        for listener in range(12):
            ticks = rng.random(4) < (0.2 + 0.4 * (np.arange(4) == (i + listener) % 4))
            ticks[(i + listener) % 4] |= not ticks.any()
            ratings.append({"clip": f"c{i}", "listener": f"L{listener:02d}",
                            **dict(zip(CLASSES, ticks.tolist(), strict=True))})
    return Corpus("toy", CLASSES, pd.DataFrame(clips).set_index("clip"), pd.DataFrame(ratings), "speech and listeners")


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory):
    return listeners.build(tmp_path_factory.mktemp("tasks"), corpus, EXPERIMENT, at=3, rows=40)


def test_the_export_passes_the_upstream_review(built):
    assert review(built) == []
    row = tasks.load(built)[0][0]
    assert row.synthetic == "speech and listeners" and len(row.rows) == 40
    assert {len(r.audios) for r in row.rows} == {4}


def test_rows_are_the_queries_of_the_main_tables_episodes(built, corpus):
    data = from_corpus(corpus, torch.empty(len(corpus.clips), 0, 0))
    parts = split(data, 1, 0, listener_groups(data, 3, 6), True)
    episodes = draws_by_listener(data, parts.unseen, (3,), 2, 3, 0, "test draws")
    allowed = {}
    for (listener, _), drawn in episodes.items():
        for draw, (support, query) in enumerate(zip(drawn.support, drawn.query, strict=True)):
            for rating in query:
                allowed[(data.listeners[listener], str(draw), data.clips[data.clip[rating]])] = (support, rating)
    ticks = [[c for c, on in zip(CLASSES, row, strict=True) if on] for row in data.labels.tolist()]
    rows = {row.id: row for row in tasks.load(built)[0][0].rows}
    for line in csv.DictReader((built / "data" / "episodes.csv").read_text().splitlines()):
        support, query = allowed[(line["listener"], line["draw"], line["clip"])]
        row = rows[line["file"]]
        assert listeners.examples(row.instruction) == [ticks[r] for r in support]
        assert list(row.labels) == ticks[query]
        originals = [corpus.clips["path"].iloc[data.clip[r]] for r in [*support, query]]
        for path, original in zip(row.audios, originals, strict=True):
            np.testing.assert_allclose(sf.read(path)[0], sf.read(original)[0], atol=2e-4)
    lines = csv.DictReader((built / "data" / "episodes.csv").read_text().splitlines())
    assert set(rows) == {line["file"] for line in lines}


@pytest.mark.parametrize("setting", ["seen", "unseen"])
@pytest.mark.parametrize("asked", [
    {"shots": (3, 13)}, {"shots": (3, 13), "support": "same"}, {"shots": (3, 9), "support": "any"},
    {"shots": (3,), "dev": "training"}, {"shots": (3,), "folds": "paired"}])
def test_the_task_has_the_listeners_clips_and_queries_of_the_records(corpus, tmp_path, setting, asked):
    """Sixteen ratings in the test session: thirteen shots leave no query there, which must not empty the task."""
    experiment = EXPERIMENT.model_copy(update=asked)
    data = from_corpus(corpus, torch.zeros(len(corpus.clips), 1, 2))
    frame = workers.run(Plan(experiment, corpus, UPSTREAM, data.features, "none", tmp_path / "run"), jobs=1)
    for fold, group in Protocol(experiment, data).splits[:3]:
        drawn = listeners.queries(Protocol(experiment, data), fold=fold, group=group, setting=setting, at=3, seed=0)
        held_out = Protocol(experiment, data).split(fold, group).test_listeners
        rows = frame[(frame["fold"] == fold) & (frame["setting"] == setting) & frame["listener"].isin(held_out)]
        counts = pd.Series([data.listeners[listener] for listener, _, _, _ in drawn]).value_counts()
        assert counts.to_dict() == rows.set_index("listener")["queries"].to_dict() and len(counts) == 4


def test_a_split_or_a_number_of_shots_without_records_is_one_line(corpus):
    protocol = Protocol(EXPERIMENT, from_corpus(corpus, torch.empty(len(corpus.clips), 0, 0)))
    for wrong in ({"fold": 4}, {"group": 3}, {"at": 5}):
        with pytest.raises(UserError, match=r"nobody is tested so; unseen clips have 3 shots, in 3 groups from 0$"):
            listeners.queries(protocol, **{"fold": 1, "group": 0, "setting": "unseen", "at": 3, "seed": 0} | wrong)


def test_file_names_are_digests_of_the_audio(built, corpus):
    text = (built / "data" / "metadata.jsonl").read_text()
    names = [value for line in text.splitlines() for key, value in json.loads(line).items() if key.startswith("audio")]
    contents = [Path(path).read_bytes() for path in corpus.clips["path"]]
    assert names
    assert set(names) <= {f"{hashlib.blake2b(content, digest_size=16).hexdigest()[:12]}.wav" for content in contents}


@pytest.fixture(scope="module")
def model(corpus, tmp_path_factory):
    """A model folder with random weights and inner learning rates large enough to matter."""
    folder, upstream = tmp_path_factory.mktemp("model"), upstreams.load("logmel")
    frames = features.extract(corpus, upstream, folder / "store", normalise=(0.0, 1.0))
    mean, scale = frames.mean(0), frames.std(0).clamp(min=1e-3)
    draw = torch.Generator().manual_seed(0)
    size = frames.shape[2]
    head = Head(mix=torch.zeros(frames.shape[1]), P=torch.randn(8, size, generator=draw) / size**0.5, b=torch.zeros(8),
                A=torch.randn(4, 8, generator=draw), a=torch.zeros(4))
    rates = {3: torch.full((2, 5), 0.2) * torch.tensor([0.0, 1, 1, 1, 1])}
    about = {"classes": list(CLASSES), "upstream": "logmel", "upstream_identity": upstream.identity,
             "waveform_moments": [0.0, 1.0], "label_smoothing": 0.05, "method": "maml", "kind": "maml",
             "synthetic": ""}
    checkpoint = checkpoints.Checkpoint(GradientModel(head, rates), mean, scale, torch.ones(4), about)
    checkpoints.save(checkpoint, folder / "m")
    return folder / "m", (frames - mean) / scale, head, rates


def test_our_model_answers_as_the_main_evaluation_does(built, corpus, model, tmp_path):
    path, frames, head, rates = model
    loaded = tasks.load(built)[0]
    frame = runner.run(loaded, f"perser/{path}", tmp_path / "o", source=source(built))
    data = from_corpus(corpus, frames)
    targets = rating_targets(data.labels, 0.05)
    parts = split(data, 1, 0, listener_groups(data, 3, 6), True)
    expected = {}
    for (listener, _), episodes in draws_by_listener(data, parts.unseen, (3,), 2, 3, 0, "test draws").items():
        with torch.no_grad():
            batch = make_batch(data, targets, torch.ones(4), episodes)
            logits = next(GradientModel(head, {}).answers(batch, [rates[3]]))
        for draw, sets in enumerate(predict(logits).reshape(*episodes.query.shape, 4).tolist()):
            for rating, row in zip(episodes.query[draw], sets, strict=True):
                names = [c for c, on in zip(CLASSES, row, strict=True) if on]
                expected[(data.listeners[listener], str(draw), data.clips[data.clip[rating]])] = names
    answers = frame.set_index("sample")["answer_read"].map(json.loads)
    same = [sorted(answers[line["file"]] or []) == sorted(expected[(line["listener"], line["draw"], line["clip"])])
            for line in csv.DictReader((built / "data" / "episodes.csv").read_text().splitlines())]
    assert np.mean(same) == 1
    assert answers.map(str).nunique() > 1


def test_a_model_folder_answers_plain_emotion_questions_and_declines_others(model, tmp_path):
    from perser.phase2.models import Perser, Question

    data = (tmp_path / "x.wav")
    sf.write(data, 0.3 * np.sin(np.arange(8000) / 10), 16000)
    sound = (f"data:audio/wav;base64,{base64.b64encode(data.read_bytes()).decode()}",)
    asked = ["How does the speaker feel? The answer could be happiness, sadness, or anger.",
             "Which note is played? The answer could be A or B.", "What emotion is it?"]
    answers = Perser(str(model[0])).answers([Question(text, sound, "i", "f", 8) for text in asked])
    assert answers[0] in ("happiness", "sadness", "anger") and answers[1:] == ["N/A", "N/A"]
