"""`shopgraph init`: a shop's project folder with a commented shop.yaml, guessed from the headers and samples of its data."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from features.mapping import TextFormat
from features.shop import Shop
from features.tables import EVENTS, RAW_TABLES
from infra.clock import FACTS
from infra.errors import IngestError, SettingsError
from infra.home import Home, check_shop_name
from infra.lake import foreign_table
from infra.postgres import address, with_passfile, without_password
from spark_jobs.sources import (
    amazon_attributes,
    amazon_sequences,
    cdnow,
    csv_files,
    diginetica,
    explode,
    online_retail,
    online_shopping_10_cats,
    postgres,
    sasrec,
    womens_clothing,
)
from spark_jobs.sources.arrow_files import PROBLEM, ROW, TEXT, parquet_batches, parquet_schema, plain, to_plain
from spark_jobs.sources.drift import looks_personal
from spark_jobs.sources.guess import UNTOLD, Guess, guess_tables, number_signs
from spark_jobs.sources.headless import headless
from spark_jobs.sources.json_lines import batches as json_batches
from spark_jobs.sources.json_lines import is_keyed
from spark_jobs.sources.parts import ENDINGS, file_format, files_in
from spark_jobs.sources.text import guess_encoding, open_text, undecodable

KNOWN_SETS: tuple[ModuleType, ...] = (
    online_retail,
    online_shopping_10_cats,
    womens_clothing,
    amazon_sequences,
    amazon_attributes,
    diginetica,
    cdnow,
    sasrec,
)
FOLDERS = ("features", "recipes", "rules", "readers")
_SAMPLE_ROWS = 1000
_HEAD_LINES = 100
_TOLD_COLUMNS = 20


@dataclass(frozen=True)
class _Sample:
    """How a source reads, and the first values of its columns, without those that are empty."""

    reads: dict[str, Any]
    columns: list[str]
    values: dict[str, list[Any]]
    num_rows: int


def init_shop(
    home: Home,
    name: str,
    origins: Sequence[str],
    currency: str | None = None,
    time_zone: str | None = None,
    languages: Sequence[str] = (),
    now: str | None = None,
) -> Path:
    """Write the project folder of a new shop.

    Args:
        origins: files, folders, Delta tables or postgresql:// addresses.
        currency, time_zone, languages, now: of the shop; default: guessed, and marked as a guess.

    Returns:
        The path of its shop.yaml.

    Raises:
        SettingsError: there is such a shop already.
        IngestError: nothing is at an origin, or nothing in it looks like a raw table.
    """
    home.create()
    folder = home.shop(check_shop_name(name))
    path = folder / "shop.yaml"
    if path.exists():
        raise SettingsError(f"{path} exists already; edit it, or take it away first.")
    sources, shops, notes = CommentedSeq(), [], []
    for origin in origins:
        for sample in _samples(origin, folder):
            known = _known(sample)
            if known:
                shops.append(known.SHOP)
                sources.extend(_known_sources(known, sample))
            else:
                source, note = _guessed_source(sample, [s["name"] for s in sources])
                if source is None:
                    notes.append(note)
                else:
                    sources.append(source)
                    shops.append(_traits(sample, source))
    if not sources:
        told = ", ".join(address(origin) if _is_database(origin) else origin for origin in origins)
        raise IngestError(f"nothing in {told} looks like a raw table. {' '.join(notes)} See docs/bring-your-data.md.")
    said = {"currency": currency, "time_zone": time_zone, "now": now}
    document = _document(name, shops, said, list(languages), sources, notes)
    text = _dump(document)
    for child in FOLDERS:
        (folder / child).mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    Shop.read(draft)
    draft.replace(path)
    return path


# -- what lies at an origin -------------------------------------------------------------------------------------------------


def _is_database(origin: str) -> bool:
    return origin.startswith(("postgresql://", "postgres://"))


def _samples(origin: str, folder: Path) -> list[_Sample]:
    if _is_database(origin):
        return _database_samples(origin, folder)
    path = Path(origin).expanduser().resolve()
    if (path / "_delta_log").is_dir():
        table = foreign_table(str(path))
        return [_typed_sample({"format": "delta", "path": str(path)}, table.schema, table.scan())]
    if path.is_file():
        return [_file_sample(path)]
    if not path.is_dir():
        raise IngestError(f"there is nothing at {path}; give a file, a folder or postgresql://...")
    deltas = sorted(log.parent for log in path.rglob("_delta_log") if log.is_dir())
    files = [file for file in files_in(path) if file_format(file) and not any(delta in file.parents for delta in deltas)]
    samples = [sample for delta in deltas for sample in _samples(str(delta), folder)] + _grouped(path, files)
    if not samples:
        raise IngestError(f"no CSV, JSON lines, Parquet or Delta data in {path}.")
    return samples


def _grouped(folder: Path, files: Sequence[Path]) -> list[_Sample]:
    """Files with the same header are one source, read by a pattern so that later files come along."""
    groups: dict[tuple[str, ...], list[tuple[Path, _Sample]]] = {}
    for file in files:
        sample = _file_sample(file)
        how = [str(sample.reads.get(key)) for key in ("format", "encoding", "delimiter", "header", "keyed", "explode")]
        groups.setdefault((*how, *sorted(sample.columns)), []).append((file, sample))
    found = []
    for members in groups.values():
        paths = [path for path, _ in members]
        pattern = _pattern(folder, paths, len(groups) == 1)
        for path, sample in members[:1] if pattern else members:
            found.append(replace(sample, reads={**sample.reads, "path": str(pattern or path)}))
    return found


def _pattern(folder: Path, paths: Sequence[Path], alone: bool) -> Path | None:
    """One path that means exactly these files today: the folder, or a glob in it."""
    suffixes = {path.suffix.lower() for path in paths}
    if alone and len(suffixes) == 1:
        return folder
    if len(paths) == 1:
        return paths[0]
    stem = _common_prefix([path.name for path in paths])
    if stem and len(suffixes) == 1 and len({path.parent for path in paths}) == 1:
        glob = f"{stem}*{paths[0].suffix}"
        if sorted(paths[0].parent.glob(glob)) == sorted(paths):
            return paths[0].parent / glob
    return None


def _common_prefix(names: Sequence[str]) -> str:
    prefix = names[0]
    for name in names[1:]:
        while not name.startswith(prefix):
            prefix = prefix[:-1]
    return prefix


def _file_sample(path: Path) -> _Sample:
    form = file_format(path)
    if form is None:
        raise IngestError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}.")
    if path.stat().st_size == 0:
        raise IngestError(f"{path} is empty (0 bytes), expected at least a header; export it again or take it away.")
    reads: dict[str, Any] = {"format": form, "path": str(path)}
    if form == "parquet":
        return _typed_sample(reads, parquet_schema(path), parquet_batches(path))
    encoding = guess_encoding(path)
    reads |= {"encoding": encoding} if encoding != "utf-8" else {}
    if form == "csv":
        head = _head(path, encoding)
        reads |= headless(path, head) or _delimiter(head)
    text = TextFormat(**{name: value for name, value in reads.items() if name in TextFormat.model_fields})
    if form == "csv":
        return _sample(reads, csv_files.batches(text, path), csv_files.header(text, path))
    if is_keyed(path, encoding, list if path.name == amazon_attributes.FILE else dict):
        reads["keyed"] = True
        text = text.model_copy(update={"keyed": True})
    sample = _sample(reads, json_batches(text, path))
    if not sample.columns:
        raise IngestError(f"{path}: expected a JSON object on every line (JSON lines), found none in its first lines.")
    return sample


def _head(path: Path, encoding: str) -> list[str]:
    try:
        with open_text(path, encoding) as file:
            return [line.rstrip("\r\n") for line in islice(file, _HEAD_LINES)] or [""]
    except UnicodeError:
        raise IngestError(undecodable(path, encoding)) from None


def _delimiter(head: Sequence[str]) -> dict[str, Any]:
    delimiter = max(",;\t|", key=head[0].count)
    return {"delimiter": delimiter} if delimiter != "," else {}


def _typed_sample(reads: dict[str, Any], schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> _Sample:
    """A file of an id and a list is read as sequences: a record for each element of a list."""
    lists = [field.name for field in schema if explode.is_list(field.type)]
    if len(schema) == 2 and len(lists) == 1:
        where = reads["path"]
        columns = explode.schema(schema, lists[0], where).names
        return _sample({**reads, "explode": lists[0]}, explode.batches(batches, lists[0], where), columns)
    return _sample(reads, batches, schema.names)


def _sample(reads: dict[str, Any], batches: Iterable[pa.RecordBatch], columns: Sequence[str] = ()) -> _Sample:
    values: dict[str, list[Any]] = {name: [] for name in columns}
    num_rows = 0
    for batch in islice(batches, 1):
        num_rows = min(batch.num_rows, _SAMPLE_ROWS)
        for index, name in enumerate(batch.schema.names):
            if name not in (ROW, PROBLEM, TEXT):
                column = batch.column(index).slice(0, _SAMPLE_ROWS)
                column = to_plain(column, plain(column.type))
                values[name] = [value for value in column.to_pylist() if value is not None and value != ""]
    decimal, thousands = number_signs(values.values())
    signs = {"decimal": decimal, "thousands": thousands} if (decimal, thousands) != (".", "") else {}
    return _Sample({**reads, **signs}, list(values), values, num_rows)


# -- databases --------------------------------------------------------------------------------------------------------------


def _database_samples(url: str, folder: Path) -> list[_Sample]:
    """Tables of a database; order lines with the columns of their head where they fit better together."""
    bare = without_password(url, folder)
    url = with_passfile(bare, folder)
    tables, keys = postgres.tables(url), postgres.foreign_keys(url)
    samples: list[tuple[str, _Sample]] = []
    joined: set[str] = set()
    for table, columns in tables.items():
        alone = _query_sample(url, f"SELECT * FROM {table}", table)  # noqa: S608  (quoted names of the catalogue)
        variants: list[tuple[_Sample, str | None]] = [(alone, None)]
        for line, column, head, head_column in keys:
            more = [f'head."{name}"' for name in tables.get(head, []) if name not in columns]
            if line == table and more:
                query = (
                    f"SELECT {', '.join(['line.*', *more])} FROM {line} AS line "  # noqa: S608
                    f'JOIN {head} AS head ON line."{column}" = head."{head_column}"'
                )
                variants.append((_query_sample(url, query, table), head))
        best, join = max(variants, key=lambda variant: _fit(variant[0]))
        if not _fit(best)[0]:  # states need no join
            best, join = variants[0]
        samples.append((table, best))
        joined |= {join} if join else set()
    return [replace(sample, reads={**sample.reads, "url": bare}) for table, sample in samples if table not in joined]


def _fit(sample: _Sample) -> tuple[bool, int]:
    """How well a sample fits a raw table; facts before states, then by columns."""
    guesses = guess_tables(sample.columns, sample.values)
    return (bool(guesses) and guesses[0].table in ("orders", "events"), len(guesses[0].columns) if guesses else 0)


def _query_sample(url: str, query: str, table: str) -> _Sample:
    rows = postgres.sample(url, query, _SAMPLE_ROWS)
    reads = {"format": "postgres", "url": url, "query": query, "table": table}
    return _sample(reads, rows.combine_chunks().to_batches(), rows.schema.names)


def _cursor(sample: _Sample, guess: Guess) -> str | None:
    """A column that only grows and is never empty: when a row was last changed; where no column tells that, its own number."""
    changed = [name for name in sample.columns if re.fullmatch(r"(updated|modified|changed|geaendert)_?(at|on|am)?", name.lower())]
    own = [guess.columns.get(name) for name in ("order_line_id", "event_id", "review_id")]
    for name in changed or [name for name in own if isinstance(name, str)]:
        values = sample.values[name]
        if len(values) == sample.num_rows > 0 and all(isinstance(value, (int, datetime)) for value in values):
            return name
    return None


# -- what is written --------------------------------------------------------------------------------------------------------


def _known(sample: _Sample) -> ModuleType | None:
    """The public set that a sample is of, by its columns and, where these are anybody's words, by how it reads."""
    columns, reads = set(sample.columns), sample.reads.items()
    return next((known for known in KNOWN_SETS if columns >= known.COLUMNS and reads >= known.READS.items()), None)


def _known_sources(known: ModuleType, sample: _Sample) -> CommentedSeq:
    """The mapping of a public set, set to where it lies here and how it is written."""
    sources: CommentedSeq = _yaml().load(known.MAPPING)["sources"]
    for source in sources:
        for key, value in sample.reads.items():
            if key in source:
                source[key] = _as_yaml(value)
            else:
                source.insert(len(source) - 1, key, _as_yaml(value))
        if sample.reads["format"] == "csv" and known.TEXT_TIME:
            for table in source["tables"]:
                columns = table["columns"]
                columns["event_timestamp"] = _flow({"from": columns["event_timestamp"], "format": known.TEXT_TIME})
    return sources


def _guessed_source(sample: _Sample, taken: Sequence[str]) -> tuple[CommentedMap | None, str]:
    """The source a sample stands for, or why there is none."""
    reads = dict(sample.reads)
    where = reads.pop("table", None) or Path(reads["path"]).name
    guesses = guess_tables(sample.columns, sample.values)
    if not guesses:
        more = len(sample.columns) - _TOLD_COLUMNS
        told = ", ".join(sample.columns[:_TOLD_COLUMNS]) + (f" and {more} more" if more > 0 else "")
        return None, f"{where} (columns {told}) fits no raw table."
    stem = (
        re.sub(r"[^\w-]+", "_", where.replace('"', "").split(".")[-1] if "query" in reads else Path(where).stem).strip("_*")
        or "source"
    )
    name = next(name for name in (stem, *(f"{stem}_{n}" for n in range(2, 1000))) if name not in taken)
    source = CommentedMap({"name": name, **{key: _as_yaml(value) for key, value in reads.items()}})
    if reads["format"] == "postgres":
        cursor = _cursor(sample, guesses[0])
        if cursor:
            source["cursor"] = cursor
            source.yaml_add_eol_comment("only grows: a later run reads what is beyond it; CHECK", "cursor")
    source["tables"] = CommentedSeq([_table(guess) for guess in guesses])
    used = {column for guess in guesses for value in guess.columns.values() for column in _read_by(value)}
    left = [f"{name} (identifies a person)" if looks_personal(name) else name for name in sample.columns if name not in used]
    if left:
        source.yaml_set_comment_before_after_key("tables", before=f"not mapped: {', '.join(left)}", indent=4)
    return source, ""


def _table(guess: Guess) -> CommentedMap:
    columns = CommentedMap()
    for target, value in guess.columns.items():
        columns[target] = _as_yaml(value)
        if guess.comments[target]:
            columns.yaml_add_eol_comment(guess.comments[target], target)
    return CommentedMap({"table": guess.table, "columns": columns})


def _read_by(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [value["from"]] if "from" in value else list(value.get("digest", []))


def _traits(sample: _Sample, source: CommentedMap) -> dict[str, Any]:
    """What the way a file is written says of its shop. A log that names no kinds of act is a data set's, not a running shop's."""
    feeds = source["tables"][0]
    is_act = feeds["table"] == EVENTS.name and "constant" in feeds["columns"]["event_type"]
    now = {"now": "data" if is_act else "wall"} if RAW_TABLES[feeds["table"]].path in FACTS else {}
    text = " ".join([*sample.columns, *(str(value) for values in sample.values.values() for value in values[:20])])
    if sample.reads.get("encoding") == "gb18030" or re.search(r"[\u4e00-\u9fff]", text):
        return {"currency": "CNY", "time_zone": "Asia/Shanghai", "calendars": ["CN"], "languages": ["zh"], **now}
    if sample.reads.get("decimal") == ",":
        return {"currency": "EUR", "time_zone": "Europe/Berlin", "calendars": ["DE"], "languages": ["de"], **now}
    return {**UNTOLD, **now}


def _document(
    name: str,
    traits: Sequence[dict[str, Any]],
    said: dict[str, str | None],
    languages: list[str],
    sources: CommentedSeq,
    notes: Sequence[str],
) -> CommentedMap:
    document = CommentedMap({"name": name})
    comments = {
        "currency": "all money is kept in it",
        "time_zone": "a day is the local day here",
        "now": "wall, data or an ISO time",
    }
    is_known = any(traits[0] is known.SHOP for known in KNOWN_SETS)
    for key in ("currency", "time_zone", "now"):
        document[key] = said[key] or next((trait[key] for trait in traits if key in trait), "wall")
        is_guess = said[key] is None and not is_known and document[key] != "wall"
        document.yaml_add_eol_comment(comments[key] + ("; guessed, CHECK" if is_guess else ""), key)
    document["calendars"] = _flow(traits[0]["calendars"])
    document["languages"] = _flow(languages or list(dict.fromkeys(tag for trait in traits for tag in trait["languages"])))
    document["quarantine_share"] = 0.05
    document.yaml_add_eol_comment("a larger share of bad rows stops the ingest", "quarantine_share")
    document["sources"] = sources
    document.yaml_set_start_comment(
        f"Shop {name}, written by `shopgraph init`. Look through what says CHECK, then `shopgraph --shop {name} ingest --check`.\n"
        "What a mapping can say: docs/bring-your-data.md." + "".join(f"\nLeft out: {note}" for note in notes)
    )
    return document


def _flow(value: dict[str, Any] | list[Any]) -> CommentedMap | CommentedSeq:
    made = CommentedMap(value) if isinstance(value, dict) else CommentedSeq(value)
    if isinstance(value, dict):
        for key, item in value.items():
            made[key] = _as_yaml(item)
    made.fa.set_flow_style()
    return made


def _as_yaml(value: Any) -> Any:
    return _flow(value) if isinstance(value, (dict, list)) else value


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _dump(document: CommentedMap) -> str:
    text = io.StringIO()
    _yaml().dump(document, text)
    return text.getvalue()
