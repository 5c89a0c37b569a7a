"""A candidate is tried in a process of its own, and one that cannot answer what is answered comes no further."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import shopgraph
from features.store import FeatureStore
from infra.errors import EngineError, ReleaseError
from infra.home import Home
from serving.compiling import compile_graph
from tests.serving.conftest import ServedShop, ask, compose, keep, save_recommender
from tests.serving.test_ladder import models
from tests.serving.test_request_log import ONE
from tests.serving.test_rules import own_shop


def graph(shop: ServedShop, *arguments: str) -> Result:
    return CliRunner().invoke(shopgraph.app, ["--home", str(shop.settings.home), "graph", *arguments])


def stored(shop: ServedShop, save: Callable[[Path, int], None], number: int = 2, **said: Any) -> str:
    """Store a recommend graph over such a model."""
    return shop.releases.store(
        compose("recommend", {"recommender": keep(Home(shop.settings), "recommender", number, save)}, **said)
    )


def refused(shop: ServedShop, version: str, told: str) -> None:
    done = graph(shop, "deploy", version)
    assert isinstance(done.exception, ReleaseError), done.output
    assert told in str(done.exception)
    assert shop.releases.current()["recommend"].candidate is None


def test_what_was_asked_before_is_asked_again_beside_the_stable_version(told_shop: ServedShop) -> None:
    gateway = told_shop.gateway()
    for number in range(5):
        ask(gateway, "/v1/recommend", {"user_id": "u1", "k": 2 + number})
    ask(gateway, "/v1/sentiment", {"texts": ["good"]})
    gateway.requests.keep(replace(ONE, request='{"of": "an older contract"}'))
    gateway.requests.flush()
    version = stored(told_shop, save_recommender)
    done = graph(told_shop, "deploy", version, "--why", "new", "--json")
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    found = made["trial"]
    assert made["release"]["candidate"]["version"] == version
    assert (found["version"], found["replayed"], found["asked"]) == (version, 5, 5)
    assert 0 < found["median_ms"] <= found["p99_ms"]
    assert 0 <= found["overlap"] < 1
    assert found["differing"] == {"items.item_id": 1.0, "items.score": 1.0}
    assert found["memory_bytes"] > 0
    told_shop.releases.rollback("recommend", "test", "")
    page = graph(told_shop, "deploy", version).output
    assert "5 recorded requests: median" in page
    assert "items.item_id differs in 100% of the answers." in page


def test_where_nothing_was_recorded_requests_are_made_up(told_shop: ServedShop) -> None:
    done = graph(told_shop, "deploy", stored(told_shop, save_recommender))
    assert done.exit_code == 0, done.output
    assert "20 made up requests" in done.output
    same = told_shop.releases.current()["recommend"]
    assert same.candidate is not None


def save_broken(folder: Path, seed: int) -> None:
    """A model whose weights are no numbers."""
    save_recommender(folder, seed)
    weights = load_file(folder / "weights.safetensors")
    save_file({name: torch.full_like(value, torch.nan) for name, value in weights.items()}, folder / "weights.safetensors")


def save_torn(folder: Path, seed: int) -> None:
    """A model whose file ends early."""
    save_recommender(folder, seed)
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])


def test_a_model_that_does_not_work_is_refused(told_shop: ServedShop) -> None:
    refused(told_shop, stored(told_shop, save_broken, 3), "has no items for")
    done = graph(told_shop, "deploy", stored(told_shop, save_torn, 4))
    assert done.exit_code != 0
    assert told_shop.releases.current()["recommend"].candidate is None


def test_a_version_that_gives_nothing_where_something_was_is_refused(told_shop: ServedShop, tmp_path: Path) -> None:
    shop = own_shop(tmp_path, "def factors(items, placement):\n    return 0.0 * items['score']\n")
    manifest = compile_graph(Home(told_shop.settings), shop, "recommend", dict(models(told_shop)))
    refused(told_shop, told_shop.releases.store(manifest), "has no items for")


def test_a_node_that_is_left_out_is_no_answer(told_shop: ServedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise EngineError("the online store does not answer")

    version = stored(told_shop, save_recommender)
    monkeypatch.setattr(FeatureStore, "online_rows", away)
    refused(told_shop, version, "only without a node of its own (history_unavailable)")


def test_what_does_not_fit_into_the_declared_memory_is_refused(told_shop: ServedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    version = stored(told_shop, save_recommender)
    monkeypatch.setenv("SHOPGRAPH_SERVE_MEMORY_GB", "0.00001")
    refused(told_shop, version, "2 versions in 1 replica(s) hold")
    monkeypatch.setenv("SHOPGRAPH_HTTP_REPLICAS", "4")
    refused(told_shop, version, "2 versions in 4 replica(s) hold")
    monkeypatch.setenv("SHOPGRAPH_SERVE_MEMORY_GB", "1")
    assert graph(told_shop, "deploy", version).exit_code == 0
