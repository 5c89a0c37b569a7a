"""A checkpoint's name changes with the code, the shop and the rows, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from infra.lake import Lake
from infra.settings import Settings
from training import checkpoints
from training.context import Context
from training.tracking import Tracking


class NamedShop:
    def __init__(self, name: str) -> None:
        self.name = name


def context(settings: Settings, shop: str) -> Context:
    return Context(settings, NamedShop(shop), Lake.open(settings, shop), Tracking(settings, shop))  # type: ignore[arg-type]


def test_a_checkpoint_belongs_to_one_shop_task_and_content(settings: Settings) -> None:
    ours = context(settings, "a")
    first = ours.checkpoint("demand", {"epochs": 3}, "digest")
    assert first.parent == settings.home_path / "checkpoints" / "a" / "demand"
    assert first == ours.checkpoint("demand", {"epochs": 3}, "digest")
    others = {
        first,
        ours.checkpoint("demand", {"epochs": 3}, "other"),
        ours.checkpoint("demand", {"epochs": 4}, "digest"),
        ours.checkpoint("sentiment", {"epochs": 3}, "digest"),
        context(settings, "b").checkpoint("demand", {"epochs": 3}, "digest"),
    }
    assert len(others) == 5


def test_other_code_is_another_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_HERE", tmp_path)
    (tmp_path / "demand").mkdir()
    for file in ("demand/model.py", "trainer.py", "optimizer.py", "dropout.py", "resume.py"):
        (tmp_path / file).write_text("x = 1\n")
    before = checkpoints.task_digest("demand")
    (tmp_path / "demand" / "model.py").write_text("x = 2\n")
    assert checkpoints.task_digest("demand") != before


def test_rows_are_known_by_their_values() -> None:
    rows = pa.table({"item": ["a", "b"], "kind": ["view", "buy"]})
    in_chunks = pa.concat_tables([rows.slice(0, 1), rows.slice(1)])
    assert checkpoints.rows_digest(in_chunks) == checkpoints.rows_digest(rows)
    assert checkpoints.rows_digest(pa.table({"item": ["a", "b"], "kind": ["view", "view"]})) != checkpoints.rows_digest(rows)
