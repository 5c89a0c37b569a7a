import numpy as np
import pyarrow as pa
import pytest
import torch

from training.recommender.baselines import CoOccurrence, Ease, Ials, ItemKNN, Popularity, Repetition, floors, taken
from training.recommender.data import DataConfig, RecommenderTask, Sequences, ask, make_encoder, make_queries, make_sequences, split
from training.recommender.names import PAIRED
from training.recommender.network import Config
from training.recommender.sources import shares_of
from training.recommender.train import choose_floors
from training.splits import DAY_US


def sequences(*items: list[int], days: list[list[int]] | None = None) -> Sequences:
    flat = np.concatenate([np.array(part, dtype=np.int64) for part in items])
    offsets = np.r_[0, np.cumsum([len(part) for part in items])]
    time = np.concatenate([np.array(part) for part in days]) * DAY_US if days else np.arange(len(flat)) * DAY_US
    return Sequences(
        tuple(map(str, range(len(items)))), offsets, flat, np.zeros(len(flat), dtype=np.int64), np.arange(len(flat)), time
    )


ALL = np.array([0])


def test_popularity_counts_within_its_window() -> None:
    acts = sequences([0, 0, 0, 1], days=[[0, 1, 2, 100]])
    ever, lately = Popularity(), Popularity(7)
    for floor in (ever, lately):
        floor.fit(acts, 3)
    assert np.argsort(-ever(acts, ALL)[0]).tolist() == [0, 1, 2]
    assert np.argsort(-lately(acts, ALL)[0]).tolist() == [1, 0, 2]


def test_repetition_prefers_the_frequent_and_the_late_then_the_popular() -> None:
    floor = Repetition(half_life=2)
    floor.fit(sequences([3, 3, 3, 4], days=[[0, 1, 2, 3]]), 5)
    assert np.argsort(-floor(sequences([0, 1, 0, 2]), ALL)[0], kind="stable").tolist() == [0, 2, 1, 3, 4]


def test_item_knn_is_the_cosine_of_the_users() -> None:
    floor = ItemKNN(shrinkage=0, decay=1)
    floor.fit(sequences([0, 1], [0, 1, 2], [0, 3, 3]), 4)
    scores = floor(sequences([0]), ALL)[0]
    assert scores == pytest.approx([1, 2 / np.sqrt(3 * 2), 1 / np.sqrt(3), 1 / np.sqrt(3)])
    nearest = ItemKNN(neighbours=1, shrinkage=0, decay=1)
    nearest.fit(sequences([0, 1], [0, 1, 2], [0, 3, 3]), 4)
    assert np.count_nonzero(nearest(sequences([0]), ALL)) == 1


def test_co_occurrence_knows_direction_and_does_not_cross_users() -> None:
    floor = CoOccurrence(window=2, damping=0, backward=0)
    floor.fit(sequences([0, 1, 2], [3]), 4)
    assert np.argsort(-floor(sequences([0]), ALL)[0])[0] == 1
    assert floor(sequences([2]), ALL)[0].tolist() == [0, 0, 0, 0]
    assert floor(sequences([1]), ALL)[0, 0] == 0
    both = CoOccurrence(window=2, damping=0, distance=1, backward=0.5)
    both.fit(sequences([0, 1, 2], [3]), 4)
    assert both(sequences([1]), ALL)[0] == pytest.approx([0.5 / 2**0.5, 0, 1 / 2**0.5, 0])
    assert both(sequences([0]), ALL)[0] == pytest.approx([0, 1 / 2**0.5, 0.5 / 2**0.5, 0])


def test_a_markov_chain_reads_the_newest_act_alone_and_discounts_what_was_seen_once() -> None:
    def chain(discount: float) -> CoOccurrence:
        floor = CoOccurrence(1, decay=0, damping=0, backward=0, discount=discount)
        floor.fit(sequences([0, 1], [0, 1, 2], [0, 3]), 4)
        return floor

    assert shares_of(chain(0)(sequences([2, 0]), ALL))[0] == pytest.approx([0, 2 / 3, 0, 1 / 3])
    assert shares_of(chain(0.5)(sequences([2, 0]), ALL))[0] == pytest.approx([0, 0.75, 0, 0.25])
    assert chain(1)(sequences([0, 1]), ALL)[0].tolist() == [0, 0, 0, 0]
    assert chain(1).table.nnz == 1


def test_ease_explains_each_item_best_by_the_others() -> None:
    acts = sequences([0, 1], [0, 1, 2], [0, 3, 3], [2, 3])
    floor = Ease(ridge=0.5, decay=1)
    floor.fit(acts, 4)
    matrix = taken(acts, 4).toarray()
    for item in range(4):  # ridge regression of one column on the others
        others = [other for other in range(4) if other != item]
        gram = matrix[:, others].T @ matrix[:, others] + 0.5 * np.eye(3)
        expected = np.linalg.solve(gram, matrix[:, others].T @ matrix[:, item])
        assert floor.weights[others, item] == pytest.approx(expected, abs=1e-5)
        assert floor.weights[item, item] == 0
    assert floor(acts, np.array([1]))[0] == pytest.approx(matrix[1] @ floor.weights, abs=1e-5)


def test_ials_finds_where_its_loss_has_no_slope() -> None:
    acts = sequences([0, 1], [0, 1, 2], [0, 3, 3], [2, 3], [1, 2])
    floor = Ials(dim=2, unobserved=0.2, ridge=0.1, power=1, decay=1, sweeps=400)
    floor.fit(acts, 5)
    matrix = torch.from_numpy(taken(acts, 5).toarray())
    users, items = floor.users_of(taken(acts, 5)).requires_grad_(), floor.items.clone().requires_grad_()
    scores = users @ items.T
    ridges = [0.1 * (matrix.sum(dim=axis) + 0.2 * matrix.shape[axis]) for axis in (1, 0)]
    loss = (matrix * (1 - scores) ** 2 + 0.2 * scores**2).sum()
    loss = loss + (ridges[0] * (users**2).sum(dim=1)).sum() + (ridges[1] * (items**2).sum(dim=1)).sum()
    loss.backward()
    assert users.grad is not None
    assert items.grad is not None
    assert max(float(users.grad.abs().max()), float(items.grad.abs().max())) < 1e-3
    assert float(items[4].detach().abs().max()) == 0  # nobody took it
    assert float(loss.detach()) < float(matrix.sum())  # better than nothing


def test_every_floor_answers_an_empty_history_and_says_its_settings() -> None:
    acts = sequences([0, 1, 2, 0], [2, 1])
    empty = sequences([], [1])
    for candidates in floors().values():
        assert len({str(floor.settings) for floor in candidates}) == len(candidates)
        for floor in candidates:
            floor.fit(acts, 4)
            scores = floor(empty, np.array([0, 1]))
            assert scores.shape == (2, 4)
            assert np.isfinite(scores).all()  # of item 3 as well, which nobody took


def test_floors_rank_as_the_planted_order_says(cycle: pa.Table) -> None:
    parts = split(cycle, DataConfig(val_days=14, test_days=14))
    encoder = make_encoder(parts.train, 28)
    queries, acts = make_queries(parts.val, encoder), make_sequences(parts.train, encoder)
    found = {}
    for name, floor in {"popularity": Popularity(), "co_occurrence": CoOccurrence(decay=0.5)}.items():
        floor.fit(acts, len(encoder.items))
        found[name] = ask(floor, queries, len(encoder.items), True).means["ndcg_at_10"]
    assert found["co_occurrence"] > 2 * found["popularity"]


def test_a_floor_that_does_not_fit_the_memory_is_named_and_not_run(cycle: pa.Table) -> None:
    parts = split(cycle, DataConfig(val_days=14, test_days=14))
    encoder = make_encoder(parts.train, 28)
    acts, val = make_sequences(parts.train, encoder), make_queries(parts.val, encoder)
    task = RecommenderTask(Config(dim=8), DataConfig(), encoder, acts, val, 4, 3)
    ran = choose_floors(task, task, memory_gb=4e-6)
    assert {"popularity", "popularity_7d", "repetition"} <= set(ran.late)
    assert set(ran.early) == {"repetition"}
    assert "ease" in ran.not_run
    assert "SHOPGRAPH_TRAIN_MEMORY_GB is 4e-06" in ran.not_run["ease"]
    assert set(ran.late) | set(ran.not_run) == set(floors())


def test_every_paired_floor_has_a_source_that_ranks_as_it_does(cycle: pa.Table) -> None:
    parts = split(cycle, DataConfig(val_days=14, test_days=14))
    encoder = make_encoder(parts.train, 28)
    task = RecommenderTask(
        Config(dim=8), DataConfig(), encoder, make_sequences(parts.train, encoder), make_queries(parts.val, encoder), 4, 3
    )
    ran = choose_floors(task, task, memory_gb=1)
    assert set(ran.early) == set(PAIRED)
    assert task.val is not None
    users = np.arange(len(task.val))
    histories = task.val.history.served(users)[0]
    for name, near in ran.early.items():
        scores, own = near.scores(histories), ran.late[name](task.val.history, users)
        assert (scores >= 0).all()
        spoken = scores > 0
        if name != "ease":  # which leaves out what an item speaks against; repetition leaves out what is popular
            assert scores[spoken] == pytest.approx(own[spoken], abs=2e-3)
