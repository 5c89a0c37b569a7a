"""Money without rounding: DECIMAL(18,4) as whole units of 1/10,000, and as the float64 that is served.

`float("19.99")` is the nearest float of an amount, and so is its units divided by 10,000; Arrow's own cast of a decimal is off by one
unit in the last place.
"""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

MONEY_UNITS = 10_000
"""Units of money to one of the shop's currency: what DECIMAL(18,4) counts in."""


def units(money: Decimal | str) -> int:
    """An amount in units."""
    return int(Decimal(money) * MONEY_UNITS)


def served(units: int) -> float:
    """Units as they are served, in the shop's currency."""
    return float(units) / MONEY_UNITS


def column_units(money: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of DECIMAL(18,4) in units (int64)."""
    return pc.multiply(money, pa.scalar(MONEY_UNITS, pa.decimal128(5, 0))).cast(pa.int64())


def column_served(money: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of DECIMAL(18,4) as it is served (float64)."""
    return pc.divide(column_units(money).cast(pa.float64(), safe=False), float(MONEY_UNITS))
