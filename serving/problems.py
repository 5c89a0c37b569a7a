"""Errors over HTTP as problem details (RFC 9457, `application/problem+json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

CONTENT_TYPE = "application/problem+json"
_MOST_TOLD = 20
_MOST_READ = 1000
"""Of more errors none is told: pydantic gives all or nothing, at some microseconds each."""
_PART_CHARS = 200
"""The longest id. A part of a pointer that is longer is no field of ours and is cut."""

TITLES: dict[str, tuple[int, str]] = {
    "malformed-json": (400, "The body is not JSON."),
    "unauthorized": (401, "A valid API key is needed."),
    "forbidden": (403, "The API key does not allow this."),
    "not-found": (404, "There is no such path."),
    "method-not-allowed": (405, "The path does not take this method."),
    "too-large": (413, "The body is too large."),
    "unsupported-media-type": (415, "The body is not said to be JSON."),
    "invalid-request": (422, "The body does not fit the schema."),
    "rate-limited": (429, "The API key asks too often."),
    "quota-exceeded": (429, "The API key has asked all that it may today."),
    "internal": (500, "An error of ours; it is in the server's log under this request_id."),
    "keys-unknown": (503, "No API key can be checked yet."),
    "no-graph": (503, "No graph answers this yet."),
    "not-kept": (503, "What was posted cannot be kept now."),
    "malformed-header": (400, "A header does not say what it should."),
    "too-late": (504, "The time that the request may take is over."),
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
    return Problem("invalid-request", f"{pointer or 'body'}: {detail}", [_told(pointer, detail)])


def from_validation(error: ValidationError) -> Problem:
    """What pydantic found, without echoing what was sent."""
    if error.error_count() > _MOST_READ:
        return Problem("invalid-request", f"{error.error_count()} values do not fit the schema; /docs shows it.")
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return Problem("malformed-json", f"{found[0]['msg']}; send one JSON object in UTF-8.")
    problem = invalid(_pointer(found[0]), found[0]["msg"])
    problem.errors = [_told(_pointer(one), one["msg"]) for one in found[:_MOST_TOLD]]
    return problem


def _pointer(error: ErrorDetails) -> str:
    """JSON pointer (RFC 6901) to what pydantic found wrong."""
    parts = error["loc"]
    if parts[-1:] == ("[key]",) and error["type"] != "extra_forbidden":  # pydantic's mark for the name of a field itself
        parts = parts[:-1]
    return "".join("/" + str(part)[:_PART_CHARS].replace("~", "~0").replace("/", "~1") for part in parts)


def _told(pointer: str, detail: str) -> dict[str, str]:
    """One entry of `errors`; its pointer is a URI fragment (RFC 6901, section 6)."""
    return {"pointer": "#" + quote(pointer, safe="/?:@!$&'()*+,;="), "detail": detail}
