"""sessions: the acts of each, summed up and stamped with their last act."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPE, ITEM_ID, SESSION_ID, USER_ID
from features.tables import INTERACTIONS, SESSIONS
from spark_jobs.job import Inputs, Job, Scope


def transform(interactions: DataFrame) -> DataFrame:
    """Interactions -> one row per session; its user is the one of its last act (a visitor may log in midway)."""
    is_purchase = F.col(EVENT_TYPE) == "purchase"
    first, last = F.min(EVENT_TIMESTAMP), F.max(EVENT_TIMESTAMP)
    return (
        interactions.groupBy(SESSION_ID)
        .agg(
            F.max_by(USER_ID, F.struct(EVENT_TIMESTAMP, "interaction_id")).alias(USER_ID),
            first.alias("started_at"),
            ((F.unix_micros(last) - F.unix_micros(first)) / 1e6).alias("duration_s"),
            F.count("*").alias("num_interactions"),
            F.countDistinct(ITEM_ID).alias("num_items"),
            F.count_if(is_purchase).alias("num_purchases"),
            F.coalesce(F.sum(F.when(is_purchase, F.col("value"))), F.lit(0)).alias("value_sum"),
            last.alias(EVENT_TIMESTAMP),
            F.max(CREATED_TIMESTAMP).alias("_known"),
        )
        .withColumn(CREATED_TIMESTAMP, F.greatest("_known", EVENT_TIMESTAMP))
        .select(*SESSIONS.names)
    )


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    return transform(inputs[INTERACTIONS])


JOB = Job(SESSIONS, (INTERACTIONS,), run, scope=Scope(SESSION_ID, reach_days=(), is_daily=False))
