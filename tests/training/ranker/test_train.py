"""The whole run on a small simulated shop: first stage -> lists -> Ray Train -> baselines -> MLflow -> registered model."""

from __future__ import annotations

import pyarrow as pa
import pytest

from features.store import FeatureStore
from features.tables import INTERACTIONS, ITEM_CATALOG, USER_PROFILE
from infra.errors import SettingsError, TableContractError
from infra.lake import Lake
from infra.settings import Settings
from tests.training.ranker.conftest import SHOP, acts, microseconds
from training import recipe as recipes
from training.context import Context
from training.ranker.data import RankerTask
from training.ranker.model import TASKS, Config, Ranker
from training.ranker.recipes import DataConfig, Recipe
from training.ranker.train import train, tuning
from training.recommender import recipes as recommender
from training.recommender.data import DataConfig as RetrievalData
from training.recommender.network import Config as RetrievalModel
from training.tracking import Tracking
from training.trainer import FitConfig

RECIPE = Recipe(
    name="tiny",
    retrieval=recommender.Recipe(
        name="tiny",
        data=RetrievalData(val_days=21, test_days=10),
        model=RetrievalModel(dim=8, num_blocks=1, max_length=8, dropout=0.0),
        fit=FitConfig(epochs=1, batch_size=16, learning_rate=1e-2),
    ),
    data=DataConfig(),
    model=Config(dim=16, dropout=0.0),
    fit=FitConfig(epochs=4, batch_size=8, learning_rate=1e-2),
)


def context_of(settings: Settings, lake: Lake) -> Context:
    return Context(settings, SHOP, lake, Tracking(settings, SHOP.name))


def test_a_missing_table_is_named(settings: Settings, lake: Lake) -> None:
    with pytest.raises(TableContractError, match="shopgraph build interactions"):
        train(RECIPE, context_of(settings, lake))


def test_retrieval_at_one_instant_per_user_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"expected time, got leave_one_out"):
        recipes.load("ranker", "demo", ("retrieval.data.protocol=leave_one_out",))


@pytest.mark.parametrize("name", ["demo", "full"])
def test_its_first_stage_is_the_recommender_of_the_same_name(name: str) -> None:
    """So that its networks are found in the checkpoints where `shopgraph train` trained both."""
    made = recipes.load("ranker", name, ("model.dim=8",))
    assert isinstance(made, Recipe)
    assert made.retrieval == recipes.load("recommender", name)


@pytest.mark.e2e
@pytest.mark.usefixtures("ray")
def test_too_few_acts_are_told(settings: Settings, lake: Lake) -> None:
    rows = [("u", f"i{number:02}", "view", number * 3.0, f"s{number}") for number in range(20)]
    lake.write(INTERACTIONS.path, acts(rows), "overwrite", digest="few")
    with pytest.raises(TableContractError, match=r"expected at least 20 of one kind.*retrieval\.data\.val_days"):
        train(RECIPE, context_of(settings, lake))


@pytest.mark.e2e
@pytest.mark.usefixtures("ray", "store")
def test_what_is_tuned_ends_before_the_test_part(settings: Settings, lake: Lake, interactions: pa.Table) -> None:
    lake.write(INTERACTIONS.path, interactions, "overwrite", digest="shop")
    task = tuning(RECIPE, context_of(settings, lake)).task
    assert isinstance(task, RankerTask)
    assert task.val is not None
    assert task.train.at.max() < task.val.at.min()
    assert task.val.at.max() < microseconds(61 - 10)
    assert task.train.at.min() >= microseconds(59 - 10 - 21)


@pytest.mark.e2e
@pytest.mark.usefixtures("ray")
def test_train_registers_a_ranker_that_knows_what_is_bought(
    store: FeatureStore, lake: Lake, interactions: pa.Table, mlflow_uri: str
) -> None:
    settings = store.settings.model_copy(update={"mlflow_uri": mlflow_uri})
    lake.write(INTERACTIONS.path, interactions, "overwrite", digest="shop")
    context = context_of(settings, lake)
    report = train(RECIPE, context)
    found = report["metrics"]["ranker"]
    assert found["test_auc_purchase"] > 0.8  # what is cheap and near
    assert report["gains"]["popularity"]["ndcg_at_10"][1] > 0
    assert report["gains"]["retrieval"]["revenue_at_10"][0] > -1
    assert found["test_ndcg_at_10_gain"] == report["gains"]["retrieval"]["ndcg_at_10"][0]
    saved = context.tracking.fetch("ranker")
    assert (saved.version, saved.inputs) == (
        report["version"],
        {INTERACTIONS.path: 0, ITEM_CATALOG.path: 0, USER_PROFILE.path: 0},
    )
    ranker = Ranker.load(saved.folder)
    assert ranker.tasks == TASKS
    assert len(ranker.encoder.categories) == 3
    client = context.tracking.client
    experiment = client.get_experiment_by_name("sample/ranker")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {
        "ranker tiny",
        "retrieval",
        "popularity",
        "logistic_regression",
        "gradient_boosting",
    }
    assert len({run.data.tags["split_digest"] for run in runs}) == 1
