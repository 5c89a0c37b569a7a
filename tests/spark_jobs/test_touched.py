"""Which keys a build computes anew: those that new facts speak of, and those of whom time alone makes a row."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from features.profiles import ProfileRules
from features.revisions import REVISED
from features.tables import INTERACTIONS, ITEM_CATALOG, USER_ACTIVITY, USER_HISTORY, USER_PROFILE, USER_PURCHASES, USERS
from features.windows import WINDOWS_DAYS
from spark_jobs.job import FIRST, Inputs, Scope
from spark_jobs.jobs import JOBS
from spark_jobs.raw import current
from spark_jobs.revisions import TAKEN
from spark_jobs.touched import Change, touched_keys
from tests.spark_jobs.conftest import complete

LAST = date(2024, 6, 30)


@pytest.mark.parametrize(
    ("table", "kind", "reach_days"),
    [(USER_ACTIVITY, "view", (0, *WINDOWS_DAYS)), (USER_HISTORY, "view", (0,)), (USER_PURCHASES, "purchase", (0,))],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("num_days", [1, 3])
def test_time_alone_touches_whoever_gets_a_row_and_nobody_else(frame, written, lake, spark, table, kind, reach_days, num_days):
    """One user per age of their only act; the table was built for all but the last days."""
    built, job = LAST - timedelta(num_days), JOBS[table.name]
    noons = [f"{LAST - timedelta(age)}T12:00+02:00" for age in range(100)]
    acts = [
        {
            "interaction_id": "n",
            "user_id": f"u{age}",
            "session_id": "s",
            "item_id": "i",
            "event_type": kind,
            "event_timestamp": noon,
        }
        for age, noon in enumerate(noons)
    ]
    inputs = Inputs({INTERACTIONS.path: frame(INTERACTIONS, *acts)}, "Europe/Berlin", (), LAST)
    touched = touched_keys(spark, lake, job.scope, (), inputs, frame(table), built).select("user_id", FIRST).collect()

    def users_until(day: date) -> set[str]:
        return {(row["user_id"], row["event_timestamp"]) for row in written(job.run(replace(inputs, last_day=day)), table)}

    due = {user for user, _ in users_until(LAST) - users_until(built)}
    assert {row["user_id"] for row in touched} == due
    assert due == {f"u{age}" for reach in reach_days for age in range(100) if age - num_days < reach <= age}
    assert all(built < row[FIRST] <= LAST for row in touched)


def test_whoever_gets_a_row_of_a_profile_is_touched(frame, written, lake, spark, random_acts):
    """Acts, turns of a stage and categories that became known late, day by day."""
    job = JOBS[USER_PROFILE.name]
    rules = ProfileRules(recency_days=(3, 10, 30, 60), rhythm_days=8, rhythm_least_days=5, rhythm_most_days=20, new_days=6)
    catalog = [
        {"item_id": f"i{n}", "category": category, "event_timestamp": "2024-01-01T00:00+00:00", "created_timestamp": known}
        for n, (category, known) in enumerate([("a", "2024-01-01T00:00+00:00"), ("b", "2024-06-10T12:00+00:00"), ("c", None)])
    ]
    told = [
        {
            "user_id": "u1",
            "country": "DE",
            "event_timestamp": "2024-03-01T12:00+00:00",
            "created_timestamp": "2024-06-12T12:00+00:00",
        }
    ]
    inputs = Inputs(
        {
            INTERACTIONS.path: frame(INTERACTIONS, *random_acts(5, 60)).persist(),
            ITEM_CATALOG.path: frame(ITEM_CATALOG, *catalog),
            USERS.path: current(frame(USERS, *told), USERS),
        },
        "Europe/Berlin",
        (),
        LAST,
        rules,
    )
    rows = written(job.run(inputs), USER_PROFILE)
    num_due = 0
    for age in range(0, 30, 2):
        last = LAST - timedelta(age)
        built = last - timedelta(1)
        stamp = datetime.combine(last + timedelta(1), time(), ZoneInfo("Europe/Berlin"))
        due = {row["user_id"] for row in rows if row["event_timestamp"] == stamp}
        touched = touched_keys(spark, lake, job.scope, (), replace(inputs, last_day=last), frame(USER_PROFILE), built).collect()
        assert due <= {row["user_id"] for row in touched}, last
        num_due += len(due)
    assert num_due > 15


@pytest.mark.parametrize(
    ("corrected", "is_taken"),
    [
        ({"quantity": 9}, False),
        ({"quantity": None}, True),
        ({"event_type": "favourite"}, True),
        ({"user_id": "u2"}, True),
        ({"session_id": "s2"}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_correction_that_may_take_a_fact_from_a_row_says_when_it_was_known(frame, lake, spark, corrected, is_taken):
    act = {"interaction_id": "e", "user_id": "u1", "session_id": "s1", "item_id": "i", "event_type": "view", "quantity": 2}
    act |= {"event_timestamp": "2024-06-10T10:00+00:00"}
    for revised, row in enumerate([act, act | {"created_timestamp": "2024-06-25T10:00+00:00"} | corrected]):
        rows = pa.Table.from_pylist([complete(INTERACTIONS, row)], schema=INTERACTIONS.stored_schema)
        lake.write(INTERACTIONS.path, rows, "append", digest=str(revised), metadata={REVISED: revised})
    change = Change(INTERACTIONS, 0, 1, lake.added_files(INTERACTIONS.path, 0, 1))
    whole = Inputs({INTERACTIONS.path: frame(INTERACTIONS)}, "UTC", (), LAST)
    scope = Scope("user_id", reach_days=())
    touched = touched_keys(spark, lake, scope, [change], whole, frame(USER_HISTORY), LAST).collect()
    (of_user,) = [row for row in touched if row["user_id"] == "u1"]
    known = [[taken["since"].day, taken["known"].day] for taken in of_user[TAKEN]]
    assert (of_user[FIRST], known) == (date(2024, 6, 10), [[11, 25]] if is_taken else [])  # a row is stamped when its day is over
