"""The driver: order, lineage, skipping, ranges, the clock, and that no later fact changes an earlier row."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.fresh.facts import EVENT_CONTRACT
from features.fresh.intake import Intake
from features.profiles import ProfileRules
from features.revisions import current_rows
from features.tables import EVENTS, FEATURE_TABLES, ITEMS, ORDERS, RAW_TABLES, REVIEWS
from infra.errors import HomeError, SettingsError, TableContractError
from infra.home import Home
from infra.journal import Append, Journal
from infra.lake import Lake, digest_of
from spark_jobs import build as build_module
from spark_jobs.build import Built, Horizon, Range, Snapshot
from spark_jobs.job import Inputs
from spark_jobs.jobs import JOBS, in_order
from spark_jobs.raw import READ, current
from tests.spark_jobs.conftest import SHOP, complete, facts


@pytest.fixture
def put(lake, frame):
    """Write raw rows as the newest version of their tables."""

    def write(rows):
        for table, found in rows.items():
            version = lake.version(table.path)
            lake.write(
                table.path,
                frame(table, *found).toArrow().cast(table.schema),
                "overwrite",
                digest=digest_of(str(found)),
                read_version=version,
            )

    return write


def test_every_feature_table_has_a_job_that_reads_what_comes_before_it():
    assert set(JOBS) == set(FEATURE_TABLES)
    known = set(RAW_TABLES.values())
    for name in in_order([], JOBS):
        assert set(JOBS[name].reads) <= known
        known.add(FEATURE_TABLES[name])
    assert in_order(["user_category_affinity"], JOBS)[-1] == "user_category_affinity"
    assert set(in_order(["user_category_affinity"], JOBS)) == {"item_catalog", "interactions", "user_category_affinity"}
    with pytest.raises(SettingsError, match=r"no feature table 'carts'; there are .*interactions"):
        in_order(["carts"], JOBS)


def test_a_correction_that_came_after_the_shops_now_hides_nothing(spark, put, lake):
    line = {"order_id": "o", "order_line_id": "1", "item_id": "a", "quantity": 1, "unit_price": 2}
    at = [datetime(2024, 5, day, tzinfo=UTC) for day in (1, 5, 9)]
    put({ORDERS: [line | {"event_timestamp": at[0]}, line | {"quantity": 7, "event_timestamp": at[0], "created_timestamp": at[2]}]})
    for now, cuts, quantity in ((at[1], True, 1), (at[2], True, 7), (at[2], False, 7)):
        (row,) = Snapshot(spark, lake, Horizon(now, now.date(), cuts)).frame(ORDERS).collect()
        assert row.quantity == quantity


def test_a_build_keeps_its_lineage_and_a_second_one_writes_nothing(put, build, lake):
    put(facts(1, date(2024, 5, 1), 10))
    first = build()
    assert not any(built.skipped for built in first.values())
    assert all(lake.num_rows(f"features/{name}") == built.num_rows > 0 for name, built in first.items())
    kept = lake.history("features/user_category_affinity")[0]
    assert kept["inputs"] == '{"features/interactions": 0, "features/item_catalog": 0}'
    assert kept["last_day"] == "2024-05-09"
    assert all(built.skipped and built.version == 0 for built in build().values())

    put({REVIEWS: facts(2, date(2024, 5, 1), 9)[REVIEWS]})
    again = {name for name, built in build().items() if not built.skipped}
    assert again == {"item_catalog", "item_activity", "user_category_affinity", "user_profile", "daily_demand", "clean_reviews"}


def test_the_clock_bounds_what_is_read_and_written(put, build, lake):
    put(facts(1, date(2024, 5, 1), 10))
    build(now="2024-05-06T12:00+02:00")
    now = datetime.fromisoformat("2024-05-06T12:00+02:00")
    for name in FEATURE_TABLES:
        assert lake.newest([f"features/{name}"]) < now, name
    assert lake.read("features/daily_demand")["ds"].to_pylist()
    assert max(lake.read("features/daily_demand")["ds"].to_pylist()) == date(2024, 5, 5)
    # On the same day a wall clock that moves on within it builds nothing new once no fact lies after it.
    build(now="2024-06-01T12:00+02:00")
    assert all(built.skipped for built in build(now="2024-06-01T12:01+02:00").values())


@pytest.mark.parametrize("only", [EVENTS, ORDERS, REVIEWS])
def test_a_shop_with_one_table_builds_all(put, build, only):
    put({only: facts(1, date(2024, 5, 1), 5)[only]})
    rows = {name: built.num_rows for name, built in build().items()}
    acts = ("interactions", "sessions", "user_history", "user_activity", "item_activity", "user_profile")
    assert rows["item_catalog"] > 0
    assert all((rows[name] > 0) == (only in (EVENTS, ORDERS)) for name in acts)
    assert (rows["user_purchases"] > 0) == (rows["daily_demand"] > 0) == (only is ORDERS)
    assert (rows["clean_reviews"] > 0) == (only is REVIEWS)


def test_a_shop_with_nothing_builds_empty_tables(build):
    assert {built.num_rows for built in build().values()} == {0}


def test_other_rules_of_profiles_build_profiles_again_and_nothing_else(put, build, lake):
    at = datetime(2024, 5, 1, tzinfo=UTC)
    put({ORDERS: [{"order_id": "o", "user_id": "u", "item_id": "a", "quantity": 1, "unit_price": 7, "event_timestamp": at}]})
    shop = SHOP.model_copy(update={"profile": ProfileRules(price=(1, 5))})
    now = "2024-05-03T00:00+02:00"
    bands = []
    for rules_of in (SHOP, shop):
        built = build("user_activity", "user_profile", shop=rules_of, now=now)
        bands.append(lake.read("features/user_profile")["price_band"].to_pylist())
    assert bands == [["budget"], ["premium"]]
    assert {name for name, table in built.items() if not table.skipped} == {"user_profile"}
    assert build("user_profile", shop=shop, now=now)["user_profile"].skipped


def test_a_range_is_rebuilt_as_a_full_build_would_and_the_rest_kept(put, build, lake):
    put(facts(1, date(2024, 5, 1), 12))
    build()
    before = {name: current_rows(lake, FEATURE_TABLES[name]).to_pylist() for name in FEATURE_TABLES}
    changed = facts(1, date(2024, 5, 1), 12)
    changed[ORDERS] = [{**row, "quantity": row["quantity"] * 3, "unit_price": 7} for row in changed[ORDERS]]
    put(changed)
    build("interactions", "item_catalog")
    names = ("interactions", "user_activity", "daily_demand")
    build(*names, between=Range(date(2024, 5, 5), date(2024, 5, 7)))
    partial = {name: current_rows(lake, FEATURE_TABLES[name]).to_pylist() for name in names}
    kept = lake.history("features/user_activity")
    assert kept[0]["between"] == '["2024-05-05", "2024-05-07"]'
    assert kept[0]["inputs"] == kept[1]["inputs"]  # what the other rows are from
    assert build(*names, between=Range(date(2024, 5, 5), date(2024, 5, 7)))["daily_demand"].skipped
    build(*names)

    def split(rows):
        inside, outside = [], []
        for row in rows:
            day = row["event_timestamp"].astimezone(SHOP.zone).date()
            said = {name: value for name, value in row.items() if name != "created_timestamp"}  # known since the range was rebuilt
            (inside if date(2024, 5, 5) <= day <= date(2024, 5, 7) else outside).append(str(said))
        return sorted(inside), sorted(outside)

    for name in ("user_activity", "daily_demand"):
        full = current_rows(lake, FEATURE_TABLES[name]).to_pylist()
        assert split(partial[name])[0] == split(full)[0] != split(before[name])[0]
        assert split(partial[name])[1] == split(before[name])[1] != split(full)[1]


@pytest.fixture
def snapshots(settings, monkeypatch):
    """What the whole command, run without Spark, hands to the build of one table."""
    folder = Home(settings).create().shop()
    folder.mkdir()
    (folder / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\nnow: data\n")
    found = []

    def built(snapshot, *_):
        found.append(snapshot)
        with Home(settings).lock("ingest-sample"):  # free again: an ingest may run beside the long part
            pass
        return Built("item_catalog", 0, 0, 0.0, False)

    monkeypatch.setattr(build_module, "session", lambda *_: nullcontext())
    monkeypatch.setattr(build_module, "share_out", lambda *_: None)
    monkeypatch.setattr(build_module, "build_table", built)
    return found


def test_a_build_first_finishes_what_a_killed_ingest_began(settings, lake, snapshots, monkeypatch):
    appends = []
    for table in (ORDERS, ITEMS):
        rows = [complete(table, row) for row in facts(1, date(2024, 5, 1), 3)[table]]
        attempt = lake.attempt(table.path)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), f"{attempt.uri}/part-0.parquet")
        appends.append(Append(attempt, table.schema, table.name))
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Journal(lake, "ingest").commit(appends)
    build_module.build(settings, ["item_catalog"])
    (snapshot,) = snapshots
    assert (snapshot.version(ORDERS), snapshot.version(ITEMS)) == (0, 0)
    assert snapshot.horizon.now > lake.newest([ORDERS.path])


def test_a_build_begins_with_what_was_posted_and_makes_no_spool_where_nothing_was(settings, lake, snapshots):
    build_module.build(settings, ["item_catalog"])
    intake = Intake.of(settings, SHOP, lake)
    assert not intake.spool.path.exists()
    told = {"event_id": "e", "user_id": "u", "event_type": "page", "event_timestamp": "2024-05-01T11:00:00Z"}
    intake.take([EVENT_CONTRACT.read([told], "http", "r", intake.present)])
    with Home(settings).lock("ingest-sample"), pytest.raises(HomeError, match="already running"):
        build_module.build(settings, ["item_catalog"])
    build_module.build(settings, ["item_catalog"])
    before, after = snapshots
    assert (before.version(EVENTS), after.version(EVENTS)) == (None, 0)
    assert after.horizon.now > lake.newest([EVENTS.path])
    assert intake.spool.waiting() == (0, None)


def test_a_build_does_not_begin_inside_an_ingest(settings, snapshots):
    with Home(settings).lock("ingest-sample"), pytest.raises(HomeError, match="already running"):
        build_module.build(settings, ["item_catalog"])
    assert not snapshots


def test_a_range_needs_a_table_to_keep_rows_of(put, build):
    put({ORDERS: facts(1, date(2024, 5, 1), 5)[ORDERS]})
    with pytest.raises(TableContractError, match="build it once without --from and --to"):
        build("interactions", between=Range(date(2024, 5, 1)))
    with pytest.raises(SettingsError, match="both included"):
        Range(date(2024, 5, 2), date(2024, 5, 1))


def test_no_later_fact_changes_an_earlier_row(spark, frame, written):
    """Build on the facts of ten days, then with ten more: rows stamped up to the cut are the same, in every table."""
    cut = datetime(2024, 5, 11, tzinfo=SHOP.zone)
    early, later = facts(1, date(2024, 5, 1), 10), facts(2, date(2024, 5, 11), 10)

    def build_all(rows):
        raw_tables = [RAW_TABLES[name] for name in READ]
        frames = {t.path: current(frame(t, *rows.get(t, [])), t) for t in raw_tables}
        for name in in_order([], JOBS):
            table = FEATURE_TABLES[name]
            made = JOBS[name].run(Inputs(frames, SHOP.time_zone, SHOP.calendars, date(2024, 5, 20)))
            frames[table.path] = spark.createDataFrame(made.select(*table.names).toArrow())
        return {n: [r for r in written(frames[t.path], t) if r["event_timestamp"] <= cut] for n, t in FEATURE_TABLES.items()}

    alone, with_later = build_all(early), build_all({t: early[t] + later[t] for t in early})
    for name in FEATURE_TABLES:
        assert alone[name], name
        if name == "sessions":  # a visit that goes on is stamped later; those that were over stay as they were
            over = cut - timedelta(minutes=30)
            alone[name], with_later[name] = ([r for r in x[name] if r["event_timestamp"] <= over] for x in (alone, with_later))
        assert with_later[name] == alone[name], name
