"""Recipes by name: every one is listed with what it says of itself, and a change is checked like the recipe itself."""

from __future__ import annotations

import pytest

from infra.errors import SettingsError
from training import recipe as recipes


@pytest.mark.parametrize("model", recipes.MODELS)
def test_every_model_has_demo_and_full_and_each_says_what_it_is_for(model: str) -> None:
    names = recipes.names(model)
    assert {"demo", "full"} <= names.keys()
    assert all(about.endswith(".") for about in names.values())
    for name in names:
        assert recipes.load(model, name).model_dump()["name"] == name


def test_a_change_reaches_its_field_and_no_other() -> None:
    plain = recipes.load("recommender", "demo").model_dump()
    changed = recipes.load("recommender", "demo", ("fit.epochs=3", "fit.patience=null", "data.objective=next_item")).model_dump()
    assert (changed["fit"]["epochs"], changed["fit"]["patience"], changed["data"]["objective"]) == (3, None, "next_item")
    assert changed["model"] == plain["model"]
    assert changed["fit"] == plain["fit"] | {"epochs": 3, "patience": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fit.epochs", "expected name=value"),
        ("fit.epoch=3", "no field 'fit.epoch'; there are .*fit.epochs"),
        ("epochs=3", "no field 'epochs'"),
        ("fit.epochs.deep=3", "no field 'fit.epochs.deep'"),
        ("fit.epochs=0", "fit.epochs: Input should be greater than 0"),
        ("fit.epochs=many", "fit.epochs: Input should be a valid integer"),
        ("fit.learning_rate=-1e-3", "fit.learning_rate: "),
        ("data.event_types=[purchase", r"'data.event_types=\[purchase': expected a YAML value.*but got '<stream end>'"),
        ("data.objective=@x", "'data.objective=@x': expected a YAML value"),
        ("data.objective=*b", "'data.objective=.b': expected a YAML value"),
        ("data.objective=2024-02-31", "'data.objective=2024-02-31': expected a YAML value.*day is out of range"),
        ("data.objective=sometimes", "data.objective: Input should be"),
        ("fit.learning_rate=.inf", "fit.learning_rate: Input should be a finite number"),
        ("data.val_days=1e300", "data.val_days: Input should be less than or equal to 36500"),
        ("fit.seed=99999999999999999999", "fit.seed: Input should be less than"),
    ],
)
def test_a_change_that_does_not_fit_is_named(change: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        recipes.load("recommender", "demo", (change,))


def test_an_unknown_recipe_is_told_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="recommender has no recipe 'big'; it has demo, full"):
        recipes.load("recommender", "big")
