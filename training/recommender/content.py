"""What is said of an item, as words: they let a network speak of an item before anybody took it.

A word is a value of a column, or a part of one: a category and each part of its path, a brand, a word of the title, a price by
its size. Who writes between words is split there; a script that does not is read as pairs of characters.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, ITEM_ID

Ints = NDArray[np.int64]
Row = Mapping[str, Any]

WITHDRAWN = "withdrawn_at"
COLUMNS = ("title", "category", "brand", "price")
"""Where words are found in a row of `item_catalog`."""
READ = (ITEM_ID, *COLUMNS, WITHDRAWN, EVENT_TIMESTAMP, CREATED_TIMESTAMP)
"""What `told_before` needs of it."""

_PATH = re.compile(r"\s*[>/|;]\s*")
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
"""Scripts that are written without blanks: kana, Han, Thai."""
_TITLE = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")


def words_of(row: Row) -> list[str]:
    """The distinct words of one item, `column=word`; what is null says nothing."""
    return list(dict.fromkeys(_words(row)))


def _words(row: Row) -> Iterator[str]:
    if category := _plain(row.get("category")):
        yield f"category={category}"
        yield from (f"category={part}" for part in _PATH.split(category) if part)
    if brand := _plain(row.get("brand")):
        yield f"brand={brand}"
    for word in _TITLE.findall(_plain(row.get("title"))):
        if len(word) > 1 and _IS_UNSPACED.match(word):
            yield from (f"title={word[place : place + 2]}" for place in range(len(word) - 1))
        else:
            yield f"title={word}"
    price = row.get("price")
    if price is not None and 0 < float(price) < math.inf:
        yield f"price={round(2 * math.log2(float(price)))}"  # a step is a factor of 1.4


def told_before(catalog: pa.Table, learned: datetime | None, asked: datetime | None) -> dict[str, Row]:
    """Item -> what was said of it when learning ended; where nothing was, what was said of it first.

    Shops often export their items once, today: what is said first stands for the time before, as an item is seldom another later.

    Args:
        catalog: rows of `item_catalog` with READ.
        learned, asked: until when is learned from and asked about; items first seen later are left out, and so are items off sale
            before learning ended. None: times mean nothing, the newest row counts.
    """
    told: dict[str, Row] = {}
    for row in catalog.sort_by([(EVENT_TIMESTAMP, "ascending"), (CREATED_TIMESTAMP, "ascending")]).to_pylist():
        item, seen = row[ITEM_ID], max(row[EVENT_TIMESTAMP], row[CREATED_TIMESTAMP])
        is_first = item not in told or not any(words_of(told[item]))
        if learned is None or seen <= learned or (is_first and (item in told or asked is None or seen <= asked)):
            told[item] = row
    return {item: row for item, row in told.items() if learned is None or not row[WITHDRAWN] or row[WITHDRAWN] > learned}


def _plain(text: str | None) -> str:
    return unicodedata.normalize("NFKC", text or "").casefold().strip()


@dataclass(frozen=True)
class Bags:
    """Words of items: item i has `words[offsets[i]:offsets[i + 1]]`, numbers in a vocabulary."""

    offsets: Ints
    words: Ints


@dataclass(frozen=True)
class Vocabulary:
    """The words that were learned; part of a model version, so a new item is read as the others were."""

    words: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(cls, told: Iterable[Sequence[str]], least: int = 2) -> Vocabulary:
        """The words of at least so many items, in order: a word of one item alone says no more than its id."""
        counts = Counter(word for words in told for word in words)
        return cls(tuple(sorted(word for word, count in counts.items() if count >= least)))

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> its number."""
        return {word: number for number, word in enumerate(self.words)}

    def bags(self, told: Sequence[Sequence[str]]) -> Bags:
        """The words of each item that are known."""
        numbers = [[self.index[word] for word in words if word in self.index] for words in told]
        lengths = np.fromiter(map(len, numbers), np.int64, len(numbers))
        flat = np.fromiter((number for bag in numbers for number in bag), np.int64, int(lengths.sum()))
        return Bags(np.r_[0, np.cumsum(lengths)], flat)

    def save(self, path: Path) -> None:
        """Write it as one JSON file."""
        path.write_text(json.dumps(self.words))

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """What `save` wrote."""
        return cls(tuple(json.loads(path.read_text())))
