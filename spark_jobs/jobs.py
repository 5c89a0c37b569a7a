"""The table jobs of a shop: shopgraph's, one module each, and those of the shop's own files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from graphlib import TopologicalSorter

from pyspark.sql import DataFrame

import features.calendars
import features.profiles
import features.windows
from features.definitions import OURS, Own, broken
from features.shop import Shop
from infra.errors import FeatureError, SettingsError
from infra.source import code_digest
from spark_jobs import (
    categories,
    clean_reviews,
    daily_demand,
    days,
    interactions,
    item_activity,
    item_catalog,
    raw,
    sales,
    sessions,
    states,
    user_activity,
    user_category_affinity,
    user_history,
    user_profile,
    user_purchases,
    windows,
)
from spark_jobs.job import Inputs, Job

_MODULES = {
    module.JOB.table.name: module
    for module in (
        item_catalog, interactions, sessions, user_history, user_purchases, user_activity, item_activity, user_category_affinity,
        user_profile, daily_demand, clean_reviews,
    )
}  # fmt: skip
_SHARED = (categories, days, raw, sales, states, windows, features.calendars, features.profiles, features.windows)

JOBS: dict[str, Job] = {name: module.JOB for name, module in _MODULES.items()}
"""Name of a feature table of shopgraph -> its job."""


def jobs_of(shop: Shop) -> dict[str, Job]:
    """Name of each feature table of a shop -> its job.

    Raises:
        FeatureError: an own file of the shop says no feature table, or no job that fills it.
    """
    return JOBS | {name: _job(own) for name, own in shop.definitions.own.items()}


def in_order(names: Iterable[str], jobs: Mapping[str, Job]) -> list[str]:
    """The named feature tables (none: all) and what they are built from, each after what it reads.

    Raises:
        SettingsError: a name that is no feature table.
    """
    reads = {name: [table.name for table in job.reads if table.kind == "features"] for name, job in jobs.items()}
    wanted: set[str] = set()
    pending = list(names) or list(jobs)
    while pending:
        name = pending.pop()
        if name not in jobs:
            raise SettingsError(f"no feature table {name!r}; there are {', '.join(jobs)}.")
        if name not in wanted:
            wanted.add(name)
            pending += reads[name]
    return list(TopologicalSorter({name: reads[name] for name in jobs if name in wanted}).static_order())


def code_of(job: Job, shop: Shop) -> str:
    """A digest of the code that fills the job's table."""
    own = shop.definitions.own.get(job.table.name)
    return code_digest(own.file if own else _MODULES[job.table.name], *_SHARED)


def _job(own: Own) -> Job:
    job = own.job
    if not isinstance(job, Job):
        raise FeatureError(f"{own.file}: JOB is {type(job).__name__}; expected a spark_jobs.job.Job, see docs/extend/feature.md.")
    if job.table != own.table:
        raise FeatureError(f"{own.file}: JOB fills {job.table.name!r}; expected the TABLE of the same file.")
    if strange := [table.name for table in job.reads if OURS.all_tables.get(table.name) != table]:
        raise FeatureError(f"{own.file}: JOB reads {', '.join(strange)}; expected tables of features.tables.")
    if job.scope and job.scope.key not in own.table.names:
        raise FeatureError(f"{own.file}: JOB has the scope {job.scope.key!r}; expected a column of {own.table.name}.")
    if job.scope and not isinstance(job.scope.reach_days, Sequence):
        raise FeatureError(f"{own.file}: JOB has reach_days {job.scope.reach_days!r}; expected days such as (0, 30).")
    return replace(job, run=partial(_run, own, job.run))


def _run(own: Own, run: Callable[[Inputs], DataFrame], inputs: Inputs) -> DataFrame:
    """What the file's own function makes of the inputs.

    Raises:
        FeatureError: it fails, or gives something else than a frame with the columns that are declared.
    """
    try:
        made = run(inputs)
    except Exception as error:
        raise broken(own.file, error) from error
    if not isinstance(made, DataFrame):
        raise FeatureError(f"{own.file}: run gives {type(made).__name__}; expected a Spark DataFrame.")
    if missing := [name for name in own.table.names if name not in made.columns]:
        raise FeatureError(f"{own.file}: run gives no column {', '.join(missing)}; it gives {', '.join(made.columns)}.")
    return made
