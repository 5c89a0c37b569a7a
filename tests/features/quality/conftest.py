"""Four honest weeks of a small table, and a gate to send rows through."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.quality.gate import Gate
from features.quality.report import Report, Reports
from features.shop import Shop
from features.tables import Column, Table
from infra.lake import Lake

NOW = datetime(2024, 5, 29, 12, tzinfo=UTC)
SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")
CREATED = Column("created_timestamp", "timestamp", "when the shop could first know it", required=True)
EVENT = Column("event_timestamp", "timestamp", "when it became true", required=True)
PRICES = Table(
    "prices",
    "features",
    "prices and what became of them",
    (
        Column("item_id", "string", "the item", required=True),
        Column("price", "money", "price", "shop currency"),
        Column("share", "float", "share", "0-1"),
        Column("units_count", "int", "units", "units"),
        Column("kind", "string", "kind"),
        Column("tags", "strings", "tags"),
        Column("is_new", "bool", "new"),
        Column("since", "date", "on sale since"),
        Column("owner", "string", "who", mark="personal"),
        EVENT,
        CREATED,
    ),
    keys=("item_id",),
)
"""A column of every type; expectations of hand are added by `expecting`."""
RULES: dict[str, Any] = {
    "fresh_days": 3,
    "volume": [0.5, 2],
    "columns": {"price": {"stable": True}, "kind": {"values": ["new", "used", "中古"]}, "share": {"max_null_share": 0.2}},
}

Row = dict[str, Any]


def honest(days: int = 28, per_day: int = 50, seed: int = 1) -> list[Row]:
    """Rows of the local days before NOW, stamped at the end of each as daily rows are."""
    chance = np.random.default_rng(seed)
    rows = []
    for back in range(days):
        day = NOW.astimezone(SHOP.zone).date() - timedelta(back)
        stamp = datetime.combine(day, time(), SHOP.zone).astimezone(UTC)
        rows += [
            {
                "item_id": f"i{number}",
                "price": round(float(chance.lognormal(3, 0.5)), 2),
                "share": float(chance.uniform()) if chance.random() > 0.05 else None,
                "units_count": int(chance.poisson(2)),
                "kind": str(chance.choice(["new", "used", "中古"])),
                "tags": ["a"] * int(chance.integers(0, 4)),
                "is_new": bool(chance.random() < 0.5),
                "since": date(2024, 1, 1),
                "owner": f"Ada Lovelace {number}",
                "event_timestamp": stamp,
                "created_timestamp": stamp,
            }
            for number in range(per_day)
        ]
    return rows


def as_table(rows: list[Row], table: Table = PRICES) -> pa.Table:
    """Rows as a table would hold them; required columns may hold null, so that a gate can be shown some."""
    fields = {field.name: field for field in table.stored_schema}
    arrays = []
    for name, field in fields.items():
        values = [row.get(name) for row in rows]
        if pa.types.is_decimal(field.type):
            arrays.append(pa.array(values, pa.float64()).cast(field.type, safe=False))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.table(dict(zip(fields, arrays, strict=True)))


@pytest.fixture
def send(lake: Lake) -> Callable[..., Report]:
    """`send(rows)`: put rows through the gate, commit them where it lets them, and give the report that was kept."""

    def send(
        rows: list[Row],
        *,
        table: Table = PRICES,
        mode: str = "overwrite",
        now: datetime = NOW,
        rules: dict[str, Any] | None = None,
    ) -> Report:
        shop = Shop.model_validate(SHOP.model_dump() | {"quality": {table.name: RULES if rules is None else rules}})
        gate = Gate(lake, shop, table, now)
        attempt = lake.attempt(table.path)
        half = len(rows) // 2
        for number, part in enumerate([rows[:half], rows[half:]]):
            pq.write_table(as_table(part, table), f"{attempt.uri}/part-{number}.parquet", row_group_size=100)
        gate.check(attempt, mode)
        digest = f"{table.name} {lake.version(table.path)}"
        commit = lake.commit(attempt, table.stored_schema, mode, digest=digest, read_version=lake.version(table.path))
        gate.keep(commit.version)
        report = Reports(lake).of(table.path, commit.version)
        assert report is not None
        return report

    return send
