"""The common forms of recommender data, a few rows of each, from file to raw table and by a mapping that nobody corrected."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features.shop import Shop
from infra.errors import IngestError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs.ingest import ingest
from spark_jobs.init_shop import init_shop
from spark_jobs.sources.guess import guess_tables

RECBOLE = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


@pytest.fixture
def forms(tmp_path: Path) -> Path:
    folder = tmp_path / "forms 数据"
    for name in ("amazon", "diginetica", "movielens", "recbole"):
        (folder / name).mkdir(parents=True)
    users = {"user": [1, 2, 3, 4], "items": pa.array([[7, 8, 7], [], [9, None], None], pa.list_(pa.int64()))}
    pq.write_table(pa.table(users), folder / "amazon/sequences.parquet")
    (folder / "amazon/item_attributes.json").write_text('{"7": [1], "8": [2, 1], "9": [1]}')
    pq.write_table(pa.table({"session": [0, 1], "items": [[5, 6], [5]]}), folder / "diginetica/train_sessions.parquet")
    pq.write_table(pa.table({"prefix": [[5]], "target": [6]}), folder / "diginetica/test_prefix_target.parquet")
    (folder / "beauty.txt").write_text("0012 71\n0012 70\n31 71\n0012 72\n")
    (folder / "movielens/ratings.dat").write_text(
        "ann::0071::5::978300760\nann::0071::4\nann::999999999999999999999::1::978300761\n"
    )
    (folder / "movielens/movies.dat").write_bytes('0071::"Misérables": Les (1998)::Drama|War\n'.encode("latin-1"))
    (folder / "movielens/users.dat").write_text("ann::F::1::10::48067\n")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\nbob,31,2.5,1260759144\n")
    (folder / "recbole/shop.inter").write_text(RECBOLE + "小明\t0242\t3\t881250949.0\n小明\t\t3\t881250950.0\n", encoding="utf-8")
    (folder / "recbole/shop.item").write_text("item_id:token\tmovie_title:token_seq\tclass:token_seq\n0242\tKolya\tComedy Drama\n")
    (folder / "recbole/shop.user").write_text("user_id:token\tage:token\tcountry:token\n小明\t24\tCN\n", encoding="utf-8")
    (folder / "rsc15.tsv").write_text("SessionId\tItemId\tTime\n11\t214\t1396871797.25\n")
    return folder


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_every_form_goes_from_file_to_raw_table(forms: Path, settings: Settings, lake: Lake, spark: SparkSession) -> None:
    home = Home(settings)
    text = init_shop(home, "sample", [str(forms)]).read_text(encoding="utf-8")
    told = ("test_prefix_target.parquet", "users.dat")
    assert all(f"Left out: {name}" in text for name in told)
    shop = Shop.load(home)
    assert shop.now == "data"
    report = ingest(settings, shop.model_copy(update={"quarantine_share": 1.0}), lambda: nullcontext(spark))
    for line in report.lines:
        line.check()
    counts = {
        line.source: (line.read, line.accepted, line.dropped, line.reasons) for line in report.lines if line.table == "events"
    }
    no_item, no_time = "item_id: missing for an event that speaks of an item", "event_timestamp: missing"
    assert counts == {
        "amazon_sequences": (7, 4, {"empty list": 1}, {no_item: 1, f"{no_time}; {no_item}": 1}),
        "diginetica": (3, 3, {}, {}),
        "sasrec": (4, 4, {}, {}),
        "ratings": (3, 2, {}, {"3 fields, expected 4": 1}),
        "ratings_2": (1, 1, {}, {}),
        "shop": (2, 1, {}, {no_item: 1}),
        "rsc15": (1, 1, {}, {}),
    }
    events = lake.read("raw/events").to_pylist()
    assert {row["event_type"] for row in events} == {"view"}
    start, sessions = 946_684_800, 1_451_606_400
    assert sorted((r["user_id"] or "", r["session_id"] or "", r["event_timestamp"], r["item_id"]) for r in events) == [
        ("", "0", at(sessions + 0.001), "5"),
        ("", "0", at(sessions + 0.002), "6"),
        ("", "1", at(sessions + 60.001), "5"),
        ("", "11", at(1_396_871_797.25), "214"),
        ("0012", "", at(start + 3600), "71"),
        ("0012", "", at(start + 7200), "70"),
        ("0012", "", at(start + 10800), "72"),
        ("1", "", at(start + 3600), "7"),
        ("1", "", at(start + 7200), "8"),
        ("1", "", at(start + 10800), "7"),
        ("3", "", at(start + 3600), "9"),
        ("31", "", at(start + 3600), "71"),
        ("ann", "", at(978_300_760), "0071"),
        ("ann", "", at(978_300_761), "999999999999999999999"),
        ("bob", "", at(1_260_759_144), "31"),
        ("小明", "", at(881_250_949), "0242"),
    ]
    assert sorted((r["item_id"], r["title"], r["category"]) for r in lake.read("raw/items").to_pylist()) == [
        ("0071", '"Misérables": Les (1998)', "Drama|War"),
        ("0242", "Kolya", "Comedy Drama"),
        ("7", "attributes 1", None),
        ("8", "attributes 2 1", None),
        ("9", "attributes 1", None),
    ]
    assert [(r["user_id"], r["country"]) for r in lake.read("raw/users").to_pylist()] == [("小明", "CN")]


def test_a_list_that_has_grown_brings_what_is_new(settings: Settings, lake: Lake, spark: SparkSession, tmp_path: Path) -> None:
    home, file = Home(settings), tmp_path / "sequences.parquet"
    pq.write_table(pa.table({"user": [1], "items": [[7, 8]]}), file)
    init_shop(home, "sample", [str(file)])
    ingest(settings, Shop.load(home), lambda: nullcontext(spark))
    pq.write_table(pa.table({"user": [1], "items": [[7, 8, 9]]}), file)
    (line,) = ingest(settings, Shop.load(home), lambda: nullcontext(spark)).lines
    assert (line.read, line.accepted, line.duplicates) == (3, 1, 2)
    assert sorted(lake.read("raw/events")["item_id"].to_pylist()) == ["7", "8", "9"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.txt", "user_id item_id\n1 42\n"),  # a header line
        ("log.txt", "1 42\n1 43 44\n"),
        ("ratings.dat", "1,31,2.5,1260759144\n"),
        ("shop.inter", "user_id:token\titem_id:token\n1\t31\n"),  # no time
    ],
)
def test_what_only_looks_like_a_known_form_is_left_out(name: str, text: str, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(IngestError, match="fits no raw table"):
        init_shop(Home(settings), "sample", [str(tmp_path / name)])


@pytest.mark.parametrize("first", ["user_id,item_id,action,time", "user,item,items,time"])
def test_words_that_anybody_uses_make_no_known_set(first: str, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"{first}\n1,42,pv,2025-01-01T10:00:00Z\n")
    home = Home(settings)
    assert "made up" not in init_shop(home, "sample", [str(tmp_path / "log.csv")]).read_text()


def test_an_object_of_objects_is_told_by_its_keys_and_lists_of_anything_are_not_guessed_at(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "products.json").write_text('{\n"b1": {"title": "Tea", "price": 2.5},\n"b2": {"title": "Cup"}}')
    (tmp_path / "taken.json").write_text('{"ann": ["b1", "b2"], "bob": ["b2"]}')
    with pytest.raises(IngestError, match=r"\(columns key, title, price\).*\(columns ann, bob\)"):
        init_shop(Home(settings), "sample", [str(tmp_path / "products.json"), str(tmp_path / "taken.json")])


@pytest.mark.parametrize("columns", [{"user": [1], "items": [[7]], "times": [[9]]}, {"user": [1], "items": ["7 8"]}])
def test_sequences_are_an_id_and_one_list(columns: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "sequences.parquet")
    with pytest.raises(IngestError, match="fits no raw table"):
        init_shop(Home(settings), "sample", [str(tmp_path / "sequences.parquet")])


@pytest.mark.parametrize("column", ["quantity", "price", "order_id"])
def test_a_row_that_tells_of_a_sale_is_not_taken_for_a_view(column: str) -> None:
    columns = ["user_id", "item_id", "time"]
    samples = {"time": ["2025-01-01T10:00:00Z"]}
    assert [guess.table for guess in guess_tables(columns, samples)] == ["events"]
    assert "events" not in [guess.table for guess in guess_tables([*columns, column], samples)]


@pytest.mark.parametrize("name", ["ratings.dat", "beauty.txt", "shop.inter"])
def test_an_empty_file_of_a_known_form_is_told(name: str, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(IngestError, match=f"{name} is empty"):
        init_shop(Home(settings), "sample", [str(tmp_path / name)])


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "acts", "items"), [("amazon_beauty", 198_502, 12_101), ("amazon_toys", 167_597, 11_924), ("diginetica", 906_140, 0)]
)
def test_the_real_sequences_add_up(
    name: str, acts: int, items: int, settings: Settings, lake: Lake, spark: SparkSession, data_folder: Path
) -> None:
    home = Home(settings)
    init_shop(home, "sample", [str(data_folder / name)])
    lines = ingest(settings, Shop.load(home), lambda: nullcontext(spark)).lines
    assert sorted((line.read, line.accepted) for line in lines) == sorted((count, count) for count in (acts, items) if count)
    assert lake.num_rows("raw/events") == acts
