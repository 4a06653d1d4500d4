# %% [markdown]
# # The main result
#
# SSL-E, fine-tuning, MAML and Meta-PerSER on listeners who were never trained on, with K = 5, 10 and 20
# shots, on clips that other listeners' ratings have trained on (seen) and on clips of new sessions
# (unseen).
#
# By default this page shows **RAVDESS**: real speech; nobody's single ratings of it are published, so its
# listeners are **synthetic**, and everything below is stamped so.

# %% tags=["parameters"]
results = "../results/ravdess/logmel/main"

# %%
from pathlib import Path

from IPython.display import Image, Markdown, display

from perser import records
from perser.analysis import captions, claims, figures, intervals, study, tables
from perser.scores import SETTINGS, per_listener, per_seed

frame, manifest = records.read(Path(results)), records.manifest(Path(results))
print(captions.source(frame))
print("made up:", captions.labels(frame)["synthetic"] or "nothing")

# %% [markdown]
# ## The table

# %%
display(Markdown(tables.markdown(tables.main_table(frame), tables.main_caption(frame, manifest))))

# %% [markdown]
# ## Shots
#
# The bars are wide because listeners differ; methods are compared on the same listeners, so two methods may
# differ clearly although their bars overlap. The next figure shows that.

# %% tags=["nbval-ignore-output"]
pdf, png = figures.save(figures.shots(frame), Path("../out/notebooks/figures/shots"))
display(Image(png, width=560))

# %% [markdown]
# ## Who gains
#
# One column per listener: gain over SSL-E, which itself is the line at zero. Notice how many listeners lie
# below it.

# %%
scores = per_listener(frame)
most = int(scores["shots"].max())
for setting in SETTINGS:
    for method in dict.fromkeys(scores.loc[scores["shots"] == most, "method"]):
        gain = 100 * intervals.paired(scores, method, captions.BASELINE, setting, most)
        print(
            f"{setting:7} {captions.title(method):12} mean {gain.mean():+5.1f}, median {gain.median():+.1f},",
            f"listeners who lose {int((gain < 0).sum())} of {len(gain)}",
        )

# %% tags=["nbval-ignore-output"]
pdf, png = figures.save(figures.gains(frame), Path("../out/notebooks/figures/gains"))
display(Image(png, width=560))

# %% [markdown]
# ## Paired tests
#
# The same episodes for every method, so that each difference is paired by listener and seed. Fine-tuning is held
# against doing nothing, meta-learning against the best that does without it.

# %%
about = tables.comparisons_caption(frame, manifest, tables.LADDER)
display(Markdown(tables.markdown(tables.comparisons_table(study.ladder(per_seed(frame))), about)))

# %% [markdown]
# ## Accuracy of the first guess
#
# Macro F1 counts rare classes as much as common ones and rewards ticking the right number of classes. The
# share of clips whose most probable class the listener had ticked says it in plainer terms.

# %%
about = tables.main_caption(frame, manifest, score="accuracy")
display(Markdown(tables.markdown(tables.main_table(frame, score="accuracy"), about)))

# %% [markdown]
# ## What may be claimed
#
# Each claim with its effect in points of macro F1, its interval over listeners and its p-value under random
# signs, corrected for the number of claims (Holm). Claims that fail are printed like those that hold.

# %%
print("\n".join(claims.lines(claims.of_run(frame, Path(results)))))

# %% [markdown]
# ## What this does not show
#
# - Simulated listeners differ in the way that their model lets them; only a corpus with real listener ids can
#   say how much real ones gain: `./reproduce.sh full --corpus iemocap --root /path/to/IEMOCAP_full_release`.
# - The paper's rates, steps, K, draws and folds are not known here; what was chosen instead is in
#   `experiments/main.toml`.
