"""The bucket holds a rate whatever the clock does; the counts lose nothing between the threads."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.limits import Bucket, DayCounts


def taken(bucket: Bucket, now: float) -> int:
    """How many may go at that instant."""
    count = 0
    while not bucket.wait_s(now):
        bucket.take()
        count += 1
    return count


def test_a_second_is_kept_and_comes_back_steadily() -> None:
    bucket = Bucket(10, now=100)
    assert taken(bucket, 100) == 10
    assert bucket.wait_s(100) == pytest.approx(0.1)
    assert taken(bucket, 100.25) == 2
    assert taken(bucket, 1000) == 10  # no more than a second's worth is kept


def test_less_than_one_a_second_is_one_after_a_while() -> None:
    bucket = Bucket(0.25, now=0)
    assert taken(bucket, 0) == 1
    assert bucket.wait_s(1) == pytest.approx(3)
    assert taken(bucket, 4) == 1


@given(st.floats(0.05, 1e6), st.lists(st.floats(0, 5), max_size=50))
def test_no_more_goes_than_the_rate_and_a_second_allow(rate: float, pauses: list[float]) -> None:
    now, went = 50.0, 0
    bucket = Bucket(rate, now)
    for pause in pauses:
        now += pause
        if not bucket.wait_s(now):
            bucket.take()
            went += 1
    assert went <= max(rate, 1) + rate * (now - 50) + 1e-3


def test_who_waits_as_long_as_is_said_gets_a_token() -> None:
    bucket, now = Bucket(3, now=0), 0.0
    for _ in range(1000):
        now += bucket.wait_s(now)
        assert bucket.wait_s(now) == 0
        bucket.take()
    assert now == pytest.approx((1000 - 3) / 3, abs=1e-3)


def test_counts_are_told_once_and_lost_never() -> None:
    """One thread counts, another tells, and every third time the database is away."""
    counts, told, rounds = DayCounts(), Counter[tuple[str, int]](), 0
    is_done = threading.Event()

    def count() -> None:
        for _ in range(20_000):
            counts.add("a", 1)
        is_done.set()

    thread = threading.Thread(target=count)
    thread.start()
    while True:
        is_last = is_done.is_set()
        untold = counts.take_untold()
        rounds += 1
        if rounds % 3 == 0 and not is_last:
            counts.keep(untold)
        else:
            told.update(untold)
            counts.know({"a": told["a", 1]}, 1)
        if is_last:
            break
    thread.join()
    assert told["a", 1] == counts.of("a", 1) == 20_000


def test_what_others_told_counts_and_days_stand_apart() -> None:
    counts = DayCounts()
    counts.add("a", 1)
    untold = counts.take_untold()
    counts.add("a", 1)
    counts.add("a", 2)  # the day ended while the database was asked
    assert counts.of("a", 1) == 2
    counts.know({"a": 10, "b": 5}, 1)  # ours among the ten
    assert untold == {("a", 1): 1}
    assert [counts.of(*which) for which in (("a", 1), ("b", 1), ("a", 2), ("b", 2))] == [11, 5, 1, 0]
