"""Whisper, data2vec and wav2vec2-BERT as upstreams, and configurations of every family, on tiny random models."""

import json

import numpy as np
import pytest
import torch
import transformers
from test_upstreams import noise, plain, save

from perser.errors import UserError
from perser.features import upstreams

SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
WAVES = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
ADAPTER = {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 32}
LENGTHS = (16_000, 9_000, 24_000, 16_000, 700, 5_003)


def made(family, **settings):
    config = getattr(transformers, f"{family}Config")(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{family}Model")(config).eval()


def loaded(folder, suffix=""):
    return upstreams.load(str(folder) + suffix, device="cpu")


def assert_right_and_independent(upstream, waves, expected):
    """Every clip has the expected matrix, alone and among the others."""
    together = upstream(waves)
    for index, wave in enumerate(waves):
        torch.testing.assert_close(together[index], expected(wave), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together[index], upstream([wave])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("adapter", [{}, ADAPTER], ids=["bare", "adapter"])
def test_data2vec_equals_the_model_on_one_clip(tmp_path, adapter):
    shape = SIZE | WAVES | adapter | {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19}
    model = made("Data2VecAudio", **shape)
    upstream = loaded(save(model, tmp_path))
    assert (upstream.layers, upstream.width, upstream.normalise, upstream.levels) == (4, 32, "corpus", True)
    assert_right_and_independent(upstream, noise(*LENGTHS), lambda wave: plain(model, wave))


@pytest.mark.parametrize("family, norm", [("Wav2Vec2", "group"), ("Wav2Vec2", "layer"), ("WavLM", "layer"),
                                          ("UniSpeechSat", "layer")])
def test_an_adapter_after_the_encoder_does_not_shift_the_pooling(tmp_path, family, norm):
    model = made(family, **SIZE, **WAVES, **ADAPTER, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    assert_right_and_independent(loaded(save(model, tmp_path)), noise(*LENGTHS), lambda wave: plain(model, wave))


def test_a_batch_norm_before_the_positional_convolution_is_given_clips_of_one_length(tmp_path):
    model = made("Hubert", **SIZE, **WAVES, feat_extract_norm="layer", conv_pos_batch_norm=True)
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d))
    torch.nn.init.ones_(norm.bias)
    assert_right_and_independent(loaded(save(model, tmp_path)), noise(*LENGTHS), lambda wave: plain(model, wave))


@pytest.mark.parametrize("adapter", [{}, ADAPTER], ids=["bare", "adapter"])
def test_wav2vec2_bert_equals_the_model_on_one_clip_with_its_mask(tmp_path, adapter):
    extractor = transformers.SeamlessM4TFeatureExtractor(padding_value=1)
    model = made("Wav2Vec2Bert", **SIZE, **adapter, feature_projection_input_dim=160, conv_depthwise_kernel_size=7)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)

    def expected(wave):
        inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states
        return torch.stack([state[0, inputs.attention_mask[0] == 1].mean(0) for state in states])

    upstream = loaded(tmp_path)
    assert (upstream.layers, upstream.width, upstream.levels) == (4, 32, False)
    assert_right_and_independent(upstream, noise(*LENGTHS), expected)
    assert upstream(noise(1, 559)).isfinite().all()


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A tiny random Whisper, and its folder."""
    model = made("Whisper", d_model=32, vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                 decoder_start_token_id=1, **{f"{side}_{part}": size for side in ("encoder", "decoder") for part, size
                                              in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))})
    for layer in model.encoder.layers:  # the final norm shows where the states are large
        torch.nn.init.normal_(layer.fc2.weight)
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return model.encoder, folder


def whisper_states(encoder, wave, whole):
    """transformers' own forward; for a clip's own frames on an encoder that is built for just so many."""
    mel = transformers.WhisperFeatureExtractor()(
        wave, sampling_rate=16_000, return_tensors="pt", padding="max_length" if whole else "longest",
        truncation=False).input_features
    count = mel.shape[2] // 2
    config = transformers.WhisperConfig(**encoder.config.to_dict() | {"max_source_positions": count})
    cut = transformers.WhisperModel(config).encoder.eval()
    weights = encoder.state_dict()
    cut.load_state_dict(weights | {"embed_positions.weight": weights["embed_positions.weight"][:count]})
    with torch.inference_mode():
        states = cut(mel, output_hidden_states=True).hidden_states
    return torch.stack([state[0, :-(len(wave) // 160 // -2)].mean(0) for state in states])


@pytest.mark.parametrize("whole", [False, True], ids=["own frames", "30 s"])
def test_whisper_equals_its_encoder_on_one_clip(whisper, whole):
    encoder, folder = whisper
    upstream = loaded(folder, upstreams.PAD if whole else "")
    assert (upstream.layers, upstream.width) == (3, 32)
    assert (upstream.standardise, upstream.levels, upstream.normalise) == (True, False, "none")
    waves = noise(16_000, 9_000, 16_000, 5_125)  # 100, 56, 100 and 32 mel frames
    assert_right_and_independent(upstream, waves, lambda wave: whisper_states(encoder, wave, whole))


def test_whisper_has_a_state_for_an_odd_last_frame_and_for_the_shortest_clip(whisper):
    encoder, folder = whisper
    extractor = transformers.WhisperFeatureExtractor()

    def expected(wave):
        mel = extractor(wave, sampling_rate=16_000, return_tensors="pt", padding="longest").input_features
        state = torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(encoder.conv1(mel)))).mT
        states = [state + encoder.embed_positions.weight[:state.shape[1]]]
        for layer in encoder.layers:
            states.append(layer(states[-1], None))
        states[-1] = encoder.layer_norm(states[-1])
        assert state.shape[1] == (mel.shape[2] + 1) // 2
        return torch.stack([state[0].mean(0) for state in states]).detach()

    upstream = loaded(folder)
    assert_right_and_independent(upstream, noise(5_003, 9_800, 5_050), expected)  # 31, 61, 31 mel frames
    short = noise(100)[0]
    torch.testing.assert_close(upstream([short])[0], expected(np.pad(short, (0, 220))), atol=1e-5, rtol=1e-4)


def test_whisper_names_what_it_is_given_and_refuses_more_than_it_reads(whisper, tmp_path):
    _, folder = whisper
    whole, own = loaded(folder, "+pad30"), loaded(folder)
    assert whole.name == f"{own.name}+pad30" and whole.identity == f"{own.identity}+pad30"
    with pytest.raises(UserError, match=r"a clip of 31\.0 s; whisper reads at most 30 s"):
        own(noise(16_000 * 31))
    with pytest.raises(UserError, match=r"\+pad30 is for whisper models, and this one is 'hubert'"):
        loaded(save(made("Hubert", **SIZE, **WAVES), tmp_path), "+pad30")
    assert own(noise(800, 800)).shape == (2, 3, 32)


def test_whisper_needs_the_extractor_of_its_mel_frames(whisper, tmp_path):
    encoder, _ = whisper
    transformers.WhisperModel(encoder.config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no .*preprocessor_config\.json"):
        loaded(tmp_path)


def edited(folder, file="config.json", remove=(), **changes):
    path = folder / file
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in settings.items() if key not in remove}))
    return folder


@pytest.mark.parametrize("changes", [{"return_dict": False}, {"output_attentions": True},
                                     {"attn_implementation": "flash_attention_2"},
                                     {"_attn_implementation": "flash_attention_2"}], ids=str)
@pytest.mark.parametrize("family", ["Wav2Vec2", "WavLM"])
def test_settings_that_do_not_concern_the_features_change_nothing(tmp_path, family, changes):
    model, wave = made(family, **SIZE, **WAVES), noise(9_000)[0]
    folder = edited(save(model, tmp_path), **changes)
    torch.testing.assert_close(loaded(folder)([wave])[0], plain(model, wave), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("file, how, words", [
    ("config.json", {"remove": ["hidden_size"]}, "cannot be loaded"),
    ("config.json", {"hidden_size": None}, "cannot be used"),
    ("config.json", {"num_hidden_layers": 9}, "the weights lack encoder"),
    ("preprocessor_config.json", {"sampling_rate": 8_000}, "for audio at 8000 Hz; only models for 16000 Hz"),
])
def test_a_configuration_that_does_not_fit_is_one_line(tmp_path, file, how, words):
    folder = edited(save(made("Wav2Vec2", **SIZE, **WAVES), tmp_path), file, **how)
    with pytest.raises(UserError, match=words) as caught:
        loaded(folder)(noise(9_000))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    (folder / file).write_text("[]")
    with pytest.raises(UserError, match=f"{file}: not valid JSON"):
        loaded(folder)
