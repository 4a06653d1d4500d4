"""One listener's ratings and what a model makes of them: faults, what adapting is worth, how the listener differs."""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import entr
from torch import Tensor

from perser import audio, personal, seeds
from perser import model as heads
from perser.about import digest
from perser.analysis.verdicts import BETTER, LEVEL, REASONS, fit, paired
from perser.checkpoints import Checkpoint
from perser.corpora import schema
from perser.corpora.agreement import others, votes
from perser.corpora.schema import Rating, Table
from perser.errors import UserError
from perser.features.upstreams import READY
from perser.personal import PersonalModel
from perser.terminal import counted

LEAVE_ONE_OUT, PARTS = 40, 10  # up to so many ratings one is left out at a time; above, a tenth of them
SILENCE = 1e-3  # the largest sample of a silent clip: -60 dB
MOST = 5  # confusions and moved clips in a description
SYNTHETIC = "the model learnt from synthetic {}: it knows no real listeners or voices; use it to try commands only"


class Clip(NamedTuple):
    """A clip's standardised features (L, D), a digest of its content, and whether it is silent."""

    features: Tensor
    content: str
    silent: bool


class Consensus(NamedTuple):
    """What the other listeners of each rating's clip say; arrays over the ratings of a table, in its order.

    clip, listener: names; ticks (R, C): shares of a rating; mean (R, C): of the others' ratings; plural (R, C): their
    plurality, tied classes sharing; shared (R,): whether there are others.
    """

    clip: np.ndarray
    listener: np.ndarray
    ticks: np.ndarray
    mean: np.ndarray
    plural: np.ndarray
    shared: np.ndarray


def consensus(ratings: pd.DataFrame, classes: tuple[str, ...]) -> Consensus:
    """The consensus of ratings with columns clip, listener and one per class; those without a class are left out."""
    ratings = ratings[ratings[list(classes)].any(axis=1)]
    cast = votes(ratings, classes)
    mean, plural, shared = others(cast)
    return Consensus(ratings["clip"].to_numpy(), ratings["listener"].to_numpy(), cast.weights, mean,
                     plural / plural.sum(axis=1, keepdims=True), shared)


def of_table(table: Table) -> Consensus:
    """The consensus of a table."""
    frame = pd.DataFrame(personal.ticks_of(table).numpy(), columns=list(table.classes))
    frame["clip"], frame["listener"] = zip(*((rating.clip, rating.listener) for rating in table.ratings))
    return consensus(frame, table.classes)


def clips_of(trained: Checkpoint, table: Table, source: Path, upstream: str | None = None, encoding: str = "",
             progress: bool = False) -> dict[str, Clip | UserError]:
    """Every clip of a table by name, or what is wrong with it. source: folder of audio, or a file of features."""
    about, mean, scale, clips = trained.about, trained.mean, trained.scale, dict[str, Clip | UserError]()

    def located(ratings: list[Rating]) -> dict[str, Any]:
        part = table._replace(ratings=ratings)
        return schema.files(part, source) if source.is_dir() else schema.chosen(part, source, encoding)

    places: dict[str, Any] = {}
    for ratings, answer in personal.piecewise(table.ratings, located):
        if isinstance(answer, UserError):
            clips[ratings[0].clip] = answer
        else:
            places |= answer
    if not source.is_dir() or about["upstream"] == READY:
        for name, values in places.items():
            vector = torch.from_numpy(values)[None] if not source.is_dir() else [values]
            features = personal.embed(vector, about, mean, scale, Path())[0]
            clips[name] = Clip(features, blake2b(values.tobytes()).hexdigest(), bool((values == values.flat[0]).all()))
        return clips
    names: dict[Path, list[str]] = {}
    for name, path in places.items():
        names.setdefault(path, []).append(name)
    for files, values in personal.embedded([*names], about, upstream, progress=progress):
        for row, file in enumerate(files):
            clip = values if isinstance(values, UserError) else Clip(
                (values[row] - mean) / scale, audio.digest(file), bool(np.abs(audio.read(file)).max() < SILENCE))
            clips |= dict.fromkeys(names[file], clip)
    return clips


def adapt(trained: Checkpoint, table: Table, names: list[str], clips: dict[str, Clip | UserError],
          repeats: str = "") -> Iterator[tuple[str, PersonalModel | UserError, list[str]]]:
    """Adapt to listeners of a table in turn: name, model or what is wrong, and warnings about the ratings."""
    cast = of_table(table)
    for name in names:
        own = personal.of_listener(table, Path(), name)
        try:
            rated = []
            for rating in own.ratings:
                if isinstance(clip := clips[rating.clip], UserError):
                    raise clip
                rated.append(clip)
            features, ticks = torch.stack([clip.features for clip in rated]), personal.ticks_of(own)
            model = personal.adapted(trained, features, ticks)
            test = tested(trained, features, ticks, [clip.content for clip in rated])
            difference = differs(trained, model, features, [rating.clip for rating in own.ratings], name, cast)
        except UserError as error:
            yield name, error, []
            continue
        about = {"listener": name, "test": test, "differs": difference}
        yield name, model._replace(about=model.about | about), warnings(own, rated, trained.about, repeats)


def warnings(table: Table, clips: list[Clip], about: dict[str, Any], repeats: str = "") -> list[str]:
    """What to doubt about one listener's ratings, a line each. repeats: what was made of those of one clip."""
    ratings, lines = table.ratings, []
    by_clip, by_content = (dict[str, list[tuple[str, str, set[str]]]]() for _ in range(2))
    for rating, on in table.singles:
        by_clip.setdefault(rating.clip, []).append((rating.where, rating.clip, on))
    for rating, on, clip in zip(ratings, table.ticks, clips):
        by_content.setdefault(clip.content, []).append((rating.where, rating.clip, on))
    for parts, what in ((by_clip, "ratings of one clip"), (by_content, "clips with the same content")):
        for part in (part for part in parts.values() if len(part) > 1):
            labels = [*dict.fromkeys(";".join(sorted(on)) or "Other" for *_, on in part)]
            opposite = len(labels) > 1 and not set.intersection(*(on for *_, on in part))
            names = ", ".join(dict.fromkeys(name for _, name, _ in part))
            remedy = f"their {repeats} counts" if parts is by_clip else "each counts"
            lines.append(f"{part[-1][0]}: {'contradictory' if opposite else 'repeated'} {what}: {names} "
                         f"({' and '.join(labels)}); {remedy}, so correct the table or remove a row")
    lines += [f"{rating.where}: {rating.clip} is silent; remove its rating" for rating, clip in zip(ratings, clips)
              if clip.silent]
    if len({frozenset(on) for on in table.ticks}) == 1:
        lines.append(f"{counted(len(ratings), 'rating')}, all {';'.join(sorted(table.ticks[0]))}: the model can only "
                     "learn to say it more often; rate clips of other classes too")
    if digest(ratings[0].listener) in (about.get("trained_on") or {}).get("digests", ()) and ratings[0].listener:
        lines.append("a listener of this name was in the model's training: if it is the same person, the general model "
                     "knows these ratings and the test below says little")
    return lines


@torch.no_grad()
def tested(trained: Checkpoint, features: Tensor, ticks: Tensor, contents: list[str]) -> dict[str, Any] | None:
    """What adapting to a listener is worth: answers about ratings that are left out of the shots in turn.

    features (K, L, D), ticks (K, C); contents: clips of the same content are left out together. Returns the entry
    `test` of a description (`about.Outcome`), None for less than two contents.
    """
    codes = pd.factorize(pd.Series(contents))[0]
    number, by = codes.max() + 1, "leave-one-out" if len(codes) <= LEAVE_ONE_OUT else f"{PARTS} parts"
    part = seeds.rng(0, "left out").permutation(number)[codes] % (number if by == "leave-one-out" else PARTS)
    if number < 2:
        return None
    answered = torch.empty(2, *ticks.shape)
    answered[0] = heads.logits(trained.model.head, features)
    for left_out in sorted(set(part)):
        asked = torch.from_numpy(part == left_out)
        model = personal.adapted(trained, features[~asked], ticks[~asked])
        answered[1, asked] = heads.logits(model.head, features[asked])
    log_p, targets = answered.double().log_softmax(-1), ticks / ticks.sum(-1, keepdim=True)
    loss = -(targets * log_p).sum(-1)
    hit = ticks[torch.arange(len(ticks)), log_p.argmax(-1)].double()  # (2, K)
    gain, better = (paired(pd.DataFrame(difference.numpy())) for difference in (loss[0] - loss[1], hit[1] - hit[0]))
    constant = float(entr(targets.double().mean(0).numpy()).sum())
    entry = {"by": by, "ratings": len(ticks), "general": float(hit[0].mean()), "personal": float(hit[1].mean()),
             "general_loss": float(loss[0].mean()), "personal_loss": float(loss[1].mean()), "constant_loss": constant,
             "gain": gain.mean, "low": gain.low, "high": gain.high, "accuracy_low": better.low,
             "accuracy_high": better.high}
    return entry | {"verdict": verdict(entry, gain.p)}


def verdict(test: dict[str, Any], p: float) -> str:
    """The verdict of `perser.analysis.verdicts`, for one listener alone."""
    if test["high"] < 0:
        return "worse: keep the general model"
    if not (p < LEVEL and test["gain"] > 0):
        return "not better: the general model answers as well"
    if test["personal"] < test["general"] or test["personal_loss"] >= test["constant_loss"]:
        return f"not better: {REASONS['falls' if test['personal'] < test['general'] else 'constant']}"
    return BETTER


@torch.no_grad()
def differs(trained: Checkpoint, model: PersonalModel, features: Tensor, clips: list[str], listener: str,
            cast: Consensus) -> dict[str, Any]:
    """How a listener differs from the general model on the rated clips, and from the others' consensus.

    features (K, L, D) of the rated clips, in the consensus's order of this listener's ratings. Returns the entry
    `differs` of a description (`about.Differs`).
    """
    classes = model.about["classes"]
    before, after = (heads.logits(head, features).softmax(-1).double().numpy()
                     for head in (trained.model.head, model.head))
    own = cast.listener == listener
    ticks, shared = cast.ticks[own], cast.shared[own]
    both = cast.shared & own
    means = [values.mean(0).clip(0, 1) for values in (before, after, ticks)]
    means += [values[both].mean(0).clip(0, 1) if both.any() else [None] * len(classes)
              for values in (cast.ticks, cast.mean)]
    counts = cast.plural[both].T @ cast.ticks[both]
    np.fill_diagonal(counts, 0)
    pairs = [divmod(int(place), len(classes)) for place in np.argsort(-counts, axis=None, kind="stable")[:MOST]]
    distance = np.abs(after - before).sum(1) / 2
    rows = np.argsort(-distance, kind="stable")[:MOST]
    return {
        "shared": int(shared.sum()),
        "listeners": len({*cast.listener[np.isin(cast.clip, cast.clip[both])]} - {listener}),
        "classes": [dict(zip(("name", "general", "personal", "ticked", "shared", "others"),
                             (name, *(value if value is None else float(value) for value in values))))
                    for name, *values in zip(classes, *means)],
        "confusions": [{"others": classes[one], "listener": classes[other], "ratings": float(counts[one, other])}
                       for one, other in pairs if counts[one, other] > 0],
        "moved": [{"clip": clips[row], "general": classes[before[row].argmax()],
                   "personal": classes[after[row].argmax()],
                   "ticked": ";".join(name for name, on in zip(classes, ticks[row]) if on),
                   "distance": float(min(1, distance[row]))} for row in rows]}


def result(test: dict[str, Any] | None) -> list[str]:
    """The entry `test` of a description in words."""
    if test is None:
        return ["not tested: it takes ratings of two clips or more"]
    span = f"[{100 * test['low']:+.1f}, {100 * test['high']:+.1f}]"
    return [f"general {100 * test['general']:.0f} -> personal {100 * test['personal']:.0f} of 100 "
            f"({test['by']}, n = {test['ratings']})",
            f"difference {100 * (test['personal'] - test['general']):+.0f} [{100 * test['accuracy_low']:+.0f}, "
            f"{100 * test['accuracy_high']:+.0f}] of 100",
            f"log loss {100 * test['general_loss']:.1f} -> {100 * test['personal_loss']:.1f} in 0.01 nat, gain "
            f"{100 * test['gain']:+.1f} {span}",
            test["verdict"]]


def table(results: list[tuple[str, dict[str, Any] | None, str]]) -> list[str]:
    """Listeners, their tests and files, one a line of 80 columns."""
    rows = [f"{'listener':<14} {'n':>4} {'general':>7} {'personal':>8} {'gain':>6} {'95 % interval':>16} verdict"]
    for name, test, file in results:
        if test is None:
            rows.append(f"{fit(name, 14)} not tested: {file}")
            continue
        span = f"[{100 * test['low']:.1f}, {100 * test['high']:.1f}]"
        rows.append(f"{fit(name, 14)} {test['ratings']:>4} {100 * test['general']:>7.1f} "
                    f"{100 * test['personal']:>8.1f} {100 * test['gain']:>+6.1f} {span:>16} "
                    f"{test['verdict'].split(':')[0]}")
    return [*rows, "accuracy of 100, left-out ratings; gain in log loss, 0.01 nat"]


def explained(about: dict[str, Any]) -> list[str]:
    """How a listener differs, from the description of the model, in lines of at most 79 columns."""
    entry = about["differs"]
    lines = [f"{fit(about.get('listener') or 'The listener', 30).rstrip()}: {counted(about['shots'], 'rating')}, "
             f"model {fit(about['method'], 24).rstrip()}"]
    lines += ([f"SYNTHETIC: the model learnt from synthetic {fit(about['synthetic'], 38).rstrip()}"]
              if about["synthetic"] else [])
    lines += result(about.get("test")) if "test" in about else [about["verdict"]] if about.get("verdict") else []
    common = (f"on {counted(entry['shared'], 'clip')} that {counted(entry['listeners'], 'other')} rated too"
              if entry["shared"] else "on all rated clips; nobody else rated them")
    lines += ["", "Answers about the rated clips: mean probability of each class, of 100.",
              f"Ticks: share of each class, of 100, {common}.", "",
              f"{'':<24} {'answers':>23}   {'ticks':>23}",
              f"{'class':<24} {'general':>7} {'personal':>8} {'change':>6}   "
              f"{'others':>7} {'listener':>8} {'differ':>6}"]
    lines += [f"{fit(row['name'], 24)} {_three(row['general'], row['personal'])}   "
              f"{_three(row['others'], row['ticked'] if row['shared'] is None else row['shared'])}"
              for row in entry["classes"]]
    if entry["confusions"]:
        lines += ["", "Most frequent differences from the others' plurality",
                  f"{'others':<28} {'listener':<28} ratings"]
        lines += [f"{fit(row['others'], 28)} {fit(row['listener'], 28)} {row['ratings']:>7.1f}"
                  for row in entry["confusions"]]
    if entry["moved"]:
        lines += ["", "Clips whose answer moved most, of those rated",
                  f"{'clip':<20} {'general':<16} {'personal':<16} {'ticked':<16} {'moved':>5}"]
        lines += [f"{fit(row['clip'], 20)} {fit(row['general'], 16)} {fit(row['personal'], 16)} "
                  f"{fit(row['ticked'], 16)} {100 * row['distance']:>5.1f}" for row in entry["moved"]]
    return [line.rstrip() for line in lines]


def _three(one: float | None, other: float | None) -> str:
    """Two shares and their difference, of 100; the first may be unknown."""
    if one is None or other is None:
        return f"{'-':>7} {'-' if other is None else f'{100 * other:.1f}':>8} {'-':>6}"
    return f"{100 * one:>7.1f} {100 * other:>8.1f} {100 * (other - one):>+6.1f}"
