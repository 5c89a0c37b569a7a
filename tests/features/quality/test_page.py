"""The page and the verb: self-contained, escaped, telling what is broken."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from features.definitions import Definitions
from features.quality.models import model_drift, trained_on
from features.quality.overview import check_names, standings
from features.quality.page import page
from features.shop import Shop
from infra.errors import SettingsError, TableContractError
from infra.home import Home
from shopgraph import app
from tests.features.quality.conftest import NOW, PRICES, SHOP, honest

VOID = {"meta", "br"}
CLOSED_BY_ITSELF = {"tr", "td", "th", "html", "p"}


class Reader(HTMLParser):
    """Texts and tags of a page; fails on an end without its begin."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag not in VOID | CLOSED_BY_ITSELF:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in CLOSED_BY_ITSELF:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def prices(monkeypatch):
    """The table of the tests among the shop's own."""
    monkeypatch.setattr(Shop, "definitions", Definitions({PRICES.name: PRICES}, {}, {}))
    monkeypatch.setattr("features.quality.models._TABLES", {PRICES.path: PRICES})


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def test_the_page_stands_alone_and_shows_data_as_text(send, lake, prices):
    evil = "<script>alert(1)</script>&\"'"
    words = {"columns": {"kind": {"values": None}, "price": {"stable": False}}}
    send([row | {"kind": evil, "owner": evil} for row in honest()], rules=words)
    with pytest.raises(TableContractError):
        send([row | {"kind": evil} for row in honest()], rules={"columns": {"kind": {"values": ["<i>"]}}})
    drifted = model_drift(lake, trained_on(lake, "demand", 1, {PRICES.path: 0, "raw/<b>": 3}, NOW))
    found = read(page(SHOP, NOW, standings(lake, SHOP, NOW), [drifted]))
    assert "script" not in found.tags
    assert "i" not in found.tags
    assert found.links == ["#features/prices"]
    text = " ".join(found.texts)
    assert evil in text
    assert "personal: no values are kept" in text
    assert "✗ failed" in text
    assert "refused: values" in text
    assert re.search(r"Drift since demand version 1 was trained", text)
    assert "raw/<b>" in text
    assert found.tags.count("svg") == 5  # rows by day, price, share, units, tags
    assert "http" not in text


def test_a_page_of_a_shop_without_a_report(lake, prices):
    lake.write(PRICES.path, PRICES.schema.empty_table(), "append", digest="1")
    assert "not looked at yet" in " ".join(read(page(SHOP, NOW, standings(lake, SHOP, NOW), [])).texts)
    assert read(page(SHOP, NOW, [], [])).texts


def test_the_verb_tells_what_is_broken_and_ends_with_1_where_it_is_hard(send, lake, prices, settings, tmp_path):
    folder = Home(settings).shop()
    folder.mkdir(parents=True)
    (folder / "shop.yaml").write_text(f"name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\nnow: '{NOW.isoformat()}'\n")
    verb = ["--home", str(settings.home_path), "quality"]
    send(honest())
    good = CliRunner().invoke(app, [*verb, "--html", str(tmp_path / "q.html")])
    assert good.exit_code == 0
    assert "features/prices" in good.stdout
    assert "passed" in good.stdout
    assert "Quality of sample" in (tmp_path / "q.html").read_text(encoding="utf-8")
    with pytest.raises(TableContractError):
        send([row | {"share": 5.0} for row in honest()])
    bad = CliRunner().invoke(app, [*verb, "prices", "--json"])
    assert bad.exit_code == 1
    (said,) = json.loads(bad.stdout)
    assert (said["table"], said["version"], said["status"]) == ("features/prices", 0, "failed")
    assert said["refused"]["status"] == "failed"
    assert isinstance(CliRunner().invoke(app, [*verb, "carts"]).exception, SettingsError)


def test_a_shop_that_expects_something_of_what_there_is_not_is_told(tmp_path):
    def shop(text):
        path = tmp_path / "shop.yaml"
        path.write_text(f"name: laden\ncurrency: EUR\ntime_zone: Europe/Berlin\nquality:\n{text}")
        return Shop.read(path)

    check_names(shop("  orders: {fresh_days: 10, columns: {unit_price: {max: 5000}}}\n"))
    with pytest.raises(SettingsError, match="quality of shop.yaml: there is no table 'order'"):
        check_names(shop("  order: {fresh_days: 10}\n"))
    with pytest.raises(SettingsError, match="table orders has no column 'price'; it has order_id"):
        check_names(shop("  orders: {columns: {price: {max: 5}}}\n"))
    for wrong in ("maximum: 3", "min: 3, max: 1", "severity: error", "max_null_share: 2"):
        with pytest.raises(SettingsError, match=r"quality[.]orders[.]columns[.]unit_price"):
            shop(f"  orders: {{columns: {{unit_price: {{{wrong}}}}}}}\n")
    for wrong in ("{fresh: 3}", "{volume: [2, 1]}", "{window_days: 7}"):
        with pytest.raises(SettingsError, match=r"quality[.]orders"):
            shop(f"  orders: {wrong}\n")
