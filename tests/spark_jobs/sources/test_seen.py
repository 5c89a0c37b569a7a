from __future__ import annotations

import json

import pyarrow as pa

from infra.lake import Lake
from spark_jobs.sources.seen import PATH, SCHEMA, Seen


def test_the_last_of_three_runs_counts(lake: Lake) -> None:
    parts = ["postgresql://old/shop", "postgresql://new/shop", "/export"]
    for run, (kind, part) in enumerate(zip(["number", "number", "text"], parts, strict=True)):
        row = {
            "source": "s",
            "part": part,
            "size": 0,
            "digest": f"{run}",
            "num_rows": 1,
            "columns": json.dumps({"a": kind}),
            "cursor": f"2025-01-0{run + 1}",
            "ingest": f"{run}",
        }
        lake.write(PATH, pa.Table.from_pylist([row], schema=SCHEMA), "append", digest=f"{run}")
    seen = Seen.load(lake)
    assert seen.cursor("s", "postgresql") == "2025-01-02"
    assert seen.cursor("s", "/export") == "2025-01-03"
    assert seen.cursor("s", "/import") is None
    assert seen.columns("s") == {"a": "text"}
