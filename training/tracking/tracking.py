"""One shop's view of an MLflow server: experiments `<shop>/<task>`, registered models `<shop>.<task>`."""

from __future__ import annotations

import logging
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE

from infra import log
from infra.errors import EngineError
from infra.home import Home
from infra.lake import Lake, digest_of
from infra.pins import pin, unpin
from infra.settings import Settings
from training.tracking import graphs, registry
from training.tracking.registry import Origin, Saved
from training.tracking.runs import Run, answering
from training.tracking.server import ensure_server, is_running, server_uri

Role = Literal["model", "baseline", "search", "trial"]
"""A model, a baseline it must beat, a search for a recipe's values, and each of its trials, whose parent the search is."""

_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""The kind of experiment for which MLflow's pages open on runs and curves, not on traces of language models."""


class Tracking:
    """Runs and registered models of one shop. Making the object touches nothing; the first use starts our server if needed."""

    def __init__(self, settings: Settings, shop: str | None = None) -> None:
        self.settings = settings
        self.shop = shop or settings.shop
        self.home = Home(settings)

    @property
    def client(self) -> MlflowClient:
        """A client of a server that has answered; our own server is started again where it is gone meanwhile.

        Raises:
            EngineError: it does not answer.
        """
        client = self._client
        ensure_server(self.home)
        return client

    @cached_property
    def _client(self) -> MlflowClient:
        uri = ensure_server(self.home)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        client = MlflowClient(uri, uri)
        try:
            client.search_experiments(max_results=1)
        except MlflowException as error:
            raise EngineError(f"MLflow at {uri} does not answer: {str(error)[:200]}") from None
        return client

    @contextmanager
    def run(
        self,
        task: str,
        *,
        name: str,
        role: Role,
        recipe: Mapping[str, Any],
        inputs: Mapping[str, int],
        tags: Mapping[str, str] | None = None,
        parent: Run | None = None,
        goes_on: bool = False,
    ) -> Iterator[Run]:
        """Track one run of a task in the experiment `<shop>/<task>`.

        Args:
            name: what a reviewer reads in the list of runs.
            role: see `Role`.
            recipe: the whole configuration.
            inputs: table versions it reads: path -> version; their digest joins runs over the same data. No vacuum takes them
                while it runs, nor those of a model that was registered.
            parent: the run that this one is shown below.
            goes_on: take up the newest run with the same role and tags, if there is one.

        Raises:
            EngineError: MLflow does not answer or refuses what is sent, or the experiment was deleted there.
        """
        lake = self._lake
        experiment = f"{self.shop}/{task}"
        with answering():
            place, kept = self._experiment(experiment), {key: str(value) for key, value in (tags or {}).items()}
            run_id = self._newest(place, {"role": role, "home": self._here, **kept}) if goes_on else None
            if run_id:
                self.client.update_run(run_id, status="RUNNING")
            else:
                made = self.client.create_run(
                    place,
                    run_name=name,
                    tags={
                        "role": role,
                        "task": task,
                        "shop": self.shop,
                        "home": self._here,
                        "data_digest": digest_of(dict(inputs))[:16],
                        "git_commit": git_commit(),
                        MLFLOW_SOURCE_NAME: f"shopgraph {'tune' if role in ('search', 'trial') else 'train'} {task}",
                        MLFLOW_SOURCE_TYPE: "LOCAL",
                        **({MLFLOW_PARENT_RUN_ID: parent.id} if parent else {}),
                        **kept,
                    },
                )
                run_id = made.info.run_id
            run = Run(lambda: self.client, run_id, experiment, inputs)
            pin(lake, "run", run.id, inputs)
            try:
                run.params(recipe)
                run.inputs({path: lake.uri(path) for path in inputs})
                yield run
            except BaseException:
                try:
                    run.finish("FAILED")
                except (EngineError, MlflowException) as silent:  # must not hide why the run failed
                    log.get(__name__).warning("run could not be marked as failed", run=run.id, error=str(silent)[:200])
                raise
            else:
                run.finish("FINISHED")
            finally:
                unpin(lake, "run", run.id)

    @answering()
    def close_abandoned(self, task: str) -> list[str]:
        """Mark as KILLED what a training of this home left running when it was killed; the ids of those runs.

        For the holder of the training's lock: only then nobody else of this home is training.

        Raises:
            EngineError: MLflow does not answer, or the experiment was deleted there.
        """
        mine = f"attributes.status = 'RUNNING' AND tags.task = '{task}' AND tags.home = '{self._here}'"
        runs = self.client.search_runs([self._experiment(f"{self.shop}/{task}")], mine)
        for run in runs:
            self.client.set_terminated(run.info.run_id, "KILLED")
            if not self.client.search_model_versions(f"run_id='{run.info.run_id}'"):  # else killed before the model's own pin
                unpin(self._lake, "run", run.info.run_id)
        return [str(run.info.run_id) for run in runs]

    def _newest(self, experiment_id: str, tags: Mapping[str, str]) -> str | None:
        """The newest run with these tags."""
        asked = " AND ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
        found = self.client.search_runs([experiment_id], asked, order_by=["attributes.start_time DESC"], max_results=1)
        return str(found[0].info.run_id) if found else None

    @property
    def _lake(self) -> Lake:
        return Lake.open(self.settings, self.shop)

    @property
    def _here(self) -> str:
        """This home among all that speak to one server; hashed, for a path may hold any character and a server many readers."""
        return digest_of({"host": platform.node(), "home": str(self.home.path)})[:16]

    def register(self, run: Run, task: str, folder: Path, input_spec: dict[str, tuple[tuple[int, ...], str]], card: str) -> int:
        """Register the model in `folder` as the next version of `<shop>.<task>`, which pins its tables; the version number.

        Raises:
            EngineError: MLflow does not answer and cannot be started.
            MlflowException: it refuses, or falls silent meanwhile; `run` makes it an EngineError.
        """
        name = f"{self.shop}.{task}"
        version = registry.register(self.client, run, name, folder, input_spec, card)
        pin(self._lake, "model", f"{name}-{version}", run.tables)
        return version

    @answering()
    def fetch(self, task: str, version: str | None = None) -> Saved:
        """A registered version of `<shop>.<task>` (a number, an alias, the id of its run, None: the newest) as a folder on this machine.

        Raises:
            ModelNotFoundError: there is no such model or version.
            EngineError: MLflow does not answer, or what was downloaded is not what was registered.
        """
        return registry.fetch(self.client, f"{self.shop}.{task}", version, self.home)

    @answering()
    def origin(self, task: str, version: str | None = None) -> Origin:
        """Where a registered version of `<shop>.<task>` comes from (a number, an alias, the id of its run, None: the newest).

        Raises:
            ModelNotFoundError: there is no such model or version.
            EngineError: MLflow does not answer.
        """
        return registry.origin(self.client, f"{self.shop}.{task}", version)

    @answering()
    def keep_graph(self, product: str, version: str, files: Mapping[str, str], params: Mapping[str, str]) -> str:
        """Show a graph version of a product to reviewers: its run in `<shop>/graphs`, a version of `<shop>.graph_<product>`; its number.

        Args:
            version: digest of the graph.
            files: name -> text.
            params: what a reviewer compares.

        Raises:
            EngineError: MLflow does not answer.
        """
        about = f"Graphs that answer {product}: what each version pins. The releases of the shop say which one answers."
        name = f"{self.shop}.graph_{product}"
        return graphs.keep(self.client, self._experiment(f"{self.shop}/graphs"), name, version, files, params, about)

    @answering()
    def mirror_graph(self, product: str, roles: Mapping[str, str | None]) -> None:
        """Let the aliases of `<shop>.graph_<product>` say what answers: role -> digest; where MLflow runs, for it is but a copy.

        Raises:
            EngineError: MLflow does not answer.
        """
        if is_running(self.home):
            graphs.mirror(self.client, f"{self.shop}.graph_{product}", roles)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, tags=_KIND))
            except MlflowException as error:  # another process was first
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
        if found.lifecycle_stage == "deleted":
            raise EngineError(
                f"the MLflow experiment {name} (id {found.experiment_id}) was deleted and takes no runs; restore it with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}` (MLFLOW_TRACKING_URI={server_uri(self.home)})."
            )
        return str(found.experiment_id)


def git_commit() -> str:
    """The commit this code is at, `+` appended where files differ from it; `unknown` outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}{'+' if status.strip() else ''}"
