# %% [markdown]
# # What does the model read from a clip?
#
# An upstream turns a clip into one matrix with a row per layer, averaged over time. The upstream is frozen, so the
# matrices are computed once and stored. Training reads nothing else.
#
# The default upstream is the encoder of a real speech recogniser, Whisper tiny.en: five layers of 384 dimensions.
# `perser models` lists others, with 13 or 25 layers. `logmel`, statistics of a log-mel spectrogram, needs no model.
#
# By default this page shows the embedded corpus, whose speech and listeners are **synthetic**.

# %% tags=["parameters"]
corpus = "synthetic"
root = "../data/synthetic"
upstream = "whisper-tiny.en"

# %%
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Image, Markdown, display
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import perser

torch.set_num_threads(1)
loaded = perser.load_corpus(corpus, root)
stamp = perser.wording.synthetic_stamp(loaded.synthetic)
model = perser.load_upstream(upstream)
store = Path("../out", corpus, upstream.replace("/", "--"), "features")
matrix = perser.extract(loaded, model, store)
flat, classes = matrix.mean(1).numpy(), list(loaded.classes)
votes = loaded.ratings.groupby("clip")[classes].sum().reindex(loaded.clips.index)
emotion, speaker = votes.idxmax(axis=1).to_numpy(), loaded.clips["speaker"].to_numpy()
probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
sessions = list(GroupKFold(loaded.clips["session"].nunique()).split(flat, groups=loaded.clips["session"]))
probes = {"emotion, new session": (emotion, sessions), "speaker": (speaker, StratifiedKFold(5))}
probed = pd.DataFrame([{
    "predicted": name, "accuracy, %": 100 * cross_val_score(probe, flat, labels, cv=folds).mean(),
    "most frequent class, %": 100 * pd.Series(labels).value_counts(normalize=True).iloc[0]}
    for name, (labels, folds) in probes.items()])
answer = (f"A linear probe on the features of {model.name} predicts the emotion that most listeners hear on new "
          f"sessions in {probed.iloc[0, 1]:.0f} % of the clips, where the most frequent class is {probed.iloc[0, 2]:.0f} %.")
display(Markdown(f"**{answer}**\n\n- corpus {loaded.name}: {stamp or 'real speech, real listeners'}\n"
                 f"- {matrix.shape[0]} clips, {matrix.shape[1]} layers of {matrix.shape[2]} numbers"))

# %% [markdown]
# ## Features do not depend on the batch
#
# Speech models are run on batches of padded clips, and padding can leak into the result. Here a clip has the same
# features alone and in a batch with longer clips. The largest difference is shown.

# %%
waves = [perser.audio.read(path) for path in loaded.clips["path"].iloc[:6]]
batched = model(waves)
alone = torch.cat([model([wave]) for wave in waves])
print("seconds of the six clips:", *(round(len(wave) / perser.audio.RATE, 1) for wave in waves))
print(f"largest difference: {float((batched - alone).abs().max()):.0e}")

# %% [markdown]
# ## What a linear probe can predict
#
# A logistic regression on the standardised features (averaged over layers) predicts the class that most listeners of a
# clip ticked, on sessions that it was not trained on. For comparison, a second probe predicts the speaker. The baseline
# always answers with the most frequent class.

# %%
display(Markdown(perser.tables.plain(probed, 0)))

# %% [markdown]
# ## Where the emotions lie
#
# A panel shows the clips of one class (by plurality) among all clips, on the first two principal components. Classes
# overlap, so listeners' disagreement has a cause in the sound.

# %%
components = PCA(2, svd_solver="full").fit(StandardScaler().fit_transform(flat))
print("share of variance:", *(f"{100 * share:.0f} %" for share in components.explained_variance_ratio_))

# %% tags=["nbval-ignore-output"]
x, y = components.transform(StandardScaler().fit_transform(flat)).T
order = [name for name in classes if name in set(emotion)]
points = pd.DataFrame({"x": x, "y": y, "class": pd.Categorical(emotion, order, ordered=True)}).sort_values("class")
pdf, png = perser.figures.save(perser.figures.clouds(points, stamp), "../out/notebooks/figures/clouds")
display(Image(png, width=560, alt="The clips of each class on two principal components"))
