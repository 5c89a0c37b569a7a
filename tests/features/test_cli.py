"""The `features` verbs, from apply to a looked-up row."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from features.fresh.facts import EVENT_CONTRACT
from features.fresh.intake import Intake
from features.online.rows import open_rows
from features.shop import Shop
from features.tables import FEATURE_TABLES
from infra.errors import FeatureError, SettingsError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from shopgraph import app

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")


@pytest.fixture
def home(settings: Settings, lake: Lake) -> str:
    folder = Home(settings).shop("sample")
    folder.mkdir(parents=True)
    (folder / "shop.yaml").write_text(f"name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\nnow: {NOON.isoformat()!r}\n")
    table = FEATURE_TABLES["user_history"]
    rows = [
        {"user_id": "u1", "item_ids": ["a"], "event_types": ["view"], "event_timestamp": NOON - timedelta(days=days)}
        | {"created_timestamp": NOON - timedelta(days=days), "item_ids": ["a"] * days}
        for days in (1, 2)
    ]
    lake.write(table.path, pa.Table.from_pylist(rows, schema=table.schema), "overwrite", digest="x", read_version=None)
    return str(settings.home_path)


def run(home: str, *words: str) -> str:
    result = CliRunner().invoke(app, ["--home", home, "features", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_from_apply_to_a_row(home: str) -> None:
    assert "view user_history" in json.loads(run(home, "apply", "--check", "--json"))["created"]
    assert "feast -c" in run(home, "apply")
    assert json.loads(run(home, "apply", "--json"))["created"] == []
    assert json.loads(run(home, "materialize", "--json")) == {"as_of": NOON.isoformat(), "rows": {"user_history": 1}}
    assert json.loads(run(home, "get", "--key", "user_id=u1", "--json"))["item_ids"] == ["a"]
    assert "missing or expired" in run(home, "get", "--key", "user_id=nobody")
    past = run(home, "get", "--key", "user_id=u1", "--as-of", "2024-04-30", "--json")
    assert json.loads(past)["item_ids"] == ["a", "a"]
    for words, expected in (((), ["a"]), (("--rebuild",), ["a", "a"])):
        run(home, "materialize", "user_history", "--as-of", "2024-04-30", *words)
        assert json.loads(run(home, "get", "--key", "user_id=u1", "--json"))["item_ids"] == expected


def test_mistakes_are_named(home: str) -> None:
    for words, error, told in (
        (("get", "--key", "user_id"), FeatureError, "expected column=value"),
        (("get", "--key", "user_id=u1", "--as-of", "soon"), FeatureError, "ISO 8601"),
        (("materialize", "user_histroy"), FeatureError, "no view 'user_histroy'"),
        (("materialize", "sessions"), FeatureError, "offline only"),
    ):
        with pytest.raises(error, match=told):
            run(home, *words)
    with pytest.raises(SettingsError, match="no shop at"):
        CliRunner().invoke(app, ["--home", home, "--shop", "elsewhere", "features", "apply"], catch_exceptions=False)


def test_what_a_killed_gateway_left_is_drained(home: str, settings: Settings, lake: Lake) -> None:
    event = {"event_id": "e1", "user_id": "u1", "event_type": "login", "event_timestamp": "2024-05-01T12:00:00Z"}
    intake = Intake(settings, SHOP, lake, open_rows(settings, "sample"), "wall", lambda: NOON)
    intake.take([EVENT_CONTRACT.read([event], "http", "r", NOON)])
    for told in ({"rows": {"raw/events": 1}}, {"rows": {}}):
        result = CliRunner().invoke(app, ["--home", home, "drain", "--json"], catch_exceptions=False)
        assert json.loads(result.stdout) == told
    assert lake.num_rows("raw/events") == 1
