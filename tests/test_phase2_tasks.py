"""Phase-2 task files in the wild: damage is repaired or reported, and one bad file never stops the rest."""

import io
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perser.errors import UserError
from perser.phase2 import export, tasks
from perser.phase2.suite import DATASET, RECIPES, _either, instructions

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WAVE = np.sin(np.arange(8000) / 20)


def instance(root, name, text=None, **keys):
    folder = root / "SomeTask" / name
    folder.mkdir(parents=True)
    keys = {"name": name, "metrics": ["accuracy"], "path": f"DynamicSuperb/{name}", "version": COMMIT} | keys
    (folder / "instance.json").write_text(text or json.dumps(keys))
    return folder


def data(folder, rows, audio=("a.wav",)):
    (folder / "data").mkdir(exist_ok=True)
    for name in audio:
        sf.write(folder / "data" / name, WAVE, 16000)
    (folder / "data" / "metadata.jsonl").write_text("\n".join(json.dumps(r) for r in rows))


ROW = {"file": "1", "instruction": "Which? The answer could be a or b.", "label": "a", "audio": "a.wav"}


def test_the_catalogue_has_the_282_sets_and_names_five_as_generating_audio():
    rows = tasks.catalogue().values()
    assert len(rows) == 282
    assert {r["instance"] for r in rows if r["kind"] == "audio_generation"} == {
        "SongSeparation_SingSet", "SingingVoiceSynthesis_ACEOpencpop-Test700", "EmotionalVoiceConversion_ESD",
        "SuperbSS_Libri2Mix-Test", "SuperbSE_VoiceBankDEMAND-Test"}
    assert all(name in tasks.METRICS for r in rows for name in r["metrics"].split("|") if name)
    table = tasks.coverage([])
    assert sum(row["sets"] for row in table) == 282
    assert sum(row["state"].startswith("unsupported") for row in table) == 5
    assert next(r["sets"] for r in table if r["group"] == "HEARMusicGenreClassification_GTZANGenre") == 10


@pytest.mark.parametrize("text", [
    '{"name": "S", "path": "DynamicSuperb/S", "version": "' + COMMIT + '", "metrics": ["accuracy",],}',
    '{"name": "S" "path": "DynamicSuperb/S"\n "version": "' + COMMIT + '", "metrics": ["accuracy"]}',
])
def test_missing_and_trailing_commas_are_repaired_and_reported(tmp_path, text):
    folder = instance(tmp_path, "S", text)
    parsed, notes = tasks.read_instance(folder / "instance.json")
    assert (parsed.path, parsed.version, parsed.metrics) == ("DynamicSuperb/S", COMMIT, ["accuracy"])
    assert len(notes) == 1 and "commas" in notes[0] and "instance.json" in notes[0]


def test_unusual_values_are_read(tmp_path):
    folder = instance(tmp_path, "S", keywords="speech, emotion", metrics="wer, cer", version="1234567", author="x")
    parsed, notes = tasks.read_instance(folder / "instance.json")
    assert parsed.keywords == ["speech", "emotion"] and parsed.metrics == ["wer", "cer"]
    assert notes == []
    for version in ("", None, "a" * 64):
        folder = instance(tmp_path, f"S{len(str(version))}", version=version, keywords="")
        assert tasks.read_instance(folder / "instance.json")[0].keywords == []


def test_one_bad_file_never_stops_the_rest(tmp_path):
    data(instance(tmp_path, "Good"), [ROW])
    instance(tmp_path, "Garbage", "]]]")
    instance(tmp_path, "NoPath", '{"name": "x"}')
    instance(tmp_path, "Escape", path="../../etc/passwd")
    data(instance(tmp_path, "Sings", path="DynamicSuperb/SongSeparation_SingSet"), [ROW])
    data(instance(tmp_path, "Metric", metrics=["PESQ"]), [ROW])
    data(instance(tmp_path, "Broken"), [ROW])
    (tmp_path / "SomeTask" / "Broken" / "data" / "metadata.jsonl").write_bytes(b"\xff\xfe")
    loaded, problems = tasks.load(tmp_path)
    assert [t.instance for t in loaded] == ["Good"]
    for name in ("Garbage", "NoPath", "Escape", "Sings", "Metric", "Broken"):
        assert sum(f"/{name}/" in p for p in problems) == 1, (name, problems)
    assert all("\n" not in p for p in problems)


def test_a_known_data_set_is_checked_against_the_catalogue(tmp_path):
    name = "SarcasmDetection_Mustard"
    data(instance(tmp_path, "Same", path=f"DynamicSuperb/{name}"), [ROW])
    data(instance(tmp_path, "Other", path=f"DynamicSuperb/{name}", metrics=["wer"]), [ROW])
    loaded, problems = tasks.load(tmp_path)
    assert [t.metrics for t in loaded] == [("WER",), ("accuracy",)]
    assert len(problems) == 2 and "WER here, accuracy in the catalogue" in problems[0]
    assert [t.instance for t in loaded] == [name, f"{name}-2"] and f"evaluated as {name}-2" in problems[1]
    assert {t.group for t in loaded} == {name} and {t.domain for t in loaded} == {"speech"}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=80), st.text(alphabet='{}[]",:\\x01 nameptv/', max_size=80).map(str.encode)))
def test_no_file_content_escapes_the_report(tmp_path, content):
    path = tmp_path / "T" / "S" / "instance.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    loaded, problems = tasks.load(tmp_path)
    assert not loaded and all("\n" not in p and str(path.parent) in p for p in problems) and problems


def test_a_bad_row_is_reported_and_the_others_stay(tmp_path):
    folder = instance(tmp_path, "S")
    data(folder, [ROW, {**ROW, "file": "2", "audio": "../../secret.wav"}, {**ROW, "file": "3", "audio": "/etc/passwd"},
                  {**ROW, "file": "4", "audio": "none.wav"}, ROW, {"file": "6", "label": "a"}, {**ROW, "file": "7"}])
    with (folder / "data" / "metadata.jsonl").open("a") as file:
        file.write("\n{broken")
    sf.write(tmp_path / "secret.wav", WAVE, 16000)
    loaded, problems = tasks.load(tmp_path)
    assert [r.id for r in loaded[0].rows] == ["1", "7"]
    for number, word in ((2, "leaves the data folder"), (3, "leaves"), (4, "is not in"), (5, "twice"),
                         (6, "instruction"), (8, "not a record")):
        assert any(f"line {number}:" in p and word in p for p in problems), (number, problems)


def test_a_byte_order_mark_and_line_separators_in_texts_cost_no_row(tmp_path):
    folder = instance(tmp_path, "S")
    rows = [{**ROW, "file": str(number), "text": text} for number, text in enumerate(["a\u2028b", "a\x85b", "a\x0bb"])]
    data(folder, rows)
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "data" / "metadata.jsonl").write_text(text, encoding="utf-8-sig")
    loaded, problems = tasks.load(tmp_path)
    assert [row.id for row in loaded[0].rows] == ["0", "1", "2"] and not problems


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = instance(tmp_path, "S")
    data(folder, [{**ROW, "audio": "link.wav"}])
    sf.write(tmp_path / "secret.wav", WAVE, 16000)
    (folder / "data" / "link.wav").symlink_to(tmp_path / "secret.wav")
    loaded, problems = tasks.load(tmp_path)
    assert not loaded and any("leaves the data folder" in p for p in problems)


@pytest.mark.parametrize(("columns", "audios", "texts", "labels"), [
    ({"audio2": "b.wav", "audio": "a.wav"}, "ab", (), ("a",)),
    ({"audio1": "a.wav", "audio2": "b.wav", "audio10": "c.wav"}, "abc", (), ("a",)),
    ({"enrollment": "b.wav", "testing": "a.wav"}, "ba", (), ("a",)),
    ({"query": "a.wav", "doc": "c.wav"}, "ac", (), ("a",)),
    ({"text": "one", "text3": "three", "text2": "two"}, "", ("one", "two", "three"), ("a",)),
    ({"label2": "b", "label3": None}, "", (), ("a", "b")),
    ({"label": "['x', \"y\"]"}, "", (), ("x", "y")),
    ({"label": ["x", "y"]}, "", (), ("x", "y")),
    ({"label": "[not a list"}, "", (), ("[not a list",)),
    ({"label": ""}, "", (), ("",)),
    ({"label": 3}, "", (), ("3",)),
])
def test_column_shapes(tmp_path, columns, audios, texts, labels):
    row = {"file": "1", "instruction": "?", "label": "a"} | columns
    data(instance(tmp_path, "S"), [row], audio=("a.wav", "b.wav", "c.wav"))
    row = tasks.load(tmp_path)[0][0].rows[0]
    assert "".join(p[-5] for p in row.audios) == audios
    assert (row.texts, row.labels) == (texts, labels)


def wav_bytes(kind="WAV"):
    buffer = io.BytesIO()
    sf.write(buffer, WAVE, 16000, format=kind)
    return buffer.getvalue()


def parquet(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")


def test_parquet_with_audio_inside_is_written_out_once_as_wav(tmp_path):
    folder = instance(tmp_path / "in", "S")
    base = {"instruction": "?", "label": "a"}
    parquet(folder / "data", [{**base, "file": "1", "audio": {"bytes": wav_bytes(), "path": None}},
                              {**base, "file": "2", "audio": {"bytes": wav_bytes("FLAC"), "path": "x.flac"}},
                              {**base, "file": "3", "audio": {"bytes": b"RUBBISH", "path": None}}])
    loaded, problems = tasks.load(tmp_path / "in", cache_dir=tmp_path / "cache")
    rows = loaded[0].rows
    assert [r.id for r in rows] == ["1", "2"] and "row 3" in problems[-1]
    for row in rows:
        assert sf.info(row.audios[0]).format == "WAV"
        np.testing.assert_allclose(sf.read(row.audios[0])[0], np.clip(WAVE, -1, 1), atol=1e-3)
    assert len(list((tmp_path / "cache").rglob("*.wav"))) == 2


def test_a_generation_label_is_refused(tmp_path):
    folder = instance(tmp_path, "S")
    parquet(folder / "data", [{"file": "1", "instruction": "?", "label": {"bytes": wav_bytes(), "path": None}}])
    assert any("label is audio" in p for p in tasks.load(tmp_path)[1])


def test_organisers_working_layout(tmp_path):
    folder = instance(tmp_path, "S")
    (folder / "data").mkdir()
    for name in ("S_x.wav", "S_x_pair1.wav", "S_x_pair2.wav"):
        sf.write(folder / "data" / name, WAVE, 16000)
    (folder / "data" / "metadata.json").write_text(json.dumps({"S_x.wav": {"instruction": "?", "label": "a"}}))
    row = tasks.load(tmp_path)[0][0].rows[0]
    assert [p.rsplit("/", 1)[1] for p in row.audios] == ["S_x.wav", "S_x_pair1.wav", "S_x_pair2.wav"]
    assert row.id == "S_x.wav"


def test_a_second_audio_of_the_first_phase_is_heard_second(tmp_path):
    folder = instance(tmp_path, "S")
    (folder / "data").mkdir()
    for name in ("S_x.wav", "S_x_pair.wav", "S_x_pairs.wav", "S_xy.wav", "S_xy_pair.wav"):
        sf.write(folder / "data" / name, WAVE, 16000)
    entries = {name: {"instruction": "?", "label": "a"} for name in ("S_x.wav", "S_xy.wav")}
    (folder / "data" / "metadata.json").write_text(json.dumps(entries))
    rows = tasks.load(tmp_path)[0][0].rows
    assert [[path.rsplit("/", 1)[1] for path in row.audios] for row in rows] == [
        ["S_x.wav", "S_x_pair.wav"], ["S_xy.wav", "S_xy_pair.wav"]]


def test_contributors_csv_under_data_test(tmp_path):
    folder = instance(tmp_path, "S") / "data" / "test"
    folder.mkdir(parents=True)
    sf.write(folder / "x.wav", WAVE, 16000)
    (folder / "metadata.csv").write_text('\ufefffile_name,file,instruction,label\nx.wav,f.wav,"Which, a or b?","a"\n',
                                         encoding="utf-8")
    row = tasks.load(tmp_path)[0][0].rows[0]
    assert (row.id, row.instruction, row.labels) == ("f.wav", "Which, a or b?", ("a",))
    assert row.audios[0].endswith("data/test/x.wav")


def test_the_working_layout_without_audio_asks_in_words(tmp_path):
    folder = instance(tmp_path, "S")
    (folder / "data").mkdir()
    (folder / "data" / "metadata.json").write_text(json.dumps(
        {f"S_{i}.wav": {"instruction": "?", "text": "words", "label": "a"} for i in range(2)}))
    loaded, problems = tasks.load(tmp_path)
    assert [(row.id, row.audios, row.texts) for row in loaded[0].rows] == [
        (f"S_{i}.wav", (), ("words",)) for i in range(2)] and not problems
    sf.write(folder / "data" / "S_0.wav", WAVE, 16000)  # now the other row's file is missing
    loaded, problems = tasks.load(tmp_path)
    assert [row.id for row in loaded[0].rows] == ["S_0.wav"] and any("S_1.wav" in line for line in problems)


def test_texts_are_left_out_on_request(tmp_path):
    data(instance(tmp_path, "S"), [{**ROW, "text": "shown", "text2": "too"}])
    assert tasks.load(tmp_path)[0][0].rows[0].texts == ("shown", "too")
    assert tasks.load(tmp_path, texts=False)[0][0].rows[0].texts == ()


LOAD = """
import json, sys
from perser.phase2 import tasks
loaded, problems = tasks.load(sys.argv[1], cache_dir=sys.argv[2])
print(json.dumps([[t.instance, t.commit, len(t.rows)] for t in loaded])); print(json.dumps(problems))
"""


def load_offline(root, home, tmp_path):
    env = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(home / "hub")}
    out = subprocess.run([sys.executable, "-c", LOAD, str(root), str(tmp_path / "c")], env=env, capture_output=True,
                         text=True, check=True).stdout.splitlines()
    return json.loads(out[-2]), json.loads(out[-1])


def test_the_hub_cache_is_read_at_the_pinned_commit_and_missing_data_are_one_line(tmp_path):
    root, home = tmp_path / "in", tmp_path / "hf"
    for name, version in (("Full", COMMIT), ("Short", COMMIT[:7]), ("Wrong", "f" * 40), ("Unset", "")):
        instance(root, name, version=version)
        repo = home / "hub" / f"datasets--DynamicSuperb--{name}"
        parquet(repo / "snapshots" / COMMIT / "data",
                [{"file": "1", "instruction": "?", "label": "a", "audio": {"bytes": wav_bytes(), "path": None}}])
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(COMMIT)
    loaded, problems = load_offline(root, home, tmp_path)
    assert loaded == [["Full", COMMIT, 1], ["Short", COMMIT, 1], ["Unset", COMMIT, 1]]
    assert [p.split("/")[-2] for p in problems if "is recorded" in p] == ["Short", "Unset"]
    missing = [p for p in problems if "/Wrong" in p]
    assert len(missing) == 1
    assert f"hf download DynamicSuperb/Wrong --repo-type dataset --revision {'f' * 40}" in missing[0]


def test_audio_files_of_the_hubs_cache_are_links_into_its_blobs(tmp_path):
    root, home = tmp_path / "in", tmp_path / "hf"
    instance(root, "Links", version=COMMIT)
    repo = home / "hub" / "datasets--DynamicSuperb--Links"
    snapshot, blobs = repo / "snapshots" / COMMIT, repo / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    lines = [json.dumps({**ROW, "file": name, "audio": name}) for name in ("in.wav", "out.wav")]
    (blobs / "1f").write_text("\n".join(lines) + "\n")
    for path in (blobs / "2f", home / "secret"):
        path.write_bytes(wav_bytes())
    for name, target in (("metadata.jsonl", "../../blobs/1f"), ("in.wav", "../../blobs/2f"),
                         ("out.wav", "../../../../secret")):
        (snapshot / name).symlink_to(target)
    loaded, problems = load_offline(root, home, tmp_path)
    assert loaded == [["Links", COMMIT, 1]]
    assert len(problems) == 1 and "'out.wav' leaves the data folder" in problems[0]


LIST = "import sys; from perser.phase2.cli import phase2; phase2(['--list', '--tasks', sys.argv[1]])"


def test_a_listing_sends_no_request_to_the_hub(tmp_path):
    instance(tmp_path, "SarcasmDetection_Mustard")
    data(instance(tmp_path, "StressDetection_MIRSD"), [ROW])
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.settimeout(0.1)
        env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | {
            "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}"}
        done = subprocess.run([sys.executable, "-c", LIST, str(tmp_path)], env=env, cwd=tmp_path, check=True,
                              capture_output=True, text=True, timeout=500)
        with pytest.raises(TimeoutError):
            hub.accept()
    state = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines() if line.strip()}
    assert (state["SarcasmDetection_Mustard"], state["StressDetection_MIRSD"]) == ("missing", "loaded")
    assert "hf download DynamicSuperb/SarcasmDetection_Mustard" in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_without_tasks_is_a_one_line_error(tmp_path):
    with pytest.raises(UserError, match=r"no instance\.json"):
        tasks.load(tmp_path)


def test_every_suite_task_has_ten_wordings_over_three_kinds_and_domains():
    assert len(RECIPES) >= 12
    assert {r.kind for r in RECIPES.values()} == {"classification", "regression", "sequence_generation"}
    assert {r.domain for r in RECIPES.values()} == {"speech", "music", "audio"}
    for recipe in RECIPES.values():
        assert len(set(instructions(recipe))) == 10
        for text in instructions(recipe):
            assert tasks.METRICS[recipe.metrics[0]].mode != "choice" or text.endswith(
                f"The answer could be {_either(recipe.options)}.")
    assert DATASET == "Embedded"


def rows(count, wordings):
    return [{**ROW, "file": str(i), "instruction": f"{ROW['instruction']} {i % wordings}"} for i in range(count)]


@pytest.mark.parametrize(("count", "wordings", "word"), [(32, 10, None), (31, 10, "rows"), (32, 9, "instructions")])
def test_review_rules(tmp_path, count, wordings, word):
    folder = export.write_task(tmp_path, "Own", "X", rows(count, wordings), kind="classification", domain="speech",
                               metrics=["accuracy"], description="d")
    sf.write(folder / "data" / "a.wav", WAVE, 16000)
    broken = export.review(folder)
    assert broken == [] if word is None else word in broken[0] and len(broken) == 1


def test_review_allows_at_most_an_hour(tmp_path):
    folder = export.write_task(tmp_path, "Own", "X", rows(40, 10), kind="classification", domain="speech",
                               metrics=["accuracy"], description="d")
    sf.write(folder / "data" / "a.wav", np.zeros(91 * 1000), 1000)
    assert "min of audio" in export.review(folder)[0]
