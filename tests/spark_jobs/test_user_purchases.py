"""user_purchases: what was bought on which local day, oldest first, per day with a purchase."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from features.columns import PURCHASES_KEPT
from features.tables import INTERACTIONS, USER_PURCHASES
from spark_jobs.user_purchases import transform


def purchase(number, at, **row):
    return {"interaction_id": f"{number:04}", "user_id": "u", "session_id": "s", "item_id": f"i{number}", "event_type": "purchase",
            "event_timestamp": at} | row  # fmt: skip


def test_the_whole_frame(frame, written, expected):
    acts = frame(
        INTERACTIONS,
        purchase(2, "2024-05-01T23:30+02:00"),
        purchase(1, "2024-05-01T10:00+02:00"),
        purchase(3, "2024-05-01T11:00+02:00", item_id="i1", created_timestamp="2024-05-08T00:00+02:00"),  # told late, no news
        purchase(4, "2024-05-02T10:00+02:00", event_type="view"),
        purchase(5, "2024-05-03T00:00+02:00", item_id="i1", created_timestamp="2024-05-09T00:00+02:00"),
        purchase(6, "2024-05-03T10:00+02:00", user_id="v", event_type="return"),
        purchase(7, "2024-05-04T10:00+02:00", user_id="v"),  # a day that is not over
    )
    found = written(transform(acts, zone="Europe/Berlin", last_day=date(2024, 5, 3)), USER_PURCHASES)
    assert found == expected(
        USER_PURCHASES,
        {"user_id": "u", "purchase_item_ids": ["i1", "i2"], "purchase_dates": ["2024-05-01"] * 2,
         "event_timestamp": "2024-05-02T00:00+02:00"},
        {"user_id": "u", "purchase_item_ids": ["i1", "i2", "i1"], "purchase_dates": ["2024-05-01", "2024-05-01", "2024-05-03"],
         "event_timestamp": "2024-05-04T00:00+02:00", "created_timestamp": "2024-05-09T00:00+02:00"},
    )  # fmt: skip


def test_only_the_last_ones_are_kept_however_they_fall_on_days(frame, written):
    start = datetime(2024, 5, 1, tzinfo=UTC)
    few, many = PURCHASES_KEPT - 10, 2 * PURCHASES_KEPT
    acts = [purchase(n, start + timedelta(seconds=n)) for n in range(few)]
    acts += [purchase(n, start + timedelta(days=1, seconds=n)) for n in range(few, few + 20)]
    acts += [purchase(n, start + timedelta(days=2, seconds=n)) for n in range(1000, 1000 + many)]
    rows = written(transform(frame(INTERACTIONS, *acts), zone="UTC", last_day=date(2024, 5, 31)), USER_PURCHASES)
    by_day = [
        (few, "2024-05-01", range(few)),
        (20, "2024-05-02", range(few, few + 20)),
        (many, "2024-05-03", range(1000, 1000 + many)),
    ]
    bought = [(day, f"i{n}") for _, day, numbers in by_day for n in numbers]
    for place, row in enumerate(rows):
        until = sorted(one for one in bought if one[0] <= by_day[place][1])
        assert list(zip(row["purchase_dates"], row["purchase_item_ids"], strict=True)) == until[-PURCHASES_KEPT:]
    assert len(rows) == 3
