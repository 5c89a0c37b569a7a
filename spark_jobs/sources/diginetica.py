"""Diginetica (CIKM Cup 2016, as SR-GNN splits it): click sessions of unknown people, in time order, without times.

Only the training sessions are events. The tests (`prefix`, `target`) are for evaluation: each session is in them once for every
prefix, so as events its clicks would count several times, and what a model is asked would be in what it learned from.
"""

from __future__ import annotations

from typing import Any

from spark_jobs.sources.guess import UNTOLD

COLUMNS = frozenset({"session", "items", "position"})
READS: dict[str, Any] = {"explode": "items"}
SHOP = {**UNTOLD, "now": "data"}
TEXT_TIME = None
MAPPING = """
sources:
  # the tests, columns `prefix` and `target`, are for evaluation and no events
  - name: diginetica
    format: parquet
    path: ""
    explode: items # a record per item; `position` is its place, from 1
    tables:
      - table: events
        columns:
          event_id:
            digest: [session, position]
          session_id: session # nobody is known beyond the session
          item_id: items
          event_type:
            constant: view
          event_timestamp:
            # made up, as the set has no times: sessions are numbered in the order of their days; a minute for each, a millisecond per place
            sql: 1451606400000 + 60000 * session + position
            unit: ms
"""
