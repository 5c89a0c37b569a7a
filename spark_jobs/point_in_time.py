"""The point-in-time join on Spark, for labels and tables that no single machine holds. Frames equal those of features/offline/frames.py.

Per view, labels and rows become one frame: keys, an instant, and either the label or the row as a struct. A row stands at the
instant from which it is visible, max(event, created), a label at its own time. Within a key, sorted by that instant and labels
last, the greatest row so far by (event, created, position) is what a label sees; expiry and retraction are looked at last, as
features/offline/join.py explains. That is one shuffle and one sort per view, which spills, and costs n log n also where one key
holds many of the rows. Labels are numbered, never named by their values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, RETRACTED, TO_NOTHING
from features.offline.frames import refuse_taken, time_names
from features.offline.labels import Labels, Piece, label_keys, label_times
from features.views import View
from infra.errors import FeatureError, TableContractError
from infra.lake import Lake
from spark_jobs.session import POSITION, read_in_order
from spark_jobs.sources.arrow_files import twins
from spark_jobs.sources.values import quoted

_KEY = "__key_"
"""What stands before the name of a label's key in the type of the views, beside the column as the label has it."""


def join(
    spark: SparkSession, labels: Labels, views: Sequence[View], names: Mapping[str, Mapping[str, str]], lake: Lake
) -> DataFrame:
    """The labels with the feature columns of every view appended, each value as it was visible at the label's time.

    Args:
        names: view -> column -> name in the frame.

    Returns:
        The columns of the labels, `event_timestamp` as microseconds UTC; then per view its columns and its times,
        `<view>__event_timestamp` and `<view>__created_timestamp`, null where nothing was visible; last POSITION, the number of
        the label. Rows are in no order.

    Raises:
        FeatureError: a key or the time is missing or of a type that does not fit, or a feature's name is taken.
        TableContractError: a table was never built, or lacks a declared column.
    """
    refuse_taken(labels.schema.names, views, names)
    given = {view.name: dict(names[view.name]) | time_names(view) for view in views}
    internal = {_KEY + key for view in views for key in view.key_names} | {POSITION}
    both = twins([*labels.schema.names, *(name for view in views for name in given[view.name].values()), *internal])
    if both:
        raise FeatureError(f"the frame would have the columns {both[0]} and {both[1]}, which are one to Spark; rename one.")
    frame = _read(spark, labels, views)
    for view in views:
        frame = _with_view(frame, _rows(spark, lake, view), view, given[view.name])
    return frame.drop(*(name for name in frame.columns if name.startswith(_KEY)))


def write(frame: DataFrame, num_rows: int, folder: Path, parts: int) -> None:
    """Write the frame of so many labels as at most `parts` Parquet files; files in order of their names, rows are in label order.

    Raises:
        FeatureError: a label's time or key does not fit.
    """
    part = F.floor(F.col(POSITION) * parts / max(num_rows, 1)).cast("int")
    placed = frame.repartitionById(parts, part).sortWithinPartitions(POSITION).drop(POSITION)
    try:
        placed.write.mode("append").parquet(str(folder))
    except PySparkException as error:  # a worker's own error comes as the text of its traceback
        told = re.search(r"FeatureError: (.+)", str(error))
        if told is None:
            raise
        raise FeatureError(told[1]) from None
    for leaving in folder.iterdir():  # markers and checksums of Hadoop's
        if leaving.suffix != ".parquet":
            leaving.unlink()


def _read(spark: SparkSession, labels: Labels, views: Sequence[View]) -> DataFrame:
    """Labels with their POSITION and the keys of the views, a task per row group.

    Raises:
        FeatureError: as `join`, where the columns alone tell.
    """
    empty = labels.schema.empty_table()
    schema = _prepared(empty, 0, views).schema
    if not labels.num_rows:
        return spark.createDataFrame(schema.empty_table())

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                piece = Piece(**row)
                position = piece.first
                for rows in labels.batches(piece):
                    yield from _prepared(pa.Table.from_batches([rows]), position, views).to_batches()
                    position += rows.num_rows

    pieces = spark.createDataFrame(
        [(p.file, p.group, p.first, p.num_rows) for p in labels.pieces], "file string, group int, first long, num_rows long"
    )
    return pieces.repartition(len(labels.pieces)).mapInArrow(read, from_arrow_schema(schema, prefer_timestamp_ntz=True))


def _prepared(labels: pa.Table, position: int, views: Sequence[View]) -> pa.Table:
    """Labels with the time in microseconds UTC, their positions from `position` on, and the keys of the views in the views' types."""
    frame = labels.set_column(labels.schema.get_field_index(EVENT_TIMESTAMP), EVENT_TIMESTAMP, label_times(labels))
    keys = {name: key for view in views for name, key in zip(view.key_names, label_keys(labels, view), strict=True)}
    for name, key in keys.items():
        frame = frame.append_column(_KEY + name, key)
    return frame.append_column(POSITION, pa.array(range(position, position + labels.num_rows), pa.int64()))


def _rows(spark: SparkSession, lake: Lake, view: View) -> DataFrame:
    """The rows of the view's table in the view's schema, whether each is retracted, and its POSITION; none with a NULL key.

    Raises:
        TableContractError: the table does not exist or lacks a declared column.
    """
    stored = lake.dataset(view.path).schema
    missing = [name for name in view.schema.names if name not in stored.names]
    if missing:
        raise TableContractError(f"table {view.path} lacks declared column(s) {', '.join(missing)}; rebuild it: `shopgraph build`.")
    has_retracted = RETRACTED in stored.names
    wanted = [stored.field(name) for name in (*view.schema.names, *([RETRACTED] if has_retracted else []))]
    rows = read_in_order(spark, lake, lake.file_uris(view.path), pa.schema(wanted))
    served = from_arrow_schema(view.schema)
    columns = [
        (_nearest(F.col(name)) if pa.types.is_decimal(stored.field(name).type) else F.col(name))
        .cast(served[name].dataType)
        .alias(name)
        for name in view.schema.names
    ]
    retracted = F.col(RETRACTED) if has_retracted else F.lit(None).cast("string")
    known = rows.dropna(subset=list(view.key_names))
    return known.select(*columns, retracted.alias(RETRACTED), POSITION)


def _nearest(money: Column) -> Column:
    """DECIMAL(18,4) as the nearest float64, in the steps that the embedded engine takes."""
    return (money * 10_000).cast("long").cast("double") / F.lit(10_000.0)


def _with_view(labels: DataFrame, rows: DataFrame, view: View, given: Mapping[str, str]) -> DataFrame:
    """Labels with the columns of one view, and its times, under the names in `given`."""
    keys = [f"key{n}" for n in range(len(view.keys))]
    label = labels.select(
        *(F.col(_KEY + name).alias(key) for name, key in zip(view.key_names, keys, strict=True)),
        F.col(EVENT_TIMESTAMP).alias("at"),
        F.lit(True).alias("is_label"),
        F.struct(*(F.col(quoted(name)) for name in labels.columns)).alias("label"),
    )
    served = [name for name in given if name not in (EVENT_TIMESTAMP, CREATED_TIMESTAMP)]
    row = rows.select(
        *(F.col(name).alias(key) for name, key in zip(view.key_names, keys, strict=True)),
        F.greatest(EVENT_TIMESTAMP, CREATED_TIMESTAMP).alias("at"),
        F.lit(False).alias("is_label"),
        F.struct(EVENT_TIMESTAMP, CREATED_TIMESTAMP, POSITION, RETRACTED, *served).alias("row"),
    )
    so_far = Window.partitionBy(*keys).orderBy("at", "is_label").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    found = label.unionByName(row, allowMissingColumns=True).withColumn("row", F.max("row").over(so_far)).where("is_label")
    seen = ~F.col(f"row.{RETRACTED}").eqNullSafe(TO_NOTHING)
    if view.ttl is not None:
        oldest = F.unix_micros("at") - F.lit(view.ttl // timedelta(microseconds=1))
        seen &= F.unix_micros(f"row.{EVENT_TIMESTAMP}") >= oldest
    found = found.withColumn("row", F.when(seen, F.col("row")))
    values = [F.col(f"row.{quoted(column)}").alias(name) for column, name in given.items()]
    kept = [name for name in labels.columns if name != POSITION and not name.startswith(_KEY)]
    internal = [name for name in labels.columns if name not in kept]
    return found.select(
        *(F.col(f"label.{quoted(name)}") for name in kept), *values, *(F.col(f"label.{quoted(name)}") for name in internal)
    )
