"""Events from files: each is taken once, whatever dies in the middle, and is read at once."""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from features.fresh.facts import MAX_ROWS
from features.fresh.intake import Intake
from features.shop import Shop
from features.store import FeatureStore
from features.tables import EVENTS
from infra.errors import EngineError, SettingsError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs.stream import stream
from tests.installation import installation

SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")


def put(folder: Path, name: str, *lines: Any) -> None:
    folder.mkdir(exist_ok=True)
    draft = folder.parent / name
    draft.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    draft.rename(folder / name)


def event(number: int, **more: Any) -> dict[str, Any]:
    at = f"2024-05-01T10:{number // 60 % 60:02}:{number % 60:02}Z"
    return {"event_id": f"e{number}", "user_id": "u", "item_id": f"i{number}", "event_type": "view", "event_timestamp": at, **more}


def test_files_are_taken_once_through_a_death(
    spark: SparkSession, settings: Settings, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "arrivals"
    number = MAX_ROWS + 200
    put(folder, "a.jsonl", *map(event, range(number)))
    turns = []
    take = Intake.take

    def dying(intake: Intake, deliveries: Any) -> Any:
        turns.append(1)
        if len(turns) == 2:
            raise EngineError("the machine died")
        return take(intake, deliveries)

    def run() -> dict[str, int]:
        return stream(settings, SHOP, lambda: nullcontext(spark), folder)

    with monkeypatch.context() as patch:
        patch.setattr(Intake, "take", dying)
        with pytest.raises(EngineError, match="the machine died; what was taken before stays"):
            run()
    put(folder, "b.jsonl", event(0), event(number), "{broken", "", "[]")
    assert run() == {"accepted": 201, "duplicates": MAX_ROWS + 1, "quarantined": 2}
    assert run() == {"accepted": 0, "duplicates": 0, "quarantined": 0}
    assert sorted(lake.read(EVENTS.path)["event_id"].to_pylist()) == sorted(f"e{one}" for one in range(number + 1))
    assert sorted(lake.read("quarantine/events")["source_row"].to_pylist()) == ['"{broken"', "[]"]
    items = FeatureStore(settings, SHOP, lake).online_rows("recommender", {"user_id": ["u"]})["item_ids"][0]
    assert items[-2:] == [f"i{number - 1}", f"i{number}"]


def test_a_source_that_is_not_there_is_named(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    def start() -> Any:
        return nullcontext(spark)

    with pytest.raises(SettingsError, match="no folder"):
        stream(settings, SHOP, start, tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="SHOPGRAPH_KAFKA"):
        stream(settings, SHOP, start, None)
    with pytest.raises(EngineError, match="kafka"):
        stream(settings.model_copy(update={"kafka": "127.0.0.1:1/events"}), SHOP, start, None)


@pytest.mark.soak
def test_a_stream_killed_at_ten_random_moments_takes_each_event_once(tmp_path: Path) -> None:
    made = installation(tmp_path / "home")
    shop = Home(made.settings).create().shop("sample")
    shop.mkdir()
    (shop / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\n")
    rng, folder, number = random.Random(7), tmp_path / "arrivals", 0
    for turn in range(10):
        put(folder, f"{turn}.jsonl", *(event(one, user_id=f"u{one % 50}") for one in range(number, number + 5_000)))
        number += 5_000
        made.killed(rng.uniform(4, 14), "stream", str(folder))
    made.shopgraph("stream", str(folder))
    made.shopgraph("drain")
    assert Counter(made.lake.read(EVENTS.path)["event_id"].to_pylist()) == {f"e{one}": 1 for one in range(number)}
