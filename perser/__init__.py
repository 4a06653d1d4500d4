"""Meta-PerSER and Dynamic-SUPERB Phase-2 as one reproducible artifact."""

__version__ = "0.1.0"
