"""Records of any experiment with known scores, and the runs they belong to: for tests of tables, figures, claims."""

import numpy as np
import pandas as pd

from perser.records import GROUPS, Manifest, Run

SIMPLE, META, BOUND, _ = GROUPS
MAML = {"kind": "maml", "rule": "maml", "csmt": "split", "anneal": 0.0, "lslr": False, "lslr_lr": 0.002, "epochs": 10,
        "adapts": ["P", "b", "A", "a"], "inner_steps": 5, "outer_lr": 0.002, "soft_f1": 0.0, "early_stopping": "loss"}
RECIPE = MAML | {"csmt": "combined", "anneal": 0.5, "lslr": True, "lslr_lr": 0.04}
PARTS = {"csmt": {"csmt": "combined"}, "da": {"anneal": 0.5}, "lslr": {"lslr": True, "lslr_lr": 0.04},
         "shared": {"csmt": "shared"}}
# Title, group and settings of methods; combinations such as da+lslr and any other name are MAML.
METHODS = {
    "ssl-e": ("SSL-E", SIMPLE, {"kind": "ssl-e"}),
    "prior-shift": ("Prior shift", SIMPLE, {"kind": "prior-shift"}),
    "last-layer": ("Last layer", SIMPLE, {"kind": "finetune", "start": "ssl-e"}),
    "scratch": ("From scratch", SIMPLE, {"kind": "finetune", "start": "scratch"}),
    "fine-tuning": ("Fine-tuning", SIMPLE, {"kind": "finetune", "start": "ssl-e", "inner_steps_grid": [1, 5]}),
    "maml": ("MAML", META, MAML),
    "untrained": ("No outer step", META, MAML | {"epochs": 0}),
    "meta-perser": ("Meta-PerSER", META, RECIPE),
    "meta-perser-x": ("Meta-PerSER-X", META, RECIPE | {"anneal": 0.0, "soft_f1": 0.9, "outer_lr": 0.003}),
    "softened": ("Recipe with soft F1 loss", META, RECIPE | {"soft_f1": 0.9}),
    "all-data": ("All data (upper bound)", BOUND, {"kind": "all-data"}),
}


def made_run(frame: pd.DataFrame, learnt: pd.DataFrame | None = None, listeners: pd.DataFrame | None = None,
             settings: dict[str, dict] | None = None, references: tuple[str, ...] = (), **changes) -> Run:
    """A run of records. settings: of single methods, on top of METHODS; changes: of the manifest."""
    infos, configs = {}, {}
    for name in dict.fromkeys(frame["method"]):
        parts = {key: value for part in name.split("+") for key, value in PARTS.get(part, {}).items()}
        title, group, config = METHODS.get(name, (name, META, MAML | parts))
        configs[name] = config | {"title": title} | (settings or {}).get(name, {})
        infos[name] = {"title": configs[name]["title"], "group": group, "kind": config["kind"]}
    first = frame.iloc[0]
    config = {"name": first["experiment"], "references": list(references), "test_inner_steps": None,
              "base": {"targets": "distribution"}, "methods": configs}
    manifest = dict(
        corpus=first["corpus"], corpus_options={}, upstream=first["upstream"], upstream_identity=first["upstream"],
        waveform_moments="clip", synthetic=first["synthetic"], experiment=first["experiment"], classes=["x", "y"],
        label_smoothing=0.05, methods=infos, config=config, config_digest="c0ffee", numerics_version=1,
        commit="0123456789abcdef", dirty=False, data_digest="da7a", clips=1, ratings=1, listeners=1, listener_groups=1,
        dev_listeners="held-out", units=1, units_computed=1, minutes=1.0, jobs=1, origins=[],
        machine={"cpu": "Some CPU", "cores": 2})
    return Run(frame, Manifest.model_validate(manifest | changes), learnt, listeners)


def made_study(
    levels: dict[str, int],
    experiment: str = "methods",
    shots: tuple[int, ...] = (5, 20),
    seeds: tuple[int, ...] = (0, 1),
    listeners: int = 8,
    synthetic: str = "listeners",
    none: tuple[str, ...] = ("ssl-e", "all-data"),
    inner_steps: dict[str, tuple[int, ...]] | None = None,
    noise: int = 2,
) -> pd.DataFrame:
    """Records whose hits of 200 queries per class are 60 + the method's level, its shots / 5, a number of the listener
    and of the seed, and noise (0: none). Methods in `none` use no shots. inner_steps: the numbers of inner steps that a
    method is evaluated at, one more hit for each; 5 for a method that is not named.
    """
    rng, rows = np.random.default_rng(0), []
    for method, level in levels.items():
        for k in (0,) if method in none else shots:
            for step in (inner_steps or {}).get(method, (0 if method in none else 5,)):
                for setting in ("seen", "unseen"):
                    for number in range(listeners):
                        for seed in seeds:
                            hit = 60 + level + k // 5 + number % 3 + seed + int(rng.integers(noise + 1))
                            hit += step if inner_steps else 0
                            rows.append(_row(hit) | {
                                "method": method, "setting": setting, "seed": seed, "listener": f"E{number}",
                                "shots": k, "inner_steps": step,
                            })
    labels = {"corpus": "toy_corpus", "upstream": "logmel", "synthetic": synthetic, "experiment": experiment}
    return pd.DataFrame(rows).assign(**labels)


def with_probabilities(frame: pd.DataFrame) -> pd.DataFrame:
    """The same records with what those of earlier versions lack: a log loss of 2 - hits / 100, a Brier score of half of
    it, and a calibration error of 0.1; the most probable class is the predicted one.
    """
    hits = frame["tp_x"]
    more = {f"{start}_{name}": values for name in "xy" for start, values in (("top_of", 100), ("top_hits", hits))}
    frame = frame.assign(top=2 * hits, log_loss=200 * (2 - hits / 100), brier=100 * (2 - hits / 100), **more)
    bins = {"bins": [[0.0, 200.0]] * len(hits), "bins_confidence": [[0.0, 2.0 * hit + 20] for hit in hits],
            "bins_hits": [[0.0, 2.0 * hit] for hit in hits]}
    return frame.assign(shots_of="own", **bins)


def exchanged(run: Run, lost: int) -> Run:
    """The run with probabilities, in which somebody else's shots give every method that has shots `lost` hits less."""
    other = run.records[run.records["shots"] > 0].copy()
    for name, sign in (("tp", -1), ("fp", 1), ("fn", 1)):
        other[[f"{name}_x", f"{name}_y"]] += sign * lost
    return run._replace(records=with_probabilities(run.records),
                        exchanged=with_probabilities(other).assign(shots_of="other"))


def _row(hit: int) -> dict:
    """Two classes, each predicted for 100 clips and ticked for 100, `hit` of them the same: F1 = hit / 100."""
    counts = {f"{kind}_{name}": n for name in "xy" for kind, n in (("tp", hit), ("fp", 100 - hit), ("fn", 100 - hit))}
    return {"fold": 1, "draws": 5, "queries": 200, "top": hit, **counts}


def made_learnt(methods: tuple[str, ...] = ("ssl-e", "maml", "meta-perser")) -> pd.DataFrame:
    """Rates and layer weights of two seeds: those of maml all alike; those of others 0.1 for step 1 of P, 0.1 more
    with every step and ten times as much for a; `mix` never moves. SSL-E's and MAML's layer weights are the same.
    """
    rows = []
    for method in methods:
        for seed in (0, 1):
            for k in (5, 20) if method != "ssl-e" else ():
                for step in range(3):
                    for tensor, scale in (("mix", 0), ("P", 1), ("a", 10)):
                        rate = 0.1 * bool(scale) if method == "maml" else 0.1 * scale * (step + 1)
                        rows.append((method, 1, 0, seed, k, step, tensor, rate))
            middle = 0.3 if method in ("ssl-e", "maml") else 0.4
            weights = (0.2 - 0.1 * seed, middle, 0.8 - middle + 0.1 * seed)
            rows += [(method, 1, 0, seed, 0, -1, f"layer{i}", weight) for i, weight in enumerate(weights)]
    return pd.DataFrame(rows, columns=["method", "fold", "group", "seed", "shots", "step", "tensor", "value"])
