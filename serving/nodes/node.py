"""What every node of a graph is: a function of a batch of requests and of what the nodes before it made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from serving.parts import Parts


class NodeSettings(BaseModel):
    """What a graph may say of a node, beside its wiring; part of the manifest. Each kind has its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Node(ABC):
    """One node of a loaded graph. `run` may be called by several threads."""

    reads: ClassVar[tuple[type, ...]] = ()
    """What it takes beside the requests: values of these types, from the nodes that the graph names in the same order."""
    gives: ClassVar[type]
    models: ClassVar[tuple[str, ...]] = ()
    """Registered models it is made of."""
    services: ClassVar[tuple[str, ...]] = ()
    """Feature services it reads."""
    Settings: ClassVar[type[NodeSettings]] = NodeSettings
    max_batch: ClassVar[int] = 32
    """Most requests that one call takes: where they share no work, each would only wait for the last."""
    is_quick: ClassVar[bool] = False
    """Whether `run` asks memory alone and takes well below a millisecond, so that an answer that is late need not go without it."""
    stand_in: ClassVar[str | None] = None
    """What an answer says in `degraded` where `without` stood in for the node; None: there is no answer without it."""

    @classmethod
    @abstractmethod
    def open(cls, settings: Any, parts: Parts) -> Self:
        """The node, ready to run; its models are used once, so that no request pays for the first use."""

    @abstractmethod
    def run(self, requests: Sequence[Any], at: datetime, *read: Sequence[Any]) -> list[Any]:
        """One value per request, or the Problem of that request.

        Args:
            at: the present instant.
            read: per node it reads, one value per request.
        """

    def without(self, requests: Sequence[Any], at: datetime, *read: Sequence[Any]) -> list[Any]:
        """What stands in for `run` where it fails or takes too long: from memory alone, for it is called on the event loop."""
        raise NotImplementedError(type(self).__name__)

    def check(self, request: Any) -> None:  # noqa: B027  # most graphs have one node that has limits
        """Refuse, before it waits for anything, a request beyond the graph's limits (raises Problem)."""
