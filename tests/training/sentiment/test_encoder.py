"""The tokenizer: what a text consists of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.sentiment.encoder import NUM_CHANNELS, UNKNOWN, Encoder, EncoderConfig, Spans, Vocabulary, normalised

TEXTS = ("质量很好 good quality", "质量太差 bad quality", "很好", "太差")
LABELS = np.array([1, 0, 1, 0])
CONFIG = EncoderConfig(min_texts=1, min_piece_texts=1)


def grams(text: str, n: int) -> set[str]:
    """The n-grams of a text with its ends, the slow way."""
    framed = f"\n{text}\n"
    found = {framed[begin : begin + n] for begin in range(len(framed) - n + 1)}
    return {gram for gram in found if gram.strip("\n") and "\n" not in gram[1:-1] and (n > 1 or gram != "\n")}


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("\ufeff好评", "好评"),
        ("ＡＢＣ　１２３！", "abc 123!"),
        ("soooooo good", "sooo good"),
        ("好好好好好好", "好好好"),
        ("  a\t\nb  ", "a b"),
        ("Straße", "strasse"),
        ("\u2764\ufe0f", "\u2764"),
        ("\x00\x07", ""),
        ("", ""),
    ],
)
def test_normalised(raw: str, read: str) -> None:
    assert normalised(raw, 100) == read


def test_normalised_reads_the_first_characters_only() -> None:
    assert normalised("abc" * 1000, 4) == "abca"
    assert len(normalised("\ufdfa" * 100, 100)) == 100  # each is eighteen characters in its compatibility form


def test_spans_are_hashed_alike_wherever_they_stand() -> None:
    (here, _), (there, _) = (Spans(texts).ngrams(3) for texts in (["abc"], ["很长的前文", "xabc"]))
    assert set(Spans(["abc"]).ngrams(3)[0].tolist()) == set(here.tolist())
    assert len(np.intersect1d(here, there)) == 2  # "abc" and "bc" with the end


def test_ngrams_are_those_of_each_text_and_never_reach_into_the_next() -> None:
    texts = ["good 好", "", "很好很好", "x"]
    for n in (1, 2, 3, 4):
        hashes, owners = Spans(texts).ngrams(n)
        assert (np.diff(owners) >= 0).all()
        for place, text in enumerate(texts):
            assert len(set(hashes[owners == place].tolist())) == len(grams(text, n)), (n, text)


def test_no_two_of_many_spans_share_a_hash() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(0x4E00, 0x9FA5, 200))) for _ in range(200)]
    distinct = {text[begin : begin + 3] for text in texts for begin in range(198)}
    hashes, _ = Spans(texts).ngrams(3)
    ends = 2 * len(texts)  # each text's first and last 3-gram holds an end
    assert len(np.unique(hashes)) == len(distinct) + ends


def test_words_and_pairs_of_words_are_terms() -> None:
    words = list(Spans(["very good, very-good"]).terms(1))[1:]
    assert [len(np.unique(hashes)) for hashes, _ in words] == [2, 2]  # "good, very" has two characters between


def test_a_word_is_another_term_than_its_characters() -> None:
    parts = [hashes for hashes, _ in Spans(["好"]).terms(1)]
    assert not np.intersect1d(parts[0], parts[1]).size


def test_vocabulary_finds_what_it_holds_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    every = np.unique(rng.integers(0, 2**64, 5000, dtype=np.uint64))
    crowded = np.arange(100, dtype=np.uint64)  # all with the same leading bits
    held = np.union1d(every[::2], crowded)
    vocabulary = Vocabulary(held)
    assert vocabulary.places(held).tolist() == list(range(len(held)))
    assert (vocabulary.places(np.setdiff1d(every, held)) == -1).all()
    assert Vocabulary(held[:0]).places(held).tolist() == [-1] * len(held)
    assert vocabulary.places(held[:0]).shape == (0,)


def test_encode_counts_each_term_of_a_text_once() -> None:
    encoder = Encoder.learn(TEXTS, LABELS, CONFIG)
    once, often = encoder.encode(["质量很好"]).terms.tolist(), encoder.encode(["质量很好 质量很好 质量很好"]).terms.tolist()
    assert len(set(often)) == len(often)
    assert len(often) < 2 * len(once)


def test_encode_is_alike_alone_and_in_company() -> None:
    encoder = Encoder.learn(TEXTS, LABELS, CONFIG)
    together = encoder.encode(["太差", "", "质量很好 good quality", "\U0001f600"])
    alone = encoder.encode(["质量很好 good quality"])
    begin, stop = together.term_ends[1], together.term_ends[2]
    assert together.terms[begin:stop].tolist() == alone.terms.tolist()
    assert together.pieces[together.piece_ends[1] : together.piece_ends[2]].tolist() == alone.pieces.tolist()
    assert together.num_terms.tolist()[1::2] == [0, 0]
    assert together.lengths.tolist() == [2, 0, 17, 1]


def test_ratios_say_which_way_a_term_points() -> None:
    encoder = Encoder.learn(TEXTS, LABELS, CONFIG)
    good, bad = (encoder.ratios[encoder.encode([text]).terms].sum() for text in ("很好", "太差"))
    assert good > 0 > bad


def test_unknown_pieces_are_told_apart_from_known_ones() -> None:
    encoder = Encoder.learn(TEXTS, LABELS, CONFIG)
    pieces = encoder.encode(["好\U0001f600"]).pieces
    assert pieces.shape == (2, NUM_CHANNELS)
    assert pieces[0, 0] != UNKNOWN
    assert pieces[1].tolist()[:2] == [UNKNOWN, UNKNOWN]


def test_rare_terms_and_those_beyond_the_most_are_left_out() -> None:
    assert Encoder.learn(TEXTS, LABELS, CONFIG.model_copy(update={"max_terms": 10})).num_terms == 10
    assert (
        Encoder.learn(TEXTS, LABELS, CONFIG.model_copy(update={"min_texts": 2})).num_terms
        < Encoder.learn(TEXTS, LABELS, CONFIG).num_terms
    )


def test_vocabularies_do_not_depend_on_how_texts_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Encoder.learn(TEXTS, LABELS, CONFIG)
    monkeypatch.setattr("training.sentiment.encoder._CHUNK", 1)
    parts = Encoder.learn(TEXTS, LABELS, CONFIG)
    assert whole.terms.hashes.tolist() == parts.terms.hashes.tolist()
    assert whole.ratios.tolist() == parts.ratios.tolist()
    assert whole.pieces.hashes.tolist() == parts.pieces.hashes.tolist()


def test_saved_and_loaded_encoders_read_alike(tmp_path: Path) -> None:
    encoder = Encoder.learn(TEXTS, LABELS, CONFIG)
    encoder.save(tmp_path)
    loaded = Encoder.load(tmp_path)
    assert loaded.config == encoder.config
    assert loaded.encode(TEXTS).terms.tolist() == encoder.encode(TEXTS).terms.tolist()
    for text in TEXTS:
        assert text not in (tmp_path / "encoder.json").read_text()


def test_half_a_surrogate_pair_is_read() -> None:
    assert Encoder.learn(TEXTS, LABELS, CONFIG).encode(["\ud83d 好"]).lengths.tolist() == [3]


@pytest.mark.parametrize(("texts", "labels"), [(("好", "差"), [1, 1]), (("", " "), [1, 0])])
def test_nothing_to_learn_from_is_refused(texts: tuple[str, ...], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="texts|text"):
        Encoder.learn(texts, np.array(labels), CONFIG)
