"""CDNOW: what everybody who first bought at an American music shop in the first quarter of 1997 bought there until June 1998.

The set on which models of customer value are compared (Fader & Hardie 2001). It names no article: a line is the CDs of an order.
Fully equal lines are two orders of a day and stay. A few CDs were given away.
"""

from __future__ import annotations

from typing import Any

COLUMNS = frozenset({"customer_id", "date", "number_of_cds", "dollar_value"})
READS: dict[str, Any] = {}
SHOP = {"currency": "USD", "time_zone": "America/New_York", "calendars": ["US"], "languages": ["en"], "now": "data"}
TEXT_TIME = "yyyyMMdd"
"""How `date` is written, as a number or as text."""
MAPPING = """
sources:
  - name: cdnow
    format: parquet
    path: ""
    tables:
      - table: orders
        columns:
          order_id:
            sql: concat_ws('-', customer_id, date)
          user_id: customer_id
          item_id:
            constant: cd # articles are not told
          quantity: number_of_cds
          unit_price:
            sql: dollar_value / number_of_cds
          event_timestamp:
            from: date
            format: yyyyMMdd # no time of day: midnight in the shop's zone
"""
