from __future__ import annotations

import json

import pyarrow as pa

from infra.lake import Lake
from spark_jobs.sources.seen import PATH, SCHEMA, Seen


def test_the_last_of_three_runs_counts(lake: Lake) -> None:
    for run, kind in enumerate(["number", "number", "text"]):
        row = {
            "source": "s",
            "part": "public.orders",
            "size": 0,
            "digest": f"{run}",
            "num_rows": 1,
            "columns": json.dumps({"a": kind}),
            "cursor": f"2025-01-0{run + 1}",
            "ingest": f"{run}",
        }
        lake.write(PATH, pa.Table.from_pylist([row], schema=SCHEMA), "append", digest=f"{run}")
    seen = Seen.load(lake)
    assert seen.cursor("s") == "2025-01-03"
    assert seen.columns("s") == {"a": "text"}
