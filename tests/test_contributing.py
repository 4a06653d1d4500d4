"""CONTRIBUTING.md by doing what it says: the walk from a rating to a printed number, and a corpus in one file."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from perser import adapt, data, episodes, evaluate, features, model, records, scores, seeds, workers
from perser.analysis import comparison, tables
from perser.corpora import iemocap
from perser.corpora.synthetic import synthesise
from perser.experiment import Experiment
from perser.features import upstreams
from perser.methods import Start, ssl_e
from perser.methods.maml import Maml
from perser.methods.ssl_e import SslE
from perser.plan import Plan
from perser.settings import Base

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
METHOD = Maml(title="Meta-PerSER", anneal=0.5, lslr=True, epochs=1, outer_steps_per_epoch=2, query=3)
SMALL = Experiment(name="walk", seeds=(0,), shots=(3,), draws=2, dev_draws=2, min_queries=3, folds=(1,), groups=3,
                   dev="training", support="same", base=Base(hidden=8, epochs=5, lr=1e-2),
                   methods={"ssl-e": SslE(), "meta-perser": METHOD})


class Walk:
    """Calls functions, and remembers the file and name of each."""

    def __init__(self):
        self.steps = []

    def __call__(self, function, *given, **named):
        file = Path(inspect.getsourcefile(function)).relative_to(ROOT).as_posix()
        self.steps.append((file, function.__name__))
        return function(*given, **named)


def named_steps():
    """File and function of every step that the list names, in order."""
    items = re.findall(r"^\d+\. (.*?)(?=^\d+\. |^\S|^$)", TEXT, re.DOTALL | re.MULTILINE)
    return [(link, name) for item in items for link in re.findall(r"\]\((.*?)\)", item)
            for name in re.findall(r" `(\w+)`", item)]


def test_the_walk_from_a_rating_to_a_printed_number(tmp_path):
    """Each step by the function that the list names. What it gives by hand is what the run records and prints."""
    synthesise(tmp_path / "corpus", seed=0, clips=150)
    walk = Walk()
    corpus = walk(iemocap.load, tmp_path / "corpus")
    upstream = upstreams.load("logmel")
    _, matrix, moments = features.of_corpus(corpus, upstream, tmp_path / "features")

    arrays = walk(data.from_corpus, corpus, matrix)
    pools = walk(data.split, arrays, 1, 0, data.listener_groups(arrays, 3, 6), False)
    task = walk(data.make_task, arrays, pools, SMALL.base, upstream.standardise)
    drawn = walk(episodes.draws_by_listener, arrays, pools.unseen, (3,), 2, 3, 0, "test draws")

    fresh = walk(model.init, *matrix.shape[1:], 8, len(corpus.classes), seeds.generator(0, "a fresh head"))
    clips, targets = ssl_e.labelled(task, pools.train)
    untrained = walk(model.cross_entropy, model.logits(fresh, clips), targets, task.class_weights)
    general = walk(ssl_e.train, task, 0)
    assert model.cross_entropy(model.logits(general, clips), targets, task.class_weights) < untrained
    dev_draws = episodes.draws_by_listener(arrays, pools.dev, (3,), 2, 3, 0, "dev draws")
    trained = walk(METHOD.fit, task, Start(general, None), dev_draws, 0)

    (listener, shots), of_listener = next(iter(drawn.items()))
    personal = next(walk(adapt.personal_heads, trained.head, [trained.settings[shots]],
                         episodes.batch_of(task, of_listener)))
    with torch.no_grad():
        counts = walk(evaluate.count, personal.query_logits(), arrays.labels[of_listener.query])

    plan = Plan(SMALL, corpus, upstream, matrix, moments, tmp_path / "out" / "walk")
    frame = walk(workers.run, plan)
    row = frame[(frame["method"] == "meta-perser") & (frame["setting"] == "unseen") & (frame["shots_of"] == "own")
                & (frame["listener"] == arrays.listeners[listener])].iloc[0]
    assert [row[f"tp_{name}"] for name in corpus.classes] == counts.tp.tolist()
    assert (row["top"], row["queries"]) == (counts.top, counts.queries)
    assert row["log_loss"] == pytest.approx(counts.log_loss, rel=1e-5)

    run = records.load(tmp_path / "out" / "walk")
    by_seed = walk(scores.per_seed, run.records[run.records["shots_of"] == "own"])
    means = by_seed[by_seed["setting"] == "unseen"].pivot(index="listener", columns="method", values="log_loss").mean()
    gain = 100 * (means["ssl-e"] - means["meta-perser"])
    compared = walk(comparison.rows, run).set_index(["method", "setting", "score"])
    assert compared.loc[("meta-perser", "unseen", "log_loss"), "gain"] == pytest.approx(gain)
    cells = walk(tables.score_table, run).cells
    cell = cells[(cells["Clips"] == "unseen") & (cells["Method"] == "Meta-PerSER")]["Gain, log loss"].item()
    assert cell.split()[0] == f"{gain:+.1f}"
    assert walk.steps == named_steps() and len({file for file, _ in walk.steps}) == 12


def test_a_new_corpus_is_one_file(tmp_path):
    """CONTRIBUTING's own example, in a copy of the package, from its folder to records and a table."""
    shutil.copytree(ROOT / "perser", tmp_path / "perser", ignore=shutil.ignore_patterns("__pycache__"))
    section = TEXT[TEXT.index("## Adding a corpus"):]
    (tmp_path / "perser" / "corpora" / "example.py").write_text(re.search(r"```python\n(.*?)```", section, re.S)[1])
    draw, lines, root = np.random.default_rng(0), ["clip,listener,class"], tmp_path / "data"
    root.mkdir()
    for speaker in range(1, 4):
        for number in range(12):
            tone = np.sin(np.arange(4000) * (20 + number % 2 * 30) / 300)
            soundfile.write(root / f"{speaker}-{number:02d}.wav", 0.3 * tone, 16000)
            lines += [f"{speaker}-{number:02d},L{listener},{'angry' if draw.random() < 0.8 else 'calm'}"
                      for listener in range(4)]
    (root / "ratings.csv").write_text("\n".join(lines) + "\n")

    def typed(*words):
        return subprocess.run([sys.executable, "-m", "perser", *map(str, words)], cwd=tmp_path, capture_output=True,
                              text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})

    settings = ["seeds=[0]", "shots=[3]", "draws=2", "dev_draws=1", "folds=[1]", "groups=3", "base.epochs=1",
                "methods.maml.epochs=0", "methods.meta-perser.epochs=0"]
    done = typed("run", "main", "--corpus", "example", "--root", root, "--upstream", "logmel", "--jobs", 1,
                 "--out", tmp_path / "run", *(word for change in settings for word in ("--set", change)))
    assert done.returncode == 0, done.stderr
    assert "example, logmel" in done.stdout and "Meta-PerSER" in done.stdout
    run = records.load(tmp_path / "run")
    assert (run.manifest.corpus, run.manifest.classes, run.manifest.synthetic) == ("example", ["angry", "calm"], "")
    assert (run.manifest.clips, run.manifest.listeners, len(lines) - 1) == (36, 4, 144)
    (root / "ratings.csv").write_text("clip,listener,class\n1-00,L0,merry\n")
    wrong = typed("show", "example", "--root", root)
    assert wrong.returncode == 2 and "ratings.csv:2: class 'merry' is none of angry, calm" in wrong.stderr
