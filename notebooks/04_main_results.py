# %% [markdown]
# # The main result
#
# SSL-E, fine-tuning, MAML and Meta-PerSER on held-out listeners with K = 5, 10 and 20 shots, on clips whose ratings by
# other listeners were in the training set (seen) and on clips of new sessions (unseen).
#
# The default is **RAVDESS**. Its speech is real, but no ratings by individual listeners are published, so its listeners
# are **synthetic**, and all results are marked so.

# %% tags=["parameters"]
results = "../results/ravdess/logmel/main"

# %%
import perser
from IPython.display import Image, Markdown, display

run = perser.records.load(results)
print(perser.wording.source(run))
print("synthetic:", run.manifest.synthetic or "nothing")

# %% [markdown]
# ## The table

# %%
display(Markdown(perser.tables.markdown(perser.tables.score_table(run), perser.tables.score_caption(run))))

# %% [markdown]
# ## Shots
#
# The bars are wide because listeners differ. Methods are compared on the same listeners, so the difference between two
# methods can be clear even where their bars overlap. The next figure shows the differences.

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.experiments.shots.score_lines(run), "../out/notebooks/figures/shots")
display(Image(png, width=560))

# %% [markdown]
# ## Who gains
#
# One column per listener: the gain over SSL-E, which is the line at zero. Notice how many listeners lie below it.

# %%
scores, baseline = perser.scores.per_listener(run.records), perser.wording.baseline(run)
for setting in perser.scores.SETTINGS:
    shots = perser.statistics.most_shots(scores, setting)
    for method in dict.fromkeys(scores.loc[scores["shots"] == shots, "method"]):
        gain = 100 * perser.statistics.paired_difference(scores, method, baseline, setting, shots)
        print(f"{setting:7} {run.title(method):12} mean {gain.mean():+5.1f}, median {gain.median():+.1f},",
              f"{int((gain < 0).sum())} of {len(gain)} listeners lose")

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.experiments.main.gains(run), "../out/notebooks/figures/gains")
display(Image(png, width=560))

# %% [markdown]
# ## Paired tests
#
# All methods see the same episodes, so differences are paired by listener and seed. Fine-tuning is compared with SSL-E,
# and meta-learning with the best method without it.

# %%
display(Markdown(perser.tables.markdown(*perser.experiments.methods.ladder_table(run))))

# %% [markdown]
# ## Accuracy of the most probable class
#
# Macro F1 gives rare classes the weight of common ones and depends on how many classes are ticked. Accuracy is simpler:
# the share of clips whose most probable class the listener ticked.

# %%
table, caption = (make(run, score="accuracy") for make in (perser.tables.score_table, perser.tables.score_caption))
display(Markdown(perser.tables.markdown(table, caption)))

# %% [markdown]
# ## Claims
#
# Each claim is shown with its effect in points of macro F1, its interval over listeners, and its p-value under random
# signs, corrected for the number of claims (Holm). Claims that fail are printed like those that hold.

# %%
print("\n".join(perser.claims.lines(perser.claims.of_run(run, results))))

# %% [markdown]
# ## What this does not show
#
# - Simulated listeners differ only as their model lets them. How much real listeners gain can only be measured on a
#   corpus that identifies its listeners: `./reproduce.sh full --corpus iemocap --root /path/to/IEMOCAP_full_release`.
# - The paper's learning rates, steps, K, draws and folds are not known here. The choices made instead are in
#   `experiments/main.toml`, `experiments/shared.toml` and `experiments/tuned.toml`.
