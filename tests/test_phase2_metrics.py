"""Phase-2 metrics and answer reading against cases worked by hand and independent implementations."""

import math
import string

import jiwer
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from sklearn.preprocessing import MultiLabelBinarizer
from torchmetrics.functional.text import squad

from perser.phase2.metrics import (
    LONGEST_ANSWER,
    METRICS,
    canonical,
    clean,
    events,
    time_spans,
    parse_options,
    read_choice,
    read_number,
    read_text,
)


def score(name, labels, answers):
    return METRICS[name].compute([tuple(row) if isinstance(row, (list, tuple)) else (row,) for row in labels], answers)


@pytest.mark.parametrize(("instruction", "labels", "options"), [
    ("Which? The answer could be a, b, or c.", ["b"], ["a", "b", "c"]),
    ("Which? The answer could be happy or sad.", ["sad"], ["happy", "sad"]),
    ("The answer could be neutral, calm, happy and sad.", ["sad"], ["neutral", "calm", "happy", "sad"]),
    ("Choose one from the following: rock and roll, jazz, blues.", ["jazz"], ["rock and roll", "jazz", "blues"]),
    ("Options: 'yes' or 'no'. Is it sarcasm?", ["no"], ["yes", "no"]),
    ("The options are: cat, dog; bird.", ["bird"], ["cat", "dog", "bird"]),
    ("What is the genre of this piece?", ["rock"], []),
    ("The answer could be a, b, or c.", ["zebra"], []),
])
def test_options_come_from_the_instruction(instruction, labels, options):
    assert parse_options(instruction, labels) == options


@pytest.mark.parametrize(("answer", "named"), [
    ("sad", ("sad",)), ("The speaker is SAD.", ("sad",)), ("very sad, I think", ("very sad",)),
    ("happy or sad", ("happy", "sad")), ("not happy, but sad", ("sad",)), ("not sad", None), ("", None),
    ("N/A", None), ("sadness", None), ("I cannot tell", None), ("\u201csad\u201d", ("sad",)),
])
def test_choice_is_exactly_what_the_answer_names(answer, named):
    assert read_choice(answer, ["happy", "sad", "very sad"]) == named


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
])
def test_number_is_the_only_one_in_the_unit_asked_for(answer, instruction, value):
    assert read_number(answer, instruction) == (value if value is None else pytest.approx(value))


def test_text_is_none_only_when_it_is_empty():
    assert read_text(" ") is None
    assert read_text("N/A") is None
    assert read_text("...") == "..."


def test_clean_drops_reasoning_and_control_characters_and_limits_the_length():
    assert clean("<think>maybe sad</think> happy\x00\x1b[31m\ud800") == "happy  [31m"
    assert clean("<think>never closed sad") == ""
    assert len(clean("a" * 1_000_000)) == LONGEST_ANSWER


def test_accuracy_requires_the_whole_set_and_counts_no_answer_as_wrong():
    labels = [["a", "b"], ["a"], ["b"], ["c"]]
    assert score("accuracy", labels, [("b", "a"), ("a", "b"), None, ("C",)]) == 0.5


LABELS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, unique=True), min_size=1, max_size=12)


@settings(deadline=None, max_examples=40)
@given(LABELS, st.data())
def test_set_f1_and_macro_f1_agree_with_sklearn(labels, data):
    answers = [data.draw(st.lists(st.sampled_from("abd"), unique=True)) or None for _ in labels]
    classes = sorted({x for row in labels for x in row} | {x for row in answers for x in row or ()})
    truth, guess = (MultiLabelBinarizer(classes=classes).fit_transform([row or () for row in side])
                    for side in (labels, answers))
    # scikit-learn treats a single column as two classes, yes and no; only the class itself counts here.
    micro, macro = ("micro", "macro") if len(classes) > 1 else ("binary", "binary")
    assert score("F1", labels, answers) == pytest.approx(sk.f1_score(truth, guess, average=micro, zero_division=0))
    expected = sk.f1_score(truth, guess, average=macro, zero_division=0)
    assert score("macro-F1", labels, answers) == pytest.approx(expected)


def test_weighted_accuracy_is_balanced_accuracy_with_a_missing_class():
    truth, answers = ["a", "a", "a", "b"], ["a", "a", "c", "b"]
    expected = sk.balanced_accuracy_score(np.array(truth), np.array(["a", "a", "b", "b"]))
    assert score("weighted-accuracy", truth, [(x,) for x in answers]) == pytest.approx((2 / 3 + 1) / 2)
    assert expected == pytest.approx((2 / 3 + 1) / 2)


def test_word_f1_agrees_with_squad():
    pairs = [("red car", "red bus"), ("big dog", "big dog barks"), ("x", ""), ("one two", "one two")]
    truth, answers = ([pair[i].replace("one two", "uno due") for pair in pairs] for i in (0, 1))
    official = squad([{"prediction_text": s, "id": str(i)} for i, s in enumerate(answers)],
                     [{"answers": {"text": [t], "answer_start": [0]}, "id": str(i)} for i, t in enumerate(truth)])
    assert score("word-F1", truth, [s or None for s in answers]) == pytest.approx(float(official["f1"]) / 100, abs=1e-6)


WORDS = st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=5), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(WORDS, st.data())
def test_wer_is_the_edit_distance_over_the_whole_task(truth, data):
    answers = [data.draw(st.lists(st.sampled_from(["a", "b", "d"]), max_size=5)) for _ in truth]
    errors = sum(levenshtein(t, s) for t, s in zip(truth, answers, strict=True))
    rate = score("WER", [" ".join(t) for t in truth], [" ".join(s) or None for s in answers])
    assert rate == pytest.approx(errors / max(1, sum(map(len, truth))))


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, last = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(row[-1] + 1, last[j] + 1, last[j - 1] + (x != y)))
    return row[-1]


def test_wer_matches_jiwer_and_ignores_case_and_punctuation():
    assert score("WER", ["The cat sat"], ["the cat sat!"]) == 0
    assert score("WER", ["a b c", "d"], ["a x c", "d e"]) == pytest.approx(jiwer.wer(["a b c", "d"], ["a x c", "d e"]))


def test_empty_reference_counts_its_insertions_and_empty_answer_is_all_deletions():
    assert score("WER", [""], ["two words"]) == 2
    assert score("WER", ["", "a b"], ["x", None]) == pytest.approx(3 / 2)
    assert score("WER", [""], [None]) == 0


def test_cer_per_and_mer_by_hand():
    assert score("CER", ["abc de"], ["abd de"]) == pytest.approx(1 / 5)
    assert score("PER", ["AH0 B K"], ["AH0 P K"]) == pytest.approx(1 / 3)
    assert score("MER", ["\u6211 like \u5b78\u7fd2"], ["\u6211 like \u5b78\u6821"]) == pytest.approx(1 / 4)


def test_cpwer_finds_the_best_assignment_of_speakers():
    labels = [("hello there", "good morning all")]
    assert score("cpWER", labels, ["good morning all\nhello there"]) == 0
    assert score("cpWER", labels, ["Speaker 1: good morning\nSpeaker 2: hello there"]) == pytest.approx(1 / 5)
    assert score("cpWER", labels, ["hello there"]) == pytest.approx(3 / 5)
    assert score("cpWER", labels, [None]) == 1


def test_bleu_is_sacrebleus():
    refs, hyps = ["the cat is on the mat", "it rains today"], ["the cat sat on the mat", "it rains today"]
    assert score("BLEU", refs, hyps) == pytest.approx(sacrebleu.corpus_bleu(hyps, [refs]).score)
    assert score("BLEU", refs, refs) == pytest.approx(100)
    assert score("BLEU", refs, [None, None]) == 0


def test_item_and_label_f1_by_hand():
    labels = ["PLACE: Paris, DATE: Monday", ""]
    answers = ["place: paris, PERSON: Monday", None]
    assert score("item-F1", labels, answers) == pytest.approx(2 * 1 / 4)
    assert score("label-F1", labels, answers) == pytest.approx(2 * 1 / 4)
    assert score("label-F1", ["A: x, A: y"], ["A: z"]) == pytest.approx(2 * 1 / 3)


@pytest.mark.parametrize(("name", "rule"), [("LCC", stats.pearsonr), ("SRCC", stats.spearmanr),
                                            ("KTAU", stats.kendalltau)])
def test_correlations_are_scipys_over_answered_rows(name, rule):
    labels, answers = ["1", "2", "3.5", "0"], [2.0, None, 3.0, 1.0]
    assert score(name, labels, answers) == pytest.approx(rule([1, 3.5, 0], [2, 3, 1]).statistic)
    assert score(name, labels, [1.0] * 4) == 0
    assert math.isnan(score(name, labels, [None] * 4))
    assert math.isnan(score(name, ["1", "1"], [1.0, 2.0]))


def test_errors_of_numbers_leave_out_missing_answers():
    labels, answers = ["1", "2", "4 dB", "10"], [2.0, None, 1.0, 10.0]
    assert score("MSE", labels, answers) == pytest.approx(sk.mean_squared_error([1, 4, 10], [2, 1, 10]))
    assert score("MAE", labels, answers) == pytest.approx(4 / 3)
    assert score("MedAE", labels, answers) == 1
    assert math.isnan(score("MSE", labels, [None] * 4))


def test_iou_by_hand():
    assert time_spans("from 1 to 2.5 s and 3-4").tolist() == [[1, 2.5], [3, 4]]
    assert score("IoU", ["1-3"], ["2-4"]) == pytest.approx(1 / 3)
    assert score("IoU", ["1-3", "0-1"], ["1-3", None]) == pytest.approx(0.5)
    assert score("IoU", ["0-1; 2-3"], ["0-3"]) == pytest.approx(2 / 3)


def test_event_f1_collar_names_and_one_to_one_matching():
    assert events("dog bark: 1.2-3.4; cat, 5, 6") == [("dog bark", 1.2, 3.4), ("cat", 5.0, 6.0)]
    label = ["dog: 1.0-2.0; cat: 3.0-4.0"]
    assert score("event-F1", label, ["dog: 1.19-2.0; cat: 3.0-4.4"]) == 1
    assert score("event-F1", label, ["dog: 1.25-2.0; cat: 3.0-4.0"]) == 0.5
    assert score("event-F1", label, ["cat: 1.0-2.0; cat: 3.0-4.6"]) == 0
    assert score("event-F1", label, ["dog: 1.0-2.0; dog: 1.1-2.0"]) == 0.5
    assert score("event-F1", label, [None]) == 0
    assert score("event-F1", [""], [None]) == 1


def test_onset_and_beat_windows():
    assert score("onset-F1", ["1.0 2.0"], ["1.04, 2.06"]) == 0.5
    assert score("beat-F1", ["1.0 2.0"], ["1.04, 2.06"]) == 1


# By hand: a class or reference that is missing on one side, a row without an answer, a row whose reference is empty.
EDGES = {
    "accuracy": (["a", "a", "b", ""], [("a",), ("a",), ("a",), None], 3 / 4),
    "weighted-accuracy": (["a", "a", "b", "b"], [("a",), ("a",), ("a",), None], (1 + 0) / 2),
    "F1": (["a", "a", "b", ""], [("a",), None, ("a",), ("c",)], 2 * 1 / (3 + 3)),
    "macro-F1": (["a", "a", "b", ""], [("a",), None, ("a",), ("c",)], (2 * 1 / (2 + 2) + 0 + 0) / 3),
    "MSE": (["", "1", "3", "5"], [9.0, None, 4.0, 8.0], (1 + 9) / 2),
    "MAE": (["", "1", "3", "5"], [9.0, None, 4.0, 8.0], (1 + 3) / 2),
    "MedAE": (["", "1", "3", "5"], [9.0, None, 4.0, 8.0], (1 + 3) / 2),
    "LCC": (["", "9", "1", "2"], [9.0, None, 5.0, 7.0], 1),
    "SRCC": (["", "9", "1", "2"], [9.0, None, 7.0, 5.0], -1),
    "KTAU": (["", "9", "1", "2", "3"], [9.0, None, 1.0, 3.0, 2.0], (2 - 1) / 3),
    "WER": (["", "a b"], ["x", None], (1 + 2) / 2),
    "CER": (["", "ab c"], ["xy", None], (2 + 3) / 3),
    "PER": (["", "AH0 B"], ["K", None], (1 + 2) / 2),
    "MER": (["", "\u6211 like"], ["no", None], (1 + 2) / 2),
    "cpWER": (["", ("a b", "c")], ["x", None], (1 + 3) / 3),
    "BLEU": (["", "a b c d e"], ["x", None], 0),
    "item-F1": (["", "A: x, B: y"], ["C: z", None], 0),
    "label-F1": (["", "A: x", "A: x"], ["A: x", None, "A: y"], 2 * 1 / (2 + 2)),
    "word-F1": (["", "a", "", "b"], ["x", None, None, "b"], (0 + 0 + 1 + 1) / 4),
    "IoU": (["", "1-2", "", "1-3"], ["1-2", None, None, "2-3"], (0 + 0 + 1 + 1 / 2) / 4),
    "event-F1": (["", "dog: 1-2", "cat: 1-2"], ["dog: 1-2", None, "cat: 1-2"], 2 * 1 / (2 + 2)),
    "onset-F1": (["", "1.0", "2.0"], ["1.0", None, "2.0"], 2 * 1 / (2 + 2)),
    "beat-F1": (["", "1.0", "2.0"], ["1.0", None, "2.0"], 2 * 1 / (2 + 2)),
}


@pytest.mark.parametrize("name", sorted(METRICS))
def test_missing_classes_answers_and_references_count_as_by_hand(name):
    labels, answers, expected = EDGES[name]
    assert score(name, labels, answers) == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_task_of_nothing_but_empty_references_and_answers(name):
    value = score(name, ["", ""], [None, None])
    if METRICS[name].mode == "number":
        assert math.isnan(value)
    else:
        assert value == (0 if name == "BLEU" else float(METRICS[name].higher))
    assert math.isnan(METRICS[name].compute([()], [None])) == (METRICS[name].mode == "number")


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_perfect_answer_is_perfect(name):
    texts = {"IoU": "1-2", "event-F1": "dog: 1-2", "onset-F1": "1.0 2.0", "beat-F1": "1.0 2.0",
             "BLEU": "one two three four five"}
    mode = METRICS[name].mode
    labels = [("a",), ("b",), ("a",)] if mode == "choice" else [("1",), ("2",), ("4",)] if mode == "number" else [
        (texts.get(name, "two words"),)] * 3
    answers = labels if mode == "choice" else [label[0] if mode == "text" else float(label[0]) for label in labels]
    best = {True: 1.0, False: 0.0}[METRICS[name].higher] * (100 if name == "BLEU" else 1)
    assert METRICS[name].compute(labels, answers) == pytest.approx(best)


@pytest.mark.parametrize(("spelled", "ours"), [
    ("Accuracy", "accuracy"), ("wer", "WER"), ("label_f1", "label-F1"), ("event-based F1 (200 ms collar)", "event-F1"),
    ("weighted_accuracy", "weighted-accuracy"), ("PESQ", ""), ("", "")])
def test_upstream_spellings(spelled, ours):
    assert canonical(spelled) == ours


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=200), st.text(alphabet=string.printable, max_size=100))
def test_no_answer_text_breaks_a_reader(answer, instruction):
    text = clean(answer)
    read_choice(text, ["a", "b"])
    read_number(text, instruction)
    parse_options(instruction)
    for name, metric in METRICS.items():
        if metric.mode == "text":
            assert metric.compute([("a b",)], [read_text(text)]) >= 0, name
