from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from features.shop import Shop
from infra.errors import HomeError, IngestError, SettingsError
from infra.home import Home
from infra.settings import Settings
from spark_jobs.init_shop import FOLDERS, init_shop
from spark_jobs.sources.guess import guess_time, number_signs

GERMAN = (
    "Bestellnummer;Position;Kundennummer;Artikelnr;Bezeichnung;Menge;Einzelpreis;Bestelldatum;E-Mail\n"
    "1001;1;0042;A-1;Tee grün;2;1.234,56;31.12.2025 23:30;a@b.example\n1002;1;;A-2;Möhre;-1;0,99;30.03.2025 10:00;\n"
)
CHINESE = "用户ID,商品编号,行为类型,时间,商品名称\n1,A,pv,2025/6/1 23:30:00,红茶\n2,B,buy,2025/6/2 0:10:00,绿茶\n"


def read(home: Home, name: str) -> tuple[Shop, str]:
    return Shop.load(home, name), (home.shop(name) / "shop.yaml").read_text(encoding="utf-8")


def columns(shop: Shop, index: int = 0, table: int = 0) -> dict[str, Any]:
    mapping = shop.sources[index].tables[table]
    return {name: value.column or value.constant or value.digest for name, value in mapping.columns.items()}


@pytest.fixture
def home(settings: Settings) -> Home:
    return Home(settings)


def test_a_german_file_is_understood_and_persons_are_left_out(home: Home, tmp_path: Path) -> None:
    (tmp_path / "bestellungen.csv").write_bytes(GERMAN.encode("cp1252"))
    path = init_shop(home, "laden", [str(tmp_path / "bestellungen.csv")])
    assert all((path.parent / name).is_dir() for name in FOLDERS)
    shop, text = read(home, "laden")
    (source,) = shop.sources
    assert (shop.currency, shop.time_zone, shop.languages) == ("EUR", "Europe/Berlin", ("de",))
    assert (source.encoding, source.delimiter, source.decimal, source.thousands) == ("cp1252", ";", ",", ".")
    assert columns(shop) == {
        "order_id": "Bestellnummer",
        "order_line_id": "Position",
        "user_id": "Kundennummer",
        "item_id": "Artikelnr",
        "quantity": "Menge",
        "unit_price": "Einzelpreis",
        "event_timestamp": "Bestelldatum",
    }
    assert source.tables[0].columns["event_timestamp"].format == "d.M.yyyy H:mm"
    assert source.tables[1].table == "items"
    assert columns(shop, 0, 1)["title"] == "Bezeichnung"
    assert "# not mapped: E-Mail (identifies a person)" in text
    assert "a@b.example" not in text
    assert "currency: EUR  # all money is kept in it; guessed, CHECK" in text


def test_a_chinese_log_is_understood(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "数据 folder"
    folder.mkdir()
    (folder / "log.csv").write_bytes(CHINESE.encode("gb18030"))
    init_shop(home, "dian", [str(folder)], now="data")
    shop, _ = read(home, "dian")
    (source,) = shop.sources
    assert (shop.currency, shop.time_zone, shop.now) == ("CNY", "Asia/Shanghai", "data")
    assert (source.encoding, source.path, source.tables[0].table) == ("gb18030", str(folder), "events")
    assert source.tables[0].columns["event_type"].values == {"pv": "view", "buy": "purchase"}
    assert source.tables[0].columns["event_timestamp"].format == "yyyy/M/d H:mm:ss"


def test_a_file_with_nothing_below_its_header_is_understood_by_its_names(home: Home, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,event_type,time\n")
    init_shop(home, "new", [str(tmp_path / "log.csv")])
    assert columns(read(home, "new")[0]) == {
        "user_id": "user_id", "item_id": "item_id", "event_type": "event_type", "event_timestamp": "time"
    }  # fmt: skip


def test_a_folder_of_several_kinds_becomes_a_source_for_each(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    for day in (1, 2):
        event = {"user_id": "u", "item_id": "i", "event_type": "view", "timestamp": 1748772000000 + day}
        (folder / f"events-{day}.jsonl").write_text(json.dumps(event) + "\n")
    pq.write_table(
        pa.table({"review": ["good"], "stars": [5], "sku": ["i"], "created_at": [datetime(2025, 1, 1)]}), folder / "reviews.parquet"
    )
    write_deltalake(folder / "products", pa.table({"product_id": [1], "product_name": ["x"], "brand": ["y"]}))
    (folder / "notes.csv").write_text("colour,shape\nred,round\n")
    (folder / "_tmp.csv").write_text("colour\nred\n")
    init_shop(home, "many", [str(folder)])
    shop, text = read(home, "many")
    found = {source.name: (source.format, source.path, source.tables[0].table) for source in shop.sources}
    assert found == {
        "products": ("delta", str(folder / "products"), "items"),
        "events-": ("jsonl", str(folder / "events-*.jsonl"), "events"),
        "reviews": ("parquet", str(folder / "reviews.parquet"), "reviews"),
    }
    assert "Left out: notes.csv (columns colour, shape) fits no raw table." in text
    events = next(s for s in shop.sources if s.name == "events-")
    assert events.tables[0].columns["event_timestamp"].unit == "ms"
    assert "no id found: equal rows are one review; CHECK" in text
    assert "no time found: known from ever; CHECK" in text


def test_public_sets_are_known_by_their_headers(home: Home, data_folder: Path) -> None:
    init_shop(home, "real", [str(data_folder / "online_retail"), str(data_folder / "online_shopping_10_cats")])
    shop, text = read(home, "real")
    assert (shop.currency, shop.time_zone, shop.now, shop.languages) == ("GBP", "Europe/London", "data", ("en", "zh"))
    assert [[mapping.table for mapping in source.tables] for source in shop.sources] == [["orders", "items", "users"], ["reviews"]]
    assert "# a float in the file" in text
    init_shop(home, "clothes", [str(data_folder / "womens_clothing")], currency="EUR", languages=["en-US"])
    shop, _ = read(home, "clothes")
    assert (shop.currency, shop.time_zone, shop.languages) == ("EUR", "America/New_York", ("en-US",))
    assert columns(shop)["review_text"] == "Review Text"


def test_the_csv_edition_of_a_public_set_has_its_own_way_to_write_times(home: Home, tmp_path: Path) -> None:
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    (tmp_path / "data.csv").write_bytes((header + "1,A,£ TEA,1,12/1/2010 8:26,2.55,17850,France\n").encode("cp1252"))
    init_shop(home, "uk", [str(tmp_path / "data.csv")])
    (source,) = read(home, "uk")[0].sources
    assert (source.format, source.encoding) == ("csv", "cp1252")
    assert {mapping.columns["event_timestamp"].format for mapping in source.tables} == {"M/d/yyyy H:mm"}


def test_what_cannot_be_started(home: Home, tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="there is nothing at .*nowhere"):
        init_shop(home, "a", [str(tmp_path / "nowhere")])
    (tmp_path / "a.csv").write_text("colour,shape\nred,round\n")
    with pytest.raises(IngestError, match="looks like a raw table"):
        init_shop(home, "a", [str(tmp_path / "a.csv")])
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(IngestError, match="is empty"):
        init_shop(home, "a", [str(tmp_path / "empty.csv")])
    (tmp_path / "array.json").write_text('[{"order_id": 1},\n{"order_id": 2}]\n')
    with pytest.raises(IngestError, match="expected a JSON object on every line"):
        init_shop(home, "a", [str(tmp_path / "array.json")])
    with pytest.raises(SettingsError, match="shop name"):
        init_shop(home, "My Shop", [str(tmp_path)])
    (tmp_path / "good.csv").write_bytes(GERMAN.encode())
    init_shop(home, "a", [str(tmp_path / "good.csv")])
    with pytest.raises(SettingsError, match="exists already"):
        init_shop(home, "a", [str(tmp_path / "good.csv")])
    with pytest.raises(HomeError, match="cannot be written"):
        init_shop(Home(Settings.load(home=Path("/proc/shopgraph"))), "a", [str(tmp_path / "good.csv")])


@pytest.mark.parametrize(
    ("values", "how"),
    [
        (["2025-01-31T10:00:00Z"], {}),
        (["31.12.2025", "1.1.2025"], {"format": "d.M.yyyy"}),
        (["13/02/2025 10:00"], {"format": "d/M/yyyy H:mm"}),
        (["02/13/2025 10:00"], {"format": "M/d/yyyy H:mm"}),
        (["2025年1月3日"], {"format": "yyyy'年'M'月'd'日'"}),
        (["20250131"], {"format": "yyyyMMdd"}),
        ([1748772000], {"unit": "s"}),
        (["1748772000123"], {"unit": "ms"}),
        ([1748772000123456], {"unit": "us"}),
        (["red"], None),
        (["12345678"], None),
    ],
)
def test_times_are_recognised(values: list[Any], how: dict[str, str] | None) -> None:
    found = guess_time(values)
    assert (found[0] if found else None) == how


def test_signs_of_numbers() -> None:
    assert number_signs([["1.234,56"], ["a,b"]]) == (",", ".")
    assert number_signs([["1,234.56", "3"]]) == (".", ",")
    assert number_signs([["1.5"], ["size 1,5"], [3]]) == (".", "")
