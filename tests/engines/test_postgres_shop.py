"""A shop whose order heads and lines lie in two tables of a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal

import psycopg
import pytest
from pyspark.sql import SparkSession

from features.shop import Shop
from infra.errors import IngestError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs.ingest import ingest
from spark_jobs.init_shop import init_shop

pytestmark = pytest.mark.engines

TABLES = """
CREATE TYPE state AS ENUM ('paid', 'shipped');
CREATE TABLE customers (customer_id text PRIMARY KEY, email text, country text, registered_at timestamptz);
CREATE TABLE orders (order_id bigint PRIMARY KEY, customer_id text REFERENCES customers, ordered_at timestamptz, status state);
CREATE TABLE order_lines (
    line_id serial PRIMARY KEY, order_id bigint REFERENCES orders, sku text, quantity int, unit_price numeric(12, 2), tags text[]
);
INSERT INTO customers VALUES ('007', 'a@b.example', 'DE', '2025-01-01 00:00+01');
INSERT INTO orders VALUES (1, '007', '2025-06-01 23:30+02', 'paid'), (2, '007', '2025-06-02 00:30+02', 'shipped');
INSERT INTO order_lines (order_id, sku, quantity, unit_price, tags)
    VALUES (1, 'A', 2, 12.50, '{x}'), (1, 'B', 1, 0.99, NULL), (2, 'A', -1, 12.50, NULL);
"""


@pytest.fixture
def url(postgres: str) -> str:
    with psycopg.connect(f"postgresql://shop@{postgres}/postgres", autocommit=True) as connection:
        connection.execute('DROP DATABASE IF EXISTS "till"')
        connection.execute('CREATE DATABASE "till"')
    address = f"postgresql://shop@{postgres}/till"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(TABLES)
    return address


def test_heads_and_lines_are_joined_and_a_later_run_reads_only_what_is_new(
    url: str, settings: Settings, lake: Lake, spark: SparkSession
) -> None:
    home = Home(settings)
    init_shop(home, "sample", [url.replace("shop@", "shop:geheim@")], currency="EUR", time_zone="Europe/Berlin")
    text = (home.shop() / "shop.yaml").read_text()
    assert "geheim" not in text
    assert (home.shop() / "pgpass").stat().st_mode & 0o777 == 0o600
    shop = Shop.load(home)
    assert {source.name: (source.cursor, [m.table for m in source.tables]) for source in shop.sources} == {
        "customers": (None, ["users"]),
        "order_lines": ("line_id", ["orders"]),
    }
    report = ingest(settings, shop, lambda: nullcontext(spark))
    assert {(line.table, line.read, line.accepted) for line in report.lines} == {("users", 1, 1), ("orders", 3, 3)}
    rows = lake.read("raw/orders").sort_by("order_line_id").to_pylist()
    assert [(r["order_id"], r["user_id"], r["item_id"], r["quantity"], r["unit_price"], r["status"]) for r in rows] == [
        ("1", "007", "A", 2, Decimal("12.5000"), "paid"),
        ("1", "007", "B", 1, Decimal("0.9900"), "paid"),
        ("2", "007", "A", -1, Decimal("12.5000"), "shipped"),
    ]
    assert rows[0]["event_timestamp"] == datetime(2025, 6, 1, 21, 30, tzinfo=UTC)
    assert rows[2]["returned_order_id"] == "1"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO order_lines (order_id, sku, quantity, unit_price) VALUES (2, 'C', 1, 3)")
    report = ingest(settings, shop, lambda: nullcontext(spark))
    assert {(line.table, line.read, line.accepted, line.duplicates) for line in report.lines} == {
        ("users", 1, 0, 1),
        ("orders", 2, 1, 1),  # the last one read comes again
    }
    assert lake.num_rows("raw/orders") == 4


Read = Callable[..., tuple[int, int, int]]


@pytest.fixture
def read(url: str, settings: Settings, spark: SparkSession) -> Read:
    """Ingest the table `log` with a cursor and further columns; rows read, accepted and known already."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE log (id int, sku text, at timestamptz, day date, changed timestamptz)")
        connection.execute("""
            INSERT INTO log VALUES (1, 'A', '2025-06-01 10:00Z', '2025-06-01', '2025-06-03 10:00Z'),
                                   (2, 'A', '2025-06-02 10:00Z', '2025-06-02', '2025-06-03 11:00Z')
        """)

    def read(cursor: str, **more: str) -> tuple[int, int, int]:
        columns = {
            "order_id": "id",
            "item_id": "sku",
            "quantity": {"constant": 1},
            "unit_price": {"constant": 1},
            "event_timestamp": "at",
        }
        name = "-".join([cursor, *more])
        source = {"name": name, "format": "postgres", "url": url, "query": "SELECT * FROM log", "cursor": cursor}
        shop = Shop(
            name="sample",
            currency="EUR",
            time_zone="UTC",
            sources=[{**source, "tables": [{"table": "orders", "columns": {**columns, **more}}]}],
        )
        lines = ingest(settings, shop, lambda: nullcontext(spark)).lines
        return sum(line.read for line in lines), sum(line.accepted for line in lines), sum(line.duplicates for line in lines)

    return read


def test_rows_that_share_the_cursors_value_are_not_lost(url: str, lake: Lake, read: Read) -> None:
    with pytest.raises(IngestError, match="cursor `day` holds dates, and orders has no order_line_id"):
        read("day")
    assert read("day", order_line_id="id") == (2, 2, 0)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO log VALUES (3, 'B', '2025-06-02 10:00Z', '2025-06-02')")
    assert read("day", order_line_id="id") == (2, 1, 1)
    assert lake.num_rows("raw/orders") == 3


def test_rows_whose_cursor_is_null_are_read_each_time(url: str, lake: Lake, read: Read) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO log VALUES (3, 'B', '2025-06-02 10:00Z')")
        assert read("changed", order_line_id="id") == (3, 3, 0)
        connection.execute("INSERT INTO log VALUES (4, 'C', '2025-06-02 11:00Z')")
    assert read("changed", order_line_id="id") == (3, 1, 2)  # 2, which has the greatest value, 3 and 4
    assert sorted(lake.read("raw/orders")["order_line_id"].to_pylist()) == ["1", "2", "3", "4"]


def test_rows_without_ids_whose_cursor_is_null_are_refused(url: str, lake: Lake, read: Read) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for number in (3, 4):  # on the first run, and once a cursor is known
            connection.execute(f"INSERT INTO log VALUES ({number}, 'B', '2025-06-02 10:00Z')")
            with pytest.raises(IngestError, match="cursor `changed` is null in some rows, and orders has no order_line_id"):
                read("changed")
            connection.execute(f"UPDATE log SET changed = '2025-06-04 1{number}:00Z' WHERE id = {number}")
            read("changed")
    assert sorted(lake.read("raw/orders")["order_id"].to_pylist()) == ["1", "2", "3", "4"]


def test_init_takes_a_column_without_holes_as_cursor(url: str, settings: Settings) -> None:
    columns = "line_id, order_id, sku, quantity, unit_price, now() AS ordered_at"
    with psycopg.connect(url, autocommit=True) as connection:
        for name, changed in (("full_sales", "now()"), ("part_sales", "CASE line_id WHEN 2 THEN now() END")):
            connection.execute(f"CREATE TABLE {name} AS SELECT {columns}, {changed} AS updated_at FROM order_lines")
    home = Home(settings)
    init_shop(home, "sample", [url], currency="EUR", time_zone="Europe/Berlin")
    cursors = {source.name: source.cursor for source in Shop.load(home).sources}
    assert cursors | {"full_sales": "updated_at", "part_sales": None, "order_lines": "line_id"} == cursors


def test_a_database_that_does_not_answer_and_a_query_it_refuses(url: str, settings: Settings, spark: SparkSession) -> None:
    def shop(**more: str) -> Shop:
        columns = {"item_id": "sku", "title": "sku", "event_timestamp": {"constant": "2025-01-01"}}
        source = {"name": "db", "format": "postgres", "url": url, "query": "SELECT sku FROM order_lines", **more}
        return Shop(
            name="sample", currency="EUR", time_zone="UTC", sources=[{**source, "tables": [{"table": "items", "columns": columns}]}]
        )

    start = lambda: nullcontext(spark)  # noqa: E731
    with pytest.raises(IngestError, match=r"database postgresql://127\.0\.0\.1:1/till: "):
        ingest(settings, shop(url="postgresql://shop@127.0.0.1:1/till"), start)
    with pytest.raises(IngestError, match="nowhere"):
        ingest(settings, shop(query="SELECT * FROM nowhere"), start)
    with pytest.raises(IngestError, match="has no column `when`, which `cursor` names"):
        ingest(settings, shop(cursor="when"), start)
    with pytest.raises(IngestError, match="cursor `sku` holds text"):
        ingest(settings, shop(cursor="sku"), start)
