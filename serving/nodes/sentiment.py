"""Model node: what each text feels like."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

from serving.edges import Content, reasons_of
from serving.nodes.node import Node, NodeSettings
from serving.parts import Parts
from serving.problems import invalid
from serving.schemas import SentimentRequest
from training.sentiment.model import SentimentClassifier


class Sentiment(Node):
    """The sentiment model."""

    gives = Content
    models = ("sentiment",)

    def __init__(self, model: SentimentClassifier, most_texts: int) -> None:
        self.model = model
        self.most_texts = most_texts

    @classmethod
    def open(cls, settings: NodeSettings, parts: Parts) -> Self:  # noqa: ARG003
        """The model, used once."""
        parts.classifier.classify(["ok"])
        return cls(parts.classifier, parts.limits.texts)

    def check(self, request: SentimentRequest) -> None:
        """Refuse more texts than the graph takes (raises Problem)."""
        if len(request.texts) > self.most_texts:
            raise invalid("/texts", f"this graph takes at most {self.most_texts} texts in one request")

    def run(self, requests: Sequence[SentimentRequest], at: datetime, *_: Sequence[Any]) -> list[Content]:  # noqa: ARG002
        """One result per text, in order; all texts of the batch share one pass."""
        every = iter(self.model.classify([text for request in requests for text in request.texts]))
        answers: list[Content] = []
        for request in requests:
            results = [next(every) for _ in request.texts]
            answers.append({"results": results, "degraded": reasons_of(results)})
        return answers
