"""The HTTP contract of the gateway: what good requests get, and one clear problem for each bad one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from serving import openapi
from serving.gateway import Gateway
from serving.schemas import ANSWERS, ForecastRequest, FutureDays
from tests.serving.conftest import ITEMS, NOW, Ask, ServedShop, ask

GOOD: dict[str, dict[str, Any]] = {
    "recommend": {"user_id": "u1", "k": 3},
    "forecast": {"series": [{"item_id": "i0"}], "horizon": 3},
    "sentiment": {"texts": ["很好", "bad and slow"]},
}


def problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = answer.json()
    assert content["type"] == f"urn:shopgraph:problem:{kind}"
    assert content["status"] == status
    assert content["request_id"] == answer.headers["x-request-id"]
    return content


@pytest.mark.parametrize("product", GOOD)
def test_an_answer_fits_its_schema_and_names_what_made_it(product: str, post: Ask, served: ServedShop) -> None:
    answer = post(f"/v1/{product}", GOOD[product], headers={"x-request-id": "my-request.1"})
    assert answer.status_code == 200, answer.text
    content = TypeAdapter(ANSWERS[product]).validate_json(answer.content)
    assert content.graph_version == served.manifests[product].version
    assert set(content.model_versions.values()) == {"1"}
    assert content.request_id == answer.headers["x-request-id"] == "my-request.1"
    assert content.as_of == NOW


def test_a_request_id_that_could_harm_a_log_is_replaced(post: Ask) -> None:
    answer = post("/v1/recommend", GOOD["recommend"], headers={"x-request-id": "a b\tc"})
    assert len(answer.json()["request_id"]) == 32


BAD: list[tuple[str, str, bytes, int, str, str]] = [
    ("not JSON", "recommend", b"{user_id: 1}", 400, "malformed-json", ""),
    ("empty", "recommend", b"", 400, "malformed-json", ""),
    ("cut", "recommend", b'{"user_id": "u', 400, "malformed-json", ""),
    ("not UTF-8", "recommend", b'{"user_id": "\xff"}', 400, "malformed-json", ""),
    ("a lone surrogate", "recommend", b'{"user_id": "\\ud800"}', 400, "malformed-json", ""),
    ("deep", "recommend", b"[" * 40_000 + b"]" * 40_000, 400, "malformed-json", ""),
    ("no object", "recommend", b"[1]", 422, "invalid-request", "#"),
    ("a number as id", "recommend", b'{"user_id": 17850}', 422, "invalid-request", "#/user_id"),
    ("an empty id", "recommend", b'{"user_id": ""}', 422, "invalid-request", "#/user_id"),
    ("two persons", "recommend", b'{"user_id": "a", "visitor_id": "b"}', 422, "invalid-request", "#"),
    ("an unknown field", "recommend", b'{"userid": "a"}', 422, "invalid-request", "#/userid"),
    ("a later field", "recommend", b'{"coupons": []}', 422, "invalid-request", "#/coupons"),
    ("k as text", "recommend", b'{"k": "3"}', 422, "invalid-request", "#/k"),
    ("k of zero", "recommend", b'{"k": 0}', 422, "invalid-request", "#/k"),
    ("k too large", "recommend", b'{"k": 100000}', 422, "invalid-request", "#/k"),
    ("an unknown placement", "recommend", b'{"placement": "just_in"}', 422, "invalid-request", "#/placement"),
    ("similar to nothing", "recommend", b'{"placement": "similar"}', 422, "invalid-request", "#"),
    ("NaN", "recommend", b'{"filters": {"price_min": NaN}}', 400, "malformed-json", ""),
    ("minus infinity", "forecast", b'{"series": [{"item_id": "i0"}], "horizon": -Infinity}', 400, "malformed-json", ""),
    ("infinity", "recommend", b'{"filters": {"price_max": 1e999}}', 422, "invalid-request", "#/filters/price_max"),
    ("prices crossed", "recommend", b'{"filters": {"price_min": 2, "price_max": 1}}', 422, "invalid-request", "#/filters"),
    ("no series", "forecast", b'{"series": [], "horizon": 3}', 422, "invalid-request", "#/series"),
    ("no horizon", "forecast", b'{"series": [{"item_id": "i0"}]}', 422, "invalid-request", "#/horizon"),
    ("ten thousand days", "forecast", b'{"series": [{"item_id": "i0"}], "horizon": 10000}', 422, "invalid-request", "#/horizon"),
    ("beyond the model", "forecast", b'{"series": [{"item_id": "i0"}], "horizon": 8}', 422, "invalid-request", "#/horizon"),
    ("the same item twice", "forecast", b'{"series": [{"item_id": "i0"}, {"item_id": "i0"}], "horizon": 2}', 422, "invalid-request", "#"),
    ("a quantile of 1", "forecast", b'{"series": [{"item_id": "i0"}], "horizon": 2, "quantiles": [1.0]}', 422, "invalid-request", "#"),
    ("a far quantile", "forecast", b'{"series": [{"item_id": "i0"}], "horizon": 1, "quantiles": [0.001]}', 422, "invalid-request", ""),
    ("a short plan", "forecast", b'{"series": [{"item_id": "i0"}], "horizon": 2, "future": {"i0": {"price_mean": [1.0]}}}', 422,
     "invalid-request", "#"),
    ("20 for 20 %", "forecast", b'{"series": [{"item_id": "i0"}], "horizon": 1, "future": {"i0": {"promotion_depth": [20]}}}', 422,
     "invalid-request", "#"),
    ("a negative price", "forecast", b'{"series": [{"item_id": "i0"}], "horizon": 1, "future": {"i0": {"price_mean": [-1]}}}', 422,
     "invalid-request", "#"),
    ("a plan for another", "forecast", b'{"series": [{"item_id": "i0"}], "horizon": 1, "future": {"i1": {}}}', 422, "invalid-request", "#"),
    ("a plan under an odd id", "forecast",
     '{"series": [{"item_id": "a/b~c"}], "horizon": 1, "future": {"a/b~c 鞋": {"is_open": [true, 2]}}}'.encode(), 422,
     "invalid-request", "#/future/a~1b~0c%20%E9%9E%8B/is_open/1"),
    ("a plan under no id", "forecast", b'{"series": [{"item_id": "i0"}], "horizon": 1, "future": {"": {}}}', 422, "invalid-request",
     "#/future/"),
    ("no texts", "sentiment", b'{"texts": []}', 422, "invalid-request", "#/texts"),
    ("a text that is none", "sentiment", b'{"texts": [1]}', 422, "invalid-request", "#/texts/0"),
    ("too many texts", "sentiment", json.dumps({"texts": ["a"] * 129}).encode(), 422, "invalid-request", "#/texts"),
    ("a text too long", "sentiment", json.dumps({"texts": ["a" * 10_001]}).encode(), 422, "invalid-request", "#/texts/0"),
    ("too large", "sentiment", json.dumps({"texts": ["a" * 99_990]}).encode() + b" " * 100, 413, "too-large", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("product", "body", "status", "kind", "pointer"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_a_bad_body_gets_one_clear_problem(product: str, body: bytes, status: int, kind: str, pointer: str, post: Ask) -> None:
    content = problem(post(f"/v1/{product}", method="POST", content=body), status, kind)
    if pointer:
        assert content["errors"][0]["pointer"] == pointer
    assert len(content["detail"]) > 10
    assert "pydantic" not in json.dumps(content)


def test_a_plan_of_wrong_values_is_left_at_the_first() -> None:
    wrong: dict[str, Any] = {name: [[]] * 365 for name in FutureDays.model_fields}
    ids = [f"i{number}" for number in range(200)]
    body = {"series": [{"item_id": item} for item in ids], "horizon": 365, "future": dict.fromkeys(ids, wrong)}
    with pytest.raises(ValidationError) as caught:
        ForecastRequest.model_validate_json(json.dumps(body))
    assert caught.value.error_count() == len(ids) * len(wrong)


def test_a_body_full_of_errors_is_told_in_one_sentence(post: Ask) -> None:
    content = problem(post("/v1/recommend", {f"field {number}": 1 for number in range(1001)}), 422, "invalid-request")
    assert content["detail"].startswith("1001 values do not fit")
    assert "errors" not in content
    assert (
        len(problem(post("/v1/recommend", {f"field {number}": 1 for number in range(1000)}), 422, "invalid-request")["errors"])
        == 20
    )


def test_a_long_name_does_not_come_back(post: Ask) -> None:
    answer = post("/v1/recommend", {"x" * 90_000: 1})
    assert problem(answer, 422, "invalid-request")["errors"][0]["pointer"] == "#/" + "x" * 200
    assert len(answer.content) < 1000


def test_a_body_too_large_is_refused_before_it_is_read(gateway: Gateway) -> None:
    read: list[bytes] = []

    async def chunks() -> Any:
        for _ in range(1000):
            read.append(b" " * 10_000)
            yield read[-1]

    problem(ask(gateway, "/v1/sentiment", method="POST", content=chunks()), 413, "too-large")
    assert sum(map(len, read)) < 300_000


@pytest.mark.parametrize("said", [None, "text/plain", "application/x-www-form-urlencoded", "text/plain; application/json"])
def test_only_what_is_said_to_be_json_is_read(said: str | None, post: Ask) -> None:
    headers = {} if said is None else {"content-type": said}
    for path in ("/v1/recommend", "/v1/events"):
        content = problem(post(path, method="POST", content=b"{}", headers=headers), 415, "unsupported-media-type")
        assert "application/json" in content["detail"]
    assert post(
        "/v1/recommend", method="POST", content=b"{}", headers={"content-type": "Application/JSON; charset=utf-8"}
    ).is_success


def test_wrong_paths_and_methods_say_what_there_is(post: Ask) -> None:
    assert "/docs" in problem(post("/v1/recommendations", {}), 404, "not-found")["detail"]
    answer = post("/v1/recommend", method="GET")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"
    assert post("/livez", method="DELETE").headers["allow"] == "GET, HEAD"
    head = post("/openapi.json", method="HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(openapi.text())


def test_health_metrics_and_documents(post: Ask, served: ServedShop) -> None:
    assert post("/livez").json() == {"is_alive": True}
    ready = post("/readyz")
    assert ready.status_code == 200
    assert ready.json()["graphs"] == {product: manifest.version for product, manifest in served.manifests.items()}
    post("/v1/recommend", {"user_id": "nobody"})
    metrics = post("/metrics").text
    assert 'shopgraph_degraded_total{product="recommend",reason="unknown_user"}' in metrics
    version = served.manifests["recommend"].version
    assert f'request_seconds_count{{graph_version="{version}",product="recommend",status="200",variant="stable"}}' in metrics
    assert f'graph_loaded_timestamp_seconds{{graph_version="{version}",product="recommend"}}' in metrics
    assert post("/openapi.json").json()["openapi"] == "3.1.0"
    page = post("/docs").text
    assert "POST /v1/recommend" in page
    assert "<script" not in page
    assert "https://" not in page  # it must not need the network


def test_an_error_of_ours_tells_nothing(served: ServedShop) -> None:
    broken = served.gateway()
    broken.live.served["sentiment"].stable.graph.nodes["sentiment"].model = None  # type: ignore[attr-defined]  # whatever it may be
    content = problem(ask(broken, "/v1/sentiment", GOOD["sentiment"]), 500, "internal")
    assert "NoneType" not in json.dumps(content)
    assert ask(broken, "/v1/recommend", {"user_id": "u1"}).status_code == 200


def test_a_text_may_speak_of_nan(post: Ask) -> None:
    assert post("/v1/sentiment", {"texts": ["NaN", "Infinity"]}).status_code == 200


def test_items_are_ids_of_the_catalogue(post: Ask) -> None:
    content = post("/v1/recommend", {"user_id": "u1", "k": 200}).json()
    assert {item["item_id"] for item in content["items"]} == set(ITEMS[:9])
