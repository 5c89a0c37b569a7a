"""The main job on real engines gives what it gives embedded: the same tables, the same metrics.

Embedded: `local[*]`, SQLite, folders. Real: a standalone Spark, a Ray cluster reached through its Jobs API, MLflow and the Feast
registry on Postgres, every table and every artifact on an S3 server.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from features.tables import FEATURE_TABLES
from infra.processes import free_ports
from infra.settings import Settings
from tests.engines.conftest import S3, RayCluster
from tests.installation import Installation, installation
from training.tracking import Tracking

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def embedded(trained_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = installation(shutil.copytree(trained_tiny, tmp_path_factory.mktemp("embedded") / "home"))
    try:
        yield made
    finally:
        made.shopgraph("down")


@pytest.fixture(scope="module")
def real(
    embedded: Installation,
    tmp_path_factory: pytest.TempPathFactory,
    spark_cluster: str,
    ray_cluster: RayCluster,
    postgres: str,
    s3: S3,
) -> Iterator[Installation]:
    for database in ("mlflow", "feast"):
        with psycopg.connect(f"postgresql://shop@{postgres}/postgres", autocommit=True) as connection:
            connection.execute(f"create database {database}")
    settings = Settings.load(
        home=tmp_path_factory.mktemp("real") / "home",
        spark_master=spark_cluster,
        spark_driver_memory="1g",
        lake_root="s3://shop/lake",
        artifact_root="s3://shop/artifacts",
        mlflow_backend=f"postgresql+psycopg://shop@{postgres}/mlflow",
        feast_registry=f"postgresql+psycopg://shop@{postgres}/feast",
        ray_auth_token=ray_cluster.token,
        mlflow_port=free_ports(1)[0],
        **s3.settings,
    )
    made = Installation(settings)
    shutil.copytree(embedded.settings.home_path / "shops", settings.home_path / "shops")
    for path in embedded.lake.tables():
        if path.startswith("raw/"):
            made.lake.write(path, embedded.lake.read(path), "overwrite", digest=path)
    try:
        made.shopgraph("build")
        made.shopgraph("features", "apply")
        made.shopgraph("features", "materialize")
        made.shopgraph("train", "sentiment", "--set", "fit.epochs=2", "--address", ray_cluster.dashboard)
        yield made
    finally:
        made.shopgraph("down")


@pytest.mark.parametrize("name", sorted(FEATURE_TABLES))
def test_the_same_tables_on_a_spark_cluster_and_s3(embedded: Installation, real: Installation, name: str) -> None:
    path = FEATURE_TABLES[name].path
    assert real.lake.root == "s3://shop/lake"
    assert real.rows(path).equals(embedded.rows(path))


def test_the_same_metrics_through_the_jobs_api(embedded: Installation, real: Installation) -> None:
    metrics = []
    for made in (embedded, real):
        client = Tracking(made.settings).client
        experiment = client.get_experiment_by_name("sample/sentiment")
        (run,) = client.search_runs([experiment.experiment_id], "tags.role = 'model'")
        metrics.append({name: value for name, value in run.data.metrics.items() if name.startswith(("val_", "test_"))})
    assert metrics[0]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-6)


def test_runs_and_registry_lie_in_postgres_and_artifacts_on_s3(real: Installation, postgres: str) -> None:
    with psycopg.connect(f"postgresql://shop@{postgres}/mlflow") as connection:
        assert connection.execute("select count(*) from model_versions").fetchone() == (1,)
    with psycopg.connect(f"postgresql://shop@{postgres}/feast") as connection:
        assert connection.execute("select count(*) from feature_views").fetchone() != (0,)
    assert not (real.settings.home_path / "sql" / "mlflow.db").exists()
    assert not (real.settings.home_path / "artifacts").exists()
    saved = Tracking(real.settings).fetch("sentiment")
    assert (saved.folder / "weights.safetensors").exists()


def test_online_rows_are_the_same_wherever_the_tables_lie(embedded: Installation, real: Installation) -> None:
    user = str(embedded.lake.read("features/user_history", columns=["user_id"])["user_id"][0])
    arguments = ("features", "get", "--service", "recommender", "--key", f"user_id={user}", "--json")
    assert real.shopgraph(*arguments) == embedded.shopgraph(*arguments)
