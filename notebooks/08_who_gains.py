# %% [markdown]
# # Who gains
#
# A mean gain hides who has it. A personal model should help the listener whom everybody's model serves
# badly: one who hears unlike the others, and does so consistently. This page looks at how much listeners
# agree, who gains, and what the method has learnt in order to serve them.
#
# On RAVDESS, real speech with **synthetic** listeners, and on the embedded corpus, **synthetic** speech and
# listeners. Simulated listeners vary as their model lets them: what is found here is a test of the method, not
# a finding about people.

# %% tags=["parameters"]
first = "../results/ravdess/logmel"
second = "../results/synthetic/logmel"
corpus = "synthetic"
root = "../data/synthetic"

# %%
from pathlib import Path

import numpy as np
from IPython.display import Image, Markdown, display

from perser import corpora, records
from perser.analysis import captions, figures, study, tables
from perser.scores import per_seed
from perser.corpora.agreement import agreement, traits

runs = [Path(place) / "methods" for place in (first, second)]
frames = [records.read(run) for run in runs]
for frame in frames:
    print(captions.source(frame))
    print("made up:", captions.labels(frame)["synthetic"] or "nothing")

# %% [markdown]
# ## How much listeners agree
#
# Cohen's kappa of every two listeners over the clips that both rated: 1 is always the same answer, 0 is what
# chance gives.

# %%
loaded = corpora.load(corpus, root)
kappas = agreement(loaded.ratings, loaded.classes)
print(f"{loaded.name} ({captions.made_up(loaded.synthetic) or 'real listeners'}): {len(kappas)} listeners,")
print(f"kappa of two: mean {np.nanmean(kappas):.2f}, from {np.nanmin(kappas):.2f} to {np.nanmax(kappas):.2f}")

# %% tags=["nbval-ignore-output"]
drawn = figures.agreement(kappas, captions.made_up(loaded.synthetic))
pdf, png = figures.save(drawn, Path("../out/notebooks/figures/agreement"))
display(Image(png, width=560))

# %% [markdown]
# ## Two traits of a listener
#
# *Distance*: how far a listener's ratings lie from those of the others of the same clips (total variation, 0
# to 1). *Consistency*: how much two ratings of one listener overlap on clips that the others hear alike. A
# listener may be far from the others and perfectly consistent: that is the one whom K ratings can teach.

# %%
print(traits(loaded.ratings, loaded.classes).head(12).round(2).to_string(index=False))

# %% [markdown]
# ## Gain against the traits
#
# One dot per listener. A correlation whose interval includes zero has not been shown. The two traits run against each
# other: who is far from the rest is as a rule less consistent. So each is also held against the gain among
# listeners who are alike in the other.
#
# On RAVDESS the listeners who are far from the others gain more, and do so at equal consistency too. That the
# consistent ones gain most, as the top of this page would have it, is not borne out: they gain less, and at equal
# distance nothing is left of that either. Of the six listeners of the embedded corpus the consistent ones gain least,
# at equal distance as well; six are too few to take that p-value, or an interval without width, at its word.

# %%
for run, frame in zip(runs, frames):
    scores = per_seed(frame)
    for method in study.ours(scores):
        found = study.correlations(study.gains_and_traits(scores, study.beside(run, "listeners"), method))
        caption = tables.traits_caption(frame, records.manifest(run), method)
        display(Markdown(tables.markdown(tables.traits_table(found), caption)))

# %% tags=["nbval-ignore-output"]
for run, frame in zip(runs, frames):
    scores, name = per_seed(frame), captions.labels(frame)["corpus"]
    for method in study.ours(scores):
        found = study.gains_and_traits(scores, study.beside(run, "listeners"), method)
        drawn = figures.who(found, method, captions.stamp(frame))
        pdf, png = figures.save(drawn, Path(f"../out/notebooks/figures/who-{method}-{name}"))
        display(Image(png, width=560))

# %% [markdown]
# ## Who loses
#
# The listeners for whom SSL-E alone would have been better. Where their number is large, a personal model
# should be offered, not imposed.

# %%
for run, frame in zip(runs, frames):
    scores = per_seed(frame)
    for method in study.ours(scores):
        found = study.gains_and_traits(scores, study.beside(run, "listeners"), method)
        for setting, mine in found.groupby("setting", sort=False):
            print(
                f"{captions.labels(frame)['corpus']:10} {setting:7} {captions.title(method):15}",
                f"lose {int((mine['gain'] < 0).sum())} of {len(mine)}, gain: median {mine['gain'].median():+.1f},",
                f"least {mine['gain'].min():+.1f}, most {mine['gain'].max():+.1f}",
            )

# %% [markdown]
# ## What the inner loop has learnt
#
# The learnt rates say which part of the head is personal: what has a large rate belongs to the listener, what
# has none to everybody. The head is two linear maps, z = A(Px + b) + a. Notice the two biases *b* and *a*
# beside the two maps *P* and *A*. A rate below zero moves its tensor against the listener's own gradient.
#
# Shown is the largest K. Meta-PerSER-X learns besides by which power of K its rates grow: the inner loss is a mean, so
# that a step takes twenty ratings no more seriously than five. Notice that the power is above zero: more ratings earn
# longer steps.

# %%
for run, frame in zip(runs, frames):
    for method, table in study.rates_that_differ(study.beside(run, "learnt")).items():
        first_step = table.iloc[:, 0]
        print(
            f"{captions.labels(frame)['corpus']:10} {captions.title(method):15} first step:",
            ", ".join(f"{tensor} {rate:.3f}" for tensor, rate in first_step.items()),
        )
    for row in study.rates_by_shots(study.beside(run, "learnt")).itertuples():
        print(f"{captions.labels(frame)['corpus']:10} {captions.title(row.method):15}",
              f"power of K: {row.mean:.2f}, sd {row.std:.2f} over models")

# %% tags=["nbval-ignore-output"]
for run, frame in zip(runs, frames):
    name = captions.labels(frame)["corpus"]
    drawn = figures.rates(study.beside(run, "learnt"), captions.stamp(frame))
    pdf, png = figures.save(drawn, Path(f"../out/notebooks/figures/rates-{name}"))
    display(Image(png, width=560))

# %% [markdown]
# Which layers of an upstream are read is on page 12, beside the comparison of upstreams.
