"""Named recipes: finding one by name, changing single fields of it, always through its validating constructor."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, Protocol, cast

import yaml
from pydantic import BaseModel, ValidationError

from infra.errors import SettingsError

if TYPE_CHECKING:
    from training.trainer import FitConfig

MODELS = ("recommender", "demand", "sentiment", "propensity", "ranker")


class Recipe(Protocol):
    """What every model's `Recipe` has; the groups beside `fit` are the model's own."""

    name: str
    fit: FitConfig

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """The recipe as plain values; with mode `json` as JSON has them."""
        ...


def names(model: str) -> dict[str, str]:
    """Recipes of a model: name -> first line of what it says of itself."""
    module = importlib.import_module(f"training.{model}.recipes")
    made = {name: function for name, function in vars(module).items() if _is_recipe(module, name, function)}
    return {name: (inspect.getdoc(function) or "").split("\n")[0] for name, function in made.items()}


def load(model: str, name: str, changes: tuple[str, ...] = ()) -> Recipe:
    """The recipe `name` of a model with `key.sub=value` changes applied and validated again; its name then tells them too.

    Raises:
        SettingsError: no such recipe, no such field, or a value that does not fit.
    """
    known = names(model)
    if name not in known:
        raise SettingsError(f"model {model} has no recipe {name!r}; it has {', '.join(known)}.")
    recipe: BaseModel = getattr(importlib.import_module(f"training.{model}.recipes"), name)()
    content = recipe.model_dump()
    for change in changes:
        _apply(content, change)
    content["name"] = " ".join([name, *changes])
    try:
        return cast("Recipe", type(recipe)(**content))
    except ValidationError as error:
        told = "; ".join(": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in error.errors())
        raise SettingsError(f"recipe {model}/{name}: {told}") from None


def _apply(content: dict[str, Any], change: str) -> None:
    path, separator, text = change.partition("=")
    if not separator:
        raise SettingsError(f"--set {change!r}: expected name=value, for example fit.epochs=3.")
    *parents, last = path.split(".")
    target: Any = content
    for parent in parents:
        target = target.get(parent) if isinstance(target, dict) else None
    if not isinstance(target, dict) or last not in target:
        fields = ", ".join(f"{group}.{key}" for group, value in content.items() if isinstance(value, dict) for key in value)
        raise SettingsError(f"--set {change!r}: there is no field {path!r}; there are {fields}.")
    try:
        target[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError for a day such as 2024-02-31
        told = getattr(error, "problem", error)
        raise SettingsError(f"--set {change!r}: expected a YAML value such as 3, null or [a, b]; {told}.") from None


def _is_recipe(module: Any, name: str, function: Any) -> bool:
    return inspect.isfunction(function) and not name.startswith("_") and function.__module__ == module.__name__
