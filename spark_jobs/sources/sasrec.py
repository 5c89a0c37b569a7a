"""Lines of a user and an item, `1 42`, without header and times, each user's in time order: the form SASRec made common."""

from __future__ import annotations

from typing import Any

from spark_jobs.sources.guess import UNTOLD

COLUMNS = frozenset({"user_id", "item_id"})
READS: dict[str, Any] = {"delimiter": " ", "header": ["user_id", "item_id"]}
SHOP = {**UNTOLD, "now": "data"}
TEXT_TIME = None
MAPPING = """
sources:
  - name: sasrec
    format: csv
    path: ""
    delimiter: " "
    header: [user_id, item_id]
    tables:
      - table: events
        columns:
          user_id: user_id
          item_id: item_id
          event_type:
            constant: view # a line is one act; as a purchase it would count as money
          event_timestamp:
            # made up, as the file has no times: an hour per line of a user keeps the order, and the first days are over at the `data` clock
            sql: 946684800L + 3600L * row_number() over (partition by user_id order by __part, __row)
            unit: s
"""
