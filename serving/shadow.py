"""A version asked what the running API is asked, a moment later and in a process of its own: no answer waits for it or can fail by it.

It follows the request log of the home; of what comes faster than it can answer it leaves some out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from features.online.packing import from_microseconds
from features.shop import Shop
from infra import clock
from infra.errors import ReleaseError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from serving.comparing import Comparison
from serving.graph import Manifest
from serving.loading import Loader
from serving.request_log import RequestLog
from serving.schemas import REQUESTS
from serving.trial import answer

_POLL_S = 0.5
_AT_ONCE = 500
"""Requests that are taken at a time; of those that are more than so many behind, none is asked."""
_REFRESH_S = 60.0


def shadow(
    settings: Settings,
    manifest: Manifest,
    percent: float,
    seconds: float,
    told: Callable[[Comparison, int], None] = lambda *_: None,
) -> tuple[Comparison, int]:
    """Ask a version for some time; what differs from the answers that were given, and how many requests were left out.

    Args:
        percent: of the requests of its product, so many are asked.
        told: called with the result so far, about twice a second.

    Raises:
        ReleaseError: the version cannot be loaded.
        EngineError: MLflow or the online store cannot be used.
    """
    shop = Shop.load(Home(settings), settings.shop)
    lake = Lake.open(settings, shop.name)
    log = RequestLog(settings, lake)
    mode = settings.now or shop.now
    graph = Loader(settings, shop, lake).load(manifest, clock.now(mode, lake))
    adapter: TypeAdapter[Any] = TypeAdapter(REQUESTS[manifest.product])
    found, left_out, number = Comparison(), 0, log.last()
    ends = time.monotonic() + seconds
    refreshed = time.monotonic()
    while time.monotonic() < ends:
        if log.last() - number > 2 * _AT_ONCE:
            left_out += log.last() - _AT_ONCE - number
            number = log.last() - _AT_ONCE
        for place, row in log.after(number, _AT_ONCE):
            number = place
            if row["product"] != manifest.product or random.random() * 100 >= percent:
                continue
            if graph.steps_down & set(row["degraded"]):  # nothing to hold a whole answer against
                continue
            try:
                request = adapter.validate_json(row["request"])
            except ValidationError:  # of another contract
                continue
            found.asked += 1
            began = time.perf_counter()
            try:
                content = answer(graph, request, from_microseconds(row["as_of"]))
            except ReleaseError as error:
                found.failed[str(error).splitlines()[0][:200]] += 1
                continue
            found.taken_ms.append(1000 * (time.perf_counter() - began))
            found.stable_ms.append(1000 * row["seconds"])
            found.add(orjson.loads(orjson.dumps(content)), orjson.loads(row["answer"]))
        told(found, left_out)
        if time.monotonic() - refreshed > _REFRESH_S:
            refreshed = time.monotonic()
            graph.refresh(clock.now(mode, lake))
        time.sleep(_POLL_S)
    return found, left_out
