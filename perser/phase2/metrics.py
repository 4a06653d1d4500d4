"""Read an answer and score a list of answers: extraction and metrics, independent of any model.

An answer is read in one of three modes: `choice` (a set of options), `number` or `text`. An answer that cannot be read
is None, an outcome in its own right; it is never replaced by a guess.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

import jiwer
import mir_eval
import numpy as np
import sacrebleu
from scipy import optimize, stats
from sklearn import metrics as sk
from text_to_num import alpha2digit

from perser import scores

LONGEST_ANSWER = 8192
ANSWERED, NONE, UNPARSEABLE, FAILED = "answered", "none", "unparseable", "failed"  # outcomes
NUMBER = r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])-?\.\d+"
UNITS = {"second": (r"s|secs?|seconds?", 1.0), "millisecond": (r"ms|msecs?|milliseconds?", 1e-3),
         "minute": (r"min|mins|minutes?", 60.0), "hertz": (r"hz|hertz", 1.0), "kilohertz": (r"khz|kilohertz", 1e3),
         "decibel": (r"db|decibels?", 1.0), "bpm": (r"bpm|beats per minute", 1.0)}
DIMENSION = {"millisecond": "second", "minute": "second", "kilohertz": "hertz"}
NEGATIONS = {"not", "no", "never", "isn't", "without", "nor", "neither", "cannot", "can't", "doesn't", "don't"}
NO_ANSWER = {"n a", "na", "not applicable", ""}
TRIGGER = re.compile(
    r"(?:answers?|options?|choices?|labels?|categories|candidates?|one|following|classes)\s+"
    r"(?:could|can|may|should|must|might|will)\s+be(?:\s+(?:one of|either|any of))?:?\s+|"
    r"(?:options|choices|candidates|labels|categories|classes)(?:\s+(?:are|include)|\s*:)\s*:?\s*|"
    r"(?:choose|select|pick)\s+(?:\w+\s+){0,4}?(?:from|among|between|of):?\s+(?:the following:?\s+)?", re.I)
Labels = Sequence[Sequence[str]]
Parts = Callable[[Sequence[str], object], tuple[float, float]]


def clean(answer: str) -> str:
    """The text that is scored: tagged reasoning removed, control characters blanked, cut to LONGEST_ANSWER."""
    text = re.sub(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", " ", answer[: 4 * LONGEST_ANSWER], flags=re.S | re.I)
    text = "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else " " for c in text)
    return text.strip()[:LONGEST_ANSWER]


def _fold(text: str) -> str:
    """NFKC, case folded, with ASCII minus signs and apostrophes."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").replace("\u2019", "'")


def tokens(text: str) -> list[str]:
    """Words and numbers of a text: NFKC, case folded, number words as digits, punctuation dropped.

    >>> tokens("It is Twenty-one  dB, I'd say.")
    ['it', 'is', '21', 'db', "i'd", 'say']
    """
    words = re.findall(r"(?<!\w)-?\d+(?:\.\d+)?(?!\w)|[\w#+%']+", alpha2digit(_fold(text), "en", threshold=0))
    return [word for word in (word.strip("'") for word in words) if word]


@lru_cache(maxsize=4096)
def key(text: str) -> str:
    """The form in which options and labels are compared."""
    return " ".join(tokens(text))


def parse_options(instruction: str, labels: Sequence[str] = ()) -> list[str]:
    """The options that an instruction lists ("The answer could be a, b, or c."), [] when it lists none.

    A parse counts only if it gives at least two options and they include `labels` (those of the row).

    >>> parse_options("Which? The answer could be rock and roll, jazz, or blues.")
    ['rock and roll', 'jazz', 'blues']
    """
    for match in reversed(list(TRIGGER.finditer(instruction))):
        rest = instruction[match.end():].strip()
        for text in (rest, re.split(r"[.?!](?:\s|$)|\n", rest)[0]):
            for options in _enumerations(text.strip().rstrip(".?!")):
                if len(options) > 1 and {key(v) for v in labels} <= {key(v) for v in options}:
                    return options
    return []


def _enumerations(text: str) -> list[list[str]]:
    """Possible splits of an enumeration; commas bind looser than "or", "or" looser than "and"."""
    *parts, last = [part.strip() for part in re.split(r"[,;|\n]", text)]
    splits = [[*parts, *re.split(rf"^(?:or|and)\s+|\s+(?:{word})\s+", last)] for word in ("or", "or|and")]
    return [[part for part in (re.sub(r"^['\"(\[]+|['\")\].:]+$", "", option.strip()) for option in split)
             if key(part)] for split in splits]


def read_choice(answer: str, options: Sequence[str]) -> tuple[str, ...] | None:
    """The options that an answer names, as the instruction spells them; None when it names none.

    An answer equal to an option is that option. Otherwise the longest options are matched first, so that "very sad"
    is not also "sad", and an option that follows a negation does not count.

    >>> read_choice("I hear a very sad voice, not happy.", ["sad", "very sad", "happy"])
    ('very sad',)
    """
    forms, text = {key(option): option for option in options}, key(answer)
    if text in forms:
        return (forms[text],)
    if text in NO_ANSWER:
        return None
    text, matches = f" {text} ", []
    for form in sorted(forms, key=lambda form: (-len(form), form)):
        while (start := text.find(f" {form} ")) >= 0:
            before = text[:start].split()[-1:]
            if form and not (before and before[0] in NEGATIONS):
                matches.append(forms[form])
            text = f"{text[:start]} \x00 {text[start + len(form) + 2:]}"
    return tuple(option for option in options if option in matches) or None


def read_number(answer: str, instruction: str = "") -> float | None:
    """The one number that an answer gives, in the unit that the instruction asks for; None if it gives none or several.

    >>> read_number("about one thousand five hundred ms", "How long is it, in seconds?")
    1.5
    """
    text = unicodedata.normalize("NFKC", answer).casefold().replace("\u2212", "-")
    text = re.sub(r"\b(?:minus|negative)\s+(?=[\d.])", "-", alpha2digit(text, "en", threshold=0))
    text = re.sub(r"(\d)\s*(?:/|out of)\s*\d+(?:\.\d+)?", r"\1", text)
    wanted = [name for name, (form, _) in UNITS.items()
              if re.search(rf"(?<![a-z])(?:{form})(?![a-z])", instruction.casefold())]
    target = wanted[0] if len(wanted) == 1 else None
    plain, converted = set(), set()
    for match in re.finditer(NUMBER, text):
        value, tail = float(match[0].replace(",", "")), text[match.end():].lstrip(" -")
        unit = next((name for name, (form, _) in UNITS.items() if re.match(rf"(?:{form})(?![a-z])", tail)), None)
        if unit and target and DIMENSION.get(unit, unit) == DIMENSION.get(target, target):
            converted.add(value * UNITS[unit][1] / UNITS[target][1])
        else:
            plain.add(value)
    values = converted or plain
    return values.pop() if len(values) == 1 else None


def read_text(answer: str) -> str | None:
    """The answer itself; None when it is blank or states that there is no answer."""
    return answer if answer.strip() and key(answer) not in NO_ANSWER - {""} else None


def read(mode: str, answer: str, options: Sequence[str] = (), instruction: str = "") -> tuple | float | str | None:
    """Read a cleaned answer in the given mode; None for no answer."""
    if mode == "choice":
        return read_choice(answer, options)
    return read_number(answer, instruction) if mode == "number" else read_text(answer)


def _set(values: Sequence[str] | None) -> frozenset[str]:
    return frozenset(key(value) for value in values or ()) - {""}


def exact(labels: Sequence[str], answer: Sequence[str] | None) -> tuple[float, float]:
    """1 when the named options are exactly the labels; no answer is wrong unless there are no labels."""
    return float(_set(labels) == _set(answer)), 1.0


def weighted_accuracy(labels: Labels, answers: Sequence) -> float:
    """Accuracy with the same weight for each label set: mean recall over those that occur."""
    truth, right = [_set(row) for row in labels], [exact(*pair)[0] for pair in zip(labels, answers, strict=True)]
    return float(np.mean([np.mean([r for r, t in zip(right, truth, strict=True) if t == name]) for name in set(truth)]))


def macro_f1(labels: Labels, answers: Sequence) -> float:
    """F1 over label sets, averaged over all classes that occur among labels or answers."""
    sides = [_set(row) for row in labels], [_set(answer) for answer in answers]
    classes = sorted(frozenset().union(*sides[0], *sides[1]))
    truth, predicted = (np.array([[c in row for c in classes] for row in side], dtype=bool) for side in sides)
    tp, fp, fn = ((truth & predicted).sum(0), (~truth & predicted).sum(0), (truth & ~predicted).sum(0))
    return float(scores.macro_f1(tp, fp, fn)) if classes else 1.0


def _overlap(truth: Counter, predicted: Counter) -> tuple[float, float]:
    """Numerator and denominator of a micro-F1: twice the shared count, and the total of both sides."""
    return 2.0 * (truth & predicted).total(), float(truth.total() + predicted.total())


def set_f1(labels: Sequence[str], answer: Sequence[str] | None) -> tuple[float, float]:
    """Micro-F1 over the labels of a set."""
    return _overlap(Counter(_set(labels)), Counter(_set(answer)))


def _item_f1(form: Callable[[str], str]) -> Parts:
    """Micro-F1 over comma-separated items, counting repeated items; `form` is what is compared of an item."""
    def items(values: Sequence[str]) -> Counter:
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
    """Lower case without punctuation except the apostrophe: the form for word and character errors."""
    return " ".join(re.sub(r"[^\w\s']|_", " ", _fold(text)).split())


def _edits(truth: str, answer: str) -> tuple[float, float]:
    out = jiwer.process_words(truth, answer)
    return float(out.substitutions + out.deletions + out.insertions), float(len(truth.split()))


def _errors(form: Callable[[str], str]) -> Parts:
    return lambda labels, answer: _edits(form(" ".join(labels)), form(answer or ""))


wer = _errors(_plain)
cer = _errors(lambda text: " ".join(_plain(text).replace(" ", "")))
per = _errors(lambda text: " ".join(text.replace(",", " ").split()))  # symbols as written: phonemes, tags
mer = _errors(lambda text: re.sub(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])", r" \1 ", _plain(text)))


def cpwer(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Concatenated minimum-permutation WER: one label (or line) per speaker, one line of the answer per speaker."""
    sides = [[_plain(re.sub(r"^\s*speaker\s*\w+\s*:", "", line, flags=re.I))
              for line in text.splitlines() if line.strip()] for text in ("\n".join(labels), answer or "")]
    pairs = list(zip_longest(*sides, fillvalue="")) or [("", "")]
    cost = np.array([[_edits(truth, predicted)[0] for _, predicted in pairs] for truth, _ in pairs])
    best = cost[optimize.linear_sum_assignment(cost)].sum()
    return float(best), float(sum(len(truth.split()) for truth in sides[0]))


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
        truth = _number(tuple(labels))
        return (0.0, 0.0) if truth is None or answer is None else (abs(truth - answer) ** power, 1.0)
    return parts


def _over_numbers(rule: Callable, correlation: bool) -> Callable[[Labels, Sequence], float]:
    """A rule over the answered rows. A constant answer has correlation 0; too few rows give NaN."""
    def metric(labels: Labels, answers: Sequence) -> float:
        pairs = [(_number(tuple(row)), answer) for row, answer in zip(labels, answers, strict=True)]
        truth, predicted = np.array([p for p in pairs if None not in p], dtype=float).reshape(-1, 2).T
        if not correlation:
            return float(rule(truth, predicted)) if len(truth) else float("nan")
        if len(truth) < 2 or not np.ptp(truth):
            return float("nan")
        return float(rule(truth, predicted).statistic) if np.ptp(predicted) else 0.0
    return metric


def time_spans(text: str) -> np.ndarray:
    """Pairs of times in a text ("1.2-3.4 s, from 5 to 6"), (n, 2) in seconds; reversed and empty ones are dropped."""
    pairs = re.findall(r"(\d+(?:\.\d+)?)\s*s?(?:ec(?:onds?)?)?\s*(?:-|\u2013|to|and|,)\s*(\d+(?:\.\d+)?)", text)
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    return table[table[:, 1] > table[:, 0]]


def iou(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Intersection over union of time, averaged over rows; the spans of a row are merged first."""
    truth, predicted = time_spans(" ".join(labels)), time_spans(answer or "")
    edges = np.unique(np.concatenate([truth.ravel(), predicted.ravel()]))
    middles, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    inside = [((side[:, :1] < middles) & (middles < side[:, 1:])).any(0) for side in (truth, predicted)]
    covered = widths[inside[0] | inside[1]].sum()
    return float(widths[inside[0] & inside[1]].sum() / covered) if covered else 1.0, 1.0


def events(text: str) -> list[tuple[str, float, float]]:
    """Events in a text, one per line or semicolon: "dog bark: 1.2-3.4" or "dog bark, 1.2, 3.4"."""
    rows = []
    for part in re.split(r"[;\n]", text):
        name = re.sub(r" (?:from|between)$", "", key(re.sub(r"\d+(?:\.\d+)?.*", "", part, flags=re.S)))
        rows += [(name, *span) for span in time_spans(part).tolist()]
    return rows


def event_f1(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Event-based micro-F1: same name, onset within 200 ms, offset within 200 ms or half the length.

    Events are matched by mir_eval as notes, one-to-one and maximally, with a pitch per name.
    """
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
        hits = mir_eval.util.match_events(truth, predicted, window) if len(truth) and len(predicted) else []
        return 2.0 * len(hits), float(len(truth) + len(predicted))
    return parts


@dataclass(frozen=True)
class Metric:
    """A reading mode and a rule: `parts`, (numerator, denominator) of a row, for a ratio of sums; otherwise `whole`."""

    mode: str
    higher: bool
    parts: Parts | None = None
    whole: Callable[[Labels, Sequence], float] | None = None

    def compute(self, labels: Labels, answers: Sequence) -> float:
        """The metric over a task: labels as one tuple per row, answers as from `read`; NaN if undefined."""
        if self.whole:
            return self.whole(labels, answers)
        return self.ratio(np.array([self.parts(*row) for row in zip(labels, answers, strict=True)]))

    def ratio(self, parts: np.ndarray) -> float:
        """The metric from the parts of some rows, (n, 2). A zero denominator is perfect for texts, NaN for numbers."""
        numerator, denominator = parts.sum(0)
        if denominator:
            return float(numerator / denominator)
        return float("nan") if self.mode == "number" else 1.0 if self.higher else float(numerator)


def _family(mode: str, higher: bool, form: str, **rules: Callable) -> dict[str, Metric]:
    return {name.replace("_", "-"): Metric(mode, higher, **{form: rule}) for name, rule in rules.items()}


KINDS = {"choice": "classification", "number": "regression", "text": "sequence_generation"}  # of task, by mode
METRICS: dict[str, Metric] = {
    **_family("choice", True, "parts", accuracy=exact, F1=set_f1),
    **_family("choice", True, "whole", weighted_accuracy=weighted_accuracy, macro_F1=macro_f1),
    **_family("number", False, "parts", MSE=_deviation(2), MAE=_deviation(1)),
    **_family("number", False, "whole", MedAE=_over_numbers(sk.median_absolute_error, False)),
    **_family("number", True, "whole", LCC=_over_numbers(stats.pearsonr, True),
              SRCC=_over_numbers(stats.spearmanr, True), KTAU=_over_numbers(stats.kendalltau, True)),
    **_family("text", False, "parts", WER=wer, CER=cer, PER=per, MER=mer, cpWER=cpwer),
    **_family("text", True, "whole", BLEU=bleu),
    **_family("text", True, "parts", item_F1=item_f1, label_F1=label_f1, word_F1=word_f1, IoU=iou, event_F1=event_f1,
              onset_F1=_onset_f1(0.05), beat_F1=_onset_f1(0.07)),
}
ALIASES = {"pearson": "LCC", "pearson correlation": "LCC", "pcc": "LCC", "spearman": "SRCC", "kendall": "KTAU",
           "word error rate": "WER", "character error rate": "CER", "phoneme error rate": "PER", "pos": "PER",
           "phone error rate": "PER", "acc": "accuracy", "llm": "accuracy", "sacrebleu": "BLEU", "f1 weighted": "F1",
           "mean squared error": "MSE", "mean absolute error": "MAE", "event based f1": "event-F1",
           "note onset f measure": "onset-F1", "beat f measure": "beat-F1", "slot type f1": "label-F1"}


def _spelling(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.casefold()))


def canonical(name: str) -> str:
    """The name in METRICS for any of a metric's upstream spellings; "" when it is unknown.

    >>> canonical("Pearson correlation (proposed)"), canonical("word_F1"), canonical("DER")
    ('LCC', 'word-F1', '')
    """
    spelling = _spelling(re.sub(r"\(.*?\)", " ", name))
    return {_spelling(known): known for known in METRICS}.get(spelling) or ALIASES.get(spelling, "")
