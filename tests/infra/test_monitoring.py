"""Alerts, their pages and the dashboard: every query parses and asks for what is counted, every alert has a page of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from serving.metrics import Metrics
from tests.commands import blocks

ROOT = Path(__file__).parent.parent.parent
MONITORING, PAGES = ROOT / "infra" / "monitoring", ROOT / "docs" / "runbook"
SCRAPED = {"up": {"job", "instance"}}
"""What Prometheus itself says of a target: name -> labels."""
PARTS = ("What the shopper sees", "What to look at", "What helps", "Undo")

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES = [
    *((rule["alert"], rule["expr"]) for rule in RULES),
    *((f"{panel['title']} {target['refId']}", target["expr"]) for panel in PANELS for target in panel.get("targets", [])),
    *((one["name"], one["expr"]) for one in DASHBOARD["annotations"]["list"]),
]


def counted() -> dict[str, set[str]]:
    """Series -> its labels, of everything that a gateway counts and of Prometheus itself."""
    found = dict(SCRAPED)
    for family in Metrics().registry.collect():
        collector: Any = Metrics().registry._names_to_collectors[family.name]
        labels = {*collector._labelnames, "job", "instance"}
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        found |= {f"{family.name}{suffix}": labels | ({"le"} if suffix == "_bucket" else set()) for suffix in suffixes}
    return found


def selectors(query: str) -> Iterator[Any]:
    """Every selector of a query."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(query), lambda node: found.append(node) if hasattr(node, "matchers") else None)
    yield from found


def unknown(query: str) -> list[str]:
    """What a query asks for that nobody counts."""
    series, found = counted(), []
    for selector in selectors(query):
        labels = series.get(selector.name)
        if labels is None:
            found.append(selector.name)
        else:
            found += [f"{selector.name}{{{one.name}}}" for one in selector.matchers.matchers if one.name not in labels]
    return found


@pytest.mark.parametrize("query", [query for _, query in QUERIES], ids=[name for name, _ in QUERIES])
def test_a_query_parses_and_asks_for_what_is_counted(query: str) -> None:
    query = query.replace("$__rate_interval", "5m")  # Grafana's
    assert list(selectors(query)), "asks for nothing"
    assert unknown(query) == []


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("shopgraph_request_second_count > 1", ["shopgraph_request_second_count"]),
        ('rate(shopgraph_request_seconds_count{code="500"}[5m])', ["shopgraph_request_seconds_count{code}"]),
        ("shopgraph_degraded", ["shopgraph_degraded"]),
        ("shopgraph_ready_total", ["shopgraph_ready_total"]),
    ],
)
def test_a_query_for_what_nobody_counts_is_found(query: str, told: list[str]) -> None:
    assert unknown(query) == told


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    assert {page.stem for page in PAGES.glob("*.md")} == set(names)
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/runbook/{rule['alert']}.md"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["for"]


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_says_what_is_seen_what_to_look_at_what_helps_and_how_to_undo_it(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert lines[0] == f"# {page.stem}"
    assert tuple(line[3:] for line in lines if line.startswith("## ")) == PARTS
    for query in blocks(page.read_text(), "promql"):
        assert unknown(query) == []


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    assert DASHBOARD["schemaVersion"] == 39
    assert (DASHBOARD["uid"], DASHBOARD["id"]) == ("shopgraph", None)
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["targets"]
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(references) == len(set(references))
        assert all(panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for _ in references)
    squares = [(x, y) for panel in PANELS for x, y in _squares(panel["gridPos"])]
    assert len(squares) == len(set(squares)), "panels lie over each other"


def _squares(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    return ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"]))


def test_prometheus_reads_the_alerts_and_scrapes_the_api_under_the_name_they_ask_for() -> None:
    told = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    assert told["rule_files"] == ["alerts.yaml"]
    (scrape,) = told["scrape_configs"]
    assert scrape["job_name"] == "shopgraph"
    assert scrape.get("metrics_path", "/metrics") == "/metrics"
