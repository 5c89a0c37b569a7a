"""Lists become records: one per element, which takes the place of its list, with its place in it (1, 2, ...) in `position`.

An empty list is one record of place 0, dropped by a rule of its own, so that an ingest accounts for it. Where the list itself is
null its record has neither element nor place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import IngestError
from spark_jobs.sources.arrow_files import twins

POSITION = "position"
EMPTY = "empty list"
"""Name of the rule by which empty lists go."""
_LISTS = 1024  # at a time: lists have any length


def is_list(type: pa.DataType) -> bool:
    """Whether a column of this type holds lists."""
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type))


def schema(columns: pa.Schema, name: str, where: str) -> pa.Schema:
    """The columns of the records that the lists in column `name` become.

    Args:
        where: the part, for the message.

    Raises:
        IngestError: there is no such column, it holds no lists, or another column is called `position`.
    """
    if name not in columns.names:
        raise IngestError(
            f"{where}: no column `{name}`, which `explode` names; it has {', '.join(columns.names)}. Correct shop.yaml."
        )
    index = columns.get_field_index(name)
    kind = columns.field(index).type
    if not is_list(kind):
        raise IngestError(f"{where}: `explode` expected lists in column `{name}`, got {kind}; take `explode` out of shop.yaml.")
    if pair := twins([*columns.names, POSITION]):
        raise IngestError(f"{where}: column `{pair[0]}` bears the name of the place in a list, which `explode` adds; rename it.")
    return columns.set(index, pa.field(name, kind.value_type)).append(pa.field(POSITION, pa.int64()))


def batches(lists: Iterable[pa.RecordBatch], name: str, where: str) -> Iterator[pa.RecordBatch]:
    """The records of the rows that hold lists in column `name`, in their order.

    Raises:
        IngestError: as `schema`.
    """
    for batch in lists:
        made = schema(batch.schema, name, where)
        for start in range(0, batch.num_rows, _LISTS):
            yield _records(batch.slice(start, _LISTS), made, name)


def _records(rows: pa.RecordBatch, made: pa.Schema, name: str) -> pa.RecordBatch:
    lists = rows.column(name)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    counts = np.maximum(lengths, 1)
    row = np.repeat(np.arange(len(lists)), counts)
    has_element = lengths[row] > 0
    place = np.arange(len(row)) - (np.cumsum(counts) - counts)[row] + 1
    elements = pa.array(np.cumsum(has_element) - 1, mask=~has_element)
    columns = {field.name: rows.column(index).take(row) for index, field in enumerate(rows.schema) if field.name != name}
    columns[name] = pc.list_flatten(lists).take(elements)
    columns[POSITION] = pa.array(np.where(has_element, place, 0), pa.int64(), mask=lists.is_null().to_numpy(False)[row])
    return pa.RecordBatch.from_arrays([columns[column] for column in made.names], schema=made)
