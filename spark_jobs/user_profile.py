"""user_profile: who a user is to the shop, as the shop knew it, on the local days on which that changes.

A fact counts from the first row that is stamped when it was both true and known: what becomes known late makes a later row and
leaves the earlier ones as they were, so each row is known the instant it is stamped. Time alone changes a profile too (a purchase
leaves its window, a customer falls silent); all those days follow from the facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from functools import reduce
from operator import add

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.columns import (
    CATEGORY,
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    EVENT_TYPE,
    ITEM_ID,
    QUANTITY,
    SESSION_PREFIX,
    USER_ID,
    VISITOR_PREFIX,
)
from features.profiles import (
    DAYPARTS,
    FAMILIES,
    INTEREST_DAYS,
    INTERESTS,
    INTERESTS_MOST,
    RETURNS,
    SCORES,
    VALUE_DAYS,
    WEEK_PARTS,
    ProfileRules,
)
from features.tables import INTERACTIONS, ITEM_CATALOG, USER_PROFILE, USERS
from features.windows import AFFINITY_WINDOWS
from spark_jobs.categories import of_moved_items, with_category
from spark_jobs.days import local_day, stamp
from spark_jobs.job import FIRST, Inputs, Job, Scope, of_keys
from spark_jobs.sales import MONEY
from spark_jobs.windows import DAY, amount

_TRUE = "_true"
"""Local day a fact became true. `DAY` is the day whose row is the first to count it: a later one where it was known late."""
_HOURS = {"night": (0, 6), "morning": (6, 12), "afternoon": (12, 18), "evening": (18, 24)}
_OVER_LIFE = {
    "first_seen_at": F.min,
    "last_seen_at": F.max,
    "first_purchase_at": F.min,
    "last_purchase_at": F.max,
    "told": F.max,
}
"""What is kept for ever -> what is kept of several."""
_COUNTED = ("active_days_count", "purchase_days_count")
"""What is summed over life."""
_IN_WINDOW = (
    *DAYPARTS.values,
    *WEEK_PARTS.values,
    "bought_lines",
    "returned_lines",
    "priced_lines",
    "price_sum",
    "net_value",
    "purchase_days",
)
"""What is summed over `VALUE_DAYS`."""
(_ATTENTION,) = AFFINITY_WINDOWS
_MOST_MONEY = Decimal("99999999999999.9999")
"""The most a column of money holds."""


def transform(
    interactions: DataFrame, item_catalog: DataFrame, users: DataFrame, *, zone: str, last_day: date, rules: ProfileRules
) -> DataFrame:
    """Interactions and attributes -> one row per user and local day on which the profile changes, up to `last_day`.

    Visitors and sessions that nobody logged in from are no users and have no profile.

    Args:
        users: current rows of raw/users.
    """
    is_unknown = F.col(USER_ID).startswith(VISITOR_PREFIX) | F.col(USER_ID).startswith(SESSION_PREFIX)
    acts = interactions.where(~is_unknown)
    in_category = with_category(acts, item_catalog, "_category").withColumnRenamed("_category", CATEGORY)
    speaks = F.col(CATEGORY).isNotNull() & F.col(EVENT_TYPE).isin(*_ATTENTION.event_types)
    entries = [
        _daily(_dated(acts, zone).repartition(USER_ID), zone),
        _told(_dated(users, zone)),
        _attention(_dated(in_category.where(speaks & ~F.col(CATEGORY).isin(*rules.private_categories)), zone).repartition(USER_ID)),
    ]
    log = reduce(lambda left, right: left.unionByName(right, allowMissingColumns=True), entries)
    states = _rhythm(_running(log.where(F.col(DAY) <= F.lit(last_day))), rules, zone)
    rows = _judged(_passing(states, rules).where(F.col(DAY) <= F.lit(last_day)), rules)
    said = F.struct(*[column.name for column in USER_PROFILE.features])
    before = F.lag(said).over(Window.partitionBy(USER_ID).orderBy(DAY))
    return (
        rows.withColumn("_is_new", ~said.eqNullSafe(before))
        .where("_is_new")
        .withColumn(EVENT_TIMESTAMP, stamp(F.col(DAY), zone))
        .withColumn(CREATED_TIMESTAMP, F.col(EVENT_TIMESTAMP))
        .select(*USER_PROFILE.names)
    )


def _dated(facts: DataFrame, zone: str) -> DataFrame:
    """`facts` with the local day they became true and the first one whose row may count them: it is stamped once they are known."""
    known = local_day(F.col(CREATED_TIMESTAMP) - F.expr("INTERVAL '0.000001' SECOND"), zone)
    true = local_day(F.col(EVENT_TIMESTAMP), zone)
    return facts.withColumn(_TRUE, true).withColumn(DAY, F.greatest(true, known))


def _daily(acts: DataFrame, zone: str) -> DataFrame:
    """Dated interactions -> entries of the change log: what each day adds over life and over `VALUE_DAYS`."""
    local = F.from_utc_timestamp(F.col(EVENT_TIMESTAMP), zone)
    is_purchase, is_return = (F.col(EVENT_TYPE) == kind for kind in ("purchase", "return"))
    is_weekend = F.dayofweek(local).isin(1, 7)
    price = F.when(is_purchase & (F.col("value") > 0) & (F.col(QUANTITY) > 0), (F.col("value") / F.col(QUANTITY)).cast(MONEY))
    days = acts.groupBy(USER_ID, _TRUE, DAY).agg(
        *[F.count_if(~is_return & F.hour(local).between(first, end - 1)).alias(name) for name, (first, end) in _HOURS.items()],
        F.count_if(~is_return & ~is_weekend).alias("weekday"),
        F.count_if(~is_return & is_weekend).alias("weekend"),
        F.count_if(is_purchase).alias("bought_lines"),
        F.count_if(is_return).alias("returned_lines"),
        F.count(price).alias("priced_lines"),
        F.coalesce(F.sum(price), F.lit(0)).alias("price_sum"),
        F.coalesce(F.sum(F.when(is_purchase, F.col("value")).when(is_return, -F.col("value"))), F.lit(0)).alias("net_value"),
        F.min(EVENT_TIMESTAMP).alias("first_seen_at"),
        F.max(EVENT_TIMESTAMP).alias("last_seen_at"),
        F.min(F.when(is_purchase, F.col(EVENT_TIMESTAMP))).alias("first_purchase_at"),
        F.max(F.when(is_purchase, F.col(EVENT_TIMESTAMP))).alias("last_purchase_at"),
    )
    as_known = Window.partitionBy(USER_ID, _TRUE).orderBy(DAY)
    bought = F.sum("bought_lines").over(as_known.rowsBetween(Window.unboundedPreceding, 0))
    is_first_purchase = (F.col("bought_lines") > 0) & (bought == F.col("bought_lines"))
    days = (
        days.withColumn("active_days_count", (F.row_number().over(as_known) == 1).cast("long"))
        .withColumn("purchase_days_count", is_first_purchase.cast("long"))
        .withColumn("purchase_days", F.col("purchase_days_count"))
    )
    return _windowed(days, [USER_ID], VALUE_DAYS, _IN_WINDOW, [*_COUNTED, *(name for name in _OVER_LIFE if name != "told")])


def _windowed(days: DataFrame, keys: Sequence[str], length: int, summed: Sequence[str], kept: Sequence[str] = ()) -> DataFrame:
    """Dated sums -> entries: `summed` comes on `DAY` and goes `length` days after it was true; `kept` comes and stays.

    What was known only after it had left the window never was in it.
    """
    end = F.date_add(_TRUE, length)
    comes, goes, stays = (
        F.struct(day.alias("day"), F.lit(sign).alias("sign")) for day, sign in ((F.col(DAY), 1), (end, -1), (F.col(DAY), 0))
    )
    entries = F.when(F.col(DAY) < end, F.array(comes, goes)).otherwise(F.array(stays))
    sign = F.col("_entry.sign")
    return days.withColumn("_entry", F.explode(entries)).select(
        *keys,
        F.col("_entry.day").alias(DAY),
        *[(F.col(name) * sign).alias(name) for name in summed],
        *[F.when(sign >= 0, F.col(name)).alias(name) for name in kept],
    )


def _told(users: DataFrame) -> DataFrame:
    """Dated rows of raw/users -> entries: what the source tells; the greatest is the last told."""
    registered = F.when(F.col("registered_at") <= F.col(EVENT_TIMESTAMP), F.col("registered_at")).alias("registered_at")
    told = F.struct(EVENT_TIMESTAMP, CREATED_TIMESTAMP, "country", "language", registered)
    return users.groupBy(USER_ID, DAY).agg(F.max(told).alias("told"))


def _attention(acts: DataFrame) -> DataFrame:
    """Dated acts with a category -> entries: the categories a user turned to most in `INTEREST_DAYS`, on each day that changes."""
    weights = acts.groupBy(USER_ID, CATEGORY, _TRUE, DAY).agg(F.sum(amount(_ATTENTION)).alias("weight"))
    log = (
        _windowed(weights, [USER_ID, CATEGORY], INTEREST_DAYS, ["weight"])
        .groupBy(USER_ID, CATEGORY, DAY)
        .agg(F.sum("weight").alias("weight"))
    )
    in_order = Window.partitionBy(USER_ID, CATEGORY).orderBy(DAY)
    # A weight stands until the category's next change, at most a window on, so it meets the user's days of two blocks at most.
    last = F.date_sub(F.col("_next"), 1)
    spans = (
        log.withColumn("_next", F.lead(DAY).over(in_order))
        .withColumn("weight", F.sum("weight").over(in_order.rowsBetween(Window.unboundedPreceding, 0)))
        .where(F.col("weight") > 0)
        .select(
            USER_ID,
            F.col(DAY).alias("_first"),
            last.alias("_last"),
            F.struct((-F.col("weight")).alias("minus"), F.col(CATEGORY).alias("category")).alias("of"),
            F.explode(F.sequence(_block(F.col(DAY)), _block(last))).alias("_block"),
        )
    )
    turns = log.select(USER_ID, DAY).distinct().withColumn("_block", _block(F.col(DAY)))
    met = turns.join(spans, [USER_ID, "_block"]).where(F.col(DAY).between(F.col("_first"), F.col("_last")))
    # The days on which nothing is left count too.
    found = met.select(USER_ID, DAY, "of").unionByName(turns.select(USER_ID, DAY), allowMissingColumns=True)
    top = F.slice(F.array_sort(F.collect_list("of")), 1, INTERESTS_MOST)
    total = -F.coalesce(F.sum("of.minus"), F.lit(0))
    return found.groupBy(USER_ID, DAY).agg(F.struct(total.alias("total"), top.alias("top")).alias("attention"))


def _block(day: Column) -> Column:
    """Number of the stretch of `INTEREST_DAYS` that a day lies in."""
    return F.floor(F.unix_date(day) / INTEREST_DAYS)


def _running(log: DataFrame) -> DataFrame:
    """The change log -> per user and day of the log: all that the rules look at."""
    running = Window.partitionBy(USER_ID).orderBy(DAY).rowsBetween(Window.unboundedPreceding, 0)
    summed = log.groupBy(USER_ID, DAY).agg(
        *[F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in (*_IN_WINDOW, *_COUNTED)],
        *[gather(name).alias(name) for name, gather in _OVER_LIFE.items()],
        F.max("attention").alias("attention"),
    )
    return summed.select(
        USER_ID,
        DAY,
        *[F.sum(name).over(running).alias(name) for name in (*_IN_WINDOW, *_COUNTED)],
        *[gather(name).over(running).alias(name) for name, gather in _OVER_LIFE.items()],
        F.last("attention", ignorenulls=True).over(running).alias("attention"),
    )


def _rhythm(states: DataFrame, rules: ProfileRules, zone: str) -> DataFrame:
    """`states` with the local days of the first and last purchase, the mean days between purchases, and the rhythm in days."""
    gaps = F.col("purchase_days_count") - 1
    mean = F.when(gaps > 0, F.date_diff("last_purchase_day", "first_purchase_day") / gaps)
    own = F.greatest(F.least(F.ceil("purchase_gap_days_mean"), F.lit(rules.rhythm_most_days)), F.lit(rules.rhythm_least_days))
    return (
        states.withColumn("first_purchase_day", local_day(F.col("first_purchase_at"), zone))
        .withColumn("last_purchase_day", local_day(F.col("last_purchase_at"), zone))
        .withColumn("purchase_gap_days_mean", mean)
        .withColumn("rhythm", F.when(gaps >= 2, own).otherwise(rules.rhythm_days).cast("int"))
    )


def _passing(states: DataFrame, rules: ProfileRules) -> DataFrame:
    """`states` on their own day and on those, before the user's next, on which time alone may change a stage or a score."""
    until = F.lead(DAY).over(Window.partitionBy(USER_ID).orderBy(DAY))
    return (
        states.withColumn("_until", F.coalesce(until, F.lit(date.max)))
        .withColumn("_turns", F.filter(F.array_distinct(_turns(rules)), lambda day: (day > F.col(DAY)) & (day < F.col("_until"))))
        .withColumn(DAY, F.explode(F.concat(F.array(DAY), "_turns")))
    )


def _turns(rules: ProfileRules) -> Column:
    """The days on which time alone may change a stage or a score, by what `_rhythm` says."""
    last, rhythm = F.col("last_purchase_day"), F.col("rhythm")
    return F.array(
        F.date_add("first_purchase_day", rules.new_days),
        *[F.date_add(last, days + 1) for days in rules.recency_days],
        *[F.date_add(last, rhythm * after + 1) for after in (rules.at_risk_after, rules.dormant_after, rules.lost_after)],
    )


def _judged(states: DataFrame, rules: ProfileRules) -> DataFrame:
    """`states` with all that the rules make of them."""
    has_bought = F.col("last_purchase_day").isNotNull()
    since = F.date_diff(DAY, "last_purchase_day")
    attention, num_acts = F.col("attention"), reduce(add, [F.col(name) for name in DAYPARTS.values])
    has_interest = F.coalesce(attention["total"] >= rules.least_acts, F.lit(False))

    def share(category: Column) -> Column:
        return -category["minus"] / attention["total"]

    main = F.when(has_interest, F.get(attention["top"], 0))
    interests = F.filter(attention["top"], lambda category: has_interest & (share(category) >= rules.interest_share))
    # Five days against two: as many acts a day.
    week = {"weekday": F.col("weekday") * 2, "weekend": F.col("weekend") * 5}
    figures = {
        **{name: F.col(f"told.{name}") for name in ("country", "language", "registered_at")},
        "favourite_daypart": F.when(num_acts >= rules.least_acts, _greatest({name: F.col(name) for name in DAYPARTS.values})),
        "favourite_week_part": F.when(num_acts >= rules.least_acts, _greatest(week)),
        "main_category": main["category"],
        "main_category_share_90d": share(main),
        "interests": F.coalesce(F.transform(interests, lambda category: category["category"]), F.array().cast("array<string>")),
        "price_mean_365d": F.when(F.col("priced_lines") > 0, F.col("price_sum").cast("double") / F.col("priced_lines")),
        "returns_share_365d": F.when(F.col("bought_lines") > 0, F.col("returned_lines") / F.col("bought_lines")),
        "purchase_days_count_365d": F.col("purchase_days"),
        "net_value_sum_365d": F.greatest(F.least("net_value", F.lit(_MOST_MONEY)), F.lit(-_MOST_MONEY)),
    }
    scores = {
        "recency_score": _band(-since, SCORES, [-days for days in reversed(rules.recency_days)]),
        "frequency_score": F.when(has_bought, _band(F.col("purchase_days"), SCORES, rules.frequency_days)),
        "monetary_score": F.when(has_bought, _band(F.col("net_value"), SCORES, rules.monetary_value)),
        "price_band": _band(F.col("price_mean_365d"), ("budget", "middle", "premium"), rules.price),
        "stage": F.when(~has_bought, "prospect")
        .when(since > F.col("rhythm") * rules.lost_after, "lost")
        .when(since > F.col("rhythm") * rules.dormant_after, "dormant")
        .when(since > F.col("rhythm") * rules.at_risk_after, "at_risk")
        .when(F.date_diff(DAY, "first_purchase_day") < rules.new_days, "new")
        .otherwise("active"),
    }
    value = F.col("frequency_score") + F.col("monetary_score")
    tier = _band(value, ("low", "middle", "high"), (rules.value_middle, rules.value_high))
    rows = states.withColumns(figures).withColumns(scores).withColumn("value_tier", tier)
    return rows.withColumn("tags", _tags(rules))


def _tags(rules: ProfileRules) -> Column:
    """The tags of a row whose other columns are there, family after family."""
    often = (F.col("bought_lines") >= rules.returns_lines) & (F.col("returns_share_365d") >= rules.returns_share)
    values = {family.name: F.array(F.col(family.column)) for family in FAMILIES} | {
        INTERESTS.name: F.col(INTERESTS.column),
        RETURNS.name: F.array(F.when(often, "often")),
    }
    # not array_compact: its type says that no element is null, which no column of a table does
    return F.filter(F.concat(*[_named(name, found) for name, found in values.items()]), lambda tag: tag.isNotNull())


def _named(family: str, values: Column) -> Column:
    """Values of a family as tags."""
    return F.transform(values, lambda value: F.concat(F.lit(f"{family}:"), value))


def _greatest(counts: Mapping[str, Column]) -> Column:
    """The name with the greatest count, of equals the first."""
    best = F.greatest(*counts.values())
    return F.coalesce(*[F.when(count == best, F.lit(name)) for name, count in counts.items()])


def _band(value: Column, names: Sequence[str | int], bounds: Sequence[float]) -> Column:
    """The last name whose bound `value` reaches, the first where it reaches none; null where `value` is."""
    chain = F.when(value.isNull(), None)
    for name, bound in zip(reversed(names[1:]), reversed(bounds), strict=True):
        chain = chain.when(value >= bound, F.lit(name))
    return chain.otherwise(F.lit(names[0]))


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    frames = (inputs[INTERACTIONS], inputs[ITEM_CATALOG], inputs[USERS])
    return transform(*frames, zone=inputs.time_zone, last_day=inputs.last_day, rules=inputs.profile)


def _due(inputs: Inputs, _stored: DataFrame, built: date) -> DataFrame:
    """Users with a fact that comes or goes, or a turn, on a day since `built`."""
    since = built + timedelta(1)

    def is_due(day: Column) -> Column:
        return day.between(since, inputs.last_day)

    acts, users = (_dated(inputs[table], inputs.time_zone) for table in (INTERACTIONS, USERS))
    goes = (is_due(F.date_add(_TRUE, days)) for days in (VALUE_DAYS, INTEREST_DAYS))
    coming = acts.where(reduce(Column.__or__, goes, is_due(F.col(DAY))))
    # An act in a category that became known late counts for it from then on.
    late = _dated(inputs[ITEM_CATALOG], inputs.time_zone).where(is_due(F.col(DAY)) & (F.col(DAY) > F.col(_TRUE)))
    of_late = of_keys(acts, ITEM_ID, late.select(ITEM_ID).distinct())
    bought = acts.where((F.col(EVENT_TYPE) == "purchase") & (F.col(DAY) <= F.lit(inputs.last_day)))
    states = bought.groupBy(USER_ID).agg(
        F.min(EVENT_TIMESTAMP).alias("first_purchase_at"),
        F.max(EVENT_TIMESTAMP).alias("last_purchase_at"),
        F.count_distinct(_TRUE).alias("purchase_days_count"),
    )
    turning = _rhythm(states, inputs.profile, inputs.time_zone).where(F.exists(_turns(inputs.profile), is_due))
    told = users.where(is_due(F.col(DAY)))
    found = [rows.select(USER_ID) for rows in (coming, of_late, turning, told)]
    return reduce(DataFrame.unionByName, found).distinct().withColumn(FIRST, F.lit(since))


SCOPE = Scope(USER_ID, reach_days=(), due=_due, others=of_moved_items)
JOB = Job(USER_PROFILE, (INTERACTIONS, ITEM_CATALOG, USERS), run, settings=("profile",), scope=SCOPE)
