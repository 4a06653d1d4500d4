# %% [markdown]
# # Real listeners: is it personal at all?
#
# 36 **real people** rated EmoDB's emotional speech for valence and arousal (four quadrants). Its features are those of
# a real pre-trained speech encoder, Whisper tiny.en. This page asks of every method: does it help *this* listener, or
# would anybody's shots have done the same?
#
# A gain over SSL-E has two parts. *Drift* is what somebody else's shots give: a change of the general model that has
# nothing to do with the person. The *personal part* is what the listener's own shots give beyond that. Only the
# personal part is evidence of personalisation.

# %% tags=["parameters"]
results = "../results/emodb/whisper-tiny.en/methods"

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Image, Markdown, display

import perser

run = perser.records.load(Path(results))
display(Markdown(perser.wording.opening(perser.experiments.methods.answer(run), run)))

# %% [markdown]
# ## The answer
#
# At the largest number of shots: which methods have a personal part whose interval is above zero in both settings, and
# which of them lose nothing against SSL-E.

# %%
claims = perser.claims.of_run(run, results)
judged = pd.DataFrame([claim for claim in claims if claim["kind"] != "macro F1"])
judged["answer"] = judged["verdict"].map(perser.claims.VERDICTS)
answers = judged.groupby(["method", "setting", "kind"], sort=False)["answer"].agg(" / ".join).unstack(["setting", "kind"])
columns = [(setting, kind) for setting in perser.scores.SETTINGS for kind in ("gain", "personal", "harmless")]
answers = answers.reindex(columns=columns, index=dict.fromkeys(judged["method"]))
answers = answers.set_axis([f"{kind}, {setting}" for setting, kind in columns], axis=1).reset_index()
display(Markdown(perser.tables.plain(answers)))

# %%
verdicts, lines = {}, []
for claim in claims:
    if claim["kind"] != "macro F1":
        holds = verdicts.setdefault(claim["method"], {}).setdefault(claim["kind"], [])
        holds.append(claim["verdict"] == "holds")
for words, kinds in (("personal part above zero in log loss and accuracy, on seen and unseen clips", ("personal",)),
                     ("the same, and harmless", ("personal", "harmless")),
                     ("the same, and a gain over SSL-E", ("personal", "harmless", "gain"))):
    methods = [method for method, held in verdicts.items() if all(kind in held and all(held[kind]) for kind in kinds)]
    lines.append(f"- {words}: {', '.join(methods) or 'none'}")
display(Markdown("\n".join(lines)))

# %% [markdown]
# Two answers in a cell are of log loss and of accuracy. *yes*: the interval is above zero and the p-value, corrected for
# the number of claims of its kind, at most 5 %. *(yes)*: only the correction fails. *harmless*: neither interval of the
# gain reaches below -0.3.
#
# Which method to use? The one with the lowest log loss, with and without meta-learning:

# %%
scores, lines = perser.scores.per_seed(run.records), []
for setting in perser.scores.SETTINGS:
    shots = perser.statistics.most_shots(scores, setting)
    for group in (perser.wording.SIMPLE, perser.wording.META):
        means = {method: perser.statistics.select(scores, method, setting, shots, "log_loss").stack().mean()
                 for method in perser.wording.methods(run, group)}
        best = min(means, key=means.get)
        lines.append(f"- {setting} clips, K = {shots}, {group.lower()}: {run.title(best)}, {100 * means[best]:.1f}")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## The table
#
# Log loss is in hundredths of a nat. Positive gains and positive personal parts are better. The controls listen to
# nothing: they answer all clips alike. The best constant answer is chosen with the listener's test ratings in hand.

# %%
table = perser.tables.score_table(perser.comparison.largest(run))
display(Markdown(perser.tables.markdown(table, perser.tables.score_caption(run))))

# %% [markdown]
# ## The figure
#
# Where the open mark (gain) and the filled one (personal part) agree, the gain is personal. Where the filled mark is
# right of the open one, the method also changes the general model for the worse, which eats part of what is personal.

# %% tags=["nbval-ignore-output"]
pdf, png = perser.figures.save(perser.experiments.methods.forest(run), "../out/notebooks/figures/personal")
display(Image(png, width=560, alt="Gain and personal part of every method in three scores"))

# %% [markdown]
# ## The score decides what is seen
#
# The paper's score is the macro F1 of a threshold rule, which gives rare classes the same weight as common ones.
# Methods in the order of their gain in each score:

# %%
rows = perser.comparison.rows(perser.comparison.largest(run))
lines, adapting = [], rows[rows["group"].isin([perser.wording.SIMPLE, perser.wording.META]) & (rows["shots"] > 0)]
for (setting, name), part in adapting.groupby(["setting", "score"], sort=False):
    part = part.sort_values("gain", ascending=False)
    order = (f"{run.title(method)} ({gain:+.1f})" for method, gain in zip(part["method"], part["gain"]))
    lines.append(f"- **{perser.scores.SCORES[name].title}, {setting} clips:** {', '.join(order)}")
display(Markdown("\n".join(lines)))

# %% [markdown]
# The same methods by all scores, per listener and pooled over listeners:

# %%
display(Markdown(perser.tables.markdown(*perser.tables.levels_table(perser.comparison.largest(run)))))

# %% [markdown]
# ## How much is there to win?
#
# *All data* is the best of several adaptations to all other ratings of the listener: what many more labels would give.

# %%
lines = []
for row in rows[rows["group"] == perser.wording.BOUND].itertuples():
    text = perser.tables.interval_text(row.gain, row.gain_low, row.gain_high, "+")
    lines.append(f"- {run.title(row.method)}, {row.setting} clips, {perser.scores.SCORES[row.score].words}: {text}")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Was meta-training stable?
#
# The kept epoch is 0 where training did not help on the development listeners.

# %%
kept = run.learnt[run.learnt["tensor"] == "epoch"]
lines = []
for method, part in kept.groupby("method", sort=False):
    lines.append(f"- {run.title(method)}: epoch 0 in {100 * part['value'].eq(0).mean():.0f} % of {len(part)} splits")
lines.append("\n" + (perser.comparison.risen(run) or "No dev loss above twice its start is known."))
display(Markdown("\n".join(lines)))
