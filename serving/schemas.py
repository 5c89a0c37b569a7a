"""The HTTP contract: what each request holds and what each answer says. The OpenAPI document is derived from these models.

Fields are only added; a change that would break a client fails the test of the committed `serving/openapi.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from features.fresh.facts import MAX_ROWS, Event, Item

Id = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""An id of the shop."""

MAX_K = 200
MAX_HORIZON = 365
MAX_SERIES = 200
MAX_TEXTS = 128
MAX_TEXT_CHARS = 10_000

MAX_PLACEMENTS = 10

Placement = Literal["for_you", "similar", "bought_together", "buy_again", "trending"]
Source = Literal["history", "similar", "purchases", "co_occurrence", "trending", "popular"]
RecommendReason = Literal[
    "unknown_user",
    "unknown_visitor",
    "empty_history",
    "unknown_item",
    "history_unavailable",
    "no_purchases",
    "no_recent_activity",
    "unranked",
    "unexplained",
    "without_rules",
    "last_good_features",
    "trending",
    "static",
]
"""`empty_history`: the person did something, but nothing of a kind that the model reads. `unknown_item`: only with items that the
model does not know. `no_purchases`: nothing was bought that says anything: with these items (bought_together), or of what the person
bought nothing comes again (buy_again). `no_recent_activity`: no item rises (trending). `unranked`: the ranker of the graph, or what it
reads, could not be used, so the order is that of retrieval (for_you). `unexplained`: there are no reasons, though they were asked for.
`without_rules`: rules of the shop are left out. `last_good_features`: what the person did is known as of some time ago. `trending`: the
list is what rises in the category it is about, else anywhere. `static`: it is the fixed list of the graph version. From `unranked` on each
of these says that something was down, or that the request's time was over."""
ForecastReason = Literal["unknown_item", "no_recent_demand", "history_unavailable", "stale_history"]
"""`no_recent_demand`: the item is known but was not on sale in the days the model looks back on. `stale_history`: its last days
before the forecast are not in the online store yet; they count as unknown, not as days without a sale. The table ends with the last
day on which the shop sold anything, so a shop that sold nothing at all yesterday, though usually open, gets it too."""
SentimentReason = Literal["truncated", "empty", "unknown"]


class Request(BaseModel):
    """Base of every request: a wrong type is refused, an unknown field is a mistake that is named."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SessionEvent(Request):
    """What the user did in this session."""

    item_id: Id
    event_type: Literal["click", "view", "favourite", "cart", "uncart", "purchase", "return", "impression"] = "view"
    event_timestamp: datetime | None = Field(
        None, description="When, UTC where it names no zone; events without a time keep the order they are sent in."
    )


class Filters(Request):
    """Bounds on what may be shown; an item of which the shop does not say it is left out."""

    category: list[Id] | None = Field(None, min_length=1, max_length=50, description="Any of these categories.")
    brand: list[Id] | None = Field(None, min_length=1, max_length=50, description="Any of these brands.")
    price_min: float | None = Field(None, ge=0, description="In the shop's currency.")
    price_max: float | None = Field(None, ge=0, description="In the shop's currency.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.price_min is not None and self.price_max is not None and self.price_min > self.price_max:
            raise ValueError(f"price_min {self.price_min} is above price_max {self.price_max}")
        return self


class PlacementRequest(Request):
    """One of several lists; what it does not say is as the request says it."""

    placement: Placement
    item_id: Id | None = Field(None, description="As in the request.")
    basket: list[Id] | None = Field(None, max_length=200, description="As in the request.")
    k: int | None = Field(None, ge=1, le=MAX_K, description="How many items.")
    filters: Filters | None = None


class RecommendRequest(Request):
    """Items to show to one user in one place, or in several at once."""

    user_id: Id | None = Field(None, description="The user, if logged in.")
    visitor_id: Id | None = Field(None, description="The browser or device, if not logged in.")
    session: list[SessionEvent] = Field([], max_length=200, description="This session so far, oldest first; it counts at once.")
    placement: Placement = Field(
        "for_you",
        description="`for_you` follows from what the person did; `similar` is like item_id; `bought_together` goes with item_id or "
        "basket; `buy_again` is what the person bought before and may want by now; `trending` rises, for everyone.",
    )
    placements: list[PlacementRequest] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PLACEMENTS,
        description="Several lists instead of one; no item comes twice, and the first list chooses first.",
    )
    item_id: Id | None = Field(None, description="The item to which others should be similar, or which was put into the basket.")
    basket: list[Id] = Field([], max_length=200, description="The items in the basket, for `bought_together`.")
    k: int = Field(10, ge=1, le=MAX_K, description="How many items.")
    filters: Filters | None = None
    exclude: list[Id] = Field([], max_length=1000, description="Items not to show.")
    personalize: bool = Field(True, description="false: nothing about the person is read, not even the session.")
    explain: bool = Field(False, description="Say with each item what speaks for it; the answer takes longer.")
    trace: bool = Field(False, description="Say with each list which of the shop's rules moved which items.")

    @cached_property
    def lists(self) -> tuple[AskedList, ...]:
        """What is asked for, list by list."""
        ours = AskedList(self.placement, self.k, self.item_id, tuple(self.basket), self.filters)
        if self.placements is None:
            return (ours,)
        return tuple(
            AskedList(
                one.placement,
                one.k or ours.k,
                one.item_id or ours.item_id,
                ours.basket if one.basket is None else tuple(one.basket),
                one.filters or ours.filters,
            )
            for one in self.placements
        )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.placements is not None and "placement" in self.model_fields_set:
            raise ValueError("give placement or placements, not both")
        for asked in self.lists:
            if asked.placement == "similar" and asked.item_id is None:
                raise ValueError("placement `similar` needs item_id")
            if asked.placement == "bought_together" and not asked.together:
                raise ValueError("placement `bought_together` needs item_id or basket")
        if self.user_id is not None and self.visitor_id is not None:
            raise ValueError("give user_id or visitor_id, not both")
        return self


@dataclass(frozen=True)
class AskedList:
    """One list that a request asks for."""

    placement: Placement
    k: int
    item_id: str | None
    basket: tuple[str, ...]
    filters: Filters | None

    @property
    def together(self) -> tuple[str, ...]:
        """The items that others should go with: those in the basket, then `item_id`, each once."""
        return tuple(dict.fromkeys((*self.basket, *([self.item_id] if self.item_id else []))))


class Series(Request):
    """One series to forecast."""

    item_id: Id


class FutureDays(Request):
    """What is planned for the days ahead, one value per day of the horizon; null: unknown, filled by rule."""

    # fail_fast: of a list only the first wrong value is an error, for a body may hold half a million.
    price_mean: list[float | None] | None = Field(None, fail_fast=True, description="Price, in the shop's currency.")
    promotion_depth: list[float | None] | None = Field(None, fail_fast=True, description="Share taken off the price, 0-1.")
    holiday: list[str | None] | None = Field(
        None, fail_fast=True, description="Name of the holiday or shopping day, null on others."
    )
    is_open: list[bool] | None = Field(None, fail_fast=True, description="Whether the shop sells that day.")


class ForecastRequest(Request):
    """Units per item and local day, from the day of the clock on."""

    series: list[Series] = Field(min_length=1, max_length=MAX_SERIES)
    horizon: int = Field(ge=1, le=MAX_HORIZON, description="Days ahead; the model may know fewer.")
    quantiles: list[float] = Field([0.1, 0.5, 0.9], min_length=1, max_length=20, description="Levels, each between 0 and 1.")
    future: dict[Id, FutureDays] = Field({}, max_length=MAX_SERIES, description="By item_id: what is planned.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not all(0 < level < 1 for level in self.quantiles) or len(set(self.quantiles)) != len(self.quantiles):
            raise ValueError("quantiles must differ and lie between 0 and 1")
        ids = [series.item_id for series in self.series]
        if len(set(ids)) != len(ids):
            raise ValueError("each item_id may be asked for once")
        for item_id, days in self.future.items():
            if item_id not in ids:
                raise ValueError("future names an item that is not in series")
            for name in FutureDays.model_fields:
                values = getattr(days, name)
                if values is not None and len(values) != self.horizon:
                    raise ValueError(f"future {name} has {len(values)} values for a horizon of {self.horizon}")
            if any(price is not None and price < 0 for price in days.price_mean or ()):
                raise ValueError("future price_mean holds a negative price")
            if any(depth is not None and not 0 <= depth <= 1 for depth in days.promotion_depth or ()):
                raise ValueError("future promotion_depth is a share of the price; expected values from 0 to 1 (20 % is 0.2)")
        return self


class SentimentRequest(Request):
    """Texts to judge, in any language the shop declares."""

    texts: list[Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)]] = Field(min_length=1, max_length=MAX_TEXTS)


class Answer(BaseModel):
    """What every answer says about itself."""

    model_config = ConfigDict(extra="forbid")

    as_of: datetime = Field(description="The shop's present instant at which the answer was made.")
    graph_version: str = Field(description="Digest of the graph that answered.")
    model_versions: dict[str, str] = Field(description="Model name -> registered version, all pinned by the graph.")
    request_id: str = Field(description="The request's x-request-id, or one made for it.")


class Reason(BaseModel):
    """An item that speaks for a recommended one: of the history, of the basket, or the one asked about."""

    item_id: str
    weight: float = Field(
        description="How far the log of the recommended item's share falls without it (similar: their cosine); above 0."
    )


class BoughtBefore(BaseModel):
    """What is known of somebody's purchases of one item."""

    times: int = Field(description="On how many days it was bought.")
    last_on: date = Field(description="The last of them, a local day.")
    usual_gap_days: float = Field(description="Typical days until the item is bought again, by anybody.")


class Moved(BaseModel):
    """An item that a rule put elsewhere."""

    model_config = ConfigDict(populate_by_name=True)

    item_id: str
    from_: int = Field(alias="from", description="Its place before, from 0.")
    to: int = Field(description="Its place after; the others keep their order.")


class TraceStep(BaseModel):
    """What one rule did."""

    rule: str = Field(description="`shown_before` (in a list before this one), a boost or own rule, `most_of_one` or `explore`.")
    removed: list[str] = Field(description="Items that it took away.")
    moved: list[Moved] = Field(description="Items that it put elsewhere, by their new places.")


class Trace(BaseModel):
    """How the shop's rules made the list of what the models gave; followed step by step it gives the list again."""

    before: list[str] = Field(description="The items in the order of the models.")
    steps: list[TraceStep] = Field(description="One per rule that moved something, in order.")


class RecommendedItem(BaseModel):
    """One item of a list."""

    item_id: str
    score: float = Field(
        description="Compares items of one list, which it orders; no probability. In a ranked list (a personal one of for_you, where "
        "the graph has a ranker) what is expected of showing the item: its `chances` by their weights, times the price where the shop "
        "has it so. Else, also in one that is `unranked`, how much speaks for the item: the log of its share (similar: the cosine)."
    )
    source: Source = Field(
        description="What speaks most for it: the history, likeness, purchases, what stands near in histories of others, a rise, or "
        "no more than its popularity."
    )
    propensity: float | None = Field(
        None,
        description="Where the shop explores: the chance with which the item came to this place, given those before it.",
    )
    reasons: list[Reason] | None = Field(
        None,
        description="With `explain`: what speaks for it, the most first; empty where no item does. In a ranked list it is why the item is "
        "among those that were ranked; its place follows from `chances`.",
    )
    chances: dict[str, float] | None = Field(
        None,
        description="With `explain`, in a ranked list: the chance that it is clicked, carted (or made a favourite) and purchased in the "
        "session, as far as the ranker learned it.",
    )
    bought: BoughtBefore | None = Field(None, description="With `explain`, in buy_again.")
    rise: float | None = Field(
        None, description="With `explain`, in trending: acts of the week over those of a usual one, shrunk towards 1."
    )


class RecommendList(BaseModel):
    """A list of items, the best first."""

    model_config = ConfigDict(extra="forbid")

    placement: Placement
    list_id: str = Field(description="Name of this list; send it back with impressions and clicks.")
    items: list[RecommendedItem] = Field(description="Best first; fewer than k where fewer are allowed.")
    personalized: bool = Field(description="Whether the list is about this person.")
    degraded: list[RecommendReason] = Field(description="What could not be used; empty: nothing was left out.")
    trace: Trace | None = Field(None, description="With `trace`.")


class RecommendAnswer(Answer):
    """A list of items, the best first; of several lists the first."""

    list_id: str = Field(description="Name of this list; send it back with impressions and clicks.")
    items: list[RecommendedItem] = Field(description="Best first; fewer than k where fewer are allowed.")
    personalized: bool = Field(description="Whether the list is about this person; else it is what is popular.")
    degraded: list[RecommendReason] = Field(description="What could not be used in any list; empty: nothing was left out.")
    trace: Trace | None = Field(None, description="With `trace`.")
    lists: list[RecommendList] | None = Field(
        None, description="With `placements`: every list, in order; the fields above are those of the first."
    )


class ForecastSeries(BaseModel):
    """The forecast of one item."""

    item_id: str
    ds: list[date] = Field(description="The local days.")
    mean: list[float] = Field(description="Expected units per day.")
    quantiles: dict[str, list[float]] = Field(description="Level -> units per day, never crossing.")
    filled: list[str] = Field(description="Covariates that were not given and were filled by rule.")
    degraded: list[ForecastReason] = Field(description="What could not be used for this series.")


class ForecastAnswer(Answer):
    """One forecast per series that was asked for, in order."""

    series: list[ForecastSeries]
    degraded: list[ForecastReason] = Field(description="What could not be used for at least one series.")


class Sentiment(BaseModel):
    """What one text feels like."""

    label: Literal["good", "bad"] = Field(description="The likelier label.")
    probability: float = Field(description="Of that label, so at least one half.")
    degraded: list[SentimentReason] = Field(description="What could not be read of this text.")


class SentimentAnswer(Answer):
    """One result per text, in order."""

    results: list[Sentiment] = Field(description="One per text, in order.")
    degraded: list[SentimentReason] = Field(description="What could not be read of at least one text.")


class EventList(Request):
    """Rows are looked at one by one: a bad one is quarantined and does not keep the others from being accepted."""

    events: list[Any] = Field(min_length=1, max_length=MAX_ROWS)


class ItemList(Request):
    """As for events."""

    items: list[Any] = Field(min_length=1, max_length=MAX_ROWS)


class EventsRequest(Request):
    """What people did. It is on the disk, and counts, once it is answered; each row is judged by itself."""

    events: list[Event] = Field(min_length=1, max_length=MAX_ROWS)


class ItemsRequest(Request):
    """What changed about items. It is on the disk, and counts, once it is answered; each row is judged by itself."""

    items: list[Item] = Field(min_length=1, max_length=MAX_ROWS)


class QuarantinedRow(BaseModel):
    """A row that breaks the contract; it is kept in quarantine."""

    row: int = Field(description="Its number in the request, from 0.")
    reason: str


class ToldAnswer(BaseModel):
    """What became of the rows; accepted + duplicates + quarantined are all of them."""

    model_config = ConfigDict(extra="forbid")

    accepted: int = Field(description="Rows that are new or correct another one.")
    corrections: int = Field(description="Those of them that say something else of an event, or of an item's instant, told before.")
    duplicates: int = Field(description="Rows that were sent before with the same content; nothing changed.")
    quarantined: list[QuarantinedRow] = Field(description="Rows that break the contract, with the reason.")
    as_of: datetime = Field(description="The shop's present instant.")
    request_id: str = Field(description="The request's x-request-id, or one made for it.")


class FieldError(BaseModel):
    """One field that does not fit."""

    pointer: str = Field(description="JSON pointer to the field.")
    detail: str


class ProblemDetails(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FieldError] = Field(
        [], description="For a body that does not fit the schema: the first 20 values; none where more than 1,000 do not fit."
    )


class Readiness(BaseModel):
    """Which graphs answer, and which do not yet."""

    is_ready: bool
    graphs: dict[str, str] = Field(description="Product -> version of the graph that answers.")
    candidates: dict[str, str] = Field(description="Product -> version of the graph that answers some people instead.")
    waiting: dict[str, str] = Field(description="Product -> why its released graph is not the one that answers.")
    held_back: dict[str, str] = Field(description="Product -> why its candidate answers nobody, though it should answer some.")


TOLD: dict[str, type[Request]] = {"events": EventsRequest, "items": ItemsRequest}
"""What may be posted."""
LISTS: dict[str, type[Request]] = {"events": EventList, "items": ItemList}
"""The same before its rows are looked at."""
REQUESTS: dict[str, type[Request]] = {
    "recommend": RecommendRequest,
    "forecast": ForecastRequest,
    "sentiment": SentimentRequest,
}
ANSWERS: dict[str, type[Answer]] = {"recommend": RecommendAnswer, "forecast": ForecastAnswer, "sentiment": SentimentAnswer}
