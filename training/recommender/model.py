"""The half of the recommender that answers: a network beside what was counted, blended by shares."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn import functional

from infra.errors import ModelNotFoundError
from training.metrics.ranking import top_k
from training.recommender.content import Row, Vocabulary, words_of
from training.recommender.encoder import Encoder, Ints, pad
from training.recommender.names import CONTENT, NETWORK, PAIRED, POPULAR, SOURCES
from training.recommender.network import Config, Network
from training.recommender.sources import Content, Floats, Near, Source, blended, shares_of, softmax

Recommendations = list[tuple[str, float]]
"""(item_id, score), best first."""

_SCORES = 4_000_000
"""Scores that are there at once: with those of 32 histories and a million items an answer takes half as long again, and gigabytes."""
_ROWS = 512
"""Histories that pass through the network together."""
_TINY = np.finfo(np.float32).tiny
_SILENT = 1e-9
"""Part of its popularity that is added to every share."""
_LEAST = -25.0
"""What the log of a share counts as where it is less, or nothing, so that a fall from it can be told."""


def network_scores(network: Network, items: Sequence[Ints], events: Sequence[Ints]) -> Floats:
    """Score of every item after each history, (histories, items); none may be empty."""
    if len(items) > _ROWS:
        found = np.empty((len(items), network.item.num_embeddings), dtype=np.float32)
        for start in range(0, len(items), _ROWS):
            rows = slice(start, start + _ROWS)
            found[rows] = network_scores(network, items[rows], events[rows])
        return found
    longest, device = network.config.max_length, network.item_bias.device
    batch = pad([row[-longest:] for row in items], [row[-longest:] for row in events])
    with torch.inference_mode():
        return np.asarray(network.scores(**{name: value.to(device) for name, value in batch.items()}).cpu())


@dataclass(frozen=True)
class Recommender:
    """A trained model that answers. Scores are logs of shares: how likely an item is the next one, as the blend of sources says."""

    config: Config
    encoder: Encoder
    network: Network = field(repr=False)
    counted: Mapping[str, Source] = field(default_factory=dict, repr=False)
    """Sources beside the network and what is popular, by name."""
    weights: Mapping[str, float] = field(default_factory=lambda: {NETWORK: 1.0})
    """Source (see `training.recommender.sources`) -> its weight in the blend."""
    vocabulary: Vocabulary = field(default_factory=Vocabulary, repr=False)
    """The words by which the network knows what it never saw."""

    def with_items(self, told: Mapping[str, Row]) -> Recommender:
        """The same model with more items in its catalogue, known by what is said of them alone (see `content`).

        Args:
            told: item -> its row; those it knows, and those of which nothing is said that it knows, are left out.
        """
        words = {item: words_of(row) for item, row in told.items() if item not in self.encoder.index}
        new = [item for item, its_words in words.items() if any(word in self.vocabulary.index for word in its_words)]
        if not new:
            return self
        old, size = len(self.encoder.items), len(self.encoder.items) + len(new)
        bags = self.vocabulary.bags([[]] * old + [words[item] for item in new])
        network = Network(self.config, size, len(self.encoder.event_types), len(self.vocabulary))
        state = self.network.state_dict()
        state["item.weight"] = functional.pad(state["item.weight"], (0, 0, 0, len(new)))
        state["item_bias"] = functional.pad(state["item_bias"], (0, len(new)))
        network.load_state_dict(state)
        network.tell(bags, np.arange(size) >= old)
        popularity = (*self.encoder.popularity, *([0.0] * len(new)))
        encoder = replace(self.encoder, items=(*self.encoder.items, *new), popularity=popularity)
        counted = {name: source.told(bags.offsets[old:], bags.words) for name, source in self.counted.items()}
        return replace(self, encoder=encoder, network=network.fused(), counted=counted)

    @classmethod
    def load(cls, folder: Path) -> Recommender:
        """The model that `save` wrote.

        Raises:
            ModelNotFoundError: an earlier version of shopgraph wrote it, whose networks are others.
        """
        weights = json.loads((folder / "blend.json").read_text())
        if not (folder / "vocabulary.json").exists() or not set(weights) <= set(SOURCES):
            raise ModelNotFoundError(
                f"the recommender in {folder} is of an earlier shopgraph; run `shopgraph train recommender` again."
            )
        config = Config.model_validate_json((folder / "config.json").read_text())
        encoder = Encoder.load(folder / "encoder.json")
        vocabulary = Vocabulary.load(folder / "vocabulary.json")
        network = Network(config, len(encoder.items), len(encoder.event_types), len(vocabulary))
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        counted: dict[str, Source] = {}
        for name in (*PAIRED, CONTENT):
            if (file := folder / f"{name}.safetensors").exists():
                counted[name] = Content.load(file) if name == CONTENT else Near.load(file)
        return cls(config, encoder, network.eval(), counted, weights, vocabulary)

    def save(self, folder: Path) -> None:
        """Write `config`, `encoder`, `vocabulary` and `blend` as JSON, `weights` and what is counted as safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2))
        self.encoder.save(folder / "encoder.json")
        (folder / "blend.json").write_text(json.dumps(dict(self.weights)))
        for name, source in self.counted.items():
            source.save(folder / f"{name}.safetensors")
        self.vocabulary.save(folder / "vocabulary.json")
        save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, folder / "weights.safetensors")

    def knows(self, item_id: str) -> bool:
        """Whether the item was in the catalogue the model learned."""
        return item_id in self.encoder.index

    def reads(self, event_types: Sequence[str]) -> bool:
        """Whether any of these is a kind of act that the model learned from."""
        return any(kind in self.encoder.event_index for kind in event_types)

    def is_personal(self, history: Sequence[str], event_types: Sequence[str] | None = None) -> bool:
        """Whether an answer to this history is about it; else it is the popular list."""
        return len(self.encoder.read(history, event_types)[0]) > 0

    def sources(self, items: Sequence[Ints], events: Sequence[Ints]) -> dict[str, Floats]:
        """What each source of weight says comes next: source -> share of every item, (histories, items).

        Args:
            items, events: per history, oldest first, what `Encoder.read` gives; none may be empty.
        """
        found = {}
        if self.weights.get(NETWORK):
            scores = network_scores(self.network, items, events)
            self._ban_seen(scores, items, -np.inf)
            found[NETWORK] = softmax(scores)
        others = {name: source.scores(items) for name, source in self.counted.items() if self.weights.get(name)}
        if self.weights.get(POPULAR):
            others[POPULAR] = np.tile(self.encoder.popular, (len(items), 1))
        for name, scores in others.items():
            self._ban_seen(scores, items, 0.0)
            found[name] = shares_of(scores)
        return found

    def shares(self, items: Sequence[Ints], events: Sequence[Ints]) -> Floats:
        """Share of every item in what comes next, (histories, items), as the blend says; popularity where a history is empty.

        Arguments as of `sources`.
        """
        return self.shares_by_source(items, events)[1]

    def shares_by_source(self, items: Sequence[Ints], events: Sequence[Ints]) -> tuple[dict[str, Floats], Floats]:
        """What each source of weight says, and what `shares` makes of it; where a history is empty the sources say 0.

        Arguments as of `sources`.
        """
        known = [row for row, history in enumerate(items) if len(history)]
        if len(known) == len(items):
            sources = self.sources(items, events)
            return sources, self.blend(sources)
        found: dict[str, Floats] = {}
        whole = np.tile(self.encoder.popular, (len(items), 1))
        if known:
            sources, whole[known] = self.shares_by_source([items[row] for row in known], [events[row] for row in known])
            for name, share in sources.items():
                found[name] = np.zeros_like(whole)
                found[name][known] = share
        return found, whole

    def blend(self, shares: Mapping[str, Floats]) -> Floats:
        """What `sources` gives as one share of every item; among those of which no source speaks the popular ones come first."""
        heard, popular = torch.from_numpy(blended(shares, self.weights)), torch.from_numpy(self.encoder.popular)
        return torch.add(heard, popular, alpha=_SILENT).numpy()  # with all threads, as NumPy does not

    def scores(self, histories: Sequence[Sequence[str]], event_types: Sequence[Sequence[str]] | None = None) -> Floats:
        """Log of the share of every item of the catalogue, (histories, items), acts oldest first; popularity where nothing is read.

        Items of which no source speaks come last, the popular ones before the others.
        """
        kinds = [None] * len(histories) if event_types is None else event_types
        read = [self.encoder.read(history, its_kinds) for history, its_kinds in zip(histories, kinds, strict=True)]
        return np.log(np.maximum(self.shares([items for items, _ in read], [events for _, events in read]), _TINY))

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        exclude: Sequence[Collection[str]] | None = None,
        allowed: NDArray[np.bool_] | None = None,
        event_types: Sequence[Sequence[str]] | None = None,
    ) -> list[Recommendations]:
        """The k best items for each history (acts oldest first); fewer where fewer are allowed.

        Args:
            exclude: per history, items not to be shown.
            allowed: (items,) of the catalogue, False: shown to nobody.
            event_types: per history, the kind of each act; unsaid: the commonest kind.

        Raises:
            ValueError: k is negative, or the arguments differ in length.
        """
        for name, value in (("exclude", exclude), ("event_types", event_types)):
            if value is not None and len(value) != len(histories):
                raise ValueError(f"{len(histories)} histories but {len(value)} of {name}")
        step = max(1, _SCORES // len(self.encoder.items))
        found = []
        for start in range(0, len(histories), step):
            rows = slice(start, start + step)
            kinds = None if event_types is None else event_types[rows]
            scores = self.scores(histories[rows], kinds)
            for row, history in enumerate(histories[rows]):
                self._ban(scores[row], exclude[start + row] if exclude is not None else (), allowed)
                if not self.config.repeats:
                    scores[row, self.encoder.read(history, kinds[row] if kinds is not None else None)[0]] = -np.inf
            found += [self._named(row, best) for row, best in zip(scores, top_k(scores, k), strict=True)]
        return found

    def reasons(
        self, history: Sequence[str], event_types: Sequence[str] | None, items: Sequence[str], most: int = 3
    ) -> list[Recommendations]:
        """Per recommended item, the items of the history that speak for it, the strongest first: `(item_id, weight)`.

        The weight is how far the log of the item's share falls when every act on that item is left out of the history
        (leave-one-out attribution, which holds for any model); only what speaks for it is named, at most `most`.

        Raises:
            KeyError: a recommended item is not in the catalogue.
        """
        read, events = (part[-self.config.max_length :] for part in self.encoder.read(history, event_types))
        names = [self.encoder.items[item] for item in read]
        kinds = [self.encoder.event_types[event] for event in events]
        others = list(dict.fromkeys(names))
        keeps = [[name != other for name in names] for other in (None, *others)]
        columns = [self.encoder.index[item] for item in items]
        left = [[[of for of, is_kept in zip(part, keep, strict=True) if is_kept] for keep in keeps] for part in (names, kinds)]
        step = max(1, _SCORES // len(self.encoder.items))
        parts = [
            self.scores(left[0][start : start + step], left[1][start : start + step])[:, columns]
            for start in range(0, len(keeps), step)
        ]
        scores = np.maximum(np.concatenate(parts), _LEAST)
        falls = scores[0] - scores[1:]
        found = []
        for column in range(len(items)):
            order = np.argsort(-falls[:, column], kind="stable")[:most]
            found.append([(others[row], float(falls[row, column])) for row in order if falls[row, column] > 0])
        return found

    def popular(self, k: int) -> Recommendations:
        """The k most popular items of late."""
        return self.recommend([[]], k)[0]

    def similar(
        self, item_id: str, k: int, exclude: Collection[str] = (), allowed: NDArray[np.bool_] | None = None
    ) -> Recommendations:
        """The k items whose embeddings point most nearly the same way (cosine), without the item itself.

        Raises:
            KeyError: the item is not in the catalogue.
            ValueError: k is negative.
        """
        cosines = self.cosines([item_id])
        self._ban(cosines, [item_id, *exclude], allowed)
        return self._named(cosines, top_k(cosines[None], k)[0])

    def cosines(self, item_ids: Sequence[str]) -> Floats:
        """(items,) how nearly the embedding of each item of the catalogue points the way of these items' mean direction.

        Raises:
            KeyError: one of them is not in the catalogue.
        """
        mean = self._directions[[self.encoder.index[item] for item in item_ids]].mean(axis=0)
        return np.asarray(self._directions @ (mean / max(float(np.linalg.norm(mean)), _TINY)), dtype=np.float32)

    def _ban_seen(self, scores: Floats, items: Sequence[Ints], least: float) -> None:
        """Where nothing comes again, set the items of each history to `least`, in place."""
        if not self.config.repeats:
            for row, history in enumerate(items):
                scores[row, history] = least

    @cached_property
    def _directions(self) -> Floats:
        return np.asarray(functional.normalize(self.network.item.weight.detach(), dim=1).numpy())

    def _ban(self, scores: Floats, items: Iterable[str], allowed: NDArray[np.bool_] | None) -> None:
        """Set what may not be shown to -inf, in place."""
        scores[[self.encoder.index[item] for item in items if item in self.encoder.index]] = -np.inf
        if allowed is not None:
            scores[~allowed] = -np.inf

    def _named(self, scores: Floats, best: Ints) -> Recommendations:
        return [(self.encoder.items[item], float(scores[item])) for item in best if scores[item] > -np.inf]
