# %% [markdown]
# # Phase-2: the listener task
#
# No task of the benchmark asks what *one* listener hears. `ListenerEmotionRecognition` does: its instruction
# carries K clips with the labels that one listener gave them, and asks what the same listener would call the
# last clip. The questions are queries of the main table's episodes, so a model that reads examples in its
# context and a model that adapts to them by gradient are asked the same.
#
# By default this page shows the **embedded corpus**: synthetic speech, synthetic listeners.

# %% tags=["parameters"]
listener = "../results/phase2/listener"

# %%
from perser.phase2 import aggregate, report
from perser.phase2.listeners import wordings

records = aggregate.read(listener)
made = ", ".join(sorted(set(records["synthetic"]) - {""}))
print(f"synthetic {made}" if made else "real speech, real listeners")
print(records["sample"].nunique(), "questions to", records["model"].nunique(), "models")

# %% [markdown]
# ## The question
#
# The wordings, one drawn per question. The examples stand where `{examples}` is, one "Clip i: labels." each; their
# audio comes before the text.

# %%
for wording in wordings():
    print(wording)

# %% [markdown]
# ## The scores
#
# A listener may tick several emotions, so the answer is a set: accuracy asks for exactly that set, F1 counts
# the shared labels, macro-F1 gives every emotion the same weight. Notice what `majority` earns by each: the commonest
# set of labels is often exactly right, and macro-F1 is what shows that it hears nothing.

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
# `ssl-e` is the general classifier, trained on what listeners say on average; it ignores the examples.
# `meta-perser` was meta-trained from it, and takes its gradient steps on the examples of each question. Notice on
# how many questions they differ, and who is right on those.

# %%
answers = records.pivot(index="sample", columns="model", values="answer_read").filter(like="perser/")
differ = answers.index[answers.nunique(axis=1) > 1]
print(f"different answers: {len(differ)} of {len(answers)}")
disputed = records[records["sample"].isin(differ) & records["model"].isin(answers.columns)]
for _, row in aggregate.tasks(disputed).iterrows():
    print(f"{row['metric']:9} {report.short(row['model']):20} {100 * row['value']:5.1f}  "
          f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]")
