"""perser.features.upstreams on tiny models of random weights, saved to disk and loaded by the code that users run."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from perser.errors import UserError
from perser.features import upstreams

FORMS = [(family, norm) for family in ("Wav2Vec2", "Hubert", "WavLM", "UniSpeechSat") for norm in ("group", "layer")]


def build(family, norm, seed=0):
    """A model of 3 layers and 32 dimensions in the base (group) or the large (layer) form."""
    config = getattr(transformers, f"{family}Config")(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, conv_dim=[16] * 7,
        feat_extract_norm=norm, do_stable_layer_norm=norm == "layer", num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(transformers, f"{family}Model")(config).eval()


def save(model, folder, do_normalize=True):
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": do_normalize}))
    return folder


def plain(model, wave):
    """The definition: one clip, no padding, no mask, every hidden state averaged over its frames."""
    with torch.inference_mode():
        states = model(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states
    return torch.stack([state[0].mean(dim=0) for state in states])


def noise(*lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.standard_normal(length).astype("float32") for length in lengths]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {form: save(build(*form), root / "-".join(form)) for form in FORMS}


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_layers_are_those_of_the_model_alone_and_in_any_batch(folders, form):
    upstream, model = upstreams.load(str(folders[form]), device="cpu"), build(*form)
    waves = noise(16_000, 9_000, 24_000, 16_000, 400, 16_000, 5_003)
    together = upstream(waves)
    assert together.shape == (7, 4, 32) and together.dtype == torch.float32
    assert (upstream.layers, upstream.width, upstream.standardise) == (4, 32, False)
    for index, wave in enumerate(waves):
        torch.testing.assert_close(together[index], plain(model, wave), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together[index], upstream([wave])[0], atol=1e-5, rtol=1e-4)


def test_random_weights_name_themselves_whatever_their_folder_is_called(tmp_path):
    written = subprocess.run([sys.executable, "tools/random_upstreams.py", tmp_path], capture_output=True, text=True,
                             check=True, cwd=Path(__file__).parents[1]).stdout.split()
    assert [Path(path).name for path in written] == ["wav2vec2-random", "hubert-random", "wavlm-random"]
    passing = Path(written[2]).rename(tmp_path / "wavlm-base-plus")
    for folder in (*written[:2], passing):
        upstream = upstreams.load(str(folder), device="cpu")
        assert upstream.random and (upstream.layers, upstream.width) == (5, 64)
        assert upstream.name.endswith("-random") and not upstream.name.endswith("random-random")
        assert upstream(noise(9_000)).isfinite().all()
    assert not upstreams.load(str(save(build("WavLM", "group"), tmp_path / "trained")), device="cpu").random


@pytest.mark.parametrize("form", [("WavLM", "group"), ("WavLM", "layer")], ids="-".join)
def test_batch_independence_for_any_lengths_and_order(folders, form):
    upstream = upstreams.load(str(folders[form]), device="cpu")

    @settings(max_examples=10, deadline=None)
    @given(st.lists(st.sampled_from([1, 350, 721, 3_000, 3_001]), min_size=2, max_size=6), st.randoms())
    def check(lengths, random):
        waves = noise(*lengths)
        order = random.sample(range(len(waves)), len(waves))
        shuffled = upstream([waves[index] for index in order])
        for place, index in enumerate(order):
            torch.testing.assert_close(shuffled[place], upstream([waves[index]])[0], atol=1e-5, rtol=1e-4)

    check()


def test_group_norm_models_do_need_equal_lengths(folders):
    """What the batching guards against is real: padding one such clip, even with its mask, changes it."""
    model, wave = build("Wav2Vec2", "group"), noise(8_000)[0]
    padded = torch.from_numpy(np.pad(wave, (0, 8_000)))[None]
    mask = torch.arange(16_000)[None] < 8_000
    with torch.inference_mode():
        states = model(padded, attention_mask=mask, output_hidden_states=True).hidden_states
    frames = int(model._get_feat_extract_output_lengths(torch.tensor(8_000)))
    pooled = torch.stack([state[0, :frames].mean(dim=0) for state in states])
    assert (pooled - plain(model, wave)).abs().max() > 1e-2


@pytest.mark.parametrize("grouped", [False, True])
@given(lengths=st.lists(st.integers(1, 40), max_size=20), budget=st.integers(1, 100))
def test_batches_cover_every_clip_once_within_the_budget(grouped, lengths, budget):
    batches = list(upstreams._batches(lengths, grouped, budget))
    assert sorted(clip for batch in batches for clip in batch) == list(range(len(lengths)))
    for batch in batches:
        sizes = [lengths[index] for index in batch]
        assert len(batch) == 1 or max(sizes) * len(batch) <= budget
        assert not grouped or len(set(sizes)) == 1


def test_memory_budget_does_not_change_the_features(folders):
    upstream = upstreams.load(str(folders["Hubert", "layer"]), device="cpu")
    small = replace(upstream, embed=replace(upstream.embed.__self__, seconds=0.1).embed)
    waves = noise(3_000, 2_000, 1_600, 900)
    torch.testing.assert_close(upstream(waves), small(waves), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", [("Wav2Vec2", "group"), ("WavLM", "layer")], ids="-".join)
def test_clips_shorter_than_a_frame_are_padded_to_one(folders, form):
    upstream = upstreams.load(str(folders[form]), device="cpu")
    wave = noise(200)[0]
    padded = np.pad(wave, (0, 200))  # the convolutions need 400 samples for one frame
    torch.testing.assert_close(upstream([wave])[0], plain(build(*form), padded), atol=1e-5, rtol=1e-4)
    assert upstream([]).shape == (0, 4, 32)


@pytest.mark.parametrize("wave", [np.zeros((2, 800), "float32"), np.zeros(0, "float32")])
def test_a_waveform_of_the_wrong_shape_is_named(wave):
    with pytest.raises(UserError, match="waveform 1: shape"):
        upstreams.load("logmel")([np.ones(800, "float32"), wave])


def test_identity_follows_the_weights_and_the_configuration(folders, tmp_path):
    identity = upstreams.load(str(folders["Hubert", "layer"])).identity
    same = save(build("Hubert", "layer"), tmp_path / "same")
    assert upstreams.load(str(same)).identity == identity
    other = save(build("Hubert", "layer", seed=1), tmp_path / "other")
    assert upstreams.load(str(other)).identity != identity
    config = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    assert upstreams.load(str(same)).identity != identity


def test_the_models_own_levelling_is_read(tmp_path):
    assert upstreams.load(str(save(build("Hubert", "layer"), tmp_path / "yes"))).levels
    assert not upstreams.load(str(save(build("Hubert", "layer"), tmp_path / "no", do_normalize=False))).levels


def test_loading_is_silent_and_reads_the_old_names_of_hub_checkpoints(folders, tmp_path, capfd):
    """Hub files are of the pre-training class (prefix, extra heads) and of torch's former weight norm."""
    old = save(build("Wav2Vec2", "group"), tmp_path / "old")
    renamed = {
        "wav2vec2." + key.replace("parametrizations.weight.original0", "weight_g")
        .replace("parametrizations.weight.original1", "weight_v"): value
        for key, value in load_file(old / "model.safetensors").items()}
    assert sum(key.endswith(("weight_g", "weight_v")) for key in renamed) == 2
    save_file(renamed | {"project_q.weight": torch.zeros(4, 4)}, old / "model.safetensors", {"format": "pt"})
    capfd.readouterr()
    before = transformers.logging.get_verbosity()
    wave = noise(8_000)[0]
    features = upstreams.load(str(old), device="cpu")([wave])[0]
    assert capfd.readouterr() == ("", "")
    assert transformers.logging.get_verbosity() == before
    torch.testing.assert_close(features, plain(build("Wav2Vec2", "group"), wave), atol=1e-5, rtol=1e-4)


def spoil(folder, fault):
    weights = folder / "model.safetensors"
    if fault == "no folder":
        return folder / "nowhere"
    if fault == "no config":
        (folder / "config.json").unlink()
    elif fault == "config is no JSON":
        (folder / "config.json").write_text("{")
    elif fault == "other family":
        (folder / "config.json").write_text('{"model_type": "bert"}')
    elif fault == "pickles only":
        weights.rename(folder / "pytorch_model.bin")
    elif fault == "cut off":
        weights.write_bytes(weights.read_bytes()[:5_000])
    elif fault == "tensors missing":
        tensors = load_file(weights)
        tensors.pop("encoder.layers.1.attention.q_proj.weight")
        save_file(tensors, weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize("fault, words", [
    ("no folder", "config.json"), ("no config", "config.json"), ("config is no JSON", "not valid JSON"),
    ("other family", "'bert' model; expected one of wav2vec2, hubert, wavlm"),
    ("pickles only", "pickled weights are never opened"), ("cut off", "download it again"),
    ("tensors missing", "lack encoder.layers.1.attention.q_proj.weight"),
])
def test_each_broken_model_folder_has_its_line(tmp_path, fault, words):
    folder = spoil(save(build("Wav2Vec2", "layer"), tmp_path / "model"), fault)
    with pytest.raises(UserError, match=words) as caught:
        upstreams.load(str(folder), device="cpu")(noise(800))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, words", [
    ("wavlm-bse", "did you mean wavlm-base"), ("mfcc", "known: logmel, egemaps, whisper-tiny.en, wav2vec2-base"),
    ("./not/here", "config.json")])
def test_an_unknown_name_is_answered_with_the_known_ones(name, words):
    with pytest.raises(UserError, match=words):
        upstreams.load(name)


PLUS = upstreams.HUB["wavlm-base-plus"][1]
OFFLINE = """
import sys
from perser.features import upstreams
from perser.errors import UserError
for name in sys.argv[1:]:
    try:
        upstream = upstreams.load(name, device="cpu")
        print(upstream.name, upstream.identity, upstream.layers, upstream.width)
    except UserError as error:
        print("ERROR", error)
"""


def put_into_hub_cache(home, repo, revision, commit, model):
    """Lay a model into a hub cache just as the hub's own client does."""
    cache = home / "hub" / f"models--{repo.replace('/', '--')}"
    save(model, cache / "snapshots" / commit)
    reference = cache / "refs" / revision
    reference.parent.mkdir(parents=True)
    reference.write_text(commit)


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """What loading by name prints where the hub is out of reach and four models are in its cache."""
    home = tmp_path_factory.mktemp("hub")
    hubert = build("Hubert", "layer")
    put_into_hub_cache(home, "microsoft/wavlm-base-plus", "main", PLUS, build("WavLM", "group"))
    put_into_hub_cache(home, "facebook/hubert-large-ll60k", "refs/pr/1", "1" * 40, hubert)
    put_into_hub_cache(home, "some/model", "main", "2" * 40, hubert)
    whisper = transformers.WhisperModel(transformers.WhisperConfig(
        d_model=32, encoder_layers=3, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1))
    put_into_hub_cache(home, "openai/whisper-tiny.en", "main", "3" * 40, whisper)
    names = [*upstreams.HUB, "some/model", "some/model@v2", "openai/whisper-tiny.en"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-W", "error", "-c", OFFLINE, *names], env=environment, text=True,
                          capture_output=True, cwd=Path(__file__).parents[1], timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(zip(names, done.stdout.splitlines(), strict=True))


CACHED = {"wavlm-base-plus", "hubert-large", "some/model"}
UNPINNED = {name for name, (_, revision, _) in upstreams.HUB.items() if not revision}


@pytest.mark.parametrize("name", [*sorted(upstreams.HUB.keys() - CACHED - UNPINNED), "some/model@v2"])
def test_without_the_hub_one_line_says_what_to_download_and_where_to_put_it(offline, name):
    repo, revision, _ = upstreams.HUB.get(name, ("some/model", "v2", ""))
    assert offline[name].startswith(f"ERROR {name}: the model hub cannot be reached; download config.json")
    assert f"model.safetensors of {repo} at revision {revision} into a folder" in offline[name]
    assert offline[name].endswith("then use --upstream FOLDER")


def test_hub_models_are_pinned_and_their_identity_is_the_resolved_commit(offline):
    assert offline["wavlm-base-plus"] == f"wavlm-base-plus microsoft/wavlm-base-plus@{PLUS} 4 32"
    assert offline["some/model"] == f"some/model some/model@{'2' * 40} 4 32"
    # The hub's copy of a packaged model has its name; the identity tells them apart.
    assert offline["openai/whisper-tiny.en"] == f"whisper-tiny.en openai/whisper-tiny.en@{'3' * 40} 4 32"
    assert offline["hubert-large"].startswith(
        f"ERROR hubert-large: facebook/hubert-large-ll60k at refs/pr/1 is commit {'1' * 40}, expected d95b1")


def test_every_name_of_the_hub_has_a_commit_or_asks_for_one(offline):
    for name, (repo, revision, start) in upstreams.HUB.items():
        if name in UNPINNED:
            assert offline[name].startswith(f"ERROR {name}: not pinned")
            assert offline[name].endswith(f"give --revision COMMIT, or --upstream {repo}@COMMIT")
        else:  # a branch or a pull request moves, so its commit is checked
            assert re.fullmatch("[0-9a-f]{40}", revision) or re.fullmatch("[0-9a-f]{7,40}", start)
    assert {"wavlm-base"} == UNPINNED


def test_a_model_without_a_pin_is_loaded_at_the_commit_that_is_given(tmp_path, monkeypatch):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    put_into_hub_cache(tmp_path, "microsoft/wavlm-base", "main", "4" * 40, build("WavLM", "group"))
    identity = f"microsoft/wavlm-base@{'4' * 40}"
    assert upstreams.load("wavlm-base", revision="4" * 40).identity == identity
    assert upstreams.load(identity).identity == identity


@pytest.mark.parametrize("name", ["logmel", "egemaps", "whisper-tiny.en", "whisper-tiny.en+pad30", "."])
def test_a_revision_of_a_model_that_is_not_on_the_hub_is_refused(name):
    with pytest.raises(UserError, match=r"^[^ ]*: not from the model hub, so it has no --revision"):
        upstreams.load(name, revision="4" * 40)


def test_egemaps_without_opensmile_says_how_and_on_what_terms_to_get_it(monkeypatch):
    monkeypatch.setattr(upstreams, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"research only.*pip install opensmile==2\.6\.0"):
        upstreams.load("egemaps")


def reference_log_mel(wave):
    """The same 240 statistics in plain numpy from the definitions (HTK mel scale, periodic Hann window)."""
    wave = np.pad(wave.astype(float), (256, 256), mode="reflect")
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([wave[start:start + 512] * window for start in range(0, len(wave) - 511, 160)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    mel = np.linspace(0, 2595 * math.log10(1 + 8_000 / 700), 82)
    edges = 700 * (10 ** (mel / 2595) - 1)
    hertz = np.linspace(0, 8_000, 257)
    rising = (hertz[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - hertz[:, None]) / np.diff(edges)[1:]
    spectrum = power @ np.clip(np.minimum(rising, falling), 0, None)
    bands = np.log(spectrum + 1e-6)
    edge = np.pad(bands, ((2, 2), (0, 0)), mode="edge")
    deltas = (2 * edge[4:] + edge[3:-1] - edge[1:-3] - 2 * edge[:-4]) / 10
    loudness = 10 * np.log10(spectrum.sum(axis=1) + 1e-6)
    speech = loudness > loudness.max() - 40
    return np.concatenate([bands[speech].mean(0), bands[speech].std(0), deltas[speech].std(0)])


def test_log_mel_statistics_equal_their_definition_in_numpy():
    wave = noise(8_000)[0] * np.repeat(np.geomspace(1e-4, 1, 8), 1_000).astype("float32")
    features = upstreams.load("logmel")([wave])
    assert features.shape == (1, 1, 240)
    np.testing.assert_allclose(features[0, 0], reference_log_mel(wave), rtol=2e-3, atol=2e-3)


def test_log_mel_is_exactly_the_same_in_any_batch_and_finite_for_silence_and_shortness():
    upstream = upstreams.load("logmel")
    waves = [*noise(200, 3_000, 16_000, 1), np.zeros(4_000, "float32")]
    together = upstream(waves)
    assert torch.isfinite(together).all()
    assert all(torch.equal(together[index], upstream([wave])[0]) for index, wave in enumerate(waves))


def test_features_can_enter_training():
    features = upstreams.load("logmel")(noise(800, 900))
    weight = torch.ones(240, requires_grad=True)
    (features @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, features.sum(dim=(0, 1)))
