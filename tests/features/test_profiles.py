"""The rules of profiles: what a shop may write, and that the declared table and the vocabulary of tags belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from features.profiles import FAMILIES, ProfileRules
from features.shop import Shop
from features.tables import USER_PROFILE
from infra.errors import SettingsError


def test_a_shop_writes_the_constants_it_wants_others() -> None:
    shop = Shop(name="s", currency="JPY", time_zone="Asia/Tokyo", profile={"monetary_value": [9e3, 2e4, 5e4, 1e5], "new_days": 14})
    assert shop.profile == ProfileRules(monetary_value=(9000, 20_000, 50_000, 100_000), new_days=14)
    assert Shop(name="s", currency="EUR", time_zone="UTC").profile == ProfileRules()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"monetary_value": (50, 150, 150, 500)}, "monetary_value must rise, got 50.0, 150.0, 150.0, 500.0"),
        ({"recency_days": (-1, 60, 120, 240)}, "recency_days must rise"),
        ({"frequency_days": (1, 2, 3, 4)}, "frequency_days must rise"),
        ({"price": (50, 10)}, "price must rise"),
        ({"value_high": 5}, "value_middle, value_high must rise"),
        ({"lost_after": 3}, "at_risk_after, dormant_after, lost_after must rise"),
        ({"rhythm_days": 200}, "rhythm_days must lie between"),
        ({"price": (10, float("inf"))}, "finite"),
        ({"interest_share": 0}, "greater than 0"),
        ({"stages": ("new",)}, "Extra inputs"),
    ],
)
def test_constants_that_contradict_each_other_are_refused(rules: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ProfileRules.model_validate(rules)


def test_a_wrong_constant_in_shop_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text("name: s\ncurrency: EUR\ntime_zone: UTC\nprofile:\n  price: [50, 10]\n")
    with pytest.raises(SettingsError, match="profile: Value error, price must rise, got 50.0, 10.0"):
        Shop.read(path)


def test_every_family_of_tags_tells_of_a_column_and_all_columns_speak_of_a_person() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert {family.column for family in FAMILIES} <= set(USER_PROFILE.names)
    assert {column.mark for column in USER_PROFILE.features if column.name != "retracted"} == {"personal"}
