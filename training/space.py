"""What a search may change: fields of a recipe, each with the values it may take. Declared in each model's `search.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from infra.errors import SettingsError

Value = bool | int | float | str | None


class Range(BaseModel):
    """Numbers from `low` to `high`, both included; whole ones where both are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float
    high: int | float
    log: bool = Field(False, description="Search the order of magnitude: as many trials from 0.001 to 0.01 as from 0.01 to 0.1.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(f"expected low < high{' and low > 0' if self.log else ''}, got {self.low} and {self.high}")
        return self

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}{' (log)' if self.log else ''}"


Space = Mapping[str, Range | tuple[Value, ...]]
"""Field of the recipe, such as `fit.learning_rate` -> a range, or the values to choose from."""

_SPACE: TypeAdapter[dict[str, Range | tuple[Value, ...]]] = TypeAdapter(dict[str, Range | tuple[Value, ...]])


def read(path: Path) -> Space:
    """The space that a YAML file declares, for example:

    fit.learning_rate: {low: 0.0005, high: 0.01, log: true}
    model.dim: [32, 64]

    Raises:
        SettingsError: there is no such file, or it declares no space.
    """
    example = "expected lines such as `model.dim: [32, 64]` or `model.dropout: {low: 0.1, high: 0.5}`"
    try:
        space = _SPACE.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"search file {path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"search file {path} is not YAML ({' '.join(str(error).split())[:200]}); {example}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"search file {path}, {first['loc'][0] if first['loc'] else 'all of it'}: {first['msg']}; {example}."
        ) from None
    if not space or not all(values for values in space.values()):
        raise SettingsError(f"search file {path} leaves nothing to choose; {example}.")
    return space


def text(value: Value) -> str:
    """A value as `--set` takes it; floats to four digits, which are all that is tried."""
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else "null"
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def told(space: Space) -> str:
    """A space in one line, for `--help`."""
    return ", ".join(
        f"{field} {values if isinstance(values, Range) else '|'.join(map(text, values))}" for field, values in space.items()
    )
