"""Graph versions in MLflow's UI, where reviewers compare models: a copy, which nothing reads."""

from __future__ import annotations

from infra import log
from infra.errors import EngineError
from serving.graph import Manifest
from serving.graph_views import flat, mermaid
from serving.releases import Release
from training.tracking import Tracking


def keep(tracking: Tracking, manifest: Manifest) -> None:
    """Show a graph version.

    Raises:
        EngineError: MLflow does not answer.
    """
    files = {"manifest.json": manifest.model_dump_json(indent=2), "graph.mmd": mermaid(manifest)}
    tracking.keep_graph(manifest.product, manifest.version, files, flat(manifest))


def mirror(tracking: Tracking, product: str, release: Release) -> None:
    """Show what answers, where MLflow runs. No release waits for it, or fails by it."""
    candidate = release.candidate.version if release.candidate else None
    try:
        tracking.mirror_graph(product, {"stable": release.stable, "candidate": candidate})
    except EngineError as error:
        log.get(__name__).warning("MLflow does not show the release", product=product, error=str(error))
