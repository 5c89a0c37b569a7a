"""The MLflow flavour of our models: a folder of safetensors and JSON, no pickle; `training.<task>.model` reads it back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

NAME = "shopgraph"
FOLDER = "model"


def save_model(path: str, mlflow_model: Model, *, folder: Path, task: str, digest: str, signature: ModelSignature) -> None:
    """Write the model folder and its MLmodel file; called by `mlflow.models.Model.log`."""
    shutil.copytree(folder, Path(path) / FOLDER)
    mlflow_model.signature = signature
    mlflow_model.add_flavor(NAME, task=task, data=FOLDER, digest=digest, format=1)
    mlflow_model.save(str(Path(path) / "MLmodel"))


def signature_of(input_spec: dict[str, tuple[tuple[int, ...], str]]) -> ModelSignature:
    """The signature of a network from its own input_spec (name -> shape with -1 for any, NumPy dtype name)."""
    import numpy as np

    specs: list[Any] = [TensorSpec(np.dtype(dtype), shape, name) for name, (shape, dtype) in input_spec.items()]
    return ModelSignature(inputs=Schema(specs))
