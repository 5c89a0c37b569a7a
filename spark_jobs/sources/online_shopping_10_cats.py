"""online_shopping_10_cats: 50,170 Chinese shop reviews in ten categories, each good (1) or bad (0), without ids and times."""

from __future__ import annotations

from typing import Any

COLUMNS = frozenset({"cat", "label", "review"})
READS: dict[str, Any] = {}
SHOP = {"currency": "CNY", "time_zone": "Asia/Shanghai", "calendars": ["CN"], "languages": ["zh"], "now": "data"}
TEXT_TIME = None
MAPPING = """
sources:
  - name: online_shopping_10_cats
    format: parquet
    path: ""
    tables:
      - table: reviews
        columns:
          review_id:
            digest: [cat, label, review] # the set has no ids: equal rows are one review
          review_text: review
          category: cat
          label: label
          language:
            constant: zh
          event_timestamp:
            constant: "2000-01-01T00:00:00+00:00" # the set has no times: known from ever
"""
