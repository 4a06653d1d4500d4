"""One listener's adaptation step by step, for the notebook that explains it."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from perser import experiment as experiments
from perser import features
from perser import model as heads
from perser.adapt import constant_lr, personal_heads
from perser.corpora import Corpus
from perser.corpora import load as load_corpus
from perser.data import Task
from perser.episodes import Draws, Episodes, batch_of, draws_by_listener
from perser.evaluate import choose, count, evaluate
from perser.features import upstreams
from perser.methods import GradientModel, Start
from perser.methods.maml import metatrain
from perser.methods.ssl_e import train, unadapted
from perser.model import TENSORS, Head, cross_entropy
from perser.plan import Plan
from perser.scores import macro_f1


class Walk(NamedTuple):
    """One held-out listener of one split: the task, SSL-E, the dev listeners' draws, and the listener's own draws."""

    corpus: Corpus
    plan: Plan
    task: Task
    start: Start
    dev: Draws
    listener: str
    episodes: Episodes
    seed: int
    shots: int

    def fit(self, method: str) -> GradientModel:
        """A method of the experiment, fitted to the split."""
        return self.plan.experiment.methods[method].fit(self.task, self.start, self.dev, self.seed)


def begin(corpus: str, root: Path, upstream: str, experiment: Path, out: Path, fold: int, group: int, seed: int,
          shots: int) -> Walk:
    """Load a corpus, extract features, train SSL-E on one split and draw the first held-out listener's shots.

    The queries are unseen clips. out: where features are stored.
    """
    torch.set_num_threads(1)
    loaded, model, out = load_corpus(corpus, root), upstreams.load(upstream), Path(out)
    matrix = features.extract(loaded, model, out / corpus / upstream.replace("/", "--") / "features")
    plan = Plan(experiments.load(Path(experiment)), loaded, model, matrix, model.normalise, out / "notebooks" / "run")
    task, settings = plan.task((fold, group, seed)), plan.experiment
    draws = draws_by_listener(task.data, task.split.unseen, settings.shots, settings.draws, settings.min_queries, seed,
                              "test draws")
    listener = min(draws)[0]
    return Walk(loaded, plan, task, Start(train(task, seed), dict), plan.dev_draws(task, seed),
                task.data.listeners[listener], draws[listener, shots], seed, shots)


def general_model(walk: Walk) -> GradientModel:
    """SSL-E as a model that does not adapt, whatever the number of shots."""
    return unadapted(walk.start.head)._replace(settings={walk.shots: torch.zeros(0, len(TENSORS))})


def meta_train(walk: Walk, method: str) -> tuple[GradientModel, float, pd.DataFrame]:
    """Meta-train a method: the kept model, the first inner learning rate, and dev F1 and loss by epoch."""
    settings = walk.plan.experiment.methods[method]
    grid = [constant_lr(lr, settings.inner_steps, settings.adapts) for lr in settings.inner_lr_grid]
    first = choose(walk.task, GradientModel(walk.start.head, {}), grid, walk.dev, per_shots=False)[walk.shots]
    model, history = metatrain(walk.task, walk.start.head, first, settings, walk.dev, walk.seed)
    return model, float(first.max()), pd.DataFrame(history).set_index("epoch")


def trail(walk: Walk, model: GradientModel, draw: int) -> list[Head]:
    """The listener's head before the first inner step and after each one, for one draw of the shots."""
    with torch.no_grad():
        batch = batch_of(walk.task, _one(walk.episodes, draw))
        weights = next(personal_heads(model.head, [model.settings[walk.shots]], batch, every_step=True)).weights()
    return [Head(*(tensor[step, 0] for tensor in weights)) for step in range(len(weights.a))]


def _one(episodes: Episodes, draw: int) -> Episodes:
    return Episodes(*(rating_ids[draw:draw + 1] for rating_ids in episodes))


@torch.no_grad()
def query_logits(walk: Walk, head: Head, draw: int) -> torch.Tensor:
    """Logits (Q, C) of one draw's query under one head."""
    data = walk.task.data
    return heads.logits(head, data.features[data.clip[walk.episodes.query[draw]]])


def tick_shares(walk: Walk) -> pd.DataFrame:
    """How often SSL-E and the listener tick each class on the queries of all draws, in percent."""
    draws = range(len(walk.episodes.query))
    model = torch.cat([heads.predict(query_logits(walk, walk.start.head, draw)) for draw in draws])
    listener = walk.task.data.labels[torch.from_numpy(walk.episodes.query)].flatten(0, 1)
    shares = {"SSL-E ticks %": model, "listener ticks %": listener}
    return pd.DataFrame({name: (100 * ticks.float().mean(0)).numpy() for name, ticks in shares.items()},
                        index=walk.task.data.classes).round(0).astype(int)


@torch.no_grad()
def by_step(walk: Walk, heads_by_step: list[Head], draw: int) -> pd.DataFrame:
    """What each inner step changes: one row per step, from 0.

    support_loss, query_loss; macro_f1 (points) and ticks (classes per clip) of the query; and for each tensor its share
    of the change: the root mean square over the query's logits when it alone takes its adapted value.
    """
    task, rows, start = walk.task, [], query_logits(walk, heads_by_step[0], draw)
    support, query = (torch.from_numpy(rating_ids[draw]) for rating_ids in walk.episodes)
    for step, head in enumerate(heads_by_step):
        logits = query_logits(walk, head, draw)
        support_logits = heads.logits(head, task.data.features[task.data.clip[support]])
        counts = count(logits, task.data.labels[query])
        alone = {name: heads_by_step[0]._replace(**{name: getattr(head, name)}) for name in TENSORS[1:]}
        rows.append({
            "step": step,
            "support_loss": float(cross_entropy(support_logits, task.targets[support], task.inner_class_weights)),
            "query_loss": float(cross_entropy(logits, task.targets[query], task.class_weights)),
            "macro_f1": 100 * float(macro_f1(counts.tp, counts.fp, counts.fn)),
            "ticks": float(heads.predict(logits).sum(1).float().mean()),
            **{name: float((query_logits(walk, changed, draw) - start).square().mean().sqrt())
               for name, changed in alone.items()}})
    return pd.DataFrame(rows)


def f1_by_draw(walk: Walk, model: Any) -> list[float]:
    """Macro F1 (points) of the query after adaptation, for every draw of the shots."""
    draws = [_one(walk.episodes, draw) for draw in range(len(walk.episodes.query))]
    return [100 * float(macro_f1(counts.tp, counts.fp, counts.fn))
            for counts, _ in evaluate(walk.task, model, walk.shots, draws)]


@torch.no_grad()
def predictions(walk: Walk, heads_by_step: list[Head], draw: int) -> pd.DataFrame:
    """Query clips in words: clip, what the listener ticked, what the head predicts after each step."""
    data, query = walk.task.data, walk.episodes.query[draw]
    columns = {"clip": [data.clips[clip] for clip in data.clip[query]],
               "listener": words(data.labels[query], data.classes)}
    sets = [heads.predict(query_logits(walk, head, draw)) for head in heads_by_step]
    return pd.DataFrame(columns | {step: words(ticks, data.classes) for step, ticks in enumerate(sets)})


def support_in_words(walk: Walk, draw: int) -> list[tuple[str, str]]:
    """The shots of one draw: clip and what the listener ticked."""
    data, support = walk.task.data, walk.episodes.support[draw]
    return list(zip((data.clips[clip] for clip in data.clip[support]), words(data.labels[support], data.classes)))


def words(ticks: torch.Tensor, classes: tuple[str, ...]) -> list[str]:
    """Ticks (N, C) as text, classes joined by a comma."""
    return [", ".join(name for name, on in zip(classes, row) if on) or "none" for row in ticks.tolist()]


def inner_lr_table(walk: Walk, model: GradientModel) -> pd.DataFrame:
    """The learnt inner learning rates: one row per inner step, one column per tensor that can adapt."""
    return pd.DataFrame(model.settings[walk.shots].numpy(), columns=list(TENSORS)).drop(columns="mix")
