"""The lists of all users: those of the endpoint, once each, wherever they go and however often the run was killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

import shopgraph
from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.store import FeatureStore
from features.tables import RECOMMENDATIONS, USER_HISTORY
from infra.errors import EngineError, HomeError, ModelNotFoundError, SettingsError, TableContractError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from serving.bulk import Report, recommend_all
from serving.recommend import Asked, recommend
from tests.serving.conftest import ITEMS, NOW, Ask, ServedShop, keep, save_ranker, save_recommender
from training.tracking import Saved, Tracking

_PROCESSES = multiprocessing.get_context("forkserver")
NUM_USERS = 40


def registered(settings: Settings) -> Saved:
    """The model of the served shop, kept in a home as from the registry (itself: tests/training/tracking and tests/test_thread.py)."""
    kept = keep(Home(settings), "recommender", 1, save_recommender)
    folder = Home(settings).model_folder("sample.recommender", 1, kept.digest)
    return Saved(folder, "sample.recommender", kept.version, kept.digest, kept.run_id, {})


def run(settings: Settings, saved: Saved, **more: Any) -> Report:
    """`recommend_all` with that model, into the lake, in shards of five users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracking, "fetch", lambda _, name, version: fetched(name, saved))
        return recommend_all(settings, **{"to": "recommendations", "k": 4, "shard": 5, **more})


def fetched(name: str, *kept: Saved) -> Saved:
    """What a registry gives that holds these alone."""
    for saved in kept:
        if saved.name == f"sample.{name}":
            return saved
    raise ModelNotFoundError(name)


def killed(settings: Settings, saved: Saved, after: int) -> None:
    """Start a run in a process of its own and kill it with SIGKILL once so many users are scored."""
    hears, tells = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_tell, args=(settings, saved, tells))
    process.start()
    tells.close()
    while hears.recv() < after:
        pass
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def _tell(settings: Settings, saved: Saved, tells: Connection) -> None:
    def progress(done: int, total: int) -> None:
        tells.send(done)
        if done * 2 > total:
            signal.pause()  # until it is killed

    run(settings, saved, progress=progress)


def shop_of(settings: Settings, now: str = NOW.isoformat()) -> Lake:
    """A shop of many users; some acted on several days, one is a visitor."""
    folder = Home(settings).shop("sample")
    folder.mkdir()
    (folder / "shop.yaml").write_text(f"name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\nnow: '{now}'\n")
    lake = Lake.open(settings)
    users = [f"u{number:02d}" for number in range(NUM_USERS)] + ["visitor:v"]
    for day in (3, 2, 1):
        rows = [
            {
                "user_id": user,
                "item_ids": [ITEMS[(number * 7 + step * day) % 9] for step in range(1 + number % 4)],
                "event_types": ["view"] * (1 + number % 4),
                EVENT_TIMESTAMP: NOW - timedelta(days=day),
                CREATED_TIMESTAMP: NOW - timedelta(days=day),
            }
            for number, user in enumerate(users)
            if number % day == 0
        ]
        lake.write(USER_HISTORY.path, pa.Table.from_pylist(rows, USER_HISTORY.stored_schema), "append", digest=str(day))
    return lake


def lists(lake: Lake) -> pa.Table:
    return lake.read(RECOMMENDATIONS.path).sort_by([("user_id", "ascending"), ("rank", "ascending")]).combine_chunks()


def test_the_lists_are_those_of_the_endpoint(told_shop: ServedShop, post: Ask) -> None:
    report = run(told_shop.settings, registered(told_shop.settings), k=9, shard=2)
    rows = lists(told_shop.lake)
    assert report.users == 4
    assert set(rows["user_id"].to_pylist()) == {"u1", "u2", "u_liked", "u_strange"}  # the visitor is none
    for user in ("u1", "u2", "u_liked", "u_strange"):
        own = rows.filter(pc.field("user_id") == user)
        asked = post("/v1/recommend", {"user_id": user, "k": 9}).json()["items"]
        assert own["rank"].to_pylist() == list(range(1, 10))
        assert own["item_id"].to_pylist() == [item["item_id"] for item in asked]  # i9 is withdrawn
        assert own["score"].to_pylist() == pytest.approx([item["score"] for item in asked], abs=1e-5)
        assert own["source"].to_pylist() == [item["source"] for item in asked]
    assert set(rows["model_version"].to_pylist()) == {1}
    assert set(rows["scored_at"].to_pylist()) == {NOW} == {report.as_of}


def test_a_ranker_orders_the_lists_and_without_its_features_there_are_none(
    told_shop: ServedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = told_shop.settings
    made = keep(Home(settings), "ranker", 1, save_ranker)
    folder = Home(settings).model_folder("sample.ranker", 1, made.digest)
    both = registered(settings), Saved(folder, "sample.ranker", 1, made.digest, made.run_id, {})
    monkeypatch.setattr(Tracking, "fetch", lambda _, name, version=None: fetched(name, *both))
    report = recommend_all(settings, "recommendations", 9)
    rows = lists(told_shop.lake)
    for user in ("u1", "u2", "u_liked"):
        asked = recommend(settings, Asked(user), 9)
        own = rows.filter(pc.field("user_id") == user)
        assert own["item_id"].to_pylist() == [item["item_id"] for item in asked["items"]]
        assert own["score"].to_pylist() == pytest.approx([item["score"] for item in asked["items"]], rel=1e-5)
        assert set(own["graph_version"].to_pylist()) == {asked["graph_version"]} == {report.graph_version}

    def away(*_: Any, **__: Any) -> dict[str, list[Any]]:
        raise EngineError("the online store does not answer")

    monkeypatch.setattr(FeatureStore, "online_rows", away)
    with pytest.raises(EngineError, match="the lists would be unranked; run `shopgraph features materialize`"):
        recommend_all(settings, "recommendations", 8)
    assert lists(told_shop.lake).equals(rows)


def test_the_same_again_writes_nothing_and_another_k_replaces_all(settings: Settings) -> None:
    lake, saved = shop_of(settings), registered(settings)
    first = run(settings, saved)
    rows = lists(lake)
    assert (first.users, first.found, first.skipped) == (NUM_USERS, 0, False)
    assert rows.num_rows == NUM_USERS * 4
    again = run(settings, saved)
    assert (again.skipped, lake.version(RECOMMENDATIONS.path)) == (True, 0)
    assert lists(lake).equals(rows)
    run(settings, saved, k=2)
    assert lists(lake).equals(rows.filter(pc.field("rank") <= 2).combine_chunks())
    entry = lake.history(RECOMMENDATIONS.path, 1)[0]
    assert (entry["models"], entry["k"]) == (json.dumps({"recommender version 1": saved.digest}), "2")
    assert not list((Home(settings).path / "cache" / "recommend").rglob("*.parquet"))


def test_shards_do_not_change_the_lists(settings: Settings, tmp_path: Path) -> None:
    lake, saved = shop_of(settings), registered(settings)
    seen: list[tuple[int, int]] = []
    run(settings, saved, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, NUM_USERS) for done in range(5, NUM_USERS + 1, 5)]
    small = lists(lake)
    run(settings, saved, shard=1000)
    whole = lists(lake)
    assert whole.drop_columns("score").equals(small.drop_columns("score"))
    assert whole["score"].to_pylist() == pytest.approx(small["score"].to_pylist(), abs=1e-5)


@pytest.mark.parametrize("now", [NOW.isoformat(), "wall"])
def test_killed_twice_it_goes_on_and_ends_as_if_it_never_stopped(now: str, settings: Settings, tmp_path: Path) -> None:
    lake, saved = shop_of(settings, now), registered(settings)
    killed(settings, saved, 10)
    assert lake.version(RECOMMENDATIONS.path) is None  # nothing is seen of what is half done
    killed(settings, saved, 25)
    scored: list[int] = []
    report = run(settings, saved, progress=lambda done, total: scored.append(done))
    assert report.users == NUM_USERS
    assert report.found is not None
    assert 25 <= report.found < NUM_USERS
    undisturbed = Settings.load(home=tmp_path / "other", now=report.as_of.isoformat())
    Home(undisturbed).create()
    other = shop_of(undisturbed)
    assert run(undisturbed, registered(undisturbed)).found == 0
    assert lists(lake).equals(lists(other))


def test_a_shop_of_nobody_gets_no_list(settings: Settings) -> None:
    lake, saved = shop_of(settings), registered(settings)
    before = settings.model_copy(update={"now": (NOW - timedelta(days=9)).isoformat()})  # any history
    assert run(before, saved).users == 0
    assert lake.num_rows(RECOMMENDATIONS.path) == 0


def test_what_another_instant_began_is_not_gone_on_with(settings: Settings) -> None:
    lake, saved = shop_of(settings), registered(settings)
    killed(settings, saved, 10)
    later = settings.model_copy(update={"now": (NOW + timedelta(hours=1)).isoformat()})
    assert run(later, saved).found == 0
    assert set(lists(lake)["scored_at"].to_pylist()) == {NOW + timedelta(hours=1)}


def test_of_two_runs_at_once_the_second_is_told(settings: Settings) -> None:
    shop_of(settings)
    saved = registered(settings)
    with Home(settings).lock("recommend-sample"), pytest.raises(HomeError, match="already running"):
        run(settings, saved)


@pytest.mark.parametrize("to", ["", "nowhere", "s3://", "mysql://h/db", "/tmp/x", "scores/purchase_propensity"])
def test_what_is_no_destination_is_refused(to: str, settings: Settings) -> None:
    shop_of(settings)
    with pytest.raises(SettingsError, match=r"expected recommendations .*, s3://bucket/prefix or postgresql://"):
        run(settings, registered(settings), to=to)


def test_what_cannot_be_scored_is_refused(settings: Settings) -> None:
    (Home(settings).shop("sample")).mkdir()
    (Home(settings).shop("sample") / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: UTC\n")
    with pytest.raises(TableContractError, match="features/user_history of shop sample does not exist"):
        run(settings, registered(settings))
    with pytest.raises(ValidationError):
        run(settings, registered(settings), k=0)
    with pytest.raises(SettingsError, match="a database address cannot be read"):
        run(settings, registered(settings), to="postgresql://u:ge/heim@h/db")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--all"], "--all and --to go together"),
        (["--to", "recommendations"], "--all and --to go together"),
        (["--all", "--to", "recommendations", "--user", "u1"], "leave out --user, --visitor, --items and --placement"),
        (["--all", "--to", "recommendations", "--placement", "trending"], "leave out --user"),
        (["--items", ",,"], "--items: expected a,b,c, got ',,'"),
        (["--placement", "similar", "--items", "a,b"], "similar takes one item, got 2"),
        (["-k", "0"], "k: Input should be greater than or equal to 1, got 0"),
        (["--all", "--to", "recommendations", "-k", "201"], "k: Input should be less than or equal to 200, got 201"),
    ],
)
def test_what_does_not_fit_together_is_told(arguments: list[str], told: str, settings: Settings) -> None:
    shop_of(settings)
    done = CliRunner().invoke(shopgraph.app, ["--home", str(settings.home), "recommend", *arguments])
    assert isinstance(done.exception, SettingsError)
    assert told in str(done.exception)
