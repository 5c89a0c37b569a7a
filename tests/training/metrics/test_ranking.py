import itertools

import numpy as np
import pytest

from training.metrics.ranking import MISS, coverage_interval, mrr_at, ndcg_at, novelty_at_10, recall_at, report, top_k, worst_ranks


def ranks(scores: list[float], *targets: int) -> list[int]:
    return worst_ranks(np.array([scores]), [np.array(targets)])[0].tolist()


def test_ranks_count_better_items() -> None:
    assert ranks([0.1, 0.9, 0.5], 1) == [1]
    assert ranks([0.1, 0.9, 0.5], 0) == [3]
    assert ranks([0.1, 0.9, 0.5, 0.3], 1, 3) == [1, 3]


def test_ties_count_against_the_model() -> None:
    assert ranks([0.0] * 100, 7) == [100]
    assert ranks([1.0, 1.0, 0.0], 0) == [2]
    assert ranks([1.0, 1.0, 1.0], 0, 2) == [2, 3]  # the stranger first, then the two wanted


def test_ranks_equal_those_of_the_worst_order_of_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.integers(0, 4, 8).astype(float)
        wanted = rng.choice(8, rng.integers(1, 4), replace=False)
        order = sorted(range(8), key=lambda item: (-scores[item], item in wanted))
        assert ranks(scores.tolist(), *wanted) == sorted(order.index(item) + 1 for item in wanted)


def test_what_cannot_be_recommended_is_a_miss() -> None:
    assert ranks([0.5, -np.inf, 0.2], 1, -1, 2) == [2, MISS, MISS]


def test_queries_want_different_numbers_of_items_and_rank_apart() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 3, (40, 9)).astype(np.float32)
    targets = [rng.choice(9, rng.integers(1, 6), replace=False) - (row % 3 == 0) for row in range(40)]
    found = worst_ranks(scores, targets)
    assert found.shape == (40, max(map(len, targets)))
    for row, wanted in enumerate(targets):
        alone = worst_ranks(scores[row : row + 1], [wanted])[0]
        assert found[row, : len(wanted)].tolist() == alone.tolist()
        assert (found[row, len(wanted) :] == MISS).all()


def test_metrics_of_known_ranks() -> None:
    ranks = np.array([[3, MISS, MISS], [1, 11, MISS], [21, MISS, MISS]])
    counts = np.array([1, 3, 1])
    assert ndcg_at(ranks, counts, 10) == pytest.approx([1 / np.log2(4), 1 / (1 + 1 / np.log2(3) + 0.5), 0])
    assert recall_at(ranks, counts, 10) == pytest.approx([1, 1 / 3, 0])
    assert recall_at(ranks, counts, 20) == pytest.approx([1, 2 / 3, 0])
    assert mrr_at(ranks, 20) == pytest.approx([1 / 3, 1, 0])
    assert ndcg_at(np.arange(1, 31)[None], np.array([30]), 10) == pytest.approx(1)


def test_top_k_is_stable_and_equals_a_full_sort() -> None:
    scores = np.random.default_rng(0).integers(0, 5, (50, 30)).astype(np.float32)
    assert np.array_equal(top_k(scores, 7), np.argsort(-scores, axis=1, kind="stable")[:, :7])
    apart = np.random.default_rng(0).normal(size=(50, 30))
    assert np.array_equal(top_k(apart, 7), np.argsort(-apart, axis=1, kind="stable")[:, :7])
    assert top_k(scores[:0], 7).shape == (0, 7)
    assert top_k(scores, 0).shape == (50, 0)
    assert top_k(scores, 99).shape == (50, 30)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        top_k(scores, -1)


@pytest.mark.parametrize("num_items", [63, 64, 65, 640, 1000])
@pytest.mark.parametrize("levels", [2, 50, 10_000])
def test_top_k_of_many_items_is_stable_whatever_is_tied_or_forbidden(num_items: int, levels: int) -> None:
    rng = np.random.default_rng(num_items + levels)
    scores = rng.integers(0, levels, (40, num_items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    scores[0], scores[1, 5:] = -np.inf, -np.inf
    for k in (1, 10, 70):
        assert np.array_equal(top_k(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])


def test_report_streams_and_counts() -> None:
    scores = np.eye(12) + np.linspace(0.5, 0, 12)
    targets = [np.array([item]) for item in range(12)]
    whole = report([(scores, targets)], 12)
    parts = report(((scores[a:b], targets[a:b]) for a, b in itertools.pairwise((0, 5, 12))), 12)
    assert whole.means == parts.means
    assert whole.means == {"ndcg_at_10": 1, "recall_at_10": 1, "recall_at_20": 1, "mrr_at_20": 1, "coverage_at_10": 1}
    assert whole.relevant.sum() == whole.hits.sum() == 12


def test_lists_do_not_show_what_is_forbidden() -> None:
    scores = np.array([[1.0, -np.inf, 0.5]])
    assert report([(scores, [np.array([0])])], 3).lists.tolist() == [[0, 2, -1]]


def test_coverage_interval() -> None:
    lists = np.array([[0, 1], [0, 2], [0, -1]])
    share, lo, hi = coverage_interval(lists, 6)
    assert share == 0.5
    assert 0 <= lo < share < hi <= 1
    same = np.zeros((5, 2), dtype=np.int64)
    assert coverage_interval(same, 4) == (0.25, 0.25, 0.25)


def test_coverage_of_who_asks_often_is_no_surer() -> None:
    lists = np.random.default_rng(0).integers(0, 200, (40, 3))
    once, often = (
        coverage_interval(lists, 200),
        coverage_interval(np.repeat(lists, 9, axis=0), 200, np.repeat(np.arange(40) * 2, 9)),
    )
    assert once == pytest.approx(often)
    assert once[1] < once[0] < once[2]


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        worst_ranks(np.array([[np.nan]]), [np.array([0])])
    with pytest.raises(ValueError, match="1 rows of scores for 2"):
        worst_ranks(np.zeros((1, 2)), [np.array([0]), np.array([1])])
    with pytest.raises(ValueError, match="no query"):
        report([], 3)
    with pytest.raises(ValueError, match="without a relevant item"):
        report([(np.zeros((1, 2)), [np.array([], dtype=np.int64)])], 2)


def test_novelty_is_the_surprise_of_what_is_shown() -> None:
    counts = np.array([8, 4, 4, 0])
    lists = np.array([[0, -1], [1, 2], [0, 1], [3, -1], [-1, -1]])
    assert novelty_at_10(lists, counts) == pytest.approx([1, 2, 1.5, 5, 0])
