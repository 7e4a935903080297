"""Models in MLflow: logged to a run and registered, once even if they are sent twice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

KEY = "carde_monai.model"  # tag of a model: found by it when the answer to its creation was lost


def register(
    client: MlflowClient, run_id: str, folder: Path, name: str, key: str, figures: Iterable[Metric] = ()
) -> str:
    """Log the MLflow model in ``folder`` to a run and register it as a new version of ``name``.

    What the server has of the model with this ``key`` already is not made again. MLflow's own ``log_model``
    works on the run and the server that are global in this process, and doubles what is sent again.

    Args:
        figures: of the run, recorded for the model, too.

    Returns:
        the number of the version.
    """
    run = client.get_run(run_id)
    model = _logged(client, run, name, key)
    if model.status != LoggedModelStatus.READY:
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    points = [
        Metric(one.key, one.value, one.timestamp, one.step, model_id=model.model_id, run_id=run_id)
        for one in figures
    ]
    if points:
        client.log_batch(run_id, metrics=points)
    version = _version(client, model, run_id, name)
    told = json.dumps([{"name": name, "version": version}])
    client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: told})
    return version


def _logged(client: MlflowClient, run: Run, name: str, key: str) -> LoggedModel:
    """The model with this key, made if there is none, as an output of the run."""
    experiment, run_id = run.info.experiment_id, run.info.run_id
    found = client.search_logged_models([experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
    model = (
        found[0]
        if found
        else client.create_logged_model(experiment, name.replace(".", "_"), run_id, tags={KEY: key})
    )
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {one.model_id for one in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return model


def _version(client: MlflowClient, model: LoggedModel, run_id: str, name: str) -> str:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # not models:/<id>, which a database's registry would look for at MLflow's global address
    source = model.artifact_location
    known = [one for one in client.search_model_versions(f"name = '{name}'") if one.source == source]
    version = known[0] if known else client.create_model_version(
        name, source, run_id, await_creation_for=None, model_id=model.model_id
    )  # fmt: skip
    return str(version.version)
