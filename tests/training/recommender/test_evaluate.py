from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from training.metrics.names import RANKING, check
from training.metrics.ranking import RankingReport
from training.recommender import evaluate
from training.recommender.baselines import CoOccurrence, Popularity
from training.recommender.data import DataConfig, Queries, ask, make_encoder, make_queries, make_sequences, split


@pytest.fixture(scope="module")
def asked(cycle: pa.Table) -> tuple[Queries, dict[str, RankingReport]]:
    parts = split(cycle, DataConfig(val_days=14, test_days=14))
    encoder = make_encoder(parts.refit, 28)
    queries, acts = make_queries(parts.test, encoder), make_sequences(parts.refit, encoder)
    reports = {}
    for name, floor in {"good": CoOccurrence(decay=0.5), "popularity": Popularity()}.items():
        floor.fit(acts, len(encoder.items))
        reports[name] = ask(floor, queries, len(encoder.items), True)
    return queries, reports


def test_metrics_have_listed_names_and_hold_their_mean(asked: tuple[Queries, dict[str, RankingReport]]) -> None:
    report = asked[1]["good"]
    found = evaluate.metrics(report, asked[0], np.arange(20), seed=1)
    assert all(check(name) == name for name in found)
    assert found["test_ndcg_at_10"] == pytest.approx(report.per_query["ndcg_at_10"].mean())
    for name in RANKING:
        assert found[f"test_{name}_lo"] <= found[f"test_{name}"] <= found[f"test_{name}_hi"]


def test_gains_name_the_hardest_floor_first(asked: tuple[Queries, dict[str, RankingReport]]) -> None:
    report = asked[1]["good"]
    found = evaluate.gains(report, {"popularity": asked[1]["popularity"], "itself": report}, asked[0], seed=1)
    assert list(found) == ["itself", "popularity"]
    assert found["itself"] == (0, 0, 0)
    assert found["popularity"][1] > 0


def test_questions_of_one_user_are_drawn_together(cycle: pa.Table) -> None:
    parts = split(cycle, DataConfig(val_days=14, test_days=14, target="act"))
    encoder = make_encoder(parts.refit, 28)
    queries, acts = make_queries(parts.test, encoder), make_sequences(parts.refit, encoder)
    assert set(queries.askers) <= set(cycle["user_id"].to_pylist())
    assert len(set(queries.askers)) == queries.owners.max() + 1 < len(queries)
    floor = CoOccurrence(decay=0.5)
    floor.fit(acts, len(encoder.items))
    report = ask(floor, queries, len(encoder.items), True)
    values = np.array([float(user[-1] > "4") for user in queries.askers])  # some users are easy, others are not
    easy = replace(report, per_query={"ndcg_at_10": values})
    together = evaluate.metrics(easy, queries, np.arange(20), seed=1)
    apart = evaluate.metrics(easy, replace(queries, askers=queries.history.users), np.arange(20), seed=1)
    assert together["test_ndcg_at_10"] == pytest.approx(apart["test_ndcg_at_10"])
    widths = [found["test_ndcg_at_10_hi"] - found["test_ndcg_at_10_lo"] for found in (together, apart)]
    assert widths[0] > 1.5 * widths[1]
    assert set(evaluate.per_user(report, queries, str)["user_id"].to_pylist()) == set(queries.askers)


def test_segments_part_users_and_wanted_items() -> None:
    rows = pa.table(
        {
            "user_id": ["a"] * 9 + ["b"] * 3 + ["c"] * 3,
            "item_id": ["0", "1", "0", "1", "0", "1", "0", "1", "2", "0", "1", "0", "0", "1", "3"],
            "event_type": ["view"] * 15,
            "event_timestamp": pa.array(range(15), pa.timestamp("us", tz="UTC")),
        }
    )
    parts = split(rows, DataConfig(protocol="leave_one_out"))
    encoder = make_encoder(rows, 28)
    queries = make_queries(parts.test, encoder)  # a wants 2, b wants 0, c wants 3; 2 and 3 are rare
    counts = np.array([70, 20, 5, 5])
    found = {}
    for name, wanted in {"knows": [2, 0, 3], "knows popular": [0, 0, 0]}.items():
        scores = np.zeros((3, 4), dtype=np.float32)
        scores[range(3), wanted] = 1
        found[name] = ask(lambda _, users, scores=scores: scores[users], queries, 4, True)
    table = evaluate.segments(found["knows"], found["knows popular"], queries, counts, 1)
    rows_by_name = {row["segment"]: row for row in table.to_pylist()}
    assert {name: row["num_queries"] for name, row in rows_by_name.items()} == {
        "all": 3, "cold": 2, "heavy": 1, "tail": 2, "head": 1, "decile_1": 1, "decile_3": 1, "decile_8": 1,
    }  # fmt: skip
    assert rows_by_name["head"]["gain"] == 0
    assert rows_by_name["tail"]["gain"] > 0.5
    assert rows_by_name["tail"]["ndcg_at_10"] == 1
    assert "| all | 3 | too few | too few |" in evaluate.segments_table(table)
    many = pa.Table.from_pylist([{**row, "num_queries": 10 * row["num_queries"]} for row in table.to_pylist()])
    lines = evaluate.segments_table(many).splitlines()
    assert len(lines) == 2 + len(rows_by_name) + 2
    assert lines[2].startswith("| all | 30 | 1.0000 [1.0000, 1.0000] |")
    assert lines[-1].startswith("cold: fewer than five acts")


def test_per_user_rows_hold_no_user_id(asked: tuple[Queries, dict[str, RankingReport]]) -> None:
    queries, reports = asked
    rows = evaluate.per_user(reports["good"], queries, lambda user: f"hash of {user[::-1]}")
    assert rows.num_rows == len(queries)
    assert not set(rows["user_id"].to_pylist()) & set(queries.history.users)
    assert rows["ndcg_at_10"].to_pylist() == reports["good"].per_query["ndcg_at_10"].tolist()


def test_per_user_rows_are_thinned_evenly(asked: tuple[Queries, dict[str, RankingReport]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "MAX_USERS", 10)
    queries, reports = asked
    assert 5 <= evaluate.per_user(reports["good"], queries, str).num_rows <= 10


def test_plots_show_model_and_floors(asked: tuple[Queries, dict[str, RankingReport]]) -> None:
    queries, reports = asked
    by_popularity = evaluate.recall_by_popularity(reports, np.arange(20))
    good, popularity = by_popularity.axes[0].lines
    assert (good.get_label(), popularity.get_label()) == ("good", "popularity")
    assert np.mean(good.get_ydata()) > np.mean(popularity.get_ydata())
    assert len(evaluate.ndcg_by_history(reports, queries).axes[0].lines) == 2
    gains = evaluate.gains(reports["good"], {"popularity": reports["popularity"]}, queries, seed=1)
    assert [tick.get_text() for tick in evaluate.gains_over_floors(gains).axes[0].get_yticklabels()] == ["popularity"]


def test_table_holds_every_metric_of_everybody(asked: tuple[Queries, dict[str, RankingReport]]) -> None:
    text = evaluate.table({name: evaluate.metrics(report, asked[0], np.arange(20), 1) for name, report in asked[1].items()})
    assert (
        text.splitlines()[0]
        == "| test part | ndcg_at_10 | recall_at_10 | recall_at_20 | mrr_at_20 | coverage_at_10 | novelty_at_10 |"
    )
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == ["good", "popularity"]
