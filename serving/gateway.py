"""The HTTP gateway: one raw ASGI application that validates, lets the live graph answer in process, and says what it did."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from infra import log
from serving import list_ids, openapi
from serving.access import Access
from serving.batching import QueueFullError
from serving.canaries import Canaries
from serving.edges import Content
from serving.graph import MODEL, PRODUCTS, Product
from serving.inbox import KINDS, Inbox, Kind
from serving.live import LiveGraphs, Served
from serving.metrics import CONTENT_TYPE as METRICS_CONTENT_TYPE
from serving.metrics import Metrics, Taken
from serving.nodes.user_history import person_of
from serving.problems import CONTENT_TYPE as PROBLEM_CONTENT_TYPE
from serving.problems import Problem, from_validation
from serving.pulse import Pulse, is_ready
from serving.request_log import Answered, RequestLog
from serving.schemas import LISTS, REQUESTS, RecommendRequest
from serving.trace import Trace

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = "application/json"
_STARTUP_S = 30.0
"""How long a replica holds back for the releases; a release database that is away must not keep it from saying so."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~-]{1,128}")
_BUDGET = re.compile(rb"[1-9][0-9]{0,4}|[1-5][0-9]{5}|600000")
_ADAPTERS: dict[str, TypeAdapter[Any]] = {product: TypeAdapter(model) for product, model in REQUESTS.items()}
_LISTS: dict[str, TypeAdapter[Any]] = {kind: TypeAdapter(model) for kind, model in LISTS.items()}
_INBOX_ROUTES: dict[str, Kind] = {f"/v1/{kind}": kind for kind in KINDS}
_ROUTES: dict[str, Product] = {f"/v1/{product}": product for product in PRODUCTS}


class Gateway:
    """The ASGI application of one replica.

    Args:
        live: the graphs that answer.
        inbox: takes what is posted.
        requests: where requests are logged.
        metrics: where requests are counted.
        access: says who is let in.
        max_body_bytes: the largest body that is read.
        echoes_request_id: add `x-request-id` to answers; Ray Serve adds it by itself.
    """

    def __init__(
        self,
        live: LiveGraphs,
        inbox: Inbox,
        requests: RequestLog,
        access: Access,
        metrics: Metrics,
        max_body_bytes: int,
        echoes_request_id: bool = True,
    ) -> None:
        self.live = live
        self.canaries = Canaries(live)
        self.inbox = inbox
        self.requests = requests
        inbox.tell = self.canaries.tally.told
        self.metrics = metrics
        self.pulse = Pulse(live, inbox.intake.applied.rows, metrics)
        self.access = access
        self.max_body_bytes = max_body_bytes
        self.echoes_request_id = echoes_request_id
        self._pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/livez": lambda: (200, JSON, b'{"is_alive":true}'),
            "/readyz": self._readiness,
            "/metrics": lambda: (200, METRICS_CONTENT_TYPE, self.metrics.text()),
            "/openapi.json": lambda: (200, JSON, openapi.text()),
            "/docs": lambda: (200, "text/html; charset=utf-8", openapi.page()),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            with ExitStack() as about:
                await self._http(scope, receive, send, about)

    async def _http(self, scope: Scope, receive: Receive, send: Send, about: ExitStack) -> None:
        path, headers = scope["path"], dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        product, kind = _ROUTES.get(path), _INBOX_ROUTES.get(path)
        more: dict[str, str] = {}
        taken = Taken()
        trace = Trace.read(headers.get(b"traceparent"))
        said = {"request_id": request_id, **(trace.context if trace else {})}
        began = time.perf_counter()
        try:
            caller = self.access.enter(scope, headers)
            more = dict(caller.headers)
            about.enter_context(log.about(**said, **caller.context))
            if caller.is_preflight:
                status, content_type, content = 204, JSON, b""
            elif product or kind:
                _check_method(scope, path, "POST")
                _check_media_type(headers)
                body = await self._body(headers, receive)
                began = time.perf_counter()
                content_type = JSON
                if product:
                    status, content = 200, await self._answer(product, body, headers, request_id, taken)
                elif kind:
                    status, content = 202, await self._take(kind, body, request_id)
            elif path in self._pages:
                _check_method(scope, path, "GET", "HEAD")
                status, content_type, content = self._pages[path]()
            else:
                raise Problem("not-found", f"there is no {path[:100]}; /docs lists what there is.")
        except Problem as problem:
            status, content_type, content = problem.status, PROBLEM_CONTENT_TYPE, problem.body(path[:100], request_id)
            more |= problem.headers
        except Exception as error:  # the client learns nothing of it; the log has it all
            log.get(__name__).exception("request failed", path=path, request_id=request_id, error=str(error))
            ours = Problem("internal", "nothing is wrong with the request; try again, and report the request_id if it stays.")
            status, content_type, content = ours.status, PROBLEM_CONTENT_TYPE, ours.body(path[:100], request_id)
        if asked := product or kind:
            took = time.perf_counter() - began
            self.metrics.seconds.labels(asked, taken.graph_version, taken.variant, status).observe(took)
            self.canaries.tally.answered(asked, taken.graph_version, taken.bucket, status, taken.is_degraded, took)
            if taken.content and self.requests.is_drawn():
                self.requests.keep(_answered(asked, taken, content, took))
        sent = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(content))] if status != 204 else []
        sent += [(name.encode(), value.encode()) for name, value in more.items()]
        if self.echoes_request_id:
            sent.append((b"x-request-id", request_id.encode()))
        if trace:
            sent.append((b"traceparent", trace.header.encode()))
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, refused as soon as it is known to be too large."""
        too_large = Problem(
            "too-large", f"at most {self.max_body_bytes} bytes are read; send fewer rows, series or texts at a time."
        )
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.max_body_bytes:
            raise too_large
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem("malformed-json", "the client left before the body was complete.")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_body_bytes:
                raise too_large
            if not message.get("more_body"):
                return b"".join(parts)

    async def _answer(self, product: Product, body: bytes, headers: Mapping[bytes, bytes], request_id: str, taken: Taken) -> bytes:
        """The answer of the graph that takes the request up; which one is said in `taken`, also where it then refuses."""
        try:
            if b"NaN" in body or b"Infinity" in body:  # no JSON, though pydantic takes them; unless they stand inside a text
                from_json(body, allow_inf_nan=False)
            request = _ADAPTERS[product].validate_json(body)
        except ValidationError as error:
            raise from_validation(error) from None
        except ValueError as error:
            raise Problem("malformed-json", f"{error}; send one JSON object in UTF-8.") from None
        answering = self.live.served.get(product)
        if answering is None:
            raise self._no_graph(product)
        key = _key(request, headers, request_id)
        served = answering.pick(key)  # taken once: one request, one version
        taken.graph_version, taken.variant = served.version, "candidate" if served is answering.candidate else "stable"
        taken.bucket = list_ids.bucket_of(key)
        graph = served.graph
        graph.check(request)
        budget_s = _budget_s(headers, graph.manifest.budget_ms)
        bottom = graph.bottom(request) if answering.is_safe else None
        with self.metrics.waiting.labels(product).track_inprogress():
            content = bottom or await self._ask(served, request, budget_s, request_id)
        for reason in content["degraded"]:
            self.metrics.degraded.labels(product, reason).inc()
        taken.is_degraded = not graph.steps_down.isdisjoint(content["degraded"])
        if "list_id" in content:
            _name(content, taken.bucket, served.version)
        about = {"as_of": self.live.clock.now(), "graph_version": served.version, "model_versions": served.model_versions}
        taken.request, taken.content = request, {**content, **about, "request_id": request_id}
        return orjson.dumps(taken.content)

    async def _ask(self, served: Served, request: Any, budget_s: float, request_id: str) -> Content:
        try:
            return await served.queue.submit(request, budget_s)
        except QueueFullError:
            raise Problem("overloaded", "try again in a second, or add replicas.", headers={"retry-after": "1"}) from None
        except Problem:
            raise
        except Exception as error:
            bottom = served.graph.bottom(request)
            if bottom is None:
                raise
            log.get(__name__).exception("answered from the end of the ladder", request_id=request_id, error=str(error))
            return bottom

    async def _take(self, kind: Kind, body: bytes, request_id: str) -> bytes:
        try:
            request = _LISTS[kind].validate_python(orjson.loads(body))
        except ValidationError as error:
            raise from_validation(error) from None
        except ValueError as error:
            raise Problem("malformed-json", f"{error}; send one JSON object in UTF-8.") from None
        return orjson.dumps(await self.inbox.take(kind, getattr(request, kind), request_id))

    def _no_graph(self, product: Product) -> Problem:
        if told := self.live.waiting.get(product):
            detail = f"{told}."
        elif not self.live.has_polled.is_set():
            detail = "this replica still takes up what is released, or the release database is away; try again."
        else:
            detail = f"no {product} graph is released: run `shopgraph train {MODEL[product]}`, then `shopgraph up --latest`."
        return Problem("no-graph", detail, headers={"retry-after": "5"})

    def _readiness(self) -> tuple[int, str, bytes]:
        served = self.live.served
        can_answer = is_ready(self.live)
        content = {
            "is_ready": can_answer,
            "graphs": {product: one.stable.version for product, one in served.items()},
            "candidates": {product: one.candidate.version for product, one in served.items() if one.candidate},
            "waiting": self.live.waiting,
            "held_back": self.live.held_back,
        }
        return 200 if can_answer else 503, JSON, orjson.dumps(content)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.live.start()
                self.canaries.start()
                self.inbox.start()
                self.requests.start()
                self.pulse.start()
                self.access.start()
                followed = (self.live.has_polled, self.access.has_polled)
                await asyncio.gather(*(asyncio.to_thread(one.wait, _STARTUP_S) for one in followed))
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.pulse.stop()
                self.live.stop()
                await asyncio.to_thread(self.canaries.stop)
                await asyncio.to_thread(self.inbox.stop)
                await asyncio.to_thread(self.requests.stop)
                await asyncio.to_thread(self.access.stop)
                await send({"type": "lifespan.shutdown.complete"})
                return


def _key(request: Any, headers: Mapping[bytes, bytes], request_id: str) -> str:
    """What a request sticks to its version by: the user, else the visitor, the session, the request itself."""
    for kind in ("user", "visitor"):
        if name := getattr(request, f"{kind}_id", None):
            return f"{kind} {name}"
    session = headers.get(b"x-session-id")
    return f"session {session.decode('latin-1')}" if session else f"request {request_id}"


def _answered(product: str, taken: Taken, answer: bytes, seconds: float) -> Answered:
    """What is logged; of a request that is not to be personal nothing about the person."""
    request, content = taken.request, taken.content
    is_personal = getattr(request, "personalize", True)
    unsaid = None if is_personal else {"user_id", "visitor_id", "session"}
    person = person_of(request) if is_personal and isinstance(request, RecommendRequest) else None
    return Answered(
        request_id=content["request_id"],
        answered_at=datetime.now(UTC),
        as_of=content["as_of"],
        product=product,
        graph_version=taken.graph_version,
        variant=taken.variant,
        person=person,
        list_ids=[one["list_id"] for one in content.get("lists") or [content] if "list_id" in one],
        request=request.model_dump_json(exclude_unset=True, exclude=unsaid),
        answer=answer.decode(),
        degraded=content["degraded"],
        seconds=seconds,
    )


def _name(content: Content, bucket: int, version: str) -> None:
    """Give the lists of an answer their whole names."""
    lists = content.get("lists") or [content]
    for one in lists:
        one["list_id"] = list_ids.whole(one["list_id"], bucket, version)
    content["list_id"] = lists[0]["list_id"]


def _budget_s(headers: Mapping[bytes, bytes], usual_ms: int) -> float:
    """Seconds that a request may take."""
    said = headers.get(b"x-request-timeout-ms")
    if said is None:
        return usual_ms / 1000
    if not _BUDGET.fullmatch(said):
        got = said.decode("latin-1")[:20]
        raise Problem("malformed-header", f"X-Request-Timeout-Ms: expected whole milliseconds from 1 to 600000, got {got!r}.")
    return int(said) / 1000


def _check_media_type(headers: Mapping[bytes, bytes]) -> None:
    """Only what says that it is JSON is read: any page open in a browser may post text to a loopback address, but not this (CORS)."""
    said = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if said != JSON.encode():
        got = said.decode("latin-1")[:100] or "none"
        raise Problem("unsupported-media-type", f"expected the header content-type: {JSON}, got {got}.")


def _check_method(scope: Scope, path: str, *allowed: str) -> None:
    if scope["method"] not in allowed:
        raise Problem(
            "method-not-allowed",
            f"{path} takes {' or '.join(allowed)}, not {scope['method']}.",
            headers={"allow": ", ".join(allowed)},
        )
