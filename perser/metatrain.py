"""Meta-training from SSL-E: outer steps over episodes of the training listeners, stopped on the dev listeners."""

import math

import numpy as np
import torch
from torch import Tensor

from perser import head as heads
from perser import seeds
from perser.adapt import adapt, personal_head
from perser.config import Maml
from perser.episodes import Episodes, Pools, placed, train_episodes, training_pools
from perser.evaluate import Learner, dev_score, query_logits, query_loss
from perser.head import TENSORS, Head
from perser.material import Material
from perser.schedules import second_order, step_weights


def outer_loss(material: Material, learner: Learner, episodes: Episodes, second: bool,
               weights: list[float] | None = None, f1: float = 0.0, keep: Tensor | None = None) -> Tensor:
    """Mean query loss after adaptation; its gradient is the meta-gradient. Source: MAML, eq. 4.

    weights: of the loss after each inner step, the last one alone when not given; f1: share of the soft macro F1 of
    all queries in the loss; keep (D,): factors on the features.
    """
    every = weights is not None and any(weights[:-1])
    logits = query_logits(material.data, material.targets, material.class_weights, learner.head,
                          learner.settings[episodes.support.shape[1]], episodes, second, learner.prior, keep, every)
    query = torch.from_numpy(episodes.query)
    if not every:
        return query_loss(material, logits, query, f1)
    return sum(weight * query_loss(material, found, query, f1) for weight, found in zip(weights, logits[1:]))


def reptile_gradient(material: Material, learner: Learner, episodes: Episodes) -> Head:
    """What points from the mean of the adapted weights to the shared ones; an episode is all of its clips.

    Source: Reptile (arXiv 1803.02999), algorithm 2.
    """
    ratings = np.concatenate(episodes, 1)
    clips, rows, _, _ = placed(material.data, Episodes(ratings, ratings[:, :0]))
    with torch.no_grad():
        x = heads.mixed(learner.head, material.data.features, clips)
        hidden, x = (x @ learner.head.P.T + learner.head.b)[rows], x[rows]
        state = adapt(learner.head, learner.settings[episodes.support.shape[1]], x, hidden,
                      material.targets[torch.from_numpy(ratings)], material.class_weights)
        personal = zip(*(personal_head(learner.head, state, x, i) for i in range(len(ratings))))
        return Head(*(own - torch.stack(adapted).mean(0) for own, adapted in zip(learner.head, personal)))


def metatrain(material: Material, start: Head, rates: Tensor, method: Maml, shots: tuple[int, ...],
              dev: dict[tuple[int, int], Episodes], seed: int,
              others: dict[int, Head] | None = None) -> tuple[Learner, list[dict]]:
    """The best learner on the dev listeners (epoch 0 is the start itself) and the history, one row per epoch.

    rates: (steps, tensors), zero for tensors that do not adapt; learnt where the method has LSLR or element rates.
    Each outer step draws one number of shots, so that one initialisation serves all of them.
    others: session -> SSL-E trained without it. A share `method.crossfit` of the outer steps takes the clips of one
    such session and what is learnt so far as a change to that head: there, as on unseen clips, the start does not
    know the clips.
    """
    pools = training_pools(material.data, material.split.train, method.csmt, max(shots), method.query, seed)
    others = _held_out_pools(material, start, others or {}, method, max(shots), seed)
    learnt = {name: tensor.requires_grad_() for name, tensor in _beginning(start, rates, method).items()}
    mean = {name: tensor.detach().clone() for name, tensor in learnt.items()}
    optimiser = torch.optim.Adam([{"params": [learnt[name] for name in TENSORS], "lr": method.outer_rate},
                                  {"params": [learnt[name] for name in learnt if name not in TENSORS],
                                   "lr": method.rate_rate}])
    span = max(1, method.epochs * method.steps)
    schedule = (torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, span) if method.cosine
                else torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0))
    best, kept, history = -np.inf, None, []
    for epoch in range(method.epochs + 1):
        learner = _learner({name: tensor.clone() for name, tensor in mean.items()}, rates, shots)
        f1, loss = dev_score(material, learner, dev, method.f1)
        history.append({"epoch": epoch, "dev_f1": f1, "dev_loss": loss})
        worth = {"loss": -loss, "f1": f1, "last": epoch}[method.stop]
        if kept is None or worth > best:
            best, kept = worth, learner._replace(epoch=epoch)
        for step in range(method.steps if epoch < method.epochs else 0):
            draw = seeds.rng(seed, "episodes", material.split.fold, material.split.group, epoch, step)
            moved, chosen, query = (others[draw.integers(len(others))] if draw.random() < method.crossfit
                                    else (None, pools, method.query))
            episodes = train_episodes(chosen, method.csmt, int(draw.choice(shots)), query, method.episodes, draw)
            optimiser.zero_grad()
            _outer_gradient(material, _learner(learnt, rates, shots, moved), method, episodes, epoch, draw)
            torch.nn.utils.clip_grad_norm_([t for t in learnt.values() if t.grad is not None], method.clip)
            optimiser.step()
            schedule.step()
            for name, average in mean.items():
                average.lerp_(learnt[name].detach(), 1 - method.average)
    return kept, history


def _held_out_pools(material: Material, start: Head, others: dict[int, Head], method: Maml, shots: int,
                    seed: int) -> list[tuple[Head, Pools, int]]:
    """Per session: how its head differs from the start, its pools, and as many queries as the median listener has."""
    data, train, found = material.data, material.split.train, []
    for session, head in others.items():
        part = train[data.session[data.clip[train]] == session]
        counts = np.unique(data.listener[part], return_counts=True)[1]
        query = min(method.query, max(1, int(np.median(counts)) // (2 if method.csmt == "split" else 1) - shots))
        pools = training_pools(data, part, method.csmt, shots, query, seed)
        if len(pools.starts) > 1:
            found.append((Head(*(own - first for own, first in zip(head, start))), pools, query))
    return found


def _beginning(start: Head, rates: Tensor, method: Maml) -> dict[str, Tensor]:
    """All that meta-training learns, as it begins."""
    found = {name: tensor.detach().clone() for name, tensor in start._asdict().items()}
    if method.lslr:
        found["rates"] = rates.clone()
    if method.by_shots:  # the loss is a mean: more shots deserve longer steps, how much longer is learnt
        found["power"] = torch.zeros(())
    if method.element_rates:
        found |= {f"rates.{name}": torch.full_like(tensor, float(rate))
                  for (name, tensor), rate in zip(start._asdict().items(), rates[0])}
    if method.prior:
        found["prior"] = torch.tensor([math.log(3.0), method.prior])
    return found


def _learner(learnt: dict[str, Tensor], fixed: Tensor, shots: tuple[int, ...], moved: Head | None = None) -> Learner:
    """The learner of what is learnt so far; rates that are not learnt stay as fixed, those at zero stay there, even
    where training has diverged.

    moved: a constant that is added to the head.
    """
    adapts, zero = fixed != 0, fixed.new_zeros(())
    rates = torch.where(adapts, learnt["rates"], zero) if "rates" in learnt else fixed
    if "rates.P" in learnt:
        rates = Head(*(torch.where(on, learnt[f"rates.{name}"], zero).expand(len(fixed), *learnt[name].shape)
                       for name, on in zip(TENSORS, adapts[0])))
    head = Head(*(learnt[name] for name in TENSORS))
    head = head if moved is None else Head(*(own + by for own, by in zip(head, moved)))
    settings = dict.fromkeys(shots, rates)
    if "power" in learnt:
        middle = math.exp(sum(map(math.log, shots)) / len(shots))
        settings = {k: torch.where(adapts, rates * (k / middle) ** learnt["power"], zero) for k in shots}
    return Learner(head, settings, learnt.get("prior"))


def _outer_gradient(material: Material, learner: Learner, method: Maml, episodes: Episodes, epoch: int,
                    draw: np.random.Generator) -> None:
    """Leave the outer gradient of one step in the tensors' `grad`."""
    if method.rule == "reptile":
        for own, slope in zip(learner.head, reptile_gradient(material, learner, episodes)):
            own.grad = slope
        return
    kept = draw.random(material.data.features.shape[-1]) >= method.dropout
    keep = torch.from_numpy(kept).float() / (1 - method.dropout) if method.dropout else None
    outer_loss(material, learner, episodes, second_order(epoch, method.epochs, method.anneal),
               step_weights(epoch, method.epochs, method.msl, method.inner_steps), method.f1, keep).backward()
