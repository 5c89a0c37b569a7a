"""The OpenAPI 3.1 document, derived from the models of serving/schemas.py, and a page for people that needs no network.

`serving/openapi.json` is the committed copy (`make docs` writes it); a test refuses any change of it that would break a client.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.graph import PRODUCTS, Product
from serving.problems import CONTENT_TYPE, TITLES
from serving.schemas import ANSWERS, REQUESTS, TOLD, ProblemDetails, Readiness, ToldAnswer
from serving.scopes import NEEDS

Schema = Mapping[str, Any]

COMMITTED = Path(__file__).with_name("openapi.json")

_ABOUT: dict[Product, tuple[str, str]] = {
    "recommend": ("Items to show to one user in one place.", "The list."),
    "forecast": ("Units per item and day ahead, with quantiles.", "The forecasts, in the order of the series."),
    "sentiment": ("What texts feel like.", "The labels, in the order of the texts."),
}
_EXAMPLES: dict[Product, dict[str, Any]] = {
    "recommend": {"user_id": "u0000001", "k": 5},
    "forecast": {"series": [{"item_id": "i000001"}], "horizon": 7},
    "sentiment": {"texts": ["很好，物流很快。", "It broke after a week."]},
}
_NOT_LET_IN = {401: "unauthorized", 403: "forbidden", 429: "rate-limited"}
_FAILURES = {
    **_NOT_LET_IN,
    400: "malformed-json",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid-request",
    500: "internal",
    503: "no-graph",
}
_HEADERS: tuple[tuple[str, Schema, str], ...] = (
    (
        "X-Request-Timeout-Ms",
        {"type": "integer", "minimum": 1, "maximum": 600_000},
        "What the request may take, in milliseconds; default: what its graph says (50 for recommend). Where it is over, what is there goes "
        "out and `degraded` names the rest; a forecast or sentiment is refused by 504.",
    ),
    ("X-Request-Id", {"type": "string", "pattern": "^[A-Za-z0-9._~-]{1,128}$"}, "Name of the request; default: one made for it."),
    ("X-Session-Id", {"type": "string"}, "Whoever names neither user nor visitor stays with one graph version by it."),
)
_TOLD_IN: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "401": {"www-authenticate": ("How to show a key (RFC 6750).", {"type": "string"})},
    "429": {"retry-after": ("Seconds to wait.", {"type": "integer"})},
}
"""Status -> headers beside its problem."""
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "sg_<id>_<secret>"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_TOLD_ABOUT: dict[str, tuple[str, dict[str, Any]]] = {
    "events": (
        "What people did; counts at once.",
        {
            "events": [
                {
                    "event_id": "e1",
                    "user_id": "u0000001",
                    "item_id": "i000001",
                    "event_type": "view",
                    "event_timestamp": "2025-12-01T10:00:00Z",
                }
            ]
        },
    ),
    "items": (
        "What changed about items: new, price, stock, withdrawn; counts at once.",
        {"items": [{"item_id": "i000001", "price": 19.9, "withdrawn_at": None}]},
    ),
}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    models: list[type[BaseModel]] = [*REQUESTS.values(), *TOLD.values(), ProblemDetails]
    answers: list[type[BaseModel]] = [*ANSWERS.values(), ToldAnswer, Readiness]
    names, definitions = models_json_schema(
        [*((model, "validation") for model in models), *((model, "serialization") for model in answers)],
        ref_template="#/components/schemas/{model}",
    )
    problem = {CONTENT_TYPE: {"schema": names[ProblemDetails, "validation"]}}
    paths: dict[str, Any] = {}
    for product in PRODUCTS:
        summary, answered = _ABOUT[product]
        failures = _FAILURES if product == "recommend" else {**_FAILURES, 504: "too-late"}
        request, answer = names[REQUESTS[product], "validation"], names[ANSWERS[product], "serialization"]
        paths[f"/v1/{product}"] = {
            "post": {
                "operationId": product,
                "summary": summary,
                "parameters": [
                    {"name": name, "in": "header", "required": False, "schema": schema, "description": told}
                    for name, schema, told in _HEADERS
                ],
                "security": _security(f"/v1/{product}"),
                "requestBody": _body(request, _EXAMPLES[product]),
                "responses": {"200": _content(answered, answer), **_problems(failures, problem)},
            }
        }
    for kind, model in TOLD.items():
        summary, example = _TOLD_ABOUT[kind]
        answer = _content("What became of each row; all that was accepted is on the disk.", names[ToldAnswer, "serialization"])
        paths[f"/v1/{kind}"] = {
            "post": {
                "operationId": kind,
                "summary": summary,
                "security": _security(f"/v1/{kind}"),
                "requestBody": _body(names[model, "validation"], example),
                "responses": {"202": answer, **_problems({**_FAILURES, 503: "not-kept"}, problem)},
            }
        }
    ready = {"application/json": {"schema": names[Readiness, "serialization"]}}
    paths["/livez"] = _page("The process answers.", {"200": {"description": "It does."}})
    paths["/readyz"] = _page(
        "Every released graph answers.",
        {"200": {"description": "It does.", "content": ready}, "503": {"description": "Not yet.", "content": ready}},
    )
    metrics = {"200": {"description": "Text exposition format."}, **_problems({**_NOT_LET_IN, 503: "keys-unknown"}, problem)}
    paths["/metrics"] = _page("Metrics for Prometheus.", metrics)
    paths["/metrics"]["get"]["security"] = _security("/metrics")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "shopgraph",
            "version": "1.0.0",
            "description": "Recommendations, demand forecasts and sentiment of one shop. Every answer names the graph version that "
            "made it; errors are problem details (RFC 9457). Fields are only added. A request from another machine "
            "shows an API key that has the scope named beside the path; its limits are told in `RateLimit-Policy` and `RateLimit`. The "
            "trace of a `traceparent` is in that of the answer.",
        },
        "paths": paths,
        "components": {"schemas": definitions["$defs"], "securitySchemes": _SCHEMES},
    }


@cache
def text() -> bytes:
    """The document as JSON."""
    return orjson.dumps(document())


def committed_text() -> str:
    """The document as it is committed: readable, in a fixed order."""
    return json.dumps(document(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


@cache
def page() -> bytes:
    """A plain HTML page of the document."""
    schemas = document()["components"]["schemas"]
    parts = [f"<h1>{document()['info']['title']}</h1><p>{document()['info']['description']}</p>"]
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            scope = f" Scope of the key: <code>{NEEDS[path]}</code>." if path in NEEDS else ""
            parts.append(f"<h2><code>{method.upper()} {path}</code></h2><p>{operation['summary']}{scope}</p>")
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content:
                example = html.escape(json.dumps(content["example"], ensure_ascii=False))
                line = f"curl -s http://127.0.0.1:8000{path} -H 'content-type: application/json' -d '{example}'"
                parts.append(f"<pre>{line}</pre><h3>Request</h3>{_table(content['schema'], schemas)}")
            good = next(response for status, response in operation["responses"].items() if status.startswith("2"))
            answer = good.get("content", {}).get("application/json")
            if answer:
                parts.append(f"<h3>Answer</h3>{_table(answer['schema'], schemas)}")
    parts.append("<h2>Problems</h2><table><tr><th>type</th><th>status</th><th>title</th></tr>")
    parts += [
        f"<tr><td><code>urn:shopgraph:problem:{kind}</code></td><td>{status}</td><td>{title}</td></tr>"
        for kind, (status, title) in TITLES.items()
    ]
    style = (
        "body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;width:100%}"
        "td,th{border:1px solid #ccc;padding:.3rem .5rem;text-align:left;vertical-align:top}"
        "pre{background:#f4f4f4;padding:.6rem;overflow:auto}"
    )
    body = "".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>shopgraph API</title><style>{style}</style>{body}</table>'
        '<p>The same for machines: <a href="/openapi.json">/openapi.json</a></p></html>'
    ).encode()


def _body(schema: Schema, example: Schema) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _content(told: str, schema: Schema) -> dict[str, Any]:
    return {"description": told, "content": {"application/json": {"schema": schema}}}


def _problems(kinds: Mapping[int, str], content: Schema) -> dict[str, Any]:
    problems: dict[str, Any] = {
        str(status): {"description": TITLES[kind][1], "content": content} for status, kind in sorted(kinds.items())
    }
    for status, headers in _TOLD_IN.items():
        if status in problems:
            problems[status]["headers"] = {
                name: {"description": told, "schema": schema} for name, (told, schema) in headers.items()
            }
    return problems


def _security(path: str) -> list[dict[str, list[str]]]:
    """A key that has the scope, shown in either way; or nothing, where the server asks for none."""
    return [{scheme: [NEEDS[path]]} for scheme in _SCHEMES] + [{}]


def _page(summary: str, responses: Mapping[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": dict(responses)}}


def _table(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{name}</code>{'' if is_required else '?'}</td><td>{html.escape(kind)}</td><td>{html.escape(told)}</td></tr>"
        for name, kind, is_required, told in _fields(schema, schemas)
    )
    return f"<table><tr><th>field</th><th>type</th><th>meaning</th></tr>{rows}</table>"


def _fields(
    schema: Mapping[str, Any], schemas: Mapping[str, Any], prefix: str = "", seen: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, bool, str]]:
    """Every field below a schema as (dotted name, type, whether required, meaning)."""
    name = schema["$ref"].rsplit("/", 1)[1]
    found = schemas[name]
    for field, about in found.get("properties", {}).items():
        inner = [ref for ref in _references(about) if ref["$ref"] not in seen]
        yield f"{prefix}{field}", _kind(about), field in found.get("required", ()), about.get("description", "")
        for ref in inner:
            yield from _fields(
                ref, schemas, f"{prefix}{field}{'[]' if about.get('type') == 'array' else ''}.", (*seen, ref["$ref"])
            )


def _references(about: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(about, Mapping):
        if "$ref" in about:
            yield about
        for value in about.values():
            yield from _references(value)
    elif isinstance(about, list):
        for value in about:
            yield from _references(value)


def _kind(about: Mapping[str, Any]) -> str:
    if "$ref" in about:
        return str(about["$ref"].rsplit("/", 1)[1])
    if "enum" in about:
        return " | ".join(map(str, about["enum"]))
    if "anyOf" in about:
        return " | ".join(_kind(one) for one in about["anyOf"])
    if about.get("type") == "array":
        return f"[{_kind(about.get('items', {}))}]"
    return str(about.get("format", about.get("type", "any")))
