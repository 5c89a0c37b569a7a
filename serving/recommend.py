"""`shopgraph recommend`: what the recommend graph answers with any registered model version, in this process, without a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from features.shop import Shop
from infra import clock
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from serving.compiling import compile_graph, newest
from serving.loading import Loader
from serving.problems import Problem
from serving.schemas import RecommendRequest
from training.tracking import Tracking


@dataclass(frozen=True)
class Asked:
    """Who is asked for: a user, a visitor, or nobody but items: for `for_you` those of a session, oldest first, for `buy_again` those
    bought in it, for `bought_together` those of a basket, for `similar` one."""

    user_id: str | None = None
    visitor_id: str | None = None
    items: tuple[str, ...] = ()
    placement: str = "for_you"

    def request(self, k: int, kind: str) -> RecommendRequest:
        """The request that `POST /v1/recommend` would take; `kind` is what a bare item of a session stands for.

        Raises:
            pydantic.ValidationError: an id, the placement or `k` is outside what the API takes, or the placement lacks its items.
        """
        body: dict[str, Any] = {"user_id": self.user_id, "visitor_id": self.visitor_id, "placement": self.placement, "k": k}
        if self.placement == "similar":
            body["item_id"] = self.items[0] if len(self.items) == 1 else None
        elif self.placement == "bought_together":
            body["basket"] = list(self.items)
        else:
            kind = "purchase" if self.placement == "buy_again" else kind
            body["session"] = [{"item_id": item, "event_type": kind} for item in self.items]
        return RecommendRequest.model_validate({**body, "explain": True})


def recommend(settings: Settings, asked: Asked, k: int, model: str | None = None) -> dict[str, Any]:
    """The list that `POST /v1/recommend` gives where this model version is released, with the reasons of each item.

    Args:
        model: number, alias or run id of a version of `recommender`; None: the newest. Beside it the newest `ranker`, where there is one.

    Returns:
        The answer as the API gives it, and `catalogue`, how many items it was chosen from.

    Raises:
        ModelNotFoundError: there is no such version.
        EngineError: MLflow does not answer and cannot be started.
        pydantic.ValidationError: see `Asked.request`.
    """
    asked.request(k, "view")  # what cannot be asked is told before anything is loaded
    home = Home(settings)
    shop = Shop.load(home, settings.shop)
    lake = Lake.open(settings, shop.name)
    tracking = Tracking(settings, shop.name)
    models = newest(shop, "recommend", lambda name: tracking.fetch(name, model if name == "recommender" else None))
    at = clock.now(settings.now or shop.now, lake)
    manifest = compile_graph(home, shop, "recommend", models)
    graph = Loader(settings, shop, lake).load(manifest, at)
    assert graph.catalogue is not None
    encoder = graph.catalogue.now.model.encoder
    commonest = encoder.event_types[0]  # the commonest kind of act
    (content,) = graph.answer([asked.request(k, commonest)], at)
    assert not isinstance(content, Problem)  # only a forecast is refused there
    return {
        **content,
        "as_of": at.isoformat(),
        "graph_version": manifest.version,
        "model_versions": {name: str(pin.version) for name, pin in manifest.models.items()},
        "catalogue": len(encoder.items),
    }
