"""Near copies between parts."""

from __future__ import annotations

import numpy as np

from training.sentiment.leakage import THRESHOLD, near_copies

LONG = "这件衣服的质量真的非常不错穿起来很舒服颜色也和图片上的一样下次还会再来买的推荐给大家"


def test_a_text_with_one_word_changed_is_a_near_copy() -> None:
    has_copy, is_copy = near_copies(
        [LONG, "完全不同的一句话说的是别的事情"], ["a third thing altogether", LONG.replace("推荐", "介绍")]
    )
    assert has_copy.tolist() == [True, False]
    assert is_copy.tolist() == [False, True]


def test_a_half_changed_text_is_none() -> None:
    assert not near_copies([LONG], [LONG[:20] + "但是后来发现掉色严重而且客服根本不理人以后不买了"])[0].any()


def test_agrees_with_comparing_every_pair() -> None:
    rng = np.random.default_rng(1)
    words = ["质量", "很好", "不错", "物流", "快", "太差", "失望", "客服", "价格", "good", "bad"]
    texts = ["".join(rng.choice(words, rng.integers(2, 30))) for _ in range(60)]
    texts += ["".join((text[:place], str(rng.choice(words)), text[place:])) for text in texts for place in (0, 3, 9, 27)]
    rng.shuffle(texts)
    asked, others = texts[:100], texts[100:]

    def shingles(text: str) -> set[str]:
        framed = f"\n{text}\n"
        return {framed[place : place + 3] for place in range(len(framed) - 2)}

    def jaccard(a: str, b: str) -> float:
        return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))

    similar = np.array([[jaccard(a, b) >= THRESHOLD for b in others] for a in asked])
    has_copy, is_copy = near_copies(asked, others)
    assert similar.any()
    assert has_copy.tolist() == similar.any(axis=1).tolist()
    assert is_copy.sum() <= similar.any(axis=0).sum()


def test_empty_texts_and_no_texts_have_no_copies() -> None:
    assert near_copies(["", "x"], [""])[0].tolist() == [False, False]
    assert near_copies(["x"], [])[0].tolist() == [False]
    assert near_copies([], ["x"])[1].tolist() == [False]
