"""Read an answer: the text that is scored, the options it names, its one number; independent of any model.

An answer that cannot be read is None, an outcome in its own right; it is never replaced by a guess.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from text_to_num import alpha2digit

LONGEST_ANSWER, LARGEST = 8192, 1e9
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d[\d.,]*|\.\d+)(?:e[-+]?\d+)?")
UNITS = [(re.compile(rf"(?:{form})(?![^\W\d_])"), dimension, size) for form, dimension, size in (
    (r"ms|msecs?|milliseconds?", "time", 1e-3), (r"s|secs?|seconds?", "time", 1.0),
    (r"m|mins?|minutes?", "time", 60.0), (r"h|hrs?|hours?", "time", 3600.0), (r"hz|hertz", "frequency", 1.0),
    (r"khz|kilohertz", "frequency", 1e3), (r"db|decibels?", "level", 1.0), (r"bpm|beats per minute", "tempo", 1.0),
    (r"mm|millimet(?:re|er)s?", "length", 1e-3), (r"cm|centimet(?:re|er)s?", "length", 1e-2),
    (r"m|met(?:re|er)s?", "length", 1.0), (r"km|kilomet(?:re|er)s?", "length", 1e3),
    (r"ft|foot|feet", "length", 0.3048), (r"\u00b0|deg|degrees?", "angle", 1.0),
    (r"rad|radians?", "angle", 180 / math.pi))]
SCALE = re.compile(r"\b(?:scale|range|ranging|rating|score|value|number|integer)s?\b[^.;\d]{0,40}?(-?\d+(?:\.\d+)?)"
                   r"\s*(?:to|and|through|-)\s*(-?\d+(?:\.\d+)?)(?!\s*(?:m?s|seconds?|k?hz|%|clips?|words?)\b)")
FULL_MARKS = (5.0, 7.0, 10.0, 100.0)  # "4/5" is four out of five; other fractions are values
JOIN, COMPOUND = re.compile(r"\s*(?:[-~\u00b1/,]|\+/-|to|or|and|through)?\s*"), re.compile(r"[\s,]*(?:and\s+)?")
THOUGHT = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad)"
OPENED = re.compile(rf"<\s*{THOUGHT}\s*>|\[think(?:ing)?\]|<\|(?:begin_of_)?{THOUGHT}\|>|\u25c1think\u25b7|"
                    r"<\|channel\|>analysis(?:<\|message\|>)?", re.I)
CLOSED = re.compile(rf"<\s*/\s*{THOUGHT}\s*>|\[/think(?:ing)?\]|<\|(?:/|end_of_){THOUGHT}\|>|\u25c1/think\u25b7|"
                    r"<\|channel\|>final(?:<\|message\|>)?", re.I)
JOINERS = dict.fromkeys(map(ord, "\u00ad\u200c\u200d\ufe0e\ufe0f"))  # invisible inside words and emoji
NO_ANSWER = {"n a", "na", "not applicable", ""}
TRIGGER = re.compile(
    r"(?:answers?|options?|choices?|labels?|categories|candidates?|one|following|classes)\s+"
    r"(?:could|can|may|should|must|might|will)\s+be(?:\s+(?:one of|either|any of))?:?\s+|"
    r"(?:options|choices|candidates|labels|categories|classes)(?:\s+(?:are|include)|\s*:)\s*:?\s*|"
    r"(?:choose|select|pick)\s+(?:\w+\s+){0,4}?(?:from|among|between|of):?\s+(?:the following:?\s+)?", re.I)
SENTENCE_END = re.compile(r"[.?!](?:\s|$)|\n")
FINAL = re.compile(r"\banswers?(?:\s+is\b|\W{0,3}:)", re.I)
# A choice is read in a line of words and breaks (, ; ?) in which \0 stands for a named option, \1 for one that is void.
NOTHING = ("no idea", "no clue", "no doubt", "no question", "no problem", "no way", "without a doubt",
           "without any doubt", "not only")
WORD, TURN = r"[^ \0\1,;?]+", r"(?:but|rather|instead|however|yet|because|although|though|so)"
DENIAL = r"(?:\w+n't|cannot|not|no|never|without|neither|nor|hardly|instead of|rather than)"
DENIED = re.compile(
    rf" {DENIAL}(?: (?!{TURN} ){WORD}){{0,6}}? \0"
    rf"(?:(?: , \0)*(?: ,)? (?:or|nor)(?: {WORD}){{0,2}}? \0| and \0)*(?= )")
RUN = re.compile(r"(?<= )\0(?:(?: [,;])*(?: (?:or|and))? \0)+(?= )")
LISTED = re.compile(r" (?:options?|choices?|candidates?|labels?|categories|classes|be|are|among|between|from|of|either|"
                    rf"whether)(?: ;)*(?: {WORD}){{0,4}} $")
POINTER = re.compile(r"^\W*([a-z])(?:[).:]|\W*$)|\(([a-z])\)|\b(?:answer|option|choice)(?:\s+is)?\W+(?:option\W+)?"
                     r"(?:([b-hj-z])\b|([ai])\b(?!\s+\w))")


def clean(answer: str) -> str:
    """The text that is scored: without reasoning and control characters, cut to LONGEST_ANSWER.

    Reasoning is everything up to its last closing mark (</think>, [/THINK], <|/thought|> and kin), and everything
    after an opening mark that is never closed.
    """
    text = re.sub(r"</?answer>", " ", OPENED.split(CLOSED.split(answer)[-1])[0].strip()[: 4 * LONGEST_ANSWER])
    text = "".join(c if c in "\n\t\u200c\u200d" or unicodedata.category(c)[0] != "C" else " " for c in text)
    return text.strip()[:LONGEST_ANSWER]


def fold(text: str) -> str:
    """Case folded, with one form for equivalent characters, ASCII minus signs and apostrophes, without joiners.

    Superscripts and subscripts stay: in IPA, an aspirated t is not t and h.
    """
    if not text.isascii():
        small = ("<super>", "<sub>")
        text = "".join(c if unicodedata.decomposition(c).startswith(small) else unicodedata.normalize("NFKC", c)
                       for c in text.translate(JOINERS))
        text = re.sub("[\u2010\u2212]", "-", text).replace("\u2019", "'")
    return unicodedata.normalize("NFC", text.casefold())


def is_letter(character: str) -> bool:
    """Letters, digits, and the marks that are part of them: accents, IPA diacritics, vowel signs, tone letters."""
    return character.isalnum() or (ord(character) > 127 and unicodedata.category(character) in ("Mn", "Mc", "Me", "Sk"))


def _pieces(text: str) -> list[str]:
    """Words, numbers and breaks (, ; ?) of a text; symbols such as emoji are words, a sign stays with its word."""
    text, pieces = alpha2digit(fold(text), "en", threshold=0), []
    for before, c, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        if is_letter(c) or c in "#%'" or (c == "." and before.isdigit() and after.isdigit()):
            pieces.append(c)
        elif c in "+-" and not is_letter(before) and is_letter(after):
            pieces.append("" if c == "+" and after.isdigit() else c)
        elif c in "+,?":
            pieces.append(c if c == "+" else f" {c} ")
        elif c in ";:.!\n\u2026\u2013\u2014" or (c == "-" and before.isspace() and after.isspace()):
            pieces.append(" ; ")
        else:
            pieces.append(f" {c} " if ord(c) > 127 and unicodedata.category(c)[0] == "S" else " ")
    return [word for word in (piece.strip("'") for piece in "".join(pieces).split()) if word]


def tokens(text: str) -> list[str]:
    """Words, numbers and symbols of a text: case folded, number words as digits, punctuation dropped.

    >>> tokens("It is Twenty-one  dB, I'd say.")
    ['it', 'is', '21', 'db', "i'd", 'say']
    """
    return [piece for piece in _pieces(text) if piece not in (",", ";", "?")]


@lru_cache(maxsize=4096)
def key(text: str) -> str:
    """The form in which options and labels are compared; "" for a blank text only."""
    return " ".join(tokens(text) or fold(text).split())


def lettered(instruction: str) -> dict[str, str]:
    """The options of an instruction that letters them from a on, by letter; {} if it does not.

    >>> lettered("Which? (A) happy, (B) sad or (C) very angry. Listen.")
    {'A': 'happy', 'B': 'sad', 'C': 'very angry'}
    """
    marks: list[re.Match[str]] = []
    for mark in re.finditer(r"(?<![\w(])\(?([A-Za-z])[).:]\s*(?=\S)", instruction):
        if mark[1].lower() == chr(ord("a") + len(marks)):
            marks.append(mark)
    options = {}
    for mark, end in zip(marks, [*(later.start() for later in marks[1:]), None], strict=False):
        text = instruction[mark.end():end]
        text = text if end else SENTENCE_END.split(text)[0]
        options[mark[1]] = re.sub(r"[\s,;|.]*(?:\b(?:or|and))?[\s,;(]*$", "", text)
    return options if len(options) > 1 and all(map(key, options.values())) else {}


def parse_options(instruction: str, labels: Sequence[str] = ()) -> list[str]:
    """The options that an instruction lists ("The answer could be a, b, or c."), [] when it lists none.

    A parse counts only if it gives at least two options and they include `labels` (those of the row).

    >>> parse_options("Which? The answer could be rock and roll, jazz, or blues.")
    ['rock and roll', 'jazz', 'blues']
    """
    letters = lettered(instruction)
    parses = [list(letters.values()), list(letters), [f"{letter}. {text}" for letter, text in letters.items()]]
    for match in reversed(list(TRIGGER.finditer(instruction))):
        rest = instruction[match.end():].strip()
        for text in (SENTENCE_END.split(rest)[0], rest):
            parses += _enumerations(text.strip().rstrip(".?!"))
    truth = {key(label) for label in labels}
    return next((parse for parse in parses if len(parse) > 1 and truth <= {key(option) for option in parse}), [])


def _enumerations(text: str) -> list[list[str]]:
    """Possible splits of an enumeration; commas bind looser than "or", "or" looser than "and"."""
    *parts, last = [part.strip() for part in re.split(r"[,;|\n]", text)]
    splits = [[*parts, *re.split(rf"^(?:or|and)\s+|\s+(?:{word})\s+", last)] for word in ("or", "or|and")]
    bare = re.compile(r"^['\"(\[]+|['\")\].:]+$")  # a bracketed option, such as [+back], keeps its brackets
    return [[part for part in (option.strip() if re.fullmatch(r"\s*\[[^\[\]]+\]\s*", option) else
                               bare.sub("", option.strip()) for option in split) if key(part)] for split in splits]


def read_choice(answer: str, options: Sequence[str], instruction: str = "") -> tuple[str, ...] | None:
    """The options that an answer names, as the instruction spells them; None when it names none.

    An answer equal to an option is that option. Otherwise longer options go before those that they contain; denied
    options and a list of all options that is repeated before the answer do not count. What follows "the answer is"
    goes before the rest. With lettered options, letters and texts are both read.

    >>> read_choice("I hear a very sad voice, not happy.", ["sad", "very sad", "happy"])
    ('very sad',)
    """
    forms, text = {key(option): option for option in options}, key(answer)
    if text in forms or text in NO_ANSWER:
        return (forms[text],) if text in forms else None
    texts, letters = lettered(instruction), {}
    if texts and len(texts) == len(options):
        letters = {letter.lower(): option for letter, option in zip(texts, options, strict=True)}
        forms = {form: option for form, option in forms.items() if form not in letters}
        forms |= {key(text): option for text, option in zip(texts.values(), options, strict=True)}
    final = list(FINAL.finditer(answer))
    last = re.split(r"[.!?]\s|\n\s*\n", answer[final[-1].start():].strip())[0] if final else ""
    for part in (last, answer):
        named = _named(part, forms) | _pointed(part, letters)
        if named:
            return tuple(option for option in options if option in named)
    return None


def _pointed(text: str, letters: dict[str, str]) -> set[str]:
    """The options whose letters an answer gives: "b", "(b)", "B. sad", "option B"."""
    marks = [mark for match in POINTER.findall(fold(text)) for mark in match if mark in letters]
    count = len(letters)
    echoed = len(marks) > count and set(marks[:count]) == set(letters)
    return {letters[mark] for mark in marks[count * echoed:]}


def _named(text: str, forms: dict[str, str]) -> set[str]:
    """The options, by form, that a text names and does not deny."""
    line, names = f" {' '.join(_pieces(text))} ", []
    if not any(form.startswith(("+", "-")) for form in forms):
        line = re.sub(r"(?<= )[+-](?=[^\W\d])", "", line)

    def mark(match: re.Match[str]) -> str:
        form = " ".join(word for word in match[0].split() if word not in (",", ";", "?")) or match[0]
        if form in forms:
            names.append(forms[form])
        return "\0" if form in forms else ";"

    ordered = sorted({*forms, *NOTHING} - {""}, key=len, reverse=True)
    spelled = "|".join(r"(?: [,;?])* ".join(map(re.escape, form.split())) for form in ordered)
    line = re.sub(rf"(?<= )(?:{spelled})(?= )", mark, line)
    line = DENIED.sub(lambda match: match[0].replace("\0", "\1"), line)
    line = _without_echo(line, names, set(forms.values()))
    return {name for name, sign in zip(names, re.findall("[\0\1]", line), strict=True) if sign == "\0"}


def _without_echo(line: str, names: Sequence[str], options: set[str]) -> str:
    """Void a list of all options that comes before the answer: "Options: a, b. Answer: b", "a or b? b"."""
    for run in RUN.finditer(line) if len(options) > 1 else ():
        start, count = len(re.findall("[\0\1]", line[:run.start()])), len(options)
        ends = [mark.end() for mark in re.finditer("\0", run[0])][:count]
        rest = line[run.start() + ends[-1]:]
        if set(names[start:start + len(ends)]) == options and "\0" in rest and (
                LISTED.search(line[:run.start()]) or re.match(r" (?:; )*\?", rest)):
            return line[:run.start()] + run[0][:ends[-1]].replace("\0", "\1") + rest
    return line



def limits(instruction: str) -> tuple[float, float]:
    """The scale that an instruction states ("from 1 to 5"), else the largest numbers that can be an answer."""
    match = SCALE.search(_number_text(instruction))
    low, high = (float(match[1]), float(match[2])) if match else (-LARGEST, LARGEST)
    return (low, high) if low < high else (-LARGEST, LARGEST)


def within(value: float | None, instruction: str = "") -> float | None:
    """The value; None when it is not finite or beyond the scale of the task."""
    low, high = limits(instruction)
    return value if value is not None and math.isfinite(value) and low <= value <= high else None


def _number_text(text: str) -> str:
    """Folded text with words as numbers, and fractions in words ("two and a half", "3 quarters") as decimals."""
    text = re.sub(r"(?<!\d)(\d*)([\u00bc-\u00be\u2150-\u215e])",
                  lambda match: repr(float(match[1] or 0) + unicodedata.numeric(match[2])), text)
    text = re.sub("[\u2012-\u2015]", "-", fold(text))
    # "point five", but not "at this point two people"
    text = re.sub(r"(?:^|(?<=minus )|(?<=negative )|(?<=about )|(?<=\bis ))point "
                  r"(?=(?:zero|oh|one|two|three|four|five|six|seven|eight|nine)\b)", "zero point ", text)
    text = alpha2digit(re.sub(r"\bseconds?\b", "s", text), "en", threshold=0)
    text = re.sub(r"\b(?:minus|negative)\s+(?=[\d.])", "-", text)
    text = re.sub(r"(\d)\s*(?:x|\u00d7|\*)\s*10\s*\^\s*([-+]?\d+)", r"\1e\2", text)
    # mypy infers no type of a lambda with a default, which ruff wants of one in a loop.
    for word, part in (("half", 0.5), (r"(?:quarter|4th)", 0.25), ("3rd", 1 / 3)):
        text = re.sub(rf"(?<!\d)(\d+) and (?:an?|1) {word}\b",
                      lambda match, part=part: repr(float(match[1]) + part), text)  # type: ignore[misc]
        text = re.sub(rf"(?<![\w.])(?:([1-9]) {word}s\b|(?:an? |1 )?{word}(?: an?(?= )|(?= of an? |\W*$)))",
                      lambda match, part=part: f"{int(match[1] or 1) * part!r} ", text)  # type: ignore[misc]
    return re.sub(r"(\d(?:h|m|min))(?=\d)", r"\1 ", text)


def _decimal(text: str) -> float:
    """A number as written, whole: thousands with commas, a decimal point or comma, an exponent; NaN otherwise."""
    mantissa, mark, exponent = text.partition("e")
    mantissa = mantissa.rstrip(".,")
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", mantissa):
        mantissa = mantissa.replace(",", "")
    elif re.fullmatch(r"[-+]?\d+,\d+", mantissa):
        mantissa = mantissa.replace(",", ".")
    whole = re.fullmatch(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)", mantissa)
    return float(mantissa + mark + exponent) if whole else math.nan


def _unit(text: str, target: str = "") -> tuple[str, float, int] | None:
    """The unit that a text starts with: dimension (the target's where a letter has two), size and length in text."""
    start = match.end() if (match := re.match(r"[\s-]*(?:of an? )?", text)) else 0
    units = [(dimension, size, match.end()) for form, dimension, size in UNITS if (match := form.match(text, start))]
    return next((unit for unit in units if unit[0] == target), units[0] if units else None)


def target_unit(instruction: str) -> tuple[str, float]:
    """The unit that an instruction asks for, as dimension and size; ("", 1.0) when it names none or several."""
    text = re.sub(r"\bper \w+", "", re.sub("beats per minute", "bpm", instruction.casefold()))
    for before, shortest in ((r"(?:\b(?:in|as) |\()", 1), (r"(?<![^\W_])", 2)):
        units = {(dimension, size) for form, dimension, size in UNITS
                 for match in re.finditer(f"{before}({form.pattern})", text)
                 if len(match[1]) >= shortest and (match[1], dimension) != ("m", "time")}
        if len(units) == 1:
            return units.pop()
    return "", 1.0


def _fractions(text: str, top: float) -> str:
    """The text with "a/b" as a value, or as a where b is the best mark that can be given, and "a out of b" as a."""
    text = re.sub(r"(\d)\s*out of\s*\d+(?:\.\d+)?", r"\1", text)

    def value(match: re.Match[str]) -> str:
        whole, over, under = float(match[1] or 0), float(match[2]), float(match[3])
        mark = not match[1] and (under == top or under in FULL_MARKS) and not _unit(text[match.end():])
        return match[2] if mark or not under else repr(whole + over / under)
    part = r"(\d+(?:\.\d+)?)"
    return re.sub(rf"(?<![\w./,])(?:(\d+)\s+)?{part}\s*[/\u2044]\s*{part}(?![\d/]|[.,]\d)", value, text)


def _quantities(text: str, dimension: str) -> list[list[Any]]:
    """The numbers of a text as [value, dimension, size]: "1m05s" is one, both ends of "10-12 s" are in seconds."""
    numbers, end = list[list[Any]](), 0
    for match in NUMBER.finditer(text):
        value, tail = _decimal(match[0]), text[match.end():]
        unit = _unit(tail, dimension)
        if not unit and re.match(r"[^\W\d_]|_", tail):
            if re.match(r"(?:st|nd|rd|th)\b", tail):
                continue
            value = math.nan
        name, size, length = unit or ("", 1.0, 0)
        gap, last = text[end:match.start()], numbers[-1] if numbers else list[Any](("", "", 0.0))
        end = match.end() + length
        if name and last[1] == name and size < last[2] and COMPOUND.fullmatch(gap):
            last[0] += value * size / last[2]
            continue
        if name and numbers and not last[1] and JOIN.fullmatch(gap):
            last[1:] = name, size
        numbers.append([value, name, size])
    return numbers


def read_number(answer: str, instruction: str = "") -> float | None:
    """The one number that an answer gives, whole and in the unit that the instruction asks for.

    None if it gives none or several, if a number cannot be read whole, or if it is beyond the scale of the task.

    >>> read_number("about one thousand five hundred ms", "How long is it, in seconds?")
    1.5
    """
    dimension, size = target_unit(instruction)
    text = SCALE.sub(" ", _number_text(answer))
    numbers = _quantities(_fractions(text, limits(instruction)[1]), dimension)
    converted = [value * unit / size for value, name, unit in numbers if name and name == dimension]
    values = {f"{value:.12g}" for value in converted or (value for value, _, _ in numbers)}
    return within(float(values.pop()), instruction) if len(values) == 1 else None


def read_text(answer: str) -> str | None:
    """The answer itself; None when it is blank or states that there is no answer."""
    return answer if answer.strip() and key(answer) not in NO_ANSWER - {""} else None


def read(mode: str, answer: str, options: Sequence[str] = (),
         instruction: str = "") -> tuple[str, ...] | float | str | None:
    """Read a cleaned answer in the given mode, `choice`, `number` or `text`; None for no answer."""
    if mode == "choice":
        return read_choice(answer, options, instruction)
    return read_number(answer, instruction) if mode == "number" else read_text(answer)
