"""The one way in for what a running shop tells: kept in the spool, then committed to the tables.

The HTTP gateway and the stream both take rows here. Any number of processes may take rows and drain at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, ITEM_ID
from features.fresh.applied import Applied
from features.fresh.facts import Delivery, Row
from features.fresh.spool import NUMBER, SPOOL, Entry, Known, Receipt, Spool
from features.online.packing import to_microseconds
from features.online.rows import Rows, open_rows
from features.shop import Shop
from features.tables import ARROW_TYPES, ITEMS, QUARANTINE_SCHEMA, RAW_TABLES
from infra import clock, upkeep
from infra.home import Home
from infra.journal import Journal
from infra.lake import Lake, digest_of
from infra.settings import Settings

_MOST_DRAINED = 50_000
"""Entries of one commit: what fits in memory many times over."""


class Intake:
    """What one shop is told.

    Args:
        shop: whose local days count.
        rows: the online store.
        mode: the shop's clock, as `infra.clock` names it.
        now: the present instant of that clock.
    """

    def __init__(self, settings: Settings, shop: Shop, lake: Lake, rows: Rows, mode: str, now: Callable[[], datetime]) -> None:
        self.settings = settings
        self.home = Home(settings)
        self.lake = lake
        self.mode = mode
        self.now = now
        self.spool = Spool(self.home.spool / f"{lake.shop}.db")
        self.applied = Applied(self.spool, rows, lake, shop.zone)

    @classmethod
    def of(cls, settings: Settings, shop: Shop, lake: Lake) -> Self:
        """As a command has it: the online store and the clock are those of the settings."""
        mode = settings.now or shop.now
        return cls(settings, shop, lake, open_rows(settings, shop.name), mode, lambda: clock.now(mode, lake))

    @property
    def present(self) -> datetime:
        """The instant that facts must not lie after. A `data` clock only follows facts, so there it is the machine's."""
        return datetime.now(UTC) if self.mode == "data" else self.now()

    def take(self, deliveries: Sequence[Delivery]) -> list[Receipt]:
        """Keep what is told; once this returns it is on the disk and in the online rows.

        Raises:
            EngineError: the spool cannot be written: nothing was kept. Or the online store cannot: all was kept; told again, it is
                a duplicate and gets into the rows.
        """
        now = to_microseconds(self.now())

        def known_at(event: int | None) -> int:
            return max(now, event) if self.mode == "data" and event is not None else now

        patched = sorted({told.key for delivery in deliveries for told in delivery.told if told.is_patch})
        receipts = self.spool.append(deliveries, known_at, time.time(), self._items(patched))
        self.applied.apply(receipts[0].last)
        return receipts

    def catch_up(self) -> None:
        """Put into the online rows what was kept by somebody who died before it got there (EngineError as in `take`)."""
        self.applied.apply(self.spool.last())

    def prune(self, before: float) -> int:
        """Forget what was written before this time (seconds since 1970) and is where it belongs; how many rows."""
        return self.spool.prune(before, self.applied.number())

    def drain(self) -> dict[str, int]:
        """Commit what waits in the spool to the tables, each entry exactly once, whatever was killed before.

        A commit says up to which entry it goes; what the spool says of how far it is may lag behind that. Where nothing was ever
        told there is no spool, and none is made.

        Returns:
            Table -> rows that were committed.

        Raises:
            HomeError: an ingest or another drain holds the tables.
            TableContractError: a stored table is not as it is declared.
        """
        rows: dict[str, int] = {}
        if not self.spool.path.exists():
            return rows
        last = self.spool.last()  # what comes meanwhile is for the next drain
        if last <= self.spool.progress().drained:
            return rows
        with self.home.lock(f"ingest-{self.lake.shop}"):
            Journal(self.lake, "ingest").recover()  # to a writer, files that are not committed yet are a dead one's
            progress = self.spool.progress()
            drained, versions = progress.drained, dict(progress.versions)
            while drained < last and (entries := self.spool.after(drained, _MOST_DRAINED)):
                paths = sorted({entry.path for entry in entries})
                for path in paths:
                    committed = self._committed(path, progress.id, versions.get(path))
                    new = [entry for entry in entries if entry.path == path and entry.number > committed]
                    if new:
                        self._commit(path, progress.id, new, versions.get(path))
                        rows[path] = rows.get(path, 0) + len(new)
                    versions[path] = self.lake.version(path)
                drained = entries[-1].number
                self.spool.note(drained, versions)
            for path in rows:
                upkeep.tidy(self.lake, path)
        return rows

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _items(self, keys: Sequence[str]) -> Known:
        """The latest state of these items in the table, with its instant."""
        if not keys or self.lake.version(ITEMS.path) is None:
            return {}
        names = [name for name in ITEMS.names if name in self.lake.dataset(ITEMS.path).schema.names]
        found = self.lake.read(ITEMS.path, columns=names, filter=pc.field(ITEM_ID).isin(keys))
        found = found.sort_by([(EVENT_TIMESTAMP, "ascending"), (CREATED_TIMESTAMP, "ascending")])
        states: dict[str, tuple[int, Row]] = {}
        for row in found.to_pylist():
            instant = to_microseconds(row.pop(EVENT_TIMESTAMP))
            row.pop(CREATED_TIMESTAMP)
            states[row[ITEM_ID]] = (instant, {name: _plain(value) for name, value in row.items() if value is not None})
        return states

    def _committed(self, path: str, spool: str, since: int | None) -> int:
        """Number of the last entry that is in the table; commits up to version `since` are known of."""
        version = self.lake.version(path)
        if version is None or version == since:
            return 0
        newer = self.lake.history(path, None if since is None else max(version - since, 1))
        return max((int(entry[NUMBER]) for entry in newer if entry.get(SPOOL) == spool), default=0)

    def _commit(self, path: str, spool: str, entries: Sequence[Entry], since: int | None) -> None:
        first, last = entries[0].number, entries[-1].number
        digest = digest_of(SPOOL, spool, path, first, last)
        schema = QUARANTINE_SCHEMA
        if declared := RAW_TABLES.get(path.removeprefix("raw/")):
            kept = list[pa.Field]()
            if self.lake.version(path) is not None:
                self.lake.add_columns(path, declared.schema)
                kept = [field for field in self.lake.dataset(path).schema if field.name not in declared.names]
            schema = pa.schema([*declared.schema, *kept])
        rows = pa.table({field.name: _column(field, entries, digest) for field in schema}, schema=schema)
        metadata = {SPOOL: spool, NUMBER: str(last)}
        self.lake.write(path, rows, "append", digest=digest, read_version=since, metadata=metadata)


def _column(field: pa.Field, entries: Sequence[Entry], digest: str) -> pa.Array:
    """One column of the entries' rows."""
    if field.name == "ingest":
        return pa.array([digest] * len(entries), field.type)
    if field.name == CREATED_TIMESTAMP:
        values: list[Any] = [entry.received for entry in entries]
    elif field.name == EVENT_TIMESTAMP:
        values = [entry.row.get(EVENT_TIMESTAMP, entry.instant) for entry in entries]
    else:
        values = [entry.row.get(field.name) for entry in entries]
    text = field.type == ARROW_TYPES["money"]
    return pa.array(values, pa.string() if text else pa.int64() if pa.types.is_timestamp(field.type) else field.type).cast(
        field.type
    )


def _plain(value: Any) -> Any:
    """A value of a table as a row of the spool holds it."""
    if isinstance(value, datetime):
        return to_microseconds(value)
    return value if isinstance(value, str) else str(value)
