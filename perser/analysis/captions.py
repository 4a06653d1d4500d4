"""What tables and figures say of the records they show: names, the synthetic stamp, how many of what."""

import pandas as pd

from perser.errors import UserError
from perser.records import RANDOM

BASELINE = "ssl-e"
UPPER = "all-data"  # has seen every rating of the listener: a bound, never a method to beat
NO_META = {
    "ssl-e": "SSL-E",
    "prior-shift": "Prior shift",
    "last-layer": "Last layer",
    "fine-tuning": "Fine-tuning",
    "scratch": "From scratch",
    "prototypes": "Prototypes",
    "nearest-listener": "Nearest listener",
    "listener-embedding": "Listener embedding",
}
TITLES = {
    **NO_META,
    "maml": "MAML",
    "fomaml": "FOMAML",
    "anil": "ANIL",
    "reptile": "Reptile",
    "meta-sgd": "Meta-SGD",
    "maml++": "MAML++",
    "meta-perser": "Meta-PerSER",
    "meta-perser-x": "Meta-PerSER-X",
    "meta-perser-layers": "Meta-PerSER, layers too",
    "recipe-with-f1": "Recipe with soft F1 loss",
    "recipe-with-f1-stop": "Recipe stopped on dev F1",
    "recipe-to-the-end": "Recipe, last epoch",
    "untrained": "No outer step",
    "shared+da+lslr+last": "CSMT (shared), last epoch",
    "x-without-by-shots": "X without rates by K",
    "x-without-msl": "X without multi-step loss",
    "x-without-average": "X without averaging",
    "x-without-dropout": "X without dropout",
    "x-without-f1": "X without soft F1 loss",
    "x-with-f1-stop": "X stopped on dev F1",
    "x-with-annealing": "X with DA",
    "x-with-crossfit": "X with cross-fitting",
    UPPER: "All data (upper bound)",
}
# The parts that the ablation switches on and off; `shared` stands in the place of csmt.
PARTS = {"csmt": "CSMT", "da": "DA", "lslr": "LSLR"}
READING = "shared"
GROUPS = ("No meta-learning", "Meta-learning", "Upper bound")
LABELS = ("corpus", "upstream", "synthetic", "experiment")


def title(method: str) -> str:
    """A method's name in print; methods that have none keep their own.

    >>> title("meta-perser"), title("my-own"), title("da+lslr")
    ('Meta-PerSER', 'my-own', 'MAML + DA + LSLR')
    """
    if method not in TITLES and (found := parts(method)):
        return " + ".join([TITLES["maml"], *(PARTS.get(part, f"CSMT ({part})") for part in found)])
    return TITLES.get(method, method)


def parts(method: str) -> tuple[str, ...] | None:
    """The parts of a method of the ablation, none for `maml`; None for a method that is no such combination.

    >>> parts("csmt+lslr"), parts("maml"), parts("maml++")
    (('csmt', 'lslr'), (), None)
    """
    if method == "maml":
        return ()
    found = tuple(method.split("+"))
    return found if set(found) <= {*PARTS, READING} else None


def group(method: str) -> str:
    """Which group of rows a method belongs to.

    >>> group("prior-shift"), group("da+lslr"), group("all-data")
    ('No meta-learning', 'Meta-learning', 'Upper bound')
    """
    if method == UPPER:
        return GROUPS[2]
    return GROUPS[0] if method in NO_META else GROUPS[1]


def shots(method: str, number: int) -> str:
    """The number of shots in print.

    >>> shots("maml", 5), shots("ssl-e", 0), shots("all-data", 0)
    ('5', '-', 'all')
    """
    return "all" if method == UPPER else str(number) if number else "-"


def labels(records: pd.DataFrame) -> dict[str, str]:
    """Corpus, upstream, synthetic and experiment of one run. UserError when the records mix several."""
    found = {name: list(records[name].unique()) for name in LABELS}
    for name, values in found.items():
        if len(values) != 1:
            raise UserError(
                f"records of {len(values)} values of {name} ({', '.join(map(str, values))}) in one "
                "table or figure; give the records of one finished run"
            )
    return {name: values[0] for name, values in found.items()}


def stamp(records: pd.DataFrame) -> str:
    """What of the data is made up, to be shown wherever it is shown; empty for real data."""
    return made_up(labels(records)["synthetic"])


def made_up(what: str) -> str:
    """The words of the stamp.

    >>> made_up("listeners"), made_up("random upstream weights"), made_up("")
    ('synthetic listeners', 'random upstream weights', '')
    """
    return f"synthetic {what}" if what and not what.startswith(RANDOM) else what


def upstream(records: pd.DataFrame) -> str:
    """The upstream of one run in print: random weights are named wherever it is."""
    names = labels(records)
    return names["upstream"] + (" (random weights)" if RANDOM in names["synthetic"] else "")


def together(runs: list[pd.DataFrame]) -> pd.DataFrame:
    """The records of several runs as if of one, all their upstreams named, with the stamp of any of them."""
    said = [labels(frame) for frame in runs]
    stamped = next((names["synthetic"] for names in said if RANDOM in names["synthetic"]), said[0]["synthetic"])
    joined = {key: ", ".join(dict.fromkeys(names[key] for names in said)) for key in ("upstream", "experiment")}
    return pd.concat(runs, ignore_index=True).assign(synthetic=stamped, **joined)


def reading(manifest: dict) -> str:
    """Which of the readings that the paper leaves open a run took, and the corpus' options.

    >>> reading({"config": {"base": {"targets": "pooled"}}, "options": {"listeners": "all"}})
    'targets pooled, listeners all'
    """
    chosen = {"targets": manifest["config"]["base"]["targets"]} | manifest["options"]
    return ", ".join(f"{name} {value}" for name, value in chosen.items())


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "seed"), count(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listeners(records: pd.DataFrame) -> str:
    """How many listeners each setting was tested on."""
    per = records.groupby("setting", sort=False)["listener"].nunique()
    if per.nunique() == 1:
        return count(int(per.iloc[0]), "listener")
    return "listeners: " + ", ".join(f"{number} {setting}" for setting, number in per.items())


def resampled(records: pd.DataFrame) -> str:
    """The name of the interval: what the bootstrap draws again."""
    return "95 % bootstrap interval over listeners" + (" and seeds" if records["seed"].nunique() > 1 else "")


def source(records: pd.DataFrame) -> str:
    """One phrase on what was run: corpus, upstream, listeners, folds, seeds, draws."""
    names = labels(records)
    made = f" ({stamp(records)})" if stamp(records) else ""
    draws = sorted(records["draws"].unique())
    drawn = count(int(draws[-1]), "draw") if len(draws) == 1 else f"{draws[0]} to {draws[-1]} draws"
    return (
        f"corpus {names['corpus']}{made}, upstream {names['upstream']}; {listeners(records)}; "
        f"{count(records['fold'].nunique(), 'fold')}, {count(records['seed'].nunique(), 'seed')}, "
        f"{drawn} of the K shots"
    )
