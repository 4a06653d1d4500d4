# %% [markdown]
# # Phase-2: tasks and scores
#
# Universal spoken language models answer an instruction about audio in words. Dynamic-SUPERB Phase-2
# (arXiv 2411.05361) gathers 180 such tasks: classification, regression and sequence generation over speech,
# music and other sounds. This page reads the records of an evaluation in that format and shows what was asked,
# the score of every task, how often a model gave no answer, and what an average over tasks hides.
#
# The default records are those of the **embedded suite**: small tasks in the upstream layout whose speech
# (espeak-ng) and sounds are **synthetic**. Its scores say that the machinery works; they say nothing about how
# well a model hears. `majority`, `random` and `oracle` know the labels and are the controls; `perser` is our
# emotion classifier, which answers in words.

# %% tags=["parameters"]
phase2 = "../results/phase2/suite"

# %%
from pathlib import Path

from IPython.display import Image, Markdown, display

from perser.analysis import figures
from perser.phase2 import aggregate, report, tasks

records = aggregate.read(phase2)
made = ", ".join(sorted(set(records["synthetic"]) - {""}))
stamp = f"synthetic {made}" if made else "real recordings"
print(stamp)
print(len(records), "answers:", records["model"].nunique(), "models,", records["instance"].nunique(), "data sets")
print(records.groupby("domain")["instance"].nunique().to_dict())
print(records.groupby("kind")["instance"].nunique().to_dict())

# %% [markdown]
# ## What the benchmark has
#
# The catalogue knows the benchmark's data sets by name; folds of one data set form a group. Their domains are
# inferred, not official. Those that ask for audio as the answer are not supported, and named.

# %%
known = tasks.coverage([])
print(sum(row["sets"] for row in known), "data sets in", len(known), "groups")
for row in known:
    if row["state"].startswith("unsupported"):
        print(f"{row['state']}: {row['group']}")

# %% [markdown]
# ## Per task
#
# Read this table first: an average over tasks with different metrics is moved by whichever metric has the
# widest range. WER, CER, PER, MSE, MAE and MedAE are better when lower. The oracle's column is perfect in
# every row, which is what proves each scorer.

# %%
table = aggregate.tasks(records)
wide = report.pivot(table, "value").drop(columns=["folds", "scorer"]).rename(columns=report.short)
display(Markdown(f"*{stamp}*\n\n" + wide.to_markdown(index=False, floatfmt=".3f")))

# %% [markdown]
# ## Models by tasks
#
# Every task's main metric on one scale: 0 is the majority control (the commonest label; of numbers the median),
# 1 is a perfect score, blank is a model that gave no answer.

# %% tags=["nbval-ignore-output"]
pdf, png = figures.save(report.heat(aggregate.skill(table), stamp if made else ""),
                        Path("../out/notebooks/figures/phase2_heat"))
display(Image(png, width=560))

# %%
print(aggregate.skill(table).rename(columns=report.short).round(2).to_string())

# %% [markdown]
# ## No answer
#
# What cannot be read as an answer is counted, never replaced by a guess. Our classifier knows emotions, so it
# declines all other tasks.

# %%
none = report.pivot(table[table["main"]], "N/A").drop(columns=["folds", "rows", "kind", "metric", "scorer"])
display(Markdown(none.rename(columns=report.short).to_markdown(index=False, floatfmt=".2f")))

# %% [markdown]
# ## Relative improvement, and why to distrust its mean
#
# As published: improvement relative to a reference model, averaged per domain, with no answer folded in and
# tasks left out on which the reference scores 0 or the model answers nothing. The reference here is the majority
# control. Beside the mean stand the median over tasks and the share of tasks won; intervals come from resampling
# audio files. Notice the column `tasks`: by the published rule a model that declines nearly everything is judged by
# the little that it answers, so a large mean over one task says nothing about the domain. Models that answer
# nothing in a domain have no row for it.

# %%
domains = aggregate.domains(records, "majority")
for _, row in domains[domains["groups"] > 0].iterrows():
    print(f"{report.short(row['model']):22} {row['domain']:7} tasks {row['groups']:2d}  "
          f"mean {row['mean']:+.2f} [{row['mean_low']:+.2f}, {row['mean_high']:+.2f}]  "
          f"median {row['median']:+.2f}  wins {row['wins']:.2f}")
