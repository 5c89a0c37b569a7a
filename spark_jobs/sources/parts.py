"""What a source consists of: its parts (a file, or one answer of a database), each read once.

A part is known by path, size and time of change; where these differ from what was last read, by the digest of its content. So a
file that was copied, moved or touched is not read again, and one whose content changed is, also back to what it was once.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from features.mapping import FILE_FORMATS, Source
from infra.errors import IngestError, TableContractError
from infra.lake import foreign_table
from infra.postgres import SCHEME, address, with_passfile
from spark_jobs.sources import arrow_files, csv_files, explode, json_lines, postgres
from spark_jobs.sources.seen import Seen
from spark_jobs.sources.text import COMPRESSIONS

_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".dat": "csv",
    ".inter": "csv",
    ".item": "csv",
    ".user": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
ENDINGS = tuple(_FORMATS)


@dataclass(frozen=True)
class Part:
    """One piece of a source.

    `schema`: its columns, `cursor`: how far the source is read with it; where that is known before the rows are read.
    """

    source: Source
    name: str
    size: int
    modified: datetime | None
    digest: str
    schema: pa.Schema | None
    batches: Callable[[], Iterator[pa.RecordBatch]]
    cursor: str | None = None


def file_format(path: Path) -> str | None:
    """The format of a file by the ending of its name, None for one that is not ours; text may be compressed (`.csv.gz`)."""
    is_compressed = path.suffix.lower() in COMPRESSIONS
    found = _FORMATS.get((path.with_suffix("") if is_compressed else path).suffix.lower())
    return None if is_compressed and found == "parquet" else found


def files_in(folder: Path) -> list[Path]:
    """The files of a folder and of those in it, in order; names that begin with `.` or `_` are set aside."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    )


def find_parts(source: Source, folder: Path, seen: Seen) -> tuple[list[Part], int]:
    """The parts of a source that were not read yet, in order of their names, and the number of those that were.

    Args:
        folder: the shop's project folder, where relative paths start and own readers lie.

    Raises:
        IngestError: nothing is at the path, or a part cannot be opened or exploded.
    """
    if source.format == "postgres":
        new, skipped = [_postgres_part(source, folder, seen)], 0
    elif source.format == "delta":
        new, skipped = _delta_parts(source, folder, seen)
    else:
        new, skipped = _file_parts(source, folder, seen)
    return [_exploded(part, source.explode) for part in new] if source.explode else new, skipped


def resolve(source: Source, folder: Path) -> Path:
    """The source's path; a relative one starts at the shop's folder."""
    path = Path(source.path or "").expanduser()
    return path if path.is_absolute() else folder / path


def _exploded(part: Part, column: str) -> Part:
    """The part with a record for each element of its lists."""
    schema = None if part.schema is None else explode.schema(part.schema, column, part.name)
    return replace(part, schema=schema, batches=lambda: explode.batches(part.batches(), column, part.name))


def _file_parts(source: Source, folder: Path, seen: Seen) -> tuple[list[Part], int]:
    known, digests = seen.parts(source.name), seen.digests(source.name)
    new, skipped = [], 0
    for path in _files(source, folder):
        stat = path.stat()
        modified = datetime.fromtimestamp(stat.st_mtime, UTC)
        last = known.get(str(path))
        if last and (last["size"], last["modified"]) == (stat.st_size, modified):
            skipped += 1
            continue
        if stat.st_size == 0:
            raise IngestError(f"{path} is empty (0 bytes), expected at least a header; export it again or take it away.")
        digest = _digest(path)
        if digest == last["digest"] if last else digest in digests:
            skipped += 1
            continue
        schema, batches = _reader(source, path, folder)
        new.append(Part(source, str(path), stat.st_size, modified, digest, schema, batches))
        digests.add(digest)
    return new, skipped


def _files(source: Source, folder: Path) -> list[Path]:
    path = resolve(source, folder)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in files_in(path) if source.format not in FILE_FORMATS or file_format(file) == source.format]
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())  # noqa: PTH207  (absolute patterns)
    if not found:
        raise IngestError(f"source {source.name}: no {source.format} file at {path}; check `path` in shop.yaml.")
    return found


def _reader(source: Source, path: Path, folder: Path) -> tuple[pa.Schema | None, Callable[[], Iterator[pa.RecordBatch]]]:
    if source.format == "csv":
        return csv_files.schema(source, path), lambda: csv_files.batches(source, path)
    if source.format == "jsonl":
        return None, lambda: json_lines.batches(source, path)
    if source.format == "parquet":
        return arrow_files.parquet_schema(path), lambda: arrow_files.parquet_batches(path)
    module = _own_reader(source.format, folder)
    return None, lambda: module.batches(source, path)


def _own_reader(name: str, folder: Path) -> ModuleType:
    """A reader of the shop's own: `readers/<name>.py` with `batches(source, path)` that yields Arrow record batches."""
    file = folder / "readers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"shop_reader_{name}", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise IngestError(f"format {name!r}: expected {', '.join(FILE_FORMATS)}, postgres or a reader at {file}; there is none.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _delta_parts(source: Source, folder: Path, seen: Seen) -> tuple[list[Part], int]:
    """Each file of a Delta table is a part: it never changes, only comes and goes; one that came back (RESTORE) is read again.

    Where the files alone do not say the rows (deletion vectors, column mapping) a whole version is one part.

    Raises:
        IngestError: there are new files, files that were read are gone, and rows have no ids: who rewrites a table (OPTIMIZE,
            deletes) puts old rows into new files.
    """
    uri = str(source.path) if "://" in str(source.path) else str(resolve(source, folder))
    table = foreign_table(uri)
    schema = table.schema
    readers: dict[str, Callable[[], Iterator[pa.RecordBatch]]] = {}
    if table.fragments is None:
        readers[f"@{table.version}"] = table.scan
    else:
        readers |= {name: partial(arrow_files.fragment_batches, part, schema) for name, part in table.fragments.items()}
    digests, present = seen.digests(source.name), _files_when_read(uri, source, seen)
    new, names = [], set()
    for name, batches in sorted(readers.items()):
        digest = hashlib.sha256(f"{uri}#{name}".encode()).hexdigest()
        part_name = uri if table.fragments is None else f"{uri}/{name}"
        names.add(part_name)
        if digest not in digests or (present is not None and name not in present):
            new.append(Part(source, part_name, 0, None, digest, schema, batches, f"@{table.version}"))
    gone = sorted(seen.parts(source.name).keys() - names)
    bare = source.bare
    if new and gone and bare:
        raise IngestError(
            f"source {source.name}: {gone[0]} was read before and is no longer part of the Delta table, and {bare.name} has no "
            f"{bare.row_id}: where a table is rewritten (OPTIMIZE, deletes), rows that were read come back in new files and would "
            "be counted twice. Say `identical: drop`, or deliver new rows in a table that is only appended to."
        )
    return new, len(readers) - len(new)


def _files_when_read(uri: str, source: Source, seen: Seen) -> Collection[str] | None:
    """The files of the version of a Delta table in which something was read last; None where that is not known any more."""
    version = seen.cursor(source.name, f"{uri}/")
    try:
        return foreign_table(uri, version=int(version[1:])).fragments if version else None
    except TableContractError:
        return None


def _postgres_part(source: Source, folder: Path, seen: Seen) -> Part:
    cursor, url = seen.cursor(source.name, SCHEME), str(source.url)
    reading = source.model_copy(update={"url": with_passfile(url, folder)})
    schema = postgres.schema(reading)
    if source.cursor:
        if source.cursor not in schema.names:
            raise IngestError(f"source {source.name}: the query has no column `{source.cursor}`, which `cursor` names.")
        if arrow_files.family(schema.field(source.cursor).type) not in ("number", "time"):
            raise IngestError(
                f"source {source.name}: cursor `{source.cursor}` holds text; it needs a number or a time that only grows."
            )
        bare = source.bare
        if bare and pa.types.is_date(schema.field(source.cursor).type):
            raise IngestError(
                f"source {source.name}: cursor `{source.cursor}` holds dates, and {bare.name} has no {bare.row_id}: of a day that was "
                f"read in part the rest would be lost or all counted twice. Map {bare.row_id} or take a column that tells rows apart."
            )
    digest = hashlib.sha256(f"{source.name}#{cursor}#{seen.num_reads(source.name)}".encode()).hexdigest()
    return Part(
        source,
        address(url),
        0,
        None,
        digest,
        schema,
        lambda: postgres.batches(reading, after=cursor),
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
