"""The mappings of the public sets, on a few rows written like theirs, each with one of their traps."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features.shop import Shop
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs.ingest import ingest
from spark_jobs.init_shop import init_shop
from spark_jobs.sources.report import Report


def bring(rows: list[tuple[Any, ...]], schema: pa.Schema, settings: Settings, spark: SparkSession, tmp_path: Path) -> Report:
    pq.write_table(pa.table(dict(zip(schema.names, zip(*rows, strict=True), strict=True)), schema=schema), tmp_path / "set.parquet")
    home = Home(settings)
    init_shop(home, "sample", [str(tmp_path / "set.parquet")])
    return ingest(settings, Shop.load(home), lambda: nullcontext(spark))


def test_online_retail(settings: Settings, lake: Lake, spark: SparkSession, tmp_path: Path) -> None:
    schema = pa.schema(
        [
            ("InvoiceNo", pa.string()),
            ("StockCode", pa.string()),
            ("Description", pa.string()),
            ("Quantity", pa.int64()),
            ("InvoiceDate", pa.timestamp("us")),
            ("UnitPrice", pa.float64()),
            ("CustomerID", pa.float64()),
            ("Country", pa.string()),
        ]
    )
    summer, later = datetime(2011, 7, 1, 9), datetime(2011, 7, 2, 9)
    rows = [
        ("1", "85123A", "WHITE HEART", 6, summer, 2.55, 17850.0, "United Kingdom"),
        ("1", "22423", "CAKE STAND", 2, summer, 12.75, 17850.0, "United Kingdom"),
        ("1", "22423", "CAKE STAND", 2, summer, 12.75, 17850.0, "United Kingdom"),  # scanned twice
        ("1", "POST", "POSTAGE", 1, summer, 18.0, 17850.0, "United Kingdom"),
        ("2", "85123a", "WHITE HEART", 1, summer, 2.55, None, "United Kingdom"),
        ("3", "22423", "damaged", -9, summer, 0.0, None, "United Kingdom"),
        ("3", "gift_0001_20", "Gift Voucher", 1, summer, 16.67, None, "France"),
        ("A4", "B", "Adjust bad debt", 1, summer, -11062.06, None, "United Kingdom"),
        ("5", "22423", "CAKE STAND", 1, summer, 0.0, 12346.0, "France"),  # a present
        ("C6", "22423", "CAKE STAND", -2, later, 12.75, 17850.0, "United Kingdom"),
        ("C6", "85123A", "WHITE HEART", -7, later, 2.55, 17850.0, "United Kingdom"),  # more than was bought
        ("C6", "D", "Discount", -1, later, 27.5, 17850.0, "United Kingdom"),
    ]
    report = bring(rows, schema, settings, spark, tmp_path)
    orders = next(line for line in report.lines if line.table == "orders")
    assert (orders.read, orders.accepted, orders.identical, orders.dropped) == (12, 7, 1, {"fees": 4, "stock corrections": 1})
    stored = lake.read("raw/orders").to_pylist()
    found = sorted(
        (r["order_id"], r["item_id"], r["quantity"], r["user_id"] or "", r["status"], r["returned_order_id"]) for r in stored
    )
    assert found == [
        ("1", "22423", 2, "17850", "paid", None),
        ("1", "22423", 2, "17850", "paid", None),
        ("1", "85123A", 6, "17850", "paid", None),
        ("2", "85123A", 1, "", "paid", None),
        ("5", "22423", 1, "12346", "paid", None),
        ("C6", "22423", -2, "17850", "returned", "1"),
        ("C6", "85123A", -7, "17850", "returned", None),
    ]
    assert {r["event_timestamp"] for r in stored} == {datetime(2011, 7, 1, 8, tzinfo=UTC), datetime(2011, 7, 2, 8, tzinfo=UTC)}
    assert sorted(lake.read("raw/items")["title"].to_pylist()) == ["CAKE STAND", "WHITE HEART"]
    assert sorted((r["user_id"], r["country"]) for r in lake.read("raw/users").to_pylist()) == [
        ("12346", "France"),
        ("17850", "United Kingdom"),
        ("17850", "United Kingdom"),  # told again a day later
    ]


def test_online_shopping_10_cats(settings: Settings, lake: Lake, spark: SparkSession, tmp_path: Path) -> None:
    schema = pa.schema([("cat", pa.string()), ("label", pa.int64()), ("review", pa.string())])
    rows = [("书籍", 1, "\ufeff好书"), ("书籍", 1, "\ufeff好书"), ("书籍", 0, "\ufeff好书"), ("酒店", 0, None), ("酒店", 0, " 差 ")]
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table(dict(zip(schema.names, zip(*rows, strict=True), strict=True)), schema=schema), path)
    home = Home(settings)
    init_shop(home, "sample", [str(path)])
    shop = Shop.load(home).model_copy(update={"quarantine_share": 0.5})  # one of five rows is bad here
    (line,) = ingest(settings, shop, lambda: nullcontext(spark)).lines
    assert (line.read, line.accepted, line.duplicates, line.reasons) == (5, 3, 1, {"review_text: missing": 1})
    stored = lake.read("raw/reviews").to_pylist()
    assert sorted((r["category"], r["label"], r["review_text"], r["language"]) for r in stored) == [
        ("书籍", 0, "好书", "zh"),
        ("书籍", 1, "好书", "zh"),
        ("酒店", 0, "差", "zh"),
    ]
    assert len({r["review_id"] for r in stored}) == 3


def test_womens_clothing(settings: Settings, lake: Lake, spark: SparkSession, tmp_path: Path) -> None:
    text, number = pa.string(), pa.int64()
    names = {"Unnamed: 0": number, "Clothing ID": number, "Age": number, "Title": text, "Review Text": text, "Rating": number}
    names |= {"Recommended IND": number, "Department Name": text, "Class Name": text}
    rows = [
        (0, 767, 33, None, "Wonderful", 4, 1, "Intimate", "Intimates"),
        (1, 767, 33, "So so", None, 3, 0, "Intimate", "Intimates"),
        (2, 1080, 60, None, "Love it", 5, 1, None, None),
    ]
    report = bring(rows, pa.schema(list(names.items())), settings, spark, tmp_path)
    assert {line.table: (line.accepted, line.dropped) for line in report.lines} == {
        "reviews": (2, {"no text": 1}),
        "items": (1, {"no text": 1, "not selected": 1}),
    }
    assert [(r["review_id"], r["item_id"], r["rating"]) for r in lake.read("raw/reviews").sort_by("review_id").to_pylist()] == [
        ("0", "767", 4),
        ("2", "1080", 5),
    ]


def test_cdnow(settings: Settings, lake: Lake, spark: SparkSession, tmp_path: Path) -> None:
    schema = pa.schema(
        [("customer_id", pa.int64()), ("date", pa.int64()), ("number_of_cds", pa.int64()), ("dollar_value", pa.float64())]
    )
    rows = [
        (4, 19970101, 2, 29.33),
        (4, 19970118, 3, 29.73),
        (4, 19970118, 3, 29.73),  # the same again on one day: two orders
        (21, 19970701, 1, 0.0),  # given away
    ]
    report = bring(rows, schema, settings, spark, tmp_path)
    orders = next(line for line in report.lines if line.table == "orders")
    assert (orders.read, orders.accepted, orders.identical, orders.quarantined) == (4, 4, 1, 0)
    stored = lake.read("raw/orders").sort_by([("user_id", "descending"), ("event_timestamp", "ascending")]).to_pylist()
    assert [(r["order_id"], r["user_id"], r["quantity"], float(r["unit_price"])) for r in stored] == [
        ("4-19970101", "4", 2, 14.665),
        ("4-19970118", "4", 3, 9.91),
        ("4-19970118", "4", 3, 9.91),
        ("21-19970701", "21", 1, 0.0),
    ]
    assert [r["event_timestamp"] for r in stored][1:] == [
        datetime(1997, 1, 18, 5, tzinfo=UTC),
        datetime(1997, 1, 18, 5, tzinfo=UTC),
        datetime(1997, 7, 1, 4, tzinfo=UTC),  # midnight in New York in summer
    ]


@pytest.mark.e2e
def test_the_real_sets_add_up(settings: Settings, lake: Lake, spark: SparkSession, data_folder: Path) -> None:
    home = Home(settings)
    init_shop(home, "sample", [str(data_folder / name) for name in ("online_retail", "online_shopping_10_cats")])
    report = ingest(settings, Shop.load(home), lambda: nullcontext(spark))
    counts = {line.table: (line.read, line.accepted, line.quarantined) for line in report.lines}
    assert counts["orders"] == (370_931, 366_801, 0)
    assert counts["items"] == (370_931, 353_235, 0)
    assert counts["users"] == (370_931, 15_544, 0)
    assert counts["reviews"] == (50_170, 50_169, 1)
    assert lake.num_rows("raw/orders") == 366_801
    assert ingest(settings, Shop.load(home), lambda: nullcontext(spark)).lines == []
