# %% [markdown]
# # The same methods on other upstreams
#
# What a personal model can learn is bounded by what its upstream hears. This page runs SSL-E, fine-tuning and
# Meta-PerSER, with the settings of the main experiment, on several upstreams and asks three things: how much the
# upstream changes the result, which of its layers are read, and whether it helps when the weights of the layers adapt
# to the listener as well, which the paper leaves open.
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

from perser import records
from perser.analysis import captions, figures, study, tables
from perser.scores import per_seed

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
# owes nothing to training: the K ratings alone tell how often a listener ticks each class. Where the features say
# so little, no method reaches what ticking every class does, and Meta-PerSER is not ahead of fine-tuning: level with
# it on one random upstream, one and two points behind on the others.

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
        for method in study.WEIGHED:
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
# ## Should the layer weights adapt too?
#
# *Meta-PerSER, layers too* is the recipe with a fifth tensor in its inner loop, the layer weights, at learnt rates of
# their own. Against the recipe, whose layer weights are the same for every listener, at the largest K. Printed
# below: its mean learnt rates, *mix* those of the layer weights. On these layers it changes nothing, whatever the
# rates: no random layer knows what another does not. Only trained layers could answer the question.

# %%
for path in sorted(Path(results).glob("*/layers")):
    frame = records.read(path)
    pair = per_seed(frame[frame["method"].isin(["meta-perser", "meta-perser-layers"])])
    caption = tables.comparisons_caption(frame, records.manifest(path))
    display(Markdown(tables.markdown(tables.comparisons_table(study.against(pair, "meta-perser")), caption)))
    print(study.learnt_rates(study.beside(path, "learnt"), "meta-perser-layers").round(3).to_string())

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
