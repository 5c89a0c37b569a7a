"""Feast's configuration of a shop, from the settings; the same for our own calls and for the file that the `feast` command reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import features.repo
from infra.home import Home
from infra.settings import Settings


def config(settings: Settings, shop: str) -> dict[str, Any]:
    """The content of feature_store.yaml, with the registry's real address."""
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
    return f"feast -c {features.repo.__path__[0]} -f {Home(settings).path / 'feast' / f'{shop}.yaml'}"
