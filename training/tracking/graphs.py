"""Graph versions where reviewers look: a run each in the experiment `<shop>/graphs`, a registered version, aliases that say what answers.

All of it is a copy: which version answers stands in the releases alone, and nothing is ever read back from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException

FOLDER = "graph"


def keep(
    client: MlflowClient, experiment: str, name: str, version: str, files: Mapping[str, str], params: Mapping[str, str], about: str
) -> str:
    """Register a graph version, once; the number of it as a model version.

    Args:
        experiment: id of the experiment.
        name: of the registered model.
        version: digest of the graph.
        files: name -> text, such as its manifest.
        params: what a reviewer compares.
        about: a sentence for the registered model.

    Raises:
        MlflowException: the server refuses or does not answer.
    """
    known = _number(client, name, version)
    if known is not None:
        return known
    product = name.rsplit("_", 1)[-1]
    tags = {"kind": "graph", "role": "graph", "graph_version": version}
    run = client.create_run(experiment, run_name=f"{product} {version}", tags=tags)
    run_id = run.info.run_id
    client.log_batch(run_id, params=[Param(key, value[:6000]) for key, value in params.items()])
    for file, text in files.items():
        client.log_text(run_id, text, f"{FOLDER}/{file}")
    client.set_terminated(run_id)
    try:
        client.create_registered_model(name, tags={"kind": "graph"}, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name, f"runs:/{run_id}/{FOLDER}", run_id=run_id, tags={"kind": "graph", "digest": version}, description=f"Graph {version}."
    )
    return str(made.version)


def mirror(client: MlflowClient, name: str, roles: Mapping[str, str | None]) -> None:
    """Let aliases say which graph versions have which role (role -> digest); what has none, or is not registered, loses its alias.

    Raises:
        MlflowException: the server refuses or does not answer.
    """
    for role, version in roles.items():
        number = None if version is None else _number(client, name, version)
        if number is None:
            with suppress(MlflowException):  # there was none
                client.delete_registered_model_alias(name, role)
        else:
            client.set_registered_model_alias(name, role, number)


def _number(client: MlflowClient, name: str, version: str) -> str | None:
    found = client.search_model_versions(f"name = '{name}' AND tags.digest = '{version}'", max_results=1)
    return str(found[0].version) if found else None
