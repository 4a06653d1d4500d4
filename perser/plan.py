"""What an experiment computes on one corpus and upstream, and where each result lies."""

import copy
import os
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perser import provenance, records, settings
from perser.corpora import Corpus, schema
from perser.corpora.agreement import listener_traits, noise_ceiling
from perser.data import Task, from_corpus, make_task
from perser.errors import UserError
from perser.experiment import Experiment
from perser.features.upstreams import Upstream
from perser.protocol import Protocol
from perser.records import UPSTREAM, synthetic_parts

# Raise this with every change that can alter a number, however little: parts of another version are computed anew.
NUMERICS_VERSION = 2

Unit = tuple[int, int, int]  # fold, held-out group, seed


class Plan(Protocol):
    """One experiment on one corpus and upstream.

    A unit is a fold, a held-out group of listeners and a seed. A part holds the records and the model of one method on
    one unit. Parts lie beside the run directory, so that experiments with the same settings share them.
    """

    def __init__(self, experiment: Experiment, corpus: Corpus, upstream: Upstream, features: torch.Tensor,
                 moments: tuple[float, float] | str, out: Path):
        """Check the settings against the corpus. moments: how the waveforms were normalised."""
        light = from_corpus(corpus, features)._replace(features=None)  # type: ignore[arg-type]  # `task` adds them
        super().__init__(experiment, light)
        if not re.fullmatch(UPSTREAM, upstream.name):
            raise UserError(f"upstream {upstream.name!r}: its name becomes that of a folder; rename the model's folder "
                            "with letters, digits, '-', '_' and '.'")
        base, self.out = experiment.base, Path(out)
        self.standardise = upstream.standardise if base.standardise is None else base.standardise
        self.features = features.numpy()  # worker processes map the array instead of copying it
        self.labels = {"corpus": corpus.name, "upstream": upstream.name,
                       "synthetic": synthetic_parts(corpus.synthetic, upstream.random)}
        self.about: dict[str, Any] = self.labels | {
            "experiment": experiment.name, "classes": list(corpus.classes), "waveform_moments": moments,
            "corpus_options": corpus.options, "upstream_identity": upstream.identity,
            "label_smoothing": base.label_smoothing}
        self.notes = list(corpus.notes)
        self.ceiling = None if corpus.repeats is None or corpus.repeats.empty else noise_ceiling(corpus)
        self.traits = listener_traits(corpus.ratings, corpus.classes)
        self.table = schema.rows(corpus)[0] if corpus.name == "table" else None  # its sessions may have been made
        self.fingerprint = provenance.data(corpus.clips, corpus.ratings, self.features.tobytes())
        self.origin = {"numerics_version": NUMERICS_VERSION, "commit": provenance.here()["commit"],
                       "data_digest": self.fingerprint, "cpu": provenance.here()["cpu"]}
        self.units = [(*part, seed) for seed, part in product(experiment.seeds, self.splits)]

    def task(self, unit: Unit) -> Task:
        """What the methods of a unit work with."""
        fold, group, _ = unit
        features = np.load(self.features, mmap_mode="c") if isinstance(self.features, Path) else self.features
        data = self.data._replace(features=torch.from_numpy(features))
        return make_task(data, self.split(fold, group), self.experiment.base, self.standardise)

    def by_file(self) -> "Plan":
        """The plan as it is sent to other machines, which share its folder: its features are a file that they map."""
        light = copy.copy(self)
        place = self.out.parent / "parts" / f"features-{self.fingerprint}.npy"
        light.features = place  # type: ignore[assignment]  # `task` knows both
        with records.whole(place) as half, half.open("wb") as file:  # anew: an old one may be damaged
            np.save(file, self.features, allow_pickle=False)
        return light

    def digest(self, *what: object) -> str:
        """Changes with the numerics, the data and every setting of the experiment but its set of methods."""
        shared = self.experiment.model_copy(
            update={"name": "", "methods": {}, "seeds": (), "folds": None, "references": ()})
        return settings.digest(shared, self.standardise, self.fingerprint, NUMERICS_VERSION, self.labels, *what)

    def part(self, unit: Unit, method: str | None) -> Path:
        """The folder of one method's part of a unit, or of SSL-E's without a method.

        Its name changes with everything that its content depends on; a method's title does not count.
        """
        name, key = "start", self.digest()
        if method:
            name, key = method, self.digest(method, self.experiment.methods[method].model_dump_json(exclude={"title"}))
        return self.out.parent / "parts" / f"{unit_name(unit)}-{name}-{key}"

    def parts(self) -> list[Path]:
        """The folders of all parts, by unit and method."""
        return [self.part(unit, method) for unit, method in product(self.units, self.experiment.methods)]

    def missing(self, unit: Unit) -> list[str]:
        """Methods of a unit that have no records yet."""
        return [name for name in self.experiment.methods if not all(
            (self.part(unit, name) / file).exists() for file in ("part.json", "records.parquet"))]

    def remedy(self, part: Path) -> str:
        """What to do about a damaged part."""
        return f"delete {part} and run the same command again: only this part is computed anew"

    def link(self) -> None:
        """Link the models under OUT/checkpoints by unit and method."""
        for unit, method in product(self.units, self.experiment.methods):
            place, part = self.out / "checkpoints" / unit_name(unit) / method, self.part(unit, method)
            if (part / "model.json").exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.unlink(missing_ok=True)
                place.symlink_to(os.path.relpath(part, place.parent))


def unit_name(unit: Unit) -> str:
    """The name of a unit's folder.

    >>> unit_name((1, 0, 2))
    'fold1-group0-seed2'
    """
    return "fold{}-group{}-seed{}".format(*unit)
