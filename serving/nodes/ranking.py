"""Model node: the items of a shortlist by what is expected of showing them.

The features are those of the point-in-time join that the ranker learned from (`training.ranker.data`), computed by the same encoder: those
of the person are read once per request, those of the items once a minute, when their half of the network is computed as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from features.columns import CATEGORY, HISTORY_STEPS, USER_ID
from features.online.packing import to_microseconds
from features.shop import RankingRules
from infra.errors import ReleaseError
from serving.catalogue import Catalogue, Listing
from serving.edges import Shortlist, Shortlists
from serving.nodes.item_facts import Facts
from serving.nodes.item_tables import ItemTables
from serving.nodes.node import Node, NodeSettings
from serving.nodes.user_history import History, person_of
from serving.parts import Parts
from serving.schemas import RecommendRequest
from training.ranker.candidates import Floats, Ints
from training.ranker.encoder import (
    AFFINITY,
    CROSS_VIEWS,
    ITEM_COLUMNS,
    ITEM_VIEWS,
    MAIN_CATEGORY,
    SERVICE,
    USER_FEATURES,
    USER_VIEWS,
    USUAL_PRICE,
    Crossed,
    floats,
    in_histories,
    item_values,
    user_values,
)
from training.ranker.model import Ranker, value_of

_ROWS = 262_144
"""Items whose features are held at a time."""


@dataclass(frozen=True)
class _Items:
    """The items and their half of the network, one row each."""

    listing: Listing
    vectors: torch.Tensor


class Ranking(Node):
    """The ranker over the items of a catalogue.

    Raises:
        ReleaseError: what the shop says leaves no chance any weight.
    """

    reads = (History, Shortlists)
    gives = Shortlists
    models = ("ranker",)
    services = ("ranker",)
    stand_in = "unranked"

    def __init__(self, catalogue: Catalogue, ranker: Ranker, said: RankingRules) -> None:
        other = {str(task): weight for task, weight in said.weights.items()}
        weights = {task: other.get(task, ranker.weights.get(task, 0.0)) for task in ranker.tasks}
        if not any(weights.values()):
            raise ReleaseError(f"ranking.weights of shop.yaml leave the ranker nothing: expected one above 0, got {weights}.")
        self.store = catalogue.store
        self.ranker = ranker
        self.said = said
        self.weights = weights
        catalogue.follow(self._take_up)

    @classmethod
    def open(cls, settings: NodeSettings, parts: Parts) -> Self:  # noqa: ARG003
        """Over the catalogue of the recommender."""
        return cls(parts.catalogue, parts.ranker, parts.manifest.ranking)

    def _take_up(self, listing: Listing, tables: ItemTables) -> None:
        """Compute the vectors of the items anew, by the tables and what was told; requests see the old ones until it is done."""
        known, parts = listing.facts, []
        facts = known.facts
        for start in range(0, len(known.items), _ROWS):
            some = slice(start, start + _ROWS)
            columns = _columns(tables, known.index[some])
            columns |= {"price": facts.price[some], "created_at": facts.created[some]}  # what was told stands over the tables
            at = np.full(len(facts.price[some]), to_microseconds(tables.as_of), dtype=np.float64)
            parts.append(self.ranker.vectors(item_values(columns, at), _categories(facts, some).tolist()))
        self._items = _Items(listing, torch.cat(parts))

    def run(self, requests: Sequence[RecommendRequest], at: datetime, *read: Sequence[Any]) -> list[Shortlists]:
        """The shortlists that can be ranked by what is expected of showing each item; the others as they are.

        Raises:
            EngineError: the online store cannot be read.
            ValueError: what comes out are no numbers.
        """
        histories, shortlists = read
        lists = [list(one.lists) for one in shortlists]
        places = [(row, number) for row, of_one in enumerate(lists) for number, one in enumerate(of_one) if one.ranks is not None]
        if places:
            chosen = [lists[row][number] for row, number in places]
            people = [person_of(requests[row]) for row, _ in places]
            ranked = self.rank(people, [histories[row] for row, _ in places], chosen, at)
            for (row, number), one in zip(places, ranked, strict=True):
                lists[row][number] = one
        return [Shortlists(tuple(of_one)) for of_one in lists]

    def without(self, requests: Sequence[RecommendRequest], at: datetime, *read: Sequence[Any]) -> list[Shortlists]:  # noqa: ARG002
        """The order of retrieval, which is a good one."""
        _, shortlists = read
        return [
            Shortlists(
                tuple(
                    one if one.ranks is None else replace(one, ranks=None, degraded=(*one.degraded, "unranked")) for one in of.lists
                )
            )
            for of in shortlists
        ]

    def rank(
        self, people: Sequence[str | None], histories: Sequence[History], shortlists: Sequence[Shortlist], at: datetime
    ) -> list[Shortlist]:
        """The shortlists by what is expected of showing each item.

        Args:
            people: whom each is for; None: nobody whom the tables could know.
            histories: of each, none of them empty to the encoder.
        """
        items = self._items
        facts, encoder = items.listing.facts.facts, items.listing.model.encoder
        sizes = [len(one.items) for one in shortlists]
        own = np.repeat(np.arange(len(shortlists)), sizes)
        item = np.array([encoder.index.get(name, -1) for one in shortlists for name in one.items], dtype=np.int64)
        is_known = item >= 0  # another process may list an item some seconds before this one
        rows = self.store.online_rows(SERVICE.name, {USER_ID: people}, at, USER_VIEWS)
        person = {name: _floats(rows[name]) for name in USER_FEATURES}
        category, price = _categories(facts, item), facts.price[item]
        read = [encoder.read(history.item_ids, history.event_types) for history in histories]
        newest = [
            (acts[-HISTORY_STEPS:], [encoder.event_types[event] for event in events[-HISTORY_STEPS:]]) for acts, events in read
        ]
        crossed = Crossed(
            {name: np.concatenate([one.shares[name] for one in shortlists]) for name in shortlists[0].shares},
            np.concatenate([one.ranks for one in shortlists if one.ranks is not None]).astype(np.float64),
            in_histories(newest, own, item),
            self._affinity(people, own, category, at),
            category,
            np.asarray(rows[MAIN_CATEGORY], dtype=object)[own],
            price,
            person[USUAL_PRICE][own],
        )
        user = user_values(person, np.full(len(people), to_microseconds(at), dtype=np.float64))
        chances = self.ranker.chances_of(user, items.vectors[torch.from_numpy(item)], crossed.values(), own)
        values = value_of(chances, self.ranker.tasks, self.weights, np.nan_to_num(price) if self.said.times_price else None)
        if not np.isfinite(values).all():
            raise ValueError("the ranker gives values that are no numbers; train it again.")
        values = np.where(is_known, values, 0.0)
        ranked = []
        for one, end in zip(shortlists, np.cumsum(sizes), strict=True):
            these = slice(end - len(one.items), end)
            best = np.argsort(-values[these], kind="stable")
            ranked.append(
                replace(
                    one,
                    items=one.items[best],
                    scores=values[these][best],
                    sources=tuple(one.sources[place] for place in best),
                    steepness=0.0,
                    ranks=None,
                    shares={},
                    chances={task: chances[these, number][best] for number, task in enumerate(self.ranker.tasks)},
                )
            )
        return ranked

    def _affinity(self, people: Sequence[str | None], own: Ints, category: NDArray[np.object_], at: datetime) -> dict[str, Floats]:
        """Each person's affinity to the categories of the candidates; each is looked up once."""
        places: dict[tuple[int, Any], int] = {}
        which = [places.setdefault(pair, len(places)) for pair in zip(own.tolist(), category.tolist(), strict=True)]
        keys = {USER_ID: [people[one] for one, _ in places], CATEGORY: [word for _, word in places]}
        rows = self.store.online_rows(SERVICE.name, keys, at, CROSS_VIEWS)
        return {name: _floats(rows[name])[which] for name in AFFINITY}


def _columns(tables: ItemTables, items: pa.Array) -> dict[str, Floats]:
    """What the tables say of some items, by the names of the feature service."""
    found: dict[str, Floats] = {}
    for view in ITEM_VIEWS:
        names = {column: name for column, name in SERVICE.output_names[view].items() if name in ITEM_COLUMNS}
        found |= {names[column]: floats(values) for column, values in tables.aligned(view, names, items).items()}
    return found


def _categories(facts: Facts, items: slice | Ints) -> NDArray[np.object_]:
    """Category of each, None where nobody knows."""
    words = np.asarray(facts.category[items], dtype=object)
    words[words == ""] = None
    return words


def _floats(values: Sequence[Any]) -> Floats:
    """Values of an online column as `floats` gives those of a frame."""
    return np.array(
        [np.nan if one is None else to_microseconds(one) if isinstance(one, datetime) else one for one in values], dtype=np.float64
    )
