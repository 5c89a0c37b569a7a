"""Bad data is caught, honest data passes, and what breaks a hard expectation is never committed."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.columns import RETRACTED, TO_NOTHING
from features.quality.gate import Gate
from features.quality.report import Report, Reports
from features.shop import Shop
from features.tables import ORDERS, Column, Table
from infra import upkeep
from infra.errors import TableContractError
from infra.lake import Lake
from tests.features.quality.conftest import NOW, PRICES, SHOP, as_table, honest

WEEK_AGO = NOW - timedelta(7)


def broken(report):
    return {(check.name, check.column) for check in (*report.failed, *report.warned)}


def test_honest_rows_pass_every_check_and_the_report_tells_what_they_are(send):
    report = send(honest())
    assert report.status == "passed"
    assert {check.name for check in report.checks} == {"unique", "volume", "fresh", "nulls", "finite", "range", "values", "stable"}
    assert (report.version, report.rows, report.new_rows, report.sample) == (0, 28 * 50, 28 * 50, 1)
    assert list(report.days.values()) == [50] * 28
    assert next(iter(report.days)) == "2024-05-28"
    prices = [row["price"] for row in honest()]
    found = report.window["price"]
    assert (found.rows, found.nulls) == (1400, 0)
    assert (found.low, found.high) == pytest.approx((min(prices), max(prices)))
    assert found.mean == pytest.approx(sum(prices) / 1400)
    assert report.window["share"].nulls == sum(row["share"] is None for row in honest())
    assert report.window["kind"].values.total() == 1400
    assert set(report.window["is_new"].values) == {"true", "false"}
    assert report.window["since"].low == "2024-01-01"
    assert report.window["tags"].high == 3
    assert report.week["price"].rows == 7 * 50
    assert report.before["price"].rows == 21 * 50
    assert Report.from_json(report.to_json()) == report
    assert Report.from_json(report.to_json().replace('"format": 1', '"format": 2')) is None


def test_an_unbroken_report_speaks_of_the_days_of_the_shop(send):
    """A daily row is stamped with the first instant of the next local day: 22:00 UTC in summer."""
    rows = [row for row in honest() if row["event_timestamp"].hour == 22]
    assert len(rows) == len(honest())
    assert set(send(rows).days) == {f"2024-05-{day:02}" for day in range(1, 29)}


def late(row):
    return row["event_timestamp"] > WEEK_AGO


MISTAKES = {
    "prices of the last day times 100": (
        lambda rows: [r | {"price": r["price"] * 100} if r["event_timestamp"] == rows[0]["event_timestamp"] else r for r in rows],
        {("stable", "price")},
        {},
    ),
    "half the rows of the week missing": (lambda rows: [r for n, r in enumerate(rows) if not late(r) or n % 5 < 2], {("volume", "")}, {}),
    "twice delivered under other keys": (
        lambda rows: [*rows, *(r | {"item_id": f"{r['item_id']}-{n}"} for r in rows if late(r) for n in range(2))],
        {("volume", "")},
        {},
    ),
    "stale": (lambda rows: rows, {("fresh", "")}, {"now": NOW + timedelta(5)}),
    "too many without a share": (lambda rows: [r | {"share": None} if n % 3 else r for n, r in enumerate(rows)], {("nulls", "share")}, {}),
    "all without a share": (lambda rows: [r | {"share": None} for r in rows], {("nulls", "share")}, {}),
}  # fmt: skip
HARD = {
    "no key": (lambda rows: [rows[0] | {"item_id": None}, *rows[1:]], "item_id: expected no null, got 0.7% null (1 of 140 rows)"),
    "a row told twice": (lambda rows: [rows[0], *rows], "expected one new row per item_id + event_timestamp, got 1 row told again"),
    "a share over one": (lambda rows: [rows[0] | {"share": 1.5}, *rows[1:]], "share: expected 0 to 1, got 1 row outside, "),
    "a share below zero": (lambda rows: [rows[0] | {"share": -0.1}, *rows[1:]], "share: expected 0 to 1, got 1 row outside, -0.1 to"),
    "a negative price": (lambda rows: [rows[0] | {"price": -1.0}, *rows[1:]], "price: expected at least 0, got 1 row outside, -1 to"),
    "negative units": (lambda rows: [rows[0] | {"units_count": -3}, *rows[1:]], "units_count: expected at least 0, got 1 row outside"),
    "not a number": (lambda rows: [rows[0] | {"share": math.nan}, *rows[1:]], "share: expected numbers, got 1 row NaN or infinite"),
    "infinite": (lambda rows: [rows[0] | {"share": -math.inf}, *rows[1:]], "share: expected numbers, got 1 row NaN or infinite"),
    "another word": (lambda rows: [rows[0] | {"kind": "二手"}, *rows[1:]], "new, used, 中古, got 1 row with another, such as '二手'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_bad_week_is_told_and_committed(send, lake, name):
    spoil, expected, options = MISTAKES[name]
    report = send(spoil(honest()), **options)
    assert report.status == "warned"
    assert broken(report) == expected
    assert lake.version(PRICES.path) == 0


@pytest.mark.parametrize("name", HARD)
def test_a_bad_row_is_refused_with_its_reason(send, lake, name):
    spoil, expected = HARD[name]
    send(honest(per_day=5))
    with pytest.raises(TableContractError) as error:
        send(spoil(honest(per_day=5)))
    assert expected in str(error.value)
    assert "Nothing was committed. `shopgraph quality prices` shows the report" in str(error.value)
    assert lake.version(PRICES.path) == 0
    assert not [path for path in Path(lake.uri(PRICES.path), "data").glob("*") if path.name not in lake.file_uris(PRICES.path)[0]]
    refused = Reports(lake).refused(PRICES.path)
    assert refused is not None
    assert (refused.version, refused.status) == (None, "failed")
    send(honest(per_day=5, seed=2))
    assert Reports(lake).refused(PRICES.path) is None
    assert Reports(lake).versions(PRICES.path) == [0, 1]


def test_rows_that_were_lost_are_told(send):
    send(honest())
    assert broken(send(honest(per_day=20))) == {("kept", "")}
    report = send([])
    assert broken(report) == {("kept", "")}
    assert (report.rows, report.newest, dict(report.days)) == (0, None, {})


def test_a_table_that_never_had_a_row_passes(send):
    assert send([]).status == "passed"


def test_a_shop_may_loosen_sharpen_or_switch_off(send):
    rows = [row | {"share": 7.0} for row in honest()]
    assert send(rows, rules={"columns": {"share": {"max": None}}}).status == "passed"
    assert broken(send(rows, rules={"columns": {"share": {"severity": "warn"}}})) == {("range", "share")}
    with pytest.raises(TableContractError, match="price: expected 0 to 5"):
        send(honest(), rules={"columns": {"price": {"max": 5}}})
    with pytest.raises(TableContractError, match="units_count: expected at most 1"):
        send(honest(), rules={"columns": {"units_count": {"min": None, "max": 1}}})
    with pytest.raises(TableContractError, match="newest event at most 1 day"):
        send(honest(), now=NOW + timedelta(3), rules={"fresh_days": 1, "severity": "fail"})


def test_of_appended_rows_only_new_ones_are_checked_and_only_current_ones_counted(send, lake):
    first = honest()
    first[5]["share"] = 3.0  # was let in
    send(first, rules={"columns": {"share": {"max": None}}})
    later = NOW - timedelta(hours=1)
    corrected = [row | {"price": 1000.0, "created_timestamp": later} for row in first[:3]]
    gone = [row | {RETRACTED: TO_NOTHING, "created_timestamp": later} for row in first[3:5]]
    report = send([*corrected, *gone], mode="append")
    assert (report.rows, report.new_rows) == (1405, 5)
    assert report.status == "passed"
    assert report.window["price"].rows == 1398
    assert report.days["2024-05-28"] == 48
    assert report.window["price"].bins == report.week["price"].bins + report.before["price"].bins
    assert report.window["price"].high == 1000
    assert RETRACTED not in report.window
    # The latest version wins, however the files lie.
    again = [row | {"price": 5.0, "created_timestamp": later} for row in first[:3]]
    assert send(again, mode="append").window["price"].high < 1000
    # One that was known before what stands loses, though it lies behind it.
    early = [row | {"price": 2000.0, "created_timestamp": later - timedelta(minutes=1)} for row in first[:3]]
    assert send(early, mode="append").window["price"].high < 1000


def test_statistics_are_of_the_window_and_checks_of_every_row(send):
    old = [row | {"price": 1e6, "event_timestamp": row["event_timestamp"] - timedelta(100)} for row in honest(per_day=2)]
    report = send([*honest(), *old])
    assert (report.rows, report.new_rows, report.window["price"].rows) == (1456, 1456, 1400)
    assert report.window["price"].high < 1000
    with pytest.raises(TableContractError, match="1 row told again"):
        send([*honest(), *old, old[0]])
    with pytest.raises(TableContractError, match="share: expected 0 to 1"):
        send([*honest(), old[0] | {"share": 2.0}])


def test_a_file_without_a_row_in_the_window_is_not_read(send, lake):
    old = [row | {"event_timestamp": row["event_timestamp"] - timedelta(100)} for row in honest()]
    send(old, now=NOW - timedelta(100))
    for uri in lake.file_uris(PRICES.path):
        rows = pq.read_metadata(uri)  # the footer alone stays readable
        size = Path(uri).stat().st_size
        content = bytearray(Path(uri).read_bytes())
        content[4 : size - rows.serialized_size - 8] = bytes(size - rows.serialized_size - 12)
        Path(uri).write_bytes(content)
    report = send(honest(seed=2), mode="append")
    assert (report.rows, report.window["price"].rows) == (2800, 1400)


def test_a_version_of_others_is_looked_at_once_and_then_only_what_is_new(lake, monkeypatch):
    def line(number, **more):
        at = NOW - timedelta(days=1 + number % 20)
        said = {"order_id": f"o{number}", "order_line_id": "1", "user_id": "u", "item_id": "i", "quantity": 1, "unit_price": 2.0}
        return said | {"event_timestamp": at, "created_timestamp": at} | more

    def append(*rows):
        version = lake.version(ORDERS.path)
        return lake.write(
            ORDERS.path, as_table(list(rows), ORDERS).cast(ORDERS.schema), "append", digest=f"orders {version}"
        ).version

    def stand(shop=SHOP):
        Gate(lake, shop, ORDERS, NOW).stand(lake.version(ORDERS.path))
        return Reports(lake).of(ORDERS.path, lake.version(ORDERS.path))

    append(*(line(n) for n in range(280)))
    first = stand()
    assert (first.new_rows, first.status) == (280, "passed")
    looked = []
    monkeypatch.setattr(Gate, "_look", lambda gate, *files: looked.append(files))
    stand()
    assert not looked
    monkeypatch.undo()

    # A correction is no duplicate, lines without an id all stand.
    bare = [line(1, order_line_id=None, order_id="x")] * 2
    append(line(0, quantity=4, created_timestamp=NOW), *bare)
    second = stand()
    assert (second.new_rows, second.rows, second.status) == (3, 283, "passed")
    assert second.window["quantity"].rows == 282

    append(line(299))
    upkeep.compact(lake, ORDERS.path)
    joined = stand()
    assert (joined.new_rows, joined.rows, joined.window["quantity"].rows) == (1, 284, 283)

    append(line(300, unit_price=-1.0))
    for _ in range(2):  # each build is told
        with pytest.raises(TableContractError, match=r"unit_price: expected at least 0.*Nothing is built from it"):
            stand()
    append(line(301))
    with pytest.raises(TableContractError, match="unit_price"):  # what failed stays new
        stand()
    loose = Shop.model_validate(SHOP.model_dump() | {"quality": {"orders": {"columns": {"unit_price": {"severity": "warn"}}}}})
    assert stand(loose).status == "warned"


def test_a_row_of_a_raw_table_told_twice_is_refused(lake):
    at = NOW - timedelta(days=1)
    row = {"order_id": "o", "order_line_id": "1", "item_id": "i", "quantity": 1, "unit_price": 2.0}
    rows = [row | {"event_timestamp": at, "created_timestamp": at}] * 2
    lake.write(ORDERS.path, as_table(rows, ORDERS).cast(ORDERS.schema), "append", digest="twice")
    with pytest.raises(TableContractError, match=r"order_id \+ order_line_id \+ created_timestamp, got 1 row told again"):
        Gate(lake, SHOP, ORDERS, NOW).stand(0)


def test_a_build_killed_before_its_report_has_it_the_next_time(send, lake):
    send(honest())
    Path(lake.uri("quality/features/prices/00000000000000000000.json")).unlink()
    Gate(lake, SHOP, PRICES, NOW).keep(0)
    report = Reports(lake).of(PRICES.path, 0)
    assert report is not None
    assert report.new_rows == 1400


def test_revisions_of_a_row_in_a_version_that_stands_are_no_row_told_twice(send, lake):
    """As after a compaction, which no build wrote."""
    rows = honest(per_day=5)
    send(rows)
    send([row | {"price": 3.0, "created_timestamp": NOW} for row in rows[:2]], mode="append")
    for file in Path(lake.uri("quality")).rglob("*.json"):
        file.unlink()
    Gate(lake, SHOP, PRICES, NOW).keep(1)
    report = Reports(lake).of(PRICES.path, 1)
    assert report is not None
    assert (report.status, report.new_rows, report.window["price"].rows) == ("passed", 142, 140)


def test_rows_grow_old_without_a_new_version(send):
    report = send(honest())
    rules = Shop.model_validate(SHOP.model_dump() | {"quality": {"prices": {"fresh_days": 3}}}).quality["prices"]
    assert report.at(NOW, rules).status == "passed"
    old = report.at(NOW + timedelta(4), rules)
    assert broken(old) == {("fresh", "")}
    assert len(old.checks) == len(report.checks)


def test_what_speaks_of_a_person_is_in_no_report(send, lake: Lake):
    rows = honest()
    send([rows[0] | {"owner": None}, *rows[1:]])
    folder = Path(lake.uri("quality"))
    (file,) = folder.rglob("*.json")
    assert "Lovelace" not in file.read_text(encoding="utf-8")
    report = Reports(lake).newest(PRICES.path)
    assert report is not None
    assert (report.window["owner"].rows, report.window["owner"].nulls) == (1400, 1)
    assert report.window["kind"].values["中古"] > 0


def test_a_number_of_a_person_is_told_by_how_many_and_not_by_value(send):
    table = Table(
        "ages", "features", "", (PRICES.columns[0], Column("age", "int", "", mark="personal"), *PRICES.columns[-2:]), ("item_id",)
    )
    with pytest.raises(TableContractError, match=r"age: expected at most 120, got 1 row outside[.] Nothing"):
        send(
            [row | {"age": 777 if n == 0 else 30} for n, row in enumerate(honest())],
            table=table,
            rules={"columns": {"age": {"max": 120}}},
        )


def test_a_great_table_is_looked_at_by_a_sample_of_its_keys(send, lake, monkeypatch):
    monkeypatch.setattr("features.quality.profile._SAMPLED_ROWS", 400)
    rows = honest()
    report = send(rows)
    assert report.sample == 4
    assert report.new_rows == 1400
    assert 270 < report.window["price"].rows < 430  # a quarter, give or take five standard deviations
    with pytest.raises(TableContractError, match="told again"):
        send([*rows, *rows[:200]])
    with pytest.raises(TableContractError, match="price: expected at least 0, got 1 row"):  # bounds hold for every row
        send([*rows[:500], rows[500] | {"price": -1.0}, *rows[501:]])


def test_keys_are_told_apart_part_by_part(send):
    table = Table(
        "pairs",
        "features",
        "",
        (Column("a", "string", ""), Column("b", "string", ""), Column("ds", "date", ""), *PRICES.columns[-2:]),
        ("a", "b", "ds"),
    )
    stamp = honest()[0]["event_timestamp"]
    day = np.datetime64("2024-05-01").astype(object)
    keys = [("1", "23"), ("12", "3"), ("", "123"), (None, "123"), ("123", None), ("123", ""), ("23", "1")]
    rows = [
        {"a": a, "b": b, "ds": day + timedelta(n), "event_timestamp": stamp, "created_timestamp": stamp}
        for a, b in keys
        for n in range(3)
    ]
    report = send(rows, table=table, rules={})
    assert (report.status, sum(report.days.values())) == ("passed", 21)
    with pytest.raises(TableContractError, match="1 row told again"):
        send([*rows, rows[10]], table=table, rules={})
