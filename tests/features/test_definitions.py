"""Own features of a shop: what a file may say, and what is told where it says something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from features.definitions import OURS, Definitions
from features.shop import Shop
from infra.errors import FeatureError, ShopgraphError
from infra.home import Home
from infra.settings import Settings
from shopgraph import app
from spark_jobs.jobs import JOBS, in_order, jobs_of

GOOD = """
from features.tables import INTERACTIONS, Column, feature_table, user_column
from spark_jobs.job import Job, Scope

TABLE = feature_table("taste", "what a user likes", user_column(required=True), Column("sweet", "float", "of it", "0-1"), keys=("user_id",))
JOB = Job(TABLE, (INTERACTIONS,), lambda inputs: inputs[INTERACTIONS], scope=Scope("user_id"))
"""


@pytest.fixture
def folder(settings: Settings) -> Path:
    place = Home(settings).shop("sample")
    (place / "features").mkdir(parents=True)
    (place / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\n")
    return place


def test_a_file_adds_a_table_a_view_a_service_and_a_job(folder: Path) -> None:
    assert Shop.read(folder / "shop.yaml").definitions == OURS
    (folder / "features" / "taste.py").write_text(GOOD)
    for name in ("_notes.py", ".hidden.py", "README.md"):
        (folder / "features" / name).write_text("nothing that Python reads")
    shop = Shop.read(folder / "shop.yaml")
    found = shop.definitions
    assert set(found.tables) - set(OURS.tables) == set(found.views) - set(OURS.views) == {"taste"}
    assert found.service("taste").views == (found.view("taste"),)
    assert found.view("taste").columns == (("sweet", "float"),)
    assert in_order(["taste"], jobs_of(shop)) == ["interactions", "taste"]
    assert set(jobs_of(shop)) - set(JOBS) == {"taste"}
    assert sorted(path.name for path in folder.rglob("*cache*")) == [], "reading a shop writes nothing into its folder"


@pytest.mark.parametrize(
    ("said", "becomes", "told"),
    [
        ("feature_table(", "feature_table((", "line 5: SyntaxError"),
        ("import Job,", "import Jobs,", "line 3: ImportError"),
        ("JOB =", "JOB = 1 / 0 #", "line 6: ZeroDivisionError: division by zero; mend the file"),
        ("JOB =", "raise SystemExit(3) #", "line 6: SystemExit"),
        ("JOB =", "WORK =", "says no JOB"),
        ("TABLE = feature_table(", "TABLE = ('taste', 'x'); T = feature_table(", "TABLE is tuple; expected a features.tables.Table"),
        ('"taste"', '"tastes"', "called 'tastes'; expected 'taste', as the file"),
        ('"sweet", "float"', '"sweet", "double"', "of type 'double'; expected string,"),
        ('"sweet", "float"', '"Süß", "float"', "column 'Süß': expected small letters"),
        ('"sweet", "float"', '"retracted", "string"', "column 'retracted'"),
        ('"sweet", "float"', '"user_id", "string"', "columns user_id are declared twice"),
        ('"of it", "0-1"', '"of it", "0-1", mark="secret"', "marked 'secret'; expected none, pseudonym, personal"),
        ('keys=("user_id",)', "keys=()", "there are no keys"),
        ('keys=("user_id",)', 'keys=("sweet",)', "key sweet must be a declared column, required, of type string or date"),
        ('keys=("user_id",)', 'keys=("who",)', "key who must be a declared column"),
        ("user_column(required=True)", 'Column("user_id", "date", "day", required=True)', "key user_id is a date; expected string"),
        ("user_column(required=True)", "user_column()", "key user_id must be a declared column, required"),
        ('Column("sweet", "float", "of it", "0-1"), ', "", "there is no column beside keys and times"),
        ('keys=("user_id",)', 'keys=("user_id",), grouping=("x",)', "grouping names x"),
        ("TABLE = ", 'TABLE = Table("taste", "features", "x", (user_column(True),), ("user_id",)); _ = ', "timestamp event_timestamp"),
        ("feature_table, ", "Table, feature_table, ", ""),
    ],
)  # fmt: skip
def test_what_is_no_feature_table_is_refused_by_name(folder: Path, said: str, becomes: str, told: str) -> None:
    file = folder / "features" / "taste.py"
    file.write_text(GOOD.replace("feature_table, ", "Table, feature_table, ").replace(said, becomes), encoding="utf-8")
    if not told:
        assert "taste" in Definitions.of(folder).own
        return
    with pytest.raises(FeatureError) as error:
        Definitions.of(folder)
    assert str(file) in str(error.value)
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["events", "user_history", "recommender"])
def test_names_of_shopgraph_are_taken(folder: Path, name: str) -> None:
    (folder / "features" / f"{name}.py").write_text(GOOD.replace("taste", name))
    with pytest.raises(FeatureError, match=f"shopgraph itself has a table or service '{name}'"):
        Definitions.of(folder)


@pytest.mark.parametrize(
    ("said", "becomes", "told"),
    [
        ("JOB = Job(", "JOB = dict(table=", "JOB is dict; expected a spark_jobs.job.Job"),
        ("JOB = Job(TABLE", "JOB = Job(INTERACTIONS", "JOB fills 'interactions'; expected the TABLE of the same file"),
        ("(INTERACTIONS,), lambda", "(TABLE,), lambda", "JOB reads taste; expected tables of features.tables"),
        ('Scope("user_id")', 'Scope("item_id")', "scope 'item_id'; expected a column of taste"),
        ('Scope("user_id")', 'Scope("user_id", reach_days=30)', "reach_days 30; expected days such as"),
    ],
)
def test_a_job_that_does_not_fit_is_refused_by_name(folder: Path, said: str, becomes: str, told: str) -> None:
    text = GOOD.replace(said, becomes)
    if "dict" in becomes:
        text = text.replace("(INTERACTIONS,), lambda inputs: inputs[INTERACTIONS], scope", "scope")
    (folder / "features" / "taste.py").write_text(text)
    with pytest.raises(FeatureError, match=told):
        jobs_of(Shop.read(folder / "shop.yaml"))


def test_verbs_list_own_features_and_tell_a_broken_file_in_one_line(folder: Path, settings: Settings) -> None:
    def run(*words: str) -> str:
        words = ("--home", str(settings.home_path), "features", *words)
        return CliRunner().invoke(app, list(words), catch_exceptions=False).stdout

    (folder / "features" / "taste.py").write_text(GOOD)
    (one,) = json.loads(run("list", "taste", "--json"))
    assert one["columns"] == [{"name": "sweet", "type": "float", "unit": "0-1", "mark": "none", "meaning": "of it"}]
    assert one["file"] == str(folder / "features" / "taste.py")
    assert {one["view"] for one in json.loads(run("list", "--json"))} == {*OURS.views, "taste"}
    assert "sweet" in run("list", "taste")
    assert "taste" in run("list")
    (folder / "features" / "taste.py").write_text("def")
    with pytest.raises(ShopgraphError, match=r"taste.py, line 1: SyntaxError"):
        run("list")


def test_a_time_without_quotes_is_a_clock(folder: Path) -> None:
    text = (folder / "shop.yaml").read_text()
    (folder / "shop.yaml").write_text(f"{text}now: 2025-07-20T12:00:00Z\n")
    assert Shop.read(folder / "shop.yaml").now == "2025-07-20T12:00:00+00:00"
