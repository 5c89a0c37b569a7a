"""Views: what each feature table serves, derived from `features/tables.py`. Free of Feast, so that a serving replica can import it.

A view has the name of its table. Its columns keep their declared types, except money: DECIMAL(18,4) in the lake, float64 once it
is served, offline and online alike.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Self

import pyarrow as pa

import features.windows
from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.tables import ARROW_TYPES, FEATURE_TABLES, Table, Type
from infra.source import code_digest

OFFLINE_ONLY = ("interactions", "sessions", "clean_reviews")
"""Views that no request reads: one row per act, session or text. They stay out of the online store."""

ONLINE_DAYS = {"daily_demand": 371}
"""How many days back the online store holds a view whose rows never expire: for demand 53 weeks, so that a forecast sees the same
weeks of last year as the backtest did."""


_WINDOWED = re.compile(r"_\d+d$")
_WINDOW_CODE = code_digest(features.windows)


@dataclass(frozen=True)
class View:
    """What one feature table serves.

    `keys` and `columns` are (name, type) pairs in table order. A value is visible to a reader at t iff event <= t, created <= t
    and, where `ttl_days` is set, event >= t - ttl_days; the greatest (event, created) wins. `online_days` bounds how far back
    materialisation goes. `code` stands for the code that computes the windowed columns.
    """

    name: str
    path: str
    keys: tuple[tuple[str, Type], ...]
    columns: tuple[tuple[str, Type], ...]
    ttl_days: int | None = None
    online: bool = True
    online_days: int | None = None
    code: str = ""

    @classmethod
    def of(cls, table: Table) -> Self:
        """The view of a declared table."""
        return cls(
            name=table.name,
            path=table.path,
            keys=tuple((key, table.column(key).type) for key in table.keys),
            columns=tuple((c.name, "float" if c.type == "money" else c.type) for c in table.features),
            ttl_days=table.ttl_days,
            online=table.name not in OFFLINE_ONLY,
            online_days=ONLINE_DAYS.get(table.name),
            code=_WINDOW_CODE if any(_WINDOWED.search(name) for name in table.names) else "",
        )

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.keys)

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)

    @property
    def ttl(self) -> timedelta | None:
        """How old, by event time, a row may be to be visible; None: any age."""
        return None if self.ttl_days is None else timedelta(days=self.ttl_days)

    @property
    def online_age(self) -> timedelta | None:
        """How old, by event time, a row may be to be worth keeping online; None: any age."""
        days = [d for d in (self.ttl_days, self.online_days) if d is not None]
        return timedelta(days=min(days)) if days else None

    @property
    def time_column(self) -> str:
        """Name under which the event time of the answered row is given beside its values."""
        return f"{self.name}__{EVENT_TIMESTAMP}"

    @property
    def created_column(self) -> str:
        """Name under which a frame tells when the answered row was known."""
        return f"{self.name}__{CREATED_TIMESTAMP}"

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of served rows: keys, columns, event and created time."""
        times = [(name, ARROW_TYPES["timestamp"]) for name in (EVENT_TIMESTAMP, CREATED_TIMESTAMP)]
        return pa.schema([*((name, ARROW_TYPES[kind]) for name, kind in (*self.keys, *self.columns)), *times])

    @cached_property
    def digest(self) -> str:
        """Digest of the definition: keys, columns, types, expiry and window code. Rows stay fresh under it."""
        definition = [self.name, self.keys, self.columns, self.ttl_days, self.code]
        return hashlib.sha256(json.dumps(definition).encode()).hexdigest()

    def to_json(self) -> str:
        """The view as JSON, keys in a fixed order: equal views give equal text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The view that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("keys", "columns"):
            fields[name] = tuple((column, kind) for column, kind in fields[name])
        return cls(**fields)


VIEWS: dict[str, View] = {name: View.of(table) for name, table in FEATURE_TABLES.items()}
