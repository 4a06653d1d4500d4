"""What every method file builds on: the settings class, the start that all share, models that descend, and saving.

A method file defines a subclass of `Method` with a `kind` of its own. Its `fit` returns a model: a NamedTuple with
`settings` (by number of shots, 0 for a model that does not adapt) and two functions of a batch of episodes,
`answers(batch, settings)`, the query's logits (E, Q, C) under each of some settings, and `weights(batch, setting)`, the
same personal models as heads whose tensors lead with E. All of them are heads, so each can be saved and used anywhere.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from perser import model as heads
from perser.adapt import personal_heads
from perser.data import Task
from perser.episodes import Batch, Draws, Episodes, batch_of
from perser.evaluate import Fitted, choose
from perser.model import TENSORS, Head
from perser.settings import Settings

Setting = TypeVar("Setting", Tensor, Head)


class Start(NamedTuple):
    """What every method starts from: SSL-E, and a function that gives SSL-E without each training session."""

    head: Head
    cross_fitted: Callable[[], dict[int, Head]]


class Method(Settings):
    """Settings of a method. Subclasses define kind, title and group, `Model` and `fit`."""

    kind: str
    title: str
    group: ClassVar[str] = "No meta-learning"
    is_start: ClassVar[bool] = False  # SSL-E itself, whose training the other methods do not repeat
    Model: ClassVar[type]

    def fit(self, task: Task, start: Start, dev: Draws, seed: int) -> Fitted:
        """The model of one split. Everything chosen is chosen on the dev listeners' draws `dev`."""
        raise NotImplementedError(f"{type(self).__name__} defines no fit")

    def costliest(self, model: Any) -> Any:
        """The setting that takes longest to adapt with, for timing."""
        return model.settings[max(model.settings)]

    def answer_costliest(self, task: Task, model: Any, ratings: np.ndarray, shots: int) -> Tensor:
        """Adapt to the first shots of a listener's ratings in the costliest setting and answer the next, for timing."""
        batch = batch_of(task, Episodes(ratings[None, :shots], ratings[None, shots:shots + 1]))
        return next(model.answers(batch, [self.costliest(model)]))

    def learnt_numbers(self, model: Any) -> int:
        """How many numbers training has set."""
        return numbers(model._replace(settings=None))

    def listener_numbers(self, model: Any) -> int:
        """How many numbers are kept per listener."""
        raise NotImplementedError(f"{type(self).__name__} defines no listener_numbers")


class GradientModel(NamedTuple):
    """Gradient descent on the shots: where it starts, and the inner learning rates by number of shots.

    settings: (steps, tensors), or a Head of (steps, *shape) for one learning rate per weight. epoch: the epoch of
    meta-training that was kept, 0 for its start. dev_losses: at the start, the largest, of the kept epoch.
    """

    head: Head
    settings: dict[int, Tensor | Head]
    epoch: int | None = None
    dev_losses: tuple[float, ...] = ()

    def answers(self, batch: Batch, settings: list[Tensor | Head]) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query under each setting."""
        for personal in personal_heads(self.head, settings, batch):
            yield personal.query_logits()

    def weights(self, batch: Batch, setting: Tensor | Head) -> Head:
        """The personal heads of a batch; tensors lead with E."""
        return next(personal_heads(self.head, [setting], batch)).weights()


def fitted(task: Task, model: Any, grid: Any, dev: Draws) -> Any:
    """The model with the settings that are best on the dev listeners, chosen for each number of shots."""
    return model._replace(settings=choose(task, model, grid, dev))


def setting_for(model: Fitted, shots: int) -> Any:
    """The setting for the number of shots nearest to a given one; the smaller of equals."""
    return model.settings[min(model.settings, key=lambda k: (abs(k - shots), k))]


def inner_steps(setting: Any) -> int:
    """The inner steps of a setting; 0 for a setting of a method without."""
    if isinstance(setting, Head):
        return len(setting.mix)
    return len(setting) if isinstance(setting, Tensor) else 0


def with_inner_steps(setting: Setting, steps: int) -> Setting:
    """A setting cut to its first steps, or extended by repeating its last step's learning rates."""
    if isinstance(setting, Head):
        return Head(*(with_inner_steps(lr, steps) for lr in setting))
    return torch.cat([setting, setting[-1:].expand(steps, *setting.shape[1:])])[:steps]


def numbers(value: object) -> int:
    """How many numbers the tensors of a value hold, however nested."""
    if isinstance(value, Tensor):
        return value.numel()
    return sum(map(numbers, value)) if isinstance(value, tuple) else 0


def tensor_numbers(head: Head, names: tuple[str, ...]) -> int:
    """How many numbers the named tensors of a head hold."""
    return sum(numbers(getattr(head, name)) for name in names)


def stacked(head: Head, batch: Batch, **changed: Tensor) -> Head:
    """E copies of a head, some tensors (E, ...) replaced."""
    copies = {name: tensor.expand(len(batch.support), *tensor.shape) for name, tensor in head._asdict().items()}
    return Head(**(copies | changed))


def hidden_values(head: Head, batch: Batch) -> tuple[Tensor, Tensor]:
    """Hidden values of support (E, K, H) and query (E, Q, H)."""
    hidden = heads.hidden(head, batch.features[batch.clips])
    return hidden[batch.support], hidden[batch.query]


def pack(model: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A model as named tensors and plain values, without what it holds about particular ratings (`UNSAVED`)."""
    tensors, plain = dict[str, Tensor](), dict[str, Any]()
    fields = {name: value for name, value in model._asdict().items() if name not in getattr(model, "UNSAVED", ())}
    entries: dict[tuple[str, ...], Any] = {(name,): value for name, value in fields.items() if name != "settings"}
    entries |= {("settings", str(shots)): value for shots, value in model.settings.items()}
    for place, value in entries.items():
        key = ".".join(place)
        if isinstance(value, Head):
            tensors |= {f"{key}.{name}": tensor for name, tensor in value._asdict().items()}
        elif isinstance(value, Tensor):
            tensors[key] = value
        elif value is not None:
            plain[key] = value
    return tensors, plain


def unpack(model_type: type, tensors: dict[str, Tensor], plain: dict[str, Any]) -> Any:
    """The model that `pack` took apart. Raises KeyError or TypeError where something is missing."""
    whole: dict[tuple[str, ...], Any] = {
        tuple(key.split(".")): tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    for key, tensor in tensors.items():
        *place, last = key.split(".")
        if place and last in TENSORS:
            whole.setdefault(tuple(place), {})[last] = tensor
        else:
            whole[tuple(key.split("."))] = tensor
    whole = {place: Head(**value) if isinstance(value, dict) else value for place, value in whole.items()}
    settings = {int(place[1]): value for place, value in whole.items() if place[0] == "settings"}
    return model_type(**{place[0]: value for place, value in whole.items() if len(place) == 1}, settings=settings)
