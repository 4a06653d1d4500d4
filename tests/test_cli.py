"""The command line as a newcomer uses it, with right and wrong arguments."""

import json
import shutil
from contextlib import chdir
from io import StringIO
from pathlib import Path

import made
import numpy as np
import pandas as pd
import pytest
import soundfile

from perser import about, checkpoints, experiment, records, walkthrough, workers
from perser.cli import planned
from perser.errors import UserError

ROOT = Path(__file__).parents[1]
TINY = ("seeds=[0]", "shots=[3, 5]", "draws=2", "dev_draws=2", "folds=[1]", "base.epochs=2", "base.hidden=16",
        *(f"methods.{name}.{change}" for name in ("maml", "meta-perser")
          for change in ("epochs=1", "outer_steps_per_epoch=2", "query=3")))


def reseal(run):
    """Write the manifest of a run anew, after a change of files that it has digests of."""
    about = json.loads((run / "manifest.json").read_text())
    names = about.pop("files")
    records.seal({key: value for key, value in about.items() if key != "seal"}, run / "manifest.json",
                 *(run / name for name in names))


def sets(*changes):
    """Changes of settings as words of a command line."""
    return [word for change in changes for word in ("--set", change)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A small embedded corpus."""
    from perser.corpora.synthetic import synthesise

    place = tmp_path_factory.mktemp("synth") / "tree"
    synthesise(place, seed=3, clips=300)
    return place


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A finished run on it."""
    out = tmp_path_factory.mktemp("out") / "main"
    settings = experiment.load(ROOT / "perser" / "experiments" / "main.toml", TINY)
    workers.run(planned(settings, "synthetic", root, {}, "logmel", None, out))
    return out


@pytest.fixture(scope="module")
def all_kinds(root, finished, tmp_path_factory):
    """A finished run of a method of every kind."""
    methods = {kind: made.quick(kind) for kind in experiment.kinds()}
    settings = experiment.load(ROOT / "perser" / "experiments" / "main.toml", (*TINY[:7], "groups=3"))
    settings = settings.model_copy(update={"methods": methods})
    out = finished.parent / "kinds"
    workers.run(planned(settings, "synthetic", root, {}, "logmel", None, out))
    return out


@pytest.fixture(autouse=True, scope="module")
def at_the_repository():
    """experiments/ is looked for where the command is typed."""
    with chdir(ROOT):
        yield


def rated_table(root, listeners=8, clips=100, ratings=40):
    """Tones of five sessions; every listener rates 40 of the 100."""
    draw = np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    for i in range(clips):
        tone = 0.3 * np.sin(np.arange(4000) * (20 + i) / 300)
        soundfile.write(root / "audio" / f"c{i}.wav", tone, 16000)
    rows = [f"c{i}.wav,L{k},{draw.choice(['happy', 'sad', 'angry'])},{i % 5 + 1}"
            for k in range(listeners) for i in draw.choice(clips, ratings, replace=False)]
    (root / "ratings.csv").write_text("clip,listener,label,session\n" + "\n".join(rows) + "\n")
    return root


def test_forty_ratings_of_a_listener_allow_ten_shots_on_unseen_clips(perser, tmp_path):
    """About eight ratings lie in a session. Shots come from any clips, by themselves, and the caption says so."""
    place = rated_table(tmp_path / "table")
    words = ["run", "main", "--corpus", "table", "--root", place, "--upstream", "logmel", "--jobs", "1",
             *sets(*TINY, "shots=[5, 10]", "folds=[1, 2]")]
    code, out, err = perser(*words, "--out", tmp_path / "out" / "main")
    assert code == 0, err
    assert "Shots are any clips of the listener." in out
    frame = records.read(tmp_path / "out" / "main")
    unseen = frame[(frame["setting"] == "unseen") & (frame["shots"] == 10)]
    ratings = pd.read_csv(place / "ratings.csv")
    sizes = ratings.groupby(["session", "listener"]).size()
    able = {(fold, name) for fold, session in ((1, 4), (2, 3)) for name, size in sizes[session].items() if size >= 5}
    assert set(zip(unseen["fold"], unseen["listener"])) == able and len({name for _, name in able}) == 7
    assert "Listeners with too few ratings to be tested: 1 of 8 on unseen clips." in out
    assert (unseen["queries"] >= 5).all()
    code, _, err = perser(*words, *sets("support=same", "shots=[10]"), "--out", tmp_path / "out" / "same")
    assert code == 2 and "Traceback" not in err and err.count("\n") == 1
    assert "no dev listener has 10 shots and 5 queries in the dev session" in err and "--set support=any" in err



def wavs(root, session):
    """The clips of a session, without the `._` files of the format."""
    return [p for p in sorted(root.glob(f"Session{session}/sentences/wav/*/*.wav")) if not p.name.startswith("._")]


@pytest.mark.parametrize("command", ["synth", "fetch", "show", "models", "run", "personalise", "search", "report",
                                     "adapt", "predict", "explain", "app", "verify", "claims", "site", "bench",
                                     "phase2"])
def test_every_command_has_help_with_an_example(perser, command):
    code, out, _ = perser(command, "--help")
    assert code == 0 and "Example" in out and f"perser {command}" in out


def test_help_lists_the_commands(perser):
    code, out, _ = perser("--help")
    assert code == 0 and all(name in out for name in ("synth", "show", "models", "run", "adapt", "predict", "claims"))


def test_no_command_shows_the_help_as_it_is(perser):
    code, out, err = perser()
    assert code == 2 and not out and err.splitlines()[0] == "Usage: perser [OPTIONS] COMMAND [ARGS]..."
    assert "\n  adapt " in err


@pytest.mark.parametrize("words, message", [
    (["nope"], "No such command 'nope'"),
    (["show"], "Missing argument"),
    (["show", "iemocap", "--root", "/nowhere"], "does not exist"),
    (["show", "iemocapp", "--root", "."], "did you mean 'iemocap'"),
    (["show", "ravdess", "--root", ".", "--option", "listener=3"], "listeners"),
    (["show", "ravdess", "--root", ".", "--option", "listener"], "key=value"),
    (["synth", "x", "--layout", "wav"], "'iemocap', 'cremad'"),
    (["run", "nope", "--corpus", "synthetic", "--root", ".", "--out", "x"], "experiment 'nope': did you mean"),
    (["run", "main", "--corpus", "synthetic", "--root", ".", "--out", "x", "--set", "drawz=1"], "draws"),
    (["run", "main", "--corpus", "synthetic", "--root", ".", "--out", "x", "--upstream", "logmell"], "logmel"),
    (["run", "main", "--corpus", "synthetic", "--root", ".", "--out", "x", "--set", "shots=[0]"], "shots.0"),
    (["run", "main", "--corpus", "synthetic", "--root", ".", "--out", "x", "--set", "folds=[1, 1]"], "differ"),
    (["run", "main", "--corpus", "synthetic", "--root", ".", "--out", "x", "--set", "seeds=[0, 0]"], "differ"),
    (["claims", "--results", "/nowhere"], "does not exist"),
])
def test_wrong_use_is_one_line_and_exit_code_2(perser, words, message):
    code, out, err = perser(*words)
    assert code == 2 and message in err and err.count("\n") == 1 and not out


def test_a_wrong_root_is_one_line(perser, root):
    for place in (root / "Session1", root.parent, root / "Session1" / "dialog"):
        code, _, err = perser("show", "iemocap", "--root", place)
        assert code == 2 and err.count("\n") == 1 and "Traceback" not in err


def test_show_counts(perser, root):
    code, out, _ = perser("show", "synthetic", "--root", root, "--json")
    described = json.loads(out)
    assert code == 0 and described["listeners"] == 6 and described["ratings"] == 3 * described["clips"]
    assert described["synthetic"] == "speech and listeners"
    code, out, _ = perser("show", "iemocap", "--root", root, "--option", "listeners=all")
    assert code == 0 and "speech and listeners" in out and "clips" in out


def test_run_prints_the_table_and_says_that_it_is_synthetic(perser, root, finished):
    words = ["run", "main", "--corpus", "synthetic", "--root", root, "--upstream", "logmel", "--out", finished]
    code, out, err = perser(*words, "--jobs", 1, *sets(*TINY))
    assert code == 0 and "SSL-E" in out and "synthetic" in out.lower() and not err
    frame = pd.read_parquet(finished / "records.parquet")
    assert set(frame["method"]) == {"ssl-e", "prior-shift", "fine-tuning", "maml", "meta-perser", "meta-perser-p"}


@pytest.mark.parametrize("words", [["run", "main", "--corpus", "synthetic", "--root", "."],
                                   ["search", "--root", "emodb=."]])
def test_without_its_model_the_default_upstream_says_what_to_type(perser, root, tmp_path, monkeypatch, words):
    monkeypatch.setenv("PERSER_CACHE", str(tmp_path))
    code, out, err = perser(*words, "--out", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and not out
    assert "whisper-tiny.en: not installed; run: perser models get whisper-tiny.en (--upstream logmel" in err


def not_a_number(wav):
    soundfile.write(wav, np.full(16000, np.nan), 16000, subtype="FLOAT")


@pytest.mark.parametrize("damage, status", [(lambda wav: wav.write_bytes(b"RIFF"), 2), (not_a_number, 1)],
                         ids=["header", "samples"])
def test_a_damaged_clip_is_one_line_that_names_it(perser, root, finished, tmp_path, damage, status):
    """Headers are read with the corpus, so that --root is wrong (2); samples are read when the run has begun (1)."""
    copy = tmp_path / "tree"
    shutil.copytree(root, copy)
    wav = wavs(copy, 1)[0]
    damage(wav)
    code, out, err = perser("run", "main", "--corpus", "synthetic", "--root", copy, "--upstream", "logmel", "--out",
                            tmp_path / "out", "--store", finished.parent / "features",
                            *sets("seeds=[0]", "folds=[1]"))
    assert code == status and err.count("\n") == 1 and wav.name in err and not out


def test_a_walk_is_the_run_s_own_listener_and_scores(perser, root, finished, tmp_path):
    """What the walk says of all draws is what the records have of that listener, with own and exchanged shots."""
    code, out, err = perser("walk", finished, "--root", root)
    assert code == 0 and not err and out.strip() == str(finished / "walk")
    walk = walkthrough.read(finished)
    about, frame = walk.about, pd.read_parquet(finished / "records.parquet")
    rows = frame[(frame["setting"] == "unseen") & (frame["listener"] == about["listener"]) & (frame["fold"] == 1)]
    kinds = {"general": rows[rows["method"] == "ssl-e"]}
    for kind in set(frame["shots_of"]):
        kinds[kind] = rows[(rows["method"] == "meta-perser") & (rows["shots"] == 5) & (rows["shots_of"] == kind)]
    for kind, [row] in ((kind, part.to_dict("records")) for kind, part in kinds.items() if len(part)):
        assert walk.draws[f"{kind} log_loss"].mean() == pytest.approx(100 * row["log_loss"] / row["queries"], rel=1e-4)
        assert walk.draws[f"{kind} accuracy"].mean() == pytest.approx(100 * row["top"] / row["queries"], rel=1e-4)
    assert about["synthetic"] == "speech and listeners" and len(walk.shots) == about["shots"] == 5
    assert len(walk.rates) == len(walk.steps) - 1 and about["listener"] in about["held_out"]
    end = walk.draws.loc[about["draw"]]
    assert walk.steps["log_loss"].iloc[-1] == pytest.approx(end["own log_loss"], rel=1e-4)
    gains = walk.draws["general log_loss"] - walk.draws["own log_loss"]
    assert gains[about["draw"]] == gains.min()  # of two, the lower is the median
    assert not set(walk.shots["clip"]) & set(walk.answers["clip"])


def test_a_walk_needs_the_corpus_and_a_method_that_descends(perser, root, finished, tmp_path):
    copy = tmp_path / "tree"
    shutil.copytree(root, copy)
    with wavs(copy, 1)[0].open("ab") as wav:
        wav.write(b"\0" * 3200)
    note = next(copy.glob("Session1/dialog/EmoEvaluation/Ses01*.txt"))
    note.write_text(note.read_text().replace("Sadness;", "Fear;").replace("Neutral;", "Fear;"))
    for words, message in ((("--root", copy), "not the clips, ratings or features"),
                           (("--root", root, "--method", "maml2"), "method 'maml2' or SSL-E is not in this run"),
                           (("--root", root, "--method", "ssl-e"), "walk a method that has")):
        code, out, err = perser("walk", finished, *words)
        assert code == 1 and not out and err.count("\n") == 1 and message in err


def test_report_writes_tables_and_figures(perser, finished, tmp_path):
    code, out, _ = perser("report", finished, "--out", tmp_path)
    assert code == 0
    for name in ("main.md", "main.tex", "scores.csv", "shots-seen.png", "gains.pdf"):
        assert (tmp_path / "synthetic" / "logmel" / "main" / name).stat().st_size > 100 and name in out


def test_report_compares_runs_of_several_readings(perser, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "other")
    manifest = json.loads((finished / "manifest.json").read_text())
    manifest["config"]["base"]["targets"], manifest["seal"], manifest["files"] = "pooled", None, {}
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = perser("report", finished, tmp_path / "other", "--out", tmp_path / "out")
    written = tmp_path / "out" / "synthetic" / "logmel" / "main-compared.md"
    assert code == 0 and "targets pooled" in written.read_text() and str(written) in out


def test_run_warns_in_one_line_of_a_dev_loss_that_rose(perser, root, finished):
    place = finished.parent / "risen"  # beside the parts, so that nothing is computed
    shutil.copytree(finished, place, symlinks=True)
    learnt = pd.read_parquet(place / "learnt.parquet")
    rise = (learnt["tensor"] == "dev loss largest") & (learnt["method"] == "maml")
    assert rise.any()
    learnt.assign(value=learnt["value"].where(~rise, 1e4)).to_parquet(place / "learnt.parquet")
    reseal(place)
    code, out, err = perser("run", "main", "--corpus", "synthetic", "--root", root, "--upstream", "logmel",
                            "--out", place, "--jobs", 1, *sets(*TINY))
    assert code == 0, err
    assert err.count("\n") == 1 and err.startswith("perser: Dev loss above twice its start: MAML in ")
    assert "Largest dev loss / start" in out and "Dev loss above twice its start: MAML" in out


def test_a_new_listener_from_ratings_to_predictions(perser, root, finished, tmp_path):
    """Adapted to a listener who calls everything sad, the model calls new clips sad."""
    model = finished / "checkpoints" / "fold1-group0-seed0" / "meta-perser"
    files = wavs(root, 5)[:20]
    audio = files[0].parents[1]
    ratings = tmp_path / "ratings.csv"
    lines = [f"{wav.relative_to(audio)},{'sad' if i else 'sad; fear'}" for i, wav in enumerate(files[:15])]
    ratings.write_text("clip,label\n" + "\n".join(lines) + "\n")
    code, out, _ = perser("adapt", "--model", model, "--ratings", ratings, "--audio", audio, "--out",
                          tmp_path / "personal.safetensors")
    assert code == 0 and "15 ratings" in out
    code, out, _ = perser("predict", "--model", tmp_path / "personal.safetensors", *files[15:])
    frame = pd.read_csv(StringIO(out))
    assert code == 0 and len(frame) == 5 and list(frame.columns[:2]) == ["file", "label"]
    assert np.allclose(frame.iloc[:, 2:-1].sum(axis=1), 1, atol=1e-3) and frame.columns[-1] == "synthetic"
    happy = tmp_path / "happy.csv"
    happy.write_text("clip,label\n" + "\n".join(line.split(",")[0] + ",happy" for line in lines))
    perser("adapt", "--model", model, "--ratings", happy, "--audio", audio, "--out", tmp_path / "other.safetensors")
    other = pd.read_csv(StringIO(perser("predict", "--model", tmp_path / "other.safetensors", *files[15:])[1]))
    assert (frame["sad"] > other["sad"]).all() and (frame["happy"] < other["happy"]).all()


@pytest.mark.parametrize("kind", experiment.kinds())
def test_a_saved_model_of_every_kind_adapts_and_predicts(perser, root, all_kinds, tmp_path, kind):
    """More shots than trained for. Other labels of the same clips move the answers, but for SSL-E."""
    files = wavs(root, 5)[:10]
    model, audio = all_kinds / "checkpoints" / "fold1-group0-seed0" / kind, files[0].parents[1]
    assert type(checkpoints.load(model).model) is experiment.kinds()[kind].Model
    answers = []
    # Of two neighbours one may give a higher probability to several classes, but not to all.
    classes = checkpoints.load(model).about["classes"]
    for label in classes if kind == "nearest-listener" else ("sad", "happy"):
        ratings, personal = tmp_path / f"{label}.csv", tmp_path / f"{label}.safetensors"
        ratings.write_text("clip,label\n" + "".join(f"{wav.relative_to(audio)},{label}\n" for wav in files[:7]))
        words = ["adapt", "--model", model, "--ratings", ratings, "--audio", audio, "--out", personal]
        code, out, err = perser(*words)
        assert code == 0 and out.startswith(f"{personal}: 7 ratings\ngeneral ") and "(leave-one-out, n = 7)\n" in out
        assert [line[:25] for line in err.splitlines()] == ["perser: WARNING: SYNTHETI", "perser: warning: 7 rating"]
        code, out, err = perser("predict", "--model", personal, *files[7:])
        assert code == 0 and err.startswith("perser: WARNING: SYNTHETIC: ") and err.count("\n") == 1
        frame = pd.read_csv(StringIO(out), keep_default_na=False)
        assert set(frame.pop("synthetic")) == {"speech and listeners"}
        assert frame["file"].tolist() == [str(file) for file in files[7:]]
        assert np.allclose(frame.iloc[:, 2:].sum(axis=1), 1, atol=1e-3)
        for row in frame.itertuples(index=False):
            over = {name: share - 1 / len(row[2:]) for name, share in zip(frame.columns[2:], row[2:])}
            ticked = row.label.split(";")  # the printed shares are rounded, so one at the threshold may be either
            assert ticked == [name for name in over if name in ticked]
            assert all((name in ticked) == (margin > 0) for name, margin in over.items() if abs(margin) > 1e-3)
        answers.append(frame["sad"].to_numpy())
    assert (kind == "ssl-e") == all((answers[0] == others).all() for others in answers[1:])


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    """A tiny WavLM in a folder of its own."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    place = tmp_path_factory.mktemp("models") / "my-wavlm"
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
             "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    WavLMModel(WavLMConfig(**shape)).save_pretrained(place)
    Wav2Vec2FeatureExtractor().save_pretrained(place)
    return place


@pytest.mark.parametrize("normalise", ["none", "clip"])
def test_a_model_on_an_upstream_in_a_folder_adapts_with_the_normalisation_of_its_training(
        perser, root, wavlm, tmp_path, normalise):
    out = tmp_path / "my" / "main"
    assert perser("run", "main", "--corpus", "synthetic", "--root", root, "--upstream", wavlm, "--normalise", normalise,
                  "--out", out, "--jobs", 1, *sets(*TINY, "groups=3"))[0] == 0
    files = wavs(root, 5)[:8]
    for wav in files[:5]:
        shutil.copy(wav, tmp_path)
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("clip,label\n" + "".join(f"{wav.name},sad\n" for wav in files[:5]))
    words = ["adapt", "--model", out / "checkpoints/fold1-group0-seed0/meta-perser", "--ratings", ratings, "--audio",
             tmp_path, "--out", tmp_path / "personal.safetensors"]
    code, _, err = perser(*words)
    assert code == 1 and err.count("\n") == 1 and "my-wavlm" in err
    code, _, err = perser(*words, "--upstream", "logmel")
    assert code == 1 and err.count("\n") == 1 and "name that one with --upstream" in err
    assert perser(*words, "--upstream", wavlm)[0] == 0
    code, printed, _ = perser("predict", "--model", tmp_path / "personal.safetensors", "--upstream", wavlm, *files[5:])
    assert code == 0 and len(pd.read_csv(StringIO(printed))) == 3


@pytest.mark.parametrize("text, message", [
    ("", "no column 'clip' in an empty line"),
    ("clip,label\n", "holds no rating"),
    ("clip,label\nnope.wav,sad\n", ":2: "),
    ("clip,label\n../../x.wav,sad\n", ":2: '../../x.wav' leads out"),
    ("clip,label\na.wav,sadd\n", "sad"),
    ("clip,label\na.wav,\n", "no label"),
])
def test_bad_ratings_are_one_line_with_file_and_line(perser, finished, tmp_path, text, message):
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16000) / 20), 16000)
    ratings = tmp_path / "ratings.csv"
    ratings.write_text(text)
    code, out, err = perser("adapt", "--model", finished / "checkpoints/fold1-group0-seed0/meta-perser", "--ratings",
                            ratings, "--audio", tmp_path, "--out", tmp_path / "m.safetensors")
    assert code == 1 and message in err and "ratings.csv" in err and err.count("\n") == 1 and not out


def test_exported_ratings_adapt_to_one_listener_by_name(perser, root, finished, tmp_path):
    """A table of all listeners needs a name; the exported names of clips lie below the folder that is printed."""
    code, _, err = perser("show", "synthetic", "--root", root, "--export", tmp_path / "all.csv")
    table, audio = pd.read_csv(tmp_path / "all.csv", dtype=str, keep_default_na=False), err.strip().rpartition(" ")[2]
    assert code == 0 and [*table] == ["clip", "listener", "label", "speaker", "session"]
    assert f"{len(table)} ratings; --audio " in err and (Path(audio) / table["clip"][0]).is_file()
    few = tmp_path / "few.csv"
    table.groupby("listener").head(6).to_csv(few, index=False, sep=";", encoding="utf-16")
    words = ["adapt", "--model", finished / "checkpoints/fold1-group0-seed0/meta-perser", "--ratings", few, "--audio",
             audio, "--out", tmp_path / "m.safetensors"]
    name = table["listener"].min()
    code, out, err = perser(*words)
    assert code == 1 and not out and err.count("\n") == 1 and f"such as --listener {name!r}, or give --each: " in err
    code, out, err = perser(*words, "--listener", "nobody")
    assert code == 1 and err.count("\n") == 1 and "no listener 'nobody': did you mean" in err
    rated = (table[table["listener"] == name].head(6)["label"] != "Other").sum()
    code, out, _ = perser(*words, "--listener", name)
    assert code == 0 and out.startswith(f"{tmp_path / 'm.safetensors'}: {rated} ratings of {name}\n")


def test_a_run_folder_means_its_best_method_and_fullest_split(perser, root, finished, tmp_path):
    frame = pd.read_parquet(finished / "records.parquet")
    frame = frame[(frame["setting"] == "unseen") & (frame["shots"] == 5) & (frame["shots_of"] == "own")]
    losses = {name: np.mean([part["log_loss"].sum() / part["queries"].sum() for _, part in rows.groupby("listener")])
              for name, rows in frame.groupby("method")}
    best = min(losses, key=losses.get)
    place, why = checkpoints.choose(finished)
    assert place.name == best and f"({100 * losses[best]:.1f} at K = 5) of {len(losses)} method(s)" in why
    sizes = {path.parent.parent.name: json.loads(path.read_text())["trained_on"]
             for path in finished.glob(f"checkpoints/*/{best}/model.json")}
    most = max(entry["ratings"] for entry in sizes.values())
    assert place.parent.name == min(name for name, entry in sizes.items() if entry["ratings"] == most)
    assert f"trained on most ratings ({most}), seed 0" in why and len(sizes) > 1
    held_out = checkpoints.load(place).about["held_out"]
    assert not {about.digest(name) for name in held_out} & {*sizes[place.parent.name]["digests"]}
    files = wavs(root, 5)[:4]
    audio = files[0].parents[1]
    (tmp_path / "r.csv").write_text("clip,label\n" + "".join(f"{wav.relative_to(audio)},sad\n" for wav in files))
    words = ["adapt", "--ratings", tmp_path / "r.csv", "--audio", audio, "--out", tmp_path / "m.safetensors"]
    code, _, err = perser(*words, "--model", finished)
    assert code == 0 and err.splitlines()[0] == f"perser: {place}: {why}"
    code, _, err = perser(*words, "--model", finished, "--method", "maml")
    assert code == 0 and "/maml: of its splits" in err.splitlines()[0]
    code, _, err = perser(*words, "--model", finished, "--method", "mamml")
    assert code == 1 and "no model of method 'mamml': did you mean 'maml'?" in err and err.count("\n") == 1
    code, _, err = perser(*words, "--model", place, "--method", "maml")
    assert code == 1 and "is no run folder" in err and err.count("\n") == 1


def test_a_run_folder_never_means_a_control_or_an_upper_bound(finished, all_kinds):
    copy = all_kinds.parent / "picked"  # beside the parts
    shutil.copytree(all_kinds, copy, symlinks=True)
    frame = pd.read_parquet(copy / "records.parquet")
    lowest = frame["method"].isin(["shots-majority", "shots-shares", "all-data", "ssl-e"])
    frame["log_loss"] = np.where(lowest, 0.0, np.where(frame["method"] == "prototypes", 1e-3, frame["log_loss"]))
    frame.loc[(frame["method"] == "maml") & ((frame["shots_of"] == "other") | (frame["setting"] == "seen")),
              "log_loss"] = 0
    frame.to_parquet(copy / "records.parquet")
    reseal(copy)
    assert checkpoints.choose(copy)[0].name == "prototypes"
    frame.drop(columns="log_loss").to_parquet(copy / "records.parquet")
    reseal(copy)
    with pytest.raises(UserError, match="no log loss to choose a method by; choose one of all-data"):
        checkpoints.choose(copy)
    assert checkpoints.choose(copy, "maml")[0].name == "maml"


def test_predict_goes_past_bad_files_and_writes_what_it_can(perser, root, finished, tmp_path, monkeypatch):
    """Folders are searched; a bad file costs only itself, also among many in one chunk."""
    from perser import personal

    monkeypatch.setattr(personal, "CHUNK", 3)
    clips = tmp_path / "clips"
    (clips / "deep").mkdir(parents=True)
    good = [clips / "=a.wav", clips / "b.WAV", clips / "c.wav", clips / "deep" / "d.wav", clips / "z.wav"]
    for wav, path in zip(wavs(root, 5), good):
        shutil.copy(wav, path)
    (clips / "c2.wav").write_bytes(b"RIFF")
    model = finished / "checkpoints" / "fold1-group0-seed0" / "maml"
    code, out, err = perser("predict", "--model", model, clips, tmp_path / "none.wav", "--out", tmp_path / "a.csv")
    frame = pd.read_csv(tmp_path / "a.csv")
    assert code == 1 and not out and frame["file"].tolist() == [str(path) for path in good]
    assert [word in line for word, line in zip(("c2.wav", "none.wav"), err.splitlines()[-2:])] == [True, True]
    with chdir(clips):
        code, out, err = perser("predict", "--model", model, "=a.wav", "b.WAV")
    assert code == 0 and out.splitlines()[1].startswith("'=a.wav,") and "general answers of" in err
    alone = pd.read_csv(StringIO(out)).iloc[:, 2:-1]
    np.testing.assert_allclose(alone, frame.iloc[:2, 2:-1], atol=2e-4)


def test_a_run_on_ready_made_features_saves_its_table_and_adapts(perser, tmp_path, caplog):
    """No audio anywhere. Sessions are made; numbers count from a threshold; a listener adapts from the same file."""
    draw = np.random.default_rng(0)
    truth = draw.integers(2, size=100)
    features = pd.DataFrame(draw.normal(size=(100, 4)) + truth[:, None], columns=list("wxyz"))
    features.assign(clip=[f"c{n}" for n in range(100)]).to_parquet(tmp_path / "features.parquet")
    rows = [f"c{n};L{k};{50 + 20 * truth[n] + 10 * draw.normal():.1f};{50 - 20 * truth[n] + 10 * draw.normal():.1f}"
            for k in range(8) for n in draw.choice(100, 40, replace=False)]
    (tmp_path / "ratings.csv").write_text("clip;listener;aroused;calm\n" + "\n".join(rows) + "\n")
    numbers = ["--threshold", "aroused=50", "--threshold", "calm=50"]
    out = tmp_path / "out" / "main"
    code, _, err = perser("run", "main", "--corpus", "table", "--root", tmp_path, *numbers, "--out", out, "--jobs", 1,
                          *sets(*TINY, "groups=3"))
    assert code == 0, err
    saved = pd.read_csv(out / "ratings.csv")
    assert len(saved) == 320 and set(saved["session"]) == {1, 2, 3, 4, 5} and json.loads(
        (out / "manifest.json").read_text())["corpus_options"] == {"threshold": "aroused=50,calm=50"}
    model, personal = out / "checkpoints/fold1-group0-seed0/meta-perser", tmp_path / "m.safetensors"
    words = ["adapt", "--model", model, "--ratings", tmp_path / "ratings.csv", *numbers, "--listener", "L1", "--out",
             personal, "--audio"]
    assert perser(*words, tmp_path / "features.parquet")[0] == 0
    code, printed, _ = perser("predict", "--model", personal, tmp_path / "features.parquet")
    frame = pd.read_csv(StringIO(printed))
    assert code == 0 and frame["file"].tolist() == [f"c{n}" for n in range(100)]
    soundfile.write(tmp_path / "c1.wav", np.zeros(800), 16000)
    (tmp_path / "one.csv").write_text("file,aroused,calm\nc1,60,40\n")
    words[words.index(tmp_path / "ratings.csv")] = tmp_path / "one.csv"
    code, _, err = perser(*[word for word in words if word not in ("--listener", "L1")], tmp_path)
    assert code == 1 and "trained on features of 1 x 4, not on audio" in err.splitlines()[-1]
    assert "`file` is an old name" in caplog.text


def test_a_file_other_than_a_personal_model_is_one_line(perser, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"12345678")
    code, _, err = perser("predict", "--model", bad, bad)
    assert code == 1 and "perser adapt" in err and err.count("\n") == 1


def test_a_search_prints_every_trial_and_keeps_them(perser, root, tmp_path):
    (tmp_path / "methods.toml").write_text(
        'shots = [3]\ngroups = 3\n[methods.maml]\nkind = "maml"\nepochs = 1\nouter_steps_per_epoch = 1')
    (tmp_path / "search.toml").write_text(
        'experiment = "methods"\nset = ["seeds=[0]", "draws=1", "folds=[1]", "base.epochs=1", "base.hidden=4"]\n'
        "[corpora.synthetic]\n[methods.maml]\ntrials = 2\n[methods.maml.space]\nouter_lr = {low = 1e-3, high = 1e-1}")
    words = ["search", tmp_path / "search.toml", "--upstream", "logmel", "--out", tmp_path / "out"]
    code, out, err = perser(*words, "--root", f"synthetic={root}", "--jobs", 1)
    assert not err
    kept = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert code == 0 and kept["trial"].tolist() == [0, 1]
    assert all(f"maml {row.trial:>3} {row.points:6.2f}  {row.settings}" in out for row in kept.itertuples())
    assert (tmp_path / "out" / "tuned.toml").read_text().startswith("# Written by `perser search`")
    code, _, err = perser(*words)
    assert code == 2 and "synthetic: give --root CORPUS=DIR" in err
