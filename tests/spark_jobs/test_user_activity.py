"""user_activity: rows on exactly the days on which a window changes, equal to counting every day the long way."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from features.tables import INTERACTIONS, USER_ACTIVITY
from features.windows import USER_WINDOWS
from spark_jobs.user_activity import transform


def act(**row):
    return {"interaction_id": "n", "user_id": "u", "session_id": "s", "item_id": "i", "event_type": "view"} | row


def test_one_purchase_changes_values_on_the_day_and_when_it_leaves_each_window(frame, written, expected):
    acts = frame(INTERACTIONS, act(event_type="purchase", quantity=2, value=19.9, event_timestamp="2024-11-11T23:30+08:00"))
    found = written(transform(acts, zone="Asia/Shanghai", last_day=date(2025, 12, 31)), USER_ACTIVITY)

    def row(stamp, since, *, windows):
        named = {f.column(n): 0 for f in USER_WINDOWS for n in f.windows}
        named |= {f"purchases_count_{n}d": 1 for n in windows} | {f"order_value_sum_{n}d": 19.9 for n in windows}
        return {"user_id": "u", "event_timestamp": stamp, "days_since_last_purchase": since, **named}

    assert found == expected(
        USER_ACTIVITY,
        row("2024-11-12T00:00+08:00", 0, windows=(1, 7, 30, 90)),
        row("2024-11-13T00:00+08:00", 1, windows=(7, 30, 90)),
        row("2024-11-19T00:00+08:00", 7, windows=(30, 90)),
        row("2024-12-12T00:00+08:00", 30, windows=(90,)),
        row("2025-02-10T00:00+08:00", 90, windows=()),
    )


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Shanghai"])
def test_equals_the_long_way_on_random_acts(frame, written, oracle, random_acts, zone):
    acts, last_day, long_way = random_acts(3, 140), date(2024, 10, 20), oracle(zone)
    rows = []
    for user in {a["user_id"] for a in acts}:
        own = [a for a in acts if a["user_id"] == user]
        before = dict.fromkeys((name for f in USER_WINDOWS for name in f.columns), 0)
        day = min(long_way.day(a["event_timestamp"]) for a in own)
        while day <= last_day:
            values = long_way.values(USER_WINDOWS, own, day)
            if values != before:
                bought = [a for a in own if a["event_type"] == "purchase" and long_way.day(a["event_timestamp"]) <= day]
                last = max((long_way.day(a["event_timestamp"]) for a in bought), default=None)
                of_last = [a for a in own if last and long_way.day(a["event_timestamp"]) == last and a in bought]
                known = max([long_way.known(own, day), *[a["created_timestamp"] for a in of_last]])
                times = {"event_timestamp": long_way.stamp(day), "created_timestamp": known}
                rows.append({"user_id": user, **values, "days_since_last_purchase": (day - last).days if last else None, **times})
            before, day = values, day + timedelta(1)
    found = written(transform(frame(INTERACTIONS, *acts), zone=zone, last_day=last_day), USER_ACTIVITY)
    assert len(found) == len(rows)
    key = lambda row: (row["user_id"], row["event_timestamp"])  # noqa: E731
    assert sorted(found, key=key) == sorted(rows, key=key)


def test_days_of_23_and_25_hours(frame, written):
    acts = [
        act(interaction_id="a", event_timestamp="2024-03-31T00:10+01:00"),
        act(interaction_id="b", event_timestamp="2024-03-31T23:50+02:00"),
        act(interaction_id="c", user_id="v", event_timestamp="2024-10-27T00:10+02:00"),
        act(interaction_id="d", user_id="v", event_timestamp="2024-10-27T23:50+01:00"),
    ]
    rows = written(transform(frame(INTERACTIONS, *acts), zone="Europe/Berlin", last_day=date(2024, 10, 27)), USER_ACTIVITY)
    stamps = {(r["user_id"], r["event_timestamp"].isoformat()): r["item_views_count_1d"] for r in rows if r["item_views_count_1d"]}
    assert stamps == {("u", "2024-03-31T22:00:00+00:00"): 2, ("v", "2024-10-27T23:00:00+00:00"): 2}


def test_equal_in_and_out_on_one_day_is_no_change_of_that_window(frame, written):
    """A view every day: the 1-day count stays at 1, so once the 90-day window is full too there is nothing to say."""
    acts = [act(interaction_id=f"n{n}", event_timestamp=f"{date(2024, 1, 1) + timedelta(n)}T12:00+00:00") for n in range(120)]
    rows = written(transform(frame(INTERACTIONS, *acts), zone="UTC", last_day=date(2024, 4, 29)), USER_ACTIVITY)
    assert len(rows) == 90
    assert max(r["event_timestamp"].date() for r in rows) == date(2024, 3, 31)


def test_rows_stamped_after_the_clock_are_not_written(frame, written):
    acts = frame(INTERACTIONS, act(event_timestamp="2024-05-05T10:00+00:00"))
    assert written(transform(acts, zone="UTC", last_day=date(2024, 5, 4)), USER_ACTIVITY) == []
    assert len(written(transform(acts, zone="UTC", last_day=date(2024, 5, 5)), USER_ACTIVITY)) == 1


def test_money_stays_exact(frame, written):
    acts = [
        act(interaction_id=f"n{n}", event_type="purchase", quantity=1, value="0.1", event_timestamp="2024-05-05T10:00+00:00")
        for n in range(3)
    ]
    (row,) = written(transform(frame(INTERACTIONS, *acts), zone="UTC", last_day=date(2024, 5, 5)), USER_ACTIVITY)
    assert str(row["order_value_sum_1d"]) == "0.3000"


def test_no_acts_no_rows(frame, written):
    assert written(transform(frame(INTERACTIONS), zone="UTC", last_day=date(2024, 5, 5)), USER_ACTIVITY) == []
