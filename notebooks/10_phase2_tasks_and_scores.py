# %% [markdown]
# # Can small models follow an instruction about sound?
#
# Universal spoken language models follow an instruction about audio and answer in words. Dynamic-SUPERB Phase-2 (arXiv
# 2411.05361) has 180 such tasks: classification, regression and sequence generation over speech, music and other
# sounds. This page reads the records of an evaluation in that format: the tasks, the score of each, how often a model
# gave no answer, and what an average over tasks hides.
#
# - **cascade**: Whisper tiny.en transcribes, SmolLM2-135M-Instruct reads the transcripts and the instruction.
# - **asr**: Whisper tiny.en alone, which declines all but transcription.
# - **zero-shot**: the emotion that SmolLM2 finds likeliest after the transcript. It hears no voice and knows no rating,
#   so it is the floor for a model of emotion.
# - **perser**: our emotion classifier, answering in words. It declines all other tasks.
# - `majority`, `random` and `oracle` know the labels. They are the controls.
#
# The tasks are those of the **embedded suite**, in the upstream layout, whose speech (espeak-ng) and sounds are
# **synthetic**: its scores show that the evaluation works, and little of how well a model hears. The last section has a
# task of the benchmark on real acted speech, RAVDESS.

# %% tags=["parameters"]
phase2 = "../results/phase2/suite"
acted = "../results/phase2/ravdess"

# %%
from IPython.display import Image, Markdown, display

import perser

aggregate, report = perser.phase2.aggregate, perser.phase2.report
records = aggregate.read(phase2)
stamp = perser.wording.synthetic_stamp(", ".join(sorted(set(records["synthetic"]) - {""})))
table = aggregate.tasks(records)
answered = table[table["main"] & (table["N/A"] < 1) & ~table["model"].isin(report.CONTROLS)][["model", "instance"]]
tally = aggregate.tally(aggregate.differences(records, "majority").merge(answered))
answer = "; ".join(f"{report.short(row.model)} answers {row.better + row.worse + row.neither}, better than the majority"
                   f" on {row.better} and worse on {row.worse}" for row in tally.itertuples())
display(Markdown(f"**Of {records['instance'].nunique()} tasks, {answer} (95 % intervals of the difference).**"))
questions = records["sample"].groupby(records["instance"]).nunique().max()
counted = {column: records.groupby(column)["instance"].nunique() for column in ("domain", "kind")}
parts = [", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) for counts in counted.values()]
display(Markdown(f"*{stamp or 'real recordings'}*. {records['model'].nunique()} models, at most {questions} questions a "
                 f"task. Tasks: {parts[0]}; {parts[1]}."))

# %% [markdown]
# ## What the benchmark contains
#
# The catalogue lists the benchmark's data sets by name. Folds of one data set form a group. The domains are inferred,
# not official. Groups that ask for audio as the answer are not supported. They are listed below.

# %%
groups = perser.phase2.tasks.coverage([])
print(sum(group["sets"] for group in groups), "data sets in", len(groups), "groups")
for group in groups:
    if group["state"].startswith("unsupported"):
        print(f"{group['state']}: {group['group']}")

# %% [markdown]
# ## Scores by task
#
# Read this table first. An average over tasks with different metrics is dominated by the metric with the widest range.
# WER, CER, PER, MSE, MAE and MedAE are better when lower. Bold is the best model that does not know the labels, where
# it beats the majority answer; a dash is a model without an answer. The oracle is perfect in all rows, which verifies
# the scorers.

# %%
display(Markdown(f"*{stamp or 'real recordings'}*\n\n{report.side_by_side(table)}"))

# %% [markdown]
# ## Models by task
#
# The main metric of all tasks on one scale: 0 is the majority control (the most frequent label, or the median of
# numbers), 1 is a perfect score, blank is a model without an answer.

# %% tags=["nbval-ignore-output"]
figure = report.heat(aggregate.skill(table), stamp)
pdf, png = perser.figures.save(figure, "../out/notebooks/figures/phase2_heat")
display(Image(png, width=560, alt="Models by task, from the majority control to a perfect score"))

# %% [markdown]
# The same, cut at -1 and averaged over the tasks of a domain. The dashed circle is the majority control, the rim a
# perfect score, and the centre is as far below the control. A model without a corner answered none of the domain's
# tasks.

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(report.radar(aggregate.skill(table), stamp), "../out/notebooks/figures/phase2_radar")
display(Image(png, width=560, alt="Models over domains, from the majority control to a perfect score"))

# %% [markdown]
# ## No answer
#
# An output that cannot be read as an answer is counted and never replaced by a guess. Our classifier knows emotions
# only, so it declines all other tasks. The first table counts rows by what became of them; `truncated` were ended by
# the limit of tokens. The second is the share of rows without an answer.

# %%
counts = aggregate.counts(records, aggregate.manifests(phase2)).groupby("model").sum(numeric_only=True).reset_index()
counts["model"] = counts["model"].map(report.short)
display(Markdown(report.markdown(counts)))
missing = report.pivot(table[table["main"]], "N/A").drop(columns=["folds", "rows", "kind", "metric", "scorer"])
display(Markdown(report.markdown(missing.rename(columns=report.short), 2)))

# %% [markdown]
# ## Relative improvement, and why not to trust its mean
#
# As published: the improvement relative to a reference model, averaged per domain, with missing answers factored in,
# and without tasks where the reference scores 0 or the model answers nothing. The reference here is the majority
# control. We add the median over tasks and the share of tasks won. Intervals resample audio files.
#
# Notice the column `tasks`. By the published rule, a model that declines nearly everything is judged by the little that
# it answers, so a large mean over one task says nothing about the domain. Models that answer nothing in a domain have
# no row for it.

# %%
domains = aggregate.domains(records, "majority")
domains = domains[domains["groups"] > 0].drop(columns="left_out").rename(columns={"groups": "tasks"})
domains["model"] = domains["model"].map(report.short)
display(Markdown(report.markdown(domains, 2)))

# %% [markdown]
# ## Emotion in real acted speech
#
# `SuperbER_RAVDESS` is a task of the benchmark: eight emotions, acted by professional actors who say two neutral
# sentences. The words carry no emotion, so whoever reads only them cannot be better than chance. Our classifier was
# trained on **synthetic** listeners of **synthetic** speech, so its score here says what carries over to real voices.

# %%
played = aggregate.read(acted)
display(Markdown(report.side_by_side(aggregate.tasks(played))))
shown = aggregate.differences(played, "majority")[["model", "rows", "difference", "low", "high"]]
shown["model"] = shown["model"].map(report.short)
display(Markdown(report.markdown(shown)))
