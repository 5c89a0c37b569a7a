from __future__ import annotations

import json

import pytest

from features.mapping import Source
from infra.errors import IngestError
from spark_jobs.sources.drift import check_changes
from spark_jobs.sources.seen import Seen

TABLES = [{"table": "items", "columns": {"item_id": "sku", "event_timestamp": "ts"}}]
SEEN = Seen(({"source": "log", "columns": json.dumps({"sku": "text", "ts": "text", "promo": "text"})},))
TODAY = {"sku": "text", "ts": "text"}


def test_a_kept_column_that_vanishes_stops_where_every_row_has_all_columns() -> None:
    source = Source(name="log", format="csv", path="a", tables=TABLES)
    with pytest.raises(IngestError, match="column `promo` has vanished; the raw table keeps it"):
        check_changes(source, TODAY, SEEN, {"promo"})
    assert check_changes(source, TODAY, SEEN, set()) == ([], ["source log: column `promo` has vanished; nothing reads it."])


def test_a_key_that_no_json_line_has_today_has_not_vanished() -> None:
    source = Source(name="log", format="jsonl", path="a", tables=TABLES)
    assert check_changes(source, TODAY, SEEN, {"promo"}) == ([], [])
    with pytest.raises(IngestError, match="column `promo` held text and now holds number"):
        check_changes(source, TODAY | {"promo": "number"}, SEEN, {"promo"})
