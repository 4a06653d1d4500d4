# %% [markdown]
# # Does another upstream change the result?
#
# A personal model cannot learn what its upstream does not represent. This page runs methods of the main experiment, with
# its settings, on several upstreams. It asks how much the upstream changes the result, which of its layers are
# read, and whether it helps to adapt the layer weights to the listener too, which the paper leaves open.
#
# The listeners are real (EmoDB). The upstreams are a trained speech encoder, Whisper tiny.en, and two sets of features
# that no training made: log-mel spectra and the eGeMAPS descriptors.

# %% tags=["parameters"]
results = "../results/emodb"

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Image, Markdown, display

import perser

runs = perser.experiments.upstreams.in_order(list(map(perser.records.load, Path(results).glob("*/upstreams"))))
texts = []
for run in runs:
    rows = perser.comparison.rows(perser.comparison.largest(run), names=["log_loss"])
    rows = rows[(rows["setting"] == "unseen") & (rows["shots"] > 0)]
    best = rows.loc[rows["gain"].idxmax()]
    gain = perser.tables.interval_text(best["gain"], best["gain_low"], best["gain_high"], "+")
    texts.append(f"{run.title(best['method'])} {gain} on {perser.wording.upstream(run)}")
answer = f"The largest gain over SSL-E in log loss (hundredths of a nat, unseen clips) is that of {', '.join(texts)}."
display(Markdown(perser.wording.opening(answer, *runs)))

# %% [markdown]
# ## The table
#
# At the largest K. Compare the levels between upstreams, and gains and personal parts within an upstream. The best
# constant answer shows where an upstream carries so little that listening does not pay.

# %%
display(Markdown(perser.tables.markdown(*perser.experiments.upstreams.table(runs))))

# %% [markdown]
# Meta-PerSER against fine-tuning at the largest K, on each upstream:

# %%
for run in runs:
    scores = perser.scores.per_seed(run.records)
    rows = perser.statistics.compare_with(scores, perser.wording.ours(run), "fine-tuning")
    table, caption = perser.tables.comparison_table(run, rows), perser.tables.comparison_caption(run)
    display(Markdown(perser.tables.markdown(table, caption)))

# %% [markdown]
# ## The figure
#
# Open marks are gains over SSL-E on the same upstream, filled ones personal parts.

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.experiments.upstreams.figure(runs), "../out/notebooks/figures/upstreams")
display(Image(png, width=560, alt="Gain and personal part on every upstream"))

# %% [markdown]
# ## Where a gain in macro F1 comes from
#
# Macro F1 gives all classes the same weight, and a class that is never predicted scores zero. Listed are the classes
# that a method predicts for less than one clip in a hundred. Where SSL-E leaves out classes that a method brings back,
# right or wrong, a gain in macro F1 says little about the person.

# %%
table = []
for run in runs:
    classes = perser.records.classes(run.records)
    for method in perser.wording.methods(run):
        rows = run.records[run.records["method"] == method]
        rows = rows[rows["shots"] == rows["shots"].max()]
        predicted = {name: (rows[f"tp_{name}"] + rows[f"fp_{name}"]).sum() / rows["queries"].sum() for name in classes}
        rare = [name for name, share in predicted.items() if share < 0.01]
        table.append({"upstream": perser.wording.upstream(run), "method": run.title(method),
                      "classes left out": f"{len(rare)} of {len(classes)}", "which": ", ".join(rare) or "none"})
display(Markdown(perser.tables.plain(pd.DataFrame(table))))

# %% [markdown]
# ## Which layers are read
#
# The head reads a weighted sum of an upstream's layers. The weights are learned, positive and sum to one. Layer 0 is
# the input of the transformer. Upstreams of a single layer have no weights. The dashed line stands for equal weights.
# Mean and standard deviation over folds, groups and seeds.

# %%
for run in runs:
    layers = perser.experiments.upstreams.number_of_layers(run.learnt)
    print(f"{perser.wording.upstream(run)}: {perser.wording.count(layers, 'layer')}")
    if layers > 1:
        table = [{"method": run.title(method), **{f"layer {layer}": f"{mean:.3f} ± {deviation:.3f}"
                                                  for layer, (mean, deviation) in enumerate(weights.to_numpy())}}
                 for method, weights in perser.experiments.upstreams.layer_weights(run.learnt).items()]
        display(Markdown(perser.tables.plain(pd.DataFrame(table))))

# %% tags=["nbval-ignore-output"]
if figure := perser.experiments.upstreams.layers(runs):
    pdf, png = perser.figures.save(figure, "../out/notebooks/figures/layers")
    display(Image(png, width=560, alt="Weight of each layer by method"))

# %% [markdown]
# ## Should the layer weights adapt too?
#
# *Meta-PerSER, layers too* adapts a fifth tensor in the inner loop, the layer weights, with learned rates. It is
# compared with Meta-PerSER, whose layer weights are the same for all listeners, at the largest K. Below the table are
# its mean learned rates, where *mix* is the layer weights.

# %%
for path in sorted(Path(results).glob("*/layers")):
    run = perser.records.load(path)
    rows = perser.statistics.compare_with(perser.scores.per_seed(run.records), ["meta-perser-layers"], "meta-perser")
    table, caption = perser.tables.comparison_table(run, rows), perser.tables.comparison_caption(run)
    display(Markdown(perser.tables.markdown(table, caption)))
    rates = perser.experiments.steps.learned_rates(run.learnt)["meta-perser-layers"]
    rates = rates.rename_axis("tensor").reset_index().rename(columns=str)
    display(Markdown(perser.tables.plain(rates, 3)))

# %% [markdown]
# ## With other models
#
# Run the experiment once per upstream, then this page on the folder that contains the runs:
#
# ```bash
# perser run upstreams --corpus iemocap --root /path/to/IEMOCAP_full_release --upstream wavlm-base-plus \
#     --out out/iemocap/wavlm-base-plus/upstreams
# perser report out/iemocap/*/upstreams --out out
# python tools/notebooks.py execute 12 -p results=out/iemocap
# ```
