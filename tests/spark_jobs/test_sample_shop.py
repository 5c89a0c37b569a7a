"""The sample shop: the same rows for any number of tasks, tables that agree with each other, and a truth that the rows obey."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from functools import reduce
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from features import tables
from features.shop import Shop
from features.tables import RAW_TABLES
from infra import clock
from infra.errors import HomeError, SettingsError
from infra.home import Home
from infra.lake import Attempt, Commit, Lake
from infra.settings import Settings
from spark_jobs import sample_shop
from spark_jobs.sample import calendar_rows, frames, goods, truth, visitors
from spark_jobs.sample.acts import make_acts
from spark_jobs.sample.catalogue import ASPECTS, SIZES, Size
from spark_jobs.sample.chance import Chance
from spark_jobs.sample.days import make_days
from spark_jobs.sample.reviews import GRAMMARS, write_review

MINI = Size("mini", 40, 30, 1_500)
SEED = 7


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings.load(home=tmp_path_factory.mktemp("sample") / "home")
    Home(settings).create()
    return settings


@pytest.fixture(scope="module")
def shop(spark: SparkSession, home: Settings) -> dict[str, pa.Table]:
    """The tiny shop, written once: path -> rows."""
    sample_shop.write_shop(Home(home), home.shop)
    lake = Lake.open(home)
    written = sample_shop.write(spark, lake, SIZES["tiny"], SEED)
    assert [table.table for table in written] == list(sample_shop.PATHS)
    return {path: lake.read(path) for path in sample_shop.PATHS}


def frame(shop: dict[str, pa.Table], path: str) -> pd.DataFrame:
    return shop[path].to_pandas()


def local_day(times: pd.Series[pd.Timestamp]) -> pd.Series[date]:
    return times.dt.tz_convert("Asia/Shanghai").dt.date


# -- contracts ------------------------------------------------------------------------------------------------------------------


def test_every_table_has_its_declared_schema(shop: dict[str, pa.Table]) -> None:
    declared = {f"raw/{name}": table for name, table in RAW_TABLES.items()}
    declared |= {table.path: table for table in truth.TRUTH_TABLES.values()}
    for path, rows in shop.items():
        assert [(f.name, f.type) for f in rows.schema] == [(f.name, f.type) for f in declared[path].schema], path
        assert rows.num_rows > 0, path
    assert set(declared) - set(shop) == {"raw/rates"}  # a shop of one currency has no rates


def test_identities_are_unique(shop: dict[str, pa.Table]) -> None:
    declared = {f"raw/{name}": table for name, table in RAW_TABLES.items()}
    for path, rows in shop.items():
        if path.startswith("raw/"):
            identity = list(declared[path].identity)
            assert not rows.select(identity).to_pandas().duplicated().any(), path


def test_sizes(shop: dict[str, pa.Table]) -> None:
    assert abs(shop["raw/events"].num_rows - 20_000) < 1_000
    assert shop["raw/users"].num_rows == 300
    assert shop["truth/items"].num_rows == 200
    assert shop["raw/reviews"].num_rows > 500


def test_shop_file_and_clock(shop: dict[str, pa.Table], home: Settings) -> None:
    loaded = Shop.load(Home(home), home.shop)
    assert (loaded.currency, loaded.time_zone, loaded.calendars, loaded.now) == ("CNY", "Asia/Shanghai", ("CN", "US"), "data")
    now = clock.now(loaded.now, Lake.open(home)).astimezone(ZoneInfo(loaded.time_zone))
    assert now.date() == date(2025, 12, 31)
    first = local_day(frame(shop, "raw/events")["event_timestamp"]).min()
    assert first >= date(2024, 1, 2)


def test_a_second_run_starts_nothing(shop: dict[str, pa.Table], home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Spark was started")

    monkeypatch.setattr(sample_shop, "session", refuse)
    again = sample_shop.sample(home, SIZES["tiny"], SEED)
    assert [table.table for table in again] == list(sample_shop.PATHS)
    assert all(table.skipped for table in again)
    with pytest.raises(AssertionError, match="started"):
        sample_shop.sample(home, SIZES["tiny"], SEED + 1)


def test_a_run_that_was_cut_short_is_finished(spark: SparkSession, shop: dict[str, pa.Table], home: Settings) -> None:
    lake = Lake.open(home)
    shutil.rmtree(lake.uri("truth/process"))
    again = sample_shop.write(spark, lake, SIZES["tiny"], SEED)
    assert [table.table for table in again if not table.skipped] == ["truth/process"]
    assert lake.read("truth/process").equals(shop["truth/process"])


def test_a_run_that_dies_shows_nothing_or_is_finished(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one seed and then of another: no build ever reads tables of both. Three small tables stand for all."""
    lake = Lake.open(settings)
    chosen = (tables.CALENDAR, truth.SEASONS, truth.DAYS)
    commit = Lake.commit

    def transform(spark: SparkSession, size: Size, seed: int) -> sample_shop.Sample:
        rows = (calendar_rows.shopping_days(), calendar_rows.seasons(size, seed), calendar_rows.truth(size, seed))
        calendar, seasons, days = (frames.small(spark, table) for table in rows)
        return sample_shop.Sample(dict(zip(chosen, (frames.calendar(calendar), seasons, days), strict=True)), ())

    def die(self: Lake, attempt: Attempt, *rest: Any, **more: Any) -> Commit:
        if attempt.path == "truth/seasons":
            raise KeyboardInterrupt
        return commit(self, attempt, *rest, **more)

    def die_at_last(path: str) -> None:
        if path == "truth/days":
            raise KeyboardInterrupt

    def versions() -> list[int | None]:
        return [lake.version(table.path) for table in chosen]

    monkeypatch.setattr(sample_shop, "transform", transform)
    monkeypatch.setattr(sample_shop, "PATHS", tuple(table.path for table in chosen))
    sample_shop.write(spark, lake, MINI, SEED)
    with pytest.raises(KeyboardInterrupt):
        sample_shop.write(spark, lake, MINI, SEED + 1, die_at_last)
    assert versions() == [0, 0, 0]
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            sample_shop.write(spark, lake, MINI, SEED + 1)
    assert versions() == [1, 0, 0]
    monkeypatch.setattr(sample_shop, "session", None)  # it is finished without Spark
    assert all(table.skipped for table in sample_shop.sample(settings, MINI, SEED + 1))
    assert versions() == [1, 1, 1]


def test_a_shop_of_somebody_else_is_left_alone(settings: Settings) -> None:
    path = Home(settings).shop() / "shop.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\n")
    with pytest.raises(SettingsError, match="not made by `shopgraph sample`"):
        sample_shop.sample(settings, SIZES["tiny"], SEED)
    assert "EUR" in path.read_text()


def test_an_edited_shop_file_is_kept(settings: Settings) -> None:
    path: Path = sample_shop.write_shop(Home(settings), "sample")
    path.write_text(path.read_text().replace("now: data", "now: wall"))
    sample_shop.write_shop(Home(settings), "sample")
    assert Shop.read(path).now == "wall"


def test_it_does_not_run_beside_another_writer_of_raw_tables(settings: Settings) -> None:
    with Home(settings).lock("ingest-sample"), pytest.raises(HomeError, match="already running"):
        sample_shop.sample(settings, SIZES["tiny"], SEED)


def test_unknown_size_is_named(settings: Settings) -> None:
    from typer.testing import CliRunner

    from spark_jobs.cli import app

    result = CliRunner().invoke(app, ["sample", "--size", "huge"], obj=settings)
    assert isinstance(result.exception, SettingsError)
    assert "tiny, small, medium, large" in str(result.exception)


# -- determinism ----------------------------------------------------------------------------------------------------------------


def content(made: sample_shop.Sample) -> dict[str, str]:
    """A digest of the rows of each table that passes through a shuffle, and of some that do not; their order is irrelevant."""
    chosen = (
        tables.EVENTS, tables.ORDERS, tables.PAYMENTS, tables.INVENTORY, tables.REVIEWS, tables.ITEMS, tables.EXPOSURES,
        truth.USER_TASTES, truth.DEMAND,
    )  # fmt: skip

    def digest(path: str, rows: DataFrame) -> DataFrame:
        one = F.xxhash64(*rows.columns).cast("decimal(20,0)")
        return rows.agg(F.lit(path).alias("path"), F.count(F.lit(1)).alias("rows"), F.sum(one).cast("string").alias("sum"))

    try:
        told = reduce(DataFrame.unionByName, [digest(table.path, made.frames[table]) for table in chosen]).collect()
    finally:
        made.release()
    return {row["path"]: f"{row['rows']} {row['sum']}" for row in told}


def test_rows_do_not_depend_on_the_number_of_tasks(spark: SparkSession) -> None:
    one = content(sample_shop.transform(spark, MINI, SEED, tasks=1))
    assert content(sample_shop.transform(spark, MINI, SEED, tasks=3)) == one


def test_a_user_does_not_depend_on_the_others() -> None:
    together = make_acts(MINI, SEED, np.arange(40))
    alone = make_acts(MINI, SEED, np.array([17]))
    assert alone.equals(together.filter(pa.compute.equal(together["user"], 17)))
    assert make_acts(MINI, SEED, np.array([], dtype=np.int64)).num_rows == 0


def test_another_seed_is_another_shop() -> None:
    some = np.arange(20)
    for rows in (
        make_acts,
        goods.items,
        goods.promotions,
        goods.successors,
        goods.truth,
        visitors.users,
        visitors.tastes,
        visitors.exposures,
    ):
        assert not rows(MINI, SEED, some).equals(rows(MINI, SEED + 1, some)), rows.__name__
        assert rows(MINI, SEED, some).equals(rows(MINI, SEED, some)), rows.__name__


def test_chance_is_a_function_of_seed_name_and_counters() -> None:
    chance, counters = Chance(3), np.arange(200_000)
    draws = chance.uniform("x", counters)
    assert np.array_equal(draws[100:200], chance.uniform("x", counters[100:200]))
    assert abs(draws.mean() - 0.5) < 0.003
    assert abs(draws.var() - 1 / 12) < 0.001
    for other in (chance.uniform("y", counters), Chance(4).uniform("x", counters), chance.uniform("x", counters, 1)):
        assert abs(np.corrcoef(draws, other)[0, 1]) < 0.01
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.01
    counts = chance.poisson("p", np.full(200_000, 1.7), counters)
    assert abs(counts.mean() - 1.7) < 0.02
    assert abs(counts.var() - 1.7) < 0.03
    assert chance.poisson("p", 0.0, counters).max() == 0
    assert set(np.unique(chance.below("b", 4, counters))) == {0, 1, 2, 3}


# -- tables agree ---------------------------------------------------------------------------------------------------------------


def test_funnel(shop: dict[str, pa.Table]) -> None:
    events = frame(shop, "raw/events")
    counts = events["event_type"].value_counts()
    assert counts["view"] > counts["cart"] > counts["purchase"] > counts["return"] > 0
    first = events.groupby(["session_id", "item_id", "event_type"])["event_timestamp"].min().unstack()
    bought = first[first["purchase"].notna()]
    assert (bought["view"] < bought["cart"]).all()
    assert (bought["cart"] < bought["purchase"]).all()
    checkouts = events[events["event_type"] == "checkout"].set_index("session_id")["event_timestamp"]
    buys = events[events["event_type"] == "purchase"]
    assert (checkouts.loc[buys["session_id"]].to_numpy() < buys["event_timestamp"].to_numpy()).all()
    assert buys["user_id"].notna().all()
    assert (buys["quantity"] > 0).all()


def test_a_visit_lies_within_one_local_day_and_visits_do_not_overlap(shop: dict[str, pa.Table]) -> None:
    events = frame(shop, "raw/events").dropna(subset=["session_id"])
    events["day"] = local_day(events["event_timestamp"])
    assert (events.groupby("session_id")["day"].nunique() == 1).all()
    spans = events.groupby("session_id").agg(
        visitor=("visitor_id", lambda ids: ids.iloc[0][:8]), first=("event_timestamp", "min"), last=("event_timestamp", "max")
    )
    spans = spans.sort_values(["visitor", "first"])
    same = spans["visitor"].eq(spans["visitor"].shift())
    assert ((spans["first"] - spans["last"].shift())[same] > pd.Timedelta("30min")).all()


def test_anonymous_visits_end_with_a_login(shop: dict[str, pa.Table]) -> None:
    events = frame(shop, "raw/events")
    unknown = events[events["user_id"].isna()]
    assert 0 < len(unknown) < 0.06 * len(events)
    assert unknown["visitor_id"].notna().all()
    logins = events[events["event_type"] == "login"].set_index("session_id")
    for session, login in logins["event_timestamp"].items():
        visit = events[events["session_id"] == session]
        assert visit.loc[visit["event_timestamp"] < login, "user_id"].isna().all()
        assert visit.loc[visit["event_timestamp"] >= login, "user_id"].notna().all()


def test_orders_are_the_purchase_events(shop: dict[str, pa.Table]) -> None:
    events, orders = frame(shop, "raw/events"), frame(shop, "raw/orders")
    for kind, lines, letters in (
        ("purchase", orders[orders["quantity"] > 0], "el"),
        ("return", orders[orders["quantity"] < 0], "br"),
    ):
        acts = events[events["event_type"] == kind].assign(line=lambda e, to=letters[1]: to + e["event_id"].str[1:])
        both = acts.merge(lines, left_on="line", right_on="order_line_id", suffixes=("", "_line"))
        assert len(both) == len(acts) == len(lines) > 0
        for name in ("user_id", "item_id", "event_timestamp"):
            assert (both[name] == both[f"{name}_line"]).all()
        assert (both["quantity"] == both["quantity_line"].abs()).all()
        assert (both["price"] == both["unit_price"]).all()
    returns = orders[orders["quantity"] < 0]
    assert set(returns["returned_order_id"]) <= set(orders["order_id"])


def test_references_exist(shop: dict[str, pa.Table]) -> None:
    items, users = set(shop["raw/items"]["item_id"].to_pylist()), set(shop["raw/users"]["user_id"].to_pylist())
    orders = set(shop["raw/orders"]["order_id"].to_pylist())
    campaigns = set(shop["raw/campaigns"]["campaign_id"].to_pylist())
    for path, rows in shop.items():
        for name, known in (("item_id", items), ("user_id", users), ("order_id", orders), ("campaign_id", campaigns)):
            if name in rows.column_names:
                assert set(rows[name].to_pylist()) - {None} <= known, (path, name)


def test_payments_add_up_to_the_orders(shop: dict[str, pa.Table]) -> None:
    orders, payments = frame(shop, "raw/orders"), frame(shop, "raw/payments")
    orders["paid"] = orders["quantity"] * orders["unit_price"] - orders["discount"]
    assert payments["amount"].sum() == orders["paid"].sum()
    bought = orders[orders["quantity"] > 0].groupby("order_id")["paid"].sum()
    paid = payments[payments["status"] == "paid"].set_index("order_id")["amount"]
    assert (paid == bought.loc[paid.index]).all()


def test_what_is_out_of_stock_cannot_be_bought(shop: dict[str, pa.Table]) -> None:
    inventory = frame(shop, "raw/inventory").sort_values(["item_id", "event_timestamp"])
    assert (inventory["on_hand"] >= 0).all()
    assert (inventory["on_hand"] == 0).any()
    sales = frame(shop, "raw/orders").query("quantity > 0")
    sold = sales.groupby(["item_id", "event_timestamp"])["quantity"].sum()
    inventory["before"] = inventory.groupby("item_id")["on_hand"].shift()
    inventory = inventory.set_index(["item_id", "event_timestamp"])
    moved = inventory.loc[sold.index]
    assert ((moved["before"] - sold) == moved["on_hand"]).all()  # what was sold left the shelf
    assert (sold <= moved["before"]).all()


def test_demand_splits_into_sold_and_lost(shop: dict[str, pa.Table]) -> None:
    demand, orders = frame(shop, "truth/demand"), frame(shop, "raw/orders").query("quantity > 0")
    assert (demand["sold_units"] <= demand["wanted_units"]).all()
    assert 0 < (demand["wanted_units"] - demand["sold_units"]).sum() < 0.2 * demand["wanted_units"].sum()
    sold = orders.assign(ds=local_day(orders["event_timestamp"])).groupby(["item_id", "ds"])["quantity"].sum()
    told = demand[demand["sold_units"] > 0].set_index(["item_id", "ds"])["sold_units"]
    assert told.sort_index().equals(sold.sort_index().rename("sold_units"))


def listed_views(shop: dict[str, pa.Table]) -> pd.DataFrame:
    """Views with the item's category and list price of their time, ordered by time; prices as floats."""
    items = frame(shop, "raw/items").astype({"price": float}).sort_values("event_timestamp")
    views = frame(shop, "raw/events").query("event_type == 'view'").astype({"price": float})
    views = views.assign(ds=local_day(views["event_timestamp"])).sort_values("event_timestamp").reset_index(drop=True)
    return pd.merge_asof(views, items, on="event_timestamp", by="item_id", suffixes=("", "_list"))


def test_price_paid_is_list_price_less_the_deepest_promotion(shop: dict[str, pa.Table]) -> None:
    views, promotions = listed_views(shop), frame(shop, "raw/promotions")
    covers = views[["item_id", "category", "event_timestamp"]].reset_index()
    of_item, of_category = promotions.dropna(subset=["item_id"]), promotions[promotions["item_id"].isna()]
    deals = pd.concat([covers.merge(of_item, on="item_id"), covers.merge(of_category, on="category")])
    deals = deals[(deals["starts_at"] <= deals["event_timestamp"]) & (deals["event_timestamp"] < deals["ends_at"])]
    depth = deals.groupby("index")["depth"].max().reindex(views.index, fill_value=0.0)
    expected = (views["price_list"] * (1 - depth)).round(2)
    assert (expected - views["price"]).abs().max() < 0.011
    assert (depth > 0).mean() > 0.1


def test_items_are_seen_only_while_on_sale(shop: dict[str, pa.Table]) -> None:
    views = (
        frame(shop, "raw/events")
        .query("event_type == 'view'")
        .merge(frame(shop, "raw/items").drop_duplicates("item_id"), on="item_id")
    )
    assert (views["created_at"] <= views["event_timestamp_x"]).all()
    gone = views["withdrawn_at"].notna()
    assert gone.any()
    assert (views["event_timestamp_x"] < views["withdrawn_at"])[gone].all()


def test_coupons_belong_to_the_coupon_arm_of_a_running_campaign(shop: dict[str, pa.Table]) -> None:
    exposures = frame(shop, "raw/exposures")
    share = (exposures["variant"] == "coupon").mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(exposures))
    used = frame(shop, "raw/orders").query("quantity > 0").dropna(subset=["coupon_id"])
    assert len(used) > 10
    arms = used.merge(exposures, left_on=["coupon_id", "user_id"], right_on=["campaign_id", "user_id"])
    assert len(arms) == len(used)
    assert (arms["variant"] == "coupon").all()
    campaign = frame(shop, "raw/campaigns").set_index("campaign_id").loc[used["coupon_id"]]
    assert (campaign["starts_at"].to_numpy() <= used["event_timestamp"].to_numpy()).all()
    assert (used["event_timestamp"].to_numpy() < campaign["ends_at"].to_numpy()).all()


def test_late_rows_become_known_later_but_not_after_the_end(shop: dict[str, pa.Table]) -> None:
    events = frame(shop, "raw/events")
    late = events["created_timestamp"] > events["event_timestamp"]
    assert 0 < late.mean() < 0.03
    assert (events["created_timestamp"] >= events["event_timestamp"]).all()
    assert local_day(events["created_timestamp"]).max() <= date(2025, 12, 31)


# -- the truth ------------------------------------------------------------------------------------------------------------------


def test_festivals_lie_on_their_days() -> None:
    days = make_days()
    traffic = pd.Series(days.traffic, index=pd.date_range("2024-01-02", "2025-12-31").date)
    assert traffic.idxmax() in (date(2024, 11, 11), date(2025, 11, 11))
    assert traffic[date(2025, 6, 18)] > 2 * traffic[date(2025, 6, 25)]
    for new_year in (date(2024, 2, 10), date(2025, 1, 29)):  # Spring Festival, first day of the lunar year
        week = [new_year + timedelta(days=offset) for offset in range(5)]
        assert traffic[week].max() < 0.75
    assert abs(days.week.mean() - 1) < 0.02


def test_demand_follows_its_expectation(shop: dict[str, pa.Table]) -> None:
    demand, items = frame(shop, "truth/demand"), frame(shop, "truth/items")
    units = demand.merge(items[["item_id", "units_per_line", "elasticity", "reference_price"]], on="item_id")
    # a compound Poisson of 1 + Poisson(m) units a line: variance = rate x (1 + 3 m + m^2) / (1 + m)
    extra = units["units_per_line"] - 1
    variance = units["expected_units"] * (1 + 3 * extra + extra**2) / (1 + extra)
    gap = (units["wanted_units"] - units["expected_units"]).sum() / np.sqrt(variance.sum())
    assert abs(gap) < 4
    half = units["expected_units"] / units["views"] > (units["expected_units"] / units["views"]).median()
    for part in (units[half], units[~half]):
        gap = (part["wanted_units"] - part["expected_units"]).sum() / np.sqrt(variance[part.index].sum())
        assert abs(gap) < 4


def test_expectation_is_the_product_of_the_planted_factors(shop: dict[str, pa.Table]) -> None:
    """Expectation per view, rid of all factors that the tables tell, is the day's unforeseeable shock: log-normal, sigma 0.25."""
    views = listed_views(shop).drop_duplicates(["item_id", "ds"])
    rivals = frame(shop, "raw/competitor_prices").astype({"price": float})
    cheapest = rivals.groupby(["item_id", "event_timestamp"])["price"].min().reset_index(name="rival")
    views = pd.merge_asof(views, cheapest.sort_values("event_timestamp"), on="event_timestamp", by="item_id")
    rows = frame(shop, "truth/demand").merge(views, on=["item_id", "ds"]).merge(frame(shop, "truth/items"), on="item_id")
    rows = rows.merge(frame(shop, "truth/seasons"), on=["category", "ds"])
    per_view = rows["expected_units"] / rows["views"] / rows["units_per_line"] / rows["conversion"] / rows["factor"]
    shock = (
        np.log(per_view)
        - rows["elasticity"] * np.log(rows["price"] / rows["reference_price"])
        - rows["rival_elasticity"] * np.log(rows["rival"] / rows["reference_price"])
        - np.where(rows["price"] < 0.95 * rows["price_list"], np.log(rows["promotion_lift"]), 0.0)
    )
    assert abs(shock.median() + 0.25**2 / 2) < 0.02
    assert abs((shock.quantile(0.84) - shock.quantile(0.16)) / 2 - 0.25) < 0.02  # but for the few holders of coupons
    priced = np.polyfit(np.log(rows["price"] / rows["reference_price"]), np.log(per_view), 1)[0]
    assert priced < -1.0  # the planted response is there to be found


def test_views_follow_the_planted_next_item_process(shop: dict[str, pa.Table]) -> None:
    planted = {name: shop[f"truth/{name}"] for name in ("items", "successors", "process", "user_tastes")}
    views = frame(shop, "raw/events").query("event_type == 'view'").sort_values("event_timestamp")
    views["user_id"] = "u" + views["visitor_id"].str[1:8]  # devices have one owner: anonymous visits are part of the chain
    views["ds"], views["last"] = local_day(views["event_timestamp"]), views.groupby("user_id")["item_id"].shift()
    taken = views[views["last"].notna()].sample(600, random_state=1)
    popularity = views["item_id"].value_counts()
    got, expected, spread, hits, popular_hits = 0.0, 0.0, 0.0, 0, 0
    for row in taken.itertuples():
        probability = truth.next_item_probabilities(planted, row.user_id, row.last, row.ds)
        values = np.array(list(probability.values()))
        assert abs(values.sum() - 1) < 1e-9
        assert probability[row.last] == 0.0
        got += probability[row.item_id]
        expected += (values**2).sum()  # mean probability that the process itself gives to what it draws
        spread += (values**3).sum() - (values**2).sum() ** 2
        hits += row.item_id in sorted(probability, key=probability.__getitem__)[-10:]
        popular_hits += row.item_id in popularity.index[:10]
    assert abs(got - expected) < 4 * np.sqrt(spread)
    assert hits > 1.5 * popular_hits


def test_unknown_user_has_no_tastes(shop: dict[str, pa.Table]) -> None:
    planted = {name: shop[f"truth/{name}"] for name in ("items", "successors", "process", "user_tastes")}
    with pytest.raises(KeyError, match="nobody"):
        truth.next_item_probabilities(planted, "nobody", None, date(2025, 1, 1))


def test_expected_visits_add_up(shop: dict[str, pa.Table]) -> None:
    per_day, per_user = frame(shop, "truth/days")["expected_visits"].sum(), frame(shop, "truth/users")["expected_visits"].sum()
    assert per_day == pytest.approx(per_user)
    visits = frame(shop, "raw/events")["session_id"].nunique()
    assert abs(visits / per_day - 1) < 0.1


# -- reviews --------------------------------------------------------------------------------------------------------------------


def test_reviews_say_what_was_planted(shop: dict[str, pa.Table]) -> None:
    reviews = frame(shop, "raw/reviews").merge(frame(shop, "truth/reviews"), on="review_id")
    assert set(reviews["language"]) == {"zh", "en"}
    assert reviews["rating"].between(1, 5).all()
    assert reviews[list(ASPECTS)].notna().any(axis=1).all()
    assert reviews["rating"].corr(reviews["score"]) > 0.85
    sure = reviews[reviews["rating"] != 3]
    assert 0.95 < ((sure["rating"] > 3) == (sure["score"] > 0)).mean() < 1.0  # ratings carry noise
    chinese = reviews["review_text"].str.contains("[一-鿿]")
    assert (chinese == (reviews["language"] == "zh")).all()
    bought = frame(shop, "raw/orders")[["user_id", "item_id"]].drop_duplicates()
    assert len(reviews.merge(bought, on=["user_id", "item_id"])) == len(reviews)


@pytest.fixture(scope="module")
def written() -> dict[str, list[tuple[str, int]]]:
    draws = np.random.default_rng(0)
    return {
        language: [
            (review.text, review.rating)
            for review in (
                write_review(language, noun, 0.8 + 1.2 * draws.normal() + 0.6 * draws.normal(size=4), draws.random(64))
                for _ in range(4_000)
            )
        ]
        for language, noun in (("zh", "手机"), ("en", "phone"))
    }


@pytest.mark.parametrize("language", list(GRAMMARS))
def test_words_alone_do_not_tell_the_sentiment(language: str, written: dict[str, list[tuple[str, int]]]) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    sure = [(text, rating > 3) for text, rating in written[language] if rating != 3]
    texts, labels = [text for text, _ in sure], np.array([label for _, label in sure])
    cut = int(0.8 * len(texts))
    model = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True), LogisticRegression(C=10, max_iter=300)
    )
    accuracy = model.fit(texts[:cut], labels[:cut]).score(texts[cut:], labels[cut:])
    assert max(labels.mean(), 1 - labels.mean()) + 0.05 < accuracy < 0.95
    assert len(set(texts)) > 0.95 * len(texts)
    assert not any("{" in text for text in texts)
