"""The nodes of our recommend graph as anybody would put them on Ray Serve: a deployment each, behind an ingress and the default proxy.

Run by bench_serving in a process of its own: `python serve_nodes.py PORT REPLICAS`; the home comes from the settings.
"""

from __future__ import annotations

import sys
import threading
from datetime import datetime
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from serving.schemas import RecommendRequest

api = FastAPI()


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class NodeDeployment:
    """One node of the released graph."""

    def __init__(self, name: str) -> None:
        from features.shop import Shop
        from infra.home import Home
        from infra.lake import Lake
        from infra.settings import Settings
        from serving.live import ShopClock
        from serving.loading import Loader
        from serving.releases import Releases

        settings = Settings.load()
        shop = Shop.load(Home(settings), settings.shop)
        lake = Lake.open(settings, shop.name)
        releases = Releases(settings, shop.name)
        clock = ShopClock(settings.now or shop.now, lake)
        manifest = releases.manifest(releases.current()["recommend"].stable)
        self.node = Loader(settings, shop, lake).load(manifest, clock.now()).nodes[name]
        self.at: datetime = clock.now()

    def run(self, request: RecommendRequest, *read: Any) -> Any:
        return self.node.run([request], self.at, *[[value] for value in read])[0]


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0})
@serve.ingress(api)
class Ingress:
    """Asks the nodes one after the other."""

    def __init__(self, nodes: dict[str, Any]) -> None:
        self.nodes = nodes

    @api.post("/v1/recommend")
    async def recommend(self, request: RecommendRequest) -> dict[str, Any]:
        nodes = self.nodes
        history = await nodes["user_history"].run.remote(request)
        purchases = await nodes["user_purchases"].run.remote(request)
        retrieved = await nodes["retrieval"].run.remote(request, history, purchases)
        ranked = await nodes["ranking"].run.remote(request, history, retrieved)
        content: dict[str, Any] = await nodes["rules"].run.remote(request, ranked)
        return content


def main() -> None:
    """Serve until somebody ends this process."""
    port, replicas = int(sys.argv[1]), int(sys.argv[2])
    ray.init(include_dashboard=False, log_to_driver=False, _metrics_export_port=0)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    names = ("user_history", "user_purchases", "retrieval", "ranking", "rules")
    nodes = {name: NodeDeployment.options(name=name, num_replicas=replicas).bind(name) for name in names}  # type: ignore[attr-defined]
    serve.run(Ingress.options(num_replicas=replicas).bind(nodes), route_prefix="/")  # type: ignore[attr-defined]
    threading.Event().wait()


if __name__ == "__main__":
    main()
