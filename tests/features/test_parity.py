"""What is served is held against the tables: right rows are, and each kind of wrong one is told as what it is."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from features.online.materialize import materialize
from features.online.packing import pack_rows
from features.online.rows import Rows
from features.parity import Parity, verify
from features.views import View
from infra.errors import FeatureError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from shopgraph import app
from tests.features.conftest import OnlineStore

VIEW = View(
    "prices",
    "features/prices",
    (("item", "string"), ("day", "date")),
    (("price", "float"), ("words", "strings"), ("since", "timestamp"), ("count", "int")),
    ttl_days=10,
)
NOON = datetime(2024, 5, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def write(lake: Lake, prices: dict[str, float | None], at: datetime = NOON) -> None:
    """One row per item; its created time is its event time."""
    rows = [
        {"item": item, "day": date(2024, 5, 1), "price": price, "words": ["ä", None], "since": at, "count": 3}
        | {"event_timestamp": at, "created_timestamp": at}
        for item, price in prices.items()
    ]
    lake.write(VIEW.path, pa.Table.from_pylist(rows, schema=VIEW.schema), "append", digest=f"{prices} {at}")


@pytest.fixture
def rows(online: OnlineStore) -> Rows:
    return online.open()


@pytest.fixture
def served(settings: Settings, lake: Lake, rows: Rows) -> Rows:
    """Four items, one of them expired, materialised an hour after noon."""
    write(lake, {"old": 1.0}, NOON - 20 * DAY)
    write(lake, {"a": 0.1, "b": None, "c": float("nan")})
    materialize([VIEW], NOON + DAY / 24, lake, rows, Home(settings))
    return rows


def looked(lake: Lake, rows: Rows, now: datetime = NOON + DAY, sample: int = 100) -> Parity:
    return verify(VIEW, lake, rows, now, sample, seed=1)


def test_what_was_materialised_holds(lake: Lake, served: Rows) -> None:
    found = looked(lake, served)
    assert found.holds
    assert (found.keys, found.wrong, found.missing, found.newer, found.stale_s) == (4, 0, 0, 0, (0, 0, 0))
    assert (found.version, found.as_of) == (1, NOON + DAY / 24)
    assert looked(lake, served, sample=2).keys == 2


def test_newer_tables_make_rows_stale_and_not_wrong(lake: Lake, served: Rows) -> None:
    write(lake, {"a": 7.0, "d": 1.0}, NOON + 5 * DAY / 24)
    found = looked(lake, served)
    assert found.holds
    assert found.stale_s == (0, pytest.approx(0.9 * 5 * 3600), 5 * 3600)


@pytest.mark.parametrize(
    ("item", "change", "told"),
    [
        ("a", {"price": 0.1 + 2**-55}, "price is"),
        ("a", {"words": ["ä"]}, "words is"),
        ("b", {"since": NOON + timedelta(microseconds=1)}, "since is"),
        ("c", {"count": None}, "count is None, expected 3"),
        ("old", {}, "a row, expected none"),
    ],
)
def test_a_row_that_says_something_else_is_wrong(lake: Lake, served: Rows, item: str, change: dict[str, object], told: str) -> None:
    row = {"item": item, "day": date(2024, 5, 1), "price": 0.1, "words": ["ä", None], "since": NOON, "count": 3}
    row |= {"price": {"a": 0.1, "b": None, "c": float("nan")}.get(item)} | change
    row |= {"event_timestamp": NOON, "created_timestamp": NOON}
    served.write(VIEW, pack_rows(VIEW, pa.Table.from_pylist([row], schema=VIEW.schema)))
    found = looked(lake, served)
    assert not found.holds
    assert (found.wrong, found.missing) == (1, 0)
    assert told in found.examples[0]


def test_a_row_that_is_not_there_is_missing_and_one_put_since_is_newer(lake: Lake, served: Rows, settings: Settings) -> None:
    with served.rebuild([VIEW], NOON + DAY / 24, sources={VIEW: 1}) as put:
        rows = lake.read(VIEW.path, columns=VIEW.schema.names)
        put(VIEW, [row for row in pack_rows(VIEW, rows) if '"a"' in row[0]])
    newer = {"item": "b", "day": date(2024, 5, 1), "event_timestamp": NOON + DAY, "created_timestamp": NOON + DAY}
    served.write(VIEW, pack_rows(VIEW, pa.Table.from_pylist([newer], schema=VIEW.schema)))
    found = looked(lake, served)
    assert (found.wrong, found.missing, found.newer) == (0, 1, 1)
    assert "no row" in found.examples[0]


def test_rows_of_a_definition_before_are_read_as_readers_read_them(lake: Lake, served: Rows) -> None:
    """A column that was added is null until the view is materialised again, which a training frame would not say."""
    added = dataclasses.replace(VIEW, columns=(*VIEW.columns, ("stock", "int")))
    lake.add_columns(VIEW.path, added.schema)
    assert verify(added, lake, served, NOON, 10, 1).holds
    narrow = dataclasses.replace(VIEW, columns=VIEW.columns[:1])
    assert verify(narrow, lake, served, NOON, 10, 1).holds


def test_what_was_never_materialised_is_told(lake: Lake, rows: Rows) -> None:
    with pytest.raises(FeatureError, match="prices was not materialised yet"):
        looked(lake, rows)


def test_the_verb_reports_and_fails_where_a_row_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from features.store import FeatureStore

    def found(*_: object) -> list[Parity]:
        return [Parity("prices", 3, NOON, 9, wrong, 0, 0, (0.0, 0.0, 60.0), ("a: price is 1, expected 2",) * wrong)]

    (tmp_path / "shops" / "sample").mkdir(parents=True)
    (tmp_path / "shops" / "sample" / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: UTC\n")
    monkeypatch.setattr(FeatureStore, "verify", found)
    for wrong in (0, 1):
        told = CliRunner().invoke(app, ["--home", str(tmp_path), "features", "verify", "prices"])
        assert told.exit_code == wrong
        assert ("price is 1, expected 2" in told.output) == bool(wrong)
        told = CliRunner().invoke(app, ["--home", str(tmp_path), "features", "verify", "--json"])
        assert json.loads(told.stdout)[0]["wrong"] == wrong
