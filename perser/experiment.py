"""What an experiment is: its methods over all folds, held-out listeners and seeds, read from TOML."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from perser import methods
from perser.corpora.base import nearest
from perser.errors import UserError
from perser.methods import Method
from perser.records import Name
from perser.settings import MOST, Base, Count, Counts, Numbers, Seeds, Settings, blamed, explain, override, read_toml

OWN = Path(__file__).with_name("experiments")  # the project's own
SHARED = ("shared.toml", "tuned.toml")  # tables that `like` names: definitions, and what the search chose for them
COMMON = "experiment"  # the table of shared.toml that all experiments beside it start from
BY_CORPUS = "corpora"  # and its tables of changes for some corpora


@cache
def kinds() -> dict[str, type[Method]]:
    """The settings class of every method by its kind."""
    return methods.kinds()


def _method(table: Any) -> Any:
    """Validate a method's table by its kind."""
    if not isinstance(table, dict):
        return table
    kind = str(table.get("kind"))
    if kind not in kinds():
        raise ValueError(f"unknown kind {kind!r}: {nearest(kind, kinds())}")
    return kinds()[kind].model_validate(table)


class Experiment(Settings):
    """One table or figure: every method over all folds, held-out listeners and seeds."""

    name: Name
    seeds: Seeds = Field((0, 1, 2), min_length=1)
    shots: Counts = Field((5, 10, 20), min_length=1)
    draws: Count = Field(5, description="supports drawn per listener, setting and number of shots")
    dev_draws: Count = Field(5, description="the same for each dev listener")
    min_queries: Count = Field(5, description="listeners with fewer query clips in a setting are left out of it")
    support: Literal["same", "any"] | None = Field(
        None, description="where shots come from: clips of the queries' setting, or any of the listener's clips; "
                          "unset: any where \"same\" leaves fewer than half of the listeners")
    groups: int = Field(6, ge=3, le=MOST, description="groups of listeners, each held out in turn")
    dev: Literal["held-out", "training"] | None = Field(
        None, description="dev listeners: a held-out group, or the training listeners in the dev session; "
                          "unset: held-out where groups have at least four listeners")
    folds: Counts | Literal["paired"] | None = Field(
        None, description="folds to run, from 1; unset: all, with every group of listeners; paired: all, fold i with "
                          "the i-th group alone")
    test_inner_steps: Numbers | None = Field(
        None, description="numbers of inner steps to test after, repeating the last step's learning rates beyond those "
                          "trained; unset: as trained")
    references: tuple[str, ...] = Field((), description="methods that all others are compared with, in turn; unset: "
                                                        "SSL-E and the best method without meta-learning")
    base: Base = Base()
    methods: dict[Name, Annotated[SerializeAsAny[Method], BeforeValidator(_method)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _references_exist(self) -> "Experiment":
        for name in self.references:
            if name not in self.methods:
                raise ValueError(f"references: {name!r} is no method of this experiment; {nearest(name, self.methods)}")
        return self


def named(name: str) -> Path:
    """The file of one of the project's own by its name, or any .toml file by its path. UserError: neither."""
    names = sorted(path.stem for path in OWN.glob("*.toml") if path.name not in SHARED)
    if name not in names and not name.endswith(".toml"):
        raise UserError(f"experiment {name!r}: {nearest(name, names)}; a file of your own ends in .toml")
    return OWN / f"{name}.toml" if name in names else Path(name)


def load(path: Path, overrides: tuple[str, ...] = (), corpus: str = "") -> Experiment:
    """The experiment in a TOML file with `key.sub=value` overrides.

    It starts from the table `experiment` of shared.toml beside the file, changed by the table `corpora.CORPUS` there. A
    method's table may say `like = "NAME"`: it then starts from the tables of that name in shared.toml and tuned.toml.
    Raises UserError in one line that names the file, the key and, for an unknown key, the nearest valid one.
    """
    path = Path(path)
    common_file, settings = path.with_name(SHARED[0]), read_toml(path)
    shared = read_toml(common_file) if common_file.exists() else {}
    common, base = shared.get(COMMON, {}) | shared.get(BY_CORPUS, {}).get(corpus, {}), settings.get("base", {})
    settings = common | settings | {"base": common.get("base", {}) | base if isinstance(base, dict) else base}
    for change in overrides:
        override(settings, change)
    tables = settings.get("methods")
    if isinstance(tables, dict):
        settings["methods"] = {name: _like(path, name, table) for name, table in tables.items()}
    try:
        return Experiment.model_validate({"name": path.stem, **settings})
    except ValidationError as error:
        raise UserError(f"{blamed(error.errors()[0], overrides, path)}: {_explained(error, settings)}") from None


def _like(path: Path, name: str, table: Any) -> Any:
    """A method's table with what it inherits."""
    if not isinstance(table, dict) or "like" not in table:
        return table
    shared = [read_toml(file) for file in map(path.with_name, SHARED) if file.exists()]
    parent, inherited = str(table["like"]), dict[str, Any]()
    for tables in shared:
        inherited |= tables.get(parent, {})
    if not inherited:
        known = sorted({key for tables in shared for key in tables})
        raise UserError(f"{path}: methods.{name}.like = {parent!r}: no such table beside the file; "
                        f"{nearest(parent, known)}")
    return inherited | {key: value for key, value in table.items() if key != "like"}


def _explained(error: ValidationError, settings: dict[str, Any]) -> str:
    first = error.errors()[0]
    tables: dict[str, type[Settings]] = {"base": Base}
    if first["type"] == "extra_forbidden" and first["loc"][0] == "methods":  # of a method whose kind is known
        name = first["loc"][1]
        tables[str(name)] = kinds()[settings["methods"][name]["kind"]]
    return explain(first, tables, Experiment)
