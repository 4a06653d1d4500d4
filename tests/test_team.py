"""A team's own listeners: verdicts on planted listeners, files, the page, resuming, too little data."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import CLASSES, UPSTREAM
from scipy import stats

from perser import about, checkpoints, page, personal, records, team, workers
from perser.analysis import verdicts
from perser.corpora import Corpus
from perser.corpora.agreement import votes
from perser.errors import UserError
from perser.methods.population_prior import terms
from perser.methods.robust_prior import RobustPriorModel
from perser.model import Head
from perser.scores import scored, sums

LISTENERS = ("Ann", "../Bo", "Cy", "Di", "Ed", "Flo", "swaps", "random")


def planted(clips: int = 90, sessions: int = 3, seed: int = 0) -> tuple[Corpus, torch.Tensor]:
    """Six listeners hear the class with few errors, one swaps angry and happy, one ticks at random; all rate all."""
    draw = np.random.default_rng(seed)
    names = [f"clip <{i:02d}>" for i in range(clips)]
    truth = draw.integers(len(CLASSES), size=clips)
    features = draw.normal(size=(clips, 2, 6)).astype(np.float32)
    features[np.arange(clips), :, truth] += 3
    swap, rows = np.array([1, 0, 2, 3]), []
    for clip, kind in zip(names, truth):
        for listener in LISTENERS:
            heard = swap[kind] if listener == "swaps" else kind
            if listener == "random" or draw.random() < 0.1:
                heard = draw.integers(len(CLASSES))
            rows.append((clip, listener, *(c == heard for c in range(len(CLASSES)))))
    frame = pd.DataFrame({"path": names, "speaker": "s", "seconds": 1.0,
                          "session": np.arange(clips) % sessions + 1}, index=pd.Index(names, name="clip"))
    return Corpus("made", CLASSES, frame, pd.DataFrame(rows, columns=["clip", "listener", *CLASSES])), \
        torch.from_numpy(features)


OVERRIDES = ("shots=[5,10]", "draws=5", "base.hidden=8", "base.lr=0.02", "base.epochs=10")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a team, its verdicts, and what was printed."""
    out, (corpus, features), printed = tmp_path_factory.mktemp("team") / "out", planted(), []
    prepared = team.prepare(corpus, OVERRIDES)
    table = team.personalise(prepared, UPSTREAM, features, "none", out, say=printed.append)
    return out, table.set_index("listener"), printed


def test_who_swaps_two_classes_is_told_better_at_ten_shots_and_who_ticks_at_random_is_not(finished):
    _, table, _ = finished
    assert table.loc["swaps", "verdict"] == verdicts.BETTER
    assert table.loc["swaps", "personal"] > table.loc["swaps", "general"] + 0.05
    assert table.loc["random", "verdict"] == verdicts.KEEP
    assert set(table.index) == set(LISTENERS) and (table["ratings"] == 90).all()


def test_answers_sum_to_the_records_of_the_engine(finished):
    """The engine counts queries by itself; here the same answers are kept one by one."""
    out, table, _ = finished
    frame = records.read(out / "work")
    unseen = frame[(frame["setting"] == "unseen") & (frame["shots_of"] == "own")]
    scores = scored(sums(unseen)).set_index(["method", "shots", "listener"])
    corpus, features = planted()
    prepared = team.prepare(corpus, OVERRIDES)
    plan = team.Plan(prepared.experiment, corpus, UPSTREAM, features, "none", out / "work" / "run")
    given = team.answers(plan)
    for listener in LISTENERS:  # and the table is of the records too
        assert table.loc[listener, "personal"] == pytest.approx(scores.loc[("personal", 10, listener), "accuracy"])
        assert table.loc[listener, "gain"] == pytest.approx(
            scores.loc[("ssl-e", 0, listener), "log_loss"] - scores.loc[("personal", 10, listener), "log_loss"],
            abs=1e-6)
    by = given.groupby(["shots_of", "shots", "listener"])[["hit", "loss"]].mean()
    for listener in LISTENERS:
        for key, name in ((("ssl-e", 0, listener), ("general", 0, listener)),
                          (("personal", 10, listener), ("own", 10, listener))):
            assert by.loc[name, "hit"] == pytest.approx(scores.loc[key, "accuracy"])
            assert by.loc[name, "loss"] == pytest.approx(scores.loc[key, "log_loss"], rel=1e-5)


def test_the_same_call_again_computes_nothing_and_gives_the_same(finished, monkeypatch):
    out, table, _ = finished
    monkeypatch.setattr(workers, "train", None)
    corpus, features = planted()
    again = team.personalise(team.prepare(corpus, OVERRIDES), UPSTREAM, features, "none", out)
    pd.testing.assert_frame_equal(again.set_index("listener"), table)


def test_every_listener_has_a_file_inside_the_folder_and_it_answers_as_the_listener(finished):
    out, _, _ = finished
    manifest, (_, features) = json.loads((out / "manifest.json").read_text()), planted()
    files = {row["listener"]: out / row["file"] for row in manifest["listeners"]}
    assert sorted(files.values()) == sorted((out / "listeners").iterdir()) and set(files) == set(LISTENERS)
    general = personal.load(out / "general.safetensors")
    truth = features[..., :4].sum(1).argmax(-1)
    for listener, expected in (("Ann", [0, 1, 2, 3]), ("swaps", [1, 0, 2, 3])):
        model = personal.load(files[listener])
        assert model.about["listener"] == listener and model.about["shots"] == 90
        answer = personal.logits(model.head, (features - model.mean) / model.scale).argmax(-1)
        assert (answer == torch.tensor(expected)[truth]).float().mean() > 0.75
    answer = personal.logits(general.head, (features - general.mean) / general.scale).argmax(-1)
    assert (answer == truth).float().mean() > 0.75


def test_every_listener_s_file_says_how_the_listener_differs_and_the_model_whom_it_knows(finished):
    """The one who swaps angry and happy: both confusions, as often as the planted ratings have them."""
    out, _, _ = finished
    manifest, (corpus, _) = json.loads((out / "manifest.json").read_text()), planted()
    [file] = [row["file"] for row in manifest["listeners"] if row["listener"] == "swaps"]
    entry = personal.load(out / file).about["differs"]
    assert entry["shared"] == 90 and entry["listeners"] == 7
    first, second = entry["confusions"][:2]
    assert {(row["others"], row["listener"]) for row in (first, second)} == {("angry", "happy"), ("happy", "angry")}
    heard = corpus.ratings.set_index(["clip", "listener"])[list(CLASSES)].astype(float)
    others = heard.drop("swaps", level=1).groupby("clip").mean()
    tops = others.eq(others.max(axis=1), axis=0).astype(float)
    tops = tops.div(tops.sum(axis=1), axis=0)
    own = heard.xs("swaps", level=1)
    assert first["ratings"] == pytest.approx((tops[first["others"]] * own[first["listener"]]).sum())
    known = checkpoints.load(out / "model").about["trained_on"]
    assert known["digests"] == sorted(map(about.digest, LISTENERS)) and known["listeners"] == len(LISTENERS)
    assert "digests" not in personal.load(out / file).about["trained_on"]
    assert checkpoints.choose(out)[0] == out / "model"
    assert personal.find(out, "../Bo")[0].about["listener"] == "../Bo"
    with pytest.raises(UserError, match="choose one with --listener NAME"):
        personal.find(out)


def test_ratings_as_understood_read_back(finished):
    out, _, _ = finished
    frame, (corpus, _) = pd.read_csv(out / "ratings.csv"), planted()
    assert list(frame) == ["clip", "listener", "label", "speaker", "session"]
    labels = corpus.ratings[list(CLASSES)].to_numpy().argmax(1)
    assert frame["label"].tolist() == [CLASSES[i] for i in labels]


class Page(HTMLParser):
    """Counts tags, collects every address."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "srcset", "data")]


def test_the_page_asks_no_server_and_escapes_names(finished):
    out, _, _ = finished
    text, parsed = (out / "report.html").read_text(), Page()
    parsed.feed(text)
    assert not parsed.addresses and not {"script", "link", "iframe", "img"} & set(parsed.tags)
    assert not re.search(r"https?:|url\(|@import", text)
    assert "clip &lt;" in text and "<00>" not in text and "swaps" in text
    assert "says happy where most say angry" in text and "own shots" in text


def test_short_audio_is_in_the_page_and_long_audio_is_linked(tmp_path):
    short, long = tmp_path / "a b.wav", tmp_path / "clips" / "ü #1.wav"
    long.parent.mkdir()
    short.write_bytes(b"RIFF")
    long.write_bytes(b"0" * (page.EMBEDDED + 1))
    assert page._audio(short, tmp_path / "out", 10**6) == "data:audio/wav;base64,UklGRg=="
    assert page._audio(long, tmp_path / "out", 10**6) == "../clips/%C3%BC%20%231.wav"
    assert page._audio(short, tmp_path / "out", 0) == "../a%20b.wav"
    assert page._audio(tmp_path / "none.wav", tmp_path, 10**6) == ""


def test_the_table_fits_a_terminal(finished):
    _, table, printed = finished
    assert len(printed) == 10
    lines = verdicts.lines(table.reset_index(), 10)
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("swaps") and line.endswith(" better") for line in lines)
    assert any(line.startswith("random") and line.endswith("not better") for line in lines)


def test_shots_that_swap_two_classes_swap_their_logits():
    """A prior that is all but certain of the general model leaves a choice between it and a swap."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.arange(12) % 3
    logits = 6 * torch.nn.functional.one_hot(truth, 3).float() + torch.rand(12, 3, generator=draw)
    model = RobustPriorModel(Head(*[torch.zeros(3)] * 5), 1e-4 * torch.eye(12), {})
    for order in ([0, 1, 2], [2, 1, 0]):
        ticked = torch.nn.functional.one_hot(torch.tensor(order)[truth], 3).float()
        personal_logits = logits + terms(logits) @ model._maps(logits[None], ticked[None], 1.0)[0].mT
        assert torch.allclose(personal_logits, logits[:, order], atol=0.1)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "ratings.csv").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        team.claim(tmp_path)
    assert team.claim(tmp_path / "new") == team.claim(tmp_path / "new")


def test_a_setting_that_is_none_is_named():
    with pytest.raises(UserError, match=r"^--set drawz=3: unknown key drawz; the nearest valid key is draws$"):
        team.prepare(planted()[0], ("drawz=3",))


def test_habits_on_paper():
    """x and y tick A, A, B; z ticks B, A, B: x agrees wholly where the others agree and half where they are tied."""
    rows = [(clip, listener, heard == "A", heard == "B") for listener, answers in
            {"x": "AAB", "y": "AAB", "z": "BAB"}.items() for clip, heard in zip("123", answers)]
    ratings = pd.DataFrame(rows, columns=["clip", "listener", "A", "B"])
    by = {row["listener"]: row for row in page.habits(votes(ratings, ("A", "B")), ["A", "B"])}
    assert by["x"]["agreement"] == pytest.approx(2.5 / 3) and by["z"]["agreement"] == pytest.approx(2 / 3)
    assert by["x"]["biases"] == pytest.approx([0.5 / 3, -0.5 / 3])
    assert (by["z"]["heard"], by["z"]["where"], by["z"]["times"], by["z"]["of"]) == ("B", "A", 1, 2)


def test_paired_interval_on_paper():
    """With one draw: the t-test of scipy. A second draw, higher by one throughout, adds the draws' variance."""
    values = np.array([0.3, -0.1, 0.4, 0.2, 0.9])
    got, expected = verdicts.paired(pd.DataFrame(values)), stats.ttest_1samp(values, 0)
    assert got.p == pytest.approx(expected.pvalue)
    assert (got.low, got.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    two = verdicts.paired(pd.DataFrame(np.column_stack([values, values + 1])))
    error = np.sqrt(values.var(ddof=1) / 5 + 0.5 / 2)
    assert two.mean == pytest.approx(values.mean() + 0.5)
    assert two.high - two.mean == pytest.approx(error * stats.t.ppf(0.975, 4))


def test_corrected_over_listeners_on_paper():
    """p 0.02 among 5 listeners of p 1 becomes 0.1 and no longer counts; alone it does."""
    draw = np.random.default_rng(0)
    noise = draw.normal(size=30)
    noise = (noise - noise.mean()) / noise.std(ddof=1)

    def answers(listener, mean):
        gain = mean + noise / 10
        return [{"listener": listener, "clip": f"c{i}", "rating": i, "draw": 0, "shots": shots, "shots_of": of,
                 "loss": loss, "hit": 1.0, "likeliest": 0} for i, g in enumerate(gain)
                for shots, of, loss in ((0, "general", 0.5), (5, "own", 0.5 - g))]

    mean = stats.t.isf(0.01, 29) / 10 / np.sqrt(30)
    ratings = pd.DataFrame([(f"c{i}", f"L{n}", i % 2 == 0, i % 2 == 1) for n in range(5) for i in range(30)],
                           columns=["clip", "listener", "A", "B"])
    alone = pd.DataFrame(answers("L0", mean))
    together = pd.DataFrame([row for n in range(5) for row in answers(f"L{n}", mean if not n else 0)])
    for frame, verdict, q in ((alone, verdicts.BETTER, 0.02), (together, verdicts.KEEP, 0.1)):
        rated = ratings[ratings["listener"].isin(frame["listener"])]
        row = verdicts.verdicts(frame, rated, ("A", "B"), 5).set_index("listener").loc["L0"]
        assert row["p"] == pytest.approx(0.02) and row["q"] == pytest.approx(q) and row["verdict"] == verdict
        assert row["constant_loss"] == pytest.approx(np.log(2))


def test_too_little_data_says_how_much_is_missing():
    corpus, _ = planted()
    few = corpus.ratings.groupby("listener").head(8)
    with pytest.raises(UserError, match=r"^0 of 8 listeners have the 10 ratings .*: 2 more of "):
        team.prepare(replace(corpus, ratings=few))
    two = corpus.ratings[corpus.ratings["listener"].isin(LISTENERS[:2])]
    with pytest.raises(UserError, match=r"^2 of 2 listeners .* 3 listeners are needed: 1 more listeners$"):
        team.prepare(replace(corpus, ratings=two))
    twelve = corpus.ratings[corpus.ratings["clip"] < "clip <12>"]
    with pytest.raises(UserError, match=r"^12 rated clips; .* need 15: 3 more$"):
        team.prepare(replace(corpus, ratings=twelve))


@pytest.mark.parametrize("speakers", [1, 4, 12])
def test_sessions_are_made_of_whole_speakers_where_there_are_enough(speakers):
    corpus, _ = planted()
    names = [f"s{i % speakers}" for i in range(90)]
    made, notes = team.with_sessions(replace(corpus, clips=corpus.clips.assign(session=1, speaker=names)))
    sizes = made.clips.groupby("session").size()
    assert len(sizes) == min(5, speakers if speakers > 2 else 5) and len(notes) == 1
    assert sizes.max() <= 2 * sizes.min()
    if speakers > 2:
        assert (made.clips.groupby("speaker")["session"].nunique() == 1).all()
    assert made.clips["session"].equals(
        team.with_sessions(replace(corpus, clips=corpus.clips.assign(session=1, speaker=names)))[0].clips["session"])


@given(st.lists(st.text(min_size=1), unique=True))
def test_file_names_stay_in_the_folder_and_differ(names):
    files = list(team.file_names(names).values())
    assert len({name.lower() for name in files}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+\.safetensors", name) for name in files)


@given(st.text(), st.integers(4, 20))
def test_names_in_the_terminal_have_the_width_asked_for(name, width):
    assert sum(map(verdicts._columns, verdicts.fit(name, width))) == width
