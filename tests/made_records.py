"""Records of any experiment with scores that are known: what tests of tables, figures and claims use."""

import numpy as np
import pandas as pd


def made_study(
    levels: dict[str, int],
    experiment: str = "methods",
    shots: tuple[int, ...] = (5, 20),
    seeds: tuple[int, ...] = (0, 1),
    listeners: int = 8,
    synthetic: str = "listeners",
    none: tuple[str, ...] = ("ssl-e", "all-data"),
    steps: dict[str, tuple[int, ...]] | None = None,
    noise: int = 2,
) -> pd.DataFrame:
    """Records whose hits of 200 queries per class are 60 + the method's level, its shots / 5, one listener's
    and one seed's own number, and noise (0: none). Methods in `none` use no shots. steps: the inner steps
    that each method is evaluated at, one more hit for each; 5 for a method that is not named.
    """
    rng, rows = np.random.default_rng(0), []
    for method, level in levels.items():
        for k in (0,) if method in none else shots:
            for step in (steps or {}).get(method, (0 if method in none else 5,)):
                for setting in ("seen", "unseen"):
                    for number in range(listeners):
                        for seed in seeds:
                            hit = 60 + level + k // 5 + number % 3 + seed + int(rng.integers(noise + 1))
                            hit += step if steps else 0
                            rows.append(_row(hit) | {
                                "method": method, "setting": setting, "seed": seed, "listener": f"E{number}",
                                "shots": k, "steps": step,
                            })
    labels = {"corpus": "toy_corpus", "upstream": "logmel", "synthetic": synthetic, "experiment": experiment}
    return pd.DataFrame(rows).assign(**labels)


def _row(hit: int) -> dict:
    """Two classes, each predicted for 100 clips and ticked for 100, `hit` of them the same: F1 = hit / 100."""
    counts = {f"{kind}_{name}": n for name in "xy" for kind, n in (("tp", hit), ("fp", 100 - hit), ("fn", 100 - hit))}
    return {"fold": 1, "draws": 5, "queries": 200, "top": hit, **counts}


def made_learnt(methods: tuple[str, ...] = ("ssl-e", "maml", "meta-perser")) -> pd.DataFrame:
    """Rates and layer weights of two seeds: those of maml all alike; those of others 0.1 for step 1 of P, 0.1 more
    with every step and ten times as much for a; `mix` never moves.
    """
    rows = []
    for method in methods:
        for seed in (0, 1):
            for k in (5, 20) if method != "ssl-e" else ():
                for step in range(3):
                    for tensor, scale in (("mix", 0), ("P", 1), ("a", 10)):
                        rate = 0.1 * bool(scale) if method == "maml" else 0.1 * scale * (step + 1)
                        rows.append((method, 1, 0, seed, k, step, tensor, rate))
            weights = (0.2 - 0.1 * seed, 0.3, 0.5 + 0.1 * seed)
            rows += [(method, 1, 0, seed, 0, -1, f"layer{i}", weight) for i, weight in enumerate(weights)]
    return pd.DataFrame(rows, columns=["method", "fold", "group", "seed", "shots", "step", "tensor", "value"])
