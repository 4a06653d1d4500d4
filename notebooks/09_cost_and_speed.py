# %% [markdown]
# # What does it cost, and how fast is it?
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
from IPython.display import Image, Markdown, display

import perser
from perser.cli import checkout_benchmarks

results = {path: json.loads(path.read_text()) for path in sorted(Path(benchmarks).glob("*.json"))}
shapes = [row for result in results.values() if result["benchmark"] == "meta" for row in result["rows"]]
faster = [row["engine_times_faster"] for row in shapes if "engine_times_faster" in row]
cost = next(result["rows"] for result in results.values() if result["benchmark"] == "cost")
[ours] = [row for row in cost if row["method"] == "meta-perser"]
answer = (f"A meta-training step is {min(faster):.0f} to {max(faster):.0f} times faster than with learn2learn, and "
          f"Meta-PerSER takes {ours['learn_seconds']:.0f} seconds to train and {ours['personalise_ms']:.0f} "
          "milliseconds to adapt to a listener on the processor named below.")
display(Markdown(f"**{answer}**"))

# %% [markdown]
# ## Minutes of each experiment
#
# From the manifests. Experiments with the same settings share computed parts, and a stopped run resumes, so the minutes
# are those of the last start, for the units that were missing then.

# %%
rows = []
for path in sorted(path.parent for place in (first, second) for path in Path(place).glob("*/manifest.json")):
    run = perser.records.load(path)
    manifest = run.manifest
    rows.append({
        "corpus": manifest.corpus, "data": perser.wording.stamp(run) or "real", "experiment": manifest.experiment,
        "methods": run.records["method"].nunique(), "units": f"{manifest.units_computed} of {manifest.units}",
        "minutes": manifest.minutes, "processes": manifest.jobs, "processor": manifest.machine["cpu"]})
display(Markdown(perser.tables.plain(pd.DataFrame(rows))))

# %% [markdown]
# ## The benchmarks
#
# All rows of the committed files, except those of `cost` and `distributed`, which follow below. Times are medians of
# calls timed round-robin in one process. `cpu` is processor time summed over threads. `load` is the machine's load
# before the benchmark: above the number of threads, other work was running.

# %%
for path, result in results.items():
    where = result["conditions"]
    display(Markdown(f"**{path.stem.replace('-', ' ')}**: {result['about']}. Measured on {where['device']}, "
                     f"{where['cpu']}, {where['threads']} threads, load {where['load_before']}, torch "
                     f"{where['packages']['torch']}."))
    if result["benchmark"] not in ("cost", "distributed"):
        rows = pd.DataFrame([{name.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else value
                              for name, value in row.items()} for row in result["rows"]])
        table = rows.T.rename_axis("").reset_index() if len(rows.T) > 6 else rows
        display(Markdown(perser.tables.plain(table.rename(columns=str))))

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
for result in results.values():
    if result["benchmark"] == "cost":
        sizes = {name: value for name, value in result["settings"].items() if name not in ("rounds", "size")}
        print("Random ratings:", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sizes.items()))
        rows = pd.DataFrame(result["rows"])[list(headings)]
        rows = rows.assign(method=rows["method"].map(titles)).rename(columns=headings)
        display(Markdown(perser.tables.plain(rows)))

# %% [markdown]
# ## More workers, more machines
#
# An experiment's units (a fold, a group of held-out listeners, a seed) do not depend on one another. The first table
# computes the same units with more workers: processes of one machine, or nodes of a Ray cluster, all on the machine
# named above. *Seconds to start*: until the workers have loaded the library, before which nothing is computed. *Lost*:
# of the workers' time after that, what one worker alone would not need, as units run slower side by side and workers
# are idle at the end. The second table is arithmetic from the processor time of one clip and one listener, measured on
# that machine: cores that all run as fast as there, without loss. *Terabytes*: of features, or of personal models. One
# feature store holds at most one terabyte and a run holds its features in memory, so a large collection is cut into
# several corpora.

# %%
headings = {"implementation": "Backend", "workers": "Workers", "nodes": "Nodes", "units": "Units",
            "seconds": "Seconds", "start_seconds": "Seconds to start", "units_per_minute": "Units per minute",
            "times_one_worker": "Times one worker", "lost_share": "Lost (share)"}
amounts = {"implementation": "Collection", "what": "Of", "count": "Number", "cpu_seconds_of_one": "Core seconds of one",
           "cpu_hours": "Core hours", "cores_for_a_week": "Cores for a week", "terabytes": "Terabytes"}
for result in results.values():
    if result["benchmark"] == "distributed":
        printed = [{name: value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
                    for name, value in row.items()} for row in result["rows"]]
        for shown in (headings, amounts):
            rows = pd.DataFrame(printed)[[*shown]].dropna().rename(columns=shown)
            display(Markdown(perser.tables.plain(rows)))

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
        display(Image(png, width=560, alt="Milliseconds of one outer step by implementation"))

# %%
if not any(path.name.startswith("cuda-") for path in results):
    print("No CUDA card has run these benchmarks yet. benchmarks/gpu.sh runs them, and checks the card, in six minutes.")
