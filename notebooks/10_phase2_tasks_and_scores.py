# %% [markdown]
# # Phase-2: tasks and scores
#
# Universal spoken language models follow an instruction about audio and answer in words. Dynamic-SUPERB Phase-2 (arXiv
# 2411.05361) has 180 such tasks: classification, regression and sequence generation over speech, music and other
# sounds. This page reads the records of an evaluation in that format. It shows the tasks, the score of each, how often
# a model gave no answer, and what an average over tasks hides.
#
# The default records are those of the **embedded suite**: small tasks in the upstream layout, whose speech (espeak-ng)
# and sounds are **synthetic**. Its scores show that the evaluation works, not how well a model hears. `majority`,
# `random` and `oracle` know the labels and are the controls. `perser` is our emotion classifier, which answers in
# words.

# %% tags=["parameters"]
phase2 = "../results/phase2/suite"

# %%
import perser
from IPython.display import Image, Markdown, display

aggregate, report = perser.phase2.aggregate, perser.phase2.report
records = aggregate.read(phase2)
synthetic = ", ".join(sorted(set(records["synthetic"]) - {""}))
stamp = perser.wording.synthetic_stamp(synthetic)
print(stamp or "real recordings")
print(len(records), "answers:", records["model"].nunique(), "models,", records["instance"].nunique(), "data sets")
print(records.groupby("domain")["instance"].nunique().to_dict())
print(records.groupby("kind")["instance"].nunique().to_dict())

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
# WER, CER, PER, MSE, MAE and MedAE are better when lower. The oracle is perfect in all rows, which verifies the
# scorers.

# %%
table = aggregate.tasks(records)
wide = report.pivot(table, "value").drop(columns=["folds", "scorer"]).rename(columns=report.short)
display(Markdown(f"*{stamp or 'real recordings'}*\n\n" + wide.to_markdown(index=False, floatfmt=".3f")))

# %% [markdown]
# ## Models by task
#
# The main metric of all tasks on one scale: 0 is the majority control (the most frequent label, or the median of
# numbers), 1 is a perfect score, blank is a model without an answer.

# %% tags=["nbval-ignore-output"]
figure = report.heat(aggregate.skill(table), stamp)
pdf, png = perser.figures.save(figure, "../out/notebooks/figures/phase2_heat")
display(Image(png, width=560))

# %%
print(aggregate.skill(table).rename(columns=report.short).round(2).to_string())

# %% [markdown]
# ## No answer
#
# An output that cannot be read as an answer is counted and never replaced by a guess. Our classifier knows emotions
# only, so it declines all other tasks. The table is the share of rows without an answer.

# %%
missing = report.pivot(table[table["main"]], "N/A").drop(columns=["folds", "rows", "kind", "metric", "scorer"])
display(Markdown(missing.rename(columns=report.short).to_markdown(index=False, floatfmt=".2f")))

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
for _, row in domains[domains["groups"] > 0].iterrows():
    print(f"{report.short(row['model']):22} {row['domain']:7} tasks {row['groups']:2d}  "
          f"mean {row['mean']:+.2f} [{row['mean_low']:+.2f}, {row['mean_high']:+.2f}]  "
          f"median {row['median']:+.2f}  wins {row['wins']:.2f}")
