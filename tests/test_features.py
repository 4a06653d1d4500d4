"""perser.features.store: the store survives kills, full disks and damage, and never serves a stale clip."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lmdb
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perser import features
from perser.errors import UserError
from perser.features import store as storage
from perser.features import upstreams

CLIPS = 100


def write_clips(folder, count, seed=0):
    """Noise of 0.05 to 0.15 s; the longer ones are louder and off-centre, so that normalisation shows."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        length = int(random.integers(800, 2_400))
        wave = 0.01 * random.standard_normal(length) * length / 800 + length / 1e5
        soundfile.write(folder / f"{index:03}.wav", wave.astype("float32"), 16_000, subtype="FLOAT")
    return folder


def corpus_of(folder):
    paths = sorted(map(str, Path(folder).glob("*.wav")), reverse=True)
    return SimpleNamespace(clips=pd.DataFrame({"path": paths}, index=[Path(path).stem for path in paths]))


def counting(log, pause=0.0, identity="counting-1", levels=True, width=3):
    """A real upstream of simple statistics, (clips, 2, width), that notes in `log` how many clips it got."""
    def embed(waves):
        time.sleep(pause)
        with Path(log).open("a") as file:
            file.write(f"{len(waves)}\n")
        rows = [torch.stack([wave.mean(), wave.std(correction=0)]) for wave in waves]
        return torch.stack(rows)[:, :, None] * torch.arange(1, width + 1)
    return upstreams.Upstream("counting", identity, 2, width, True, levels, embed)


def computed(log):
    return [int(line) for line in Path(log).read_text().split()] if Path(log).exists() else []


def child(folder, store, log, pause, width, limit):
    """What the processes below run; a limit on the size of files stands for a full disk."""
    if int(limit):
        sys.dont_write_bytecode = True  # Python would leave cut .pyc files in the environment
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        upstream = counting(log, float(pause), width=int(width))
        print(features.extract(corpus_of(folder), upstream, store).sum().item())
    except UserError as error:
        print(error)


def start(*arguments):
    code = "import sys; sys.path.append(sys.argv[1]); from test_features import child; child(*sys.argv[2:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), *map(str, arguments)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"), CLIPS)


@pytest.fixture
def few(tmp_path):
    return write_clips(tmp_path / "few", 5)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def waves_of(corpus):
    return [soundfile.read(path, dtype="float32")[0] for path in corpus.clips["path"]]


def test_features_come_in_the_order_of_the_corpus_and_are_computed_once(clips, store, log):
    corpus, upstream = corpus_of(clips), counting(log)
    first = features.extract(corpus, upstream, store, normalise="none")
    assert first.shape == (CLIPS, 2, 3) and first.dtype == torch.float32
    for index, wave in enumerate(waves_of(corpus)):
        expected = torch.tensor([[wave.mean()], [wave.std()]]) * torch.tensor([1.0, 2.0, 3.0])
        torch.testing.assert_close(first[index], expected)
    assert computed(log) == [32, 32, 32, 4]
    assert torch.equal(features.extract(corpus, upstream, store, normalise="none"), first)
    assert computed(log) == [32, 32, 32, 4]


def test_normalisation_by_one_mean_and_sd_of_the_corpus(few, store, log):
    corpus = corpus_of(few)
    samples = np.concatenate(waves_of(corpus)).astype(float)
    mean, sd = features.moments(corpus, store)
    assert (mean, sd) == (pytest.approx(samples.mean()), pytest.approx(samples.std()))
    matrix = features.extract(corpus, counting(log), store)
    for index, wave in enumerate(waves_of(corpus)):
        scaled = (wave - samples.mean()) / samples.std()
        assert matrix[index, :, 0].tolist() == pytest.approx([scaled.mean(), scaled.std()], rel=1e-4)
    assert torch.equal(features.extract(corpus, counting(log), store, normalise=(mean, sd)), matrix)
    assert computed(log) == [5]


def test_the_other_normalisations_change_what_they_name(few, store, log):
    corpus, raw = corpus_of(few), waves_of(corpus_of(few))
    scaled = features.extract(corpus, counting(log), store, normalise="clip")
    np.testing.assert_allclose(scaled[:, 0, 0], 0, atol=1e-5)
    np.testing.assert_allclose(scaled[:, 1, 0], 1, atol=1e-2)
    for upstream, how in [(counting(log, levels=False), "clip"), (counting(log), "none")]:
        unchanged = features.extract(corpus, upstream, store, normalise=how)
        np.testing.assert_allclose(unchanged[:, 0, 0], [wave.mean() for wave in raw], rtol=1e-4)
    shifted = features.extract(corpus, counting(log), store, normalise=(0.5, 2.0))
    np.testing.assert_allclose(shifted[:, 0, 0], [(wave.mean() - 0.5) / 2 for wave in raw], rtol=1e-4)
    assert computed(log) == [5, 5, 5]
    with pytest.raises(UserError, match="normalise='speaker': give 'corpus', 'clip', 'none' or a pair"):
        features.extract(corpus, counting(log), store, normalise="speaker")


def test_a_silent_corpus_stays_finite(tmp_path, store, log):
    soundfile.write(tmp_path / "0.wav", np.zeros(800), 16_000)
    assert features.extract(corpus_of(tmp_path), counting(log), store).abs().max() == 0


def test_changed_audio_is_computed_anew_and_moved_audio_is_found(few, store, log, tmp_path):
    corpus, upstream = corpus_of(few), counting(log)
    before = features.extract(corpus, upstream, store, "none")
    moved = tmp_path / "moved"
    shutil.copytree(few, moved)
    assert torch.equal(features.extract(corpus_of(moved), upstream, store, "none"), before)
    assert computed(log) == [5]
    changed = Path(corpus.clips["path"].iloc[2])
    status = changed.stat()
    wave = soundfile.read(changed, dtype="float32")[0]
    soundfile.write(changed, -wave, 16_000, subtype="FLOAT")  # same size,
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))  # same time
    after = features.extract(corpus, upstream, store, "none")
    assert computed(log) == [5, 1]
    assert torch.equal(after[2, 0], -before[2, 0])
    assert torch.equal(after[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


def test_another_upstream_or_number_of_seconds_does_not_meet_the_same_entry(few, store, log, monkeypatch):
    corpus = corpus_of(few)
    features.extract(corpus, counting(log), store)
    features.extract(corpus, counting(log, identity="counting-2"), store)
    assert computed(log) == [5, 5]
    monkeypatch.setattr(storage.audio, "SECONDS", 0.01)
    features.extract(corpus, counting(log), store)
    assert computed(log) == [5, 5, 5]


def test_one_entry_serves_clips_with_the_same_audio(few, store, log):
    shutil.copy(few / "000.wav", few / "twin.wav")
    matrix = features.extract(corpus_of(few), counting(log), store, "none")
    assert computed(log) == [5]
    assert torch.equal(matrix[0], matrix[-1]) and not torch.equal(matrix[0], matrix[1])


def test_a_file_that_changes_while_it_is_read_is_noticed(few):
    problems = {}
    assert storage._read(few / "000.wav", "digest of what it was", problems) is None
    assert str(problems[few / "000.wav"]).endswith("changed while it was read; run the same command again")


def spoilt(path, size):
    """A clip of NaN with so many samples; the number decides in which batch it is."""
    soundfile.write(path, np.full(size, np.nan, "float32"), 16_000, subtype="FLOAT")


def test_a_bad_clip_costs_itself_only(clips, store, log, tmp_path):
    shutil.copytree(clips, tmp_path / "bad")
    bad = tmp_path / "bad" / "bad.wav"
    spoilt(bad, 10)  # shortest, so in the first batch
    corpus = corpus_of(tmp_path / "bad")
    with pytest.raises(features.ClipsError, match=r"bad\.wav: the audio holds NaN") as caught:
        features.extract(corpus, counting(log), store, "none")
    assert computed(log) == [31, 32, 32, 5] and list(caught.value.problems) == [str(bad)]
    bad.unlink()
    with pytest.raises(features.ClipsError, match=r"bad\.wav: no such audio file"):
        features.extract(corpus, counting(log), store, "none")
    matrix = features.extract(corpus_of(tmp_path / "bad"), counting(log), store, "none")
    assert computed(log) == [31, 32, 32, 5]  # all good ones were kept
    assert torch.equal(matrix, features.extract(corpus_of(clips), counting(log), tmp_path / "fresh", "none"))


@pytest.mark.parametrize("normalise", ["none", "corpus"])
def test_of_many_bad_clips_ten_are_named_in_one_line(few, store, log, normalise):
    for index in range(12):
        spoilt(few / f"nan{index:02}.wav", 100 + index)
    (few / "empty.wav").touch()
    with pytest.raises(UserError, match=r"^13 clips cannot be used: ") as caught:
        features.extract(corpus_of(few), counting(log), store, normalise)
    text = str(caught.value)
    assert text.count(".wav (") == 10 and ", and 3 more; replace them or remove their rows" in text and "\n" not in text
    assert "empty.wav (unreadable audio (the file is empty))" in text
    assert computed(log) == ([5] if normalise == "none" else [])  # the mean of the corpus is not known yet


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_and_not_stored(few, store, value):
    def embed(waves):
        matrices = torch.ones(len(waves), 2, 3)
        matrices[[len(wave) == longest for wave in waves], 1, 2] = value
        return matrices
    longest = max(map(len, waves_of(corpus_of(few))))
    upstream = upstreams.Upstream("broken", "broken-1", 2, 3, True, True, embed)
    for _ in range(2):  # nothing was stored that the second call could give back
        with pytest.raises(UserError, match=r"\.wav: broken features are NaN or infinite; check the file"):
            features.extract(corpus_of(few), upstream, store, "none")


def test_a_model_that_gives_no_finite_features_is_told_of_at_its_first_batch(clips, store):
    calls = []

    def embed(waves):
        calls.append(len(waves))
        return torch.full((len(waves), 2, 3), float("nan"))
    upstream = upstreams.Upstream("broken", "broken-1", 2, 3, True, True, embed)
    with pytest.raises(UserError, match=r"\.wav: broken features .*as for all 32 clips .*the model's weights$"):
        features.extract(corpus_of(clips), upstream, store, "none")
    assert calls == [32]


def test_a_flipped_byte_anywhere_in_a_store_is_seen_or_without_effect(few, store, log):
    upstream = counting(log, width=40)
    expected = features.extract(corpus_of(few), upstream, store)
    data, random, refused = store / "data.mdb", np.random.default_rng(0), 0
    content = data.read_bytes()
    for place in random.integers(len(content), size=150):
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << int(random.integers(8))
        data.write_bytes(spoiled)
        try:
            assert torch.equal(features.extract(corpus_of(few), upstream, store), expected)
        except UserError as error:
            refused += 1
            assert str(store) in str(error) and "\n" not in str(error)
    assert 10 < refused < 150  # a part of the pages is empty


def test_the_upstream_says_how_waveforms_are_normalised_unless_the_caller_does(few, store, log):
    corpus, raw = corpus_of(few), replace(counting(log), normalise="none")
    assert torch.equal(features.extract(corpus, raw, store), features.extract(corpus, raw, store, "none"))
    assert torch.equal(features.extract(corpus, raw, store, "corpus"), features.extract(corpus, counting(log), store))
    assert computed(log) == [5, 5]


def test_killed_at_work_it_goes_on_and_ends_the_same(clips, store, log, tmp_path):
    process = start(clips, store, log, 1.0, 3, 0)
    try:
        while len(computed(log)) < 2:  # the first batch is stored, the second is not yet
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    log.unlink()
    resumed = features.extract(corpus_of(clips), counting(log), store)
    assert computed(log) in ([32, 32, 4], [32, 4])
    undisturbed = features.extract(corpus_of(clips), counting(log), tmp_path / "fresh")
    assert torch.equal(resumed, undisturbed)


def test_two_processes_share_a_store(clips, store, log, tmp_path):
    other = start(clips, store, tmp_path / "other", 0.5, 3, 0)
    while not computed(tmp_path / "other"):
        assert other.poll() is None, other.stdout.read()
        time.sleep(0.02)
    here = features.extract(corpus_of(clips), counting(log, 0.5), store)
    assert other.poll() is None or computed(log) != [32, 32, 32, 4]  # they did meet
    assert float(other.communicate(timeout=300)[0]) == here.sum().item()
    assert torch.equal(here, features.extract(corpus_of(clips), counting(log), tmp_path / "fresh"))


def test_a_full_disk_has_one_line_and_keeps_what_is_computed(clips, store, log, tmp_path):
    width = 1_000  # 8 kB a clip, so 100 clips do not fit into 500 kB
    output, _ = start(clips, store, log, 0, width, 500_000).communicate(timeout=300)
    assert output.startswith(f"{store}: cannot write to the disk, which may be full (")
    assert output.count("\n") == 1 and output.endswith(f"; {storage.FULL}\n")
    log.unlink()
    corpus, upstream = corpus_of(clips), counting(log, width=width)
    resumed = features.extract(corpus, upstream, store)
    assert 0 < sum(computed(log)) < CLIPS
    assert torch.equal(resumed, features.extract(corpus, upstream, tmp_path / "fresh"))


def spoil(store, fault):
    data = store / "data.mdb"
    content = bytearray(data.read_bytes()) if data.exists() else bytearray()
    if fault == "file":
        shutil.rmtree(store)
        store.write_text("notes")
    elif fault == "folder":
        shutil.rmtree(store)
        store.mkdir()
        (store / "thesis.txt").write_text("text")
    elif fault in ("other program", "other format"):
        shutil.rmtree(store)
        with lmdb.open(str(store)) as environment, environment.begin(write=True) as writing:
            writing.put(*((b"format", b"perser features 0") if fault == "other format" else (b"a", b"b")))
    elif fault == "text":
        data.write_text("this is no database\n" * 1_000)
    elif fault == "truncated":
        data.write_bytes(content[:len(content) * 2 // 3 // 4096 * 4096])
    elif fault == "cut to meta pages":
        data.write_bytes(content[:8192])
    elif fault in ("zeros", "ones"):
        content[8192:] = (b"\0" if fault == "zeros" else b"\xff") * (len(content) - 8192)
        data.write_bytes(content)
    elif fault == "value":
        place = content.index(b"(2, 700)") + 2_000  # within a clip's numbers
        content[place] ^= 1
        data.write_bytes(content)


@pytest.mark.parametrize("fault, words", [
    ("file", "is a file, not the folder of a feature store"),
    ("folder", "files that are no feature store"), ("other program", "another program"),
    ("other format", "'perser features 0', not 'perser features 1'; delete"), ("text", "damaged"),
    ("truncated", "damaged"), ("cut to meta pages", "damaged"), ("zeros", "damaged"),
    ("ones", "damaged"), ("value", "checksum"),
])
def test_each_damaged_or_foreign_store_has_its_line_and_is_left_alone(few, store, log, fault, words):
    upstream = counting(log, width=700)
    features.extract(corpus_of(few), upstream, store)
    spoil(store, fault)
    path = store if store.is_file() else next(path for path in store.iterdir() if path.name != "lock.mdb")
    content = path.read_bytes()
    with pytest.raises(UserError, match=words) as caught:
        features.extract(corpus_of(few), upstream, store)
    assert str(store) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == content
    assert computed(log) == [5]


def test_an_empty_folder_and_a_creation_cut_short_become_stores(few, store, log):
    store.mkdir()
    (store / "lock.mdb").touch()
    (store / "data.mdb").touch()
    assert features.extract(corpus_of(few), counting(log), store).shape == (5, 2, 3)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(
    st.binary(min_size=32, max_size=32),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)), max_size=6))
def test_what_is_written_is_read_back_bit_by_bit(entries):
    with tempfile.TemporaryDirectory() as folder:
        with storage._opened(Path(folder)) as environment:
            storage._write(environment, entries.items())
        with storage._opened(Path(folder)) as environment:
            for key, value in zip(entries, storage._values(environment, list(entries))):
                assert value.dtype == np.float32 and value.shape == entries[key].shape
                assert value.tobytes() == entries[key].tobytes()


def test_a_corpus_of_real_size_is_found_again_in_seconds(few, store, log):
    """1,200 clips: reading what is stored must not cost what computing it does."""
    for index in range(1_200):
        wave = np.random.default_rng(index).standard_normal(800)
        soundfile.write(few / f"many{index}.wav", wave * 0.1, 16_000, subtype="FLOAT")
    corpus = corpus_of(few)
    first = features.extract(corpus, counting(log), store)
    began = time.process_time()
    assert torch.equal(features.extract(corpus, counting(log), store), first)
    assert time.process_time() - began < 2


def test_progress_is_shown_only_where_asked_for_and_only_on_a_terminal(few, store, log, capfd):
    features.extract(corpus_of(few), counting(log), store, progress=True)
    assert capfd.readouterr() == ("", "")
