"""Local days: 23:30 falls on its own day, days of 23 and 25 hours, midnights that do not exist or come twice."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pyspark.sql import functions as F

from spark_jobs.days import first_instant, local_day, stamp


@pytest.mark.parametrize(
    ("instant", "zone", "day"),
    [
        ("2024-11-11T23:30:00+08:00", "Asia/Shanghai", "2024-11-11"),
        ("2024-11-11T23:59:59.999999+08:00", "Asia/Shanghai", "2024-11-11"),
        ("2024-11-12T00:00:00+08:00", "Asia/Shanghai", "2024-11-12"),
        ("2024-03-31T23:30:00+02:00", "Europe/Berlin", "2024-03-31"),
        ("2024-03-31T00:30:00+01:00", "Europe/Berlin", "2024-03-31"),
        ("2024-10-27T23:30:00+01:00", "Europe/Berlin", "2024-10-27"),
        ("2024-10-27T00:30:00+02:00", "Europe/Berlin", "2024-10-27"),
    ],
)
def test_an_instant_falls_on_its_local_day(spark, instant, zone, day):
    frame = spark.createDataFrame([(datetime.fromisoformat(instant),)], "at timestamp")
    assert frame.select(local_day(F.col("at"), zone)).first()[0] == date.fromisoformat(day)


@pytest.mark.parametrize(
    "zone", ["Asia/Shanghai", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Pacific/Apia", "Australia/Lord_Howe", "UTC"]
)
def test_first_instants_are_where_the_day_begins_all_year_round(spark, zone):
    """Oracle: the first quarter of an hour, in UTC, that has the local date; years with midnight jumps in these zones."""
    begins: dict[date, datetime] = {}
    at = datetime(2010, 12, 30, tzinfo=UTC)
    while at < datetime(2014, 1, 3, tzinfo=UTC):
        begins.setdefault(at.astimezone(ZoneInfo(zone)).date(), at)
        at += timedelta(minutes=15)
    days = sorted(begins)[1:]  # the first one began before we looked
    frame = spark.createDataFrame([(day,) for day in days], "day date")
    rows = frame.select(
        "day", first_instant(F.col("day"), zone).alias("at"), stamp(F.date_sub("day", 1), zone).alias("stamp")
    ).collect()
    wrong = [(row.day, row.at, begins[row.day]) for row in rows if row.at.astimezone(UTC) != begins[row.day]]
    assert not wrong
    assert all(row.at == row.stamp for row in rows)
