"""Named random streams: every draw comes from (seed, purpose, keys), never from global state."""

import hashlib

import numpy as np
import torch


def entropy(seed: int, purpose: str, *keys: object) -> int:
    """128 bits that depend on the seed, the purpose's name and every key (by their text).

    >>> entropy(0, "draws", "E1", 3) == entropy(0, "draws", "E1", 3)
    True
    >>> entropy(0, "draws", "E1", 3) == entropy(0, "init", "E1", 3)
    False
    """
    text = "\x1f".join([str(int(seed)), purpose, *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def rng(seed: int, purpose: str, *keys: object) -> np.random.Generator:
    """A numpy generator of its own for one purpose."""
    return np.random.default_rng(entropy(seed, purpose, *keys))


def generator(seed: int, purpose: str, *keys: object) -> torch.Generator:
    """A torch generator (CPU) of its own for one purpose."""
    return torch.Generator().manual_seed(entropy(seed, purpose, *keys) % 2**63)
