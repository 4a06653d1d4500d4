"""The Personaliser keeps scikit-learn's conventions, and says what the functions below it say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made import UPSTREAM
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from test_team import planted

from perser import Personaliser, UserError, personal, team
from perser.analysis import figures, verdicts
from perser.corpora import schema
from perser.plan import Plan

SETTINGS = ("shots=[5,10]", "base.hidden=8", "base.lr=0.02", "base.epochs=10")
CORPUS, FEATURES = planted()
CLIPS, CLASSES = [*CORPUS.clips.index], [*CORPUS.classes]
TRUTH = FEATURES[..., :4].sum(1).argmax(-1).numpy()
RATINGS = schema.rows(CORPUS)[0].assign(clip=CORPUS.ratings["clip"].to_numpy())


def of(listener: str) -> pd.DataFrame:
    return RATINGS[RATINGS["listener"] == listener]


@pytest.fixture(scope="module")
def fitted() -> Personaliser:
    return Personaliser(settings=SETTINGS, random_state=3).fit(RATINGS, FEATURES, CLIPS, classes=",".join(CLASSES))


def test_the_constructor_neither_works_nor_checks_and_clone_is_unfitted(fitted):
    wrong = Personaliser(upstream="nobody", method=7, random_state="x", store="/no/such", n_jobs=-9)
    assert wrong.get_params() == {"upstream": "nobody", "method": 7, "settings": (), "random_state": "x",
                                  "store": "/no/such", "n_jobs": -9}
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params() and not hasattr(copy, "general_")
    assert copy.set_params(method="prior-shift") is copy and copy.method == "prior-shift"
    with pytest.raises(ValueError, match="Invalid parameter 'shots'"):
        copy.set_params(shots=5)


@pytest.mark.parametrize("call", [lambda model: model.predict(FEATURES), lambda model: model.predict_proba(["a.wav"]),
                                  lambda model: model.predict_frame("a.wav"), lambda model: model.adapt(of("Ann")),
                                  lambda model: model.score(of("Ann"), FEATURES, CLIPS), lambda model: model.save("x")])
def test_before_fit_everything_is_not_fitted(call):
    with pytest.raises(NotFittedError):
        call(Personaliser())


def test_fit_is_the_general_model_of_a_team_and_each_listener_s_own(fitted):
    """The same by hand: the plan of the same corpus, its general model, its personal models."""
    assert [*fitted.classes_] == CLASSES and {*fitted.listeners_} == {*RATINGS["listener"]}
    assert fitted.n_features_in_ == 12 and fitted.general_.about["seed"] == 3
    prepared = team.prepare(CORPUS, ("seeds=[3]", *SETTINGS))
    plan = Plan(prepared.experiment, prepared.corpus, UPSTREAM, FEATURES, "none", Path())
    own = dict(team.personal_models(plan, fitted.general_, prepared.corpus.ratings))
    for name, model in fitted.models_.items():
        torch.testing.assert_close(model.head, own[name].head)


def test_adapting_changes_what_is_predicted_and_the_known_and_the_new_are_alike(fitted):
    swapped = np.array([1, 0, 2, 3])[TRUTH]
    assert (fitted.adapt(listener="Ann").predict(FEATURES) == np.array(CLASSES)[TRUTH]).mean() > 0.75
    assert fitted.adapt(listener="swaps") is fitted
    known = fitted.predict_proba(FEATURES)
    assert (known.argmax(1) == swapped).mean() > 0.75
    new = fitted.adapt(of("swaps").assign(listener="new")).predict_proba(FEATURES.numpy())
    np.testing.assert_allclose(new, known, atol=1e-6)
    assert new.shape == (len(CLIPS), 4)
    np.testing.assert_allclose(new.sum(1), 1, atol=1e-6)
    assert (fitted.predict(FEATURES) == fitted.classes_[new.argmax(1)]).all()
    frame = fitted.predict_frame(FEATURES[:3])
    assert [*frame] == ["file", "label", *CLASSES] and [*frame["file"]] == ["0", "1", "2"]


def test_the_score_is_the_share_of_clips_whose_most_probable_class_the_listener_ticked(fitted):
    """A clip with two ticks counts as right by either, one with none does not count."""
    guessed = fitted.adapt(listener="Ann").predict(FEATURES[:4])
    wrong = [next(name for name in CLASSES if name != guess) for guess in guessed]
    labels = [guessed[0], wrong[1], f"{wrong[2]};{guessed[2]}", "Other"]
    assert fitted.score(pd.DataFrame({"clip": CLIPS[:4], "label": labels})) == pytest.approx(2 / 3)


def test_saved_and_loaded_it_predicts_the_same_and_adapts_from_the_folder_alone(fitted, tmp_path):
    expected = fitted.adapt(listener="swaps").predict_proba(FEATURES)
    fitted.save(tmp_path / "swaps.safetensors")
    fitted.save(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.json", "model.safetensors",
                                                                     "personal.safetensors"}
    alone, whole = (Personaliser.load(tmp_path / name) for name in ("swaps.safetensors", "model"))
    for loaded in (alone, whole):
        np.testing.assert_array_equal(loaded.predict_proba(FEATURES), expected)
        assert loaded.settings == SETTINGS and loaded.random_state == 3 and loaded.n_features_in_ == 12
    np.testing.assert_array_equal(whole.adapt(of("Ann"), FEATURES, clips=CLIPS).predict_proba(FEATURES),
                                  fitted.adapt(of("Ann")).predict_proba(FEATURES))
    assert whole.score(of("Ann"), FEATURES, CLIPS) > 0.8
    for call, words in ((lambda: alone.adapt(of("Ann"), FEATURES, clips=CLIPS), "load the folder"),
                        (lambda: alone.save(tmp_path / "x"), "end its name in .safetensors"),
                        (lambda: whole.score(of("Ann")), "audio=None"),
                        (lambda: whole.adapt(listener="Ann"), "was not in fit"),
                        (lambda: Personaliser.load(tmp_path), "model.json: no model there"),
                        (lambda: Personaliser.load(tmp_path / "model" / "model.json"), "not a personal model")):
        with pytest.raises(UserError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_paths_and_arrays_are_one_and_verdicts_are_those_of_the_team(tmp_path):
    RATINGS.to_csv(tmp_path / "ratings.csv", index=False)
    values = pd.DataFrame(FEATURES.flatten(1).numpy(), columns=[f"f{i}" for i in range(12)])
    values.insert(0, "clip", CLIPS)
    values.to_parquet(tmp_path / "features.parquet")
    model = Personaliser(settings=(*SETTINGS, "folds=[1]", "draws=2"))
    by_path = clone(model).fit(tmp_path / "ratings.csv", str(tmp_path / "features.parquet"))
    by_array = clone(model).fit(RATINGS, FEATURES.flatten(1), CLIPS)
    np.testing.assert_allclose(by_path.predict_proba([tmp_path / "features.parquet"]),
                               by_array.predict_proba(FEATURES.flatten(1)), atol=1e-5)
    assert str(tmp_path) not in str(by_path.general_.about)
    table = model.verdicts(RATINGS, FEATURES, tmp_path / "out", CLIPS)
    assert {*table["listener"]} == {*RATINGS["listener"]} and not hasattr(model, "general_")
    saved = personal.load(tmp_path / "out" / "listeners" / "swaps.safetensors")
    loaded = Personaliser.load(tmp_path / "out" / "listeners" / "swaps.safetensors")
    assert (loaded.predict(FEATURES) == np.array(CLASSES)[personal.logits(
        saved.head, (FEATURES - saved.mean) / saved.scale).argmax(-1)]).all()
    from_command = Personaliser.load(tmp_path / "out" / "model")
    assert from_command.adapt(of("Ann"), FEATURES, clips=CLIPS).method == "robust-prior"


@pytest.mark.parametrize(("changes", "arguments", "words"), [
    ({"method": "robust"}, (RATINGS, FEATURES, CLIPS), "method 'robust' is unknown: did you mean 'robust-prior'"),
    ({"random_state": None}, (RATINGS, FEATURES, CLIPS), "random_state None: give a whole number"),
    ({"settings": ("drws=3",)}, (RATINGS, FEATURES, CLIPS), "nearest valid key is draws"),
    ({}, (RATINGS, FEATURES, None), "clips=None: name the clip of every row"),
    ({}, (RATINGS, FEATURES, CLIPS[1:]), r"^features.npy: features .* of 89 clips"),
    ({}, (RATINGS, [["x"]], CLIPS), "features: no array of numbers"),
    ({}, (RATINGS.drop(columns="label"), FEATURES, CLIPS), "ratings:1: names no class"),
    ({}, (RATINGS.replace("swaps", ""), FEATURES, CLIPS), r"^ratings:\d+: no listener; fill it in"),
    ({}, (RATINGS, "nowhere", None), "nowhere: no such folder"),
    ({}, ("nowhere.csv", FEATURES, CLIPS), r"nowhere\.csv: no such file"),
    ({}, (of("Ann"), FEATURES, CLIPS), "1 of 1 listeners have the 10 ratings"),
])
def test_bad_input_is_one_line(changes, arguments, words):
    with pytest.raises(UserError, match=words) as caught:
        Personaliser(**changes).fit(*arguments)
    assert "\n" not in str(caught.value)


def test_files_that_are_none_and_features_of_another_width_are_one_line(fitted):
    for files, words in (([], "give paths"), ([1.5], "give paths"),
                         (FEATURES[:, :, :5], "trained on features of 2 x 6"),
                         ("nowhere.npy", "nowhere.npy: no table of features")):
        with pytest.raises(UserError, match=words):
            fitted.predict(files)


def test_the_figure_shows_each_tested_listener_s_gain_with_its_interval():
    table = pd.DataFrame({"listener": ["helped", "untested", "not"], "gain": [0.1, np.nan, -0.02],
                          "low": [0.05, np.nan, -0.05], "high": [0.16, np.nan, 0.01],
                          "verdict": [verdicts.BETTER, verdicts.KEEP, verdicts.KEEP]})
    axes = figures.helped(table, 10, "synthetic listeners").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["not", "helped"]
    for container, x, y, ends in zip(axes.containers, (10, -2), (1, 0), ((5, 16), (-5, 1)), strict=True):
        line, _, (bar,) = container
        assert (line.get_xdata(), line.get_ydata()) == (pytest.approx([x]), [y])
        np.testing.assert_allclose(bar.get_segments()[0], [[ends[0], y], [ends[1], y]])
