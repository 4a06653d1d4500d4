# %% [markdown]
# # The same methods on other upstreams
#
# What a personal model can learn is bounded by what its upstream hears. This page runs SSL-E, fine-tuning and
# Meta-PerSER on several upstreams and asks two things: how much the upstream changes the result, and which of its
# layers are read. Fine-tuning moves all weights here, and Meta-PerSER's settings are those that the longer search
# (notebook 05) began with, not yet those of the main experiment.
#
# **No trained speech model is part of this page.** Beside `logmel` it shows models of the three families with
# *random weights*: they have the form of wav2vec 2.0, HuBERT and WavLM, made small, and have learnt nothing
# (`tools/random_upstreams.py`). They go through the same code as the trained ones, and they are what a result
# has to beat before it owes anything to training. Speech and listeners are **synthetic**.

# %% tags=["parameters"]
results = "../results/synthetic"

# %%
from pathlib import Path

from IPython.display import Image, Markdown, display

from perser import captions, figures, records, study, tables

found = study.real_first({path: records.read(path) for path in Path(results).glob("*/upstreams")})
paths, frames = list(found), list(found.values())
for frame in frames:
    print(captions.upstream(frame))
    print("  ", captions.source(frame))
    print("   made up:", captions.labels(frame)["synthetic"] or "nothing")

# %% [markdown]
# ## The table
#
# Compare the columns *Seen* and *Unseen* between upstreams, and the gains within one. A gain on random weights
# owes nothing to training: the K ratings alone tell how often a listener ticks each class.

# %%
caption = tables.upstreams_caption(frames, [records.manifest(path) for path in paths])
display(Markdown(tables.markdown(tables.upstreams_table(frames), caption)))

# %% [markdown]
# ## The figure
#
# Ticking every class of every clip (dotted) is what a result has to be right of to be worth anything.

# %% tags=["nbval-ignore-output"]
pdf, png = figures.save(figures.upstreams(frames), Path("../out/notebooks/figures/upstreams"))
display(Image(png, width=560))

# %% [markdown]
# ## Why random weights gain so much
#
# Macro F1 counts every class alike, and a model that never predicts a class has nothing of it. Printed: the
# classes that a method predicts for less than one clip in a hundred. SSL-E on features that say little keeps to
# the commonest classes; descent on the K ratings brings the others back, right or wrong.

# %%
for frame in frames:
    print(captions.upstream(frame))
    for method in dict.fromkeys(frame["method"]):
        mine = frame[frame["method"] == method]
        mine = mine[mine["shots"] == mine["shots"].max()]
        shares = {name: (mine[f"tp_{name}"] + mine[f"fp_{name}"]).sum() / mine["queries"].sum()
                  for name in records.classes(frame)}
        rare = [name for name, share in shares.items() if share < 0.01]
        print(f"   {captions.title(method):12} leaves out {len(rare)} of {len(shares)}:", ", ".join(rare) or "none")

# %% [markdown]
# ## Which layers are read
#
# The head reads a weighted sum of an upstream's layers; the weights are positive, add up to one and are learnt.
# Layer 0 is what enters the transformer. `logmel` has a single layer, and so nothing to weigh. No random layer
# was made better than another: how far the weights stray from the dashed line here is how far they stray by
# themselves, and what trained layers have to exceed before a preference means anything. Mean and standard
# deviation over folds, groups and seeds.

# %%
learnt = {captions.upstream(frame): study.beside(path, "learnt") for path, frame in found.items()}
for name, rows in learnt.items():
    print(f"{name}: {captions.count(study.layers(rows), 'layer')}")
    if study.layers(rows) > 1:
        for method in (captions.BASELINE, *study.OURS):
            weights = study.layer_weights(rows, method)
            if len(weights):
                shown = (f"{mean:.3f} +- {spread:.3f}" for mean, spread in weights.to_numpy())
                print(f"   {captions.title(method):12}", *shown, sep="  ")

# %% tags=["nbval-ignore-output"]
layered = {name: rows for name, rows in learnt.items() if study.layers(rows) > 1}
made = captions.stamp(captions.together(frames))
if layered:
    pdf, png = figures.save(figures.layers(layered, made), Path("../out/notebooks/figures/layers"))
    display(Image(png, width=560))

# %% [markdown]
# ## With trained models
#
# One run per upstream, then this page on the folder that holds them:
#
# ```bash
# perser run upstreams --corpus iemocap --root /path/to/IEMOCAP_full_release --upstream wavlm-base-plus \
#     --out out/iemocap/wavlm-base-plus/upstreams
# perser report out/iemocap/*/upstreams --out out
# ```
