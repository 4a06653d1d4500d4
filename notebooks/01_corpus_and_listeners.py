# %% [markdown]
# # The corpus and its listeners
#
# Personal emotion recognition needs to know *who* gave each rating. This page counts clips, listeners and ratings, and
# shows how much the listeners differ. A personal model can gain nothing else.
#
# The default is the **embedded corpus**, which is **synthetic**: espeak-ng speaks and simulated listeners rate. It is
# stored in IEMOCAP's format and read by the loader that reads IEMOCAP.

# %% tags=["parameters"]
corpus = "synthetic"
root = "../data/synthetic"

# %%
from pathlib import Path

import pandas as pd
import perser
from IPython.display import Audio, Image, display

loaded = perser.load_corpus(corpus, root)
description = perser.describe(loaded)
classes = list(loaded.classes)
stamp = perser.wording.synthetic_stamp(loaded.synthetic)
print(f"{loaded.name}: {stamp or 'real speech, real listeners'}")
for name in ("clips", "speakers", "listeners", "ratings", "ratings_without_class"):
    print(f"{name:>22} {description[name]:6d}")
print(f"{'minutes of speech':>22} {description['seconds']['sum'] / 60:6.1f}")

# %% [markdown]
# ## Who rates what
#
# A clip is rated by a few listeners, and not always by the same ones. For most clips a given listener's rating is
# therefore unknown, and the aggregate label depends on who happened to rate the clip.

# %%
ratings = loaded.ratings.merge(loaded.clips[["session"]], left_on="clip", right_index=True)
per_session = pd.crosstab(ratings["listener"], ratings["session"])
print("ratings per listener and session" + (", first 12 listeners" if len(per_session) > 12 else ""))
print(per_session.head(12).to_string())
print("listeners per clip:", *sorted(ratings.groupby("clip")["listener"].nunique().unique()))

# %% [markdown]
# ## How often each listener ticks each class
#
# A row of the figure is one listener, and all rows cover much the same clips. Read down a column: the same emotion is
# common for one listener and rare for the next. Most of what twenty shots can teach is this bias.

# %%
shares = ratings.groupby("listener")[classes].mean()
print("percent of a listener's ratings, over listeners")
print((100 * shares.describe().loc[["mean", "std", "min", "max"]]).round(0).astype(int).to_string())

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.experiments.listeners.habits(shares, stamp), "../out/notebooks/figures/habits")
display(Image(png, width=560))

# %% [markdown]
# ## Compared with real listeners
#
# Simulated listeners are useful as far as they resemble real ones. The rows marked *real* are 26 listeners of the
# WHiSER corpus with at least 200 labels each (computed from msplabresearch/WHiSER at 5850655). *Agreement*: how often a
# listener gives the label that most others give. *Kappa*: the agreement of two listeners beyond chance.

# %%
names = {"neutral": "share of neutral", "ticks": "ticks per rating", "ticks_per_listener": "ticks, listener means",
         "agreement": "agreement", "kappa": "kappa of pairs"}
sources = {"here": description, "real": description.get("real_listeners", {})}
rows = {(title, origin): numbers[key] for key, title in names.items() for origin, numbers in sources.items()
        if numbers.get(key)}
print(pd.DataFrame(rows).T[["mean", "sd", "min", "max"]].astype(float).round(2).to_string(na_rep="-"))

# %% [markdown]
# ## Calibrated to real listeners
#
# Three numbers, of 51 people who rated EmoDB and of simulated listeners. *Personal*: hundredths of a nat that the class
# shares of 20 of a listener's own ratings are worth more than those of somebody else's 20, for predicting the
# listener's other ratings. *Agreement*: of two listeners on the same clip. *Retest*: of a listener who rates a clip
# twice, the noise ceiling. Both are beyond chance: 0 for any two ratings, 1 for equal ones.
#
# The simulation follows EmoDB's development listeners. Before, simulated listeners differed far more than people do,
# agreed less and repeated themselves more. *Here*: the corpus of this page.

# %%
import json

likeness = pd.DataFrame(json.loads(Path("../results/calibration/likeness.json").read_text())["rows"])
likeness["personal"] *= 100
likeness = likeness.set_index(["listeners", "corpus"])
print(likeness.round({"personal": 1, "agreement": 2, "retest": 2}).to_string())
people, before, now = (likeness.loc[name, ["personal", "agreement", "retest"]]
                       for name in ("people, development", "simulated before", "simulated"))
for title, simulated in (("before", before), ("now", now)):
    ratio = simulated / people.loc["emodb"]
    print(f"{title}, times the development listeners':",
          ", ".join(f"{name} {ratio[name].min():.2f} to {ratio[name].max():.2f}" for name in ratio))
print("here:", ", ".join(f"{name} {value}" for name, value in description["likeness"].items()))

# %% [markdown]
# ## One clip, several listeners
#
# These are the clips on which listeners agree least. Listen, decide for yourself, then compare with their ratings.

# %%
votes = ratings.groupby("clip")[classes].mean()
disputed = (votes * (1 - votes)).sum(axis=1).sort_values(ascending=False, kind="stable").index[:3]
for clip in disputed:
    print(clip)
    for rating in ratings[ratings["clip"] == clip].to_dict("records"):
        print(f"    {rating['listener']}: {', '.join(name for name in classes if rating[name]) or 'Other'}")

# %% tags=["nbval-ignore-output"]
for clip in disputed:
    display(Audio(filename=loaded.clips.loc[clip, "path"]))
