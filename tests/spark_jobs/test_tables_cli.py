"""The verbs of tables, on a shop without Spark: what they print, and what they change only when asked to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import shopgraph
from infra.errors import HomeError, TableContractError
from infra.home import Home
from infra.lake import Lake
from infra.pins import pin
from infra.settings import Settings

PATH = "raw/orders"


@pytest.fixture
def run(settings: Settings, lake: Lake) -> Callable[..., str]:
    """`run(verb, ...)`: what `shopgraph tables <verb> ...` prints on a shop of three versions, the second pinned."""
    place = Home(settings).shop("sample")
    place.mkdir(parents=True)
    (place / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\nnow: data\n")
    for number, (item, mode) in enumerate({"甲": "append", "乙": "append", "丙": "overwrite"}.items()):
        metadata = {"ingest": f"{number}", "sources": ["收银"]}
        rows = pa.table({"item_id": [item] * (number + 1)})
        lake.write(PATH, rows, mode, digest=item, read_version=lake.version(PATH), metadata=metadata)
    pin(lake, "model", "sample.demand-3", {PATH: 1})

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(shopgraph.app, ["--home", str(settings.home), "tables", *arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def told(text: str) -> Any:
    return json.loads(text)


def test_log_tells_what_happened_and_who_holds_it(run: Callable[..., str]) -> None:
    versions = told(run("log", PATH, "--json"))
    assert [(v["version"], v["num_rows"], v["what"], v["holders"]) for v in versions] == [
        (2, 3, "written anew: ingest of 收银", []),
        (1, 2, "appended: ingest of 收银", ["model sample.demand-3"]),
        (0, 1, "appended: ingest of 收银", []),
    ]
    assert [v["table"] for v in told(run("log", "--json"))] == [PATH]
    assert "raw/orders" in run("log")
    with pytest.raises(TableContractError, match="shop sample has no table raw/商品; there are raw/orders"):
        run("log", "raw/商品")


def test_vacuum_lists_and_deletes_only_when_asked_to(run: Callable[..., str], lake: Lake) -> None:
    files = sorted(Path(lake.uri(PATH)).rglob("*.parquet"))
    assert "0 files" in run("vacuum")
    listed = told(run("vacuum", "--older-than", "0", "--json"))
    assert not listed["applied"]
    assert [(v["version"], v["fate"]) for v in listed["tables"][0]["versions"]] == [(2, "newest"), (1, "held"), (0, "shared")]
    run("unpin", "model", "sample.demand-3")
    assert "2 files" in run("vacuum", "--older-than", "0")
    assert sorted(Path(lake.uri(PATH)).rglob("*.parquet")) == files
    assert "2 files" in run("vacuum", "--older-than", "0", "--apply")
    assert len(list(Path(lake.uri(PATH)).rglob("*.parquet"))) == 1
    assert [v["readable"] for v in told(run("log", PATH, "--json"))] == [True, False, False]
    with pytest.raises(TableContractError, match="nothing is pinned by 'model x'; pins are held by nobody"):
        run("unpin", "model", "x")


def test_compact_and_vacuum_wait_for_no_writer(run: Callable[..., str], lake: Lake, settings: Settings) -> None:
    assert told(run("compact", "--json")) == []
    lake.write(PATH, pa.table({"item_id": ["丁"]}), "append", digest="丁")
    assert told(run("compact", PATH, "--json")) == [{"table": PATH, "version": 4, "files_before": 2, "files": 1}]
    for verb in (["compact"], ["vacuum", "--apply"]):
        with Home(settings).lock("build-sample"), pytest.raises(HomeError, match="is already running"):
            run(*verb)


def test_a_dry_run_changes_nothing_and_a_target_is_a_version_or_a_time(run: Callable[..., str], lake: Lake) -> None:
    plan = told(run("restore", PATH, "--to", "1", "--dry-run", "--json"))
    assert plan["tables"] == [{"path": PATH, "version": 2, "to": 1, "kept": [], "rows_before": 3, "rows_after": 3}]
    assert "nothing to take back" in run("restore", PATH, "--to", "2125-01-01", "--dry-run")
    assert lake.version(PATH) == 2
    with pytest.raises(TableContractError, match="--to 'gestern': expected a version such as 5 or an ISO 8601 time"):
        run("restore", PATH, "--to", "gestern")
