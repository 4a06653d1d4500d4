# %% [markdown]
# # What it costs, and how fast it is
#
# Meta-learning has a name for being slow: the gradient of a gradient, episode by episode. With frozen
# features and a two-layer head all episodes of an outer step fit into a few matrix products and the
# meta-gradient stays exact (`perser/adapt.py`, explained in notebook 03). This page shows what the study took,
# and the benchmarks of `perser bench` as they were committed, with the machine that they were taken on.
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
from IPython.display import Image, display

from perser import captions, figures, records

# %% [markdown]
# ## Minutes of each experiment
#
# As the manifests say. Experiments with the same settings share what they have computed, and a run that was
# stopped goes on: the minutes are those of the last start, for the units that were still missing in it.

# %%
rows = []
for run in sorted(path.parent for place in (first, second) for path in Path(place).glob("*/manifest.json")):
    manifest, frame = records.manifest(run), records.read(run)
    units = f"{manifest['units_computed_last']} of {manifest['units']}"
    row = [manifest["corpus"], captions.stamp(frame), manifest["experiment"], frame["method"].nunique(), units]
    rows.append([*row, manifest["minutes_last"], manifest["jobs"], manifest["machine"]["cpu"]])
names = ["corpus", "made up", "experiment", "methods", "units", "minutes", "processes", "processor"]
print(pd.DataFrame(rows, columns=names).to_string(index=False))

# %% [markdown]
# ## The benchmarks
#
# Every row of every committed file. Times are medians of calls that took turns in one process; `cpu` is
# processor time over all threads. A benchmark on a busy machine says so in its load.

# %%
found = {path: json.loads(path.read_text()) for path in sorted(Path(benchmarks).glob("*.json"))}
for path, result in found.items():
    where = result["conditions"]
    print(f"{path.name}: {result['about']}")
    print(
        f"{where['device']}, {where['cpu']}, {where['threads']} threads, load {where['load_before']},",
        f"torch {where['packages']['torch']}",
    )
    print(pd.DataFrame(result["rows"]).T.to_string(header=False, float_format="{:.4g}".format))
    print()

# %% [markdown]
# ## One outer step against learn2learn
#
# Both compute the same loss and the same second-order gradients; the differences are in the rows above. The
# floors are what this machine's best matrix product and best memory read would take for the same work: what
# is left between them and the circle is all that could still be won.

# %% tags=["nbval-ignore-output"]
for path, result in found.items():
    if result["benchmark"] == "meta":
        frame = pd.DataFrame(result["rows"])
        shared = frame[frame["unique_clips"] < frame["episodes"] * (frame["shots"] + frame["query"])]
        where = result["conditions"]
        words = f"{where['device']}: {where['cpu']}, {where['threads']} threads"
        pdf, png = figures.save(figures.speed(shared, words), Path(f"../out/notebooks/figures/{path.stem}"))
        display(Image(png, width=560))
