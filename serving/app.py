"""The gateway as a Ray Serve deployment; Serve imports `build` by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import serve

from features.shop import Shop
from infra import log
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings

NAME = "gateway"
MAX_ONGOING_REQUESTS = 1024


def gateway(metrics_folder: str) -> Any:
    """The ASGI application of this replica, from the replica's own settings."""
    from features.fresh.intake import Intake
    from features.online.rows import open_rows
    from serving.access import Access
    from serving.gateway import Gateway
    from serving.inbox import Inbox
    from serving.keys import Keys
    from serving.live import LiveGraphs, ShopClock
    from serving.loading import Loader
    from serving.metrics import Metrics
    from serving.releases import Releases
    from serving.request_log import RequestLog

    settings = Settings.load()
    log.set_up(settings.log_level, settings.log_json)
    shop = Shop.load(Home(settings), settings.shop)
    lake = Lake.open(settings, shop.name)
    metrics = Metrics(Path(metrics_folder))
    shop_clock = ShopClock(settings.now or shop.now, lake)
    live = LiveGraphs(Releases(settings, shop.name), Loader(settings, shop, lake, metrics), shop_clock, metrics)
    inbox = Inbox(
        Intake(settings, shop, lake, open_rows(settings, shop.name), shop_clock.mode, shop_clock.now), shop_clock, metrics
    )
    requests = RequestLog(settings, lake, metrics)
    access = Access(Keys(settings, shop.name), settings, metrics)
    return Gateway(live, inbox, requests, access, metrics, settings.http_max_body_bytes, echoes_request_id=False)


@serve.deployment(name=NAME, max_ongoing_requests=MAX_ONGOING_REQUESTS, max_surge_percent=100, ray_actor_options={"num_cpus": 0.1})
@serve.ingress()
class GatewayDeployment:
    """One replica."""

    def __init__(self, metrics_folder: str) -> None:
        self.metrics_folder = metrics_folder

    def __serve_build_asgi_app__(self) -> Any:
        return gateway(self.metrics_folder)


def build(arguments: dict[str, str]) -> serve.Application:
    """The Serve application; `arguments` come from `shopgraph up`."""
    return GatewayDeployment.bind(**arguments)  # type: ignore[attr-defined]  # the decorator makes a Deployment of it
