"""Experiments: what is read, what is inherited, what is refused and in which words; and those that are committed."""

import json
import re
from pathlib import Path

import pytest

from perser import experiment, records, search, settings
from perser.errors import UserError
from perser.methods.maml import Maml

ROOT = Path(__file__).parents[1]
MAIN = '[methods.a]\nkind = "maml"\n'
KINDS = ("all-data, finetune, listener-embedding, maml, nearest-listener, population-prior, prior-shift, prototypes, "
         "robust-prior, shots-majority, shots-shares, ssl-e")


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "exp.toml"
        path.write_text(text)
        return path
    return write


def test_defaults_are_those_of_emo_superb(file):
    base = experiment.load(file(MAIN)).base
    assert (base.hidden, base.lr, base.batch_size, base.epochs, base.grad_clip) == (256, 1e-4, 32, 40, 1.0)
    assert base.label_smoothing == 0.05 and base.class_weights and base.targets == "distribution"


@pytest.mark.parametrize("text, override, words", [
    (MAIN + "inner_step = 3\n", (), "unknown key methods.a.inner_step; the nearest valid key is inner_steps"),
    ("drawz = 3\n" + MAIN, (), "unknown key drawz; the nearest valid key is draws"),
    (MAIN, ("base.epoch=3",), "unknown key base.epoch; the nearest valid key is epochs"),
    (MAIN, ("draws=none",), "draws: input should be a valid integer"),
    (MAIN, ("draws=0",), "draws: input should be greater than or equal to 1 (given: 0)"),
    (MAIN, ("draws",), "--set draws: write it as key=value"),
    (MAIN, ("name.x=1", "name.x.y=1"), "--set name.x.y=1: x is a value, not a table"),
    (MAIN, ("shots=[1, 1]",), "shots: value error, values must differ"),
    (MAIN, ("base=3",), "base: input should be a valid dictionary"),
    (MAIN, ("references=['b']",), "references: 'b' is no method of this experiment"),
    (MAIN, ("draws=true",), "draws: value error, true or false is no value of it"),
    (MAIN, ("shots=[5, true]",), "shots: value error, true or false is no value of it"),
    (MAIN + "lr_by_shots = true\n", (), "methods.a: value error, lr_by_shots needs lslr"),
    ("methods = ", (), "not valid TOML"),
    ("methods = 3", (), "methods: input should be a valid dictionary"),
    ("[methods]\n", (), "methods: dictionary should have at least 1 item"),
    ("[methods]\na = 3\n", (), "methods.a: input should be a valid dictionary"),
    ('[methods.a]\ntitle = "A"\n', (), "methods.a: value error, unknown kind 'None'"),
    ("[methods.a]\nkind = [3]\n", (), "methods.a: value error, unknown kind '[3]'"),
    ('[methods.a]\nkind = "maaml"\n', (), f"unknown kind 'maaml': did you mean 'maml'? valid: {KINDS}"),
    ('[methods."../x"]\nkind = "maml"\n', (), "methods.../x.[key]: string should match pattern"),
    ('name = "../x"\n' + MAIN, (), "name: string should match pattern"),
])
def test_bad_settings_are_one_line(file, text, override, words):
    path = file(text)
    with pytest.raises(UserError) as caught:
        experiment.load(path, override)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    place = f"{path}: "
    if override and not words.startswith("references"):  # the flag is to blame
        place = words if words.startswith("--set ") else f"--set {override[-1]}: "
    assert str(caught.value).startswith(place)


def test_a_file_that_is_not_utf8_is_one_line(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"x\.toml: not valid TOML: 'utf-8' codec"):
        experiment.load(tmp_path / "x.toml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nope\.toml: no such file; the project's own have no suffix: main"):
        experiment.load(tmp_path / "nope.toml")


def test_overrides_keep_their_types(file):
    changed = experiment.load(file(MAIN), ("shots=[1, 2]", "base.lr=1e-3", "methods.a.csmt=shared",
                                           "base.class_weights=false"))
    assert changed.shots == (1, 2) and changed.base.lr == 1e-3 and not changed.base.class_weights
    assert changed.methods["a"].csmt == "shared"


def test_digest_changes_with_every_value(file):
    before = experiment.load(file(MAIN))
    after = experiment.load(file(MAIN), ("base.grad_clip=2.0",))
    assert settings.digest(before) == settings.digest(experiment.load(file(MAIN))) != settings.digest(after)


@pytest.fixture
def inheriting(file, tmp_path):
    """An experiment whose method takes over a shared table, what the search chose for it, and a key of its own."""
    (tmp_path / "shared.toml").write_text('[recipe]\nkind = "maml"\nepochs = 3\nouter_lr = 0.1\nquery = 7\n')
    (tmp_path / "tuned.toml").write_text("[recipe]\nouter_lr = 0.2\nquery = 8\n")
    return file('[methods]\na = { like = "recipe", query = 9 }\n')


def test_a_method_inherits_the_shared_table_then_the_tuned_one_then_has_its_own_keys(inheriting):
    assert experiment.load(inheriting).methods["a"] == Maml(epochs=3, outer_lr=0.2, query=9)
    changed = experiment.load(inheriting, ("methods.a.outer_lr=0.3", "methods.a.like='recipe'"))
    assert changed.methods["a"] == Maml(epochs=3, outer_lr=0.3, query=9)


def test_an_experiment_starts_from_the_common_table_and_a_base_of_both(file, tmp_path):
    (tmp_path / "shared.toml").write_text("[experiment]\ndraws = 3\ngroups = 4\n"
                                          "base = { hidden = 7, class_weights = false }\n")
    loaded = experiment.load(file("draws = 9\nbase = { hidden = 8 }\n" + MAIN), ("base.epochs=2",))
    assert (loaded.draws, loaded.groups) == (9, 4)
    assert (loaded.base.hidden, loaded.base.class_weights, loaded.base.epochs) == (8, False, 2)


@pytest.mark.parametrize("like, words", [
    ("'recip'", "methods.a.like = 'recip': no such table beside the file; did you mean 'recipe'? valid: recipe"),
    ("['recipe']", "no such table beside the file; did you mean 'recipe'? valid: recipe"),
])
def test_an_unknown_table_to_inherit_from_is_one_line_with_the_nearest(inheriting, like, words):
    with pytest.raises(UserError) as caught:
        experiment.load(inheriting, (f"methods.a.like={like}",))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{inheriting}: ")


OTHERS = {*experiment.SHARED, "search.toml"}  # tables that experiments inherit, and the search
FILES = sorted(path for path in (ROOT / "perser" / "experiments").glob("*.toml") if path.name not in OTHERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_committed_experiment_is_valid(path):
    loaded = experiment.load(path)
    assert loaded.name == path.stem and loaded.methods


def test_the_committed_search_is_valid():
    plan, searched = search.read(ROOT / "perser" / "experiments" / "search.toml")
    assert plan.methods.keys() <= searched.methods.keys()


# How the runs of readings.toml other than the plain one were started; its file says the same.
READINGS = {"readings-pooled": ("name=readings-pooled", "base.targets=pooled"),
            "readings-f1": ("name=readings-f1", "base.class_weights=true", "base.chosen_by=f1")}
THREE_SEEDS = ("emodb/whisper-tiny.en/main", "emodb/whisper-tiny.en/methods", "emodb/whisper-tiny.en/recipe",
               "synthetic/whisper-tiny.en/main")  # of all others seed 0 alone
RUNS = sorted((ROOT / "results").glob("*/*/*/manifest.json"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.parent.relative_to(ROOT / "results")))
def test_every_committed_run_has_the_settings_of_its_experiment(path):
    """All of them, as in config.json beside it. The corpus decides where shots come from, if the file does not."""
    manifest = records.manifest(path.parent)
    name, overrides = manifest.experiment, READINGS.get(manifest.experiment, ())
    file = ROOT / "perser" / "experiments" / f"{'readings' if overrides else name}.toml"
    if str(path.parent.relative_to(ROOT / "results")) not in THREE_SEEDS:
        overrides += ("seeds=[0]",)
    expected = experiment.load(file, overrides, corpus=manifest.corpus)
    if expected.support is None:
        expected = expected.model_copy(update={"support": manifest.support})
    assert experiment.Experiment.model_validate(manifest.config) == expected
    assert manifest.config == json.loads((path.parent / "config.json").read_text())
    assert manifest.config_digest == settings.digest(expected)
    assert name == path.parent.name == manifest.config["name"]
    assert not manifest.corpus_options, "a reported run has the corpus's default listeners"
    assert {key: (info.title, info.group, info.kind) for key, info in manifest.methods.items()} == {
        key: (method.title, method.group, method.kind) for key, method in expected.methods.items()}


def test_every_committed_run_is_looked_at():
    """All experiments but that of adapting layer weights, which takes as long as all methods together."""
    assert len(RUNS) >= 14 and {path.parent.name for path in RUNS} >= {path.stem for path in FILES} - {"layers"}


def numbers_of(field) -> tuple[bool, bool]:
    """Whether a field holds numbers, and whether they lie in a tuple."""
    text = str(field.annotation)
    return ("int" in text or "float" in text) and "bool" not in text, "uple" in text


# Every number of every settings class: its table's place, its class, its name.
FIELDS = [(place, cls, name) for place, cls in [
    ("", experiment.Experiment), ("base.", settings.Base), *((f"methods.{kind}.", cls)
                                                             for kind, cls in experiment.kinds().items())]
          for name, field in cls.model_fields.items() if numbers_of(field)[0]]
ZERO = {"seeds", "test_inner_steps", "epochs", "label_smoothing", "factor_grid", "strength_grid", "anneal", "msl",
        "crossfit", "dropout", "soft_f1", "ema_decay"}  # 0 means something: none, or the general model


def test_the_walk_meets_every_kind_of_number():
    names = {name for _, _, name in FIELDS}
    assert len(FIELDS) > 40 and names > ZERO and {"draws", "inner_lr_grid", "neighbours_grid", "parts", "lr"} < names


@pytest.mark.parametrize("place, cls, name", FIELDS, ids=[place + name for place, _, name in FIELDS])
def test_every_number_of_every_settings_class_is_finite_and_bounded(file, place, cls, name):
    """One line that names the flag and, where a bound is crossed, the bound."""
    kind = place.split(".")[1] if place.startswith("methods.") else "ssl-e"
    path, form = file(f'[methods.{kind}]\nkind = "{kind}"\n'), "[{}]" if numbers_of(cls.model_fields[name])[1] else "{}"
    for value in ("nan", "inf", "-inf", "-1", "0", "1e9"):
        try:
            experiment.load(path, (f"{place}{name}={form.format(value)}",))
        except UserError as error:
            text = str(error)
            assert f"--set {place}{name}" in text and "\n" not in text and not (value == "0" and name in ZERO)
            assert re.search(r"(greater|less) than (or equal to )?[\d.]+|finite|valid integer", text), text
        else:
            assert (value == "0" and name in ZERO) or (value == "1e9" and name == "seeds"), (name, value)


@pytest.mark.parametrize("text, words", [
    ("low = nan\nhigh = 1", "finite"), ("low = 2\nhigh = 1", "low must be at most high"),
    ("low = 0\nhigh = 1\nlog = true", "above 0 where log = true"), ("choices = []", "at least 1 item"),
    ("choices = [nan]", "choices.0"), ("low = 0", "give either low and high or choices")])
def test_a_space_that_cannot_be_searched_is_one_line(tmp_path, text, words):
    path = tmp_path / "search.toml"
    path.write_text(f'experiment = "main"\n[corpora.emodb]\n[methods.a]\ntrials = 1\n[methods.a.space.lr]\n{text}\n')
    with pytest.raises(UserError, match=words) as caught:
        search.read(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: methods.a.space.lr")


HOSTILE = ["../x", "../../../../victim", "..", ".", ".hidden", "/etc/x", "a/b", "a\\b", "a\nb", "a\n", "", "-x", "a b",
           "a\0b", "<b>", "é", "x" * 101]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_become_paths_have_one_pattern(tmp_path, name):
    quoted = json.dumps(name)
    for text in (f'[methods.{quoted}]\nkind = "ssl-e"\n', f"name = {quoted}\n" + MAIN):
        (tmp_path / "x.toml").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="should match pattern") as caught:
            experiment.load(tmp_path / "x.toml")
        assert "\n" not in str(caught.value)
    (tmp_path / "s.toml").write_text(f"experiment = {quoted}\n[corpora.emodb]\n[methods.a]\ntrials = 1\n"
                                     "[methods.a.space.lr]\nchoices = [1]\n", encoding="utf-8")
    with pytest.raises(UserError, match="experiment: string should match pattern"):
        search.read(tmp_path / "s.toml")


def test_a_toml_file_may_begin_with_a_byte_order_mark(file, tmp_path):
    path = file(MAIN)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert experiment.load(path).methods
