"""What an answer says, and what a list of answers is worth: extraction and metrics, without any model.

An answer is read in one of three modes: `choice` (a set of options), `number`, `text`. What cannot be read is None,
its own outcome: it is never replaced by a guess.
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
NUMBER = r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])-?\.\d+"
UNITS = {"second": (r"s|secs?|seconds?", 1.0), "millisecond": (r"ms|msecs?|milliseconds?", 1e-3),
         "minute": (r"min|mins|minutes?", 60.0), "hertz": (r"hz|hertz", 1.0),
         "kilohertz": (r"khz|kilohertz", 1e3), "decibel": (r"db|decibels?", 1.0),
         "bpm": (r"bpm|beats per minute", 1.0)}
DIMENSION = {"millisecond": "second", "minute": "second", "kilohertz": "hertz"}
NEGATIONS = {"not", "no", "never", "isn't", "without", "nor", "neither", "cannot", "can't", "doesn't", "don't"}
NO_ANSWER = {"n a", "na", "not applicable", ""}


def clean(answer: str) -> str:
    """The text that is scored: reasoning between tags removed, controls blanked, cut to LONGEST_ANSWER."""
    answer = answer[: 4 * LONGEST_ANSWER]
    answer = re.sub(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", " ", answer, flags=re.S | re.I)
    answer = "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else " " for c in answer)
    return answer.strip()[:LONGEST_ANSWER]


def tokens(text: str) -> list[str]:
    """Words and numbers of a text: NFKC, case folded, number words as digits, punctuation dropped.

    >>> tokens("It is Twenty-one  dB, I'd say.")
    ['it', 'is', '21', 'db', "i'd", 'say']
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").replace("\u2019", "'")
    text = alpha2digit(text, "en", threshold=0)
    found = re.findall(r"(?<!\w)-?\d+(?:\.\d+)?(?!\w)|[\w#+%']+", text)
    return [t for t in (word.strip("'") for word in found) if t]


@lru_cache(maxsize=4096)
def key(text: str) -> str:
    """The form in which options and labels are compared."""
    return " ".join(tokens(text))


TRIGGER = re.compile(
    r"(?:answers?|options?|choices?|labels?|categories|candidates?|one|following|classes)\s+"
    r"(?:could|can|may|should|must|might|will)\s+be(?:\s+(?:one of|either|any of))?:?\s+|"
    r"(?:options|choices|candidates|labels|categories|classes)(?:\s+(?:are|include)|\s*:)\s*:?\s*|"
    r"(?:choose|select|pick)\s+(?:\w+\s+){0,4}?(?:from|among|between|of):?\s+(?:the following:?\s+)?", re.I)


def parse_options(instruction: str, labels: Sequence[str] = ()) -> list[str]:
    """The options that an instruction lists ("The answer could be a, b, or c."), [] when it lists none.

    A reading counts only when it gives two options or more and `labels` (the row's own) are among them.

    >>> parse_options("Which? The answer could be rock and roll, jazz, or blues.")
    ['rock and roll', 'jazz', 'blues']
    """
    for match in reversed(list(TRIGGER.finditer(instruction))):
        rest = instruction[match.end():].strip()
        for text in (rest, re.split(r"[.?!](?:\s|$)|\n", rest)[0]):
            for options in _readings(text.strip().rstrip(".?!")):
                if len(options) > 1 and {key(v) for v in labels} <= {key(v) for v in options}:
                    return options
    return []


def _readings(text: str) -> list[list[str]]:
    """Ways to cut an enumeration; commas bind looser than "or", "or" looser than "and"."""
    parts = [part.strip() for part in re.split(r"[,;|\n]", text)]
    last = [p for p in re.split(r"^(?:or|and)\s+|\s+or\s+", parts[-1]) if p]
    cuts = [parts[:-1] + last, parts[:-1] + [p for p in re.split(r"^(?:or|and)\s+|\s+(?:or|and)\s+", parts[-1]) if p]]
    return [[p for p in (re.sub(r"^['\"(\[]+|['\")\].:]+$", "", option.strip()) for option in cut) if key(p)]
            for cut in cuts]


def read_choice(answer: str, options: Sequence[str]) -> tuple[str, ...] | None:
    """The options that an answer names, as given; None when it names none.

    An answer equal to an option is that option; otherwise the longest options are found first, so that "very sad"
    is not also "sad", and one that follows a negation is not named.

    >>> read_choice("I hear a very sad voice, not happy.", ["sad", "very sad", "happy"])
    ('very sad',)
    """
    forms = {key(option): option for option in options}
    words = tokens(answer)
    text = " ".join(words)
    if text in forms:
        return (forms[text],)
    if text in NO_ANSWER:
        return None
    text, named = f" {text} ", []
    for form in sorted(forms, key=lambda form: (-len(form), form)):
        while (place := text.find(f" {form} ")) >= 0:
            before = text[:place].split()[-1:]
            if form and not (before and before[0] in NEGATIONS):
                named.append(forms[form])
            text = f"{text[:place]} \x00 {text[place + len(form) + 2:]}"
    return tuple(option for option in options if option in named) or None


def _units(text: str) -> set[str]:
    return {name for name, (form, _) in UNITS.items() if re.search(rf"(?<![a-z])(?:{form})(?![a-z])", text)}


def read_number(answer: str, instruction: str = "") -> float | None:
    """The one number that an answer gives, in the unit its instruction asks for; None when it gives none or several.

    >>> read_number("about one thousand five hundred ms", "How long is it, in seconds?")
    1.5
    """
    text = unicodedata.normalize("NFKC", answer).casefold().replace("\u2212", "-")
    text = re.sub(r"\b(?:minus|negative)\s+(?=[\d.])", "-", alpha2digit(text, "en", threshold=0))
    text = re.sub(r"(\d)\s*(?:/|out of)\s*\d+(?:\.\d+)?", r"\1", text)
    asked = _units(instruction.casefold())
    target = next(iter(asked)) if len(asked) == 1 else None
    plain, united = set(), set()
    for match in re.finditer(NUMBER, text):
        value, tail = float(match[0].replace(",", "")), text[match.end():].lstrip(" -")
        unit = next((n for n, (form, _) in UNITS.items() if re.match(rf"(?:{form})(?![a-z])", tail)), None)
        if unit and target and DIMENSION.get(unit, unit) == DIMENSION.get(target, target):
            united.add(value * UNITS[unit][1] / UNITS[target][1])
        else:
            plain.add(value)
    found = united or plain
    return found.pop() if len(found) == 1 else None


def read_text(answer: str) -> str | None:
    """The answer itself; None when nothing is left of it."""
    return answer if answer.strip() and key(answer) not in NO_ANSWER - {""} else None


Labels = Sequence[Sequence[str]]
Parts = Callable[[Sequence[str], object], tuple[float, float]]


def _set(values: Sequence[str] | None) -> frozenset[str]:
    return frozenset(key(value) for value in values or ()) - {""}


def exact(labels: Sequence[str], answer: Sequence[str] | None) -> tuple[float, float]:
    """1 when the named options are exactly the labels; no answer is wrong unless there is nothing to name."""
    return float(_set(labels) == _set(answer)), 1.0


def weighted_accuracy(labels: Labels, answers: Sequence) -> float:
    """Accuracy with every label set weighing the same (mean recall over those that occur)."""
    truth, right = [_set(row) for row in labels], [exact(*pair)[0] for pair in zip(labels, answers, strict=True)]
    return float(np.mean([np.mean([r for r, t in zip(right, truth, strict=True) if t == name]) for name in set(truth)]))


def macro_f1(labels: Labels, answers: Sequence) -> float:
    """F1 over label sets, every class that occurs on either side weighing the same."""
    truth, said = [_set(row) for row in labels], [_set(answer) for answer in answers]
    classes = sorted(frozenset().union(*truth, *said))
    held, found = (np.array([[c in row for c in classes] for row in side], dtype=bool) for side in (truth, said))
    tp, fp, fn = ((held & found).sum(0), (~held & found).sum(0), (held & ~found).sum(0))
    return float(scores.macro_f1(tp, fp, fn)) if classes else 1.0


def _shared(truth: Counter, said: Counter) -> tuple[float, float]:
    """What both hold, twice, and what they hold in all: the two parts of a micro-F1."""
    return 2.0 * (truth & said).total(), float(truth.total() + said.total())


def set_f1(labels: Sequence[str], answer: Sequence[str] | None) -> tuple[float, float]:
    """Micro-F1 over the labels of a set."""
    return _shared(Counter(_set(labels)), Counter(_set(answer)))


def _items(values: Sequence[str]) -> list[str]:
    return [part.strip() for value in values for part in re.split(r"[,;\n]", value.strip("[]")) if key(part)]


def item_f1(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Micro-F1 over comma-separated items ("PLACE: Paris, ..."), repeated items counted."""
    return _shared(*(Counter(map(key, _items(side))) for side in (labels, [answer or ""])))


def label_f1(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """item_f1 of what stands before the colon of each item: the type, whatever the phrase."""
    return _shared(*(Counter(key(re.split("[:(]", item)[0]) for item in _items(side))
                     for side in (labels, [answer or ""])))


def word_f1(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """F1 of shared words, averaged over rows; two empty texts agree."""
    both, total = _shared(Counter(tokens(" ".join(labels))), Counter(tokens(answer or "")))
    return both / total if total else 1.0, 1.0


def _plain(text: str) -> str:
    """Lower case, no punctuation but the apostrophe: what word and character errors are counted on."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return " ".join(re.sub(r"[^\w\s']|_", " ", text).split())


def _edits(truth: str, said: str) -> tuple[float, float]:
    out = jiwer.process_words(truth, said)
    return float(out.substitutions + out.deletions + out.insertions), float(len(truth.split()))


def _errors(form: Callable[[str], str]) -> Parts:
    return lambda labels, answer: _edits(form(" ".join(labels)), form(answer or ""))


wer = _errors(_plain)
cer = _errors(lambda text: " ".join(_plain(text).replace(" ", "")))
per = _errors(lambda text: " ".join(text.replace(",", " ").split()))  # symbols as they stand: phonemes, tags
mer = _errors(lambda text: re.sub(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])", r" \1 ", _plain(text)))


def cpwer(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Concatenated minimum-permutation WER: one label (or line) per speaker, one line of the answer per speaker."""
    sides = [[_plain(re.sub(r"^\s*speaker\s*\w+\s*:", "", line, flags=re.I))
              for line in text.splitlines() if line.strip()] for text in ("\n".join(labels), answer or "")]
    pairs = list(zip_longest(*sides, fillvalue="")) or [("", "")]
    cost = np.array([[_edits(truth, said)[0] for _, said in pairs] for truth, _ in pairs])
    best = cost[optimize.linear_sum_assignment(cost)].sum()
    return float(best), float(sum(len(truth.split()) for truth in sides[0]))


def bleu(labels: Labels, answers: Sequence[str | None]) -> float:
    """Corpus BLEU of sacrebleu, 0 to 100; Chinese tokenisation when the references are Chinese."""
    chinese = any(re.search(r"[\u4e00-\u9fff]", " ".join(row)) for row in labels)
    return sacrebleu.corpus_bleu([a or "" for a in answers], [[" ".join(row) for row in labels]],
                                 tokenize="zh" if chinese else "13a").score


@lru_cache(maxsize=65536)
def _number(labels: tuple[str, ...]) -> float | None:
    """The number that a row's label gives; resampling asks for it again and again."""
    return read_number(labels[0]) if labels else None


def _difference(power: int) -> Parts:
    def parts(labels: Sequence[str], answer: float | None) -> tuple[float, float]:
        truth = _number(tuple(labels))
        return (0.0, 0.0) if truth is None or answer is None else (abs(truth - answer) ** power, 1.0)
    return parts


def _over_numbers(rule: Callable, correlation: bool) -> Callable[[Labels, Sequence], float]:
    """A rule over the rows with an answer; a constant answer correlates with nothing: 0; too few rows: NaN."""
    def metric(labels: Labels, answers: Sequence) -> float:
        pairs = [(_number(tuple(row)), answer) for row, answer in zip(labels, answers, strict=True)]
        truth, said = np.array([p for p in pairs if None not in p], dtype=float).reshape(-1, 2).T
        if not correlation:
            return float(rule(truth, said)) if len(truth) else float("nan")
        if len(truth) < 2 or not np.ptp(truth):
            return float("nan")
        return float(rule(truth, said).statistic) if np.ptp(said) else 0.0
    return metric


def intervals(text: str) -> np.ndarray:
    """Pairs of times in a text ("1.2-3.4 s, from 5 to 6"), (n, 2) seconds; reversed and empty ones are left out."""
    pairs = re.findall(r"(\d+(?:\.\d+)?)\s*s?(?:ec(?:onds?)?)?\s*(?:-|\u2013|to|and|,)\s*(\d+(?:\.\d+)?)", text)
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    return table[table[:, 1] > table[:, 0]]


def iou(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Shared over covered time, averaged over rows; the intervals of a row are united first."""
    truth, said = intervals(" ".join(labels)), intervals(answer or "")
    edges = np.unique(np.concatenate([truth.ravel(), said.ravel()]))
    middles, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    inside = [((side[:, :1] < middles) & (middles < side[:, 1:])).any(0) for side in (truth, said)]
    covered = widths[inside[0] | inside[1]].sum()
    return float(widths[inside[0] & inside[1]].sum() / covered) if covered else 1.0, 1.0


def events(text: str) -> list[tuple[str, float, float]]:
    """Events in a text, one per line or semicolon: "dog bark: 1.2-3.4" or "dog bark, 1.2, 3.4"."""
    found = []
    for part in re.split(r"[;\n]", text):
        name = re.sub(r" (?:from|between)$", "", key(re.sub(r"\d+(?:\.\d+)?.*", "", part, flags=re.S)))
        found += [(name, *times) for times in intervals(part).tolist()]
    return found


def event_f1(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
    """Event-based micro-F1: same name, onset within 200 ms, offset within 200 ms or half the length.

    Matching is mir_eval's for notes, one-to-one and maximal; a name takes the place of a pitch.
    """
    truth, said = events("\n".join(labels)), events(answer or "")
    names = {name: 100.0 * 2.0**i for i, name in enumerate(sorted({e[0] for e in truth + said}))}
    if not truth or not said:
        return 0.0, float(len(truth) + len(said))
    times = [(np.array([e[1:] for e in side]), np.array([names[e[0]] for e in side])) for side in (truth, said)]
    hits = mir_eval.transcription.match_notes(*times[0], *times[1], onset_tolerance=0.2, offset_ratio=0.5,
                                              offset_min_tolerance=0.2)
    return 2.0 * len(hits), float(len(truth) + len(said))


def _onset_f1(window: float) -> Parts:
    """Micro-F1 over times in seconds, matched one-to-one within the window."""
    def parts(labels: Sequence[str], answer: str | None) -> tuple[float, float]:
        truth, said = (np.sort(np.array(re.findall(r"\d+(?:\.\d+)?", text), dtype=float))
                       for text in (" ".join(labels), answer or ""))
        hits = mir_eval.util.match_events(truth, said, window) if len(truth) and len(said) else []
        return 2.0 * len(hits), float(len(truth) + len(said))
    return parts


@dataclass(frozen=True)
class Metric:
    """How a metric reads answers (`mode`), the kind of task it is for, whether more is better, and its rule.

    A metric that is a ratio of sums has `parts`, (numerator, denominator) of one row; another has `whole`.
    """

    mode: str
    kind: str
    higher: bool
    parts: Parts | None = None
    whole: Callable[[Labels, Sequence], float] | None = None

    def compute(self, labels: Labels, answers: Sequence) -> float:
        """The metric over a task: labels one tuple per row, answers as `read` gives them; NaN if undefined."""
        if self.whole:
            return self.whole(labels, answers)
        return self.ratio(np.array([self.parts(*row) for row in zip(labels, answers, strict=True)]))

    def ratio(self, parts: np.ndarray) -> float:
        """The metric from the parts of some rows, (n, 2). Nothing to compare: perfect for texts, NaN for numbers."""
        top, bottom = parts.sum(0)
        if bottom:
            return float(top / bottom)
        return float("nan") if self.mode == "number" else 1.0 if self.higher else float(top)


def _family(mode: str, kind: str, higher: bool, form: str, **rules: Callable) -> dict[str, Metric]:
    return {name.replace("_", "-"): Metric(mode, kind, higher, **{form: rule}) for name, rule in rules.items()}


_correlations = {name: _over_numbers(rule, True) for name, rule in
                 (("LCC", stats.pearsonr), ("SRCC", stats.spearmanr), ("KTAU", stats.kendalltau))}
METRICS: dict[str, Metric] = {
    **_family("choice", "classification", True, "parts", accuracy=exact, F1=set_f1),
    **_family("choice", "classification", True, "whole", weighted_accuracy=weighted_accuracy, macro_F1=macro_f1),
    **_family("number", "regression", False, "parts", MSE=_difference(2), MAE=_difference(1)),
    **_family("number", "regression", False, "whole", MedAE=_over_numbers(sk.median_absolute_error, False)),
    **_family("number", "regression", True, "whole", **_correlations),
    **_family("text", "sequence_generation", False, "parts", WER=wer, CER=cer, PER=per, MER=mer, cpWER=cpwer),
    **_family("text", "sequence_generation", True, "whole", BLEU=bleu),
    **_family("text", "sequence_generation", True, "parts", item_F1=item_f1, label_F1=label_f1, word_F1=word_f1,
              IoU=iou, event_F1=event_f1, onset_F1=_onset_f1(0.05), beat_F1=_onset_f1(0.07)),
}
ALIASES = {"pearson": "LCC", "pearson correlation": "LCC", "pcc": "LCC", "spearman": "SRCC", "kendall": "KTAU",
           "word error rate": "WER", "character error rate": "CER", "phoneme error rate": "PER", "pos": "PER",
           "phone error rate": "PER", "acc": "accuracy", "llm": "accuracy", "sacrebleu": "BLEU", "f1 weighted": "F1",
           "mean squared error": "MSE", "mean absolute error": "MAE", "event based f1": "event-F1",
           "note onset f measure": "onset-F1", "beat f measure": "beat-F1", "slot type f1": "label-F1"}


def canonical(name: str) -> str:
    """Our name of a metric under any of its upstream spellings; "" when it is not known.

    >>> canonical("Pearson correlation (proposed)"), canonical("word_F1"), canonical("DER")
    ('LCC', 'word-F1', '')
    """
    form = " ".join(re.findall(r"[a-z0-9]+", re.sub(r"\(.*?\)", " ", name.casefold())))
    spelled = {" ".join(re.findall(r"[a-z0-9]+", own.casefold())): own for own in METRICS}
    return spelled.get(form) or ALIASES.get(form, "")


def read(mode: str, answer: str, options: Sequence[str] = (), instruction: str = "") -> tuple | float | str | None:
    """What a cleaned answer says in the given mode, None for no answer."""
    if mode == "choice":
        return read_choice(answer, options)
    return read_number(answer, instruction) if mode == "number" else read_text(answer)
