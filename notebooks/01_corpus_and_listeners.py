# %% [markdown]
# # The corpus and its listeners
#
# Personal emotion recognition needs to know *who* gave each rating. This page counts clips, listeners and
# ratings and shows how much the listeners differ, since that is all a personal model can gain from.
#
# By default it shows the **embedded corpus**, which is **synthetic**: espeak-ng speaks and simulated
# listeners rate, written to disk in IEMOCAP's own format and read by the loader that reads IEMOCAP.

# %% tags=["parameters"]
corpus = "synthetic"
root = "../data/synthetic"

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Audio, Image, display

from perser import corpora
from perser.analysis import captions, figures

loaded = corpora.load(corpus, root)
counted = corpora.describe(loaded)
classes = list(loaded.classes)
made = captions.made_up(loaded.synthetic)
print(f"{loaded.name}: {made or 'real speech, real listeners'}")
for name in ("clips", "speakers", "listeners", "ratings", "ratings_without_class"):
    print(f"{name:>22} {counted[name]:6d}")
print(f"{'minutes of speech':>22} {counted['seconds']['sum'] / 60:6.1f}")

# %% [markdown]
# ## Who rates what
#
# Few listeners rate each clip, and not always the same ones. So for most clips a listener's opinion is
# unknown, and the aggregate of a clip depends on who happened to hear it.

# %%
ratings = loaded.ratings.merge(loaded.clips[["session"]], left_on="clip", right_index=True)
per_session = pd.crosstab(ratings["listener"], ratings["session"])
print("ratings of each listener in each session" + (", first 12" if len(per_session) > 12 else ""))
print(per_session.head(12).to_string())
print("listeners per clip:", *sorted(ratings.groupby("clip")["listener"].nunique().unique()))

# %% [markdown]
# ## How often each listener ticks each class
#
# Every row is one listener who has heard much the same clips as the others. Read down a column: the same
# emotion is common for one listener and unknown to the next. This is most of what twenty shots can teach.

# %%
shares = ratings.groupby("listener")[classes].mean()
print((100 * shares.describe().loc[["mean", "std", "min", "max"]]).round(0).astype(int).to_string())

# %% tags=["nbval-ignore-output"]
pdf, png = figures.save(figures.habits(shares, made), Path("../out/notebooks/figures/habits"))
display(Image(png, width=560))

# %% [markdown]
# ## Beside real listeners
#
# Simulated listeners are worth as much as their likeness to real ones. Beside them: 26 listeners of the
# WHiSER corpus with at least 200 labels each (computed from msplabresearch/WHiSER at 5850655). *Agreement*:
# how often a listener says what the plurality of the others says. *Kappa*: agreement of two listeners
# beyond chance.

# %%
names = {
    "neutral": "share of neutral",
    "ticks": "ticks per rating",
    "ticks_per_listener": "ticks, listener means",
    "agreement": "agreement",
    "kappa": "kappa of pairs",
}
rows = {
    (words, whose): found[key]
    for key, words in names.items()
    for whose, found in (("here", counted), ("real", counted.get("real_listeners", {})))
    if found.get(key)
}
print(pd.DataFrame(rows).T[["mean", "sd", "min", "max"]].astype(float).round(2).to_string(na_rep="-"))

# %% [markdown]
# ## One clip, several listeners
#
# The clips on which listeners agree least. Listen, decide for yourself, then read what they said.

# %%
votes = ratings.groupby("clip")[classes].mean()
split = (votes * (1 - votes)).sum(axis=1).sort_values(ascending=False, kind="stable").index[:3]
for clip in split:
    print(clip)
    for row in ratings[ratings["clip"] == clip].to_dict("records"):
        print(f"    {row['listener']}: {', '.join(name for name in classes if row[name]) or 'Other'}")

# %% tags=["nbval-ignore-output"]
for clip in split:
    display(Audio(filename=loaded.clips.loc[clip, "path"]))
