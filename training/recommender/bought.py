"""What was bought, by whom and on which local day: the one form in which purchases are learned from and asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.columns import EVENT_TIMESTAMP, EVENT_TYPE, ITEM_ID, USER_ID
from features.days import day_number
from training.recommender.encoder import Encoder
from training.splits import session_codes

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Bought:
    """Purchases of items of the catalogue, by person, item and day, (n,) each; a person buys an item once a day. Days from 1970."""

    users: Ints
    items: Ints
    days: Ints

    @classmethod
    def of(cls, users: Ints, items: Ints, days: Ints) -> Bought:
        """Purchases in any order, some perhaps told twice; items of -1 are left out."""
        known = items >= 0
        return cls(*np.unique(np.stack([users[known], items[known], days[known]]), axis=1))

    @classmethod
    def of_one(cls, items: Sequence[str], days: Sequence[date], encoder: Encoder) -> Bought:
        """Of one person, as a row of `user_purchases` tells it."""
        places = np.array([encoder.index.get(item, -1) for item in items], dtype=np.int64)
        return cls.of(np.zeros(len(places), dtype=np.int64), places, np.array([day_number(day) for day in days], dtype=np.int64))

    def before(self, day: int) -> Bought:
        """What was bought before a day."""
        return self._where(self.days < day)

    def within(self, first: int, until: int) -> Bought:
        """What was bought from one day up to another one, which is not among them."""
        return self._where((self.days >= first) & (self.days < until))

    @property
    def pairs(self) -> Pairs:
        """What each person bought, item by item."""
        begins = np.flatnonzero((np.diff(self.users, prepend=-1) != 0) | (np.diff(self.items, prepend=-1) != 0))
        ends = np.append(begins[1:], len(self.days)) - 1
        return Pairs(self.users[begins], self.items[begins], ends - begins + 1, self.days[begins], self.days[ends[: len(begins)]])

    def _where(self, mask: NDArray[np.bool_]) -> Bought:
        return Bought(self.users[mask], self.items[mask], self.days[mask])


@dataclass(frozen=True)
class Pairs:
    """One entry per person and item that the person bought, (n,) each: on how many days, on which first and on which last."""

    users: Ints
    items: Ints
    counts: Ints
    first: Ints
    last: Ints

    def __len__(self) -> int:
        return len(self.users)

    def some(self, most: int) -> Pairs:
        """At most so many of them, spread evenly."""
        step = slice(None, None, max(1, -(-len(self) // most)))
        return Pairs(self.users[step], self.items[step], self.counts[step], self.first[step], self.last[step])

    def in_(self, bought: Bought) -> NDArray[np.bool_]:
        """(n,) whether the person is also among the buyers of the item there."""
        size = 1 + max(self.items.max(initial=0), bought.items.max(initial=0))
        return np.isin(self.users * size + self.items, bought.users * size + bought.items)


def purchases_of(rows: pa.Table) -> pa.Table:
    """The purchases among interactions."""
    return rows.filter(pc.equal(rows[EVENT_TYPE], "purchase")).combine_chunks()


def bought_of(purchases: pa.Table, encoder: Encoder, zone: str) -> Bought:
    """Purchases by local day."""
    users = purchases[USER_ID].combine_chunks().dictionary_encode().indices
    local = pc.local_timestamp(purchases[EVENT_TIMESTAMP].cast(pa.timestamp("us", tz=zone)))
    return Bought.of(_integers(users), _places(purchases, encoder), _integers(local.cast(pa.date32()).cast(pa.int32())))


def baskets_of(purchases: pa.Table, encoder: Encoder) -> tuple[Ints, Ints]:
    """(session, item) of purchases in the order of `splits.in_order`, each once: what was bought in one session is a basket."""
    items = _places(purchases, encoder)
    sessions = session_codes(purchases)[items >= 0]
    found = np.unique(np.stack([sessions, items[items >= 0]]), axis=1)
    return found[0], found[1]


def _places(purchases: pa.Table, encoder: Encoder) -> Ints:
    return _integers(pc.index_in(purchases[ITEM_ID], pa.array(encoder.items)).fill_null(-1))


def _integers(column: pa.Array | pa.ChunkedArray) -> Ints:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(whole.to_numpy(zero_copy_only=False)).astype(np.int64)
