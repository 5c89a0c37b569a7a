"""A shadow sees what the API is asked, says what it would have answered differently, and is in nobody's way."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from typer.testing import CliRunner

import shopgraph
from serving.comparing import Comparison
from serving.gateway import Gateway
from serving.shadow import shadow
from tests.serving.conftest import ServedShop, ask, save_recommender
from tests.serving.test_trial import stored

SECONDS = 4.0


@pytest.fixture
def gateway(told_shop: ServedShop) -> Gateway:
    return told_shop.gateway()


def shadowed(shop: ServedShop, gateway: Gateway, version: str, bodies: list[dict[str, Any]], percent: float = 100) -> Comparison:
    """What a version says to requests that come while it looks on."""
    is_looking = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        manifest = shop.releases.manifest(version)
        looking = threads.submit(shadow, shop.settings, manifest, percent, SECONDS, lambda *_: is_looking.set())
        assert is_looking.wait(30)
        for body in bodies:
            assert ask(gateway, "/v1/recommend", body).status_code == 200
        ask(gateway, "/v1/sentiment", {"texts": ["good"]})
        gateway.requests.flush()
        found, left_out = looking.result()
    assert left_out == 0
    return found


BODIES: list[dict[str, Any]] = [
    {"user_id": "u1", "k": 3},
    {"placement": "trending"},
    {"session": [{"item_id": "i3"}], "explain": True},
]


def test_the_same_version_answers_the_same(told_shop: ServedShop, gateway: Gateway) -> None:
    version = told_shop.manifests["recommend"].version
    found = shadowed(told_shop, gateway, version, BODIES)
    assert (found.asked, found.failed.total(), found.differing, found.overlap) == (3, 0, {}, 1.0)
    assert len(found.taken_ms) == len(found.stable_ms) == 3


def test_another_version_is_told_field_by_field(told_shop: ServedShop, gateway: Gateway) -> None:
    found = shadowed(told_shop, gateway, stored(told_shop, save_recommender), BODIES)
    assert found.asked == 3
    assert found.differing["items.item_id"] == pytest.approx(2 / 3)  # what rises is the same
    assert found.differing.keys() <= {"items.item_id", "items.score", "items.source", "items.reasons"}
    assert found.overlap is not None
    assert found.overlap < 1


def test_a_version_that_fails_is_counted_and_nobody_else_knows(told_shop: ServedShop, gateway: Gateway) -> None:
    version = stored(told_shop, save_recommender, rules={"blocked": {"items": [f"i{number}" for number in range(10)]}})
    found = shadowed(told_shop, gateway, version, BODIES)
    assert (found.asked, found.overlap) == (3, 0.0)
    assert shadowed(told_shop, gateway, version, BODIES, percent=0).asked == 0


def test_the_command_reports(told_shop: ServedShop, gateway: Gateway) -> None:
    version = told_shop.manifests["recommend"].version
    arguments = ["--home", str(told_shop.settings.home), "graph", "shadow", version, "--seconds", "1"]
    done = CliRunner().invoke(shopgraph.app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "version": version, "asked": 0, "left_out": 0, "failed": {}, "median_ms": None, "overlap": None, "differing": {},
    }  # fmt: skip
    assert "was asked 0 requests" in CliRunner().invoke(shopgraph.app, arguments).output
