"""Simulated listeners: which emotion a listener hears in a clip, and how listeners differ.

A lens model. Every emotion is a prototype in the space of prosodic cues (`perser.corpora.synthetic.acoustics`, in
standard deviations). The evidence for it is a linear function of the cues, as between Gaussians of equal spread, plus a
share for what the speaker meant (words, context). To this shared percept a listener adds a bias over the classes,
personal cue weights, a temperature, and a threshold above which a further class is ticked. These depend only on the
seed and the panel, never on clip or session; only a momentary noise varies.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from perser.seeds import rng

# level, dynamics, pitch, span, rate, pauses, slope: established findings on vocal expression, in standard deviations
# of a corpus in which every class occurs (signs from Juslin and Laukka 2003, table 7).
PROTOTYPES = {
    "neutral": (-0.3, -0.3, -0.5, -0.4, 0.2, -0.3, -0.2),
    "calm": (-0.9, -0.3, -0.8, -0.5, -0.4, 0.1, -0.7),
    "sad": (-0.9, -0.1, -0.7, -0.7, -0.7, 0.7, -0.8),
    "frustrated": (0.4, 0.3, 0.0, 0.1, -0.2, 0.5, 0.4),
    "angry": (1.2, 0.5, 0.5, 0.3, 0.3, -0.2, 1.1),
    "disgust": (-0.1, 0.2, -0.6, 0.2, -0.8, 0.6, 0.2),
    "fear": (0.0, 0.0, 1.0, -0.7, 0.8, 0.3, -0.2),
    "surprise": (0.2, -0.2, 1.1, 1.1, 0.0, -0.3, 0.0),
    "happy": (0.3, 0.0, 0.5, 0.6, 0.3, -0.3, 0.2),
    "excited": (0.8, 0.2, 0.9, 0.8, 0.7, -0.4, 0.5),
}
_SAME = {"fearful": "fear", "surprised": "surprise"}
# meant, bias, weights and noise are fitted, so that listeners of RAVDESS and of the embedded corpus agree, repeat
# themselves and differ as EmoDB's development listeners do (`agreement.likeness`; results/calibration holds both).
CALIBRATION: dict[str, Any] = {
    "sharpness": 1.0,  # of the shared percept
    "meant": 1.75,  # weight of the intended emotion: agreement rises with it
    "neutral": 1.0,  # mean over listeners of the bias to Neutral; that to other classes is zero
    "bias": 0.3,  # standard deviation over listeners of the bias to every class: the personal part
    "weights": 0.35,  # standard deviation of a listener's personal cue weights
    "temperature": (0.2, 0.2),  # mean and standard deviation of its logarithm
    "threshold": (-1.0, 0.4),  # the same for the share of the strongest class that a tick requires
    "noise": 1.2,  # momentary, added to the evidence for every class: retest falls with it
}
REPEATED = 4  # every fourth clip of a listener is rated twice, so that `retest` can be measured


class Listener(NamedTuple):
    """One simulated listener; the arrays are over classes."""

    name: str
    bias: np.ndarray  # (C,)
    weights: np.ndarray  # (C, F): of every cue for every class, prototype and personal weights together
    temperature: float
    threshold: float  # relative to the strongest class, 0..1


def prototypes(classes: Sequence[str]) -> np.ndarray:
    """(C, F) prototypes of the classes. KeyError: a class without one."""
    return np.array([PROTOTYPES[_SAME.get(name, name)] for name in classes])


def panel(names: Sequence[str], classes: Sequence[str], seed: int) -> list[Listener]:
    """Listeners with these names. A panel of any size spreads evenly over biases, temperatures and thresholds."""
    draw, scale, means = rng(seed, "listeners", *names), CALIBRATION, prototypes(classes)
    # One draw from every one of n equal slices, so that a panel of six is as varied as one of sixty.
    slices = np.array([draw.permutation(len(names)) + draw.random(len(names)) for _ in range(len(classes) + 2)]).T
    listeners = []
    for name, (temperature, threshold, *bias) in zip(names, ndtri(slices / len(names)), strict=True):
        bias = scale["bias"] * np.array(bias)
        bias[list(classes).index("neutral")] += scale["neutral"]
        weights = scale["sharpness"] * means + scale["weights"] * draw.standard_normal(means.shape)
        heat = float(np.exp(scale["temperature"][0] + scale["temperature"][1] * temperature))
        share = float(np.exp(scale["threshold"][0] + scale["threshold"][1] * threshold))
        listeners.append(Listener(name, bias, weights, heat, min(share, 0.95)))
    return listeners


def hear(listener: Listener, cues: np.ndarray, meant: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """How strongly a listener hears every class: (N, F), (N, C) one-hot, (N, C) -> (N, C) shares.

    `noise` is standard normal; it is scaled here.
    """
    middle = (listener.weights**2).sum(axis=1) / (2 * CALIBRATION["sharpness"])
    evidence = cues @ listener.weights.T - middle + CALIBRATION["meant"] * meant
    evidence = (evidence + listener.bias + CALIBRATION["noise"] * noise) / listener.temperature
    shares = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def moment(listener: Listener, cues: np.ndarray, meant: np.ndarray, seed: int, again: bool = False) -> np.ndarray:
    """The shares that a listener hears at the first rating of clips, or when the same clips are rated `again`."""
    noise = rng(seed, "moment again" if again else "moment", listener.name).standard_normal(meant.shape)
    return hear(listener, cues, meant, noise)


def ticks(listener: Listener, shares: np.ndarray) -> np.ndarray:
    """The classes a listener ticks: all that reach the threshold's share of the strongest. (N, C) -> bool (N, C)."""
    return shares >= listener.threshold * shares.max(axis=1, keepdims=True)


def intended(emotions: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """One-hot (N, C) of the emotions that the speakers meant."""
    return np.array([[emotion == name for name in classes] for emotion in emotions], dtype=float)


def assign(clips: int, listeners: int, low: int, high: int, draw: np.random.Generator) -> list[np.ndarray]:
    """Who rates what: per clip the sorted codes of `low` to `high` listeners; all rate nearly equally often."""
    load, raters = np.zeros(listeners), []
    for count in draw.integers(low, high + 1, size=clips):
        order = np.argsort(load + draw.random(listeners) * 3, kind="stable")[:count]
        load[order] += 1
        raters.append(np.sort(order))
    return raters
