"""Random features, ratings and episodes to time the inner loop on. Nothing is learnt from them."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perser import model as heads
from perser import seeds
from perser.data import Data, rating_targets
from perser.episodes import Batch, Episodes, make_batch
from perser.model import Head, class_balanced_weights

CLIPS = 8031  # four of IEMOCAP's five sessions: what one fold trains on


class Size(NamedTuple):
    """WavLM-base's layers and width, EMO-SUPERB's hidden layer, IEMOCAP's classes, five inner steps."""

    layers: int = 13
    width: int = 768
    hidden: int = 256
    classes: int = 9
    steps: int = 5


class Shape(NamedTuple):
    """Episodes of one outer step, clips of a support and of a query."""

    episodes: int
    shots: int
    query: int


class Problem(NamedTuple):
    """Episodes (rating ids) with all that their loss depends on. inner_lr (steps, tensors); the mix does not adapt."""

    data: Data
    targets: Tensor
    class_weights: Tensor
    head: Head
    inner_lr: Tensor
    episodes: Episodes

    def batch(self, part: slice = slice(None)) -> Batch:
        """The batch of some of the episodes, as the inner loop reads it."""
        return make_batch(self.data, self.targets, self.class_weights, Episodes(*(ids[part] for ids in self.episodes)))

    def gather(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Indices of clips of support (E, K) and query (E, Q), and targets (E, K, C) and (E, Q, C)."""
        ids = [torch.from_numpy(part) for part in self.episodes]
        clips = [torch.from_numpy(self.data.clip[part]).to(self.targets.device) for part in self.episodes]
        return *clips, *(self.targets[part] for part in ids)


def make_problem(size: Size, shape: Shape, clips: int, distinct: bool, device: torch.device, seed: int = 0) -> Problem:
    """Episodes that share a pool of `clips` clips; with `distinct`, a clip occurs once in all of them."""
    draw, g = seeds.rng(seed, "bench"), seeds.generator(seed, "bench")
    per_episode = shape.shots + shape.query
    ratings = np.arange(shape.episodes * per_episode).reshape(shape.episodes, per_episode)
    clips = ratings.size if distinct else clips
    clip = draw.permutation(clips) if distinct else np.concatenate(
        [draw.choice(clips, per_episode, replace=False) for _ in ratings])
    labels = torch.rand(ratings.size, size.classes, generator=g) < 1.5 / size.classes
    labels[torch.arange(ratings.size), torch.randint(size.classes, (ratings.size,), generator=g)] = True
    targets = rating_targets(labels, 0.05)
    head = heads.init(size.layers, size.width, size.hidden, size.classes, g)
    head = head._replace(mix=torch.randn(size.layers, generator=g) / 2)
    inner_lr = 0.02 + 0.05 * torch.rand(size.steps, len(heads.TENSORS), generator=g)
    inner_lr[:, 0] = 0
    data = Data(torch.randn(clips, size.layers, size.width, generator=g).to(device), np.zeros(clips, np.int64), clip,
                ratings[:, :1].repeat(per_episode, 1).ravel(), labels.to(device), (), (), ())
    return Problem(data, targets.to(device), class_balanced_weights(targets).to(device),
                   Head(*(tensor.to(device) for tensor in head)), inner_lr.to(device),
                   Episodes(ratings[:, :shape.shots], ratings[:, shape.shots:]))
