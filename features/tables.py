"""The data dictionary: every raw and feature table, declared once.

Spark's write schema, Feast's views, the training frames and the dictionary page are derived from here. Imports only the
standard library and pyarrow, so Spark executors carry neither Feast nor torch.

Column names say the computation: `order_value_sum_30d`, `item_views_count_7d`. Money is DECIMAL(18,4) in the shop's currency
until the training frame. Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, HISTORY_STEPS, PURCHASES_KEPT, RETRACTED
from features.windows import AFFINITY_WINDOWS, ITEM_WINDOWS, USER_WINDOWS, WindowedFeature

Type = Literal["string", "strings", "int", "float", "bool", "timestamp", "date", "money"]
Mark = Literal["none", "pseudonym", "personal"]

ARROW_TYPES: dict[Type, pa.DataType] = {
    "string": pa.string(),
    "strings": pa.list_(pa.string()),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "money": pa.decimal128(18, 4),
}
MONEY_BELOW = 10**14
"""No amount of money reaches it: what DECIMAL(18,4) holds."""
UNITS_BELOW = 10**9
"""No line has as many units. Sums of what is larger leave 64 bits, and one line would keep all from being built."""


@dataclass(frozen=True)
class Column:
    """One column: its type, unit, meaning, and whether it speaks of a person."""

    name: str
    type: Type
    meaning: str
    unit: str = ""
    required: bool = False
    mark: Mark = "none"


@dataclass(frozen=True)
class Table:
    """One declared table.

    `keys` identify the thing a row speaks of; a raw row's identity is `identity` (empty: the source gives none, identical rows
    are kept). `ttl_days` bounds how old a feature row may be when it is read; None: no bound. Columns of `grouping` only say which
    rows belong together: a late row may join or part them, and names them anew without making the others known later.
    """

    name: str
    kind: Literal["raw", "features", "scores", "logs", "truth"]
    meaning: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    ttl_days: int | None = None
    grouping: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Path of the table under the shop's part of the lake: `raw/events`, `features/user_activity`."""
        return f"{self.kind}/{self.name}"

    @property
    def row_id(self) -> str | None:
        """The column without which a raw row has no identity (`event_id`, `order_line_id`).

        None: the identity is always there; a null in it, such as the place of a stock, is a value like others.
        """
        last = self.identity[-1] if self.identity else None
        return last if last in ("event_id", "order_line_id") else None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the columns that never hold null."""
        return tuple(column.name for column in self.columns if column.required)

    @property
    def features(self) -> tuple[Column, ...]:
        """Columns that are neither key nor time: what a view serves."""
        return tuple(c for c in self.columns if c.name not in (*self.keys, EVENT_TIMESTAMP, CREATED_TIMESTAMP))

    def column(self, name: str) -> Column:
        """The declared column `name`; KeyError names the table if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} declares no column {name!r}; it has {', '.join(self.names)}")

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the declared columns, in this order."""
        return pa.schema([pa.field(c.name, ARROW_TYPES[c.type], nullable=not c.required) for c in self.columns])

    @property
    def stored_schema(self) -> pa.Schema:
        """The Arrow schema every file of the table has: a feature table also says which versions take a row back."""
        return self.schema.append(pa.field(RETRACTED, pa.string())) if self.kind == "features" else self.schema


EVENT_TIME = Column(EVENT_TIMESTAMP, "timestamp", "when it became true", "UTC", required=True)
CREATED_TIME = Column(CREATED_TIMESTAMP, "timestamp", "when the shop could first know it", "UTC", required=True)


def user_column(required: bool = False) -> Column:
    """The key of what speaks of a user."""
    return Column("user_id", "string", "the shop's id of the user", required=required, mark="pseudonym")


def _personal(name: str, type: Type, meaning: str, unit: str = "", required: bool = False) -> Column:
    return Column(name, type, meaning, unit, required, mark="personal")


def item_column(required: bool = True) -> Column:
    """The key of what speaks of an item."""
    return Column("item_id", "string", "the shop's id of the item", required=required)


def _raw(name: str, meaning: str, *columns: Column, keys: tuple[str, ...] = (), identity: tuple[str, ...] = ()) -> Table:
    return Table(name, "raw", meaning, (*columns, CREATED_TIME), keys, identity)


EVENTS = _raw(
    "events",
    "what people did in the shop",
    Column("event_id", "string", "id of the event; rows with a seen id are duplicates or corrections"),
    user_column(),
    Column("visitor_id", "string", "browser or device before login", mark="pseudonym"),
    Column("session_id", "string", "session, if the source knows it", mark="pseudonym"),
    item_column(required=False),
    Column("event_type", "string", "one of features.columns.EVENT_TYPES", required=True),
    EVENT_TIME,
    Column("price", "money", "unit price shown", "shop currency"),
    Column("quantity", "int", "units", "units"),
    Column("channel", "string", "web, app, store ..."),
    Column("query", "string", "search text", mark="personal"),
    Column("list_id", "string", "answer of ours that showed the item"),
    Column("position", "int", "place in that list, from 0"),
    identity=("event_id",),
)
ITEMS = _raw(
    "items",
    "what the shop sells; one row per item and instant it is told of",
    item_column(),
    Column("parent_item_id", "string", "the item this is a variant of"),
    Column("title", "string", "name shown to users"),
    Column("category", "string", "category of the shop"),
    Column("brand", "string", "brand"),
    Column("price", "money", "list price", "shop currency"),
    Column("cost", "money", "cost of goods", "shop currency"),
    Column("created_at", "timestamp", "first on sale", "UTC"),
    Column("withdrawn_at", "timestamp", "last on sale", "UTC"),
    Column("image", "string", "path or address of the picture"),
    EVENT_TIME,
    keys=("item_id",),
    identity=("item_id", EVENT_TIMESTAMP),
)
USERS = _raw(
    "users",
    "who buys; one row per user and instant it is told of",
    user_column(required=True),
    Column("country", "string", "ISO 3166 code or the shop's word"),
    Column("language", "string", "BCP 47 tag"),
    Column("registered_at", "timestamp", "first known", "UTC"),
    EVENT_TIME,
    keys=("user_id",),
    identity=("user_id", EVENT_TIMESTAMP),
)
ORDERS = _raw(
    "orders",
    "order lines; negative quantities are returns",
    Column("order_id", "string", "the order", required=True),
    Column("order_line_id", "string", "the line; without it identical lines are kept and counted"),
    user_column(),
    item_column(),
    Column("location_id", "string", "warehouse or store"),
    Column("quantity", "int", "units, negative when returned", "units", required=True),
    Column("unit_price", "money", "price paid per unit before discount", "shop currency", required=True),
    Column("discount", "money", "taken off the line", "shop currency"),
    Column("coupon_id", "string", "coupon used"),
    Column("channel", "string", "web, app, store ..."),
    Column("status", "string", "paid, shipped, cancelled, returned"),
    EVENT_TIME,
    Column("returned_order_id", "string", "for a return: the purchase it takes back, where one matches"),
    identity=("order_id", "order_line_id"),
)
REVIEWS = _raw(
    "reviews",
    "what users wrote",
    Column("review_id", "string", "id of the review", required=True),
    user_column(),
    item_column(required=False),
    Column("rating", "int", "stars 1-5; a source that only says good or bad maps `label`"),
    Column("review_text", "string", "the text", required=True, mark="personal"),
    Column("language", "string", "BCP 47 tag"),
    Column("category", "string", "category the review belongs to, if the source has it without an item"),
    Column("label", "int", "1 good, 0 bad, where the source says so"),
    EVENT_TIME,
    identity=("review_id",),
)
PROMOTIONS = _raw(
    "promotions",
    "price reductions and other offers",
    Column("promotion_id", "string", "id", required=True),
    item_column(required=False),
    Column("category", "string", "category it covers where it names no item"),
    Column("starts_at", "timestamp", "first instant", "UTC", required=True),
    Column("ends_at", "timestamp", "first instant after it", "UTC", required=True),
    Column("kind", "string", "price, coupon, gift ..."),
    Column("depth", "float", "share taken off the price", "0-1"),
    identity=("promotion_id", "item_id"),
)
INVENTORY = _raw(
    "inventory",
    "stock on hand; one row per item, place and instant it is told of",
    item_column(),
    Column("location_id", "string", "warehouse or store"),
    Column("on_hand", "int", "units that can be sold", "units", required=True),
    Column("on_order", "int", "units ordered from the supplier", "units"),
    EVENT_TIME,
    keys=("item_id",),
    identity=("item_id", "location_id", EVENT_TIMESTAMP),
)
SUPPLIERS = _raw(
    "suppliers",
    "terms of supply",
    item_column(),
    Column("location_id", "string", "warehouse or store"),
    Column("lead_time_days", "float", "days from order to stock", "days", required=True),
    Column("minimum_order", "int", "least units per order", "units"),
    Column("pack_size", "int", "units per pack", "units"),
    identity=("item_id", "location_id"),
)
COMPETITOR_PRICES = _raw(
    "competitor_prices",
    "prices seen elsewhere",
    item_column(),
    Column("competitor", "string", "who", required=True),
    Column("price", "money", "their price", "shop currency", required=True),
    EVENT_TIME,
    identity=("item_id", "competitor", EVENT_TIMESTAMP),
)
CAMPAIGNS = _raw(
    "campaigns",
    "marketing campaigns",
    Column("campaign_id", "string", "id", required=True),
    Column("channel", "string", "mail, push, banner ..."),
    Column("cost", "money", "spent in all", "shop currency"),
    Column("starts_at", "timestamp", "first instant", "UTC", required=True),
    Column("ends_at", "timestamp", "first instant after it", "UTC", required=True),
    identity=("campaign_id",),
)
EXPOSURES = _raw(
    "exposures",
    "who was in which arm of a campaign",
    Column("campaign_id", "string", "campaign", required=True),
    user_column(required=True),
    Column("variant", "string", "arm, e.g. coupon or control", required=True),
    Column("propensity", "float", "probability of this arm", "0-1"),
    EVENT_TIME,
    identity=("campaign_id", "user_id"),
)
PAYMENTS = _raw(
    "payments",
    "payments and refunds",
    Column("payment_id", "string", "id", required=True),
    Column("order_id", "string", "the order", required=True),
    Column("amount", "money", "negative when refunded", "shop currency", required=True),
    Column("method", "string", "card, wallet ..."),
    Column("status", "string", "authorised, paid, refunded"),
    EVENT_TIME,
    identity=("payment_id",),
)
TICKETS = _raw(
    "tickets",
    "customer service cases",
    Column("ticket_id", "string", "id", required=True),
    user_column(),
    Column("order_id", "string", "the order it speaks of"),
    item_column(required=False),
    Column("channel", "string", "mail, chat, phone ..."),
    Column("ticket_text", "string", "the text", required=True, mark="personal"),
    EVENT_TIME,
    identity=("ticket_id",),
)
CALENDAR = _raw(
    "calendar",
    "days the shop itself calls special",
    Column("date", "date", "local day", required=True),
    Column("name", "string", "name of the day", required=True),
    Column("kind", "string", "holiday, shopping_day, closed"),
    identity=("date", "name"),
)
RATES = _raw(
    "rates",
    "exchange rates into the shop's currency",
    Column("currency", "string", "ISO 4217 code", required=True),
    Column("date", "date", "local day it holds from", required=True),
    Column("rate", "float", "shop currency per unit", required=True),
    identity=("currency", "date"),
)


def _windowed(*features: WindowedFeature) -> tuple[Column, ...]:
    return tuple(
        Column(name, "money" if f.money else "int", f"{f.meaning}, last {days} local day(s)", f.unit)
        for f in features
        for days, name in zip(f.windows, f.columns, strict=True)
    )


def feature_table(
    name: str,
    meaning: str,
    *columns: Column,
    keys: tuple[str, ...],
    ttl_days: int | None = None,
    grouping: tuple[str, ...] = (),
) -> Table:
    """A feature table: the columns and both times. See `Table`."""
    return Table(name, "features", meaning, (*columns, EVENT_TIME, CREATED_TIME), keys, keys, ttl_days, grouping)


INTERACTIONS = feature_table(
    "interactions",
    "cleaned, de-duplicated acts of a user on an item; orders give the purchases",
    Column("interaction_id", "string", "event id, or a digest of order line and row number", required=True),
    user_column(required=True),
    Column("session_id", "string", "session, see sessions", required=True, mark="pseudonym"),
    item_column(),
    Column("event_type", "string", "click, view, favourite, cart, purchase or return", required=True),
    Column("quantity", "int", "units", "units"),
    Column("value", "money", "quantity x unit price less discount", "shop currency"),
    keys=("interaction_id",),
    grouping=("session_id",),
)
SESSIONS = feature_table(
    "sessions",
    "acts of one user with no gap over 30 minutes; stamped with their last act",
    Column("session_id", "string", "session", required=True, mark="pseudonym"),
    user_column(required=True),
    Column("started_at", "timestamp", "first act", "UTC", required=True),
    Column("duration_s", "float", "last act less first act", "seconds", required=True),
    Column("num_interactions", "int", "acts", required=True),
    Column("num_items", "int", "different items", required=True),
    Column("num_purchases", "int", "purchase lines", required=True),
    Column("value_sum", "money", "value of the purchases", "shop currency", required=True),
    keys=("session_id",),
)
USER_ACTIVITY = feature_table(
    "user_activity",
    "what a user did lately; a row only for days on which a value changes",
    user_column(required=True),
    *_windowed(*USER_WINDOWS),
    Column(
        "days_since_last_purchase",
        "int",
        "local days from the last purchase to the day the row covers, null before the first",
        "days",
    ),
    keys=("user_id",),
    ttl_days=120,
)
ITEM_ACTIVITY = feature_table(
    "item_activity",
    "what happened to an item lately; a row only for days on which a value changes",
    item_column(),
    *_windowed(*ITEM_WINDOWS),
    Column("price_last", "money", "last price paid or listed", "shop currency"),
    keys=("item_id",),
    ttl_days=120,
)
USER_CATEGORY_AFFINITY = feature_table(
    "user_category_affinity",
    "how much of a user's recent attention a category has; a row only for days on which a value changes",
    user_column(required=True),
    Column("category", "string", "category", required=True),
    *_windowed(*AFFINITY_WINDOWS),
    Column("affinity_share_30d", "float", "share of the user's acts in 30 days", "0-1"),
    keys=("user_id", "category"),
    ttl_days=120,
)
USER_PROFILE = feature_table(
    "user_profile",
    "who a user is to the shop: attributes, habits, interests, RFM scores, value tier, stage and tags; as the shop knew it at the "
    "first instant of a local day, a row only for days on which anything in it changes. Rules and tags: see Profiles",
    user_column(required=True),
    _personal("country", "string", "ISO 3166 code or the shop's word"),
    _personal("language", "string", "BCP 47 tag"),
    _personal("registered_at", "timestamp", "registration; null where the source says a time after it told so", "UTC"),
    _personal("first_seen_at", "timestamp", "first act, null before", "UTC"),
    _personal("last_seen_at", "timestamp", "last act", "UTC"),
    _personal("active_days_count", "int", "local days with an act, over life", "days", required=True),
    _personal("first_purchase_at", "timestamp", "first purchase, null before", "UTC"),
    _personal("last_purchase_at", "timestamp", "last purchase", "UTC"),
    _personal("purchase_days_count", "int", "local days with a purchase, over life", "days", required=True),
    _personal("purchase_gap_days_mean", "float", "mean days from one day with a purchase to the next, null below two", "days"),
    _personal("favourite_daypart", "string", "time of day, see Profiles"),
    _personal("favourite_week_part", "string", "part of the week, see Profiles"),
    _personal("main_category", "string", "category with most of the user's acts in 90 days, null below the least"),
    _personal("main_category_share_90d", "float", "its share of the user's acts", "0-1"),
    _personal("interests", "strings", "categories, the largest share first, see Profiles", required=True),
    _personal("price_mean_365d", "float", "mean price per unit over the lines bought in 365 days", "shop currency"),
    _personal("price_band", "string", "band of that price, see Profiles"),
    _personal("returns_share_365d", "float", "return lines per purchase line in 365 days; above 1 where purchases are older"),
    _personal("purchase_days_count_365d", "int", "local days with a purchase in 365 days: the F of RFM", "days", required=True),
    _personal("net_value_sum_365d", "money", "bought less returned in 365 days: the M of RFM", "shop currency", required=True),
    _personal("recency_score", "int", "5 the latest, null before the first purchase", "1-5"),
    _personal("frequency_score", "int", "5 the most often", "1-5"),
    _personal("monetary_score", "int", "5 the most money", "1-5"),
    _personal("value_tier", "string", "tier of value, see Profiles"),
    _personal("stage", "string", "stage of the customer's life, see Profiles", required=True),
    _personal("tags", "strings", "what the row says in words, see Profiles", required=True),
    keys=("user_id",),
)
DAILY_DEMAND = feature_table(
    "daily_demand",
    "units per item and local day, zero-filled between the first and the last day on sale",
    item_column(),
    Column("ds", "date", "local day", required=True),
    Column("units_sum", "int", "units bought, returns not taken off", "units", required=True),
    Column("returned_units_sum", "int", "units returned", "units", required=True),
    Column("price_mean", "float", "mean price paid, else the last known price", "shop currency"),
    Column("promotion_depth", "float", "deepest promotion of the day", "0-1", required=True),
    Column("is_promotion", "bool", "a promotion covers the day", required=True),
    Column("holiday", "string", "name of the holiday or shopping day, null on others"),
    Column("is_open", "bool", "the shop sold anything that day or is declared open", required=True),
    Column("is_stock_out", "bool", "stock was at or below zero for part of the day", required=True),
    keys=("item_id", "ds"),
)
ITEM_CATALOG = feature_table(
    "item_catalog",
    "what is known of an item, one row per change; items without a row in `items` are derived from the ids seen",
    item_column(),
    Column("title", "string", "name shown to users"),
    Column("category", "string", "category"),
    Column("brand", "string", "brand"),
    Column("price", "money", "list price, else the last price paid", "shop currency"),
    Column("created_at", "timestamp", "first on sale or first seen", "UTC"),
    Column("withdrawn_at", "timestamp", "last on sale, null while on sale", "UTC"),
    keys=("item_id",),
)
USER_HISTORY = feature_table(
    "user_history",
    f"what a user did in the last {HISTORY_STEPS} steps, oldest first; a row only for days on which the user did something",
    user_column(required=True),
    Column("item_ids", "strings", "items, oldest first; acts in a row on one item are one step, returns are left out"),
    Column("event_types", "strings", "what was done to each, same order"),
    keys=("user_id",),
)
USER_PURCHASES = feature_table(
    "user_purchases",
    f"what a user bought on which day, the last {PURCHASES_KEPT} of them, oldest first; a row only for days with a purchase",
    user_column(required=True),
    Column("purchase_item_ids", "strings", "items, by day, then by id; bought several times on one day an item is there once"),
    Column("purchase_dates", "strings", "local day of each, as ISO 8601, same order"),
    keys=("user_id",),
)
CLEAN_REVIEWS = feature_table(
    "clean_reviews",
    "reviews fit to learn from: normalised text, one row per text, a label where one is given",
    Column("review_id", "string", "id of the review", required=True),
    item_column(required=False),
    Column("category", "string", "category of the item or of the source"),
    Column("language", "string", "BCP 47 tag"),
    Column("rating", "int", "stars"),
    Column("label", "int", "1 good, 0 bad; from the source, else rating >= 4 and <= 2; null between"),
    Column("review_text", "string", "normalised text", required=True, mark="personal"),
    keys=("review_id",),
)

RAW_TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        EVENTS, ITEMS, USERS, ORDERS, PAYMENTS, REVIEWS, PROMOTIONS, INVENTORY, SUPPLIERS, COMPETITOR_PRICES, CAMPAIGNS, EXPOSURES,
        TICKETS, CALENDAR, RATES,
    )
}  # fmt: skip
QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("source_row", pa.string(), nullable=False),
        pa.field("ingest", pa.string(), nullable=False),
    ]
)
"""Of the tables `quarantine/<raw table>`: why, from where, the source's own row as JSON, and the digest of the ingest or drain."""

FEATURE_TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        ITEM_CATALOG, INTERACTIONS, SESSIONS, USER_HISTORY, USER_PURCHASES, USER_ACTIVITY, ITEM_ACTIVITY, USER_CATEGORY_AFFINITY,
        USER_PROFILE, DAILY_DEMAND, CLEAN_REVIEWS,
    )
}  # fmt: skip
"""In dependency order: each is built from raw tables and from those before it."""

PURCHASE_PROPENSITY = Table(
    "purchase_propensity",
    "scores",
    "whether and when each known user buys next, by the model `propensity`; `shopgraph score` writes it, the newest version holds the "
    "newest scores",
    (
        user_column(required=True),
        _personal("p_buy_7d", "float", "probability of a purchase within 7 local days from `as_of` on", "0-1", required=True),
        _personal("p_buy_30d", "float", "the same within 30 days, never less", "0-1", required=True),
        _personal(
            "expected_days_to_next",
            "float",
            "mean days to the next purchase, its day included; nobody counts with more than `horizon_days`",
            "days",
            required=True,
        ),
        Column("horizon_days", "int", "days ahead that the model looks", "days", required=True),
        _personal(
            "drivers",
            "strings",
            "habits that move p_buy_30d most, the strongest first: points of a hundred against the same user with the habit of most",
            required=True,
        ),
        Column(
            "as_of",
            "timestamp",
            "first instant of the local day that scores are from; what was known before it counts",
            "UTC",
            True,
        ),
        Column("model_version", "int", "registered version of the model", required=True),
        Column("interactions_version", "int", "version of the table they were computed from", required=True),
    ),
    keys=("user_id",),
    identity=("user_id",),
)
REQUESTS = Table(
    "requests",
    "logs",
    "what the API was asked and answered (SHOPGRAPH_REQUEST_LOG: a share of it); what was seen of a list is in the events that name it",
    (
        Column("request_id", "string", "name of the request, as the answer gives it", required=True),
        Column("answered_at", "timestamp", "when, by the machine's clock", "UTC", True),
        Column("as_of", "timestamp", "the shop's instant at which the answer was made", "UTC", True),
        Column("product", "string", "recommend, forecast or sentiment", required=True),
        Column("graph_version", "string", "the graph that answered", required=True),
        Column("variant", "string", "stable or candidate", required=True),
        Column("person", "string", "the user or visitor, as in user_id; null: nobody, or not to be personal", mark="pseudonym"),
        Column("list_ids", "strings", "names of the lists of the answer", required=True),
        Column("request", "string", "the body as JSON", required=True, mark="personal"),
        Column("answer", "string", "the body as JSON", required=True, mark="personal"),
        Column("degraded", "strings", "what the answer went without", required=True),
        Column("seconds", "float", "from the whole body to the answer", "seconds", True),
    ),
)
RECOMMENDATIONS = Table(
    "recommendations",
    "scores",
    "the list of every user with a history, as `POST /v1/recommend` gives it without a session; `shopgraph recommend --all` writes it, the "
    "newest version holds the newest lists",
    (
        user_column(required=True),
        Column("rank", "int", "place in the user's list, from 1", required=True),
        _personal("item_id", "string", "the shop's id of the item", required=True),
        _personal(
            "score", "float", "as the endpoint gives it: the higher, the more likely the item is the next one", required=True
        ),
        _personal(
            "source",
            "string",
            "`history`: what the list is made of; `popular` where the model reads nothing of it",
            required=True,
        ),
        Column("model_version", "int", "registered version of the recommender", required=True),
        Column("graph_version", "string", "digest of the graph that answered, which pins the ranker too", required=True),
        Column("scored_at", "timestamp", "the instant the lists are from: what was known by then counts", "UTC", True),
    ),
    keys=("user_id", "rank"),
    identity=("user_id", "rank"),
)
SCORE_TABLES: dict[str, Table] = {table.name: table for table in (PURCHASE_PROPENSITY, RECOMMENDATIONS)}
"""What models say of everybody, written in bulk."""
