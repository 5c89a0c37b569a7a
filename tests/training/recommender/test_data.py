from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.columns import HISTORY_STEPS
from infra.errors import TableContractError
from training import splits
from training.recommender.data import (
    DataConfig,
    Pairs,
    RecommenderTask,
    ask,
    make_encoder,
    make_queries,
    make_sequences,
    split,
)
from training.recommender.encoder import Encoder
from training.recommender.model import Recommender
from training.recommender.network import Config, Network
from training.trainer import FitConfig, fit

START = datetime(2024, 1, 1, tzinfo=UTC)


def interactions(*rows: tuple[str, str, str, float]) -> pa.Table:
    """Rows of (user, item, event type, day)."""
    users, items, kinds, days = zip(*rows, strict=True)
    times = pa.array([START + timedelta(days=day) for day in days], pa.timestamp("us", tz="UTC"))
    return pa.table({"user_id": users, "item_id": items, "event_type": kinds, "event_timestamp": times})


ROWS = interactions(
    ("u", "a", "view", 0), ("u", "a", "purchase", 0.01), ("u", "b", "view", 0.02), ("u", "c", "view", 3), ("u", "a", "view", 3.01),
    ("v", "a", "view", 1), ("v", "new", "view", 9),
)  # fmt: skip
ENCODER = Encoder(("a", "b", "c"), ("view", "purchase"), (0.5, 0.3, 0.2))


def task(cycle: pa.Table, config: Config, batch_size: int = 16, **data: object) -> RecommenderTask:
    chosen = DataConfig(val_days=14, test_days=14, **data)
    parts = split(cycle, chosen)
    encoder = make_encoder(parts.train, 28)
    sequences = make_sequences(parts.train, encoder)
    return RecommenderTask(config, chosen, encoder, sequences, make_queries(parts.val, encoder), batch_size, 3)


def test_an_item_may_follow_itself_where_runs_do_not_collapse() -> None:
    parts = make_encoder(ROWS, 28, collapse=False)
    assert make_sequences(splits.in_order(ROWS), parts).items[:5].tolist() == [0, 0, 1, 2, 0]
    assert make_sequences(splits.in_order(ROWS), make_encoder(ROWS, 28)).items[:4].tolist() == [0, 1, 2, 0]
    assert parts.encode([["a", "a", "b"]], None, 9)["items"].tolist() == [[0, 0, 1]]


def test_encoder_counts_recent_acts_and_orders_kinds_by_frequency() -> None:
    encoder = make_encoder(ROWS, popular_days=7)
    assert encoder.items == ("a", "b", "c", "new")
    assert encoder.event_types == ("view", "purchase")
    assert encoder.popularity == pytest.approx((1 / 3, 0, 1 / 3, 1 / 3))


def test_sequences_join_runs_and_drop_strangers() -> None:
    sequences = make_sequences(splits.in_order(ROWS), ENCODER)
    assert sequences.users == ("u", "v")
    assert sequences.items.tolist() == [0, 1, 2, 0, 0]
    assert sequences.events.tolist() == [1, 0, 0, 0, 0]
    assert sequences.offsets.tolist() == [0, 4, 5]


def test_a_run_does_not_cross_users() -> None:
    rows = interactions(("u", "a", "view", 0), ("v", "a", "view", 1))
    assert make_sequences(rows, ENCODER).items.tolist() == [0, 0]


def test_queries_count_strangers_as_wanted_but_never_found() -> None:
    targets = interactions(
        ("u", "c", "view", 9), ("u", "x", "view", 9), ("u", "x", "view", 9), ("u", "y", "view", 9), ("u", "a", "view", 9)
    )
    history = interactions(("u", "a", "view", 0))
    queries = make_queries(splits.Holdout(history, targets), ENCODER)
    assert queries.targets[0].tolist() == [0, 2, -1, -1]


def test_history_of_strangers_only_is_an_empty_history() -> None:
    holdout = splits.Holdout(
        interactions(("u", "x", "view", 0), ("v", "a", "view", 0)), interactions(("u", "a", "view", 1), ("v", "b", "view", 1))
    )
    queries = make_queries(holdout, ENCODER)
    assert np.diff(queries.history.offsets).tolist() == [0, 1]


def test_a_question_and_a_request_read_a_history_alike() -> None:
    """Kinds of act that the training part did not hold, strangers and runs: evaluated as served."""
    rng = np.random.default_rng(0)
    acts = [("u", "abcx"[rng.integers(4)], ("view", "purchase", "cart")[rng.integers(3)], float(day)) for day in range(200)]
    queries = make_queries(splits.Holdout(interactions(*acts), interactions(("u", "a", "view", 999))), ENCODER)
    items, events = ENCODER.read([item for _, item, _, _ in acts], [kind for _, _, kind, _ in acts])
    assert queries.history.items.tolist() == items.tolist()
    assert queries.history.events.tolist() == events.tolist()
    assert len(items) < sum(item != "x" and kind != "cart" for _, item, kind, _ in acts)


def pairs_of(objective: str) -> dict[int, list[int]]:
    sequences = make_sequences(splits.in_order(ROWS), ENCODER)
    pairs = Pairs.of(sequences, objective)
    found = {p: pairs.targets[pairs.offsets[p] : pairs.offsets[p + 1]].tolist() for p in range(len(sequences.items))}
    return {position: targets for position, targets in found.items() if targets}


def test_pairs_are_the_next_act_or_the_next_session() -> None:
    assert pairs_of("next_item") == {0: [1], 1: [2], 2: [0]}
    assert pairs_of("next_session") == {1: [0, 2]}
    assert pairs_of("both") == {0: [1], 1: [2, 0, 2], 2: [0]}


def test_nothing_that_follows_is_refused() -> None:
    with pytest.raises(TableContractError, match="anything that follows"):
        Pairs.of(make_sequences(interactions(("u", "a", "view", 0)), ENCODER), "next_item")


@pytest.mark.parametrize("objective", ["next_item", "next_session", "both"])
def test_an_epoch_shows_every_pair_once(cycle: pa.Table, objective: str) -> None:
    made = task(cycle, Config(dim=8, max_length=6), objective=objective)
    shown = []
    for batch in made.batches(0, 0, 1):
        inputs = batch["items"].flatten()[batch["rows"]][batch["pair_rows"]]
        shown += list(zip(inputs.tolist(), batch["pair_targets"].tolist(), strict=True))
        assert float(batch["pair_weights"].sum()) == pytest.approx(1)
    pairs = made._pairs
    wanted = list(zip(np.repeat(made.sequences.items, np.diff(pairs.offsets)).tolist(), pairs.targets.tolist(), strict=True))
    assert sorted(shown) == sorted(wanted)


def test_what_followed_long_ago_counts_less_and_the_mean_stays_one(cycle: pa.Table) -> None:
    plain, fading = (task(cycle, Config(dim=8, max_length=6), half_life_days=days) for days in (None, 5.0))
    assert set(plain._fading.tolist()) == {1.0}
    assert fading._fading.mean() == pytest.approx(1, rel=1e-5)
    acts, by_age = fading.sequences, {}
    for user in range(len(acts)):
        part = acts.of(user)
        batch = fading._collate(np.array([[part.start, min(part.stop, part.start + 6), part.start]]), 1.0, 6)
        places = part.start + batch["rows"][batch["pair_rows"]].numpy()
        ages = (acts.time.max() - acts.time[places]) / splits.DAY_US
        by_age |= dict(zip(ages.tolist(), batch["pair_weights"].tolist(), strict=True))
    ages, weights = np.array(list(by_age)), np.array(list(by_age.values()))
    newest = ages.argmin()
    assert ages.max() > 20
    assert weights == pytest.approx(weights[newest] * 0.5 ** ((ages - ages[newest]) / 5), rel=1e-4)


def test_batches_are_a_function_of_seed_and_epoch(cycle: pa.Table) -> None:
    made = task(cycle, Config(dim=8, max_length=6, num_negatives=5))
    first, again, other = (next(iter(made.batches(epoch, 0, 1))) for epoch in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first if first[name].shape == other[name].shape)


def test_batches_hold_little_padding(cycle: pa.Table) -> None:
    made = task(cycle, Config(dim=8, max_length=50))
    used = sum(int(batch["lengths"].sum()) for batch in made.batches(0, 0, 1))
    padded = sum(batch["items"].numel() for batch in made.batches(0, 0, 1))
    assert used / padded > 0.9


@pytest.mark.parametrize("num_negatives", [None, 10])
def test_the_planted_order_is_learned(cycle: pa.Table, num_negatives: int | None) -> None:
    made = task(cycle, Config(dim=16, num_blocks=1, max_length=8, dropout=0.0, num_negatives=num_negatives))
    result = fit(made, FitConfig(epochs=8, batch_size=16, learning_rate=1e-2, seed=3))
    popular = ask(lambda _, users: np.tile(np.array(made.encoder.popularity), (len(users), 1)), made.val, 20, True)
    assert max(epoch["val_ndcg_at_10"] for epoch in result.history) > 0.8 > 2 * popular.means["ndcg_at_10"]


@pytest.mark.parametrize("num_negatives", [None, 10])
def test_the_loss_in_bfloat16_is_that_of_float32_but_for_its_digits(cycle: pa.Table, num_negatives: int | None) -> None:
    made = task(cycle, Config(dim=16, num_blocks=1, max_length=8, dropout=0.0, num_negatives=num_negatives))
    torch.manual_seed(0)
    module, batch = made.build(), next(iter(made.batches(0, 0, 1)))
    exact = made.loss(module, batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = made.loss(module, batch)
    mixed.backward()  # type: ignore[no-untyped-call]
    assert mixed.dtype == torch.float32
    assert float(mixed.detach()) == pytest.approx(float(exact.detach()), rel=2e-2)
    gradients = [parameter.grad.to_dense() for parameter in module.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_network_starts_better_than_popularity(cycle: pa.Table) -> None:
    made = task(cycle, Config(dim=8, max_length=8))
    torch.manual_seed(0)
    network = made.build()
    counts = np.bincount(made.sequences.items, minlength=20) + 1.0
    assert network.item_bias.detach().numpy() == pytest.approx(np.log(counts / counts.sum()), abs=1e-5)
    directions = torch.nn.functional.normalize(network.item.weight.detach(), dim=1).numpy()
    near, far = (np.mean([directions[item] @ directions[(item + gap) % 20] for item in range(20)]) for gap in (1, 10))
    assert near > far  # items that the same users take in one week point the same way


def test_a_catalogue_smaller_than_the_width_is_built(cycle: pa.Table) -> None:
    made = task(cycle, Config(dim=64, max_length=8))
    assert made.build().item.weight.isfinite().all()


def test_seen_items_are_left_out_where_they_may_not_come_again(cycle: pa.Table) -> None:
    made = task(cycle, Config(dim=8))
    assert made.val is not None
    report = ask(lambda _, users: np.ones((len(users), 20)), made.val, 20, repeats=False)
    for user, shown in enumerate(report.lists):
        assert not set(shown[shown >= 0]) & set(made.val.history.items[made.val.history.of(user)])


@pytest.mark.parametrize(("num_since", "shown"), [(HISTORY_STEPS - 1, []), (HISTORY_STEPS, ["a"])])
def test_what_serving_has_forgotten_may_come_again_in_evaluation_too(num_since: int, shown: list[str]) -> None:
    acts = [("u", "a", "view", 0.0), *(("u", "bc"[step % 2], "view", 1.0 + step) for step in range(num_since))]
    queries = make_queries(splits.Holdout(interactions(*acts), interactions(("u", "a", "view", 999))), ENCODER)
    report = ask(lambda _, users: np.ones((len(users), 3)), queries, 3, repeats=False)
    assert [ENCODER.items[item] for item in report.lists[0] if item >= 0] == shown
    config = Config(dim=8, repeats=False)
    served = Recommender(config, ENCODER, Network(config, 3, 2).eval())
    history = [item for _, item, _, _ in acts][-HISTORY_STEPS:]
    assert [item for item, _ in served.recommend([history], 3)[0]] == shown


def test_without_a_validation_part_no_metric_chooses_the_epoch(cycle: pa.Table) -> None:
    made = replace(task(cycle, Config(dim=8, max_length=6)), val=None)
    result = fit(made, FitConfig(epochs=2, batch_size=16, seed=3))
    assert (made.monitor, result.best_epoch) == (None, 1)
    assert result.history[1].keys() == {"train_loss"}


def test_bad_interactions_are_refused() -> None:
    with pytest.raises(TableContractError, match="lack column.s. event_type"):
        split(ROWS.drop_columns("event_type"), DataConfig())
    with pytest.raises(TableContractError, match="hold no row"):
        split(ROWS.slice(0, 0), DataConfig())
    with pytest.raises(TableContractError, match="no user acts both before and in"):
        split(ROWS, DataConfig(val_days=1, test_days=1))
    with pytest.raises(TableContractError, match="no interactions to split"):
        split(ROWS, DataConfig(event_types=("cart",)))
