"""Dynamic-SUPERB Phase-2 (arXiv 2411.05361) on top of inspect: tasks, models, scores and tables.

`tasks` and `export` read and write data sets, `suite` and `listeners` create them, `models` adds providers to inspect,
`metrics` and `scorers` score answers, `runner` makes records of logs, `watch` shows progress and bounds patience,
`aggregate` and `report` make tables of records.

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
value, positive when better; answers are cut to 8,192 characters before they are scored.
"""

from importlib import import_module
from types import ModuleType

_MODULES = ("aggregate", "export", "listeners", "metrics", "models", "report", "runner", "scorers", "suite", "tasks",
            "watch")


def __getattr__(name: str) -> ModuleType:
    """Import a module of this package when it is first used: some import inspect, which takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
