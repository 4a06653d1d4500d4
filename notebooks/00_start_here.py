# %% [markdown]
# # Start here: does a model learn how one listener hears?
#
# Two people who hear the same voice do not hear the same emotion. **Meta-PerSER** (arXiv 2505.16220) adapts a speech
# emotion recogniser to *one* listener from 5 to 20 clips that this listener has labelled. This artifact is an
# independent implementation, for readers who want to check the result, use the method, or compare their own with it.

# %% tags=["parameters"]
results = "../results/emodb/whisper-tiny.en/methods"

# %%
from IPython.display import Image, Markdown, display

import perser

run = perser.records.load(results)
display(Markdown(perser.wording.opening(perser.experiments.methods.answer(run), run)))

# %% [markdown]
# All results are computed from the records of a finished run when a page is executed. None is typed. Synthetic data is
# marked *synthetic* at the top of a page, in every caption and in every figure.
#
# ## The main figure
#
# - **SSL-E** is one model for everybody: it predicts what listeners say on average. *Gain* is the improvement over it.
# - The *personal part* is what the listener's own labelled clips ("shots") give beyond somebody else's.
# - *Seen*: other listeners' ratings of the same clips were in the training set. *Unseen*: new clips by new speakers.

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.experiments.methods.headline(run), "../out/notebooks/figures/start")
display(Image(png, width=560, alt="Gain over SSL-E in log loss with 95 % intervals, and its personal part, by method"))

# %% [markdown]
# ## The main table
#
# - **Listener embedding**, the strongest simple rival, fits one vector per listener.
# - **Prior shift** moves only how often each class is predicted.
# - **Fine-tuning** takes gradient steps from SSL-E.
# - **MAML** trains the start of these steps so that they work well.
# - **Meta-PerSER** adds combined-set meta-training, derivative annealing, and a learned rate for every layer and step.
# - **Meta-PerSER-P** is ours: it keeps SSL-E and learns how listeners differ.
#
# If an interval includes zero, nothing has been shown.

# %%
few = ("ssl-e", *perser.experiments.methods.FIRST)
table = perser.tables.compact_table(run, [method for method in perser.wording.methods(run) if method in few])
display(Markdown(perser.tables.markdown(table, perser.tables.score_caption(perser.comparison.largest(run)))))

# %% [markdown]
# ## All pages
#
# | page | its question |
# |---|---|
# | [01 The corpus and its listeners](01_corpus_and_listeners.ipynb) | How much do listeners differ? |
# | [02 Upstream features](02_upstream_features.ipynb) | What does the model read from a clip? |
# | [03 One listener, step by step](03_one_listener_step_by_step.ipynb) | What happens when the model adapts? |
# | [04 The main result](04_main_results.ipynb) | Does adaptation help, and is it personal? |
# | [05 Baselines](05_baselines.ipynb) | How far does one get without meta-learning? |
# | [06 The MAML family](06_maml_variants_and_ablation.ipynb) | What does each part of Meta-PerSER add? |
# | [07 Shots and steps](07_shots_and_steps.ipynb) | How many ratings, how many steps? |
# | [08 Who gains](08_who_gains.ipynb) | Which listeners gain, and why? |
# | [09 Cost and speed](09_cost_and_speed.ipynb) | What does it cost, and how fast is it? |
# | [10 Phase-2 tasks](10_phase2_tasks_and_scores.ipynb) | How are spoken language models evaluated? |
# | [11 The listener task](11_phase2_listener_task.ipynb) | Can such a model read a listener from examples? |
# | [12 Upstreams](12_upstreams.ipynb) | Does another upstream change the result? |
# | [13 Your own listeners](13_your_own_listeners.ipynb) | Whom in your team does a personal model help? |
# | [14 Real listeners](14_real_listeners.ipynb) | All methods on real people: is it personal? |
#
# ## What it takes
#
# | command | two cores, no GPU |
# |---|---|
# | `./reproduce.sh`: set-up, speech model, corpus, its main run, tables, notebooks | about 10 minutes the first time |
# | `./reproduce.sh report`: tables, figures and notebooks from the committed records | a few minutes |
# | `./reproduce.sh full --corpus iemocap --root /path/to/IEMOCAP_full_release` | minutes to hours |
