from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from training.recommender.content import READ, Vocabulary, told_before, words_of
from training.recommender.data import DataConfig, RecommenderTask, make_encoder, make_queries, make_sequences, split
from training.recommender.model import Recommender
from training.recommender.network import Config
from training.trainer import FitConfig, fit

START = datetime(2024, 1, 1, tzinfo=UTC)
CONFIG = Config(dim=16, num_blocks=1, max_length=8, dropout=0.0, new_share=0.2)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"category": "Beauty > Skin Care"}, {"category=beauty > skin care", "category=beauty", "category=skin care"}),
        ({"brand": " Norvik "}, {"brand=norvik"}),
        (
            {"title": "Norvik 平板电脑 Tablet-3"},
            {"title=norvik", "title=平板", "title=板电", "title=电脑", "title=tablet", "title=3"},
        ),
        ({"title": "CAFÉ cafe\u0301 ＡＢＣ 茶"}, {"title=café", "title=abc", "title=茶"}),
        ({"price": Decimal("8.00")}, {"price=6"}),
        ({"title": None, "category": "", "brand": None, "price": None}, set()),
        ({"price": -1.0, "title": "\u200b ... 😀"}, set()),
        ({"price": float("nan")}, set()),
        ({"price": float("inf")}, set()),
    ],
)
def test_words_of_a_row(row: Mapping[str, Any], words: set[str]) -> None:
    assert set(words_of(row)) == words


def test_prices_of_like_size_share_a_word() -> None:
    assert words_of({"price": 110.0}) == words_of({"price": 120.0}) != words_of({"price": 200.0})


def test_a_word_of_one_item_is_not_learned(tmp_path: Path) -> None:
    vocabulary = Vocabulary.of([["a", "b"], ["b", "c"], [], ["c"]])
    assert vocabulary.words == ("b", "c")
    bags = vocabulary.bags([["b", "never seen", "c"], [], ["c"]])
    assert (bags.offsets.tolist(), bags.words.tolist()) == ([0, 2, 2, 3], [0, 1, 1])
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary


def catalog(*rows: tuple[str, str | None, float, float | None]) -> pa.Table:
    """Rows of (item, brand, day it is said, day it is withdrawn)."""
    made = [
        {
            "item_id": item, "title": None, "category": None, "brand": brand, "price": None,
            "withdrawn_at": None if withdrawn is None else START + timedelta(days=withdrawn),
            "event_timestamp": START + timedelta(days=day), "created_timestamp": START + timedelta(days=day),
        }
        for item, brand, day, withdrawn in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(made).select(list(READ))


def test_items_are_told_as_they_were_known_then() -> None:
    rows = catalog(
        ("old", "before", 1, None), ("old", "after", 20, None), ("new", "first", 20, None), ("new", "second", 22, None),
        ("future", "x", 40, None), ("gone", "x", 1, 5),
    )  # fmt: skip
    told = told_before(rows, START + timedelta(days=10), START + timedelta(days=30))
    assert {item: row["brand"] for item, row in told.items()} == {"old": "before", "new": "first"}
    snapshot = catalog(("old", None, 1, None), ("old", "exported", 50, None), ("new", None, 20, None), ("new", "exported", 50, None),
                       ("future", None, 40, None), ("future", "exported", 50, None))  # fmt: skip
    told = told_before(snapshot, START + timedelta(days=10), START + timedelta(days=30))
    assert {item: row["brand"] for item, row in told.items()} == {"old": "exported", "new": "exported"}
    whole = told_before(rows, None, None)
    assert {item: row["brand"] for item, row in whole.items()} == {"old": "after", "new": "second", "future": "x", "gone": "x"}


def variant_of(item: str) -> list[str]:
    """Items are written `<number><variant>`; the number is their brand."""
    return words_of({"brand": item[:2]})


@pytest.fixture(scope="module")
def task(cycle: pa.Table) -> RecommenderTask:
    """The planted order with two variants of each item, either of which may come; one item besides that nobody took."""
    variants = np.where(np.random.default_rng(1).random(cycle.num_rows) < 0.5, "a", "b")
    items = pa.array([f"{item[1:]}{variant}" for item, variant in zip(cycle["item_id"].to_pylist(), variants, strict=True)])
    rows = cycle.set_column(cycle.column_names.index("item_id"), "item_id", items)
    data = DataConfig(val_days=14, test_days=14)
    parts = split(rows, data)
    encoder = make_encoder(parts.train, 28, ["05c"])
    words = [variant_of(item) for item in encoder.items]
    return RecommenderTask(
        CONFIG, data, encoder, make_sequences(parts.train, encoder), make_queries(parts.val, encoder), 16, 3, words
    )


@pytest.fixture(scope="module")
def model(task: RecommenderTask) -> Recommender:
    return task.restored(fit(task, FitConfig(epochs=6, batch_size=16, learning_rate=1e-2, seed=3)).state)


def test_a_listed_item_that_nobody_took_is_recommended_for_its_words(model: Recommender) -> None:
    assert "05c" in [item for item, _ in model.recommend([["02a", "03b", "04a"]], 6)[0]]
    assert "05c" not in [item for item, _ in model.recommend([["12a", "13b", "14a"]], 12)[0]]


@pytest.mark.parametrize("number", ["07", "15"])
def test_an_item_listed_after_learning_is_recommended_and_read(model: Recommender, number: str, tmp_path: Path) -> None:
    before, after = f"{int(number) - 1:02}", f"{int(number) + 1:02}"
    model.save(tmp_path)
    new = f"{number}new"
    larger = Recommender.load(tmp_path).with_items({new: {"brand": number}, "07a": {"brand": "00"}, "odd": {"brand": "no such"}})
    assert larger.encoder.items == (*model.encoder.items, new)
    assert new in [item for item, _ in larger.recommend([[f"{before}a"]], 4)[0]]
    follows = [item for item, _ in larger.recommend([[new]], 4)[0]]
    assert any(item.startswith(after) for item in follows)
    assert {item for item, _ in larger.similar(new, 2)} == {f"{number}a", f"{number}b"}
    known = larger.scores([["03a", "04b"]])[0, : len(model.encoder.items)]
    was = model.scores([["03a", "04b"]])[0]
    assert known - known.max() == pytest.approx(was - was.max(), abs=1e-4)  # of the others nothing changed but the sum


def test_a_model_without_words_takes_no_new_item(task: RecommenderTask) -> None:
    plain = replace(task, told=None)
    model = Recommender(plain.config, plain.encoder, plain.build().eval())
    assert model.with_items({"07new": {"brand": "07"}}) is model


@pytest.mark.parametrize("num_negatives", [None, 12])
def test_named_items_are_as_all_items_have_them_and_fusing_changes_no_score(
    task: RecommenderTask, num_negatives: int | None
) -> None:
    made = replace(task, config=CONFIG.model_copy(update={"num_negatives": num_negatives}))
    network = made.build()
    fit(made, FitConfig(epochs=1, batch_size=16, learning_rate=1e-2, seed=3))
    network.eval()
    ids = torch.tensor([0, 40, 7, 10])
    for some, every in zip(network.items(ids), network.items(), strict=True):
        torch.testing.assert_close(some, every[ids])
    batch = made.encoder.encode([["02a", "03b"], ["05c"]], None, 8)
    with torch.inference_mode():
        torch.testing.assert_close(network.fused().scores(**batch), network.scores(**batch))


def test_items_begin_where_counting_puts_them_whatever_their_words(task: RecommenderTask) -> None:
    torch.manual_seed(0)
    plain = replace(task, told=None).build().eval()
    torch.manual_seed(0)
    told = task.build().eval()
    taken = torch.from_numpy(task.sequences.item_counts(len(task.encoder.items)) > 0)
    directions = [torch.nn.functional.normalize(network.items()[0][taken], dim=1) for network in (plain, told)]
    # what noise fills beside the counted directions differs
    assert (directions[0] * directions[1]).sum(dim=1).mean() > 0.8
