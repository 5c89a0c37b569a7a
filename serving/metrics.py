"""What the gateway counts, in Prometheus' terms: base units, few labels, never a user or an item."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


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
            ["product", "status"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.degraded = Counter(
            "shopgraph_degraded_total", "Answers that left something out.", ["product", "reason"], registry=registry
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
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)
