"""Meta-PerSER and Dynamic-SUPERB Phase-2 as one reproducible artifact.

Names below are imported when they are first used, so that `import perser` costs almost nothing.
"""

from importlib import import_module

__version__ = "0.1.0"

# Name -> module it is taken from; a module itself where both are the same.
_NAMES = {
    "load_corpus": "perser.corpora:load", "describe": "perser.corpora:describe",
    "load_upstream": "perser.features.upstreams:load", "extract": "perser.features.store:extract",
    "class_balanced_weights": "perser.model:class_balanced_weights",
    "Experiment": "perser.experiment:Experiment", "load_experiment": "perser.experiment:load",
    "Plan": "perser.plan:Plan", "run": "perser.workers:run",
    "Personaliser": "perser.personaliser:Personaliser", "UserError": "perser.errors:UserError",
    "records": "perser.records", "tables": "perser.analysis.tables", "figures": "perser.analysis.figures",
    "comparison": "perser.analysis.comparison", "statistics": "perser.analysis.statistics",
    "wording": "perser.analysis.wording",
    "verdicts": "perser.analysis.verdicts",
    "claims": "perser.analysis.claims", "report": "perser.analysis.report",
    "experiments": "perser.analysis.experiments", "agreement": "perser.corpora.agreement",
    "walkthrough": "perser.walkthrough", "corpora": "perser.corpora", "features": "perser.features",
    "audio": "perser.audio", "upstreams": "perser.features.upstreams",
    "phase2": "perser.phase2", "scores": "perser.scores",
}
__all__ = [*_NAMES]


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module 'perser' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    loaded = import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
