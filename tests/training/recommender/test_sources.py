from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from infra.errors import ModelNotFoundError
from training.recommender.blend import fit_weights
from training.recommender.data import (
    DataConfig,
    RecommenderTask,
    ask,
    make_encoder,
    make_queries,
    make_sequences,
    near_counts,
    scorer,
    split,
)
from training.recommender.model import Recommender
from training.recommender.names import NETWORK, PAIRED, POPULAR
from training.recommender.network import Config
from training.recommender.sources import Content, Floats, Ints, Near, Source, blended, recency_weights, shares_of

NEAR, FOLLOWS = "co_occurrence", "markov_chain"
TABLE = np.array([[0.0, 2.0, 0.5], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype=np.float32)


def history(*items: int) -> np.ndarray:
    return np.array(items, dtype=np.int64)


def test_near_adds_up_what_each_act_speaks_for() -> None:
    near = Near(sparse.csr_array(TABLE), decay=0.5)
    scores = near.scores([history(0, 1, 0), history(2), history()])
    assert scores == pytest.approx(np.array([1.25 * TABLE[0] + 0.5 * TABLE[1], TABLE[2], [0, 0, 0]]))


def test_the_strongest_of_each_row_are_kept_ties_by_item() -> None:
    kept = Near(sparse.csr_array(TABLE), decay=0.5).strongest(1)
    assert kept.table.toarray().tolist() == [[0, 2, 0], [1, 0, 0], [0.5, 0, 0]]
    assert Near(sparse.csr_array(TABLE), decay=0.5).strongest(9).table.toarray().tolist() == TABLE.tolist()


def test_near_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    for near in (Near(sparse.csr_array(TABLE), decay=0.7), Near.of_nothing(0)):
        near.save(tmp_path / "near.safetensors")
        back = Near.load(tmp_path / "near.safetensors")
        assert back.decay == near.decay
        assert np.array_equal(back.table.toarray(), near.table.toarray())


def test_content_takes_the_share_of_a_word_times_that_of_an_item_in_it(tmp_path: Path) -> None:
    # items 0 and 1 are tea, 1 and 2 are green, of 3 nothing is said; taken 3, 1, 0 and 5 times
    content = Content.of(np.array([0, 1, 3, 4, 4]), np.array([0, 0, 1, 1]), 2, np.array([3, 1, 0, 5]))
    tea, green = np.array([4, 2, 0, 0]) / 6, np.array([0, 2, 1, 0]) / 3
    content.save(tmp_path / "content.safetensors")
    for same in (content, Content.load(tmp_path / "content.safetensors")):
        scores = same.scores([history(0), history(1), history(2, 0), history(3), history()])
        assert scores[:3] == pytest.approx(np.array([tea, tea / 2 + green / 2, 0.98 * green + tea]), rel=1e-5)
        assert not scores[3:].any()


def test_content_knows_an_item_the_minute_it_is_listed() -> None:
    content = Content.of(np.array([0, 1, 2]), np.array([0, 1]), 2, np.array([9, 4]))
    grown = content.told(np.array([0, 1, 1]), np.array([1]))
    assert grown.scores([history(1)])[0] == pytest.approx([0, 5 / 6, 1 / 6, 0])
    assert grown.scores([history(2)])[0] == pytest.approx([0, 5 / 6, 1 / 6, 0])
    assert content.scores([history(1)])[0] == pytest.approx([0, 1])


def test_a_blend_is_the_mean_of_shares_and_who_says_nothing_leaves_the_word_to_the_others() -> None:
    shares = {"a": np.array([[0.5, 0.5], [0.2, 0.8]], dtype=np.float32), "b": np.array([[1, 0], [0, 0]], dtype=np.float32)}
    assert blended(shares, {"a": 0.5, "b": 0.5}) == pytest.approx(np.array([[0.75, 0.25], [0.2, 0.8]]))
    assert blended(shares, {"a": 0.0, "b": 1.0})[1].tolist() == [0, 0]
    assert shares_of(np.array([[3.0, 1.0], [0, 0]], dtype=np.float32)) == pytest.approx(np.array([[0.75, 0.25], [0, 0]]))


def test_who_has_seen_all_there_is_gets_nothing_and_no_nan(task: RecommenderTask) -> None:
    config = task.config.model_copy(update={"repeats": False})
    near = Near(sparse.csr_array(np.eye(len(task.encoder.items), dtype=np.float32)), decay=0.5)
    network = replace(task, config=config).build().eval()
    model = Recommender(config, task.encoder, network, {NEAR: near}, {NETWORK: 0.5, NEAR: 0.5})
    every = list(task.encoder.items)
    assert np.isfinite(model.scores([every])).all()
    assert model.recommend([every, every[:-1]], 3)[0] == []
    assert [item for item, _ in model.recommend([every[:-1]], 3)[0]] == every[-1:]


def test_ages_count_from_the_newest_act() -> None:
    weights = recency_weights([history(1, 1, 0), history()], 0.5, 2).toarray()
    assert weights == pytest.approx(np.array([[1, 0.75], [0, 0]]))


def test_near_counts_look_ahead_within_one_history(cycle: pa.Table) -> None:
    acts = make_sequences(cycle, make_encoder(cycle, 28))
    found = near_counts(acts, 20, window=2, distance=1).toarray()
    expected = np.zeros((20, 20))
    for user in range(len(acts)):
        items = acts.items[acts.of(user)]
        for place, item in enumerate(items):
            for gap in (1, 2):
                if place + gap < len(items):
                    expected[item, items[place + gap]] += 1 / gap
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def task(cycle: pa.Table) -> RecommenderTask:
    config = DataConfig(protocol="leave_one_out", objective="next_item", start="near")
    parts = split(cycle, config)
    encoder = make_encoder(parts.train, 28)
    model = Config(dim=8, num_blocks=1, num_heads=1, max_length=6)
    return RecommenderTask(model, config, encoder, make_sequences(parts.train, encoder), make_queries(parts.val, encoder), 16, 3)


def test_the_start_alone_ranks_better_than_chance(task: RecommenderTask) -> None:
    assert task.validate(task.build().eval())["val_ndcg_at_10"] > 1.4 * 0.227  # 10 of 20 items in random order


@pytest.mark.parametrize("knows", [NETWORK, NEAR])
def test_the_source_that_knows_gets_the_weight(task: RecommenderTask, knows: str) -> None:
    size = len(task.encoder.items)
    follows = np.roll(np.eye(size, dtype=np.float32), 1, axis=1)  # the planted order: each item follows the one before
    near = Near(sparse.csr_array(follows if knows == NEAR else follows.T), decay=0.01)

    class Oracle(Recommender):
        def sources(self, items: Sequence[Ints], events: Sequence[Ints]) -> dict[str, Floats]:
            found = super().sources(items, events)
            says = follows if knows == NETWORK else follows.T
            return {**found, NETWORK: np.stack([says[history[-1]] for history in items])}

    oracle = Oracle(task.config, task.encoder, task.build().eval(), {NEAR: near}, {})
    assert task.val is not None
    weights = fit_weights(oracle, task.val, task.val_users)
    assert weights[knows] >= 0.5
    assert sum(weights.values()) == pytest.approx(1)


def test_a_blend_ranks_no_worse_than_any_of_its_sources_where_it_was_chosen(task: RecommenderTask) -> None:
    rng = np.random.default_rng(5)
    size = len(task.encoder.items)
    follows = np.roll(np.eye(size, dtype=np.float32), 1, axis=1)
    noise = rng.random((len(PAIRED), size, size)).astype(np.float32)
    knows = (
        np.arange(size) % 3
    )  # the first three know what follows a third of the items each, the fourth nothing, the last says nothing
    tables = [follows * (knows == part)[:, None] + 0.8 * noise[part] for part in range(4)] + [np.zeros((size, size))]
    counted: dict[str, Source] = {
        name: Near(sparse.csr_array(table.astype(np.float32)), decay=0.1) for name, table in zip(PAIRED, tables, strict=True)
    }
    assert task.val is not None
    model = Recommender(task.config, task.encoder, task.build().eval(), counted, {})
    weights = fit_weights(model, task.val, task.val_users)
    assert set(weights) == {NETWORK, *PAIRED, POPULAR}
    assert sum(weights.values()) == pytest.approx(1, abs=1e-3)

    def rank(weights: dict[str, float]) -> float:
        assert task.val is not None
        asked = ask(scorer(replace(model, weights=weights)), task.val, size, task.config.repeats, task.val_users)
        return asked.means["ndcg_at_10"]

    alone = [rank({name: 1.0}) for name in weights]
    assert rank(weights) > max(alone) + 0.05
    assert sum(weight > 0 for weight in weights.values()) >= 3
    assert weights[PAIRED[-1]] == 0


def test_where_no_source_speaks_the_popular_items_come_first(task: RecommenderTask) -> None:
    size = len(task.encoder.items)
    popularity = tuple((np.arange(size) / np.arange(size).sum()).tolist())
    encoder = replace(task.encoder, popularity=popularity)
    table = np.zeros((size, size), dtype=np.float32)
    table[1, 2] = 1
    model = Recommender(
        task.config, encoder, task.build().eval(), {PAIRED[0]: Near(sparse.csr_array(table), 0.5)}, {PAIRED[0]: 1.0, NETWORK: 0.0}
    )
    names = encoder.items
    assert [item for item, _ in model.recommend([[names[0]]], 3)[0]] == [names[-1], names[-2], names[-3]]
    assert [item for item, _ in model.recommend([[names[1]]], 3)[0]] == [names[2], names[-1], names[-2]]


def test_only_sources_of_weight_are_asked_and_scores_are_logs_of_their_blend(task: RecommenderTask) -> None:
    size = len(task.encoder.items)
    near = Near(sparse.csr_array(np.roll(np.eye(size, dtype=np.float32), 1, axis=1)), decay=0.5)
    network = task.build().eval()
    alone, counted = (Recommender(task.config, task.encoder, network, {NEAR: near}, {name: 1.0}) for name in (NETWORK, NEAR))
    both = replace(alone, weights={NETWORK: 0.25, NEAR: 0.75})
    asked = [list(task.encoder.items[:2]), ["never seen"]]
    mixed = 0.25 * np.exp(alone.scores(asked)[0]) + 0.75 * np.exp(counted.scores(asked)[0])
    assert np.exp(both.scores(asked)[0]) == pytest.approx(mixed, abs=1e-6)
    assert np.exp(both.scores(asked)[1]) == pytest.approx(np.array(task.encoder.popularity), abs=1e-6)
    assert [item for item, _ in counted.recommend([asked[0]], 5)[0]][:2] == [task.encoder.items[2], task.encoder.items[1]]
    assert len(counted.recommend([asked[0]], 5)[0]) == 5  # what nobody speaks for comes last


def test_a_blended_model_comes_back_as_it_was_saved(task: RecommenderTask, tmp_path: Path) -> None:
    near = Near(sparse.csr_array(np.eye(len(task.encoder.items), dtype=np.float32)), decay=0.5)
    after = Near(sparse.csr_array(np.roll(np.eye(len(task.encoder.items), dtype=np.float32), 1, axis=1)), decay=0.0)
    model = Recommender(
        task.config, task.encoder, task.build().eval(), {NEAR: near, FOLLOWS: after}, {NETWORK: 0.4, NEAR: 0.3, FOLLOWS: 0.3}
    )
    model.save(tmp_path)
    back = Recommender.load(tmp_path)
    asked = [list(task.encoder.items[:3])]
    assert np.array_equal(back.scores(asked), model.scores(asked))
    (tmp_path / "vocabulary.json").unlink()
    with pytest.raises(ModelNotFoundError, match="earlier shopgraph"):
        Recommender.load(tmp_path)
