"""Feast's registry of a shop: what is registered, what was materialised."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from feast import Entity, FeatureService, FeatureStore, FeatureView, RepoConfig
from feast.diff.registry_diff import diff_between
from feast.feature_view import DUMMY_ENTITY
from feast.infra.registry.registry import FeastObjectType
from feast.repo_contents import RepoContents

from features.definitions import Definitions
from features.repo import config, objects, write_repo
from infra.settings import Settings

_WORDS = {"CREATE": "created", "UPDATE": "updated", "UNCHANGED": "unchanged", "DELETE": "deleted"}
_KINDS = {
    FeastObjectType.ENTITY: "entity",
    FeastObjectType.FEATURE_VIEW: "view",
    FeastObjectType.FEATURE_SERVICE: "service",
    FeastObjectType.DATA_SOURCE: "source",
}


def open_feast(settings: Settings, shop: str) -> FeatureStore:
    """Feast's store for a shop; the project in its registry has the shop's name."""
    logging.getLogger("feast").setLevel(logging.WARNING)
    return FeatureStore(config=RepoConfig(**config(settings, shop)))


def apply(store: FeatureStore, definitions: Definitions, settings: Settings) -> dict[str, list[str]]:
    """Make the registry say what is declared; only what differs is written, so a second call changes nothing.

    Told is created, updated, unchanged, deleted -> the objects it happened to, such as `view user_activity`.
    """
    diff = _diff(store, definitions)
    changed = [d for d in diff if d.transition_type.name in ("CREATE", "UPDATE")]
    gone = [d for d in diff if d.transition_type.name == "DELETE"]
    if changed or gone:
        store.apply(
            [d.new_feast_object for d in changed],
            objects_to_delete=[d.current_feast_object for d in gone],
            partial=False,
        )
    write_repo(settings, store.project)
    return _report(diff)


def changes(store: FeatureStore, definitions: Definitions) -> dict[str, list[str]]:
    """What `apply` would do, in the same form."""
    return _report(_diff(store, definitions))


def note_materialization(store: FeatureStore, views: Iterable[str], as_of: datetime) -> None:
    """Tell Feast that views are complete up to `as_of`: `feast materialize-incremental` goes on from there."""
    registered = {view.name: view for view in store.list_feature_views()}
    for name in views:
        if name in registered:
            ttl = registered[name].ttl  # Feast's zero means: never expires
            start = as_of - ttl if ttl else datetime(1970, 1, 1, tzinfo=UTC)
            store.registry.apply_materialization(registered[name], store.project, start, as_of)
    store.refresh_registry()


def _diff(store: FeatureStore, definitions: Definitions) -> list[Any]:
    told = objects(definitions).values()
    feature_views = [o for o in told if isinstance(o, FeatureView)]
    contents = RepoContents(
        projects=[],
        data_sources=[view.batch_source for view in feature_views],
        feature_views=feature_views,
        on_demand_feature_views=[],
        stream_feature_views=[],
        label_views=[],
        entities=[DUMMY_ENTITY, *(o for o in told if isinstance(o, Entity))],
        feature_services=[o for o in told if isinstance(o, FeatureService)],
        permissions=[],
    )
    store.registry.refresh(project=store.project)
    diffs = diff_between(store.registry, store.project, contents).feast_object_diffs
    return [d for d in diffs if d.feast_object_type in _KINDS and d.name != DUMMY_ENTITY.name]


def _report(diff: list[Any]) -> dict[str, list[str]]:
    report: dict[str, list[str]] = {word: [] for word in _WORDS.values()}
    for d in diff:
        report[_WORDS[d.transition_type.name]].append(f"{_KINDS[d.feast_object_type]} {d.name}")
    return {word: sorted(names) for word, names in report.items()}
