"""Every kind of node that a graph may be made of, by the name that a graph gives it."""

from __future__ import annotations

from serving.nodes.daily_demand import DailyDemand
from serving.nodes.demand import Demand
from serving.nodes.node import Node
from serving.nodes.ranking import Ranking
from serving.nodes.reasons import Reasons
from serving.nodes.retrieval import Retrieval
from serving.nodes.rules import Rules
from serving.nodes.sentiment import Sentiment
from serving.nodes.user_history import UserHistory
from serving.nodes.user_purchases import UserPurchases

KINDS: dict[str, type[Node]] = {
    "user_history": UserHistory,
    "user_purchases": UserPurchases,
    "retrieval": Retrieval,
    "ranking": Ranking,
    "rules": Rules,
    "reasons": Reasons,
    "daily_demand": DailyDemand,
    "demand": Demand,
    "sentiment": Sentiment,
}
