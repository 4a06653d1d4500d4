"""One listener's steps: they start at the shared head, end where the evaluation ends, and are recorded as they are."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from sklearn.metrics import log_loss

from perser import model, records, seeds, walkthrough
from perser.adapt import constant_lr
from perser.analysis import figures
from perser.data import Data, Task, rating_targets
from perser.episodes import Episodes, batch_of
from perser.errors import UserError
from perser.methods import GradientModel
from perser.settings import Base

CLASSES = ("w", "x", "y", "z")


@pytest.fixture
def task():
    """30 ratings by one listener; clips are numbered backwards."""
    generator = seeds.generator(0, "test steps")
    labels = torch.rand(30, 4, generator=generator) > 0.6
    labels[:, 0] |= ~labels.any(1)
    data = Data(
        features=torch.randn(30, 2, 6, generator=generator),
        session=np.ones(30, int),
        clip=np.arange(30)[::-1].copy(),
        listener=np.zeros(30, int),
        labels=labels,
        listeners=("E1",),
        clips=tuple(f"c{i}" for i in range(30)),
        classes=CLASSES,
    )
    weights = torch.tensor([0.5, 1, 1, 1.5])
    return Task(data, None, rating_targets(labels, 0.05), weights, weights.flip(0), torch.zeros(2, 6),
                torch.ones(2, 6), Base())


@pytest.fixture
def episodes():
    """Two draws of 5 shots."""
    order = np.stack([np.random.default_rng(i).permutation(30) for i in range(2)])
    return Episodes(order[:, :5], order[:, 5:])


@pytest.fixture
def adapting():
    """Three steps."""
    head = model.init(2, 6, 8, 4, seeds.generator(1, "test steps"))
    return GradientModel(head, {5: constant_lr(0.3, 3)})


def draw(episodes, number):
    return Episodes(*(ratings[number:number + 1] for ratings in episodes))


def logits_of(task, head, ratings):
    return model.logits(head, task.data.features[29 - torch.as_tensor(ratings)])


def test_the_trail_starts_at_the_shared_head_and_ends_where_the_evaluation_does(task, episodes, adapting):
    trail = walkthrough.trail(task, draw(episodes, 1), adapting, 5)
    assert len(trail) == 4
    assert all(torch.equal(a, b) for a, b in zip(trail[0], adapting.head, strict=True))
    expected = next(adapting.answers(batch_of(task, episodes), [adapting.settings[5]]))[1]
    torch.testing.assert_close(logits_of(task, trail[-1], episodes.query[1]), expected, rtol=1e-4, atol=1e-5)


def test_a_step_is_described_by_the_loss_of_its_head_and_the_share_of_its_tensors(task, episodes, adapting):
    trail = walkthrough.trail(task, draw(episodes, 0), adapting, 5)
    steps = walkthrough.by_step(task, trail, draw(episodes, 0))
    assert list(steps["step"]) == [0, 1, 2, 3]
    assert steps["support_loss"].is_monotonic_decreasing
    assert (steps.loc[0, ["P", "b", "A", "a"]] == 0).all()
    assert (steps.loc[1:, ["P", "b", "A", "a"]] > 0).all(axis=None)
    query = episodes.query[0]
    logits = logits_of(task, trail[2], query)
    expected = model.cross_entropy(logits, task.targets[query], task.class_weights)
    assert steps.loc[2, "query_loss"] == pytest.approx(float(expected), rel=1e-5)
    support = episodes.support[0]
    logits = logits_of(task, trail[2], support)
    expected = model.cross_entropy(logits, task.targets[support], task.class_weights.flip(0))
    assert steps.loc[2, "support_loss"] == pytest.approx(float(expected), rel=1e-5)
    logits = logits_of(task, trail[2], query)
    labels, top = task.data.labels[query], logits.argmax(1)
    assert steps.loc[2, "accuracy"] == pytest.approx(100 * float(labels[range(25), top].float().mean()), rel=1e-5)
    weights = (labels / labels.sum(1, keepdim=True)).numpy()  # a rating of m ticks is m rows of weight 1/m
    rows, ticked = weights.nonzero()
    shares = logits.double().softmax(1).numpy()[rows]
    by_hand = log_loss(ticked, shares, sample_weight=weights[rows, ticked], labels=range(4))
    assert steps.loc[2, "log_loss"] == pytest.approx(100 * by_hand, rel=1e-5)
    # Replacing the output bias alone moves the logits of all clips by the same amounts.
    assert steps.loc[3, "a"] == pytest.approx(float((trail[3].a - trail[0].a).square().mean().sqrt()), rel=1e-4)


def test_every_draw_is_scored_by_the_model_that_its_shots_make(task, episodes, adapting):
    general = model.init(2, 6, 8, 4, seeds.generator(2, "test steps"))
    swapped = Episodes(episodes.support[::-1].copy(), episodes.query)
    draws = walkthrough.by_draw(task, {"own": episodes, "other": swapped}, general, adapting, 5)
    assert draws["draw"].tolist() == [0, 1]
    for name, part in (("own", episodes), ("other", swapped)):
        ends = [walkthrough.by_step(task, walkthrough.trail(task, draw(part, number), adapting, 5), draw(part, number))
                .iloc[-1] for number in (0, 1)]
        for score in ("accuracy", "log_loss"):
            assert draws[f"{name} {score}"].tolist() == pytest.approx([end[score] for end in ends], rel=1e-4)
    start = walkthrough.by_step(task, [general], draw(episodes, 1)).iloc[0]
    assert draws.loc[1, "general log_loss"] == pytest.approx(start["log_loss"])
    assert draws["own log_loss"].nunique() == 2 and (draws["own log_loss"] != draws["other log_loss"]).all()


def test_answers_name_clips_and_ticks_and_hold_both_models_probabilities(task, episodes, adapting):
    [first, *_, last] = walkthrough.trail(task, draw(episodes, 1), adapting, 5)
    table = walkthrough.answers(task, episodes.query[1], before=first, after=last)
    assert list(walkthrough.answers(task, episodes.query[1])) == ["clip", "ticks"]
    assert list(table) == ["clip", "ticks", *(f"{name} {label}" for name in ("before", "after") for label in CLASSES)]
    for place, rating in enumerate(episodes.query[1]):
        assert table.loc[place, "clip"] == f"c{29 - rating}"
        assert table.loc[place, "ticks"] == ";".join(
            name for name, on in zip(CLASSES, task.data.labels[rating], strict=True) if on)
    for name, head in (("before", first), ("after", last)):
        np.testing.assert_allclose(table.filter(like=name), logits_of(task, head, episodes.query[1]).softmax(1),
                                   rtol=1e-5)


def test_bars_are_the_answers_and_stars_the_ticks(task, episodes, adapting):
    [first, *_, last] = walkthrough.trail(task, draw(episodes, 1), adapting, 5)
    rows = walkthrough.answers(task, episodes.query[1][:4], before=first, after=last)
    figure = figures.answers(rows, list(CLASSES), "synthetic: listeners")
    assert figure.get_suptitle() == "synthetic: listeners"
    for axes, row in zip(figure.axes, rows.to_dict("records"), strict=False):
        widths = [bar.get_width() for bar in axes.patches]
        assert widths == pytest.approx([row[f"{name} {label}"] for name in ("before", "after") for label in CLASSES])
        [stars] = axes.lines
        assert [CLASSES[int(y)] for y in stars.get_ydata()] == row["ticks"].split(";")
        assert axes.get_title() == row["clip"] or axes.get_title(loc="left") == row["clip"]


def test_the_picture_of_the_rates_holds_their_numbers():
    table = pd.DataFrame({"P": [0.25, -0.004], "a": [-1.5, 3.0]})
    axes = figures.rates(table, "").axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.25", "0.00", "-1.50", "3.00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["P: first map", "a: its bias"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert axes.collections[0].get_clim() == (-3, 3) and len(axes.figure.axes) == 2, "a colour bar"


def run_of(gains) -> records.Run:
    """A run of SSL-E at 100 hundredths of a nat and a method that gains those by (listener, fold, seed)."""
    rows = []
    for (listener, fold, seed), gain in gains.items():
        for method, shots, loss in (("ssl-e", 0, 1.0), ("m", 5, 1.2), ("m", 9, 1 - gain / 100)):
            for setting, extra in (("unseen", 0), ("seen", 0.5)):
                rows.append({"method": method, "shots": shots, "setting": setting, "listener": listener, "fold": fold,
                             "seed": seed, "queries": 8, "log_loss": 8 * (loss + extra * seed)})
    frame = pd.DataFrame(rows).assign(corpus="c", upstream="u", synthetic="", experiment="e")
    info = {name: records.MethodInfo(title=name.upper(), group=records.GROUPS[0], kind=name) for name in ("ssl-e", "m")}
    return records.Run(frame, records.Manifest.model_construct(methods=info, data_digest="d"))


def test_the_walk_is_the_one_of_median_gain_whatever_the_order():
    gains = {("L1", 1, 0): 4.0, ("L2", 1, 0): -3.0, ("L1", 2, 0): 1.5, ("L2", 2, 1): 0.5}
    for order in (gains, dict(reversed(gains.items()))):
        about = walkthrough.median_gain(run_of(order), "m")
        assert (about["listener"], about["fold"], about["seed"], about["shots"]) == ("L2", 2, 1, 9)
        assert (about["gain"], about["least"], about["greatest"], about["walks"]) == (0.5, -3.0, 4.0, 4)
    with pytest.raises(UserError, match="method 'maml' or SSL-E is not in this run; it has ssl-e, m"):
        walkthrough.median_gain(run_of(gains), "maml")


def test_the_clip_of_a_walk_is_the_one_whose_answer_moved_most():
    rows = pd.DataFrame({"clip": ["a", "b", "c"], "before x": [0.5, 0.2, 0.9], "before y": [0.5, 0.8, 0.1],
                         "after x": [0.6, 0.9, 0.9], "after y": [0.4, 0.1, 0.1]})
    moved = walkthrough.by_movement(rows, ["x", "y"])
    assert moved["clip"].tolist() == ["b", "a", "c"] and moved["moved"].tolist() == pytest.approx([0.7, 0.1, 0])


def test_a_spectrogram_shows_the_tone_where_and_when_it_sounds(tmp_path):
    """Half a second of silence, then half a second of 1 kHz."""
    time = np.arange(16000) / 16000
    soundfile.write(tmp_path / "tone.wav", np.where(time < 0.5, 0, 0.5 * np.sin(2 * np.pi * 1000 * time)), 16000)
    table = walkthrough.sound(tmp_path / "tone.wav").set_index("hertz")
    seconds = table.columns.astype(float)
    assert table.index[-1] == 4000 and np.diff(seconds) == pytest.approx([0.02] * (len(seconds) - 1), abs=0.011)
    assert table.stack().idxmax()[0] == 1000 and table.to_numpy().max() == 0 and table.to_numpy().min() == -60
    assert (table.loc[:, seconds < 0.48] == -60).all(axis=None) and (table.loc[1000, seconds > 0.52] > -3).all()
    axes = figures.sound(table.reset_index(), "tone", "").axes[0]
    assert axes.get_images()[0].get_array().shape == table.shape and axes.get_ylim() == (0, 4)


@pytest.mark.parametrize("damage", ["absent", "half", "garbled"])
def test_a_walk_that_is_not_whole_is_one_line_with_the_command(tmp_path, damage):
    if damage != "absent":
        (tmp_path / "walk").mkdir()
        for name in ("rates", "shots", "steps", "answers") + (("draws", "sound") if damage == "garbled" else ()):
            (tmp_path / "walk" / f"{name}.csv").write_text("a\n1\n")
        (tmp_path / "walk" / "about.json").write_text("{")
    with pytest.raises(UserError, match=r"no whole record of a walk.*perser walk .* --root DIR") as error:
        walkthrough.read(tmp_path)
    assert "\n" not in str(error.value)
