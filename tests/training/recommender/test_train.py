"""The whole run on the planted order: lake -> split -> Ray Train -> floors -> MLflow -> registered model."""

import pyarrow as pa
import pytest

from features.shop import Shop
from features.tables import INTERACTIONS
from infra.errors import TableContractError
from infra.lake import Lake
from infra.settings import Settings
from training.context import Context
from training.recommender.data import DataConfig
from training.recommender.model import Recommender
from training.recommender.network import Config
from training.recommender.purchases import Purchases
from training.recommender.recipes import Recipe
from training.recommender.train import train
from training.tracking import Tracking
from training.trainer import FitConfig

RECIPE = Recipe(
    name="tiny",
    data=DataConfig(val_days=14, test_days=14),
    model=Config(dim=16, num_blocks=1, max_length=8, dropout=0.0),
    fit=FitConfig(epochs=4, batch_size=16, learning_rate=1e-2),
)


@pytest.fixture
def context(settings: Settings, lake: Lake) -> Context:
    shop = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")
    return Context(settings, shop, lake, Tracking(settings, shop.name))


def test_a_missing_table_is_named(context: Context) -> None:
    with pytest.raises(TableContractError, match="shopgraph build interactions"):
        train(RECIPE, context)


@pytest.mark.e2e
@pytest.mark.usefixtures("ray")
def test_train_registers_a_model_that_beats_its_floors(cycle: pa.Table, settings: Settings, lake: Lake, mlflow_uri: str) -> None:
    settings = settings.model_copy(update={"mlflow_uri": mlflow_uri})
    rows = cycle.append_column("created_timestamp", cycle["event_timestamp"])
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in INTERACTIONS.schema
    ]
    lake.write(INTERACTIONS.path, pa.table(columns, schema=INTERACTIONS.schema), "overwrite", digest="cycle")
    shop = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")
    context = Context(settings, shop, lake, Tracking(settings, shop.name))
    report = train(RECIPE, context)
    assert report["metrics"]["recommender"]["test_ndcg_at_10"] > 0.5
    assert report["gains"]["popularity"][1] > 0
    saved = context.tracking.fetch("recommender")
    assert (saved.version, saved.inputs) == (report["version"], {INTERACTIONS.path: 0})
    best = [item for item, _ in Recommender.load(saved.folder).recommend([["i01", "i02"]], 3)[0]]
    assert "i03" in best
    assert Purchases.load(saved.folder).again.habits.offered.any()  # the other half of the version
    client = context.tracking.client
    experiment = client.get_experiment_by_name("sample/recommender")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["role"] for run in runs} == {"model", "baseline"}
    assert len({run.data.tags["data_digest"] for run in runs}) == len({run.data.tags["split_digest"] for run in runs}) == 1
    assert {run.info.run_name for run in runs} == set(report["metrics"]) - {"recommender"} | {"recommender tiny"}
