"""Figures: what is drawn is what the records say, stamped, legible and the same bytes every time."""

import itertools

import matplotlib as mpl
import pytest
from made_records import made_run
from matplotlib.colors import to_rgb
from test_tables import made_records

from perser.analysis import figures
from perser.analysis.experiments import main, shots
from perser.analysis.statistics import bootstrap_interval, select
from perser.scores import per_listener

DRAWN = (shots.score_lines, main.gains)


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


@pytest.mark.parametrize("draw", DRAWN)
@pytest.mark.parametrize("synthetic", ["", "speech and listeners"])
def test_stamped_when_and_only_when_data_is_made_up(draw, synthetic):
    shown = texts(draw(made_run(made_records(synthetic))))
    assert any(text == f"synthetic {synthetic}" for text in shown) == bool(synthetic)
    assert any("95 % bootstrap interval over listeners" in text for text in shown)


@pytest.mark.parametrize("draw", DRAWN)
def test_bytes_are_stable_and_settings_untouched(draw, tmp_path):
    before = dict(mpl.rcParams)
    files = [figures.save(draw(made_run(made_records())), tmp_path / name) for name in ("one", "two")]
    assert dict(mpl.rcParams) == before
    for one, two in zip(*files):
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("draw", DRAWN)
def test_column_width(draw):
    assert draw(made_run(made_records())).get_figwidth() == 3.4


def boxes(figure):
    """Text and box of every text that is drawn: ticks outside of an axis' limits are not."""
    figure.draw_without_rendering()
    hidden = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        hidden |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    shown = [
        text
        for text in figure.findobj(mpl.text.Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


@pytest.mark.parametrize("draw", DRAWN)
@pytest.mark.parametrize("better", [1, 0, -1])
def test_no_text_covers_another_or_leaves_the_page(draw, better):
    figure = draw(made_run(made_records("speech and listeners", better=better)))
    shown, page = boxes(figure), figure.bbox
    for (one, a), (two, b) in itertools.combinations(shown, 2):
        shared = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(shared) < 1, (one, two)
    for text, box in shown:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text


def test_lines_end_at_the_means_of_the_records():
    frame = made_records()
    left = shots.score_lines(made_run(frame)).axes[0]
    expected = {}
    for method, k in (("ssl-e", 0), ("fine-tuning", 20), ("meta-perser", 20)):
        colour = figures.PALETTE[method][0]
        expected[colour] = 100 * select(per_listener(frame), method, "seen", k).mean()
    drawn = {
        line.get_color(): line.get_ydata()[-1] for line in left.get_lines() if line.get_linestyle() != "None"
    }
    assert drawn == pytest.approx(expected)


def test_bars_are_the_intervals():
    frame = made_records()
    bars = shots.score_lines(made_run(frame)).axes[1].containers[0]
    drawn = [tuple(segment[:, 1]) for segment in bars[2][0].get_segments()]
    scores = per_listener(frame)
    for (low, high), k in zip(drawn, (5, 20), strict=True):
        expected = bootstrap_interval(100 * select(scores, "fine-tuning", "unseen", k), 0)
        assert (low, high) == pytest.approx((expected.low, expected.high))


def test_each_listener_is_a_dot_of_its_gain():
    frame = made_records()
    top = main.gains(made_run(frame)).axes[0]
    scores = per_listener(frame)
    gain = (
        100 * (select(scores, "meta-perser", "seen", 20) - select(scores, "ssl-e", "seen", 20)).sort_values()
    )
    colour = figures.PALETTE["meta-perser"][0]
    dots = next(line for line in top.get_lines() if line.get_color() == colour and len(line.get_ydata()) == 8)
    assert list(dots.get_ydata()) == pytest.approx(list(gain))
    assert [label.get_text() for label in top.get_xticklabels()] == list(gain.index)


def test_palette_differs_in_greyscale_and_in_marker():
    looks = list(figures.PALETTE.values())
    grey = sorted(
        sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(colour)))
        for colour, marker in looks
        if marker
    )
    assert all(two - one > 0.1 for one, two in itertools.pairwise(grey))
    assert len({marker for _, marker in looks}) == len(looks)


def test_unknown_methods_get_looks_of_their_own():
    names = ["ssl-e", "meta-perser", "reptile", "anil", "maml"]
    assert len(set(figures.look(names).values())) == len(names)
    assert figures.look(names)["maml"] == figures.PALETTE["maml"]
