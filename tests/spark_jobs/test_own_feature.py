"""docs/extend/feature.md, done: the file it shows in a shop's folder, and the commands it names, from build to what is served."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from features.revisions import current_rows
from features.shop import Shop
from features.store import FeatureStore
from infra.errors import FeatureError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from shopgraph import app

PAGE = (Path(__file__).parents[2] / "docs" / "extend" / "feature.md").read_text(encoding="utf-8")
TABLES = (
    "{table: orders, columns: {order_id: order, user_id: who, item_id: what, quantity: n, unit_price: price, event_timestamp: at}}"
)
HEADER = "order,who,what,n,price,at\n"


class TheShop:
    """A shop of orders in Berlin whose folder holds the file of the page."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.till = folder / "till"
        self.till.mkdir()
        self.folder = Home(settings).shop("sample")
        (self.folder / "features").mkdir(parents=True)
        (self.folder / "shop.yaml").write_text(
            "name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\nnow: 2025-07-20T12:00:00Z\n"
            f"sources: [{{name: till, format: csv, path: {self.till}, tables: [{TABLES}]}}]\n"
        )
        (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        self.file.write_text(code)

    @property
    def file(self) -> Path:
        return self.folder / "features" / "night_acts.py"

    def sell(self, name: str, *sold: tuple[str, str]) -> None:
        """Users and times of orders, as one file of the source."""
        lines = [f"{name}-{n},{user},i{n % 2},1,2.50,{at}\n" for n, (user, at) in enumerate(sold)]
        (self.till / f"{name}.csv").write_text(HEADER + "".join(lines))
        self.run("ingest")

    def run(self, *words: str) -> str:
        result = CliRunner().invoke(app, ["--home", str(self.settings.home_path), *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    def rows(self) -> list[dict[str, Any]]:
        lake = Lake.open(self.settings)
        table = Shop.load(Home(self.settings)).definitions.tables["night_acts"]
        return current_rows(lake, table).sort_by([("user_id", "ascending"), ("event_timestamp", "ascending")]).to_pylist()


@pytest.fixture
def the(settings: Settings, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TheShop:
    for module in ("spark_jobs.build", "spark_jobs.frame", "spark_jobs.session"):
        monkeypatch.setattr(f"{module}.session", lambda *_: nullcontext(spark))
    shop = TheShop(settings, tmp_path)
    shop.sell("a", ("u1", "2025-07-10T20:30:00Z"), ("u1", "2025-07-10T10:00:00Z"), ("u2", "2025-07-10T19:30:00Z"))
    return shop


def test_the_page_holds(the: TheShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    times = pa.array([datetime(2025, 7, day, tzinfo=UTC) for day in (19, 10)], pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"user_id": ["u1", "u1"], "event_timestamp": times}), "labels.parquet")
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    told = {}
    for line in commands.splitlines():
        _, *words = shlex.split(line)
        told[line] = the.run(*words)
    answers = list(told.values())
    assert "created view night_acts" in answers[1]
    assert "night_acts_share" in answers[3]
    assert "0.5" in answers[4], "u1 bought once at 22:30 of Berlin and once at noon"
    (parity,) = json.loads(the.run("features", "verify", "night_acts", "--json"))
    assert {name: parity[name] for name in ("keys", "wrong", "missing")} == {"keys": 2, "wrong": 0, "missing": 0}
    frame = pq.read_table(tmp_path / "frame").to_pylist()
    assert [(row["night_acts_count"], row["night_acts_share"]) for row in frame] == [(1, 0.5), (None, None)]
    assert json.loads(the.run("quality", "night_acts", "--json"))[0]["status"] == "passed"

    the.file.unlink()
    report = json.loads(the.run("features", "apply", "--json"))
    assert report["deleted"] == ["service night_acts", "source features_night_acts", "view night_acts"]


def test_it_is_built_like_shopgraphs_own_tables(the: TheShop) -> None:
    build = ("build", "night_acts", "--json")
    (*_, first) = json.loads(the.run(*build))
    assert (first["table"], first["num_rows"], first["skipped"]) == ("night_acts", 2, False)
    assert json.loads(the.run(*build))[-1]["skipped"], "nothing changed"
    the.file.write_text("# a comment\n" + the.file.read_text())
    assert json.loads(the.run(*build))[-1]["skipped"], "comments do not count"

    the.sell("b", ("u1", "2025-07-12T21:00:00Z"), ("u3", "2025-07-09T23:00:00Z"))
    (*_, second) = json.loads(the.run(*build))
    assert (second["added"], second["num_rows"]) == (True, 2), "only the users of whom something was told"
    rows = the.rows()
    assert [(row["user_id"], row["night_acts_count"], row["night_acts_share"]) for row in rows] == [
        ("u1", 1, 0.5), ("u1", 2, 2 / 3), ("u2", 0, 0.0), ("u3", 1, 1.0),
    ]  # fmt: skip
    assert rows[0]["event_timestamp"] == datetime(2025, 7, 10, 22, tzinfo=UTC), "the first instant of the next day in Berlin"

    the.file.write_text(the.file.read_text().replace("hour >= 22", "hour >= 21"))
    (*_, third) = json.loads(the.run(*build))
    assert (third["skipped"], third["added"]) == (False, False), "other code: built as a whole"
    assert [row["night_acts_count"] for row in the.rows()] == [1, 2, 1, 1]

    the.run("features", "materialize")
    shop = Shop.load(Home(the.settings))
    store = FeatureStore(the.settings, shop, Lake.open(the.settings))
    store.apply()
    (theirs,) = store.feast.get_online_features(store.feast.get_feature_service("night_acts"), [{"user_id": "u1"}]).to_dict()[
        "night_acts_count"
    ]
    assert theirs == store.online_rows("night_acts", {"user_id": ["u1"]})["night_acts_count"][0] == 2


@pytest.mark.parametrize(
    ("said", "becomes", "told"),
    [
        ("return stamped(", "return inputs.nothing or stamped(", r"night_acts.py, line \d+: AttributeError: .*; mend the file"),
        ('"night"', '"nights"', r"night_acts.py, line \d+: AnalysisException"),
        (".select(*TABLE.names)", '.select("user_id", "event_timestamp")', "run gives no column night_acts_count, night_acts_share"),
        (".select(*TABLE.names)", ".columns", "run gives list; expected a Spark DataFrame"),
    ],
)  # fmt: skip
def test_a_job_that_does_not_give_what_it_declared_is_told_and_writes_nothing(
    the: TheShop, said: str, becomes: str, told: str
) -> None:
    the.file.write_text(the.file.read_text().replace(said, becomes, 1))
    with pytest.raises(FeatureError, match=told):
        the.run("build", "night_acts")
    assert Lake.open(the.settings).version("features/night_acts") is None
