from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from features.mapping import Source, TableMapping, Value

COLUMNS = {"order_id": "o", "item_id": "i", "quantity": "q", "unit_price": "p", "event_timestamp": "t"}


def source(**more: Any) -> Source:
    return Source(**{"name": "till", "format": "csv", "path": "x.csv", "tables": [{"table": "orders", "columns": COLUMNS}], **more})


def test_a_bare_name_is_a_column() -> None:
    mapping = source().tables[0]
    assert mapping.columns["order_id"] == Value(column="o")
    assert mapping.columns["order_id"].reads == {"o"}
    assert Value(digest=("a", "b")).reads == {"a", "b"}


def test_what_yaml_reads_as_dates_and_numbers_becomes_text() -> None:
    import yaml

    said = yaml.safe_load("columns: {x: {constant: 2025-01-31}, y: {from: z, values: {1: good}}}\ndelay: PT1H")
    assert Value(**said["columns"]["x"]).constant == "2025-01-31"
    assert Value(**said["columns"]["y"]).values == {"1": "good"}
    assert TableMapping(table="orders", columns=COLUMNS, delay=said["delay"]).delay == timedelta(hours=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tables": []}, "at least 1"),
        ({"tables": [{"table": "nope", "columns": {}}]}, "no raw table 'nope'"),
        ({"tables": [{"table": "orders", "columns": {**COLUMNS, "colour": "c"}}]}, "no column colour"),
        ({"tables": [{"table": "orders", "columns": {"order_id": "o"}}]}, "needs item_id, quantity, unit_price, event_timestamp"),
        ({"tables": [{"table": "orders", "columns": {**COLUMNS, "status": {}}}]}, "exactly one of"),
        ({"tables": [{"table": "orders", "columns": {**COLUMNS, "status": {"from": "a", "sql": "b"}}}]}, "exactly one of"),
        ({"tables": [{"table": "suppliers", "columns": {"item_id": "i", "lead_time_days": "d"}}]}, "needs created_timestamp"),
        ({"encoding": "utf-9"}, "unknown encoding"),
        ({"zone": "Europe/Atlantis"}, "no IANA time zone"),
        ({"decimal": ",", "thousands": ","}, "same sign"),
        ({"format": "postgres"}, "needs `url` and `query`"),
        ({"path": None}, "needs `path`"),
        ({"format": "xls x"}, "the name of a reader"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_what_a_source_must_say(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        source(**wrong)
