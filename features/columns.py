"""Column names that more than one table or module speaks of; a renamed column is one edit here."""

USER_ID = "user_id"
VISITOR_ID = "visitor_id"
SESSION_ID = "session_id"
ITEM_ID = "item_id"
EVENT_TYPE = "event_type"
CATEGORY = "category"
QUANTITY = "quantity"

EVENT_TIMESTAMP = "event_timestamp"
"""When it became true, microseconds UTC."""
CREATED_TIMESTAMP = "created_timestamp"
"""When the shop could first know it, microseconds UTC."""
RETRACTED = "retracted"
"""Whether a revision of a feature row takes the row back: null, it stands; else what a reader sees from then on."""
TO_BEFORE = "before"
"""The row before it, whose values this revision repeats."""
TO_NOTHING = "nothing"
"""Nothing: no row comes before it."""

DS = "ds"

REVIEW_ID = "review_id"
REVIEW_TEXT = "review_text"
RATING = "rating"
LABEL = "label"

EVENT_TYPES = (
    "impression", "click", "view", "search", "favourite", "cart", "uncart", "checkout", "purchase", "return", "page", "login",
)  # fmt: skip
ITEM_EVENT_TYPES = ("impression", "click", "view", "favourite", "cart", "uncart", "purchase", "return")
"""Event types that speak of an item: `item_id` is required."""
NO_TASTE = ("impression", "uncart", "return")
"""Event types that do not speak for the item; what a user did is read without them."""

HISTORY_STEPS = 150
"""Steps of a user's history that are kept and that a model may read: what the longest recipe of the recommender reads. On
online_retail a third of it costs it 0.018 of its ndcg_at_10 of 0.303."""

PURCHASES_KEPT = 300
"""Purchases of a user that are kept, an item and a day each: what tells which of them come again."""

VISITOR_PREFIX = "visitor:"
SESSION_PREFIX = "session:"
"""What stands before the id of a visitor or session where it is the `user_id` of somebody unknown."""
