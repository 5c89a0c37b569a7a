"""The whole run on a few hundred reviews: lake -> split -> Ray Train -> floors -> MLflow -> registered model."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow.artifacts import download_artifacts
from typer.testing import CliRunner

import shopgraph
from features.shop import Shop
from features.tables import CLEAN_REVIEWS
from infra.errors import TableContractError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from training import recipe as recipes
from training.context import Context
from training.sentiment import data
from training.sentiment.data import Reviews
from training.sentiment.encoder import EncoderConfig
from training.sentiment.model import Config, SentimentClassifier
from training.sentiment.recipes import DataConfig, Recipe
from training.sentiment.train import train, tuning, without_near_copies
from training.tracking import Tracking
from training.trainer import FitConfig

RECIPE = Recipe(
    name="tiny",
    data=DataConfig(leave_one_category_out=True, min_category_texts=90),
    model=Config(encoder=EncoderConfig(min_piece_texts=1), dim=8, filters=8, widths=(3,)),
    fit=FitConfig(epochs=2, batch_size=16, learning_rate=1e-2),
)
SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")


def test_a_missing_table_is_named(settings: Settings, lake: Lake) -> None:
    with pytest.raises(TableContractError, match="shopgraph build"):
        train(RECIPE, Context(settings, SHOP, lake, Tracking(settings, SHOP.name)))


def test_what_is_tuned_holds_no_text_of_the_test_part(settings: Settings, full_lake: Lake, reviews: Reviews) -> None:
    made = tuning(RECIPE, Context(settings, SHOP, full_lake, Tracking(settings, SHOP.name)))
    split, _ = without_near_copies(data.split(reviews))
    assert isinstance(made.task, data.SentimentTask)
    assert (len(made.task.train), len(made.task.val)) == (len(split.train), len(split.val))
    assert made.parts[1:] == (split.train.texts, split.val.texts)
    assert made.task.monitor == "val_log_loss"


@pytest.mark.parametrize("name", ["demo", "full"])
def test_named_recipes_can_be_changed_field_by_field(name: str) -> None:
    changed = recipes.load("sentiment", name, ("model.encoder.max_chars=7", "fit.seed=3"))
    assert isinstance(changed, Recipe)
    assert (changed.model.encoder.max_chars, changed.fit.seed) == (7, 3)
    assert changed.name == f"{name} model.encoder.max_chars=7 fit.seed=3"


def test_training_texts_that_copy_the_test_part_go_and_the_test_part_stays() -> None:
    long = "这件衣服的质量真的非常不错穿起来很舒服颜色也和图片上的一样下次还会再来买的推荐给大家"

    def part(*texts: str) -> Reviews:
        return Reviews(np.array(texts), texts, np.ones(len(texts), np.int64), np.array([""] * len(texts)))

    split, copies = without_near_copies(data.Split(part("别的话", long.replace("推荐", "介绍")), part("x"), part(long, "y")))
    assert split.train.texts == ("别的话",)
    assert split.test.texts == (long, "y")
    assert copies == {"leaked_share": 0.5, "dropped_from_train": 1}


@pytest.mark.e2e
@pytest.mark.usefixtures("ray")
def test_without_names_what_has_data_is_trained_and_the_rest_is_told(
    full_lake: Lake, settings: Settings, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Home(settings).shop("words")
    folder.mkdir(parents=True)
    (folder / "shop.yaml").write_text("name: words\ncurrency: EUR\ntime_zone: Europe/Berlin\n")
    Lake.open(settings, "words").write(CLEAN_REVIEWS.path, full_lake.read(CLEAN_REVIEWS.path), "overwrite", digest="words")
    monkeypatch.setenv("SHOPGRAPH_MLFLOW_URI", mlflow_uri)
    train = ["--home", str(settings.home_path), "--shop", "words", "train"]
    told = CliRunner().invoke(shopgraph.app, [*train, "--set", "fit.epochs=1", "--json"], catch_exceptions=False)
    assert told.exit_code == 0
    assert set(json.loads(told.stdout.splitlines()[-1])) == {"sentiment"}
    assert [name for name in recipes.MODELS if f"model={name}" in told.stderr] == ["recommender", "demand", "propensity", "ranker"]
    assert told.stderr.count("not trained") == 4
    with pytest.raises(TableContractError, match="interactions"):
        CliRunner().invoke(shopgraph.app, [*train, "recommender"], catch_exceptions=False)


@pytest.mark.e2e
@pytest.mark.usefixtures("ray")
def test_train_registers_a_model_beside_its_floors(full_lake: Lake, settings: Settings, reviews: Reviews, mlflow_uri: str) -> None:
    settings = settings.model_copy(update={"mlflow_uri": mlflow_uri})
    context = Context(settings, SHOP, full_lake, Tracking(settings, SHOP.name))
    report = train(RECIPE, context)
    metrics = report["metrics"]
    assert metrics["sentiment"]["test_accuracy"] > 0.95 > metrics["majority"]["test_accuracy"]
    assert set(report["left_out"]) == {"shirts"}  # there are too few texts about phones
    saved = context.tracking.fetch("sentiment")
    assert (saved.version, saved.inputs) == (report["version"], {CLEAN_REVIEWS.path: 0})
    texts = ["质量很好, 非常喜欢", "poor quality, hate it"]
    assert [answer["label"] for answer in SentimentClassifier.load(saved.folder).classify(texts)] == ["good", "bad"]
    client = context.tracking.client
    runs = client.search_runs([client.get_experiment_by_name("sample/sentiment").experiment_id])
    assert {run.info.run_name: run.data.tags["role"] for run in runs} == {
        "sentiment tiny": "model",
        "majority": "baseline",
        "tfidf_regression": "baseline",
    }
    assert len({(run.data.tags["data_digest"], run.data.tags["split_digest"]) for run in runs}) == 1
    plots = {file.path for file in client.list_artifacts(report["run_id"], "plots")}
    assert {"plots/confusion.png", "plots/calibration.png", "plots/accuracy_on_new_category.png"} <= plots
    rows = pq.read_table(download_artifacts(run_id=report["run_id"], artifact_path="tables/per_review.parquet"))
    assert not set(rows["review"].to_pylist()) & set(reviews.ids.tolist())
