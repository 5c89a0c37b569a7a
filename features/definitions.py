"""What a shop's features are: the feature tables, views and services of shopgraph and those of the shop's own files.

An own feature table is one file, `features/<table>.py` of the shop's project folder. It says `TABLE`, a `features.tables.Table`, and
`JOB`, a `spark_jobs.job.Job` that fills it; the table is a view and a service of its name. See docs/extend/feature.md.
"""

from __future__ import annotations

import re
import runpy
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, RETRACTED
from features.services import SERVICES, Service
from features.tables import FEATURE_TABLES, RAW_TABLES, Mark, Table, Type
from features.views import VIEWS, View
from infra.errors import FeatureError

D = TypeVar("D")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
_KEY_TYPES = ("string", "date")
_KEYS = dict(key for view in VIEWS.values() for key in view.keys)


@dataclass(frozen=True)
class Own:
    """A feature table that a shop declares itself, and the job that its file says; what a job is, only table jobs know."""

    table: Table
    file: Path
    job: Any


@dataclass(frozen=True)
class Definitions:
    """Feature tables, views and services by name, and which tables are a shop's `own`."""

    tables: Mapping[str, Table]
    views: Mapping[str, View]
    services: Mapping[str, Service]
    own: Mapping[str, Own] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Definitions:
        """What holds for the shop with this project folder.

        Raises:
            FeatureError: an own file cannot be run, or what it declares is no feature table beside the others.
        """
        own = {one.table.name: one for one in map(_own, sorted((folder / "features").glob("[!_.]*.py")))}
        views = {name: View.of(one.table) for name, one in own.items()}
        services = {name: Service(name, (view,), own[name].table.meaning) for name, view in views.items()}
        tables = {name: one.table for name, one in own.items()}
        return cls({**OURS.tables, **tables}, {**OURS.views, **views}, {**OURS.services, **services}, own)

    @property
    def all_tables(self) -> dict[str, Table]:
        """Feature tables, then raw tables."""
        return {**self.tables, **RAW_TABLES}

    def service(self, name: str) -> Service:
        """The service of that name.

        Raises:
            FeatureError: there is none.
        """
        return _found("feature service", name, self.services)

    def view(self, name: str) -> View:
        """The view of that name.

        Raises:
            FeatureError: there is none.
        """
        return _found("view", name, self.views)


OURS = Definitions(FEATURE_TABLES, VIEWS, SERVICES)
"""What shopgraph declares for every shop."""


def _found(word: str, name: str, among: Mapping[str, D]) -> D:
    if name not in among:
        raise FeatureError(f"no {word} {name!r}; there are {', '.join(sorted(among))}.")
    return among[name]


def broken(file: Path, error: BaseException) -> FeatureError:
    """What to say where an own file raises an error."""
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(file)), getattr(error, "lineno", None))
    return FeatureError(f"{file}, line {line}: {type(error).__name__}: {error}; mend the file, or take it away.")


def _own(file: Path) -> Own:
    said = _run(file)
    for name in ("TABLE", "JOB"):
        if name not in said:
            raise FeatureError(f"{file} says no {name}; an own feature says TABLE and JOB, see docs/extend/feature.md.")
    table = said["TABLE"]
    if not isinstance(table, Table):
        raise FeatureError(
            f"{file}: TABLE is {type(table).__name__}; expected a features.tables.Table, see docs/extend/feature.md."
        )
    if wrong := "; ".join(_mistakes(table, file)):
        raise FeatureError(f"{file}: {wrong}.")
    return Own(table, file, said["JOB"])


def _run(file: Path) -> dict[str, Any]:
    """What the file says. Nobody can import it by a name afterwards, so that Spark sends its functions to executors by value."""
    try:
        return runpy.run_path(str(file), run_name=f"own_{file.stem}")
    except (Exception, SystemExit) as error:  # whatever somebody's code does
        raise broken(file, error) from error


def _mistakes(table: Table, file: Path) -> Iterable[str]:
    """What keeps a declaration from being a feature table beside the others."""
    names = table.names
    if table.name != file.stem:
        yield f"the table is called {table.name!r}; expected {file.stem!r}, as the file"
    if not _NAME.fullmatch(table.name):
        yield f"{table.name!r} is no name; expected small letters, digits and _"
    if table.name in OURS.all_tables or table.name in OURS.services:
        yield f"shopgraph itself has a table or service {table.name!r}; choose another name"
    if table.kind != "features":
        yield f"the table is of kind {table.kind!r}; expected 'features'"
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"columns {', '.join(twice)} are declared twice"
    for column in table.columns:
        if not _NAME.fullmatch(column.name) or column.name == RETRACTED:
            yield f"column {column.name!r}: expected small letters, digits and _, and not {RETRACTED!r}"
        if column.type not in get_args(Type):
            yield f"column {column.name} is of type {column.type!r}; expected {', '.join(get_args(Type))}"
        if column.mark not in get_args(Mark):
            yield f"column {column.name} is marked {column.mark!r}; expected {', '.join(get_args(Mark))}"
    for name in (EVENT_TIMESTAMP, CREATED_TIMESTAMP):
        if name not in names or table.column(name).type != "timestamp" or not table.column(name).required:
            yield f"there is no required timestamp {name}; `feature_table` adds both times"
    if not table.keys:
        yield "there are no keys; name the columns that say of whom or what a row speaks"
    for key in table.keys:
        if key in names and key in _KEYS and table.column(key).type != _KEYS[key]:
            yield f"key {key} is a {table.column(key).type}; expected {_KEYS[key]}, as elsewhere"
        if key not in names or table.column(key).type not in _KEY_TYPES or not table.column(key).required:
            yield f"key {key} must be a declared column, required, of type {' or '.join(_KEY_TYPES)}"
    if not table.features:
        yield "there is no column beside keys and times"
    if strange := sorted(set(table.grouping) - set(names)):
        yield f"grouping names {', '.join(strange)}, which are no columns"
