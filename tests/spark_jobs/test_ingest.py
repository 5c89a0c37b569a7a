from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features.shop import Shop
from infra import clock
from infra.errors import HomeError, IngestError
from infra.home import Home
from infra.journal import Journal, Write
from infra.lake import Commit, Lake
from infra.settings import Settings
from spark_jobs.ingest import ingest
from spark_jobs.sources.report import Report

ORDERS = {
    "order_id": "order",
    "order_line_id": "line",
    "user_id": "customer",
    "item_id": "sku",
    "quantity": "qty",
    "unit_price": "price",
    "event_timestamp": "at",
}
HEADER = "order,line,customer,sku,qty,price,at\n"
NOW = "2025-12-01T00:00:00+00:00"
Run = Callable[..., Report]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "daten 数据"
    made.mkdir()
    return made


@pytest.fixture
def run(settings: Settings, spark: SparkSession) -> Run:
    """Ingest a shop made of these sources; further keywords are fields of the shop, `check` is the verb's."""

    def run(*sources: dict[str, Any], check: bool = False, **more: Any) -> Report:
        said = {"name": "sample", "currency": "EUR", "time_zone": "Europe/Berlin", "now": NOW, "quarantine_share": 1.0, **more}
        report = ingest(settings, Shop(sources=sources, **said), lambda: nullcontext(spark), check=check)
        for line in report.lines:
            assert line.read == line.accepted + line.duplicates + line.quarantined + sum(line.dropped.values())
        return report

    return run


def csv_orders(path: Path, columns: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": "till",
        "format": "csv",
        "path": str(path),
        "tables": [{"table": "orders", "columns": columns or ORDERS}],
        **more,
    }


def rows(lake: Lake, path: str, *sort: str) -> list[dict[str, Any]]:
    table = lake.read(path)
    return table.sort_by([(name, "ascending") for name in sort]).to_pylist() if sort else table.to_pylist()


def test_a_row_arrives_typed_or_is_quarantined_with_its_reason(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "orders.csv").write_text(
        HEADER
        + "1,1,17850.0,0085123A,2,2.55,2025-06-01 23:30:00\n"  # local summer time
        + '1,2,,"B,1",1,"1e-2",2025-01-01T10:00:00+00:00\n'  # an instant
        + "2,1,7,A,-1,5,2025-06-02\n"
        + "3,1,7,A,1,-5,2025-06-02 10:00\n"
        + "3,2,7,A,1,NaN,2025-06-02 10:00\n"
        + "3,3,7,A,1,Infinity,2025-06-02 10:00\n"
        + "3,4,7,A,1.5,1,2025-06-02 10:00\n"
        + "3,5,7,A,one,1,2025-06-02 10:00\n"
        + "3,6,7,,1,1,2025-06-02 10:00\n"
        + "3,7,7,A,1,1,2026-06-02 10:00\n"
        + "3,8,7,A,1,1,2025-03-30 02:30:00\n"
        + "3,9,7,A,1,1,02.06.2025\n"
        + "3,10,7,A,1,1\n"
        + "3,11,7,A,1,99999999999999999,2025-06-02\n"
        + "4,1,7,A,1,1,2025-10-26 02:30:00\n"  # twice that night: the first
    )
    report = run(csv_orders(folder / "orders.csv"))
    stored = rows(lake, "raw/orders", "order_id", "order_line_id")
    assert [(r["order_id"], r["user_id"], r["item_id"], r["quantity"], r["unit_price"]) for r in stored] == [
        ("1", "17850", "0085123A", 2, Decimal("2.5500")),
        ("1", None, "B,1", 1, Decimal("0.0100")),
        ("2", "7", "A", -1, Decimal("5.0000")),
        ("4", "7", "A", 1, Decimal("1.0000")),
    ]
    assert [r["event_timestamp"] for r in stored] == [
        datetime(2025, 6, 1, 21, 30, tzinfo=UTC),
        datetime(2025, 1, 1, 10, tzinfo=UTC),
        datetime(2025, 6, 1, 22, tzinfo=UTC),
        datetime(2025, 10, 26, 0, 30, tzinfo=UTC),
    ]
    assert all(r["created_timestamp"] == r["event_timestamp"] for r in stored)
    bad = {r["row"]: r for r in rows(lake, "quarantine/orders")}
    assert {row: r["reason"] for row, r in bad.items()} == {
        4: "unit_price: negative",
        5: "unit_price: NaN or infinite",
        6: "unit_price: NaN or infinite",
        7: "quantity: not a whole number",
        8: "quantity: not a number",
        9: "item_id: missing",
        10: "event_timestamp: in the future",
        11: "event_timestamp: local time that a clock change skipped",
        12: "event_timestamp: not a time",
        13: "6 fields, expected 7",
        14: "unit_price: too large",
    }
    assert json.loads(bad[8]["source_row"]) == {
        "order": "3", "line": "5", "customer": "7", "sku": "A", "qty": "one", "price": "1", "at": "2025-06-02 10:00"
    }  # fmt: skip
    assert json.loads(bad[13]["source_row"]) == {"text": "3,10,7,A,1,1"}
    assert bad[8]["part"] == str(folder / "orders.csv")
    assert bad[8]["source"] == "till"
    (line,) = report.lines
    assert (line.read, line.accepted, line.duplicates, line.quarantined) == (15, 4, 0, 11)
    assert report.notices == ["1 returns have no purchase they could take back; they are accepted as returns."]


def test_times_outside_the_years_1_to_9999_are_quarantined_in_every_zone(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "offers.csv").write_text(
        "id,seconds,ends\n"
        "1,-200000000000,9999-12-31 23:59:59\n"
        "2,-62135596801,0001-01-01 00:00:00\n"
        "3,-62135596800,9999-12-31T23:59:59.999999Z\n"
        "4,253402300799,0001-01-01T00:00:00Z\n"
        "5,253402300800,9999-12-31T23:59:59-01:00\n"
        "6,1e27,0000-06-01\n"
    )
    at = {"constant": "2025-01-01"}
    offer = {"promotion_id": "id", "item_id": "id", "depth": {"constant": 0.1}, "created_timestamp": at}
    times = {"starts_at": {"column": "seconds", "unit": "s"}, "ends_at": "ends"}
    tables = [
        {"table": "promotions", "columns": offer | times},
        {"table": "calendar", "columns": {"date": "ends", "name": "id", "created_timestamp": at}},
    ]
    source = {"format": "csv", "path": str(folder), "tables": tables}
    run({"name": "west", "zone": "America/New_York", **source}, {"name": "east", "zone": "Asia/Shanghai", **source})
    bad = rows(lake, "quarantine/promotions") + rows(lake, "quarantine/calendar")

    def told(name: str, reason: str) -> list[int]:
        return sorted(r["row"] for r in bad if r["source"] == name and reason in r["reason"])

    assert [told(name, "starts_at: not a time") for name in ("west", "east")] == [[1, 2, 5, 6], [1, 2, 5, 6]]
    assert [told(name, "ends_at: not a time") for name in ("west", "east")] == [[1, 5, 6], [2, 5, 6]]
    assert [told(name, "date: not a date") for name in ("west", "east")] == [[4, 5, 6], [3, 5, 6]]


def test_a_second_day_adds_new_keys_corrections_and_counts_duplicates(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "day1.csv").write_text(HEADER + "1,1,7,A,1,1.00,2025-06-01 10:00\n1,2,7,B,1,1.00,2025-06-01 10:00\n")
    first = run(csv_orders(folder))
    again = run(csv_orders(folder))
    assert (first.parts_read, again.parts_read, again.parts_skipped, again.lines) == (1, 0, 1, [])
    (folder / "day2.csv").write_text(
        HEADER + "1,1,7,A,1,1.00,2025-06-01 10:00\n1,2,7,B,3,1.00,2025-06-01 10:00\n2,1,7,A,1,1.00,2025-06-02\n"
    )
    (line,) = run(csv_orders(folder)).lines
    assert (line.read, line.accepted, line.corrections, line.duplicates) == (3, 2, 1, 1)
    stored = rows(lake, "raw/orders", "order_id", "order_line_id", "created_timestamp")
    assert [(r["order_id"], r["order_line_id"], r["quantity"]) for r in stored] == [
        ("1", "1", 1),
        ("1", "2", 1),
        ("1", "2", 3),
        ("2", "1", 1),
    ]
    assert stored[2]["created_timestamp"] >= datetime.fromisoformat(NOW)
    assert stored[2]["event_timestamp"] == stored[1]["event_timestamp"]
    shutil.copy(folder / "day2.csv", folder / "copy of day2.csv")
    assert run(csv_orders(folder)).parts_skipped == 3


def test_a_file_that_goes_back_to_what_it_was_is_a_correction_again(folder: Path, run: Run, lake: Lake) -> None:
    file, columns = folder / "items.csv", {"item_id": "sku", "price": "price", "event_timestamp": {"constant": "2025-01-01"}}
    source = csv_orders(file, tables=[{"table": "items", "columns": columns}])
    for at, price in enumerate((10, 12, 10)):
        file.write_text(f"sku,price\nA,{price}\n")
        os.utime(file, (at % 2, at % 2))  # brought back with its time of change
        run(source)
    assert [r["price"] for r in rows(lake, "raw/items", "created_timestamp")] == [10, 12, 10]
    assert run(source).parts_skipped == 1


def test_rows_without_an_id_are_kept_and_their_file_is_never_read_twice(folder: Path, run: Run, lake: Lake) -> None:
    columns = {name: column for name, column in ORDERS.items() if name != "order_line_id"}
    file = folder / "orders.csv"
    file.write_text(HEADER + "1,1,7,A,1,1.00,2025-06-01\n" * 2 + "1,1,7,B,1,1.00,2025-06-01\n")
    (line,) = run(csv_orders(file, columns)).lines
    assert (line.accepted, line.identical) == (3, 1)
    file.write_text(file.read_text() + "2,1,7,A,1,1.00,2025-06-02\n")
    with pytest.raises(IngestError, match="was read before and has changed, and orders has no order_line_id"):
        run(csv_orders(file, columns))
    assert lake.num_rows("raw/orders") == 3
    source = csv_orders(file, columns)
    source["tables"][0]["identical"] = "drop"
    (line,) = run(source).lines
    assert (line.accepted, line.duplicates) == (1, 3)


def test_a_copy_of_a_file_is_read_once_and_a_source_without_ids_keeps_its_name(folder: Path, run: Run, lake: Lake) -> None:
    bare = {name: column for name, column in ORDERS.items() if name != "order_line_id"}
    for name in ("orders.csv", "orders copy.csv"):
        (folder / name).write_text(HEADER + "1,1,7,A,1,1,2025-06-01\n")
    report = run(csv_orders(folder, bare))
    assert (report.parts_read, report.parts_skipped, lake.num_rows("raw/orders")) == (1, 1, 1)
    with pytest.raises(IngestError, match=r"was read before as source till, and orders has no order_line_id.*counted twice"):
        run({**csv_orders(folder, bare), "name": "kasse"})
    (folder / "orders.csv").rename(folder / "moved.csv")
    with pytest.raises(IngestError, match="was read before as source till"):
        run({**csv_orders(folder / "moved.csv", bare), "name": "kasse"})
    events = {"event_type": {"constant": "purchase"}, "user_id": "customer", "item_id": "sku", "event_timestamp": "at"}
    views = {**csv_orders(folder), "name": "views", "tables": [{"table": "events", "columns": events}]}
    run(csv_orders(folder, bare), views)  # two sources of one file that feed different tables
    assert (lake.num_rows("raw/orders"), lake.num_rows("raw/events")) == (1, 1)
    source = csv_orders(folder, bare)
    source["tables"][0]["identical"] = "drop"
    (line,) = run({**source, "name": "kasse"}).lines
    assert (line.accepted, line.duplicates) == (0, 1)


def test_new_columns_are_kept_and_vanished_or_retyped_ones_stop(folder: Path, run: Run, lake: Lake) -> None:
    def write(name: str, **columns: list[Any]) -> None:
        base = {
            "order": ["1"],
            "line": [name],
            "customer": [17850.0],
            "sku": ["A"],
            "qty": [1],
            "price": [1.0],
            "at": [datetime(2025, 6, 1, 10)],
        }
        pq.write_table(pa.table({key: value for key, value in {**base, **columns}.items() if value}), folder / f"{name}.parquet")

    source = csv_orders(folder, format="parquet")
    write("1")
    run(source)
    write("2", gift_wrap=[True], Email=["a@b.example"])
    report = run(source)
    assert report.notices == [
        "source till: new column `Email` looks like a direct identifier and is not kept.",
        "source till: new column `gift_wrap` is kept as raw/orders.gift_wrap; map it to use it.",
    ]
    assert [(r["order_line_id"], r["user_id"], r["gift_wrap"]) for r in rows(lake, "raw/orders", "order_line_id")] == [
        ("1", "17850", None),
        ("2", "17850", "true"),
    ]
    write("3")
    with pytest.raises(IngestError, match="column `gift_wrap` has vanished"):
        run(source)
    write("3", gift_wrap=[False], price=[])
    with pytest.raises(IngestError, match=r"no column `price`, which orders.unit_price of source till is made of"):
        run(source)
    write("3", gift_wrap=[False], qty=["1"])
    with pytest.raises(IngestError, match="column `qty` held number and now holds text"):
        run(source)
    assert lake.num_rows("raw/orders") == 2
    assert run({**source, "retyped": ["qty"]}).lines[0].accepted == 1


def test_a_key_that_only_some_json_lines_have_may_be_away_for_a_day(folder: Path, run: Run, lake: Lake) -> None:
    source = {"name": "log", "format": "jsonl", "path": str(folder), "tables": [{"table": "orders", "columns": ORDERS}]}
    for day, promo in enumerate([{}, {"promo": "x"}, {}, {"promo": "y"}], 1):
        row = {"order": day, "line": day, "customer": "7", "sku": "A", "qty": 1, "price": 1, "at": f"2025-06-0{day}"}
        (folder / f"{day}.jsonl").write_text(json.dumps(row | promo) + "\n")
        run(source)
    assert [row["promo"] for row in rows(lake, "raw/orders", "order_line_id")] == [None, "x", None, "y"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty \\(0 bytes\\)"),
        (HEADER.replace("price", "amount").encode() + b"1,1,7,A,1,1,2025-06-01\n", "no column `price`.*it has order, line"),
        (HEADER.replace("line", "order").encode() + b"1,1,7,A,1,1,2025-06-01\n", "column `order` comes twice"),
        (
            HEADER.replace("line", "__row").encode() + b"1,1,7,A,1,1,2025-06-01\n",
            "column `__row` bears a name that the ingest itself uses",
        ),
        (HEADER.replace("line", "Order").encode() + b"1,1,7,A,1,1,2025-06-01\n", "column `Order` comes twice \\(beside `order`\\)"),
        (HEADER.encode() + b"1,1,7,\xb0\xa1,1,1,2025-06-01\n", "line 2: expected utf-8, got other bytes; it reads as gb18030"),
        (
            HEADER.encode() + b"1,1,7,A,x,1,2025-06-01\n" * 3,
            r"3 of 3 rows are bad \(100.0%, at most 5.0%\): 3 x quantity: not a number",
        ),
        (HEADER.encode() + b'1,1,7,"A,1,1,2025-06-01\n', "rows are bad|is no CSV"),
    ],
)
def test_what_cannot_be_read_is_one_message_and_nothing_is_committed(
    content: bytes, message: str, folder: Path, run: Run, lake: Lake
) -> None:
    (folder / "orders.csv").write_bytes(content)
    with pytest.raises(IngestError, match=message):
        run(csv_orders(folder / "orders.csv"), quarantine_share=0.05)
    assert lake.tables() == []
    assert not Path(lake.uri("staging")).exists()


def test_a_folder_that_is_not_there_and_a_file_with_only_a_header(folder: Path, run: Run, lake: Lake) -> None:
    with pytest.raises(IngestError, match="no csv file at .*nowhere"):
        run(csv_orders(folder / "nowhere"))
    (folder / "orders.csv").write_text(HEADER)
    report = run(csv_orders(folder))
    assert report.notices == [f"{folder / 'orders.csv'} has no rows below its header."]
    assert lake.tables() == ["ingest/files"]
    assert run(csv_orders(folder)).parts_skipped == 1


def test_a_column_that_is_spelled_in_two_ways_is_named(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "log.jsonl").write_text('{"sku": "A", "ts": "2025-06-01"}\n{"SKU": "B", "ts": "2025-06-01"}\n')
    columns = {"item_id": "sku", "event_timestamp": "ts"}
    with pytest.raises(IngestError, match="source log: `sku` in some rows is `SKU` in others"):
        run({"name": "log", "format": "jsonl", "path": str(folder / "*.jsonl"), "tables": [{"table": "items", "columns": columns}]})
    assert lake.tables() == []


def test_one_source_feeds_several_tables_by_rules_that_are_counted(folder: Path, run: Run, lake: Lake) -> None:
    lines = [
        {"act": "pv", "who": {"id": 1}, "sku": "A", "ts": 1748772000, "name": "Tea"},
        {"act": "buy", "who": {"id": 1}, "sku": "A", "ts": 1748772060, "name": "Tea", "tags": ["x"]},
        {"act": "ping", "who": {"id": 1}, "ts": 1748772060},
        {"act": "pv", "sku": "A", "ts": 1748772000},
        {"act": "jump", "who": {"id": 1}, "sku": "A", "ts": 1748772000},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"act": "pv", "act": "buy"}\nno json\n\n'
    (folder / "log.jsonl").write_text("\ufeff" + text)
    when = {"from": "ts", "unit": "s"}
    report = run(
        {
            "name": "log",
            "format": "jsonl",
            "path": str(folder / "*.jsonl"),
            "drop": {"pings": "act = 'ping'"},
            "tables": [
                {
                    "table": "events",
                    "columns": {
                        "event_type": {"from": "act", "values": {"pv": "view", "buy": "purchase"}},
                        "user_id": "who.id",
                        "item_id": "sku",
                        "event_timestamp": when,
                        "channel": {"constant": "web"},
                        "query": "never there",
                    },
                },
                {
                    "table": "items",
                    "where": "name is not null",
                    "columns": {"item_id": "sku", "title": "name", "event_timestamp": when},
                },
            ],
        }
    )
    events, items = report.lines
    assert (events.read, events.accepted, events.quarantined, events.dropped) == (7, 2, 4, {"pings": 1})
    assert (items.read, items.accepted, items.duplicates, items.quarantined) == (7, 2, 0, 2)
    assert items.dropped == {"pings": 1, "not selected": 2}
    assert [(r["event_type"], r["user_id"], r["channel"]) for r in rows(lake, "raw/events", "event_timestamp")] == [
        ("view", "1", "web"),
        ("purchase", "1", "web"),
    ]
    assert rows(lake, "raw/events")[0]["event_timestamp"] == datetime(2025, 6, 1, 10, tzinfo=UTC)
    reasons = {r["row"]: r["reason"] for r in rows(lake, "quarantine/events")}
    assert reasons[4] == "user_id, visitor_id, session_id: all missing"
    assert reasons[5] == "event_type: not one of ours; map it with `values`"
    assert reasons[6].startswith("no JSON object: a key comes twice")
    assert reasons[7].startswith("no JSON object")


def test_returns_are_linked_and_every_state_is_kept(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "orders.csv").write_text(
        HEADER
        + "1,1,7,A,5,1,2025-06-01 10:00\n2,1,7,A,2,1,2025-06-02 10:00\n"
        + "C3,1,7,A,-3,1,2025-06-03 10:00\nC4,1,7,A,-3,1,2025-06-04 10:00\nC5,1,7,A,-2,1,2025-06-05 10:00\nC6,1,,A,-1,1,2025-06-06\n"
    )
    orders = csv_orders(folder / "orders.csv")
    (folder / "items.csv").write_text("sku,name,at\nA,Tea,2025-01-01\nA,Tea,2025-02-01\nA,Green tea,2025-03-01\nA,Tea,2025-04-01\n")
    columns = {"item_id": "sku", "title": "name", "event_timestamp": "at"}
    items = {**csv_orders(folder / "items.csv"), "name": "items", "tables": [{"table": "items", "columns": columns}]}
    report = run(orders, items)
    assert {r["order_id"]: r["returned_order_id"] for r in rows(lake, "raw/orders")} == {
        "1": None, "2": None, "C3": "1", "C4": None, "C5": "2", "C6": None
    }  # fmt: skip
    assert [r["title"] for r in rows(lake, "raw/items", "event_timestamp")] == ["Tea", "Tea", "Green tea", "Tea"]
    assert "2 returns have no purchase they could take back; they are accepted as returns." in report.notices
    (folder / "items2.csv").write_text("sku,name,at\nA,Tea,2025-04-01\nA,Tea,2025-05-01\nB,Cup,2025-05-01\n")
    items["path"] = str(folder / "items*.csv")
    (line,) = run(orders, items).lines
    assert (line.accepted, line.duplicates) == (2, 1)
    (folder / "orders2.csv").write_text(HEADER + "C7,1,7,A,-2,1,2025-06-07\n8,1,7,Z,1,1,2025-06-07\n")
    orders["path"] = str(folder / "orders*.csv")
    report = run(orders, items)
    assert {r["order_id"]: r["returned_order_id"] for r in rows(lake, "raw/orders")}["C7"] == "1"
    assert report.notices == ["orders speaks of 1 items that `items` does not list; they are accepted."]


def test_a_line_that_is_told_again_with_another_status_keeps_its_link_and_counts_once(folder: Path, run: Run, lake: Lake) -> None:
    header, columns = HEADER.replace("\n", ",status\n"), {**ORDERS, "status": "status"}
    first = "1,1,7,A,2,1,2025-06-01 10:00,paid\n2,1,7,A,1,1,2025-06-02 10:00,paid\nR3,1,7,A,-1,1,2025-06-05 10:00,returned\n"
    (folder / "1.csv").write_text(header + first)
    orders = csv_orders(folder, columns)
    run(orders)
    again = first.replace("paid", "shipped").replace("returned", "refunded")
    (folder / "2.csv").write_text(header + again + "R4,1,7,A,-1,1,2025-06-03 10:00,returned\nR5,1,7,A,-2,1,2025-06-06,returned\n")
    run(orders)
    newest = {r["order_id"]: r for r in rows(lake, "raw/orders", "created_timestamp")}
    assert {name: r["status"] for name, r in newest.items()} == {
        "1": "shipped", "2": "shipped", "R3": "refunded", "R4": "returned", "R5": "returned"
    }  # fmt: skip
    (folder / "3.csv").write_text(header + "R6,1,7,A,-2,1,2025-06-04,returned\nR7,1,7,A,-1,1,2025-06-06,returned\n")
    run(orders)
    linked = {r["order_id"]: r["returned_order_id"] for r in rows(lake, "raw/orders", "created_timestamp") if r["quantity"] < 0}
    assert linked == {"R3": "2", "R4": "1", "R5": None, "R6": None, "R7": "1"}


def test_other_currencies_are_converted_by_dated_rates_or_quarantined(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "rates.csv").write_text("cur,day,rate\nUSD,2025-06-01,0.9\nUSD,2025-06-02,0.8\n")
    (folder / "orders.csv").write_text(
        HEADER.replace("\n", ",cur\n")
        + "1,1,7,A,1,10,2025-06-01 23:00,USD\n2,1,7,A,1,10,2025-06-02 00:30,usd\n3,1,7,A,1,10,2025-05-01,USD\n"
        + "4,1,7,A,1,10,2025-06-02,EUR\n5,1,7,A,1,10,2025-06-02,\n6,1,7,A,1,10,2025-06-02,JPY\n"
    )
    rates = {"currency": "cur", "date": "day", "rate": "rate", "created_timestamp": "day"}
    sources = [
        {**csv_orders(folder / "orders.csv"), "tables": [{"table": "orders", "columns": ORDERS, "currency": "cur"}]},
        {**csv_orders(folder / "rates.csv"), "name": "bank", "tables": [{"table": "rates", "columns": rates}]},
    ]
    run(*sources)
    assert {r["order_id"]: r["unit_price"] for r in rows(lake, "raw/orders")} == {
        "1": Decimal("9.0000"), "2": Decimal("8.0000"), "4": Decimal("10.0000"), "5": Decimal("10.0000")
    }  # fmt: skip
    assert [r["reason"] for r in rows(lake, "quarantine/orders", "row")] == [
        "currency: no rate for USD",
        "currency: no rate for JPY",
    ]


def test_on_a_data_clock_corrections_are_known_just_after_the_newest_fact(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "offers-0.csv").write_text("id,depth\n1,0.5\n")
    offer = {"promotion_id": "id", "category": {"constant": "tea"}, "depth": "depth"}
    times = {
        "starts_at": {"constant": "2011-05-01"},
        "ends_at": {"constant": "2011-07-01"},
        "created_timestamp": {"constant": "2011-05-01"},
    }
    offers = {
        **csv_orders(folder / "offers-*.csv"),
        "name": "offers",
        "tables": [{"table": "promotions", "columns": offer | times}],
    }
    sources = csv_orders(folder / "orders-*.csv"), offers
    (folder / "orders-0.csv").write_text(HEADER + "1,1,7,A,1,1,2011-06-01 10:00\n2,1,7,B,1,1,2011-06-02 10:00\n")
    run(*sources, now="data")
    newest = datetime(2011, 6, 2, 8, tzinfo=UTC)
    assert clock.now("data", lake) == newest + clock.INSTANT
    for number in (1, 2):  # no newer fact in either
        (folder / f"orders-{number}.csv").write_text(HEADER + f"1,1,7,A,{number + 1},1,2011-06-01 10:00\n")
        (folder / f"offers-{number}.csv").write_text(f"id,depth\n1,0.{number}\n")
        assert [line.corrections for line in run(*sources, now="data").lines] == [1, 1]
    lines = [r for r in rows(lake, "raw/orders", "created_timestamp") if r["item_id"] == "A"]
    depths = rows(lake, "raw/promotions", "created_timestamp")
    assert [r["quantity"] for r in lines] == [1, 2, 3]
    assert [r["depth"] for r in depths] == [0.5, 0.1, 0.2]
    for versions in (lines, depths):
        known = [r["created_timestamp"] for r in versions[1:]]
        assert len(set(known)) == 2
        assert newest < min(known) < max(known) < clock.now("data", lake)


def test_a_row_that_says_it_is_known_in_the_future_does_not_move_the_clock(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "orders.csv").write_text(
        HEADER.replace("\n", ",known\n") + "1,1,7,A,1,1,2011-06-01,2011-06-02\n2,1,7,A,1,1,2011-06-01,2199-01-01\n"
    )
    (line,) = run(csv_orders(folder, {**ORDERS, "created_timestamp": "known"}), now="data").lines
    assert line.reasons == {"created_timestamp: in the future": 1}
    assert clock.now("data", lake) == datetime(2011, 6, 1, 22, tzinfo=UTC) + clock.INSTANT


def test_check_commits_nothing(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "orders.csv").write_text(HEADER + "1,1,7,A,1,1,2025-06-01\n1,1,7,A,1,x,2025-06-01\n")
    (line,) = run(csv_orders(folder), check=True).lines
    assert (line.accepted, line.quarantined) == (1, 1)
    assert lake.tables() == []


def test_a_killed_commit_is_finished_by_the_next_ingest(
    folder: Path, run: Run, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "orders.csv").write_text(HEADER + "1,1,7,A,1,1,2025-06-01\n1,1,7,A,1,x,2025-06-01\n")
    real = Journal._commit

    def die_at_orders(self: Journal, write: Write) -> Commit:
        if write.attempt.path == "raw/orders":
            raise KeyboardInterrupt
        return real(self, write)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_commit", die_at_orders)
        with pytest.raises(KeyboardInterrupt):
            run(csv_orders(folder))
    assert lake.tables() == ["quarantine/orders"]
    report = run(csv_orders(folder))
    assert [notice.split(":")[0] for notice in report.notices] == ["raw/orders version 0", "ingest/files version 0"]
    assert (lake.num_rows("raw/orders"), lake.num_rows("quarantine/orders"), report.parts_skipped) == (1, 1, 1)


def test_two_ingests_at_once(folder: Path, run: Run, settings: Settings) -> None:
    (folder / "orders.csv").write_text(HEADER)
    with Home(settings).lock("ingest-sample"), pytest.raises(HomeError, match="already running"):
        run(csv_orders(folder))


def test_a_condition_that_spark_refuses(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "orders.csv").write_text(HEADER + "1,1,7,A,1,1,2025-06-01\n")
    with pytest.raises(IngestError, match=r"Spark refuses .*UNRESOLVED_COLUMN.*quanttiy"):
        run(csv_orders(folder, drop={"returns": "quanttiy < 0"}))
    assert lake.tables() == []


def test_a_full_disk_and_a_home_that_cannot_be_written(
    folder: Path, run: Run, lake: Lake, settings: Settings, spark: SparkSession
) -> None:
    (folder / "orders.csv").write_text(HEADER + "".join(f"{i},1,{i * 7919 % 10007},A,1,{i},2025-06-01\n" for i in range(50_000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(HomeError, match="nothing was committed. Make room"):
            run(csv_orders(folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert lake.tables() == []
    assert not Path(lake.uri("staging")).exists()
    sealed = Settings.load(home=Path("/proc/shopgraph"))
    shop = Shop(name="sample", currency="EUR", time_zone="UTC", sources=(csv_orders(folder),))
    with pytest.raises(HomeError, match=r"home /proc/shopgraph .* nothing was"):
        ingest(sealed, shop, lambda: nullcontext(spark))


def test_two_sources_feed_one_table_with_and_without_ids_and_kept_columns(folder: Path, run: Run, lake: Lake) -> None:
    (folder / "till-1.csv").write_text(HEADER + "1,,7,A,2,1,2025-06-01\n1,,7,A,2,1,2025-06-01\n")
    (folder / "web-1.csv").write_text(HEADER + "2,1,7,A,1,1,2025-06-02\nR3,1,7,A,-2,1,2025-06-03\n")
    bare = {name: column for name, column in ORDERS.items() if name != "order_line_id"}
    sources = [csv_orders(folder / "till-*.csv", bare), {**csv_orders(folder / "web-*.csv"), "name": "web"}]
    run(*sources)
    assert lake.num_rows("raw/orders") == 4
    assert [r["returned_order_id"] for r in rows(lake, "raw/orders") if r["order_id"] == "R3"] == ["1"]
    (folder / "web-2.csv").write_text(HEADER.replace("\n", ",gift\n") + "2,1,7,A,1,1,2025-06-02,yes\n4,1,7,A,1,1,2025-06-04,no\n")
    (line,) = run(*sources).lines
    assert (line.accepted, line.corrections) == (2, 1)  # a row that says more than before is a correction
    (folder / "till-2.csv").write_text(HEADER + "5,,7,A,1,1,2025-06-05\n")
    run(*sources)
    assert [(r["order_id"], r["gift"]) for r in rows(lake, "raw/orders", "order_id", "created_timestamp")] == [
        ("1", None), ("1", None), ("2", None), ("2", "yes"), ("4", "no"), ("5", None), ("R3", None)
    ]  # fmt: skip
