# %% [markdown]
# # What it costs, and how fast it is
#
# Meta-learning has a name for being slow: the gradient of a gradient, episode by episode. With frozen
# features and a two-layer head all episodes of an outer step fit into a few matrix products and the
# meta-gradient stays exact (`perser/adapt.py`, explained in notebook 03); what is left of an episode is so small that
# its loop is C on a CPU (`perser/descend.c`), and torch elsewhere. This page shows what the study took, and the
# benchmarks of `perser bench` as they were committed, with the machine that they were taken on.
#
# The study's corpora are **synthetic** in part; the benchmarks' numbers are random: nothing there is learnt,
# only timed and compared.

# %% tags=["parameters"]
first = "../results/ravdess/logmel"
second = "../results/synthetic/logmel"
benchmarks = "../benchmarks"

# %%
import json
from pathlib import Path

import pandas as pd
from IPython.display import Image, Markdown, display

from perser import records
from perser.analysis import captions, figures
from perser.bench import meta

# %% [markdown]
# ## Minutes of each experiment
#
# As the manifests say. Experiments with the same settings share what they have computed, and a run that was
# stopped goes on: the minutes are those of the last start, for the units that were still missing in it.
# *Commits*: of the code that computed the parts, or of the run that they were taken over from, where the manifest
# says it of each: a later run takes over what it repeats, count for count by the same machine and inner loop and but
# for one count by others (`perser run --reuse`).

# %%
rows = []
for run in sorted(path.parent for place in (first, second) for path in Path(place).glob("*/manifest.json")):
    manifest, frame = records.manifest(run), records.read(run)
    units = f"{manifest['units_computed_last']} of {manifest['units']}"
    row = [manifest["corpus"], captions.stamp(frame), manifest["experiment"], frame["method"].nunique(), units]
    commits = " ".join((part["commit"] or "-")[:7] for part in manifest.get("parts", [manifest]))
    rows.append([*row, manifest["minutes_last"], manifest["jobs"], manifest["machine"]["cpu"], commits])
names = ["corpus", "made up", "experiment", "methods", "units", "minutes", "processes", "processor", "commits"]
display(Markdown(pd.DataFrame(rows, columns=names).to_markdown(index=False, floatfmt=".1f")))

# %% [markdown]
# ## The benchmarks
#
# Every row of every committed file, but those of `cost`, which are below. Times are medians of calls that took
# turns in one process; `cpu` is processor time over all threads. A benchmark on a busy machine says so in its
# load.

# %%
found = {path: json.loads(path.read_text()) for path in sorted(Path(benchmarks).glob("*.json"))}
for path, result in found.items():
    where = result["conditions"]
    print(f"{path.name}: {result['about']}")
    print(
        f"{where['device']}, {where['cpu']}, {where['threads']} threads, load {where['load_before']},",
        f"torch {where['packages']['torch']}, inner loop by {where.get('inner_loop', 'torch')}",
    )
    if result["benchmark"] != "cost":
        print(pd.DataFrame(result["rows"]).T.to_string(header=False, float_format="{:.4g}".format))
    print()

# %% [markdown]
# ## What each method costs
#
# Learnt by the functions of the experiments from random ratings of one fold: time does not depend on what is
# said. *Numbers learnt*: what training has set. *Numbers per listener*: what is kept for one listener beside
# them. *Seconds to learn*: beyond those of SSL-E, where all but "From scratch" begin, choosing rates and steps
# on the dev listeners included. *Memory*: the highest rise while it learns. *Milliseconds per listener*: from
# the largest K of the study to the answer to one clip, on the processor, with as many steps as the method may
# choose; the upper bound takes all of a listener's ratings, cross-validated.

# %%
heads = {
    "method": "Method",
    "learnt_numbers": "Numbers learnt",
    "listener_numbers": "Numbers per listener",
    "learn_seconds": "Seconds to learn",
    "learn_memory_mib": "Memory (MiB)",
    "personalise_ms": "Milliseconds per listener",
}
for path, result in found.items():
    if result["benchmark"] == "cost":
        shape = {key: value for key, value in result["settings"].items() if key not in ("rounds", "size")}
        print(path.name, "random ratings:", ", ".join(f"{key} {value}" for key, value in shape.items()))
        rows = pd.DataFrame(result["rows"])[list(heads)].rename(columns=heads)
        rows["Method"] = rows["Method"].map(captions.title)
        display(Markdown(rows.to_markdown(index=False, floatfmt=("", "d", "d", ".1f", ".0f", ".1f"))))

# %% [markdown]
# ## One outer step against learn2learn
#
# Both compute the same loss and the same second-order gradients; the differences are in the rows above. The
# floors are what this machine's best matrix product and best memory read would take for the same work: what
# is left between them and the circle is all that could still be won. The targets were set before the engine was
# written; one that is missed says so.

# %%
for path, result in found.items():
    if result["benchmark"] == "meta":
        print(path.name)
        for row in result["rows"]:
            shape = meta.Shape(row["episodes"], row["shots"], row["query"])
            drawn = shape.episodes * (shape.shots + shape.query)
            clips = "every clip different" if row["unique_clips"] == drawn else f"{row['unique_clips']} clips shared"
            times, floors = row.get("engine_times_faster"), row["times_arithmetic_floor"]
            reached = times is not None and times >= meta.TARGETS[shape]
            print(
                f"  {shape.episodes:3} x ({shape.shots:2} + {shape.query:2}), {clips:20}",
                f"{times or float('nan'):5.1f} times learn2learn, target {meta.TARGETS[shape]}:",
                f"{'met' if reached else 'MISSED'};",
                f"{floors:.2f} times the floor, target {meta.FLOORS}: {'met' if floors <= meta.FLOORS else 'MISSED'}",
            )

# %% tags=["nbval-ignore-output"]
for path, result in found.items():
    if result["benchmark"] == "meta":
        frame = pd.DataFrame(result["rows"])
        shared = frame[frame["unique_clips"] < frame["episodes"] * (frame["shots"] + frame["query"])]
        where = result["conditions"]
        words = f"{where['device']}: {where['cpu']}, {where['threads']} threads"
        pdf, png = figures.save(figures.speed(shared, words), Path(f"../out/notebooks/figures/{path.stem}"))
        display(Image(png, width=560))
