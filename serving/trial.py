"""What a candidate must pass before it shares a process with the stable version: it is loaded, and asked again what was asked before.

It runs in the process of whoever deploys, so that a model that takes all memory, or ends the process, takes no replica with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from pydantic import TypeAdapter, ValidationError

from features.shop import Shop
from infra import clock
from infra.errors import ReleaseError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from serving.comparing import Comparison
from serving.edges import Content
from serving.execution import Graph, Run
from serving.graph import Manifest, Product
from serving.loading import Loader
from serving.problems import Problem
from serving.releases import Release, Releases
from serving.request_log import RequestLog
from serving.schemas import ANSWERS, REQUESTS

REPLAYED = 200
"""Recorded requests that are asked again."""
_WARM = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """How a candidate did."""

    version: str
    replayed: int
    """Requests that were recorded; the others are made up."""
    asked: int
    median_ms: float
    p99_ms: float
    """Of one request alone, in this process."""
    stable_median_ms: float | None
    overlap: float | None
    """Of a list, the mean share of items that the stable version's has too; None: there is none to hold it against."""
    differing: Mapping[str, float]
    """Field of the answer -> share of requests in which the stable version says another thing."""
    memory_bytes: int
    """What the files of all versions that would be held take in all replicas."""


def trial(
    settings: Settings, manifest: Manifest, stable: Manifest | None, held: Sequence[Manifest], say: Say = lambda _: None
) -> Trial:
    """Try a candidate.

    Args:
        stable: the version that it is held against; None: there is none.
        held: the versions that replicas hold already.

    Raises:
        ReleaseError: it does not fit into the memory that is declared, cannot be loaded, or does not answer what the stable one answers.
        EngineError: MLflow, the online store or the request log cannot be used.
    """
    shop = Shop.load(Home(settings), settings.shop)
    lake = Lake.open(settings, shop.name)
    loader = Loader(settings, shop, lake)
    every = {one.version: one for one in (*held, manifest)}
    memory = settings.http_replicas * sum(model_bytes(loader, one) for one in every.values())
    if memory > settings.serve_memory_gb * 1e9:
        raise ReleaseError(
            f"graph {manifest.version}: {len(every)} versions in {settings.http_replicas} replica(s) hold {memory / 1e9:.2f} GB of models; "
            f"SHOPGRAPH_SERVE_MEMORY_GB allows {settings.serve_memory_gb:g}. Promote or roll back first, or declare more."
        )
    at = clock.now(settings.now or shop.now, lake)
    say(f"loading {manifest.version}")
    graph = loader.load(manifest, at)
    reference = loader.load(stable, at) if stable else None
    adapter: TypeAdapter[Any] = TypeAdapter(REQUESTS[manifest.product])
    recorded = list(_recorded(RequestLog(settings, lake), manifest.product, adapter))
    requests = recorded or [adapter.validate_python(body) for body in _made_up(manifest)]
    for request in requests[:_WARM]:
        answer(graph, request, at)
    say(f"asking {len(requests)} requests again")
    compared = Comparison()
    for request in requests:
        content = _timed(graph, request, at, compared.taken_ms)
        compared.asked += 1
        if reference:
            expected = _timed(reference, request, at, compared.stable_ms)
            _check(manifest, request, content, expected)
            compared.add(content, expected)
    return Trial(
        version=manifest.version,
        replayed=len(recorded),
        asked=len(requests),
        median_ms=float(np.median(compared.taken_ms)),
        p99_ms=float(np.quantile(compared.taken_ms, 0.99)),
        stable_median_ms=float(np.median(compared.stable_ms)) if reference else None,
        overlap=compared.overlap,
        differing=compared.differing,
        memory_bytes=memory,
    )


def held_by(releases: Releases, release: Release | None) -> list[Manifest]:
    """The versions that replicas hold beside a new candidate: the stable one, and that of before."""
    versions = (release.stable, release.before) if release else ()
    return [releases.manifest(version) for version in versions if version]


def model_bytes(loader: Loader, manifest: Manifest) -> int:
    """Bytes of the files of a version's models."""
    folders: list[Path] = [loader.folder(name, pin) for name, pin in manifest.models.items()]
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def _made_up(manifest: Manifest) -> Iterator[Mapping[str, Any]]:
    """What is asked where nothing was recorded."""
    if manifest.product == "forecast":
        yield {"series": [{"item_id": "nothing"}], "horizon": 1}
    elif manifest.product == "sentiment":
        yield {"texts": ["ok", ""]}
    else:
        yield from ({}, {"user_id": "nobody"}, {"placement": "trending"}, {"placement": "buy_again"}, {"k": manifest.limits.k})
        for item in manifest.static[:5]:
            acts = [{"item_id": item}, {"item_id": item, "event_type": "purchase"}]
            yield from (
                {"session": acts},
                {"placement": "similar", "item_id": item},
                {"placement": "bought_together", "basket": [item]},
            )


def _recorded(log: RequestLog, product: Product, adapter: TypeAdapter[Any]) -> Iterator[Any]:
    """What was asked last and can still be asked."""
    for row in log.newest(product, REPLAYED):
        try:
            yield adapter.validate_json(row["request"])
        except ValidationError:  # of an older contract
            continue


def answer(graph: Graph, request: Any, at: datetime) -> Content:
    """The whole answer; what a request of another contract is refused for is no fault of the version.

    Raises:
        ReleaseError: a node fails, or the answer is none that the API could give.
    """
    version = graph.manifest.version
    try:
        graph.check(request)
        run = Run(graph, [request], at)
        run.go(run.turn)
    except Problem:
        return {}
    (outcome,) = run.outcomes
    if isinstance(outcome, Problem) and outcome.status < 500:
        return {}
    if isinstance(outcome, Exception):
        raise ReleaseError(
            f"graph {version} does not answer {request.model_dump_json(exclude_unset=True)[:200]}: {outcome}"
        ) from outcome
    content: Content = outcome
    if missed := graph.steps_down & set(content["degraded"]):
        raise ReleaseError(
            f"graph {version} answers {request.model_dump_json(exclude_unset=True)[:200]} only without a node of its own "
            f"({', '.join(sorted(missed))}); the log above says why."
        )
    about = {"as_of": at, "graph_version": version, "model_versions": {}, "request_id": "trial"}
    try:
        ANSWERS[graph.manifest.product].model_validate_json(orjson.dumps({**content, **about}))  # where NaN is null
    except ValidationError as error:
        first = error.errors()[0]
        raise ReleaseError(f"graph {version} breaks the contract: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    return content


def _timed(graph: Graph, request: Any, at: datetime, taken_ms: list[float]) -> Content:
    began = time.perf_counter()
    content = answer(graph, request, at)
    taken_ms.append(1000 * (time.perf_counter() - began))
    return content


def _check(manifest: Manifest, request: Any, content: Content, expected: Content) -> None:
    """Refuse a version that has nothing to say where the stable one has something."""
    for name in ("items", "series", "results"):
        if expected.get(name) and not content.get(name):
            raise ReleaseError(
                f"graph {manifest.version} has no {name} for {request.model_dump_json(exclude_unset=True)[:200]}; "
                f"the stable version gives {len(expected[name])}."
            )
