"""Personalising by ear without a browser: what is played, ratings on disk, predictions before answers, the verdict."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import CLASSES, UPSTREAM
from test_team import OVERRIDES, planted

from perser import by_ear, personal, team
from perser.analysis import verdicts
from perser.by_ear import Study, opinions, order
from perser.cli import main
from perser.corpora import schema
from perser.errors import UserError

SHOTS = 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A general model of planted listeners, standardised features of 90 clips, and what most hear in each."""
    corpus, features = planted()
    prepared = team.prepare(corpus, OVERRIDES)
    plan = team.Plan(prepared.experiment, corpus, UPSTREAM, features, "none", tmp_path_factory.mktemp("run"))
    model = team.general(plan)
    return model, (features - model.mean) / model.scale, features[..., :4].sum(1).argmax(-1).tolist()


def study(trained, out, shots=SHOTS) -> Study:
    files = {f"clip {i:02d}.wav": Path(f"clip {i:02d}.wav") for i in range(90)}
    return Study(trained[0], files, trained[1], shots, out)


def ticks(*labels: int) -> tuple[bool, ...]:
    return tuple(place in labels for place in range(len(CLASSES)))


def rate(study, name, hears, number):
    """Somebody who hears a clip as `hears` says answers so many clips."""
    for _ in range(number):
        clip = study.next(study.read(name))
        study.keep(name, clip, hears(clip))


def test_votes_and_the_model_as_one_more_listener():
    """Two say A, one says A and B, a fourth nothing: (2 + 1/2 + .2, 1/2 + .8) / 4. The other clip is the model's."""
    rows = [("x", {"A"}), ("x", {"A"}), ("x", {"A", "B"}), ("x", set())]
    table = schema.Table(("A", "B"), [schema.Rating("", clip, "", "", "", {}) for clip, _ in rows],
                         [on for _, on in rows], [])
    given = opinions(np.array([[0.2, 0.8], [0.7, 0.3]]), ["x", "y"], ("A", "B"), table)
    assert given == pytest.approx(np.array([[2.7 / 4, 1.3 / 4], [0.7, 0.3]]))


@given(st.integers(2, 5), st.integers(1, 30), st.integers(0, 9))
def test_what_is_played_covers_all_classes_and_every_clip_once(classes, shots, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(classes), size=40)
    played = order(p, shots)
    assert sorted(played) == list(range(40)) and played == order(p.copy(), shots)
    likeliest = p.argmax(1)
    counts = [sum(likeliest[row] == label for row in played[:shots]) for label in range(classes)]
    able = [(likeliest == label).sum() for label in range(classes)]
    assert all(count >= min(able[label], shots // classes) for label, count in enumerate(counts))
    spread = -(p * np.log(p)).sum(1)
    far = abs(spread - np.median(spread))
    for label in range(classes):  # of a class, those that are disputed as most clips are
        chosen = [far[row] for row in played[:shots] if likeliest[row] == label]
        others = [far[row] for row in played[shots:] if likeliest[row] == label]
        assert not chosen or not others or max(chosen) <= min(others)


def test_a_rating_is_read_back_in_its_place_and_a_correction_replaces_it(trained, tmp_path):
    first = study(trained, tmp_path)
    given = [(3, ticks(0, 2)), (1, ticks()), (2, ticks(3))]
    for clip, on in given:
        first.keep("Zoë", clip, on)
    assert study(trained, tmp_path).read("zoë") == given  # another server, another spelling
    first.keep("zoë", 3, ticks(1))
    assert first.read("Zoë") == [(3, ticks(1)), *given[1:]]
    table = schema.read(first.file("Zoë"), CLASSES)
    assert [rating.listener for rating in table.ratings] == ["Zoë"] * 3
    assert table.ticks == [{CLASSES[1]}, set(), {CLASSES[3]}]
    assert pd.read_csv(first.file("Zoë")).columns.tolist() == ["clip", "listener", "label"]


def test_two_tabs_and_two_servers_lose_no_rating(trained, tmp_path):
    servers = [study(trained, tmp_path), study(trained, tmp_path)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda clip: servers[clip % 2].keep("Ann", clip, ticks(clip % 4)), range(60)))
    assert sorted(servers[0].read("Ann")) == [(clip, ticks(clip % 4)) for clip in range(60)]


def test_two_listeners_do_not_mix(trained, tmp_path):
    both = study(trained, tmp_path)
    rate(both, "Ann", lambda clip: ticks(0), 3)
    rate(both, "Bob", lambda clip: ticks(1), 2)
    assert [on for _, on in both.read("Ann")] == [ticks(0)] * 3 and [on for _, on in both.read("Bob")] == [ticks(1)] * 2


def test_every_answer_is_predicted_before_it_is_used(trained, tmp_path):
    """Each prediction is that of a model adapted, apart from this code, to the earlier ratings with a tick alone."""
    once, draw = study(trained, tmp_path), np.random.default_rng(0)
    rate(once, "Ann", lambda clip: ticks() if clip % 5 == 0 else ticks(int(draw.integers(4))), 20)
    rated = once.read("Ann")
    used = [(clip, on) for clip, on in rated if any(on)]
    answers = once.answers(rated)
    own = answers[answers["shots_of"] == "own"].reset_index(drop=True)
    assert len(own) == len(used) - SHOTS > 3 and len(used) < 20
    for row, place in zip(own.itertuples(), range(SHOTS, len(used))):
        before = used[:place]
        model = personal.adapted(trained[0], trained[1][[clip for clip, _ in before]],
                                 torch.tensor([on for _, on in before]))
        log_p = personal.logits(model.head, trained[1][used[place][0]]).double().log_softmax(-1)
        assert row.loss == pytest.approx(-float(log_p[used[place][1].index(True)]))
    changed = [*rated[:-1], (rated[-1][0], ticks(0, 1, 2, 3))]
    assert once.answers(changed)["likeliest"].tolist() == answers["likeliest"].tolist()


def test_who_swaps_two_classes_is_told_better_and_who_ticks_at_random_is_not(trained, tmp_path):
    swap, draw, truth = [1, 0, 2, 3], np.random.default_rng(1), trained[2]
    both = study(trained, tmp_path)
    for name, hears, verdict in (("swaps", lambda clip: ticks(swap[truth[clip]]), verdicts.BETTER),
                                 ("random", lambda clip: ticks(int(draw.integers(4))), verdicts.KEEP)):
        rate(both, name, hears, SHOTS + 25)
        row = both.verdict(both.read(name))
        assert (row["verdict"], row["ratings"]) == (verdict, 25)
    assert both.verdict(both.read("swaps")[:SHOTS + 1]) is None  # one answer has no interval


def test_the_saved_model_is_that_of_all_ratings(trained, tmp_path):
    one = study(trained, tmp_path)
    rate(one, "Ann", lambda clip: ticks(clip % 4), 12)
    saved, rated = personal.load(one.save("Ann")), one.read("Ann")
    expected = personal.adapted(trained[0], trained[1][[clip for clip, _ in rated]],
                                torch.tensor([on for _, on in rated]))
    assert all(torch.equal(a, b) for a, b in zip(saved.head, expected.head))
    assert saved.about["listener"] == "Ann" and saved.about["shots"] == 12
    assert saved.about["verdict"] == one.verdict(rated)["verdict"]


def test_a_class_other_is_ticked_by_its_name(trained, tmp_path):
    model = trained[0]._replace(about=trained[0].about | {"classes": ["angry", "happy", "Other", "sad"]})
    one = study((model, trained[1]), tmp_path)
    assert one.none is None
    one.keep("Ann", 0, ticks(2))
    assert one.read("Ann") == [(0, ticks(2))]


def test_too_few_clips_say_how_many_are_missing(trained, tmp_path):
    with pytest.raises(UserError, match=r"^90 clips; 90 shots .* at least 91: add clips, or give --shots"):
        study(trained, tmp_path, 90)


@pytest.mark.parametrize("name", ["", "  ", "../x", ".x", "=1+1", "-a", "a\0b", "a\x1bb", "\ud800x", "x" * 61, "<b>"])
def test_a_name_that_no_table_could_hold_is_refused(name):
    with pytest.raises(UserError, match="a name begins with a letter or digit"):
        by_ear.cleaned(name)


@given(st.text(), st.text())
def test_file_names_stay_in_the_folder_and_differ(one, other):
    stems = [by_ear.stem(name) for name in (one, other)]
    assert all(len(stem) < 100 and set(stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for stem in stems)
    assert (stems[0] == stems[1]) == (schema.alike(one) == schema.alike(other))


def test_clips_of_a_folder(tmp_path):
    for name in ("b/x y.WAV", "a.flac", ".hidden.wav", "._a.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert by_ear.files(tmp_path) == {"a.flac": tmp_path / "a.flac", "b/x y.wav": tmp_path / "b" / "x y.WAV"}
    (tmp_path / "b" / "x y.wav").touch()
    with pytest.raises(UserError, match="no table of ratings can name this clip; rename it"):
        by_ear.files(tmp_path)
    with pytest.raises(UserError, match="has no clips"):
        by_ear.files(tmp_path / "notes")


def test_the_curve_on_paper():
    """The general model is right on the 1st of 2, the personal on both: 50 % and 100 %."""
    rows = [("general", 8, 1.0), ("own", 8, 1.0), ("general", 9, 0.0), ("own", 9, 1.0)]
    drawn = by_ear.curve(pd.DataFrame(rows, columns=["shots_of", "rating", "hit"]), 8)
    assert drawn["general"] == "0.0,0.0 240.0,70.0" and drawn["own"] == "0.0,0.0 240.0,0.0"
    assert "50% of them, yours with 100%" in drawn["words"] and (drawn["first"], drawn["last"]) == (9, 10)
    assert drawn["general_y"] - drawn["own_y"] == pytest.approx(70)
    assert by_ear.curve(pd.DataFrame(), 8) is None


def test_without_gradio_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "perser.app", raising=False)
    monkeypatch.delattr("perser.app", raising=False)
    with pytest.raises(SystemExit) as stop:
        main.main(["app", "--model", str(tmp_path), "--audio", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith('pip install "perser[app]"')
