"""Feast's registry of a shop: its configuration, what is registered, what was materialised.

The configuration comes from the settings; the same one serves our own calls and, written to `<home>/feast/<shop>.yaml`, the
`feast` command.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from feast import Entity, FeatureService, FeatureStore, FeatureView, RepoConfig
from feast.diff.registry_diff import diff_between
from feast.feature_view import DUMMY_ENTITY
from feast.infra.registry.registry import FeastObjectType
from feast.repo_contents import RepoContents

import features.repo
from features.repo.definitions import build
from features.services import Service
from features.views import View
from infra.home import Home
from infra.settings import Settings

_WORDS = {"CREATE": "created", "UPDATE": "updated", "UNCHANGED": "unchanged", "DELETE": "deleted"}
_KINDS = {
    FeastObjectType.ENTITY: "entity",
    FeastObjectType.FEATURE_VIEW: "view",
    FeastObjectType.FEATURE_SERVICE: "service",
    FeastObjectType.DATA_SOURCE: "source",
}


def config(settings: Settings, shop: str) -> dict[str, Any]:
    """The content of feature_store.yaml, with the registry's real address, which may hold a password."""
    home = Home(settings)
    registry = settings.feast_registry
    place = {"home": str(home.path), "shop": shop}
    return {
        "project": shop,
        "provider": "local",
        "registry": {
            "registry_type": "sql",
            "path": registry.get_secret_value() if registry else f"sqlite:///{home.sql / 'registry.db'}",
            "cache_ttl_seconds": 60,
            # Without this, every online read fails while a materialisation runs.
            "serve_features_while_materializing": True,
        },
        "offline_store": {"type": "features.offline.store.LakeOfflineStore", **place},
        "online_store": {"type": "features.online.store.PackedOnlineStore", **place},
        "batch_engine": {"type": "features.online.store.LakeComputeEngine"},
        "entity_key_serialization_version": 3,
    }


def write_config(settings: Settings, shop: str) -> Path:
    """Write `<home>/feast/<shop>.yaml`. An address with a password is left to the environment, where `feast` expands it."""
    content = config(settings, shop)
    if settings.feast_registry:
        content["registry"]["path"] = "${SHOPGRAPH_FEAST_REGISTRY}"
    path = Home(settings).path / "feast" / f"{shop}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    draft.replace(path)
    return path


def feast_command(settings: Settings, shop: str) -> str:
    """What to type before a Feast verb."""
    config_file = Home(settings).path / "feast" / f"{shop}.yaml"
    return shlex.join([str(Path(sys.executable).with_name("feast")), "-c", features.repo.__path__[0], "-f", str(config_file)])


def open_feast(settings: Settings, shop: str) -> FeatureStore:
    """Feast's store for a shop; the project in its registry has the shop's name."""
    logging.getLogger("feast").setLevel(logging.WARNING)
    return FeatureStore(config=RepoConfig(**config(settings, shop)))


def apply(
    store: FeatureStore, views: Mapping[str, View], services: Mapping[str, Service], settings: Settings
) -> dict[str, list[str]]:
    """Make the registry say what is declared; only what differs is written, so a second call changes nothing.

    Told is created, updated, unchanged, deleted -> the objects it happened to, such as `view user_activity`.
    """
    diff = _diff(store, views, services)
    changed = [d for d in diff if d.transition_type.name in ("CREATE", "UPDATE")]
    gone = [d for d in diff if d.transition_type.name == "DELETE"]
    if changed or gone:
        store.apply(
            [d.new_feast_object for d in changed],
            objects_to_delete=[d.current_feast_object for d in gone],
            partial=False,
        )
    write_config(settings, store.project)
    return _report(diff)


def changes(store: FeatureStore, views: Mapping[str, View], services: Mapping[str, Service]) -> dict[str, list[str]]:
    """What `apply` would do, in the same form."""
    return _report(_diff(store, views, services))


def note_materialization(store: FeatureStore, views: Iterable[str], as_of: datetime) -> None:
    """Tell Feast that views are complete up to `as_of`: `feast materialize-incremental` goes on from there."""
    registered = {view.name: view for view in store.list_feature_views()}
    for name in views:
        if name in registered:
            ttl = registered[name].ttl  # Feast's zero means: never expires
            start = as_of - ttl if ttl else datetime(1970, 1, 1, tzinfo=UTC)
            store.registry.apply_materialization(registered[name], store.project, start, as_of)
    store.refresh_registry()


def _diff(store: FeatureStore, views: Mapping[str, View], services: Mapping[str, Service]) -> list[Any]:
    objects = build(views, services).values()
    feature_views = [o for o in objects if isinstance(o, FeatureView)]
    contents = RepoContents(
        projects=[],
        data_sources=[view.batch_source for view in feature_views],
        feature_views=feature_views,
        on_demand_feature_views=[],
        stream_feature_views=[],
        label_views=[],
        entities=[DUMMY_ENTITY, *(o for o in objects if isinstance(o, Entity))],
        feature_services=[o for o in objects if isinstance(o, FeatureService)],
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
