"""The point-in-time join against a brute-force oracle that knows only the rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.offline import join
from features.offline.join import NOTHING, latest_rows, rows_at

Key = tuple[str | None, ...]
TTL = 10
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Case:
    """A small world: rows (key, event, created), labels (key, time), times in microseconds."""

    rows: Sequence[tuple[Key, int, int]]
    labels: Sequence[tuple[Key, int]]
    ttl: int | None


def oracle(case: Case) -> list[int]:
    """For each label the visible row with the greatest (event, created), the last of equals, by looking at every row."""
    answer = []
    for key, t in case.labels:
        best, found = (-math.inf, -math.inf), NOTHING
        for number, (row_key, event, created) in enumerate(case.rows):
            if None in key or row_key != key or event > t or created > t:
                continue
            if case.ttl is not None and event < t - case.ttl:
                continue
            if (event, created) >= best:
                best, found = (event, created), number
        answer.append(found)
    return answer


def column(values: Sequence[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.string())])


def times(values: Sequence[int]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.int64()).cast(pa.timestamp("us", "UTC"))])


def columns(keys: Sequence[Key], parts: int) -> list[pa.ChunkedArray]:
    return [column([key[i] for key in keys]) for i in range(parts)]


def joined(cases: Sequence[Case]) -> list[list[int]]:
    """All cases in one join: the number of the case is one more key part, so none can see another's rows."""
    parts = 1 + len((cases[0].rows or cases[0].labels)[0][0])
    rows = [((str(n), *key), event, created) for n, case in enumerate(cases) for key, event, created in case.rows]
    labels = [((str(n), *key), t) for n, case in enumerate(cases) for key, t in case.labels]
    found = rows_at(
        columns([key for key, _ in labels], parts),
        times([t for _, t in labels]),
        columns([key for key, *_ in rows], parts),
        times([event for _, event, _ in rows]),
        times([created for *_, created in rows]),
        None if cases[0].ttl is None else cases[0].ttl * MICROSECOND,
    )
    answers, row, label = [], 0, 0
    for case in cases:
        part = found[label : label + len(case.labels)]
        answers.append([NOTHING if number == NOTHING else int(number) - row for number in part])
        row, label = row + len(case.rows), label + len(case.labels)
    return answers


def random_cases(rng: np.random.Generator, count: int, parts: int, ttl: int | None) -> list[Case]:
    """Cases with few keys and few instants, so that ties, late corrections and expiry edges are the rule, not the exception."""
    words = [None, "1", "12", "123", "23", "3", ""]

    def key() -> Key:
        return tuple(words[i] for i in rng.integers(0, len(words), parts))

    cases = []
    for _ in range(count):
        keys = [key() for _ in range(rng.integers(1, 4))]
        rows = []
        for _ in range(rng.integers(1, 9)):
            event = int(rng.integers(0, 25))
            created = event + int(rng.choice([0, 0, 0, -3, 1, 2, 9, 15]))
            rows.append((keys[rng.integers(len(keys))], event, created))
        labels = [(keys[rng.integers(len(keys))], int(rng.integers(-1, 40))) for _ in range(rng.integers(1, 6))]
        cases.append(Case(rows, labels, ttl))
    return cases


@pytest.mark.parametrize(("parts", "ttl"), list(product((1, 2, 3), (None, 0, TTL))))
def test_random_cases_equal_the_oracle(parts: int, ttl: int | None) -> None:
    cases = random_cases(np.random.default_rng([parts, ttl or 99]), 1_500, parts, ttl)
    for case, found in zip(cases, joined(cases), strict=True):
        assert found == oracle(case), case


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.tuples(st.sampled_from(["1", "12", None]), st.sampled_from(["23", "3", None])),
            st.integers(0, 12),
            st.integers(0, 12),
        ),
        min_size=1,
        max_size=8,
    ),
    st.lists(
        st.tuples(st.tuples(st.sampled_from(["1", "12", None]), st.sampled_from(["23", "3", None])), st.integers(0, 14)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([None, 0, 1, 5]),
)
def test_any_small_case_equals_the_oracle(rows: list[tuple[Key, int, int]], labels: list[tuple[Key, int]], ttl: int | None) -> None:
    case = Case(rows, labels, ttl)
    assert joined([case]) == [oracle(case)]


def test_times_far_apart_are_ranked_instead_of_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many keys over a long span, key and time do not fit one integer; the answer must not change."""
    cases = random_cases(np.random.default_rng(5), 500, 2, TTL)
    usual = joined(cases)
    monkeypatch.setattr(join, "_PACKED_BITS", 8)
    assert joined(cases) == usual


@pytest.mark.parametrize("ttl", [None, TTL])
def test_latest_rows_equal_labels_at_that_instant(ttl: int | None) -> None:
    for case in random_cases(np.random.default_rng(3), 300, 2, ttl):
        as_of = 20
        keys = sorted({key for key, *_ in case.rows if None not in key})
        expected = sorted(set(oracle(Case(case.rows, [(key, as_of) for key in keys], ttl))) - {NOTHING})
        found = latest_rows(
            columns([key for key, *_ in case.rows], 2),
            times([event for _, event, _ in case.rows]),
            times([created for *_, created in case.rows]),
            datetime(1970, 1, 1, tzinfo=UTC) + as_of * MICROSECOND,
            None if ttl is None else ttl * MICROSECOND,
        )
        assert found.tolist() == expected


def test_empty_sides_give_nothing() -> None:
    nobody = [column([])]
    assert rows_at([column(["a"])], times([5]), nobody, times([]), times([]), None).tolist() == [NOTHING]
    assert rows_at(nobody, times([]), [column(["a"])], times([1]), times([1]), None).tolist() == []
    assert rows_at([column(["a"])], times([5]), [column([None])], times([1]), times([1]), None).tolist() == [NOTHING]


def test_a_microsecond_decides() -> None:
    key, born = [column(["a"])], times([1_714_564_800_000_001])
    labels = [column(["a"] * 3)]
    at = times([1_714_564_800_000_000, 1_714_564_800_000_001, 1_714_564_800_000_012])
    assert rows_at(labels, at, key, born, born, TTL * MICROSECOND).tolist() == [NOTHING, 0, NOTHING]
