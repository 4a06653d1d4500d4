# %% [markdown]
# # Start here
#
# Two people who hear the same voice do not hear the same emotion. This artifact rebuilds **Meta-PerSER**
# (arXiv 2505.16220): a speech emotion recogniser that hears like *one* listener after that listener has
# labelled 5 to 20 clips. It is for whoever wants to check that result, use the method, or compare a method
# of their own.
#
# - **SSL-E** is one model for everybody: what listeners say on average.
# - **Fine-tuning** moves SSL-E to the new listener with K labelled clips ("shots").
# - **MAML** trains the starting point so that this move works well.
# - **Meta-PerSER** adds combined-set training, derivative annealing and a learnt rate per layer and step.
#
# Every number below is computed from the records of a finished run while this page is made; none is typed.

# %% tags=["parameters"]
results = "../results/synthetic/logmel/main"

# %% [markdown]
# ## What was run
#
# The records say themselves which data they come from. Data that is made up is stamped *synthetic* here, in
# every caption and in every figure.

# %%
from pathlib import Path

from IPython.display import Image, Markdown, display

from perser import records
from perser.analysis import captions, figures, tables

frame, manifest = records.read(Path(results)), records.manifest(Path(results))
print(captions.source(frame))
print("made up:", captions.labels(frame)["synthetic"] or "nothing")
print("records:", len(frame))

# %% [markdown]
# ## The main figure
#
# Macro F1 on clips of one listener who was never trained on, against the number of clips that this listener
# has labelled. *Seen*: other listeners' ratings of the same clips were trained on. *Unseen*: new clips of
# new speakers.

# %% tags=["nbval-ignore-output"]
pdf, png = figures.save(figures.shots(frame), Path("../out/notebooks/figures/start"))
display(Image(png, width=560))

# %% [markdown]
# ## The main table
#
# Look at the gains first: they are paired by listener, so that easy and hard listeners cancel out. A gain
# whose interval includes zero is no gain.

# %%
table = tables.main_table(frame)
display(Markdown(tables.markdown(table, tables.main_caption(frame, manifest))))

# %% [markdown]
# ## What it costs
#
# | | two cores, no GPU |
# |---|---|
# | `./reproduce.sh`: set-up, corpus, this run, tables, notebooks | about 10 minutes the first time |
# | `./reproduce.sh report`: tables, figures and notebooks from committed records | 2 minutes |
# | `./reproduce.sh full --corpus iemocap --root /path/to/IEMOCAP_full_release` | minutes to hours |
#
# ## Where to go on
#
# 1. `01_corpus_and_listeners`: who rates what, and how much listeners differ
# 2. `02_upstream_features`: what the model reads of a clip
# 3. `03_one_listener_step_by_step`: the method, made visible
# 4. `04_main_results`: the result in full, with its claims
