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

from perser import captions, figures, records, study, tables
from perser.scores import SETTINGS, per_seed

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
# For each method the gain at every K with its 95 % interval, and the smallest K from which on it stays above zero.

# %%
for run in shots:
    frame = records.read(run)
    gains = study.gains(per_seed(frame))
    print(captions.labels(frame)["corpus"])
    for setting in SETTINGS:
        mine = gains[gains["setting"] == setting].pivot(index="method", columns="shots", values=["mean", "low", "high"])
        for method in dict.fromkeys(gains["method"]):
            low = mine.loc[method, "low"].dropna()
            pays = next((str(k) for k in low.index if (low[low.index >= k] > 0).all()), "none")
            line = "  ".join(f"{k}: {tables.text(*(mine.loc[method, (name, k)] for name in ('mean', 'low', 'high')), '+')}"
                             for k in mine.loc[method, "mean"].dropna().index)
            print(f"  {setting:6} {captions.title(method):12} pays from K = {pays:4}  gain at {line}")

# %% [markdown]
# ## Against fine-tuning and its like
#
# A gain over SSL-E is not yet a reason for meta-learning. For each K: the difference between each meta-learning
# method and the best one without it, picked on these very listeners, with its interval and p (Holm, over all rows
# and those of the methods without meta-learning against SSL-E).
#
# Notice the left end: with a single rating MAML and the recipe as published are behind the best simple method on both
# corpora; Meta-PerSER-X, whose rates grow with K, is not.

# %%
for run in shots:
    frame = records.read(run)
    found = study.ladder(per_seed(frame))
    mine = found[found["method"].map(captions.group) == captions.GROUPS[1]]
    print(captions.labels(frame)["corpus"])
    print(tables.comparisons_table(mine).cells.to_string(index=False))

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
