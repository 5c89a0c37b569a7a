"""user_category_affinity: counts and shares as the long way finds them, with the category of the moment."""

from __future__ import annotations

from datetime import date, timedelta

from features.tables import INTERACTIONS, ITEM_CATALOG, USER_CATEGORY_AFFINITY
from features.windows import AFFINITY_SHARE_DAYS, AFFINITY_WINDOWS
from spark_jobs.user_category_affinity import transform

(COUNT,) = AFFINITY_WINDOWS


def test_equals_the_long_way_on_random_acts(frame, written, oracle, random_acts):
    acts, last_day, long_way = random_acts(8, 120), date(2024, 10, 20), oracle("Europe/Berlin")
    category = {"i0": "books", "i1": "shoes", "i2": "books", "i3": None}
    catalog = frame(
        ITEM_CATALOG,
        *[{"item_id": i, "category": c, "event_timestamp": "2024-01-01T00:00+00:00"} for i, c in category.items()],
    )
    rows = []
    for user in {a["user_id"] for a in acts}:
        own = [a for a in acts if a["user_id"] == user and category[a["item_id"]]]
        for name in {category[a["item_id"]] for a in own}:
            of_category = [a for a in own if category[a["item_id"]] == name]
            before: tuple = (dict.fromkeys(COUNT.columns, 0), 0.0)
            day = min(long_way.day(a["event_timestamp"]) for a in own)
            while day <= last_day:
                counts = long_way.values(AFFINITY_WINDOWS, of_category, day)
                total = long_way.value(COUNT, own, day, AFFINITY_SHARE_DAYS)
                share = counts[COUNT.column(AFFINITY_SHARE_DAYS)] / total if total else 0.0
                if (counts, share) != before:
                    known = max(long_way.known(of_category, day), long_way.known(own, day, AFFINITY_SHARE_DAYS))
                    keys = {"user_id": user, "category": name, "event_timestamp": long_way.stamp(day), "created_timestamp": known}
                    rows.append(keys | counts | {"affinity_share_30d": share})
                before, day = (counts, share), day + timedelta(1)
    found = written(transform(frame(INTERACTIONS, *acts), catalog, zone="Europe/Berlin", last_day=last_day), USER_CATEGORY_AFFINITY)
    key = lambda row: (row["user_id"], row["category"], row["event_timestamp"])  # noqa: E731
    assert sorted(found, key=key) == sorted(rows, key=key)


def test_the_category_is_the_one_at_the_time_of_the_act(frame, written):
    catalog = frame(
        ITEM_CATALOG,
        {"item_id": "a", "category": "old", "event_timestamp": "2024-05-01T00:00+00:00"},
        {"item_id": "a", "category": "new", "event_timestamp": "2024-05-03T12:00+00:00"},
    )
    view = {"user_id": "u", "session_id": "s", "item_id": "a", "event_type": "view"}
    times = ("2024-04-30T12:00+00:00", "2024-05-02T12:00+00:00", "2024-05-03T11:59+00:00", "2024-05-03T12:00+00:00")
    acts = frame(INTERACTIONS, *[{"interaction_id": at, "event_timestamp": at, **view} for at in times])
    rows = written(transform(acts, catalog, zone="UTC", last_day=date(2024, 5, 3)), USER_CATEGORY_AFFINITY)
    rows.sort(key=lambda row: row["event_timestamp"])
    last = {row["category"]: (row["interactions_count_7d"], row["affinity_share_30d"]) for row in rows}
    assert last == {"old": (2, 2 / 3), "new": (1, 1 / 3)}  # the first view fell before anything was known of the item
