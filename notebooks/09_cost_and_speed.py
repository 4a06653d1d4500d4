# %% [markdown]
# # What it costs, and how fast it is
#
# Meta-learning is known to be slow: it takes gradients of gradients, episode by episode. With frozen features and a
# two-layer head, all episodes of an outer step reduce to a few matrix products, and the meta-gradient stays exact
# (`perser/adapt.py`, explained in notebook 03). This page shows what the experiments took, and the committed results of
# `perser bench` with the machine that they were measured on.
#
# The experiments' corpora are **synthetic** in part. The benchmarks use random numbers: they measure time and compare
# results, and learn nothing.

# %% tags=["parameters"]
first = "../results/emodb/whisper-tiny.en"
second = "../results/ravdess/whisper-tiny.en"
benchmarks = "../benchmarks"

# %%
import json
from pathlib import Path

import pandas as pd
import perser
from IPython.display import Image, Markdown, display
from perser.cli import checkout_benchmarks

# %% [markdown]
# ## Minutes of each experiment
#
# From the manifests. Experiments with the same settings share computed parts, and a stopped run resumes, so the minutes
# are those of the last start, for the units that were missing then. *Commits*: the code that computed the parts.

# %%
rows = []
for path in sorted(path.parent for place in (first, second) for path in Path(place).glob("*/manifest.json")):
    run = perser.records.load(path)
    manifest = run.manifest
    rows.append({
        "corpus": manifest.corpus, "data": perser.wording.stamp(run) or "real", "experiment": manifest.experiment,
        "methods": run.records["method"].nunique(), "units": f"{manifest.units_computed} of {manifest.units}",
        "minutes": manifest.minutes, "processes": manifest.jobs, "processor": manifest.machine["cpu"],
        "commits": " ".join(dict.fromkeys((origin.commit or "-")[:7] for origin in manifest.origins))})
display(Markdown(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1f")))

# %% [markdown]
# ## The benchmarks
#
# All rows of the committed files, except those of `cost`, which follow below. Times are medians of calls timed
# round-robin in one process. `cpu` is processor time summed over threads. `load` is the machine's load before the
# benchmark: above the number of threads, other work was running.

# %%
results = {path: json.loads(path.read_text()) for path in sorted(Path(benchmarks).glob("*.json"))}
for path, result in results.items():
    where = result["conditions"]
    print(f"{path.name}: {result['about']}")
    print(f"{where['device']}, {where['cpu']}, {where['threads']} threads, load {where['load_before']},",
          f"torch {where['packages']['torch']}, commit {(where['commit'] or '-')[:7]}")
    if result["benchmark"] != "cost":
        print(pd.DataFrame(result["rows"]).T.to_string(header=False, float_format="{:.4g}".format))
    print()

# %% [markdown]
# ## What each method costs
#
# The functions of the experiments train each method on random ratings of one fold. Time does not depend on the content
# of the ratings. *Trained numbers*: what training sets. *Numbers per listener*: what is stored for one listener in
# addition. *Seconds to train*: in addition to SSL-E, where all but *From scratch* start, with the choice of learning
# rate and steps on the dev listeners. *Memory*: the highest increase during training. *Milliseconds per listener*: from
# the largest K to the prediction for one clip, on the processor, with as many steps as the method can choose. The upper
# bound uses all ratings of a listener, cross-validated.

# %%
titles = perser.records.load(f"{first}/methods").title
headings = {"method": "Method", "learnt_numbers": "Trained numbers", "listener_numbers": "Numbers per listener",
            "learn_seconds": "Seconds to train", "learn_memory_mib": "Memory (MiB)",
            "personalise_ms": "Milliseconds per listener"}
for path, result in results.items():
    if result["benchmark"] == "cost":
        sizes = {name: value for name, value in result["settings"].items() if name not in ("rounds", "size")}
        print(f"{path.name}, random ratings:", ", ".join(f"{name} {value}" for name, value in sizes.items()))
        rows = pd.DataFrame(result["rows"])[list(headings)]
        rows = rows.assign(method=rows["method"].map(titles)).rename(columns=headings)
        display(Markdown(rows.to_markdown(index=False, floatfmt=("", "d", "d", ".1f", ".0f", ".1f"))))

# %% [markdown]
# ## One outer step against other implementations
#
# All implementations compute the same loss and the same second-order gradients. The rows above show the differences.
# The floors are the time that this machine's fastest matrix product and fastest memory read would take for the same
# work: no implementation can be faster. The targets are those of `benchmarks/meta.py`. Missed targets are marked.

# %%
meta = checkout_benchmarks().meta
others = {"learn2learn": "engine_times_faster", "torch_func": "engine_times_faster_than_torch_func",
          "jax": "engine_times_faster_than_jax"}
for path, result in results.items():
    for row in result["rows"] if result["benchmark"] == "meta" else ():
        shape = meta.Shape(row["episodes"], row["shots"], row["query"])
        distinct = row["unique_clips"] == shape.episodes * (shape.shots + shape.query)
        print(f"{path.name}: {shape.episodes} x ({shape.shots} + {shape.query}),",
              "all clips different" if distinct else f"{row['unique_clips']} clips shared")
        for name, column in others.items():
            target = meta.TARGETS[name][shape]
            if column in row:
                print(f"    {row[column]:6.1f} times faster than {name}, target {target}:",
                      "met" if row[column] >= target else "MISSED")
        print(f"    {row['engine_ms'] / row['arithmetic_floor_ms']:6.2f} times the arithmetic floor, target at most",
              f"{meta.FLOORS}:", "met" if row["engine_ms"] <= meta.FLOORS * row["arithmetic_floor_ms"] else "MISSED")

# %% tags=["nbval-ignore-output"]
for path, result in results.items():
    if result["benchmark"] == "meta":
        rows = pd.DataFrame(result["rows"])
        rows = rows[rows["unique_clips"] < rows["episodes"] * (rows["shots"] + rows["query"])]
        where = result["conditions"]
        conditions = f"{where['device']}: {where['cpu']}, {where['threads']} threads"
        pdf, png = perser.figures.save(perser.figures.speed(rows, conditions), f"../out/notebooks/figures/{path.stem}")
        display(Image(png, width=560))

# %%
if not any(path.name.startswith("cuda-") for path in results):
    print("No CUDA card has run these benchmarks yet. benchmarks/gpu.sh runs them, and checks the card, in six minutes.")
