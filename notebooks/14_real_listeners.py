# %% [markdown]
# # Real listeners, and whether it is personal at all
#
# All other pages show simulated listeners or log-mel features. This one shows 36 **real people** who rated EmoDB's
# emotional speech for valence and arousal (four quadrants), through a real pre-trained speech encoder, Whisper tiny.en.
# It asks of every method: does it help *this* listener, or would anybody's shots have done the same?
#
# A gain over SSL-E has two parts. *Drift* is what somebody else's shots give: a change of the general model that has
# nothing to do with the person. The *personal part* is what the listener's own shots give beyond that. Only the
# personal part is evidence of personalisation.

# %% tags=["parameters"]
results = "../results/emodb/whisper-tiny.en/people"

# %%
from pathlib import Path

import perser
from IPython.display import Image, Markdown, display

run = perser.records.load(Path(results))
print(perser.wording.source(run))
print("synthetic:", run.manifest.synthetic or "nothing")

# %% [markdown]
# ## The answer
#
# At the largest number of shots: which methods have a personal part whose interval is above zero in both settings, and
# which of them lose nothing against SSL-E.

# %%
rows = perser.experiments.personal.rows(run)
rows = rows[~rows["method"].isin(perser.wording.methods(run, perser.wording.CONTROL))]
most = rows[rows["shots"] == rows.groupby("setting")["shots"].transform("max")]
personal = most.groupby("method", sort=False)["personal_log_loss_low"].min() > 0
harmless = most.groupby("method", sort=False)["gain_log_loss_low"].min() > -0.3
print("personal part of the log loss above zero on seen and unseen clips:",
      ", ".join(run.title(method) for method in personal[personal].index) or "none")
print("and not worse than SSL-E by more than 0.3:",
      ", ".join(run.title(method) for method in personal[personal & harmless].index) or "none")

# %% [markdown]
# ## The table
#
# Log loss is in hundredths of a nat. Positive gains and positive personal parts are better. The two controls listen to
# nothing: they answer all clips alike, from the shares of the classes in the shots.

# %%
display(Markdown(perser.tables.markdown(*perser.experiments.personal.tables(run)["personal"])))

# %% [markdown]
# ## The figure
#
# Where the square (gain) and the dot (personal part) agree, the gain is personal. Where the dot is right of the square,
# the method also changes the general model for the worse, which eats part of what is personal.

# %%
pdf, png = perser.figures.save(perser.experiments.personal.figure(run), "../out/notebooks/figures/personal")

# %% tags=["nbval-ignore-output"]
display(Image(png, width=900))

# %% [markdown]
# ## The score decides what is seen
#
# The paper's score is the macro F1 of a threshold rule, which gives rare classes the same weight as common ones. By this
# score the order is nearly the reverse. Gains over SSL-E in points, at the largest number of shots:

# %%
gains = perser.statistics.gains(perser.scores.per_seed(run.records), perser.wording.baseline(run), largest=True)
gains = gains[gains["method"].isin(most["method"])]
print(gains.pivot(index="method", columns="setting", values="mean").round(1).to_string())

# %% [markdown]
# ## How much is there to win?
#
# *All data* is SSL-E fine-tuned on all other ratings of the listener, cross-validated: what many more labels would give.
# The kept epoch of meta-training is 0 where training did not help on the development listeners.

# %%
bound = perser.wording.methods(run, perser.wording.BOUND)
columns = ["method", "setting", "gain_accuracy", "gain_log_loss"]
print(most[most["method"].isin(bound)][columns].round(1).to_string(index=False))
start = run.learnt["value"].eq(0)[run.learnt["tensor"] == "epoch"].groupby(run.learnt["method"], sort=False).mean()
print((100 * start).round().astype(int).rename("splits at epoch 0, %").to_string())
