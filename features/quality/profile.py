"""What the rows of a table look like, read once with Arrow, batch by batch, in bounded memory.

New rows are counted against the bounds expected of them, all of them. Statistics are of the current rows of a window of event
days (of each row the newest revision, none that was taken back), in two parts: the last week, and the days before it. Their
histograms have bins that do not depend on the data, so those of any two versions compare without a look at old files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, RETRACTED
from features.quality.expectations import ColumnExpectation, TableExpectation
from features.tables import ARROW_TYPES, Column, Table
from infra.lake import Lake

Codes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

WEEK_DAYS = 7
TOP = 100
"""Values of a text column that are kept by name, the most frequent ones."""
_BATCH = 65_536
_SAMPLED_ROWS = 4_000_000
"""About so many rows at most are told apart by key; of larger tables a sample of the keys, each with all its rows."""
_TRACKED, _KEPT = 50_000, 10_000
_STEPS = 4
_LEAST, _MOST = -120, 400
_EPOCH = np.datetime64(0, "us")
_RETRACTED = Column(RETRACTED, "string", "whether a revision takes its row back")


@dataclass(frozen=True)
class Window:
    """Event days, in the shop's zone, whose rows make the statistics: after `since`, up to and including `until`.

    A daily row of day D is stamped with the first instant of D+1, so it counts to day D. `since` None: all rows up to `until`;
    both None, of a table without events: all rows.
    """

    zone: ZoneInfo
    until: datetime | None
    since: datetime | None

    @classmethod
    def of(cls, newest: datetime | None, now: datetime, zone: ZoneInfo, expected: TableExpectation) -> Window:
        """The window that ends with the last day that is over at `now`, or with the newest event where that is stale."""
        if newest is None:
            return cls(zone, None, None)
        is_stale = now - newest > timedelta(days=expected.fresh_days or WEEK_DAYS)
        last = (
            (min(newest - timedelta(microseconds=1), now)).astimezone(zone).date() + timedelta(1)
            if is_stale
            else now.astimezone(zone).date()
        )
        start = None if expected.window_days is None else _midnight(last - timedelta(expected.window_days), zone)
        return cls(zone, _midnight(last, zone), start)

    @property
    def week(self) -> datetime | None:
        """After it the last week begins."""
        return None if self.until is None else _midnight(self.until.astimezone(self.zone).date() - timedelta(WEEK_DAYS), self.zone)

    def reaches(self, newest: datetime | None) -> bool:
        """Whether a file with this newest event may hold rows of the window."""
        return self.since is None or newest is None or newest > self.since


@dataclass
class Statistics:
    """One column over some rows. `bins`: bin -> rows (see `bin_of`), of numbers and of the lengths of lists; `values`: word -> rows.

    `low`, `high`: numbers, or ISO text of times and dates. Of a column that speaks of a person only the nulls are counted.
    """

    rows: int = 0
    nulls: int = 0
    low: float | str | None = None
    high: float | str | None = None
    total: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)
    values: Counter[str] = field(default_factory=Counter)

    @property
    def mean(self) -> float | None:
        """Mean of the finite numbers; None where there are none."""
        count = sum(self.bins.values())
        return self.total / count if count else None

    @property
    def null_share(self) -> float:
        return self.nulls / self.rows if self.rows else 0.0

    def __add__(self, other: Statistics) -> Statistics:
        lows = [s.low for s in (self, other) if s.low is not None]
        highs = [s.high for s in (self, other) if s.high is not None]
        return Statistics(
            self.rows + other.rows,
            self.nulls + other.nulls,
            min(lows) if lows else None,  # type: ignore[type-var]  # a column's are of one type
            max(highs) if highs else None,  # type: ignore[type-var]
            self.total + other.total,
            self.bins + other.bins,
            self.values + other.values,
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it; of the values the `TOP` most frequent."""
        top = dict(sorted(self.values.items(), key=lambda item: (-item[1], item[0]))[:TOP])
        return {**self.__dict__, "bins": {str(code): n for code, n in sorted(self.bins.items())}, "values": top}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Statistics:
        """What `as_dict` gave."""
        bins = Counter({int(code): n for code, n in said["bins"].items()})
        return cls(**{**said, "bins": bins, "values": Counter(said["values"])})


@dataclass
class Found:
    """What of one column's new rows is not as expected, in rows."""

    nulls: int = 0
    not_finite: int = 0
    below: int = 0
    above: int = 0
    unlisted: int = 0
    low: float | None = None
    high: float | None = None
    word: str | None = None


@dataclass
class Profile:
    """What `profile` found. `days`: local day -> current rows of the window; `sample`: one of so many keys was looked at."""

    new_rows: int = 0
    duplicates: int = 0
    sample: int = 1
    found: dict[str, Found] = field(default_factory=dict)
    week: dict[str, Statistics] = field(default_factory=dict)
    before: dict[str, Statistics] = field(default_factory=dict)
    days: Counter[str] = field(default_factory=Counter)


def profile(
    lake: Lake, table: Table, new: Sequence[str], old: Sequence[str], window: Window, expected: TableExpectation, sample: int = 1
) -> Profile:
    """Read the files `new`, every row, and `old`, for their part of the window; both are addresses in the order of the table."""
    made = Profile(sample=sample)
    files = [(uri, False) for uri in old] + [(uri, True) for uri in new]
    winners, events = _current(lake, table, files, window, made)
    is_week = _is_week(events, window)
    made.days = _days(events, window)
    columns = [column for column in table.columns if column.name not in (EVENT_TIMESTAMP, CREATED_TIMESTAMP)]
    made.week, made.before = ({c.name: Statistics() for c in columns} for _ in range(2))
    made.found = {column.name: Found() for column in columns}
    first = 0
    for uri, is_new in files:
        for batch in _batches(lake, uri, columns):
            place = slice(*np.searchsorted(winners, (first, first + batch.num_rows)))
            at, week = winners[place] - first, is_week[place]
            first += batch.num_rows
            for column in columns:
                values = _plain(batch.column(column.name), column)
                if is_new:
                    _hold_against(values, expected.columns.get(column.name, ColumnExpectation()), column, made.found[column.name])
                for part, chosen in ((made.week, at[week]), (made.before, at[~week])):
                    if len(chosen):
                        _add(part[column.name], values.take(pa.array(chosen)), column)
    return made


def sample_of(num_rows: int) -> int:
    """One of how many keys is looked at in a table of so many rows."""
    return 1 + num_rows // _SAMPLED_ROWS


@dataclass(frozen=True)
class Footer:
    """Rows of a file and its newest event; None where the file says none."""

    num_rows: int
    newest: datetime | None


def footer(lake: Lake, uri: str) -> Footer:
    """What the footer of a file of a table says."""
    with lake.filesystem.open_input_file(lake.on_filesystem(uri)) as file:
        metadata = pq.read_metadata(file)
    names = metadata.schema.names
    if EVENT_TIMESTAMP not in names:
        return Footer(metadata.num_rows, None)
    index = names.index(EVENT_TIMESTAMP)
    groups = (metadata.row_group(group).column(index).statistics for group in range(metadata.num_row_groups))
    return Footer(metadata.num_rows, max((group.max for group in groups if group is not None and group.has_min_max), default=None))


def names_of_rows(table: Table) -> tuple[str, ...]:
    """The columns that tell rows apart: of a feature table the key and the event, of a raw one its identity."""
    return table.identity if table.kind == "raw" else tuple(dict.fromkeys((*table.keys, EVENT_TIMESTAMP)))


def bin_of(values: npt.NDArray[np.float64]) -> Integers:
    """The bins of finite numbers: 0 for 0, else the sign and the quarter of an octave |value| lies in (a bin is 19 % wide).

    Bins by logarithm give quantiles of a bounded relative error and add up (Masson, Rim and Lee, DDSketch, VLDB 2019).
    """
    size = np.abs(values)
    with np.errstate(divide="ignore"):
        steps = np.clip(np.floor(_STEPS * np.log2(size)), _LEAST, _MOST)
    return np.where(size == 0, 0, np.sign(values) * (steps - _LEAST + 1)).astype(np.int64)


def bounds_of(code: int) -> tuple[float, float]:
    """The least and the greatest number of a bin."""
    if code == 0:
        return 0.0, 0.0
    near, far = (2.0 ** ((abs(code) - 1 + _LEAST + step) / _STEPS) for step in (0, 1))
    return (near, far) if code > 0 else (-far, -near)


# -- the rows that count ------------------------------------------------------------------------------------------------------


def _current(
    lake: Lake, table: Table, files: Sequence[tuple[str, bool]], window: Window, made: Profile
) -> tuple[Integers, Integers]:
    """Numbers of the current rows in the window, in the order of the table, and their events; counts rows and duplicates."""
    names = names_of_rows(table)
    wanted = [table.column(name) for name in dict.fromkeys((*names, *_times(table)))]
    if table.kind == "features":
        wanted.append(_RETRACTED)
    said: list[tuple[Integers, ...]] = []
    first = 0
    for uri, is_new in files:
        for batch in _batches(lake, uri, wanted):
            number = np.arange(first, first + batch.num_rows)
            first += batch.num_rows
            made.new_rows += batch.num_rows * is_new
            event = _micros(batch, EVENT_TIMESTAMP)
            created = _micros(batch, CREATED_TIMESTAMP)
            code = _hashes([batch.column(name) for name in names], batch.num_rows)
            if table.row_id is not None:  # equal rows without an id of their own all stand
                code = np.where(
                    batch.column(table.row_id).is_null().to_numpy(zero_copy_only=False), _mix(number.view(np.uint64)), code
                )
            inside = np.ones(batch.num_rows, dtype=bool) if window.until is None else event <= _microseconds(window.until)
            if window.since is not None:
                inside &= event > _microseconds(window.since)
            back = (
                batch.column(RETRACTED).is_valid().to_numpy(zero_copy_only=False)
                if RETRACTED in batch.schema.names
                else np.zeros(batch.num_rows, dtype=bool)
            )
            kept = (code % np.uint64(made.sample) == 0) & (inside | is_new)
            new = np.full(batch.num_rows, is_new)
            said.append(tuple(part[kept] for part in (code.view(np.int64), created, number, event, inside, back, new)))
    if not said:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    code, created, number, event, inside, back, new = (np.concatenate(parts) for parts in zip(*said, strict=True))
    order = np.lexsort((number, created, code))
    same = code[order][1:] == code[order][:-1]
    told_twice = same & new[order][1:].astype(bool) & new[order][:-1].astype(bool)
    if table.kind == "raw":  # a correction is a later row
        told_twice &= created[order][1:] == created[order][:-1]
    made.duplicates = int(told_twice.sum())
    last = order[np.append(~same, True)] if len(order) else order
    last = np.sort(last[inside[last].astype(bool) & ~back[last].astype(bool)])
    return number[last], event[last]


def _times(table: Table) -> tuple[str, ...]:
    return tuple(name for name in (EVENT_TIMESTAMP, CREATED_TIMESTAMP) if name in table.names)


def _is_week(events: Integers, window: Window) -> npt.NDArray[np.bool_]:
    week = window.week
    return events > _microseconds(week) if week else np.zeros(len(events), dtype=bool)


def _days(events: Integers, window: Window) -> Counter[str]:
    """Rows of each of the last days of the window, at most 28; a stamp at midnight counts to the day that it ends."""
    days: Counter[str] = Counter()
    if window.until is None:
        return days
    ordered = np.sort(events)
    last = window.until.astimezone(window.zone).date()
    for back in range(28):
        day = last - timedelta(back + 1)
        if window.since is not None and _midnight(day, window.zone) < window.since:
            break
        low, high = (_microseconds(_midnight(d, window.zone)) for d in (day, day + timedelta(1)))
        begin, end = np.searchsorted(ordered, (low, high), side="right")
        days[str(day)] = int(end - begin)
    return days


# -- reading ------------------------------------------------------------------------------------------------------------------


def _batches(lake: Lake, uri: str, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    """The rows of one file, in order; a column that the file lacks is null."""
    with lake.filesystem.open_input_file(lake.on_filesystem(uri)) as file:
        reader = pq.ParquetFile(file)
        there = set(reader.schema_arrow.names)
        for batch in reader.iter_batches(_BATCH, columns=[c.name for c in columns if c.name in there]):
            arrays = [batch.column(c.name) if c.name in there else pa.nulls(batch.num_rows, ARROW_TYPES[c.type]) for c in columns]
            yield pa.RecordBatch.from_arrays(arrays, names=[c.name for c in columns])


def _micros(batch: pa.RecordBatch, name: str) -> Integers:
    """A column of times as microseconds; 0 where the table has no such column."""
    if name not in batch.schema.names:
        return np.zeros(batch.num_rows, dtype=np.int64)
    found: Integers = (
        batch.column(name).cast(pa.timestamp("us", "UTC")).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    )
    return found


def _hashes(columns: Sequence[pa.Array], num_rows: int) -> Codes:
    """64 bits that tell rows apart by these columns; a null is a value like others."""
    code = np.zeros(num_rows, dtype=np.uint64)
    for column in columns:
        words = column.dictionary_encode()
        distinct = words.dictionary.cast(pa.string()) if pa.types.is_string(words.dictionary.type) else words.dictionary
        hashed = (
            pd.util.hash_array(np.asarray(distinct.to_numpy(zero_copy_only=False))) if len(distinct) else np.zeros(0, np.uint64)
        )
        hashed = np.append(hashed, np.uint64(0x9E3779B97F4A7C15))  # what a null has
        at = words.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
        code = _mix(code ^ hashed[at])
    return code


def _mix(code: Codes) -> Codes:
    """Bits of `code` spread over all 64 (the finaliser of SplitMix64), so that what is hashed next does not undo it."""
    with np.errstate(over="ignore"):
        code = (code + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        code = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        code = (code ^ (code >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Codes = code ^ (code >> np.uint64(31))
    return mixed


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone)


def _microseconds(moment: datetime) -> int:
    return int((np.datetime64(moment.astimezone(ZoneInfo("UTC")).replace(tzinfo=None), "us") - _EPOCH).astype(np.int64))


# -- one column ---------------------------------------------------------------------------------------------------------------


def _plain(values: pa.Array, column: Column) -> pa.Array:
    """Money and counts as floats, a list as its length, a truth as a word."""
    if column.type in ("money", "int", "float"):
        return values.cast(pa.float64(), safe=False)
    if column.type == "strings":
        return pc.list_value_length(values).cast(pa.float64())
    return values.cast(pa.string()) if column.type == "bool" else values


def _hold_against(values: pa.Array, expected: ColumnExpectation, column: Column, found: Found) -> None:
    found.nulls += values.null_count
    if pa.types.is_floating(values.type):
        finite = values.filter(pc.is_finite(values))
        found.not_finite += len(values) - values.null_count - len(finite)
        if not len(finite):
            return
        low, high = pc.min_max(finite).as_py().values()
        found.low = low if found.low is None else min(found.low, low)
        found.high = high if found.high is None else max(found.high, high)
        if expected.min is not None and low < expected.min:
            found.below += pc.sum(pc.less(finite, expected.min)).as_py()
        if expected.max is not None and high > expected.max:
            found.above += pc.sum(pc.greater(finite, expected.max)).as_py()
    elif expected.values is not None and pa.types.is_string(values.type):
        others = values.filter(pc.invert(pc.is_in(values, pa.array(expected.values, pa.string()))))
        others = others.drop_null()
        found.unlisted += len(others)
        if len(others) and column.mark == "none":
            found.word = others[0].as_py()


def _add(statistics: Statistics, values: pa.Array, column: Column) -> None:
    """Add rows to the statistics of a column; what speaks of a person stays out."""
    statistics.rows += len(values)
    statistics.nulls += values.null_count
    if column.mark != "none":
        return
    if pa.types.is_floating(values.type):
        numbers = values.drop_null().to_numpy(zero_copy_only=False)
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers):
            return
        statistics.total += float(numbers.sum())
        codes, counts = np.unique(bin_of(numbers), return_counts=True)
        statistics.bins.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
        _widen(statistics, float(numbers.min()), float(numbers.max()))
    elif pa.types.is_string(values.type):
        counted = pc.value_counts(values.drop_null())
        statistics.values.update(dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)))
        if len(statistics.values) > _TRACKED:  # what is rare so far is forgotten: it is no frequent value of the whole
            statistics.values = Counter(dict(statistics.values.most_common(_KEPT)))
    elif len(values) > values.null_count:
        low, high = pc.min_max(values).as_py().values()
        _widen(statistics, low.isoformat(), high.isoformat())


def _widen(statistics: Statistics, low: Any, high: Any) -> None:
    statistics.low = low if statistics.low is None else min(statistics.low, low)
    statistics.high = high if statistics.high is None else max(statistics.high, high)
