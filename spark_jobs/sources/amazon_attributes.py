"""Attributes of the items of Amazon 5-core sequences (as S3-Rec splits them): brand and category, as numbers that do not say which.

Not one is a brand or a category for sure, so they are told as a title of numbered words: what is learned of an item's words holds.
"""

from __future__ import annotations

from typing import Any

from spark_jobs.sources.guess import UNTOLD

FILE = "item_attributes.json"
"""Its name tells it from lists of anything else by anything else."""
COLUMNS = frozenset({"key", "value"})
READS: dict[str, Any] = {"format": "jsonl", "keyed": True}
SHOP = {**UNTOLD, "now": "data"}
TEXT_TIME = None
MAPPING = """
sources:
  - name: amazon_attributes
    format: jsonl
    path: ""
    tables:
      - table: items
        columns:
          item_id: key
          title:
            sql: concat('attributes ', array_join(from_json(value, 'array<string>'), ' '))
          event_timestamp:
            # made up: known before the first act (see amazon_sequences)
            sql: "946684800"
            unit: s
"""
