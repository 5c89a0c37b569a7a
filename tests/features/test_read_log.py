"""What was read is held against the tables afterwards: the wrong rows are found though they are gone, and no read fails of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from features.definitions import Definitions
from features.online import read_log
from features.online.materialize import materialize
from features.online.packing import pack_rows
from features.online.rows import Rows
from features.parity import Parity
from features.services import Service
from features.shop import Shop
from features.store import FeatureStore
from infra import vacuum
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from shopgraph import app
from tests.features.conftest import OnlineStore
from tests.features.test_parity import DAY, NOON, VIEW, write

HOUR = DAY / 24


class TheShop:
    """A shop with one view, materialised at noon: item `a` costs 0.1 and `b` nothing that is known, `c` has no row."""

    def __init__(self, settings: Settings, lake: Lake, rows: Rows, share: float) -> None:
        self.settings, self.lake, self.rows = settings.model_copy(update={"read_log": share}), lake, rows
        shop = Shop(name="sample", currency="EUR", time_zone="UTC")
        definitions = Definitions({}, {"prices": VIEW}, {"prices": Service("prices", (VIEW,))})
        self.store = FeatureStore(self.settings, shop, lake, definitions)
        self.store.rows = rows
        self.path = Home(settings).online / "sample.reads.db"
        write(lake, {"a": 0.1, "b": None}, NOON - HOUR)
        self.materialise(NOON)

    def materialise(self, as_of: datetime) -> None:
        materialize([VIEW], as_of, self.lake, self.rows, Home(self.settings))

    def put(self, item: str, price: float, at: datetime = NOON - HOUR) -> None:
        row = {"item": item, "day": date(2024, 5, 1), "price": price, "words": ["ä", None], "since": at, "count": 3}
        row |= {"event_timestamp": at, "created_timestamp": at}
        self.rows.write(VIEW, pack_rows(VIEW, pa.Table.from_pylist([row], schema=VIEW.schema)))

    def read(self, at: datetime, *items: str) -> list[Any]:
        found = self.store.online_rows("prices", {"item": list(items), "day": [date(2024, 5, 1)] * len(items)}, at)
        return found["price"]

    def verified(self) -> list[tuple[int, int, int, int, float]]:
        return [(one.keys, one.wrong, one.missing, one.newer, one.stale_s[2]) for one in self.store.verify_logged()]


@pytest.fixture
def make(settings: Settings, lake: Lake, online: OnlineStore) -> Callable[..., TheShop]:
    return lambda share=1.0: TheShop(settings, lake, online.open(), share)


def test_what_was_read_and_right_holds_and_is_stale_by_what_was_known_then(make: Callable[..., TheShop]) -> None:
    the = make()
    assert the.verified() == []
    assert the.read(NOON, "a", "b", "c") == [0.1, None, None]
    assert the.read(NOON + 20 * DAY, "a") == [None]  # expired
    write(the.lake, {"a": 0.2}, NOON + 2 * HOUR)
    assert the.read(NOON + HOUR, "a") == [0.1]  # what comes at two is not stale at one
    assert the.verified() == [(5, 0, 0, 0, 0)]
    the.read(NOON + 3 * HOUR, "a")
    assert the.verified() == [(6, 0, 0, 0, 3 * 3600)]
    the.materialise(NOON + 3 * HOUR)
    assert the.read(NOON + 3 * HOUR, "a") == [0.2]
    assert the.verified() == [(6, 0, 0, 0, 3 * 3600), (1, 0, 0, 0, 0)]


def test_a_wrong_row_is_found_after_it_is_gone(make: Callable[..., TheShop]) -> None:
    the = make()
    the.put("a", 0.1 + 2**-55)
    the.put("c", 1.0)
    the.read(NOON, "a", "b", "c")
    the.materialise(NOON + HOUR)
    the.read(NOON + HOUR, "a", "b", "c")
    assert all(one.holds for one in the.store.verify())
    first, second = the.store.verify_logged()
    assert (first.keys, first.wrong, first.missing, first.version, first.as_of) == (3, 2, 0, 0, NOON)
    assert "price is 0.10000000000000003, expected 0.1" in first.examples[0]
    assert "a row, expected none" in first.examples[1]
    assert (second.holds, second.keys) == (True, 3)


def test_a_row_that_was_missing_and_one_that_was_put_since_are_told_apart(make: Callable[..., TheShop]) -> None:
    the = make()
    with the.rows.rebuild([VIEW], NOON, sources={VIEW: 0}) as put:
        put(VIEW, [])
    the.put("b", 5.0, NOON + HOUR)
    the.read(NOON + HOUR, "a", "b")
    assert the.verified() == [(2, 0, 1, 1, 0)]


def test_nothing_is_logged_unless_it_is_asked_for(make: Callable[..., TheShop]) -> None:
    the = make(0.0)
    the.read(NOON, "a")
    assert not the.path.exists()
    assert the.verified() == []


def test_a_share_of_the_reads_is_logged_and_only_the_newest_stay(
    make: Callable[..., TheShop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_log, "MOST_KEYS", 2)
    the = make(0.5)
    for _ in range(60):
        the.read(NOON, "a", "b", "c")
    ((keys, *_),) = the.verified()
    assert 20 <= keys < 120
    monkeypatch.setattr(read_log, "MOST_READS", 5)
    for _ in range(20):
        the.read(NOON, "a", "b", "c")
    assert the.verified() == [(5, 0, 0, 0, 0)]


def test_a_log_that_cannot_be_written_fails_no_read_and_is_told_once(
    make: Callable[..., TheShop], capsys: pytest.CaptureFixture[str]
) -> None:
    the = make()
    the.path.mkdir(parents=True)
    for _ in range(3):
        assert the.read(NOON, "a") == [0.1]
    assert "".join(capsys.readouterr()).count("reads are not logged") == 1


def test_a_read_during_which_the_rows_were_made_anew_is_not_kept(
    make: Callable[..., TheShop], monkeypatch: pytest.MonkeyPatch
) -> None:
    the = make()
    read = the.rows.read

    def slowly(asked: Mapping[Any, Any]) -> Any:
        found = read(asked)
        the.materialise(NOON + HOUR)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(the.rows, "read", slowly)
        assert the.read(NOON, "a") == [0.1]
    assert the.verified() == []


def test_reads_of_a_version_that_was_vacuumed_are_left_out(make: Callable[..., TheShop], settings: Settings) -> None:
    the = make()
    the.read(NOON, "a")
    rows = the.lake.read(VIEW.path)
    the.lake.write(VIEW.path, rows, "overwrite", digest="anew", read_version=0)
    vacuum.vacuum(the.lake, vacuum.waste(the.lake, VIEW.path, timedelta(0), []))
    the.materialise(NOON + HOUR)
    the.read(NOON + HOUR, "a")
    assert the.verified() == [(1, 0, 0, 0, 0)]


def test_the_verb_looks_at_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shops" / "sample").mkdir(parents=True)
    (tmp_path / "shops" / "sample" / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: UTC\n")
    told = CliRunner().invoke(app, ["--home", str(tmp_path), "features", "verify", "--logged"])
    assert told.exit_code == 0
    assert "no read was logged" in told.output
    wrong = [Parity("prices", 3, NOON, 9, 1, 0, 0, (0.0, 0.0, 60.0), ("a: price is 1, expected 2",))]
    monkeypatch.setattr(FeatureStore, "verify_logged", lambda *_: wrong)
    told = CliRunner().invoke(app, ["--home", str(tmp_path), "features", "verify", "--logged", "--json"])
    assert told.exit_code == 1
    assert json.loads(told.stdout)[0]["wrong"] == 1
