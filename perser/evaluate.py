"""From a learner and a listener's draws to counts: adapt on the support, predict the query, compare."""

from collections.abc import Iterator
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perser import head as heads
from perser.adapt import adapt_explicit, adapted_logits, explicit_logits, form, prior_shift
from perser.episodes import Data, Episodes, by_listener, evaluation_episodes, placed
from perser.head import Head
from perser.losses import cross_entropy, soft_f1
from perser.material import Material
from perser.scores import macro_f1


class Learner(NamedTuple):
    """Gradient adaptation: where it starts, and per number of shots its rates.

    settings: (steps, tensors), or a Head of (steps, *shape) for one rate per element. prior (2,): log mass and strength
    of the prior shift that descent starts from; none without one. epoch: of meta-training that was kept, 0 its start.
    """

    head: Head
    settings: dict[int, Tensor | Head]
    prior: Tensor | None = None
    epoch: int | None = None


class Counts(NamedTuple):
    """Per class true positives, false positives, false negatives (C,); queries; those whose top class was ticked."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    queries: int
    top: int


def query_logits(data: Data, targets: Tensor, class_weights: Tensor, head: Head, rates: Tensor | Head,
                 episodes: Episodes, second_order: bool = False, prior: Tensor | None = None,
                 keep: Tensor | None = None, every: bool = False) -> Tensor:
    """Logits (E, Q, C) of the query after adapting to the support; differentiable in head and rates.

    prior: as in Learner; keep (D,): factors on the features; every: logits before the first inner step and after each
    one, (steps + 1, E, Q, C).
    """
    return next(each_query_logits(data, targets, class_weights, head, [rates], episodes, second_order, prior, keep,
                                  every))


def each_query_logits(data: Data, targets: Tensor, class_weights: Tensor, head: Head, settings: list[Tensor | Head],
                      episodes: Episodes, second_order: bool = False, prior: Tensor | None = None,
                      keep: Tensor | None = None, every: bool = False) -> Iterator[Tensor]:
    """`query_logits` with each of some rates.

    Every clip is mixed and projected once, however many episodes and settings share it.
    """
    targets = targets[torch.from_numpy(episodes.support)]
    if any(isinstance(rates, Head) or rates[:, 0].any() for rates in settings):
        assert keep is None and prior is None and not every, "only the exact engine knows of these"
        support, query = (torch.from_numpy(data.clip[part]) for part in episodes)
        for rates in settings:
            rates = rates if isinstance(rates, Head) else Head(*rates.unbind(1))
            personal = adapt_explicit(head, rates, data.features[support], targets, class_weights, second_order)
            yield explicit_logits(personal, data.features[query])
        return
    clips, near, far, count = placed(data, episodes, head.P.device)
    x = heads.mixed(head, data.features, clips)
    x = x if keep is None else x * keep
    formed = form(head, x, near, far, count, targets, class_weights, second_order)
    shift = None
    if prior is not None:
        shift = prior_shift(formed.shared[:, :targets.shape[1]] + head.a, targets, prior[0].exp(), prior[1])
        shift = shift if second_order else shift.detach()
    for rates in settings:
        yield adapted_logits(head, rates, formed, second_order, every, shift)


@singledispatch
def answers(learner: NamedTuple, material: Material, episodes: Episodes, settings: list[Any]) -> Iterator[Tensor]:
    """Logits (E, Q, C) of the query by a learner that has seen the support, with each of some settings."""
    raise TypeError(f"no way to ask a {type(learner).__name__}")


@answers.register
def _(learner: Learner, material: Material, episodes: Episodes, settings: list[Any]) -> Iterator[Tensor]:
    return each_query_logits(material.data, material.targets, material.class_weights, learner.head, settings, episodes,
                             prior=learner.prior)


def answer(learner: NamedTuple, material: Material, shots: int, episodes: Episodes) -> Tensor:
    """Logits (E, Q, C) of the query by a learner that has seen the support, with its settings for so many shots."""
    return next(answers(learner, material, episodes, [learner.settings[shots]]))


def count(logits: Tensor, labels: Tensor) -> Counts:
    """Counts over every query of every draw: logits, labels (..., C)."""
    logits, labels = logits.flatten(0, -2), labels.flatten(0, -2)
    predicted, top = heads.predict(logits), labels.gather(1, logits.argmax(-1, keepdim=True))
    return Counts(tp=(predicted & labels).sum(0).numpy(), fp=(predicted & ~labels).sum(0).numpy(),
                  fn=(~predicted & labels).sum(0).numpy(), queries=len(labels), top=int(top.sum()))


def query_loss(material: Material, logits: Tensor, query: Tensor, f1: float = 0.0) -> Tensor:
    """Mean cross entropy of logits (E, Q, C) for ratings (E, Q); f1: share of the soft macro F1 of all of them."""
    entropy = cross_entropy(logits, material.targets[query], material.class_weights).mean()
    return (1 - f1) * entropy + f1 * (1 - soft_f1(logits, material.data.labels[query])) if f1 else entropy


def together(parts: list[Episodes]) -> Episodes:
    """Parts as one batch; queries of different lengths are filled up with their last rating."""
    most = max(part.query.shape[1] for part in parts)
    filled = [np.pad(part.query, ((0, 0), (0, most - part.query.shape[1])), mode="edge") for part in parts]
    return Episodes(np.concatenate([part.support for part in parts]), np.concatenate(filled))


def apart(logits: Tensor, parts: list[Episodes]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of `together` cut into its parts again: each part's own and the ratings (E, Q) that they are for."""
    for part, found in zip(parts, logits.split([len(part.query) for part in parts])):
        yield found[:, :part.query.shape[1]], torch.from_numpy(part.query)


@torch.no_grad()
def evaluate(material: Material, learner: NamedTuple, shots: int, parts: list[Episodes],
             f1: float = 0.0) -> list[tuple[Counts, float]]:
    """Counts and `query_loss` of a learner for each part, such as one listener's draws, all in one batch."""
    return [(count(found, material.data.labels[query]), float(query_loss(material, found, query, f1)))
            for found, query in apart(answer(learner, material, shots, together(parts)), parts)]


def draws_by_listener(data: Data, pool: np.ndarray, shots: tuple[int, ...], draws: int, min_queries: int, seed: int,
                      purpose: str) -> dict[tuple[int, int], Episodes]:
    """(listener, shots) -> their episodes, for listeners with enough ratings in the pool."""
    most = max(shots)
    able = by_listener(data, pool, most + min_queries)
    return {(listener, k): evaluation_episodes(data, part, listener, k, most, draws, seed, purpose)
            for listener, part in able.items() for k in shots}


def dev_score(material: Material, learner: NamedTuple, episodes: dict[tuple[int, int], Episodes],
              f1: float = 0.0) -> tuple[float, float]:
    """Mean over (listener, shots) of macro F1 and of `query_loss`."""
    every = sorted({k for _, k in episodes})
    scored = [one for k in every
              for one in evaluate(material, learner, k, [batch for (_, at), batch in episodes.items() if at == k], f1)]
    return (float(np.nanmean([macro_f1(c.tp, c.fp, c.fn) for c, _ in scored])),
            float(np.mean([loss for _, loss in scored])))
