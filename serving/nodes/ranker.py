"""Model node: the candidates of retrieval by what is expected of showing them.

The features are those of the point-in-time join that the ranker learned from (`training.ranker.data`), computed by the same encoder: those
of the person are read once per request, those of the items once a minute, when their half of the network is computed as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from features.columns import CATEGORY, HISTORY_STEPS, USER_ID
from features.online.packing import to_microseconds
from features.shop import RankingRules
from features.store import FeatureStore
from infra.errors import ReleaseError
from serving.nodes.item_rules import Facts, ItemRules
from serving.nodes.item_tables import ItemTables
from training.ranker.candidates import Floats, Ints, Retrieved
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


class Ranking:
    """The ranker over the items of `rules`.

    Raises:
        ReleaseError: what the shop says leaves no chance any weight.
    """

    def __init__(self, store: FeatureStore, ranker: Ranker, said: RankingRules, rules: ItemRules, tables: ItemTables) -> None:
        other = {str(task): weight for task, weight in said.weights.items()}
        weights = {task: other.get(task, ranker.weights.get(task, 0.0)) for task in ranker.tasks}
        if not any(weights.values()):
            raise ReleaseError(f"ranking.weights of shop.yaml leave the ranker nothing: expected one above 0, got {weights}.")
        self.store = store
        self.ranker = ranker
        self.said = said
        self.rules = rules
        self.weights = weights
        self.refresh(tables)

    def over(self, rules: ItemRules, tables: ItemTables) -> Ranking:
        """The same over other items."""
        return Ranking(self.store, self.ranker, self.said, rules, tables)

    def refresh(self, tables: ItemTables) -> None:
        """Compute the vectors of the items anew, by the tables and the rules' facts; requests see the old ones until it is done."""
        facts, parts = self.rules.facts, []
        for start in range(0, len(self.rules.items), _ROWS):
            some = slice(start, start + _ROWS)
            columns = _columns(tables, self.rules.index[some])
            columns |= {"price": facts.price[some], "created_at": facts.created[some]}  # what was told stands over the tables
            at = np.full(len(facts.price[some]), to_microseconds(tables.as_of), dtype=np.float64)
            parts.append(self.ranker.vectors(item_values(columns, at), _categories(facts, some).tolist()))
        self._vectors = torch.cat(parts)

    def rank(
        self, people: Sequence[str | None], histories: Sequence[tuple[Ints, Sequence[str]]], found: Retrieved, at: datetime
    ) -> tuple[Floats, Floats]:
        """What is expected of showing each candidate, (R,), and the chances of each of the ranker's tasks, (R, T).

        Args:
            people: who is asked for; None: nobody whom the tables could know.
            histories: items (by their place in the catalogue) and kinds of the acts of each, oldest first, as the recommender reads them.

        Raises:
            EngineError: the online store cannot be read.
            ValueError: what comes out are no numbers.
        """
        facts, vectors, own = self.rules.facts, self._vectors, found.history
        rows = self.store.online_rows(SERVICE.name, {USER_ID: people}, at, USER_VIEWS)
        person = {name: _floats(rows[name]) for name in USER_FEATURES}
        category, price = _categories(facts, found.item), facts.price[found.item]
        newest = [(items[-HISTORY_STEPS:], kinds[-HISTORY_STEPS:]) for items, kinds in histories]
        crossed = Crossed(
            found.shares,
            found.rank.astype(np.float64),
            in_histories(newest, found.history, found.item),
            self._affinity(people, own, category, at),
            category,
            np.asarray(rows[MAIN_CATEGORY], dtype=object)[own],
            price,
            person[USUAL_PRICE][own],
        )
        user = user_values(person, np.full(len(people), to_microseconds(at), dtype=np.float64))
        chances = self.ranker.chances_of(user, vectors[torch.from_numpy(found.item)], crossed.values(), own)
        values = value_of(chances, self.ranker.tasks, self.weights, np.nan_to_num(price) if self.said.times_price else None)
        if not np.isfinite(values).all():
            raise ValueError("the ranker gives values that are no numbers; train it again.")
        return values, chances

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
