"""The table of scores: what the model says of each user, whoever else is in the task, and where it came from."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from features.tables import INTERACTIONS, PURCHASE_PROPENSITY
from infra.errors import SettingsError, TableContractError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs.scoring import propensity
from tests.training.propensity.conftest import START, acts, simulate
from training.propensity.encoder import Encoder, Facts, features
from training.propensity.model import Config, Network, Propensity
from training.tracking import Saved, Tracking

NOW = START + timedelta(days=80.3)
ZONE = "Asia/Shanghai"


@pytest.fixture
def model(tmp_path: Path) -> Saved:
    """A network that was never trained, but answers differently to each."""
    import torch

    torch.manual_seed(0)
    facts = Facts.of(simulate(), ZONE)
    network = Network(Config(dim=8), 40)
    torch.nn.init.normal_(network.out.weight)
    Propensity(Config(dim=8), Encoder.fit(features(facts, int(facts.day.max()))[1], 40), network.eval()).save(tmp_path / "model")
    return Saved(tmp_path / "model", "sample.propensity", 3, "d" * 64, "r", {INTERACTIONS.path: 0})


@pytest.fixture
def shop(settings: Settings, model: Saved, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A shop whose registry holds the model, on the Spark of all tests."""
    folder = Home(settings).shop()
    folder.mkdir(parents=True)
    (folder / "shop.yaml").write_text(f"name: sample\ncurrency: EUR\ntime_zone: {ZONE}\nnow: '{NOW.isoformat()}'\n")
    monkeypatch.setattr(Tracking, "fetch", lambda self, task, version=None: model)
    monkeypatch.setattr(propensity, "session", lambda settings, name: nullcontext(spark))
    return settings


def store(lake: Lake, rows: pa.Table, digest: str = "first", mode: str = "overwrite") -> None:
    rows = rows if "retracted" in rows.column_names else rows.append_column("retracted", pa.nulls(len(rows), pa.string()))
    lake.write(
        INTERACTIONS.path, rows.select(INTERACTIONS.stored_schema.names).cast(INTERACTIONS.stored_schema), mode, digest=digest
    )


def test_every_known_user_has_a_row_that_says_where_it_comes_from(shop: Settings, lake: Lake, model: Saved) -> None:
    rows = simulate()
    store(lake, rows)
    made = propensity.score(shop)
    today = (NOW + timedelta(hours=8)).date()
    assert made.as_of == datetime(today.year, today.month, today.day, tzinfo=UTC) - timedelta(hours=8)
    scores = lake.read(PURCHASE_PROPENSITY.path).sort_by("user_id")
    facts = Facts.of(rows, ZONE)
    users, answers, drivers = Propensity.load(model.folder).score(facts, (today - date(1970, 1, 1)).days)
    assert scores["user_id"].to_pylist() == facts.users[users].tolist()
    assert 0 < len(users) < len(facts.users)  # some come only later
    np.testing.assert_allclose(scores["p_buy_30d"].to_numpy(), answers.p_buy_30d, atol=1e-6)
    np.testing.assert_allclose(scores["expected_days_to_next"].to_numpy(), answers.expected_days, atol=1e-4)
    assert (scores["p_buy_7d"].to_numpy() <= scores["p_buy_30d"].to_numpy()).all()
    assert scores["drivers"].to_pylist() == drivers
    told = scores.select(["horizon_days", "as_of", "model_version", "interactions_version"]).to_pylist()
    assert told == [{"horizon_days": 40, "as_of": made.as_of, "model_version": 3, "interactions_version": 0}] * len(users)
    entry = lake.history(PURCHASE_PROPENSITY.path, 1)[0]
    assert entry["inputs"] == f'{{"{INTERACTIONS.path}": 0}}'
    assert entry["model"] == "sample.propensity version 3"


def test_the_same_again_commits_nothing_and_another_day_replaces_all(shop: Settings, lake: Lake) -> None:
    store(lake, simulate(num_users=20))
    first, again = propensity.score(shop), propensity.score(shop)
    assert (again.commit.skipped, again.commit.version) == (True, first.commit.version)
    earlier = propensity.score(shop, day=START.date() + timedelta(days=60))
    assert earlier.commit.version == first.commit.version + 1
    assert set(lake.read(PURCHASE_PROPENSITY.path)["as_of"].to_pylist()) == {earlier.as_of}


def test_a_day_before_the_first_act_is_refused_and_the_table_stays(shop: Settings, lake: Lake) -> None:
    store(lake, simulate(num_users=20))
    made = propensity.score(shop)
    with pytest.raises(SettingsError, match="1999-01-01: expected a day after the first act"):
        propensity.score(shop, day=date(1999, 1, 1))
    assert lake.version(PURCHASE_PROPENSITY.path) == made.commit.version


def test_an_act_that_was_taken_back_does_not_count(shop: Settings, lake: Lake) -> None:
    rows = acts([("a", "purchase", 5.0, 10.0), ("b", "purchase", 5.0, 20.0)])
    store(lake, rows)
    taken = rows.slice(1, 1).append_column("retracted", pa.array(["nothing"]))
    store(lake, taken, "second", "append")
    propensity.score(shop)
    assert lake.read(PURCHASE_PROPENSITY.path)["user_id"].to_pylist() == ["a"]


@pytest.mark.parametrize("rows", [acts([("visitor:1", "purchase", 5.0, 10.0)]), acts([("late", "purchase", 5.0, 999.0)])])
def test_a_shop_without_a_known_user_gets_an_empty_table(shop: Settings, lake: Lake, rows: pa.Table) -> None:
    store(lake, rows)
    propensity.score(shop)
    assert lake.num_rows(PURCHASE_PROPENSITY.path) == 0


def test_a_day_that_has_not_begun_is_refused(shop: Settings, lake: Lake) -> None:
    store(lake, simulate(num_users=5))
    with pytest.raises(SettingsError, match="expected a day that has begun; by the shop's clock it is 2024-03-"):
        propensity.score(shop, day=date(2024, 12, 1))


def test_a_missing_table_is_named(shop: Settings) -> None:
    with pytest.raises(TableContractError, match="run `shopgraph build interactions`"):
        propensity.score(shop)
