"""item_activity: windowed values and different buyers as the long way counts them; rows for a new price too."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal

from features.tables import INTERACTIONS, ITEM_ACTIVITY, ITEM_CATALOG
from features.windows import ITEM_WINDOWS
from spark_jobs.item_activity import transform

NONE = {name: 0 for feature in ITEM_WINDOWS for name in feature.columns}


def test_equals_the_long_way_on_random_acts(frame, written, oracle, random_acts):
    acts, last_day, long_way = random_acts(5, 140), date(2024, 10, 20), oracle("Europe/Berlin")
    rows = []
    for item in {a["item_id"] for a in acts}:
        own = sorted((a for a in acts if a["item_id"] == item), key=lambda a: a["event_timestamp"])
        values, price, day = NONE, None, long_way.day(own[0]["event_timestamp"])
        while day <= last_day:
            new = long_way.values(ITEM_WINDOWS, own, day)
            paid = [a for a in own if a["event_type"] == "purchase" and a["value"] and long_way.day(a["event_timestamp"]) <= day]
            last = (paid[-1]["value"] / paid[-1]["quantity"]).quantize(Decimal("0.0001"), ROUND_HALF_UP) if paid else None
            if (new, last) != (values, price):
                known = max([long_way.known(own, day), *[a["created_timestamp"] for a in paid[-1:]]])
                times = {"event_timestamp": long_way.stamp(day), "created_timestamp": known}
                rows.append({"item_id": item, **new, "price_last": last, **times})
            values, price, day = new, last, day + timedelta(1)
    found = written(
        transform(frame(INTERACTIONS, *acts), frame(ITEM_CATALOG), zone="Europe/Berlin", last_day=last_day), ITEM_ACTIVITY
    )
    key = lambda row: (row["item_id"], row["event_timestamp"])  # noqa: E731
    assert sorted(found, key=key) == sorted(rows, key=key)


def test_one_buyer_who_comes_back_counts_once_per_window(frame, written):
    days = (date(2024, 5, 1), date(2024, 5, 3), date(2024, 5, 10))
    acts = [
        {"interaction_id": str(day), "user_id": "u", "session_id": "s", "item_id": "a", "event_type": "purchase", "quantity": 1,
         "value": 5, "event_timestamp": f"{day}T12:00+00:00"}
        for day in days
    ]  # fmt: skip
    rows = written(
        transform(frame(INTERACTIONS, *acts), frame(ITEM_CATALOG), zone="UTC", last_day=date(2024, 5, 31)), ITEM_ACTIVITY
    )
    buyers = {(r["event_timestamp"].date() - timedelta(1)).day: (r["buyers_count_1d"], r["buyers_count_7d"]) for r in rows}
    assert buyers[1] == (1, 1)
    assert buyers[2] == (0, 1)
    assert buyers[8] == (0, 1)  # the first purchase left the 7 days, the second is inside
    assert buyers[10] == (1, 1)  # the second leaves and the third enters
    assert buyers[17] == (0, 0)


def test_a_new_list_price_is_a_change(frame, written, expected):
    catalog = frame(
        ITEM_CATALOG,
        {"item_id": "a", "price": 10, "event_timestamp": "2024-05-01T08:00+08:00"},
        {"item_id": "a", "price": 10, "event_timestamp": "2024-05-02T08:00+08:00"},
        {"item_id": "a", "price": 8, "event_timestamp": "2024-05-04T08:00+08:00", "created_timestamp": "2024-05-09T00:00+08:00"},
    )
    found = written(transform(frame(INTERACTIONS), catalog, zone="Asia/Shanghai", last_day=date(2024, 5, 31)), ITEM_ACTIVITY)
    late = {"created_timestamp": "2024-05-09T00:00+08:00"}
    assert found == expected(
        ITEM_ACTIVITY,
        {"item_id": "a", **NONE, "price_last": 10, "event_timestamp": "2024-05-02T00:00+08:00"},
        {"item_id": "a", **NONE, "price_last": 8, "event_timestamp": "2024-05-05T00:00+08:00", **late},
    )
