"""`shopgraph recommend`: what the recommend graph answers with any registered model version, in this process, without a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from features.shop import Shop
from infra import clock
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from serving.graph import compose
from serving.loading import Loader
from serving.problems import Problem
from serving.products import Recommend
from serving.schemas import RecommendRequest, SessionEvent
from training.tracking import Tracking


@dataclass(frozen=True)
class Asked:
    """Who is asked for: a user, a visitor, or nobody but the items of a session, oldest first."""

    user_id: str | None = None
    visitor_id: str | None = None
    items: tuple[str, ...] = ()


def recommend(settings: Settings, asked: Asked, k: int, model: str | None = None) -> dict[str, Any]:
    """The list that `POST /v1/recommend` gives where this model version is released, with the reasons of each item.

    Args:
        model: number, alias or run id of a version of `recommender`; None: the newest.

    Returns:
        The answer as the API gives it, and `catalogue`, how many items it was chosen from.

    Raises:
        ModelNotFoundError: there is no such version.
        EngineError: MLflow does not answer and cannot be started.
        pydantic.ValidationError: an id or `k` is outside what the API takes.
    """
    shop = Shop.load(Home(settings), settings.shop)
    lake = Lake.open(settings, shop.name)
    saved = Tracking(settings, shop.name).fetch("recommender", model)
    at = clock.now(settings.now or shop.now, lake)
    graph = Loader(settings, shop, lake).load(compose(shop.name, "recommend", {"recommender": saved}), at)
    assert isinstance(graph, Recommend)
    kind = graph.model.encoder.event_types[0]  # the commonest kind of act: what a bare item stands for
    session = [SessionEvent.model_validate({"item_id": item, "event_type": kind}) for item in asked.items]
    request = RecommendRequest(user_id=asked.user_id, visitor_id=asked.visitor_id, session=session, k=k, explain=True)
    (content,) = graph.answer([request], at)
    assert not isinstance(content, Problem)  # only a forecast is refused there
    return {
        **content,
        "as_of": at.isoformat(),
        "graph_version": graph.manifest.version,
        "model_versions": {"recommender": str(saved.version)},
        "catalogue": len(graph.model.encoder.items),
    }
