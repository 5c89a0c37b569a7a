"""The whole run on a small simulated shop: lake -> rows -> Ray Train -> baselines -> MLflow -> registered model."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.artifacts import download_artifacts

from features.shop import Shop
from features.tables import INTERACTIONS
from infra.errors import TableContractError
from infra.lake import Lake
from infra.settings import Settings
from tests.training.propensity.conftest import NUM_DAYS, START
from training.context import Context
from training.propensity.encoder import Facts
from training.propensity.model import Config, Propensity
from training.propensity.recipes import DataConfig, Recipe
from training.propensity.train import train
from training.tracking import Tracking
from training.trainer import FitConfig

RECIPE = Recipe(
    name="tiny",
    data=DataConfig(num_cutoffs=4),
    model=Config(dim=16, layers=1),
    fit=FitConfig(epochs=6, batch_size=64, learning_rate=5e-3),
)
SHOP = Shop(name="sample", currency="EUR", time_zone="UTC", now=(START + timedelta(days=NUM_DAYS)).isoformat())


def test_a_missing_table_is_named(settings: Settings, lake: Lake) -> None:
    with pytest.raises(TableContractError, match="shopgraph build interactions"):
        train(RECIPE, Context(settings, SHOP, lake, Tracking(settings, SHOP.name)))


@pytest.mark.e2e
@pytest.mark.usefixtures("ray")
def test_train_registers_a_model_beside_its_baselines(
    interactions: pa.Table, settings: Settings, lake: Lake, mlflow_uri: str
) -> None:
    settings = settings.model_copy(update={"mlflow_uri": mlflow_uri})
    late = interactions["event_timestamp"].to_pylist()
    late[:40] = [START + timedelta(days=NUM_DAYS + 1000)] * 40  # what says it is of the future
    columns = {name: interactions[name] for name in INTERACTIONS.names}
    columns |= {name: pa.array(late, INTERACTIONS.schema.field(name).type) for name in ("event_timestamp", "created_timestamp")}
    stored = pa.table({**columns, "retracted": pa.nulls(len(interactions), pa.string())}, schema=INTERACTIONS.stored_schema)
    lake.write(INTERACTIONS.path, stored, "overwrite", digest="simulated")
    context = Context(settings, SHOP, lake, Tracking(settings, SHOP.name))
    report = train(RECIPE, context)
    metrics = report["metrics"]
    assert metrics["propensity"]["test_auc_30d"] > 0.6 > metrics["base_rate"]["test_auc_30d"] == 0.5
    assert set(report["gains"]) == {"base_rate", "bg_nbd", "random_forest"}
    assert "| propensity |" in report["summary"]
    saved = context.tracking.fetch("propensity")
    assert (saved.version, saved.inputs) == (report["version"], {INTERACTIONS.path: 0})
    model, facts = Propensity.load(saved.folder), Facts.of(interactions, "UTC")
    assert model.encoder.horizon == 40  # a sixth of the days
    users, answers, _ = model.score(facts, int(facts.day.max()))
    assert len(users) == len(np.unique(facts.user))
    assert (answers.p_buy_7d < answers.p_buy_30d).all()
    client = context.tracking.client
    runs = client.search_runs([client.get_experiment_by_name("sample/propensity").experiment_id])
    assert {run.info.run_name: run.data.tags["role"] for run in runs} == {
        "propensity tiny": "model",
        **dict.fromkeys(("base_rate", "bg_nbd", "random_forest"), "baseline"),
    }
    assert len({(run.data.tags["data_digest"], run.data.tags["split_digest"]) for run in runs}) == 1
    plots = {file.path for file in client.list_artifacts(report["run_id"], "plots")}
    assert plots == {"plots/reliability.png", "plots/waiting.png", "plots/gains_over_baselines.png"}
    rows = pq.read_table(download_artifacts(run_id=report["run_id"], artifact_path="tables/per_user.parquet"))
    assert not set(rows["user_id"].to_pylist()) & set(facts.users.tolist())
