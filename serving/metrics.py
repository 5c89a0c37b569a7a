"""What the gateway counts, in Prometheus' terms: base units, few labels, never a user or an item."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Seconds. They are close around 50 ms, which is what 99 of 100 answers shall keep below."""
_LIVE_FILES = "gauge_live*_*.db"
"""What prometheus_client calls the files of gauges that speak of processes that live; the last part is the process."""


@dataclass
class Taken:
    """Which graph took a request up, as stable or as candidate; both empty where none did."""

    graph_version: str = ""
    variant: str = ""
    bucket: int = 0
    """The part of the people that asked."""
    is_degraded: bool = False
    """Whether something that was down or late was left out."""
    request: Any = None
    content: Mapping[str, Any] = field(default_factory=dict)
    """What it was answered with."""


class Metrics:
    """Counters of one gateway.

    Args:
        folder: where the replicas of one machine share their counters, so that a scrape of any one shows all
            (prometheus_client's multiprocess mode; the replica's environment names the same folder); None: this process only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.registry = registry = CollectorRegistry()
        self.seconds = Histogram(
            "shopgraph_request_seconds",
            "Time from the whole body to the answer.",
            ["product", "graph_version", "variant", "status"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.waiting = Gauge(
            "shopgraph_waiting_requests",
            "Requests that a graph has and has not answered yet.",
            ["product"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.degraded = Counter(
            "shopgraph_degraded_total", "Answers that left something out.", ["product", "reason"], registry=registry
        )

        self.node_seconds = Histogram(
            "shopgraph_node_seconds",
            "Time that a node of a graph took for a batch.",
            ["product", "node"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.node_failures = Counter(
            "shopgraph_node_failures_total",
            "Requests that a node was left out of: it failed, was too late, or was left alone.",
            ["product", "node", "reason"],
            registry=registry,
        )
        self.breaker_open = Gauge(
            "shopgraph_breaker_open",
            "1 while a replica leaves a node out.",
            ["product", "node"],
            multiprocess_mode="livemax",
            registry=registry,
        )

        self.refused = Counter(
            "shopgraph_refused_total",
            "Requests that were not let in, by why; clients are told less.",
            ["reason"],
            registry=registry,
        )
        self.loaded = Gauge(
            "shopgraph_graph_loaded_timestamp_seconds",
            "When a replica last took up the graph version.",
            ["product", "graph_version"],
            multiprocess_mode="max",
            registry=registry,
        )
        self.is_ready = Gauge(
            "shopgraph_ready",
            "1 while every replica answers with what is released.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.graph_waiting = Gauge(
            "shopgraph_graph_waiting",
            "1 while a replica does not answer with the stable version that is released.",
            ["product"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.candidate_held_back = Gauge(
            "shopgraph_candidate_held_back",
            "1 while a replica lets the candidate answer nobody, though it has weight.",
            ["product"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.release_epoch = Gauge(
            "shopgraph_release_epoch",
            "Number of the newest move of the product's release that every replica has read.",
            ["product"],
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.releases_read = Gauge(
            "shopgraph_releases_read_timestamp_seconds",
            "When the release database was last read by every replica.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.features_age = Gauge(
            "shopgraph_features_age_seconds",
            "How far the shop's clock is past the instant that the online rows were materialised for.",
            ["view"],
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.replica_starts = Counter("shopgraph_replica_starts_total", "Replicas that began.", registry=registry)
        self.loop_lag = Gauge(
            "shopgraph_event_loop_lag_seconds",
            "How late the event loop of the slowest replica last was.",
            multiprocess_mode="livemax",
            registry=registry,
        )

        self.unlogged = Counter("shopgraph_unlogged_requests_total", "Requests that the log had no room for.", registry=registry)
        self.told = Counter(
            "shopgraph_told_rows_total", "Events and items posted, by what became of them.", ["kind", "fate"], registry=registry
        )
        self.drained = Counter("shopgraph_drained_rows_total", "Rows committed from the spool.", ["table"], registry=registry)
        self.spool_waiting = Gauge(
            "shopgraph_spool_waiting_rows",
            "Rows that were accepted and are not in the tables yet.",
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.spool_oldest = Gauge(
            "shopgraph_spool_oldest_seconds",
            "How long the oldest of them waits.",
            multiprocess_mode="mostrecent",
            registry=registry,
        )

    def text(self) -> bytes:
        """The exposition format."""
        if self.folder is None:
            return generate_latest(self.registry)
        for path in self.folder.glob(_LIVE_FILES):
            if _is_left_behind(path):
                path.unlink(missing_ok=True)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _is_left_behind(path: Path) -> bool:
    """Whether the process that wrote this file is gone; its number may be another's by now."""
    with suppress(psutil.NoSuchProcess, FileNotFoundError):
        began: float = psutil.Process(int(path.stem.rpartition("_")[2])).create_time()
        return began > path.stat().st_mtime
    return True
