"""The three graphs, fused: each holds its nodes in one process and answers a batch of requests without a hop.

An answer here is the product's own part; the gateway adds what every answer says (see serving/schemas.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar
from zoneinfo import ZoneInfo

from serving.graph import Manifest
from serving.nodes.daily_demand import DailyDemand
from serving.nodes.item_rules import ItemRules
from serving.nodes.item_tables import ItemTables
from serving.nodes.ranker import Ranking
from serving.nodes.user_history import UserHistory
from serving.nodes.user_purchases import UserPurchases
from serving.placements import Ask, Placements
from serving.problems import Problem, invalid
from serving.schemas import ForecastRequest, RecommendRequest, SentimentRequest
from training.demand.model import Forecaster
from training.recommender.content import Row
from training.recommender.model import Recommender
from training.recommender.purchases import Purchases
from training.sentiment.model import SentimentClassifier

Content = dict[str, Any]
R = TypeVar("R", contravariant=True)


class Graph(Protocol[R]):
    """A loaded graph version."""

    manifest: Manifest
    max_batch: int
    """Most requests that one call answers: where they share no work, each would only wait for the last."""

    def check(self, request: R) -> None:
        """Refuse, before it waits for anything, a request beyond the graph's limits (raises Problem)."""

    def answer(self, requests: Sequence[R], at: datetime) -> list[Content | Problem]:
        """Answer a batch; one content, or the problem of that request, each."""

    def refresh(self, at: datetime) -> None:
        """Read anew what the graph keeps in memory; called off the request path."""

    def tell(self, at: datetime) -> None:
        """Take up what was told of items meanwhile; called off the request path."""


class Recommend:
    """user_history -> recommender -> item_rules -> ranker, where there is one, and user_purchases beside the history."""

    max_batch = 32

    def __init__(
        self,
        manifest: Manifest,
        history: UserHistory,
        bought: UserPurchases,
        model: Recommender,
        purchases: Purchases,
        rules: ItemRules,
        ranking: Ranking | None = None,
    ) -> None:
        self.manifest = manifest
        self.history = history
        self.bought = bought
        self.learned = model, purchases
        """Both halves of the model version over the items they learned from."""
        self.placements = Placements(model, purchases, rules, manifest.weights, ranking)
        self._listed: dict[str, Row] = {}

    @property
    def model(self) -> Recommender:
        """The model over the items that can be recommended now."""
        return self.placements.model

    @property
    def rules(self) -> ItemRules:
        """The rules over the same items."""
        return self.placements.rules

    def check(self, request: RecommendRequest) -> None:
        """Refuse a list longer than the graph gives (raises Problem)."""
        if any(asked.k > self.manifest.limits.k for asked in request.lists):
            raise invalid("/k", f"this graph gives at most {self.manifest.limits.k} items")

    def refresh(self, at: datetime) -> None:
        """Read the item facts as of `at`; items that were listed since the model learned join its catalogue."""
        tables = ItemTables.read(self.history.store, at)
        if not self.list_new(tables):
            self.rules.refresh(tables)
            if self.placements.ranking:
                self.placements.ranking.refresh(tables)

    def list_new(self, tables: ItemTables) -> bool:
        """Whether what is listed beyond the items of the model has changed; then the catalogue is made anew, with its facts."""
        learned, purchases = self.learned
        listed = self.rules.listed(learned.encoder.items, tables)
        if listed == self._listed:
            return False
        model = learned.with_items(listed)
        items = model.encoder.items
        rules = self.rules.over(items, tables)
        ranking = self.placements.ranking.over(rules, tables) if self.placements.ranking else None
        self.placements = Placements(model, purchases.resized(len(items)), rules, self.manifest.weights, ranking)
        self._listed = listed
        return True

    def tell(self, at: datetime) -> None:
        """Put what was told of items over the facts."""
        self.rules.tell(at)

    def answer(self, requests: Sequence[RecommendRequest], at: datetime) -> list[Content | Problem]:
        """The lists of each request. Of several the first chooses first: what it shows, no later one shows again."""
        placements = self.placements  # taken once: a refresh puts others in its place meanwhile
        histories, bought = self.history.read(requests, at), self.bought.read(requests, at)
        shown = [set(request.exclude) for request in requests]
        lists: list[list[Content]] = [[] for _ in requests]
        for turn in range(max((len(request.lists) for request in requests), default=0)):
            rows = [row for row, request in enumerate(requests) if turn < len(request.lists)]
            asks = [
                Ask(requests[row], requests[row].lists[turn], histories[row], bought[row], frozenset(shown[row])) for row in rows
            ]
            for row, content in zip(rows, placements.fill(asks, at, self.bought.today(at)), strict=True):
                lists[row].append(content)
                shown[row].update(item["item_id"] for item in content["items"])
        return [_whole(request, found) for request, found in zip(requests, lists, strict=True)]


def _whole(request: RecommendRequest, lists: Sequence[Content]) -> Content:
    """What a request is told: its one list; of several the first, so that who reads one list finds it, and all beside it."""
    content = {name: value for name, value in lists[0].items() if name != "placement"}
    if request.placements is None:
        return content
    return {**content, "degraded": _reasons(lists), "lists": list(lists)}


class Forecast:
    """daily_demand, item_catalog -> demand."""

    max_batch = 1  # each request has its own calendar ahead, and reading its days costs most

    def __init__(self, manifest: Manifest, demand: DailyDemand, model: Forecaster, zone: ZoneInfo) -> None:
        self.manifest = manifest
        self.demand = demand
        self.model = model
        self.zone = zone

    def check(self, request: ForecastRequest) -> None:
        """Refuse more days ahead or more series than the graph takes (raises Problem)."""
        most = min(self.manifest.limits.horizon, self.model.max_horizon)
        if request.horizon > most:
            raise invalid("/horizon", f"this graph looks at most {most} days ahead")
        if len(request.series) > self.manifest.limits.series:
            raise invalid("/series", f"this graph takes at most {self.manifest.limits.series} series in one request")

    def refresh(self, at: datetime) -> None:
        """Nothing is kept in memory."""

    def tell(self, at: datetime) -> None:
        """Nothing is kept in memory."""

    def answer(self, requests: Sequence[ForecastRequest], at: datetime) -> list[Content | Problem]:
        """Units per series and day, from the local day of `at` on.

        A request whose quantiles or plans the model refuses gets a Problem.
        """
        return [self._answer(request, at) for request in requests]

    def _answer(self, request: ForecastRequest, at: datetime) -> Content | Problem:
        ids = [series.item_id for series in request.series]
        start = at.astimezone(self.zone).date()
        context = self.demand.read(ids, start, at)
        planned = [request.future[item].model_dump(exclude_none=True) if item in request.future else {} for item in ids]
        try:
            forecasts = self.model.forecast(context.series, planned, request.horizon, request.quantiles, start)
        except ValueError as error:  # the model's own bounds, such as the outermost quantile it was trained on
            return Problem("invalid-request", f"{error}.")
        series = [
            {
                "item_id": item,
                "ds": list(forecast.days),
                "mean": forecast.mean.tolist(),
                "quantiles": {str(level): values.tolist() for level, values in forecast.quantiles.items()},
                "filled": list(forecast.filled),
                "degraded": [*degraded, "stale_history"] if forecast.is_stale else degraded,
            }
            for item, degraded, forecast in zip(ids, context.degraded, forecasts, strict=True)
        ]
        return {"series": series, "degraded": _reasons(series)}


class Sentiment:
    """One model node."""

    max_batch = 32

    def __init__(self, manifest: Manifest, model: SentimentClassifier) -> None:
        self.manifest = manifest
        self.model = model

    def check(self, request: SentimentRequest) -> None:
        """Refuse more texts than the graph takes (raises Problem)."""
        if len(request.texts) > self.manifest.limits.texts:
            raise invalid("/texts", f"this graph takes at most {self.manifest.limits.texts} texts in one request")

    def refresh(self, at: datetime) -> None:
        """Nothing is kept in memory."""

    def tell(self, at: datetime) -> None:
        """Nothing is kept in memory."""

    def answer(self, requests: Sequence[SentimentRequest], at: datetime) -> list[Content | Problem]:  # noqa: ARG002
        """One result per text, in order; all texts of the batch share one pass."""
        every = iter(self.model.classify([text for request in requests for text in request.texts]))
        answers: list[Content | Problem] = []
        for request in requests:
            results = [next(every) for _ in request.texts]
            answers.append({"results": results, "degraded": _reasons(results)})
        return answers


def _reasons(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What could not be used for at least one part of the answer."""
    return sorted({reason for part in parts for reason in part["degraded"]})
