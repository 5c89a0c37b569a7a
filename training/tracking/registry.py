"""Saving and loading of registered model versions, side by side."""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from infra.errors import EngineError, ModelNotFoundError
from infra.home import Home
from training.tracking import flavor
from training.tracking.runs import Run, description

NEWEST = "newest"
_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Saved:
    """A registered model version on this machine's disk."""

    folder: Path
    name: str
    version: int
    digest: str
    run_id: str
    inputs: dict[str, int] = field(default_factory=dict)
    """Table versions it was trained on: path -> version."""


def register(
    client: MlflowClient, run: Run, name: str, folder: Path, input_spec: dict[str, tuple[tuple[int, ...], str]], card: str
) -> int:
    """Log a model folder with the run and register it; the new version number.

    `input_spec` is name -> (shape, dtype), -1 for any size; of `card`, Markdown, the version keeps 5,000 characters.

    Raises:
        MlflowException: the server refuses or does not answer.
    """
    digest = folder_digest(folder)
    task = name.rsplit(".", 1)[-1]
    info = Model.log(
        artifact_path=None,
        flavor=flavor,
        name=task,
        run_id=run.id,
        folder=folder,
        task=task,
        digest=digest,
        signature=flavor.signature_of(input_spec),
    )
    try:
        client.create_registered_model(name, description=f"The {task} of this shop; each version names its run, tables and digest.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name,
        info.model_uri,
        run_id=run.id,
        tags={"digest": digest, "task": task},
        description=description(card),
        model_id=info.model_id,
    )
    return int(made.version)


def fetch(client: MlflowClient, name: str, version: str | None, home: Home) -> Saved:
    """A registered version, downloaded once and checked against its digest.

    Args:
        version: a number, an alias such as `champion`, the id of the run that registered it, or None for the newest.

    Raises:
        ModelNotFoundError: there is no such model or version.
        EngineError: it was registered by other means, or what was downloaded is not what was registered.
        MlflowException: the server refuses or does not answer.
    """
    found = _find(client, name, version)
    digest = found.tags.get("digest")
    if digest is None:  # registered by hand, in MLflow's UI
        raise EngineError(
            f"version {found.version} of model {name} was not registered by shopgraph (it has no tag `digest`); "
            f"train it with `shopgraph train {name.rsplit('.', 1)[-1]}`, or delete that version in the MLflow UI."
        )
    target = home.model_folder(name, int(found.version), digest)
    if not target.exists():
        draft = target.parent / f".{uuid.uuid4().hex}"
        draft.mkdir(parents=True)
        try:
            got = Path(download_artifacts(f"models:/{name}/{found.version}", dst_path=str(draft))) / flavor.FOLDER
            if folder_digest(got) != digest:
                raise EngineError(
                    f"model {name} version {found.version}: its files are not those that were registered; register it again."
                )
            try:
                got.rename(target)
            except OSError:  # another process was first, with the same bytes
                if not target.exists():
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    inputs = _inputs_of(client.get_run(found.run_id))
    return Saved(target, name, int(found.version), digest, found.run_id, inputs)


@dataclass(frozen=True)
class Origin:
    """Where a registered version comes from: the table versions its run read (path -> version), when the run began, UTC, and its code."""

    name: str
    version: int
    inputs: dict[str, int]
    began: datetime
    run_name: str
    git_commit: str


def origin(client: MlflowClient, name: str, version: str | None) -> Origin:
    """Where a registered version comes from; its files are not fetched.

    Args:
        version: a number, an alias such as `champion`, the id of its run, or None for the newest.

    Raises:
        ModelNotFoundError: there is no such model or version.
        MlflowException: the server refuses or does not answer.
    """
    found = _find(client, name, version)
    run = client.get_run(found.run_id)
    began = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    commit = run.data.tags.get("git_commit", "unknown")
    return Origin(name, int(found.version), _inputs_of(run), began, run.info.run_name or "", commit)


def _inputs_of(run: MlflowRun) -> dict[str, int]:
    """The table versions a run read."""
    return {item.dataset.name: int(item.dataset.digest.removeprefix("v")) for item in run.inputs.dataset_inputs}


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files, in order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _find(client: MlflowClient, name: str, version: str | None):  # type: ignore[no-untyped-def]  # MLflow ships no types
    try:
        if version is None or version == NEWEST:
            every = client.search_model_versions(f"name='{name}'")
            if not every:
                raise ModelNotFoundError(
                    f"no model {name} is registered; train it with `shopgraph train {name.rsplit('.', 1)[-1]}`."
                )
            return max(every, key=lambda found: int(found.version))
        if _RUN_ID.fullmatch(version):
            made = client.search_model_versions(f"name='{name}' and run_id='{version}'")
            if not made:
                raise ModelNotFoundError(f"run {version} registered no version of model {name}; a baseline's run never does.")
            return made[0]
        return client.get_model_version(name, version) if version.isdigit() else client.get_model_version_by_alias(name, version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise ModelNotFoundError(
                f"model {name} has no version or alias {version!r}; the MLflow UI lists those it has."
            ) from None
        raise
