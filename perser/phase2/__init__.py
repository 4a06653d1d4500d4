"""Dynamic-SUPERB Phase-2 (arXiv 2411.05361) on top of inspect: tasks, models, scores and tables.

`tasks` and `export` read and write data sets, `suite` and `listeners` create them, `models` adds providers to inspect,
`answers` reads answers, `metrics` and `scorers` score them, `runner` makes records of logs, `watch` shows progress and
bounds patience, `aggregate` and `report` make tables of records.

Models: `perser/FILE`, `cascade/ASR+LLM`, `zero-shot/ASR+LLM` (emotion from the words alone), `asr/NAME`,
`hf-audio/ID`, `replay/FILE`, `majority`, `random`, `oracle`, and every inspect provider. Names of `perser models` are
installed when they are used: `cascade/whisper-tiny.en+smollm2-135m`. Serve a large model with vLLM, on one machine or
on several behind a load balancer (`vllm serve Qwen/Qwen2-Audio-7B-Instruct`), and name it `openai-api/NAME/MODEL` with
NAME_BASE_URL and NAME_API_KEY in the environment; inspect adapts the number of concurrent requests to the server. To
split tasks over machines, run subfolders of `--tasks`, each into its own folder, then join them: `perser phase2 report
A B --out C`. Each run also writes its answers as the organisers' prediction files, `MODEL/predictions/DATASET.json`;
`replay/` scores them again without asking the model again.

Where upstream is undocumented, we chose: texts follow the instruction, unless `--no-text`; a missing answer to a
number task counts in the N/A rate and not in the error; options are those in the instruction, or the task's labels;
weighted-accuracy is the mean recall over label sets; relative improvement is in units of the reference's absolute
value, positive when better; reasoning is dropped up to its last closing mark, then answers are cut to 8,192 characters.

Numbers are read whole or not at all: `1/2` is a half, `4/5` four marks of five (7, 10 and 100 likewise, and the top of
a stated scale), a range is several numbers. A number beyond the scale that the instruction states, or beyond 1e9, is no
answer. Labels of sound events without times, such as those of DCASE2016, are compared by name, which the organisers
judge as a choice; a time span without times scores 0. Phones and tags differ by case in PER, but not as options.

Texts are written `plain` before their errors are counted: lower case, without punctuation, letters with their marks.
`raw` leaves them as written, `upstream` is the organisers' package speech_metrics 0.2.2 (upper case, punctuation kept,
also for PER), `whisper` is Whisper's normaliser: the English one for texts in ASCII, without its list of British
spellings, and the basic one for others, which drops the marks of Indic and Arabic scripts. Metrics under the last three
carry their name, such as `WER-whisper`. CER counts spaces. Slot-type F1 and slot-value CER follow the package, whose
slot-value CER takes the answer for the reference; ours takes the label, `slot-value-CER-upstream` the answer. DER has
no collar and scores overlaps. BLEU is sacrebleu's on texts as written.

A judge's verdict is the last `Result:` of its reply. A reply without one is asked for once more, then counted as wrong,
or as no answer to a number task; a judge that cannot be reached leaves the row ungraded.
"""

from importlib import import_module
from types import ModuleType

_MODULES = ("aggregate", "answers", "export", "listeners", "metrics", "models", "report", "runner", "scorers", "suite",
            "tasks", "watch")


def __getattr__(name: str) -> ModuleType:
    """Import a module of this package when it is first used: some import inspect, which takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
