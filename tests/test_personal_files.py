"""Personal model files come from anybody: what is not exactly such a model is refused in one line."""

import json

import made
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from perser import model, personal
from perser.about import training
from perser.errors import UserError

HEAD = model.init(2, 6, 5, 4, torch.Generator().manual_seed(0))  # all sizes differ
TENSORS = {**HEAD._asdict(), "mean": torch.zeros(2, 6), "scale": torch.ones(2, 6)}
MOVED = {"clip": "a.wav", "general": "sad", "personal": "happy", "ticked": "happy", "distance": 0.5}
ABOUT = made.ABOUT | {
    "shots": 6, "listener": "Ann", "trained_on": {"listeners": 3, "ratings": 90},
    "test": {"by": "leave-one-out", "ratings": 6, "general": 0.5, "personal": 0.5, "general_loss": 1.0,
             "personal_loss": 0.9, "constant_loss": 1.1, "gain": 0.1, "low": -0.1, "high": 0.3, "accuracy_low": -0.5,
             "accuracy_high": 0.5, "verdict": "not better"},
    "differs": {"shared": 2, "listeners": 3, "moved": [MOVED],
                "confusions": [{"others": "sad", "listener": "happy", "ratings": 1.5}],
                "classes": [{"name": "sad", "general": 0.5, "personal": 0.4, "ticked": 0.3, "shared": None,
                             "others": None}]}}


def written(path, tensors=TENSORS, about=ABOUT):
    """A file without the digest, so that the schema alone has to notice."""
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path,
              {"about": about if isinstance(about, str) else json.dumps(about)})


def refused(path):
    with pytest.raises(UserError) as caught:
        personal.load(path)
    assert str(caught.value).startswith(f"{path}: not a personal model") and "\n" not in str(caught.value)
    return str(caught.value)


def test_the_undamaged_file_is_read(tmp_path):
    written(tmp_path / "m.safetensors")
    assert personal.load(tmp_path / "m.safetensors").about == ABOUT
    personal.save(personal.PersonalModel(HEAD, TENSORS["mean"], TENSORS["scale"], ABOUT), tmp_path / "n.safetensors")
    loaded = personal.load(tmp_path / "n.safetensors")
    assert loaded.about == ABOUT and all(map(torch.equal, loaded.head, HEAD))


def changed(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


DAMAGES = {
    "nan": lambda t: changed(t, torch.nan), "inf": lambda t: changed(t, torch.inf), "huge": lambda t: changed(t, -1e30),
    "double": lambda t: t.double(), "half": lambda t: t.half(), "int": lambda t: t.int(), "bool": lambda t: t > 0,
    "more": lambda t: torch.cat([t, t]), "fewer": lambda t: t[:-1], "empty": lambda t: t[:0], "flat": lambda t: t[0],
    "deep": lambda t: t[None], "missing": lambda t: None}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_tensor_is_refused(tmp_path, name, damage):
    tensors = TENSORS | {name: DAMAGES[damage](TENSORS[name])}
    written(tmp_path / "m.safetensors", {key: tensor for key, tensor in tensors.items() if tensor is not None})
    refused(tmp_path / "m.safetensors")


@pytest.mark.parametrize("damage", [
    {"scale": -TENSORS["scale"]}, {"scale": changed(TENSORS["scale"], 0)}, {"scale": changed(TENSORS["scale"], 1e-30)},
    {"scale": changed(TENSORS["scale"], 1e30)}, {"extra": torch.ones(2)}, {"P": TENSORS["P"].T},
    {"mean": torch.zeros(6, 2), "scale": torch.ones(6, 2)}, {"b": torch.zeros(0), "P": torch.zeros(0, 6),
                                                             "A": torch.zeros(4, 0)}])
def test_tensors_that_do_not_fit_are_refused(tmp_path, damage):
    written(tmp_path / "m.safetensors", TENSORS | damage)
    refused(tmp_path / "m.safetensors")


def spoilt(value):
    """One entry at a time left out or of another type, however nested."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("trained_on", "listener", "test", "differs"):  # may be missing
                yield f"no {key}", {name: entry for name, entry in value.items() if name != key}
            yield from ((f"{key}: {what}", value | {key: worse}) for what, worse in spoilt(inner))
        yield "a list", []
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from ((f"{place}: {what}", [*value[:place], worse, *value[place + 1:]]) for what, worse in
                        spoilt(inner))
        yield "a mapping", {}
    else:
        yield from ((str(other), other) for other in (True, [], {}, "\x1b[2J", float("nan"), float("inf")))
        if not isinstance(value, str):
            yield "text", "1"
            if value is not None:
                yield "huge", -10**9


SPOILT = [case for case in spoilt(ABOUT) if case[0] not in (
    "trained_on: listeners: huge",)] + [
    ("doubled classes", ABOUT | {"classes": ["sad", "sad", "calm", "angry"]}),
    ("an empty class", ABOUT | {"classes": ["", "sad", "calm", "angry"]}),
    ("three classes", ABOUT | {"classes": ["happy", "sad", "calm"]}), ("one class", ABOUT | {"classes": ["sad"]}),
    ("smoothing", ABOUT | {"label_smoothing": 1.0}), ("moments", ABOUT | {"waveform_moments": [0.0, -1.0]}),
    ("a long text", ABOUT | {"upstream": "x" * 2000}), ("a surrogate", ABOUT | {"upstream": "\ud800"}),
    ("not JSON", "{"), ("a number", "7"), ("nested", "[" * 10**5),
    ("1e999", json.dumps(ABOUT).replace("0.05", "1e999"))]
FREE = {"test: gain: huge", "test: low: huge", "test: high: huge", "test: accuracy_low: huge",
        "test: accuracy_high: huge"}  # any finite number


@pytest.mark.parametrize("about", [pytest.param(about, id=what) for what, about in SPOILT if what not in FREE])
def test_a_spoilt_description_is_refused(tmp_path, about):
    written(tmp_path / "m.safetensors", about=about)
    refused(tmp_path / "m.safetensors")


def test_there_are_many_cases():
    assert len(TENSORS) * len(DAMAGES) + len(SPOILT) > 200


def test_every_flipped_byte_of_the_header_and_every_cut_is_refused(tmp_path):
    """With the digest that `save` writes, no bit can change: neither in the description nor in a tensor."""
    path = tmp_path / "m.safetensors"
    personal.save(personal.PersonalModel(HEAD, TENSORS["mean"], TENSORS["scale"], ABOUT), path)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(8), *draw.integers(8, header, 250), *draw.integers(header, len(whole), 20)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(flipped)
        refused(path)
    for end in [0, 1, 7, 8, 9, header, len(whole) - 1, *draw.integers(0, len(whole), 20)]:
        path.write_bytes(whole[:end])
        refused(path)
    path.write_bytes((2**40).to_bytes(8, "little") + whole[8:])
    assert "header is too long" in refused(path)
    refused(tmp_path)
    refused(tmp_path / "nothing")


def test_only_finite_numbers_are_written(tmp_path):
    """JSON has no other."""
    with pytest.raises(ValueError):
        personal.save(personal.PersonalModel(HEAD, TENSORS["mean"], TENSORS["scale"], ABOUT | {"x": float("nan")}),
                      tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_listeners_of_the_training_stand_as_digests():
    """`printf Ann | b2sum -l 48`, and the same for Bo."""
    assert training(["Bo", "Ann", "Bo"], 7) == {
        "listeners": 2, "ratings": 7, "digests": ["a3a7c32dd715", "f6f57b72c964"]}
