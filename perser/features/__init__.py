"""Audio files to pooled features: reading files, upstream models, and the on-disk store."""

from perser.features.store import ClipsError, extract, moments
from perser.features.upstreams import load as load_upstream

__all__ = ["ClipsError", "extract", "load_upstream", "moments"]
