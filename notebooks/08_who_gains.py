# %% [markdown]
# # Which listeners gain, and why?
#
# A mean gain does not show who has it. A personal model should help listeners whom the general model serves badly:
# those who hear unlike the others, and do so consistently. This page shows how much listeners agree, who gains, and
# what the method has learned in order to serve them.
#
# On EmoDB with its real listeners, and on RAVDESS, real speech with **synthetic** listeners. Simulated listeners vary
# as their model lets them. Their results test the method and say nothing about people.

# %% tags=["parameters"]
first = "../results/emodb/whisper-tiny.en"
second = "../results/ravdess/whisper-tiny.en"
corpus = "synthetic"
root = "../data/synthetic"

# %%
import pandas as pd
from IPython.display import Image, Markdown, display

import perser

runs = [perser.records.load(f"{folder}/methods") for folder in (first, second)]
real = runs[0]
method = perser.wording.ours(real)[0]
gains = perser.experiments.listeners.gains_and_traits(real, method)
own = gains[(gains["setting"] == "unseen") & (gains["part"] == "gain")]["value"]
rows = perser.experiments.listeners.correlations(gains)
rows = rows[(rows["setting"] == "unseen") & (rows["given"] == "")]
texts = [f"{perser.comparison.PARTS[row.part].lower()} with {row.trait} {perser.experiments.listeners.rho_text(row)}"
         for row in rows.itertuples() if row.low > 0 or row.high < 0]
answer = (f"{real.title(method)} helps {int((own > 0).sum())} of {len(own)} real listeners on unseen clips; correlations "
          f"with their traits whose interval excludes zero: {', '.join(texts) or 'none'}.")
display(Markdown(perser.wording.opening(answer, *runs)))

# %% [markdown]
# ## How much listeners agree
#
# Cohen's kappa of two listeners over the clips that both rated: 1 means identical ratings, 0 agreement at chance.

# %%
loaded = perser.load_corpus(corpus, root)
stamp = perser.wording.synthetic_stamp(loaded.synthetic)
kappas = perser.agreement.kappa_table(loaded.ratings, loaded.classes)
values = kappas.stack()
print(f"{loaded.name} ({stamp or 'real listeners'}): {len(kappas)} listeners")
print(f"kappa of two listeners: mean {values.mean():.2f}, from {values.min():.2f} to {values.max():.2f}")

# %% tags=["nbval-ignore-output"]
figure = perser.experiments.listeners.agreement(kappas, stamp)
pdf, png = perser.figures.save(figure, "../out/notebooks/figures/agreement")
display(Image(png, width=560, alt="Agreement of any two listeners"))

# %% [markdown]
# ## Two traits of a listener
#
# *Distance*: how far a listener's ratings are from those of the other listeners of the same clips (total variation, 0
# to 1). *Consistency*: how much two ratings of one listener overlap on clips that the others rate alike. A listener can
# be far from the others and perfectly consistent. This is the listener whom K ratings can describe.

# %%
traits = perser.agreement.listener_traits(loaded.ratings, loaded.classes)
display(Markdown(perser.tables.plain(traits.head(12), 2)))

# %% [markdown]
# ## Gain and personal part against the traits
#
# Two marks per listener: the gain over SSL-E, and its personal part, what the listener's own shots give beyond somebody
# else's. If the interval of a correlation includes zero, a correlation has not been shown. The two traits
# are related: listeners far from the rest tend to be less consistent. The table therefore also has partial
# correlations, at equal ranks of the other trait.

# %%
published = [(run, perser.wording.ours(run)[0]) for run in runs]
for run, method in published:
    display(Markdown(perser.tables.markdown(*perser.experiments.listeners.traits_table(run, method))))

# %% tags=["nbval-ignore-output"]
for run, method in published:
    figure = perser.experiments.listeners.who(run, method)
    pdf, png = perser.figures.save(figure, f"../out/notebooks/figures/who-{method}-{run.manifest.corpus}")
    display(Image(png, width=560, alt="Each listener's gain against two traits"))

# %% [markdown]
# The same for all variants of Meta-PerSER: correlations whose interval excludes zero.

# %%
lines = []
for run in runs:
    for method in perser.wording.ours(run):
        gains = perser.experiments.listeners.gains_and_traits(run, method)
        rows = perser.experiments.listeners.correlations(gains)
        shown = rows[(rows["low"] > 0) | (rows["high"] < 0)]
        texts = [f"{perser.comparison.PARTS[row.part].lower()} with {row.trait}"
                 + (f" at equal {row.given}" if row.given else "") + f", {row.setting} clips ({row.rho:+.2f})"
                 for row in shown.itertuples()]
        lines.append(f"- **{run.manifest.corpus}, {run.title(method)}:** {'; '.join(texts) or 'none'}")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Who loses
#
# The listeners for whom SSL-E, or somebody else's shots, would have been better. In log loss (hundredths of a nat)
# where the run has it, else in macro F1. Where there are many of them, a personal model should be optional.

# %%
table = []
for run in runs:
    for method in perser.wording.ours(run):
        gains = perser.experiments.listeners.gains_and_traits(run, method)
        for (setting, part), gain in gains.groupby(["setting", "part"], sort=False)["value"]:
            table.append({"corpus": run.manifest.corpus, "clips": setting, "method": run.title(method),
                          "of": perser.comparison.PARTS[part].lower(), "listeners": len(gain),
                          "below zero": int((gain < 0).sum()), "median": gain.median(), "lowest": gain.min(),
                          "highest": gain.max()})
display(Markdown(perser.tables.plain(pd.DataFrame(table))))

# %% [markdown]
# ## What the inner loop has learned
#
# The learned rates show which part of the head is personal: tensors with a large rate change with the listener, those
# with a rate near zero are shared. The head is two linear maps, z = A(Px + b) + a. Compare the biases *b* and *a* with
# the maps *P* and *A*. A negative rate moves its tensor against the gradient step of the listener's loss.
#
# The largest K is shown. Meta-PerSER-X also learns by which power of K its rates grow. The inner loss is a mean, so
# without this a step on twenty ratings would be no longer than a step on five. A power above zero means that more
# ratings get longer steps.

# %%
table = []
for run in runs:
    powers = perser.experiments.steps.rates_by_shots(run.learnt).set_index("method")
    for method, rates in perser.experiments.steps.learned_rates(run.learnt).items():
        grows = [f"{row.mean:.2f} (sd {row.std:.2f})" for row in powers[powers.index == method].itertuples()]
        table.append({"corpus": run.manifest.corpus, "method": run.title(method),
                      "power of K": "".join(grows) or "none",
                      **{f"first step, {tensor}": f"{rate:+.3f}" for tensor, rate in rates.iloc[:, 0].items()}})
display(Markdown(perser.tables.plain(pd.DataFrame(table))))

# %% tags=["nbval-ignore-output"]
for run in runs:
    figure = perser.experiments.steps.rates(run)
    pdf, png = perser.figures.save(figure, f"../out/notebooks/figures/rates-{run.manifest.corpus}")
    display(Image(png, width=560, alt="Learned inner learning rates by tensor and step"))

# %% [markdown]
# Notebook 12 compares upstreams and shows which of their layers are read.
