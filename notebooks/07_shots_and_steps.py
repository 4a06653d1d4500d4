# %% [markdown]
# # How many ratings, how many steps?
#
# Two choices of a user. How many clips must a new listener rate before adaptation pays, and does it hurt to take more
# inner steps than in training?
#
# On EmoDB with its real listeners and Whisper tiny.en; where a run's speech or listeners are **synthetic**, its tables
# and figures say so. All methods have the settings of the main result (notebooks 04 and 05).

# %% tags=["parameters"]
results = "../results/emodb/whisper-tiny.en"

# %%
from IPython.display import Image, Markdown, display

import perser

shots, steps = (perser.records.load(f"{results}/{name}") for name in ("shots", "steps"))
table, caption = perser.experiments.shots.pays_table(shots, perser.comparison.rows(shots))
pays = table.numbers[(table.numbers["score"] == "log_loss") & (table.numbers["part"] == "gain")]
texts = [f"{shots.title(method)} from {' and '.join(f'{number:.0f}' for number in part['pays_from'])}"
         for method, part in pays.dropna(subset="pays_from").groupby("method", sort=False)]
answer = f"In log loss adaptation pays from so many ratings on (seen and unseen clips): {'; '.join(texts)}."
display(Markdown(perser.wording.opening(answer, shots, steps)))

# %% [markdown]
# ## Shots
#
# Gain over SSL-E and personal part, what the listener's own shots give beyond somebody else's. Both are paired by
# listener and seed, where differences between listeners cancel.

# %% tags=["nbval-ignore-output"]
for setting in perser.scores.SETTINGS:
    figure = perser.experiments.shots.lines(shots, setting)
    pdf, png = perser.figures.save(figure, f"../out/notebooks/figures/all-shots-{setting}")
    display(Image(png, width=560, alt="Gain and personal part by number of shots"))

# %% [markdown]
# ## From how many ratings adaptation pays
#
# Gain and personal part of each method at every K, and the smallest K from which on the interval stays above zero.

# %%
display(Markdown(perser.tables.markdown(table, caption)))

# %% [markdown]
# ## Against methods without meta-learning
#
# A gain over SSL-E does not yet justify meta-learning. For each K, this is the difference between a meta-learning
# method and the best method without it in the same score, picked on the same listeners.

# %%
meta = perser.wording.methods(shots, perser.wording.META)
rows = perser.experiments.methods.ladder(shots, meta)
caption = perser.tables.comparison_caption(shots, perser.experiments.methods.AGAINST_BEST)
display(Markdown(perser.tables.markdown(perser.tables.comparison_table(shots, rows), caption)))

# %% [markdown]
# ## Inner steps
#
# The ring marks the number of steps in training. To its left the adaptation is stopped early. To its right the rates of
# the last step are reused.

# %% tags=["nbval-ignore-output"]
for setting in perser.scores.SETTINGS:
    figure = perser.experiments.steps.lines(steps, setting)
    pdf, png = perser.figures.save(figure, f"../out/notebooks/figures/steps-{setting}")
    display(Image(png, width=560, alt="Gain and personal part by number of inner steps"))

# %%
table, caption = perser.experiments.steps.table(steps), perser.experiments.steps.caption(steps)
display(Markdown(perser.tables.markdown(table, caption)))

# %% [markdown]
# ## Is the number of steps in training the best?
#
# For each method and score, the best other number of steps, as a paired difference to the number in training. The
# p-value is Holm-corrected over all numbers tried. The best number is picked on the test listeners, which favours it. A
# small difference says that nothing is lost by staying with the number in training.

# %%
rows = perser.experiments.steps.against_trained(steps)
best = rows.loc[rows.groupby(["score", "method", "setting"], sort=False)["mean"].idxmax()]
table = perser.experiments.steps.trained_table(steps, best)
display(Markdown(perser.tables.markdown(table, perser.tables.comparison_caption(steps))))
