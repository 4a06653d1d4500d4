# %% [markdown]
# # What the model reads of a clip
#
# An upstream turns a clip into one matrix: a row per layer, averaged over time. It is frozen, so this is
# computed once and kept on disk; all training reads these matrices and nothing else.
#
# The default upstream, `logmel`, is statistics of a log-mel spectrogram and needs no download.
# `wavlm-base-plus` and the others give 13 or 25 layers and are used in the very same way.
#
# With its defaults this page shows the embedded corpus, which is **synthetic** in speech and listeners.

# %% tags=["parameters"]
corpus = "synthetic"
root = "../data/synthetic"
upstream = "logmel"

# %%
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Image, display
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from perser import corpora, features
from perser.analysis import captions, figures
from perser.features import audio, upstreams

torch.set_num_threads(1)
loaded = corpora.load(corpus, root)
made = captions.made_up(loaded.synthetic)
model = upstreams.load(upstream)
store = Path("../out", corpus, upstream.replace("/", "--"), "features")
matrix = features.extract(loaded, model, store)
print(f"{loaded.name}: {made or 'real speech, real listeners'}; upstream {model.name}")
print("clips, layers, width:", tuple(matrix.shape))

# %% [markdown]
# ## A clip's features are its own
#
# Speech models are run in batches of padded clips, and padding can leak into the result. Here a clip gives
# the same numbers alone and beside longer clips; the largest difference is shown.

# %%
waves = [audio.read(path) for path in loaded.clips["path"].iloc[:6]]
together = model(waves)
alone = torch.cat([model([wave]) for wave in waves])
print("seconds of the six clips:", *(round(len(wave) / 16000, 1) for wave in waves))
print(f"largest difference: {float((together - alone).abs().max()):.0e}")

# %% [markdown]
# ## What a simple probe can tell
#
# A logistic regression on the standardised features (layers averaged) predicts the class that most
# listeners of a clip ticked, on sessions that it was not trained on, and, for comparison, who speaks.
# "Always the most frequent" is what a guess without listening gets.

# %%
flat = matrix.mean(1).numpy()
classes = list(loaded.classes)
votes = loaded.ratings.groupby("clip")[classes].sum().reindex(loaded.clips.index)
emotion = votes.idxmax(axis=1).to_numpy()
probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
folds = GroupKFold(loaded.clips["session"].nunique())
speaker = loaded.clips["speaker"].to_numpy()
found = {
    "emotion, new session": (
        cross_val_score(probe, flat, emotion, groups=loaded.clips["session"], cv=folds),
        emotion,
    ),
    "speaker": (cross_val_score(probe, flat, speaker, cv=StratifiedKFold(5)), speaker),
}
for name, (scores, said) in found.items():
    print(
        f"{name:22} accuracy {100 * scores.mean():3.0f} %, always the most frequent "
        f"{100 * pd.Series(said).value_counts(normalize=True).iloc[0]:3.0f} %"
    )

# %% [markdown]
# ## Where the emotions lie
#
# Each panel shows the clips of one class (plurality) among all clips, on the first two principal
# components. Classes overlap: listeners' disagreement has a cause in the sound.

# %%
components = PCA(2, svd_solver="full").fit(StandardScaler().fit_transform(flat))
print("share of variance:", *(f"{100 * share:.0f} %" for share in components.explained_variance_ratio_))

# %% tags=["nbval-ignore-output"]
x, y = components.transform(StandardScaler().fit_transform(flat)).T
order = [name for name in classes if name in set(emotion)]
points = pd.DataFrame({"x": x, "y": y, "class": pd.Categorical(emotion, order, ordered=True)}).sort_values(
    "class"
)
pdf, png = figures.save(figures.clouds(points, made), Path("../out/notebooks/figures/clouds"))
display(Image(png, width=560))
