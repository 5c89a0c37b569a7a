"""Lists hold what was visible at their instant, and what came of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from features.columns import EVENT_TIMESTAMP, EVENT_TYPE, ITEM_ID, SESSION_ID, USER_ID
from features.store import FeatureStore
from tests.training.ranker.conftest import NUM_ITEMS, microseconds, price
from training import splits
from training.ranker import candidates
from training.ranker.candidates import RETRIEVAL, SOURCES, retrieval_shares, retrieve
from training.ranker.data import Lists, make_lists, tasks_of
from training.ranker.encoder import ITEM_FEATURES, USER_FEATURES, cross_features
from training.ranker.model import TASKS
from training.ranker.retrieval import Sessions, retrieved
from training.recommender.model import Recommender


def sessions_of(rows: pa.Table, start: float, until: float, recommender: Recommender) -> Sessions:
    return Sessions.of(splits.every_session(rows, microseconds(start), microseconds(until)), recommender)


def test_labels_are_what_the_session_did_with_each_candidate(
    interactions: pa.Table, lists: Lists, recommender: Recommender
) -> None:
    names, did = recommender.encoder.items, dict.fromkeys(TASKS, 0)
    for number in range(0, len(lists), 5):
        rows = slice(lists.offsets[number], lists.offsets[number + 1])
        mine = [row for row in interactions.to_pylist() if row[USER_ID] == lists.users[number]]
        at = lists.at[number]
        session = next(row[SESSION_ID] for row in mine if round(row[EVENT_TIMESTAMP].timestamp() * 1e6) > at)
        acted = [row for row in mine if row[SESSION_ID] == session]
        kinds = {"click": None, "cart": ("cart", "favourite"), "purchase": ("purchase",)}
        for place, task in enumerate(TASKS):
            wanted = {row[ITEM_ID] for row in acted if kinds[task] is None or row[EVENT_TYPE] in kinds[task]}
            found = {names[item] for item in lists.item[rows][lists.labels[rows, place] == 1]}
            assert found == wanted & set(names)
            did[task] += len(found)
        assert lists.num_wanted[number] == len({row[ITEM_ID] for row in acted})
    assert all(did.values())


def test_features_are_those_visible_at_the_instant_of_each_list(lists: Lists, recommender: Recommender) -> None:
    usual = lists.candidates.user[:, USER_FEATURES.index("price_mean_365d")]
    for number, user in enumerate(lists.users):
        if user == "u00":  # told anew on day 40
            assert usual[number] == pytest.approx(np.log1p(8.0))
        elif user == "u01" and lists.at[number] < microseconds(41):  # of day 30, but known on day 41 only
            assert np.isnan(usual[number])
        elif user == "u01":
            assert usual[number] == pytest.approx(np.log1p(9.0))
        else:
            assert np.isnan(usual[number])
    assert {"u00", "u01"} <= set(lists.users)
    item = np.array([int(recommender.encoder.items[one][1:]) for one in lists.item])
    assert lists.price.tolist() == [price(one) for one in item]
    assert lists.candidates.category.tolist() == [f"c{one % 3}" for one in item]
    assert np.isnan(lists.candidates.item[:, ITEM_FEATURES.index("buyers_count_7d")]).all()  # a table that was never built
    relative = lists.candidates.cross[:, cross_features(SOURCES).index("price_to_usual")]
    mine = np.array([lists.users[one] == "u00" for one in lists.candidates.list])
    assert relative[mine] == pytest.approx(np.log(lists.price[mine] / 8.0))
    is_main = lists.candidates.cross[:, cross_features(SOURCES).index("is_main_category")]
    assert (is_main[mine] == (item[mine] % 3 == 1)).all()


def test_the_future_changes_no_feature(interactions: pa.Table, recommender: Recommender, store: FeatureStore) -> None:
    def features(rows: pa.Table) -> list[np.ndarray]:  # type: ignore[type-arg]
        sessions = sessions_of(rows, 40, 41, recommender)
        found = make_lists(sessions, recommender, store, np.arange(len(sessions))).candidates
        return [found.user, found.item, found.cross]

    before = interactions.filter(pa.array(splits.microseconds(interactions) < microseconds(41.5)))
    for whole, cut in zip(features(interactions), features(before), strict=True):
        np.testing.assert_array_equal(whole, cut)


def test_retrieval_gives_the_largest_shares_of_the_blend(interactions: pa.Table, recommender: Recommender) -> None:
    sessions = sessions_of(interactions, 40, 42, recommender)
    chosen = np.arange(len(sessions))
    found = retrieved(recommender, sessions, chosen)
    shares = retrieval_shares(recommender, *sessions.history.served(chosen))[RETRIEVAL]
    for number in chosen:
        mine = found.history == number
        assert sorted(shares[number], reverse=True) == pytest.approx(np.exp(found.shares[RETRIEVAL][mine]))
        assert found.rank[mine].tolist() == list(range(NUM_ITEMS))


def test_a_filter_leaves_what_is_known_of_a_candidate_as_it_is(interactions: pa.Table, recommender: Recommender) -> None:
    sessions = sessions_of(interactions, 40, 42, recommender)
    served = sessions.history.served(np.arange(len(sessions)))
    whole = retrieve(recommender, *served)
    allowed = np.zeros((len(sessions), NUM_ITEMS), dtype=np.bool_)
    allowed[:, ::3] = True
    some = retrieve(recommender, *served, allowed)
    known = {(history, item): rank for history, item, rank in zip(whole.history, whole.item, whole.rank, strict=True)}
    assert set(some.item.tolist()) == set(range(0, NUM_ITEMS, 3))
    assert some.rank.tolist() == [known[pair] for pair in zip(some.history, some.item, strict=True)]


def test_of_what_a_filter_leaves_the_best_come_however_narrow_it_is(
    interactions: pa.Table, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "NUM_CANDIDATES", 4)
    monkeypatch.setattr(candidates, "_SPARE", 2)
    sessions = sessions_of(interactions, 40, 42, recommender)
    served = sessions.history.served(np.arange(len(sessions)))
    shares = retrieval_shares(recommender, *served)[RETRIEVAL]
    draw = np.random.default_rng(7)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        allowed = draw.random(shares.shape) < share
        found = retrieve(recommender, *served, allowed, 5)
        for row, of_row in enumerate(np.argsort(-shares, axis=1, kind="stable")):
            best = [item for item in of_row.tolist() if allowed[row, item]][:5]
            assert found.item[found.history == row].tolist() == best
            ranks = {item: min(place, 3) for place, item in enumerate(of_row.tolist())}
            assert found.rank[found.history == row].tolist() == [ranks[item] for item in best]


def test_ndcg_counts_what_was_not_retrieved_as_a_miss(lists: Lists) -> None:
    best = lists.ndcg(lists.labels[:, 0].astype(np.float64))
    assert best == pytest.approx(np.ones(len(lists)))  # all items are retrieved
    longer = Lists(**{**{name: getattr(lists, name) for name in lists.__dataclass_fields__}, "num_wanted": lists.num_wanted + 1})
    assert (longer.ndcg(lists.labels[:, 0].astype(np.float64)) < 1).all()


def test_tasks_are_those_that_say_something(lists: Lists) -> None:
    assert tasks_of(lists.labels, 20) == TASKS
    only_purchases = np.repeat(lists.labels[:, 2:], 3, axis=1) * [1, 0, 1]
    assert tasks_of(only_purchases, 20) == ("purchase",)
    assert tasks_of(lists.labels * 0, 20) == ()


def test_shares_of_an_empty_history_are_popularity(recommender: Recommender) -> None:
    empty = [np.zeros(0, dtype=np.int64)]
    shares = retrieval_shares(recommender, empty, empty)
    assert shares[RETRIEVAL][0] == pytest.approx(np.array(recommender.encoder.popularity))
    assert shares.keys() == {RETRIEVAL}  # no source has a word
