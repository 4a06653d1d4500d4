"""Dynamic-SUPERB Phase-2 (arXiv 2411.05361): tasks, models, scores and tables, on top of inspect.

tasks and export read and write data sets; suite and listeners make them; models serves what inspect does not;
metrics and scorers judge answers; runner turns inspect's logs into records; aggregate and report need only those.

Models: `perser/FILE`, `cascade/ASR+LLM`, `hf-audio/ID`, `replay/FILE`, `majority`, `random`, `oracle`, and every
provider of inspect. A large model is best served by vLLM, on one machine or behind a load balancer on many
(`vllm serve Qwen/Qwen2-Audio-7B-Instruct`), and named `openai-api/NAME/MODEL` with NAME_BASE_URL and NAME_API_KEY
in the environment: inspect then adapts how many requests are under way to what the server takes. To split the
tasks over machines, run subfolders of `--tasks` into one shared `--out`, a folder of its own for each, and join
them afterwards: the report reads whatever records lie under the folder it is given.

Every run also writes its answers as the organisers' prediction files, `MODEL/predictions/DATASET.json`, which
`replay/` takes: answers that were expensive can be scored again without being asked for again.

Where upstream is not documented, this is what is done here. Texts follow the instruction. A number task without an
answer counts in its N/A rate and not in its error. Options are those the instruction lists; where it lists none,
the labels of the task. weighted-accuracy is the mean recall over label sets. Relative improvement is in units of
the reference's size, positive when better. Answers are cut to 8,192 characters before they are scored.
"""
