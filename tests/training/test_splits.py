from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from training import splits

START = datetime(2024, 1, 1, tzinfo=UTC)
Row = tuple[str, str, float] | tuple[str, str, float, str]


def interactions(*rows: Row) -> pa.Table:
    """Rows of (user, item, day[, session])."""
    columns = {
        "user_id": [row[0] for row in rows],
        "item_id": [row[1] for row in rows],
        "event_timestamp": pa.array([START + timedelta(days=row[2]) for row in rows], pa.timestamp("us", tz="UTC")),
    }
    if all(len(row) == 4 for row in rows):
        columns["session_id"] = [row[-1] for row in rows]
    return pa.table(columns)


def items(rows: pa.Table) -> list[str]:
    return rows["item_id"].to_pylist()


LONG = interactions(
    ("u", "a", 0), ("u", "b", 5), ("u", "c", 11), ("u", "d", 11.01), ("u", "e", 12), ("u", "f", 21), ("v", "g", 1), ("v", "h", 29),
    ("w", "i", 25),
)  # fmt: skip


def test_everybody_is_cut_at_the_same_instants() -> None:
    split = splits.time_split(LONG, val_days=10, test_days=10)
    assert items(split.train) == ["a", "b", "g"]
    assert items(split.val.history) == ["a", "b"]
    assert items(split.val.targets) == ["c", "d"]  # one session of two acts; "e" came a day later
    assert items(split.refit) == ["a", "b", "c", "d", "e", "g"]
    assert items(split.test.history) == ["a", "b", "c", "d", "e", "g"]
    assert items(split.test.targets) == ["f", "h"]
    assert split.test.num_cold_users == 1
    assert items(splits.time_split(LONG, 10, 10, target="item").val.targets) == ["c"]


def test_each_act_is_asked_for_given_all_before_it() -> None:
    split = splits.time_split(LONG, val_days=10, test_days=10, target="act")
    assert items(split.train) == ["a", "b", "g"]
    histories: dict[str, list[str]] = {}
    for row in split.val.history.to_pylist():
        histories.setdefault(row["user_id"], []).append(row["item_id"])
    asked = {row["user_id"]: row["item_id"] for row in split.val.targets.to_pylist()}
    assert asked == {"u#0": "c", "u#1": "d", "u#2": "e"}
    assert histories == {"u#0": ["a", "b"], "u#1": ["a", "b", "c"], "u#2": ["a", "b", "c", "d"]}
    assert items(split.test.targets) == ["f", "h"]
    assert split.test.num_cold_users == 1  # w's only act
    strangers = interactions(("x", "a", 0), ("y", "b", 26), ("y", "c", 26.01), ("y", "b", 26.02), ("z", "a", 15), ("z", "b", 15.1))
    assert items(splits.time_split(strangers, 10, 10, target="act").test.targets) == ["c", "b"]  # known by one session alone


def test_an_act_that_was_known_late_is_no_history_of_those_before_that() -> None:
    rows = interactions(("u", "a", 0), ("u", "b", 11), ("u", "c", 12), ("u", "d", 25), ("u", "e", 26))
    known = [START + timedelta(days=day) for day in (0, 13, 12, 25, 26)]
    split = splits.time_split(rows.append_column("created_timestamp", pa.array(known, pa.timestamp("us", tz="UTC"))), 10, 10, "act")
    assert items(split.val.targets) == ["b", "c"]
    assert items(split.val.history) == ["a", "a"]
    assert items(split.test.history) == ["a", "b", "c", "a", "b", "c", "d"]


def test_acts_beyond_the_most_asked_and_the_longest_history_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MOST_ASKED", 5)
    monkeypatch.setattr(splits, "LONGEST", 3)
    rows = interactions(*(("u", str(day), day) for day in range(40)))
    split = splits.time_split(rows, 10, 10, target="act")
    assert items(split.val.targets) == ["20", "22", "24", "26", "28"]
    assert items(split.val.history)[:6] == ["17", "18", "19", "19", "20", "21"]


def test_what_happens_after_a_cutoff_changes_nothing_before_it() -> None:
    later = pa.concat_tables([LONG, interactions(("u", "z", 28.5), ("v", "z", 25))])
    before, after = splits.time_split(LONG, 10, 10), splits.time_split(later, 10, 10)
    assert before.train.equals(after.train)
    assert before.val.targets.equals(after.val.targets)
    assert before.digest != after.digest


def test_a_session_that_began_before_the_cutoff_is_no_target() -> None:
    rows = interactions(
        ("u", "a", 0, "s1"), ("u", "b", 9.99, "s2"), ("u", "c", 10.01, "s2"), ("u", "d", 15, "s3"), ("v", "a", 1, "t1"),
        ("v", "b", 20, "t2"), ("u", "c", 29.999, "s4"),
    )  # fmt: skip
    split = splits.time_split(rows, val_days=9.999, test_days=10)
    assert items(split.val.history) == ["a", "b"]
    assert items(split.val.targets) == ["d"]


def test_rows_of_one_instant_keep_their_order_or_go_by_id() -> None:
    rows = interactions(("u", "b", 0), ("u", "a", 0), ("t", "c", 1))
    assert items(splits.in_order(rows)) == ["c", "b", "a"]
    named = rows.append_column("interaction_id", pa.array(["2", "1", "0"]))
    assert items(splits.in_order(named)) == ["c", "a", "b"]


def test_leave_one_out() -> None:
    rows = interactions(("u", "a", 0), ("u", "b", 1), ("u", "c", 2), ("u", "d", 3), ("v", "x", 0), ("v", "y", 1))
    split = splits.leave_one_out(rows)
    assert items(split.train) == ["a", "b", "x", "y"]
    assert (items(split.val.history), items(split.val.targets)) == (["a", "b"], ["c"])
    assert (items(split.test.history), items(split.test.targets)) == (["a", "b", "c"], ["d"])


def test_the_digest_speaks_of_the_rows_not_of_their_order() -> None:
    shuffled = LONG.take(pa.array([8, 3, 1, 0, 2, 7, 6, 5, 4]))
    assert splits.time_split(LONG, 10, 10).digest == splits.time_split(shuffled, 10, 10).digest
    assert splits.time_split(LONG, 10, 10).digest != splits.time_split(LONG, 17.5, 10).digest


def test_sessions_without_an_id_end_after_half_an_hour() -> None:
    hour = 1 / 24
    rows = interactions(("u", "a", 0), ("u", "b", 0.4 * hour), ("u", "c", 1.2 * hour), ("v", "d", 1.2 * hour))
    assert splits.session_codes(splits.in_order(rows)).tolist() == [0, 0, 1, 2]


def test_what_was_known_only_after_a_cutoff_does_not_precede_it() -> None:
    known = [START + timedelta(days=day) for day in (0, 20, 11, 11.01, 12, 21, 1, 29, 24)]  # "b" of day 5 came late
    split = splits.time_split(LONG.append_column("created_timestamp", pa.array(known, pa.timestamp("us", tz="UTC"))), 10, 10)
    assert (items(split.train), items(split.val.history)) == (["a", "g"], ["a"])
    assert items(split.val.targets) == ["c", "d"]
    assert items(split.refit) == ["a", "c", "d", "e", "g"]
    assert items(split.test.history) == ["a", "c", "d", "e", "g"]


def test_splits_that_ask_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match="validation part"):
        splits.time_split(interactions(("u", "a", 0), ("u", "b", 30)), 10, 10)
    with pytest.raises(ValueError, match="no interactions"):
        splits.time_split(LONG.slice(0, 0), 10, 10)
    with pytest.raises(ValueError, match="three acts"):
        splits.leave_one_out(interactions(("u", "a", 0), ("u", "b", 1)))


def test_rolling_origins_end_where_the_test_part_begins() -> None:
    assert splits.rolling_origins(100, 10, 3) == ((60, 70, 80), 90)
    with pytest.raises(ValueError, match="expected at least 20"):
        splits.rolling_origins(40, 10, 3)


def test_every_session_is_asked_with_what_was_known_before_it_and_no_more() -> None:
    start, until = (round((START + timedelta(days=day)).timestamp() * 1e6) for day in (11, 25))
    holdout = splits.every_session(LONG, start, until)
    assert holdout.askers == ("u", "u", "u")  # v acts too late, w has no history
    assert holdout.num_cold_users == 0
    questions = list(dict.fromkeys(holdout.targets["user_id"].to_pylist()))
    found = [
        [items(part.filter(pc.equal(part["user_id"], question))) for part in (holdout.history, holdout.targets)]
        for question in questions
    ]
    assert found == [[["a", "b"], ["c", "d"]], [["a", "b", "c", "d"], ["e"]], [["a", "b", "c", "d", "e"], ["f"]]]
    assert splits.every_session(LONG, start, until + 1).num_cold_users == 1


def test_an_act_known_later_than_a_session_begins_is_not_in_its_history() -> None:
    rows = interactions(("u", "a", 1), ("u", "b", 2), ("u", "c", 3))
    known = [START + timedelta(days=day) for day in (1, 7, 3)]
    rows = rows.append_column("created_timestamp", pa.array(known, pa.timestamp("us", tz="UTC")))
    begin, end = (round((START + timedelta(days=day)).timestamp() * 1e6) for day in (2.5, 4))
    holdout = splits.every_session(rows, begin, end)
    assert (holdout.askers, items(holdout.history), items(holdout.targets)) == (("u",), ["a"], ["c"])


def test_a_part_without_a_session_of_a_known_user_is_told() -> None:
    with pytest.raises(ValueError, match="no session of a user with a history"):
        splits.every_session(LONG, 0, 1)
