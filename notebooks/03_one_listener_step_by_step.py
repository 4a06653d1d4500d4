# %% [markdown]
# # One listener, step by step
#
# This page holds one listener out, trains a model on the others, and shows how a few gradient steps turn the model for
# everybody into a model for this listener.
#
# By default the voices and the listeners are **synthetic** (the embedded corpus). The code is the library's and is what
# the full experiment runs. This listener was picked because the change is easy to see. Set `fold` and `group` to see
# others. Some of them lose.

# %% tags=["parameters"]
corpus = "synthetic"
root = "../data/synthetic"
upstream = "whisper-tiny.en"
fold = 2
group = 1
seed = 0
shots = 20

# %%
import perser
from IPython.display import Audio, Image, display

walk = perser.walkthrough.begin(corpus, root, upstream, experiment="../experiments/main.toml", out="../out",
                                fold=fold, group=group, seed=seed, shots=shots)
stamp = perser.wording.synthetic_stamp(walk.corpus.synthetic)
print(walk.corpus)

# %% [markdown]
# ## Who is held out
#
# The training set has no rating of this listener and no clip of the session that the unseen clips come from. Early
# stopping and inner learning rates are chosen on dev listeners in a session of their own.

# %%
print("listener held out:", walk.listener)
print("training ratings:", len(walk.task.split.train))
print("unseen clips of this listener:", walk.episodes.query.shape[1] + max(walk.plan.experiment.shots))

# %% [markdown]
# ## A model for everybody
#
# SSL-E learns the vote shares of the training listeners. The second column is how often the held-out listener ticks
# each class. Where the columns differ, the listener disagrees with the model.

# %%
print(perser.walkthrough.tick_shares(walk).to_string())

# %% [markdown]
# ## An initialisation that adapts well
#
# Meta-training starts from SSL-E. An outer step draws training listeners, adapts to a few clips of each, and updates
# the initialisation (and the learned inner learning rates) so that the *adapted* models improve. The epoch with the
# lowest dev loss is kept. Epoch 0 is SSL-E itself. If it is kept, meta-training did not help.
#
# From here on, another processor may print slightly different numbers: it rounds differently, and training amplifies
# the difference. The tests run these cells without comparing what they print.

# %% tags=["nbval-ignore-output"]
model, first_lr, history = perser.walkthrough.meta_train(walk, "meta-perser")
print("first inner learning rate:", round(first_lr, 3))
print(history.iloc[::5].assign(dev_f1=100 * history["dev_f1"]).round({"dev_f1": 1, "dev_loss": 2}).to_string())
print("epoch kept:", model.epoch)

# %% [markdown]
# The learned inner learning rates show what is worth changing for a new listener: one row per inner step, one column
# per tensor. P and b are the first linear map, A and a the second. All rates started at the same value.

# %% tags=["nbval-ignore-output"]
print(perser.walkthrough.inner_lr_table(walk, model).round(2).to_string())

# %% [markdown]
# ## The shots
#
# These clips, with the listener's ratings, are all that the model learns about the listener. The first five are shown.
# Press play and compare with what you hear.

# %%
support = perser.walkthrough.support_in_words(walk, draw=0)[:5]
for clip, ticked in support:
    print(f"{clip}: {ticked}")

# %% tags=["nbval-ignore-output"]
for clip, _ in support:
    display(Audio(filename=walk.corpus.clips.loc[clip, "path"]))

# %% [markdown]
# ## Step by step
#
# A step is one gradient step on the shots. It lowers `support_loss`. `query_loss` and `macro_f1` are measured on clips
# that were not among the shots. For the last four columns, a single tensor takes its adapted value; the number is how
# far the logits move. It separates a shifted bias (`a`, `b`) from a changed response to the sound (`P`, `A`).

# %% tags=["nbval-ignore-output"]
trail = perser.walkthrough.trail(walk, model, draw=0)
by_step = perser.walkthrough.by_step(walk, trail, draw=0)
digits = {"support_loss": 2, "query_loss": 2, "macro_f1": 1, "ticks": 1, "P": 2, "b": 2, "A": 2, "a": 2}
print(by_step.round(digits).to_string(index=False))

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.figures.by_step(by_step, stamp), "../out/notebooks/figures/by_step")
display(Image(png, width=900))

# %% [markdown]
# ## Predictions before, during and after
#
# Up to six clips that were not among the shots and whose prediction changed: what the listener ticked, then the
# prediction before adaptation (step 0), after the first step and after the last.

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
# SSL-E, fine-tuning and Meta-PerSER for the same listener, with all draws of the shots. One listener proves nothing:
# `04_main_results` has all of them, with intervals.

# %%
general = perser.walkthrough.f1_by_draw(walk, perser.walkthrough.general_model(walk))
tuned = perser.walkthrough.f1_by_draw(walk, walk.fit("fine-tuning"))
for name, scores in {"SSL-E": general, "Fine-tuning": tuned}.items():
    print(f"{name:12} macro F1 by draw:", *(f"{score:5.1f}" for score in scores),
          f"  mean {sum(scores) / len(scores):.1f}")

# %% tags=["nbval-ignore-output"]
scores = perser.walkthrough.f1_by_draw(walk, model)
print(f"{'Meta-PerSER':12} macro F1 by draw:", *(f"{score:5.1f}" for score in scores),
      f"  mean {sum(scores) / len(scores):.1f}")
assert sum(scores) / len(scores) > sum(general) / len(general) + 1, "adaptation must help this listener by a point"
