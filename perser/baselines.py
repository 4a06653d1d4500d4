"""The aggregated model SSL-E, and what personalises it without meta-training.

Every baseline is a learner: what it has learnt, its settings per number of shots, and how it answers. The settings
are chosen from a grid on the dev listeners, each number of shots for itself.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

from perser import head as heads
from perser import seeds
from perser.adapt import adapt_explicit, prior_shift, scalar_rates
from perser.config import AllData, Base, ListenerEmbedding, NearestListener
from perser.episodes import Episodes, aggregate, by_listener, placed
from perser.evaluate import answers, apart, count, together
from perser.head import Head
from perser.losses import cross_entropy
from perser.material import Material
from perser.scores import macro_f1
from perser.splits import folds

# The dev listeners' draws: (listener, shots) -> episodes.
Dev = dict[tuple[int, int], Episodes]


def _labelled(material: Material, pool, base: Base) -> tuple[Tensor, Tensor]:
    """Features (n, L, D) and targets (n, C) of a pool: clips with vote shares, or every single rating."""
    if base.targets == "pooled":
        return material.data.features[material.data.clip[pool]], material.targets[pool]
    clips, targets = aggregate(material.data, pool, base.smoothing)
    return material.data.features[torch.from_numpy(clips)], targets


def train_base(material: Material, base: Base, seed: int) -> Head:
    """SSL-E: the head trained on the training listeners' aggregate, kept at the lowest dev loss.

    Source: EMO-SUPERB (arXiv 2402.13018): AdamW, batches of 32, gradient norm at most 1, 40 epochs.
    """
    features, targets = _labelled(material, material.split.train, base)
    dev_features, dev_targets = _labelled(material, material.split.base_dev, base)
    _, layers, width = features.shape
    head = heads.trainable(heads.init(layers, width, base.hidden, targets.shape[1],
                                      seeds.generator(seed, "init", material.split.fold)))
    optimiser = torch.optim.AdamW(head, lr=base.rate, fused=True)
    order = seeds.generator(seed, "batches", material.split.fold)
    best, kept = float("inf"), heads.detached(head)
    for epoch in range(base.epochs + 1):
        with torch.no_grad():
            loss = float(cross_entropy(heads.logits(head, dev_features), dev_targets, material.class_weights))
        if loss < best:
            best, kept = loss, heads.detached(head)
        if epoch < base.epochs:
            for batch in torch.randperm(len(features), generator=order).split(base.batch):
                optimiser.zero_grad()
                cross_entropy(heads.logits(head, features[batch]), targets[batch], material.class_weights).backward()
                torch.nn.utils.clip_grad_norm_(head, base.clip)
                optimiser.step()
    return kept


def cross_fitted(material: Material, base: Base, seed: int) -> dict[int, Head]:
    """SSL-E without one training session, for each of them: session -> head."""
    data, split = material.data, material.split
    at = data.session[data.clip[split.train]]
    parts = {int(session): split._replace(train=split.train[at != session]) for session in np.unique(at)}
    return {session: train_base(material._replace(split=part), base, seed) for session, part in parts.items()}


def fresh(material: Material, base: Base, seed: int) -> Head:
    """A head that has learnt nothing."""
    _, layers, width = material.data.features.shape
    return heads.init(layers, width, base.hidden, len(material.data.classes),
                      seeds.generator(seed, "scratch", material.split.fold))


@torch.no_grad()
def choose(material: Material, learner: NamedTuple, grid: Iterable[Any], dev: Dev,
           per_shots: bool = True) -> dict[int, Any]:
    """For each number of shots the setting of the grid with the highest dev macro F1; ties: the first.

    per_shots False asks for one choice that serves every number of shots best on average.
    """
    every, grid, scores = sorted({shots for _, shots in dev}), list(grid), {}
    for shots in every:
        parts = [episodes for (_, k), episodes in dev.items() if k == shots]
        scores[shots] = [[macro_f1(*count(found, material.data.labels[query])[:3])
                          for found, query in apart(logits, parts)]
                         for logits in answers(learner, material, together(parts), grid)]
    chosen = {}
    for asked in [[shots] for shots in every] if per_shots else [every]:
        means = [np.nanmean(np.concatenate(found)) for found in zip(*(scores[shots] for shots in asked))]
        chosen |= dict.fromkeys(asked, grid[int(np.nanargmax(means))])
    return chosen


class PriorShift(NamedTuple):
    """SSL-E with class log-biases that move its mean answer to the shots towards the listener's own.

    settings: per number of shots (mass, strength), see `adapt.prior_shift`.
    """

    head: Head
    settings: dict[int, tuple[float, float]]


@answers.register
def _(learner: PriorShift, material: Material, episodes: Episodes, settings: list[Any]) -> Iterator[Tensor]:
    clips, near, far, _ = placed(material.data, episodes)
    logits = heads.logits(learner.head, material.data.features[clips])
    targets = material.targets[torch.from_numpy(episodes.support)]
    for mass, strength in settings:
        yield logits[far] + prior_shift(logits[near], targets, mass, strength)


class Prototypes(NamedTuple):
    """Nearest class mean on the head's hidden layer: population means, moved towards the listener's.

    means (C, H); spread: mean squared distance of a clip from its expected mean; settings: per number of shots
    (mass, temperature): pseudo-clips behind each population mean, and the scale of distances in units of spread.
    Source: prototypical networks (arXiv 1703.05175), eq. 1 and 2.
    """

    head: Head
    means: Tensor
    spread: Tensor
    settings: dict[int, tuple[float, float]]


def prototypes(material: Material, head: Head, base: Base) -> Prototypes:
    """Population means on the training part of the split, without settings."""
    features, targets = _labelled(material, material.split.train, base)
    hidden = heads.hidden(head, features)
    means = targets.T @ hidden / targets.sum(0).unsqueeze(-1)
    spread = (hidden - targets @ means).square().sum(-1).mean()
    return Prototypes(head, means, spread, {})


@answers.register
def _(learner: Prototypes, material: Material, episodes: Episodes, settings: list[Any]) -> Iterator[Tensor]:
    clips, near, far, _ = placed(material.data, episodes)
    hidden = heads.hidden(learner.head, material.data.features[clips])
    targets = material.targets[torch.from_numpy(episodes.support)]
    for mass, temperature in settings:
        means = (mass * learner.means + targets.mT @ hidden[near]) / (mass + targets.sum(1).unsqueeze(-1))
        yield -torch.cdist(hidden[far], means).square() / (temperature * learner.spread)


class Nearest(NamedTuple):
    """Personal models of the training listeners; the shots choose those that answer most like the new one.

    maps (R, N, C, D), offsets (R, N, C): each listener's logits, for each rate that it was trained at; settings: per
    number of shots (which rate, how many models to average). Source: Tavernor et al. 2025 (arXiv 2509.12295).
    """

    head: Head
    maps: Tensor
    offsets: Tensor
    settings: dict[int, tuple[int, int]]


def nearest_listener(material: Material, head: Head, method: NearestListener, seed: int) -> Nearest:
    """Fine-tune SSL-E on every training listener's own ratings at every rate, without settings.

    Each is trained on `method.ratings` of its ratings, drawn with replacement where it has fewer, so that all are
    one batch.
    """
    parts = by_listener(material.data, material.split.train, 1)
    drawn = np.stack([seeds.rng(seed, "listener models", material.data.listeners[i])
                      .choice(part, method.ratings, replace=len(part) < method.ratings) for i, part in parts.items()])
    found = [gradient_descent(material, head, drawn, rate, method.steps) for rate in method.rates]
    return Nearest(head, torch.stack([own.A @ own.P for own in found]),
                   torch.stack([(own.A @ own.b.unsqueeze(-1)).squeeze(-1) + own.a for own in found]), {})


def gradient_descent(material: Material, head: Head, ratings: np.ndarray, rate: float, steps: int) -> Head:
    """Personal heads after full-batch descent of both linear maps on ratings (E, n); tensors lead with E."""
    with torch.no_grad():
        x = heads.mixed(head, material.data.features[material.data.clip[ratings]]).unsqueeze(-2)
    return adapt_explicit(head._replace(mix=torch.zeros(1)), Head(*scalar_rates(rate, steps).unbind(1)), x,
                          material.targets[torch.from_numpy(ratings)], material.class_weights, False)


@answers.register
def _(learner: Nearest, material: Material, episodes: Episodes, settings: list[Any]) -> Iterator[Tensor]:
    clips, near, far, _ = placed(material.data, episodes)
    x = heads.mixed(learner.head, material.data.features[clips])
    targets = material.targets[torch.from_numpy(episodes.support)]
    for rate, neighbours in settings:
        every = torch.einsum("nd,lcd->lnc", x, learner.maps[rate]) + learner.offsets[rate].unsqueeze(1)
        losses = cross_entropy(every[:, near], targets, material.class_weights)
        nearest = losses.topk(min(neighbours, len(losses)), 0, largest=False).indices.T
        yield torch.stack([every[chosen][:, at].mean(0) for chosen, at in zip(nearest, far)])


class Embedding(NamedTuple):
    """A head whose hidden values are scaled and shifted by a listener's embedding e: h (1 + e U) + e V.

    U, V (d, H); start (d,): mean embedding of the training listeners; settings: per number of shots (rate, steps)
    of the descent that finds a new listener's. Source: Ando et al. 2021 (Interspeech, listener-dependent SER).
    """

    head: Head
    U: Tensor
    V: Tensor
    start: Tensor
    settings: dict[int, tuple[float, int]]

    def logits(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Logits (..., n, C) of hidden values (..., n, H) for embeddings (..., d)."""
        e = embedding.unsqueeze(-2)
        return (hidden * (1 + e @ self.U) + e @ self.V) @ self.head.A.T + self.head.a


def listener_embedding(material: Material, head: Head, method: ListenerEmbedding, base: Base, seed: int) -> Embedding:
    """Train head and embeddings on the training listeners' ratings from SSL-E, kept at the lowest dev loss."""
    data, split = material.data, material.split
    draw = seeds.generator(seed, "embedding", split.fold, split.group)
    embeddings = 0.1 * torch.randn(len(data.listeners), method.size, generator=draw)
    maps = 0.1 * torch.randn(2, method.size, len(head.b), generator=draw)
    tensors = [tensor.detach().clone().requires_grad_() for tensor in (*head, *maps, embeddings)]
    optimiser = torch.optim.AdamW(tensors, lr=method.rate, fused=True)
    known = np.unique(data.listener[split.train])

    def built() -> Embedding:
        return Embedding(Head(*tensors[:5]), *tensors[5:7], tensors[7][known].mean(0), {})

    def loss(ratings: np.ndarray) -> Tensor:
        model = built()
        hidden = heads.hidden(model.head, data.features[data.clip[ratings]])
        logits = model.logits(hidden.unsqueeze(-2), tensors[7][data.listener[ratings]]).squeeze(-2)
        return cross_entropy(logits, material.targets[torch.from_numpy(ratings)], material.class_weights)

    best, kept = np.inf, None
    for epoch in range(method.epochs + 1):
        with torch.no_grad():
            found = float(loss(split.base_dev))
        if kept is None or found < best:
            best, kept = found, [tensor.detach().clone() for tensor in (*tensors[:7], tensors[7][known].mean(0))]
        if epoch < method.epochs:
            for batch in torch.randperm(len(split.train), generator=draw).split(base.batch):
                optimiser.zero_grad()
                loss(split.train[batch.numpy()]).backward()
                torch.nn.utils.clip_grad_norm_(tensors, base.clip)
                optimiser.step()
    return Embedding(Head(*kept[:5]), *kept[5:], {})


@answers.register
def _(learner: Embedding, material: Material, episodes: Episodes, settings: list[Any]) -> Iterator[Tensor]:
    clips, near, far, _ = placed(material.data, episodes)
    hidden = heads.hidden(learner.head, material.data.features[clips])
    targets = material.targets[torch.from_numpy(episodes.support)]

    def loss(embedding: Tensor, clips: Tensor, wanted: Tensor) -> Tensor:
        return cross_entropy(learner.logits(clips, embedding), wanted, material.class_weights)

    for rate, steps in settings:
        embedding = learner.start.expand(len(near), -1)
        for _ in range(steps):
            embedding = embedding - rate * vmap(grad(loss))(embedding, hidden[near], targets)
        yield learner.logits(hidden[far], embedding)


class Upper(NamedTuple):
    """The answer to every rating by a model fine-tuned on all the other ratings of its listener, in parts.

    tables (N, R, C): logits, for each rate that it was tuned at, nan for listeners that were not asked; settings:
    which rate, for no shots.
    """

    tables: Tensor
    settings: dict[int, int]


def all_data(material: Material, head: Head, method: AllData, rate: float, listeners: Iterable[int],
             barred: np.ndarray, seed: int) -> Tensor:
    """Cut each listener's ratings, without those `barred`, into parts; answer each by SSL-E tuned on the others.

    Returns the logits (R, C), nan where nobody was asked.
    """
    data = material.data
    table = torch.full((len(data.clip), len(data.classes)), torch.nan)
    for listener in listeners:
        mine = np.setdiff1d(np.flatnonzero(data.listener == listener), barred)
        order = seeds.rng(seed, "all data", data.listeners[listener]).permutation(mine)
        parts = [order[i::method.parts] for i in range(method.parts)]
        least = len(order) - max(map(len, parts))
        others = np.stack([np.setdiff1d(order, part)[:least] for part in parts])
        personal = gradient_descent(material, head, others, rate, method.steps)
        for part, own in zip(parts, zip(*personal)):
            x = heads.mixed(head, data.features[data.clip[part]])
            _, P, b, A, a = own
            table[torch.from_numpy(part)] = (x @ P.T + b) @ A.T + a
    return table


def upper_bound(material: Material, head: Head, method: AllData, dev: Dev, seed: int) -> Upper:
    """All data of the test listeners, with the rate that is best on the dev listeners outside the test session."""
    split = material.split
    at = material.data.session[material.data.clip]
    barred = np.flatnonzero(at == folds(material.data.session)[split.fold - 1].test)
    asked = sorted({listener for listener, _ in dev})
    tuned = torch.stack([all_data(material, head, method, rate, asked, barred, seed) for rate in method.rates])
    best = next(iter(choose(material, Upper(tuned, {}), range(len(method.rates)), dev, per_shots=False).values()))
    test = [material.data.listeners.index(name) for name in split.test_listeners]
    return Upper(all_data(material, head, method, method.rates[best], test, barred[:0], seed).unsqueeze(0), {0: 0})


@answers.register
def _(learner: Upper, material: Material, episodes: Episodes, settings: list[Any]) -> Iterator[Tensor]:
    for rate in settings:
        yield learner.tables[rate, torch.from_numpy(episodes.query)]
