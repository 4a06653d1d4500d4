# %% [markdown]
# # How many ratings, how many steps
#
# Two choices of a user. How many clips must a new listener rate before adaptation pays, and does it hurt to take more
# inner steps than in training?
#
# On RAVDESS, real speech with **synthetic** listeners, and on the embedded corpus with **synthetic** speech and
# listeners. All methods have the settings of the main result (notebooks 04 and 05).

# %% tags=["parameters"]
first = "../results/ravdess/logmel"
second = "../results/synthetic/logmel"

# %%
import perser
from IPython.display import Image, Markdown, display

shots, steps = ([perser.records.load(f"{place}/{name}") for place in (first, second)] for name in ("shots", "steps"))
for run in [*shots, *steps]:
    print(f"{run.manifest.experiment}: {perser.wording.source(run)}")
    print("synthetic:", run.manifest.synthetic or "nothing")

# %% [markdown]
# ## Shots
#
# First the scores. Their bars are wide because listeners differ.

# %% tags=["nbval-ignore-output"]
for run in shots:
    figure = perser.experiments.shots.score_lines(run)
    pdf, png = perser.figures.save(figure, f"../out/notebooks/figures/all-shots-{run.manifest.corpus}")
    display(Image(png, width=560))

# %% [markdown]
# Then the gain over SSL-E, paired by listener and seed, where differences between listeners cancel.

# %% tags=["nbval-ignore-output"]
for run in shots:
    figure = perser.experiments.shots.gain_lines(run)
    pdf, png = perser.figures.save(figure, f"../out/notebooks/figures/shots-gained-{run.manifest.corpus}")
    display(Image(png, width=560))

# %% [markdown]
# ## From how many ratings adaptation pays
#
# The gain of each method over SSL-E at every K, and the smallest K from which on its interval stays above zero.

# %%
for run in shots:
    gains = perser.statistics.gains(perser.scores.per_seed(run.records), perser.wording.baseline(run))
    display(Markdown(perser.tables.markdown(*perser.experiments.shots.gains_table(run, gains))))

# %% [markdown]
# ## Against methods without meta-learning
#
# A gain over SSL-E does not yet justify meta-learning. For each K, this is the difference between a meta-learning
# method and the best method without it, picked on the same listeners. Notice the smallest K, where a method whose inner
# learning rates do not depend on K can be behind the best simple method.

# %%
for run in shots:
    rows = perser.experiments.methods.ladder(run)
    rows = rows[rows["method"].map(run.group) == perser.wording.META]
    caption = perser.tables.comparison_caption(
        run, perser.experiments.methods.AGAINST_BEST,
        "The correction also counts the rows of methods without meta-learning against SSL-E.")
    display(Markdown(perser.tables.markdown(perser.tables.comparison_table(run, rows), caption)))

# %% [markdown]
# ## Inner steps
#
# The ring marks the number of steps in training. To its left the adaptation is stopped early. To its right the rates of
# the last step are reused.

# %% tags=["nbval-ignore-output"]
for run in steps:
    figure = perser.experiments.steps.gains_by_step(run)
    pdf, png = perser.figures.save(figure, f"../out/notebooks/figures/steps-{run.manifest.corpus}")
    display(Image(png, width=560))

# %%
for run in steps:
    table, caption = perser.experiments.steps.table(run), perser.experiments.steps.caption(run)
    display(Markdown(perser.tables.markdown(table, caption)))

# %% [markdown]
# ## Is the number of steps in training the best?
#
# For each method, the best other number of steps, as a paired difference to the number in training. The p-value under
# random signs is Holm-corrected over all numbers tried. The best number is picked on the test listeners, which favours
# it. A small difference says that nothing is lost by staying with the number in training.

# %%
for run in steps:
    rows = perser.experiments.steps.against_trained(run)
    best = rows.loc[rows.groupby(["method", "setting"], sort=False)["mean"].idxmax()]
    print(run.manifest.corpus)
    print(perser.experiments.steps.trained_table(run, best).cells.to_string(index=False))
