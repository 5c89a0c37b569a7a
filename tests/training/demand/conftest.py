"""A small simulated shop for the demand tests: weekly rhythm, promotions that double sales, Saturdays and one holiday closed."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from training.demand.panel import Panel

START = date(2024, 1, 1)
HOLIDAY = date(2024, 5, 1)
NUM_DAYS = 200
CALENDAR = {HOLIDAY: "Labour Day", date(2024, 7, 24): "Labour Day"}


def simulate(num_items: int = 12, num_days: int = NUM_DAYS, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_items):
        level = 2.0 + 3.0 * number
        for step in range(10 * (number % 3), num_days):
            day = START + timedelta(days=step)
            is_open = day.weekday() != 5 and day not in CALENDAR
            is_promotion = (step + 7 * number) % 40 < 5
            rate = level * (1.5 if day.weekday() == 4 else 1.0) * (2.0 if is_promotion else 1.0) * is_open
            rows.append(
                {
                    "item_id": f"item-{number:02d}",
                    "ds": day,
                    "units_sum": int(rng.poisson(rate)),
                    "price_mean": 10.0 * (0.8 if is_promotion else 1.0),
                    "promotion_depth": 0.2 * is_promotion,
                    "is_promotion": is_promotion,
                    "holiday": CALENDAR.get(day),
                    "is_open": is_open,
                    "is_stock_out": False,
                }
            )
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="session")
def table() -> pa.Table:
    return simulate()


@pytest.fixture(scope="session")
def panel(table: pa.Table) -> Panel:
    return Panel.from_table(table, {f"item-{number:02d}": "even" if number % 2 == 0 else None for number in range(12)})
