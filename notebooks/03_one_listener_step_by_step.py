# %% [markdown]
# # One listener, step by step
#
# This page trains a model on one split, holds one listener out, and then watches five gradient steps turn the model for
# everybody into a model for this listener.
#
# By default the voices and the listeners are **synthetic** (the embedded corpus). The code is the library's, the same
# that the full experiment runs. This listener was picked because the change is easy to see. `fold` and `group` show
# others, and some of them lose.

# %% tags=["parameters"]
corpus = "synthetic"
root = "../data/synthetic"
upstream = "logmel"
fold = 2
group = 1
seed = 0
shots = 20

# %%
import perser
from IPython.display import Audio, Image, display

walk = perser.walkthrough.begin(
    corpus, root, upstream, experiment="../experiments/main.toml", out="../out", fold=fold, group=group, seed=seed,
    shots=shots
)
stamp = perser.wording.synthetic_stamp(walk.corpus.synthetic)
print(walk.corpus)

# %% [markdown]
# ## Who is held out
#
# The model is trained on none of this listener's ratings and on no clip of the session that the unseen clips come from.
# Early stopping and learning rates are decided on other listeners and on a session of their own.

# %%
print("listener held out:", walk.listener)
print(
    "ratings to train on:", len(walk.task.split.train),
    "| unseen clips of this listener:", walk.episodes.query.shape[1] + max(walk.plan.experiment.shots)
)

# %% [markdown]
# ## A model for everybody
#
# SSL-E learns the vote shares of the training listeners. Beside it: how often the held-out listener ticks each class.
# Where the two columns differ, the listener will disagree with the model.

# %%
print(perser.walkthrough.tick_shares(walk).to_string())

# %% [markdown]
# ## A start that is good at changing
#
# Meta-training begins at SSL-E. Every outer step draws training listeners, adapts to a few clips of each, and moves the
# start (and the learnt inner learning rates) so that the *adapted* models do better. The epoch with the lowest loss on
# the dev ratings is kept. Epoch 0 is SSL-E itself: if it is kept, meta-training did not help there.
#
# From here on another processor may print other numbers: it rounds the last bits differently, and training with learnt
# learning rates amplifies that. CI runs these cells and does not compare what they print.

# %% tags=["nbval-ignore-output"]
model, first_lr, history = perser.walkthrough.meta_train(walk, "meta-perser")
print("first inner learning rate:", round(first_lr, 3))
print(history.iloc[::5].assign(dev_f1=100 * history["dev_f1"]).round({"dev_f1": 1, "dev_loss": 2}).to_string())
print("epoch kept:", model.epoch)

# %% [markdown]
# The learnt inner learning rates say what is worth changing for a new listener: one row per inner step, one column per
# tensor. P and b are the first linear map, A and a the second. All began at one common value.

# %% tags=["nbval-ignore-output"]
print(perser.walkthrough.inner_lr_table(walk, model).round(2).to_string())

# %% [markdown]
# ## The shots
#
# These clips, with this listener's answers, are all that the model learns about the listener. The first five are shown;
# press play and compare with what you hear.

# %%
support = perser.walkthrough.support_in_words(walk, draw=0)[:5]
for clip, ticked in support:
    print(f"{clip}: {ticked}")

# %% tags=["nbval-ignore-output"]
for clip, _ in support:
    display(Audio(filename=walk.corpus.clips.loc[clip, "path"]))

# %% [markdown]
# ## Five steps
#
# Each step is one gradient step on the shots. `support_loss` is what the step lowers; `query_loss` and `macro_f1` are on
# clips that were not among the shots. For the last four columns, a single tensor takes its adapted value, and the number
# is how far the logits move: it tells a shifted bias (`a`, `b`) from another way of hearing the sound (`P`, `A`).

# %% tags=["nbval-ignore-output"]
trail = perser.walkthrough.trail(walk, model, draw=0)
by_step = perser.walkthrough.by_step(walk, trail, draw=0)
digits = {"support_loss": 2, "query_loss": 2, "macro_f1": 1, "ticks": 1, "P": 2, "b": 2, "A": 2, "a": 2}
print(by_step.round(digits).to_string(index=False))

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.figures.by_step(by_step, stamp), "../out/notebooks/figures/by_step")
display(Image(png, width=900))

# %% [markdown]
# ## What the model says before, during and after
#
# Six clips that were not among the shots and whose prediction changed: what the listener ticked, then the prediction
# before adaptation (0), after the first step (1) and after the last.

# %% tags=["nbval-ignore-output"]
predictions = perser.walkthrough.predictions(walk, trail, draw=0)
last = len(trail) - 1
changed = predictions[predictions[0] != predictions[last]].drop_duplicates("clip").head(6)
for row in changed.to_dict("records"):
    print(f"{row['clip']}\n    listener {row['listener']}")
    for step in (0, 1, last):
        print(f"    step {step}   {row[step]}")

# %% tags=["nbval-ignore-output"]
for clip in changed["clip"]:
    display(Audio(filename=walk.corpus.clips.loc[clip, "path"]))

# %% [markdown]
# ## Was it luck?
#
# The same listener with every draw of the shots, on the same queries: SSL-E, fine-tuning and Meta-PerSER. One listener
# proves nothing; `04_main_results` has all of them, with intervals.

# %%
general = perser.walkthrough.f1_by_draw(walk, perser.walkthrough.general_model(walk))
tuned = perser.walkthrough.f1_by_draw(walk, walk.fit("fine-tuning"))
for name, scores in {"SSL-E": general, "Fine-tuning": tuned}.items():
    print(f"{name:12} macro F1 of each draw:", *(f"{score:5.1f}" for score in scores),
          f"  mean {sum(scores) / len(scores):.1f}")

# %% tags=["nbval-ignore-output"]
scores = perser.walkthrough.f1_by_draw(walk, model)
print(f"{'Meta-PerSER':12} macro F1 of each draw:", *(f"{score:5.1f}" for score in scores),
      f"  mean {sum(scores) / len(scores):.1f}")
assert sum(scores) / len(scores) > sum(general) / len(general) + 1, "on any processor, personalising pays for this listener"
