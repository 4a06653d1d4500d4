"""A corpus in memory with random features, in which listeners differ: what tests of learning use."""

import numpy as np
import pandas as pd
import torch

from perser.corpora import Corpus
from perser.data import Data, from_corpus

CLASSES = ("angry", "happy", "neutral", "sad")


def corpus(listeners: int = 6, sessions: int = 5, clips: int = 40, seed: int = 0) -> tuple[Corpus, torch.Tensor]:
    """`clips` per session, each rated by every listener but one; features (N, 2 layers, 6) tell the class."""
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
