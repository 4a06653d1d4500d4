"""Meta-training from SSL-E: outer steps over episodes of the training listeners, stopped on the dev listeners."""

import numpy as np
import torch
from torch import Tensor

from perser import head as heads
from perser import seeds
from perser.baselines import Material
from perser.config import Maml
from perser.episodes import Episodes, train_episodes, training_pools
from perser.evaluate import Learner, dev_score, query_logits
from perser.head import Head
from perser.losses import cross_entropy
from perser.schedules import second_order


def outer_loss(material: Material, head: Head, rates: Tensor, episodes: Episodes, second: bool) -> Tensor:
    """Mean query loss after adaptation; its gradient is the meta-gradient. Source: MAML, eq. 4."""
    logits = query_logits(material.data, material.targets, material.class_weights, head, rates, episodes, second)
    return cross_entropy(logits, material.targets[torch.from_numpy(episodes.query)], material.class_weights).mean()


def metatrain(material: Material, start: Head, rates: Tensor, method: Maml, shots: tuple[int, ...],
              dev: dict[tuple[int, int], Episodes], seed: int) -> tuple[Learner, list[dict]]:
    """The learner of lowest dev loss (epoch 0 is the start itself) and the history, one row per epoch.

    rates: (steps, tensors), zero for tensors that do not adapt; learnt where the method has LSLR.
    Each outer step draws one number of shots, so that one initialisation serves all of them.
    """
    pools = training_pools(material.data, material.split.train, method.csmt, max(shots), method.query, seed)
    head, adapts = heads.trainable(start), (rates != 0).to(rates.dtype)
    rates = rates.clone().requires_grad_(method.lslr)
    groups = [{"params": list(head), "lr": method.outer_rate}]
    if method.lslr:
        groups.append({"params": [rates], "lr": method.rate_rate})
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, method.epochs * method.steps))
    best, kept, history = np.inf, None, []
    for epoch in range(method.epochs + 1):
        learner = Learner(heads.detached(head), dict.fromkeys(shots, rates.detach().clone()))
        f1, loss = dev_score(material.data, material.targets, material.class_weights, learner, dev)
        history.append({"epoch": epoch, "dev_f1": f1, "dev_loss": loss})
        if kept is None or loss < best:
            best, kept = loss, learner
        if epoch < method.epochs:
            order = second_order(epoch, method.epochs, method.anneal)
            for step in range(method.steps):
                draw = seeds.rng(seed, "episodes", material.split.fold, material.split.group, epoch, step)
                episodes = train_episodes(pools, method.csmt, int(draw.choice(shots)), method.query,
                                          method.episodes, draw)
                optimiser.zero_grad()
                outer_loss(material, head, rates * adapts, episodes, order).backward()
                torch.nn.utils.clip_grad_norm_([p for p in (*head, rates) if p.grad is not None], method.clip)
                optimiser.step()
                schedule.step()
    return kept, history
