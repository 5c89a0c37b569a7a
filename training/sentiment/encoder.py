"""The tokenizer: what a text consists of, learned from the training texts alone.

A text is read twice. As a set of *terms*: character n-grams (across blanks and punctuation) and words with pairs of words. As
a sequence of *pieces*: at each character its 1-gram, its 2-gram and the word around it. A word is a run of letters, marks and
digits, so a script that writes without blanks yields clauses, of which only the common ones are kept; nothing here knows a
language.

Terms and pieces are 64-bit hashes of character spans, so a model file holds no piece of anybody's review. One polynomial
hash (Karp & Rabin 1987) gives every span of a batch from prefix sums: a span [a, b) of characters c is
sum(mix(c_i) * M^(i - a)) mod 2^64 = (S[b] - S[a]) * M^-a.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from safetensors.numpy import load_file, save_file

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

PAD, UNKNOWN, NUM_SPECIAL = 0, 1, 2
"""Piece ids that are no piece: after the end, and not in the vocabulary."""
NUM_CHANNELS = 3
"""Pieces per character: 1-gram, 2-gram, word."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
_WORD_SALT = np.uint64(0xD1B54A32D192ED03)
_PAIR_SALT = np.uint64(0x8CB92BA72F3D8DD7)
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
"""Control and format characters, byte-order marks, variation selectors."""
_RUN = re.compile(r"(.)\1{3,}", re.DOTALL)
_BLANK = re.compile(r"\s+")
_END = "\n"
"""Stands before and after each text; no normalised text contains it."""
_CHUNK = 20_000


class EncoderConfig(BaseModel):
    """How large the vocabularies may grow and how far a text is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_chars: PositiveInt = Field(1000, description="Characters of a text that are read; the rest is cut off.")
    max_ngram: PositiveInt = Field(4, description="Longest character n-gram among the terms.")
    max_terms: PositiveInt = Field(400_000, description="Terms kept, those in most texts first.")
    min_texts: PositiveInt = Field(2, description="Texts a term must be in to be kept.")
    max_pieces: PositiveInt = Field(20_000, description="Pieces kept, those in most texts first.")
    min_piece_texts: PositiveInt = Field(5, description="Texts a piece must be in to be kept.")


@dataclass(frozen=True)
class Encoded:
    """Encoded texts, ragged and flat: text i has terms[term_ends[i-1]:term_ends[i]], and likewise pieces."""

    terms: NDArray[np.int32]
    term_ends: Ints
    pieces: NDArray[np.int32]
    """(characters, NUM_CHANNELS)"""
    piece_ends: Ints

    def __len__(self) -> int:
        return len(self.term_ends)

    @cached_property
    def num_terms(self) -> Ints:
        """Known terms per text."""
        return np.diff(self.term_ends, prepend=0)

    @cached_property
    def lengths(self) -> Ints:
        """Characters per text."""
        return np.diff(self.piece_ends, prepend=0)


@dataclass(frozen=True)
class Vocabulary:
    """Distinct hashes in ascending order, found by their leading bits: hashes are spread evenly, so few share them."""

    hashes: Hashes

    def __len__(self) -> int:
        return len(self.hashes)

    def places(self, hashes: Hashes) -> Ints:
        """Place of each hash, -1 where it is not in the vocabulary."""
        slots = (hashes >> self._shift).astype(np.int64)
        places, stops = self._begins[slots], self._begins[slots + 1]
        found = np.full(len(hashes), -1)
        left = np.flatnonzero(places < stops)
        while len(left):
            match = self.hashes[places[left]] == hashes[left]
            found[left[match]] = places[left[match]]
            left = left[~match]
            places[left] += 1
            left = left[places[left] < stops[left]]
        return found

    @cached_property
    def _shift(self) -> np.uint64:
        return np.uint64(63 - max(1, len(self)).bit_length())

    @cached_property
    def _begins(self) -> NDArray[np.int32]:
        """Per value of the leading bits, the place of the first hash that has it or a greater one."""
        slots = (self.hashes >> self._shift).astype(np.int64)
        counts = np.bincount(slots, minlength=2 ** (64 - int(self._shift)))
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


@dataclass(frozen=True)
class Encoder:
    """Texts to ids; part of every model version, so training and serving read a text alike."""

    config: EncoderConfig
    terms: Vocabulary
    """The known terms; a term's id is its place."""
    ratios: Floats
    """Per term, log of its share among good texts over its share among bad ones (Wang & Manning 2012)."""
    pieces: Vocabulary
    """The known pieces; a piece's id is its place + NUM_SPECIAL."""

    @classmethod
    def learn(cls, texts: Sequence[str], labels: NDArray[np.int64], config: EncoderConfig) -> Encoder:
        """Build the vocabularies from training texts.

        Args:
            labels: (texts,) 1 good, 0 bad.

        Raises:
            ValueError: no text holds a character, or all labels are alike.
        """
        if len(set(labels.tolist())) < 2:
            raise ValueError("learning a vocabulary needs good and bad texts")
        terms, pieces = _Counts(), _Counts()
        for begin in range(0, len(texts), _CHUNK):
            spans = Spans([normalised(text, config.max_chars) for text in texts[begin : begin + _CHUNK]])
            chunk = labels[begin : begin + _CHUNK]
            terms.add(list(spans.terms(config.max_ngram)), chunk)
            pieces.add([(channel, spans.owners[spans.chars]) for channel in spans.pieces()], chunk)
        if not len(terms.hashes):
            raise ValueError("no training text holds a character")
        kept = terms.commonest(config.max_terms, config.min_texts)
        good, bad = terms.good[kept] + 1, terms.bad[kept] + 1
        ratios = np.log(good / good.sum()) - np.log(bad / bad.sum())
        kept_pieces = pieces.commonest(config.max_pieces, config.min_piece_texts)
        return cls(config, Vocabulary(terms.hashes[kept]), ratios.astype(np.float32), Vocabulary(pieces.hashes[kept_pieces]))

    @property
    def num_terms(self) -> int:
        """Rows of a table of terms."""
        return len(self.terms)

    @property
    def num_pieces(self) -> int:
        """Rows of a table of pieces, PAD and UNKNOWN included."""
        return len(self.pieces) + NUM_SPECIAL

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of each text; a text without any known term has none."""
        spans = Spans([normalised(text, self.config.max_chars) for text in texts])
        parts = list(spans.terms(self.config.max_ngram))
        places = self.terms.places(np.concatenate([hashes for hashes, _ in parts]))
        owners = np.concatenate([owners for _, owners in parts])
        keys = np.sort((owners * self.num_terms + places)[places >= 0])  # in order of texts
        keys = keys[np.diff(keys, prepend=-1) > 0]  # a term counts once per text
        channels = [self.pieces.places(hashes) for hashes in spans.pieces()]
        return Encoded(
            terms=(keys % self.num_terms).astype(np.int32),
            term_ends=np.cumsum(np.bincount(keys // self.num_terms, minlength=len(texts))),
            pieces=np.stack([np.where(places < 0, UNKNOWN, places + NUM_SPECIAL) for places in channels], axis=1).astype(np.int32),
            piece_ends=np.cumsum(np.bincount(spans.owners[spans.chars], minlength=len(texts))),
        )

    def save(self, folder: Path) -> None:
        """Write `encoder.json` and `encoder.safetensors` into `folder`."""
        (folder / "encoder.json").write_text(self.config.model_dump_json(indent=2))
        arrays = {"terms": self.terms.hashes.view(np.int64), "ratios": self.ratios, "pieces": self.pieces.hashes.view(np.int64)}
        save_file(arrays, folder / "encoder.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """The encoder that `save` wrote."""
        config = EncoderConfig.model_validate_json((folder / "encoder.json").read_text())
        arrays = load_file(folder / "encoder.safetensors")
        terms, pieces = (Vocabulary(arrays[name].view(np.uint64)) for name in ("terms", "pieces"))
        return cls(config, terms, arrays["ratios"], pieces)


def normalised(text: str, max_chars: int) -> str:
    """The first `max_chars` characters in Unicode's compatibility form and one case, without what cannot be seen.

    No more than `max_chars` come back: the compatibility form of one character may have eighteen.
    A run of one character longer than three is cut to three: "好好好好好" and "sooooo" say no more than their short forms.
    """
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text[:max_chars])).casefold()[:max_chars]
    return _RUN.sub(r"\1\1\1", _BLANK.sub(" ", text)).strip()


class Spans:
    """Hashes of the character spans of some normalised texts, all computed at once."""

    def __init__(self, texts: Sequence[str]) -> None:
        joined = "".join((_END, *(text + _END for text in texts)))
        codes = np.frombuffer(joined.encode("utf-32-le", "replace"), np.uint32)  # half a surrogate pair becomes "?"
        is_end = codes == ord(_END)
        self.codes = codes
        self.owners: Ints = np.cumsum(is_end) - 1
        """Per position, its text; an end belongs to the text that follows it."""
        self.chars: Ints = np.flatnonzero(~is_end)
        """Positions that are no end."""
        self._ends_before = np.concatenate([[0], np.cumsum(is_end)])
        powers = np.full(len(codes), _MULTIPLIER)
        powers[0] = 1
        self._inverses = np.full(len(codes), _INVERSE)
        self._inverses[0] = 1
        np.cumprod(self._inverses, out=self._inverses)
        self._sums = np.concatenate([[np.uint64(0)], np.cumsum(_mixed(codes) * np.cumprod(powers))])

    def hashes(self, begins: Ints, stops: Ints) -> Hashes:
        """Hash of each span [begin, stop)."""
        return np.asarray((self._sums[stops] - self._sums[begins]) * self._inverses[begins])

    def ngrams(self, n: int) -> tuple[Hashes, Ints]:
        """(hashes, texts they are in) of the character n-grams; an end may be their first or last character, so texts ascend."""
        begins = np.arange(len(self.codes) - n + 1)
        inside = self._ends_before[begins + n - 1] - self._ends_before[np.minimum(begins + 1, begins + n - 1)]
        alone = self._ends_before[begins + n] - self._ends_before[begins] == n
        begins = begins[(inside == 0) & ~alone]
        return self.hashes(begins, begins + n), self.owners[begins]

    def terms(self, max_ngram: int) -> Iterator[tuple[Hashes, Ints]]:
        """(hashes, texts they are in) of the 1-grams, 2-grams ... then words, then pairs of words; texts ascend in each."""
        for n in range(1, max_ngram + 1):
            yield self.ngrams(n)
        begins, stops = self._words
        yield self.hashes(begins, stops) ^ _WORD_SALT, self.owners[begins]
        first = np.flatnonzero((begins[1:] - stops[:-1] == 1) & (self.owners[begins[1:]] == self.owners[begins[:-1]]))
        yield self.hashes(begins[first], stops[first + 1]) ^ _PAIR_SALT, self.owners[begins[first]]

    def pieces(self) -> tuple[Hashes, Hashes, Hashes]:
        """Per position of `chars`: its 1-gram, the 2-gram that begins there, the word around it (0: none)."""
        begins, stops = self._words
        words = np.zeros(len(self.codes), np.uint64)
        lengths = stops - begins
        inside = np.repeat(begins - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
        words[inside] = np.repeat(self.hashes(begins, stops) ^ _WORD_SALT, lengths)
        return self.hashes(self.chars, self.chars + 1), self.hashes(self.chars, self.chars + 2), words[self.chars]

    @cached_property
    def _words(self) -> tuple[Ints, Ints]:
        """Begins and stops of the runs of letters, marks and digits."""
        edges = np.diff(_word_characters()[self.codes])  # the first and the last position are ends, so every run has both edges
        return np.flatnonzero(edges == 1) + 1, np.flatnonzero(edges == -1) + 1


class _Counts:
    """In how many good and bad texts each hash occurs; hashes ascend."""

    def __init__(self) -> None:
        self.hashes: Hashes = np.empty(0, np.uint64)
        self.good: Ints = np.empty(0, np.int64)
        self.bad: Ints = np.empty(0, np.int64)

    def add(self, parts: Sequence[tuple[Hashes, Ints]], labels: NDArray[np.int64]) -> None:
        """Count parts of (hashes, texts they are in); `labels` are of those texts."""
        found = [_distinct(hashes, owners) for hashes, owners in parts]
        hashes = np.concatenate([self.hashes, *(part for part, _ in found)])
        good = np.concatenate([self.good, *(labels[owners] for _, owners in found)])
        bad = np.concatenate([self.bad, *(1 - labels[owners] for _, owners in found)])
        order = np.argsort(hashes, kind="stable")
        self.hashes, begins = np.unique(hashes[order], return_index=True)
        if len(begins):
            self.good, self.bad = np.add.reduceat(good[order], begins), np.add.reduceat(bad[order], begins)

    def commonest(self, most: int, min_texts: int) -> Ints:
        """Places of the `most` hashes in most texts, at least `min_texts`, in order of hash."""
        counts = self.good + self.bad
        kept = np.argsort(-counts, kind="stable")[:most]
        return np.sort(kept[counts[kept] >= min_texts])


def _distinct(hashes: Hashes, owners: Ints) -> tuple[Hashes, Ints]:
    """Each (hash, text) pair once; `owners` ascend."""
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    first = np.ones(len(hashes), dtype=bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[first], owners[first]


@cache
def _word_characters() -> NDArray[np.int8]:
    """Per code point, 1 where it is a letter, a mark or a digit."""
    return np.fromiter((unicodedata.category(chr(code))[0] in "LMN" for code in range(sys.maxunicode + 1)), np.int8)


def _mixed(codes: NDArray[np.uint32]) -> Hashes:
    """Code points spread over 64 bits (the finaliser of splitmix64; Steele et al. 2014)."""
    z = (codes.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
