"""A load is undone by one command: tables and online rows as if it had never come, and no reader fails meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from features.online.packing import key_texts
from features.online.rows import Row
from features.shop import Shop
from features.store import FeatureStore
from features.tables import ORDERS
from features.views import VIEWS, View
from infra import journal
from infra.errors import HomeError, TableContractError
from infra.home import Home
from infra.journal import Append, Journal
from infra.lake import Lake, Mode
from infra.pins import pin
from infra.settings import Settings
from spark_jobs import build as builder
from spark_jobs.ingest import ingest
from spark_jobs.sources import seen
from spark_jobs.undo import plan, undo

HEADER = "order,line,customer,sku,qty,price,at\n"
COLUMNS = {
    "order_id": "order",
    "order_line_id": "line",
    "user_id": "customer",
    "item_id": "sku",
    "quantity": "qty",
    "unit_price": "price",
    "event_timestamp": "at",
}
BUILT = ("item_activity", "item_catalog")
"""Feature tables of each kind that there is, interactions come along: enough for an undo, which knows no table by name."""
USERS, ITEMS = [f"顧客{n}" for n in range(4)], [f"商品 {n}" for n in range(3)]


class TheShop:
    """A shop of two sources, run in the tests' one Spark."""

    def __init__(self, settings: Settings, folder: Path, spark: SparkSession | None = None) -> None:
        self.settings = settings
        self.spark = spark
        self.folder = folder
        said = {
            "name": "sample",
            "currency": "EUR",
            "time_zone": "Europe/Berlin",
            "now": "data",
            "sources": [
                {"name": "till", "format": "csv", "path": str(folder / "till"), "tables": [{"table": "orders", "columns": COLUMNS}]},
                {
                    "name": "catalogue", "format": "csv", "path": str(folder / "goods"),
                    "tables": [{"table": "items", "columns": {"item_id": "sku", "title": "name", "event_timestamp": "at"}}],
                },
            ],
        }  # fmt: skip
        for name in ("till", "goods"):
            (folder / name).mkdir(parents=True)
        (folder / "goods" / "0.csv").write_text("sku,name,at\n", encoding="utf-8")
        place = Home(settings).shop("sample")
        place.mkdir(parents=True)
        (place / "shop.yaml").write_text(yaml.safe_dump(said, allow_unicode=True), encoding="utf-8")
        self.shop = Shop.load(Home(settings))
        self.lake = Lake.open(settings)

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(self.settings, self.shop, self.lake)

    def deliver(self, day: int, times: int = 1, item: str | None = None) -> None:
        """The orders of one day, at their prices times `times`, and one item of the catalogue, as files of the sources."""
        at = datetime(2025, 11, day, 10, tzinfo=UTC)
        lines = [
            f"{day}-{n},1,{user},{ITEMS[(n + day) % 3]},{1 + n % 2},{(n + 2) * times},{(at + timedelta(minutes=n)).isoformat()}\n"
            for n, user in enumerate(USERS)
        ]
        (self.folder / "till" / f"{day} 日.csv").write_text(HEADER + "".join(lines), encoding="utf-8")
        if item:
            (self.folder / "goods" / f"{day}.csv").write_text(
                f"sku,name,at\n{item},Name {day},{at.isoformat()}\n", encoding="utf-8"
            )

    def load(self) -> None:
        ingest(self.settings, self.shop, lambda: nullcontext(self.spark))

    def derive(self) -> None:
        builder.build(self.settings, BUILT)
        self.store.materialize()

    def tables(self) -> dict[str, pa.Table]:
        return {path: self.lake.read(path) for path in self.lake.tables()}

    def keys(self) -> dict[View, list[str | None]]:
        """The keys of every row of the online views' tables."""
        found = {}
        for view in VIEWS.values():
            if view.online and self.lake.version(view.path) is not None:
                rows = self.lake.read(view.path, columns=list(view.key_names))
                parts = [[v.isoformat() if isinstance(v, date) else v for v in rows[name].to_pylist()] for name in view.key_names]
                found[view] = sorted(set(filter(None, key_texts(parts))))
        return found

    def online(self, keys: dict[View, list[str | None]]) -> dict[tuple[str, str | None], Row | None]:
        """The online rows of these keys as they stand at one instant."""
        read = self.store.rows.read(keys)
        return {(view.name, key): row for view in keys for key, row in zip(keys[view], read[view][1], strict=True)}


@pytest.fixture
def the(settings: Settings, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TheShop:
    monkeypatch.setattr(builder, "session", lambda *_: nullcontext(spark))
    return TheShop(settings, tmp_path / "daten 数据", spark)


@pytest.fixture
def told(settings: Settings, tmp_path: Path) -> TheShop:
    """A shop without Spark, into whose tables `put` commits."""
    return TheShop(settings, tmp_path / "daten 数据")


def put(lake: Lake, load: str, **tables: int) -> None:
    """Commit a load as an ingest does: to raw tables so many rows each, and to the memory of what was read."""
    appends = []
    for name, count in tables.items():
        path = f"raw/{name}"
        rows = pa.table({"item_id": [f"{load} {n}" for n in range(count)]})
        attempt = lake.attempt(path)
        pq.write_table(rows, f"{attempt.uri}/part-0.parquet")
        appends.append(Append(attempt, rows.schema, f"{load} {path}", {"ingest": load}))
    attempt = lake.attempt(seen.PATH)
    part = {"source": "till", "part": f"{load}.csv", "size": 1, "digest": load, "num_rows": 1, "columns": "{}", "ingest": load}
    pq.write_table(pa.Table.from_pylist([part], schema=seen.SCHEMA), f"{attempt.uri}/part-0.parquet")
    Journal(lake, "ingest").commit([*appends, Append(attempt, seen.SCHEMA, f"{load} files", {"ingest": load})])


def sell(lake: Lake, day: int, times: int = 1) -> None:
    """Commit an order of a day, at its price times `times`, as the load of that day."""
    at = datetime(2025, 11, day, 10, tzinfo=UTC)
    row = {"order_id": f"{day}", "user_id": USERS[0], "item_id": f"商品 {day}", "quantity": 1, "unit_price": Decimal(times)}
    rows = pa.Table.from_pylist([{**row, "event_timestamp": at, "created_timestamp": at}], schema=ORDERS.schema)
    lake.write("raw/orders", rows, "append", digest=f"{day} orders", metadata={"ingest": f"{day}"})


def built(lake: Lake, name: str, mode: Mode = "overwrite", **inputs: int) -> None:
    """Commit a feature table of one row, built from these versions: `raw_orders=3`."""
    path = f"features/{name}"
    version = lake.version(path)
    metadata = {"inputs": {of.replace("_", "/", 1): number for of, number in inputs.items()}}
    rows = pa.table({"item_id": [f"{inputs}"]})
    lake.write(path, rows, mode, digest=f"{name} {inputs}", read_version=version, metadata=metadata)


@contextmanager
def reading(the: TheShop, keys: dict[View, list[str | None]]) -> Iterator[list[object]]:
    """Reads online rows and tables over and over from another thread; the different online answers, and the errors, that it saw."""
    seen: list[object] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                answer: object = the.online(keys)
                for path in the.lake.tables():
                    the.lake.read(path)
            except Exception as error:
                answer = error
            if answer not in seen:
                seen.append(answer)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def test_a_day_with_prices_times_100_is_undone_by_one_command(the: TheShop) -> None:
    the.deliver(1, item=ITEMS[0])
    the.deliver(2)
    the.load()
    the.derive()
    tables, keys = the.tables(), the.keys()
    versions = {path: the.lake.version(path) for path in tables}
    before = the.online(keys)
    the.deliver(3, times=100, item=ITEMS[1])
    the.load()
    the.derive()
    keys = {view: sorted({*keys[view], *found}) for view, found in the.keys().items()}
    bad = the.online(keys)
    before = {key: before.get(key) for key in bad}
    assert bad != before
    pin(the.lake, "model", "sample.demand-1", {"features/item_activity": versions["features/item_activity"]})
    pin(the.lake, "model", "sample.demand-2", {"features/item_activity": the.lake.version("features/item_activity")})

    told = plan(the.lake, the.shop, ["orders"], 0)
    assert the.online(keys) == bad
    with reading(the, keys) as answers:
        done = undo(the.settings, ["raw/orders"], 0)
    assert answers in ([bad, before], [before], [bad])
    assert the.online(keys) == before
    assert {path: rows.num_rows for path, rows in the.tables().items()} == {path: rows.num_rows for path, rows in tables.items()}
    assert all(the.lake.read(path).equals(rows) for path, rows in tables.items())
    assert (told.tables, told.built, told.trained, told.read_again) == (done.tables, (), done.trained, done.read_again)
    assert [pin.holder for pin in done.trained] == ["model sample.demand-2"]
    assert sorted(part.rsplit("/", 1)[-1] for _, part in done.read_again) == ["3 日.csv", "3.csv"]
    assert {"raw/orders", "raw/items", "ingest/files", "features/item_activity"} <= {change.path for change in done.tables}
    assert all((change.to, change.rows_after) == (versions[change.path], tables[change.path].num_rows) for change in done.tables)
    assert all(built.skipped for built in builder.build(the.settings, BUILT))
    assert not undo(the.settings, ["raw/orders"], 0).tables
    assert sorted(Path(part).name for part in seen.Seen.load(the.lake).parts("till")) == ["1 日.csv", "2 日.csv"]


def test_an_undo_that_was_killed_is_finished_by_the_same_command(the: TheShop, monkeypatch: pytest.MonkeyPatch) -> None:
    sell(the.lake, 1)
    builder.build(the.settings, ["item_catalog"])
    sell(the.lake, 2)
    tables, keys = the.tables(), the.keys()  # a good load that no table was built from
    sell(the.lake, 3, times=100)
    put(the.lake, "3")
    builder.build(the.settings, ["item_catalog"])
    the.store.materialize()
    to = the.lake.version("raw/orders") - 1
    restore, done = journal.restore, []

    def killed(*args: object, **more: object) -> object:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return restore(*args, **more)

    monkeypatch.setattr(journal, "restore", killed)
    with pytest.raises(KeyboardInterrupt):
        undo(the.settings, ["raw/orders"], to)
    monkeypatch.setattr(journal, "restore", restore)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "materialize", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            undo(the.settings, ["raw/orders"], to)
    finished = undo(the.settings, ["raw/orders"], to)
    assert (finished.tables, finished.built) == ((), ("item_catalog",))
    assert all(the.lake.read(path).equals(rows) for path, rows in tables.items() if not path.startswith("features/"))
    assert builder.build(the.settings, ["item_catalog"])[-1].skipped
    found = the.online(keys)
    the.store.rows.drop("item_catalog")
    the.store.materialize()
    assert found == the.online(keys)
    assert not undo(the.settings, ["raw/orders"], to).online


def test_what_cannot_be_taken_back_is_told(told: TheShop) -> None:
    for load in ("1", "2", "3"):
        put(told.lake, load, orders=4)
    built(told.lake, "interactions", raw_orders=1)
    undo(told.settings, ["raw/orders"], 1)
    before = datetime(2001, 1, 1, tzinfo=UTC)
    for tables, to, words in (
        (["raw/ordres"], 0, "shop sample has no raw table raw/ordres; there are raw/orders"),
        (["商品"], 0, "no raw table raw/商品"),
        (["features/interactions"], 0, "features/interactions is built from others; restore those"),
        (["raw/orders"], 9, "raw/orders has no version 9; it has 0 to 3"),
        (["raw/orders"], 2, "version 2 of table raw/orders was taken back itself"),
        (["raw/orders"], before, "had none of these tables at 2001-01-01"),
        ([], before, "had none of these tables at 2001-01-01"),
        ([], 1, "name one table, or give a time"),
    ):
        with pytest.raises(TableContractError, match=words):
            undo(told.settings, tables, to)
    home = Home(told.settings)
    for name in ("build-sample", "ingest-sample"):
        with home.lock(name), pytest.raises(HomeError, match=f"`{name}` is already running"):
            undo(told.settings, ["raw/orders"], 0)
    assert told.lake.num_rows("raw/orders") == 8


def test_a_load_goes_back_in_all_its_tables_and_what_others_added_stays(told: TheShop) -> None:
    lake = told.lake
    put(lake, "good", orders=1, items=2)
    put(lake, "bad", orders=3, items=4, users=5)
    lake.write("raw/items", pa.table({"item_id": ["mine"]}), "append", digest="mine")
    put(lake, "late", users=6)
    found = plan(lake, told.shop, ["orders"], 0)
    assert {c.path: (c.version, c.to, c.kept, c.rows_before, c.rows_after) for c in found.tables} == {
        "ingest/files": (2, 0, (2,), 3, 2),
        "raw/items": (2, 0, (2,), 7, 3),
        "raw/orders": (1, 0, (), 4, 1),
        "raw/users": (1, None, (1,), 11, 6),
    }
    assert found.read_again == (("till", "bad.csv"),)
    undo(told.settings, ["raw/orders"], 0)
    assert {path: lake.num_rows(path) for path in lake.tables()} == {c.path: c.rows_after for c in found.tables}
    assert lake.read("raw/items")["item_id"].to_pylist() == ["good 0", "good 1", "mine"]
    put(lake, "bad", orders=3, items=4, users=5)
    assert lake.num_rows("raw/orders") == 4


def test_all_that_was_loaded_goes_back_to_a_time(told: TheShop) -> None:
    put(told.lake, "1", orders=1)
    then = datetime.now(UTC)
    time.sleep(0.01)
    put(told.lake, "2", orders=1, items=1)
    put(told.lake, "3")
    undo(told.settings, [], then)
    assert {path: told.lake.num_rows(path) for path in told.lake.tables()} == {"ingest/files": 1, "raw/items": 0, "raw/orders": 1}
    assert not undo(told.settings, [], then).tables


def test_feature_tables_go_back_to_what_nothing_of_the_load_went_into(told: TheShop) -> None:
    lake = told.lake
    for number in range(4):
        put(lake, f"{number}", orders=1)
        built(lake, "interactions", "append" if number else "overwrite", raw_orders=number)
        built(lake, "user_activity", features_interactions=number)
        built(lake, "item_catalog", raw_items=0)
    found = {change.path: change.to for change in plan(lake, told.shop, ["raw/orders"], 1).tables}
    assert found == {"ingest/files": 1, "raw/orders": 1, "features/interactions": 1, "features/user_activity": 1}
    put(lake, "no build before the next", orders=1)
    assert plan(lake, told.shop, ["raw/orders"], 3).tables[-1].path == "raw/orders"
    put(lake, "bad", orders=1)
    built(lake, "interactions", "append", raw_orders=5)
    found = {change.path: change.to for change in plan(lake, told.shop, ["raw/orders"], 4).tables}
    assert (found["features/interactions"], "features/user_activity" in found) == (3, False)
    assert plan(lake, told.shop, ["raw/orders"], 4).built == ("interactions",)
    built(lake, "interactions", "append", raw_orders=4)  # on rows of the bad load
    assert {c.path: c.to for c in plan(lake, told.shop, ["raw/orders"], 4).tables}["features/interactions"] == 3


def test_what_was_first_built_from_the_load_is_built_again(told: TheShop) -> None:
    put(told.lake, "good", orders=1)
    put(told.lake, "bad", orders=1)
    built(told.lake, "interactions", raw_orders=1)
    pin(told.lake, "run", "abc", {"features/interactions": 0})
    found = plan(told.lake, told.shop, ["raw/orders"], 0)
    assert (found.built, [pin.holder for pin in found.trained]) == (("interactions",), ["run abc"])
    assert "features/interactions" not in {change.path for change in found.tables}
