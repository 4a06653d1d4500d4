# %% [markdown]
# # Who answers as one listener would?
#
# No task of the benchmark asks what *one* listener hears. `ListenerEmotionRecognition` does. Its instruction contains K
# clips with the labels that one listener gave them, and asks for the label that the same listener would give the last
# clip. The questions are queries of the main experiment's episodes, so a model that reads the examples in its context
# and a model that adapts to them by gradient steps answer the same questions.
#
# - **perser: ssl-e** is the general classifier, trained on what listeners say on average. It ignores the examples.
# - **perser: meta-perser** was meta-trained from it and takes gradient steps on the examples of each question.
# - **cascade** reads the transcripts of all clips and the labels: Whisper tiny.en and SmolLM2-135M-Instruct.
# - **zero-shot** is the floor: the emotion that SmolLM2 finds likeliest after the last clip's transcript.
# - **asr** declines. `majority`, `random` and `oracle` know the labels.
#
# Two corpora: EmoDB with its real listeners, and the **embedded corpus**, synthetic speech and synthetic listeners.

# %% tags=["parameters"]
real = "../results/phase2/emodb"
listener = "../results/phase2/listener"

# %%
from IPython.display import Markdown, display

import perser

aggregate, report = perser.phase2.aggregate, perser.phase2.report
corpora = {folder: aggregate.read(folder) for folder in (real, listener)}
tables = {folder: aggregate.tasks(records) for folder, records in corpora.items()}
stamps = {}
for folder, records in corpora.items():
    synthetic = ", ".join(sorted(set(records["synthetic"]) - {""}))
    stamps[folder] = perser.wording.synthetic_stamp(synthetic) or "real speech, real listeners"
    main = tables[folder][tables[folder]["main"] & ~tables[folder]["model"].isin(report.CONTROLS[1:])]
    scores = ", ".join(f"{report.short(row.model)} {100 * row.value:.0f} %"
                       for row in main[main["N/A"] < 1].sort_values("value", ascending=False).itertuples())
    display(Markdown(f"**On {records['sample'].nunique()} questions ({stamps[folder]}), exactly the listener's answer: "
                     f"{scores}.**"))

# %% [markdown]
# ## The question
#
# Each question has one of these wordings, drawn at random. `{examples}` stands for the examples, "Clip i: labels."
# each. Their audio comes before the text.

# %%
for wording in perser.phase2.listeners.wordings():
    print(wording)

# %% [markdown]
# ## The scores
#
# A listener may tick several emotions, so the answer is a set. Accuracy requires exactly that set, F1 counts the shared
# labels, and macro-F1 gives all emotions the same weight. Compare `majority` on the three metrics: the most frequent
# set of labels is often exactly right, and only macro-F1 shows that it ignores the audio. In percent, with 95 %
# intervals from resampled clips; a dash is a model that declined.

# %%
for folder, table in tables.items():
    shown = table[table["scorer"] == "strict"].copy()
    shown["score"] = [f"{100 * row.value:.1f} ({100 * row.low:.0f} to {100 * row.high:.0f})"
                      if row.silent < 1 else None for row in shown.rename(columns={"N/A": "silent"}).itertuples()]
    shown["model"] = shown["model"].map(report.short)
    wide = shown.pivot(index="model", columns="metric", values="score").reset_index().rename_axis(columns=None)
    display(Markdown(f"*{stamps[folder]}*\n\n{report.markdown(wide)}"))

# %% [markdown]
# ## Against the majority answer
#
# The difference of the first metric, accuracy, on the questions that both answered, with paired 95 % intervals.

# %%
for folder, records in corpora.items():
    gaps = aggregate.differences(records, "majority")[["model", "rows", "difference", "low", "high"]]
    gaps["model"] = gaps["model"].map(report.short)
    display(Markdown(f"*{stamps[folder]}*\n\n{report.markdown(gaps)}"))

# %% [markdown]
# ## Where the two classifiers differ
#
# On how many questions `ssl-e` and `meta-perser` differ, and their scores on those.

# %%
for folder, records in corpora.items():
    answers = records.pivot(index="sample", columns="model", values="answer_read").filter(like="perser/")
    differ = answers.index[answers.nunique(axis=1) > 1]
    display(Markdown(f"*{stamps[folder]}*: different answers to {len(differ)} of {len(answers)} questions"))
    if len(differ):
        disputed = records[records["sample"].isin(differ) & records["model"].isin(answers.columns)]
        display(Markdown(report.side_by_side(aggregate.tasks(disputed))))
