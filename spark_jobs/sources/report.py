"""The account of an ingest: what became of every row that was read."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.table import Table


@dataclass
class Line:
    """What became of the new rows of one source in one raw table. `accepted` includes the corrections."""

    source: str
    table: str
    read: int
    accepted: int = 0
    corrections: int = 0
    duplicates: int = 0
    quarantined: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    identical: int = 0

    @property
    def quarantine_share(self) -> float:
        """Quarantined rows among those that no declared rule dropped."""
        return self.quarantined / max(1, self.read - sum(self.dropped.values()))

    def check(self) -> None:
        """read = accepted + duplicates + quarantined + dropped, or RuntimeError."""
        told = self.accepted + self.duplicates + self.quarantined + sum(self.dropped.values())
        if told != self.read:
            raise RuntimeError(f"{self.source} -> {self.table}: {self.read} rows read, {told} accounted for")


@dataclass
class Report:
    """What an ingest did or, with `check`, would do."""

    shop: str
    check: bool
    lines: list[Line] = field(default_factory=list)
    parts_read: int = 0
    parts_skipped: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def table(self) -> Table:
        """The account as a table for people."""
        table = Table(title=f"Ingest of shop {self.shop}" + (" (check only)" if self.check else ""), box=SIMPLE_HEAD, padding=0)
        table.add_column("source, raw table", overflow="fold")
        for name in ("read", "accepted", "corrections", "duplicates", "quarantined", "dropped"):
            table.add_column(name, justify="right", no_wrap=True)
        for line in self.lines:
            counts = (line.read, line.accepted, line.corrections, line.duplicates, line.quarantined, sum(line.dropped.values()))
            table.add_row(f"{line.source}\n  {line.table}", *[f"{count:,}" for count in counts])
        return table

    def remarks(self) -> list[str]:
        """What the table does not say: rules, reasons, identical rows, notices."""
        told = []
        for line in self.lines:
            name = f"{line.source} -> {line.table}"
            told += [f"{name}: {count:,} dropped by rule `{rule}`" for rule, count in _largest(line.dropped)]
            told += [f"{name}: {count:,} quarantined, {reason}" for reason, count in _largest(line.reasons)]
            if line.identical:
                told.append(f"{name}: {line.identical:,} rows equal another one and have no id; they are kept")
        return told + self.notices


def _largest(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
