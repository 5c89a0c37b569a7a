"""Histories as the network reads them: training and serving encode alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Encoder:
    """Ids to indices and back; part of every model version, so training and serving read a history alike."""

    items: tuple[str, ...]
    """The catalogue, in index order."""
    event_types: tuple[str, ...]
    """Known kinds of act, the commonest first; an act of unsaid kind is read as that one."""
    popularity: tuple[float, ...]
    """Per item, its share of the recent acts: the answer for who has no history."""
    collapse: bool = True
    """A run of acts on one item is read as its last act; false: each act is a step."""

    @cached_property
    def index(self) -> dict[str, int]:
        """Item -> its place in the catalogue."""
        return {item: position for position, item in enumerate(self.items)}

    @cached_property
    def popular(self) -> Floats:
        """(items,) `popularity` to compute with."""
        return np.asarray(self.popularity, dtype=np.float32)

    @cached_property
    def event_index(self) -> dict[str, int]:
        """Kind of act -> its number."""
        return {event_type: position for position, event_type in enumerate(self.event_types)}

    def steps(self, items: Ints, events: Ints, users: Ints | int = 0) -> Ints:
        """Positions of the acts that are read of (n,) acts in time order, one user after another; training and serving ask it alike.

        Items and kinds of act that are not known (-1) are skipped; where runs collapse, one of a user's acts on one item counts as its
        last act.
        """
        known = np.flatnonzero((items >= 0) & (events >= 0))
        if not self.collapse:
            return known
        places = items + users * (len(self.items) + 1)  # a user's first act never continues a run of the user before
        kept: Ints = known[last_of_runs(places[known])]
        return kept

    def read(self, history: Sequence[str], event_types: Sequence[str] | None) -> tuple[Ints, Ints]:
        """Items and kinds of the acts that are read of one history, oldest first; see `steps`."""
        items = np.array([self.index.get(item, -1) for item in history], dtype=np.int64)
        if event_types is None:
            events = np.zeros(len(history), dtype=np.int64)
        else:
            events = np.array([self.event_index.get(kind, -1) for kind in event_types], dtype=np.int64)
        kept = self.steps(items, events)
        return items[kept], events[kept]

    def encode(
        self, histories: Sequence[Sequence[str]], event_types: Sequence[Sequence[str]] | None, max_length: int
    ) -> dict[str, Tensor]:
        """Histories, oldest act first, as `items` (B, L), `events` (B, L) and `lengths` (B,), padded at the end with 0.

        What `read` leaves out is skipped; the newest `max_length` acts stay.
        """
        kinds = [None] * len(histories) if event_types is None else event_types
        read = [self.read(history, its_kinds) for history, its_kinds in zip(histories, kinds, strict=True)]
        return pad([items[-max_length:] for items, _ in read], [events[-max_length:] for _, events in read])

    def save(self, path: Path) -> None:
        """Write it as one JSON file."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """The encoder that `save` wrote."""
        content = json.loads(path.read_text())
        items, event_types, popularity = (tuple(content[name]) for name in ("items", "event_types", "popularity"))
        return cls(items, event_types, popularity, content["collapse"])


def last_of_runs(items: Ints) -> NDArray[np.bool_]:
    """(n,) True where the next act is on another item: a view, cart and purchase of one thing in a row is one step of taste."""
    ends = np.ones(len(items), dtype=np.bool_)
    ends[:-1] = items[1:] != items[:-1]
    return ends


def pad(items: Sequence[Ints], events: Sequence[Ints], width: int = 1) -> dict[str, Tensor]:
    """Ragged rows as `items` (B, L), `events` (B, L), `lengths` (B,); L is the longest row, at least `width`."""
    lengths = np.fromiter((len(row) for row in items), np.int64, len(items))
    filled = np.arange(max(width, lengths.max(initial=0))) < lengths[:, None]
    padded = np.zeros((2, *filled.shape), dtype=np.int64)
    if lengths.any():
        padded[0][filled] = np.concatenate(list(items))
        padded[1][filled] = np.concatenate(list(events))
    return {"items": torch.from_numpy(padded[0]), "events": torch.from_numpy(padded[1]), "lengths": torch.from_numpy(lengths)}
