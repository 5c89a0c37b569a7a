"""Amazon 5-core sequences (Beauty, Toys and others, as S3-Rec splits them): what each user reviewed, oldest first, without times.

Of `item_attributes.json` beside them see amazon_attributes.
The protocol of published results leaves one out per user (recipe `sequences`): a cut in time means nothing here.
"""

from __future__ import annotations

from typing import Any

from spark_jobs.sources.guess import UNTOLD

COLUMNS = frozenset({"user", "items", "position"})
READS: dict[str, Any] = {"explode": "items"}
SHOP = {**UNTOLD, "now": "data"}
TEXT_TIME = None
MAPPING = """
sources:
  - name: amazon_sequences
    format: parquet
    path: ""
    explode: items # a record per item; `position` is its place, from 1
    tables:
      - table: events
        columns:
          event_id:
            digest: [user, position] # a list that has grown brings what is new
          user_id: user
          item_id: items
          event_type:
            constant: view # a review is one act; as a purchase it would count as money
          event_timestamp:
            # made up, as the set has no times: an hour per place keeps the order, and the first days are over at the `data` clock
            sql: 946684800 + 3600 * position
            unit: s
"""
