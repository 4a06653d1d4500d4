# %% [markdown]
# # How far one gets without meta-learning
#
# Before meta-learning is worth its trouble it has to beat what is simple. Every method below gets the same K
# ratings of a listener who was never trained on, and every one has its settings chosen on other, dev
# listeners:
#
# - **SSL-E**: one model for everybody; it ignores the K ratings.
# - **Prior shift**: SSL-E with one log-bias per class, so that its mean answer moves to that of the K ratings.
# - **Last layer**, **Fine-tuning**: gradient steps from SSL-E; fine-tuning chooses between all weights, the last
#   layer, the biases and the output bias on the dev listeners, with its rate and steps.
# - **From scratch**: the same head with nothing but the K ratings.
# - **Prototypes**: the nearest class mean in SSL-E's hidden layer, moved from everybody's towards the K clips'.
# - **Nearest listener**: the models of the known listeners who answer the K clips most alike.
# - **Listener embedding**: a vector per listener trained along with SSL-E; a new listener's is fitted to the K.
# - **All data**: tuned on every other rating of the listener, cross-validated. Nobody has these ratings at the
#   start; it shows what more of them could bring.
#
# Two corpora: RAVDESS, real speech with **synthetic** listeners, and the embedded corpus, with **synthetic**
# speech and listeners. No number here is the paper's.

# %% tags=["parameters"]
first = "../results/ravdess/logmel"
second = "../results/synthetic/logmel"
search = "../results/search"

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Image, Markdown, display

from perser import records
from perser.analysis import captions, figures, intervals, study, tables
from perser.scores import SETTINGS, per_seed

runs = [Path(place) / "methods" for place in (first, second)]
frames = [records.read(run) for run in runs]
for frame in frames:
    print(captions.source(frame))
    print("made up:", captions.labels(frame)["synthetic"] or "nothing")

# %% [markdown]
# ## The tables
#
# Read the gains: they are paired by listener and seed, so that easy and hard listeners cancel out. Notice
# which of these methods lose to SSL-E, which does nothing at all.

# %%
simple = [frame[frame["method"].map(captions.group) != captions.GROUPS[1]] for frame in frames]
for run, frame in zip(runs, simple):
    caption = tables.methods_caption(frame, records.manifest(run))
    display(Markdown(tables.markdown(tables.methods_table(frame), caption)))

# %% [markdown]
# ## The same as a picture, at the largest K

# %% tags=["nbval-ignore-output"]
for number, frame in enumerate(simple):
    pdf, png = figures.save(figures.forest(frame), Path(f"../out/notebooks/figures/baselines-{number}"))
    display(Image(png, width=560))

# %% [markdown]
# ## Accuracy at the largest K
#
# The share of clips whose most probable class the listener had ticked. It asks for one class where macro F1 asks
# for the whole set, and the order of the methods need not be the same.

# %%
for run, frame in zip(runs, simple):
    most = frame[frame["shots"].isin([0, frame["shots"].max()])]
    caption = tables.methods_caption(most, records.manifest(run), score="accuracy")
    display(Markdown(tables.markdown(tables.methods_table(most, score="accuracy"), caption)))

# %% [markdown]
# ## The one to beat
#
# Per corpus, setting and K the method with the highest mean. It is picked on the test listeners, which
# favours it; others may lie within its interval. Beside it what all of a listener's data would bring. Gains over
# SSL-E with their 95 % intervals.

# %%
best = []
for frame in simple:
    scores = per_seed(frame)
    for setting in SETTINGS:
        bound = intervals.interval(100 * intervals.paired(scores, captions.UPPER, captions.BASELINE, setting, 0), 0)
        for shots in sorted(set(scores["shots"]) - {0}):
            name = study.best_baseline(scores, setting, shots)
            gain = intervals.interval(100 * intervals.paired(scores, name, captions.BASELINE, setting, shots), 0)
            row = [captions.labels(frame)["corpus"], setting, shots, captions.title(name)]
            best.append([*row, tables.text(*gain[:3], "+"), tables.text(*bound[:3], "+")])
names = ["corpus", "clips", "K", "best method", "gain", "gain of all data"]
print(pd.DataFrame(best, columns=names).to_string(index=False))

# %% [markdown]
# ## How much of it is mere bias
#
# Prior shift knows nothing of what a listener hears in a voice; it only counts how often each class was
# ticked. What fine-tuning adds to that is all that the K clips themselves have taught.

# %%
for frame in simple:
    scores, corpus = per_seed(frame), captions.labels(frame)["corpus"]
    found = intervals.compare(
        scores,
        [("fine-tuning", "prior-shift", setting, study.most_shots(scores, setting)) for setting in SETTINGS],
        seed=0,
    )
    print(corpus)
    print(tables.comparisons_table(found).cells.to_string(index=False))

# %% [markdown]
# ## How the settings were chosen
#
# Rates, steps, masses: from a grid in the experiment, in every split on its own dev listeners. What shapes a
# method's own training (meta-learning rates, sizes, epochs) was looked for once, by `perser search`, on
# corpora of other simulated listeners and, for the embedded corpus, other speech; the settings stay as they
# were unless a trial is clearly ahead there. *first*: points of the settings as they were, *points*: of those
# kept, a mean over corpora, settings and K. A test holds the experiments to this table.
#
# Whatever is looked for longer has had more chances, so every method has 66 trials, or every combination where its
# settings are lists, with one exception. Meta-PerSER-X has had 78, ten over twelve settings and 68 before them that
# shaped its space and are not kept. The table says what those chances are worth: from six trials to 66 Meta-PerSER, the
# listener embedding, ANIL and MAML++ found better settings, MAML, FOMAML and Reptile none; from three to 66 Meta-SGD
# did too. The embedding's best is its 23rd of 66, Meta-SGD's its 56th.
# SSL-E, last layer, fine-tuning, scratch, prior shift and prototypes have nothing but their grids. All data took the
# most steps that were tried, so that it may not be the bound it is called.

# %%
manifest = records.manifest(search)
found = study.found(pd.read_csv(Path(search) / "trials.csv"), manifest["search"]["margin"])
found = found.assign(method=found["method"].map(captions.title), settings=found["settings"].str.strip("{}"))
print(f"kept unless a trial is ahead by more than {manifest['search']['margin']} points")
found["commit"] = found["commit"].str[:10]
found = found[["method", "trials", "first", "points", "settings", "commit"]]
display(Markdown(found.to_markdown(index=False, floatfmt=".2f")))

# %% [markdown]
# ## What this does not show
#
# Simulated listeners have biases and cues that their model gave them. How much of a real listener is bias
# decides how strong prior shift is, and only a corpus with listener ids can say it.
