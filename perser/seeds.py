"""Named random streams: every draw comes from (seed, purpose, keys), never from global state."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def entropy(seed: int, purpose: str, *keys: object) -> int:
    """128 bits derived from the seed, the name of the purpose and the text of every key.

    >>> entropy(0, "draws", "E1", 3) == entropy(0, "draws", "E1", 3)
    True
    >>> entropy(0, "draws", "E1", 3) == entropy(0, "init", "E1", 3)
    False
    """
    text = "\x1f".join([str(int(seed)), purpose, *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def rng(seed: int, purpose: str, *keys: object) -> np.random.Generator:
    """A NumPy generator for one purpose, independent of all others."""
    return np.random.default_rng(entropy(seed, purpose, *keys))


def generator(seed: int, purpose: str, *keys: object) -> torch.Generator:
    """A torch CPU generator for one purpose, independent of all others."""
    import torch

    return torch.Generator().manual_seed(entropy(seed, purpose, *keys) % 2**63)
