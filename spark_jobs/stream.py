"""`shopgraph stream`: events that arrive as JSON lines in a folder, or on Kafka, by Structured Streaming into the same intake as HTTP.

A micro-batch is taken like a request: kept in the spool, in the online rows, then in the tables. Spark repeats a batch that was killed;
what was taken of it before are duplicates. So each event counts once, whatever dies when.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import DataFrame, SparkSession

from features.fresh.facts import EVENT_CONTRACT, MAX_ROWS
from features.fresh.intake import Intake
from features.shop import Shop
from infra import log
from infra.errors import EngineError, HomeError, SettingsError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings

FOLLOW_S = 1
"""Seconds between two looks at the source while it is followed."""


def stream(
    settings: Settings,
    shop: Shop,
    start: Callable[[], AbstractContextManager[SparkSession]],
    folder: Path | None,
    follow: bool = False,
) -> dict[str, int]:
    """Take the events of a source that were not read yet.

    Args:
        start: opens Spark.
        folder: of files with one JSON object per line, each put there whole (renamed into it); None: Kafka, as the settings name it.
        follow: go on until interrupted; else end once all that is there was read.

    Returns:
        What became of the rows: `accepted`, `duplicates`, `quarantined`.

    Raises:
        SettingsError: there is no such folder, or no Kafka is named.
        EngineError: the source, the spool or the online store cannot be used; what was taken before stays.
        HomeError: another stream of this source is running.
    """
    if folder is not None and not folder.is_dir():
        raise SettingsError(f"no folder {folder}; expected one of files with a JSON object per line.")
    if folder is None and settings.kafka is None:
        raise SettingsError("expected a folder, or SHOPGRAPH_KAFKA=host:port/topic.")
    source = str(folder.resolve()) if folder else str(settings.kafka)
    home, lake = Home(settings).create(), Lake.open(settings, shop.name)
    intake = Intake.of(settings, shop, lake)
    name = f"stream-{shop.name}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    counts: Counter[str] = Counter(accepted=0, duplicates=0, quarantined=0)

    def take(batch: DataFrame, number: int) -> None:
        for lines in _lots(batch):
            delivery = EVENT_CONTRACT.read([_parsed(line) for line in lines], source, f"batch {number}", intake.present)
            (receipt,) = intake.take([delivery])
            counts.update(accepted=receipt.accepted, duplicates=receipt.duplicates, quarantined=len(receipt.quarantined))
        try:
            intake.drain()
        except HomeError as error:  # the next batch, a gateway or `shopgraph drain` commits them
            log.get(__name__).info("events wait in the spool", why=str(error))

    with home.lock(name), start() as spark:
        try:
            query = (
                _read(spark, settings, folder)
                .writeStream.foreachBatch(take)
                .option("checkpointLocation", str(home.path / "streams" / name))
                .trigger(**({"processingTime": f"{FOLLOW_S} seconds"} if follow else {"availableNow": True}))
                .start()
            )
            try:
                query.awaitTermination()
            finally:
                query.stop()
        except KeyboardInterrupt:  # how a stream that is followed ends
            pass
        except StreamingQueryException as error:
            raise EngineError(f"stream of {source}: {_cause(error)}; what was taken before stays. Run it again.") from error
        except PySparkException as error:
            raise EngineError(f"stream of {source}: {str(error).splitlines()[0]}") from error
    return dict(counts)


def _read(spark: SparkSession, settings: Settings, folder: Path | None) -> DataFrame:
    """One column `value`: a JSON object per row."""
    if folder is not None:
        return spark.readStream.text(str(folder))
    # Written against Spark's documentation and never run here: pip's Spark lacks the jar; `shopgraph doctor` says so.
    servers, _, topic = str(settings.kafka).partition("/")
    source = spark.readStream.format("kafka").option("kafka.bootstrap.servers", servers).option("subscribe", topic)
    return source.option("startingOffsets", "earliest").load().selectExpr("CAST(value AS STRING) AS value")


def _lots(batch: DataFrame) -> Iterator[list[str]]:
    """The lines of a batch, in lots of a request's size; empty ones are left out."""
    lines = (row["value"] for row in batch.toLocalIterator() if row["value"] and row["value"].strip())
    while lot := list(islice(lines, MAX_ROWS)):
        yield lot


def _parsed(line: str) -> Any:
    """What a line says; what is no JSON stays text, which is no event."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return line


def _cause(error: StreamingQueryException) -> str:
    """The last line of Python's own traceback, which Spark wraps, else Spark's first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("infra.errors.", "EngineError"))]
    return told[-1].partition(": ")[2] if told else lines[0]
