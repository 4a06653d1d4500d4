"""Answers read from texts: options, numbers, reasoning and letters, by tables of cases."""

import string
import unicodedata
from datetime import timedelta
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perser.phase2.answers import (
    LONGEST_ANSWER,
    clean,
    key,
    lettered,
    parse_options,
    read,
    read_choice,
    read_number,
    read_text,
    tokens,
)


@pytest.mark.parametrize(("instruction", "labels", "options"), [
    ("Which? The answer could be a, b, or c.", ["b"], ["a", "b", "c"]),
    ("Which? The answer could be happy or sad.", ["sad"], ["happy", "sad"]),
    ("The answer could be neutral, calm, happy and sad.", ["sad"], ["neutral", "calm", "happy", "sad"]),
    ("Choose one from the following: rock and roll, jazz, blues.", ["jazz"], ["rock and roll", "jazz", "blues"]),
    ("Options: 'yes' or 'no'. Is it sarcasm?", ["no"], ["yes", "no"]),
    ("The options are: cat, dog; bird.", ["bird"], ["cat", "dog", "bird"]),
    ("What is the genre of this piece?", ["rock"], []),
    ("The answer could be a, b, or c.", ["zebra"], []),
    ("Options: happy or sad. Listen, please.", [], ["happy", "sad"]),
    ("The answer could be happy or sad. Say yes, or say no.", [], ["happy", "sad"]),
    ("The answer could be [+back] or [-back].", ["[-back]"], ["[+back]", "[-back]"]),
    ("Which?\nA. happy\nB. very sad\nC. angry", ["very sad"], ["happy", "very sad", "angry"]),
    ("Which one is it? (a) happy (b) sad. Listen.", ["sad"], ["happy", "sad"]),
    ("Which one is it? A) happy, B) sad", ["B"], ["A", "B"]),
    ("Which one is it? A) happy, B) sad", ["B. sad"], ["A. happy", "B. sad"]),
    ("Name the emotion: \U0001f600, \U0001f622.", [], []),
])
def test_options_come_from_the_instruction(instruction, labels, options):
    assert parse_options(instruction, labels) == options


@pytest.mark.parametrize(("answer", "named"), [
    ("sad", ("sad",)), ("The speaker is SAD.", ("sad",)), ("very sad, I think", ("very sad",)),
    ("happy or sad", ("happy", "sad")), ("not happy, but sad", ("sad",)), ("not sad", None), ("", None),
    ("not sad or angry; happy", ("happy",)), ("not sad, angry, or very sad, but happy", ("happy",)),
    ("neither sad nor angry: happy", ("happy",)), ("The voice does not sound angry, it is sad.", ("sad",)),
    ("not happy. sad", ("sad",)), ("sad rather than happy", ("sad",)), ("not only sad but angry", ("sad", "angry")),
    ("It isn't happy and it's sad.", ("sad",)), ("without a doubt sad", ("sad",)), ("never happy or sad", None),
    ("Options: happy, sad, very sad, angry. Answer: sad", ("sad",)), ("Happy, sad, very sad or angry? Sad.", ("sad",)),
    ("The answer could be happy, sad, very sad, or angry. I hear an angry man.", ("angry",)),
    ("Among happy, sad, very sad and angry, I choose sad.", ("sad",)), ("**Answer:** sad, not happy", ("sad",)),
    ("I hear happy, sad, very sad and angry. The angry one is loud.", ("happy", "sad", "very sad", "angry")),
    ("The answer is not certain", None), ("-sad", ("sad",)), ("_sad_", ("sad",)), ("`sad`", ("sad",)),
    ("N/A", None), ("sadness", None), ("I cannot tell", None), ("\u201csad\u201d", ("sad",)),
])
def test_choice_is_exactly_what_the_answer_names(answer, named):
    assert read_choice(answer, ["happy", "sad", "very sad", "angry"]) == named


@pytest.mark.parametrize(("answer", "named"), [
    ("b", "sad"), ("(b)", "sad"), ("B.", "sad"), ("B) sad", "sad"), ("The answer is (B).", "sad"), ("option b", "sad"),
    ("Answer: B, since the voice is low", "sad"), ("The correct answer is a.", "happy"), ("sad", "sad"), ("d", None),
    ("(a) happy (b) sad (c) angry. Answer: (b)", "sad"), ("a sad voice", "sad"), ("the answer is a sad voice", "sad")])
@pytest.mark.parametrize("instruction", ["Which? A. happy B. sad C. angry", "(a) happy, (b) sad, or (c) angry"])
def test_a_letter_names_its_option(answer, named, instruction):
    options = parse_options(instruction, ["sad"])
    assert options == ["happy", "sad", "angry"]
    assert read_choice(answer, options, instruction) == (named and (named,))
    letters = dict(zip(options, parse_options(instruction, ["b"]), strict=True))
    assert "".join(letters.values()).lower() == "abc"
    assert read_choice(answer, list(letters.values()), instruction) == (named and (letters[named],))


def test_labels_without_a_letter_or_digit_are_labels():
    faces = ["\U0001f600", "\U0001f622", "\u2764\ufe0f"]
    assert read_choice("It is \U0001f622!", faces) == ("\U0001f622",)
    assert read_choice("\u2764", faces) == ("\u2764\ufe0f",)
    assert read_choice("?", ["?", "!"]) == ("?",) and read_choice("anything", ["?", "!"]) is None
    assert len({key(label) for label in [*faces, "?", "!", "...", "-"]}) == 7 and key(" \n") == ""


def test_signs_in_brackets_tell_options_apart():
    options = ["[+back]", "[-back]"]
    assert [read_choice(answer, options) for answer in ("[+back]", "It is [\u2212back].", "-back", "back")] == [
        ("[+back]",), ("[-back]",), ("[-back]",), None]


def test_no_idea_is_not_the_option_no():
    answers = {"I have no idea": None, "No.": "no", "no, I have no doubt": "no", "Yes, there is no doubt.": "yes",
               "no way to tell": None, "It is not the same, so no": "no"}
    assert {answer: read_choice(answer, ["yes", "no"]) for answer in answers} == {
        answer: named and (named,) for answer, named in answers.items()}


def test_marks_keep_571_phones_apart():
    """Bases by marks and lengths of the IPA, as many as a data set of phones has."""
    bases = "pbtdkgqmnrfvszhjlwaeiou\u0261\u014b\u0283\u0292\u0278\u03b8\u0259\u025b\u0254\u0250\u0276"
    marks = ["", "\u02b0", "\u02b7", "\u02b2", "\u02e0", "\u0325", "\u032a", "\u0303", "\u031a", "\u02d0", "\u0329",
             "h", "w", "\u02bc", "\u02e5", "\u02e9", "\u0361s"]
    phones = [base + mark for base in bases for mark in marks][:571]
    assert len({key(phone) for phone in phones}) == len(phones) == 571
    assert read_choice("It is t\u02b0.", ["t", "th", "t\u02b0", "t\u032a"]) == ("t\u02b0",)


@pytest.mark.parametrize("word", ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u0639\u064e\u0631\u064e\u0628\u0650\u064a",
                                  "\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48", "e\u0301te\u0301"])
def test_a_word_with_marks_is_one_word(word):
    assert tokens(f"{word}.") == [unicodedata.normalize("NFC", word)]
    assert tokens("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645") == ["\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"]


def test_number_words_and_digits_are_the_same_option():
    assert read_choice("There are two speakers.", ["1", "2", "3"]) == ("2",)
    assert read_choice("3", ["one", "two", "three"]) == ("three",)


def test_no_that_is_an_option_is_not_a_negation_of_itself():
    assert read_choice("No.", ["yes", "no"]) == ("no",)
    assert read_choice("not sarcastic", ["sarcastic", "not sarcastic"]) == ("not sarcastic",)


@pytest.mark.parametrize(("answer", "instruction", "value"), [
    ("5", "", 5.0), ("-3.5 dB", "SNR in dB?", -3.5), ("minus twelve point five decibels", "", -12.5),
    ("about one hundred and twenty BPM", "tempo in BPM?", 120.0), ("1,200 Hz", "", 1200.0),
    ("1.2 kHz", "the pitch in Hz?", 1200.0), ("500 ms", "duration in seconds?", 0.5),
    ("two minutes", "how many seconds?", 120.0), ("0.5 s", "how many milliseconds?", 500.0),
    ("3 out of 5", "", 3.0), ("4/5", "", 4.0), ("It is 5. So 5.", "", 5.0), ("5 or 6", "", None),
    ("no idea", "", None), ("", "", None), ("2 speakers at 60 dB", "the level in dB?", 60.0),
    ("\u22125 dB", "", -5.0), (".5", "", 0.5), ("12dB", "SNR in dB?", 12.0),
    ("1e5", "", 1e5), ("2.5e3", "", 2500.0), ("2 x 10^3 Hz", "in Hz?", 2000.0), ("+3", "", 3.0), ("-.5", "", -0.5),
    ("12,5 s", "in seconds?", 12.5), ("0,125", "", 0.125), ("1,200,000", "", 1.2e6), ("1,2,3", "", None),
    ("1.2.3", "", None), ("2024.01.02", "", None), ("5k", "", None), ("1_000", "", None), ("MP3", "", None),
    ("10\u00b3 Hz", "in Hz?", None), ("the 2nd is 5 dB", "in dB?", 5.0), ("\u0663", "", 3.0),
    ("1/2", "", 0.5), ("2 1/2", "", 2.5), ("2\u00bd s", "in seconds?", 2.5), ("1/10 of a second", "in seconds?", 0.1),
    ("point five", "", 0.5), ("minus point two five", "", -0.25), ("zero point five", "", 0.5),
    ("at this point two people speak", "", 2.0), ("twenty point five", "", 20.5),
    ("two and a half", "", 2.5), ("half a second", "in seconds?", 0.5), ("one third", "", 1 / 3),
    ("three quarters of a minute", "in seconds?", 45.0), ("one second", "in ms?", 1000.0),
    ("10-12 seconds", "in seconds?", None), ("10 to 12 s", "in seconds?", None), ("5 \u00b1 1 dB", "in dB?", None),
    ("5\u20136 dB", "in dB?", None), ("10 -12 s", "in seconds?", None), ("\u20135 dB", "in dB?", -5.0),
    ("2 m", "height in cm?", 200.0), ("1 m 85 cm", "height in cm?", 185.0), ("2 m", "how long, in s?", 120.0),
    ("1m05s", "in seconds?", 65.0), ("1 minute and 5 seconds", "in seconds?", 65.0), ("1h2m3s", "in s?", 3723.0),
    ("1/2 of a minute", "in seconds?", 30.0), ("a quarter of an hour", "in minutes?", 15.0),
    ("500 ms (0.5 s)", "in seconds?", 0.5), ("65 s (1m05s)", "in seconds?", 65.0), ("3.5 words per second", "", 3.5),
])
def test_number_is_the_only_one_in_the_unit_asked_for(answer, instruction, value):
    assert read_number(answer, instruction) == (value if value is None else pytest.approx(value))


SCALE = "Rate it on a scale of 1 to 5."


@pytest.mark.parametrize(("answer", "instruction", "value"), [
    ("9" * 200, "", None), ("9" * 8000, "", None), ("inf", "", None), ("1e999", "", None), ("-1e10", "", None),
    ("7", SCALE, None), ("4", SCALE, 4), ("4 on a scale of 1 to 5", SCALE, 4), ("3/4", SCALE, 0.75), ("4/5", SCALE, 4),
    ("120", "Give a score between 0 and 100.", None), ("3/20", "A score between 0 and 20, please.", 3),
    ("9", "Which value is it from 2 to 5 seconds?", 9), ("9", "How many of the 2 to 5 clips?", 9)])
def test_a_number_beyond_the_scale_is_no_answer(answer, instruction, value):
    assert read_number(answer, instruction) == (None if value == 0.75 else value)


def test_text_is_none_only_when_it_is_empty():
    assert read_text(" ") is None
    assert read_text("N/A") is None
    assert read_text("...") == "..."


@pytest.mark.parametrize(("mode", "answer", "value"), [
    ("choice", "It is b.", ("b",)), ("number", "About 3 s.", 3.0), ("text", "It is b.", "It is b.")])
def test_an_answer_is_read_as_its_mode_says(mode, answer, value):
    assert read(mode, answer, ["a", "b"], "How many seconds?") == value


def test_clean_drops_reasoning_and_control_characters_and_limits_the_length():
    assert clean("<think>maybe sad</think> happy\x00\x1b[31m\ud800") == "happy  [31m"
    assert clean("<think>never closed sad") == ""
    assert len(clean("a" * 1_000_000)) == LONGEST_ANSWER
    assert clean("\u0645\u06cc\u200c\u062e") == "\u0645\u06cc\u200c\u062e"


@pytest.mark.parametrize(("opened", "closed"), [
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"), ("<|thought|>", "<|/thought|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"), ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<seed:think>", "</seed:think>"), ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")])
def test_reasoning_goes_before_the_cut(opened, closed):
    thought = "sad " * LONGEST_ANSWER
    assert clean(f"{opened}{thought}{closed} happy") == "happy"
    assert clean(f"{thought}{closed}happy") == "happy"  # many servers keep the opening mark to themselves
    assert clean(f"{opened}a{closed} b {opened}c{closed} <answer>d</answer>") == "d"
    assert clean(f"{opened}{thought}") == ""


TEXTS = st.text(max_size=200) | st.text(alphabet=string.printable, max_size=100) | st.lists(
    st.sampled_from(["a", "b", "not", "no", "or", ",", ".", "?", "(a)", "B.", "5", "-", "1/2", "half", "and a", "e9",
                     "s", "answer:", "options", "<think>", "</think>", "[+", "\n", "\u00bd", "\u200d", "\U0001f600"]),
    max_size=40).map(" ".join)


@settings(deadline=timedelta(seconds=2), max_examples=150)
@given(TEXTS, TEXTS)
def test_no_text_breaks_a_reader(answer, instruction):
    text = clean(answer)
    assert set(read_choice(text, ["a", "b", "not b"], instruction) or ()) <= {"a", "b", "not b"}
    number = read_number(text, instruction)
    assert number is None or abs(number) <= 1e9
    assert len(parse_options(instruction)) != 1 and len(lettered(instruction)) != 1
    assert bool(key(answer)) or not key(answer).strip()


@pytest.mark.parametrize("part", ["not ", "not a , b , ", "a or b ", "(a) ", "5 - ", "1/2 ", "half ", "9", "1,", "A. ",
                                  "<think>", "answer: ", "; ", "value 1 ", "1 and a ", "\n", "\u00bd",
                                  "not x x x x x "])
def test_a_long_answer_is_read_in_little_time(part):
    text, start = part * (LONGEST_ANSWER // len(part)), monotonic()
    read_choice(clean(text), ["a", "b"], "A. a B. b")
    read_number(clean(text), text)
    parse_options(text)
    assert monotonic() - start < 5
