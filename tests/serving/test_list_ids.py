"""Names of lists say what they say, and nothing that somebody makes up is taken for one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import list_ids

VERSION = "3f2a91bc00ff17e2"


def test_a_name_says_when_to_whom_and_by_what() -> None:
    before = int(time.time())
    name = list_ids.whole(list_ids.new(), 7, VERSION)
    served = list_ids.read(name)
    assert served is not None
    assert before <= served.at <= time.time()
    assert served.bucket == 7
    assert list_ids.is_of(VERSION, served)
    assert not list_ids.is_of("3f2a91bd00ff17e2", served)
    assert len(name) == list_ids.LENGTH == 32
    assert len({list_ids.new() for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize("name", ["", "x" * 32, "٣" * 32, "3f" * 15, "3f" * 17, "-1" * 16, " " + "3f" * 15 + "0"])
def test_what_is_no_name_of_ours_is_told(name: str) -> None:
    assert list_ids.read(name) is None


@given(st.text(min_size=30, max_size=34))
def test_no_text_is_an_error(name: str) -> None:
    list_ids.read(name)


def test_parts_of_the_people_are_of_one_size() -> None:
    counts = [0] * list_ids.BUCKETS
    for number in range(100_000):
        counts[list_ids.bucket_of(f"user u{number}")] += 1
    expected = 100_000 / list_ids.BUCKETS
    assert sum((count - expected) ** 2 / expected for count in counts) < 350  # chi squared of 255 degrees: 1 in 10,000
    assert list_ids.bucket_of("user \ud800") in range(list_ids.BUCKETS)
