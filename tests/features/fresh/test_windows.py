"""Windows of days that are over say what a build of all that was told would say, whatever was built so far and in which order it came."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from features.columns import EVENT_TIMESTAMP, VISITOR_PREFIX
from features.days import day_number
from features.definitions import OURS, Definitions
from features.fresh.facts import EVENT_CONTRACT
from features.fresh.intake import Intake
from features.fresh.windows import MOST_DAYS, BuiltTo, DaySums, forward
from features.online.rows import Rows, open_rows
from features.services import Service
from features.shop import Shop
from features.store import FeatureStore
from features.tables import EVENTS, INTERACTIONS, ORDERS, USER_ACTIVITY
from features.views import VIEWS
from features.windows import USER_WINDOWS
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings

PEOPLE = ("u", "w", f"{VISITOR_PREFIX}v")
COLUMNS = [name for feature in USER_WINDOWS for name in feature.columns]
ACTIVITY = VIEWS["user_activity"]
DEFINITIONS = Definitions(OURS.tables, {ACTIVITY.name: ACTIVITY}, {"activity": Service("activity", (ACTIVITY,))})
KINDS = ("view", "click", "cart", "favourite", "purchase", "return", "impression", "search")
Row = dict[str, Any]


@dataclass
class Running:
    """A shop that is told events, built by brute force, materialised and read, at a clock of ours."""

    settings: Settings
    rows: Rows
    zone: ZoneInfo
    now: datetime
    told: dict[str, Row] = field(default_factory=dict)
    """Event id -> what was told of it last."""

    def __post_init__(self) -> None:
        self.shop = Shop(name="sample", currency="EUR", time_zone=self.zone.key)
        self.lake = Lake.open(self.settings)
        Home(self.settings).create()
        self.intake = Intake(self.settings, self.shop, self.lake, self.rows, "wall", lambda: self.now)
        self.store = FeatureStore(self.settings, self.shop, self.lake, DEFINITIONS)
        self.store.__dict__["rows"] = self.rows

    def at(self, day: date, hours: float = 12) -> datetime:
        """An instant of a local day, so long after its beginning."""
        return datetime.combine(day, time(), self.zone).astimezone(UTC) + timedelta(hours=hours)

    def tell(self, *events: Row) -> None:
        told = [{**event, EVENT_TIMESTAMP: event[EVENT_TIMESTAMP].isoformat()} for event in events]
        (receipt,) = self.intake.take([EVENT_CONTRACT.read(told, "http", "r", self.now)])
        assert receipt.quarantined == ()
        self.told |= {event["event_id"]: event for event in events}

    @property
    def last_day(self) -> date:
        return self.now.astimezone(self.zone).date() - timedelta(1)

    def build(self) -> None:
        """Tables as a build at this moment makes them of what was told, and commits that say what such a build says."""
        self.intake.drain()
        horizon = {"last_day": str(self.last_day), "time_zone": self.zone.key, "basis": "test", "common": {}}
        versions: dict[str, int | None] = {EVENTS.path: self.lake.version(EVENTS.path), ORDERS.path: self.lake.version(ORDERS.path)}
        for table, rows in ((INTERACTIONS, []), (USER_ACTIVITY, self.expected_rows())):
            inputs = {path: version for path, version in versions.items() if version is not None}
            content = pa.Table.from_pylist(rows, schema=table.schema)
            versions = {table.path: self.write(table.path, content, {"inputs": inputs, **horizon})}

    def write(self, path: str, content: pa.Table, metadata: Mapping[str, Any]) -> int:
        nothing = pa.nulls(content.num_rows, pa.string())
        content = content.append_column("retracted", nothing) if path.startswith("features/") else content
        before = self.lake.version(path)
        commit = self.lake.write(path, content, "overwrite", digest=uuid4().hex, read_version=before, metadata=dict(metadata))
        return commit.version

    def acts(self) -> dict[str, list[tuple[date, str, Decimal]]]:
        """Person -> local day, type and value of each act, as the events of now say it."""
        logins = sorted((e[EVENT_TIMESTAMP], e["event_id"], e["user_id"]) for e in self.told.values() if e["event_type"] == "login")
        found = defaultdict(list)
        for event in self.told.values():
            at = event[EVENT_TIMESTAMP]
            joined = [user for since, _, user in logins if since <= at]
            name = event.get("user_id") or (joined[-1] if joined else VISITOR_PREFIX + event["visitor_id"])
            value = Decimal(str(event.get("price", 0))) * abs(event.get("quantity", 1))
            found[name].append((at.astimezone(self.zone).date(), event["event_type"], value))
        return found

    def values(self, acts: list[tuple[date, str, Decimal]], day: date) -> Row:
        """Every window, the long way."""
        found: Row = {}
        for feature in USER_WINDOWS:
            for length in feature.windows:
                inside = [a for a in acts if a[1] in feature.event_types and 0 <= (day - a[0]).days < length]
                found[feature.column(length)] = sum(a[2] for a in inside) if feature.aggregate == "sum" else len(inside)
        return found

    def expected_rows(self) -> list[Row]:
        """A row per person and day on which a value changes, up to the last day that is over."""
        rows = []
        for name, acts in self.acts().items():
            before, day = self.values([], date.min), min(act[0] for act in acts)
            while day <= self.last_day:
                if (values := self.values(acts, day)) != before:
                    bought = max((act[0] for act in acts if act[1] == "purchase" and act[0] <= day), default=None)
                    times = dict.fromkeys(("event_timestamp", "created_timestamp"), self.at(day + timedelta(1), 0))
                    since = None if bought is None else (day - bought).days
                    rows.append({"user_id": name, **values, "days_since_last_purchase": since, **times})
                before, day = values, day + timedelta(1)
        return rows

    def read(self) -> dict[str, Row]:
        found = self.store.online_rows("activity", {"user_id": list(PEOPLE)}, self.now)
        return {name: {column: values[i] for column, values in found.items()} for i, name in enumerate(PEOPLE)}

    def built(self) -> dict[str, Row]:
        """What is read once all was built and materialised; a store of its own, which nothing was told."""
        self.build()
        with tempfile.TemporaryDirectory() as folder:
            other = FeatureStore(Settings.load(home=Path(folder)), self.shop, self.lake, DEFINITIONS)
            other.materialize(self.now)
            found = other.online_rows("activity", {"user_id": list(PEOPLE)}, self.now)
        return {name: {column: values[i] for column, values in found.items()} for i, name in enumerate(PEOPLE)}

    def materialize(self) -> None:
        self.build()
        self.store.materialize(self.now)


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.engines)])
def running(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Running]:
    zone, noon = ZoneInfo("Europe/Berlin"), datetime(2024, 5, 1, 10, tzinfo=UTC)
    if request.param == "redis":
        from features.online.redis import RedisRows

        yield Running(settings, RedisRows(request.getfixturevalue("redis_url"), f"s{uuid4().hex}"), zone, noon)
        return
    yield Running(settings, open_rows(settings, "sample"), zone, noon)


def act(number: int, at: datetime, kind: str = "view", **more: Any) -> Row:
    who = {} if more.keys() & {"user_id", "visitor_id"} else {"user_id": "u"}
    return {"event_id": f"e{number}", "event_type": kind, "item_id": "i", EVENT_TIMESTAMP: at, **who, **more}


def told_and_built_agree(running: Running) -> dict[str, Row]:
    read = running.read()
    assert read == running.built()
    return read


def test_acts_count_once_their_day_is_over(running: Running) -> None:
    running.tell(act(0, running.now))
    running.now += timedelta(days=1)
    running.materialize()
    assert running.read()["u"]["item_views_count_7d"] == 1
    running.tell(act(1, running.now), act(2, running.now, "purchase", price=19.99, quantity=3), act(1, running.now))
    assert running.read()["u"]["item_views_count_7d"] == 1, "today is not over"
    running.now = running.at(running.last_day + timedelta(2), 0) - timedelta(microseconds=1)
    assert running.read()["u"]["item_views_count_7d"] == 1
    running.now += timedelta(microseconds=1)
    read = told_and_built_agree(running)["u"]
    assert (read["item_views_count_1d"], read["item_views_count_7d"], read["order_value_sum_30d"]) == (1, 2, 59.97)
    assert (read["days_since_last_purchase"], read["user_activity__event_timestamp"]) == (0, running.now)


def test_what_falls_out_of_a_window_is_gone_while_nobody_builds_until_the_row_expires(running: Running) -> None:
    running.tell(act(1, running.now, "purchase", price=5), act(2, running.now - timedelta(days=3)))
    running.now += timedelta(days=1)
    running.materialize()
    seen = set()
    for _ in range(215):
        running.now += timedelta(days=1)
        read = running.read()["u"]
        seen.add((read["purchases_count_1d"], read["purchases_count_7d"], read["purchases_count_30d"], read["purchases_count_90d"]))
    assert seen == {(0, 1, 1, 1), (0, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0), (None, None, None, None)}


def test_a_person_of_today_has_a_row_tomorrow(running: Running) -> None:
    running.tell(act(0, running.now, user_id="w"))
    running.now += timedelta(days=1)
    running.materialize()
    running.tell(act(1, running.now))
    assert running.read()["u"]["item_views_count_1d"] is None
    running.now += timedelta(days=1)
    assert told_and_built_agree(running)["u"]["item_views_count_1d"] == 1


def test_what_comes_late_for_a_day_that_was_built_counts_and_is_counted_once(running: Running) -> None:
    running.tell(act(0, running.now))
    running.now += timedelta(days=2)
    running.materialize()
    running.tell(act(1, running.now - timedelta(days=1), "purchase", price=3), act(0, running.now - timedelta(days=1), "cart"))
    read = told_and_built_agree(running)["u"]
    assert (read["item_views_count_7d"], read["item_carts_count_7d"], read["purchases_count_1d"]) == (0, 1, 1)
    running.materialize()
    assert running.read()["u"] == read


def test_a_login_that_is_told_late_takes_what_the_visitor_did(running: Running) -> None:
    for number in range(5):
        running.tell(act(number, running.now, visitor_id="v"))
        running.now += timedelta(days=1)
        if number == 2:
            running.materialize()
    login = {"event_type": "login", "user_id": "w", "visitor_id": "v"}
    running.tell({"event_id": "l", **login, EVENT_TIMESTAMP: running.now - timedelta(days=4, hours=1)})
    read, built = running.read(), running.built()
    assert read["w"] == built["w"]
    name = f"{VISITOR_PREFIX}v"  # its row of the day that was built stands, with what it says now
    assert [read[name][column] for column in COLUMNS] == [built[name][column] for column in COLUMNS]
    assert (read["w"]["item_views_count_30d"], read[name]["item_views_count_30d"]) == (4, 1)


def test_orders_tell_the_purchases_where_there_are_any_and_the_windows_go_on(running: Running) -> None:
    running.tell(act(0, running.now))
    running.now += timedelta(days=1)
    running.lake.write(ORDERS.path, ORDERS.schema.empty_table(), "append", digest="orders")
    running.intake.applied._look_at = 0.0
    running.tell(act(1, running.now, "purchase", price=1), act(2, running.now, "return"))
    running.now += timedelta(hours=1)
    running.materialize()
    running.now += timedelta(days=1)
    read = running.read()["u"]
    assert (read["purchases_count_7d"], read["returns_count_7d"], read["item_views_count_1d"]) == (0, 0, 0)


def test_rows_of_tables_that_do_not_say_what_they_are_of_are_read_as_they_are(running: Running) -> None:
    row = {"user_id": "u", **dict.fromkeys(COLUMNS, 1), "event_timestamp": running.now, "created_timestamp": running.now}
    running.write(USER_ACTIVITY.path, pa.Table.from_pylist([row], schema=USER_ACTIVITY.schema), {})
    running.store.materialize(running.now)
    running.now += timedelta(days=1)
    running.tell(act(1, running.now - timedelta(days=1)))
    assert running.read()["u"]["item_views_count_1d"] == 1


def test_of_a_person_who_sends_without_end_the_oldest_late_acts_go(running: Running) -> None:
    running.tell(act(0, running.now))
    running.now += timedelta(days=1)
    running.materialize()
    yesterday = running.now - timedelta(days=1)
    running.tell(*(act(n, yesterday) for n in range(1, MOST_DAYS + 50)))
    running.now += timedelta(hours=1)
    assert running.read()["u"]["item_views_count_7d"] == 1 + MOST_DAYS


days_back = st.sampled_from([0, 0, 0, 1, 2, 8, 31, 95])
tells = st.tuples(st.just("tell"), st.integers(0, 8), st.sampled_from(KINDS), st.integers(0, 100), days_back)
logins = st.tuples(st.just("login"), st.sampled_from(["u", "w"]), st.sampled_from([0, 0, 1, 3, 40]))
waits = st.tuples(st.just("wait"), st.sampled_from([0.2, 0.5, 1, 1, 1, 2, 6, 7, 23, 30, 60]))
steps = st.lists(st.one_of(tells, logins, st.just(("build",)), waits), min_size=4, max_size=30)


@profile(max_examples=30, deadline=None)
@given(steps, st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Shanghai", "Africa/Cairo"]), st.booleans())
def test_whatever_happens_in_any_order_the_read_is_what_a_build_says(steps: list[Any], zone: str, early: bool) -> None:
    """Ids are few, so that many events are corrections; clocks change in the weeks that are drawn."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(home=Path(folder))
        start = datetime(2024, 3, 8 if early else 27, 9, tzinfo=UTC)
        running = Running(settings, open_rows(settings, "sample"), ZoneInfo(zone), start)
        running.tell(act(99, start))
        running.now += timedelta(days=1)
        running.materialize()
        for number, (step, *more) in enumerate(steps):
            if step == "tell":
                name, kind, what, days = more
                who = {"visitor_id": "v"} if what % 3 == 0 else {"user_id": "uw"[what % 2]}
                at = running.now - timedelta(days=days, hours=what % 24)
                price = number + what / 100  # no two contents are equal: the second would be a duplicate
                running.tell(act(name, at, kind, price=price, quantity=what % 4, **who))
            elif step == "login":
                user, days = more
                login = {"event_type": "login", "user_id": user, "visitor_id": "v"}
                running.tell(
                    {"event_id": f"l{number}", **login, EVENT_TIMESTAMP: running.now - timedelta(days=days, minutes=number)}
                )
            elif step == "build":
                running.materialize()
            else:
                running.now += timedelta(days=more[0])
        running.now += timedelta(days=1)
        read, built = running.read(), running.built()
        for name in PEOPLE:
            # a row that was built stands, also where nothing is left to tell of its day: its time is that of tables built in steps
            wanted = {c: (built[name][c] or 0) for c in COLUMNS}
            assert {c: (read[name][c] or 0) for c in COLUMNS} == wanted, name
            if read[name][EVENT_ROW] == built[name][EVENT_ROW]:
                assert read[name] == built[name], name


EVENT_ROW = "user_activity__event_timestamp"

day_sums = st.lists(st.tuples(st.integers(0, 250), st.integers(1, 3), st.sampled_from([1, 7, 10_000, 333])), max_size=25)


@profile(max_examples=300, deadline=None)
@given(day_sums, st.integers(100, 250), st.integers(0, 130))
def test_values_and_the_day_of_the_last_change_equal_counting_every_day(
    acts: list[tuple[int, int, int]], last: int, more: int
) -> None:
    """Each act adds to every feature; those up to the day `last` are built, those after it told."""
    first, width = day_number(date(2024, 1, 1)), len(USER_WINDOWS)
    sums = [DaySums(first + day, 0, (count,) * (width - 1) + (amount,)) for day, count, amount in acts]
    to = BuiltTo(first + last, 5, ZoneInfo("UTC"))
    built = [one for one in sums if to.day - 90 < one.day <= to.day]
    told = [one for one in sums if one.day > to.day]
    day = to.day + more
    found = forward(built, None, told, to, day)

    def windows(day: int) -> list[Any]:
        inside = [[s.amounts for s in sums if day - length < s.day <= day] for length in (1, 7, 30, 90)]
        return [(sum(a[0] for a in of), sum(a[-1] for a in of) / 10_000) for of in inside]

    if found is None:
        assert more == 0
        return
    said = [(found.values[USER_WINDOWS[0].column(n)], found.values[USER_WINDOWS[-1].column(n)]) for n in (1, 7, 30, 90)]
    assert said == windows(day)
    changes = [d for d in range(to.day + 1, day + 1) if windows(d) != windows(d - 1)]
    assert found.changed == max(changes, default=None)
