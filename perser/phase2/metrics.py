"""Score a list of answers that `answers` has read: metrics, independent of any model."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import jiwer
import mir_eval
import numpy as np
import sacrebleu
from scipy import optimize, stats
from sklearn import metrics as sk

from perser import scores
from perser.phase2.answers import LARGEST, fold, is_letter, key, read_number, tokens, within

ANSWERED, NONE, UNPARSEABLE, FAILED = "answered", "none", "unparseable", "failed"  # outcomes
JUDGED = (ANSWERED, NONE, UNPARSEABLE)  # a verdict that cannot be read is no answer to a number task, otherwise wrong
Labels = Sequence[Sequence[str]]
Parts = Callable[[Sequence[str], Any], tuple[float, float]]


def _set(values: Sequence[str] | None) -> frozenset[str]:
    return frozenset(key(value) for value in values or ()) - {""}


def exact(labels: Sequence[str], answer: Sequence[str] | None) -> tuple[float, float]:
    """1 when the named options are exactly the labels; no answer is wrong unless there are no labels."""
    return float(_set(labels) == _set(answer)), 1.0


def weighted_accuracy(labels: Labels, answers: Sequence[Any]) -> float:
    """Accuracy with the same weight for each label set: mean recall over those that occur."""
    truth, right = [_set(row) for row in labels], [exact(*pair)[0] for pair in zip(labels, answers, strict=True)]
    return float(np.mean([np.mean([r for r, t in zip(right, truth, strict=True) if t == name]) for name in set(truth)]))


def _class_counts(labels: Labels, answers: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, false positives and false negatives of all classes that occur among labels or answers."""
    sides = [_set(row) for row in labels], [_set(answer) for answer in answers]
    classes = sorted(frozenset().union(*sides[0], *sides[1]))
    truth, predicted = (np.array([[c in row for c in classes] for row in side], dtype=bool) for side in sides)
    return (truth & predicted).sum(0), (~truth & predicted).sum(0), (truth & ~predicted).sum(0)


def macro_f1(labels: Labels, answers: Sequence[Any]) -> float:
    """F1 over label sets, averaged over all classes that occur among labels or answers."""
    counts = _class_counts(labels, answers)
    return float(scores.macro_f1(*counts)) if len(counts[0]) else 1.0


def weighted_f1(labels: Labels, answers: Sequence[Any]) -> float:
    """F1 over label sets, averaged over the classes of the labels with their number of labels as weight."""
    tp, fp, fn = _class_counts(labels, answers)
    if not (tp + fn).any():
        return float(not fp.any())
    return float(np.average(2 * tp / np.maximum(1, 2 * tp + fp + fn), weights=tp + fn))


def _overlap(truth: Counter[str], predicted: Counter[str]) -> tuple[float, float]:
    """Numerator and denominator of a micro-F1: twice the shared count, and the total of both sides."""
    return 2.0 * (truth & predicted).total(), float(truth.total() + predicted.total())


def set_f1(labels: Sequence[str], answer: Sequence[str] | None) -> tuple[float, float]:
    """Micro-F1 over the labels of a set."""
    return _overlap(Counter(_set(labels)), Counter(_set(answer)))


def _item_f1(form: Callable[[str], str]) -> Parts:
    """Micro-F1 over comma-separated items, counting repeated items; `form` is what is compared of an item."""
    def items(values: Sequence[str]) -> Counter[str]:
        parts = [part.strip() for value in values for part in re.split(r"[,;\n]", value.strip("[]"))]
        return Counter(form(part) for part in parts if key(part))
    return lambda labels, answer: _overlap(items(labels), items([answer or ""]))


item_f1 = _item_f1(key)  # "PLACE: Paris, ..."
label_f1 = _item_f1(lambda item: key(re.split("[:(]", item)[0]))  # the types alone: what precedes the colon


def word_f1(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """F1 of shared words, averaged over rows; two empty texts score 1."""
    shared, total = _overlap(Counter(tokens(" ".join(labels))), Counter(tokens(answer or "")))
    return shared / total if total else 1.0, 1.0


def _plain(text: str) -> str:
    """Lower case without punctuation except the apostrophe; letters keep their marks."""
    return " ".join("".join(c if is_letter(c) or c == "'" else " " for c in fold(text)).split())


@cache
def _whisper_normalisers() -> tuple[Callable[[str], str], Callable[[str], str]]:
    """Whisper's normalisers for English and for other languages; without its list of British spellings."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer({}), BasicTextNormalizer()


@lru_cache(maxsize=4096)
def _whisper(text: str) -> str:
    """Whisper's normaliser, the one for English if the text is in ASCII; it drops marks of other scripts."""
    english, basic = _whisper_normalisers()
    try:
        return (english if text.isascii() else basic)(text).strip()
    except ValueError:  # the one for English fails on some numbers
        return basic(text).strip()


NORMALISERS: dict[str, Callable[[str], str]] = {"plain": _plain, "raw": lambda text: " ".join(text.split()),
                                                "upstream": str.upper, "whisper": _whisper}


def _edits(truth: str, answer: str, characters: bool = False) -> tuple[float, float]:
    """Edits and length of the reference, in words or in characters, spaces included."""
    out = (jiwer.process_characters if characters else jiwer.process_words)(truth, answer)
    length = len(truth.strip() if characters else truth.split())
    return float(out.substitutions + out.deletions + out.insertions), float(length)


def _errors(form: Callable[[str], str], characters: bool = False) -> Parts:
    return lambda labels, answer: _edits(form(" ".join(labels)), form(answer or ""), characters)


def _symbols(text: str) -> str:
    """Symbols between spaces or commas as written, so that case counts: phones, part-of-speech tags."""
    return " ".join(unicodedata.normalize("NFC", text).replace(",", " ").split())


def _mixed(form: Callable[[str], str]) -> Parts:
    """Errors over words, and over the characters of Chinese, Japanese and Korean."""
    return _errors(lambda text: re.sub(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])", r" \1 ", form(text)))


def _cpwer(form: Callable[[str], str]) -> Parts:
    """Concatenated minimum-permutation WER: one label (or line) per speaker, one line of the answer per speaker."""
    def parts(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
        truth, lines = ([form(re.sub(r"^\s*speaker\s*\w+\s*:", "", line, flags=re.I))
                         for line in text.split("\n") if line.strip()] for text in ("\n".join(labels), answer or ""))
        added = [float(len(line.split())) for line in lines]  # the errors of a line that is nobody's
        none = [_edits(text, "")[0] for text in truth]
        cost = np.array([[_edits(text, line)[0] - extra for line, extra in zip(lines, added, strict=True)]
                         + [missed] * len(truth) for text, missed in zip(truth, none, strict=True)])
        best = cost[optimize.linear_sum_assignment(cost)].sum() if truth else 0.0
        return float(best + sum(added)), float(sum(len(text.split()) for text in truth))
    return parts


def _text_errors(name: str) -> dict[str, Parts]:
    """The error rates of texts under one of NORMALISERS; symbols are never changed but by upstream's upper case."""
    form = NORMALISERS[name]
    return {"WER": _errors(form), "CER": _errors(form, True), "MER": _mixed(form), "cpWER": _cpwer(form),
            "PER": _errors({"plain": _symbols, "whisper": _symbols}.get(name, form))}


def slots(text: str) -> dict[str, list[str]]:
    """The values of each type in "type: value, type: value"; what has no colon belongs to the value before it.

    >>> slots("city: Paris, date: 3 May, 2020, city: Rome")
    {'city': ['Paris', 'Rome'], 'date': ['3 May, 2020']}
    """
    values: dict[str, list[str]] = {}
    for item in re.split(r"[,;\n]\s*(?=[^,;:\n]+:)", text.strip()):
        name, mark, value = item.partition(":")
        if mark:
            values.setdefault(name.strip(), []).append(value.strip())
    return values


def slot_type_f1(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """F1 of the slot types of a row, averaged over rows; types as written."""
    truth, predicted = (Counter(set(slots(text))) for text in (", ".join(labels), answer or ""))
    shared, total = _overlap(truth, predicted)
    return shared / total if total else 1.0, 1.0


def slot_value_cer(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Character errors of each value of the label against the answer's nearest value of that type, in upper case."""
    predicted, parts = slots((answer or "").upper()), [(0.0, 0.0)]
    for name, values in slots(", ".join(labels).upper()).items():
        parts += [min(_edits(value, other, True) for other in predicted.get(name, [""])) for value in values]
    edits, lengths = np.sum(parts, axis=0)
    return float(edits), float(lengths)


def turns(text: str) -> list[tuple[str, float, float]]:
    """Speaker turns in "(speaker, onset, offset) (speaker, ...)", in seconds; reversed and empty ones are dropped."""
    rows = re.findall(r"\(\s*([^(),]+?)\s*,\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*\)", text)
    return [(name, float(start), float(end)) for name, start, end in rows if float(start) < float(end) < LARGEST]


def der(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Diarisation errors and speech, in seconds: missed, false and confused time, overlaps included, no collar."""
    sides = turns(" ".join(labels)), turns(answer or "")
    edges = np.unique([time for side in sides for turn in side for time in turn[1:]])
    if not len(edges):
        return 0.0, 0.0
    middles, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    truth, predicted = (np.array([np.any([(start < middles) & (middles < end) for name, start, end in side
                                          if name == speaker], axis=0) for speaker in sorted({t[0] for t in side})],
                                 dtype=float).reshape(-1, len(middles)) for side in sides)
    shared = (truth * widths) @ predicted.T
    right = shared[optimize.linear_sum_assignment(shared, maximize=True)].sum()
    return float((np.maximum(truth.sum(0), predicted.sum(0)) * widths).sum() - right), float((truth * widths).sum())


def bleu(labels: Labels, answers: Sequence[str | None]) -> float:
    """Corpus BLEU by sacrebleu, 0 to 100, with Chinese tokenisation if the references are Chinese."""
    references = [" ".join(row) for row in labels]
    tokenizer = "zh" if any(re.search(r"[\u4e00-\u9fff]", text) for text in references) else "13a"
    return sacrebleu.corpus_bleu([a or "" for a in answers], [references], tokenize=tokenizer).score


@lru_cache(maxsize=65536)
def _number(labels: tuple[str, ...]) -> float | None:
    """The number in a row's label; cached because every resample needs it."""
    return read_number(labels[0]) if labels else None


def _deviation(power: int) -> Parts:
    def parts(labels: Sequence[str], answer: float | None) -> tuple[float, float]:
        truth, answer = _number(tuple(labels)), within(answer)
        return (0.0, 0.0) if truth is None or answer is None else (abs(truth - answer) ** power, 1.0)
    return parts


def _over_numbers(rule: Callable[..., Any], correlation: bool) -> Callable[[Labels, Sequence[Any]], float]:
    """A rule over the answered rows. A constant answer has correlation 0; too few rows give NaN."""
    def metric(labels: Labels, answers: Sequence[Any]) -> float:
        pairs = [(_number(tuple(row)), within(answer)) for row, answer in zip(labels, answers, strict=True)]
        truth, predicted = np.array([p for p in pairs if None not in p], dtype=float).reshape(-1, 2).T
        if not correlation:
            return float(rule(truth, predicted)) if len(truth) else float("nan")
        if len(truth) < 2 or not np.ptp(truth):
            return float("nan")
        return float(rule(truth, predicted).statistic) if np.ptp(predicted) else 0.0
    return metric


def time_spans(text: str) -> np.ndarray:
    """Pairs of times in a text ("1.2-3.4 s, from 5 to 6"), (n, 2) in seconds; reversed and empty ones are dropped."""
    number = r"(\d+(?:\.\d+)?)"
    pairs = re.findall(rf"(?<![\d.]){number}\s*s?(?:ec(?:onds?)?)?\s*(?:-|\u2013|to|and|,)\s*{number}", text)
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    return table[(table[:, 1] > table[:, 0]) & (table[:, 1] < LARGEST)]


def iou(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Intersection over union of time, averaged over rows; the spans of a row are merged first.

    A label that has no times, but is not blank, scores 0.
    """
    truth, predicted = time_spans(" ".join(labels)), time_spans(answer or "")
    edges = np.unique(np.concatenate([truth.ravel(), predicted.ravel()]))
    middles, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    inside = [((side[:, :1] < middles) & (middles < side[:, 1:])).any(0) for side in (truth, predicted)]
    covered = widths[inside[0] | inside[1]].sum()
    blank = not " ".join(labels).strip()
    return float(widths[inside[0] & inside[1]].sum() / covered) if covered else float(blank), 1.0


def events(text: str) -> list[tuple[str, float, float]]:
    """Events in a text, one per line or semicolon: "dog bark: 1.2-3.4" or "dog bark, 1.2, 3.4"."""
    rows = []
    for part in re.split(r"[;\n]", text):
        name = re.sub(r" (?:from|between)$", "", key(re.sub(r"\d+(?:\.\d+)?.*", "", part, flags=re.S)))
        rows += [(name, *span) for span in time_spans(part).tolist()]
    return rows


def event_f1(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Event-based micro-F1: same name, onset within 200 ms, offset within 200 ms or half the length.

    Events are matched by mir_eval as notes, one-to-one and maximally, with a pitch per name. If the label has names
    without times, names alone are compared.
    """
    if (names := "\n".join(labels).strip()) and not events(names):
        return item_f1(labels, answer)
    sides = events("\n".join(labels)), events(answer or "")
    total = float(len(sides[0]) + len(sides[1]))
    if not all(sides):
        return 0.0, total
    pitches = {name: 100.0 * 2.0**i for i, name in enumerate(sorted({event[0] for side in sides for event in side}))}
    notes = [array for side in sides
             for array in (np.array([event[1:] for event in side]), np.array([pitches[event[0]] for event in side]))]
    hits = mir_eval.transcription.match_notes(*notes, onset_tolerance=0.2, offset_ratio=0.5, offset_min_tolerance=0.2)
    return 2.0 * len(hits), total


def _onset_f1(window: float) -> Parts:
    """Micro-F1 over times in seconds, matched one-to-one within the window."""
    def parts(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
        truth, predicted = (np.sort(np.array(re.findall(r"\d+(?:\.\d+)?", text), dtype=float))
                            for text in (" ".join(labels), answer or ""))
        truth, predicted = truth[truth < LARGEST], predicted[predicted < LARGEST]
        hits = mir_eval.util.match_events(truth, predicted, window) if len(truth) and len(predicted) else []
        return 2.0 * len(hits), float(len(truth) + len(predicted))
    return parts


@dataclass(frozen=True)
class Metric:
    """A reading mode and a rule: `parts`, (numerator, denominator) of a row, for a ratio of sums; otherwise `whole`."""

    mode: str
    higher: bool
    parts: Parts | None = None
    whole: Callable[[Labels, Sequence[Any]], float] | None = None

    def compute(self, labels: Labels, answers: Sequence[Any]) -> float:
        """The metric over a task: labels as one tuple per row, answers as from `read`; NaN if undefined."""
        if self.whole:
            return self.whole(labels, answers)
        assert self.parts, "a metric of rows or of the whole"
        return self.ratio(np.array([self.parts(*row) for row in zip(labels, answers, strict=True)]))

    def ratio(self, parts: np.ndarray) -> float:
        """The metric from the parts of some rows, (n, 2). A zero denominator is perfect for texts, NaN for numbers."""
        numerator, denominator = parts.sum(0)
        if denominator:
            return float(numerator / denominator)
        return float("nan") if self.mode == "number" else 1.0 if self.higher else float(numerator)


def _family(mode: str, higher: bool, form: str, **rules: Callable[..., Any]) -> dict[str, Metric]:
    return {name.replace("_", "-"): Metric(mode, higher, **{form: rule}) for name, rule in rules.items()}


KINDS = {"choice": "classification", "number": "regression", "text": "sequence_generation"}  # of task, by mode
METRICS: dict[str, Metric] = {
    **_family("choice", True, "parts", accuracy=exact, F1=set_f1),
    **_family("choice", True, "whole", weighted_accuracy=weighted_accuracy, macro_F1=macro_f1,
              weighted_F1=weighted_f1),
    **_family("number", False, "parts", MSE=_deviation(2), MAE=_deviation(1)),
    **_family("number", False, "whole", MedAE=_over_numbers(sk.median_absolute_error, False)),
    **_family("number", True, "whole", LCC=_over_numbers(stats.pearsonr, True),
              SRCC=_over_numbers(stats.spearmanr, True), KTAU=_over_numbers(stats.kendalltau, True)),
    **{name if normaliser == "plain" else f"{name}-{normaliser}": Metric("text", False, parts)
       for normaliser in NORMALISERS for name, parts in _text_errors(normaliser).items()},
    **_family("text", False, "parts", slot_value_CER=slot_value_cer, DER=der,
              slot_value_CER_upstream=lambda labels, answer: slot_value_cer([answer or ""], ", ".join(labels))),
    **_family("text", True, "whole", BLEU=bleu),
    **_family("text", True, "parts", item_F1=item_f1, label_F1=label_f1, word_F1=word_f1, slot_type_F1=slot_type_f1,
              IoU=iou, event_F1=event_f1, onset_F1=_onset_f1(0.05), beat_F1=_onset_f1(0.07)),
}
ALIASES = {"pearson": "LCC", "pearson correlation": "LCC", "pcc": "LCC", "spearman": "SRCC", "kendall": "KTAU",
           "word error rate": "WER", "character error rate": "CER", "phoneme error rate": "PER", "pos": "PER",
           "phone error rate": "PER", "acc": "accuracy", "llm": "accuracy", "sacrebleu": "BLEU",
           "f1 weighted": "weighted-F1", "mean squared error": "MSE", "mean absolute error": "MAE",
           "event based f1": "event-F1", "note onset f measure": "onset-F1", "beat f measure": "beat-F1",
           "diarization error rate": "DER", "diarisation error rate": "DER"}


def _spelling(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.casefold()))


def canonical(name: str) -> str:
    """The name in METRICS for any of a metric's upstream spellings; "" when it is unknown.

    >>> canonical("Pearson correlation (proposed)"), canonical("word_F1"), canonical("PESQ")
    ('LCC', 'word-F1', '')
    """
    spelling = _spelling(re.sub(r"\(.*?\)", " ", name))
    return {_spelling(known): known for known in METRICS}.get(spelling) or ALIASES.get(spelling, "")


def normalised(metrics: str, normaliser: str) -> str:
    """Metrics joined by |, those of a text's errors under one of NORMALISERS.

    >>> normalised("WER|BLEU", "whisper"), normalised("WER", "plain")
    ('WER-whisper|BLEU', 'WER')
    """
    names = ((name, f"{name}-{normaliser}") for name in metrics.split("|"))
    return "|".join(form if form in METRICS else name for name, form in names)
