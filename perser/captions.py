"""What tables and figures say of the records they show: names, the synthetic stamp, how many of what."""

import pandas as pd

from perser.errors import UserError

TITLES = {"ssl-e": "SSL-E", "fine-tuning": "Fine-tuning", "maml": "MAML", "meta-perser": "Meta-PerSER"}
BASELINE = "ssl-e"
LABELS = ("corpus", "upstream", "synthetic", "experiment")


def title(method: str) -> str:
    """A method's name in print; methods that the papers do not name keep their own.

    >>> title("meta-perser"), title("last-layer")
    ('Meta-PerSER', 'last-layer')
    """
    return TITLES.get(method, method)


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

    >>> made_up("listeners"), made_up("")
    ('synthetic listeners', '')
    """
    return f"synthetic {what}" if what else ""


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
