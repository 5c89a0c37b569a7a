"""Who is drawn: the promised share of the people, always the same ones, others in another experiment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.assignment import is_drawn, share

KEYS = [f"user u{number:07}" for number in range(100_000)]


@pytest.mark.parametrize("percent", [1.0, 5.0, 50.0])
def test_the_promised_share_of_100_000_people_is_drawn(percent: float) -> None:
    drawn = sum(is_drawn("salt", key, percent) for key in KEYS)
    assert abs(drawn / len(KEYS) * 100 - percent) < (0.2 if percent <= 5 else 0.6)


def test_nobody_changes_side_while_the_weight_grows() -> None:
    before: set[str] = set()
    for percent in (0, 0.5, 1, 5, 20, 99, 100):
        drawn = {key for key in KEYS[:10_000] if is_drawn("salt", key, percent)}
        assert before <= drawn
        before = drawn
    assert len(before) == 10_000


def test_two_experiments_draw_independently() -> None:
    one, other = (np.array([is_drawn(salt, key, 50) for key in KEYS]) for salt in ("a", "b"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


@given(st.text(), st.text())
def test_any_text_has_its_place(salt: str, key: str) -> None:
    assert 0 <= share(salt, key) < 1
    assert share(salt, key) == share(salt, key)
