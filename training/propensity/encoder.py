"""What a user did before a day, as numbers: point in time, the same function in training and in scoring.

A purchase is a local day with at least one line bought, as in the literature on customer value (Fader, Hardie & Lee 2005): several
orders of one day are one decision to buy. What became known only after the day does not count, whenever it happened.

Shapes: U users, N facts, R rows (a user on a day), F features, O features that may be missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPE, SESSION_PREFIX, USER_ID, VISITOR_PREFIX

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FACT_COLUMNS = (USER_ID, EVENT_TYPE, "value", EVENT_TIMESTAMP, CREATED_TIMESTAMP)
"""Columns of `interactions` that are read."""
LOOK, INTENT, PURCHASE, RETURN = range(4)
_KINDS = {"cart": INTENT, "favourite": INTENT, "purchase": PURCHASE, "return": RETURN}
_CLIPPED = (0.001, 0.999)
"""Quantiles of what was learned from beyond which a feature counts as at the quantile: nothing is extrapolated."""


@dataclass(frozen=True)
class Feature:
    """One number of a user, and which habit it belongs to; a habit is what an explanation speaks of."""

    name: str
    habit: str
    may_miss: bool = False


FEATURES = (
    Feature("days_since_purchase", "last purchase", may_miss=True),
    Feature("silence_share", "last purchase", may_miss=True),
    Feature("overdue", "last purchase", may_miss=True),
    Feature("purchase_days", "purchases"),
    Feature("purchase_days_7d", "purchases"),
    Feature("purchase_days_30d", "purchases"),
    Feature("purchase_days_90d", "purchases"),
    Feature("purchase_days_365d", "purchases"),
    Feature("purchase_rate", "purchases"),
    Feature("gap_mean", "rhythm", may_miss=True),
    Feature("gap_spread", "rhythm", may_miss=True),
    Feature("gap_last", "rhythm", may_miss=True),
    Feature("days_since_first_act", "time as a user"),
    Feature("days_since_first_purchase", "time as a user", may_miss=True),
    Feature("value_mean", "spend", may_miss=True),
    Feature("value_last", "spend", may_miss=True),
    Feature("lines_mean", "spend", may_miss=True),
    Feature("looks_7d", "looks"),
    Feature("looks_30d", "looks"),
    Feature("days_since_look", "looks", may_miss=True),
    Feature("intents_7d", "cart and favourites"),
    Feature("intents_30d", "cart and favourites"),
    Feature("days_since_intent", "cart and favourites", may_miss=True),
    Feature("returns_365d", "returns"),
)
"""Days, counts and money of the shop's currency; `silence_share` is the share of the time since the first purchase that passed since
the last, `overdue` the same over the mean gap, `gap_spread` the gaps' standard deviation over their mean, `purchase_rate` purchases
per 30 days since the first act."""
NAMES = tuple(feature.name for feature in FEATURES)
HABITS = tuple(dict.fromkeys(feature.habit for feature in FEATURES))
_MAY_MISS = np.array([feature.may_miss for feature in FEATURES])
NUM_INPUTS = len(FEATURES) + int(_MAY_MISS.sum())


@dataclass(frozen=True)
class Facts:
    """Acts of a shop's users by user; visitors without a name are left out: nobody can be told of their next purchase."""

    users: NDArray[np.str_]
    """(U,) ids, ascending."""
    user: Ints
    """(N,) index into `users`, ascending."""
    day: Ints
    """(N,) local day, counted from 1970-01-01."""
    known: Ints
    """(N,) local day on which it was both true and known."""
    kind: Ints
    """(N,) LOOK, INTENT, PURCHASE or RETURN."""
    value: Floats
    """(N,) money of a purchase line, 0 elsewhere."""

    def __len__(self) -> int:
        return len(self.day)

    @classmethod
    def of(cls, rows: pa.Table, time_zone: str) -> Facts:
        """Facts from current rows of `interactions` with FACT_COLUMNS.

        Args:
            time_zone: IANA zone of the shop, whose local days count.
        """
        unnamed = pc.or_(pc.starts_with(rows[USER_ID], VISITOR_PREFIX), pc.starts_with(rows[USER_ID], SESSION_PREFIX))
        rows = rows.filter(pc.invert(unnamed)).sort_by(USER_ID).combine_chunks()
        users = rows[USER_ID].combine_chunks().dictionary_encode()  # in order of appearance: ascending
        user = users.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        event, created = (local_days(rows[name], time_zone) for name in (EVENT_TIMESTAMP, CREATED_TIMESTAMP))
        told = pc.index_in(rows[EVENT_TYPE], value_set=pa.array(list(_KINDS)))
        kind = np.array([*_KINDS.values(), LOOK])[pc.fill_null(told, len(_KINDS)).to_numpy()]
        value = pc.fill_null(rows["value"].cast(pa.float64()), 0.0).to_numpy()
        value = np.where(kind == PURCHASE, value, 0.0)
        return cls(np.asarray(users.dictionary.to_pylist(), dtype=np.str_), user, event, np.maximum(event, created), kind, value)

    def before(self, day: int) -> Facts:
        """What was known before the first instant of a local day; all users keep their places."""
        seen = self.known < day
        return Facts(self.users, self.user[seen], self.day[seen], self.known[seen], self.kind[seen], self.value[seen])

    def purchases(self) -> tuple[Ints, Ints]:
        """User and local day of each purchase, by user and day."""
        bought = self.kind == PURCHASE
        days = self.day[bought]
        if not len(days):
            return np.empty(0, dtype=np.int64), days
        first = int(days.min())
        span = int(days.max()) - first + 1
        codes = np.unique(self.user[bought] * span + (days - first))
        return codes // span, codes % span + first


def local_days(times: pa.ChunkedArray, time_zone: str) -> Ints:
    """(n,) the local day of each instant, counted from 1970-01-01."""
    local = pc.local_timestamp(times.cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us", tz=time_zone)))
    return np.asarray(pc.floor_temporal(local, unit="day").cast(pa.date32()).cast(pa.int32()).to_numpy()).astype(np.int64)


def known_users(facts: Facts, day: int) -> Ints:
    """(R,) indices of the users who acted before a day, as it was known then: those of whom something can be said."""
    return np.unique(facts.user[facts.known < day])


def features(facts: Facts, day: int) -> tuple[Ints, Floats]:
    """Users known before a local day (R,), as indices, and their features at its first instant (R, F); NaN where missing."""
    facts = facts.before(day)
    users, row = np.unique(facts.user, return_inverse=True)
    count = len(users)
    found: dict[str, Floats] = {}

    def counted(mask: NDArray[np.bool_]) -> Floats:
        return np.bincount(row[mask], minlength=count).astype(np.float64)

    def days_since(mask: NDArray[np.bool_], last: bool = True) -> Floats:
        """Days from the last (or first) fact of the mask to `day`; NaN where there is none."""
        edge = np.full(count, -np.inf if last else np.inf)
        (np.maximum if last else np.minimum).at(edge, row[mask], facts.day[mask])
        return np.where(np.isfinite(edge), day - edge, np.nan)

    def within(days: int) -> NDArray[np.bool_]:
        return facts.day >= day - days

    bought, look, intent = (facts.kind == kind for kind in (PURCHASE, LOOK, INTENT))
    found["days_since_first_act"] = days_since(np.ones(len(facts), dtype=np.bool_), last=False)
    for days in (7, 30):
        found[f"looks_{days}d"] = counted(look & within(days))
        found[f"intents_{days}d"] = counted(intent & within(days))
    found["days_since_look"], found["days_since_intent"] = days_since(look), days_since(intent)
    found["returns_365d"] = counted((facts.kind == RETURN) & within(365))

    buyer, bought_on = facts.purchases()
    buyer = np.searchsorted(users, buyer)
    times = np.bincount(buyer, minlength=count).astype(np.float64)
    found["purchase_days"] = times
    for days in (7, 30, 90, 365):
        found[f"purchase_days_{days}d"] = np.bincount(buyer[bought_on >= day - days], minlength=count).astype(np.float64)
    since, first = days_since(bought), days_since(bought, last=False)
    follows = np.flatnonzero(buyer[1:] == buyer[:-1]) + 1
    gaps, owner = (bought_on[follows] - bought_on[follows - 1]).astype(np.float64), buyer[follows]
    with np.errstate(divide="ignore", invalid="ignore"):
        num_gaps = np.bincount(owner, minlength=count).astype(np.float64)
        gap_mean = np.bincount(owner, gaps, count) / num_gaps
        spread = np.sqrt(np.bincount(owner, (gaps - gap_mean[owner]) ** 2, count) / num_gaps)
        gap_last = np.full(count, np.nan)
        gap_last[owner] = gaps  # the last gap of a user is written last
        value, lines = np.bincount(row[bought], facts.value[bought], count), counted(bought)
        on_last = bought & (day - facts.day == since[row])
        found |= {
            "days_since_purchase": since,
            "days_since_first_purchase": first,
            "silence_share": since / first,
            "overdue": since / gap_mean,
            "purchase_rate": 30 * times / found["days_since_first_act"],
            "gap_mean": gap_mean,
            "gap_spread": np.where(num_gaps > 1, spread / gap_mean, np.nan),
            "gap_last": gap_last,
            "value_mean": np.where(times > 0, value / times, np.nan),
            "value_last": np.where(times > 0, np.bincount(row[on_last], facts.value[on_last], count), np.nan),
            "lines_mean": np.where(times > 0, lines / times, np.nan),
        }
    return users, np.stack([found[name] for name in NAMES], axis=1) if count else np.empty((0, len(NAMES)))


@dataclass(frozen=True)
class Encoder:
    """What was learned of a shop's features: their usual values and ranges, so that money and rhythm of any shop look alike."""

    low: Floats
    high: Floats
    center: Floats
    scale: Floats
    """(F,) of sign(x) log(1 + |x|)."""
    typical: Floats
    """(F,) median of each feature, NaN where most users have none: what an explanation compares with."""
    horizon: int
    """Days ahead the hazards reach."""

    @classmethod
    def fit(cls, values: Floats, horizon: int) -> Encoder:
        """Learn from features (R, F) of the training rows."""
        logs = _logs(values)
        missing = np.isnan(logs)
        # A feature that nobody has is 0 for all
        logs[:, missing.all(axis=0)] = 0.0
        low, high = np.nanquantile(logs, _CLIPPED, axis=0)
        clipped = np.clip(logs, low, high)
        scale = np.nanstd(clipped, axis=0)
        typical = np.where(missing.mean(axis=0) > 0.5, np.nan, np.nanmedian(np.where(missing, 0.0, values), axis=0))
        present = ~missing.all(axis=0)
        for place in np.flatnonzero(present & ~np.isnan(typical)):
            typical[place] = np.median(values[~missing[:, place], place])
        return cls(low, high, np.nanmean(clipped, axis=0), np.where(scale > 1e-9, scale, 1.0), typical, horizon)

    def encode(self, values: Floats) -> NDArray[np.float32]:
        """Features (R, F) as the network reads them, (R, F + O): scaled, 0 where missing, and whether each is missing."""
        scaled = (np.clip(_logs(values), self.low, self.high) - self.center) / self.scale
        missing = np.isnan(values)
        return np.concatenate([np.where(missing, 0.0, scaled), missing[:, _MAY_MISS]], axis=1).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write `encoder.json` into `folder`."""
        (folder / "encoder.json").write_text(json.dumps(self.content, indent=1))

    @property
    def content(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        learned = {name: [None if np.isnan(x) else float(x) for x in getattr(self, name)] for name in _LEARNED}
        return {"features": list(NAMES), "horizon": self.horizon, **learned}

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """The encoder that `save` wrote.

        Raises:
            ValueError: it reads other features than this version computes.
        """
        content = json.loads((folder / "encoder.json").read_text())
        if tuple(content["features"]) != NAMES:
            raise ValueError(f"the model reads {content['features']}, this version computes {NAMES}; train it again.")
        return cls(**{name: np.array(content[name], dtype=np.float64) for name in _LEARNED}, horizon=content["horizon"])


_LEARNED = ("low", "high", "center", "scale", "typical")


def _logs(values: Floats) -> Floats:
    """Sign and magnitude on a scale where twice as much is one step, whatever the unit; a huge spend stays a few steps away."""
    return np.sign(values) * np.log1p(np.abs(values))


def words(habit: str, values: Floats) -> str:
    """What is told of a habit of one user, from the user's features (F,)."""
    told = dict(zip(NAMES, values.tolist(), strict=True))
    if habit == "last purchase":
        return "never bought" if np.isnan(told["days_since_purchase"]) else f"bought {_days(told['days_since_purchase'])} ago"
    if habit == "purchases":
        return f"{told['purchase_days']:.0f} purchases, {told['purchase_days_90d']:.0f} of them in 90 days"
    if habit == "rhythm":
        return "no second purchase" if np.isnan(told["gap_mean"]) else f"bought every {_days(told['gap_mean'])}"
    if habit == "time as a user":
        return f"known for {_days(told['days_since_first_act'])}"
    if habit == "spend":
        return "no spend" if np.isnan(told["value_mean"]) else f"{told['value_mean']:,.2f} a purchase"
    if habit == "looks":
        return f"{told['looks_30d']:.0f} looks in 30 days"
    if habit == "cart and favourites":
        return f"{told['intents_30d']:.0f} items in cart or favourites in 30 days"
    return f"{told['returns_365d']:.0f} returned lines in 365 days"


def _days(number: float) -> str:
    return f"{number:.0f} day{'' if round(number) == 1 else 's'}"
