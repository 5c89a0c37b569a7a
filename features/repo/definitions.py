"""The Feast objects of a shop: entities, views and services, all derived from `features/tables.py`.

Feast scans the names of this module, so each object is one, too: `view_user_history`, `service_recommender`, `entity_user_id`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field
from feast.feast_object import FeastObject
from feast.types import from_value_type

from features.offline.source import VALUE_TYPES, LakeSource
from features.services import SERVICES, Service
from features.tables import FEATURE_TABLES
from features.views import VIEWS, View


def build(views: Mapping[str, View], services: Mapping[str, Service]) -> dict[str, FeastObject]:
    """Name in this module -> Feast object, for these views and services."""
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=VALUE_TYPES[kind])
        for name, kind in dict(key for view in views.values() for key in view.keys).items()
    }
    feature_views = {name: _feature_view(view, entities) for name, view in views.items()}
    feature_services = {
        name: FeatureService(
            name=name,
            features=[feature_views[view.name] for view in service.views],
            description=service.meaning,
            tags={"digest": service.digest},
        )
        for name, service in services.items()
    }
    return {
        **{f"entity_{name}": entity for name, entity in entities.items()},
        **{f"view_{name}": view for name, view in feature_views.items()},
        **{f"service_{name}": service for name, service in feature_services.items()},
    }


def _feature_view(view: View, entities: Mapping[str, Entity]) -> FeatureView:
    table = FEATURE_TABLES.get(view.name)
    about = {c.name: f"{c.meaning} [{c.unit}]" if c.unit else c.meaning for c in table.columns} if table else {}
    return FeatureView(
        name=view.name,
        entities=[entities[name] for name in view.key_names],
        ttl=view.ttl or timedelta(0),  # Feast's zero means: never expires
        schema=[
            Field(name=name, dtype=from_value_type(VALUE_TYPES[kind]), description=about.get(name, ""))
            for name, kind in (*view.keys, *view.columns)
        ],
        online=view.online,
        source=LakeSource(view, table.meaning if table else ""),
        description=table.meaning if table else "",
        tags={"digest": view.digest},
    )


globals().update(build(VIEWS, SERVICES))
