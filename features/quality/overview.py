"""The newest report of every table of a shop, as the verb and the page show them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from features.quality.expectations import expectation
from features.quality.report import Report, Reports, Status
from features.shop import Shop
from features.tables import Table
from infra.errors import SettingsError
from infra.lake import Lake


@dataclass(frozen=True)
class Standing:
    """One table: its newest version, the newest report, and what was refused since. `report` None: nothing was looked at yet."""

    table: Table
    version: int
    report: Report | None
    refused: Report | None

    @property
    def status(self) -> Status | None:
        """Of what was looked at last; None where nothing was."""
        last = self.refused or self.report
        return last.status if last else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        reports = {"report": self.report, "refused": self.refused}
        said = {name: json.loads(report.to_json()) if report else None for name, report in reports.items()}
        return {"table": self.table.path, "version": self.version, "status": self.status, **said}


def check_names(shop: Shop) -> None:
    """Whether what the shop expects speaks of tables and columns that there are.

    Raises:
        SettingsError: it does not.
    """
    for name in shop.quality:
        expectation(find_table(name, shop, "quality of shop.yaml"), shop.quality)


def find_table(name: str, shop: Shop, speaker: str) -> Table:
    """The table of the shop called `name`, also by its path.

    Raises:
        SettingsError: there is none.
    """
    tables = shop.definitions.all_tables
    table = tables.get(name.rpartition("/")[2])
    if table is None or name not in (table.name, table.path):
        raise SettingsError(f"{speaker}: there is no table {name!r}; there are {', '.join(tables)}.")
    return table


def standings(lake: Lake, shop: Shop, now: datetime, names: Iterable[str] = ()) -> list[Standing]:
    """The named tables (none: all that exist), feature tables first; how fresh they are is said as of `now`.

    Raises:
        SettingsError: a name that is no table, or a shop that expects something of one.
    """
    check_names(shop)
    reports = Reports(lake)
    found = []
    for table in [find_table(name, shop, "quality") for name in names] or shop.definitions.all_tables.values():
        version = lake.version(table.path)
        if version is not None:
            newest = reports.newest(table.path)
            refused = reports.refused(table.path)
            kept = newest.at(now, expectation(table, shop.quality)) if newest else None
            found.append(Standing(table, version, kept, refused))
    return found
