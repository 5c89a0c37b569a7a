"""A small real shop for the serving tests: hand-written tables in a lake, real online rows, three small real models, releases."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch

from features.fresh.intake import Intake
from features.online.rows import open_rows
from features.shop import Shop
from features.store import FeatureStore
from features.tables import FEATURE_TABLES
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from serving.access import Access
from serving.compiling import compile_graph
from serving.gateway import Gateway
from serving.graph import Manifest, Product
from serving.inbox import Inbox
from serving.keys import Keys
from serving.live import LiveGraphs, ShopClock
from serving.loading import Loader
from serving.metrics import Metrics
from serving.releases import Releases
from serving.request_log import RequestLog
from training.demand import encoder as demand_encoder
from training.demand import model as demand
from training.demand.panel import Panel
from training.ranker import encoder as ranker_encoder
from training.ranker import model as ranker
from training.ranker.candidates import SOURCES
from training.recommender.content import Vocabulary
from training.recommender.encoder import Encoder as HistoryEncoder
from training.recommender.model import Recommender
from training.recommender.network import Config as RecommenderConfig
from training.recommender.network import Network as RecommenderNetwork
from training.recommender.purchases import Purchases
from training.sentiment import encoder as sentiment_encoder
from training.sentiment import model as sentiment
from training.splits import in_order

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ITEMS = tuple(f"i{number}" for number in range(10))
"""i0-i4 are shoes at 10, 20, ... 50; i5-i8 are bags without a price; i9 is withdrawn. Even ones are of brand a, odd ones of brand b.

What was bought (see `purchases`): i0 with i5, often, and with i6, less often; i5 and i9 again each week, i6 by a few again each
month, i2 by many and by nobody again, i8 by nobody.
"""
CATALOGUE = Path(__file__).parent / "catalogue"
"""The catalogue of a recommender over ITEMS, and nothing else of one."""


@dataclass(frozen=True)
class Registered:
    """A model version as the registry gives it."""

    version: int
    digest: str
    run_id: str
    inputs: Mapping[str, int]
    folder: Path = CATALOGUE


@dataclass(frozen=True)
class ServedShop:
    """A shop with tables, online rows, kept models and a released graph per product."""

    settings: Settings
    shop: Shop
    lake: Lake
    manifests: dict[str, Manifest]

    @property
    def releases(self) -> Releases:
        return Releases(self.settings, self.shop.name)

    def live(self) -> LiveGraphs:
        """Graphs of this shop, not yet following the pointers."""
        mode = self.settings.now or self.shop.now
        metrics = Metrics()
        loader = Loader(self.settings, self.shop, self.lake, metrics)
        return LiveGraphs(self.releases, loader, ShopClock(mode, self.lake), metrics)

    def gateway(self) -> Gateway:
        """A gateway whose graphs are loaded."""
        live = self.live()
        live.poll()
        assert live.waiting == {}
        access = self.access(live)
        access.poll()
        return Gateway(live, self.inbox(live), self.requests(), access, live.metrics, max_body_bytes=100_000)

    def requests(self) -> RequestLog:
        """What logs requests, not yet writing."""
        return RequestLog(self.settings, self.lake)

    def access(self, live: LiveGraphs) -> Access:
        """What says who is let in, not yet following the keys."""
        return Access(Keys(self.settings, self.shop.name), self.settings, live.metrics)

    def inbox(self, live: LiveGraphs) -> Inbox:
        """What takes posted rows, not yet committing them to tables."""
        rows = open_rows(self.settings, self.shop.name)
        intake = Intake(self.settings, self.shop, self.lake, rows, live.clock.mode, live.clock.now)
        return Inbox(intake, live.clock, live.metrics)


Ask = Callable[..., httpx.Response]


def ask(
    gateway: Gateway, path: str, body: Any = None, method: str | None = None, client: str = "127.0.0.1", **more: Any
) -> httpx.Response:
    """One request to the ASGI application; POST with JSON if there is a body. `client`: the address it comes from."""

    async def send() -> httpx.Response:
        # As a server does, our own failures must become answers and not exceptions of the client.
        transport = httpx.ASGITransport(gateway, raise_app_exceptions=False, client=(client, 123))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as sender:
            patient = {"x-request-timeout-ms": "60000"}  # a busy machine is no reason for another answer
            usual = {} if body is not None else {"content-type": "application/json"}
            headers = {**patient, **more.pop("headers", usual)}
            content = {"headers": headers} if body is None else {"headers": headers, "json": body}
            return await sender.request(
                method or ("GET" if body is None and not more.get("content") else "POST"), path, **{**content, **more}
            )

    return asyncio.run(send())


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedShop:
    """The shop; tests must not change its tables or models."""
    settings = Settings.load(home=tmp_path_factory.mktemp("served") / "home")
    home = Home(settings).create()
    shop = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin", now=NOW.isoformat())
    home.shop("sample").mkdir()
    (home.shop("sample") / "shop.yaml").write_text(
        f"name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\nnow: '{NOW.isoformat()}'\n"
    )
    lake = Lake.open(settings)
    _write_tables(lake)
    store = FeatureStore(settings, shop, lake)
    store.apply()
    store.materialize()
    manifests = {}
    releases = Releases(settings, "sample")
    made: tuple[tuple[Product, str, Callable[[Path, int], None]], ...] = (
        ("recommend", "recommender", save_recommender),
        ("forecast", "demand", save_forecaster),
        ("sentiment", "sentiment", save_classifier),
    )
    for product, name, save in made:
        manifests[product] = compose(product, {name: keep(home, name, 1, save)})
        releases.release(releases.store(manifests[product]), who="test", why="first")
    return ServedShop(settings, shop, lake, manifests)


@pytest.fixture
def told_shop(served: ServedShop, tmp_path: Path) -> ServedShop:
    """The served shop in a home of its own, in which items may be told of."""
    home = tmp_path / "home"
    shutil.copytree(served.settings.home, home)
    settings = Settings.load(home=home)
    return replace(served, settings=settings, lake=Lake.open(settings, "sample"))


@pytest.fixture(scope="session")
def gateway(served: ServedShop) -> Gateway:
    return served.gateway()


@pytest.fixture
def post(gateway: Gateway) -> Ask:
    """Ask the gateway of the served shop."""
    return lambda path, body=None, method=None, **more: ask(gateway, path, body, method, **more)


def keep(home: Home, name: str, version: int, save: Callable[[Path, int], None]) -> Registered:
    """Put a model where this machine keeps registered versions."""
    digest = f"{version:02d}" * 32
    folder = home.model_folder(f"sample.{name}", version, digest)
    save(folder, version)
    return Registered(version, digest, f"run-{version}", {"features/interactions": 0}, folder)


def compose(product: Product, models: Mapping[str, Registered], name: str = "sample", **said: Any) -> Manifest:
    """The graph of a shop that says these things in its shop.yaml."""
    shop = Shop.model_validate({"name": name, "currency": "EUR", "time_zone": "Europe/Berlin", **said})
    return compile_graph(Home(Settings()), shop, product, models)


def save_recommender(folder: Path, seed: int, items: tuple[str, ...] = ITEMS) -> None:
    torch.manual_seed(seed)
    config = RecommenderConfig(dim=8, num_blocks=1, num_heads=1, max_length=10)
    popularity = tuple(float(value) for value in np.linspace(0.3, 0.01, len(items)))
    encoder = HistoryEncoder(items, ("view", "purchase"), popularity)
    vocabulary = Vocabulary(("brand=a", "brand=b"))
    network = RecommenderNetwork(config, len(items), 2, len(vocabulary))
    Recommender(config, encoder, network, vocabulary=vocabulary).save(folder)
    Purchases.learn(purchases(), encoder, "Europe/Berlin").save(folder)


def purchases() -> pa.Table:
    """Half a year of purchases up to the day before NOW, each day of a user one session."""
    days: dict[tuple[str, int], list[str]] = {}
    for user in range(40):
        for back in range(1 + user % 7, 180, 7):
            days[f"p{user}", back] = ["i9"] if user % 4 else ["i5"]
        days.setdefault((f"p{user}", 30 + user), []).extend(["i0", "i6" if user % 4 == 1 else "i5", "i2"])
        if user < 10:
            for back in range(1 + user, 180, 30):
                days.setdefault((f"p{user}", back), []).append("i6")
        days.setdefault((f"p{user}", 100 + user), []).extend(["i1", "i3"] if user < 3 else ["i1"])
    rows = [
        {"user_id": user, "item_id": item, "event_type": "purchase", "event_timestamp": NOW - back * DAY, "session_id": f"{user}-{back}"}
        for (user, back), items in days.items()
        for item in items
    ]  # fmt: skip
    return in_order(pa.Table.from_pylist(rows))


def save_ranker(folder: Path, seed: int) -> None:
    """One that learned nothing, so that every feature moves its chances."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)

    def drawn(rows: int, names: tuple[str, ...]) -> np.ndarray:  # type: ignore[type-arg]
        return np.where(rng.random((rows, len(names))) < 0.1, np.nan, rng.normal(size=(rows, len(names))))

    cross = ranker_encoder.cross_features(SOURCES)
    candidates = ranker_encoder.Candidates(
        drawn(50, ranker_encoder.USER_FEATURES),
        drawn(200, ranker_encoder.ITEM_FEATURES),
        drawn(200, cross),
        rng.choice(np.array(["bags", "shoes", None], dtype=object), 200),
        np.repeat(np.arange(50), 4),
    )
    encoder = ranker_encoder.Encoder.fit(candidates, SOURCES)
    config = ranker.Config(dim=8, dropout=0.0)
    network = ranker.Network(config, encoder, ranker.TASKS)
    torch.nn.init.normal_(network.direct.weight, std=0.1)
    ranker.Ranker(config, encoder, network, {"click": 1.0, "cart": 0.0, "purchase": 4.0}).save(folder)


def save_forecaster(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = demand.Config(
        encoder=demand_encoder.EncoderConfig(context_length=14, max_horizon=7), hidden_size=4, holiday_size=2, category_size=2
    )
    panel = Panel.from_table(pa.Table.from_pylist(_demand_rows()), dict.fromkeys(ITEMS, "shoes"))
    encoder = demand_encoder.Encoder.fit(config.encoder, panel, {date(2024, 5, 1): "Labour Day"})
    demand.Forecaster(config, encoder, demand.Network(config, encoder)).save(folder)


def save_classifier(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = sentiment.Config(
        encoder=sentiment_encoder.EncoderConfig(min_texts=1, min_piece_texts=1), dim=4, filters=4, widths=(1,)
    )
    texts = ["很好 good quality", "good and fast", "很差 bad quality", "bad and slow"]
    encoder = sentiment_encoder.Encoder.learn(texts, np.array([1, 1, 0, 0]), config.encoder)
    sentiment.SentimentClassifier(config, encoder, sentiment.Network(config, encoder.ratios, encoder.num_pieces)).save(folder)


def _write_tables(lake: Lake) -> None:
    _write(lake, "user_history", [
        {"user_id": "u1", "item_ids": ["i0", "i1"], "event_types": ["view", "purchase"]},
        {"user_id": "u2", "item_ids": ["i7"], "event_types": ["view"]},
        {"user_id": "visitor:v7", "item_ids": ["i7"], "event_types": ["view"]},
        {"user_id": "u_liked", "item_ids": ["i7", "i3"], "event_types": ["favourite", "favourite"]},
        {"user_id": "u_strange", "item_ids": ["never seen"], "event_types": ["view"]},
    ])  # fmt: skip
    weekly = [date(2024, 4, day).isoformat() for day in (9, 16, 23)]
    _write(lake, "user_purchases", [
        {"user_id": "u1", "purchase_item_ids": ["i9", "i5", "i5", "i2", "i5", "i9", "i6"],
         "purchase_dates": [weekly[0], *weekly[:2], weekly[1], weekly[2], weekly[2], "2024-04-29"]},
        {"user_id": "u_once", "purchase_item_ids": ["i2"], "purchase_dates": weekly[:1]},
        {"user_id": "visitor:v7", "purchase_item_ids": ["i5"], "purchase_dates": weekly[:1]},
    ])  # fmt: skip
    _write(lake, "item_catalog", [
        {"item_id": item, "category": "shoes" if number < 5 else "bags", "brand": "ab"[number % 2],
         "price": Decimal(10 * (number + 1)) if number < 5 else None, "created_at": NOW - (number + 1) * DAY,
         "withdrawn_at": NOW - DAY if item == "i9" else None}
        for number, item in enumerate(ITEMS)
    ])  # fmt: skip
    _write(lake, "item_activity", [
        {"item_id": "i0", "item_views_count_7d": 200, "item_views_count_90d": 3000},
        {"item_id": "i3", "item_views_count_7d": 20, "item_carts_count_7d": 10, "buyers_count_7d": 10, "item_views_count_90d": 30,
         "item_carts_count_90d": 10, "buyers_count_90d": 10},
        {"item_id": "i4", "item_views_count_7d": 1, "item_views_count_90d": 1},
        {"item_id": "i6", "item_views_count_7d": 90, "item_views_count_90d": 200},
        {"item_id": "i7", "item_views_count_7d": 1, "item_views_count_90d": 500},
        {"item_id": "i9", "item_views_count_7d": 999, "item_carts_count_7d": 9, "buyers_count_7d": 9, "item_views_count_90d": 999},
    ])  # fmt: skip
    _write(lake, "user_activity", [
        {"user_id": "u1", "item_views_count_7d": 12, "item_carts_count_90d": 3, "purchases_count_90d": 2,
         "order_value_sum_90d": Decimal("99.5"), "days_since_last_purchase": 2},
        {"user_id": "visitor:v7", "item_views_count_7d": 1},
    ])  # fmt: skip
    counts = {"active_days_count": 9, "purchase_days_count": 4, "purchase_days_count_365d": 4, "net_value_sum_365d": Decimal(80)}
    profile = {"user_id": "u1", **counts, "interests": ["shoes"], "stage": "active", "tags": [], "main_category": "shoes",
               "price_mean_365d": 20.0, "first_seen_at": NOW - 90 * DAY, "recency_score": 5}  # fmt: skip
    tomorrow = {"event_timestamp": NOW + DAY, "price_mean_365d": 9000.0}
    _write(lake, "user_profile", [profile, {**profile, **tomorrow}])
    _write(lake, "user_category_affinity", [
        {"user_id": "u1", "category": "shoes", "interactions_count_30d": 7, "affinity_share_30d": 0.7},
        {"user_id": "visitor:v7", "category": "bags", "interactions_count_30d": 1, "affinity_share_30d": 1.0},
    ])  # fmt: skip
    _write(lake, "daily_demand", _demand_rows())


def _demand_rows() -> list[dict[str, Any]]:
    """Thirty days of i0, i1 and i9, ending the day before NOW."""
    rows = []
    for number, item in enumerate(("i0", "i1", "i9")):
        for back in range(30, 0, -1):
            ds = NOW.date() - timedelta(days=back)
            rows.append(
                {
                    "item_id": item, "ds": ds, "units_sum": 2 + number + ds.weekday() % 2, "returned_units_sum": 0,
                    "price_mean": 10.0, "promotion_depth": 0.0, "is_promotion": False, "holiday": None, "is_open": True,
                    "is_stock_out": False, "event_timestamp": datetime(ds.year, ds.month, ds.day, 22, tzinfo=UTC),
                }
            )  # fmt: skip
    return rows


def _write(lake: Lake, name: str, rows: list[dict[str, Any]]) -> None:
    table = FEATURE_TABLES[name]
    rows = [{"event_timestamp": NOW - DAY, **row} for row in rows]
    rows = [{"created_timestamp": row["event_timestamp"], **row} for row in rows]
    lake.write(table.path, pa.Table.from_pylist(rows, schema=table.schema), "overwrite", digest=name, read_version=None)
