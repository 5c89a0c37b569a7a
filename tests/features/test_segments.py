"""Segments: counts over the profiles of an instant, cut points out of them, and the verb that prints both."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from features.online.materialize import materialize
from features.online.rows import open_rows
from features.profiles import ProfileRules
from features.segments import Segment, fitting_rules, segments
from features.tables import USER_PROFILE
from features.views import VIEWS
from infra.errors import FeatureError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from shopgraph import app

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NEVER = {"stage": "prospect", "net_value_sum_365d": 0}


def bought(stage: str, tier: str, rfm: str, money: float) -> dict[str, object]:
    scores = dict(zip(("recency_score", "frequency_score", "monetary_score"), map(int, rfm), strict=True))
    return {"stage": stage, "value_tier": tier, "net_value_sum_365d": money, "price_mean_365d": money / 10, **scores}


USERS = [NEVER, bought("new", "low", "511", 12.5), bought("active", "high", "545", 2000), bought("active", "high", "545", 0.5)]


def view(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=VIEWS["user_profile"].schema)


def test_users_are_counted_by_stage_tier_and_cell() -> None:
    found = segments(view(USERS), NOON)
    assert found.users == 4
    assert list(found.stages) == ["prospect", "lost", "dormant", "at_risk", "new", "active"]
    assert found.stages["active"] == Segment(2, 2000.5)
    assert (found.stages["prospect"], found.stages["lost"]) == (Segment(1, 0.0), Segment(0, 0.0))
    assert found.tiers == {"high": Segment(2, 2000.5), "middle": Segment(0, 0.0), "low": Segment(1, 12.5)}
    assert found.rfm == {"511": Segment(1, 12.5), "545": Segment(2, 2000.5)}
    assert segments(view([]), NOON).rfm == {}


def test_fitting_constants_part_customers_evenly_and_are_accepted() -> None:
    rules = fitting_rules(view([NEVER, *(bought("active", "low", "511", 10.0 * n) for n in range(1, 101))]))
    assert rules == {"monetary_value": [210.0, 410.0, 600.0, 800.0], "price": [34.0, 67.0]}
    assert ProfileRules.model_validate(rules).price == (34, 67)
    close = fitting_rules(view([bought("active", "low", "511", 100_000 + n) for n in range(5)]))
    assert len(set(close["monetary_value"])) == 4


@pytest.mark.parametrize("rows", [[], [NEVER], [bought("new", "low", "511", 9.0)] * 50])
def test_customers_too_few_or_too_alike_are_not_parted(rows: list[dict[str, object]]) -> None:
    with pytest.raises(FeatureError, match="cannot be parted evenly; write cut points of your own"):
        fitting_rules(view(rows))


@pytest.fixture
def home(settings: Settings, lake: Lake) -> str:
    folder = Home(settings).shop("sample")
    folder.mkdir(parents=True)
    (folder / "shop.yaml").write_text(f"name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\nnow: {NOON.isoformat()!r}\n")
    counts = dict.fromkeys(("active_days_count", "purchase_days_count", "purchase_days_count_365d"), 1)
    rows = [
        {"user_id": f"u{n}", **counts, "interests": [], "tags": [f"stage:{stage or row['stage']}", "week:weekday"], **row}
        | {"stage": stage or row["stage"], "net_value_sum_365d": Decimal(str(row["net_value_sum_365d"]))}
        | {"event_timestamp": NOON - timedelta(age), "created_timestamp": NOON - timedelta(age)}
        for age, stage in ((9, "new"), (1, None))
        for n, row in enumerate(USERS)
    ]
    table = pa.Table.from_pylist(rows, schema=USER_PROFILE.schema)
    lake.write(USER_PROFILE.path, table, "overwrite", digest="x", read_version=None)
    return str(settings.home_path)


def run(home: str, *words: str) -> str:
    result = CliRunner().invoke(app, ["--home", home, *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_verb_counts_the_users_of_now_or_then(home: str) -> None:
    now = json.loads(run(home, "profiles", "--json"))
    assert (now["as_of"], now["users"]) == (NOON.isoformat(), 4)
    assert now["stages"]["active"] == {"users": 2, "net_value": 2000.5}
    then = json.loads(run(home, "profiles", "--as-of", "2024-04-25", "--json"))
    assert {stage: part["users"] for stage, part in then["stages"].items() if part["users"]} == {"new": 4}
    page = run(home, "profiles")
    assert "4 users" in page
    assert [cell.strip() for cell in page.split("│ active ")[1].split("│")[1:4]] == ["2", "50.0%", "2,000"]
    assert [cell.strip() for cell in page.split("│ 5 ")[1].split("│")[1:6]] == ["1", "0", "0", "2", "0"]
    fitting = yaml.safe_load(run(home, "profiles", "--fit"))["profile"]
    assert fitting == json.loads(run(home, "profiles", "--fit", "--json"))
    assert ProfileRules.model_validate(fitting).monetary_value[3] < 2000


def test_a_person_is_shown_with_the_tags_as_words(home: str, settings: Settings, lake: Lake) -> None:
    materialize([VIEWS["user_profile"]], NOON, lake, open_rows(settings, "sample"), Home(settings))
    page = run(home, "features", "get", "--service", "profile", "--key", "user_id=u2")
    assert "stage:active, week:weekday" in page
    assert "interests" in page
    assert "none" in page.split("interests")[1].splitlines()[0]
    row = json.loads(run(home, "features", "get", "--service", "profile", "--key", "user_id=u2", "--json"))
    assert (row["tags"], row["monetary_score"], row["purchases_count_7d"]) == (["stage:active", "week:weekday"], 5, None)
