"""Two shops of one installation, each in its own currency, zone, encoding and way to write numbers: from files to local days."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from features.shop import Shop
from infra import clock
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs.build import Horizon, Snapshot, build_table
from spark_jobs.ingest import ingest
from spark_jobs.init_shop import init_shop
from spark_jobs.jobs import JOBS, in_order
from spark_jobs.sources.report import Report

GERMAN = "Bestellnummer;Position;Kundennummer;Artikelnr;Menge;Einzelpreis;Bestelldatum\n"
CHINESE = "订单号,行号,用户ID,商品编号,数量,单价,下单时间\n"


class TwoShops:
    """One home with a shop of a German CSV and a shop of a GB18030 CSV."""

    def __init__(self, settings: Settings, spark: SparkSession, folder: Path) -> None:
        self.settings, self.spark, self.folder = settings, spark, folder
        self.write("laden", "1", GERMAN + "1001;1;0042;A-1;2;1.234,56;31.12.2025 23:30\n1002;1;;A-2;1;0,99;01.01.2026 00:10\n")
        self.write("dian", "1", CHINESE + "1,1,7,茶,3,18.5,2025-12-31 23:30:00\n2,1,8,茶,1,18.5,2026-01-01 00:10:00\n")
        for name, currency, zone in (("laden", "EUR", "Europe/Berlin"), ("dian", "CNY", "Asia/Shanghai")):
            init_shop(Home(settings), name, [str(folder / name)], currency=currency, time_zone=zone, now="2026-01-05T00:00:00Z")

    def write(self, shop: str, name: str, text: str) -> None:
        (self.folder / shop).mkdir(exist_ok=True)
        encoding = {"laden": "cp1252", "dian": "gb18030"}[shop]
        (self.folder / shop / f"{name}.csv").write_bytes(text.encode(encoding))

    def shop(self, name: str) -> Shop:
        return Shop.load(Home(self.settings), name)

    def lake(self, name: str) -> Lake:
        return Lake.open(self.settings, name)

    def ingest(self, name: str) -> Report:
        settings = self.settings.model_copy(update={"shop": name})
        return ingest(settings, self.shop(name), lambda: nullcontext(self.spark))

    def demand(self, name: str) -> dict[tuple[str, date], int]:
        """Units sold per item and local day, days without a sale left out."""
        shop, lake = self.shop(name), self.lake(name)
        snapshot = Snapshot(self.spark, lake, Horizon.of(clock.now(shop.now, lake), shop, lake))
        for table in in_order(["daily_demand"], JOBS):
            build_table(snapshot, shop, JOBS[table])
        rows = lake.read("features/daily_demand")
        sold = rows.filter(pc.greater(rows["units_sum"], 0)).select(["item_id", "ds", "units_sum"]).to_pylist()
        return {(row["item_id"], row["ds"]): row["units_sum"] for row in sold}


@pytest.fixture
def shops(settings: Settings, spark: SparkSession, tmp_path: Path) -> TwoShops:
    folder = tmp_path / "daten 数据"
    folder.mkdir()
    return TwoShops(settings, spark, folder)


def test_each_shop_keeps_its_own_money_and_its_own_days(shops: TwoShops) -> None:
    for name in ("laden", "dian"):
        orders = shops.ingest(name).lines[0]
        assert (orders.table, orders.read, orders.accepted, orders.quarantined) == ("orders", 2, 2, 0)
    prices = {name: sorted(shops.lake(name).read("raw/orders")["unit_price"].to_pylist()) for name in ("laden", "dian")}
    assert prices == {"laden": [Decimal("0.99"), Decimal("1234.56")], "dian": [Decimal("18.5")] * 2}
    eve, new_year = date(2025, 12, 31), date(2026, 1, 1)
    assert shops.demand("laden") == {("A-1", eve): 2, ("A-2", new_year): 1}
    assert shops.demand("dian") == {("茶", eve): 3, ("茶", new_year): 1}


def test_a_second_run_reads_only_what_is_new(shops: TwoShops) -> None:
    shops.ingest("laden")
    shops.write("laden", "2", GERMAN + "1003;1;0042;A-1;5;1.000,00;02.01.2026 09:00\n")
    report = shops.ingest("laden")
    assert (report.parts_read, report.parts_skipped) == (1, 1)
    assert (report.lines[0].read, report.lines[0].accepted) == (1, 1)
    assert shops.lake("laden").num_rows("raw/orders") == 3
    again = shops.ingest("laden")
    assert (again.parts_read, again.lines, again.versions) == (0, [], {})
