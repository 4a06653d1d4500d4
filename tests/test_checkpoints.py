"""Fitted models of every kind: they come back from disk as they were, and their weights answer as they do."""

import json

import made
import pytest
import torch
from safetensors.torch import load_file, save_file

from perser import checkpoints, experiment, personal
from perser.adapt import constant_lr
from perser.checkpoints import Checkpoint
from perser.episodes import Episodes, batch_of
from perser.errors import UserError
from perser.methods import GradientModel
from perser.methods.base import setting_for
from perser.methods.ssl_e import train
from perser.model import Head, logits, mixed

VARIANTS = {"scratch": ("finetune", {"start": "scratch"}), "reptile": ("maml", {"rule": "reptile"}),
            "meta-sgd": ("maml", {"per_weight_lr": True}), "layers": ("maml", {"adapts": ("mix", "P", "b", "A", "a")}),
            "by-shots": ("maml", {"lslr": True, "lr_by_shots": True, "crossfit": 0.5})}
CASES = {kind: (kind, {}) for kind in experiment.kinds()} | VARIANTS


@pytest.fixture(scope="module")
def task():
    return made.task()


@pytest.fixture(scope="module")
def start(task):
    """SSL-E with layer weights that differ."""
    return made.start(task, train(task, 0)._replace(mix=torch.tensor([0.3, -0.2])))


@pytest.fixture(scope="module", params=CASES)
def fitted(request, task, start):
    """A method of every kind, fitted to the split, and its kind."""
    kind, settings = CASES[request.param]
    return made.quick(kind, **settings).fit(task, start, made.dev_draws(task), 0), kind


@pytest.fixture(scope="module")
def batch(task):
    """Two draws of five shots of the test listener: all data has answered only that one."""
    episodes = made.draws(task, task.split.unseen)[task.data.listeners.index(task.split.test_listeners[0]), 5]
    return batch_of(task, episodes)


def saved(fitted, task, folder):
    model, kind = fitted
    about = made.ABOUT | {"kind": kind}
    checkpoints.save(Checkpoint(model, task.mean, task.scale, task.class_weights, about), folder / "model")
    return checkpoints.load(folder / "model")


def same(one, other):
    """Whether two values hold the same tensors and numbers, however nested."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_model_of_every_kind_comes_back_as_it_was(fitted, task, batch, tmp_path):
    """Every field bit by bit but those that hold answers to particular ratings; and with them the answers."""
    model, kind = fitted
    loaded = saved(fitted, task, tmp_path)
    assert type(loaded.model) is type(model) and loaded.about == made.ABOUT | {"kind": kind}
    assert all(map(same, (loaded.mean, loaded.scale, loaded.class_weights), (task.mean, task.scale,
                                                                             task.class_weights)))
    unsaved = getattr(model, "UNSAVED", ())
    assert unsaved == (("tables",) if kind == "all-data" else ())
    for name, value in model._asdict().items():
        assert same(getattr(loaded.model, name), None if name in unsaved else value), name
    models = (loaded.model, model)
    for tensor, expected in zip(*(m.weights(batch, setting_for(m, 5)) for m in models), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-5)
    if not unsaved:
        answers, expected = (next(m.answers(batch, [setting_for(m, 5)])) for m in models)
        torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-5)


def softmax_by_weights(heads, batch):
    """Probabilities (E, Q, C) of the query under heads whose tensors lead with E."""
    answers = [(mixed(head, batch.features[batch.clips[query]]) @ head.P.T + head.b) @ head.A.T + head.a
               for head, query in zip((Head(*tensors) for tensors in zip(*heads)), batch.query)]
    return torch.stack(answers).softmax(-1)


def test_the_weights_of_every_kind_answer_as_the_model_does(fitted, batch):
    """All data answers by its tables; its weights are SSL-E adapted to the shots as was chosen."""
    model, kind = fitted
    setting = setting_for(model, 5)
    if kind == "all-data":
        adapting, chosen = model.adaptation()
        expected = next(adapting.answers(batch, [chosen])).softmax(-1)
    else:
        expected = next(model.answers(batch, [setting])).softmax(-1)
    heads = model.weights(batch, setting)
    assert all(len(tensor) == len(batch.support) for tensor in heads)
    torch.testing.assert_close(softmax_by_weights(heads, batch), expected, rtol=1e-4, atol=1e-5)
    copies = Head(*(tensor.expand(len(batch.support), *tensor.shape) for tensor in model.head))
    general = softmax_by_weights(copies, batch)
    assert (kind == "ssl-e") == torch.allclose(general, expected, atol=1e-6), "only SSL-E does not adapt"


def test_the_ticks_of_the_shots_decide_the_weights(fitted, task, batch):
    """Other ticks, other weights; the weights do not depend on the query or on the other episodes of the batch."""
    model, kind = fitted
    setting = setting_for(model, 5)
    heads = model.weights(batch, setting)
    first = Episodes(batch.episodes.support[:1], batch.episodes.query[:1, :3])
    for tensor, alone in zip(heads, model.weights(batch_of(task, first), setting), strict=True):
        torch.testing.assert_close(tensor[:1], alone, rtol=1e-4, atol=1e-5)
    others = model.weights(batch._replace(targets=batch.targets.flip(-1)), setting)
    assert (kind == "ssl-e") == all(map(torch.equal, heads, others))


@pytest.mark.parametrize("damage, words", [
    (lambda place: (place / "model.json").unlink(), "no model there"),
    (lambda place: (place / "model.json").write_text("{"), "damaged"),
    (lambda place: (place / "model.json").write_text("[]"), "damaged"),
    (lambda place: (place / "model.json").write_text('{"kind": "nope", "model": {}}'), "not a model"),
    (lambda place: (place / "model.json").write_text('{"kind": "prototypes", "model": {}}'), "not a model"),
    (lambda place: (place / "model.safetensors").write_bytes(b"x" * 9), "damaged"),
    (lambda place: (place / "model.safetensors").unlink(), "missing"),
])
def test_a_damaged_model_is_one_line(task, start, tmp_path, damage, words):
    saved((GradientModel(start.head, {5: constant_lr(0.1, 2)}), "maml"), task, tmp_path)
    damage(tmp_path / "model")
    with pytest.raises(UserError, match=words) as caught:
        checkpoints.load(tmp_path / "model")
    assert "\n" not in str(caught.value) and str(tmp_path / "model") in str(caught.value)


def damaged_json(value):
    """A JSON file's text with one value at a time replaced by one of another type, or left out."""
    for key, inner in value.items():
        for other in ("x", [], {}, [[1]], 1e400, float("nan"), -1.5, True):
            if type(other) is not type(inner) and not (isinstance(inner, float) and other == -1.5):
                yield json.dumps(value | {key: other}, default=str).replace("1e400", "1" * 400)
        yield json.dumps({name: entry for name, entry in value.items() if name != key})
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from (json.dumps(value | {key: json.loads(text)}) for text in damaged_json(inner))


def test_no_damage_to_a_model_of_any_kind_is_used_or_a_traceback(fitted, task, tmp_path):
    """Loaded, it adapts and answers in finite numbers; otherwise a UserError of one line, on loading or on adapting."""
    place = tmp_path / "model"
    saved(fitted, task, tmp_path)
    text, tensors = (place / "model.json").read_text(), load_file(place / "model.safetensors")
    features, ticks = task.data.features[:6], task.data.labels[:6]

    def outcome():
        try:
            trained = checkpoints.load(place)
        except UserError as error:
            assert "\n" not in str(error) and str(place) in str(error)
            return "refused"
        try:
            with torch.no_grad():
                assert logits(personal.adapted(trained, features, ticks).head, features).isfinite().all()
        except UserError as error:
            assert "\n" not in str(error)
            return "refused"
        return "used"

    assert outcome() == "used"
    for damage in damaged_json(json.loads(text)):
        (place / "model.json").write_text(damage)
        outcome()
    for key in ("kind", "classes", "label_smoothing", "upstream", "waveform_moments", "synthetic", "model"):
        (place / "model.json").write_text(json.dumps(json.loads(text) | {key: 7}))
        assert outcome() == "refused", key
    for damage in (text[:-5], text.replace("0.05", "NaN"), text.replace("0.05", "1e999"), "[" * 10**5, "", "7", "null"):
        (place / "model.json").write_text(damage)
        assert outcome() == "refused"
    (place / "model.json").write_text(text)
    for name, tensor in tensors.items():
        for damage in (tensor * float("nan"), tensor + float("inf"), tensor.double(), tensor.int()):
            save_file(tensors | {name: damage}, place / "model.safetensors")
            assert outcome() == "refused" or (not tensor.numel() and damage.dtype == torch.float32), name
        save_file(tensors | {name: tensor[None].repeat(2, *[1] * tensor.ndim)}, place / "model.safetensors")
        outcome()
        save_file(tensors | {name: tensor[:-1].clone() if tensor.ndim else tensor[None]}, place / "model.safetensors")
        outcome()
        save_file({key: value for key, value in tensors.items() if key != name}, place / "model.safetensors")
        assert outcome() == "refused" or name.count(".") == 2, name  # settings of one number of shots may be missing
    for name in ("model.nope", "nope", "model.settings.x", "model.settings"):
        save_file(tensors | {name: torch.ones(2)}, place / "model.safetensors")
        assert outcome() == "refused", name
