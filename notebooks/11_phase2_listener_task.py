# %% [markdown]
# # Phase-2: the listener task
#
# No task of the benchmark asks what *one* listener hears. `ListenerEmotionRecognition` does. Its instruction contains K
# clips with the labels that one listener gave them, and asks for the label that the same listener would give the last
# clip. The questions are queries of the main experiment's episodes, so a model that reads the examples in its context
# and a model that adapts to them by gradient steps answer the same questions.
#
# By default this page shows the **embedded corpus**: synthetic speech and synthetic listeners.

# %% tags=["parameters"]
listener = "../results/phase2/listener"

# %%
import perser

aggregate, report = perser.phase2.aggregate, perser.phase2.report
records = aggregate.read(listener)
synthetic = ", ".join(sorted(set(records["synthetic"]) - {""}))
print(perser.wording.synthetic_stamp(synthetic) or "real speech, real listeners")
print(records["sample"].nunique(), "questions to", records["model"].nunique(), "models")

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
# set of labels is often exactly right, and only macro-F1 shows that it ignores the audio.

# %%
table = aggregate.tasks(records)
for metric in ("accuracy", "F1", "macro-F1"):
    print(metric)
    for _, row in table[(table["metric"] == metric) & (table["scorer"] == "strict")].iterrows():
        print(f"  {report.short(row['model']):22} {100 * row['value']:5.1f}  "
              f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]  no answer {100 * row['N/A']:.0f} %")

# %% [markdown]
# ## Where the two classifiers differ
#
# `ssl-e` is the general classifier, trained on what listeners say on average. It ignores the examples. `meta-perser`
# was meta-trained from it and takes gradient steps on the examples of each question. Below: on how many questions they
# differ, and their scores on those.

# %%
answers = records.pivot(index="sample", columns="model", values="answer_read").filter(like="perser/")
differ = answers.index[answers.nunique(axis=1) > 1]
print(f"different answers: {len(differ)} of {len(answers)}")
disputed = records[records["sample"].isin(differ) & records["model"].isin(answers.columns)]
for _, row in aggregate.tasks(disputed).iterrows():
    print(f"{row['metric']:9} {report.short(row['model']):20} {100 * row['value']:5.1f}  "
          f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]")
