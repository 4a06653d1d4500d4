"""Phase-2 providers on tiny randomly initialised models of the real classes, and on a real server process."""

import asyncio
import base64
import io
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import soundfile as sf
import torch
import transformers
from made_phase2 import INSPECT, source
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    MusicFlamingoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniProcessor,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
    Qwen3OmniMoeProcessor,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from perser.errors import UserError
from perser.phase2 import export, runner, tasks
from perser.phase2.listeners import examples
from perser.phase2.models import (
    RATE,
    Answer,
    Asr,
    Cascade,
    HfAudio,
    Provider,
    Question,
    Recogniser,
    ZeroShot,
    in_words,
    joined,
    waveform,
)

pytestmark = [*INSPECT, pytest.mark.filterwarnings("ignore::FutureWarning:transformers")]


def wav(seconds=1.0, hertz=220.0, rate=RATE):
    buffer = io.BytesIO()
    sf.write(buffer, 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate), rate, format="WAV")
    return f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def question(text="What is it?", audios=(), file="f", instance="i", **more):
    return Question(text, tuple(audios), instance, file, 4, **more)


def prompts(provider, batch):
    """The texts of a batch as the model reads them."""
    return provider.processor.batch_decode(inputs_of(provider, batch)["input_ids"])


def inputs_of(provider, batch):
    return provider._inputs(batch, [provider.hear(one)[0] for one in batch])


def tokenizer(specials):
    """A byte-level tokenizer over single bytes and the special tokens: a list, or a dictionary by attribute."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>",
                                   extra_special_tokens=specials)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """Qwen2-Audio of the real class with a real processor, two small layers and random weights."""
    folder = tmp_path_factory.mktemp("qwen")
    words = tokenizer(["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|im_start|>"])
    extractor = WhisperFeatureExtractor(feature_size=16, n_fft=400, chunk_length=30)
    Qwen2AudioProcessor(extractor, words).save_pretrained(folder)
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": len(words) + 3, "model_type": "qwen2"}
    audio = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
             "num_mel_bins": 16}
    config = Qwen2AudioConfig(audio_config=audio, text_config=text,
                              audio_token_index=words.convert_tokens_to_ids("<|AUDIO|>"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2AudioForConditionalGeneration(config)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return folder


def test_hf_audio_accepts_one_several_and_no_audios_in_one_batch(qwen):
    provider = HfAudio(str(qwen), device="cpu")
    batch = [question(audios=[wav()]), question("Same?", [wav(0.5), wav(0.7, 330)]), question("No audio.")]
    together = provider.answers(batch)
    assert len(together) == 3 and all(isinstance(answer, Answer) and not answer.ended for answer in together)
    alone = [provider.answers([one])[0] for one in batch]
    assert together == alone
    assert not provider.joins and provider.model.config.model_type == "qwen2_audio"


def test_hf_audio_passes_on_the_audio_and_the_text(qwen):
    provider = HfAudio(str(qwen), device="cpu")
    seen = []
    provider.model.generate = lambda **inputs: seen.append(inputs) or inputs["input_ids"]
    provider.answers([question("first", [wav(hertz=200)])])
    provider.answers([question("first", [wav(hertz=900)])])
    provider.answers([question("other words", [wav(hertz=200)])])
    one, two, three = seen
    assert not torch.equal(one["input_features"], two["input_features"])
    assert torch.equal(one["input_features"], three["input_features"])
    assert one["input_ids"].shape != three["input_ids"].shape
    assert one["do_sample"] is False and one["max_new_tokens"] == 4


def test_hf_audio_joins_on_request(qwen):
    provider = HfAudio(str(qwen), device="cpu", audios="joined")
    asked = question(audios=[wav(1), wav(2)])
    content = provider._content(asked.text, provider.hear(asked)[0])
    assert [part["type"] for part in content] == ["audio", "text"]
    assert len(content[0]["audio"]) == 3.5 * RATE


LINES = "{% for m in messages %}{{ m['role'] }}: {{ %s }}\n{% endfor %}assistant:"
PARTS = """{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'audio' %}<sound>{% else %}
{{ p['text'] }}
{% endif %}{% endfor %}{% endfor %}assistant:"""


def small(words):
    """Sizes of a text model that speaks the words of a tokenizer."""
    return {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": len(words) + 3, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(scope="module")
def granite(tmp_path_factory):
    """Granite Speech of the real class: its template takes strings, and one audio per question."""
    folder, words = tmp_path_factory.mktemp("granite"), tokenizer(["<|audio|>"])
    words.chat_template = LINES.replace("%s", "'' ~ m['content']")
    GraniteSpeechProcessor(GraniteSpeechFeatureExtractor(), words).save_pretrained(folder)
    config = GraniteSpeechConfig(
        text_config=small(words) | {"model_type": "granite"},
        audio_token_index=words.convert_tokens_to_ids("<|audio|>"),
        encoder_config={"input_dim": 160, "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "context_size": 20,
                        "max_pos_emb": 32, "output_dim": 8, "conv_kernel_size": 3},
        projector_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                          "encoder_hidden_size": 16, "cross_attention_frequency": 1, "model_type": "blip_2_qformer"},
        has_lora_adapter=False)
    return saved(GraniteSpeechForConditionalGeneration, config, folder)


@pytest.fixture(scope="module")
def flamingo(tmp_path_factory):
    """Audio Flamingo 3 of the real class: its template takes parts, and one audio per question."""
    folder, words = tmp_path_factory.mktemp("flamingo"), tokenizer(["<sound>"])
    extractor = WhisperFeatureExtractor(feature_size=16, n_fft=400, chunk_length=30)
    AudioFlamingo3Processor(extractor, words, chat_template=PARTS).save_pretrained(folder)
    audio = {"num_mel_bins": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
             "hidden_size": 32}
    config = AudioFlamingo3Config(audio_config=audio, text_config=small(words),
                                  audio_token_id=words.convert_tokens_to_ids("<sound>"))
    return saved(AudioFlamingo3ForConditionalGeneration, config, folder)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Music Flamingo of the real class: as Audio Flamingo 3, with marks around the sound and time in its positions."""
    folder, words = tmp_path_factory.mktemp("music"), tokenizer(["<sound>", "<|sound_bos|>", "<|sound_eos|>"])
    extractor = WhisperFeatureExtractor(feature_size=16, n_fft=400, chunk_length=30)
    MusicFlamingoProcessor(extractor, words, chat_template=PARTS).save_pretrained(folder)
    audio = {"num_mel_bins": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
             "hidden_size": 32, "model_type": "audioflamingo3_encoder"}
    marks = dict(zip(("audio_token_id", "audio_bos_token_id", "audio_eos_token_id"), words.convert_tokens_to_ids(
        ["<sound>", "<|sound_bos|>", "<|sound_eos|>"]), strict=True))
    config = MusicFlamingoConfig(audio_config=audio, text_config=small(words), **marks)
    return saved(MusicFlamingoForConditionalGeneration, config, folder)


def omni_processor(kind, folder):
    """Save a processor of Qwen's Omni models in the folder; its word list and the token ids of audio and pictures."""
    names = ("audio", "image", "video", "audio_bos", "audio_eos", "vision_bos", "vision_eos")
    words = tokenizer({f"{name}_token": f"<|{name}|>" for name in names})
    extractor = WhisperFeatureExtractor(feature_size=16, n_fft=400, chunk_length=30)
    kind(Qwen2VLImageProcessor(), Qwen2VLVideoProcessor(), extractor, words,
         chat_template=PARTS.replace("<sound>", "<|audio_bos|><|audio|><|audio_eos|>")).save_pretrained(folder)
    return words, dict(zip(names, words.convert_tokens_to_ids([f"<|{name}|>" for name in names]), strict=True))


OMNI_AUDIO = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
              "num_mel_bins": 16, "output_dim": 32}
OMNI_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}


@pytest.fixture(scope="module")
def omni3(tmp_path_factory):
    """Qwen3-Omni of the real class, complete: the thinker, whose text part is a mixture of two experts, and a voice."""
    folder = tmp_path_factory.mktemp("omni3")
    words, marks = omni_processor(Qwen3OmniMoeProcessor, folder)
    thinker = {
        "audio_config": OMNI_AUDIO | {"downsample_hidden_size": 16},
        "vision_config": OMNI_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        "text_config": small(words) | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
                                       "head_dim": 16, "rope_parameters": {
            "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6, "mrope_interleaved": True}},
        **{f"{name}_token_id": marks[name] for name in ("audio", "image", "video")}, "user_token_id": 1,
        "audio_start_token_id": marks["audio_bos"], "vision_start_token_id": marks["vision_bos"]}
    config = Qwen3OmniMoeConfig(thinker_config=thinker, enable_audio_output=False)
    return saved(Qwen3OmniMoeForConditionalGeneration, config, folder)


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    """Qwen2.5-Omni of the real class, complete as published: the thinker that answers in text, and a voice."""
    folder = tmp_path_factory.mktemp("omni")
    words, marks = omni_processor(Qwen2_5OmniProcessor, folder)
    thinker = {
        "audio_config": OMNI_AUDIO, "vision_config": OMNI_VISION | {"fullatt_block_indexes": [0]},
        "text_config": small(words) | {"rope_parameters": {
            "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}},
        **{f"{name}_token_index": marks[name] for name in ("audio", "image", "video")}, "pad_token_id": 0,
        "audio_start_token_id": marks["audio_bos"], "audio_end_token_id": marks["audio_eos"],
        "vision_start_token_id": marks["vision_bos"], "vision_end_token_id": marks["vision_eos"], "user_token_id": 1}
    config = Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=False)
    return saved(Qwen2_5OmniForConditionalGeneration, config, folder)



@pytest.fixture(scope="module")
def voxtral(tmp_path_factory):
    """Voxtral of the real class with mistral-common's own tokenizer: bytes and its named special tokens."""
    tekken = pytest.importorskip("mistral_common.tokens.tokenizers.tekken", reason="environment.yml says how to get it")
    folder, bands = tmp_path_factory.mktemp("voxtral"), 16
    names = [token["token_str"] for token in tekken.Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    names += ["<20>", "<21>", "<22>", "<23>", "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"]  # 24 is the processor's own
    assert names[24] == "[AUDIO]"
    (folder / "tekken.json").write_text(json.dumps({
        "config": {"pattern": ".", "num_vocab_tokens": 256, "default_vocab_size": 256 + len(names),
                   "default_num_special_tokens": len(names), "version": "v7"},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None}
                  for i in range(256)],
        "special_tokens": [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)],
        "audio": {"sampling_rate": RATE, "frame_rate": 12.5, "chunk_length_s": 30.0, "audio_encoding_config": {
            "num_mel_bins": bands, "hop_length": 160, "window_size": 400}}}))
    extractor = WhisperFeatureExtractor(feature_size=bands, n_fft=400, chunk_length=30)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(extractor.to_dict() | {"processor_class": "VoxtralProcessor"}))
    audio = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_mel_bins": bands}
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 256 + len(names)}
    config = VoxtralConfig(audio_config=audio, text_config=text, audio_token_id=24)
    return saved(VoxtralForConditionalGeneration, config, folder)


def saved(kind, config, folder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["granite", "flamingo", "music"])
def test_a_model_for_one_audio_gets_several_joined_and_answers_mixed_batches(name, request):
    provider = HfAudio(str(request.getfixturevalue(name)), device="cpu")
    assert provider.joins
    batch = [question(audios=[wav()]), question("Same?", [wav(0.5), wav(0.7, 330)]), question("No audio.")]
    assert [len(wave) for wave in provider.hear(batch[1])[0]] == [round(1.7 * RATE)]
    read = prompts(provider, batch[:2])
    mark = provider.processor.audio_token
    for text, words in zip(read, ("What is it?", "Same?"), strict=True):
        assert text.count(mark) > 1 and text.index(mark) < text.index(words)
    together = provider.answers(batch)
    assert len(together) == 3 and all(isinstance(answer, Answer) for answer in together)
    assert provider.answers(batch[2:]) == together[2:] and provider.answers(batch) == together


@pytest.mark.parametrize(("name", "part"), [("omni", "Qwen2_5OmniThinker"), ("omni3", "Qwen3OmniMoeThinker")])
def test_only_the_text_part_of_a_speaking_model_is_loaded(name, part, request):
    folder = request.getfixturevalue(name)
    provider = HfAudio(str(folder), device="cpu")
    assert type(provider.model).__name__ == f"{part}ForConditionalGeneration" and not provider.joins
    whole = load_file(folder / "model.safetensors")
    for name, tensor in provider.model.state_dict().items():
        place, expert, _ = name.partition(".gate_up_proj")
        if expert:  # stored apart for each expert
            whole[f"thinker.{name}"] = torch.stack([torch.cat([
                whole[f"thinker.{place}.{i}.{part}_proj.weight"] for part in ("gate", "up")]) for i in range(2)])
        elif name.endswith("experts.down_proj"):
            place = name.removesuffix(".down_proj")
            whole[f"thinker.{name}"] = torch.stack([whole[f"thinker.{place}.{i}.down_proj.weight"] for i in range(2)])
        assert torch.equal(tensor, whole[f"thinker.{name}"]), name
    batch = [question(audios=[wav()]), question("Same?", [wav(0.5), wav(0.7, 330)]), question("No audio.")]
    read = prompts(provider, batch[:2])
    assert [text.count("<|audio_bos|>") for text in read] == [1, 2]
    together = provider.answers(batch)
    assert len(set(together)) > 1 and [provider.answers([one])[0] for one in batch] == together


def test_voxtral_gets_every_audio_and_answers_mixed_batches(voxtral):
    provider = HfAudio(str(voxtral), device="cpu")
    assert type(provider.model).__name__ == "VoxtralForConditionalGeneration" and not provider.joins
    batch = [question(audios=[wav()]), question("Same?", [wav(0.5), wav(0.7, 330)]), question("No audio.")]
    inputs = inputs_of(provider, batch[:2])
    read = provider.processor.batch_decode(inputs["input_ids"])
    for text, words, count in zip(read, ("What is it?", "Same?"), (1, 2), strict=True):
        assert text.count("[BEGIN_AUDIO]") == count and text.index("[AUDIO]") < text.index(words)
    assert len(inputs["input_features"]) == 3
    other = inputs_of(provider, [question(audios=[wav(hertz=900)])])["input_features"]
    assert not torch.equal(inputs["input_features"][0], other[0])
    together = provider.answers(batch)
    assert len(set(together)) > 1 and [provider.answers([one])[0] for one in batch] == together


@pytest.mark.parametrize(("config", "words"), [
    (transformers.Gemma3nConfig, "timm"), (transformers.Phi4MultimodalConfig, "speech adapter")])
def test_a_model_that_cannot_be_asked_here_is_refused_in_one_line_before_its_weights_are_read(tmp_path, config, words):
    config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        HfAudio(str(tmp_path), device="cpu")
    assert "\n" not in str(error.value) and "vLLM" in str(error.value)


def test_voxtral_without_its_template_package_is_a_one_line_error(tmp_path, monkeypatch):
    VoxtralConfig().save_pretrained(tmp_path)
    monkeypatch.setattr(transformers.utils, "is_mistral_common_available", lambda: False)
    with pytest.raises(UserError, match="mistral-common") as error:
        HfAudio(str(tmp_path), device="cpu")
    assert "\n" not in str(error.value)


def test_joined_audios_are_separated_by_half_a_second():
    both = joined([np.ones(RATE, np.float32), 2 * np.ones(RATE, np.float32)])
    assert len(both) == 2.5 * RATE
    assert (both[:RATE] == 1).all() and (both[RATE:int(1.5 * RATE)] == 0).all() and (both[int(1.5 * RATE):] == 2).all()


def test_audio_beyond_what_a_model_hears_is_cut_and_counted(flamingo):
    """Audio Flamingo 3 hears ten minutes; here it is told two seconds, for one audio and for two joined ones."""
    assert HfAudio(str(flamingo), device="cpu").seconds == 600
    provider = HfAudio(str(flamingo), device="cpu", seconds=2)
    batch = [question(audios=[wav(1.9)]), question(audios=[wav(2.05)]), question(audios=[wav(1), wav(1)])]
    heard = [provider.hear(one) for one in batch]
    assert [(len(waves[0]), cut) for waves, cut in heard] == [
        (round(1.9 * RATE), False), (2 * RATE, True), (2 * RATE, True)]
    assert [answer.cut for answer in provider.answers(batch)] == [False, True, True]


def test_arguments_reach_the_model_and_unknown_ones_are_refused(qwen):
    provider = HfAudio(str(qwen), device="cpu", dtype="bfloat16")
    assert provider.model.dtype == torch.bfloat16 and provider.answers([question(audios=[wav()])])
    assert HfAudio(str(qwen), device_map="cpu").answers([question("Only text.")])
    with pytest.raises(UserError, match="dtype=float1"):
        HfAudio(str(qwen), device="cpu", dtype="float1")
    with pytest.raises(UserError, match="no model argument devise"):
        HfAudio(str(qwen), devise="cpu")


def test_a_system_message_comes_before_the_question(granite, flamingo):
    for folder in (granite, flamingo):
        [read] = prompts(HfAudio(str(folder), device="cpu"), [question(audios=[wav()], system="Be short.")])
        assert 0 <= read.index("Be short.") < read.index("What is it?")


def test_audio_is_cut_at_thirty_seconds_and_resampled_to_16_khz():
    assert len(waveform(wav(31, rate=8000))) == 30 * RATE
    assert len(waveform(wav(2, rate=8000))) == 2 * RATE


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """A Whisper and a GPT-2 of the real classes, tiny and random."""
    asr, llm = tmp_path_factory.mktemp("asr"), tmp_path_factory.mktemp("llm")
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    names = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>"]
    (asr / "vocab.json").write_text(json.dumps(letters | {"<|endoftext|>": len(letters)}))
    (asr / "merges.txt").write_text("#version: 0.2\n")
    words = transformers.WhisperTokenizer.from_pretrained(asr)
    words.add_special_tokens({"additional_special_tokens": names[1:]})
    ids = words.convert_tokens_to_ids(names)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=16), words).save_pretrained(asr)
    config = WhisperConfig(vocab_size=len(words) + 2, num_mel_bins=16, d_model=16, encoder_layers=1, decoder_layers=1,
                           encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
                           max_target_positions=32, pad_token_id=ids[0], bos_token_id=ids[0], eos_token_id=ids[0],
                           decoder_start_token_id=ids[1], suppress_tokens=None, begin_suppress_tokens=None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whisper = WhisperForConditionalGeneration(config)
        reader = tokenizer([])
        gpt = GPT2LMHeadModel(GPT2Config(vocab_size=len(reader), n_embd=16, n_layer=1, n_head=2, n_positions=512))
    whisper.generation_config.update(max_length=12, decoder_start_token_id=ids[1], eos_token_id=ids[0],
                                     pad_token_id=ids[0], bos_token_id=ids[0], suppress_tokens=None,
                                     begin_suppress_tokens=None)
    whisper.save_pretrained(asr)
    reader.save_pretrained(llm)
    gpt.generation_config.eos_token_id = None
    gpt.save_pretrained(llm)
    return asr, llm


def test_cascade_transcribes_every_audio_then_asks_the_text_model(cascade, tmp_path):
    provider = Cascade(f"{cascade[0]}+{cascade[1]}", device="cpu", store=str(tmp_path))
    texts = []
    original = provider._prompt
    provider._prompt = lambda text, system: texts.append((text, system)) or original(text, system)
    batch = [question("Same speaker?", [wav(), wav(0.5, 440)]), question("Just text.", system="Be short.")]
    answers = provider.answers(batch)
    assert len(answers) == 2 and all(isinstance(answer, Answer) and not answer.ended for answer in answers)
    assert texts[0][0].startswith("Transcript of audio 1: ") and "\nTranscript of audio 2: " in texts[0][0]
    assert texts[0][0].endswith("\nSame speaker?") and texts[1] == ("Just text.", "Be short.")
    assert original(*texts[1]) == "Be short.\nJust text."
    assert provider.answers(batch) == answers


def test_a_clip_is_heard_once_whatever_it_is_asked(cascade, tmp_path):
    first, calls = Recogniser(str(cascade[0]), "cpu", store=str(tmp_path)), []
    original = first._transcribe
    first._transcribe = lambda waves: calls.append([len(wave) for wave in waves]) or original(waves)
    clips = [waveform(wav(seconds, hertz)) for seconds, hertz in ((0.4, 200), (1.7, 300), (0.9, 400), (0.4, 200))]
    texts = first.transcripts(clips)
    assert sorted(map(tuple, calls)) == [(RATE, RATE), (2 * RATE,)]  # whole seconds, the same clip once
    assert texts[0] == texts[3] and first.transcripts(clips[::-1]) == texts[::-1] and len(calls) == 2
    again = Recogniser(str(cascade[0]), "cpu", store=str(tmp_path))
    again._transcribe = None  # would fail if it were called
    assert again.transcripts(clips) == texts


def test_whisper_on_a_clips_own_frames_is_whisper_on_thirty_seconds_of_them(cascade, tmp_path):
    """On a clip of 30 s, which needs no padding, both routes are transformers' own."""
    recogniser, wave = Recogniser(str(cascade[0]), "cpu", store=str(tmp_path)), waveform(wav(30, 250))
    inputs = recogniser.processor(wave, sampling_rate=RATE, return_tensors="pt")
    tokens = recogniser.model.generate(inputs["input_features"], do_sample=False, max_new_tokens=24)
    expected = recogniser.processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert recogniser.transcripts([wave]) == [expected]


def test_a_recogniser_alone_answers_what_is_scored_by_words(cascade, tmp_path):
    provider = Asr(str(cascade[0]), device="cpu", store=str(tmp_path))
    words, letters, other = provider.answers([
        question("Write down.", [wav()], metrics=("WER", "CER")), question("Which?", [wav()], metrics=("CER",)),
        question("Which note?", [wav()], metrics=("accuracy",))])
    assert words.text == letters.text == provider.recogniser.transcripts([waveform(wav())])[0]
    assert other.text == "N/A"


def test_zero_shot_emotion_is_the_likeliest_option_after_the_last_transcript(cascade, tmp_path):
    """The likelihoods are compared with one forward pass per option, without padding."""
    provider = ZeroShot(f"{cascade[0]}+{cascade[1]}", device="cpu", store=str(tmp_path))
    options, prompt = ["joy", "deep sorrow", "anger"], "They feel "
    alone = []
    for option in options:
        ids = provider.tokenizer(prompt + option, return_tensors="pt")["input_ids"]
        chances = provider.llm(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        alone.append(float(chances[-len(option):].mean().detach()))  # a token is a byte
    np.testing.assert_allclose(provider._likelihoods(prompt, options), alone, rtol=1e-4)
    asked = question("Which emotion? The answer could be joy, fear, or anger.", [wav(), wav(0.5, 440)])
    heard = []
    provider._likelihoods = lambda prompt, options: heard.append(prompt) or [0.1, 0.9, 0.2]
    emotion, other = provider.answers([asked, question("Which note? The answer could be C or D.", [wav()])])
    assert emotion.text == "fear" and other.text == "N/A"
    assert provider.recogniser.transcripts([waveform(wav(0.5, 440))])[0] in heard[0]


def test_batches_of_text_fit_the_budget_and_hold_rows_of_like_length(cascade, tmp_path):
    provider = Cascade(f"{cascade[0]}+{cascade[1]}", device="cpu", store=str(tmp_path))
    lengths = [4000, 10, 3000, 20, 9000, 30]
    assert provider._batches(lengths, 100) == [[1, 3, 5], [2], [0], [4]]


class Echo(Provider):
    """Answers slowly with the file's name, and records the sizes of its batches."""

    def __init__(self, batch_size):
        super().__init__("echo", batch_size=batch_size)
        self.sizes = []

    def answers(self, questions):
        self.sizes.append(len(questions))
        time.sleep(0.01)
        if any(q.file == "7" for q in questions):
            raise RuntimeError("seven")
        return [q.file for q in questions]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_requests_get_their_own_answers_and_batches_fill(batch_size):
    echo, out = Echo(batch_size), {}

    async def ask(i):
        try:
            out[i] = await echo._answer(question(file=str(i)))
        except RuntimeError as error:
            out[i] = str(error)

    async def ask_all():
        await asyncio.wait_for(asyncio.gather(*map(ask, range(24))), 20)

    asyncio.run(ask_all())
    assert max(echo.sizes) == batch_size and 24 < sum(echo.sizes) <= 24 + batch_size  # one batch again, one by one
    assert [i for i in out if out[i] != str(i)] == [7] and out[7] == "seven"


def test_the_answer_in_words_is_an_option_as_spelled():
    chances = {"neutral": 0.1, "happy": 0.2, "sad": 0.3, "angry": 0.4}
    assert in_words(chances, ["Happiness", "Sadness"]) == "Sadness"
    assert in_words(chances, ["jazz", "blues"]) == "N/A"
    assert in_words(chances, ["sad", "jazz"]) == "N/A"
    assert in_words(chances, []) == "N/A"


def test_examples_are_read_back_from_the_instruction():
    text = "Two clips. Clip 1: angry, sad. Clip 2: happy. What of clip 3? The answer could be angry, sad, or happy."
    assert examples(text) == [["angry", "sad"], ["happy"]]
    assert examples("Which emotion? The answer could be a or b.") == []


SERVER = '''
import base64, io, json, sys
import soundfile as sf, uvicorn
from fastapi import FastAPI, Request

app = FastAPI()

@app.post("/v1/chat/completions")
async def complete(request: Request):
    body = await request.json()
    parts = body["messages"][-1]["content"]
    sounds = [base64.b64decode(p["input_audio"]["data"]) for p in parts if p["type"] == "input_audio"]
    heard = [sf.read(io.BytesIO(sound))[0] for sound in sounds]
    words = "loud" if max(abs(w).max() for w in heard) > 0.5 else "soft"
    text = f"{words} {len(heard)} {body['temperature']:g} {body.get('max_tokens') or body.get('max_completion_tokens')}"
    return {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}

@app.get("/up")
def up():
    return {}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real OpenAI-compatible server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path_factory.mktemp("server") / "server.py"
    script.write_text(SERVER)
    process = subprocess.Popen([sys.executable, str(script), str(port)])
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/up", timeout=1):
                break
        except OSError:
            assert process.poll() is None
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait()


def test_an_openai_compatible_server_gets_the_audios_and_is_scored(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_BASE_URL", server)
    monkeypatch.setenv("LOCAL_API_KEY", "none")
    rows = [{"file": str(i), "instruction": "The answer could be loud or soft.", "label": ("loud", "soft")[i % 2],
             "audio": f"{i}.wav", "audio2": f"{i}.wav"} for i in range(4)]
    folder = export.write_task(tmp_path / "t", "Level", "X", rows, kind="classification", domain="audio",
                               metrics=["accuracy"], description="d")
    for i in range(4):
        sf.write(folder / "data" / f"{i}.wav", (0.9, 0.1)[i % 2] * np.sin(np.arange(1600) / 5), RATE)
    loaded = tasks.load(tmp_path / "t")[0]
    frame = runner.run(loaded, "openai-api/local/tiny", tmp_path / "o",
                       source=source(tmp_path / "t"))
    assert frame["answer_read"].tolist() == frame["labels"].tolist() and len(frame) == 4
    folder = tmp_path / "o" / runner.slug("openai-api/local/tiny") / "predictions"
    written = json.loads((folder / "Level_X.json").read_text())
    assert written["Level_X_0.wav"]["sllm_response"] == "loud 2 0 256"


def test_weights_in_a_pickle_are_not_read(voxtral, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(voxtral, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises((OSError, UserError), match="safetensors"):
        HfAudio(str(folder), device="cpu")
