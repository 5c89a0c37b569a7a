"""The rule of the point-in-time join as a brute-force oracle, and random worlds that hold an engine to it.

Cases are drawn by hypothesis and packed thousands to a table, the number of the case being one more key part, so that an engine
joins them all at once. Where it answers wrongly, hypothesis draws the same cases again, finds the one that failed among them and
shrinks it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from features.tables import ARROW_TYPES, Type
from features.views import View
from infra.lake import Lake

Key = tuple[Any, ...]
DAY = 86_400_000_000
TTLS = (None, 0, 1)
"""In days; each case is asked with all of them."""

WORDS: dict[Type, tuple[Any, ...]] = {
    "string": ("1", "12", "123", "23", "3", "", None),
    "date": (date(2024, 1, 1), date(2024, 1, 2), date(1, 1, 1), date(9999, 12, 31), date(1969, 12, 31), date(1582, 10, 10), None),
    "int": (1, 12, 123, 23, 3, -(2**63), None),
}
"""Key parts: written one after the other, "1", "23" and "12", "3" are the same."""
BASE = datetime(2024, 3, 31, tzinfo=UTC)
INSTANTS = (0, 1, 2, 5, DAY - 1, DAY, DAY + 1, DAY + 5, 2 * DAY - 1, 2 * DAY, 2 * DAY + 1)
"""Few, and a day apart to the microsecond: ties and edges of expiry are the rule."""
DELAYS = (0, 0, 1, -3, 3, DAY, DAY - 1, 2 * DAY)
RETRACTED = (None, None, None, None, None, "before", "nothing", "nothing")


@dataclass(frozen=True)
class Row:
    key: Key
    event: int
    created: int
    retracted: str | None = None


@dataclass(frozen=True)
class Case:
    """A small world: rows in table order and labels (key, time). Keys are numbers of WORDS, times microseconds from BASE."""

    rows: tuple[Row, ...]
    labels: tuple[tuple[Key, int], ...]


def oracle(case: Case, ttl_days: int | None) -> list[int | None]:
    """For each label the number of the row it sees, by looking at every row."""
    answer: list[int | None] = []
    for key, t in case.labels:
        winner: int | None = None
        for number, row in enumerate(case.rows):
            is_known = row.key == key and NULL not in key and row.event <= t and row.created <= t
            if is_known and (winner is None or (row.event, row.created) >= (case.rows[winner].event, case.rows[winner].created)):
                winner = number
        if winner is not None:
            is_expired = ttl_days is not None and case.rows[winner].event < t - ttl_days * DAY
            if is_expired or case.rows[winner].retracted == "nothing":
                winner = None
        answer.append(winner)
    return answer


# -- random cases -----------------------------------------------------------------------------------------------------------

NULL = len(WORDS["string"]) - 1


def _case(drawn: bytes) -> Case:
    """Bytes as a case: two keys, labels of a byte, rows of two. One draw per case, because draws are what hypothesis takes long for."""
    keys = [divmod(code % len(WORDS["string"]) ** 2, len(WORDS["string"])) for code in drawn[:2]]
    ends = 4 + drawn[2] % 4
    times = (*INSTANTS, -1, 4 * DAY)
    labels = tuple((keys[code % 2], times[code // 2 % len(times)]) for code in drawn[3:ends])
    rows = []
    for high, low in zip(drawn[ends::2], drawn[ends + 1 :: 2], strict=False):
        code, who = divmod(256 * high + low, 2)
        code, event = divmod(code, len(INSTANTS))
        code, delay = divmod(code, len(DELAYS))
        rows.append(Row(keys[who], INSTANTS[event], INSTANTS[event] + DELAYS[delay], RETRACTED[code % len(RETRACTED)]))
    return Case(tuple(rows), labels)


CASES = st.binary(min_size=12, max_size=26).map(_case)

Answers = list[list[int | None]]
"""Per case and label the number of the row."""


def draw(num_cases: int, number: int) -> list[Case]:
    """So many different cases; another `number` gives others."""
    drawn: dict[Case, None] = {}  # a few are drawn twice
    seed(number)(_how(num_cases * 21 // 20, Phase.generate)(given(CASES)(lambda case: drawn.setdefault(case))))()
    assert len(drawn) >= num_cases
    return list(drawn)


def hold_to_oracle(answers_of: Callable[[Sequence[Case]], Mapping[int | None, Answers]], num_cases: int, number: int) -> None:
    """Hold an engine to the oracle over so many cases.

    Args:
        answers_of: the engine: answers to all the cases for each of TTLS, from one table.
        number: of the cases, as for `draw`.
    """
    cases = draw(num_cases, number)
    found = answers_of(cases)
    known = {case: {ttl: found[ttl][i] for ttl in TTLS} for i, case in enumerate(cases)}
    wrong = [case for case, told in known.items() if told != {ttl: oracle(case, ttl) for ttl in TTLS}]
    if not wrong:
        return

    def is_right(case: Case) -> None:
        told = known.get(case) or {ttl: answers[0] for ttl, answers in answers_of([case]).items()}
        assert told == {ttl: oracle(case, ttl) for ttl in TTLS}, case

    seed(number)(_how(num_cases * 21 // 20, Phase.generate, Phase.shrink)(given(CASES)(is_right)))()
    raise AssertionError(f"{len(wrong)} case(s) are answered wrongly where they are packed with others, e.g. {wrong[0]}")


def _how(num_examples: int, *phases: Phase) -> settings:
    return settings(max_examples=num_examples, phases=phases, database=None, deadline=None, suppress_health_check=list(HealthCheck))


# -- cases as tables --------------------------------------------------------------------------------------------------------

_COLUMNS: tuple[tuple[str, Type], ...] = (
    ("number", "int"), ("price", "float"), ("words", "strings"), ("share", "float"), ("flag", "bool"), ("day", "date"),
    ("at", "timestamp"), ("text", "string"),
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """Cases as one table of a lake, in several files, and as labels. `kinds` are the types of the key parts."""

    cases: Sequence[Case]
    kinds: tuple[Type, ...]

    @property
    def views(self) -> list[View]:
        """One per ttl, all of the same table."""
        keys = (("case_id", "string"), *((f"k{n}", kind) for n, kind in enumerate(self.kinds)))
        return [View(f"ttl_{ttl}", "features/world", keys, _COLUMNS, ttl_days=ttl) for ttl in TTLS]  # type: ignore[arg-type]

    @property
    def names(self) -> dict[str, dict[str, str]]:
        return {view.name: {name: f"{view.name}_{name}" for name in view.column_names} for view in self.views}

    def write(self, lake: Lake, num_files: int = 3) -> None:
        """Write the table, the rows of each case spread in their order over the files."""
        schema = pa.schema([
            *((name, ARROW_TYPES[kind]) for name, kind in self.views[0].keys),
            *((name, ARROW_TYPES["money" if name == "price" else kind]) for name, kind in _COLUMNS),
            ("event_timestamp", ARROW_TYPES["timestamp"]), ("created_timestamp", ARROW_TYPES["timestamp"]), ("retracted", pa.string()),
        ])  # fmt: skip
        for file in range(num_files):
            rows = [
                {**self._key(n, row.key), **self.values(i), **_times(row), "retracted": row.retracted}
                for n, case in enumerate(self.cases)
                for i, row in enumerate(case.rows)
                if i * num_files // len(case.rows) == file
            ]
            lake.write("features/world", pa.Table.from_pylist(rows, schema=schema), "append", digest=str(file))

    def labels(self) -> pa.Table:
        """The labels of all cases in turn, with extra columns of several types."""
        rows = [
            {
                "weight": 0.1 * i,
                **self._key(n, key),
                "event_timestamp": BASE + timedelta(microseconds=t),
                "note": None if i else "é",
            }
            for n, case in enumerate(self.cases)
            for i, (key, t) in enumerate(case.labels)
        ]
        return pa.Table.from_pylist(
            rows,
            schema=pa.schema([
                ("weight", pa.float32()), ("case_id", pa.string()), *((f"k{n}", ARROW_TYPES[kind]) for n, kind in enumerate(self.kinds)),
                ("event_timestamp", ARROW_TYPES["timestamp"]), ("note", pa.string()),
            ]),
        )  # fmt: skip

    def answers(self, frame: pa.Table) -> dict[int | None, Answers]:
        """What a frame tells of each case, after holding all its other values against those of the rows it names."""
        assert frame.select(self.labels().column_names).equals(self.labels()), "labels were changed, lost or put in another order"
        answers: dict[int | None, Answers] = {}
        for ttl, view in zip(TTLS, self.views, strict=True):
            given = self.names[view.name] | {"event_timestamp": view.time_column, "created_timestamp": view.created_column}
            part = frame.select(list(given.values())).rename_columns(list(given)).to_pylist()
            told, found = iter(part), []
            for case in self.cases:
                rows = [next(told) for _ in case.labels]
                for row in rows:
                    number = row["number"]
                    if number is None:
                        assert row == dict.fromkeys(row)
                    elif number < len(case.rows):  # else it is of another case, which the oracle will tell
                        expected = {**self.values(number), **_times(case.rows[number])}
                        assert row == expected | {"price": float(expected["price"])}
                found.append([row["number"] for row in rows])
            answers[ttl] = found
        return answers

    def values(self, number: int) -> dict[str, Any]:
        """The columns of the row of a case with this number."""
        return {
            "number": number,
            "price": Decimal("19.99") + number * Decimal("0.07"),
            "words": None if number % 4 == 3 else ["a", None, str(number)][: number % 4],
            "share": None if number % 3 == 2 else number / 3,
            "flag": bool(number % 2),
            "day": date(2024, 1, 1) + timedelta(days=number),
            "at": BASE + timedelta(microseconds=number),
            "text": "" if number == 1 else f"家 {number}",
        }

    def _key(self, case: int, key: Key) -> dict[str, Any]:
        return {"case_id": str(case)} | {
            f"k{n}": WORDS[kind][part] for n, (kind, part) in enumerate(zip(self.kinds, key, strict=True))
        }


def _times(row: Row) -> dict[str, datetime]:
    return {
        "event_timestamp": BASE + timedelta(microseconds=row.event),
        "created_timestamp": BASE + timedelta(microseconds=row.created),
    }


def bits(frame: pa.Table) -> pa.Table:
    """A frame with its floats as the integers of their bits: NaN equals itself, and -0.0 is not 0.0."""
    as_int = {pa.float32(): pa.int32(), pa.float64(): pa.int64()}
    columns = [
        pa.chunked_array([column.combine_chunks().view(as_int[column.type])]) if column.type in as_int else column
        for column in frame.columns
    ]
    return pa.table(columns, names=frame.column_names)
