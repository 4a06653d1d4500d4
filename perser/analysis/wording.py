"""Words for tables and figures: roles of methods, the synthetic stamp, counts, provenance, captions."""

from typing import Any

import pandas as pd

from perser.errors import UserError
from perser.records import GROUPS, RANDOM, Manifest, Run
from perser.scores import CONSTANT, SETTINGS

LABELS = ("corpus", "upstream", "synthetic", "experiment")
SIMPLE, META, BOUND, CONTROL = GROUPS
UNITS = ("Log loss is in hundredths of a nat; accuracy (share of clips whose most probable class the listener ticked) "
         "and macro F1 (of the paper's threshold rule) are in points.")
CLIPS = {"dev": "in choices on dev listeners", "seen": "on seen clips", "unseen": "on unseen clips"}
BEST = ("Bold: best printed mean among rivals for the same clips and K, of a method that is not below the general "
        "model in that score.")
FOLD = "\n\n"  # parts what a caption shows from what is folded away


def methods(run: Run, group: str | None = None, kind: str | None = None) -> list[str]:
    """Methods in the order of the records; only those of a group (one of records.GROUPS) or kind if given."""
    infos = {method: run.manifest.methods[method] for method in dict.fromkeys(run.records["method"])}
    return [method for method, info in infos.items() if group in (None, info.group) and kind in (None, info.kind)]


def group(run: Run, method: str) -> str:
    """A method's group; the best constant answer is a control."""
    return CONTROL if method == CONSTANT else run.group(method)


def settings(run: Run, method: str) -> dict[str, Any]:
    """A method's settings in the experiment."""
    return run.manifest.config["methods"][method]


def baseline(run: Run) -> str | None:
    """SSL-E, which ignores the shots and which gains are measured from; None if the run has none."""
    return next(iter(methods(run, kind="ssl-e")), None)


def compares(run: Run) -> bool:
    """Whether a method that adapts can be compared with SSL-E."""
    return baseline(run) is not None and bool(run.records["shots"].any())


def over(run: Run) -> str:
    """Title of the baseline."""
    return run.title(baseline(run) or "SSL-E")


def ours(run: Run) -> list[str]:
    """Methods this artifact argues for: MAML with CSMT and LSLR on the head alone, of the references if any."""
    maml = {method: settings(run, method) for method in methods(run, kind="maml")}
    return [method for method, chosen in maml.items() if chosen.get("csmt", "split") != "split" and chosen.get("lslr")
            and "mix" not in chosen.get("adapts", ()) and method in (run.manifest.config.get("references") or maml)]


def shots(run: Run, method: str, number: int) -> str:
    """The number of shots in print: "-" for a method that uses none, "all" for the upper bound."""
    bound = method in run.manifest.methods and run.group(method) == BOUND
    return "all" if bound else str(number) if number else "-"


def labels(records: pd.DataFrame) -> dict[str, str]:
    """Corpus, upstream, synthetic and experiment of one run. Raises UserError if the records mix several."""
    values = {name: list(records[name].unique()) for name in LABELS}
    for name, several in values.items():
        if len(several) != 1:
            raise UserError(f"records of {len(several)} values of {name} ({', '.join(map(str, several))}) in one "
                            "table or figure; give the records of one finished run")
    return {name: value for name, [value] in values.items()}


def stamp(run: Run) -> str:
    """The synthetic stamp of a run, shown wherever its data is shown; empty for real data."""
    return synthetic_stamp(labels(run.records)["synthetic"])


def synthetic_stamp(synthetic: str) -> str:
    """The stamp for the column `synthetic` of records.

    >>> synthetic_stamp("listeners"), synthetic_stamp("random upstream weights"), synthetic_stamp("")
    ('synthetic listeners', 'random upstream weights', '')
    """
    return f"synthetic {synthetic}" if synthetic and not synthetic.startswith(RANDOM) else synthetic


def random_weights(run: Run) -> bool:
    """Whether the upstream was never trained."""
    return RANDOM in labels(run.records)["synthetic"]


def upstream(run: Run) -> str:
    """The upstream's name in print; random weights are always named."""
    return labels(run.records)["upstream"] + (" (random weights)" if random_weights(run) else "")


def join_runs(runs: list[Run]) -> Run:
    """Several runs as one, for a caption that covers all: names and digests joined, the most cautious stamp."""
    named, manifests = [labels(run.records) for run in runs], [run.manifest for run in runs]
    stamps = [names["synthetic"] for names in named]
    joined = {key: ", ".join(dict.fromkeys(names[key] for names in named)) for key in ("upstream", "experiment")}
    joined["synthetic"] = next((parts for parts in stamps if RANDOM in parts), stamps[0])
    digests = {key: ", ".join(dict.fromkeys(getattr(manifest, key) for manifest in manifests))
               for key in ("config_digest", "data_digest")}
    commits = {manifest.commit for manifest in manifests}
    manifest = manifests[0].model_copy(update=joined | digests | {
        "commit": commits.pop() if len(commits) == 1 else None,
        "methods": {name: info for manifest in reversed(manifests) for name, info in manifest.methods.items()}})
    exchanged = [run.exchanged for run in runs if run.exchanged is not None]
    return Run(pd.concat([run.records for run in runs], ignore_index=True).assign(**joined), manifest,
               exchanged=pd.concat(exchanged, ignore_index=True) if exchanged else None)


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 seed", "3 seeds"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listeners(records: pd.DataFrame) -> str:
    """How many listeners each setting was tested on."""
    numbers = records.groupby("setting", sort=False)["listener"].nunique()
    different = "listeners: " + ", ".join(f"{number} {setting}" for setting, number in numbers.items())
    return count(int(numbers.iloc[0]), "listener") if numbers.nunique() == 1 else different


def _seeds(records: pd.DataFrame, words: str) -> str:
    return words if records["seed"].nunique() > 1 else ""


def pairing(run: Run) -> str:
    """How differences are paired."""
    return "paired by listener" + _seeds(run.records, " and seed")


def resampled(run: Run) -> str:
    """The interval's name, with what it takes for samples."""
    return "95 % interval over listeners" + _seeds(run.records, " and seeds")


def opening(answer: str, *runs: Run) -> str:
    """The head of a page as Markdown: its answer, the first sentence in bold, what was run, what of it is synthetic."""
    first, stop, more = answer.partition(". ")
    sources = [f"{source(run)}; synthetic: {run.manifest.synthetic or 'nothing'}" for run in runs]
    return "\n".join([f"**{first}{stop.strip()}** {more}".strip(), "", *(f"- {line}" for line in sources)])


def origin(run: Run) -> str:
    """Corpus, upstream and number of listeners, for the foot of a figure."""
    names = labels(run.records)
    return f"{names['corpus']}, {names['upstream']}; {listeners(run.records)}"


def source(run: Run) -> str:
    """One phrase on what was run: corpus, upstream, listeners, folds, seeds, draws."""
    records, names, synthetic = run.records, labels(run.records), stamp(run)
    draws = sorted(records["draws"].unique())
    drawn = count(int(draws[-1]), "draw") if len(draws) == 1 else f"{draws[0]} to {draws[-1]} draws"
    return (f"corpus {names['corpus']}{f' ({synthetic})' if synthetic else ''}, upstream {names['upstream']}; "
            f"{listeners(records)}; {count(records['fold'].nunique(), 'fold')}, "
            f"{count(records['seed'].nunique(), 'seed')}, {drawn} of the K shots")


def caption(run: Run, *sentences: str, brackets: str = "") -> str:
    """A table's caption of two lines, then after `FOLD` definitions and, again after it, provenance.

    sentences: the table's own, the first of which is shown. brackets: what stands in them, by default the interval.
    """
    records, synthetic = run.records, stamp(run)
    seeds, few = _seeds(records, " and seeds"), records["listener"].nunique() < 10
    shown = [
        f"{synthetic.capitalize()}." if synthetic else "",
        f"{origin(run)}: mean over listeners{seeds}, in brackets {brackets or 'the ' + resampled(run)}.",
        *sentences[:1]]
    folded = [
        UNITS, f"Run: {source(run)}.",
        "So few listeners are compared as if their values were normally distributed." if few else "",
        "" if seeds else "One seed: the interval does not cover variation between seeds.",
        "The listener is held out in both settings. Seen: other listeners' ratings of the clips were in the training "
        "set. Unseen: no rating from the clips' session was.",
        *sentences[1:], noise_ceiling(run.manifest),
        f"Not the full release: {'; '.join(run.manifest.notes)}." if run.manifest.notes else "", *left_out(run)]
    return FOLD.join(" ".join(filter(None, parts)) for parts in (shown, folded, [provenance(run.manifest)]))


def noise_ceiling(manifest: Manifest) -> str:
    """One sentence on how listeners agree with themselves; empty where no clip was rated twice."""
    ceiling = manifest.noise_ceiling
    if not ceiling:
        return ""
    others = "" if ceiling["others"] is None else f", and {100 * ceiling['others']:.1f} % of them agree with the others"
    return (f"Noise ceiling: of {ceiling['pairs']} clips that a listener rated again, "
            f"{100 * (ceiling['same'] or 0):.1f} % got the same rating{others}.")


def left_out(run: Run) -> list[str]:
    """Sentences on where shots come from, and on numbers of shots and listeners that could not be tested."""
    manifest, config, tested = run.manifest, run.manifest.config, run.records.groupby("setting", sort=False)["listener"]
    lost = {name: [str(k) for k in config["shots"] if k not in numbers] for name, numbers in manifest.shots.items()}
    shots = [f"{CLIPS[name]} K = {', '.join(numbers)}" for name, numbers in lost.items() if numbers]
    few = [f"{manifest.listeners - number} of {manifest.listeners} {CLIPS[name]}"
           for name, number in tested.nunique().items() if number < manifest.listeners]
    absent = [f"No listener could be tested {CLIPS[name]}." for name in SETTINGS if name not in tested.groups]
    sentences = ["Shots are any clips of the listener." if manifest.support == "any" else "",
                 f"Left out, as most listeners have too few ratings: {'; '.join(shots)}." if shots else "",
                 f"Listeners with too few ratings to be tested: {', '.join(few)}." if few and manifest.shots else ""]
    return [*filter(None, sentences), *absent]


def provenance(manifest: Manifest) -> str:
    """One sentence on settings, data, commit and machine."""
    changed = " with uncommitted changes" if manifest.dirty else ""
    commit = f"commit {manifest.commit[:10]}{changed}, " if manifest.commit else ""
    machine = manifest.machine
    return (f"Run: settings {manifest.config_digest}, data {manifest.data_digest}, {commit}"
            f"{machine.get('cpu', 'unknown processor')}, {count(machine.get('cores', 1), 'core')}.")
