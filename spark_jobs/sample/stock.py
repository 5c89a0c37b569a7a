"""The warehouse of the sample shop: every want meets the stock of its moment; what is not there cannot be bought.

Each item is run through time on its own with an order-point policy: when stock on hand plus on order is at or below the order
point, `order_quantity` units are ordered and arrive after the lead time at the first instant of a local day. Returned goods are
not sold again.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from spark_jobs.sample.catalogue import Catalogue, Size, make_catalogue
from spark_jobs.sample.chance import Ints
from spark_jobs.sample.days import DAY_US, NUM_DAYS, start_of_history

WANTS = ("item", "user", "number", "at", "quantity")
LEDGER = pa.schema(
    [
        ("item", pa.int64()),
        ("at", pa.int64()),
        ("on_hand", pa.int64()),
        ("on_order", pa.int64()),
        ("user", pa.int64()),
        ("number", pa.int64()),
        ("sold", pa.int64()),
        ("step", pa.int64()),
    ]
)
"""One row per movement of an item, in time (`step` counts them), with the stock after it. `user`, `number` name the act that wanted
units and `sold` says what it got (0: nothing was left); they are -1, -1 and 0 for deliveries and the opening stock."""


@dataclass(frozen=True)
class Suppliers:
    """Terms of supply, one entry per item asked for."""

    lead_time_days: Ints
    minimum_order: Ints
    pack_size: Ints


def suppliers(catalogue: Catalogue, items: Ints) -> Suppliers:
    """The terms of each item: a lead time of 3 to 24 days, packs of 1, 2, 6 or 12 units, a least order of one to three packs."""
    chance = catalogue.chance
    pack = np.array([1, 2, 6, 12])[chance.below("pack size", 4, items)]
    return Suppliers(
        lead_time_days=3 + chance.below("lead time", 22, items),
        minimum_order=pack * (1 + chance.below("minimum order", 3, items)),
        pack_size=pack,
    )


def ledger(size: Size, seed: int, wants: pa.Table) -> pa.Table:
    """Run one item through the history.

    Args:
        wants: item, user, number, at, quantity of every want of ONE item, and one row with user -1 that opens its stock.
    """
    catalogue = make_catalogue(size, seed)
    chance = catalogue.chance
    item = int(wants["item"][0].as_py())
    opening = start_of_history()
    order = np.lexsort((wants["number"].to_numpy(), wants["user"].to_numpy(), wants["at"].to_numpy()))
    user, number, at, quantity = (wants[name].to_numpy()[order] for name in ("user", "number", "at", "quantity"))
    real = user >= 0

    one = np.array([item])
    terms = suppliers(catalogue, one)
    lead, pack = int(terms.lead_time_days[0]), int(terms.pack_size[0])
    days_on_sale = max(int(catalogue.last_day[item] - catalogue.first_day[item]), 1)
    daily = float(quantity[real].sum()) / days_on_sale
    foresight = float(np.exp(0.35 * chance.normal("planner foresight", one)[0]))  # the planner's error in demand
    spread = np.sqrt(daily * lead * (1 + 2 * catalogue.extra_units[item]))  # units come in lots: more than Poisson's
    order_point = max(int(np.ceil(daily * lead * foresight + 1.5 * spread)), 1)
    packs = -(-max(int(np.ceil(daily * 30 * foresight)), int(terms.minimum_order[0])) // pack)
    order_quantity = packs * pack

    on_hand, on_order, orders = order_point + order_quantity, 0, 0
    arrivals: list[int] = []
    rows: list[tuple[int, int, int, int, int, int, int]] = [(item, opening, on_hand, on_order, -1, -1, 0)]

    def receive(until: int) -> None:
        nonlocal on_hand, on_order
        while arrivals and arrivals[0] <= until:
            came = heapq.heappop(arrivals)
            on_hand, on_order = on_hand + order_quantity, on_order - order_quantity
            rows.append((item, came, on_hand, on_order, -1, -1, 0))

    wanted = zip(user[real].tolist(), number[real].tolist(), at[real].tolist(), quantity[real].tolist(), strict=True)
    for who, which, moment, units in wanted:
        receive(moment)
        sold = min(on_hand, units)
        on_hand -= sold
        if on_hand + on_order <= order_point:
            delay = lead + 2 * abs(float(chance.normal("delivery delay", one, orders)[0]))
            day = (moment - opening) // DAY_US + 1 + round(delay)
            heapq.heappush(arrivals, opening + day * DAY_US)
            on_order += order_quantity
            orders += 1
        rows.append((item, moment, on_hand, on_order, who, which, sold))
    receive(opening + NUM_DAYS * DAY_US - 1)
    columns = [*zip(*rows, strict=True), range(len(rows))]
    return pa.table([pa.array(values, f.type) for values, f in zip(columns, LEDGER, strict=True)], schema=LEDGER)
