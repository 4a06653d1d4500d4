# %% [markdown]
# # What happens when the model adapts to one listener?
#
# This page follows one held-out listener, by default a **real person** who rated EmoDB's emotional speech, while a few
# gradient steps turn the model for everybody into a model for this listener.

# %% tags=["parameters"]
results = "../results/emodb/whisper-tiny.en/methods"
root = ""

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Audio, Image, Markdown, display

import perser

walk = perser.walkthrough.read(Path(results))
about, classes = walk.about, walk.about["classes"]
stamp = perser.wording.synthetic_stamp(about["synthetic"])
first, last = walk.steps.iloc[0], walk.steps.iloc[-1]
moving = walk.rates.drop(columns="mix").abs().mean()
answer = (f"{about['shots']} labelled clips lower the log loss of this listener's other answers by {about['gain']:.1f} "
          f"hundredths of a nat, which is the median of {about['walks']} such walks (from {about['least']:+.1f} to "
          f"{about['greatest']:+.1f}); the steps move the tensor {moving.idxmax()} most and {moving.idxmin()} least.")
display(Markdown(f"**{answer}**\n\n- listener {about['listener']} of {about['corpus']}, {about['upstream']}, "
                 f"{about['title']}\n- synthetic: {about['synthetic'] or 'nothing'}"))

# %% [markdown]
# The listener was not picked to look good. Of all combinations of a listener, a fold and a seed, this one has the
# *median* gain over the general model on clips that nobody rated in training; and of the draws of the shots, the one
# shown has the median gain too. Half of all walks look worse than this one.
#
# The page shows a record, because EmoDB cannot be part of this repository. `perser walk RUN --root DIR` makes it from a
# finished run. Set `results` to a run of your own, and `root` to its corpus to hear the clips.
#
# ## A clip, and what this listener hears in it
#
# Of the clips that the model is asked about, this is the one whose answer moves most. Bars: the probability of every
# class before (grey, by the general model) and after (blue). The star is what the listener ticked.

# %%
most = perser.walkthrough.by_movement(walk.answers, classes)
heard = most.iloc[0]
title = f"Clip {heard['clip']}: this listener heard {heard['ticks'].replace(';', ' and ')}"
print(title)

# %% tags=["nbval-ignore-output"]
clips = perser.load_corpus(about["corpus"], root, **about["corpus_options"]).clips if root else None
pdf, png = perser.figures.save(perser.figures.sound(walk.sound, title, stamp), "../out/notebooks/figures/sound")
display(Image(png, width=900, alt="Spectrogram of the clip"))
if root:
    display(Audio(filename=clips.loc[heard["clip"], "path"]))
pdf, png = perser.figures.save(perser.figures.answers(most.head(1), classes, stamp), "../out/notebooks/figures/one")
display(Image(png, width=460, alt="Probability of each class of this clip before and after adaptation"))

# %% [markdown]
# ## Who is held out
#
# The general model (SSL-E) and the initialisation are trained on other listeners, without any rating of this one and
# without any clip of the session that the query comes from.

# %%
print("Listeners held out together:", ", ".join(about["held_out"]))
print("Training ratings:", about["training_ratings"])
print("Epoch of meta-training that was kept:", about["epoch"], "(0 is the general model itself)")

# %% [markdown]
# ## The shots
#
# These clips, with the listener's ratings, are all that the model learns about the listener. The name of a clip of
# EmoDB tells what the actor meant (the sixth character: W anger, L boredom, E disgust, A fear, F happiness, T sadness,
# N neutral). Compare it with what the listener heard.

# %%
shots = walk.shots.groupby("ticks")["clip"].agg(["size", ", ".join]).reset_index()
display(Markdown(perser.tables.plain(shots.set_axis(["heard", "shots", "clips"], axis=1))))

# %% tags=["nbval-ignore-output"]
for clip in walk.shots["clip"].head(5) if root else ():
    display(Audio(filename=clips.loc[clip, "path"]))

# %% [markdown]
# ## What may move, and how far
#
# Meta-training has learnt an inner learning rate for every step and tensor: what is worth changing for a new listener.
# P and b are the first linear map, A and a the second; the weights of the upstream's layers stay.
#
# The picture reads like a plan. *Blue*: the step moves this tensor so that the shots fit better. *White*: it stays as
# all listeners have it. *Red*, a negative rate: the step moves it so that the shots fit *worse*. Nothing in the recipe
# forbids that: meta-training asks only how well the *other* clips of a listener fit after the last step.

# %%
rates = walk.rates.drop(columns="mix")
negative = int((rates < 0).to_numpy().sum())
print(f"Negative rates: {negative} of {rates.size}; the lowest: {rates.to_numpy().min():.3f}")

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.figures.rates(rates, stamp), "../out/notebooks/figures/rates")
display(Image(png, width=460, alt="Learned inner learning rates by tensor and step"))

# %% [markdown]
# ## Step by step
#
# A step is one gradient step on the shots. The query are clips that were not among them. The first two columns are the
# training loss; accuracy is in points and log loss in hundredths of a nat. For the last four
# columns, a single tensor takes its adapted value; the number is how far the logits move. It separates a shifted bias
# (`a`, `b`) from a changed response to the sound (`P`, `A`). Step 0 is the initialisation: the general model,
# moved by meta-training unless epoch 0 was kept.

# %%
steps = walk.steps.rename(columns={"support_loss": "loss of the shots", "query_loss": "loss of the query",
                                   "log_loss": "log loss"})
display(Markdown(perser.tables.plain(steps, 3)))

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.figures.by_step(walk.steps, stamp), "../out/notebooks/figures/by_step")
display(Image(png, width=900, alt="Losses, log loss and moved logits after each inner step"))

# %% [markdown]
# ## The answer before and after
#
# Clips of the query whose answer moved most: the probability of every class by the general model, and after the shots.

# %%
for name in ("before", "after"):
    probabilities = walk.answers[[f"{name} {label}" for label in classes]].to_numpy()
    right = [classes[place] in ticks.split(";") for place, ticks in zip(probabilities.argmax(1), walk.answers["ticks"])]
    print(f"{name.capitalize()}: the most probable class is the listener's on {sum(right)} of {len(right)} clips")
moved = 100 * most["moved"]
print(f"Share of probability that moved: mean {moved.mean():.0f} %, largest {moved.max():.0f} %")

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.figures.answers(most.head(6), classes, stamp), "../out/notebooks/figures/answers")
display(Image(png, width=900, alt="Probability of each class before and after adaptation, six clips"))

# %% [markdown]
# ## Was it luck, and was it personal?
#
# The same listener with all draws of the shots: the general model, the listener's own shots, and somebody else's in
# their place. What somebody else's shots give as well is not personal. One listener proves nothing:
# `14_real_listeners` has all of them, with intervals.

# %%
draws, kinds = walk.draws, [name for name in ("general", "own", "other") if f"{name} log_loss" in walk.draws]
titles = {"general": "general model", "own": "own shots", "other": "somebody else's shots"}
table = pd.DataFrame([{"after": titles[name], "accuracy": draws[f"{name} accuracy"].mean(),
                       "log loss": draws[f"{name} log_loss"].mean(), "best draw": draws[f"{name} log_loss"].min(),
                       "worst draw": draws[f"{name} log_loss"].max()} for name in kinds])
display(Markdown(perser.tables.plain(table)))
gain = draws["general log_loss"] - draws["own log_loss"]
print(f"Own shots beat the general model in {(gain > 0).sum()} of {len(draws)} draws")
if "other" in kinds:
    personal = draws["other log_loss"] - draws["own log_loss"]
    print(f"Own shots beat somebody else's in {(personal > 0).sum()} of {len(draws)} draws, "
          f"personal part {personal.mean():+.1f} hundredths of a nat")
