# %% [markdown]
# # One listener, step by step
#
# This page trains everything on one split, holds one listener out, and then watches five gradient steps
# turn the model for everybody into a model for this listener.
#
# By default the voices and the listeners are **synthetic** (the embedded corpus). The code is the
# library's, the same that the full experiment runs. This listener was picked because the change is easy to
# see; `fold` and `group` show others, and some of them lose.

# %% tags=["parameters"]
corpus = "synthetic"
root = "../data/synthetic"
upstream = "logmel"
fold = 2
group = 1
seed = 0
shots = 20

# %%
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Audio, Image, display

from perser import baselines, config, corpora, evaluate, features, material, runs, splits, steps
from perser.analysis import captions, figures
from perser.features import upstreams
from perser.adapt import scalar_rates
from perser.metatrain import metatrain

torch.set_num_threads(1)
loaded = corpora.load(corpus, root)
made = captions.made_up(loaded.synthetic)
model = upstreams.load(upstream)
matrix = features.extract(loaded, model, Path("../out", corpus, upstream.replace("/", "--"), "features"))
experiment = config.load(Path("../experiments/main.toml"))
plan = runs.Plan(experiment, loaded, model, matrix, "corpus", Path("../out/notebooks/run"))
data = plan.data._replace(features=matrix)
print(f"{loaded.name}: {made or 'real speech, real listeners'}; upstream {model.name}")

# %% [markdown]
# ## Who is held out
#
# None of this listener's ratings is trained on, nor any clip of the session that the unseen clips come
# from. Training is stopped, and rates are chosen, on other listeners and on a session of their own.

# %%
chosen = splits.split(data, fold, group, plan.groups, plan.dev_held_out)
draws = evaluate.draws_by_listener(
    data, chosen.unseen, experiment.shots, experiment.draws, experiment.min_queries, seed, "test draws"
)
listener = min(draws)[0]
drawn = draws[listener, shots]
print("listener held out:", data.listeners[listener])
print(
    "ratings to train on:",
    len(chosen.train),
    "| unseen clips of this listener:",
    int((data.listener[chosen.unseen] == listener).sum()),
)

# %% [markdown]
# ## A model for everybody
#
# SSL-E learns the vote shares of the training listeners. Beside it: how often the held-out listener ticks
# each class. Where the two columns differ, the listener will disagree with the model.

# %%
ready = material.material(data, chosen, experiment.base, plan.standardise)
everybody = baselines.train_base(ready, experiment.base, seed)
start = evaluate.Learner(everybody, {shots: torch.zeros(1, len(everybody))})
before = steps.path(ready, start, drawn, 0)[0]
ticked = torch.cat(
    [
        steps.query_logits(ready, before, drawn, draw).softmax(-1) > 1 / len(data.classes)
        for draw in range(experiment.draws)
    ]
)
said = data.labels[torch.from_numpy(drawn.query)].flatten(0, 1)
print(
    pd.DataFrame(
        {"SSL-E ticks %": 100 * ticked.float().mean(0), "listener ticks %": 100 * said.float().mean(0)},
        index=data.classes,
    )
    .round(0)
    .astype(int)
    .to_string()
)

# %% [markdown]
# ## A start that is good at changing
#
# Meta-training begins at SSL-E. Every outer step draws training listeners, adapts to a few clips of each,
# and moves the start (and the learnt rates) so that the *adapted* models do better. The epoch with the
# lowest loss on the dev ratings is kept; epoch 0 is SSL-E itself, so a kept epoch 0 would mean that
# meta-training did not help there.
#
# From here on another processor may print other numbers: it rounds otherwise in the last bits, and training with
# learnt rates amplifies that. The re-execution runs these cells and does not compare what they print.

# %%
method = experiment.methods["meta-perser"]
dev = evaluate.draws_by_listener(
    data, chosen.dev, experiment.shots, experiment.dev_draws, experiment.min_queries, seed, "dev draws"
)
grid = [scalar_rates(rate, method.inner_steps) for rate in method.rates]
rates = baselines.choose(ready, evaluate.Learner(everybody, {}), grid, dev, per_shots=False)[shots]
print("common rate:", round(float(rates[0, 1]), 3))

# %% tags=["nbval-ignore-output"]
learner, history = metatrain(ready, everybody, rates, method, experiment.shots, dev, seed)
history = pd.DataFrame(history).set_index("epoch")
print(
    history.iloc[::5].assign(dev_f1=100 * history["dev_f1"]).round({"dev_f1": 1, "dev_loss": 2}).to_string()
)
print("epoch kept:", history["dev_loss"].idxmin())

# %% [markdown]
# The learnt rates say what is worth changing for a new listener: one row per inner step, one column per
# tensor. P and b are the first linear map, A and a the second. They began at one common rate.

# %% tags=["nbval-ignore-output"]
print(
    pd.DataFrame(learner.settings[shots].numpy(), columns=everybody._fields)
    .drop(columns="mix")
    .round(2)
    .to_string()
)

# %% [markdown]
# ## The shots
#
# These clips, with this listener's own answers, are all that the model learns about the listener. The first
# five are shown; press play and compare your own answer.

# %%
support = drawn.support[0]
clips = [data.clips[clip] for clip in data.clip[support]]
for clip, words in list(zip(clips, steps.words(data.labels[torch.from_numpy(support)], data.classes)))[:5]:
    print(f"{clip}: {words}")

# %% tags=["nbval-ignore-output"]
for clip in clips[:5]:
    display(Audio(filename=loaded.clips.loc[clip, "path"]))

# %% [markdown]
# ## Five steps
#
# Each step is one gradient step on the shots. `support_loss` is what the step lowers; `query_loss` and
# `macro_f1` are on clips that were not among the shots. The last four columns exchange a single tensor for
# its adapted value and measure how far the logits move: they tell a shifted bias (`a`, `b`) from another
# hearing of the sound (`P`, `A`).

# %% tags=["nbval-ignore-output"]
trail = steps.path(ready, learner, drawn, 0)
measured = steps.measured(ready, trail, drawn, 0)
print(
    measured.round(
        {"support_loss": 2, "query_loss": 2, "macro_f1": 1, "ticks": 1, "P": 2, "b": 2, "A": 2, "a": 2}
    ).to_string(index=False)
)

# %% tags=["nbval-ignore-output"]
pdf, png = figures.save(figures.steps(measured, made), Path("../out/notebooks/figures/steps"))
display(Image(png, width=900))

# %% [markdown]
# ## What the model says before, during and after
#
# Six clips that were not among the shots and whose prediction changed: what the listener said, then the
# prediction before adaptation (0), after the first step (1) and after the last.

# %% tags=["nbval-ignore-output"]
spoken = steps.predicted(ready, trail, drawn, 0)
last = len(trail) - 1
changed = spoken[spoken[0] != spoken[last]].drop_duplicates("clip").head(6)
for row in changed.to_dict("records"):
    print(f"{row['clip']}\n    listener {row['listener']}")
    for step in (0, 1, last):
        print(f"    step {step}   {row[step]}")

# %% tags=["nbval-ignore-output"]
for clip in changed["clip"]:
    display(Audio(filename=loaded.clips.loc[clip, "path"]))

# %% [markdown]
# ## Was it luck?
#
# The same listener with every draw of the shots, on the same queries: SSL-E, fine-tuning and Meta-PerSER. One
# listener proves nothing; `04_main_results` has all of them, with intervals.

# %%
tuned = runs.learn(ready, everybody, experiment.methods["fine-tuning"], experiment.base, dev, seed)
ends = {name: steps.of_each_draw(ready, one, drawn) for name, one in {"SSL-E": start, "Fine-tuning": tuned}.items()}
for name, scores in ends.items():
    print(f"{name:12} macro F1 of each draw:", *(f"{score:5.1f}" for score in scores), f"  mean {np.mean(scores):.1f}")

# %% tags=["nbval-ignore-output"]
scores = steps.of_each_draw(ready, learner, drawn)
print(f"{'Meta-PerSER':12} macro F1 of each draw:", *(f"{score:5.1f}" for score in scores), f"  mean {np.mean(scores):.1f}")
assert np.mean(scores) > np.mean(ends["SSL-E"]) + 1, "on any processor, personalising pays for this listener"
