"""From a model and a listener's draws to counts: adapt to the support, predict the query, compare."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from perser import model as heads
from perser.data import Task
from perser.episodes import Batch, Draws, Episodes, batch_of
from perser.model import Head, cross_entropy, soft_f1
from perser.scores import macro_f1

BINS = 10  # of the most probable class's probability, for the calibration error


class Counts(NamedTuple):
    """What all queries of a listener sum to.

    tp, fp, fn (C,): by the threshold rule. queries; top: those whose most probable class was ticked. top_of, top_hits
    (C,): by class, how often it was the most probable, and how often it was then ticked. log_loss and brier: sums over
    the queries, against 1/m on each of the m ticked classes. bins (3, BINS): by the most probable class's probability,
    queries, sum of that probability, and hits.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    queries: int
    top: int
    top_of: np.ndarray
    top_hits: np.ndarray
    log_loss: float
    brier: float
    bins: np.ndarray


def count(logits: Tensor, labels: Tensor) -> Counts:
    """Counts over all queries: logits and labels (..., C)."""
    logits, labels = logits.flatten(0, -2), labels.flatten(0, -2)
    predicted, likeliest = heads.predict(logits), logits.argmax(-1)
    hits, log_p = labels.gather(1, likeliest.unsqueeze(1)).squeeze(1), logits.double().log_softmax(-1)
    targets, classes = labels.double() / labels.sum(-1, keepdim=True), labels.shape[-1]
    return Counts(
        tp=(predicted & labels).sum(0).numpy(), fp=(predicted & ~labels).sum(0).numpy(),
        fn=(~predicted & labels).sum(0).numpy(), queries=len(labels), top=int(hits.sum()),
        top_of=likeliest.bincount(minlength=classes).numpy(),
        top_hits=likeliest[hits].bincount(minlength=classes).numpy(),
        log_loss=-float((targets * log_p).sum()), brier=float((log_p.exp() - targets).square().sum()),
        bins=_calibration_bins(log_p.exp().amax(-1), hits))


def _calibration_bins(confidence: Tensor, hits: Tensor) -> np.ndarray:
    """Queries, summed confidence and hits by confidence, (3, BINS)."""
    place = (confidence.nan_to_num() * BINS).long().clamp(max=BINS - 1)
    weights = (torch.ones_like(confidence), confidence, hits.to(confidence.dtype))
    return torch.stack([place.bincount(weight, minlength=BINS) for weight in weights]).numpy()


def query_loss(task: Task, logits: Tensor, query: Tensor, f1_share: float = 0.0) -> Tensor:
    """Mean cross entropy of logits (E, Q, C) for ratings (E, Q), with a share of soft macro F1 over all of them."""
    entropy = cross_entropy(logits, task.targets[query], task.class_weights).mean()
    if not f1_share:
        return entropy
    return (1 - f1_share) * entropy + f1_share * (1 - soft_f1(logits, task.data.labels[query]))


def join_episodes(parts: list[Episodes]) -> Episodes:
    """Several parts as one batch. Shorter queries are padded with their last rating."""
    longest = max(part.query.shape[1] for part in parts)
    padded = [np.pad(part.query, ((0, 0), (0, longest - part.query.shape[1])), mode="edge") for part in parts]
    return Episodes(np.concatenate([part.support for part in parts]), np.concatenate(padded))


def split_logits(logits: Tensor, parts: list[Episodes]) -> Iterator[tuple[Tensor, Tensor]]:
    """Undo `join_episodes`: for each part its logits, without the padding, and the ratings (E, Q) they answer."""
    for part, answers in zip(parts, logits.split([len(part.query) for part in parts])):
        yield answers[:, :part.query.shape[1]], torch.from_numpy(part.query)


class Fitted(Protocol):
    """What `fit` of a method gives; perser.methods.base says more."""

    @property
    def head(self) -> Head:
        """What it starts from."""

    @property
    def settings(self) -> dict[int, Any]:
        """How it adapts, by number of shots."""

    def answers(self, batch: Batch, settings: Any) -> Iterator[Tensor]:
        """Logits (E, Q, C) of the query under each setting."""

    def weights(self, batch: Batch, setting: Any) -> Head:
        """The personal heads."""


@torch.no_grad()
def evaluate(task: Task, model: Fitted, shots: int, parts: list[Episodes],
             f1_share: float = 0.0) -> list[tuple[Counts, float]]:
    """Counts and `query_loss` of a model for each part, such as one listener's draws, all in one batch."""
    logits = next(model.answers(batch_of(task, join_episodes(parts)), [model.settings[shots]]))
    return [(count(answers, task.data.labels[query]), float(query_loss(task, answers, query, f1_share)))
            for answers, query in split_logits(logits, parts)]


def dev_score(task: Task, model: Fitted, dev: Draws, f1_share: float = 0.0) -> tuple[float, float]:
    """Mean over (listener, shots) of macro F1 and of `query_loss`."""
    scored = [one for shots in sorted({k for _, k in dev})
              for one in evaluate(task, model, shots, [part for (_, k), part in dev.items() if k == shots], f1_share)]
    return (float(np.nanmean([macro_f1(counts.tp, counts.fp, counts.fn) for counts, _ in scored])),
            float(np.mean([loss for _, loss in scored])))


@torch.no_grad()
def choose(task: Task, model: Fitted, grid: Iterable[Any], dev: Draws, per_shots: bool = True) -> dict[int, Any]:
    """For each number of shots the setting of the grid that is best on the dev listeners; the first of equals.

    The best has the highest macro F1 or the lowest log loss, as `base.chosen_by` says. With per_shots False, one
    setting is chosen for all numbers of shots: the best on average.
    """
    numbers, grid, scores = sorted({shots for _, shots in dev}), list(grid), {}
    for shots in numbers:
        parts = [episodes for (_, k), episodes in dev.items() if k == shots]
        scores[shots] = [[_criterion(count(answers, task.data.labels[query]), task.base.chosen_by)
                          for answers, query in split_logits(logits, parts)]
                         for logits in model.answers(batch_of(task, join_episodes(parts)), grid)]
    chosen: dict[int, Any] = {}
    for group in [[shots] for shots in numbers] if per_shots else [numbers]:
        means = [np.nanmean(np.concatenate(parts)) for parts in zip(*(scores[shots] for shots in group))]
        chosen |= dict.fromkeys(group, grid[int(np.nanargmax(means))])
    return chosen


def _criterion(counts: Counts, name: str) -> float:
    """The score to maximise; a setting whose answers are no numbers is never chosen by its loss."""
    if name == "f1":
        return float(macro_f1(*counts[:3]))
    return -counts.log_loss / counts.queries if np.isfinite(counts.log_loss) else -np.inf
