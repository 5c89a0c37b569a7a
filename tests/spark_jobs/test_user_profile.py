"""user_profile: every rule at its edge, rows only on days of change, and what a reader sees against plain Python."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame

from features.profiles import FAMILIES, ProfileRules
from features.tables import EVENTS, INTERACTIONS, ITEM_CATALOG, ORDERS, USER_PROFILE, USERS
from spark_jobs import interactions
from spark_jobs.raw import current
from spark_jobs.user_profile import transform
from tests.spark_jobs.conftest import Row, complete

BERLIN = ZoneInfo("Europe/Berlin")
LAST_DAY = date(2027, 12, 31)
RULES = ProfileRules(private_categories=("Apotheke",))


# -- by hand ----------------------------------------------------------------------------------------------------------------


def bought(user: str, day: str, value: Any = 10, at: str = "12:00", quantity: int = 1, **row: Any) -> Row:
    """A purchase at a local time in Berlin."""
    return did(user, "purchase", day, at, value=value, quantity=quantity, **row)


def did(user: str, event_type: str, day: str, at: str = "12:00", **row: Any) -> Row:
    moment = datetime.fromisoformat(f"{day}T{at}").replace(tzinfo=BERLIN)
    return {"user_id": user, "event_type": event_type, "item_id": "i", "event_timestamp": moment.astimezone(UTC)} | row


def after(day: str, days: int) -> str:
    return str(date.fromisoformat(day) + timedelta(days))


D = "2024-03-30"  # the clocks go forward in the night that follows
ACTS = [
    bought("once", D, at="23:30"),
    *[bought("fast", after(D, days)) for days in (0, 10, 20)],
    *[bought("even", after(D, days)) for days in (0, 40, 81)],
    *[bought("slow", after(D, days)) for days in (0, 100, 400)],
    *[bought(f"{count} days", after(D, days)) for count in (1, 2, 3, 5, 10) for days in range(count)],
    bought("49.9999", D, "49.9999"),
    *[bought(f"{money}", D, money) for money in (50, 150, 500, 1500)],
    *[bought("taken back", after(D, days), 30) for days in range(3)],
    did("taken back", "return", after(D, 5), value=90, quantity=3),
    bought("rather returns", D, 20),
    did("rather returns", "return", after(D, 366), value=20, quantity=1),
    did("only returns", "return", D, value=5, quantity=1),
    *[bought("rich", D, "99999999999999.9999") for _ in range(3)],
    *[did("owed", "return", D, value="99999999999999.9999", quantity=1) for _ in range(3)],
    bought("told late", D, created_timestamp="2024-04-05T00:00:00+02:00"),
    bought("told later", D, created_timestamp="2024-04-05T00:00:00.000001+02:00"),
    bought("told too late", D, created_timestamp="2025-05-05T10:00+02:00"),
    bought("no price", D, None),
    bought("free", D, 0),
    *[bought("mean price", D, value, quantity=quantity) for value, quantity in ((30, 2), (5, 1))],
    did("visitor:x", "view", D),
    did("session:x", "view", D),
    *[did("night owl", "view", "2024-03-31", at) for at in ("00:10", "01:59", "03:30", "12:00", "18:00")],
    *[did("tied", "view", "2024-04-01", at) for at in ("05:59", "00:00", "18:00", "23:59", "12:00")],
    *[did("few", "view", "2024-04-01", at) for at in ("06:00", "07:00", "08:00", "09:00")],
    did("few", "return", "2024-04-01", value=1, quantity=1),
    *[did("weekender", "view", f"2024-04-{day}") for day in ("01", "02", "03", "04", "06", "07")],
    *[did("everyday", "view", f"2024-04-0{day}") for day in range(1, 8)],
    *[did("garden", "view", D, item_id=item) for item in ("g", "g", "t", "b", "x")],
    bought("garden", D, item_id="s"),
    *[did("pills", "view", D, item_id=item) for item in ("p", "p", "p", "p", "p", "g", "g")],
    *[did("no category", "view", D, item_id="none") for _ in range(6)],
    *[did("用户 ü'\"", "view", D, item_id="u") for _ in range(5)],
]
CATALOG = [
    {"item_id": item, "category": category, "event_timestamp": "2024-01-01T00:00+01:00"}
    for item, category in {
        "g": "Garten",
        "t": "Tiere",
        "b": "Bad",
        "s": "Sport",
        "p": "Apotheke",
        "u": "花园 🌱",
        "none": None,
    }.items()
]
TOLD = [
    {"user_id": "told", "country": "DE", "language": "de", "registered_at": "2024-01-01T00:00+01:00",
     "event_timestamp": "2024-02-01T09:00+01:00"},
    {"user_id": "told", "country": "AT", "registered_at": "2024-01-01T00:00+01:00", "event_timestamp": "2024-02-03T09:00+01:00"},
    {"user_id": "told", "country": "CH", "registered_at": "2024-01-01T00:00+01:00", "event_timestamp": "2024-02-02T09:00+01:00",
     "created_timestamp": "2024-02-08T09:00+01:00"},
    {"user_id": "of tomorrow", "registered_at": "2030-01-01T00:00+01:00", "event_timestamp": "2024-02-01T09:00+01:00"},
    {"user_id": "of now", "registered_at": "2024-02-01T09:00+01:00", "event_timestamp": "2024-02-01T09:00+01:00"},
]  # fmt: skip
LINES = [
    {"order_id": f"{user}-{n}", "order_line_id": "1", "user_id": user, "item_id": "i", "quantity": 1, "unit_price": 60,
     "event_timestamp": f"2024-04-0{n}T12:00+02:00"} | more
    for user, n, more in (
        ("cancels", 1, {}),
        ("cancels", 2, {"status": "paid"}),
        ("cancels", 2, {"status": "cancelled", "created_timestamp": "2024-04-04T12:00+02:00"}),
        ("cancels all", 1, {"status": "cancelled"}),
        ("corrected", 1, {}),
        ("corrected", 1, {"unit_price": 40, "created_timestamp": "2024-04-04T12:00+02:00"}),
    )
]  # fmt: skip


@dataclass(frozen=True)
class Profiles:
    """The rows of a frame, by user, oldest first."""

    rows: Mapping[str, Sequence[Row]]

    def at(self, user: str, local: str) -> Row:
        """What a reader sees at a local time in Berlin; {} where nothing."""
        moment = datetime.fromisoformat(local).replace(tzinfo=BERLIN)
        seen = [row for row in self.rows.get(user, []) if row["event_timestamp"] <= moment and row["created_timestamp"] <= moment]
        return seen[-1] if seen else {}

    def changes(self, user: str, *columns: str) -> list[tuple[Any, ...]]:
        """Local time of each row at which one of the columns changes, and their values."""
        found: list[tuple[Any, ...]] = []
        for row in self.rows[user]:
            values = tuple(row[name] for name in columns)
            if not found or found[-1][1:] != values:
                found.append((row["event_timestamp"].astimezone(BERLIN).isoformat()[:16], *values))
        return found


def by_user(rows: Sequence[Row]) -> Profiles:
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["event_timestamp"]):
        found.setdefault(row["user_id"], []).append(row)
    return Profiles(found)


def make(spark, table, rows) -> DataFrame:
    return spark.createDataFrame(pa.Table.from_pylist([complete(table, row) for row in rows], schema=table.schema))


def acts_of(rows: Sequence[Row]) -> list[Row]:
    return [{"interaction_id": f"n{n}", "session_id": "s"} | row for n, row in enumerate(rows)]


def rows_of(frame: DataFrame) -> list[Row]:
    return frame.toArrow().cast(USER_PROFILE.schema).to_pylist()


@pytest.fixture(scope="module")
def profiles(spark) -> Profiles:
    """All hand-written users at once: Spark costs a second a plan."""
    orders = current(make(spark, ORDERS, LINES), ORDERS)
    sales = interactions.transform(current(make(spark, EVENTS, []), EVENTS), orders, zone=BERLIN.key)
    acts = make(spark, INTERACTIONS, acts_of(ACTS)).unionByName(sales.select(*INTERACTIONS.names))
    users = current(make(spark, USERS, TOLD), USERS)
    catalog = make(spark, ITEM_CATALOG, CATALOG)
    return by_user(rows_of(transform(acts, catalog, users, zone=BERLIN.key, last_day=LAST_DAY, rules=RULES)))


def test_one_purchase_takes_its_user_through_every_stage(profiles):
    """The last day of a stage and the first of the next, over both changes of the clocks; nothing else makes a row."""
    found = profiles.changes("once", "stage", "recency_score", "purchase_days_count_365d", "value_tier")
    assert found == [
        ("2024-03-31T00:00", "new", 5, 1, "low"),
        ("2024-04-30T00:00", "active", 5, 1, "low"),
        ("2024-05-01T00:00", "active", 4, 1, "low"),
        ("2024-05-31T00:00", "active", 3, 1, "low"),
        ("2024-06-30T00:00", "at_risk", 3, 1, "low"),
        ("2024-07-30T00:00", "at_risk", 2, 1, "low"),
        ("2024-08-14T00:00", "dormant", 2, 1, "low"),
        ("2024-11-27T00:00", "dormant", 1, 1, "low"),
        ("2024-12-27T00:00", "lost", 1, 1, "low"),
        ("2025-03-31T00:00", "lost", 1, 0, "low"),
    ]
    assert len(profiles.rows["once"]) == len(found)
    first, last = profiles.rows["once"][0], profiles.rows["once"][-1]
    assert first["tags"] == ["stage:new", "value:low", "price:middle"]
    assert last["tags"] == ["stage:lost", "value:low"], "what it paid has left the window"
    assert last["last_purchase_at"] == first["first_purchase_at"] == datetime(2024, 3, 30, 22, 30, tzinfo=UTC)
    assert all(row["created_timestamp"] == row["event_timestamp"] for rows in profiles.rows.values() for row in rows)


@pytest.mark.parametrize(
    ("user", "last", "mean", "rhythm"),
    [("once", 0, None, 45), ("2 days", 1, 1.0, 45), ("fast", 20, 10.0, 15), ("even", 81, 40.5, 41), ("slow", 400, 200.0, 120)],
)
def test_stages_follow_the_users_own_rhythm(profiles, user, last, mean, rhythm):
    silent = [(stage, when) for when, stage in profiles.changes(user, "stage")[-3:]]
    days = [("at_risk", 2), ("dormant", 3), ("lost", 6)]
    assert silent == [(stage, f"{after(D, last + times * rhythm + 2)}T00:00") for stage, times in days]
    assert profiles.rows[user][-1]["purchase_gap_days_mean"] == mean


def test_scores_at_their_bounds(profiles):
    def scores(user, days=1):
        row = profiles.at(user, f"{after(D, days)}T00:00")
        return row["frequency_score"], row["monetary_score"], row["value_tier"]

    assert [scores(f"{n} days", n)[0] for n in (1, 2, 3, 5, 10)] == [1, 2, 3, 4, 5]
    assert scores("5 days", 4)[0] == scores("10 days", 9)[0] - 1 == 3 or scores("10 days", 9)[0] == 4
    assert [scores(user)[1] for user in ("49.9999", "50", "150", "500", "1500")] == [1, 2, 3, 4, 5]
    assert [scores(user)[2] for user in ("150", "500", "1500")] == ["low", "middle", "middle"]
    assert scores("5 days", 5) == (4, 2, "middle")
    assert profiles.at("told", "2024-02-20T00:00")["value_tier"] is None
    assert profiles.at("once", f"{D}T23:59") == {}, "a day counts once it is over"


def test_returns_take_money_back_and_are_no_purchases(profiles):
    before, then = profiles.at("taken back", f"{after(D, 5)}T12:00"), profiles.at("taken back", f"{after(D, 6)}T00:00")
    assert (before["net_value_sum_365d"], before["monetary_score"], before["returns_share_365d"]) == (90, 2, 0)
    assert (then["net_value_sum_365d"], then["monetary_score"], then["returns_share_365d"]) == (0, 1, 1 / 3)
    assert "returns:often" in then["tags"]
    assert "returns:often" not in before["tags"]
    later = profiles.at("rather returns", f"{after(D, 367)}T00:00")
    assert (later["net_value_sum_365d"], later["monetary_score"], later["returns_share_365d"]) == (-20, 1, None)
    only = profiles.at("only returns", f"{after(D, 1)}T00:00")
    assert (only["stage"], only["recency_score"], only["value_tier"]) == ("prospect", None, None)
    assert (only["active_days_count"], only["net_value_sum_365d"]) == (1, -5)


def test_money_beyond_what_a_column_holds_is_the_most_it_holds(profiles):
    most = Decimal("99999999999999.9999")
    rich, owed = (profiles.at(user, f"{after(D, 1)}T00:00") for user in ("rich", "owed"))
    assert (rich["net_value_sum_365d"], rich["monetary_score"], owed["net_value_sum_365d"]) == (most, 5, -most)
    assert profiles.rows["rich"][-1]["net_value_sum_365d"] == 0


def test_what_is_told_late_counts_from_the_first_row_stamped_once_it_is_known(profiles):
    assert profiles.rows["told late"][0]["event_timestamp"] == datetime(2024, 4, 4, 22, tzinfo=UTC)
    assert profiles.rows["told later"][0]["event_timestamp"] == datetime(2024, 4, 5, 22, tzinfo=UTC)
    late = profiles.rows["told too late"][0]
    assert (late["event_timestamp"], late["stage"]) == (datetime(2025, 5, 5, 22, tzinfo=UTC), "lost")
    assert (late["purchase_days_count"], late["purchase_days_count_365d"], late["net_value_sum_365d"]) == (1, 0, 0)
    assert [row["event_timestamp"] for row in profiles.rows["told late"][-1:]] == [datetime(2025, 3, 30, 22, tzinfo=UTC)]


def test_orders_that_were_cancelled_or_corrected(profiles):
    assert "cancels all" not in profiles.rows
    assert profiles.changes("cancels", "purchase_days_count", "net_value_sum_365d")[0] == ("2024-04-02T00:00", 1, Decimal(60))
    assert [row[1] for row in profiles.changes("cancels", "purchase_days_count")] == [1]
    assert profiles.changes("corrected", "net_value_sum_365d")[0] == ("2024-04-05T00:00", Decimal(40))


def test_prices_are_those_of_priced_lines(profiles):
    mean = profiles.at("mean price", f"{after(D, 1)}T00:00")
    assert (mean["price_mean_365d"], mean["price_band"], mean["net_value_sum_365d"]) == (10.0, "middle", 35)
    for user in ("no price", "free"):
        row = profiles.at(user, f"{after(D, 1)}T00:00")
        assert (row["price_mean_365d"], row["price_band"], row["purchase_days_count"]) == (None, None, 1)
    assert profiles.at("50", f"{after(D, 1)}T00:00")["price_band"] == "premium"
    assert profiles.at("49.9999", f"{after(D, 1)}T00:00")["price_band"] == "middle"


def test_habits_are_local_times_with_enough_acts(profiles):
    def habits(user):
        row = profiles.at(user, "2024-04-08T00:00")
        return row["favourite_daypart"], row["favourite_week_part"]

    assert habits("night owl") == ("night", "weekend"), "03:30 of the night in which 02:30 does not exist"
    assert habits("tied") == ("evening", "weekday"), "two by night and two in the evening: the first as listed"
    assert habits("few") == (None, None), "a return is no act of shopping"
    assert habits("weekender") == ("afternoon", "weekend")
    assert habits("everyday") == ("afternoon", "weekday"), "as many a day, so no preference"


def test_interests_have_a_share_and_enough_acts_and_nothing_private(profiles):
    row = profiles.at("garden", f"{after(D, 1)}T00:00")
    assert row["interests"] == ["Sport", "Garten"], "3, 2, 1 and 1 of 7; what is in no category counts for none"
    assert (row["main_category"], row["main_category_share_90d"]) == ("Sport", 3 / 7)
    assert row["tags"][:4] == ["stage:new", "value:low", "interest:Sport", "interest:Garten"]
    assert profiles.changes("garden", "interests")[-1] == (f"{after(D, 91)}T00:00", [])
    assert {str(row["interests"]) + str(row["main_category"]) for row in profiles.rows["pills"]} == {"[]None"}
    assert profiles.at("no category", f"{after(D, 1)}T00:00")["main_category"] is None
    assert "interest:花园 🌱" in profiles.at("用户 ü'\"", f"{after(D, 1)}T00:00")["tags"]


def test_attributes_are_those_last_told_and_known(profiles):
    assert profiles.changes("told", "country", "language", "stage") == [
        ("2024-02-02T00:00", "DE", "de", "prospect"),
        ("2024-02-04T00:00", "AT", None, "prospect"),
    ]
    assert profiles.rows["told"][0]["tags"] == ["stage:prospect"]
    assert profiles.rows["of tomorrow"][0]["registered_at"] is None
    assert profiles.rows["of now"][0]["registered_at"] is not None


def test_nobody_unknown_has_a_profile(profiles):
    assert not [user for user in profiles.rows if user.startswith(("visitor:", "session:"))]


# -- the long way -----------------------------------------------------------------------------------------------------------


def long_way(acts: Sequence[Row], told: Sequence[Row], stamp: datetime, zone: ZoneInfo, rules: ProfileRules) -> Row | None:
    """The profile of one user as the shop knew it at `stamp`, by looking at every fact; None where it knew nothing."""

    def known(facts):
        return [fact for fact in facts if fact["event_timestamp"] < stamp and fact["created_timestamp"] <= stamp]

    def local(act):
        return act["event_timestamp"].astimezone(zone)

    def within(found, days):
        return [act for act in found if (today - local(act).date()).days < days]

    today = stamp.astimezone(zone).date() - timedelta(1)
    all_acts, all_told = known(acts), known(told)
    if not all_acts and not all_told:
        return None
    last_told = max(all_told, key=lambda row: (row["event_timestamp"], row["created_timestamp"]), default=None) or {}
    registered = last_told.get("registered_at")
    sales = [act for act in all_acts if act["event_type"] == "purchase"]
    days = sorted({local(act).date() for act in sales})
    year = within(all_acts, 365)
    lines, back = ([act for act in year if act["event_type"] == kind] for kind in ("purchase", "return"))
    frequency = len({local(act).date() for act in lines})
    net = sum((a["value"] or 0 for a in lines), Decimal(0)) - sum((a["value"] or 0 for a in back), Decimal(0))
    prices = [
        (a["value"] / a["quantity"]).quantize(Decimal("0.0001"), ROUND_HALF_UP) for a in lines if a["value"] and a["quantity"]
    ]
    shopping = [local(act) for act in year if act["event_type"] != "return"]
    parts = {"morning": (6, 12), "afternoon": (12, 18), "evening": (18, 24), "night": (0, 6)}
    counts = {name: sum(first <= at.hour < end for at in shopping) for name, (first, end) in parts.items()}
    weekend = sum(at.weekday() > 4 for at in shopping)
    has_habit = len(shopping) >= rules.least_acts

    turned = [a for a in known(a | {"created_timestamp": max(a["created_timestamp"], a["category_known"])} for a in acts)
              if a["category"] is not None and a["category"] not in rules.private_categories and a["event_type"] != "return"]  # fmt: skip
    weights: dict[str, int] = {}
    for act in within(turned, 90):
        weights[act["category"]] = weights.get(act["category"], 0) + (3 if act["event_type"] == "purchase" else 1)
    total = sum(weights.values())
    top = sorted(weights, key=lambda name: (-weights[name], name.encode()))[:3] if total >= rules.least_acts else []

    row: Row = {
        **{name: last_told.get(name) for name in ("country", "language")},
        "registered_at": registered if registered and registered <= last_told["event_timestamp"] else None,
        "first_seen_at": min((act["event_timestamp"] for act in all_acts), default=None),
        "last_seen_at": max((act["event_timestamp"] for act in all_acts), default=None),
        "active_days_count": len({local(act).date() for act in all_acts}),
        "first_purchase_at": min((act["event_timestamp"] for act in sales), default=None),
        "last_purchase_at": max((act["event_timestamp"] for act in sales), default=None),
        "purchase_days_count": len(days),
        "purchase_gap_days_mean": (days[-1] - days[0]).days / (len(days) - 1) if len(days) > 1 else None,
        "favourite_daypart": max(counts, key=counts.__getitem__) if has_habit else None,
        "favourite_week_part": ("weekday" if (len(shopping) - weekend) / 5 >= weekend / 2 else "weekend") if has_habit else None,
        "main_category": top[0] if top else None,
        "main_category_share_90d": weights[top[0]] / total if top else None,
        "interests": [name for name in top if weights[name] / total >= rules.interest_share],
        "price_mean_365d": float(sum(prices)) / len(prices) if prices else None,
        "price_band": None,
        "returns_share_365d": len(back) / len(lines) if lines else None,
        "purchase_days_count_365d": frequency,
        "net_value_sum_365d": net,
        **dict.fromkeys(("recency_score", "frequency_score", "monetary_score", "value_tier")),
        "stage": "prospect",
    }
    if prices:
        row["price_band"] = ("budget", "middle", "premium")[sum(row["price_mean_365d"] >= cut for cut in rules.price)]
    if days:
        since = (today - days[-1]).days
        row["recency_score"] = 1 + sum(since <= most for most in rules.recency_days)
        row["frequency_score"] = 1 + sum(frequency >= least for least in rules.frequency_days)
        row["monetary_score"] = 1 + sum(net >= least for least in rules.monetary_value)
        value = row["frequency_score"] + row["monetary_score"]
        row["value_tier"] = "high" if value >= rules.value_high else "middle" if value >= rules.value_middle else "low"
        own = math.ceil((days[-1] - days[0]).days / (len(days) - 1)) if len(days) > 2 else rules.rhythm_days
        rhythm = min(max(own, rules.rhythm_least_days), rules.rhythm_most_days)
        is_new = (today - days[0]).days < rules.new_days
        silent = {"lost": rules.lost_after, "dormant": rules.dormant_after, "at_risk": rules.at_risk_after}
        row["stage"] = next((s for s, times in silent.items() if since > times * rhythm), "new" if is_new else "active")
    tags = [f"stage:{row['stage']}", f"value:{row['value_tier']}", *(f"interest:{name}" for name in row["interests"])]
    tags += [f"price:{row['price_band']}", f"time:{row['favourite_daypart']}", f"week:{row['favourite_week_part']}"]
    if len(lines) >= rules.returns_lines and row["returns_share_365d"] >= rules.returns_share:
        tags.append("returns:often")
    return row | {"tags": [tag for tag in tags if not tag.endswith(":None")]}


def category_of(act: Row, catalog: Sequence[Row]) -> Row:
    """Category of an act's item when it was done, and when that was known."""
    spans = [row for row in catalog if row["item_id"] == act["item_id"] and row["event_timestamp"] <= act["event_timestamp"]]
    last = max(
        spans, key=lambda row: row["event_timestamp"], default={"category": None, "created_timestamp": act["created_timestamp"]}
    )
    return {"category": last["category"], "category_known": last["created_timestamp"]}


def world(seed: int, num_users: int, zone: ZoneInfo) -> tuple[list[Row], list[Row], list[Row]]:
    """Acts, catalogue and attributes of users with a few acts each over some 500 days, many of them at edges and told late."""
    chance = random.Random(seed)
    start = date(2024, 1, 20)
    names = ["Garten", "Möbel", "家", None, "Apotheke"]

    def moment(days=500):
        at = datetime.combine(start + timedelta(chance.randrange(days)), time(), zone).astimezone(UTC)
        return at + chance.choice([timedelta(), timedelta(microseconds=-1), timedelta(minutes=chance.randrange(1440))])

    def known(at):
        if chance.random() < 0.7:
            return at
        on = (at + timedelta(days=chance.choice([1, 3, 40, 100, 380]))).astimezone(zone).date()
        midnight = datetime.combine(on, time(), zone).astimezone(UTC)
        return max(at, midnight + timedelta(microseconds=chance.choice([-1, 0, 1])))

    catalog = []
    for n in range(6):
        for at in sorted({moment(300) if turn else datetime(2024, 1, 1, tzinfo=UTC) for turn in range(1 + n % 2)}):
            row = {
                "item_id": f"i{n}",
                "category": names[(n + len(catalog)) % 5],
                "event_timestamp": at,
                "created_timestamp": known(at),
            }
            catalog.append(complete(ITEM_CATALOG, row))
    acts, told = [], []
    for number in range(num_users):
        user = {"user_id": f"u{number}"}
        about = [moment(500 if number % 2 else 40) for _ in range(chance.randrange(1, 25))]
        for at in about:
            kind = chance.choice(["view", "cart", "purchase", "purchase", "return"])
            sale = {"quantity": chance.randint(1, 3), "value": chance.choice([None, 0, chance.randrange(1, 60_000) / 100])}
            row = {
                **user,
                "event_type": kind,
                "item_id": f"i{chance.randrange(7)}",
                "event_timestamp": at,
                "created_timestamp": known(at),
            }
            acts.append(row | (sale if kind in ("purchase", "return") else {}))
        for at in {moment() for _ in range(chance.randrange(3))}:
            more = {"country": chance.choice(["DE", "AT", None]), "registered_at": at + timedelta(chance.choice([-5, 0, 5]))}
            told.append(complete(USERS, {**user, **more, "event_timestamp": at, "created_timestamp": known(at)}))
    chance.shuffle(acts)
    return [complete(INTERACTIONS, row) for row in acts_of(acts)], catalog, told


@pytest.mark.parametrize(
    ("seed", "zone", "num_users"),
    [
        (1, ZoneInfo("America/Santiago"), 50),
        *[
            pytest.param(seed, zone, 400, marks=pytest.mark.soak)
            for seed, zone in enumerate((BERLIN, ZoneInfo("Asia/Shanghai")), 2)
        ],
    ],
)
def test_equals_the_long_way_at_every_midnight_of_random_worlds(spark, seed, zone, num_users):
    """A row where, and only where, the profile of a user differs from that of the midnight before.

    In Santiago the clocks change at midnight: one local day begins at 01:00.
    """
    rules = ProfileRules(
        private_categories=("Apotheke",), new_days=7, rhythm_days=12, rhythm_least_days=5, rhythm_most_days=40,
        recency_days=(5, 20, 60, 90), frequency_days=(2, 3, 4, 5), value_middle=4, value_high=6, returns_lines=2, least_acts=4,
    )  # fmt: skip
    acts, catalog, told = world(seed, num_users, zone)
    last_day = date(2025, 8, 20)
    frames = [make(spark, table, rows) for table, rows in ((INTERACTIONS, acts), (ITEM_CATALOG, catalog))]
    users = current(make(spark, USERS, told), USERS)
    rows = rows_of(transform(*frames, users, zone=zone.key, last_day=last_day, rules=rules))
    found = sorted(rows, key=lambda row: (row["user_id"], row["event_timestamp"]))

    seen = [act | category_of(act, catalog) for act in acts]
    expected = []
    for user in sorted({row["user_id"] for row in (*acts, *told)}):
        own = [[fact for fact in facts if fact["user_id"] == user] for facts in (seen, told)]
        before, day = None, date(2024, 1, 18)
        while day <= last_day:
            stamp = datetime.combine(day + timedelta(1), time(), zone).astimezone(UTC)
            row = long_way(*own, stamp, zone, rules)
            if row != before:
                expected.append({"user_id": user, **row, "event_timestamp": stamp, "created_timestamp": stamp})
            before, day = row, day + timedelta(1)
    assert len(found) > 20 * num_users
    assert found == expected
    vocabulary = {f"{family.name}:{value}" for family in FAMILIES for value in family.values}
    known_tags = vocabulary | {f"interest:{row['category']}" for row in catalog}
    assert {tag for row in found for tag in row["tags"]} <= known_tags - {"interest:Apotheke", "interest:None"}
    assert vocabulary - {tag for row in found for tag in row["tags"]} == {"interest:<category>"}
