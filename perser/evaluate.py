"""From a learner and a listener's draws to counts: adapt on the support, predict the query, compare."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from perser import head as heads
from perser.adapt import adapt_explicit, adapted_logits
from perser.episodes import Data, Episodes, by_listener, evaluation_episodes
from perser.head import Head
from perser.losses import cross_entropy
from perser.scores import macro_f1


class Learner(NamedTuple):
    """What a method has learnt: where adaptation starts, and per number of shots its rates (steps, tensors)."""

    head: Head
    rates: dict[int, Tensor]


class Counts(NamedTuple):
    """Per class true positives, false positives, false negatives (C,); queries; those whose top class was ticked."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    queries: int
    top: int


def query_logits(data: Data, targets: Tensor, class_weights: Tensor, head: Head, rates: Tensor, episodes: Episodes,
                 second_order: bool = False) -> Tensor:
    """Logits (E, Q, C) of the query after adapting to the support; differentiable in head and rates.

    Every clip is mixed and projected once, however many episodes share it.
    """
    support, query = (data.clip[part] for part in episodes)
    targets = targets[torch.from_numpy(episodes.support)]
    if rates[:, 0].any():
        personal = adapt_explicit(head, Head(*rates.unbind(1)), data.features[torch.from_numpy(support)], targets,
                                  class_weights, second_order)
        return vmap(heads.logits)(personal, data.features[torch.from_numpy(query)])
    near = np.unique(support)
    clips = np.concatenate([near, np.setdiff1d(query, near)])
    rows = np.empty(len(data.features), np.int64)
    rows[clips] = np.arange(len(clips))
    clips, support, query = (torch.from_numpy(part).to(head.P.device) for part in (clips, rows[support], rows[query]))
    return adapted_logits(head, rates, heads.mixed(head, data.features, clips), support, query, len(near), targets,
                          class_weights, second_order)


def count(predicted: Tensor, logits: Tensor, labels: Tensor) -> Counts:
    """Counts over every query of every draw: predicted, labels (..., C) bool."""
    predicted, labels = predicted.flatten(0, -2), labels.flatten(0, -2)
    top = labels.gather(1, logits.flatten(0, -2).argmax(-1, keepdim=True))
    return Counts(tp=(predicted & labels).sum(0).numpy(), fp=(predicted & ~labels).sum(0).numpy(),
                  fn=(~predicted & labels).sum(0).numpy(), queries=len(labels), top=int(top.sum()))


@torch.no_grad()
def evaluate(data: Data, targets: Tensor, class_weights: Tensor, learner: Learner, shots: int,
             parts: list[Episodes]) -> list[tuple[Counts, float]]:
    """Counts and mean query loss of a learner for each part, such as one listener's draws, all in one batch.

    Queries of different lengths are filled up with their last rating, which is then not counted.
    """
    most = max(part.query.shape[1] for part in parts)
    filled = [np.pad(part.query, ((0, 0), (0, most - part.query.shape[1])), mode="edge") for part in parts]
    episodes = Episodes(np.concatenate([part.support for part in parts]), np.concatenate(filled))
    logits = query_logits(data, targets, class_weights, learner.head, learner.rates[shots], episodes)
    scored = []
    for part, found in zip(parts, logits.split([len(part.query) for part in parts])):
        query = torch.from_numpy(part.query)
        found = found[:, :query.shape[1]]
        loss = cross_entropy(found, targets[query], class_weights).mean()
        scored.append((count(heads.predict(found), found, data.labels[query]), float(loss)))
    return scored


def draws_by_listener(data: Data, pool: np.ndarray, shots: tuple[int, ...], draws: int, min_queries: int, seed: int,
                      purpose: str) -> dict[tuple[int, int], Episodes]:
    """(listener, shots) -> their episodes, for listeners with enough ratings in the pool."""
    most = max(shots)
    able = by_listener(data, pool, most + min_queries)
    return {(listener, k): evaluation_episodes(data, part, listener, k, most, draws, seed, purpose)
            for listener, part in able.items() for k in shots}


def dev_score(data: Data, targets: Tensor, class_weights: Tensor, learner: Learner,
              episodes: dict[tuple[int, int], Episodes]) -> tuple[float, float]:
    """Mean over (listener, shots) of macro F1 and of loss."""
    every = sorted({k for _, k in episodes})
    scored = [one for k in every for one in evaluate(data, targets, class_weights, learner, k,
                                                     [batch for (_, at), batch in episodes.items() if at == k])]
    return (float(np.nanmean([macro_f1(c.tp, c.fp, c.fn) for c, _ in scored])),
            float(np.mean([loss for _, loss in scored])))
