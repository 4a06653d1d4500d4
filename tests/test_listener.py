"""One listener: choosing the model, faults of the ratings, what adapting is worth, how the listener differs."""

import json
import re

import made
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from perser import about, checkpoints, listener, personal
from perser.adapt import constant_lr
from perser.checkpoints import Checkpoint
from perser.corpora import schema
from perser.data import rating_targets
from perser.errors import UserError
from perser.features.upstreams import READY, ready
from perser.methods import GradientModel
from perser.model import Head, logits

CLASSES, CLIPS, LR, STEPS = made.CLASSES, 60, 1.0, 30
HEARD = {"plain": [0, 1, 2, 3], "swaps": [1, 0, 2, 3]}  # which class a listener ticks for each class
ABOUT = made.ABOUT | {"upstream": READY, "upstream_identity": ready(2, 6).identity,
                      "trained_on": about.training(["Old", "plain"], 90)}


def general_head():
    """Twice the features of the class, without any other knowledge."""
    return Head(torch.zeros(2), torch.eye(6), torch.zeros(6), 2 * torch.eye(6)[:4], torch.zeros(4))


@pytest.fixture(scope="module")
def trained():
    """A model that learns the output layer quickly."""
    model = GradientModel(general_head(), {5: constant_lr(LR, STEPS, ("A", "a"))})
    return Checkpoint(model, torch.zeros(2, 6), torch.ones(2, 6), torch.ones(4), ABOUT)


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained):
    """A folder with features of 60 clips, a model, and ratings of a listener who swaps two classes and another."""
    folder, draw = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    truth = np.arange(CLIPS) % 4
    values = 0.5 * draw.normal(size=(CLIPS, 2, 6)).astype(np.float32)
    values[np.arange(CLIPS), :, truth] += 1
    np.save(folder / "features.npy", values)
    (folder / "clips.txt").write_text("\n".join(f"c{n}" for n in range(CLIPS)))
    checkpoints.save(trained, folder / "model")
    rows = [f"c{n},{name},{CLASSES[heard[truth[n]]]}" for name, heard in HEARD.items() for n in range(20)]
    (folder / "ratings.csv").write_text("\n".join(["clip,listener,label", *rows]) + "\n")
    return folder


def words(place, out, *more):
    return ["adapt", "--model", place / "model", "--ratings", place / "ratings.csv", "--audio", place / "features.npy",
            "--out", out, *more]


def shots(count, seed=0):
    """Features and ticks of random ratings."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 6, generator=draw), torch.eye(4).bool()[torch.randint(4, (count,), generator=draw)]


def by_hand(trained, features, ticks, parts):
    """Losses and hits of the general model and of torch's own descent on the ratings outside of each part."""
    rows = []
    for part in parts:
        kept = [place for place in range(len(ticks)) if place not in part]
        head = Head(*(tensor.clone() for tensor in trained.model.head))
        A, a = head.A.clone().requires_grad_(), head.a.clone().requires_grad_()
        optimiser = torch.optim.SGD([A, a], lr=LR)
        for _ in range(STEPS):
            optimiser.zero_grad()
            answers = logits(head._replace(A=A, a=a), features[kept])
            torch.nn.functional.cross_entropy(answers, rating_targets(ticks[kept], 0.05)).backward()
            optimiser.step()
        for place in part:
            before, after = (logits(head, features[[place]]) for head in (
                trained.model.head, head._replace(A=A.detach(), a=a.detach())))
            truth = ticks[[place]].float().argmax(-1)
            rows.append((place, *(float(torch.nn.functional.cross_entropy(part, truth)) for part in (before, after)),
                         *(float(part.argmax() == truth) for part in (before, after))))
    return np.array(sorted(rows))[:, 1:]


def test_leave_one_out_is_descent_by_hand_with_students_interval(trained):
    features, ticks = shots(12)
    test = listener.tested(trained, features, ticks, [str(n) for n in range(12)])
    rows = by_hand(trained, features, ticks, [[n] for n in range(12)])
    assert test["by"] == "leave-one-out" and test["ratings"] == 12
    means = [test[name] for name in ("general_loss", "personal_loss", "general", "personal")]
    assert means == pytest.approx(rows.mean(0).tolist(), rel=1e-4)
    interval = stats.ttest_1samp(rows[:, 0] - rows[:, 1], 0).confidence_interval()
    assert [test["low"], test["high"]] == pytest.approx([*interval], rel=1e-3)
    interval = stats.ttest_1samp(rows[:, 3] - rows[:, 2], 0).confidence_interval()
    assert [test["accuracy_low"], test["accuracy_high"]] == pytest.approx([*interval])
    shares = ticks.float().mean(0)
    assert test["constant_loss"] == pytest.approx(float(stats.entropy(shares)), rel=1e-5)


def test_copies_of_a_clip_are_left_out_together_and_many_ratings_in_ten_parts(trained):
    features, ticks = shots(4)
    test = listener.tested(trained, features, ticks, ["a", "b", "a", "b"])
    assert test["personal_loss"] == pytest.approx(by_hand(trained, features, ticks, [[0, 2], [1, 3]])[:, 1].mean())
    assert listener.tested(trained, features, ticks, ["a"] * 4) is None
    assert listener.tested(trained, *shots(41), [*map(str, range(41))])["by"] == "10 parts"
    assert listener.tested(trained, *shots(40), [*map(str, range(40))])["by"] == "leave-one-out"


@pytest.mark.parametrize("changes, p, words", [
    ({}, 0.01, "better"), ({}, 0.06, "not better: the general model answers as well"),
    ({"gain": -0.1, "low": -0.2, "high": -0.05}, 0.01, "worse: keep the general model"),
    ({"personal": 0.4}, 0.01, "not better: the accuracy falls"),
    ({"constant_loss": 0.8}, 0.01, "not better: a constant answer is as good")])
def test_verdicts(changes, p, words):
    test = {"general": 0.5, "personal": 0.5, "personal_loss": 0.8, "constant_loss": 1.0, "gain": 0.1, "low": 0.02,
            "high": 0.2}
    assert listener.verdict(test | changes, p) == words


def test_differences_from_the_general_model_and_from_consensus_on_paper(trained):
    """Three clips. Others of c0: sad, sad, calm = sad; of c1: a tie of angry and happy; of c2: nobody."""
    def row(clip, name, *on):
        return {"clip": clip, "listener": name} | {kind: kind in on for kind in CLASSES}

    ratings = pd.DataFrame([
        row("c0", "me", "angry"), row("c0", "x", "sad"), row("c0", "y", "sad"), row("c0", "z", "neutral"),
        row("c1", "x", "angry"), row("c1", "me", "sad"), row("c1", "y", "happy"), row("c2", "me", "sad", "happy"),
        row("c3", "w", "sad"), row("c0", "none")])
    features = torch.zeros(3, 2, 6)
    features[2, :, 0] = 1.0
    bias = torch.tensor([0.0, 0.0, 0.0, np.log(3.0)])
    model = personal.PersonalModel(general_head()._replace(a=bias), None, None, ABOUT)
    entry = listener.differs(trained, model, features, ["c0", "c1", "c2"], "me",
                             listener.consensus(ratings, CLASSES))
    assert about.Differs.model_validate(entry)
    assert entry["shared"] == 2 and entry["listeners"] == 3
    rows = {part["name"]: part for part in entry["classes"]}
    e2 = np.exp(2)
    # c0, c1: 1/4 each, then 1/6, 1/6, 1/6, 1/2. c2: logits 2, 0, 0, 0, then 2, 0, 0, log 3.
    assert rows["sad"]["general"] == pytest.approx((1 / 2 + 1 / (e2 + 3)) / 3)
    assert rows["sad"]["personal"] == pytest.approx((1 + 3 / (e2 + 5)) / 3)
    assert [rows[name]["ticked"] for name in CLASSES] == pytest.approx([1 / 3, 1 / 6, 0, 1 / 2])
    assert [rows[name]["shared"] for name in CLASSES] == pytest.approx([1 / 2, 0, 0, 1 / 2])
    assert [rows[name]["others"] for name in CLASSES] == pytest.approx([1 / 4, 1 / 4, 1 / 6, 1 / 3])
    assert entry["confusions"] == [{"others": "sad", "listener": "angry", "ratings": 1.0},
                                   {"others": "angry", "listener": "sad", "ratings": 0.5},
                                   {"others": "happy", "listener": "sad", "ratings": 0.5}]
    # The sad share moves by 1/4 on c0 and c1, by 3 / (e2 + 5) - 1 / (e2 + 3) = 0.146 on c2.
    assert [part["clip"] for part in entry["moved"]] == ["c0", "c1", "c2"]
    assert entry["moved"][0] | {"distance": 0} == {"clip": "c0", "general": "angry", "personal": "sad",
                                                   "ticked": "angry", "distance": 0}
    assert [part["distance"] for part in entry["moved"]] == pytest.approx(
        [1 / 4, 1 / 4, 3 / (e2 + 5) - 1 / (e2 + 3)], rel=1e-4)


def doubts(tmp_path, rows, contents=None, silent=(), repeats="mean", description=ABOUT):
    """Warnings about a table of one listener."""
    (tmp_path / "r.csv").write_text("\n".join(["clip,listener,label", *rows]) + "\n")
    table = personal.read_table(tmp_path / "r.csv", CLASSES, repeats=repeats)
    clips = [listener.Clip(torch.zeros(2, 6), (contents or {}).get(rating.clip, rating.clip), rating.clip in silent)
             for rating in table.ratings]
    return listener.warnings(table, clips, description, repeats)


def test_faults_of_ratings_are_a_line_each(tmp_path):
    plain = ["a,Ann,sad", "b,Ann,happy", "c,Ann,sad"]
    assert doubts(tmp_path, plain) == []
    [line] = doubts(tmp_path, [*plain, "a,Ann,happy"], repeats="first")
    assert "r.csv:5: contradictory ratings of one clip: a (sad and happy); their first counts" in line
    [line] = doubts(tmp_path, [*plain, "a,Ann,sad"])
    assert "r.csv:5: repeated ratings of one clip: a (sad); their mean counts" in line
    [line] = doubts(tmp_path, [*plain, "a,Ann,sad;happy"], repeats="first")
    assert "repeated ratings" in line, "one class is common"
    [line] = doubts(tmp_path, plain, {"a": "same", "b": "same"})
    assert "r.csv:3: contradictory clips with the same content: a, b (sad and happy); each counts" in line
    [line] = doubts(tmp_path, plain, {"a": "same", "c": "same"})
    assert "r.csv:4: repeated clips with the same content: a, c (sad)" in line
    [line] = doubts(tmp_path, plain, silent=("b",))
    assert "r.csv:3: b is silent" in line
    [line] = doubts(tmp_path, ["a,Ann,sad", "b,Ann,sad"])
    assert "2 ratings, all sad" in line
    [line] = doubts(tmp_path, [row.replace("Ann", "Old") for row in plain])
    assert "in the model's training" in line
    older = {key: value for key, value in ABOUT.items() if key != "trained_on"}
    assert doubts(tmp_path, [row.replace("Ann", "Old") for row in plain], description=older) == []


def test_silence_and_content_are_read_from_the_audio(tmp_path, monkeypatch, trained):
    import soundfile

    tone = np.sin(np.arange(4000) / 9)
    for name, wave in (("a", tone), ("b", 1e-4 * tone), ("copy", tone), ("broken", None)):
        if wave is None:
            (tmp_path / f"{name}.wav").write_bytes(b"RIFF")
        else:
            soundfile.write(tmp_path / f"{name}.wav", wave, 16000)
    (tmp_path / "r.csv").write_text("clip,label\n" + "".join(f"{name},sad\n" for name in
                                                             ("a", "b", "copy", "broken", "nowhere")))
    from perser.features import upstreams

    model = upstreams.load("logmel")
    shape = (model.layers, model.width)
    description = ABOUT | {"upstream": "logmel", "upstream_identity": model.identity}
    given = trained._replace(mean=torch.zeros(shape), scale=torch.ones(shape), about=description)
    clips = listener.clips_of(given, personal.read_table(tmp_path / "r.csv", CLASSES), tmp_path)
    assert {name for name, clip in clips.items() if isinstance(clip, UserError)} == {"broken", "nowhere"}
    assert "broken.wav" in str(clips["broken"]) and "r.csv:6" in str(clips["nowhere"])
    assert clips["a"].features.shape == shape and clips["a"].content == clips["copy"].content != clips["b"].content
    assert [clips[name].silent for name in ("a", "b", "copy")] == [False, True, False]


def test_one_listener_is_adapted_tested_and_explained(perser, place, tmp_path):
    out = tmp_path / "swaps.safetensors"
    code, printed, err = perser(*words(place, out, "--listener", "swaps"))
    assert code == 0 and not err
    lines = printed.splitlines()
    assert lines[0] == f"{out}: 20 ratings of swaps" and lines[-1] == "better"
    match = re.match(r"general (\d+) -> personal (\d+) of 100 \(leave-one-out, n = 20\)$", lines[1])
    assert re.fullmatch(r"difference \+\d+ \[\+\d+, \+\d+\] of 100", lines[2])
    test = personal.load(out).about["test"]
    assert [int(number) for number in match.groups()] == [round(100 * test[name]) for name in ("general", "personal")]
    assert test["personal"] > test["general"] + 0.2 and test["low"] > 0
    code, printed, err = perser("explain", out)
    assert code == 0 and not err and max(map(len, printed.splitlines())) < 80
    assert "swaps: 20 ratings" in printed and "on 20 clips that 1 other rated too" in printed
    assert re.search(r"angry +happy +5\.0\nhappy +angry +5\.0", printed)
    code, printed, _ = perser("explain", out, "--json")
    entry = json.loads(printed)
    assert entry["differs"] == personal.load(out).about["differs"] and entry["listener"] == "swaps"
    code, printed, err = perser(*words(place, out, "--listener", "plain"))
    assert code == 0 and "in the model's training" in err and err.count("\n") == 1
    assert "digests" not in json.dumps(personal.load(out).about)


def test_a_listener_who_ticks_at_random_is_told_to_keep_the_general_model(perser, place, tmp_path):
    table, draw = tmp_path / "random.csv", np.random.default_rng(0)
    table.write_text("clip,label\n" + "".join(f"c{n},{draw.choice(CLASSES)}\n" for n in range(40)))
    command = [table if word == place / "ratings.csv" else word for word in words(place, tmp_path / "m.safetensors")]
    code, printed, err = perser(*command)
    assert code == 0 and not err and printed.splitlines()[-1].startswith(("not better: ", "worse: "))
    code, printed, _ = perser("explain", tmp_path / "m.safetensors")
    assert code == 0 and "on all rated clips; nobody else rated them." in printed and "plurality" not in printed


def test_several_listeners_need_a_name_or_each_and_one_fault_costs_one(perser, place, tmp_path):
    code, out, err = perser(*words(place, tmp_path / "m.safetensors"))
    assert code == 1 and not out and err.count("\n") == 1
    assert "ratings of 2 listeners; choose one, such as --listener 'plain', or give --each: plain, swaps" in err
    table = tmp_path / "ratings.csv"
    table.write_text((place / "ratings.csv").read_text().replace("listener,", "listener,")
                     + "c1,../Bo,sad\nc99,../Bo,happy\nc1,伟,sad\n")
    command = ["--ratings" if word == "--ratings" else table if word == place / "ratings.csv" else word
               for word in words(place, tmp_path / "each", "--each")]
    code, out, err = perser(*command)
    files = sorted(file.name for file in (tmp_path / "each").iterdir())
    assert code == 1 and files == ["listener.safetensors", "plain.safetensors", "swaps.safetensors"]
    assert re.search(r"swaps +20 .* better\n", out) and "not tested" in out and f"3 files in {tmp_path / 'each'}" in out
    assert err.splitlines()[-1].startswith("perser: ../Bo: no model: ") and "has no clip 'c99'" in err
    assert "warning: plain: a listener of this name was in the model's training" in err
    code, out, err = perser("predict", "--model", tmp_path / "each", place / "features.npy")
    assert code == 1 and err.count("\n") == 1 and "choose one with --listener NAME" in err and "swaps" in err
    code, out, err = perser("predict", "--model", tmp_path / "each", "--listener", "伟", place / "features.npy")
    assert code == 0 and out.count("\n") == CLIPS + 1 and not err
    code, out, err = perser("predict", "--model", tmp_path / "each", "--listener", "swap", place / "features.npy")
    assert code == 1 and "no model of listener 'swap': did you mean 'swaps'?" in err
    for more, message in ((("--each", "--listener", "plain"), "choose one"), ((), "is a folder; name a file")):
        code, out, err = perser(*words(place, tmp_path / "each", *more))
        assert code == 2 and message in err and err.count("\n") == 1


def test_general_answers_of_a_folder_and_of_a_personal_models_file(perser, place, tmp_path):
    code, out, err = perser("predict", "--model", place / "model", place)
    assert code == 0 and err == f"perser: the general answers of {place / 'model'}\n"
    expected = logits(general_head(), torch.from_numpy(np.load(place / "features.npy"))).softmax(-1)
    lines = out.splitlines()
    assert lines[0] == f"file,label,{','.join(CLASSES)}" and len(lines) == CLIPS + 1
    assert lines[1].split(",")[2:] == [f"{share:.4f}" for share in expected[0]]
    for name, bad in (("nothing", place / "nothing.npy"), ("ratings", place / "ratings.csv")):
        code, out, err = perser("predict", "--model", place / "model", bad, place / "features.npy")
        assert code == 1 and len(out.splitlines()) == CLIPS + 1 and str(bad) in err.splitlines()[-1], name
    code, out, err = perser("predict", "--model", place / "model", "--listener", "Ann", place)
    assert code == 1 and "it holds no listeners' files" in err and err.count("\n") == 1
    code, out, err = perser("predict", "--model", tmp_path, place)
    assert code == 1 and "no model there; give a folder with model.json" in err and err.count("\n") == 1


def test_a_model_of_synthetic_voices_says_so_everywhere(perser, place, trained, tmp_path):
    described = trained._replace(about=ABOUT | {"synthetic": "speech and listeners"})
    checkpoints.save(described, tmp_path / "model")
    out = tmp_path / "m.safetensors"
    command = words(place, out, "--listener", "swaps")
    command[2] = tmp_path / "model"
    loud = "perser: WARNING: SYNTHETIC: the model learnt from synthetic speech and listeners"
    code, _, err = perser(*command)
    assert code == 0 and err.startswith(loud) and err.count("\n") == 1
    code, printed, err = perser("predict", "--model", out, place / "features.npy")
    header, *rows = printed.splitlines()
    assert err.startswith(loud) and header.endswith(",synthetic")
    assert len(rows) == CLIPS and all(row.endswith(",speech and listeners") for row in rows)
    code, printed, err = perser("predict", "--model", out, place / "features.npy", "--format", "json")
    assert {row["synthetic"] for row in json.loads(printed)} == {"speech and listeners"}
    assert "SYNTHETIC: the model learnt from synthetic speech and listeners" in perser("explain", out)[1]
    assert json.loads(perser("explain", out, "--json")[1])["synthetic"] == "speech and listeners"
    assert "synthetic" not in perser("adapt", "--help")[1].lower()


def test_json_and_csv_hold_the_same_and_no_cell_is_a_formula(tmp_path):
    frame = pd.DataFrame([["=1+1", "-sad;file", 0.25, 0.75], ["a,b\n", "file", 0.125, 0.875]],
                         columns=["file", "label", "-sad", "file"])
    description = ABOUT | {"classes": ["-sad", "file"], "synthetic": ""}
    assert personal.text([frame], description, "csv") == (
        "file,label,'-sad,file\n'=1+1,'-sad;file,0.2500,0.7500\n\"a,b\n\",file,0.1250,0.8750\n")
    first, second = json.loads(personal.text([frame], description, "json"))
    assert first == {"file": "=1+1", "label": ["-sad", "file"], "probabilities": {"-sad": 0.25, "file": 0.75},
                     "synthetic": ""}
    assert second["file"] == "a,b\n" and personal.text([], description, "json") == "[]\n"


def test_a_general_file_has_nothing_to_explain(perser, trained, tmp_path):
    personal.save(personal.general(trained), tmp_path / "general.safetensors")
    code, out, err = perser("explain", tmp_path / "general.safetensors")
    assert code == 1 and not out and err.count("\n") == 1 and "`perser adapt` writes one" in err


def test_a_diverging_adaptation_is_one_line(trained):
    wild = trained._replace(model=trained.model._replace(settings={5: constant_lr(1e30, 10)}))
    with pytest.raises(UserError, match="cannot adapt to these ratings"):
        personal.adapted(wild, *shots(5))


def test_files_and_folders_are_searched_in_order_and_each_is_there_once(tmp_path):
    for name in ("b/z.WAV", "b/a.flac", "b/.hidden.wav", "b/notes.txt", "c.Mp3", "b/deep/x.ogg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    description = ABOUT | {"upstream": "logmel"}
    files, faults = personal.inputs([tmp_path / "c.Mp3", tmp_path, tmp_path / "empty"], description)
    assert files == [tmp_path / name for name in ("c.Mp3", "b/a.flac", "b/deep/x.ogg", "b/z.WAV")]
    [fault] = faults
    assert fault.startswith(f"{tmp_path / 'empty'}: no audio in it")


def test_the_table_reads_as_the_schema_does(place):
    table = personal.read_table(place / "ratings.csv", CLASSES)
    assert isinstance(table, schema.Table) and personal.listeners(table) == ["plain", "swaps"]
    own = personal.of_listener(table, place, "swaps")
    assert personal.ticks_of(own).float().argmax(-1).tolist() == [HEARD["swaps"][n % 4] for n in range(20)]
