# %% [markdown]
# # How far does one get without meta-learning?
#
# Meta-learning has to beat simpler methods before it is worth its cost. All methods below get the same K ratings of a
# held-out listener, and their settings are chosen on other listeners, the dev listeners.
#
# - **SSL-E**: one model for everybody. It ignores the K ratings.
# - **Prior shift**: SSL-E with one log-bias per class, which moves its mean prediction towards the K ratings.
# - **Last layer**, **Fine-tuning**: gradient steps from SSL-E. Fine-tuning chooses on the dev listeners between all
#   weights, the last layer, the biases and the output bias, together with learning rate and number of steps.
# - **From scratch**: the same head trained on the K ratings alone.
# - **Prototypes**: the nearest class mean in SSL-E's hidden layer, moved from the mean of all listeners towards that of
#   the K clips.
# - **Nearest listener**: the models of the training listeners whose predictions fit the K ratings best.
# - **Listener embedding**: a vector per listener, trained jointly with SSL-E. A new listener's is fitted to the K
#   ratings.
# - **All data**: the best of several adaptations to all other ratings of the listener, cross-validated. Nobody has
#   these ratings at the start. It shows what more ratings would bring.
# - Controls that listen to nothing: the **majority** of the shots, their **shares**, and the **best constant answer**,
#   chosen with the listener's test ratings in hand.
#
# Two corpora: EmoDB with its real listeners, and RAVDESS, real speech with **synthetic** listeners. No number here is
# the paper's.

# %% tags=["parameters"]
first = "../results/emodb/whisper-tiny.en"
second = "../results/ravdess/whisper-tiny.en"
search = "../results/search"

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Image, Markdown, display

import perser

runs = [perser.records.load(f"{folder}/methods") for folder in (first, second)]
answers = []
for run in runs:
    rows = perser.comparison.rows(perser.comparison.largest(run), names=["log_loss"])
    rows = rows[(rows["group"] == perser.wording.SIMPLE) & (rows["setting"] == "unseen")]
    best = rows.loc[rows["gain"].idxmax()]
    gain = perser.tables.interval_text(best["gain"], best["gain_low"], best["gain_high"], "+")
    answers.append(f"on {run.manifest.corpus} {run.title(best['method'])} goes furthest ({gain} hundredths of a nat "
                   f"over SSL-E on unseen clips, K = {best['shots']})")
answer = "; ".join(answers)
display(Markdown(perser.wording.opening(f"{answer[0].upper()}{answer[1:]}.", *runs)))

# %% [markdown]
# ## The tables
#
# At the largest K. Read the gains and the personal parts: what the listener's own shots give beyond somebody else's.
# They are paired by listener and seed, so differences between easy and hard listeners cancel. Notice which methods lose
# to SSL-E, which does not adapt at all, and in which score.

# %%
simple = []
for run in runs:
    chosen = [method for method in perser.wording.methods(run) if run.group(method) != perser.wording.META]
    simple.append(perser.comparison.of(run, chosen))
for run in map(perser.comparison.largest, simple):
    display(Markdown(perser.tables.markdown(perser.tables.score_table(run), perser.tables.score_caption(run))))

# %% [markdown]
# ## The same as a figure, at the largest K

# %% tags=["nbval-ignore-output"]
for run in simple:
    figure = perser.experiments.methods.forest(run)
    pdf, png = perser.figures.save(figure, f"../out/notebooks/figures/baselines-{run.manifest.corpus}")
    display(Image(png, width=560, alt="Gain and personal part of methods without meta-learning"))

# %% [markdown]
# ## The method to beat
#
# The method without meta-learning with the best mean for each corpus, setting, K and score. It is picked on the test
# listeners, which favours it, and others may lie within its interval. Gains over SSL-E with their 95 % intervals, the
# personal part, and what all of a listener's ratings would bring.

# %%
rows = []
for run in simple:
    numbers, scores = perser.comparison.rows(run), perser.scores.per_seed(run.records)
    cells = numbers.set_index(["method", "setting", "shots", "score"]).sort_index()
    combinations = numbers.loc[numbers["shots"] > 0, ["setting", "shots", "score"]].drop_duplicates()
    for setting, shots, name in combinations.itertuples(index=False):
        best = perser.experiments.methods.best_rival(run, scores, setting, shots, name)
        number = shots if (best, setting, shots, name) in cells.index else 0
        [bound] = perser.wording.methods(run, perser.wording.BOUND)
        places = (((best, setting, number, name), "gain"), ((best, setting, number, name), "personal"),
                  ((bound, setting, 0, name), "gain"))
        texts = (perser.tables.interval_text(*cells.loc[cell, [part, f"{part}_low", f"{part}_high"]], "+")
                 for cell, part in places)
        title = perser.scores.SCORES[name].title
        rows.append([run.manifest.corpus, setting, shots, title, run.title(best), *texts])
columns = ["corpus", "clips", "K", "score", "best method", "gain", "personal part", "gain of all data"]
display(Markdown(perser.tables.plain(pd.DataFrame(rows, columns=columns))))

# %% [markdown]
# ## How much of the gain is bias
#
# Prior shift knows nothing about what a listener hears in a voice. It only uses how often the K ratings tick each
# class. The difference to fine-tuning is what the sound of the K clips adds.

# %%
for run in simple:
    rows = perser.statistics.compare_with(perser.scores.per_seed(run.records), ["fine-tuning"], "prior-shift")
    table, caption = perser.tables.comparison_table(run, rows), perser.tables.comparison_caption(run)
    display(Markdown(perser.tables.markdown(table, caption)))

# %% [markdown]
# ## How the settings were chosen
#
# Settings that an experiment lists in a grid (learning rates, steps, masses) are chosen in each split on its dev
# listeners. The settings of a method's training (learning rates of meta-learning, sizes, epochs) were searched once
# with `perser search`, on listeners that no table shows. A method keeps its initial settings unless a trial beats them
# by more than the margin.
#
# A longer search gives a method more chances, so all methods have the same number of trials, or all combinations where
# their settings are lists. Meta-PerSER-X has half as many again for four times as many settings. SSL-E, last layer, from
# scratch, fine-tuning, prior shift, prototypes and Meta-PerSER-P have only their grids.
#
# *initial*: points of the initial settings. *first six*: of the best settings among the first six trials. *points*: of
# the settings that were kept, with the number of their trial. Points are minus the log loss in hundredths of a nat, the
# mean over settings and K. A test checks that the experiments use these settings.

# %%
settings = perser.records.sealed(Path(search) / "manifest.json", "restore it", "trials.csv")["search"]
trials = pd.read_csv(Path(search) / "trials.csv")
best = perser.statistics.best_trials(trials, settings["margin"])
early = perser.statistics.best_trials(trials[trials["trial"] < 6], settings["margin"])
print(f"margin: {settings['margin']} points")
table = pd.DataFrame({
    "method": best["method"].map(runs[0].title), "trials": best["trials"], "initial": best["first"],
    "first six": best["method"].map(early.set_index("method")["points"]), "points": best["points"],
    "trial": best["trial"] + 1, "settings": best["settings"].str.replace(r'[{}"]', "", regex=True)})
display(Markdown(perser.tables.plain(table, 2)))

# %% [markdown]
# ## What this does not show
#
# Simulated listeners have the biases and cues of their model: compare their personal parts with those of EmoDB's
# people. EmoDB's speech is acted, and its quadrants of valence and arousal are not the paper's classes.
