"""What tests of learning use: a corpus in memory with random features and listeners who differ, small settings."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from perser.corpora import Corpus
from perser.data import Data, Task, from_corpus, listener_groups, make_task, split
from perser.episodes import Draws, draws_by_listener
from perser.experiment import Experiment, kinds
from perser.methods import Method, Start
from perser.methods.finetune import Finetune
from perser.methods.maml import Maml
from perser.methods.ssl_e import SslE, cross_fitted, train
from perser.model import Head, cross_entropy, logits
from perser.plan import Plan
from perser.settings import Base

CLASSES = ("angry", "happy", "neutral", "sad")
ABOUT = {"method": "made", "kind": "maml", "classes": list(CLASSES), "label_smoothing": 0.05, "upstream": "made",
         "upstream_identity": "made 1", "waveform_moments": "none", "synthetic": ""}  # what any model says of itself
UPSTREAM = SimpleNamespace(name="made", identity="made 1", standardise=True, random=False)
BASE = Base(hidden=8, epochs=2, lr=1e-2)
SMALL = Experiment(
    name="small", seeds=(0,), shots=(3, 5), draws=2, dev_draws=2, folds=(1, 2), base=BASE,
    methods={"ssl-e": SslE(), "fine-tuning": Finetune(inner_lr_grid=(0.01, 0.1), inner_steps_grid=(1, 3)),
             "meta-perser": Maml(title="Meta-PerSER", anneal=0.5, lslr=True, lslr_lr=0.01, epochs=2,
                                 outer_steps_per_epoch=2, query=5)})

# Settings with which a kind is fitted in a moment; a kind that is not named has its defaults.
QUICK = {
    "finetune": {"inner_lr_grid": (0.03, 0.3), "inner_steps_grid": (3,)},
    "nearest-listener": {"ratings": 16, "inner_steps": 3, "neighbours_grid": (1, 2)},
    "listener-embedding": {"size": 4, "epochs": 1, "inner_steps_grid": (5,)},
    "all-data": {"parts": 3, "inner_steps_grid": (3,), "factor_grid": (1.0,)},
    "maml": {"epochs": 1, "outer_steps_per_epoch": 2, "query": 5, "outer_lr": 0.02, "early_stopping": "last"},
}


def quick(kind: str, **settings) -> Method:
    """A method of a kind that is fitted in a moment."""
    return kinds()[kind].model_validate(QUICK.get(kind, {}) | settings)


def corpus(listeners: int = 6, sessions: int = 5, clips: int = 40, seed: int = 0) -> tuple[Corpus, torch.Tensor]:
    """`clips` per session, rated by all listeners but one; features (N, 2 layers, 6) tell the class."""
    draw = np.random.default_rng(seed)
    names = [f"c{session}{i:03d}" for session in range(1, sessions + 1) for i in range(clips)]
    truth = draw.integers(len(CLASSES), size=len(names))
    features = draw.normal(size=(len(names), 2, 6)).astype(np.float32)
    features[np.arange(len(names)), :, truth] += 2
    habits = draw.integers(len(CLASSES), size=listeners)
    ratings = []
    for row, (name, kind) in enumerate(zip(names, truth, strict=True)):
        for listener in range(listeners):
            if listener != row % listeners:
                ticked = {int(kind) if draw.random() < 0.7 else int(habits[listener])}
                if draw.random() < 0.2:
                    ticked.add(int(habits[listener]))
                ratings.append((name, f"E{listener + 1}", *(c in ticked for c in range(len(CLASSES)))))
    frame = pd.DataFrame({"path": names, "speaker": "s", "seconds": 1.0,
                          "session": np.repeat(np.arange(1, sessions + 1), clips)},
                         index=pd.Index(names, name="clip"))
    return (Corpus("made", CLASSES, frame, pd.DataFrame(ratings, columns=["clip", "listener", *CLASSES]), "made up"),
            torch.from_numpy(features))


def arrays(**settings) -> Data:
    """The same as `Data`."""
    return from_corpus(*corpus(**settings))


def task(base: Base = BASE, standardise: bool = True) -> Task:
    """The first split of the corpus; the dev listeners are the training listeners."""
    data = arrays()
    return make_task(data, split(data, 1, 0, listener_groups(data, 6, 25), False), base, standardise)


def draws(task: Task, pool: np.ndarray, shots: tuple[int, ...] = (3, 5), purpose: str = "test draws") -> Draws:
    """Two draws of all listeners of a pool, by (listener, shots)."""
    return draws_by_listener(task.data, pool, shots, 2, 5, 0, purpose)


def dev_draws(task: Task, shots: tuple[int, ...] = (3, 5)) -> Draws:
    """Two draws of the dev listeners."""
    return draws(task, task.split.dev, shots, "dev draws")


def start(task: Task, head: Head | None = None) -> Start:
    """SSL-E of a task, trained unless it is given."""
    return Start(train(task, 0) if head is None else head, lambda: cross_fitted(task, 0))


def sgd(head: Head, features: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor, lr: float,
        steps: int) -> Head:
    """Plain descent by torch's own optimiser; the layer weights stay."""
    tensors = Head(*(tensor.detach().clone().requires_grad_() for tensor in head))
    optimiser = torch.optim.SGD(tensors[1:], lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(logits(tensors, features), targets, class_weights).backward()
        optimiser.step()
    return tensors


def plan(out, experiment: Experiment = SMALL, **settings) -> Plan:
    """The plan of an experiment on the corpus."""
    loaded, features = corpus(**settings)
    return Plan(experiment, loaded, UPSTREAM, features, (0.0, 1.0), out)
