"""Women's E-Commerce Clothing Reviews: 23,486 English reviews of one shop, with rating and recommendation, without times."""

from __future__ import annotations

from typing import Any

COLUMNS = frozenset({"Clothing ID", "Title", "Review Text", "Rating", "Recommended IND", "Department Name", "Class Name"})
READS: dict[str, Any] = {}
SHOP = {"currency": "USD", "time_zone": "America/New_York", "calendars": ["US"], "languages": ["en"], "now": "data"}
TEXT_TIME = None
MAPPING = """
sources:
  - name: womens_clothing
    format: parquet
    path: ""
    drop:
      no text: "`Review Text` is null" # a rating only
    tables:
      - table: reviews
        columns:
          review_id: "Unnamed: 0"
          item_id: Clothing ID
          rating: Rating
          label: Recommended IND
          review_text: Review Text
          category: Department Name
          language:
            constant: en
          event_timestamp:
            constant: "2000-01-01T00:00:00+00:00" # the set has no times: known from ever
      - table: items
        where: "`Department Name` is not null"
        columns:
          item_id: Clothing ID
          category: Department Name
          event_timestamp:
            constant: "2000-01-01T00:00:00+00:00"
"""
