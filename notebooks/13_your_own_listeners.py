# %% [markdown]
# # Your own listeners: whom does a personal model help?
#
# A team has clips, and a CSV of who heard what. Is a model of each listener worth it, and for whom? One command
# answers:
#
#     perser personalise ratings.csv clips --out out/team
#
# This page shows its answer for 36 **real people**, who rated EmoDB's speech for valence and arousal, and then does the
# same from Python with a small table, made here, of **synthetic** listeners. The CSV has a row per rating:
#
#     clip,listener,label
#     03a01Fa.wav,L03,positive aroused
#
# A label may name several classes, with `;` between them. `perser show --help` has all that the table may hold.

# %% tags=["parameters"]
record = "../results/team/emodb.json"

# %% [markdown]
# ## The answer for EmoDB's listeners
#
# The record is what the command wrote, without the models (`python tools/team_record.py --root /path/to/EmoDB`).

# %%
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, Markdown, display

import perser

told = json.loads(Path(record).read_text())
table = pd.DataFrame(told["listeners"])
better, all_of = (table["verdict"] == perser.verdicts.BETTER).sum(), told["team"]
display(Markdown(
    f"**With {told['shots']} ratings, a personal model is better for {better} of {len(table)} listeners, and the team's "
    f"accuracy on new clips goes from {all_of['general']['mean']:.1f} % to {all_of['personal']['mean']:.1f} %.**\n\n"
    f"- corpus {told['corpus']}, upstream {told['upstream']}; synthetic: {told['synthetic'] or 'nothing'}"))

# %% [markdown]
# ## What was understood
#
# The command first says what it read and how it will test. A typing error shows here, or is refused with its line.

# %%
print("\n".join(told["understood"]))

# %% [markdown]
# ## The verdict on each listener
#
# *general*: accuracy in per cent of one model for everybody, trained without this listener, on clips of speakers it
# never heard. *personal*: the same model after it has adapted to the listener's ratings. *other*: adapted to somebody
# else's. *gain*: log loss. The rules stand in `perser/analysis/verdicts.py`. Whoever is not told *better* keeps the
# general model.

# %%
print("\n".join(perser.verdicts.lines(table, told["shots"])))

# %% tags=["nbval-ignore-output"]
figure = perser.figures.helped(table, told["shots"], told["synthetic"])
pdf, png = perser.figures.save(figure, "../out/notebooks/figures/helped")
display(Image(png, width=480, alt="Each listener's gain with its interval"))

# %% [markdown]
# ## How many ratings does it take?
#
# Mean over listeners, by the number of ratings that the model adapts to (0: the general model).

# %%
curve = pd.DataFrame(told["curve"]).pivot(index="shots", columns="shots_of", values="hit")
curve = 100 * curve[["general", "own", "other"]].set_axis(["general model", "own ratings", "somebody else's"], axis=1)
display(Markdown(perser.tables.plain(curve.rename_axis("ratings").reset_index())))

# %% [markdown]
# ## The same with your own data
#
# Here the data are made: features of 90 clips (audio works as well: give its folder) and the **synthetic** ratings of
# eight listeners. Six hear alike, with a few slips, one takes happy for sad and sad for happy, one ticks at random.

# %%
draw, classes = np.random.default_rng(0), np.array(["happy", "neutral", "sad"])
clips, truth = [f"clip{i}.wav" for i in range(90)], draw.integers(3, size=90)
features = draw.normal(size=(90, 4)) + 3 * np.eye(3, 4)[truth]
rows = []
for name in ("Ann", "Ben", "Cem", "Dua", "Eve", "Fay", "swaps", "random"):
    slips = draw.random(90) < (1 if name == "random" else 0.1)
    heard = np.where(slips, draw.integers(3, size=90), 2 - truth if name == "swaps" else truth)
    rows += [(clip, name, classes[kind]) for clip, kind in zip(clips, heard)]
ratings = pd.DataFrame(rows, columns=["clip", "listener", "label"])
print("synthetic listeners")
display(Markdown(perser.tables.plain(ratings.sample(4, random_state=0))))

# %% [markdown]
# `verdicts` tests as the command does, and writes the same folder, with `report.html` to open in a browser. A path in
# place of the DataFrame, and one in place of the array, do the same.

# %%
model = perser.Personaliser(settings=("base.hidden=8", "base.lr=0.02", "shots=[5, 10]", "draws=5"))
with tempfile.TemporaryDirectory() as folder:
    judged = model.verdicts(ratings, features, Path(folder, "team"), clips)
    print("written:", ", ".join(sorted(path.name for path in Path(folder, "team").iterdir())))
shown = judged[["listener"]].assign(general=100 * judged["general"], personal=100 * judged["personal"],
                                    verdict=judged["verdict"].str.partition(":")[0])
display(Markdown(perser.tables.plain(shown, 0)))

# %% [markdown]
# ## A new listener
#
# `fit` trains the general model on everybody. A newcomer, Gil, takes neutral for sad and sad for neutral, and rates 20
# clips. Gil's other 70 ratings show what `adapt` is worth.

# %%
gil = pd.DataFrame({"clip": clips, "label": classes[np.array([0, 2, 1])[truth]]})
model.fit(ratings, features, clips)
print(f"general model: {model.score(gil[20:]):.0%} of Gil's ratings")
model.adapt(gil[:20])
print(f"Gil's model:   {model.score(gil[20:]):.0%}")

# %% [markdown]
# ## Keep it
#
# The file holds Gil's model, no ratings and no audio. `perser predict` reads it too.

# %%
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder, "gil.safetensors"))
    again = perser.Personaliser.load(Path(folder, "gil.safetensors"))
print("heard by most:", *classes[truth[:5]])
print("by Gil:       ", *again.predict(features[:5]))
