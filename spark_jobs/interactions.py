"""interactions: what a user did with an item, cleaned; the base of every table about people.

Who acted: the event's user; else the user that a login joined the visitor to, from that login on; else `visitor:<id>` or
`session:<id>`. Order lines without a user are demand (see daily_demand) but nobody's interaction.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.columns import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    EVENT_TYPE,
    SESSION_ID,
    SESSION_PREFIX,
    USER_ID,
    VISITOR_ID,
    VISITOR_PREFIX,
)
from features.tables import EVENTS, INTERACTIONS, ORDERS, Table
from spark_jobs.job import KNOWN, Inputs, Job, Scope, of_keys
from spark_jobs.raw import ROW_ID
from spark_jobs.sales import begins, cut_to, item_acts, sales

BROWSE_TYPES = ("click", "view", "favourite", "cart")
SESSION_GAP_S = 30 * 60
"""Acts of one user further apart than this belong to different sessions (the convention of web analytics)."""


def transform(events: DataFrame, orders: DataFrame, *, zone: str) -> DataFrame:
    """Events and order lines -> one row per act of a user on an item.

    Args:
        events: current rows of raw/events.
        orders: current rows of raw/orders.
    """
    events = name_users(events)
    acts = item_acts(events, BROWSE_TYPES).unionByName(sales(events, orders, zone))
    acts = acts.where(F.col(USER_ID).isNotNull()).withColumnRenamed(ROW_ID, "interaction_id")
    return name_sessions(acts).select(*INTERACTIONS.names)


def name_users(events: DataFrame) -> DataFrame:
    """Every event with a user: its own, the one its visitor has logged in as by then, or a name for the unknown one."""
    is_login = (F.col(EVENT_TYPE) == "login") & F.col(USER_ID).isNotNull()
    until_now = Window.partitionBy(VISITOR_ID).orderBy(EVENT_TIMESTAMP, (~is_login).cast("int"), ROW_ID)
    login = F.last(F.when(is_login, F.struct(USER_ID, CREATED_TIMESTAMP)), ignorenulls=True).over(
        until_now.rowsBetween(Window.unboundedPreceding, 0)
    )
    of_visitor = F.col(VISITOR_ID).isNotNull() & (F.col(USER_ID).isNull() | is_login)
    joined = (
        events.where(of_visitor)
        .withColumn("_login", login)
        .withColumn(CREATED_TIMESTAMP, F.greatest(CREATED_TIMESTAMP, "_login.created_timestamp"))
        .withColumn(USER_ID, F.coalesce(F.col(USER_ID), F.col("_login.user_id"), F.concat(F.lit(VISITOR_PREFIX), VISITOR_ID)))
        .select(*events.columns)
    )
    others = events.where(~of_visitor).withColumn(USER_ID, F.coalesce(F.col(USER_ID), F.concat(F.lit(SESSION_PREFIX), SESSION_ID)))
    return others.unionByName(joined)


def name_sessions(acts: DataFrame) -> DataFrame:
    """Every act with a session: the source's own, else the one it falls in, which a gap of 30 minutes ends."""
    in_order = Window.partitionBy(USER_ID).orderBy(EVENT_TIMESTAMP, "interaction_id")
    until_now = in_order.rowsBetween(Window.unboundedPreceding, 0)
    visit_until_now = (
        Window.partitionBy(USER_ID, "_stretch").orderBy(EVENT_TIMESTAMP, "interaction_id").rowsBetween(Window.unboundedPreceding, 0)
    )
    gap = F.unix_micros(EVENT_TIMESTAMP) - F.unix_micros(F.lag(EVENT_TIMESTAMP).over(in_order))
    began = F.first("interaction_id").over(visit_until_now)
    derived = F.md5(F.concat_ws("\x1f", USER_ID, began).cast("binary"))
    return (
        acts.withColumn("_begins", F.when(gap <= SESSION_GAP_S * 1_000_000, 0).otherwise(1))
        .withColumn("_stretch", F.sum("_begins").over(until_now))
        .withColumn(SESSION_ID, F.coalesce(F.last(SESSION_ID, ignorenulls=True).over(visit_until_now), derived))
    )


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    return transform(inputs[EVENTS], inputs[ORDERS], zone=inputs.time_zone)


def _of_visitors(table: Table, rows: DataFrame, inputs: Inputs) -> DataFrame | None:
    """Whoever the acts of a visitor or of a session without one may be named after: a login moves them from one to the other."""
    if table is not EVENTS:
        return None
    nobody = rows.where(F.col(USER_ID).isNull() | (F.col(EVENT_TYPE) == "login"))
    visitors = nobody.where(F.col(VISITOR_ID).isNotNull()).groupBy(VISITOR_ID).agg(F.max(KNOWN).alias(KNOWN))
    users = _logins(inputs[EVENTS]).join(visitors, VISITOR_ID).select(USER_ID, KNOWN)
    unknown = visitors.select(F.concat(F.lit(VISITOR_PREFIX), VISITOR_ID).alias(USER_ID), KNOWN)
    sessions = nobody.where(F.col(VISITOR_ID).isNull()).select(F.concat(F.lit(SESSION_PREFIX), SESSION_ID).alias(USER_ID), KNOWN)
    return users.unionByName(unknown).unionByName(sessions)


def _cut(inputs: Inputs, keys: DataFrame) -> Mapping[str, DataFrame]:
    """The lines of some users, and the events of all that may be named after one of them."""
    events = inputs[EVENTS]
    known = of_keys(_logins(events), USER_ID, keys).select(VISITOR_ID)
    visitors = known.unionByName(_unknown(keys, VISITOR_PREFIX, VISITOR_ID)).distinct()
    wanted = {USER_ID: keys.select(USER_ID), VISITOR_ID: visitors, SESSION_ID: _unknown(keys, SESSION_PREFIX, SESSION_ID)}
    for name, ids in wanted.items():
        events = events.join(ids.withColumn(f"_{name}", F.lit(True)), name, "left")
    is_nobody = F.col(USER_ID).isNull() & F.col(VISITOR_ID).isNull()
    is_wanted = F.coalesce(f"_{USER_ID}", f"_{VISITOR_ID}", F.when(is_nobody, F.col(f"_{SESSION_ID}")))
    theirs = events.where(is_wanted).select(*inputs[EVENTS].columns)
    return {EVENTS.path: theirs, ORDERS.path: cut_to(inputs[ORDERS], USER_ID, keys)}


def _logins(events: DataFrame) -> DataFrame:
    is_login = (F.col(EVENT_TYPE) == "login") & F.col(USER_ID).isNotNull() & F.col(VISITOR_ID).isNotNull()
    return events.where(is_login).select(VISITOR_ID, USER_ID)


def _unknown(keys: DataFrame, prefix: str, name: str) -> DataFrame:
    """The ids that the names of unknown users were made of."""
    return keys.where(F.startswith(F.col(USER_ID), F.lit(prefix))).select(F.substr(USER_ID, F.lit(len(prefix) + 1)).alias(name))


SCOPE = Scope(
    USER_ID,
    reach_days=(),
    is_daily=False,
    others=_of_visitors,
    cut=_cut,
    common=lambda inputs: begins(inputs[ORDERS], inputs.time_zone),
)
JOB = Job(INTERACTIONS, (EVENTS, ORDERS), run, scope=SCOPE)
