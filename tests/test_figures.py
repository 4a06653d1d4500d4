"""Figures: what is drawn is what the records say, stamped, legible and the same bytes every time."""

import itertools

import matplotlib as mpl
import pytest
from made_records import exchanged, made_run, made_study
from matplotlib.colors import to_rgb
from PIL import Image
from test_tables import made_records, personal_run

from perser.analysis import comparison, figures
from perser.analysis.experiments import main, methods, shots

DRAWN = (lambda run: shots.lines(run, "unseen"), main.gains, methods.forest, methods.headline)


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


@pytest.mark.parametrize("draw", DRAWN)
@pytest.mark.parametrize("synthetic", ["", "speech and listeners"])
def test_stamped_when_and_only_when_data_is_made_up(draw, synthetic):
    shown = texts(draw(made_run(made_records(synthetic))))
    assert any(text == f"synthetic {synthetic}" for text in shown) == bool(synthetic)
    assert any("95 % interval over listeners" in text for text in shown)


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
@pytest.mark.parametrize("lost", [None, 3])
def test_no_text_covers_another_or_leaves_the_page(draw, better, lost):
    run = made_run(made_records("speech and listeners", better=better))
    figure = draw(run if lost is None else exchanged(run, lost))
    shown, page = boxes(figure), figure.bbox
    for (one, a), (two, b) in itertools.combinations(shown, 2):
        shared = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(shared) < 1, (one, two)
    for text, box in shown:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text


def drawn_ends(axes):
    return {line.get_color(): line.get_ydata()[-1] for line in axes.get_lines()
            if line.get_linestyle() != "None" and line.get_linewidth() > 1 and line.get_color() != figures.GREY}


def test_lines_are_gain_and_personal_part_of_every_score():
    run = personal_run()
    panels = shots.lines(run, "seen").axes
    rows = comparison.rows(run)
    rows = rows[(rows["setting"] == "seen") & (rows["shots"] == 20)].set_index(["score", "method"])
    for axes, (score, part) in zip(panels, itertools.product(("log_loss", "accuracy", "f1"), comparison.PARTS)):
        expected = {figures.PALETTE[method][0]: rows.loc[(score, method), part]
                    for method in ("fine-tuning", "meta-perser")}
        assert drawn_ends(axes) == pytest.approx(expected)
    assert [axes.get_title(loc="left") for axes in panels[:2]] == ["Gain", "Personal part"]
    assert len(shots.lines(made_run(made_records()), "seen").axes) == 2, "gains alone, in the two scores of old records"


def test_bars_are_the_intervals():
    run = made_run(made_records())
    bars = shots.lines(run, "unseen").axes[1].containers[0]
    drawn = [tuple(segment[:, 1]) for segment in bars[2][0].get_segments()]
    rows = comparison.rows(run)
    rows = rows[(rows["method"] == "fine-tuning") & (rows["setting"] == "unseen") & (rows["score"] == "f1")]
    assert list(zip(*drawn)) == [pytest.approx(list(rows["gain_low"])), pytest.approx(list(rows["gain_high"]))]


def test_open_marks_are_gains_and_filled_ones_personal_parts():
    run = personal_run()
    rows = comparison.rows(comparison.largest(run)).set_index(["setting", "method", "score"])
    for axes, score in zip(methods.forest(run).axes, ("log_loss", "accuracy", "f1")):
        marks = {(round(-bar[0].get_ydata()[0]), bar[0].get_markerfacecolor() == "white"): bar[0].get_xdata()[0]
                 for bar in axes.containers}
        lines = [tick.get_text() for tick in axes.figure.axes[0].get_yticklabels()]
        place = lines.index("Meta-PerSER")  # of seen clips, which come first
        row = rows.loc[("seen", "meta-perser", score)]
        assert (marks[place, True], marks[place, False]) == pytest.approx((row["gain"], row["personal"]))


def test_the_headline_shows_gain_personal_part_and_the_best_simple_rival():
    """Levels of 1, 3 and 6 hits and 4 for the shots: gains of 5, 7 and 10 in log loss, personal parts of 3."""
    figure = methods.headline(personal_run(**{"prior-shift": 3}))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Seen clips, K = 20", "Unseen clips, K = 20"]
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == ["Meta-PerSER", "Prior shift", "Fine-tuning"]
    assert [tick.get_fontweight() for tick in figure.axes[0].get_yticklabels()] == ["normal", "bold", "normal"]
    for axes in figure.axes:
        assert [bar[0].get_xdata()[0] for bar in axes.containers] == pytest.approx([10, 7, 5])
        personal = [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "D"]
        assert personal == pytest.approx([3] * 3)
        assert [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == "--"] == pytest.approx([7])


def test_files_say_where_their_numbers_come_from(tmp_path):
    run = made_run(made_records())
    pdf, png = figures.save(methods.headline(run), tmp_path / "one")
    with Image.open(png) as picture:
        assert "c0ffee" in picture.text["Description"] and picture.width == 1360
    assert b"c0ffee" in pdf.read_bytes()
    assert not [text for text in texts(methods.headline(run)) if "c0ffee" in text]


def test_the_answer_names_the_best_with_and_without_meta_learning():
    run = personal_run(**{"prior-shift": 3})
    text = methods.answer(run)
    assert text.startswith("With 20 labelled clips of a listener, 3 of 3 methods have a personal part above zero")
    assert "meta-learning is ahead of the best method without it on seen and unseen clips. Gain in log loss" in text
    assert "without meta-learning Prior shift +7.0 on seen clips, +7.0 on unseen clips; with it Meta-PerSER +10" in text
    assert "difference +3.0" in text
    assert "meta-learning is behind the best method" in methods.answer(personal_run(**{"prior-shift": 9}))
    assert "anything simpler" in methods.answer(made_run(made_study({"ssl-e": 0, "maml": 1})))


def test_each_listener_is_a_mark_of_its_gain_and_personal_part():
    run = personal_run()
    first = run.exchanged["listener"].eq("E3") & run.exchanged["method"].eq("meta-perser")
    run = run._replace(exchanged=run.exchanged.assign(log_loss=run.exchanged["log_loss"] + 2.0 * first))
    top = main.gains(run).axes[0]
    marks = {line.get_markerfacecolor(): list(line.get_ydata()) for line in top.get_lines()
             if len(line.get_ydata()) == 8}
    assert marks.pop("white") == pytest.approx([10] * 8)
    assert [*marks.values()] == [pytest.approx([3] * 7 + [4])], "sorted by the personal part"
    assert [label.get_text() for label in top.get_xticklabels()][-1] == "E3"


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
