# %% [markdown]
# # Does adaptation help, and is it personal?
#
# SSL-E, two simple methods, MAML, Meta-PerSER and Meta-PerSER-P on held-out listeners with K = 5, 10 and 20 shots, on
# clips whose ratings by other listeners were in the training set (seen) and on clips of new sessions (unseen).
#
# The default is **EmoDB**, rated by real people, through a real speech encoder, Whisper tiny.en. Where a run's speech
# or listeners are **synthetic**, all its tables and figures say so.
#
# Two numbers of each method matter. The *gain* is over SSL-E, the model for everybody. The *personal part* is what the
# listener's own shots give beyond somebody else's: the evidence that a method adapts to a person.

# %% tags=["parameters"]
results = "../results/emodb/whisper-tiny.en/main"

# %%
from IPython.display import Image, Markdown, display

import perser

run = perser.records.load(results)
display(Markdown(perser.wording.opening(perser.experiments.methods.answer(run), run)))

# %% [markdown]
# ## The verdicts
#
# At the largest K. *yes*: the interval is above zero and the p-value, corrected for the number of claims of its kind
# (Holm), at most 5 %. *(yes)*: only the correction fails. *harmless*: neither interval of the gain reaches below -0.3.
# Log loss is in hundredths of a nat, accuracy in points. Claims in the paper's macro F1 follow. Claims that fail are
# printed like those that hold.

# %%
display(Markdown(perser.claims.markdown(perser.claims.of_run(run, results))))

# %% [markdown]
# ## The table

# %%
display(Markdown(perser.tables.markdown(perser.tables.score_table(run), perser.tables.score_caption(run))))

# %% [markdown]
# ## Shots
#
# Gain to the left, personal part to the right. Methods are compared on the same listeners and seeds, so that
# differences between easy and hard listeners cancel.

# %% tags=["nbval-ignore-output"]
for setting in perser.scores.SETTINGS:
    figure = perser.experiments.shots.lines(run, setting)
    pdf, png = perser.figures.save(figure, f"../out/notebooks/figures/shots-{setting}")
    display(Image(png, width=560, alt="Gain and personal part by number of shots"))

# %% [markdown]
# ## All methods at the largest K
#
# Open marks are gains, filled ones personal parts. The best constant answer, which listens to nothing, is a control.

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.experiments.methods.forest(run), "../out/notebooks/figures/main")
display(Image(png, width=560, alt="Gain and personal part of every method in three scores"))

# %% [markdown]
# ## Who gains
#
# One column per listener in the figures. The table counts the listeners who lose against SSL-E.

# %%
rows = perser.comparison.rows(perser.comparison.largest(run))
rows = rows[(rows["shots"] > 0) & rows["gain"].notna()]
titles = {name: score.title for name, score in perser.scores.SCORES.items()}
lose = rows.assign(Method=rows["method"].map(run.title), lose=(rows["worse"] * rows["listeners"]).round().astype(int),
                   cell=rows["score"].map(titles) + ", " + rows["setting"])
display(Markdown(perser.tables.plain(lose.pivot_table("lose", "Method", "cell", sort=False).astype(int).reset_index())))

# %% tags=["nbval-ignore-output"]
for method in perser.wording.ours(run):
    figure = perser.experiments.main.gains(run, method)
    pdf, png = perser.figures.save(figure, f"../out/notebooks/figures/gains-{method}")
    display(Image(png, width=560, alt="Each listener's gain and personal part"))

# %% [markdown]
# ## Paired tests
#
# All methods see the same episodes, so differences are paired by listener and seed. Fine-tuning is compared with SSL-E,
# and meta-learning with the best method without it. p and interval come from one variance, in which both listeners and
# seeds are samples, so that they agree.

# %%
display(Markdown(perser.tables.markdown(*perser.experiments.methods.ladder_table(run))))

# %% [markdown]
# ## Every score, per listener and pooled
#
# A mean over listeners gives all the same weight. Pooled scores are of all answers together. Where the two differ in
# sign, a conclusion depends on the choice. Below each method stands what somebody else's shots give it.

# %%
display(Markdown(perser.tables.markdown(*perser.tables.levels_table(perser.comparison.largest(run)))))

# %%
levels = perser.comparison.levels(perser.comparison.largest(run))
names = [name for name in perser.scores.SCORES if name in levels]
for setting, part in levels[levels["shots_of"] == "own"].groupby("setting", sort=False):
    part = part.set_index("method")[names + [f"{name}_pooled" for name in names]]
    gains = part - part.loc[perser.wording.baseline(run)]
    turned = [f"{run.title(method)} in {perser.scores.SCORES[name].words}" for method in perser.wording.methods(run)
              for name in names if gains.loc[method, name] * gains.loc[method, f"{name}_pooled"] < 0]
    print(f"{setting} clips, differences to SSL-E whose sign the choice turns:", "; ".join(turned) or "none")

# %% [markdown]
# ## What this does not show
#
# - EmoDB's listeners rated acted speech of ten speakers. Other listeners and speech may differ. The same commands run
#   on IEMOCAP: `./reproduce.sh full --corpus iemocap --root /path/to/IEMOCAP_full_release`.
# - The paper's learning rates, steps, K, draws and folds are not known here. The choices made instead are in
#   `main.toml`, `shared.toml` and `tuned.toml` of `perser/experiments/`.
