"""Inspect providers for perser/FILE, cascade/ASR+LLM, hf-audio/ID, replay/FILE and the controls (`oracle/labels`)."""

import asyncio
import base64
import io
import json
import re
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Sequence
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

from perser import personal
from perser.errors import UserError
from perser.features import audio, packaged
from perser.phase2.answers import key, parse_options, read_number
from perser.phase2.listeners import examples
from perser.phase2.tasks import Phase2Task, load
from perser.seeds import rng

RATE, LONGEST, SILENCE, NEW_TOKENS, NOT_APPLICABLE = 16_000, 30.0, 0.5, 256, "N/A"
MARKED = {"granite_speech", "granite_speech_plus"}  # their chat templates take text with one marker per audio
ONE_AUDIO = MARKED | {"audioflamingo3"}
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


class Provider(ModelAPI):
    """Answers questions in batches of at most `batch_size`: those that arrive during one batch form the next one."""

    def __init__(self, model_name: str, base_url: str | None = None, api_key: str | None = None,
                 config: GenerateConfig = GenerateConfig(), batch_size: int = 8, **_: Any) -> None:  # noqa: B008
        """batch_size: questions per call of `answers`. The signature is inspect's; `config` is never modified."""
        super().__init__(model_name, base_url, api_key, [], config)
        self.batch_size = int(batch_size)
        self._waiting: SimpleQueue[tuple[Question, Future[str]]] = SimpleQueue()
        self._worker = ThreadPoolExecutor(1)  # one thread in all: starting one per request costs milliseconds

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """One text per question, in order."""
        raise NotImplementedError

    def max_connections(self) -> int:
        """Concurrent requests: two full batches."""
        return 2 * self.batch_size

    async def _answer(self, question: Question) -> str:
        future: Future[str] = Future()
        self._waiting.put((question, future))
        self._worker.submit(self._next)  # does nothing if an earlier batch already took this request
        return await asyncio.wrap_future(future)

    def _next(self) -> None:
        batch: list[tuple[Question, Future[str]]] = []
        while len(batch) < self.batch_size and not self._waiting.empty():
            question, future = self._waiting.get()
            if future.set_running_or_notify_cancel():
                batch.append((question, future))
        try:
            texts = self.answers([question for question, _ in batch]) if batch else []
            for (_, future), text in zip(batch, texts, strict=True):
                future.set_result(text)
        except Exception as error:  # raised by all requests of the batch, so that inspect logs it with the samples
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)

    async def generate(self, input: list[ChatMessage], tools: list, tool_choice: Any,
                       config: GenerateConfig) -> ModelOutput:
        """Inspect's entry point: one user message with audios and text."""
        content, about = input[-1].content, input[-1].metadata or {}
        audios = tuple(part.audio for part in content if isinstance(part, ContentAudio))
        question = Question("\n".join(message.text for message in input), audios, about.get("instance", ""),
                            about.get("file", ""), config.max_tokens or NEW_TOKENS)
        output = ModelOutput.from_content(self.model_name, await self._answer(question))
        output.usage = ModelUsage()
        return output


def waveform(uri: str, seconds: float = LONGEST) -> np.ndarray:
    """A data URI's audio as float32 mono 16 kHz, (N,), cut to `seconds`, read as by the rest of the library."""
    with tempfile.TemporaryDirectory() as folder:
        return audio.read(_file(uri, Path(folder) / "audio.wav"), seconds)


def _file(uri: str, path: Path) -> Path:
    path.write_bytes(base64.b64decode(uri.split(",", 1)[1]))
    return path


def joined(waves: Sequence[np.ndarray]) -> np.ndarray:
    """Several audios as one, separated by half a second of silence, cut to 30 s."""
    parts = [part for wave in waves for part in (np.zeros(round(SILENCE * RATE), np.float32), wave)][1:]
    return np.concatenate(parts)[: round(LONGEST * RATE)]


def _placement(device: str | None) -> tuple[str, torch.dtype]:
    """The device, by default a GPU if there is one, and its type: bf16 on a GPU."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return device, torch.bfloat16 if device.startswith("cuda") else torch.float32


def _generate(model: Any, decoder: Any, inputs: Any, question: Question, **options: Any) -> list[str]:
    """Generate greedily and decode only the new tokens, as many as the question allows."""
    with torch.inference_mode():
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=question.new_tokens, **options)
    return decoder.batch_decode(tokens[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)


class HfAudio(Provider):
    """Any audio language model of transformers, prompted by its processor's chat template; greedy, bf16 on a GPU.

    `audios`: "native" passes them separately, "joined" as one; by default joined only for models that take one.
    """

    def __init__(self, model_name: str, *args: Any, audios: str = "auto", revision: str | None = None,
                 device: str | None = None, **kwargs: Any) -> None:
        """Load the processor and the model from the hub, its cache or a folder."""
        import transformers
        from transformers.utils import is_mistral_common_available

        super().__init__(model_name, *args, **kwargs)
        self.device, dtype = _placement(device)
        config = transformers.AutoConfig.from_pretrained(model_name, revision=revision)
        kind, classes = config.model_type, config.architectures or [""]
        if kind in AUDIO_AS_BASE64 and not is_mistral_common_available():  # or every question would fail
            raise UserError(f"hf-audio/{model_name}: its template is in the package mistral-common, which requires an "
                            "older numpy than it needs: pip install --no-deps mistral-common pydantic-extra-types "
                            "pycountry; or serve the model with vLLM and name it openai-api/NAME/MODEL")
        self.processor = transformers.AutoProcessor.from_pretrained(model_name, revision=revision)
        self.processor.tokenizer.padding_side = "left"
        loader = getattr(transformers, TEXT_PART.get(kind, classes[0]), transformers.AutoModelForMultimodalLM)
        self.model = loader.from_pretrained(model_name, revision=revision, dtype=dtype, **SAFE).to(self.device).eval()
        self.joins = audios == "joined" or (audios == "auto" and kind in ONE_AUDIO)
        self.as_base64, self.marked = kind in AUDIO_AS_BASE64, kind in MARKED

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """Generate for a batch, split by whether there is audio: some processors do not accept a mixture."""
        texts: dict[int, str] = {}
        for with_audio in (True, False):
            rows = [i for i, question in enumerate(questions) if bool(question.audios) == with_audio]
            if rows:
                inputs = self._inputs([questions[i] for i in rows]).to(self.device, dtype=self.model.dtype)
                texts |= zip(rows, _generate(self.model, self.processor, inputs, questions[rows[0]]), strict=True)
        return [texts[i] for i in range(len(questions))]

    def _inputs(self, questions: Sequence[Question]) -> Any:
        """A padded batch: audios first, then the text, as the model's template places them."""
        waves = [self._waves(question) for question in questions]
        chats = [[{"role": "user", "content": self._content(*pair)}] for pair in zip(questions, waves, strict=True)]
        if not self.marked:  # audio padding is left to the processor's default
            return self.processor.apply_chat_template(
                chats, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
                processor_kwargs={"text_kwargs": {"padding": True}})
        texts = self.processor.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        return self.processor(text=texts, audio=[wave for row in waves for wave in row] or None,
                              return_tensors="pt", text_kwargs={"padding": True})

    def _waves(self, question: Question) -> list[np.ndarray]:
        waves = [waveform(uri) for uri in question.audios]
        return [joined(waves)] if self.joins and len(waves) > 1 else waves

    def _content(self, question: Question, waves: Sequence[np.ndarray]) -> str | list[dict[str, Any]]:
        if self.marked:
            return self.processor.audio_token * len(waves) + question.text
        parts: list[dict[str, Any]] = [{"type": "audio", "audio": wave} for wave in waves]
        for part in parts if self.as_base64 else []:
            buffer = io.BytesIO()
            sf.write(buffer, part.pop("audio"), RATE, format="WAV", subtype="PCM_16")
            part["base64"] = base64.b64encode(buffer.getvalue()).decode()
        return [*parts, {"type": "text", "text": question.text}]


class Cascade(Provider):
    """Speech recognition, then a text model that reads the transcripts: `cascade/<asr>+<llm>`."""

    def __init__(self, model_name: str, *args: Any, device: str | None = None, **kwargs: Any) -> None:
        """Load both models. Raises UserError if only one is given."""
        from transformers import AutoModelForCausalLM, AutoModelForSpeechSeq2Seq, AutoProcessor, AutoTokenizer

        super().__init__(model_name, *args, **kwargs)
        recogniser, _, reader = model_name.partition("+")
        if not reader:
            raise UserError(f"cascade/{model_name}: name two models, cascade/<recogniser>+<text model>")
        self.device, dtype = _placement(device)
        self.processor = AutoProcessor.from_pretrained(recogniser)
        self.asr = AutoModelForSpeechSeq2Seq.from_pretrained(recogniser, dtype=dtype, **SAFE).to(self.device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(reader, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.llm = AutoModelForCausalLM.from_pretrained(reader, dtype=dtype, **SAFE).to(self.device).eval()

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """Transcribe all audios of the batch, then answer its questions."""
        transcripts = iter(self._transcribe([waveform(uri) for q in questions for uri in q.audios]))
        prompts = [self._prompt("\n".join([*(f"Transcript of audio {i}: {next(transcripts)}"
                                             for i in range(1, len(q.audios) + 1)), q.text])) for q in questions]
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(self.device)
        return _generate(self.llm, self.tokenizer, inputs, questions[0], pad_token_id=self.tokenizer.pad_token_id)

    def _transcribe(self, waves: list[np.ndarray]) -> list[str]:
        if not waves:
            return []
        inputs = self.processor(waves, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
        with torch.inference_mode(), packaged.quiet():  # Whisper's generation warns of settings that it passes itself
            tokens = self.asr.generate(**inputs.to(self.device, dtype=self.asr.dtype), do_sample=False)
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]

    def _prompt(self, text: str) -> str:
        if not self.tokenizer.chat_template:
            return text
        chat = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


class Replay(Provider):
    """Stored answers from an organisers' prediction file, by file name; a row that is not in it is an error."""

    def __init__(self, model_name: str, *args: Any, **kwargs: Any) -> None:
        """Read the file, or the folder of one file per task. Raises UserError if it is neither."""
        super().__init__(model_name, *args, **kwargs)
        self.entries = read_predictions(Path(model_name))

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """The stored responses, unchanged."""
        responses = []
        for question in questions:
            names = [n for n in (f"{question.instance}/{question.file}", question.file) if n in self.entries]
            if not names:
                raise UserError(f"{self.model_name}: no entry for {question.file!r} of {question.instance}")
            responses.append(self.entries[names[0]].get("sllm_response"))
            if responses[-1] is None:
                raise UserError(f"{self.model_name}: {names[0]} has no sllm_response; predict it and try again")
        return responses


def read_predictions(path: Path) -> dict[str, dict]:
    """A prediction file, or a folder `<model>/` of one file per task, whose keys become `<task>/<file>`."""
    try:
        if path.is_dir():
            return {f"{file.stem}/{name}": entry for file in sorted(path.glob("*.json"))
                    for name, entry in json.loads(file.read_text(encoding="utf-8")).items()}
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a prediction file ({error}); expected a dictionary keyed by wav name") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{path}: not a dictionary of entries keyed by wav name")
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
        answer = repr(median(numbers)) if None not in numbers else min(counts, key=lambda x: (-counts[x], x))
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
                if not question.audios or not re.search(r"emotion|feel|mood", question.text, re.I):
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


def in_words(probabilities: dict[str, float], options: Sequence[str]) -> str:
    """The option whose class is most probable; N/A when fewer than two options are classes of the model.

    >>> in_words({"angry": 0.2, "happy": 0.7, "sad": 0.1}, ["Joy", "Anger", "Boredom"])
    'Joy'
    """
    known = {_class(name): float(value) for name, value in probabilities.items()}
    matches = {option: known[_class(option)] for option in options if _class(option) in known}
    return max(matches, key=matches.get) if len(matches) > 1 else NOT_APPLICABLE


def _class(name: str) -> str:
    return SAME_EMOTION.get(key(name), key(name))


for _name, _provider in {"hf-audio": HfAudio, "cascade": Cascade, "replay": Replay, "perser": Perser,
                         "oracle": Oracle, "majority": Majority, "random": Random}.items():
    modelapi(_name)(_provider)
