"""Errors over HTTP as problem details (RFC 9457, `application/problem+json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import ValidationError

CONTENT_TYPE = "application/problem+json"

TITLES: dict[str, tuple[int, str]] = {
    "malformed-json": (400, "The body is not JSON."),
    "not-found": (404, "There is no such path."),
    "method-not-allowed": (405, "The path does not take this method."),
    "too-large": (413, "The body is too large."),
    "invalid-request": (422, "The body does not fit the schema."),
    "internal": (500, "An error of ours; it is in the server's log under this request_id."),
    "no-graph": (503, "No graph answers this yet."),
    "overloaded": (503, "Too many requests wait already."),
}
"""Every kind of problem: its status and title. The type of a problem is `urn:shopgraph:problem:<kind>`."""


class Problem(Exception):  # noqa: N818  # RFC 9457's word
    """A request that is answered with a problem; raised anywhere below the gateway.

    Args:
        kind: one of TITLES.
        detail: what is wrong with this request and what to do.
        errors: for `invalid-request`, `{"pointer", "detail"}` per field.
        headers: more response headers, such as `retry-after`.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = TITLES[kind]
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})

    def body(self, instance: str, request_id: str) -> bytes:
        """The response body."""
        content: dict[str, Any] = {
            "type": f"urn:shopgraph:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "request_id": request_id,
        }
        if self.errors:
            content["errors"] = self.errors
        return orjson.dumps(content)


def invalid(pointer: str, detail: str) -> Problem:
    """A problem with one field of the request; `pointer` is a JSON pointer into the body, e.g. `/horizon`."""
    return Problem("invalid-request", f"{pointer}: {detail}", [{"pointer": f"#{pointer}", "detail": detail}])


def from_validation(error: ValidationError) -> Problem:
    """What pydantic found, without echoing what was sent."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return Problem("malformed-json", f"{found[0]['msg']}; send one JSON object in UTF-8.")
    errors = [{"pointer": "#" + "".join(f"/{part}" for part in e["loc"]), "detail": e["msg"]} for e in found[:20]]
    return Problem("invalid-request", f"{errors[0]['pointer'].removeprefix('#') or 'body'}: {errors[0]['detail']}", errors)
