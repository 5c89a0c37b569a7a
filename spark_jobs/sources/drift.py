"""How a source's columns differ from what the mapping needs and from what they were: found before anything is written."""

from __future__ import annotations

import difflib
import re

from features.mapping import Source
from features.tables import Table
from infra.errors import IngestError
from spark_jobs.sources.seen import Seen

_IDENTIFIER = re.compile(
    r"(?i)e-?_?\s?mail|phone|mobile|telefon|address|adresse|stra(ss|ß)e|street|iban|card.?(no|num)|passport|"
    r"(first|last|full|sur|vor|nach).?name|birth|geburt|邮箱|手机|电话|地址|姓名|身份证|生日"
)


def check_needed(source: Source, columns: dict[str, str], where: str) -> None:
    """Every column that the mapping names is there.

    JSON lines may leave a key out everywhere, so there only what a required column is made of has to be.

    Args:
        columns: column -> family of types, of one part.
        where: the part, for the message.

    Raises:
        IngestError: naming the column, the table it is for, and the nearest name there is.
    """
    for mapping in source.tables:
        for target, value in mapping.columns.items():
            if source.format == "jsonl" and target not in mapping.declared.required:
                continue
            for name in sorted(value.reads - columns.keys()):
                near = difflib.get_close_matches(name, columns, 1)
                raise IngestError(
                    f"{where}: no column `{name}`, which {mapping.table}.{target} of source {source.name} is made of; "
                    f"it has {', '.join(columns)}. "
                    + (f"Is it `{near[0]}` now? " if near else "")
                    + "Correct the file or shop.yaml."
                )


def check_changes(source: Source, columns: dict[str, str], seen: Seen, kept: set[str]) -> tuple[list[str], list[str]]:
    """Compare the columns with those of earlier ingests. From JSON lines none vanishes: any line may leave a key out.

    Args:
        kept: columns beyond the mapping that the raw table keeps.

    Returns:
        (new columns, notices about changes that touch nothing)

    Raises:
        IngestError: a column that is used has vanished or changed its family of types.
    """
    known = seen.columns(source.name)
    notices = []
    gone = known.keys() - columns.keys() if source.format != "jsonl" else set()
    for name in sorted(gone):
        if name in kept:
            raise IngestError(
                f"source {source.name}: column `{name}` has vanished; the raw table keeps it since it came up. "
                "Deliver it again, empty if need be."
            )
        notices.append(f"source {source.name}: column `{name}` has vanished; nothing reads it.")
    for name in sorted(known.keys() & columns.keys()):
        if known[name] == columns[name] or name in source.retyped:
            continue
        told = f"source {source.name}: column `{name}` held {known[name]} and now holds {columns[name]}"
        if name in kept or _is_used(source, name):
            raise IngestError(f"{told}; correct the export, or list it under `retyped` in shop.yaml once you have looked at it.")
        notices.append(f"{told}; nothing reads it.")
    return (sorted(columns.keys() - known.keys()) if known else []), notices


def extras(
    source: Source, table: Table, columns: dict[str, str], new: list[str], stored: set[str]
) -> tuple[dict[str, str], list[str]]:
    """Columns nobody mapped that the raw table keeps as text: those it keeps already, and new ones.

    Args:
        stored: columns that the raw table has beyond its declaration.

    Returns:
        (source column -> raw column, notices)
    """
    mapped = {name for mapping in source.tables for value in mapping.columns.values() for name in value.reads}
    found, notices = {}, []
    for name in sorted(columns):
        target = re.sub(r"\W+", "_", name).strip("_").lower()
        target = f"source_{target}" if target in table.names else target
        if name in mapped or not (target in stored or name in new):
            continue
        if looks_personal(name) and target not in stored:
            notices.append(f"source {source.name}: new column `{name}` looks like a direct identifier and is not kept.")
            continue
        if name in new:
            notices.append(f"source {source.name}: new column `{name}` is kept as {table.path}.{target}; map it to use it.")
        found[name] = target
    return found, notices


def looks_personal(name: str) -> bool:
    """Whether a column's name says that it identifies a person directly."""
    return _IDENTIFIER.search(name) is not None


def _is_used(source: Source, name: str) -> bool:
    values = [value for mapping in source.tables for value in (*mapping.columns.values(), mapping.currency) if value]
    text = [value.sql for value in values if value.sql] + [m.where for m in source.tables if m.where] + list(source.drop.values())
    return any(name in value.reads for value in values) or any(name in part for part in text)
