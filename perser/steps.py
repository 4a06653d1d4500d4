"""One listener's adaptation looked at step by step, for the notebook that explains it."""

import pandas as pd
import torch

from perser import head as heads
from perser.adapt import adapt, personal_head
from perser.episodes import Episodes
from perser.evaluate import Learner, count, evaluate
from perser.head import TENSORS, Head
from perser.losses import cross_entropy
from perser.material import Material
from perser.scores import macro_f1


@torch.no_grad()
def path(material: Material, learner: Learner, episodes: Episodes, draw: int) -> list[Head]:
    """The listener's own head before the first inner step and after each one, for one draw of the support."""
    support = torch.from_numpy(episodes.support[draw : draw + 1])
    x = heads.mixed(learner.head, material.data.features[material.data.clip[support]])
    rates, hidden = learner.settings[support.shape[1]], x @ learner.head.P.T + learner.head.b
    states = (
        adapt(learner.head, rates[:step], x, hidden, material.targets[support], material.class_weights)
        for step in range(len(rates) + 1)
    )
    return [personal_head(learner.head, state, x, 0) for state in states]


@torch.no_grad()
def query_logits(material: Material, head: Head, episodes: Episodes, draw: int) -> torch.Tensor:
    """Logits (Q, C) of one draw's query under one head."""
    return heads.logits(head, material.data.features[material.data.clip[episodes.query[draw]]])


@torch.no_grad()
def measured(material: Material, trail: list[Head], episodes: Episodes, draw: int) -> pd.DataFrame:
    """What each inner step changes: one row per step, from 0.

    support_loss, query_loss; macro_f1 (points) and ticks (classes per clip) of the query; and per tensor
    its share of the change: root mean square over the query's logits when it alone is exchanged for its
    adapted value.
    """
    support, query = (torch.from_numpy(part[draw]) for part in episodes)
    data, rows = material.data, []
    start = query_logits(material, trail[0], episodes, draw)
    for step, head in enumerate(trail):
        logits = query_logits(material, head, episodes, draw)
        near = heads.logits(head, data.features[data.clip[support]])
        found = count(logits, data.labels[query])
        moved = {
            name: query_logits(material, trail[0]._replace(**{name: getattr(head, name)}), episodes, draw)
            - start
            for name in TENSORS[1:]
        }
        rows.append(
            {
                "step": step,
                "support_loss": float(cross_entropy(near, material.targets[support], material.class_weights)),
                "query_loss": float(cross_entropy(logits, material.targets[query], material.class_weights)),
                "macro_f1": 100 * float(macro_f1(found.tp, found.fp, found.fn)),
                "ticks": float(heads.predict(logits).sum(1).float().mean()),
                **{name: float(change.square().mean().sqrt()) for name, change in moved.items()},
            }
        )
    return pd.DataFrame(rows)


def of_each_draw(material: Material, learner: Learner, episodes: Episodes) -> list[float]:
    """Macro F1 (points) of the query after the last inner step, for every draw of the shots."""
    draws = [Episodes(support[None], query[None]) for support, query in zip(*episodes)]
    found = evaluate(material, learner, episodes.support.shape[1], draws)
    return [100 * float(macro_f1(one.tp, one.fp, one.fn)) for one, _ in found]


@torch.no_grad()
def predicted(material: Material, trail: list[Head], episodes: Episodes, draw: int) -> pd.DataFrame:
    """Each query clip in words: clip, what the listener said, what the head predicts after each step."""
    data, query = material.data, episodes.query[draw]
    sets = [heads.predict(query_logits(material, head, episodes, draw)) for head in trail]
    columns = {
        "clip": [data.clips[clip] for clip in data.clip[query]],
        "listener": words(data.labels[query], data.classes),
    }
    return pd.DataFrame(columns | {step: words(ticks, data.classes) for step, ticks in enumerate(sets)})


def words(ticks: torch.Tensor, classes: tuple[str, ...]) -> list[str]:
    """Ticks (N, C) as text, classes joined by a comma."""
    return [", ".join(name for name, on in zip(classes, row) if on) or "none" for row in ticks.tolist()]
