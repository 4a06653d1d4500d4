"""Personal models with scikit-learn's conventions: fit a team's ratings, adapt to one listener, predict clips."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from perser import checkpoints, corpora, features, personal, team
from perser.corpora import schema
from perser.corpora.base import nearest
from perser.errors import UserError
from perser.experiment import kinds
from perser.features.upstreams import Upstream
from perser.model import logits
from perser.personal import PersonalModel
from perser.plan import Plan

ADAPTED = "personal.safetensors"  # the adapted listener of a saved folder
PARAMETERS = ("upstream", "method", "settings", "random_state")  # those that are saved; the others are of a machine

Ratings: TypeAlias = str | Path | pd.DataFrame
Audio = str | Path | np.ndarray  # or anything that numpy takes for an array, such as a tensor


class Personaliser(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A general model of all listeners that adapts to one of them.

    Ratings are a table (`perser.corpora.schema`): a path or a DataFrame. Audio is a folder, a file of features, or an
    array (N, D) or (N, L, D) of features, whose rows `clips` names. One listener's table needs no column listener.

    upstream: the speech model by name, hub id or folder; ready-made features need none. method: a kind of
    `perser.experiment.kinds`. settings: `key=value` changes, as `perser personalise --set` takes them. store: folder
    that keeps features for the next call; None: nothing is kept. n_jobs: processes of `verdicts`.

    After `fit`: classes_ (C,), listeners_, n_features_in_ (layers times width), general_ (a `Checkpoint`), models_ (the
    listeners' own models by name). personal_ is the model that predicts: the general one until `adapt`.

    >>> draw, clips = np.random.default_rng(0), [f"clip{i}.wav" for i in range(30)]
    >>> sad = np.arange(30) % 2
    >>> features = draw.normal(size=(30, 4)) + 4 * sad[:, None]
    >>> heard = np.where(sad, "sad", "calm")
    >>> one = pd.DataFrame({"clip": clips, "label": heard})
    >>> ratings = pd.concat(one.assign(listener=name) for name in ("Ann", "Bo", "Cy"))
    >>> model = Personaliser(settings=("base.hidden=8", "base.lr=0.02")).fit(ratings, features, clips)
    >>> model.predict(features[:3]).tolist()
    ['calm', 'sad', 'calm']
    >>> dee = pd.DataFrame({"clip": clips, "label": heard[::-1]})  # who hears the reverse
    >>> model.adapt(dee[:20]).predict(features[:3]).tolist()
    ['sad', 'calm', 'sad']
    >>> model.score(dee[20:])
    1.0
    >>> model.adapt(listener="Ann").predict(features[:3]).tolist()
    ['calm', 'sad', 'calm']
    """

    def __init__(self, upstream: str = "whisper-tiny.en", method: str = "robust-prior", settings: tuple[str, ...] = (),
                 random_state: int = 0, store: str | Path | None = None, n_jobs: int = 1):
        """Remember the parameters; they are checked when they are used."""
        self.upstream, self.method, self.settings = upstream, method, settings
        self.random_state, self.store, self.n_jobs = random_state, store, n_jobs

    def fit(self, ratings: Ratings, audio: Audio, clips: Iterable[str] | None = None, **options: Any) -> "Personaliser":
        """Train the general model on all listeners, and adapt it to each of them.

        options: those of the corpus `table`: classes, threshold, repeats, encoding. UserError, in one line: a bad table
        or parameter, or too little data. Lines of a DataFrame count from its header.
        """
        with self._features() as store, _files(ratings, audio, clips) as (table, place):
            prepared, upstream, matrix, moments = self._prepared(table, place, store, options)
            plan = Plan(prepared.experiment, prepared.corpus, upstream, matrix, moments, store)
        trained = team.general(plan)
        saved = {name: getattr(self, name) for name in PARAMETERS}
        self._take(trained._replace(about=trained.about | {"parameters": saved}))
        self.models_ = dict(team.personal_models(plan, self.general_, prepared.corpus.ratings))
        self.listeners_ = np.array([*self.models_])
        self.audio_ = (audio, clips)
        return self

    def adapt(self, listener_ratings: Ratings | None = None, audio: Audio | None = None, listener: str | None = None,
              clips: Iterable[str] | None = None, **options: Any) -> "Personaliser":
        """Adapt to one listener: by a table, or by name to one of `fit`'s. Returns self.

        audio: of the table's clips; None: that of `fit`. listener: whose rows to take, where the table has several.
        options: threshold, repeats, encoding. UserError: as `fit`, and an unknown listener.
        """
        if not hasattr(self, "general_") and hasattr(self, "personal_"):
            raise UserError("one listener's file cannot adapt to another; load the folder of the general model")
        check_is_fitted(self, "general_")
        if listener_ratings is None:
            models = getattr(self, "models_", {})
            if listener not in models:
                raise UserError(f"listener {listener!r} was not in fit: {nearest(str(listener), models)}; give ratings")
            self.personal_ = models[listener]
            return self
        inputs, ticks = self._rated(self.general_, listener_ratings, audio, clips, listener, options)
        self.personal_ = personal.adapted(self.general_, inputs, ticks)
        return self

    def predict_frame(self, files: Audio | Iterable[str | Path]) -> pd.DataFrame:
        """A row per clip: file, label (the predicted set, joined by ;) and the probability of each class.

        files: paths of audio files, or of files of features, or an array (n, D) or (n, L, D) of features, whose rows
        are then called by their numbers. UserError: a bad file, or features of another kind than in training.
        """
        check_is_fitted(self, "personal_")
        with self._features() as store:
            array: Any = files
            if hasattr(array, "shape"):
                with _files("", array, map(str, range(len(array)))) as (_, place):
                    return personal.classify(self.personal_, [place], store, self.upstream)
            paths = [files] if isinstance(files, str | Path) else [*files]
            if not paths or not all(isinstance(path, str | Path) for path in paths):
                raise UserError("files: give paths, or an array of features")
            return personal.classify(self.personal_, [Path(path) for path in paths], store, self.upstream)

    def predict_proba(self, files: Audio | Iterable[str | Path]) -> np.ndarray:
        """Probabilities (n, C) of the classes, in the order of classes_; files and errors as `predict_frame`."""
        return self.predict_frame(files)[[*self.classes_]].to_numpy()

    def predict(self, files: Audio | Iterable[str | Path]) -> np.ndarray:
        """The most probable class (n,) of every clip; files and errors as `predict_frame`."""
        likeliest = self.predict_proba(files).argmax(1)
        return self.classes_[likeliest]

    def score(self, ratings: Ratings, audio: Audio | None = None, clips: Iterable[str] | None = None,
              listener: str | None = None, **options: Any) -> float:
        """Accuracy: the share of a listener's clips whose most probable class the listener ticked.

        A clip may have several ticks, and one without any is left out. Arguments and errors as `adapt`.
        """
        check_is_fitted(self, "personal_")
        inputs, ticks = self._rated(self.personal_, ratings, audio, clips, listener, options)
        likeliest = logits(self.personal_.head, inputs).argmax(-1, keepdim=True)
        return float(ticks.gather(-1, likeliest).double().mean())

    def verdicts(self, ratings: Ratings, audio: Audio, out: str | Path, clips: Iterable[str] | None = None,
                 **options: Any) -> pd.DataFrame:
        """Whom a personal model helps, by cross-validation: a row per listener (`perser.analysis.verdicts.verdicts`).

        Writes the folder `out` as `perser personalise` does: report.html, models, manifest.json. `fit` is not needed,
        and its model is not used. Arguments and errors as `fit`.
        """
        with self._features() as store, _files(ratings, audio, clips) as (table, place):
            return team.personalise(*self._prepared(table, place, store, options), Path(out), self.n_jobs)

    def save(self, path: str | Path) -> None:
        """Write the adapted listener as a file, if its name ends in .safetensors, or else the whole model as a folder.

        `perser predict` takes the file, `perser adapt` the folder. UserError: it cannot be written.
        """
        check_is_fitted(self, "personal_")
        path, only_listener = Path(path), not hasattr(self, "general_")
        if path.suffix == ".safetensors":
            personal.save(self.personal_, path)
        elif only_listener:
            raise UserError(f"{path}: one listener's model is one file; end its name in .safetensors")
        else:
            checkpoints.save(self.general_, path)
            personal.save(self.personal_, path / ADAPTED)

    @classmethod
    def load(cls, path: str | Path) -> "Personaliser":
        """Read a file or folder of `save`, of `perser adapt`, `personalise` (OUT/model) or `run` (a checkpoint).

        A folder's model adapts and predicts, a file's predicts. UserError: it is neither.
        """
        path = Path(path)
        if not path.is_dir():
            adapted = personal.load(path)
            return cls._of(adapted.about)._use(adapted)
        trained = checkpoints.load(path)
        model = cls._of(trained.about)._take(trained)
        return model._use(personal.load(path / ADAPTED)) if (path / ADAPTED).is_file() else model

    @classmethod
    def _of(cls, about: dict[str, Any]) -> "Personaliser":
        """An estimator with the parameters that a model was fitted with."""
        saved = {"upstream": about["upstream"]} | about.get("parameters", {})
        parameters = {name: value for name, value in saved.items() if name in PARAMETERS}
        return cls(**parameters | {"settings": tuple(parameters.get("settings", ()))})

    def _take(self, trained: checkpoints.Checkpoint) -> "Personaliser":
        """Predict with a general model until `adapt`."""
        self.general_ = trained
        return self._use(PersonalModel(trained.model.head, trained.mean, trained.scale, trained.about | {"shots": 0}))

    def _use(self, model: PersonalModel) -> "Personaliser":
        self.personal_, self.classes_ = model, np.array(model.about["classes"])
        self.n_features_in_ = model.mean.numel()
        return self

    def _prepared(self, table: Path, place: Path, store: Path, options: dict[str, Any]) -> tuple[
            team.Team, Upstream, Tensor, tuple[float, float] | str]:
        """The team, its upstream, features (N, L, D) and how waveforms were normalised."""
        if self.method not in kinds():
            raise UserError(f"method {self.method!r} is unknown: {nearest(str(self.method), kinds())}")
        if not isinstance(self.random_state, int) or self.random_state < 0:
            raise UserError(f"random_state {self.random_state!r}: give a whole number, so that a fit is repeatable")
        corpus = corpora.load("table", table.absolute().parent, ratings=str(table.absolute()),
                              audio=str(place.absolute()), **options)
        corpus = replace(corpus, options=options)  # without paths, which say nothing elsewhere
        changes = (f"seeds=[{self.random_state}]", f"methods.{team.PERSONAL}.kind={self.method}", *self.settings)
        prepared = team.prepare(corpus, changes)
        return prepared, *features.of_corpus(prepared.corpus, self.upstream, store)

    def _rated(self, model: PersonalModel | checkpoints.Checkpoint, ratings: Ratings, audio: Audio | None,
               clips: Iterable[str] | None, listener: str | None, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """One listener's clips as a model's standardised features (K, L, D), and ticks (K, C) bool."""
        audio, clips = getattr(self, "audio_", (None, None)) if audio is None else (audio, clips)
        if audio is None:
            raise UserError("audio=None: this model was not fitted here; give the folder or features of the clips")
        with self._features() as store, _files(ratings, audio, clips) as (table, place):
            rated, ticks = personal.read_ratings(table, place, tuple(model.about["classes"]), listener, **options)
            return personal.embed(rated, model.about, model.mean, model.scale, store, self.upstream), ticks

    @contextmanager
    def _features(self) -> Iterator[Path]:
        """The feature store."""
        if self.store is not None:
            yield Path(self.store)
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


@contextmanager
def _files(ratings: Ratings, audio: Audio, clips: Iterable[str] | None) -> Iterator[tuple[Path, Path]]:
    """Ratings and audio as files, so that all checks are those of files; errors leave the temporary folder out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            if isinstance(ratings, pd.DataFrame):
                schema.write(ratings, folder / "ratings")
                ratings = folder / "ratings"
            if not isinstance(audio, str | Path):
                audio = _saved(audio, clips, folder / "features.npy")
            yield Path(ratings), Path(audio)
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}{os.sep}", "")) from None


def _saved(values: np.ndarray, clips: Iterable[str] | None, file: Path) -> Path:
    """Write features and the names of their clips as `schema.vectors` reads them."""
    if clips is None:
        raise UserError("clips=None: name the clip of every row of the features")
    try:
        np.save(file, np.asarray(values, np.float32))
    except (TypeError, ValueError) as error:
        raise UserError(f"features: no array of numbers ({error}); give one of clips, or of clips, layers") from None
    file.with_name("clips.txt").write_text("\n".join(map(str, clips)), encoding="utf-8")
    return file
