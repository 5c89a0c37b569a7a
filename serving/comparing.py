"""What two versions answer to the same requests: fields that differ, how much their lists share, how long either took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.edges import Content

_OWN = {"list_id", "lists.list_id", "as_of", "graph_version", "model_versions", "request_id"}
"""What is another one in every answer."""


@dataclass
class Comparison:
    """Grows by one request at a time."""

    asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Error -> requests that the new version did not answer."""
    fields: Counter[str] = field(default_factory=Counter)
    """Field of the answer -> requests in which it differs."""
    overlaps: list[float] = field(default_factory=list)
    taken_ms: list[float] = field(default_factory=list)
    stable_ms: list[float] = field(default_factory=list)

    def add(self, content: Content, expected: Mapping[str, Any]) -> None:
        """Hold an answer against the one of the stable version."""
        new, old = _flat(content), _flat(expected)
        self.fields.update(name for name in {**old, **new} if name not in _OWN and new.get(name) != old.get(name))
        if before := set(_ids(expected)):
            self.overlaps.append(len(before & set(_ids(content))) / len(before))

    @property
    def differing(self) -> dict[str, float]:
        """Field -> share of requests in which it differs, the most first."""
        return {name: count / max(self.asked, 1) for name, count in self.fields.most_common()}

    @property
    def overlap(self) -> float | None:
        """Of a list, the mean share of items that the stable version's has too; None: no list was compared."""
        return float(np.mean(self.overlaps)) if self.overlaps else None


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an answer; those of the members of a list under the name of the list."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            for member in value[0]:
                found[f"{name}.{member}"] = [one.get(member) for one in value]
        else:
            found[name] = value
    return found


def _ids(content: Mapping[str, Any]) -> list[str]:
    lists = content.get("lists") or [content]
    return [item["item_id"] for one in lists for item in one.get("items", ())]
