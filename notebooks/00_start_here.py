# %% [markdown]
# # Start here
#
# Two people who hear the same voice do not hear the same emotion. This artifact is an independent implementation of
# **Meta-PerSER** (arXiv 2505.16220), a speech emotion recogniser that adapts to *one* listener from 5 to 20 clips that
# this listener has labelled. It is for readers who want to check the result, use the method, or compare their own
# method with it.
#
# - **SSL-E** is one model for everybody: it predicts what listeners say on average.
# - **Fine-tuning** adapts SSL-E to a new listener with K labelled clips ("shots").
# - **MAML** trains the initialisation so that this adaptation works well.
# - **Meta-PerSER** adds combined-set meta-training, derivative annealing, and a learned rate for every layer and step.
#
# All results below are computed from the records of a finished run when the page is executed. None is typed.

# %% tags=["parameters"]
results = "../results/emodb/whisper-tiny.en/main"

# %% [markdown]
# ## What was run
#
# The records state which data they come from. Synthetic data is marked *synthetic* here, in every caption and in every
# figure.

# %%
import perser
from IPython.display import Image, Markdown, display

run = perser.records.load(results)
print(perser.wording.source(run))
print("synthetic:", run.manifest.synthetic or "nothing")
print("records:", len(run.records))

# %% [markdown]
# ## The main figure
#
# The gain over SSL-E on held-out listeners, and the part of it that is *personal*: what the listener's own shots give
# beyond somebody else's. *Seen*: other listeners' ratings of the same clips were in the training set. *Unseen*: new clips
# by new speakers.

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.experiments.methods.forest(run), "../out/notebooks/figures/start")
display(Image(png, width=560))

# %% [markdown]
# ## The main table
#
# Gains and personal parts are paired by listener, so differences between easy and hard listeners cancel. If an interval
# includes zero, nothing has been shown.

# %%
display(Markdown(perser.tables.markdown(perser.tables.score_table(run), perser.tables.score_caption(run))))

# %% [markdown]
# ## What it takes
#
# | command | two cores, no GPU |
# |---|---|
# | `./reproduce.sh`: set-up, speech model, corpus, its main run, tables, notebooks | about 10 minutes the first time |
# | `./reproduce.sh report`: tables, figures and notebooks from the committed records | a few minutes |
# | `./reproduce.sh full --corpus iemocap --root /path/to/IEMOCAP_full_release` | minutes to hours |
#
# ## Where to go next
#
# 1. `01_corpus_and_listeners`: who rates what, and how much listeners differ
# 2. `02_upstream_features`: what the model reads from a clip
# 3. `03_one_listener_step_by_step`: the method on a single listener
# 4. `04_main_results`: the full result with its claims
