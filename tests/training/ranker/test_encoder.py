"""Features: what the history says of candidates, nulls, and an encoder that survives its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from training.ranker.candidates import SOURCES
from training.ranker.data import Lists
from training.ranker.encoder import ITEM_FEATURES, Encoder, Scale, in_history, item_values, user_values


def test_history_says_how_often_how_long_ago_and_what_was_done() -> None:
    found = in_history(np.array([4, 7, 4, 9]), ["view", "purchase", "favourite", "view"], np.array([9, 1, 4, 7]))
    assert np.exp(found["times_before"]) - 1 == pytest.approx([1, 0, 2, 1])
    assert np.exp(found["steps_ago"]) - 1 == pytest.approx([0, np.nan, 1, 2], nan_ok=True)
    assert found["carted_before"].tolist() == [0, 0, 1, 0]
    assert found["bought_before"].tolist() == [0, 0, 0, 1]


def test_an_empty_history_says_nothing_of_any_candidate() -> None:
    found = in_history(np.zeros(0, dtype=np.int64), [], np.array([3, 1]))
    assert np.isnan(found["steps_ago"]).all()
    assert not found["times_before"].any()
    assert all(len(values) == 0 for values in in_history(np.array([3]), ["view"], np.zeros(0, dtype=np.int64)).values())


def test_columns_that_are_not_there_are_null_and_ages_count_from_the_instant() -> None:
    at = np.array([86_400_000_000.0 * 10])
    assert np.isnan(user_values({}, at)).all()
    values = item_values({"created_at": np.array([86_400_000_000.0 * 3])}, at)
    assert values[0, ITEM_FEATURES.index("created_at")] == pytest.approx(np.log1p(7))


def test_nulls_become_the_mean_and_are_told() -> None:
    scale = Scale.fit(("a", "b", "c"), np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [5.0, np.nan, np.nan]]))
    assert scale.is_missing == (False, True, True)
    encoded = scale.encode(np.array([[3.0, np.nan, 2.0], [np.nan, 5.0, np.nan], [1e9, 5.0, np.nan]]))
    assert encoded.shape == (3, scale.num_inputs) == (3, 5)
    assert encoded[0].tolist() == [0, 0, 2, 1, 0]
    assert encoded[1].tolist() == [0, 0, 0, 0, 1]
    assert encoded[2, 0] == 5  # what is far away stays near


def test_an_encoder_is_what_its_file_says(lists: Lists, tmp_path: Path) -> None:
    encoder = Encoder.fit(lists.candidates, SOURCES)
    encoder.save(tmp_path / "encoder.json")
    assert Encoder.load(tmp_path / "encoder.json") == encoder
    assert encoder.category_numbers(["c0", None, "never seen", "c2"]).tolist() == [1, 0, 0, 3]


def test_an_encoder_of_other_features_is_refused(lists: Lists, tmp_path: Path) -> None:
    content = Encoder.fit(lists.candidates, SOURCES).content
    content["item"]["names"][0] = "smell"
    (tmp_path / "encoder.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="smell.*train it again"):
        Encoder.load(tmp_path / "encoder.json")
