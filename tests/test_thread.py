"""The whole thread through the real engines, as a user walks it: Spark, Delta, Feast, Ray Train, MLflow, Ray Serve, HTTP.

One tiny shop is built once; the tests then ask it questions, copy it by backup and restore into a second home that answers beside
the first, and take both down.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from mlflow.artifacts import load_text

from features.columns import NO_TASTE, VISITOR_PREFIX
from features.online.packing import to_microseconds
from features.shop import Shop
from features.store import FeatureStore
from infra.errors import EngineError
from infra.home import Home
from infra.processes import is_open
from tests.installation import Installation, installation
from training.tracking import Tracking

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def shop(trained_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A tiny shop with a running API."""
    made = installation(shutil.copytree(trained_tiny, tmp_path_factory.mktemp("thread") / "home 家"))
    try:
        made.shopgraph("up")
        yield made
    finally:
        made.shopgraph("down")


def a_user(shop: Installation) -> str:
    """The user with the most interactions."""
    counts = shop.lake.read("features/interactions", columns=["user_id"])["user_id"].value_counts().to_pylist()
    return str(max(counts, key=lambda row: row["counts"])["values"])


def an_item(shop: Installation) -> str:
    """The item that sold most."""
    demand = shop.lake.read("features/daily_demand", columns=["item_id", "units_sum"])
    sold = demand.group_by("item_id").aggregate([("units_sum", "sum")]).sort_by([("units_sum_sum", "descending")])
    return str(sold["item_id"][0])


def test_a_known_user_gets_a_personal_list_that_names_its_makers(shop: Installation) -> None:
    answer = shop.post("/v1/recommend", {"user_id": a_user(shop), "k": 5})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["personalized"] is True
    assert body["degraded"] == []
    assert len({item["item_id"] for item in body["items"]}) == 5
    assert body["as_of"].startswith("2025-12-31")  # the sample shop's clock is its data
    assert all(body[name] for name in ("graph_version", "request_id", "list_id"))
    assert set(body["model_versions"]) == {"recommender", "ranker"}


def test_users_differ_and_a_session_moves_the_list(shop: Installation) -> None:
    users = sorted(set(shop.lake.read("features/interactions", columns=["user_id"])["user_id"].to_pylist()))
    known = [user for user in users if not user.startswith(VISITOR_PREFIX)][:20]
    lists = {tuple(item["item_id"] for item in shop.post("/v1/recommend", {"user_id": user}).json()["items"]) for user in known}
    assert len(lists) > len(known) // 2
    event = {"item_id": an_item(shop), "event_type": "view", "event_timestamp": "2025-12-31T05:00:00Z"}
    without, with_session = (
        shop.post("/v1/recommend", {"user_id": known[0], **extra}).json()["items"] for extra in ({}, {"session": [event]})
    )
    assert without != with_session


def test_a_visitor_is_known_by_what_the_browser_did(shop: Installation) -> None:
    rows = shop.lake.read("features/user_history", columns=["user_id", "event_timestamp"]).sort_by(
        [("event_timestamp", "descending")]
    )
    visitor = next(user for user in rows["user_id"].to_pylist() if user.startswith(VISITOR_PREFIX)).removeprefix(VISITOR_PREFIX)
    known, unknown = (shop.post("/v1/recommend", {"visitor_id": name}).json() for name in (visitor, "never here"))
    assert (known["personalized"], known["degraded"]) == (True, [])
    assert (unknown["personalized"], unknown["degraded"]) == (False, ["unknown_visitor"])


def test_an_unknown_user_gets_a_list_that_says_so(shop: Installation) -> None:
    body = shop.post("/v1/recommend", {"user_id": "nobody-知"}).json()
    assert body["personalized"] is False
    assert len(body["items"]) == 10


def test_a_forecast_has_ordered_quantiles_for_each_day_ahead(shop: Installation) -> None:
    answer = shop.post("/v1/forecast", {"series": [{"item_id": an_item(shop)}], "horizon": 7, "quantiles": [0.1, 0.5, 0.9]})
    assert answer.status_code == 200, answer.text
    (series,) = answer.json()["series"]
    assert series["ds"] == ["2025-12-31", *(f"2026-01-0{day}" for day in range(1, 7))]
    low, middle, high = (series["quantiles"][level] for level in ("0.1", "0.5", "0.9"))
    assert all(0 <= a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
    assert sum(series["mean"]) > 0
    newest = max(shop.lake.read("features/daily_demand", columns=["ds"])["ds"].to_pylist())  # the tiny shop's last day with a sale
    assert series["degraded"] == ([] if newest == date(2025, 12, 30) else ["stale_history"])


def test_sentiment_answers_each_text_in_order(shop: Installation) -> None:
    texts = ["质量很好,物流很快,非常满意", "terrible quality, broke after a day, very disappointed", ""]
    answer = shop.post("/v1/sentiment", {"texts": texts})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["degraded"] for result in results] == [[], [], ["empty"]]
    assert all(0.5 <= result["probability"] <= 1 for result in results)


def test_runs_show_models_beside_their_baselines(shop: Installation) -> None:
    from training.tracking import Tracking

    client = Tracking(shop.settings).client
    for task in ("recommender", "demand", "sentiment", "propensity", "ranker"):
        experiment = client.get_experiment_by_name(f"sample/{task}")
        runs = client.search_runs([experiment.experiment_id])
        roles = [run.data.tags["role"] for run in runs]
        assert roles.count("model") == 1
        assert roles.count("baseline") >= 2
        assert len({run.data.tags["data_digest"] for run in runs}) == 1
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert client.get_model_version(f"sample.{task}", "1").tags["digest"]


def test_the_command_gives_the_list_of_the_endpoint_and_why(shop: Installation) -> None:
    from training.tracking import Tracking

    run_id = Tracking(shop.settings, "sample").fetch("recommender").run_id
    user, item = a_user(shop), an_item(shop)
    told = json.loads(shop.shopgraph("recommend", "--model", run_id, "--user", user, "--items", item, "-k", "5", "--json"))
    kind = json.loads((Tracking(shop.settings, "sample").fetch("recommender").folder / "encoder.json").read_text())["event_types"][
        0
    ]
    body = {"user_id": user, "session": [{"item_id": item, "event_type": kind}], "k": 5, "explain": True}
    asked = shop.post("/v1/recommend", body).json()
    assert [one["item_id"] for one in told["items"]] == [one["item_id"] for one in asked["items"]]
    assert told["graph_version"] == asked["graph_version"]
    assert any(one["reasons"] for one in told["items"])
    assert "unknown_user" in shop.shopgraph("recommend", "--user", "nobody 知", "-k", "3")


def test_an_answer_is_explained_down_to_the_files_it_came_from(shop: Installation) -> None:
    user = a_user(shop)
    answer = shop.post("/v1/recommend", {"user_id": user, "k": 5}).json()
    deadline = time.monotonic() + 20
    while True:
        try:
            told = json.loads(shop.shopgraph("explain", answer["list_id"], "--json"))
            break
        except AssertionError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert told == json.loads(shop.shopgraph("explain", answer["request_id"], "--json"))
    assert told["request"]["person"] == user
    assert told["manifest"]["version"] == answer["graph_version"]
    models = {model["name"]: model for model in told["models"]}
    assert {name: str(model["version"]) for name, model in models.items()} == answer["model_versions"]
    assert models["recommender"]["tables"]["features/interactions"] >= 0
    assert len(models["recommender"]["git_commit"]) >= 7
    history = next(read for read in told["features"] if read["view"] == "user_history")
    assert history["became_true"] <= history["known_since"] <= told["request"]["as_of"]
    tables = {(table["path"], table["version"]): table for table in told["tables"]}
    for table in tables.values():  # every table stands on tables that are told as well, down to the raw ones
        assert all((path, version) in tables for path, version in table["inputs"].items())
        assert table["inputs"] or table["path"].startswith("raw/")
    raw = [table for table in tables.values() if table["path"].startswith("raw/")]
    assert raw
    if any(table["sources"] for table in raw):
        assert told["files"]
    page = shop.shopgraph("explain", answer["request_id"])
    assert user in page
    assert "features/interactions version" in page
    assert "is logged" in shop.shopgraph("explain", "nobody", code=1)


def test_graph_versions_are_shown_where_reviewers_look(shop: Installation) -> None:
    client = Tracking(shop.settings, "sample").client
    answers = {product: shop.post(f"/v1/{product}", body).json() for product, body in {
        "recommend": {"k": 1}, "sentiment": {"texts": ["ok"]}, "forecast": {"series": [{"item_id": an_item(shop)}], "horizon": 1},
    }.items()}  # fmt: skip
    for product, answer in answers.items():
        shown = client.get_model_version_by_alias(f"sample.graph_{product}", "stable")
        assert (shown.tags["digest"], shown.tags["kind"]) == (answer["graph_version"], "graph")
        run = client.get_run(shown.run_id)
        assert client.get_experiment(run.info.experiment_id).name == "sample/graphs"
        for name, version in answer["model_versions"].items():
            assert run.data.params[f"models.{name}.version"] == version
        manifest = json.loads(shop.shopgraph("graph", "show", answer["graph_version"], "--json"))
        assert json.loads(load_text(f"runs:/{shown.run_id}/graph/manifest.json")) == manifest
        assert {file.path for file in client.list_artifacts(shown.run_id, "graph")} == {"graph/manifest.json", "graph/graph.mmd"}


def test_a_list_is_ranked_by_the_features_of_the_point_in_time_join(shop: Installation) -> None:
    """The graph that answers, asked in this process, against the frame that its ranker would have learned from at that instant."""
    from serving.loading import Loader
    from serving.nodes.ranking import Ranking
    from serving.releases import Releases
    from serving.schemas import RecommendRequest
    from training import splits
    from training.ranker.data import make_lists
    from training.ranker.retrieval import Sessions

    store = FeatureStore(shop.settings, Shop.load(Home(shop.settings)), shop.lake)
    at = store.now()
    releases = Releases(shop.settings, "sample")
    graph = Loader(shop.settings, store.shop, shop.lake).load(releases.manifest(releases.current()["recommend"].stable), at)
    ranking = graph.nodes["ranking"]
    assert isinstance(ranking, Ranking)
    assert graph.catalogue is not None
    model, known = graph.catalogue.now.model, graph.catalogue.now.facts
    everything = np.ones(len(model.encoder.items), dtype=np.bool_)  # a frame knows nothing of withdrawals
    known.facts = replace(known.facts, is_open=everything, masks={})
    today = at.astimezone(store.shop.zone).replace(hour=0, minute=0, second=0, microsecond=0)
    rows = shop.lake.read("features/interactions")
    rows = rows.filter(pc.invert(pc.is_in(rows["event_type"], pa.array(NO_TASTE))))
    late = pc.unique(rows.filter(pc.greater_equal(rows["event_timestamp"], today))["user_id"])  # of a day that no table tells yet
    counts = rows["user_id"].value_counts().to_pylist()  # of more acts than that a frame keeps fewer steps than serving
    users = sorted({one["values"] for one in counts if one["counts"] <= splits.LONGEST} - set(late.to_pylist()))[::7]
    rows = rows.filter(pc.is_in(rows["user_id"], pa.array(users)))
    then = at + timedelta(microseconds=1)
    comes = {"item_id": model.encoder.items[0], "event_type": "view", "event_timestamp": then, "created_timestamp": then}
    visits = [{"interaction_id": f"visit {user}", "user_id": user, "session_id": f"visit {user}", **comes} for user in users]
    told = pa.Table.from_pylist([{name: visit.get(name) for name in rows.column_names} for visit in visits], schema=rows.schema)
    instant = to_microseconds(at)
    sessions = Sessions.of(splits.every_session(pa.concat_tables([rows, told]), instant, instant + 2), model)
    lists = make_lists(sessions, model, store, np.arange(len(sessions)))
    values = ranking.ranker.values(lists.candidates)
    names, seen = model.encoder.items, 0
    for number, user in enumerate(lists.users):
        visitor = user.removeprefix(VISITOR_PREFIX)
        request = RecommendRequest(**({"user_id": user} if visitor == user else {"visitor_id": visitor}), k=200)
        (content,) = graph.answer([request], at)
        own = slice(lists.offsets[number], lists.offsets[number + 1])
        expected = {names[item]: value for item, value in zip(lists.item[own], values[own], strict=True)}
        assert isinstance(content, dict)
        assert {item["item_id"]: item["score"] for item in content["items"]} == pytest.approx(expected, rel=0.01)
        seen += len(expected)
    assert len(lists) > 20
    assert seen > 1000


def test_the_lists_of_all_users_are_those_of_the_endpoint(shop: Installation) -> None:
    report = json.loads(shop.shopgraph("recommend", "--all", "--to", "recommendations", "-k", "5", "--json"))
    rows = shop.rows("scores/recommendations").to_pylist()
    users = sorted({row["user_id"] for row in rows})
    assert len(users) == report["users"] > 50
    for user in (*users[::25], a_user(shop)):
        asked = shop.post("/v1/recommend", {"user_id": user, "k": 5}).json()["items"]
        own = sorted((row["rank"], row["item_id"]) for row in rows if row["user_id"] == user)
        assert [item for _, item in own] == [one["item_id"] for one in asked], user
    assert "holds these lists already" in shop.shopgraph("recommend", "--all", "--to", "recommendations", "-k", "5")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/recommend", b"{", 400),
        ("/v1/recommend", b'{"k": NaN}', 400),
        ("/v1/recommend", {"k": 10_000_000}, 422),
        ("/v1/recommend", b"[" * 100_000, 400),
        ("/v1/forecast", {"series": [{"item_id": "x"}], "horizon": 10_000}, 422),
        ("/v1/sentiment", {"texts": "not a list"}, 422),
        ("/v1/sentiment", b'{"texts": ["' + b"a" * 2_000_000 + b'"]}', 413),
        ("/v1/nothing", {}, 404),
    ],
)
def test_bad_requests_are_told_what_is_wrong(shop: Installation, path: str, body: Any, status: int) -> None:
    answer = shop.post(path, body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert {"title", "status", "detail"} <= answer.json().keys()


def test_up_twice_is_fine_and_status_names_everything(shop: Installation) -> None:
    assert "already" in shop.shopgraph("up")
    told = json.loads(shop.shopgraph("status", "--json"))
    assert "recommend" in json.dumps(told)


def test_a_home_that_is_up_keeps_its_shop(shop: Installation) -> None:
    shops = shop.settings.home_path / "shops"
    shutil.copytree(shops / "sample", shops / "other", dirs_exist_ok=True)
    assert "is up with the shop sample, not other" in shop.shopgraph("--shop", "other", "up", code=EngineError.exit_code)


def test_rebuilding_from_the_same_tables_commits_nothing(shop: Installation) -> None:
    before = {path: shop.lake.version(path) for path in shop.lake.tables()}
    shop.shopgraph("build", "clean_reviews")
    assert {path: shop.lake.version(path) for path in shop.lake.tables()} == before


def test_a_restored_home_answers_the_same_beside_the_first(shop: Installation, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    shop.shopgraph("backup", str(archive))
    other = installation(tmp_path / "第二 home")
    other.shopgraph("restore", str(archive))
    question = {"user_id": a_user(shop), "k": 10}
    try:
        other.shopgraph("up")
        here, there = (made.post("/v1/recommend", question).json() for made in (shop, other))
        assert there["items"] == here["items"]
        assert (there["graph_version"], there["model_versions"]) == (here["graph_version"], here["model_versions"])
    finally:
        other.shopgraph("down", "--purge", "--yes")
    assert not other.settings.home_path.exists()
    assert not is_open(other.settings.http_port)
    assert shop.post("/v1/recommend", question).json()["items"] == here["items"]
    assert "not" in other.shopgraph("down")


def test_what_is_served_is_what_the_tables_say(shop: Installation) -> None:
    found = {one["view"]: one for one in json.loads(shop.shopgraph("features", "verify", "--sample", "2000", "--json"))}
    assert {"user_history", "item_catalog", "item_activity", "daily_demand", "user_profile"} <= found.keys()
    for view, one in found.items():
        assert one["keys"] > 0, view
        assert (one["wrong"], one["missing"]) == (0, 0), one["examples"]


def test_what_is_posted_counts_in_the_next_request(shop: Installation) -> None:
    """Last in this file: it adds to the tables."""
    asked, item = {"user_id": "newcomer 新"}, an_item(shop)
    assert shop.post("/v1/recommend", asked).json()["degraded"] == ["unknown_user"]
    act = {"event_id": "n-1", **asked, "item_id": item, "event_type": "view", "event_timestamp": "2025-12-30T20:00:00Z"}
    for count in ("accepted", "duplicates"):
        answer = shop.post("/v1/events", {"events": [act]})
        assert answer.status_code == 202, answer.text
        assert answer.json()[count] == 1
        body = shop.post("/v1/recommend", asked).json()
        assert (body["personalized"], body["degraded"]) == (True, [])
    shop.shopgraph("drain")
    assert shop.lake.read("raw/events", columns=["event_id"])["event_id"].to_pylist().count("n-1") == 1
