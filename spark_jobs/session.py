"""The door to Spark: one session per command, tables of the lake as frames, frames as tables.

On a local lake Spark reads and writes Parquet itself. On S3 pip's Spark lacks Hadoop's s3a jars, so each task reads and writes
with Arrow (a Python data source and `mapInArrow`); infra/decisions.md says why.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from features.columns import RETRACTED
from features.tables import RAW_TABLES, Table
from infra.errors import EngineError, TableContractError
from infra.home import Home
from infra.lake import Attempt, Commit, Lake, Mode
from infra.settings import Settings, foreign_variable, variables

_ROWS_PER_PART = 250_000
_ROWS_OF_A_FILE = 2**40
POSITION = "__position"
"""Where a row lies among the others that were read: file by file, then as in the file."""
_LOGGING = Path(__file__).parent / "log4j2.properties"


def find_java(settings: Settings) -> Path:
    """The `java` of version 17 or newer that Spark will use.

    Raises:
        EngineError: there is none, or it is too old.
    """
    homes = [settings.java_home, foreign_variable("JAVA_HOME")]
    candidates = [Path(home) / "bin" / "java" for home in homes if home]
    found = shutil.which("java")
    candidates += [Path(found)] if found else []
    told = "none was found"
    for java in candidates:
        try:
            banner = subprocess.run([java, "-version"], capture_output=True, text=True, check=True, timeout=30).stderr
        except (OSError, subprocess.SubprocessError) as error:
            told = f"{java} does not run ({error})"
            continue
        version = re.search(r'version "(\d+)', banner)
        if version and int(version[1]) >= 17:
            return java.resolve()
        told = f"{java} is version {version[1] if version else 'unknown'}"
    raise EngineError(
        f"Spark needs Java 17 or newer; {told}. Install it (Debian: `apt-get install openjdk-17-jre-headless`) or set JAVA_HOME."
    )


@contextmanager
def session(settings: Settings, name: str) -> Iterator[SparkSession]:
    """A Spark session for one command; stopped at its end.

    Raises:
        EngineError: no Java, or the cluster does not answer.
    """
    java = find_java(settings)
    with scratch(Home(settings)) as folder, _started(settings, name, java, folder) as spark:
        yield spark


@contextmanager
def scratch(home: Home) -> Iterator[Path]:
    """The folder where the sessions of a home spill; what dead ones left there goes once no other lives.

    Each session shares a lock for as long as it lives; who has it alone is the only one.
    """
    folder = home.run / "spark"
    home.run.mkdir(parents=True, exist_ok=True)
    with (home.run / "spark.lock").open("w") as lock:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)  # a Java that lost its Python removes its own files a moment later
            folder.mkdir(exist_ok=True)
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield folder


@contextmanager
def _started(settings: Settings, name: str, java: Path, folder: Path) -> Iterator[SparkSession]:
    builder = (
        SparkSession.builder.appName(f"shopgraph {name}")
        .master(settings.spark_master)
        .config("spark.driver.memory", settings.spark_driver_memory)
        .config(
            "spark.driver.extraJavaOptions",
            f'-Dderby.system.home="{folder}" -Dlog4j2.configurationFile="{_LOGGING}" -XX:+UseParallelGC',
        )
        .config("spark.sql.warehouse.dir", str(folder / "warehouse"))
        .config("spark.local.dir", str(folder))
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        # Without a page to show it on, the text of a thousand plans of fifty stages each would only fill the heap.
        .config("spark.sql.ui.retainedExecutions", "10")
        .config("spark.ui.retainedJobs", "10")
        .config("spark.ui.retainedStages", "100")
        .config("spark.ui.retainedTasks", "1000")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.sql.adaptive.enabled", "true")
        .config("spark.sql.adaptive.coalescePartitions.parallelismFirst", "false")
        # A union of columnar frames claims a partitioning it does not keep, and groups come out twice (SPARK-59141, open in 4.3.0).
        .config("spark.sql.unionOutputPartitioning", "false")
        # PySpark notes the caller's line with every column expression, a call to the JVM each.
        .config("spark.python.sql.dataFrameDebugging.enabled", "false")
        .config("spark.log.level", "ERROR")
    )
    if is_loopback(settings.spark_master):
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    # Spark's launcher reads these from the environment only
    launcher = {"JAVA_HOME": str(java.parent.parent), "PYSPARK_PYTHON": settings.spark_python or sys.executable}
    if is_loopback(settings.spark_master):
        launcher["SPARK_LOCAL_IP"] = "127.0.0.1"
    with variables(launcher):
        try:
            spark = builder.getOrCreate()
        except Exception as error:  # py4j and Spark raise no common class here
            raise EngineError(f"Spark at {settings.spark_master} does not start: {str(error).splitlines()[0]}") from error
        try:
            if not settings.spark_master.startswith("local"):
                spark.sparkContext.addPyFile(str(_code_archive(folder)))
            yield spark
        finally:
            spark.stop()


def share_out(spark: SparkSession, lake: Lake, more_rows: int = 0) -> None:
    """Let shuffles divide the work on the raw tables and `more_rows` to come: a part per 250,000 rows, at least one per core.

    Spark's own number, 200 whatever comes, costs a small shop more than its rows do and is too few for a very large one.
    """
    raw_rows = sum(lake.num_rows(table.path) for table in RAW_TABLES.values() if lake.version(table.path) is not None)
    share_out_rows(spark, raw_rows + more_rows)


def share_out_rows(spark: SparkSession, num_rows: int) -> None:
    """The same for work on so many rows."""
    parts = max(spark.sparkContext.defaultParallelism, -(-num_rows // _ROWS_PER_PART))
    spark.conf.set("spark.sql.shuffle.partitions", parts)


def is_loopback(master: str) -> bool:
    """Whether the master runs on this machine: `local[...]`, or an address on loopback."""
    return master.startswith("local") or urlsplit(master).hostname in ("127.0.0.1", "localhost", "::1")


def _code_archive(folder: Path) -> Path:
    """Our packages as one zip, for the Python workers of a cluster."""
    root = Path(__file__).parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "shopgraph.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for package in ("infra", "features", "spark_jobs", "training"):
            for file in sorted((root / package).rglob("*.py")):
                target.write(file, file.relative_to(root))
    return archive


def read_table(
    spark: SparkSession,
    lake: Lake,
    table: Table,
    version: int | None = None,
    files: Sequence[str] | None = None,
    in_order: bool = False,
) -> DataFrame:
    """The rows of one table version; an empty frame of the stored schema if the table does not exist.

    Columns that the stored table has beyond the declaration (kept source columns) come after the declared ones.

    Args:
        files: read only these of its files; None: all.
        in_order: say in a column POSITION where each row lies, as `read_in_order`.

    Raises:
        TableContractError: it lacks a declared column, or there is no such version.
    """
    read = read_in_order if in_order else read_files
    if lake.version(table.path) is None:
        return read(spark, lake, (), table.stored_schema)
    dataset = lake.dataset(table.path, version)
    missing = [name for name in table.names if name not in dataset.schema.names]
    if missing:
        raise TableContractError(f"table {table.path} lacks declared column(s) {', '.join(missing)}; rebuild it.")
    return read(spark, lake, lake.file_uris(table.path, version) if files is None else files, dataset.schema)


def read_files(spark: SparkSession, lake: Lake, files: Sequence[str], schema: pa.Schema) -> DataFrame:
    """Parquet files on the lake's file system as one frame; a column that a file lacks is null. Naive times stay local times."""
    spark_schema = from_arrow_schema(schema, prefer_timestamp_ntz=True)
    if not files:
        return spark.createDataFrame(schema.empty_table(), spark_schema)
    if lake.is_remote:
        return _read_with_arrow(spark, lake, list(files), schema)
    return spark.read.schema(spark_schema).parquet(*files)


def read_in_order(spark: SparkSession, lake: Lake, files: Sequence[str], schema: pa.Schema) -> DataFrame:
    """`read_files` with a column POSITION more, int64: of two rows the one that lies later in the files, as listed, has the greater."""
    if not files:
        return read_files(spark, lake, files, schema).withColumn(POSITION, F.lit(0).cast("long"))
    if lake.is_remote:
        return _read_with_arrow(spark, lake, list(files), schema.append(pa.field(POSITION, pa.int64())))
    frame = read_files(spark, lake, files, schema)
    numbers = {file: number for number, file in enumerate(files)}
    # Spark tells a path as an address in which it escaped some letters and not others; that of its own list is the one that matches.
    told = [(f"file:{uri.removeprefix('file://')}", numbers[unquote(uri.removeprefix("file://"))]) for uri in frame.inputFiles()]
    listed = F.broadcast(spark.createDataFrame(told, "__file string, __number long"))
    row = F.coalesce(F.col("__number"), F.raise_error(F.lit("a file that is not listed was read"))) * F.lit(_ROWS_OF_A_FILE)
    placed = frame.select("*", F.col("_metadata.file_path").alias("__file"), F.col("_metadata.row_index").alias("__row"))
    placed = placed.join(listed, "__file", "left").withColumn(POSITION, row + F.col("__row"))
    return placed.drop("__file", "__number", "__row")


def write_table(
    frame: DataFrame,
    lake: Lake,
    table: Table,
    mode: Mode,
    *,
    digest: str,
    read_version: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    check: Callable[[Attempt, Mode], None] | None = None,
) -> Commit:
    """Write a frame as a new version of its table, atomically; see `Lake.commit` for what is checked.

    Args:
        check: looks at the written files before the commit, and raises where they must not be committed.

    Raises:
        TableContractError: the frame lacks a declared column.
    """
    done = lake.committed(table.path, digest, read_version)
    if done:
        return done
    missing = [name for name in table.names if name not in frame.columns]
    if missing:
        raise TableContractError(f"table {table.path}: the frame lacks {', '.join(missing)}; it has {', '.join(frame.columns)}.")
    if table.kind == "features" and RETRACTED not in frame.columns:
        frame = frame.withColumn(RETRACTED, F.lit(None))
    attempt = write_files(frame, lake, table.path, table.stored_schema)
    if check:
        check(attempt, mode)
    return lake.commit(attempt, table.stored_schema, mode, digest=digest, read_version=read_version, metadata=metadata)


def typed(frame: DataFrame, schema: pa.Schema) -> DataFrame:
    """The columns of `schema`, in its order and of its types, as they are stored."""
    return frame.select([frame[field.name].cast(field.dataType) for field in from_arrow_schema(schema).fields])


def write_files(frame: DataFrame, lake: Lake, path: str, schema: pa.Schema) -> Attempt:
    """Write a frame, cast to `schema`, as files of the table at `path` that nobody sees before they are committed."""
    frame = typed(frame, schema)
    attempt = lake.attempt(path)
    if lake.is_remote:
        return replace(attempt, files=_write_with_arrow(frame, lake, attempt.uri, schema))
    frame.write.mode("append").parquet(attempt.uri)
    return attempt


def _read_with_arrow(spark: SparkSession, lake: Lake, files: list[str], schema: pa.Schema) -> DataFrame:
    """One task per file reads it with Arrow and hands the batches to Spark; column POSITION, where asked for, as `read_in_order` says."""
    options = dict(lake.storage_options)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        from infra.lake import filesystem

        for batch in batches:
            for uri, number in zip(*(batch.column(name).to_pylist() for name in ("uri", "number")), strict=True):
                position = number * _ROWS_OF_A_FILE
                with filesystem(options).open_input_file(uri.removeprefix("s3://")) as file:
                    for rows in pq.ParquetFile(file).iter_batches():
                        if POSITION in schema.names:
                            rows = rows.append_column(POSITION, pa.array(range(position, position + rows.num_rows), pa.int64()))
                        position += rows.num_rows
                        yield _conform(rows, schema)

    paths = spark.createDataFrame([(uri, n) for n, uri in enumerate(files)], "uri string, number long").repartition(len(files))
    return paths.mapInArrow(read, from_arrow_schema(schema, prefer_timestamp_ntz=True))


def _conform(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """`rows` with exactly the columns and types of `schema`; a column an older file lacks is null."""
    columns = [
        rows.column(field.name).cast(field.type) if field.name in rows.schema.names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _write_with_arrow(frame: DataFrame, lake: Lake, uri: str, schema: pa.Schema) -> tuple[str, ...]:
    """Each task writes its rows as one Parquet object with Arrow; the objects of the tasks that Spark counts as done.

    A task that is tried again leaves the object of its lost attempt behind.
    """
    options = dict(lake.storage_options)
    base = uri.removeprefix("s3://")

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import uuid

        import pyarrow.parquet as pq

        from infra.lake import filesystem

        writer, name = None, f"part-{uuid.uuid4().hex}.parquet"
        for batch in batches:
            if batch.num_rows:
                writer = writer or pq.ParquetWriter(f"{base}/{name}", schema, filesystem=filesystem(options), compression="zstd")
                writer.write_batch(_conform(batch, schema))
        if writer:
            writer.close()
            yield pa.RecordBatch.from_pydict({"file": [name]})

    return tuple(row["file"] for row in frame.mapInArrow(write, "file string").collect())
