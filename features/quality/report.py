"""The quality report of one table version, and where it lies: `<shop>/quality/<table>/<version>.json` in the lake."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import pyarrow.fs as pafs

from features.quality.expectations import Severity, TableExpectation
from features.quality.profile import Statistics
from infra.lake import Lake

Status = Literal["passed", "warned", "failed"]
_FOLDER = "quality"
_REFUSED = "refused"
_FORMAT = 1
"""Of the files; a report of another format counts as none: the next build looks again."""
_NAME = re.compile(r"(\d{20})\.json")


@dataclass(frozen=True)
class Check:
    """One expectation and what was found, in words for a reader. `column` is empty for what speaks of the table."""

    name: str
    column: str
    severity: Severity
    expected: str
    got: str
    passed: bool


@dataclass(frozen=True)
class Report:
    """What was found in one version of a table.

    `version` is None for rows that were refused. `as_of` is the shop's clock, `rows` what the table holds with this version,
    `new_rows` what it wrote and was checked; `week` and `before` are the statistics of the window's last week and of the days
    before it (`window_days` event days in all, None: all rows), `days` its rows by local day.
    """

    table: str
    version: int | None
    as_of: str
    expectations: str
    rows: int
    new_rows: int
    sample: int
    newest: str | None
    checks: tuple[Check, ...]
    week: Mapping[str, Statistics]
    before: Mapping[str, Statistics]
    days: Mapping[str, int]
    window_days: int | None
    seconds: float

    @property
    def failed(self) -> tuple[Check, ...]:
        """Broken expectations of severity `fail`."""
        return tuple(check for check in self.checks if not check.passed and check.severity == "fail")

    @property
    def warned(self) -> tuple[Check, ...]:
        """Broken expectations of severity `warn`."""
        return tuple(check for check in self.checks if not check.passed and check.severity == "warn")

    @property
    def status(self) -> Status:
        return "failed" if self.failed else "warned" if self.warned else "passed"

    @property
    def window(self) -> dict[str, Statistics]:
        """Statistics of the whole window, by column."""
        return {name: self.before[name] + self.week[name] for name in self.week}

    def at(self, now: datetime, expected: TableExpectation) -> Report:
        """This report with the freshness as it is now: rows grow old without a new version."""
        fresh = freshness(self.newest, now, expected)
        return replace(self, checks=tuple(check for check in self.checks if check.name != "fresh") + fresh)

    def to_json(self) -> str:
        """The report as JSON."""
        said = {"format": _FORMAT, **self.__dict__, "status": self.status, "checks": [asdict(check) for check in self.checks]}
        for part in ("week", "before"):
            said[part] = {name: statistics.as_dict() for name, statistics in said[part].items()}
        return json.dumps(said, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Report | None:
        """What `to_json` gave; None where another version of shopgraph wrote it in another format."""
        said: dict[str, Any] = json.loads(text)
        if said.pop("format", None) != _FORMAT:
            return None
        said.pop("status")
        for part in ("week", "before"):
            said[part] = {name: Statistics.from_dict(one) for name, one in said[part].items()}
        return cls(**{**said, "checks": tuple(Check(**check) for check in said["checks"])})


def freshness(newest: str | None, now: datetime, expected: TableExpectation) -> tuple[Check, ...]:
    """The check of how old the newest event is; none where nothing is expected or the table has no row."""
    if expected.fresh_days is None or newest is None:
        return ()
    age = now - datetime.fromisoformat(newest)
    return (
        Check(
            "fresh",
            "",
            expected.severity,
            f"newest event at most {expected.fresh_days:g} days before the shop's clock",
            f"{age / timedelta(days=1):,.1f} days ({newest[:16]})",
            age <= timedelta(days=expected.fresh_days),
        ),
    )


class Reports:
    """The reports of one shop's tables. Making the object touches nothing."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake

    def keep(self, report: Report) -> None:
        """Write a report; one of a version stands for the refused one before it."""
        self._write(f"{report.table}/{_REFUSED if report.version is None else f'{report.version:020d}'}.json", report.to_json())
        if report.version is not None:
            self._delete(f"{report.table}/{_REFUSED}.json")

    def of(self, table: str, version: int) -> Report | None:
        """The report of a version of the table at path `table`, None where none is kept."""
        return self._read(f"{table}/{version:020d}.json")

    def newest(self, table: str) -> Report | None:
        """The report of the newest version that has one."""
        versions = self.versions(table)
        return self.of(table, versions[-1]) if versions else None

    def refused(self, table: str) -> Report | None:
        """What was refused since the newest version was committed, if anything was."""
        return self._read(f"{table}/{_REFUSED}.json")

    def versions(self, table: str) -> list[int]:
        """Versions with a report, oldest first."""
        selector = pafs.FileSelector(self._path(table), allow_not_found=True)
        names = (_NAME.fullmatch(info.base_name) for info in self.lake.filesystem.get_file_info(selector))
        return sorted(int(name[1]) for name in names if name)

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return self.lake.on_filesystem(self.lake.uri(f"{_FOLDER}/{name}"))

    def _read(self, name: str) -> Report | None:
        try:
            with self.lake.filesystem.open_input_file(self._path(name)) as file:
                return Report.from_json(file.read())
        except FileNotFoundError:
            return None

    def _write(self, name: str, text: str) -> None:
        """All of the file or none of it: a rename locally, one put on S3."""
        path = self._path(name)
        draft = path if self.lake.is_remote else f"{path}.draft"
        if not self.lake.is_remote:
            self.lake.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with self.lake.filesystem.open_output_stream(draft) as file:
            file.write(text.encode())
        if draft != path:
            self.lake.filesystem.move(draft, path)

    def _delete(self, name: str) -> None:
        if self.lake.filesystem.get_file_info(self._path(name)).type is pafs.FileType.File:
            self.lake.filesystem.delete_file(self._path(name))
