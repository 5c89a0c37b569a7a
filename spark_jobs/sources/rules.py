"""What a row of a raw table must keep beyond its types: one reason per broken rule."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from pyspark.sql import Column as SparkColumn
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPES, ITEM_EVENT_TYPES, QUANTITY
from features.quality.expectations import expectation
from features.tables import MONEY_BELOW, UNITS_BELOW, Table

AHEAD = timedelta(minutes=5)
"""How far a shop's clock may run before ours."""
_PRICE_OF_A_UNIT = {"events": "price", "orders": "unit_price"}


def broken(table: Table, now: datetime) -> list[SparkColumn]:
    """Reasons over the declared columns of `table`: each null where its rule holds.

    Args:
        now: the present; facts later than `AHEAD` after it are refused.
    """
    reasons = [F.when(F.col(name).isNull(), f"{name}: missing") for name in table.required if name != CREATED_TIMESTAMP]
    # what a build would refuse to read is refused here, row by row
    bounds = expectation(table, {}).columns.items()
    reasons += [F.when(F.col(name) < 0, f"{name}: negative") for name, of in bounds if of.min == 0 and of.max is None]
    event = F.lit(False)
    if EVENT_TIMESTAMP in table.names:
        event = F.coalesce(F.col(EVENT_TIMESTAMP) > F.lit(now + AHEAD), F.lit(False))
        reasons.append(F.when(event, f"{EVENT_TIMESTAMP}: in the future"))
    reasons.append(F.when(~event & (F.col(CREATED_TIMESTAMP) > F.lit(now + AHEAD)), f"{CREATED_TIMESTAMP}: in the future"))
    if price := _PRICE_OF_A_UNIT.get(table.name):
        units = F.abs(F.col(QUANTITY).cast("double"))
        reasons.append(F.when(units >= UNITS_BELOW, f"{QUANTITY}: too large"))
        reasons.append(
            F.when(units * F.col(price).cast("double") >= MONEY_BELOW, f"{QUANTITY}, {price}: their product is too large")
        )
    own = _OWN.get(table.name)
    return reasons + (own() if own else [])


def _events() -> list[SparkColumn]:
    kind = F.col("event_type")
    nobody = F.coalesce("user_id", "visitor_id", "session_id").isNull()
    return [
        F.when(~kind.isin(*EVENT_TYPES), "event_type: not one of ours; map it with `values`"),
        F.when(kind.isin(*ITEM_EVENT_TYPES) & F.col("item_id").isNull(), "item_id: missing for an event that speaks of an item"),
        F.when(nobody, "user_id, visitor_id, session_id: all missing"),
    ]


def _reviews() -> list[SparkColumn]:
    return [
        F.when(~F.col("rating").between(1, 5), "rating: not from 1 to 5"),
        F.when(~F.col("label").isin(0, 1), "label: neither 0 nor 1"),
    ]


def _promotions() -> list[SparkColumn]:
    return [
        F.when(F.coalesce("item_id", "category").isNull(), "item_id, category: both missing"),
        F.when(~F.col("depth").between(0, 1), "depth: not from 0 to 1"),
        *_period(),
    ]


def _period() -> list[SparkColumn]:
    return [F.when(F.col("ends_at") <= F.col("starts_at"), "ends_at: not after starts_at")]


def _exposures() -> list[SparkColumn]:
    return [F.when(~((F.col("propensity") > 0) & (F.col("propensity") <= 1)), "propensity: not above 0 and up to 1")]


def _rates() -> list[SparkColumn]:
    return [F.when(F.col("rate") <= 0, "rate: not above 0")]


_OWN: dict[str, Callable[[], list[SparkColumn]]] = {
    "events": _events,
    "reviews": _reviews,
    "promotions": _promotions,
    "campaigns": _period,
    "exposures": _exposures,
    "rates": _rates,
}
