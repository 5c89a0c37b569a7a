"""The committed OpenAPI document: what clients rely on may only grow."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from serving import openapi
from serving.contract import breaking_changes
from serving.scopes import NEEDS

COMMITTED: dict[str, Any] = json.loads(openapi.COMMITTED.read_text(encoding="utf-8"))


def test_nothing_a_client_relies_on_went_away() -> None:
    assert breaking_changes(COMMITTED, openapi.document()) == []


def test_the_committed_document_is_up_to_date() -> None:
    assert openapi.document() == COMMITTED, "run `make docs` and commit serving/openapi.json"


def schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda new: new["paths"].pop("/v1/forecast"), "/v1/forecast is gone"),
        (lambda new: new["paths"]["/v1/forecast"]["post"]["responses"].pop("422"), "status 422 is gone"),
        (lambda new: new["paths"]["/v1/forecast"]["post"]["security"].pop(), "it no longer suffices to show nothing"),
        (
            lambda new: new["paths"]["/v1/events"]["post"].update(security=[{"bearer": ["events:admin"]}]),
            "post /v1/events: it no longer suffices to show {'bearer': ['events:write']}",
        ),
        (lambda new: schema(new, "RecommendAnswer")["properties"].pop("degraded"), "RecommendAnswer.degraded is gone"),
        (lambda new: schema(new, "RecommendRequest")["properties"].pop("exclude"), "RecommendRequest.exclude is gone"),
        (lambda new: schema(new, "RecommendRequest").update(required=["user_id"]), "RecommendRequest.user_id became required"),
        (lambda new: schema(new, "RecommendAnswer")["required"].remove("items"), "RecommendAnswer.items is no longer always there"),
        (
            lambda new: schema(new, "RecommendRequest")["properties"]["k"].update(type="string"),
            "RecommendRequest.k changed its type",
        ),
        (lambda new: schema(new, "RecommendRequest")["properties"]["k"].update(maximum=5), "RecommendRequest.k: maximum"),
        (
            lambda new: schema(new, "RecommendRequest")["properties"]["placement"]["enum"].remove("similar"),
            "similar is no longer taken",
        ),
    ],
)
def test_a_breaking_change_is_named(change: Any, told: str) -> None:
    new = copy.deepcopy(COMMITTED)
    change(new)
    found = breaking_changes(COMMITTED, new)
    assert any(told in line for line in found), found


def test_every_path_that_needs_a_key_says_which() -> None:
    for path, operations in COMMITTED["paths"].items():
        for operation in operations.values():
            if path in NEEDS:
                assert {tuple(scopes) for way in operation["security"] for scopes in way.values()} == {(NEEDS[path],)}
                assert {name for way in operation["security"] for name in way} == set(COMMITTED["components"]["securitySchemes"])
                assert {"401", "403", "429"} <= set(operation["responses"])
                assert "retry-after" in operation["responses"]["429"]["headers"]
            else:
                assert "security" not in operation


def test_additions_break_nothing() -> None:
    new = copy.deepcopy(COMMITTED)
    schema(new, "RecommendRequest")["properties"]["coupons"] = {"type": "array"}
    schema(new, "RecommendAnswer")["properties"]["weather"] = {"type": "string"}
    schema(new, "RecommendRequest")["properties"]["placement"]["enum"].append("just_in")
    new["paths"]["/v1/price"] = {"post": {"responses": {}}}
    assert breaking_changes(COMMITTED, new) == []
