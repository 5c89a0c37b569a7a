"""What Feast is told: its configuration, its objects, and the folder in which the `feast` command finds both.

The configuration comes from the settings; the same one serves our own calls and the command, which reads `<home>/feast/<shop>/`:

    feast -c <home>/feast/<shop> feature-views list

`shopgraph features apply` writes the folder and prints this line with the path filled in.
"""

from __future__ import annotations

import shlex
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from feast import Entity, FeatureService, FeatureView, Field
from feast.feast_object import FeastObject
from feast.types import from_value_type

from features.definitions import Definitions
from features.offline.source import VALUE_TYPES, LakeSource
from features.tables import Table
from features.views import View
from infra.home import Home
from infra.settings import Settings

_SCANNED = '''"""The objects of this shop for the `feast` command. Written by `shopgraph features apply`; do not edit."""

from pathlib import Path

from features.repo import of_shop

globals().update(of_shop(Path(__file__).parents[2], {shop!r}))
'''


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


def write_repo(settings: Settings, shop: str) -> Path:
    """Write the folder that the `feast` command reads. An address with a password is left to the environment, which it expands."""
    content = config(settings, shop)
    if settings.feast_registry:
        content["registry"]["path"] = "${SHOPGRAPH_FEAST_REGISTRY}"
    folder = _folder(settings, shop)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"feature_store.yaml": yaml.safe_dump(content, sort_keys=False), "definitions.py": _SCANNED.format(shop=shop)}
    for name, text in texts.items():
        draft = folder / f"{name}.draft"
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / name)
    return folder


def feast_command(settings: Settings, shop: str) -> str:
    """What to type before a Feast verb."""
    return shlex.join([str(Path(sys.executable).with_name("feast")), "-c", str(_folder(settings, shop))])


def of_shop(home: Path, shop: str) -> dict[str, FeastObject]:
    """The objects of a shop as Feast scans them, each under a name of its own."""
    return objects(Definitions.of(Home(Settings.load(home=home)).shop(shop)))


def objects(definitions: Definitions) -> dict[str, FeastObject]:
    """`entity_user_id`, `view_user_history`, `service_recommender` and so on -> Feast's object of what is definitions."""
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=VALUE_TYPES[kind])
        for name, kind in dict(key for view in definitions.views.values() for key in view.keys).items()
    }
    views = {name: _feature_view(view, definitions.tables.get(name), entities) for name, view in definitions.views.items()}
    services = {
        name: FeatureService(
            name=name,
            features=[views[view.name] for view in service.views],
            description=service.meaning,
            tags={"digest": service.digest},
        )
        for name, service in definitions.services.items()
    }
    return {
        **{f"entity_{name}": entity for name, entity in entities.items()},
        **{f"view_{name}": view for name, view in views.items()},
        **{f"service_{name}": service for name, service in services.items()},
    }


def _feature_view(view: View, table: Table | None, entities: dict[str, Entity]) -> FeatureView:
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


def _folder(settings: Settings, shop: str) -> Path:
    return Home(settings).path / "feast" / shop
