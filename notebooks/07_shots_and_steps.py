# %% [markdown]
# # How many ratings, how many steps
#
# Two knobs that a user has. How many clips must a new listener rate before it pays, and does it hurt to take
# more inner steps than the model was trained with?
#
# On RAVDESS, real speech with **synthetic** listeners, and on the embedded corpus, **synthetic** speech and
# listeners. Every method has the settings of the main result (notebooks 04 and 05).

# %% tags=["parameters"]
first = "../results/ravdess/logmel"
second = "../results/synthetic/logmel"

# %%
from pathlib import Path

from IPython.display import Image, Markdown, display

from perser import records
from perser.analysis import captions, figures, study, tables
from perser.scores import per_seed

shots, steps = ([Path(place) / name for place in (first, second)] for name in ("shots", "steps"))
for run in [*shots, *steps]:
    frame = records.read(run)
    print(f"{captions.labels(frame)['experiment']}: {captions.source(frame)}")
    print("made up:", captions.labels(frame)["synthetic"] or "nothing")

# %% [markdown]
# ## Shots
#
# First the scores themselves: their bars are wide because listeners differ.

# %% tags=["nbval-ignore-output"]
for number, run in enumerate(shots):
    pdf, png = figures.save(figures.shots(records.read(run)), Path(f"../out/notebooks/figures/all-shots-{number}"))
    display(Image(png, width=560))

# %% [markdown]
# Then the gain over SSL-E, paired by listener and seed, in which that difference drops out.

# %% tags=["nbval-ignore-output"]
for number, run in enumerate(shots):
    drawn = figures.shots_gained(records.read(run))
    pdf, png = figures.save(drawn, Path(f"../out/notebooks/figures/shots-gained-{number}"))
    display(Image(png, width=560))

# %% [markdown]
# ## From how many ratings on it pays
#
# For each method the gain over SSL-E at every K, and the smallest K from which on its interval stays above zero.

# %%
for run in shots:
    frame = records.read(run)
    caption = tables.gains_caption(frame, records.manifest(run))
    display(Markdown(tables.markdown(tables.gains_table(study.gains(per_seed(frame))), caption)))

# %% [markdown]
# ## Against fine-tuning and its like
#
# A gain over SSL-E is not yet a reason for meta-learning. For each K: the difference between each meta-learning
# method and the best one without it, picked on these very listeners.
#
# Notice the left end: with a single rating MAML and the recipe as published are behind the best simple method on both
# corpora; Meta-PerSER-X, whose rates grow with K, is not.

# %%
for run in shots:
    frame = records.read(run)
    found = study.ladder(per_seed(frame))
    mine = found[found["method"].map(captions.group) == captions.GROUPS[1]]
    about = f"{tables.BEST} The correction counts the rows of methods without meta-learning against SSL-E too."
    caption = tables.comparisons_caption(frame, records.manifest(run), about)
    display(Markdown(tables.markdown(tables.comparisons_table(mine), caption)))

# %% [markdown]
# ## Inner steps
#
# The ring marks the number of steps that the method was trained with. Left of it the model is stopped
# early; right of it the last step's rates are used again.

# %% tags=["nbval-ignore-output"]
for number, run in enumerate(steps):
    drawn = figures.inner_steps(records.read(run), records.manifest(run))
    pdf, png = figures.save(drawn, Path(f"../out/notebooks/figures/steps-{number}"))
    display(Image(png, width=560))

# %%
for run in steps:
    frame, manifest = records.read(run), records.manifest(run)
    display(Markdown(tables.markdown(tables.steps_table(frame, manifest), tables.steps_caption(frame, manifest))))

# %% [markdown]
# ## Is the trained number the best?
#
# For each method trained with a number of steps: the number tried that does best beside it, as a paired difference
# to the trained one with its interval and its p under random signs, Holm-corrected over every number tried. The best
# is picked on the test listeners, so that it flatters itself; a small difference says that nothing is lost by keeping
# to what was trained.

# %%
for run in steps:
    frame, manifest = records.read(run), records.manifest(run)
    found = study.against_trained(frame, manifest)
    best = found.loc[found.groupby(["method", "setting"], sort=False)["mean"].idxmax()]
    print(captions.labels(frame)["corpus"])
    print(tables.trained_table(best).cells.to_string(index=False))
