"""Settings: what is read, what is refused and in which words."""

import pytest

from perser import config
from perser.errors import UserError

MAIN = '[methods.a]\nkind = "maml"\n'


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "exp.toml"
        path.write_text(text)
        return path
    return write


def test_defaults_are_the_base_systems(file):
    base = config.load(file(MAIN)).base
    assert (base.hidden, base.rate, base.batch, base.epochs, base.clip) == (256, 1e-4, 32, 40, 1.0)
    assert base.smoothing == 0.05 and base.weights and base.targets == "distribution"


@pytest.mark.parametrize("text, override, words", [
    (MAIN + "inner_step = 3\n", (), "methods.a.maml.inner_step; the nearest valid key is inner_steps"),
    ("drawz = 3\n" + MAIN, (), "unknown key drawz; the nearest valid key is draws"),
    (MAIN, ("base.epoch=3",), "unknown key base.epoch; the nearest valid key is epochs"),
    (MAIN, ("draws=none",), "draws"),
    (MAIN, ("draws",), "write it as key=value"),
    (MAIN, ("name.x=1", "name.x.y=1"), "x is a value"),
    ("methods = ", (), "not valid TOML"),
    ('[methods.a]\nkind = "nope"\n', (), "methods.a"),
])
def test_bad_settings_are_one_line(file, text, override, words):
    path = file(text)
    with pytest.raises(UserError) as caught:
        config.load(path, override)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_one_line(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"x\.toml: not valid TOML: 'utf-8' codec"):
        config.load(tmp_path / "x.toml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such experiment"):
        config.load(tmp_path / "nope.toml")


def test_overrides_keep_their_types(file):
    found = config.load(file(MAIN), ("shots=[1, 2]", "base.rate=1e-3", "methods.a.csmt=shared", "base.weights=false"))
    assert found.shots == (1, 2) and found.base.rate == 1e-3 and not found.base.weights
    assert found.methods["a"].csmt == "shared"


def test_digest_changes_with_every_value(file):
    before = config.load(file(MAIN))
    after = config.load(file(MAIN), ("base.clip=2.0",))
    assert config.digest(before) == config.digest(config.load(file(MAIN))) != config.digest(after)


def test_every_committed_experiment_is_valid():
    from pathlib import Path

    from perser import search

    folder = Path(__file__).parents[1] / "experiments"
    files = sorted(set(folder.glob("*.toml")) - {folder / "search.toml"})
    assert files and all(config.load(file).methods for file in files)
    assert search.read(folder / "search.toml")[0].methods
