"""The contract of one event and of one item as a running shop tells them, and what becomes of each row of a request.

Good rows become raw rows, a bad one is kept with the reason, and neither changes what becomes of the other. The reasons are those of
`shopgraph ingest` wherever it has the same rule.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any, Generic, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from features.columns import EVENT_TIMESTAMP, EVENT_TYPES, ITEM_EVENT_TYPES, ITEM_ID
from features.online.packing import to_microseconds
from features.tables import EVENTS, INVENTORY, ITEMS, MONEY_BELOW, UNITS_BELOW

AHEAD = timedelta(minutes=5)
"""How far a shop's clock may run before ours."""
MAX_ROWS = 1_000
"""Events or items of one request."""
MAX_TEXT_CHARS = 2_000
_MAX_SOURCE_BYTES = 4_000
"""What is kept of a row in quarantine."""
_CENTS = Decimal("0.0001")
_WHOLE_ID = re.compile(r"(-?\d+)\.0+")
_INT64 = 1 << 63


def _instant(value: datetime) -> datetime:
    """The instant in UTC, which is also the zone of a time that names none."""
    try:
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("outside the years 1 to 9999") from None


Id = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_TEXT_CHARS)]
Money = Annotated[Decimal, Field(ge=0, lt=MONEY_BELOW, allow_inf_nan=False)]
Instant = Annotated[datetime, AfterValidator(_instant)]
Whole = Annotated[int, Field(ge=-_INT64, lt=_INT64)]
Count = Annotated[int, Field(ge=0, lt=_INT64)]
Units = Annotated[int, Field(ge=0, lt=UNITS_BELOW)]


class Fact(BaseModel):
    """Base of what is told: a wrong type is refused, an unknown field is a mistake that is named."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Event(Fact):
    """One thing that somebody did. One of user_id, visitor_id and session_id is needed."""

    event_id: Id = Field(description="Sent again with the same content it counts once; with other content it is a correction.")
    user_id: Id | None = None
    visitor_id: Id | None = Field(None, description="The browser or device; a login joins it to the user from then on.")
    session_id: Id | None = None
    item_id: Id | None = Field(None, description=f"Needed for {', '.join(ITEM_EVENT_TYPES)}.")
    event_type: str = Field(description=f"One of {', '.join(EVENT_TYPES)}.")
    event_timestamp: Instant = Field(description="When, UTC where it names no zone; at most 5 minutes ahead of the shop's clock.")
    price: Money | None = Field(None, description="Unit price, in the shop's currency.")
    quantity: Units | None = Field(None, description="Units; what a return brings back, too.")
    channel: Text | None = Field(None, description="web, app, store ...")
    query: Text | None = Field(None, description="What was searched for.")
    list_id: Text | None = Field(None, description="The answer of ours that showed the item.")
    position: Count | None = Field(None, description="Its place in that list, from 0.")


class Item(Fact):
    """What changed about one item. A field that is left out stays as it was; null says that nothing is known."""

    item_id: Id
    event_timestamp: Instant | None = Field(
        None, description="Since when, UTC where it names no zone; not before what was told of the item already. Default: now."
    )
    parent_item_id: Id | None = Field(None, description="The item this is a variant of.")
    title: Text | None = None
    category: Id | None = None
    brand: Id | None = None
    price: Money | None = Field(None, description="List price, in the shop's currency.")
    cost: Money | None = Field(None, description="Cost of goods, in the shop's currency.")
    created_at: Instant | None = Field(None, description="First on sale.")
    withdrawn_at: Instant | None = Field(None, description="Last on sale; null: it is on sale again.")
    image: Text | None = Field(None, description="Path or address of the picture.")
    on_hand: Whole | None = Field(None, description="Units that can be sold.")
    on_order: Whole | None = Field(None, description="Units ordered from the supplier; counts only beside on_hand.")
    location_id: Id | None = Field(None, description="Where the stock lies.")


Row = Mapping[str, Any]
"""A raw row as JSON holds it: times as microseconds UTC, money as text."""


@dataclass(frozen=True)
class Told:
    """One row to be kept: for which table, of which identity.

    `instant` is its event time where that belongs to the identity (None: when it is kept), else 0. `is_patch`: what the row does
    not say stays as it was. `place` is its number in the request.
    """

    path: str
    key: str
    instant: int | None
    row: Row
    place: int
    is_patch: bool = False


@dataclass(frozen=True)
class Refused:
    """One row that goes to quarantine, with the reason."""

    path: str
    place: int
    reason: str
    source: str


@dataclass(frozen=True)
class Delivery:
    """What one request, or one batch of the stream, tells: its good rows and its bad ones."""

    source: str
    part: str
    rows: int
    told: Sequence[Told] = field(default_factory=list)
    refused: Sequence[Refused] = field(default_factory=list)


F = TypeVar("F", bound=Fact)


class Contract(Generic[F]):
    """Rows of one kind: `events` or `items`."""

    def __init__(self, path: str, model: type[F], rows: Callable[[F, int, datetime], Sequence[Told] | str]) -> None:
        self.path = path
        self._rows = rows
        self._many = TypeAdapter(list[model])  # type: ignore[valid-type]

    def read(self, rows: Sequence[Any], source: str, part: str, present: datetime) -> Delivery:
        """Tell good rows from bad ones.

        Args:
            rows: as JSON gives them.
            source, part: whence they come, for the quarantine.
            present: the shop's clock; what lies more than `AHEAD` after it is refused.
        """
        told: list[Told] = []
        facts, reasons = self._parse(rows)
        for place, fact in facts:
            found = self._rows(fact, place, present)
            if isinstance(found, str):
                reasons[place] = found
            else:
                told += found
        refused = [Refused(self.path, place, reason, _source(rows[place])) for place, reason in sorted(reasons.items())]
        return Delivery(source, part, len(rows), told, refused)

    def _parse(self, rows: Sequence[Any]) -> tuple[list[tuple[int, F]], dict[int, str]]:
        """The rows that fit the model with their places, and why each other one does not."""
        places, reasons = list(range(len(rows))), dict[int, str]()
        try:
            facts = self._many.validate_json(orjson.dumps(rows))
        except ValidationError as error:
            for one in error.errors(include_url=False, include_context=False, include_input=False):
                place, *path = one["loc"]
                reasons.setdefault(int(place), f"{'.'.join(str(part)[:200] for part in path) or 'row'}: {one['msg']}")
            places = [place for place in places if place not in reasons]
            facts = self._many.validate_json(orjson.dumps([rows[place] for place in places]))
        return list(zip(places, facts, strict=True)), reasons


def _event(event: Event, place: int, present: datetime) -> Sequence[Told] | str:
    """The raw row of the event, or why it is refused."""
    if event.event_type not in EVENT_TYPES:
        return "event_type: not one of ours"
    if event.event_type in ITEM_EVENT_TYPES and event.item_id is None:
        return "item_id: missing for an event that speaks of an item"
    if event.user_id is event.visitor_id is event.session_id is None:
        return "user_id, visitor_id, session_id: all missing"
    if event.event_timestamp > present + AHEAD:
        return f"{EVENT_TIMESTAMP}: in the future"
    if (event.quantity or 0) * (event.price or 0) >= MONEY_BELOW:
        return "quantity, price: their product is too large"
    row = {name: value for name, value in _row(event).items() if value is not None}
    return [Told(EVENTS.path, row["event_id"], 0, row, place)]


def _item(item: Item, place: int, present: datetime) -> Sequence[Told] | str:
    """The raw rows of what is said of the item, of `items`, of `inventory` or of both, or why it is refused."""
    if item.on_hand is None and (item.on_order is not None or item.location_id is not None):
        return "on_hand: missing beside on_order or location_id"
    if item.event_timestamp is not None and item.event_timestamp > present + AHEAD:
        return f"{EVENT_TIMESTAMP}: in the future"
    row = _row(item)
    item_id, instant = row.pop(ITEM_ID), row.pop(EVENT_TIMESTAMP, None)
    told = []
    if facts := {name: value for name, value in row.items() if name in ITEMS.names}:
        told.append(Told(ITEMS.path, item_id, instant, {ITEM_ID: item_id, **facts}, place, is_patch=True))
    if item.on_hand is not None:
        stock = {name: value for name, value in row.items() if name in INVENTORY.names and value is not None}
        key = orjson.dumps([item_id, stock.get("location_id")]).decode()
        told.append(Told(INVENTORY.path, key, instant, {ITEM_ID: item_id, **stock}, place))
    return told or "row: says nothing of the item"


def _row(fact: Fact) -> dict[str, Any]:
    """The fields that were given, as a raw row holds them."""
    return {name: _value(name, getattr(fact, name)) for name in fact.model_fields_set}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return to_microseconds(value)
    if isinstance(value, Decimal):
        return str(value.quantize(_CENTS, ROUND_HALF_UP))
    if isinstance(value, str):
        whole = _WHOLE_ID.fullmatch(value) if name.endswith("_id") else None
        return whole[1] if whole else value or None
    return value


def _source(row: Any) -> str:
    """The row as it was sent, cut where it is long."""
    return orjson.dumps(row)[:_MAX_SOURCE_BYTES].decode(errors="ignore")


def digest(row: Row) -> bytes:
    """128 bits of what a row says; the order of its fields is irrelevant."""
    return hashlib.blake2b(orjson.dumps(row, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


EVENT_CONTRACT = Contract(EVENTS.path, Event, _event)
ITEM_CONTRACT = Contract(ITEMS.path, Item, _item)
