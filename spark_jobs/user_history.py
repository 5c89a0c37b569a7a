"""user_history: what a user did in the last `HISTORY_STEPS` steps, on the local days on which there was an act."""

from __future__ import annotations

from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPE, HISTORY_STEPS, ITEM_ID, NO_TASTE, USER_ID
from features.tables import INTERACTIONS, USER_HISTORY
from spark_jobs.days import local_day, stamp
from spark_jobs.job import Inputs, Job, Scope


def transform(interactions: DataFrame, *, zone: str, last_day: date) -> DataFrame:
    """Interactions -> one row per user and local day with an interaction that speaks for its item, up to `last_day`; oldest first.

    Acts in a row on one item are one step. A model may read it as one act, of whichever kinds it learned from, so of each step the
    last act of each kind is kept; days further back than the last `HISTORY_STEPS` with an act are left out.
    """
    in_order = Window.partitionBy(USER_ID).orderBy(EVENT_TIMESTAMP, "interaction_id")
    is_step = ~F.col(ITEM_ID).eqNullSafe(F.lag(ITEM_ID).over(in_order))
    day = local_day(F.col(EVENT_TIMESTAMP), zone)
    act = F.struct(EVENT_TIMESTAMP, "interaction_id", ITEM_ID, EVENT_TYPE, CREATED_TIMESTAMP, "step")
    days = (
        interactions.repartition(USER_ID)
        .where((day <= F.lit(last_day)) & ~F.col(EVENT_TYPE).isin(*NO_TASTE))
        .withColumn("_day", day)
        .withColumn("_is_step", is_step.cast("int"))
        .withColumn("step", F.sum("_is_step").over(in_order.rowsBetween(Window.unboundedPreceding, 0)))
        .groupBy(USER_ID, "_day", "step", EVENT_TYPE)
        .agg(F.max(act).alias("act"))
        .groupBy(USER_ID, "_day")
        .agg(F.sort_array(F.collect_list("act")).alias("acts"))
        .withColumn("acts", _last(F.col("acts")))
    )
    recent = Window.partitionBy(USER_ID).orderBy("_day").rowsBetween(-(HISTORY_STEPS - 1), 0)
    return (
        days.withColumn("acts", F.flatten(F.collect_list("acts").over(recent)))
        .withColumn("acts", _last(F.col("acts")))
        .select(
            USER_ID,
            F.col("acts.item_id").alias("item_ids"),
            F.col("acts.event_type").alias("event_types"),
            stamp(F.col("_day"), zone).alias(EVENT_TIMESTAMP),
            F.array_max("acts.created_timestamp").alias("_known"),
        )
        .withColumn(CREATED_TIMESTAMP, F.greatest(EVENT_TIMESTAMP, "_known"))
        .select(*USER_HISTORY.names)
    )


def _last(acts: Column) -> Column:
    """The acts of the last `HISTORY_STEPS` steps of an array."""
    newest = F.element_at(acts, -1)["step"]
    return F.filter(acts, lambda act: act["step"] > newest - HISTORY_STEPS)


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    return transform(inputs[INTERACTIONS], zone=inputs.time_zone, last_day=inputs.last_day)


JOB = Job(USER_HISTORY, (INTERACTIONS,), run, scope=Scope(USER_ID))
