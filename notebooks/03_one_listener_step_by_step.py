# %% [markdown]
# # One listener, step by step
#
# This page takes one held-out listener and shows how a few gradient steps turn the model for everybody into a model for
# this listener. By default the listener is a **real person** who rated EmoDB's emotional speech; `synthetic` below says
# what is not real, if anything.
#
# The listener was not picked to look good. Of all combinations of a listener, a fold and a seed, this one has the
# *median* gain over the general model on clips that nobody rated in training; and of the draws of the shots, the one
# shown has the median gain too. Half of all walks look worse than this one.
#
# The page shows a record, because EmoDB cannot be part of this repository. `perser walk RUN --root DIR` makes it from a
# finished run. Set `results` to a run of your own, and `root` to its corpus to hear the clips.

# %% tags=["parameters"]
results = "../results/emodb/whisper-tiny.en/methods"
root = ""

# %%
from pathlib import Path

import perser
from IPython.display import Audio, Image, display

walk = perser.walkthrough.read(Path(results))
about, classes = walk.about, walk.about["classes"]
stamp = perser.wording.synthetic_stamp(about["synthetic"])
print(f"{about['corpus']}, {about['upstream']}, {about['title']}, K = {about['shots']}")
print("synthetic:", about["synthetic"] or "nothing")
print(f"listener {about['listener']}, fold {about['fold']}, seed {about['seed']}: log loss falls by "
      f"{about['gain']:.1f} hundredths of a nat")
print(f"all {about['walks']} walks: from {about['least']:+.1f} to {about['greatest']:+.1f}")

# %% [markdown]
# ## Who is held out
#
# The general model (SSL-E) and the initialisation are trained on other listeners, without any rating of this one and
# without any clip of the session that the query comes from.

# %%
print("listeners held out together:", ", ".join(about["held_out"]))
print("training ratings:", about["training_ratings"])
print("epoch of meta-training that was kept:", about["epoch"], "(0 is the general model itself)")

# %% [markdown]
# ## The shots
#
# These clips, with the listener's ratings, are all that the model learns about the listener. The name of a clip of
# EmoDB tells what the actor meant (the sixth character: W anger, L boredom, E disgust, A fear, F happiness, T sadness,
# N neutral). Compare it with what the listener heard.

# %%
print(walk.shots.to_string(index=False))

# %% tags=["nbval-ignore-output"]
clips = perser.load_corpus(about["corpus"], root, **about["corpus_options"]).clips if root else None
for clip in walk.shots["clip"].head(5) if root else ():
    display(Audio(filename=clips.loc[clip, "path"]))

# %% [markdown]
# ## What may move, and how far
#
# Meta-training has learnt an inner learning rate for every step and tensor: what is worth changing for a new listener.
# P and b are the first linear map, A and a the second; `mix`, the weights of the upstream's layers, stays. A negative
# rate climbs the loss of the shots: nothing in the recipe forbids it.

# %%
rates = walk.rates.drop(columns="mix")
print(rates.round(2).to_string())

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.figures.rates(rates, stamp), "../out/notebooks/figures/rates")
display(Image(png, width=460))

# %% [markdown]
# ## Step by step
#
# A step is one gradient step on the shots. The query are clips that were not among them. `support_loss` and
# `query_loss` are the training loss; accuracy is in points and log loss in hundredths of a nat. For the last four
# columns, a single tensor takes its adapted value; the number is how far the logits move. It separates a shifted bias
# (`a`, `b`) from a changed response to the sound (`P`, `A`). Step 0 is the initialisation: the general model,
# moved by meta-training unless epoch 0 was kept.

# %%
digits = {"support_loss": 3, "query_loss": 3, "accuracy": 1, "log_loss": 1, "P": 3, "b": 3, "A": 3, "a": 3}
print(walk.steps.round(digits).to_string(index=False))

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.figures.by_step(walk.steps, stamp), "../out/notebooks/figures/by_step")
display(Image(png, width=900))

# %% [markdown]
# ## The answer before and after
#
# Clips of the query whose answer moved most: the probability of every class by the general model, and after the shots.

# %%
moved = sum((walk.answers[f"after {name}"] - walk.answers[f"before {name}"]).abs() for name in classes) / 2
most = walk.answers.loc[moved.sort_values(ascending=False, kind="stable").index[:6]]
for name in ("before", "after"):
    probabilities = walk.answers[[f"{name} {label}" for label in classes]].to_numpy()
    right = [classes[place] in ticks.split(";") for place, ticks in zip(probabilities.argmax(1), walk.answers["ticks"])]
    print(f"{name:>6}: the most probable class is the listener's on {sum(right)} of {len(right)} clips")
print(f"share of probability that moved: mean {100 * moved.mean():.0f} %, largest {100 * moved.max():.0f} %")

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.figures.answers(most, classes, stamp), "../out/notebooks/figures/answers")
display(Image(png, width=900))

# %% [markdown]
# ## Was it luck, and was it personal?
#
# The same listener with all draws of the shots: the general model, the listener's own shots, and somebody else's in
# their place. What somebody else's shots give as well is not personal. One listener proves nothing:
# `14_real_listeners` has all of them, with intervals.

# %%
draws, kinds = walk.draws, [name for name in ("general", "own", "other") if f"{name} log_loss" in walk.draws]
for name in kinds:
    accuracy, loss = draws[f"{name} accuracy"], draws[f"{name} log_loss"]
    print(f"{name:>8}: accuracy {accuracy.mean():5.1f}   log loss {loss.mean():5.1f}, by draw {loss.min():5.1f} to "
          f"{loss.max():5.1f}")
gain = draws["general log_loss"] - draws["own log_loss"]
print(f"own shots beat the general model in {(gain > 0).sum()} of {len(draws)} draws")
if "other" in kinds:
    personal = draws["other log_loss"] - draws["own log_loss"]
    print(f"own shots beat somebody else's in {(personal > 0).sum()} of {len(draws)} draws, "
          f"personal part {personal.mean():+.1f} hundredths of a nat")
