"""The gate before a commit: rows that break a hard expectation never become a version; what was found is kept by version."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import pyarrow.fs as pafs

from features.columns import CREATED_TIMESTAMP
from features.quality.drift import ENOUGH_ROWS, LARGE, stability_index
from features.quality.expectations import ColumnExpectation, expectation
from features.quality.profile import Found, Profile, Window, footer, names_of_rows, profile, sample_of
from features.quality.report import Check, Report, Reports, freshness
from features.shop import Shop
from features.tables import Column, Table
from infra import log
from infra.errors import TableContractError
from infra.lake import Attempt, Lake, Mode, digest_of

_ENOUGH_FOR_VOLUME = 100


class Gate:
    """One table of a shop at one instant of the shop's clock."""

    def __init__(self, lake: Lake, shop: Shop, table: Table, now: datetime) -> None:
        self.lake, self.shop, self.table, self.now = lake, shop, table, now
        self.reports = Reports(lake)
        self.expected = expectation(table, shop.quality)
        self._digest = digest_of(self.expected.model_dump(mode="json"))[:16]
        self._pending: Report | None = None

    def check(self, attempt: Attempt, mode: Mode) -> None:
        """Look at rows that are about to be committed.

        Raises:
            TableContractError: they break a hard expectation; the report of it is kept, the files are gone.
        """
        report = self._look(_files(self.lake, attempt), [] if mode == "overwrite" else self._standing(), once=True)
        if report.failed:
            self.reports.keep(report)
            self.lake.filesystem.delete_dir(self.lake.on_filesystem(attempt.uri))
            raise TableContractError(_told(report, "Nothing was committed."))
        self._pending = report

    def keep(self, version: int) -> None:
        """Keep what `check` found by the version that was committed; of a version that no report is kept of, look now."""
        report, self._pending = self._pending, None
        kept = self.reports.of(self.table.path, version)
        if report is None and kept is not None and kept.expectations == self._digest:
            return
        report = replace(report or self._look_at_version(version), version=version)
        self.reports.keep(report)
        for check in (*report.failed, *report.warned):
            log.get(__name__).warning(
                "quality", table=self.table.path, check=check.name, column=check.column, expected=check.expected, got=check.got
            )

    def stand(self, version: int) -> None:
        """Look at a version that somebody else committed, such as a raw table's: once, and only at the rows since the last one.

        Raises:
            TableContractError: it breaks a hard expectation.
        """
        self.keep(version)
        report = self.reports.of(self.table.path, version)
        if report is not None and report.failed:
            raise TableContractError(_told(report, "Nothing is built from it."))

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _standing(self, version: int | None = None) -> list[str]:
        if self.lake.version(self.table.path) is None:
            return []
        return self.lake.file_uris(self.table.path, version)

    def _look_at_version(self, version: int) -> Report:
        """What a version adds to the newest one before it that passed."""
        path = self.table.path
        new, old = self._standing(version), list[str]()
        for earlier in reversed(self.reports.versions(path)):
            report = self.reports.of(path, earlier) if earlier < version else None
            if report is not None and not report.failed and report.expectations == self._digest:
                # not the files of this version: a compaction joins those that were looked at with those that were not
                added = self.lake.added_files(path, earlier, version)
                if added is not None:
                    with suppress(TableContractError):  # vacuumed: all is looked at
                        new, old = added, self._standing(earlier)
                    break
        return self._look(new, old, once=self.table.kind == "raw")

    def _look(self, new: Sequence[str], old: Sequence[str], *, once: bool) -> Report:
        """What is found in the files `new`, beside `old`; `once`: no row is in them twice, as revisions of one are."""
        began = time.monotonic()
        footers = {uri: footer(self.lake, uri) for uri in (*old, *new)}
        newest = max((one.newest for one in footers.values() if one.newest), default=None)
        window = Window.of(newest, self.now, self.shop.zone, self.expected)
        late = [uri for uri in old if window.reaches(footers[uri].newest)]
        sizes = [footers[uri].num_rows for uri in (*late, *new)]
        found = profile(self.lake, self.table, new, late, window, self.expected, sample_of(sum(sizes)))
        rows = sum(one.num_rows for one in footers.values())
        said = newest.isoformat() if newest else None
        checks = (
            *(self._once(found) if once else ()),
            *self._rows(found, rows, self.reports.newest(self.table.path)),
            *(check for column in self.table.columns if column.name in found.found for check in self._column(column, found)),
            *freshness(said, self.now, self.expected),
        )
        return Report(
            table=self.table.path,
            version=None,
            as_of=self.now.isoformat(),
            expectations=self._digest,
            rows=rows,
            new_rows=found.new_rows,
            sample=found.sample,
            newest=said,
            checks=checks,
            week=found.week,
            before=found.before,
            days=found.days,
            window_days=None if window.since is None else self.expected.window_days,
            seconds=round(time.monotonic() - began, 3),
        )

    def _once(self, found: Profile) -> Iterator[Check]:
        """Whether each new row is told once; a correction of a raw row is told later than the row."""
        names = names_of_rows(self.table)
        if self.expected.unique and names:
            of = " + ".join((*names, CREATED_TIMESTAMP) if self.table.kind == "raw" else names)
            got = _count(found.duplicates, "row") + " told again"
            yield Check("unique", "", "fail", f"one new row per {of}", got, not found.duplicates)

    def _rows(self, found: Profile, rows: int, before: Report | None) -> Iterator[Check]:
        """What is expected of the table's rows as such."""
        expected = self.expected
        if expected.kept_share is not None and before is not None and before.rows:
            share = rows / before.rows
            yield Check(
                "kept",
                "",
                expected.severity,
                f"at least {expected.kept_share:.0%} of the {before.rows:,} rows before",
                f"{rows:,} rows",
                share >= expected.kept_share,
            )
        if expected.volume is not None and found.days:
            week, earlier = (sum(list(found.days.values())[part]) for part in (slice(0, 7), slice(7, 14)))
            low, high = expected.volume
            told = f"{week:,} rows in the last 7 event days, {earlier:,} in the 7 before"
            if earlier and max(week, earlier) >= _ENOUGH_FOR_VOLUME:
                yield Check(
                    "volume",
                    "",
                    expected.severity,
                    f"{low:g} to {high:g} times the week before",
                    told,
                    low * earlier <= week <= high * earlier,
                )

    def _column(self, column: Column, found: Profile) -> Iterator[Check]:
        """What is expected of one column."""
        expected = self.expected.columns.get(column.name, ColumnExpectation())
        seen, rows = found.found[column.name], found.new_rows
        if expected.max_null_share is not None:
            share = seen.nulls / rows if rows else 0.0
            yield Check(
                "nulls",
                column.name,
                expected.severity or ("fail" if expected.max_null_share == 0 else "warn"),
                "no null" if expected.max_null_share == 0 else f"at most {expected.max_null_share:.1%} null",
                f"{share:.1%} null ({seen.nulls:,} of {rows:,} rows)",
                share <= expected.max_null_share,
            )
        hard = expected.severity or "fail"
        if column.type == "float":
            yield Check(
                "finite", column.name, hard, "numbers", _count(seen.not_finite, "row") + " NaN or infinite", not seen.not_finite
            )
        if expected.min is not None or expected.max is not None:
            yield Check("range", column.name, hard, _range(expected), _outside(seen, column), not (seen.below or seen.above))
        if expected.values is not None:
            word = f", such as {seen.word!r}" if seen.word is not None else ""
            yield Check(
                "values",
                column.name,
                hard,
                f"one of {', '.join(expected.values)}",
                _count(seen.unlisted, "row") + f" with another{word}",
                not seen.unlisted,
            )
        week, before = found.week[column.name], found.before[column.name]
        if expected.stable and min(week.rows, before.rows) >= ENOUGH_ROWS:
            index = stability_index(before, week)
            if index is not None:
                yield Check(
                    "stable",
                    column.name,
                    expected.severity or "warn",
                    f"the last week spread as the weeks before, PSI below {LARGE}",
                    f"PSI {index:.2f}",
                    index < LARGE,
                )


def _files(lake: Lake, attempt: Attempt) -> list[str]:
    """Addresses of the files of an attempt that count, in the order of the table."""
    selector = pafs.FileSelector(lake.on_filesystem(attempt.uri), recursive=True, allow_not_found=True)
    found = (info for info in lake.filesystem.get_file_info(selector) if info.is_file and info.base_name.endswith(".parquet"))
    return sorted(info.path for info in found if attempt.files is None or info.base_name in attempt.files)


def _told(report: Report, what: str) -> str:
    """The error for a user: what was expected, what was found, what to do."""
    broken = "; ".join(f"{check.column or 'rows'}: expected {check.expected}, got {check.got}" for check in report.failed)
    name = report.table.rpartition("/")[2]
    return (
        f"table {report.table} breaks what is expected of it: {broken}. {what} `shopgraph quality {name}` shows the report; "
        f"correct the data, or loosen `quality: {name}:` in shop.yaml."
    )


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _range(expected: ColumnExpectation) -> str:
    if expected.max is None:
        return f"at least {expected.min:g}"
    return f"at most {expected.max:g}" if expected.min is None else f"{expected.min:g} to {expected.max:g}"


def _outside(seen: Found, column: Column) -> str:
    """How many values lie outside, and how far where no person is spoken of."""
    if seen.low is None or seen.high is None:
        return "no value"
    counted = _count(seen.below + seen.above, "row") + " outside"
    return counted if column.mark != "none" else f"{counted}, {seen.low:,.6g} to {seen.high:,.6g}"
