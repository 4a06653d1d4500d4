# %% [markdown]
# # How much do listeners differ?
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
import json
from pathlib import Path

import pandas as pd
from IPython.display import Audio, Image, Markdown, display

import perser

loaded = perser.load_corpus(corpus, root)
description = perser.describe(loaded)
classes = list(loaded.classes)
stamp = perser.wording.synthetic_stamp(loaded.synthetic)
likeness = pd.DataFrame(json.loads(Path("../results/calibration/likeness.json").read_text())["rows"])
likeness["personal"] *= 100
people = likeness[(likeness["corpus"] == "emodb") & likeness["listeners"].str.startswith("people")]
answer = (f"Two listeners of this corpus agree with a kappa of {description['kappa']['mean']:.2f} on average, and 20 "
          f"of a real listener's ratings (EmoDB) predict the others by {people['personal'].min():.0f} to "
          f"{people['personal'].max():.0f} hundredths of a nat better than somebody else's 20.")
display(Markdown(f"**{answer}**\n\n- corpus {loaded.name}: {stamp or 'real speech, real listeners'}"))

# %%
counts = {name.replace("_", " "): description[name] for name in
          ("clips", "speakers", "listeners", "ratings", "ratings_without_class")}
counts["minutes of speech"] = round(description["seconds"]["sum"] / 60)
display(Markdown(perser.tables.plain(pd.DataFrame([counts]))))

# %% [markdown]
# ## Who rates what
#
# A clip is rated by a few listeners, and not always by the same ones. For most clips a given listener's rating is
# therefore unknown, and the aggregate label depends on who happened to rate the clip.

# %%
ratings = loaded.ratings.merge(loaded.clips[["session"]], left_on="clip", right_index=True)
per_session = pd.crosstab(ratings["listener"], ratings["session"])
print("Ratings per listener and session" + (", first 12 listeners" if len(per_session) > 12 else ""))
display(Markdown(perser.tables.plain(per_session.head(12).reset_index())))
print("Listeners per clip:", *sorted(ratings.groupby("clip")["listener"].nunique().unique()))

# %% [markdown]
# ## How often each listener ticks each class
#
# A row of the figure is one listener, and all rows cover much the same clips. Read down a column: the same emotion is
# common for one listener and rare for the next. Most of what twenty shots can teach is this bias.

# %%
shares = ratings.groupby("listener")[classes].mean()
print("Percent of a listener's ratings, over listeners")
over = shares.agg(["mean", "std", "min", "max"]).set_axis(["mean", "standard deviation", "least", "most"])
display(Markdown(perser.tables.plain((100 * over).rename_axis("over listeners").reset_index(), 0)))

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.experiments.listeners.habits(shares, stamp), "../out/notebooks/figures/habits")
display(Image(png, width=560, alt="How often each listener ticks each class"))

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
table = pd.DataFrame(rows).T[["mean", "sd", "min", "max"]].astype(float)
display(Markdown(perser.tables.plain(table.rename_axis(["what", "listeners"]).reset_index(), 2)))

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
display(Markdown(perser.tables.plain(likeness, 2)))
likeness = likeness.set_index(["listeners", "corpus"])
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
