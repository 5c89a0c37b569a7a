"""Named recipes of the sentiment model: each function returns the whole configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from training.sentiment.encoder import EncoderConfig
from training.sentiment.model import Config
from training.trainer import FitConfig


class DataConfig(BaseModel):
    """What is trained on and tested."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    leave_one_category_out: bool = Field(
        False, description="Also fit once per category without its texts and test on them: how well the model does on a new one."
    )
    min_category_texts: int = Field(300, ge=1, description="Texts a category needs to be left out.")


class Recipe(BaseModel):
    """Data, model and fit of one training run; frozen, and every field can be changed with `--set group.field=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    data: DataConfig
    model: Config
    fit: FitConfig


def demo() -> Recipe:
    """A few thousand reviews in seconds."""
    return Recipe(
        name="demo",
        data=DataConfig(),
        model=Config(
            encoder=EncoderConfig(max_terms=100_000, min_piece_texts=3),
            term_start=1.0,  # the fewer texts, the more the log-count ratios know beforehand
        ),
        fit=FitConfig(
            epochs=5, batch_size=64, learning_rate=2e-3, weight_decay=0.01, warmup_steps=20, schedule="cosine", clip_norm=1.0
        ),
    )


def full() -> Recipe:
    """Tens of thousands of reviews in some minutes on two cores."""
    return Recipe(
        name="full",
        data=DataConfig(),
        model=Config(),
        fit=FitConfig(
            epochs=3, batch_size=128, learning_rate=2e-3, weight_decay=0.01, warmup_steps=50, schedule="cosine", clip_norm=1.0
        ),
    )
