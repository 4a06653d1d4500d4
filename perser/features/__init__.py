"""Audio files to pooled features: reading, upstream models, and the on-disk store."""

from perser.features.store import extract, moments

__all__ = ["extract", "moments"]
